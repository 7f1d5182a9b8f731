package gpu

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
)

const (
	maxFaults = 256 // kinds of faults that are counted apart
	logEvery  = 10 * time.Minute
)

// FaultKey is a kind of fault.
type FaultKey struct {
	Function string // of the library; empty: the binding
	Code     int    // the library's if positive, else one of frame's
}

type faultCount struct {
	n, unsaid uint64
	said      time.Time
}

// gpu gives the state of a GPU that the child names.
func (s *Source) gpu(index int) (*gpuState, error) {
	if index < 0 || index >= len(s.gpus) {
		return nil, fmt.Errorf("GPU %d of %d: %w", index, len(s.gpus), frame.ErrCorrupt)
	}
	return s.gpus[index], nil
}

// met takes the child's first word. All below are called with s.mu held.
func (s *Source) met(c *child, body []byte) error {
	var w frame.Welcome
	if err := frame.DecodeWelcome(body, &w); err != nil {
		return err // it says what was decoded
	}
	if c.welcome != nil {
		return fmt.Errorf("a second welcome: %w", frame.ErrCorrupt)
	}
	defer s.wake()
	now := time.Now()
	c.welcome, c.readyAt = &w, now
	s.library = w
	if !c.works() {
		_ = c.in.Close() // it ends, if it has not ended already
	}
	switch {
	case w.Version != frame.Version:
		s.missing(now, fmt.Sprintf("%s speaks version %d of the protocol, the agent %d: install both from one release", s.cfg.Child, w.Version, frame.Version))
		return nil
	case w.Code != 0:
		why := "NVIDIA's library refuses: " + w.Text
		if w.Code == codeLibraryNotFound {
			why = "NVIDIA's library cannot be loaded: " + w.Text
		}
		hint, known := hints[w.Code]
		if !known {
			// Not a state of the host, as far as is known: it may be over soon.
			c.why = why + " (code " + strconv.Itoa(w.Code) + ")"
			return nil
		}
		s.missing(now, why+hint)
		return nil
	case w.GPUs == 0:
		s.missing(now, "NVIDIA's driver sees no GPU on this host")
		return nil
	}
	s.absent, s.down = "", ""
	if len(s.gpus) != w.GPUs {
		s.gpus = s.gpus[:min(len(s.gpus), w.GPUs)]
		for len(s.gpus) < w.GPUs {
			s.gpus = append(s.gpus, &gpuState{})
		}
	}
	s.cfg.Log.LogAttrs(context.Background(), slog.LevelInfo, "watching GPUs", slog.Int("gpus", w.GPUs), slog.String("driver", w.DriverVersion),
		slog.String("library", w.LibraryPath), slog.String("library_version", w.NVMLVersion), slog.Bool("gpm", w.GPM), slog.Any("missing_functions", w.Missing))
	return nil
}

const codeLibraryNotFound = 12

// faulted counts a fault, and takes the consequences.
func (s *Source) faulted(c *child, body []byte) error {
	var f frame.Fault
	if err := frame.DecodeFault(body, &f); err != nil {
		return err // it says what was decoded
	}
	if f.Code == frame.CodeBudget { // the child's own: it is no fault of the library's
		s.stats.BudgetRefused++
		g, err := s.gpu(f.GPU)
		if err == nil && f.Seq == g.seq && g.asked {
			g.short = true
		}
		return err
	}
	s.count(&f)
	reason := f.Text
	if f.Function != "" {
		reason = f.Function + ": " + f.Text
	}
	if f.Ending {
		c.why, c.restart = reason, true
	}
	if f.GPU < 0 || f.Ending {
		return nil
	}
	g, err := s.gpu(f.GPU)
	if err != nil || f.Seq != g.seq || !g.asked {
		return err
	}
	g.failing = true
	if !f.Lost {
		g.fault, g.faultMs = reason, max(g.tick.BootMs, 1)
		return nil
	}
	if g.lost == "" {
		s.happen(happening{gpu: f.GPU, uuid: g.device.UUID, name: eventLost, count: 1, gi: frame.WholeGPU, ci: frame.WholeGPU, detail: reason})
	}
	g.lost, g.read, g.base, g.fast = reason, false, meters{}, meters{}
	g.lostMs = min(max(2*g.lostMs, lostMinMs), lostMaxMs)
	g.nextMs = g.tick.BootMs + g.lostMs
	return nil
}

// count keeps the fault's statistics and says it once in a while.
func (s *Source) count(f *frame.Fault) {
	key := FaultKey{f.Function, f.Code}
	n := s.faults[key]
	if n == nil {
		if len(s.faults) >= maxFaults {
			key = FaultKey{Function: "other"}
			n = s.faults[key]
		}
		if n == nil {
			n = &faultCount{}
			s.faults[key] = n
		}
	}
	n.n++
	now := time.Now()
	if !n.said.IsZero() && now.Sub(n.said) < logEvery {
		n.unsaid++
		return
	}
	s.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "a call into NVIDIA's library failed", slog.Int("gpu", f.GPU), slog.String("function", f.Function),
		slog.Int("code", f.Code), slog.String("text", f.Text), slog.Uint64("more_since_last", n.unsaid))
	n.said, n.unsaid = now, 0
}

// describedAs takes what a GPU is.
func (s *Source) describedAs(body []byte) error {
	var d frame.Device
	if err := frame.DecodeDevice(body, &d); err != nil {
		return err // it says what was decoded
	}
	g, err := s.gpu(d.Index)
	if err != nil {
		return err
	}
	if g.described && g.device.UUID != d.UUID {
		g.changed()
	}
	if !g.described {
		g.fromGPM = [2]bool{d.GPM, d.GPM}
	}
	// The first word tells whose rows these are; what comes in parts is told when it is whole.
	g.tell = g.tell || d.Whole || !g.described
	g.device, g.described = d, true
	return nil
}

