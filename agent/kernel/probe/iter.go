package probe

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf/link"
)

const iterBytes = 64 << 10

// Records runs an iterator once and hands over its records of size bytes each; a record is
// good until each returns. buf is used if it is large enough, and comes back for the next run.
func Records(it *link.Iter, size int, buf []byte, each func(rec []byte)) ([]byte, error) {
	r, err := it.Open()
	if err != nil {
		return buf, fmt.Errorf("open iterator: %w", err)
	}
	defer r.Close() //nolint:errcheck // it was open for reading
	if len(buf) < max(iterBytes, size) {
		buf = make([]byte, max(iterBytes, size))
	}
	have := 0
	for {
		n, err := r.Read(buf[have:])
		have += n
		at := 0
		for ; have-at >= size; at += size {
			each(buf[at : at+size])
		}
		copy(buf, buf[at:have])
		have -= at
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return buf, fmt.Errorf("read iterator: %w", err)
		}
	}
	if have != 0 {
		return buf, fmt.Errorf("read iterator: %d bytes left of a record of %d", have, size)
	}
	return buf, nil
}
