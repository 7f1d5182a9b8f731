package collector_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv/reference"
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

// benchRows is how many GPU rows each part of BenchmarkIngest moves: BENCH_ROWS, or 480,000.
func benchRows(tb testing.TB) int {
	tb.Helper()
	text := os.Getenv("BENCH_ROWS")
	if text == "" {
		return 480_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 48_000 || n%48_000 != 0 {
		tb.Fatalf("BENCH_ROWS %q: a multiple of 48,000", text)
	}
	return n
}

// cpuOf is what a process has used.
func cpuOf(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		tb.Fatal(err)
	}
	f := strings.Fields(string(stat)[strings.LastIndexByte(string(stat), ')')+2:])
	user, uerr := strconv.ParseInt(f[11], 10, 64)
	system, serr := strconv.ParseInt(f[12], 10, 64)
	if uerr != nil || serr != nil {
		tb.Fatalf("read %q", stat)
	}
	const ticks = 100 // a second, on every Linux that there is
	return time.Duration(user+system) * time.Second / ticks
}

// BenchmarkIngest measures side by side, in one run on one engine, what it costs to bring the same GPU rows (25
// values, 8 GPUs at 1 Hz) from messages in JetStream into ClickHouse: the CPU of the process that does it, start-up and
// NATS client included, and that of the engine. Run it with -benchtime 1x.
//
//	collector   this collector, 80 and 480 rows a message
//	reference   a plain Go program: JSON, one row a message, clickhouse-go's batches of 10,000
//	limit       nobody decodes: the collector's own blocks, as they were sent, sent again
func BenchmarkIngest(b *testing.B) {
	broker, engine, cfg := newOwnEngine(b, "bench")
	cfg.Large = true
	rows := benchRows(b)
	report := func(b *testing.B, cpu, engineCPU, wall time.Duration, rows int) {
		b.ReportMetric(float64(cpu.Microseconds())/float64(rows), "cpu-µs/row")
		b.ReportMetric(float64(engineCPU.Microseconds())/float64(rows), "engine-µs/row")
		b.ReportMetric(float64((cpu+engineCPU).Microseconds())/float64(rows), "both-µs/row")
		b.ReportMetric(float64(rows)/wall.Seconds(), "rows/s")
	}
	// work runs a child until done says so, and returns what it and the engine used.
	work := func(b *testing.B, cfg childConfig, done func() error) (cpu, engineCPU, wall time.Duration) {
		cmd := childCommand(b, cfg)
		cmd.Stderr = os.Stderr
		was, begun := cpuOf(b, engine.PID()), time.Now()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		if err := done(); err != nil {
			b.Fatal(err)
		}
		wall = time.Since(begun)
		end := syscall.SIGKILL
		if cfg.Profile != "" {
			end = syscall.SIGTERM
		}
		if err := cmd.Process.Signal(end); err != nil {
			b.Fatal(err)
		}
		_ = cmd.Wait() // killed
		return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), cpuOf(b, engine.PID()) - was, wall
	}
	watcher := broker.collector(b, "watcher", nil)
	var recorded *recorder
	total := 0
	for _, seconds := range []int{10, 60} {
		b.Run(fmt.Sprintf("collector/rows-per-message=%d", 8*seconds), func(b *testing.B) {
			var cpu, engineCPU, wall time.Duration
			wireBytes, n := 0, 0
			cfg := cfg
			if seconds == 10 {
				cfg.Profile = os.Getenv("BENCH_PROFILE")
			}
			if seconds == 60 {
				recorded = newRecorder(b, engine.URL())
				cfg.URL = recorded.url
			}
			for b.Loop() {
				n++
				for i := range rows / (8 * seconds) {
					w, frame := denseFrame(b, fmt.Sprintf("n%d-%d-%d", seconds, n, i%20), uint64(i/20+1), seconds)
					wireBytes += len(frame)
					if _, err := broker.js.PublishAsync(wire.BatchSubject(w), frame, jetstream.WithMsgID(wire.MessageID(w.Node, w.Spool, w.Sequence))); err != nil {
						b.Fatal(err)
					}
					if i%200 == 0 {
						<-broker.js.PublishAsyncComplete()
					}
				}
				<-broker.js.PublishAsyncComplete()
				total += rows
				c, e, t := work(b, cfg, func() error { return watcher.WaitIdle(b.Context()) })
				cpu, engineCPU, wall = cpu+c, engineCPU+e, wall+t
			}
			raw, distinct, err := broker.store.Count(b.Context(), store.TableGPUSamples)
			if err != nil || raw != uint64(total) || distinct != raw {
				b.Fatalf("%d rows, %d distinct of %d, %v", raw, distinct, total, err)
			}
			report(b, cpu, engineCPU, wall, n*rows)
			b.ReportMetric(float64(wireBytes)/float64(n*rows), "wire-B/row")
		})
	}
	b.Run("limit", func(b *testing.B) {
		if recorded == nil {
			b.Skip("the collector's part was left out")
		}
		n := 0
		var cpu, engineCPU, wall time.Duration
		for b.Loop() {
			n++
			was, mine, begun := cpuOf(b, engine.PID()), cpuOf(b, os.Getpid()), time.Now()
			recorded.again(b, n)
			wall += time.Since(begun)
			cpu, engineCPU = cpu+cpuOf(b, os.Getpid())-mine, engineCPU+cpuOf(b, engine.PID())-was
		}
		report(b, cpu, engineCPU, wall, n*recorded.rows)
	})
	b.Run("reference", func(b *testing.B) {
		few, n := rows/4, 0
		var cpu, engineCPU, wall time.Duration
		conn := reference.Conn(b, cfg.reference())
		reference.Make(b, broker.js, conn)
		for b.Loop() {
			n++
			reference.Publish(b, broker.js, few, n)
			c, e, t := work(b, childConfig{NATS: cfg.NATS, URL: cfg.URL, User: cfg.User, Password: cfg.Password, Database: cfg.Database, Reference: true}, func() error {
				return reference.WaitRows(b, conn, n*few)
			})
			cpu, engineCPU, wall = cpu+c, engineCPU+e, wall+t
		}
		report(b, cpu, engineCPU, wall, n*few)
	})
}

func (c childConfig) reference() reference.Config {
	return reference.Config{NATS: c.NATS, URL: c.URL, User: c.User, Password: c.Password, Database: c.Database}
}
