package workload_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/workload"
)

const t0 = 1_700_000_040_000

// scene is a synthetic job on whole nodes of 8 GPUs.
type scene struct {
	nodes, gpus, minutes int
	model                string
	at                   func(minute, gpu int) map[feature.Signal]float64 // what a GPU shows
	comm                 []feature.CommCell                               // per GPU and 5 minutes
	commGPUs             int                                              // ranks that report, 0: all
	proc                 *feature.Process
	storageBurst         int // minutes between checkpoints, 0: none
	fabricBps            float64
	use                  string
}

func (sc scene) evidence() *feature.Evidence {
	if sc.nodes == 0 {
		sc.nodes = 1
	}
	if sc.gpus == 0 {
		sc.gpus = 8
	}
	if sc.model == "" {
		sc.model = "NVIDIA H100 80GB HBM3"
	}
	end := int64(t0 + sc.minutes*feature.MinuteMs)
	ev := &feature.Evidence{StartMs: t0, EndMs: end, Nodes: map[string]feature.Node{}, GPU: map[feature.GPUKey][]feature.GPUCell{}, Host: map[string][]feature.NodeCell{}}
	for n := range sc.nodes {
		name := fmt.Sprintf("n%d", n)
		ev.Nodes[name] = feature.Node{Node: name, GPUModel: sc.model, GPUCount: 8, TDPW: 700, FabricGbps: 3200, Vantage: "host", Listed: true}
		var all []int
		for g := range sc.gpus {
			all = append(all, g)
			for m := range sc.minutes {
				c := feature.GPUCell{Node: name, GPU: g, MinuteMs: t0 + int64(m)*feature.MinuteMs, Samples: 4}
				for s, v := range sc.at(m, n*8+g) {
					c.Mean[s], c.CoverMs[s] = v, feature.MinuteMs
				}
				ev.GPU[feature.GPUKey{Node: name, GPU: g}] = append(ev.GPU[feature.GPUKey{Node: name, GPU: g}], c)
			}
			if sc.proc != nil {
				p := *sc.proc
				p.Node, p.GPUs, p.PID, p.StartMs = name, []int{g}, 100+g, t0
				ev.Processes = append(ev.Processes, p)
			}
		}
		for m := range sc.minutes {
			c := feature.NodeCell{Node: name, MinuteMs: t0 + int64(m)*feature.MinuteMs, FabricTxBytes: sc.fabricBps * 60, FabricCoverMs: feature.MinuteMs, StorageCoverMs: feature.MinuteMs}
			if sc.storageBurst > 0 && m%sc.storageBurst == sc.storageBurst-1 {
				c.StorageTxBps = 1e9
			}
			ev.Host[name] = append(ev.Host[name], c)
		}
		ev.Allocations = append(ev.Allocations, feature.Allocation{Account: "a", Node: name, GPUs: all, StartMs: t0})
	}
	if sc.use != "" {
		ev.Orders = append(ev.Orders, feature.Order{Order: "o", Account: "a", DeclaredUse: sc.use})
	}
	for m := 5; m < sc.minutes; m += 5 {
		for n := range sc.nodes {
			for g := range sc.gpus {
				if sc.commGPUs > 0 && g >= sc.commGPUs {
					continue
				}
				for _, c := range sc.comm {
					c.Node, c.PID, c.GPU, c.MinuteMs = fmt.Sprintf("n%d", n), 100+g, g, t0+int64(m)*feature.MinuteMs
					ev.Comm = append(ev.Comm, c)
				}
			}
		}
	}
	return ev
}

// noise is a fixed wobble of about one part in a hundred, own to a GPU.
func noise(m, g int) float64 { return 1 + 0.01*math.Sin(float64(m*7+g*13)) }

func signals(util, mem, power, sm, tensor, fp64, dfma, fp32, integer, dram, nvlink float64) map[feature.Signal]float64 {
	return map[feature.Signal]float64{feature.UtilFrac: math.Min(1, util), feature.MemUsedBytes: mem, feature.PowerW: power, feature.SMActiveFrac: sm, feature.TensorFrac: tensor, feature.FP64Frac: fp64,
		feature.DFMAFrac: dfma, feature.FP32Frac: fp32, feature.IntFrac: integer, feature.DRAMFrac: dram, feature.NVLinkTxBps: nvlink, feature.IMMAFrac: 0, feature.NVEncFrac: 0, feature.NVDecFrac: 0, feature.SMClockMHz: 1700}
}

// train is a plateau with a common stall every 20 minutes.
func train(m, g int) map[feature.Signal]float64 {
	k := noise(m, g)
	if m%20 == 19 {
		k *= 0.7
	}
	return signals(0.96*k, 61e9, 640*k, 0.78*k, 0.4*k, 0, 0, 0.035*k, 0, 0.3*k, 6e9*k)
}

var gradients = []feature.CommCell{{Comm: "c", Op: "allgather", NRanks: 8, Calls: 3000, Bytes: 6e11}, {Comm: "c", Op: "reducescatter", NRanks: 8, Calls: 1500, Bytes: 3e11}}

