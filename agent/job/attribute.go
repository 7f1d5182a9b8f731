package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/agent/source"
)

// Confidence of attributions of processes, times 10,000.
const (
	schedulerConf = 9900 // a group that a scheduler made
	machineConf   = 9500
	runtimeConf   = 9000
	unitConf      = 8000
	ownConf       = 5000 // a group that a user's own manager made
	numberConf    = 7000 // a SLUID's job number that the job's own environment says
	deviceConf    = 8000 // the one holder of the process's GPUs, and the groups are its scheduler's
	onlyConf      = 6000 // the same where the groups say nothing
	environConf   = 5000 // the environment, where the groups are of that scheduler
	saysConf      = 3000 // the environment alone
)

// beforeMs is how much later than a process its hold may be seen.
const beforeMs = 60_000

// attribution is whose a process is, and what that rests on.
type attribution struct {
	source, id string
	evidence   string
	container  string
	project    string
	conf       int64
	restarts   int64 // how often the job was started again, plus one; 0: not known
}

// attribute says whose a process is. Control groups come first: the kernel keeps them and the
// scheduler sets them. Where they name no job, the one holder of all the process's GPUs is;
// where several share one, nobody is. Then only comes what the process says itself.
func (j *Job) attribute(p *process, t source.Tick) attribution {
	a := attribution{source: p.owner.source, id: j.finder.number(p.owner), container: p.owner.container}
	switch {
	case a.id != "":
		a.evidence, a.conf = byCgroup, groupConf(p.owner)
		if a.source == sourceSlurm && isSLUID(p.owner.id) && j.declared[p.owner.id] == a.id {
			a.evidence, a.conf = byEnviron, numberConf
		}
	case j.holder(p, &a):
	case p.job.byHolder() && (a.source == "" || a.source == p.job.source):
		return p.job // who held the GPUs when it came; who shares or holds them now does not change that
	case p.env.slurmJob != "" && (a.source == sourceSlurm || a.source == ""):
		a.conf = saysConf
		if a.source == sourceSlurm {
			a.conf = environConf
		}
		a.source, a.id, a.evidence = sourceSlurm, p.env.slurmJob, byEnviron
	case p.env.says():
		a.evidence = byEnviron
	}
	switch {
	case a.source == sourceKubernetes && j.kubelet != nil:
		if name, info, ok := j.kubelet.podOf(a.id, t.BootMs); ok {
			a.project = name.namespace
			a.container = cmp.Or(info.containers[p.owner.container], a.container)
		}
	case a.source == sourceSlurm && j.slurm != nil && a.project == "":
		a.project = j.slurm.account(a.id)
	}
	if a.source == sourceSlurm && a.id != "" && j.slurm != nil {
		a.restarts = j.slurm.restarts(a.id, p.startMs)
	}
	if a.id != "" && a.id == p.job.id && a.source == p.job.source {
		// What was known of the same job stays known: its file may be gone, the kubelet silent.
		if a.restarts == 0 {
			a.restarts = p.job.restarts
		}
		if a.project == "" {
			a.project = p.job.project
		}
		if a.container == p.owner.container && p.job.container != "" {
			a.container = p.job.container
		}
	}
	if a.restarts == 0 && a.source == sourceSlurm && a.id != "" && a.id == p.env.slurmJob {
		a.restarts = p.env.restarts + 1 // its own word, of the same job
	}
	return a
}

// byHolder reports whether an attribution rests on who held the GPUs.
func (a attribution) byHolder() bool {
	return a.id != "" && a.evidence != byCgroup && a.evidence != byEnviron
}

// groupConf is how sure a job is that control groups name.
func groupConf(o owner) int64 {
	switch {
	case o.own:
		return ownConf
	case o.rank()%10 >= 6:
		return schedulerConf
	case o.source == sourceLibvirt:
		return machineConf
	case o.source == sourceSystemd:
		return unitConf
	}
	return runtimeConf
}

