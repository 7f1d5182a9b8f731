package gpu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/source"
)

const (
	maxChildren  = 2 // alive at once, one of them abandoned
	healthyAfter = time.Minute
	closeWait    = time.Second
)

// hints are for codes of the library that mean: there is nothing to see on this host, as it is.
var hints = map[int]string{
	2:  "",
	4:  "; the agent's user needs /dev/nvidiactl and /dev/nvidia* for reading and writing",
	9:  "; load it (modprobe nvidia), or leave the host without GPU instrument ([gpu] enabled = false)",
	12: "; install NVIDIA's driver, set [gpu] library to the file, or leave the host without GPU instrument ([gpu] enabled = false)",
	13: "",
	18: "; reload the kernel driver, or reboot",
	25: "",
}

var (
	_ source.Source        = (*Source)(nil)
	_ source.Burster       = (*Source)(nil)
	_ source.ProcessLister = (*Source)(nil)
	_ source.DeviceLister  = (*Source)(nil)
)

// Source is the instrument. Sample, Burst and Close are called by one goroutine, all else by any.
type Source struct {
	cfg  Config
	news chan struct{} // something came, cap 1

	mu        sync.Mutex
	child     *child // nil: none runs
	gpus      []*gpuState
	pending   int // GPUs asked in the current Sample that have not answered
	seq       uint64
	nextStart time.Time
	backoff   time.Duration
	absent    string // why there is nothing to see; empty: there is
	down      string // why no child answers; empty: one does
	library   frame.Welcome
	newLists  bool // processes came since the last look was put together
	procs     []source.GPUProcess
	procSeq   uint64
	procOK    bool
	hidden    int // looks in a row in which no listed process was in /proc
	closed    bool
	stats     Stats
	faults    map[FaultKey]*faultCount
	states    map[int]source.Status // of GPUs, for Latest
	lastTick  source.Tick
	tickAt    time.Time // when it was
	burstMs   int64     // boot time of the last moment of a burst; 0: none yet
	events    []happening
	hears     *frame.Listening // what the child hears of events; nil: it has not said
	deafSince time.Time        // since when a GPU is not listened to that could be; zero: none

	// Of the goroutine that calls Sample.
	request  []byte
	emit     []emission
	vitals   []vitalEmission
	parts    []partEmission
	happened []happening
	facts    []fact
	factsOf  *child // of which the library's facts were read
	factsMs  int64  // boot time at which they are read again
	toldFact map[factKey]toldFact
	devices  []frame.Device
	say      []source.Status
	said     map[string]source.Status
	rows     rower
	deadline *time.Timer
}

// New returns the instrument. Nothing runs before the first Sample.
func New(cfg Config) (*Source, error) {
	cfg = cfg.withDefaults()
	if cfg.Child == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find flopwatch-nvml: %w", err)
		}
		cfg.Child = filepath.Join(filepath.Dir(exe), "flopwatch-nvml")
	}
	for _, p := range []*string{&cfg.Child, &cfg.Library} {
		if !strings.Contains(*p, "/") { // a bare name is the loader's to find
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", *p, err)
		}
		*p = abs
	}
	s := &Source{cfg: cfg, news: make(chan struct{}, 1), faults: map[FaultKey]*faultCount{}, said: map[string]source.Status{}, states: map[int]source.Status{},
		toldFact: map[factKey]toldFact{}, stats: Stats{Events: map[string]uint64{}}}
	s.rows.init()
	return s, nil
}

// Name implements source.Source.
func (s *Source) Name() string { return "gpu" }

// wake tells Sample that something came.
func (s *Source) wake() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// Sample implements source.Source: it asks all GPUs that are ready to be asked, waits a little
// for their answers, and hands on what has come, late answers included.
func (s *Source) Sample(ctx context.Context, t source.Tick, out source.Sink) error {
	defer s.patience(s.cfg.AnswerWait)()
	s.mu.Lock()
	s.lastTick, s.tickAt = t, time.Now()
	s.mu.Unlock()
	asked := false
	for waiting := true; waiting; {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return errors.New("sample GPUs: the instrument is closed")
		}
		s.supervise(time.Now())
		if !asked && s.ready() {
			asked = true
			s.ask(t)
		}
		waiting = s.pending > 0 || !asked && s.child != nil && s.child.killedAt.IsZero() && s.child.welcome == nil
		s.mu.Unlock()
		waiting = waiting && s.wait(ctx)
	}
	s.tell(t, out)
	return nil
}