func without(f func(m, g int) map[feature.Signal]float64, drop ...feature.Signal) func(m, g int) map[feature.Signal]float64 {
	return func(m, g int) map[feature.Signal]float64 {
		out := f(m, g)
		for _, s := range drop {
			delete(out, s)
		}
		return out
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	serve := func(m, g int) map[feature.Signal]float64 {
		k := noise(m, g) * (0.6 + 0.3*math.Sin(float64(m)/17+float64(g/2)))
		return signals(0.9*k+0.05, 66e9, 200+350*k, 0.5*k, 0.1*k, 0, 0, 0.002, 0, 0.55*k, 1e10*k)
	}
	cases := []struct {
		name    string
		scene   scene
		want    string
		atLeast float64 // probability
	}{
		{"training, everything seen", scene{minutes: 60, at: train, comm: gradients, storageBurst: 20, proc: &feature.Process{Exe: "python3", Launcher: "torchrun", JobID: "j", WorldSize: 8}}, workload.Training, 0.9},
		{"training, counters alone", scene{minutes: 60, at: train}, workload.Training, 0.5},
		{"training that calls itself a server", scene{minutes: 60, at: train, comm: gradients, use: "inference", proc: &feature.Process{Exe: "vllm", JobID: "j"}}, workload.Training, 0.8},
		{"training that calls itself a renderer", scene{minutes: 60, at: train, use: "rendering", proc: &feature.Process{Exe: "blender"}}, workload.Training, 0.4},
		{"training with filler work between steps", scene{minutes: 60, comm: gradients, at: func(m, g int) map[feature.Signal]float64 {
			k := noise(m, g)
			return signals(1, 61e9, 695, 0.95, 0.82, 0, 0, 0.03*k, 0, 0.3*k, 6e9*k)
		}}, workload.Training, 0.7},
		{"burn-in", scene{minutes: 40, at: func(_, _ int) map[feature.Signal]float64 {
			return signals(1, 70e9, 695, 0.97, 0.85, 0, 0, 0, 0, 0.3, 0)
		}}, workload.BurnIn, 0.7},
		{"mining", scene{gpus: 1, minutes: 40, at: func(_, _ int) map[feature.Signal]float64 {
			return signals(1, 5e9, 500, 0.97, 0, 0, 0, 0, 0.15, 0.85, 0)
		}, proc: &feature.Process{Exe: "python3"}}, workload.Mining, 0.7},
		{"served decoding over NVLink", scene{minutes: 120, at: serve, comm: []feature.CommCell{{Comm: "c", Op: "allreduce", NRanks: 8, Calls: 600_000, Bytes: 6e11}}, commGPUs: 1}, workload.Inference, 0.7},
		{"served decoding, counters alone", scene{minutes: 120, at: serve}, workload.Inference, 0.5},
		{"decoding of a full queue", scene{minutes: 120, at: func(m, g int) map[feature.Signal]float64 {
			k := noise(m, g)
			return signals(0.97*k, 66e9, 600*k, 0.72*k, 0.15*k, 0, 0, 0.001, 0, 0.52*k, 3e10*k)
		}, proc: &feature.Process{Exe: "python3", JobID: "j"}}, workload.BatchInference, 0.35},
		{"MPI simulation with small allreduce", scene{nodes: 2, minutes: 60, fabricBps: 2e8, at: func(m, g int) map[feature.Signal]float64 {
			k := noise(m, g)
			return signals(0.96*k, 40e9, 660*k, 0.7*k, 0, 0.4*k, 0, 0, 0.08, 0.6*k, 1e6)
		}, comm: []feature.CommCell{{Comm: "w", Op: "sendrecv", NRanks: 16, Calls: 300, Bytes: 1.4e10}, {Comm: "w", Op: "allreduce", NRanks: 16, Calls: 60, Bytes: 2e6}}}, workload.HPC, 0.9},
		{"single precision simulation, counters alone", scene{minutes: 60, at: func(m, g int) map[feature.Signal]float64 {
			k := noise(m, g)
			return signals(0.95*k, 20e9, 580*k, 0.7*k, 0, 0, 0, 0.45*k, 0.1, 0.55*k, 4e6)
		}}, workload.HPC, 0.4},
		{"encoding renderer", scene{gpus: 2, minutes: 60, at: func(m, g int) map[feature.Signal]float64 {
			k := noise(m*3, g)
			out := signals(0.9*k, 9e9*(1+0.5*math.Sin(float64(m))), 560*k*k, 0.8*k, 0.005, 0, 0, 0.22, 0.17, 0.3, 0)
			out[feature.NVEncFrac] = 0.04
			return out
		}}, workload.Rendering, 0.7},
		{"memory held, nothing computed", scene{gpus: 1, minutes: 60, at: func(_, _ int) map[feature.Signal]float64 {
			return signals(0, 40e9, 118, 0, 0, 0, 0, 0, 0, 0, 0)
		}}, workload.Idle, 0.6},
		{"work now and then on one GPU", scene{gpus: 1, minutes: 120, at: func(m, _ int) map[feature.Signal]float64 {
			if m%15 > 2 {
				return signals(0, 8e9, 118, 0, 0, 0, 0, 0, 0, 0, 0)
			}
			return signals(0.4, 8e9, 260, 0.15, 0.1, 0, 0, 0.01, 0, 0.1, 0)
		}}, workload.Notebook, 0.6},
		{"rollouts and updates in one job", scene{minutes: 120, at: func(m, g int) map[feature.Signal]float64 {
			if m%6 < 4 {
				return serve(m, g)
			}
			return train(m, g)
		}, comm: append([]feature.CommCell{{Comm: "tp", Op: "allreduce", NRanks: 8, Calls: 200_000, Bytes: 2e11}, {Comm: "w", Op: "broadcast", NRanks: 8, Calls: 40, Bytes: 6e10}}, gradients...),
			proc: &feature.Process{Exe: "python3", Launcher: "ray", JobID: "j", WorldSize: 8}}, workload.RL, 0.5},
		{"watts are all there is to a GPU", scene{minutes: 60, at: func(m, g int) map[feature.Signal]float64 {
			return map[feature.Signal]float64{feature.PowerW: 400 * noise(m, g)}
		}}, "", 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ev := c.scene.evidence()
			eps := run.Episodes(ev)
			busy := slices.DeleteFunc(slices.Clone(eps), func(e run.Episode) bool { return e.Basis < run.BasisPower })
			if len(busy) != 1 {
				t.Fatalf("%d episodes in use, want 1", len(busy))
			}
			v := workload.Classify(ev, busy[0])
			sum := 0.0
			for _, class := range slices.Sorted(maps.Keys(v.Probs)) {
				sum += v.Probs[class]
			}
			if math.Abs(sum-1) > 1e-9 {
				t.Errorf("probabilities add up to %v", sum)
			}
			if len(v.Reasons) == 0 || strings.Contains(strings.Join(v.Reasons, " "), "NaN") {
				t.Errorf("reasons: %q", v.Reasons)
			}
			if c.want == "" {
				if v.Prob > 0.6 {
					t.Errorf("%s with %.2f on thin evidence: %v", v.Class, v.Prob, v.Reasons)
				}
				return
			}
			if v.Class != c.want || v.Prob < c.atLeast {
				t.Errorf("%s %.2f, want %s of at least %.2f: %v %v", v.Class, v.Prob, c.want, c.atLeast, v.Probs, v.Reasons)
			}
		})
	}
}

