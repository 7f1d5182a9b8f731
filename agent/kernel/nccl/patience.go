package nccl

import (
	"errors"
	"sync/atomic"
	"time"
)

const (
	patienceFor = 3 * time.Second // that a process's memory or file is waited for
	maxStuck    = 8               // reads that do not come back, before none is begun
)

// errStuck says that a read did not come back: what is behind it is another's, as a file
// system in user space or a server that is away, and may never answer.
var errStuck = errors.New("its memory or file does not answer")

// patience runs what a process of others can hold up, and waits for it only so long.
type patience struct {
	stuck atomic.Int32 // left behind; each has a thread
	wait  time.Duration
}

// within runs fn in a goroutine of its own. It returns errStuck if fn does not come back in
// time: then late gets the result whenever it comes, and nothing of fn may be used.
func within[T any](p *patience, fn func() T, late func(T)) (T, error) {
	var none T
	if p.stuck.Load() >= maxStuck {
		return none, errStuck
	}
	done := make(chan T, 1)
	go func() { done <- fn() }()
	timer := time.NewTimer(p.wait)
	defer timer.Stop()
	select {
	case v := <-done:
		return v, nil
	case <-timer.C:
	}
	p.stuck.Add(1)
	go func() {
		v := <-done
		p.stuck.Add(-1)
		late(v)
	}()
	return none, errStuck
}
