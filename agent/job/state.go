package job

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

const (
	stateVersion = 1
	maxState     = 8 << 20 // bytes
	saveMs       = 60_000  // the file's last sights are at most this old
	// endedMs is how long an end stays in the file: its row may still wait to be sealed, and
	// telling it twice does no harm.
	endedMs = 120_000
	lostMs  = 600_000 // how long a damaged file stays told
)

// state is what one agent leaves to the next, as JSON.
type state struct {
	Version   int     `json:"version"`
	BootID    string  `json:"boot_id"`
	Processes []saved `json:"processes"`

	Key   []byte      `json:"key,omitempty"` // for what stands for pods without a UID
	Holds []savedHold `json:"holds,omitempty"`
	// Grouped are Slurm's jobs that had a control group.
	Grouped []string `json:"grouped,omitempty"`
}

// saved is a process that was told.
type saved struct {
	PID      int32  `json:"pid"`
	Start    uint64 `json:"start_ticks"`
	StartMs  int64  `json:"start_ms"`
	SeenMs   int64  `json:"seen_ms"`
	GPUs     []int  `json:"gpus"`
	Exe      string `json:"exe,omitempty"`
	Launcher string `json:"launcher,omitempty"`
	User     string `json:"user,omitempty"`
	Source   string `json:"job_source,omitempty"`
	JobID    string `json:"job_id,omitempty"`
	Step     string `json:"step,omitempty"`
	Slurm    string `json:"slurm_node,omitempty"`

	MIG       []string `json:"instances,omitempty"`
	Own       bool     `json:"own_group,omitempty"`
	Container string   `json:"container,omitempty"`
	Shared    bool     `json:"shared,omitempty"`
	Job       *savedID `json:"job,omitempty"`
	// Ranks are world size, rank, local rank and local world size plus one; where the processes
	// of a run meet is not kept.
	Ranks *[4]int64 `json:"ranks,omitempty"`
	NCCL  string    `json:"nccl,omitempty"`
	Exit  int32     `json:"exit,omitempty"` // its status plus one
	// Who told these two, as wire.Source.
	NCCLBy uint8 `json:"nccl_by,omitempty"`
	ExitBy uint8 `json:"exit_by,omitempty"`
}

// savedID is an attribution.
type savedID struct {
	Source    string `json:"source,omitempty"`
	ID        string `json:"id,omitempty"`
	Evidence  string `json:"evidence,omitempty"`
	Container string `json:"container,omitempty"`
	Project   string `json:"project,omitempty"`
	Conf      int64  `json:"confidence_e4,omitempty"`
	Restarts  int64  `json:"restarts,omitempty"` // plus one
}

// savedHold is a hold that was told.
type savedHold struct {
	StartMs   int64  `json:"start_ms"`
	SeenMs    int64  `json:"seen_ms"`
	UUID      string `json:"gpu_uuid"`
	Source    string `json:"job_source"`
	ID        string `json:"job_id"`
	Feed      feed   `json:"feed"`
	GPU       int    `json:"gpu"`
	Device    string `json:"device,omitempty"`
	Container string `json:"container,omitempty"`
	Evidence  string `json:"evidence,omitempty"`
	Conf      int64  `json:"confidence_e4"`
	Shares    int    `json:"shares,omitempty"`
	Old       bool   `json:"old,omitempty"`
	Alias     string `json:"alias,omitempty"`
	User      string `json:"user,omitempty"`
	Project   string `json:"project,omitempty"`
	Workload  string `json:"workload,omitempty"`
	Restarts  int64  `json:"restarts,omitempty"` // plus one
}

// ended is a process that is kept in the file for a while.
type ended struct {
	p      *process
	bootMs int64
}

// keep writes the state when it has changed, and once a minute.
func (j *Job) keep(t source.Tick) {
	if j.lostErr != nil && t.BootMs-j.firstMs >= lostMs {
		j.lostErr = nil
	}
	due := t.BootMs-j.savedMs >= saveMs
	if j.cfg.StateFile == "" || !due && (!j.dirty || j.stateErr != nil) || !j.dirty && len(j.known)+len(j.holds.known) == 0 {
		return
	}
	j.savedMs = t.BootMs
	kept := j.ended[:0]
	for _, e := range j.ended {
		if t.BootMs-e.bootMs < endedMs {
			kept = append(kept, e)
		}
	}
	clear(j.ended[len(kept):])
	j.ended = kept
	j.stateErr = j.save()
}

