package gpu

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// hiddenLooks is how many looks in a row have to find no listed process before that is said.
const hiddenLooks = 3

// factAgainMs is when a fact is told again that is what it was.
const (
	factAgainMs = 3_600_000
	maxFacts    = 1024
)

// toldFact is what was told of a fact, and when.
type toldFact struct {
	value string
	ms    int64
}

// tell hands on what has come: rows, devices, statuses, processes.
func (s *Source) tell(t source.Tick, out source.Sink) {
	s.mu.Lock()
	s.collect()
	for _, g := range s.gpus {
		if g.tell && g.device.UUID != "" {
			s.devices = append(s.devices, g.device)
			g.tell = false
		}
		if g.energy.news && g.device.UUID != "" {
			s.facts = append(s.facts, fact{g.device.UUID, "integrity", g.energy.integrity(), wire.SourceNVML})
			g.energy.news = false
		}
		if g.cycles.news && g.device.UUID != "" {
			s.facts = append(s.facts, fact{g.device.UUID, "cycles", g.cycles.fact(), wire.SourceGPM})
			g.cycles.news = false
		}
	}
	s.judge(t)
	look := s.newLists
	s.newLists = false
	c, w := s.child, s.library
	works := c != nil && c.works()
	s.mu.Unlock()
	if works && (c != s.factsOf || t.BootMs >= s.factsMs) {
		s.factsOf, s.factsMs = c, t.BootMs+s.cfg.DeviceInterval.Milliseconds()
		s.facts = dcgmFact(libraryFacts(s.facts, &w, s.cfg.ProcFS), s.cfg.ProcFS)
	}
	s.handOn(t, out)
	if look {
		s.lookAt()
	}
}

// collect takes what has come and is to be handed on. It is called with s.mu held.
func (s *Source) collect() {
	s.emit, s.vitals, s.parts, s.devices, s.say, s.facts = s.emit[:0], s.vitals[:0], s.parts[:0], s.devices[:0], s.say[:0], s.facts[:0]
	s.happened = append(s.happened[:0], s.events...)
	s.events = s.events[:0]
	for i, g := range s.gpus {
		if g.device.UUID == "" {
			g.waiting, g.healthNew, g.parts = 0, false, g.parts[:0] // nobody could tell whose they are
			continue
		}
		for _, p := range g.pending[:g.waiting] {
			from := &g.fromGPM
			if p.moment {
				from = &g.burstFrom
			}
			s.emit = append(s.emit, emission{timed: p, uuid: g.device.UUID, group: group(&p, from)})
		}
		g.waiting = 0
		if g.healthNew {
			s.vitals = append(s.vitals, vitalEmission{g.health, g.device.UUID})
			g.healthNew = false
		}
		s.collectParts(i, g)
	}
}

// collectParts takes what is known of a GPU's instances.
func (s *Source) collectParts(index int, g *gpuState) {
	for k := range g.parts {
		p := &g.parts[k]
		e := g.partAt(index, p.GI)
		e.wall, e.boot = p.atMs()
		e.reading = p.Reading
		s.parts = append(s.parts, e)
	}
	if g.tellParts {
		for i := range g.instances {
			gi := g.instances[i].GI
			first := slices.IndexFunc(g.instances, func(o frame.Instance) bool { return o.GI == gi })
			if first != i || slices.ContainsFunc(g.parts, func(p timed) bool { return p.GI == gi }) {
				continue
			}
			e := g.partAt(index, gi)
			e.wall, e.boot = s.lastTick.WallMs, s.lastTick.BootMs
			s.parts = append(s.parts, e)
		}
	}
	g.parts, g.tellParts = g.parts[:0], false
}

// partAt is what is known of a GPU instance.
func (g *gpuState) partAt(index, gi int) partEmission {
	e := partEmission{gpu: index, gi: gi, uuid: g.device.UUID}
	for _, i := range g.instances {
		if i.GI != gi {
			continue
		}
		if !e.known || i.CI >= 0 && i.CI < e.info.CI {
			e.info = i
		}
		e.known = true
		if i.CI >= 0 {
			e.compute++
		}
	}
	return e
}