// readingCame takes a reading of a GPU, or of an instance.
func (s *Source) readingCame(body []byte) error {
	var r frame.Reading
	if err := frame.DecodeReading(body, &r); err != nil {
		return err // it says what was decoded
	}
	g, err := s.gpu(r.GPU)
	if err != nil || r.Seq != g.seq || !g.asked {
		return err
	}
	if r.GI != frame.WholeGPU {
		if g.takePart(&r) {
			s.stats.Dropped++
		}
		return nil
	}
	g.got, g.readUs = true, r.TookUs
	resets := g.energy.resets
	if g.take(&r, s.cfg.BurstBase) {
		s.stats.Dropped++
	}
	if g.energy.resets != resets {
		s.happen(happening{gpu: r.GPU, uuid: g.device.UUID, name: eventReset, count: 1, gi: frame.WholeGPU, ci: frame.WholeGPU, detail: "its counter of energy began again"})
	}
	took := r.TookUs
	if g.what&askMoment != 0 {
		s.stats.Tiers[TierBurst].add(took)
		s.stats.Bursts++
		return nil
	}
	s.stats.Tiers[TierBase].add(took)
	if g.what&askThin != 0 {
		took = -1 // it says nothing of how long a whole pass takes
	}
	if !g.failing || g.lost == "" { // a lost GPU is asked when its back-off says
		g.next(took, s.cfg.Interval)
	}
	s.stats.Readings++
	s.stats.LastPass = time.Duration(r.TookUs) * time.Microsecond
	return nil
}

// healthCame takes what a GPU tells rarely.
func (s *Source) healthCame(body []byte) error {
	var h frame.Health
	if err := frame.DecodeHealth(body, &h); err != nil {
		return err // it says what was decoded
	}
	g, err := s.gpu(h.GPU)
	if err != nil || h.Seq != g.seq || !g.asked {
		return err
	}
	g.wanting = 0
	g.looks.took(h.TookUs, s.cfg.Interval.Microseconds()/4, slowEnough, slowEnough)
	s.stats.Tiers[TierSlow].add(h.TookUs)
	if h.Present != 0 {
		g.health, g.healthNew = timedHealth{h, g.tick}, true
	}
	return nil
}

// partitioned takes how a GPU is partitioned.
func (s *Source) partitioned(body []byte) error {
	var p frame.Instances
	if err := frame.DecodeInstances(body, &p); err != nil {
		return err // it says what was decoded
	}
	g, err := s.gpu(p.GPU)
	if err != nil {
		return err
	}
	g.instances, g.partsKnown, g.tellParts = p.List, true, true
	// What is gone has no last reading.
	g.latestPart = slices.DeleteFunc(g.latestPart, func(t timed) bool {
		return !slices.ContainsFunc(p.List, func(i frame.Instance) bool { return i.GI == t.GI })
	})
	return nil
}

// doneWith takes the end of an answer.
func (s *Source) doneWith(body []byte) error {
	var d frame.Done
	if err := frame.DecodeDone(body, &d); err != nil {
		return err // it says what was decoded
	}
	g, err := s.gpu(d.GPU)
	if err != nil || d.Seq != g.seq || !g.asked {
		return err
	}
	g.asked = false
	switch {
	case g.got:
		g.empty = 0
	case g.what&askMoment != 0 || g.short: // it says nothing of the GPU
	default:
		if g.empty++; g.empty == emptyEnough {
			g.deviceMs = 0 // is it still who it was, and are there as many?
		}
	}
	if g.what&askMoment != 0 && g.short && !g.got {
		g.refused++
	}
	g.calls.done(d.Seq, d.Calls)
	g.spend(d.TookUs, s.cfg.DriverShare)
	rest := max(d.TookUs-g.readUs, 0)
	switch {
	case g.what&askDescription != 0:
		s.stats.Tiers[TierInventory].add(rest)
	case g.what&askList != 0:
		s.stats.Tiers[TierProcesses].add(rest)
		g.lists.took(rest, s.cfg.Interval.Microseconds()/4, slowEnough, slowEnough)
	case g.what&askHealth != 0:
	case !g.got || g.failing || g.short: // not what it usually costs
	case g.what&askWhole != 0:
		g.cost[0] = d.Calls
	case g.what&askThin != 0:
		g.cost[1] = d.Calls
	case g.what&askMoment != 0:
		g.cost[2] = d.Calls
	}
	if g.what&askWhole != 0 && g.got {
		g.slowness(d.TookUs, d.Slow)
	}
	s.stats.Calls += uint64(d.Calls)
	if slow := time.Duration(d.SlowUs) * time.Microsecond; d.Slow < frame.NumClasses && slow > s.stats.Slowest[d.Slow] {
		s.stats.Slowest[d.Slow] = slow
	}
	if g.lost != "" && !g.failing {
		g.lost, g.lostMs = "", 0
		s.happen(happening{gpu: d.GPU, uuid: g.device.UUID, name: eventBack, count: 1, gi: frame.WholeGPU, ci: frame.WholeGPU})
	}
	if d.Seq == s.seq {
		if s.pending--; s.pending == 0 {
			s.wake()
		}
	}
	return nil
}

// listed takes the processes of a GPU.
func (s *Source) listed(body []byte) error {
	var p frame.Processes
	if err := frame.DecodeProcesses(body, &p); err != nil {
		return err // it says what was decoded
	}
	g, err := s.gpu(p.GPU)
	if err != nil || p.Seq != g.seq || !g.asked {
		return err
	}
	s.newLists = true
	g.takeProcesses(&p)
	return nil
}
