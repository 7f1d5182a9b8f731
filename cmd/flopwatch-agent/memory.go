package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/flopwatch/flopwatch/internal/resident"
)

// Memory. The live heap is 1 to 4 MiB, so that a collector of garbage that waits for 4 MiB
// more, as it does by itself, would double the process. The limit is no bound but where it
// begins to work harder: what is kept is bounded where it is kept (Config.PendingRows of the
// agent, and maps of instruments), and a test of package agent holds that.
const (
	gcPercent   = 25
	memoryLimit = 32 << 20
	// processors is how many threads run Go at once. There is little to do, and on a host of 200
	// processors the runtime would keep caches and workers for each.
	processors = 1
	// settled is when everything that is used only at the start has been used.
	settled = 5 * time.Second
	// tidyEvery is how often the program's own pages are given back.
	tidyEvery = 3 * time.Second
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

// settle waits until the start is over, gives back the memory that only the start needed, and
// keeps the process that small: what of its own file is used again comes back from the page
// cache, for microseconds.
func settle(ctx context.Context) error {
	timer := time.NewTimer(settled)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil
	case <-timer.C:
	}
	debug.FreeOSMemory()
	return resident.Keep(ctx, tidyEvery, resident.Own)
}
