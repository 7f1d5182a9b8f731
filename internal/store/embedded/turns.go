package embedded

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// turns bound how many statements run at a time. Readers have half of them at most, and a queue of their own, so that a crowd of dashboards never keeps the
// collector's inserts waiting, nor out.
type turns struct {
	all, readers           chan struct{}
	waiting, readerWaiting atomic.Int64
	patience               time.Duration
}

func newTurns(n int, patience time.Duration) turns {
	return turns{all: make(chan struct{}, n), readers: make(chan struct{}, max(1, n/2)), patience: patience}
}

// take waits for a turn and gives what ends it.
func (t *turns) take(ctx context.Context, reader bool, draining <-chan struct{}) (func(), error) {
	waiting := &t.waiting
	if reader {
		waiting = &t.readerWaiting
	}
	if waiting.Add(1) > maxQueue {
		waiting.Add(-1)
		return nil, t.tooMany()
	}
	defer waiting.Add(-1)
	wait := time.NewTimer(t.patience)
	defer wait.Stop()
	get := func(c chan struct{}) error {
		select {
		case c <- struct{}{}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-draining:
			return errStopping()
		case <-wait.C:
			return t.tooMany()
		}
	}
	if reader {
		if err := get(t.readers); err != nil {
			return nil, err
		}
	}
	if err := get(t.all); err != nil {
		if reader {
			<-t.readers
		}
		return nil, err
	}
	return func() {
		<-t.all
		if reader {
			<-t.readers
		}
	}, nil
}

func (t *turns) tooMany() error {
	return refuse(codeTooManyQueries, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many simultaneous queries. Maximum: %d, for readers %d; come again", cap(t.all), cap(t.readers))
}

// registry knows the requests that run, by query id.
type registry struct {
	mu   sync.Mutex
	byID map[string]*running
}

type running struct {
	account string
	cancel  context.CancelCauseFunc
	done    chan struct{}
}

var errKilled = refuse(codeCancelled, "QUERY_WAS_CANCELLED", "Query was cancelled")

// enter notes a request; the function it gives ends that. Two requests of one id are refused, unless the second says replace_running_query.
func (g *registry) enter(r *request, cancel context.CancelCauseFunc) (func(), error) {
	for {
		g.mu.Lock()
		other := g.byID[r.id]
		if other == nil {
			break
		}
		g.mu.Unlock()
		if r.q.Get("replace_running_query") != "1" || other.account != r.account.name {
			return nil, refuse(codeSameQueryID, "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING", "Query with id = %s is already running", headerSafe(r.id))
		}
		other.cancel(errKilled)
		select {
		case <-other.done:
		case <-r.ctx.Done():
			return nil, context.Cause(r.ctx)
		}
	}
	defer g.mu.Unlock()
	me := &running{account: r.account.name, cancel: cancel, done: make(chan struct{})}
	if g.byID == nil {
		g.byID = map[string]*running{}
	}
	g.byID[r.id] = me
	return func() {
		g.mu.Lock()
		delete(g.byID, r.id)
		g.mu.Unlock()
		close(me.done)
	}, nil
}

// idle waits until nothing runs, and says whether that came to be within d.
func (g *registry) idle(d time.Duration) bool {
	limit := time.NewTimer(d)
	defer limit.Stop()
	for {
		g.mu.Lock()
		var one *running
		for _, one = range g.byID {
			break
		}
		g.mu.Unlock()
		if one == nil {
			return true
		}
		select {
		case <-one.done:
		case <-limit.C:
			return false
		}
	}
}

// kill ends the requests with these ids that account may end, and gives their ids. With wait it returns when they have ended.
func (g *registry) kill(ctx context.Context, ids []string, account string, all, wait bool) []string {
	var killed []string
	var ended []chan struct{}
	g.mu.Lock()
	for _, id := range ids {
		if q := g.byID[id]; q != nil && (all || q.account == account) {
			q.cancel(errKilled)
			killed, ended = append(killed, id), append(ended, q.done)
		}
	}
	g.mu.Unlock()
	for _, c := range ended {
		if !wait {
			break
		}
		select {
		case <-c:
		case <-ctx.Done():
		}
	}
	return killed
}

// gate holds statements that change data back while a snapshot is taken, so that no table of it is ahead of another.
type gate struct {
	mu     sync.Mutex
	inside int
	shut   chan struct{} // not nil: closed when it opens again
	empty  chan struct{} // not nil: closed when the last one left
}

var errSnapshot = errors.New("a snapshot is being taken already")

// enter waits until the gate is open and gives what leaves it.
func (g *gate) enter(ctx context.Context) (func(), error) {
	for {
		g.mu.Lock()
		shut := g.shut
		if shut == nil {
			break
		}
		g.mu.Unlock()
		select {
		case <-shut:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	g.inside++
	g.mu.Unlock()
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.inside--; g.inside == 0 && g.empty != nil {
			close(g.empty)
			g.empty = nil
		}
	}, nil
}

// close shuts the gate and waits until nobody is inside; the function it gives opens it again. If ctx ends first the gate stays open.
func (g *gate) close(ctx context.Context) (func(), error) {
	g.mu.Lock()
	if g.shut != nil {
		g.mu.Unlock()
		return nil, errSnapshot
	}
	shut := make(chan struct{})
	g.shut = shut
	var empty chan struct{}
	if g.inside > 0 {
		empty = make(chan struct{})
		g.empty = empty
	}
	g.mu.Unlock()
	open := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.shut, g.empty = nil, nil
		close(shut)
	}
	if empty != nil {
		select {
		case <-empty:
		case <-ctx.Done():
			open()
			return nil, context.Cause(ctx)
		}
	}
	return open, nil
}
