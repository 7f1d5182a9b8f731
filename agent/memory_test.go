package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestMemoryIsBounded: a disk that takes nothing for four hours, eight GPUs with 25 values
// and a hundred new names a tick: what is kept is bounded by itself. The limit of the runtime
// cannot change that, and has a test of its own, cmd/flopwatch-agent.TestMemory.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 6 << 20 // of live heap; the rest is the runtime's and the instruments'
	others := liveHeap()  // of tests before this one
	uuids := make([]string, 8)
	for i := range uuids {
		uuids[i] = fmt.Sprintf("GPU-%032d", i)
	}
	gpus := &fakeSource{name: "gpu", sample: func(_ context.Context, t source.Tick, out source.Sink) error {
		for i, uuid := range uuids {
			out.Row(wire.KindGPU, wire.SourceNVML, "", nil, func(b *wire.Builder) {
				b.SetInt(1, t.WallMs)
				b.SetStr(2, uuid)
				b.SetInt(3, int64(i))
				for id := uint8(10); id <= 32; id++ {
					b.SetInt(id, int64(t.Seq)*7919%10_000+int64(id))
				}
			})
		}
		return nil
	}}
	names := &fakeSource{name: "kernel", sample: func(_ context.Context, t source.Tick, out source.Sink) error {
		for i := range 100 {
			out.Row(wire.KindTCP, wire.SourceEBPF, "", nil, func(b *wire.Builder) {
				b.SetInt(1, t.WallMs)
				b.SetStr(2, fmt.Sprintf("10.%d.%d.%d", t.Seq>>8&255, t.Seq&255, i))
				b.SetStr(3, "slurm")
				b.SetStr(4, "1")
				b.SetInt(10, int64(i))
			})
		}
		return nil
	}}
	disk := &fullDisk{FS: durable.NoSync(durable.OS{})}
	r := newRig(t, disk, Config{Sources: []source.Source{gpus, names}})
	r.ticks(11)
	before := liveHeap()
	disk.full.Store(true)
	most := uint64(0)
	for n := range 4 * 3600 {
		if err := r.tick(); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if n%1800 == 1799 {
			now := liveHeap()
			most = max(most, now-min(others, now))
		}
	}
	st := r.agent.Stats()
	t.Logf("live heap %.1f MiB before, at most %.1f MiB with %d rows in memory, %d given up", float64(before)/(1<<20), float64(most)/(1<<20), st.PendingRows, st.LostRows[wire.KindTCP])
	if most > limit {
		t.Errorf("%d bytes are kept, at most %d may", most, limit)
	}
	disk.full.Store(false)
	r.ticks(11)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
}

// liveHeap is what is reachable, without what pools hold from one collection to the next.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