// holder attributes a process to the one job that alone holds all the GPUs it is on. One that
// was seen on a GPU that several held could be any of theirs, and stays nobody's.
func (j *Job) holder(p *process, a *attribution) bool {
	if p.shared {
		return false
	}
	var found *hold
	same := func(uuid string) bool {
		o, several := j.holds.exclusive(uuid)
		p.shared = p.shared || several
		if uuid == "" || o == nil || !o.before(p.startMs) || a.source != "" && a.source != o.source || found != nil && (found.id != o.id || found.source != o.source) {
			return false
		}
		if found == nil || o.conf < found.conf {
			found = o
		}
		return true
	}
	for _, l := range p.mig {
		if !same(l) {
			return false
		}
	}
	if len(p.mig) == 0 {
		for _, g := range p.gpus {
			if !same(j.devices.uuidOf(g)) {
				return false
			}
		}
	}
	if found == nil {
		return false
	}
	limit := int64(deviceConf)
	if a.source == "" {
		limit = onlyConf
	}
	a.source, a.id, a.evidence, a.conf, a.project = found.source, found.id, found.evidence, min(found.confidence(), limit), found.project
	if !strings.Contains(found.container, " ") {
		a.container = cmp.Or(found.container, a.container)
	}
	return true
}

// before reports whether a hold is older than a process, as it has to be if the process is
// the holder's: devices are given before anything is started. Holds are seen some time after
// they began; of those that were there when the agent came it is not known when.
func (o *hold) before(startMs int64) bool {
	return o.old || o.startMs <= startMs+beforeMs
}

func (e environ) says() bool { return e.rank >= 0 || e.world >= 0 || e.place != "" }

// schedulers hears who holds which GPUs.
func (j *Job) schedulers(ctx context.Context, t source.Tick, out source.Sink) {
	if j.kubelet == nil && j.slurm == nil && j.mapping == nil {
		return
	}
	changed := j.devices.refresh(t.BootMs)
	if k := j.kubelet; k != nil {
		k.tick(ctx, t, out)
		if k.devicesMs > 0 && k.ready() && j.news(feedKubelet, k.version, k.devicesMs, changed) {
			claims, odd := k.claims(&j.devices, j.key, j.holds)
			j.holds.heard(feedKubelet, claims, func(o *hold) bool {
				return slices.ContainsFunc(odd, func(p podDevice) bool {
					return p.namespace == o.project && p.pod == o.workload && slices.Contains(strings.Fields(o.device), p.id)
				})
			}, k.everyMs, t, k.devicesMs, out)
			names := make([]string, 0, len(odd))
			for _, p := range odd {
				names = append(names, p.id)
			}
			k.resources.odd = oddNote(names)
			k.resources.tell(out)
		}
	}
	if s := j.slurm; s != nil {
		looked := s.tick(t, j.runs)
		if s.heardMs > 0 && j.news(feedSlurm, s.version, s.heardMs, changed) {
			claims, odd := s.claims(&j.devices)
			j.holds.heard(feedSlurm, claims, func(o *hold) bool {
				return s.doubts(o.id) || slices.ContainsFunc(odd, func(name string) bool { return slices.Contains(strings.Fields(o.device), name) })
			}, rescanMs, t, s.heardMs, out)
			s.odd = oddNote(odd)
			if s.odd != "" && j.devices.missing != nil {
				s.odd += fmt.Sprintf(" (%v)", j.devices.missing)
			}
		}
		if looked || changed {
			s.tell(out)
		}
	}
	if m := j.mapping; m != nil {
		looked := m.tick(t)
		if m.heardMs > 0 && j.news(feedMapping, m.version, m.heardMs, changed) {
			claims, odd := m.claims(&j.devices)
			j.holds.heard(feedMapping, claims, func(o *hold) bool {
				return m.bad[o.device] != nil || slices.Contains(odd, o.device)
			}, mapEveryMs, t, m.heardMs, out)
			m.odd = oddNote(odd)
		}
		if looked || changed {
			m.tell(out)
		}
	}
}

// news reports whether a feed has said something since it was last asked.
func (j *Job) news(f feed, version uint64, heardMs int64, devices bool) bool {
	last := &j.feeds[f]
	if last.version == version && last.heardMs == heardMs && !devices {
		return false
	}
	last.version, last.heardMs = version, heardMs
	j.dirty = true
	return true
}

// oddNote says which devices nobody knows.
func oddNote(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%d devices that are held are none that the driver lists, or are named by a number that cannot be resolved: %s", len(names), clean(slices.Min(names)))
}

// runs reports whether a Slurm job has a process on a GPU.
func (j *Job) runs(id string) bool {
	for _, p := range j.order {
		if p.job.source == sourceSlurm && p.job.id == id {
			return true
		}
	}
	return false
}

