package tasks

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Cost runs fn and returns what it took of a processor: waiting for one on a busy host is
// not its fault.
func Cost(fn func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var from, to unix.Timespec
	begun := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &from) == nil
	fn()
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &to) != nil || !begun {
		return 0
	}
	return time.Duration(to.Nano() - from.Nano())
}
