package main

import (
	"path/filepath"
	"sync"

	"github.com/flopwatch/flopwatch/agent/exporter"
	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/file"
	"github.com/flopwatch/flopwatch/agent/kernel/nccl"
	"github.com/flopwatch/flopwatch/agent/kernel/proc"
	"github.com/flopwatch/flopwatch/agent/kernel/rdma"
	"github.com/flopwatch/flopwatch/agent/kernel/sock"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// features is the instrument "kernel" and those of its features that others ask.
type features struct {
	*kernel.Source
	nccl *nccl.Feature // nil: switched off
	ends *proc.Queue   // nil: switched off
}

// kernelSource makes the instrument over those features that are switched on.
func kernelSource(cfg config, i *instruments) *features {
	var out features
	var list []kernel.Feature
	k := cfg.Kernel
	if k.NCCL {
		out.nccl = nccl.New(nccl.Config{})
		list = append(list, out.nccl)
	}
	if k.Proc {
		f := proc.New(proc.Config{})
		out.ends = f.Subscribe() // before it runs
		list = append(list, f)
	}
	if k.Sock {
		list = append(list, sock.New(sock.Config{}))
	}
	if k.File {
		list = append(list, file.New(file.Config{}))
	}
	if k.RDMA {
		list = append(list, rdma.New(rdma.Config{Sysfs: cfg.Host.Sysfs}))
	}
	off := ""
	if cfg.DataDir != "" {
		off = filepath.Join(cfg.DataDir, "kernel-off")
	}
	out.Source = kernel.New(kernel.Config{Procfs: cfg.Host.Procfs, OffDir: off, MaxLoad: k.MaxLoad},
		kernel.Env{Procfs: cfg.Host.Procfs, Processes: i, Devices: i, Jobs: i.jobs[cfg.Host.Procfs], Log: i.lg}, list...)
	return &out
}

// CollectivesOf implements source.CollectiveWatcher over whichever feature there is.
func (i *instruments) CollectivesOf(pid int32) (what string, by wire.Source) {
	if f := i.bpf.Load(); f != nil && f.nccl != nil {
		return f.nccl.Visibility(pid)
	}
	return "", wire.SourceUnknown
}

// kernel is what the exporter shows of the programs in the kernel.
func (i *instruments) kernel() []exporter.Feature {
	f := i.bpf.Load()
	if f == nil {
		return nil
	}
	return exporter.OfKernel(f.Stats())
}

// exits hands the ends of processes from the feature that sees them to the instrument of
// jobs. Either may be made anew: what the old feature had seen is not lost.
type exits struct {
	mu     sync.Mutex // guards below
	queue  *proc.Queue
	left   []source.ProcessExit // of features that have ended
	events []proc.Event
}

// maxLeft bounds what waits for an instrument of jobs that is switched off; the oldest give way.
const maxLeft = 256

// follow takes ends from f from now on; nil: from none.
func (e *exits) follow(f *features) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.left = e.drain(e.left)
	if n := len(e.left) - maxLeft; n > 0 {
		e.left = append(e.left[:0], e.left[n:]...)
	}
	e.queue = nil
	if f != nil {
		e.queue = f.ends
	}
}

// drain appends what the queue has. Called with e.mu held.
func (e *exits) drain(list []source.ProcessExit) []source.ProcessExit {
	if e.queue == nil {
		return list
	}
	e.events, _ = e.queue.Take(e.events[:0])
	for n := range e.events {
		v := &e.events[n]
		if v.Kind == proc.Exit && v.Status >= 0 {
			list = append(list, source.ProcessExit{PID: v.PID, StartTicks: v.StartTicks(), Status: v.Status, By: v.By})
		}
	}
	return list
}

// TakeExits implements source.ExitLister.
func (e *exits) TakeExits(list []source.ProcessExit) []source.ProcessExit {
	e.mu.Lock()
	defer e.mu.Unlock()
	list = append(list, e.left...)
	e.left = nil
	return e.drain(list)
}
