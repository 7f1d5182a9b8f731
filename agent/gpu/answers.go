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
			s.gpus = append(s.gpus, &gpuState{slow: 1})
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
	g.lost, g.read, g.counted = reason, false, false
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
	if g.unlistable = !p.Known; !g.unlistable {
		g.procs, g.looked = slices.Clone(p.List), true
	}
	return nil
}
