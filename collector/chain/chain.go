package chain

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Kind of a fault.
type Kind string

// Kinds of faults.
const (
	Signature Kind = "signature" // not the key's
	Unsigned  Kind = "unsigned"  // of a spool that signs
	Key       Kind = "key"       // another than the spool's, or one that was withdrawn
	Link      Kind = "link"      // it does not follow the frame before it
	Missing   Kind = "missing"   // neither stored, nor in quarantine, nor given up by the spool
)

// Fault is one thing that is wrong with the chain of a spool.
type Fault struct {
	Node, Spool string
	// From and To are the sequences concerned, inclusive.
	From, To uint64
	Kind     Kind
	Detail   string // for a person
}

// Spool sums up the chain of one spool.
type Spool struct {
	Cluster, Node, Spool string
	First, Last          uint64 // sequences that are there
	// Counts of sequences. Whole: the chain was read from its first batch on.
	Stored, Signed, Quarantined, GivenUp, Missing uint64
	Whole                                         bool
	Key                                           [wire.KeySize]byte // the first it signed with; zero: none
	Faults                                        []Fault
	// FaultCount counts faults beyond those kept in Faults as well.
	FaultCount int
}

// maxFaults bounds the faults that are kept of a spool.
const maxFaults = 100

// Trust says what an operator has said of a node's key, at a moment of the broker's clock.
type Trust func(node string, key [wire.KeySize]byte, availableMs int64) (trusted, said bool)

// Verifier takes heads by node, spool and sequence, and hands on a summary of each spool.
type Verifier struct {
	// Trust may be nil: nobody has said anything.
	Trust Trust
	// Each gets the summary of a spool once all of its heads have come.
	Each func(Spool) error

	sum     Spool
	begun   bool
	last    [32]byte
	holes   []hole
	givenUp []store.BatchGap
	aside   map[uint64][32]byte // digests of messages in quarantine
}

// hole is a range without batches, and what the batch behind it names as the frame before it.
type hole struct {
	from, to uint64
	prev     [32]byte
}

// Begin ends the spool in hand, and tells of the next the digests of its messages that are in
// quarantine and were not stored. It need not be called for a spool that has none.
func (v *Verifier) Begin(aside map[uint64][32]byte) error {
	err := v.End()
	v.aside = aside
	return err
}

// Add takes the next head. The errors are those of Each, and one of heads out of order.
func (v *Verifier) Add(h store.HeadRow) error {
	if v.begun && (v.sum.Node != h.Node || v.sum.Spool != h.Spool) {
		if err := v.End(); err != nil {
			return err
		}
	}
	s := &v.sum
	if !v.begun {
		v.begun = true
		*s = Spool{Cluster: h.Cluster, Node: h.Node, Spool: h.Spool, First: h.Sequence, Whole: h.Sequence == 1}
		if h.Sequence == 1 && h.PrevDigest != [32]byte{} {
			v.fault(1, 1, Link, "the first batch of a spool names one before it")
		}
	} else {
		switch {
		case h.Sequence <= s.Last:
			return fmt.Errorf("verify chain of node %q: sequence %d behind %d", h.Node, h.Sequence, s.Last)
		case h.Sequence > s.Last+1:
			v.holes = append(v.holes, hole{s.Last + 1, h.Sequence - 1, h.PrevDigest})
		case h.PrevDigest != v.last:
			v.fault(h.Sequence, h.Sequence, Link, fmt.Sprintf("it names %s as the frame before it, that is %s", short(h.PrevDigest), short(v.last)))
		}
	}
	s.Last, v.last = h.Sequence, h.Digest
	s.Stored++
	v.givenUp = append(v.givenUp, h.Gaps...)
	v.signature(h)
	return nil
}

