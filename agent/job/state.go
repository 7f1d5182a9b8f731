package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/flopwatch/flopwatch/agent/source"
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
	if j.cfg.StateFile == "" || !due && (!j.dirty || j.stateErr != nil) || !j.dirty && len(j.known) == 0 {
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
	s := state{Version: stateVersion, BootID: j.cfg.BootID, Processes: make([]saved, 0, len(j.order)+len(j.ended))}
	put := func(p *process) {
		s.Processes = append(s.Processes, saved{
			PID: p.pid, Start: p.start, StartMs: p.startMs, SeenMs: p.seenMs, GPUs: p.gpus, Exe: p.exe, Launcher: p.launcher, User: p.user,
			Source: p.owner.source, JobID: p.owner.id, Step: p.owner.step, Slurm: p.owner.slurm,
		})
	}
	for _, p := range j.order {
		put(p)
	}
	for _, e := range j.ended {
		put(e.p)
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

// restore takes over what the last agent knew. Processes that still run are told again, as
// that agent may have died with their rows; those that have ended are told to have.
func (j *Job) restore(t source.Tick, out source.Sink) {
	if j.cfg.StateFile == "" {
		return
	}
	s, err := readState(j.cfg.StateFile)
	if err != nil {
		j.lostErr = err
		_ = os.Rename(j.cfg.StateFile, j.cfg.StateFile+".damaged") // for whoever looks into it; a new one is made either way
		return
	}
	for _, v := range s.Processes {
		p := &process{
			watch: j.watch(v.PID), pid: v.PID, start: v.Start, startMs: v.StartMs, seenMs: v.SeenMs, exe: clean(v.Exe), launcher: v.Launcher, user: v.User,
			owner: owner{source: v.Source, id: v.JobID, step: v.Step, slurm: v.Slurm},
		}
		p.setGPUs(v.GPUs)
		now, serr := j.fs.stat(p.pid)
		switch {
		case s.BootID != j.cfg.BootID, serr == nil && now.start != p.start, errors.Is(serr, errGone):
			j.end(p, t, out)
		case len(j.known) < maxProcesses && j.known[p.pid] == nil:
			j.add(p, out)
		default:
			p.unwatch()
		}
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
		for _, name := range []string{p.Exe, p.Launcher, p.User, p.Source, p.JobID} {
			bad = bad || len(name) > 2*maxName
		}
		if bad {
			return state{}, fmt.Errorf("decode the list of processes: the entry of pid %d is not one", p.PID)
		}
	}
	return s, nil
}
