package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/bmc"
	"github.com/flopwatch/flopwatch/agent/exporter"
	"github.com/flopwatch/flopwatch/agent/fabric"
	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/host"
	"github.com/flopwatch/flopwatch/agent/job"
	"github.com/flopwatch/flopwatch/agent/source"
)

// instruments makes sources from the configuration, and keeps hold of those that others ask.
// Who asks keeps hold of the instruments, so that either may be made anew without the other.
type instruments struct {
	lg     *slog.Logger
	bootID string
	node   string
	gpus   atomic.Pointer[gpu.Source] // nil: switched off
	job    atomic.Pointer[job.Job]    // nil: switched off
	jobs   map[string]*job.Finder     // what the control groups of processes say, by procfs
	bpf    atomic.Pointer[features]   // nil: switched off
	exits  exits                      // of processes, for jobs
	unmade map[string]bool            // sources that could not be made at the start
}

// unmade stands for a source that could not be made at the start, as a file that it needs is not
// right: the others run, and a reload tries again.
type unmade struct{ name, why string }

// Name implements source.Source.
func (u unmade) Name() string { return u.name }

// Sample implements source.Source.
func (u unmade) Sample(_ context.Context, _ source.Tick, out source.Sink) error {
	out.Status(source.Status{Instrument: u.name, State: source.Unavailable, Reason: u.why})
	return nil
}

// Close implements source.Source.
func (unmade) Close() error { return nil }

var (
	_ source.ProcessLister     = (*instruments)(nil)
	_ source.DeviceLister      = (*instruments)(nil)
	_ source.CollectiveWatcher = (*instruments)(nil)
	_ source.ExitLister        = (*exits)(nil)
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
		i.jobs = map[string]*job.Finder{}
	}
	if i.jobs[roots.Procfs] == nil {
		i.jobs[roots.Procfs] = job.NewFinder(roots.Procfs)
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
			return job.New(job.Config{Procfs: roots.Procfs, StateFile: state, BootID: i.bootID, Finder: i.jobs[roots.Procfs], Devices: i, Cgroups: filepath.Join(roots.Sysfs, "fs/cgroup"),
				PodResources: j.PodResources, PodsAPI: j.PodsAPI, SlurmDir: j.SlurmDir, MappingDir: j.HPCDir, Environ: j.Environ,
				Exits: &i.exits, Collectives: i}, i), nil
		}},
		{"fabric", cfg.Fabric.Enabled, [...]any{roots.Sysfs, cfg.Fabric}, func() (source.Source, error) {
			return fabric.New(fabric.Config{Sysfs: roots.Sysfs, NoVFs: !cfg.Fabric.VFs}), nil
		}},
		{"kernel", cfg.Kernel.Enabled, [...]any{roots.Procfs, roots.Sysfs, cfg.DataDir, cfg.Kernel}, func() (source.Source, error) {
			return kernelSource(cfg, i), nil
		}},
		{"bmc", len(cfg.BMC.Targets) > 0, fmt.Sprint(cfg.BMC), func() (source.Source, error) {
			return bmc.New(bmc.Config{Targets: targets(cfg.BMC), Concurrency: cfg.BMC.Concurrency, Devices: i})
		}},
		{"passthrough", cfg.GPU.Enabled, [...]any{roots.Sysfs, i.watched(cfg.BMC)}, func() (source.Source, error) {
			return bmc.NewPassthrough(bmc.PassthroughConfig{Sysfs: roots.Sysfs, Watched: i.watched(cfg.BMC)}), nil
		}},
		{"host", cfg.Host.Enabled, roots, func() (source.Source, error) {
			return host.New(host.Config{Procfs: roots.Procfs, Sysfs: roots.Sysfs}), nil
		}},
	}
}

// targets are the controllers of a configuration.
func targets(cfg bmcConfig) []bmc.Target {
	out := make([]bmc.Target, 0, len(cfg.Targets))
	for _, t := range cfg.Targets {
		out = append(out, bmc.Target{Node: t.Node, Address: t.Address, CredentialsFile: t.CredentialsFile, CAFile: t.CAFile, Fingerprint: t.Fingerprint, Insecure: t.Insecure,
			Interval: t.Interval, Timeout: t.Timeout, Method: t.Method, IPMIPort: t.IPMIPort, IPMICredentialsFile: t.IPMICredentials})
	}
	return out
}

