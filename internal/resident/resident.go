// Package resident keeps a process small that is asked for once a second and sleeps in
// between: it gives the pages of its program, and of libraries, back to the page cache.
//
// Linux maps 16 pages for each that is touched, and what was mapped stays as long as nobody
// else needs the memory: in time a program of 20 MB that works on 2 MB of itself holds all
// 14 MB of its code and tables. What is given back comes again when it is touched, from the
// page cache, for a microsecond.
//
// It owns nothing but mappings of files that cannot have been written to, and must not know what program that is. A failure leaves the process as it was, only
// larger. Buffers: one of 4 KiB while it works. Goroutines: the caller's. Budget: 0.1 ms
// each time, and about as much for what comes back.
package resident

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// lookEach is after how many times Keep reads the memory map again: a tracer may have written
// to what was clean before.
const lookEach = 12

// Files says whose pages are given back.
type Files int

// Own is the program's file; All are those of libraries too: for a process that is not missed
// if somebody overwrites a library in its place.
const (
	Own Files = iota
	All
)

// Keep gives pages back every so often until ctx ends.
func Keep(ctx context.Context, every time.Duration, of Files) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var list []stretch
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if n%lookEach == 0 {
			var err error
			if list, err = find(of); err != nil {
				return err
			}
		}
		for _, s := range list {
			if err := s.giveBack(); err != nil {
				return err
			}
		}
	}
}

// find finds the pages of files in this process.
func find(of Files) ([]stretch, error) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("read own path: %w", err)
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return nil, fmt.Errorf("read own memory map: %w", err)
	}
	if of == All {
		exe = ""
	}
	list, err := cleanPages(smaps, exe)
	if err = errors.Join(err, smaps.Close()); err != nil {
		return nil, fmt.Errorf("read own memory map: %w", err)
	}
	return list, nil
}

type stretch struct{ from, to uintptr }

func (s stretch) giveBack() error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, s.from, s.to-s.from, unix.MADV_DONTNEED); errno != 0 {
		return fmt.Errorf("give back pages %x-%x: %w", s.from, s.to, errno)
	}
	return nil
}

// cleanPages finds in smaps what of a file ("": of any) is mapped and nobody can have written to:
// such pages are in the file as they are in memory.
func cleanPages(smaps io.Reader, file string) ([]stretch, error) {
	var out []stretch
	var at stretch
	candidate := false
	lines := bufio.NewReader(smaps)
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF {
			return out, nil
		}
		if err != nil { // a path of more than 4,000 bytes is not ours
			return nil, err
		}
		name, rest, _ := bytes.Cut(bytes.TrimRight(line, "\n"), []byte{' '})
		if bytes.HasSuffix(name, []byte{':'}) { // a property of the mapping
			// Relocated pages are written to before they are made read-only: they are anonymous.
			if candidate && string(name) == "Anonymous:" && string(bytes.TrimSpace(rest)) == "0 kB" {
				out = append(out, at)
			}
			continue
		}
		// Permissions, offset, device, inode, path.
		mode, rest, _ := bytes.Cut(rest, []byte{' '})
		_, path, _ := bytes.Cut(rest, []byte(" /"))
		candidate = (string(mode) == "r-xp" || string(mode) == "r--p") && len(path) > 0 && (file == "" || string(path) == file[1:])
		if candidate {
			at, candidate = parseStretch(name)
		}
	}
}

func parseStretch(b []byte) (stretch, bool) {
	a, z, ok := bytes.Cut(b, []byte{'-'})
	from, err1 := strconv.ParseUint(string(a), 16, 64)
	to, err2 := strconv.ParseUint(string(z), 16, 64)
	return stretch{uintptr(from), uintptr(to)}, ok && err1 == nil && err2 == nil && from < to
}
