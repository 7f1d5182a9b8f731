package detector

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/threshold"
)

// scaleOf reads a setting of the benchmark from the environment.
func scaleOf(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// BenchmarkScale judges a day of minute cells of fleets of several sizes, as a replay of stored history does:
// FLOPWATCH_SCALE_GPUS and FLOPWATCH_SCALE_HOURS set what (make bench-detector). It tells the CPU time (wall time on a machine
// that does nothing else is no more), the most memory, what a GPU-minute costs, and with what power of the
// number of GPUs the CPU time grew since the size before.
func BenchmarkScale(b *testing.B) {
	hours, err := strconv.ParseFloat(scaleOf("FLOPWATCH_SCALE_HOURS", "6"), 64)
	if err != nil {
		b.Fatal(err)
	}
	var lastGPUs int
	var lastCPU float64
	for size := range strings.SplitSeq(scaleOf("FLOPWATCH_SCALE_GPUS", "200,1000"), ",") {
		gpus, err := strconv.Atoi(size)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("gpus=%d/hours=%g", gpus, hours), func(b *testing.B) {
			var cpu, peak, steps float64
			var minutes, runs int
			slowest := 0.0
			for b.Loop() {
				runtime.GC()
				f := newScaleFleet(gpus, hours)
				began, stop := cpuSeconds(), watchHeap()
				d := New(scaleConfig(b), f, identity.NewGraph(nil))
				last := began
				d.cfg.Progress = func(int64) { slowest, last, steps = math.Max(slowest, cpuSeconds()-last), cpuSeconds(), steps+1 }
				if err := d.Rejudge(b.Context(), f.startMs, f.endMs); err != nil {
					b.Fatal(err)
				}
				cpu += cpuSeconds() - began
				peak = math.Max(peak, stop())
				minutes += f.made
				runs = len(f.runs)
			}
			n := float64(b.N)
			b.ReportMetric(cpu/n, "cpu-s")
			b.ReportMetric(slowest, "slowest-block-cpu-s")
			b.ReportMetric(peak/(1<<20), "peak-MiB")
			b.ReportMetric(1e6*cpu/float64(minutes), "us/GPU-min")
			b.ReportMetric(float64(runs), "activities")
			if lastCPU > 0 {
				b.ReportMetric(math.Log(cpu/n/lastCPU)/math.Log(float64(gpus)/float64(lastGPUs)), "growth-exponent")
			}
			lastGPUs, lastCPU = gpus, cpu/n
		})
	}
}

func scaleConfig(tb testing.TB) Config {
	tb.Helper()
	profiles, err := threshold.Builtin()
	if err != nil {
		tb.Fatal(err)
	}
	return Config{Cluster: "scale", Profiles: profiles, Now: func() time.Time { return time.Unix(0, 0) }}
}

// cpuSeconds is the CPU time of the process so far.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return math.NaN()
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// watchHeap looks at what the runtime holds of the system's memory ten times a second; stop returns the most that it was.
func watchHeap() (stop func() float64) {
	done, most := make(chan struct{}), make(chan float64)
	go func() {
		s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		peak := 0.0
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			metrics.Read(s)
			peak = math.Max(peak, float64(s[0].Value.Uint64()-s[1].Value.Uint64()))
			select {
			case <-done:
				most <- peak
				return
			case <-t.C:
			}
		}
	}()
	return func() float64 { close(done); return <-most }
}