// watched reports whether this host's own controller is asked.
func (i *instruments) watched(cfg bmcConfig) bool {
	return slices.ContainsFunc(cfg.Targets, func(t bmcTarget) bool { return t.Node == i.node })
}

// all makes the sources of a configuration. One that cannot be made takes no other with it: what
// is wrong with a controller's password is no reason not to read GPUs.
func (i *instruments) all(cfg config) []source.Source {
	list, errs := i.each(cfg)
	for _, name := range slices.Sorted(maps.Keys(errs)) {
		err := errs[name]
		i.lg.LogAttrs(context.Background(), slog.LevelError, "an instrument cannot be made; the others run, and SIGHUP tries again", slog.String("instrument", name), slog.Any("err", err))
		list = append(list, unmade{name, "it cannot be made: " + err.Error() + "; SIGHUP tries again"})
		if i.unmade == nil {
			i.unmade = map[string]bool{}
		}
		i.unmade[name] = true
	}
	return list
}

// each makes the sources of a configuration as far as they can be made, and says why others
// cannot.
func (i *instruments) each(cfg config) (list []source.Source, errs map[string]error) {
	errs = map[string]error{}
	var bpf *features
	for _, in := range i.list(cfg) {
		if !in.enabled {
			continue
		}
		s, err := in.make()
		if err != nil {
			errs[in.name] = err
			continue
		}
		switch s := s.(type) {
		case *gpu.Source:
			i.gpus.Store(s)
		case *job.Job:
			i.job.Store(s)
		case *features:
			bpf = s
		}
		list = append(list, s)
	}
	i.bpf.Store(bpf)
	i.exits.follow(bpf)
	return list, errs
}

// change says which sources end and begin between two configurations. done is to be called
// when that has happened.
func (i *instruments) change(old, fresh config) (ch agent.Change, done func(), err error) {
	was := i.list(old)
	gpus, jobs, bpf := i.gpus.Load(), i.job.Load(), i.bpf.Load()
	for n, now := range i.list(fresh) {
		if was[n].enabled == now.enabled && (!now.enabled || was[n].with == now.with && !i.unmade[now.name]) {
			continue
		}
		if was[n].enabled {
			ch.Remove = append(ch.Remove, now.name)
		}
		switch now.name {
		case "gpu":
			gpus = nil
		case "job":
			jobs = nil
		case "kernel":
			bpf = nil
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
		switch s := s.(type) {
		case *gpu.Source:
			gpus = s
		case *job.Job:
			jobs = s
		case *features:
			bpf = s
		}
		ch.Add = append(ch.Add, s)
	}
	return ch, func() {
		i.unmade = nil
		i.gpus.Store(gpus)
		i.job.Store(jobs)
		if was := i.bpf.Swap(bpf); was != bpf {
			i.exits.follow(bpf)
		}
	}, nil
}

// nvml is what the exporter shows of the child.
func (i *instruments) nvml() (exporter.NVML, bool) {
	s := i.gpus.Load()
	if s == nil {
		return exporter.NVML{}, false
	}
	st := s.Stats()
	return exporter.OfNVML(&st), true
}

// latest are the readings for the exporter: what is older than it should be has none. Whose a GPU
// is is a name in clear: owners says that the site wants it on the page.
func (i *instruments) latest(now time.Time, f exporter.Freshness, owners bool) []exporter.GPU {
	s := i.gpus.Load()
	if s == nil {
		return nil
	}
	j := i.job.Load()
	if j == nil || !owners {
		return exporter.GPUs(s.Latest(), now, f, nil)
	}
	return exporter.GPUs(s.Latest(), now, f, func(uuid string) exporter.Owner {
		o := j.Owner(uuid)
		return exporter.Owner{Pod: o.Pod, Namespace: o.Namespace, Container: o.Container, Job: o.Job}
	})
}
