package collector_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// denseFrame has all 25 values of 8 GPUs at 1 Hz, with noise.
func denseFrame(tb testing.TB, node string, sequence uint64, seconds int) (*wire.Batch, []byte) {
	tb.Helper()
	t := wire.NewBuilder(wire.KindGPU, wire.SourceGPM)
	noise := sequence*2654435761 + uint64(len(node))
	for g := range int64(8) {
		for s := range int64(seconds) {
			t.Begin()
			t.SetInt(1, startMs+int64(sequence)*int64(seconds)*1000+s*1000)
			t.SetStr(2, fmt.Sprintf("GPU-%s-%d", node, g))
			t.SetInt(3, g)
			for id := uint8(10); id <= 32; id++ {
				noise = noise*6364136223846793005 + 1442695040888963407
				v := int64(noise>>40)%400 + 4000
				if id == 13 || id == 26 {
					v = (int64(sequence)*int64(seconds)+s)*700_000 + v
				}
				t.SetInt(id, v)
			}
			if err := t.End(); err != nil {
				tb.Fatal(err)
			}
		}
	}
	w := &wire.Batch{Cluster: cluster, Node: node, Spool: [16]byte{9, byte(len(node))}, Sequence: sequence, AvailableMs: startMs, Tables: []wire.Table{*t.Build()}}
	frame, err := wire.AppendBatch(nil, w)
	if err != nil {
		tb.Fatal(err)
	}
	return w, frame
}

// BenchmarkNATSToInsert measures the CPU of a collector process of its own, start-up and
// the NATS client included, broker and engine not, from messages in the stream to rows
// stored. Run it with -benchtime 1x.
func BenchmarkNATSToInsert(b *testing.B) {
	for _, seconds := range []int{10, 60} {
		b.Run(fmt.Sprintf("rows-per-batch=%d", 8*seconds), func(b *testing.B) {
			broker, _, cfg := newOwnEngine(b, "bench")
			cfg.Large = true
			s := broker.store
			const rows = 960_000
			batches := rows / (8 * seconds)
			wireBytes := 0
			for i := range batches {
				w, frame := denseFrame(b, nodeName(i%20), uint64(i/20+1), seconds)
				wireBytes += len(frame)
				if _, err := broker.js.PublishAsync(wire.BatchSubject(w), frame, jetstream.WithMsgID(wire.MessageID(w.Node, w.Spool, w.Sequence))); err != nil {
					b.Fatal(err)
				}
				if i%200 == 0 {
					<-broker.js.PublishAsyncComplete()
				}
			}
			<-broker.js.PublishAsyncComplete()
			watcher := broker.collector(b, "watcher", nil)
			var cpu, wall time.Duration
			for b.Loop() {
				cmd := childCommand(b, cfg)
				cmd.Stderr = os.Stderr
				begun := time.Now()
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				if err := watcher.WaitIdle(b.Context()); err != nil {
					b.Fatal(err)
				}
				wall += time.Since(begun)
				if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
					b.Fatal(err)
				}
				_ = cmd.Wait() // killed
				cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			}
			raw, distinct, err := s.Count(b.Context(), store.TableGPUSamples)
			if err != nil || raw != rows || distinct != rows {
				b.Fatalf("%d rows, %d distinct of %d, %v", raw, distinct, rows, err)
			}
			b.ReportMetric(float64(cpu.Microseconds())/rows, "cpu-µs/row")
			b.ReportMetric(rows/wall.Seconds(), "rows/s")
			b.ReportMetric(float64(wireBytes)/rows, "wire-B/row")
			disk, err := s.DiskBytes(b.Context(), store.TableGPUSamples)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(disk)/rows, "disk-B/row")
		})
	}
}
