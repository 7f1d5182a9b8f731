package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/exporter"
	"github.com/flopwatch/flopwatch/agent/fabric"
	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/host"
	"github.com/flopwatch/flopwatch/agent/job"
	"github.com/flopwatch/flopwatch/agent/source"
)

// instruments makes sources from the configuration, and keeps hold of the one that others
// ask.
type instruments struct {
	lg     *slog.Logger
	bootID string
	gpus   atomic.Pointer[gpu.Source] // nil: switched off
	jobs   *job.Finder                // what the control groups of processes say
}

var (
	_ source.ProcessLister = (*instruments)(nil)
	_ source.DeviceLister  = (*instruments)(nil)
)

// GPUProcesses implements source.ProcessLister over whichever source there is.
func (i *instruments) GPUProcesses() (list []source.GPUProcess, seq uint64, ok bool) {
	if s := i.gpus.Load(); s != nil {
		return s.GPUProcesses()
	}
	return nil, 0, false
}

// GPUDevices implements source.DeviceLister in the same way.
func (i *instruments) GPUDevices() (list []source.GPUDevice, ok bool) {
	if s := i.gpus.Load(); s != nil {
		return s.GPUDevices()
	}
	return nil, false
}

// instrument is a source as the configuration has it: what it is made with decides whether a
// reload has to make it anew.
type instrument struct {
	name    string
	enabled bool
	with    any // comparable
	make    func() (source.Source, error)
}

func (i *instruments) list(cfg config) []instrument {
	roots := cfg.Host
	roots.Enabled = true
	if i.jobs == nil {
		i.jobs = job.NewFinder(roots.Procfs)
	}
	return []instrument{
		{"gpu", cfg.GPU.Enabled, [...]any{cfg.GPU, cfg.Interval, roots.Procfs}, func() (source.Source, error) {
			g := cfg.GPU
			return gpu.New(gpu.Config{Child: g.Child, Library: g.Library, Interval: cfg.Interval, ProcessInterval: g.ProcessInterval, SlowInterval: g.SlowInterval,
				BurstGPM: g.BurstGPM, DriverShare: g.DriverShare, NoEvents: !g.Events, ProcFS: roots.Procfs, Log: i.lg})
		}},
		{"job", cfg.Job.Enabled && cfg.GPU.Enabled, [...]any{roots.Procfs, cfg.DataDir, cfg.Job}, func() (source.Source, error) {
			state := ""
			if cfg.DataDir != "" {
				state = filepath.Join(cfg.DataDir, "jobs")
			}
			j := cfg.Job
			return job.New(job.Config{Procfs: roots.Procfs, StateFile: state, BootID: i.bootID, Finder: i.jobs, Devices: i, Cgroups: filepath.Join(roots.Sysfs, "fs/cgroup"),
				PodResources: j.PodResources, PodsAPI: j.PodsAPI, SlurmDir: j.SlurmDir, MappingDir: j.HPCDir, Environ: j.Environ}, i), nil
		}},
		{"fabric", cfg.Fabric.Enabled, [...]any{roots.Sysfs, cfg.Fabric}, func() (source.Source, error) {
			return fabric.New(fabric.Config{Sysfs: roots.Sysfs, NoVFs: !cfg.Fabric.VFs}), nil
		}},
		{"host", cfg.Host.Enabled, roots, func() (source.Source, error) {
			return host.New(host.Config{Procfs: roots.Procfs, Sysfs: roots.Sysfs}), nil
		}},
	}
}

// all makes the sources of a configuration.
func (i *instruments) all(cfg config) ([]source.Source, error) {
	none := cfg
	none.GPU.Enabled, none.Fabric.Enabled, none.Job.Enabled, none.Host.Enabled, none.Kernel.Enabled, none.BMC.Targets = false, false, false, false, false, nil
	ch, done, err := i.change(none, cfg)
	if err != nil {
		return nil, err
	}
	done()
	return ch.Add, nil
}

// change says which sources end and begin between two configurations. done is to be called
// when that has happened.
func (i *instruments) change(old, fresh config) (ch agent.Change, done func(), err error) {
	was := i.list(old)
	gpus := i.gpus.Load()
	for n, now := range i.list(fresh) {
		if was[n].enabled == now.enabled && (!now.enabled || was[n].with == now.with) {
			continue
		}
		if was[n].enabled {
			ch.Remove = append(ch.Remove, now.name)
		}
		if now.name == "gpu" {
			gpus = nil
		}
		if !now.enabled {
			continue
		}
		s, err := now.make()
		if err != nil {
			for _, s := range ch.Add {
				_ = s.Close() // it has done nothing yet
			}
			return agent.Change{}, nil, fmt.Errorf("make source %s: %w", now.name, err)
		}
		if g, ok := s.(*gpu.Source); ok {
			gpus = g
		}
		ch.Add = append(ch.Add, s)
	}
	return ch, func() { i.gpus.Store(gpus) }, nil
}

// nvml is what the exporter shows of the child.
func (i *instruments) nvml() (exporter.NVML, bool) {
	s := i.gpus.Load()
	if s == nil {
		return exporter.NVML{}, false
	}
	st := s.Stats()
	out := exporter.NVML{Starts: st.Starts, Restarts: st.Restarts, Kills: st.Kills, Abandoned: st.Abandoned, Calls: st.Calls, Readings: st.Readings, Dropped: st.Dropped,
		LastPass: st.LastPass, GPUs: st.GPUs, Stalled: st.Stalled}
	keys := slices.SortedFunc(maps.Keys(st.Faults), func(a, b gpu.FaultKey) int {
		return cmp.Or(cmp.Compare(a.Function, b.Function), cmp.Compare(a.Code, b.Code))
	})
	for _, k := range keys {
		out.Faults = append(out.Faults, exporter.Fault{Function: k.Function, Code: k.Code, Count: st.Faults[k]})
	}
	return out, true
}

// latest are the readings for the exporter: what is older than it should be has none.
func (i *instruments) latest(now time.Time, interval time.Duration) []exporter.GPU {
	s := i.gpus.Load()
	if s == nil {
		return nil
	}
	var out []exporter.GPU
	for _, l := range s.Latest() {
		// A slow GPU is read less often: the source says so.
		limit := max(5*time.Second, 3*interval)
		if l.State == source.Degraded {
			limit = max(limit, 35*interval)
		}
		age := now.Sub(time.UnixMilli(l.WallMs)).Abs() // a wall clock may be stepped either way
		out = append(out, exporter.GPU{Device: l.Device, Reading: l.Reading, Fresh: l.WallMs > 0 && age <= limit})
	}
	return out
}