func (j *Job) save() error {
	if j.cfg.StateFile == "" {
		return nil
	}
	s := state{Version: stateVersion, BootID: j.cfg.BootID, Key: j.key, Processes: make([]saved, 0, len(j.order)+len(j.ended))}
	for _, p := range j.order {
		s.Processes = append(s.Processes, p.saved())
	}
	for _, e := range j.ended {
		s.Processes = append(s.Processes, e.p.saved())
	}
	if j.slurm != nil {
		s.Grouped = j.slurm.groupedJobs()
	}
	for _, o := range j.holds.order {
		s.Holds = append(s.Holds, o.saved())
	}
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode the list of processes: %w", err)
	}
	// Not synced: after a crash of the host an old list is as good, and none is no harm.
	tmp := j.cfg.StateFile + ".tmp"
	if err = os.WriteFile(tmp, data, 0o600); err == nil {
		err = os.Rename(tmp, j.cfg.StateFile)
	}
	if err != nil {
		return fmt.Errorf("keep the list of processes: %w", err)
	}
	j.dirty = false
	return nil
}

func (p *process) saved() saved {
	s := saved{
		PID: p.pid, Start: p.start, StartMs: p.startMs, SeenMs: p.seenMs, GPUs: p.gpus, Exe: p.exe, Launcher: p.launcher, User: p.user,
		Source: p.owner.source, JobID: p.owner.id, Step: p.owner.step, Slurm: p.owner.slurm, Own: p.owner.own, Container: p.owner.container, MIG: p.mig, Shared: p.shared, NCCL: p.nccl, Exit: p.exit, NCCLBy: uint8(p.ncclBy), ExitBy: uint8(p.exitBy),
	}
	if a := p.job; a != (attribution{}) {
		s.Job = &savedID{Source: a.source, ID: a.id, Evidence: a.evidence, Container: a.container, Project: a.project, Conf: a.conf, Restarts: a.restarts}
	}
	if e := p.env; e.read {
		s.Ranks = &[4]int64{e.world + 1, e.rank + 1, e.localRank + 1, e.localWorld + 1}
	}
	return s
}

// toldBy is who told what was kept; earlier agents did not keep it.
func toldBy(v uint8) wire.Source {
	if s := wire.Source(v); s == wire.SourceEBPF || s == wire.SourceProcfs {
		return s
	}
	return wire.SourceUnknown
}

func (v saved) process() *process {
	p := &process{
		pid: v.PID, start: v.Start, startMs: v.StartMs, seenMs: v.SeenMs, gpus: slices.Clone(v.GPUs), mig: slices.Clone(v.MIG), exe: clean(v.Exe), launcher: v.Launcher, user: v.User,
		owner: owner{source: v.Source, id: v.JobID, step: v.Step, slurm: v.Slurm, own: v.Own, container: v.Container}, env: noEnviron, watch: -1, shared: v.Shared, nccl: v.NCCL, exit: v.Exit, exited: v.Exit > 0,
		ncclBy: toldBy(v.NCCLBy), exitBy: toldBy(v.ExitBy),
	}
	slices.Sort(p.gpus)
	slices.Sort(p.mig)
	p.gpus, p.mig = slices.Compact(p.gpus), slices.Compact(p.mig)
	p.lists()
	if a := v.Job; a != nil {
		p.job = attribution{source: a.Source, id: a.ID, evidence: a.Evidence, container: a.Container, project: a.Project, conf: a.Conf, restarts: a.Restarts}
	} else if v.Source != "" {
		p.job = attribution{source: v.Source, id: v.JobID}
	}
	if r := v.Ranks; r != nil {
		p.env = environ{read: true, world: r[0] - 1, rank: r[1] - 1, localRank: r[2] - 1, localWorld: r[3] - 1, restarts: -1}
	}
	return p
}

func (o *hold) saved() savedHold {
	return savedHold{
		StartMs: o.startMs, SeenMs: o.seenMs, UUID: o.uuid, Source: o.source, ID: o.id, Feed: o.feed, GPU: o.gpu, Device: o.device, Container: o.container,
		Evidence: o.evidence, Conf: o.conf, Shares: o.shares, Old: o.old, Alias: o.alias, User: o.user, Project: o.project, Workload: o.workload, Restarts: o.restarts,
	}
}

func (v savedHold) hold() *hold {
	return &hold{
		claim: claim{
			holdKey: holdKey{v.UUID, v.Source, v.ID}, gpu: v.GPU, device: v.Device, container: v.Container, evidence: v.Evidence, conf: v.Conf,
			user: v.User, project: v.Project, workload: v.Workload, alias: v.Alias, restarts: v.Restarts,
		},
		feed: v.Feed, startMs: v.StartMs, seenMs: v.SeenMs, shares: v.Shares, old: v.Old, dirty: true,
	}
}

