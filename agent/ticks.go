package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
)

// TickFile keeps the number of the latest tick outside of the process, as long as the host runs: an agent that was
// killed goes on counting where it was, so that what it had sampled and not sealed shows as a jump in the next batch, as
// do ticks that the spool did not take. It belongs to one boot and one spool; of another it says nothing, and the
// count begins at 0. It is not synced: what it has to outlive is the process.
//
// A tick is noted by a goroutine of its own, so that a slow disk holds none up. Before a batch is sealed its ticks are noted
// first: the file is never behind what the spool has. A file that cannot be written is removed, and the count of the next
// agent begins at 0.
type TickFile struct {
	path   string
	key    [tickKeySize]byte
	before tickCount // of agents before this one

	due  atomic.Uint64 // latest tick, all agents' together
	wake chan struct{}

	mu    sync.Mutex // guards below
	file  *os.File   // nil: closed, or given up
	count tickCount  // as written
	line  []byte
}

// tickCount is what is kept: the latest tick, and how many up to the latest seal passed without a sample.
type tickCount struct{ ticks, missed uint64 }

const (
	tickHead    = "flopwatch ticks 1 "
	tickKeySize = 32 // hex digits
	tickDigits  = 20
	tickLine    = len(tickHead) + tickKeySize + 2*(1+tickDigits) + 1
)

// OpenTickFile opens or makes the file of a spool in the boot that runs. Whatever else is in the file is overwritten.
func OpenTickFile(path, bootID string, spool [16]byte) (*TickFile, error) {
	sum := sha256.Sum256(append([]byte(bootID+"\x00"), spool[:]...))
	f := &TickFile{path: path, wake: make(chan struct{}, 1)}
	hex.Encode(f.key[:], sum[:tickKeySize/2])
	var err error
	if f.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("open tick file: %w", err)
	}
	got := make([]byte, tickLine)
	if n, _ := f.file.ReadAt(got, 0); n == tickLine { // a short one is none of ours
		f.before, _ = f.parse(got)
	}
	f.count = f.before
	f.due.Store(f.before.ticks)
	if err = f.write(); err != nil {
		return nil, err
	}
	return f, nil
}

// parse reads a line; ok is false where it is another boot's, another spool's, or none.
func (f *TickFile) parse(line []byte) (c tickCount, ok bool) {
	rest, ok := bytes.CutPrefix(line, append([]byte(tickHead), f.key[:]...))
	if !ok || len(rest) != 2*(1+tickDigits)+1 || rest[0] != ' ' || rest[1+tickDigits] != ' ' || rest[len(rest)-1] != '\n' {
		return c, false
	}
	ticks, terr := strconv.ParseUint(string(rest[1:1+tickDigits]), 10, 63)
	missed, merr := strconv.ParseUint(string(rest[2+tickDigits:len(rest)-1]), 10, 63)
	if terr != nil || merr != nil || missed > ticks {
		return c, false
	}
	return tickCount{ticks, missed}, true
}

// write writes the count; f.mu is held, or nobody else has f. After an error the file is given up.
func (f *TickFile) write() error {
	f.line = append(append(f.line[:0], tickHead...), f.key[:]...)
	for _, n := range []uint64{f.count.ticks, f.count.missed} {
		f.line = append(f.line, ' ')
		for width := uint64(1e19); width > 0; width /= 10 {
			f.line = append(f.line, '0'+byte(n/width%10))
		}
	}
	f.line = append(f.line, '\n')
	_, err := f.file.WriteAt(f.line, 0)
	if err == nil {
		return nil
	}
	err = errors.Join(err, f.file.Close())
	f.file = nil
	if rerr := os.Remove(f.path); !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return fmt.Errorf("write tick file: %w", err)
}

// tick notes one without waiting for the disk.
func (f *TickFile) tick(own uint64) {
	f.due.Store(f.before.ticks + own)
	select {
	case f.wake <- struct{}{}:
	default: // it is told already
	}
}

// sealing notes what is sealed next, before it is. It returns the counts of all agents together.
func (f *TickFile) sealing(own, missed uint64) tickCount {
	all := tickCount{f.before.ticks + own, f.before.missed + missed}
	f.put(all)
	return all
}

// put writes what is more than was written.
func (f *TickFile) put(c tickCount) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.count
	f.count = tickCount{max(was.ticks, c.ticks), max(was.missed, c.missed)}
	if f.file != nil && f.count != was {
		_ = f.write() // the count of the next agent begins at 0: it is then not told what this one lost
	}
}

// run writes ticks until stop is closed.
func (f *TickFile) run(stop <-chan struct{}) {
	for {
		select {
		case <-f.wake:
			f.put(tickCount{ticks: f.due.Load()})
		case <-stop:
			return
		}
	}
}

// Close closes the file, which stays.
func (f *TickFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	if err != nil {
		return fmt.Errorf("close tick file: %w", err)
	}
	return nil
}
