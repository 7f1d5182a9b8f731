package main

import (
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// timerSlack is how much later than asked for the kernel may wake a thread, so that it wakes
	// for several reasons at once. The runtime's monitor sleeps 20 us at a time while anything
	// runs; with the kernel's usual 50 us of slack that alone is a quarter of what the agent
	// costs. Rows carry the time at which something was read, not at which it was due.
	timerSlack = 2 * time.Millisecond
	// birthTries is how many threads may turn out to be of the wrong parent.
	birthTries = 16
)

// relax starts this program again, in its own place, with timerSlack for all of its threads and
// for flopwatch-nvml. A thread has the slack of the one that made it, a program that of the
// thread's parent, and another thread's is changed by privilege alone: so a thread is made by one
// that has it, and becomes the program. It returns if there is nothing to do, or if it cannot be
// done, which costs a little CPU and nothing else. Nobody may have locked a thread before, and
// one thread alone may run Go: with others at work, one of those would make the new one.
func relax() {
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || time.Duration(slack) > 50*time.Microsecond {
		return // it is done, or an operator has chosen another
	}
	exe, err := os.Executable()
	if err != nil || !unchanged(exe) {
		return
	}
	// The first lock of a thread makes the one that makes all others where the caller is locked.
	// Nothing may move the goroutine before it: the call is raw.
	_, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if errno != 0 {
		return
	}
	end := make(chan struct{})
	defer close(end)
	for range birthTries {
		tried := make(chan bool)
		go func() { // ends with relax, and its thread with it; until then the thread is not to be had again
			runtime.LockOSThread()
			tried <- inherit(exe)
			<-end
		}()
		if <-tried {
			return
		}
	}
}

// inherit becomes the program if the calling thread was born with timerSlack. It is false if it
// was not.
func inherit(exe string) (tried bool) {
	// Zero is back to what the thread was born with, which is what a program would get.
	if unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) != nil {
		return false
	}
	born, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || time.Duration(born) != timerSlack {
		return false
	}
	var files unix.Rlimit
	limited := unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
	_ = syscall.Exec(exe, os.Args, os.Environ()) //nolint:gosec // itself
	if limited == nil {
		// It is not allowed to. Exec has given back what the runtime had raised, the number of open
		// files; the call of that name would raise it for flopwatch-nvml as well.
		_, _, _ = unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&files)), 0, 0, 0)
	}
	return true
}

// unchanged reports whether the file of that name is the program that runs: another may be half
// written, or of another release.
func unchanged(exe string) bool {
	running, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	named, err := os.Stat(exe)
	return err == nil && os.SameFile(running, named)
}
