// Package parallel spreads work over processors for rooms that are pure: the answer does not depend on it.
//
// It owns the goroutines, which end before Each returns. It must not know what the work is.
package parallel

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Each does work on n things, each on its own, on all processors, and returns when all is done. Work must only write what belongs to
// its thing: then nothing depends on the order, and sums that go over things are made by the caller in theirs.
func Each(n int, work func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if workers <= 1 {
		for i := range n {
			work(i)
		}
		return
	}
	chunk := int64(max(1, min(64, n/(8*workers)))) // large enough that taking one costs nothing
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				to := next.Add(chunk)
				for i := to - chunk; i < min(to, int64(n)); i++ {
					work(int(i))
				}
				if to >= int64(n) {
					return
				}
			}
		})
	}
	wg.Wait()
}
