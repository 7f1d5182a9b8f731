package batch

import (
	"slices"

	"github.com/flopwatch/flopwatch/internal/store"
)

// Count is how many messages went to quarantine, how many of them without their bytes, and how
// many not at all, being counted alone.
type Count struct{ Messages, Bare, Dropped uint64 }

// Counts are by reason, in the order of Reasons.
type Counts [len(Reasons)]Count

// Total adds them up.
func (c *Counts) Total() (n uint64) {
	for i := range c {
		n += c[i].Messages
	}
	return n
}

func reasonIndex(reason string) int { return slices.Index(Reasons[:], reason) }

// Limits bound what a subject may fill quarantine with, for each reason and day of the broker's
// clock; all subjects of a stream together may do so allSubjects times.
type Limits struct {
	Messages uint64 // beyond it messages are counted alone, but for those that the ledger needs
	Bytes    uint64 // beyond it messages are kept without their bytes
}

const (
	allSubjects = 16
	dayMs       = 86_400_000
	// maxUses bounds the memory for subjects: those beyond share one entry.
	maxUses = 20_000
)

// Allowance is what quarantine may still take of a stream. It forgets a day when the next begins,
// and decides from what the stream held before a range and in it alone: who repeats a range
// decides the same.
type Allowance struct {
	limits     Limits
	day        int64
	used       map[dropKey]use
	all        use
	rangeUsed  map[dropKey]use // of the range in hand
	rangeAll   use
	rangeFirst int64 // day of the range in hand; 0: none of its messages was set aside
}

type use struct{ messages, bytes uint64 }

// DayOf is the beginning of a moment's day, Unix ms.
func DayOf(ms int64) int64 { return floorDiv(ms, dayMs) * dayMs }

// NewAllowance returns the allowance of a stream at a moment of the broker's clock, where
// quarantine has something already of that day.
func NewAllowance(limits Limits, brokerMs int64, has []store.QuarantineUse) *Allowance {
	a := &Allowance{limits: limits, day: DayOf(brokerMs), used: map[dropKey]use{}, rangeUsed: map[dropKey]use{}}
	for _, h := range has {
		u := use{h.Messages, h.Bytes}
		a.all = a.all.plus(u)
		k := a.key(dropKey{h.Subject, h.Reason})
		a.used[k] = a.used[k].plus(u)
	}
	return a
}

func (u use) plus(v use) use { return use{u.messages + v.messages, u.bytes + v.bytes} }

// begin forgets what was decided of a range that is built again.
func (a *Allowance) begin() {
	clear(a.rangeUsed)
	a.rangeAll, a.rangeFirst = use{}, 0
}

// Done says that the range in hand is stored.
func (a *Allowance) Done() {
	if a.rangeFirst > a.day {
		a.day, a.all = a.rangeFirst, use{}
		clear(a.used)
	}
	for k, u := range a.rangeUsed {
		k = a.key(k)
		a.used[k] = a.used[k].plus(u)
	}
	a.all = a.all.plus(a.rangeAll)
	a.begin()
}

func (a *Allowance) key(k dropKey) dropKey {
	if _, ok := a.used[k]; !ok && len(a.used) >= maxUses {
		return dropKey{}
	}
	return k
}

type verdict uint8

const (
	keepWhole verdict = iota
	keepBare
	drop
)

// take decides on a message. ledger: its row is needed, whatever it costs.
func (a *Allowance) take(m *Message, reason string, ledger bool) verdict {
	if a.rangeFirst == 0 {
		a.rangeFirst = DayOf(m.BrokerMs)
	}
	k := a.key(dropKey{m.Subject, reason})
	had, all := a.rangeUsed[k], a.rangeAll
	if a.rangeFirst <= a.day {
		had, all = had.plus(a.used[k]), all.plus(a.all)
	}
	size := uint64(len(m.Data))
	v := keepWhole
	switch {
	case (had.messages >= a.limits.Messages || all.messages >= allSubjects*a.limits.Messages) && !ledger:
		return drop
	case had.messages >= a.limits.Messages, had.bytes+size > a.limits.Bytes, all.bytes+size > allSubjects*a.limits.Bytes:
		v, size = keepBare, 0
	}
	a.rangeUsed[k] = a.rangeUsed[k].plus(use{1, size})
	a.rangeAll = a.rangeAll.plus(use{1, size})
	return v
}
