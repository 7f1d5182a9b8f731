package probe

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/cilium/ebpf/link"
)

const (
	iterBytes = 64 << 10
	// pieceReads bounds one piece of a run. A read passes at most a million objects.
	pieceReads = 8
)

// Run is one run of an iterator over objects of the kernel, of which there may be very many:
// it is read in pieces, as far apart as its owner likes.
type Run struct {
	r    io.ReadCloser
	size int
	buf  []byte
	have int
}

// Begin starts a run of an iterator whose records have size bytes each.
func Begin(it *link.Iter, size int) (*Run, error) {
	r, err := it.Open()
	if err != nil {
		return nil, fmt.Errorf("open iterator: %w", err)
	}
	return newRun(r, size), nil
}

func newRun(r io.ReadCloser, size int) *Run {
	return &Run{r: r, size: size, buf: make([]byte, max(iterBytes, size))}
}

// Close ends the run, wherever it is.
func (r *Run) Close() error { return r.r.Close() }

// Next reads one piece and hands over its records; a record is good until each returns. done
// is true when there is no more.
func (r *Run) Next(each func(rec []byte)) (done bool, err error) {
	for range pieceReads {
		n, err := r.r.Read(r.buf[r.have:])
		r.have += n
		at := 0
		for ; r.have-at >= r.size; at += r.size {
			each(r.buf[at : at+r.size])
		}
		copy(r.buf, r.buf[at:r.have])
		r.have -= at
		switch {
		case errors.Is(err, io.EOF):
			if r.have != 0 {
				return true, fmt.Errorf("read iterator: %d bytes left of a record of %d", r.have, r.size)
			}
			return true, nil
		case errors.Is(err, syscall.EAGAIN):
			return false, nil // a million objects without a record: it goes on behind them
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return true, fmt.Errorf("read iterator: %w", err)
		}
	}
	return false, nil
}
