package chain

import (
	"cmp"
	"slices"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Word is what operators have said of a key.
type Word uint8

// Words.
const (
	NoWord    Word = iota // nothing, of any key of the node: the first of a spool is believed
	Trusted               // it is the node's
	Withdrawn             // it is not, or no more
	Other                 // another is the node's, and of this one nothing was said
)

// Notes are what operators have said of nodes' keys. A note holds from a moment on, by the broker's
// clock, until another on the same key. A node has all the keys that are trusted at a moment. nil:
// nobody has said anything.
type Notes struct {
	byNode map[string][]store.KeyNote // by the moment from which on they hold
}

// NewNotes takes notes in any order.
func NewNotes(all []store.KeyNote) *Notes {
	n := &Notes{byNode: map[string][]store.KeyNote{}}
	for _, k := range all {
		n.byNode[k.Node] = append(n.byNode[k.Node], k)
	}
	for _, notes := range n.byNode {
		slices.SortStableFunc(notes, func(a, b store.KeyNote) int {
			return cmp.Or(cmp.Compare(a.FromMs, b.FromMs), cmp.Compare(a.NotedMs, b.NotedMs))
		})
	}
	return n
}

// Of tells what holds of a node's key at a moment, and the note that says so.
func (n *Notes) Of(node string, key [wire.KeySize]byte, atMs int64) (Word, store.KeyNote) {
	if n == nil {
		return NoWord, store.KeyNote{}
	}
	var own *store.KeyNote
	notes := n.byNode[node]
	for i := range notes {
		if notes[i].FromMs <= atMs && notes[i].Key == key {
			own = &notes[i]
		}
	}
	switch {
	case own != nil && own.Trusted:
		return Trusted, *own
	case own != nil:
		return Withdrawn, *own
	}
	if other, ok := n.trusted(node, atMs); ok {
		return Other, other
	}
	return NoWord, store.KeyNote{}
}

// trusted is a key that is the node's at a moment: the latest.
func (n *Notes) trusted(node string, atMs int64) (out store.KeyNote, ok bool) {
	if n == nil {
		return out, false
	}
	latest := map[[wire.KeySize]byte]store.KeyNote{}
	for _, k := range n.byNode[node] {
		if k.FromMs <= atMs {
			latest[k.Key] = k
		}
	}
	for _, k := range n.byNode[node] { // in order: the same answer each time
		if l := latest[k.Key]; l == k && l.Trusted {
			out, ok = l, true
		}
	}
	return out, ok
}

func (n *Notes) pinned(node string, atMs int64) (by string, ok bool) {
	k, ok := n.trusted(node, atMs)
	return k.By, ok
}
