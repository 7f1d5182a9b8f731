package job

import (
	"slices"

	"github.com/flopwatch/flopwatch/agent/source"
)

const (
	maxExits   = 512    // ends that are remembered; of more, the oldest gives way
	maxWaiting = 1024   // processes that have ended, and how is not known yet
	lateMs     = 30_000 // for how long an exit status is waited for
	maxStatus  = 0xffff // of wait(2)
)

// exits are ends of processes as the kernel told them, which is before or after they are
// seen here: a process may be long in giving its GPUs back, in which time /proc and the
// driver still show it.
type exits struct {
	lister  source.ExitLister
	list    []source.ProcessExit
	past    []past
	next    int     // of past, the one to give way
	waiting []ended // told to have ended, without a status
}

// past is an end that the kernel told.
type past struct {
	source.ProcessExit
	told bool // by the process's own row, now or soon
}

// exitOf is a status plus one; 0: not known.
func exitOf(status int32) int32 {
	if status < 0 || status > maxStatus {
		return 0
	}
	return status + 1
}

// takeExits takes the ends since the last tick. Processes that are known end with them; a
// row that told an end without its status is told again with it.
func (j *Job) takeExits(t source.Tick, out source.Sink) {
	x := &j.exits
	if x.lister == nil {
		return
	}
	x.list = x.lister.TakeExits(x.list[:0])
	for _, e := range x.list {
		told := false
		if p := j.known[e.PID]; p != nil && p.start == e.StartTicks {
			p.exited, p.exit, p.exitBy, told = true, exitOf(e.Status), e.By, true
		} else if at := slices.IndexFunc(x.waiting, func(w ended) bool { return w.p.pid == e.PID && w.p.start == e.StartTicks }); at >= 0 {
			told = true
			late := x.waiting[at].p
			late.exitBy = e.By
			if late.exit = exitOf(e.Status); late.exit > 0 {
				j.dirty = true
				j.put(late, late.endMs(), out)
			}
			x.waiting = slices.Delete(x.waiting, at, at+1)
		}
		x.remember(e, told)
	}
	x.waiting = slices.DeleteFunc(x.waiting, func(w ended) bool { return t.BootMs-w.bootMs >= lateMs })
}

// remember keeps an end, for a process that the driver lists later.
func (x *exits) remember(e source.ProcessExit, told bool) {
	if old := x.of(e.PID, e.StartTicks); old != nil {
		old.told = old.told || told
		return
	}
	if len(x.past) < maxExits {
		x.past = append(x.past, past{e, told})
		return
	}
	x.past[x.next] = past{e, told}
	x.next = (x.next + 1) % maxExits
}

// of is the end of a process; nil: none was told.
func (x *exits) of(pid int32, start uint64) *past {
	for i := range x.past {
		if e := &x.past[i]; e.PID == pid && e.StartTicks == start {
			return e
		}
	}
	return nil
}

// met looks whether a process that is listed has ended as far as the kernel told. again says
// that this was told already; else it ends at the next tick.
func (x *exits) met(p *process) (again bool) {
	e := x.of(p.pid, p.start)
	if e == nil {
		return false
	}
	if e.told {
		return true
	}
	e.told, p.exited, p.exit, p.exitBy = true, true, exitOf(e.Status), e.By
	return false
}

// wait keeps a process whose end was told, until its status comes.
func (x *exits) wait(p *process, t source.Tick) {
	if x.lister != nil && !p.exited && len(x.waiting) < maxWaiting {
		x.waiting = append(x.waiting, ended{p, t.BootMs})
	}
}

// endMs is when an ended process was last seen alive.
func (p *process) endMs() int64 { return max(p.seenMs, p.startMs, 1) }