// Burst implements source.Burster: it asks for what moves fast and costs little, of those GPUs
// for which the calls fit, and waits a quarter as long as a Sample does.
func (s *Source) Burst(ctx context.Context, t source.Tick, out source.Sink) error {
	defer s.patience(s.cfg.AnswerWait / 4)()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.New("sample GPUs: the instrument is closed")
	}
	s.burstMs = t.BootMs
	if s.ready() {
		s.askMoment(t)
	}
	waiting := s.pending > 0
	s.mu.Unlock()
	for waiting && s.wait(ctx) {
		s.mu.Lock()
		waiting = s.pending > 0
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.collect()
	s.mu.Unlock()
	s.handOn(t, out)
	return nil
}

// patience sets how long answers are waited for.
func (s *Source) patience(d time.Duration) (stop func() bool) {
	if s.deadline == nil {
		s.deadline = time.NewTimer(d)
	} else {
		s.deadline.Reset(d)
	}
	return s.deadline.Stop
}

// wait waits for news. It is false when there is no time left.
func (s *Source) wait(ctx context.Context) bool {
	select {
	case <-s.news:
		return true
	case <-s.deadline.C:
	case <-ctx.Done():
	}
	return false
}

// ready reports whether the child answers.
func (s *Source) ready() bool {
	c := s.child
	return c != nil && c.killedAt.IsZero() && c.works()
}

// supervise starts, buries, kills and abandons children. It is called with s.mu held.
func (s *Source) supervise(now time.Time) {
	if c := s.child; c != nil {
		switch {
		case c.ended():
			s.bury(c, now)
		case !c.killedAt.IsZero():
			if now.Sub(c.killedAt) > s.cfg.ReapTimeout {
				s.abandon(c, now)
			}
		case c.welcome == nil && now.Sub(c.started) > s.cfg.HelloTimeout:
			s.kill(c, now, fmt.Sprintf("NVIDIA's library was not ready within %s: a call into the driver hangs", s.cfg.HelloTimeout))
		case c.welcome != nil && !c.works() && now.Sub(c.readyAt) > s.cfg.ReapTimeout:
			s.kill(c, now, "it did not end when it was told to")
		case c.works() && s.allStalled(now) && now.Sub(c.lastFrame) > s.cfg.KillAfter:
			s.kill(c, now, fmt.Sprintf("no GPU has answered for %s: flopwatch-nvml was killed", s.cfg.KillAfter))
		case c.works() && s.backoff != 0 && now.Sub(c.readyAt) > healthyAfter:
			s.backoff = 0
		}
	}
	if s.child != nil || now.Before(s.nextStart) || s.closed {
		return
	}
	if n := strays.count(); n >= maxChildren {
		s.down = fmt.Sprintf("%d flopwatch-nvml hang in the kernel and cannot be ended: no other is started; the driver or a GPU needs a reset", n)
		return
	}
	c, err := s.start(now)
	if err != nil {
		s.missing(now, "cannot start "+s.cfg.Child+": "+cause(err)+"; install flopwatch-nvml beside the agent, or set [gpu] child")
		return
	}
	s.child = c
	s.stats.Starts++
	hello := frame.Request{Type: frame.TypeHello, Version: frame.Version}
	if err = c.send(frame.AppendRequest(nil, &hello)); err != nil && !errors.Is(err, syscall.EPIPE) {
		s.kill(c, now, err.Error())
	}
}

// cause is the last link of an error's chain: what the system said.
func cause(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

func (s *Source) allStalled(now time.Time) bool {
	for _, g := range s.gpus {
		if !g.asked || now.Sub(g.askedAt) < s.cfg.StallAfter {
			return false
		}
	}
	return len(s.gpus) > 0
}

// missing takes note that there is nothing to see, once, and when to look again.
func (s *Source) missing(now time.Time, why string) {
	if s.absent != why {
		s.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "GPUs are not watched", slog.String("reason", why), slog.Duration("next_look", s.cfg.RetryEvery))
	}
	s.absent, s.down = why, ""
	s.nextStart = now.Add(jitter(s.cfg.RetryEvery))
}

// jitter is d, give or take a tenth.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// bury takes note of a child's end and decides when the next one starts.
func (s *Source) bury(c *child, now time.Time) {
	s.child = nil
	c.closePipes()
	s.release()
	if c.welcome != nil && s.absent != "" {
		s.nextStart = now.Add(jitter(s.cfg.RetryEvery))
		return
	}
	why := c.epitaph()
	if _, rest, without := strings.Cut(c.lastLine, "built without cgo"); c.welcome == nil && without {
		s.missing(now, s.cfg.Child+" was built without cgo"+rest)
		return
	}
	s.failed(now, why, c.restart)
}

