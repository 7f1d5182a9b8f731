package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

const (
	maxPolled = 256
	slowOpen  = 300_000 // ms between looks at all descriptors of the host
)

// poll sees processes by asking.
type poll struct {
	procfs string
	known  map[int32]*polled
	fds    []unix.PollFd
	pids   []int32
	denied int
	why    error
	over   uint64
	full   bool // at the last look
}

// polled is a process that is known.
type polled struct {
	fd    int // its pidfd; -1: none
	start uint64
	gpu   bool
	fresh bool // its start is not told yet
}

func newPoll(procfs string) *poll { return &poll{procfs: procfs, known: map[int32]*polled{}} }

func (p *poll) close() error {
	for pid, k := range p.known {
		k.close()
		delete(p.known, pid)
	}
	return nil
}

func (k *polled) close() {
	if k.fd >= 0 {
		_ = unix.Close(k.fd) // it was only watched
	}
}

func (p *poll) openEvery() int64 { return slowOpen }

func (p *poll) source() wire.Source { return wire.SourceProcfs }

func (p *poll) report() kernel.Report {
	if p.full {
		return kernel.Degraded(fmt.Sprintf("ends of more than %d processes cannot be waited for: the rest is left out", maxPolled), nil, "")
	}
	return kernel.Active()
}

func (p *poll) load() kernel.Load {
	return kernel.Load{Counts: []kernel.Count{{Name: "processes_left_out", Value: p.over}}}
}

func (p *poll) aim(list []*tasks.Process, _ map[uint64]source.Job, _ []uint32) error {
	p.full = false
	for _, t := range list {
		p.add(t.PID, t.Start, true)
	}
	return nil
}

func (p *poll) add(pid int32, start uint64, gpu bool) {
	if k := p.known[pid]; k != nil && k.start == start {
		k.gpu = k.gpu || gpu
		return
	} else if k != nil {
		return // its end is told first
	}
	if len(p.known) >= maxPolled {
		p.over, p.full = p.over+1, true
		return
	}
	fd := -1
	if p.procfs == "/proc" {
		if f, err := unix.PidfdOpen(int(pid), 0); err == nil {
			fd = f
		}
	}
	p.known[pid] = &polled{fd: fd, start: start, gpu: gpu, fresh: !gpu}
}

func (p *poll) events(nowNs uint64, each func(Event)) error {
	p.fds, p.pids = p.fds[:0], p.pids[:0]
	for pid := range p.known {
		p.pids = append(p.pids, pid)
	}
	slices.Sort(p.pids)
	for _, pid := range p.pids {
		p.fds = append(p.fds, unix.PollFd{Fd: int32(p.known[pid].fd), Events: unix.POLLIN})
	}
	if len(p.fds) > 0 {
		if _, err := unix.Poll(p.fds, 0); err != nil && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("poll processes: %w", err)
		}
	}
	for i, pid := range p.pids {
		k := p.known[pid]
		ended := p.fds[i].Revents != 0
		if k.fd < 0 {
			s, err := tasks.ReadStat(p.procfs, pid)
			ended = errors.Is(err, tasks.ErrGone) || err == nil && (s.Dead || s.Start != k.start)
		}
		if !ended {
			p.children(pid)
			continue
		}
		each(Event{Kind: Exit, PID: pid, InnerPID: pid, StartNs: k.start * tasks.TickNs, AtNs: nowNs, Status: exitStatus(k.fd), By: p.source()})
		k.close()
		delete(p.known, pid)
	}
	for pid, k := range p.known {
		if !k.fresh {
			continue
		}
		k.fresh = false
		e := Event{Kind: Exec, PID: pid, InnerPID: pid, StartNs: k.start * tasks.TickNs, AtNs: nowNs, Status: -1, By: p.source()}
		if s, err := tasks.ReadStat(p.procfs, pid); err == nil {
			e.Parent = s.Parent
		}
		if to, err := os.Readlink(filepath.Join(p.procfs, strconv.Itoa(int(pid)), "exe")); err == nil {
			e.Exe = clean([]byte(filepath.Base(to)))
		}
		each(e)
	}
	return nil
}

// children takes in what a process has started, as far as its first thread did.
func (p *poll) children(pid int32) {
	n := strconv.Itoa(int(pid))
	b, err := os.ReadFile(filepath.Join(p.procfs, n, "task", n, "children"))
	if err != nil {
		return // a kernel without CONFIG_PROC_CHILDREN, or it has ended
	}
	for field := range bytes.FieldsSeq(b) {
		v, err := strconv.ParseInt(string(field), 10, 32)
		if err != nil || p.known[int32(v)] != nil {
			continue
		}
		if s, err := tasks.ReadStat(p.procfs, int32(v)); err == nil && !s.Dead {
			p.add(int32(v), s.Start, false)
		}
	}
}

// pidfdInfo is struct pidfd_info, of which kernels from 6.15 fill in the exit status of a
// process that was reaped.
type pidfdInfo struct {
	mask   uint64
	cgroup uint64
	_      [11]uint32 // numbers and users
	status int32
}

const (
	pidfdExit    = 1 << 3
	pidfdInfoLen = 64 // the first version of the structure
	pidfdGetInfo = 3<<30 | pidfdInfoLen<<16 | 0xff<<8 | 11
)

// exitStatus asks a pidfd how the process ended; -1: it is not known.
func exitStatus(fd int) int32 {
	if fd < 0 {
		return -1
	}
	info := pidfdInfo{mask: pidfdExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	if errno != 0 || info.mask&pidfdExit == 0 {
		return -1
	}
	return info.status
}

// openers reads the descriptors of all processes.
func (p *poll) openers(majors []uint32, to []opener) ([]opener, error) {
	p.denied, p.why = 0, nil
	dir, err := os.Open(p.procfs)
	if err != nil {
		return to, err
	}
	defer dir.Close() //nolint:errcheck // it was open for reading
	names, err := dir.Readdirnames(1 << 16)
	if len(names) == 0 {
		return to, fmt.Errorf("list processes: %w", err)
	}
	for _, name := range names {
		pid, err := strconv.ParseInt(name, 10, 32)
		if err != nil {
			continue
		}
		to = p.devices(int32(pid), majors, to)
	}
	if p.denied > 0 && p.why != nil {
		return to, fmt.Errorf("look into %d processes (needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH): %w", p.denied, p.why)
	}
	return to, nil
}

func (p *poll) devices(pid int32, majors []uint32, to []opener) []opener {
	path := filepath.Join(p.procfs, strconv.Itoa(int(pid)), "fd")
	dir, err := os.Open(path)
	if err != nil {
		if !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ESRCH) {
			p.denied++
			p.why = err
		}
		return to
	}
	defer dir.Close() //nolint:errcheck // it was open for reading
	names, _ := dir.Readdirnames(maxOpeners)
	parent := int32(-1)
	for _, name := range names {
		var st syscall.Stat_t
		if syscall.Stat(filepath.Join(path, name), &st) != nil || st.Mode&syscall.S_IFMT != syscall.S_IFCHR || !slices.Contains(majors, unix.Major(st.Rdev)) {
			continue
		}
		if parent < 0 {
			parent = 0
			if s, err := tasks.ReadStat(p.procfs, pid); err == nil {
				parent = s.Parent
			}
		}
		if len(to) < maxOpeners {
			to = append(to, opener{pid: pid, parent: parent, major: unix.Major(st.Rdev)})
		}
	}
	return to
}
