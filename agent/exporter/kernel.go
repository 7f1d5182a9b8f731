package exporter

import (
	"time"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/source"
)

// Feature is what a feature of the instrument "kernel" does and costs.
type Feature struct {
	Name    string
	State   source.State
	Samples uint64
	Took    time.Duration // of the agent, to start and to look
	// Load is what its probes took of a core at the last look; the limit is for each of
	// Processes.
	Load      float64
	Processes int
	Probes    []Probe
	Counts    []Count
}

// Probe is a program in the kernel.
type Probe struct {
	Name  string
	Calls uint64
	Took  time.Duration // of the processes that it is in
	// Measured is true where the kernel measured Took; else it is calls times a known cost.
	Measured bool
}

// most features, and most probes and counts of each, on the page: names are the agent's own, and
// a mistake in one must not fill a monitor's memory.
const (
	mostFeatures = 16
	mostOfEach   = 32
)

// OfKernel is what the page shows of an instrument's counts.
func OfKernel(list []kernel.FeatureStats) []Feature {
	list = list[:min(len(list), mostFeatures)]
	out := make([]Feature, 0, len(list))
	for i := range list {
		s := &list[i]
		f := Feature{Name: s.Name, State: s.Report.State, Samples: s.Samples, Took: time.Duration(s.SampleNs), Load: float64(s.LoadE4) / 10_000, Processes: s.Load.Processes}
		seen := map[string]bool{}
		for _, p := range s.Load.Probes {
			if !seen[p.Name] && len(f.Probes) < mostOfEach {
				seen[p.Name] = true
				f.Probes = append(f.Probes, Probe{Name: p.Name, Calls: p.Calls, Took: time.Duration(p.Ns), Measured: p.Measured})
			}
		}
		clear(seen)
		for _, c := range s.Load.Counts {
			if !seen[c.Name] && len(f.Counts) < mostOfEach {
				seen[c.Name] = true
				f.Counts = append(f.Counts, Count{c.Name, c.Value})
			}
		}
		out = append(out, f)
	}
	return out
}

var (
	bpfState    = gauge("kernel_feature_state", "1: the feature is in that state. What one that is not active does not see is not zero.", "feature", "state")
	bpfSamples  = counter("kernel_samples_total", "Looks of a feature.", "feature")
	bpfSeconds  = counter("kernel_seconds_total", "Time of the agent that a feature took to start and to look.", "feature")
	bpfLoad     = gauge("kernel_probe_load_ratio", "Share of a core that a feature's probes took of the processes they are in, all together, at the last look.", "feature")
	bpfWatched  = gauge("kernel_probed_processes", "Processes that a feature's probes run in.", "feature")
	bpfCalls    = counter("kernel_probe_calls_total", "Calls of a probe; from zero when its feature starts again.", "feature", "probe")
	bpfTook     = counter("kernel_probe_seconds_total", "Time of watched processes that a probe took; from zero when its feature starts again.", "feature", "probe")
	bpfMeasured = gauge("kernel_probe_seconds_measured", "1: the kernel measured the time of the probe; 0: it is calls times a known cost.", "feature", "probe")
	bpfTally    = gauge("kernel_feature_tally", "What a feature counts of its own since it was started: what it left out or had no room for, and what it has in hand.", "feature", "what")
)

func (e *Exporter) kernel(put func(m metric, v float64, labels ...string)) {
	if e.cfg.Kernel == nil {
		return
	}
	for _, f := range e.cfg.Kernel() {
		for _, state := range states {
			put(bpfState, one(f.State == state), f.Name, string(state))
		}
		put(bpfSamples, float64(f.Samples), f.Name)
		put(bpfSeconds, f.Took.Seconds(), f.Name)
		if len(f.Probes) > 0 {
			put(bpfLoad, f.Load, f.Name)
			put(bpfWatched, float64(f.Processes), f.Name)
		}
		for _, p := range f.Probes {
			put(bpfCalls, float64(p.Calls), f.Name, p.Name)
			put(bpfTook, p.Took.Seconds(), f.Name, p.Name)
			put(bpfMeasured, one(p.Measured), f.Name, p.Name)
		}
		for _, c := range f.Counts {
			put(bpfTally, float64(c.N), f.Name, c.Name)
		}
	}
}