// failed takes note that the child is gone. Of one that asked for it, the next starts at once,
// if it has not just started itself.
func (s *Source) failed(now time.Time, why string, again bool) {
	if s.backoff == 0 {
		s.backoff = s.cfg.BackoffMin
	} else {
		s.backoff = min(2*s.backoff, s.cfg.BackoffMax)
	}
	s.stats.Restarts++
	wait := jitter(s.backoff)
	if again && s.backoff == s.cfg.BackoffMin {
		wait = 0
	}
	s.absent, s.down, s.nextStart = "", why, now.Add(wait)
	s.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "flopwatch-nvml is started again", slog.String("reason", why), slog.Duration("wait", wait), slog.Uint64("restarts", s.stats.Restarts))
}

// release forgets what was asked of a child that is gone.
func (s *Source) release() {
	s.pending, s.procs, s.procOK, s.hears, s.deafSince = 0, nil, false, nil, time.Time{}
	for _, g := range s.gpus {
		g.forget()
	}
}

// kill ends a child for a reason. Its end is seen by supervise.
func (s *Source) kill(c *child, now time.Time, why string) {
	if !c.killedAt.IsZero() || c.ended() {
		return
	}
	c.killedAt, c.why = now, cmp.Or(c.why, why)
	s.stats.Kills++
	if err := s.signal(c); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.cfg.Log.LogAttrs(context.Background(), slog.LevelError, "cannot kill flopwatch-nvml", slog.String("error", err.Error()))
	}
	if c == s.child {
		s.pending = 0
	}
}

// signal kills the process.
func (s *Source) signal(c *child) error { return killProcess(c.cmd.Process) }

// killProcess is replaced by tests that need a child which cannot be killed.
var killProcess = (*os.Process).Kill

// abandon gives up on a child that the kernel does not end.
func (s *Source) abandon(c *child, now time.Time) {
	s.child = nil
	strays.add(c)
	s.stats.Abandoned++
	c.closePipes()
	s.release()
	s.failed(now, c.why+"; it hangs in the kernel and was left behind", false)
}

// ask sends the tick's request. It is called with s.mu held and the child ready.
func (s *Source) ask(t source.Tick) {
	now := time.Now()
	s.seq++
	s.pending = 0
	q := frame.Request{Type: frame.TypeSample, Seq: s.seq, BootMs: t.BootMs, Events: !s.cfg.NoEvents}
	bursting := s.burstMs != 0 && t.BootMs-s.burstMs <= s.cfg.Interval.Milliseconds()
	for _, g := range s.gpus {
		g.perTick, g.moments, g.missed, g.refused = g.moments, 0, g.refused, 0
		if s.due(g, t.BootMs) && g.wants(t.BootMs, g.deviceMs, s.cfg.DeviceInterval, g.driver.spent(t.BootMs, s.cfg.DriverShare)) {
			q.Type = frame.TypeDescribe
		}
	}
	for i, g := range s.gpus {
		if !s.due(g, t.BootMs) {
			continue
		}
		spent := g.driver.spent(t.BootMs, s.cfg.DriverShare)
		if spent > 1 {
			g.heldMs = t.BootMs
			continue
		}
		bit, calls := uint64(1)<<i, g.costs(&s.cfg)
		rare := g.rareAt(t.BootMs, &s.cfg)
		what := g.pass(t.BootMs, bursting, g.perTick, g.missed, rare, &s.cfg)
		switch what {
		case askWhole:
			q.Sample |= bit
			g.fullMs = t.BootMs
			g.calls.ask(s.seq, t.BootMs, calls[0]+rare)
		case askLean:
			q.Sample |= bit
			q.Burst |= bit
			g.calls.ask(s.seq, t.BootMs, max(s.cfg.CallBudget-g.perTick*calls[2], calls[1]))
		default:
			q.Burst |= bit
			if g.gpm() {
				q.BurstGPM |= bit
			}
			g.calls.ask(s.seq, t.BootMs, calls[1]+rare)
		}
		// Not all at once: a second has room for some calls only. Half an interval early, as
		// ticks are not exact.
		early := s.cfg.Interval / 2
		switch {
		case q.Type == frame.TypeDescribe: // all that are asked
			what |= askDescription
			g.describedMs = t.BootMs
			g.deviceMs = t.BootMs + s.cfg.DeviceInterval.Milliseconds()
		case g.wanting == 0 && g.wants(t.BootMs, g.lookMs, s.cfg.ProcessInterval, spent):
			what |= askList
			q.Processes |= bit
			g.lookMs = t.BootMs + (s.cfg.ProcessInterval*time.Duration(g.lists.times()) - early).Milliseconds()
		case g.wanting > 0 || g.wants(t.BootMs, g.healthMs, s.cfg.SlowInterval, spent):
			what |= askHealth
			q.Health |= bit
			if g.wanting == 0 {
				g.healthMs = t.BootMs + (s.cfg.SlowInterval*time.Duration(g.looks.times()) - early).Milliseconds()
			}
			if g.wanting++; g.wanting > healthEnough {
				g.wanting = 0
			}
		}
		s.asking(g, what, t, now)
	}
	s.request = frame.AppendRequest(s.request[:0], &q)
	if q.Sample|q.Burst != 0 {
		s.send(now)
	}
}

