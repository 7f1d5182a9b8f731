package job

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxWatched bounds open files: processes beyond it are looked at by reading their stat.
const maxWatched = 512

// watch opens a pidfd, which says without a read of procfs when the process has ended: that
// read costs the kernel a walk over all threads, of which a training process has hundreds.
// -1: there is none, as on kernels before 5.3, under a filter of system calls, or where
// procfs is not the agent's own.
func (j *Job) watch(pid int32) int {
	if j.cfg.Procfs != "/proc" || len(j.order) >= maxWatched {
		return -1
	}
	fd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return -1
	}
	return fd
}

func (p *process) unwatch() {
	if p.watch >= 0 {
		_ = syscall.Close(p.watch) // it was only watched
		p.watch = -1
	}
}

// poll asks all pidfds at once which have become readable, as they do when a process has
// ended, reaped or not. false: it could not be asked.
func (j *Job) poll() bool {
	if len(j.polls) != len(j.order) {
		j.polls = j.polls[:0]
		for _, p := range j.order {
			j.polls = append(j.polls, unix.PollFd{Fd: int32(p.watch), Events: unix.POLLIN}) // below 0: passed over
		}
	}
	if len(j.polls) == 0 {
		return true
	}
	for {
		_, err := unix.Poll(j.polls, 0)
		if !errors.Is(err, syscall.EINTR) {
			return err == nil
		}
	}
}
