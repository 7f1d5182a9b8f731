package detector

import (
	"cmp"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// links holds the cells of pairs and communicators by node and minute, and hands them out
// by time. Reducers give the cells of one node and minute in a fixed order. Those of old time are sealed: sums over blocks of time.
type links[C any] struct {
	at   map[nodeMinute][]C
	keys []nodeMinute // by minute, then node
	flat []C          // the sealed ones, and all cells in the order of keys, for up to the first built keys
	// built is how many of keys flat holds, wide how many sealed cells stand before.
	built, wide int
	minute, end func(*C) int64
	node        func(*C) string
	sum         func(cells []C, blockMs int64) []C
}

func newLinks[C any](minute, end func(*C) int64, node func(*C) string, sum func([]C, int64) []C) links[C] {
	return links[C]{at: map[nodeMinute][]C{}, minute: minute, end: end, node: node, sum: sum}
}

func (l *links[C]) put(k nodeMinute, cells []C) {
	i, had := slices.BinarySearchFunc(l.keys, k, byMinute)
	if !had {
		l.keys = slices.Insert(l.keys, i, k)
	}
	l.at[k] = cells
	if i < l.built { // what was built of later minutes no longer fits
		n := 0
		for _, k := range l.keys[:i] {
			n += len(l.at[k])
		}
		l.flat, l.built = l.flat[:l.wide+n], i
	}
}

func byMinute(a, b nodeMinute) int {
	return cmp.Or(cmp.Compare(a.minute, b.minute), cmp.Compare(a.node, b.node))
}

// all returns every cell by time and node. It is valid until the next put.
func (l *links[C]) all() []C {
	for ; l.built < len(l.keys); l.built++ {
		l.flat = append(l.flat, l.at[l.keys[l.built]]...)
	}
	return l.flat
}

// seal sums cells up that have come of age.
func (l *links[C]) seal(was, next bounds) {
	old := slices.Clone(l.flat[:l.wide])
	n := 0
	for ; n < len(l.keys) && l.keys[n].minute < next[0]; n++ {
		old = append(old, l.at[l.keys[n]]...)
		delete(l.at, l.keys[n])
	}
	l.keys = slices.Delete(l.keys, 0, n)
	l.setWide(sealChain(old, was, next, l.minute, l.sum))
}

func (l *links[C]) setWide(cells []C) { l.flat, l.wide, l.built = slices.Clip(cells), len(cells), 0 }

// reseal puts the sums of a node's minutes in place of its sealed cells of a block.
func (l *links[C]) reseal(node string, fromMs, toMs int64, minutes []C, was, next bounds) {
	wide := l.flat[:l.wide:l.wide]
	lo, hi := firstFrom(wide, fromMs, l.minute), firstFrom(wide, toMs, l.minute)
	rest := make([]C, 0, hi-lo)
	for i := lo; i < hi; i++ {
		if l.node(&wide[i]) != node {
			rest = append(rest, wide[i])
		}
	}
	if len(rest) == hi-lo && len(minutes) == 0 {
		return
	}
	rest = append(rest, sealChain(minutes, was, next, l.minute, l.sum)...)
	slices.SortStableFunc(rest, func(a, b C) int {
		return cmp.Or(cmp.Compare(l.minute(&a), l.minute(&b)), cmp.Compare(l.node(&a), l.node(&b)))
	})
	l.setWide(slices.Concat(wide[:lo], rest, wide[hi:]))
}

// drop lets cells of minutes before their node's limit go.
func (l *links[C]) drop(limit func(node string) int64) {
	l.keys = slices.DeleteFunc(l.keys, func(k nodeMinute) bool {
		gone := k.minute < limit(k.node)
		if gone {
			delete(l.at, k)
		}
		return gone
	})
	l.setWide(slices.DeleteFunc(slices.Clone(l.flat[:l.wide]), func(c C) bool { return l.end(&c)-feature.MinuteMs < limit(l.node(&c)) }))
}

func newCommLinks() links[feature.CommCell] {
	return newLinks(func(c *feature.CommCell) int64 { return c.MinuteMs }, (*feature.CommCell).EndMs, func(c *feature.CommCell) string { return c.Node }, feature.SealComm)
}

func newFlowLinks() links[feature.FlowCell] {
	return newLinks(func(c *feature.FlowCell) int64 { return c.MinuteMs }, (*feature.FlowCell).EndMs, func(c *feature.FlowCell) string { return c.Node }, feature.SealFlows)
}