func (v *Verifier) signature(h store.HeadRow) {
	s := &v.sum
	spool, err := hex.DecodeString(h.Spool)
	if err != nil || len(spool) != 16 {
		v.fault(h.Sequence, h.Sequence, Signature, fmt.Sprintf("spool %q is no id", h.Spool))
		return
	}
	head := wire.Head{Cluster: h.Cluster, Node: h.Node, Spool: [16]byte(spool), Sequence: h.Sequence, PrevDigest: h.PrevDigest, BodyDigest: h.BodyDigest}
	for _, g := range h.Gaps {
		head.Gaps = append(head.Gaps, wire.Gap{From: g.From, To: g.To, Reason: wire.GapReason(g.Reason), Digest: g.Digest})
	}
	switch err := head.Verify(h.NodeKey, h.Signature); {
	case errors.Is(err, wire.ErrUnsigned):
		if s.Signed > 0 {
			v.fault(h.Sequence, h.Sequence, Unsigned, "batches before it are signed")
		}
		return
	case err != nil:
		v.fault(h.Sequence, h.Sequence, Signature, err.Error())
		return
	}
	s.Signed++
	trusted, said := false, false
	if v.Trust != nil {
		trusted, said = v.Trust(h.Node, h.NodeKey, h.AvailableMs)
	}
	switch {
	case s.Key == [wire.KeySize]byte{}:
		s.Key = h.NodeKey
	case h.NodeKey != s.Key && !(said && trusted):
		v.fault(h.Sequence, h.Sequence, Key, fmt.Sprintf("signed with key %s, batches before it with %s", short(h.NodeKey), short(s.Key)))
		return
	}
	if said && !trusted {
		v.fault(h.Sequence, h.Sequence, Key, fmt.Sprintf("key %s was withdrawn", short(h.NodeKey)))
	}
}

// End ends the spool in hand. It is called once more behind the last head.
func (v *Verifier) End() error {
	if !v.begun {
		return nil
	}
	v.close()
	s := v.sum
	*v = Verifier{Trust: v.Trust, Each: v.Each, holes: v.holes[:0], givenUp: v.givenUp[:0]}
	if v.Each == nil {
		return nil
	}
	return v.Each(s)
}

// close sorts what the holes are: given up, in quarantine, or missing.
func (v *Verifier) close() {
	slices.SortFunc(v.givenUp, func(a, b store.BatchGap) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To)) })
	for _, h := range v.holes {
		missing := uint64(0)
		var from, to uint64
		flush := func() {
			if missing > 0 {
				v.fault(from, to, Missing, fmt.Sprintf("%d batches, neither stored nor in quarantine nor given up by the spool: on their way, or taken out", to-from+1))
			}
			missing = 0
		}
		for seq := h.from; seq <= h.to; {
			if digest, ok := v.aside[seq]; ok {
				flush()
				v.sum.Quarantined++
				if seq == h.to && digest != h.prev {
					v.fault(seq+1, seq+1, Link, fmt.Sprintf("it names %s as the frame before it, the message in quarantine is %s", short(h.prev), short(digest)))
				}
				seq++
				continue
			}
			if g, ok := v.gapOf(seq); ok {
				flush()
				end := min(g.To, h.to)
				v.sum.GivenUp += end - seq + 1
				if g.To == h.to && g.Digest != [32]byte{} && g.Digest != h.prev {
					v.fault(h.to+1, h.to+1, Link, fmt.Sprintf("it names %s as the frame before it, the gap ends with %s", short(h.prev), short(g.Digest)))
				}
				seq = end + 1
				continue
			}
			// Up to where the next thing is known.
			end := h.to
			for next := range v.aside {
				if next > seq {
					end = min(end, next-1)
				}
			}
			for _, g := range v.givenUp {
				if g.From > seq {
					end = min(end, g.From-1)
				}
			}
			if missing == 0 {
				from = seq
			}
			to = end
			missing += end - seq + 1
			v.sum.Missing += end - seq + 1
			seq = end + 1
		}
		flush()
	}
}

// gapOf finds the widest gap that covers a sequence.
func (v *Verifier) gapOf(seq uint64) (g store.BatchGap, ok bool) {
	for _, x := range v.givenUp {
		if x.From <= seq && seq <= x.To && (!ok || x.To > g.To) {
			g, ok = x, true
		}
	}
	return g, ok
}

func (v *Verifier) fault(from, to uint64, kind Kind, detail string) {
	s := &v.sum
	s.FaultCount++
	if len(s.Faults) < maxFaults {
		s.Faults = append(s.Faults, Fault{Node: s.Node, Spool: s.Spool, From: from, To: to, Kind: kind, Detail: detail})
	}
}

func short(b [32]byte) string { return hex.EncodeToString(b[:6]) }
