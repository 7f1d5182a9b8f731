package workload_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/workload"
)

// fleet makes nodes of 8 GPUs for a number of minutes: pairs of nodes train together.
func fleet(nodes, minutes int) *feature.Evidence {
	const start = 1_700_000_040_000
	ev := &feature.Evidence{StartMs: start, EndMs: start + int64(minutes)*feature.MinuteMs,
		Nodes: map[string]feature.Node{}, GPU: map[feature.GPUKey][]feature.GPUCell{}, Host: map[string][]feature.NodeCell{}}
	for n := range nodes {
		name := fmt.Sprintf("n%04d", n)
		ev.Nodes[name] = feature.Node{Node: name, GPUModel: "NVIDIA H100 80GB HBM3", Vantage: "host", GPUCount: 8, FabricGbps: 3200, TDPW: 700, Listed: true}
		from := start + int64(3+n/2%20)*feature.MinuteMs
		for g := range 8 {
			k := feature.GPUKey{Node: name, GPU: g}
			for m := range minutes {
				t := start + int64(m)*feature.MinuteMs
				c := feature.GPUCell{Node: name, GPU: g, MinuteMs: t, AvailableMs: t, Samples: 4}
				for s := range c.CoverMs {
					c.CoverMs[s] = feature.MinuteMs
				}
				c.Mean[feature.PowerW], c.Mean[feature.SMClockMHz] = 75, 345
				if t >= from {
					wave := 0.02 * math.Sin(float64(m))
					c.Mean[feature.UtilFrac], c.Mean[feature.MemUsedBytes], c.Mean[feature.PowerW] = 0.97, 60e9, 640*(1+wave)
					c.Mean[feature.SMActiveFrac], c.Mean[feature.TensorFrac], c.Mean[feature.FP32Frac], c.Mean[feature.DRAMFrac] = 0.8, 0.4, 0.04, 0.3
					c.Mean[feature.SMClockMHz], c.Mean[feature.NVLinkTxBps] = 1800, 5e9
				}
				ev.GPU[k] = append(ev.GPU[k], c)
			}
			ev.Processes = append(ev.Processes, feature.Process{Node: name, GPUs: []int{g}, PID: 1000 + g, StartMs: from, Exe: "python3", Launcher: "torchrun",
				JobSource: "slurm", JobID: fmt.Sprint(5000 + n/2), User: "u1", WorldSize: 16, Rank: n%2*8 + g})
		}
		for m := range minutes {
			t := start + int64(m)*feature.MinuteMs
			ev.Host[name] = append(ev.Host[name], feature.NodeCell{Node: name, MinuteMs: t, PowerW: 1800 + 4000, PowerCoverMs: feature.MinuteMs, FabricTxBytes: 6e11, FabricCoverMs: feature.MinuteMs})
		}
		ev.Allocations = append(ev.Allocations, feature.Allocation{Account: fmt.Sprintf("acct-%d", n/2), Node: name, GPUs: []int{0, 1, 2, 3, 4, 5, 6, 7}, StartMs: start})
	}
	for m := 5; m < minutes; m += 5 {
		for n := range nodes {
			for g := range 8 {
				t := start + int64(m)*feature.MinuteMs
				if t < start+int64(3+n/2%20)*feature.MinuteMs {
					continue
				}
				for _, op := range [...]string{"allgather", "reducescatter"} {
					ev.Comm = append(ev.Comm, feature.CommCell{Node: fmt.Sprintf("n%04d", n), PID: 1000 + g, GPU: g, Comm: fmt.Sprintf("c%d", n/2), Op: op, NRanks: 16, Rank: n%2*8 + g, MinuteMs: t, Calls: 100, Bytes: 2.5e10})
				}
			}
		}
	}
	return ev
}

// BenchmarkJudge is one judged moment of 26 nodes over four hours: 50,000 cells.
func BenchmarkJudge(b *testing.B) {
	ev := fleet(26, 240)
	b.Run("episodes", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			run.Episodes(ev)
		}
	})
	eps := run.Episodes(ev)
	b.Run("classify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for i := range eps {
				workload.Classify(ev, eps[i])
			}
		}
	})
	classes := make([]run.ClassOf, len(eps))
	for i := range eps {
		v := workload.Classify(ev, eps[i])
		classes[i] = run.ClassOf{Class: v.Class, Prob: v.Prob, Training: workload.IsRun(v.Class)}
	}
	b.Run("join", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			run.Join(ev, eps, classes)
		}
	})
}