// healthEnough is in how many requests a look at the health has to come to its end.
const healthEnough = 15

// due reports whether a GPU can be asked at a tick.
func (s *Source) due(g *gpuState, bootMs int64) bool { return !g.asked && bootMs >= g.nextMs }

// asking takes note of what a GPU is asked.
func (s *Source) asking(g *gpuState, what question, t source.Tick, now time.Time) {
	g.asked, g.askedAt, g.seq, g.tick, g.failing, g.got, g.short, g.what, g.readUs = true, now, s.seq, t, false, false, false, what, 0
	s.pending++
}

// askMoment sends the request of a moment between ticks, for GPUs that are well and whose
// calls fit.
func (s *Source) askMoment(t source.Tick) {
	now := time.Now()
	s.seq++
	s.pending = 0
	q := frame.Request{Type: frame.TypeSample, Seq: s.seq, BootMs: t.BootMs, Events: !s.cfg.NoEvents}
	nextMs := s.lastTick.BootMs + s.cfg.Interval.Milliseconds()
	for i, g := range s.gpus {
		if g.asked || g.device.UUID == "" || !g.read || g.lost != "" || g.empty > 0 || g.pace.slow > 1 {
			continue
		}
		g.moments++
		if g.driver.spent(t.BootMs, s.cfg.DriverShare) > burstPart {
			s.stats.BurstsRefused++
			continue
		}
		if !g.room(t.BootMs, nextMs, &s.cfg) {
			s.stats.BurstsRefused++
			g.refused++
			continue
		}
		q.Burst |= 1 << i
		if s.cfg.BurstGPM && g.gpm() {
			q.BurstGPM |= 1 << i
		}
		g.momentMs = t.BootMs
		g.calls.ask(s.seq, t.BootMs, g.costs(&s.cfg)[2])
		s.asking(g, askMoment, t, now)
	}
	if q.Burst != 0 {
		s.request = frame.AppendRequest(s.request[:0], &q)
		s.send(now)
	}
}

// send sends s.request. A child that does not read is on its way out, and is buried when it
// has ended; if it stays, all its GPUs are stalled.
func (s *Source) send(now time.Time) {
	if err := s.child.send(s.request); err != nil && !errors.Is(err, syscall.EPIPE) {
		s.kill(s.child, now, err.Error())
	}
}

// receive takes a frame of a child. The body is borrowed.
func (s *Source) receive(c *child, t frame.Type, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c != s.child || !c.killedAt.IsZero() {
		return nil // what was left behind may talk
	}
	c.lastFrame = time.Now()
	switch t {
	case frame.TypeWelcome:
		return s.met(c, body)
	case frame.TypeDevice:
		return s.describedAs(body)
	case frame.TypeReading:
		return s.readingCame(body)
	case frame.TypeProcesses:
		return s.listed(body)
	case frame.TypeHealth:
		return s.healthCame(body)
	case frame.TypeInstances:
		return s.partitioned(body)
	case frame.TypeEvent:
		return s.eventCame(body)
	case frame.TypeListening:
		return s.listening(body)
	case frame.TypeFault:
		return s.faulted(c, body)
	case frame.TypeDone:
		return s.doneWith(body)
	default:
		return fmt.Errorf("answer of type %d: %w", t, frame.ErrCorrupt)
	}
}
