package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Memory. The live heap is 1 to 4 MiB, so that a collector of garbage that waits for 4 MiB
// more, as it does by itself, would double the process. The limit is no bound but where it
// begins to work harder: what is kept is bounded where it is kept (Config.PendingRows of the
// agent, and maps of instruments), and a test of package agent holds that.
const (
	gcPercent   = 50
	memoryLimit = 32 << 20
	// processors is how many threads run Go at once. There is little to do, and on a host of 200
	// processors the runtime would keep caches and workers for each.
	processors = 2
	// settled is when everything that is used only at the start has been used.
	settled = 5 * time.Second
)

// frugal sets the runtime up for a small process.
func frugal() {
	runtime.MemProfileRate = 0 // its table is larger than the heap
	debug.SetGCPercent(gcPercent)
	if os.Getenv("GOMEMLIMIT") == "" { // an operator's own bound holds
		debug.SetMemoryLimit(memoryLimit)
	}
	runtime.GOMAXPROCS(min(processors, runtime.NumCPU()))
}

// settle waits until the start is over, and gives back the memory that only the start needed:
// garbage, and the pages of this program's own file. What of it is used again comes back from
// the page cache, for microseconds.
func settle(ctx context.Context) error {
	timer := time.NewTimer(settled)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-timer.C:
	}
	return giveBack()
}

func giveBack() error {
	debug.FreeOSMemory()
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("read own memory map: %w", err)
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("read own path: %w", err)
	}
	for _, m := range ownPages(maps, exe) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back pages %x-%x: %w", m.from, m.to, errno)
		}
	}
	return nil
}

type stretch struct{ from, to uintptr }

// ownPages finds in smaps what of the file exe is mapped and nobody can have written to: such
// pages are in the file as they are in memory.
func ownPages(smaps []byte, exe string) []stretch {
	var out []stretch
	var at stretch
	candidate := false
	for sc := bufio.NewScanner(bytes.NewReader(smaps)); sc.Scan(); {
		f := strings.Fields(sc.Text())
		if len(f) >= 2 && strings.HasSuffix(f[0], ":") { // a property of the mapping
			// Relocated pages are written to before they are made read-only: they are anonymous.
			if f[0] == "Anonymous:" && f[1] == "0" && candidate {
				out = append(out, at)
			}
			continue
		}
		candidate = false
		if len(f) != 6 || f[5] != exe || (f[1] != "r-xp" && f[1] != "r--p") {
			continue
		}
		var err error
		at, err = parseStretch(f[0])
		candidate = err == nil
	}
	return out
}

func parseStretch(s string) (stretch, error) {
	a, b, ok := strings.Cut(s, "-")
	from, err1 := strconv.ParseUint(a, 16, 64)
	to, err2 := strconv.ParseUint(b, 16, 64)
	if err := errors.Join(err1, err2); !ok || err != nil || from >= to {
		return stretch{}, fmt.Errorf("no range of addresses %q", s)
	}
	return stretch{uintptr(from), uintptr(to)}, nil
}