// restore takes over what the last agent knew. Processes that still run are told again, as
// that agent may have died with their rows; those that have ended are told to have.
func (j *Job) restore(t source.Tick, out source.Sink) {
	var s state
	var err error
	if j.cfg.StateFile != "" {
		s, err = readState(j.cfg.StateFile)
	}
	if j.key = s.Key; len(j.key) == 0 {
		j.key = make([]byte, 16)
		_, _ = rand.Read(j.key) // it does not fail
	}
	if err != nil {
		j.lostErr = err
		_ = os.Rename(j.cfg.StateFile, j.cfg.StateFile+".damaged") // for whoever looks into it; a new one is made either way
		return
	}
	if j.slurm != nil && s.BootID == j.cfg.BootID {
		j.slurm.before = s.Grouped
	}
	for _, v := range s.Holds {
		o := v.hold()
		asked := [feeds]bool{j.cfg.PodResources != "", j.slurm != nil, j.mapping != nil}[o.feed]
		if s.BootID != j.cfg.BootID || !asked {
			j.holds.end(o, o.seenMs, out)
			continue
		}
		j.holds.adopt(o)
	}
	for _, v := range s.Processes {
		p := v.process()
		p.watch = j.watch(p.pid)
		now, serr := j.fs.stat(p.pid)
		switch {
		case p.exited: // it may be in /proc all the same, while it gives back what it has
			j.exits.remember(source.ProcessExit{PID: p.pid, StartTicks: p.start, Status: p.exit - 1, By: p.exitBy}, true)
			j.end(p, t, out)
		case s.BootID != j.cfg.BootID, serr == nil && now.start != p.start, errors.Is(serr, errGone):
			j.end(p, t, out)
		case len(j.known) < maxProcesses && j.known[p.pid] == nil:
			j.readEnviron(p)
			if !p.job.byHolder() && p.job.evidence != byCgroup {
				p.job = j.attribute(p, t)
			}
			j.add(p, out)
		default:
			p.unwatch()
		}
	}
	if s.BootID != j.cfg.BootID {
		j.exits = exits{lister: j.exits.lister} // numbers and starts of another boot name nobody
	}
}

// readState reads a list. None is an empty one; one that is damaged is an error.
func readState(path string) (state, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("read the list of processes: %w", err)
	}
	if st.Size() > maxState {
		return state{}, fmt.Errorf("read the list of processes: %s is larger than %d bytes", path, maxState)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return state{}, fmt.Errorf("read the list of processes: %w", err)
	}
	return parseState(data)
}

// parseState decodes a list, and refuses one that an agent did not write.
func parseState(data []byte) (state, error) {
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return state{}, fmt.Errorf("decode the list of processes: %w", err)
	}
	if s.Version != stateVersion {
		return state{}, fmt.Errorf("decode the list of processes: version %d, want %d", s.Version, stateVersion)
	}
	for _, p := range s.Processes {
		bad := p.PID <= 0 || p.StartMs <= 0 || len(p.GPUs) > maxGPUs
		for _, g := range p.GPUs {
			bad = bad || g < 0 || g >= maxGPUs
		}
		names := append([]string{p.Exe, p.Launcher, p.User, p.Source, p.JobID, p.Container}, p.MIG...)
		if p.Job != nil {
			names = append(names, p.Job.Source, p.Job.ID, p.Job.Evidence, p.Job.Container, p.Job.Project)
			bad = bad || p.Job.Conf < 0 || p.Job.Conf > whole || p.Job.Restarts < 0 || p.Job.Restarts > maxRestarts
		}
		for _, name := range names {
			bad = bad || len(name) > maxText
		}
		bad = bad || len(p.MIG) > maxGPUs || len(p.NCCL) > maxText || p.Exit < 0 || p.Exit > maxStatus+1
		if bad {
			return state{}, fmt.Errorf("decode the list of processes: the entry of pid %d is not one", p.PID)
		}
	}
	for _, h := range s.Holds {
		bad := h.StartMs <= 0 || h.Feed >= feeds || h.GPU < -1 || h.GPU >= maxGPUs || h.UUID == "" || h.Source == "" || h.Conf < 0 || h.Conf > whole || h.Shares < 0 || h.Restarts < 0 || h.Restarts > maxRestarts
		for _, name := range []string{h.UUID, h.Source, h.ID, h.Alias, h.Evidence, h.User, h.Project, h.Workload} {
			bad = bad || len(name) > maxText
		}
		if bad || len(h.Device) > maxDevText || len(h.Container) > maxDevText {
			return state{}, fmt.Errorf("decode the list of processes: the hold of %q is not one", clean(h.UUID))
		}
	}
	if len(s.Key) > 64 || len(s.Holds) > maxHolds || len(s.Grouped) > maxJobFiles {
		return state{}, errors.New("decode the list of processes: it has more than an agent writes")
	}
	return s, nil
}
