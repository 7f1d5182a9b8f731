package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"github.com/flopwatch/flopwatch/internal/durable"
)

const (
	// slotBytes is the distance of the two slots: they share no disk sector.
	slotBytes = 4096
	// slotUsed is what a slot holds: number, Acked, Committed, CRC-32C.
	slotUsed = 28
)

// positions is the file of Acked and Committed. It is synced before what it says is relied
// upon, that is when something is freed, and at Close: a position that is lost, or older
// than it could be, only causes repeats. Its blocks are taken when it is made, so that a
// full disk does not hold it up. Between two syncs only the slot is written that is not the
// last durable one.
type positions struct {
	file  durable.File
	turn  uint64 // number of the last write
	slot  int64  // the last that is durable
	dirty bool   // written since the last sync
	stale bool   // a sync failed: the kernel may have dropped what was written
	// lost: the file was not there, or no slot of it is sound. What was freed is not known.
	lost, damaged    bool
	acked, committed uint64 // as last written
}

func openPositions(fsys durable.FS, dir string) (*positions, error) {
	path := filepath.Join(dir, "positions")
	p := &positions{}
	f, err := fsys.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		p.lost = true
		f, err = fsys.Create(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open positions: %w", err)
	}
	p.file = f
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open positions: %w", err), f.Close())
	}
	odd := 0 // one may be torn
	for slot := range 2 {
		var b [slotUsed]byte
		if n, err := f.ReadAt(b[:], int64(slot*slotBytes)); err != nil && !errors.Is(err, io.EOF) {
			p.lost, p.damaged = true, true // a bad sector: what it said is lost
			continue
		} else if n < len(b) || b == [slotUsed]byte{} {
			continue
		}
		turn, acked, committed, ok := parsePositions(b[:])
		if !ok {
			odd++
			continue
		}
		if turn > p.turn {
			p.turn, p.slot, p.acked, p.committed = turn, int64(slot), acked, committed
		}
	}
	if odd == 2 {
		p.lost, p.damaged = true, true
	}
	if size < 2*slotBytes {
		// Without room for it the file grows when there is.
		if _, err := f.WriteAt(make([]byte, 2*slotBytes-size), size); err != nil && !noRoom(err) {
			return nil, errors.Join(fmt.Errorf("write positions: %w", err), f.Close())
		}
	}
	// What a killed process wrote may be in memory only. If the medium refuses, it is written
	// again before it is relied upon.
	p.stale = f.Sync() != nil
	return p, nil
}

func parsePositions(b []byte) (turn, acked, committed uint64, ok bool) {
	if checksum(b[:24]) != binary.LittleEndian.Uint32(b[24:]) {
		return 0, 0, 0, false
	}
	turn, acked, committed = binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
	return turn, acked, committed, turn > 0
}

// store writes both positions into the slot that is not the durable one.
func (p *positions) store(acked, committed uint64) error {
	p.acked, p.committed, p.dirty = acked, committed, true
	var b [slotUsed]byte
	binary.LittleEndian.PutUint64(b[:], p.turn+1)
	binary.LittleEndian.PutUint64(b[8:], acked)
	binary.LittleEndian.PutUint64(b[16:], committed)
	binary.LittleEndian.PutUint32(b[24:], checksum(b[:24]))
	if _, err := p.file.WriteAt(b[:], (1-p.slot)*slotBytes); err != nil {
		p.stale = true
		return fmt.Errorf("write positions: %w", err)
	}
	p.turn++
	return nil
}

// sync makes what was stored durable.
func (p *positions) sync() error {
	if !p.dirty && !p.stale {
		return nil
	}
	if p.stale {
		if err := p.store(p.acked, p.committed); err != nil {
			return err
		}
	}
	if err := p.file.Sync(); err != nil {
		p.stale = true
		return fmt.Errorf("sync positions: %w", err)
	}
	if p.turn > 0 {
		p.slot = 1 - p.slot
	}
	p.dirty, p.stale = false, false
	return nil
}

func (p *positions) close() error {
	err := p.sync()
	if cerr := p.file.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close positions: %w", cerr)
	}
	return err
}
