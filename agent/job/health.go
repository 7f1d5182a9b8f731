package job

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/flopwatch/flopwatch/agent/source"
)

// health is what the state of the instrument rests on.
type health struct {
	any        bool
	listed     int8 // 0: not yet, and that is early; 1: it is; 2: it was; 3: it never was
	hidden     int
	unreadable int
	over       int
	away       bool // in another PID namespace than the host's
	state      bool // the state file cannot be kept
	anybody    bool // users of processes are not known
	holds      bool // a scheduler was heard
}

// tell says how the instrument is, when that has changed.
func (j *Job) tell(t source.Tick, ok bool, out source.Sink) {
	now := health{
		any: true, hidden: j.hidden, unreadable: j.unreadable + j.refused, over: j.over, away: j.elsewhere(), state: j.stateErr != nil || j.lostErr != nil,
		anybody: slices.ContainsFunc(j.order, func(p *process) bool { return p.anybody }),
		holds:   j.holds.begun != [feeds]bool{},
	}
	switch {
	case ok || j.everKnown && t.BootMs-j.listedMs < patienceMs:
		now.listed = 1
	case j.everKnown:
		now.listed = 2
	case t.BootMs-j.firstMs >= patienceMs:
		now.listed = 3
	}
	if now == j.told {
		return
	}
	j.told = now
	s := source.Status{Instrument: "job", State: source.Active}
	if reasons := j.reasons(now); len(reasons) > 0 {
		s.State, s.Reason = source.Degraded, strings.Join(reasons, "; ")
	}
	if now.listed == 3 && !now.holds {
		s.State, s.Reason = source.Unavailable, "no list of the GPUs' processes has come: the status of gpu says why"
	}
	out.Status(s)
}

func (j *Job) reasons(h health) []string {
	var r []string
	if h.listed == 0 {
		r = append(r, "the GPUs' processes are not known yet: no list of them has come (where it stays so, the status of gpu says why)")
	}
	if h.listed == 2 {
		r = append(r, "the processes of all GPUs cannot be listed now, so new ones may not be seen: the status of gpu says why")
	}
	if h.listed == 3 {
		r = append(r, "the GPUs' processes are not known, as no list of them has come (the status of gpu says why): who holds GPUs is told all the same")
	}
	if h.away && h.listed != 3 {
		r = append(r, "the agent is in a PID namespace of its own, where the driver names few or no processes of others: run it in the host's (hostPID: true, or --pid=host)")
	}
	if h.hidden > 0 || h.unreadable > 0 {
		what := fmt.Sprintf("of the GPUs' processes %d are not in %s and %d may not be read", h.hidden, j.cfg.Procfs, h.unreadable)
		if errno, ok := errors.AsType[syscall.Errno](j.denied); ok && h.unreadable > 0 {
			what += fmt.Sprintf(" (%v)", errno)
		}
		if option := j.hidepid(); option != "" {
			what += fmt.Sprintf(": procfs is mounted with %s, so put the agent's user into the group of its gid= option (systemd: ProtectProc=default), or give it CAP_SYS_PTRACE", option)
		} else if !h.away {
			what += ": the agent has to be in the PID namespace of the GPUs' processes and see all users' (systemd: ProtectProc=default)"
		}
		r = append(r, what)
	}
	if h.anybody {
		r = append(r, "the agent is in a user namespace, where the kernel says nobody for other users: whose the GPUs' processes are is not known (systemd: PrivateUsers=no)")
	}
	if h.over > 0 {
		r = append(r, fmt.Sprintf("%d processes beyond the first %d are left out", h.over, maxProcesses))
	}
	if h.state {
		r = append(r, fmt.Sprintf("ends of processes that came while no agent ran are not told: %v", cmp.Or(j.stateErr, j.lostErr)))
	}
	return r
}

// hostPIDNamespace is the inode of the first PID namespace, a constant of the kernel.
const hostPIDNamespace = "pid:[4026531836]"

// elsewhere reports whether the agent is in a PID namespace of its own. It is asked once.
func (j *Job) elsewhere() bool {
	if j.namespace == 0 {
		j.namespace = 1
		if link, err := os.Readlink(filepath.Join(j.cfg.Procfs, "self/ns/pid")); err == nil && link != hostPIDNamespace {
			j.namespace = 2
		}
	}
	return j.namespace == 2
}

// overflowUID is what the kernel says of a user whom a user namespace does not know.
const overflowUID = 65534

// foldsUsers reports whether the agent is in a user namespace that does not know all users,
// where overflowUID is any of the others. It is asked once.
func (j *Job) foldsUsers() bool {
	if j.folds == 0 {
		j.folds = 1
		if data, err := os.ReadFile(filepath.Join(j.cfg.Procfs, "self/uid_map")); err == nil && !knowsAllUsers(string(data)) {
			j.folds = 2
		}
	}
	return j.folds == 2
}

// knowsAllUsers reads lines of a first id here, a first id outside and how many there are.
func knowsAllUsers(uidMap string) bool {
	var users uint64
	for line := range strings.Lines(uidMap) {
		if f := strings.Fields(line); len(f) == 3 {
			n, err := strconv.ParseUint(f[2], 10, 32)
			if err != nil {
				return false
			}
			users += n
		}
	}
	return users >= 1<<32-1
}

// hidepid returns the option with which procfs hides processes of others, or "".
func (j *Job) hidepid() string {
	data, err := os.ReadFile(filepath.Join(j.cfg.Procfs, "self/mountinfo"))
	if err != nil {
		return ""
	}
	return parseHidepid(string(data), j.cfg.Procfs)
}

// parseHidepid finds the option in lines as "22 27 0:21 / /proc rw - proc proc rw,hidepid=2".
func parseHidepid(mountinfo, at string) string {
	found := ""
	for line := range strings.Lines(mountinfo) {
		head, tail, ok := strings.Cut(strings.TrimSpace(line), " - ")
		f, g := strings.Fields(head), strings.Fields(tail)
		if !ok || len(f) < 5 || len(g) < 3 || f[4] != at || g[0] != "proc" {
			continue
		}
		found = "" // the last mount is on top
		for option := range strings.SplitSeq(g[2], ",") {
			if strings.HasPrefix(option, "hidepid=") && option != "hidepid=0" && option != "hidepid=off" && clean(option) == option {
				found = option
			}
		}
	}
	return found
}