// attributeAll attributes every process anew where something that attributions rest on has
// changed, and tells those that are another's now.
func (j *Job) attributeAll(t source.Tick, out source.Sink) {
	now := [...]uint64{j.holds.version, 0, 0}
	if j.slurm != nil {
		now[1] = j.slurm.version
	}
	if j.kubelet != nil {
		now[2] = j.kubelet.version
	}
	if now == j.versions && (!j.stirred || !j.cfg.Environ) {
		return
	}
	changed := now != j.versions
	j.versions, j.stirred = now, false
	if !j.learn() && !changed {
		return
	}
	for _, p := range j.order {
		if a := j.attribute(p, t); a != p.job {
			p.job, j.dirty = a, true
			j.put(p, 0, out)
		}
	}
}

// learn tells the finder which SLUID is which job's number: what prologs wrote, and else
// what the environments of all processes of the SLUID say alike. A number that a prolog
// gave to another SLUID, or that two say, is nobody's: anybody may write what he likes into
// his environment.
func (j *Job) learn() (changed bool) {
	if j.slurm == nil && !j.cfg.Environ {
		return false
	}
	known := map[string]string{}
	taken := map[string]bool{}
	if j.slurm != nil {
		known = j.slurm.sluids()
		for _, job := range j.slurm.jobs {
			taken[job.id] = true
		}
	}
	declared := map[string]string{}
	if j.cfg.Environ {
		for _, p := range j.order {
			id := p.owner.id
			if p.owner.source != sourceSlurm || !isSLUID(id) || known[id] != "" || p.env.slurmJob == "" {
				continue
			}
			if said, ok := declared[id]; ok && said != p.env.slurmJob || taken[p.env.slurmJob] {
				declared[id] = "" // they disagree, or it is another's
				continue
			}
			declared[id] = p.env.slurmJob
		}
		by := map[string]int{}
		for _, n := range declared {
			by[n]++
		}
		for id, n := range declared {
			if n != "" && by[n] == 1 {
				known[id] = n
			} else {
				delete(declared, id)
			}
		}
	}
	j.declared = declared
	return j.finder.learn(known)
}

// readEnviron reads what a process declares, where that is wanted.
func (j *Job) readEnviron(p *process) {
	if !j.cfg.Environ {
		return
	}
	e, err := j.env.read(j.fs, p.pid, p.owner.step == "batch")
	if err != nil {
		if !errors.Is(err, errGone) {
			j.envNo, p.denied = err, true
		}
		return
	}
	p.env, p.denied = e, false
	p.launcher = cmp.Or(p.launcher, e.launcher)
}

const partEnviron = "job/environ"

// tellEnviron says whether environments can be read, if that has changed.
func (j *Job) tellEnviron(out source.Sink) {
	if !j.cfg.Environ {
		return
	}
	denied := 0
	for _, p := range j.order {
		if p.denied {
			denied++
		}
	}
	st := source.Status{Instrument: partEnviron, State: source.Active}
	if denied > 0 {
		st.State = source.Degraded
		st.Reason = fmt.Sprintf("the environments of %d processes may not be read (%v): those of other users need both CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (systemd: AmbientCapabilities=CAP_SYS_PTRACE CAP_DAC_READ_SEARCH)", denied, j.envNo)
	}
	if st != j.envTold {
		j.envTold = st
		out.Status(st)
	}
}

// account is that of a job whose prolog wrote it.
func (s *slurm) account(id string) string {
	for _, job := range s.jobs {
		if job.id == id && !job.stale && !job.refused {
			return job.account
		}
	}
	return ""
}

// restarts is how often a job was started again, plus one, where its prolog wrote it. A
// process that is older than the job's last start is of an earlier one.
func (s *slurm) restarts(id string, startMs int64) (n int64) {
	for _, job := range s.jobs {
		if job.id == id && !job.stale && !job.refused && job.startMs <= startMs+beforeMs {
			n = max(n, job.restarts)
		}
	}
	return n
}

// doubts reports whether what is written of a job cannot be read now.
func (s *slurm) doubts(id string) bool {
	for path := range s.bad {
		if name, _, _ := strings.Cut(filepath.Base(path), "."); name == id {
			return true
		}
	}
	return false
}
