package collector

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Condition says how a collector is, beside what it has counted.
type Condition struct {
	Partitions []PartitionCondition // by name
	// QuarantinedAt is when a message went to quarantine last; zero: none did.
	QuarantinedAt time.Time
	// Members is how many collectors share the partitions, this one too; 0: not known yet.
	Members int
	// Parts is how many parts the store's fullest partition of a table has, as a share of those at which it begins
	// to delay inserts; PartsKnown: the store said so.
	Parts      float64
	PartsKnown bool
}

// Backlog is what a stream held when it was last looked at.
type Backlog struct {
	Messages, Bytes uint64
	MaxBytes        int64     // at which it takes no more; 0: no bound
	Oldest          time.Time // of its messages, by the broker's clock; zero: it has none
	At              time.Time // of the look; zero: nobody has looked yet
}

// PartitionCondition says how one partition is.
type PartitionCondition struct {
	Name  string
	Held  bool      // by this collector; else another holds it, or Cause says why nobody can
	Epoch uint64    // under which it is held, or was last
	Since time.Time // of Held
	// Cause is why the partition was let go, or could not be taken, last, at CauseAt; "": it
	// was not, or it is held again.
	Cause   string
	CauseAt time.Time
	// StoreError is what the store answers while it refuses; "": it does not.
	StoreError string
	StoreSince time.Time

	Backlog Backlog
	// Messages are those of the range in hand, and Oldest is the broker's time of the first of them, Unix
	// ms; 0: there is none.
	Messages int
	OldestMs int64
	Linger   time.Duration // as it is now: wider than configured under pressure
}

// conditions are written by the partitions' goroutines and read by anybody.
type conditions struct {
	mu            sync.Mutex
	byName        map[string]PartitionCondition
	quarantinedAt time.Time
	members       int
	partShare     float64
	partsKnown    bool
}

func (c *conditions) change(name string, change func(*PartitionCondition)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byName == nil {
		c.byName = map[string]PartitionCondition{}
	}
	p := c.byName[name]
	p.Name = name
	change(&p)
	c.byName[name] = p
}

func (c *conditions) held(name string, held bool, epoch uint64, now time.Time) {
	c.change(name, func(p *PartitionCondition) {
		if p.Held != held || p.Since.IsZero() {
			p.Held, p.Since = held, now
		}
		if held {
			p.Epoch, p.Cause = epoch, ""
		} else {
			p.StoreError, p.Messages, p.OldestMs = "", 0, 0
		}
	})
}

func (c *conditions) inHand(name string, messages int, oldestMs int64) {
	c.change(name, func(p *PartitionCondition) { p.Messages, p.OldestMs = messages, oldestMs })
}

func (c *conditions) lingers(name string, d time.Duration) {
	c.change(name, func(p *PartitionCondition) { p.Linger = d })
}

func (c *conditions) backlog(name string, b Backlog) {
	c.change(name, func(p *PartitionCondition) { p.Backlog = b })
}

func (c *conditions) parts(share float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partShare, c.partsKnown = share, true
}

func (c *conditions) letGo(name string, cause error, now time.Time) {
	c.change(name, func(p *PartitionCondition) { p.Cause, p.CauseAt = cause.Error(), now })
}

func (c *conditions) storeRefuses(name string, err error, now time.Time) {
	c.change(name, func(p *PartitionCondition) {
		if p.StoreError == "" {
			p.StoreSince = now
		}
		p.StoreError = err.Error()
	})
}

func (c *conditions) storeAnswers(name string) {
	c.change(name, func(p *PartitionCondition) { p.StoreError = "" })
}

func (c *conditions) shared(members int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = members
}

func (c *conditions) quarantined(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quarantinedAt = now
}

// Condition returns how the collector is. It may be called at any time.
func (c *Collector) Condition() Condition {
	c.conditions.mu.Lock()
	defer c.conditions.mu.Unlock()
	out := Condition{QuarantinedAt: c.conditions.quarantinedAt, Members: c.conditions.members, Parts: c.conditions.partShare, PartsKnown: c.conditions.partsKnown}
	for _, p := range c.conditions.byName {
		out.Partitions = append(out.Partitions, p)
	}
	slices.SortFunc(out.Partitions, func(a, b PartitionCondition) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