// handOn puts what was collected into the sink, which is not called with the lock held.
func (s *Source) handOn(t source.Tick, out source.Sink) {
	for i := range s.devices {
		s.rows.deviceRow(out, &s.devices[i], t.WallMs)
	}
	for i := range s.emit {
		s.rows.row(out, &s.emit[i])
	}
	for i := range s.vitals {
		s.rows.healthRow(out, &s.vitals[i])
	}
	for i := range s.parts {
		s.rows.partRow(out, &s.parts[i])
	}
	for i := range s.happened {
		s.rows.eventRow(out, &s.happened[i])
	}
	for i := range s.facts {
		if s.newFact(&s.facts[i], t.BootMs) {
			s.rows.factRow(out, &s.facts[i], t.WallMs)
		}
	}
	for _, st := range s.say {
		out.Status(st)
	}
}

// newFact reports whether a fact is worth telling: it has changed, or was told long ago.
func (s *Source) newFact(f *fact, bootMs int64) bool {
	key := factKey{f.subject, f.name}
	was, told := s.toldFact[key]
	if told && was.value == f.value && bootMs-was.ms < factAgainMs {
		return false
	}
	if !told && len(s.toldFact) >= maxFacts {
		clear(s.toldFact) // GPUs that came and went: all is told again
	}
	s.toldFact[key] = toldFact{f.value, bootMs}
	return true
}

// judge puts into s.say what has changed in what can be seen. It is called with s.mu held.
func (s *Source) judge(t source.Tick) {
	now := time.Now()
	whole := source.Status{Instrument: "gpu"}
	stalled, lost, unknown, unlisted := 0, 0, 0, 0
	for i, g := range s.gpus {
		st, reason, ok := g.state(now, t.BootMs, &s.cfg)
		switch {
		case s.absent != "":
			st, reason, ok = source.Lost, s.absent, g.described
		case s.down != "":
			st, reason, ok = source.Stalled, s.down, g.described
		}
		if !ok {
			unknown++
			continue
		}
		switch st {
		case source.Stalled:
			stalled++
		case source.Lost:
			lost++
		}
		if g.unlisted >= unlistedEnough {
			unlisted++
		}
		status := source.Status{Instrument: g.name(), State: st, Reason: reason}
		s.states[i] = status
		if status.Instrument != "" {
			s.tellStatus(status)
		}
	}
	s.judgeEvents(now)
	s.gone()
	s.stats.Stalled, s.stats.Lost, s.stats.GPUs = stalled, lost, len(s.gpus)
	n := len(s.gpus)
	switch {
	case s.absent != "":
		whole.State, whole.Reason = source.Unavailable, s.absent
		s.stats.GPUs = 0
	case s.down != "":
		whole.State, whole.Reason = source.Stalled, s.down
	case s.child == nil || s.child.welcome == nil:
		if s.child == nil || now.Sub(s.child.started) < s.cfg.StallAfter {
			return // it is starting
		}
		whole.State, whole.Reason = source.Stalled, "flopwatch-nvml was started, and NVIDIA's library is not ready yet"
	case unknown == n:
		return // nothing has been read yet
	case stalled+lost == n && stalled > 0:
		whole.State, whole.Reason = source.Stalled, fmt.Sprintf("of %d GPUs %d do not answer and %d are lost", n, stalled, lost)
	case lost == n:
		whole.State, whole.Reason = source.Lost, fmt.Sprintf("all of %d GPUs are lost", n)
	case stalled+lost > 0:
		whole.State, whole.Reason = source.Degraded, fmt.Sprintf("of %d GPUs %d do not answer and %d are lost", n, stalled, lost)
	case !s.library.GPM:
		whole.State = source.Degraded
		whole.Reason = fmt.Sprintf("the driver (%s) lacks GPM, as it came before it: what tensor cores and memory do is not seen; a driver of 2023 or later has it", s.library.DriverVersion)
	case s.hidden >= hiddenLooks:
		whole.State, whole.Reason = source.Degraded, fmt.Sprintf("the processes on the GPUs are not in %s: run the agent in the host's PID namespace (hostPID)", s.cfg.ProcFS)
	case unlisted > 0:
		whole.State, whole.Reason = source.Degraded, fmt.Sprintf("of %d GPUs %d do not say which processes are on them: their own status says why", n, unlisted)
	default:
		whole.State = source.Active
	}
	s.tellStatus(whole)
}