// The first minutes of a training: no wild answer while weights load, then training, and
// the probability grows.
func TestClassifyEarly(t *testing.T) {
	t.Parallel()
	start := func(m, g int) map[feature.Signal]float64 {
		if m < 3 {
			return signals(0.05, 20e9, 150, 0.03, 0, 0, 0, 0, 0, 0.02, 0)
		}
		return train(m, g)
	}
	last := 0.0
	for _, minutes := range []int{2, 4, 8, 15, 40} {
		ev := scene{minutes: minutes, at: start, comm: gradients, proc: &feature.Process{Exe: "python3", Launcher: "torchrun", JobID: "j", WorldSize: 8}}.evidence()
		v := workload.Classify(ev, run.Episodes(ev)[0])
		if v.Class != workload.Training && v.Class != workload.Unknown {
			t.Errorf("after %d min: %s %.2f", minutes, v.Class, v.Prob)
		}
		if minutes <= 4 && v.Prob > 0.9 {
			t.Errorf("after %d min: too sure (%.2f)", minutes, v.Prob)
		}
		if minutes >= 8 && v.Class != workload.Training {
			t.Errorf("after %d min: %s", minutes, v.Class)
		}
		if minutes >= 8 && v.Prob < last-0.05 {
			t.Errorf("after %d min the probability fell from %.2f to %.2f", minutes, last, v.Prob)
		}
		last = v.Prob
	}
}

// Without a pipe, a process or a collective, on a part of an earlier generation, the
// answer is allowed to be unsure and not allowed to be mining or burn-in.
func TestClassifyThin(t *testing.T) {
	t.Parallel()
	ev := scene{minutes: 60, model: "NVIDIA A100-SXM4-80GB", at: without(train, feature.SMActiveFrac, feature.TensorFrac, feature.FP64Frac, feature.DFMAFrac, feature.FP32Frac, feature.IntFrac, feature.DRAMFrac, feature.IMMAFrac)}.evidence()
	v := workload.Classify(ev, run.Episodes(ev)[0])
	if v.Probs[workload.Training] < 0.3 || v.Probs[workload.Mining]+v.Probs[workload.BurnIn] > 0.05 {
		t.Errorf("%s %.2f %v", v.Class, v.Prob, v.Probs)
	}
}
