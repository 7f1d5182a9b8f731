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

// slotBytes is the distance of the two slots: they share no disk sector.
const slotBytes = 4096

// positions is the file of Acked and Committed. It is never synced but at Close, since a
// position that is lost, or older than it could be, only causes repeats.
type positions struct {
	file             durable.File
	turn             uint64 // number of the last write; its parity is its slot
	acked, committed uint64
}

func openPositions(fsys durable.FS, dir string) (*positions, error) {
	path := filepath.Join(dir, "positions")
	f, err := fsys.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = fsys.Create(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open positions: %w", err)
	}
	p := &positions{file: f}
	for slot := range 2 {
		var b [28]byte
		if _, err := f.ReadAt(b[:], int64(slot*slotBytes)); err != nil {
			if errors.Is(err, io.EOF) {
				continue
			}
			return nil, errors.Join(fmt.Errorf("read positions: %w", err), f.Close())
		}
		turn := binary.LittleEndian.Uint64(b[:])
		if checksum(b[:24]) != binary.LittleEndian.Uint32(b[24:]) || turn <= p.turn {
			continue
		}
		p.turn = turn
		p.acked = binary.LittleEndian.Uint64(b[8:])
		p.committed = binary.LittleEndian.Uint64(b[16:])
	}
	return p, nil
}

// store writes both positions into the slot whose turn it is.
func (p *positions) store(acked, committed uint64) error {
	var b [28]byte
	binary.LittleEndian.PutUint64(b[:], p.turn+1)
	binary.LittleEndian.PutUint64(b[8:], acked)
	binary.LittleEndian.PutUint64(b[16:], committed)
	binary.LittleEndian.PutUint32(b[24:], checksum(b[:24]))
	if _, err := p.file.WriteAt(b[:], int64(p.turn+1)%2*slotBytes); err != nil {
		return fmt.Errorf("write positions: %w", err)
	}
	p.turn++
	p.acked, p.committed = acked, committed
	return nil
}

func (p *positions) close() error {
	err := p.file.Sync()
	if cerr := p.file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("close positions: %w", err)
	}
	return nil
}