// gone tells of GPUs that were there before the driver was started again with fewer, or others.
func (s *Source) gone() {
	known := len(s.gpus) + 1
	if _, told := s.said[eventsName]; told {
		known++
	}
	if len(s.said) <= known || s.absent != "" || s.down != "" {
		return
	}
	here := map[string]bool{"gpu": true, eventsName: true}
	for _, g := range s.gpus {
		if g.name() == "" {
			return // it may be one of them
		}
		here[g.name()] = true
	}
	for name := range s.said {
		if !here[name] {
			s.tellStatus(source.Status{Instrument: name, State: source.Lost, Reason: "the driver does not list it any more"})
		}
	}
}

func (s *Source) tellStatus(st source.Status) {
	if s.said[st.Instrument] != st {
		s.said[st.Instrument] = st
		s.say = append(s.say, st)
	}
}

// lookAt puts a list of processes together: what the driver named, and what /proc has. A GPU
// that did not answer this time keeps what it had.
func (s *Source) lookAt() {
	s.mu.Lock()
	now := time.Now()
	var all []source.GPUProcess
	for i, g := range s.gpus {
		if !g.listed(now, &s.cfg) {
			// The number of one that has ended will be another's: it is not kept.
			g.procs = slices.DeleteFunc(g.procs, func(p frame.Process) bool { return s.ended(p.PID) })
		}
		for _, p := range g.procs {
			all = append(all, source.GPUProcess{GPU: i, PID: p.PID, UsedBytes: p.UsedBytes, Instance: p.Instance})
		}
	}
	s.mu.Unlock()
	listed := len(all)
	all = slices.DeleteFunc(all, func(p source.GPUProcess) bool { return s.ended(p.PID) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if listed > 0 && len(all) == 0 {
		s.hidden++
	} else {
		s.hidden = 0
	}
	s.procs, s.procOK = all, s.hidden == 0
	s.procSeq++
}

// ended reports whether a process is not in /proc.
func (s *Source) ended(pid int32) bool {
	_, err := os.Lstat(filepath.Join(s.cfg.ProcFS, strconv.Itoa(int(pid))))
	return errors.Is(err, os.ErrNotExist)
}

// GPUProcesses implements source.ProcessLister. The list is the caller's.
func (s *Source) GPUProcesses() (list []source.GPUProcess, seq uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok = s.procOK
	now := time.Now()
	for _, g := range s.gpus {
		ok = ok && g.listed(now, &s.cfg)
	}
	return slices.Clone(s.procs), s.procSeq, ok
}

// GPUDevices implements source.DeviceLister. The list is the caller's.
func (s *Source) GPUDevices() (list []source.GPUDevice, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.absent != "" || len(s.gpus) == 0 {
		return nil, false
	}
	for i, g := range s.gpus {
		if !g.described || g.device.UUID == "" {
			if g.lost != "" {
				continue // it was gone before it could say who it is
			}
			return nil, false // one of them may be any
		}
		d := source.GPUDevice{Index: i, UUID: g.device.UUID, PCIBusID: sysfsAddress(g.device.PCIBusID)}
		for _, p := range g.instances {
			d.Instances = append(d.Instances, source.GPUInstance{UUID: p.UUID, GI: p.GI, CI: p.CI})
		}
		list = append(list, d)
	}
	return list, len(list) > 0
}

// sysfsAddress is a PCI address as sysfs names it: NVML has eight digits for the domain.
func sysfsAddress(bus string) string {
	bus = strings.ToLower(bus)
	if len(bus) == len("00000000:00:00.0") && strings.HasPrefix(bus, "0000") {
		return bus[4:]
	}
	return bus
}

// Latest is the last that is known of a GPU.
type Latest struct {
	Device frame.Device
	// Reading with the rates that were made of counters. It is empty while State is not
	// Active or Degraded: an old value is not a value.
	Reading frame.Reading
	WallMs  int64 // when it was read
	// Health is the last look at what is told rarely; empty as Reading is.
	Health       frame.Health
	HealthWallMs int64
	Instances    []LatestInstance
	// Xid is the number of the last Xid error since the agent started; XidKnown: there was one.
	Xid      int64
	XidKnown bool
	State    source.State
	Reason   string
}

// LatestInstance is a MIG device, with the last reading of the GPU instance that it is in.
type LatestInstance struct {
	frame.Instance
	Reading frame.Reading
	WallMs  int64 // 0: there is no reading
}

// Latest gives all GPUs that have been described, by index.
func (s *Source) Latest() []Latest {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Latest, 0, len(s.gpus))
	for i, g := range s.gpus {
		if !g.described || g.device.UUID == "" {
			continue
		}
		l := Latest{Device: g.device, Xid: g.xid, XidKnown: g.xidKnown, State: s.states[i].State, Reason: s.states[i].Reason}
		l.Device.Capabilities = slices.Clone(g.device.Capabilities)
		if g.read && (l.State == source.Active || l.State == source.Degraded) {
			l.Reading = g.latest.Reading
			l.WallMs, _ = g.latest.atMs()
			if g.health.Present != 0 {
				l.Health = g.health.Health
				l.HealthWallMs, _ = g.health.atMs()
			}
			for _, p := range g.instances {
				in := LatestInstance{Instance: p}
				for k := range g.latestPart {
					if g.latestPart[k].GI == p.GI {
						in.Reading = g.latestPart[k].Reading
						in.WallMs, _ = g.latestPart[k].atMs()
					}
				}
				l.Instances = append(l.Instances, in)
			}
		}
		out = append(out, l)
	}
	return out
}

// Stats counts what the instrument did since it was made.
type Stats struct {
	Starts, Restarts, Kills, Abandoned uint64 // of the child
	Readings                           uint64
	Dropped                            uint64 // readings that nobody asked for in time
	Calls                              uint64 // into the library
	Bursts                             uint64 // readings between ticks
	BurstsRefused                      uint64 // moments that were left out for a GPU, as its calls would not have fit
	BudgetRefused                      uint64 // what the child left out, as the calls of the second were used up
	EventsDropped                      uint64
	Events                             map[string]uint64 // by name
	Faults                             map[FaultKey]uint64
	Tiers                              [NumTiers]TierStats
	Slowest                            [frame.NumClasses]time.Duration // calls, by class
	LastPass                           time.Duration                   // over one GPU
	GPUs, Stalled, Lost                int
	// Backed are GPUs that are read more seldom as their calls take long: ticks, and only what
	// is rarer.
	Backed, BackedRare int
	ChildPID           int // 0: none runs
	Library            frame.Welcome
}

// Stats gives a copy.
func (s *Source) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Events = maps.Clone(s.stats.Events)
	st.Faults = make(map[FaultKey]uint64, len(s.faults))
	for k, n := range maps.All(s.faults) {
		st.Faults[k] = n.n
	}
	st.Library = s.library
	for _, g := range s.gpus {
		switch {
		case g.pace.slow > 1 || held(s.lastTick.BootMs, g.heldMs):
			st.Backed++
		case g.lists.slow > 1 || g.looks.slow > 1 || held(s.lastTick.BootMs, g.rareMs):
			st.BackedRare++
		}
	}
	if s.child != nil {
		st.ChildPID = s.child.cmd.Process.Pid
	}
	return st
}

// Close implements source.Source: it ends the child, by force if it does not end within a second.
func (s *Source) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	c := s.child
	s.mu.Unlock()
	if c == nil {
		return nil
	}
	stop := frame.Request{Type: frame.TypeStop}
	_ = c.send(frame.AppendRequest(nil, &stop)) // it reads the end of its input as well
	_ = c.in.Close()                            // it is told, or does not listen
	if c.wait(closeWait) {
		return nil
	}
	s.mu.Lock()
	s.kill(c, time.Now(), "the agent ends")
	s.mu.Unlock()
	if c.wait(closeWait) {
		return nil
	}
	c.closePipes()
	strays.add(c)
	return errors.New("end flopwatch-nvml: it hangs in the kernel and was left behind")
}

// wait reports whether the child ends in time.
func (c *child) wait(patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case <-c.exited:
		return true
	case <-ctx.Done():
		return false
	}
}
