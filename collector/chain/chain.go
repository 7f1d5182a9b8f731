package chain

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Kind of a fault.
type Kind string

// Kinds of faults.
const (
	Signature   Kind = "signature" // not the key's
	Unsigned    Kind = "unsigned"  // of a spool that signs
	Key         Kind = "key"       // another than the spool's, or one that was withdrawn
	Link        Kind = "link"      // it does not follow the frame before it
	Content     Kind = "content"   // other content came under its sequence
	Missing     Kind = "missing"   // neither stored, nor in quarantine, nor given up by the spool
	AlteredHour Kind = "altered"   // the store has not what it had when the hour was checked
)

// kinds in the order in which they are told.
var kinds = []Kind{Signature, Unsigned, Key, Link, Content, AlteredHour, Missing}

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
	// Conflicts are messages with other content under a sequence that was taken.
	Conflicts uint64
	// Verified are Signed, and have no fault; Unsigned are not signed; Broken have one.
	Verified, Unsigned, Broken uint64
	Whole                      bool
	Key                        [wire.KeySize]byte // the first it signed with; zero: none
	LastKey                    [wire.KeySize]byte // the last
	Faults                     []Fault
	// FaultCount counts faults beyond those kept in Faults as well, ByKind all of a kind.
	FaultCount int
	ByKind     map[Kind]int
}

// Clean reports that nothing is wrong; what is missing is.
func (s *Spool) Clean() bool { return s.FaultCount == 0 }

// Reasons are the kinds of what is wrong.
func (s *Spool) Reasons() (out []string) {
	for _, k := range kinds {
		if s.ByKind[k] > 0 {
			out = append(out, string(k))
		}
	}
	return out
}

// maxFaults bounds the faults that are kept of a spool.
const maxFaults = 100

// Verifier takes heads by node, spool and sequence, and hands on a summary of each spool.
type Verifier struct {
	// Notes may be nil: nobody has said anything.
	Notes *Notes
	// Whole: all heads of a spool come, so that one whose first sequences do not come lacks them.
	Whole bool
	// Each gets the summary of a spool once all of its heads have come.
	Each func(Spool) error

	sum     Spool
	begun   bool
	signs   bool // a head before is signed
	last    [32]byte
	lastSeq uint64
	holes   []hole
	givenUp []store.BatchGap
	aside   map[uint64][32]byte // digests of messages in quarantine
	others  []store.Conflict
	broken  map[uint64]bool // batches with a fault; true: and a signature that holds
	parts   []part
	// Of close: the sequences of aside, sorted, and of each of givenUp the index of the widest up to it.
	asideAt []uint64
	widest  []int
}

// part is a stretch of a hole, and what became of it.
type part struct {
	from, to uint64
	reason   string
	behind   uint64 // the batch behind the hole
}

// hole is a range without batches, and what the batch behind it names as the frame before it.
type hole struct {
	from, to uint64
	prev     [32]byte
	signed   bool // the batch behind it
}

// Begin ends the spool in hand, and tells of the next the digests of its messages that are in
// quarantine and were not stored, and those whose sequence was taken. It need not be called for a
// spool that has none.
func (v *Verifier) Begin(aside map[uint64][32]byte, others []store.Conflict) error {
	err := v.End()
	v.aside, v.others = aside, others
	return err
}

// start begins a spool.
func (v *Verifier) start(h *store.HeadRow) {
	v.begun = true
	v.broken = map[uint64]bool{}
	v.sum = Spool{Cluster: h.Cluster, Node: h.Node, Spool: h.Spool, First: h.Sequence, Whole: h.Sequence == 1, ByKind: map[Kind]int{}}
}

// Before gives the first head of a stretch that begins in the middle what was before it: the last
// head before it, and the key that the spool began with, zero: not known. Neither is verified or
// counted here: it was, where it belongs.
func (v *Verifier) Before(h store.HeadRow, first [wire.KeySize]byte) {
	v.start(&h)
	v.sum.First, v.lastSeq, v.last = 0, h.Sequence, h.Digest
	v.sum.Key = first
	if first == [wire.KeySize]byte{} {
		v.sum.Key = h.NodeKey
	}
	v.signs = v.sum.Key != [wire.KeySize]byte{}
}

// GivenUp tells what later heads of the spool say that it gave up. They are verified first: a head
// whose signature is not its key's tells nothing.
func (v *Verifier) GivenUp(later store.HeadRow) {
	head, err := headOf(&later)
	if err == nil {
		err = head.Verify(later.NodeKey, later.Signature)
	}
	if err == nil || errors.Is(err, wire.ErrUnsigned) && !v.signs {
		v.givenUp = append(v.givenUp, later.Gaps...)
	}
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
		v.start(&h)
		if h.Sequence == 1 && h.PrevDigest != [32]byte{} {
			v.fault(1, 1, Link, "the first batch of a spool names one before it")
		}
		if v.Whole && h.Sequence > 1 {
			v.holes = append(v.holes, hole{from: 1, to: h.Sequence - 1, prev: h.PrevDigest})
		}
	} else {
		switch {
		case h.Sequence <= v.lastSeq:
			return fmt.Errorf("verify chain of node %q: sequence %d behind %d", h.Node, h.Sequence, v.lastSeq)
		case h.Sequence > v.lastSeq+1:
			v.holes = append(v.holes, hole{from: v.lastSeq + 1, to: h.Sequence - 1, prev: h.PrevDigest})
		case h.PrevDigest != v.last:
			v.fault(h.Sequence, h.Sequence, Link, fmt.Sprintf("it names %s as the frame before it, that is %s", short(h.PrevDigest), short(v.last)))
		}
		if s.First == 0 {
			s.First = h.Sequence
		}
	}
	s.Last, v.lastSeq, v.last = h.Sequence, h.Sequence, h.Digest
	s.Stored++
	signed := s.Signed
	if v.signature(&h) {
		v.givenUp = append(v.givenUp, h.Gaps...)
	}
	signedNow := s.Signed > signed
	if _, bad := v.broken[h.Sequence]; bad {
		v.broken[h.Sequence] = signedNow
	}
	if n := len(v.holes); n > 0 && v.holes[n-1].to == h.Sequence-1 {
		v.holes[n-1].signed = signedNow
	}
	return nil
}

// headOf is what a row says that was signed.
func headOf(h *store.HeadRow) (wire.Head, error) {
	spool, err := hex.DecodeString(h.Spool)
	if err != nil || len(spool) != 16 {
		return wire.Head{}, fmt.Errorf("spool %q is no id", h.Spool)
	}
	head := wire.Head{Cluster: h.Cluster, Node: h.Node, Spool: [16]byte(spool), Sequence: h.Sequence, PrevDigest: h.PrevDigest, BodyDigest: h.BodyDigest}
	for _, g := range h.Gaps {
		head.Gaps = append(head.Gaps, wire.Gap{From: g.From, To: g.To, Reason: wire.GapReason(g.Reason), Digest: g.Digest})
	}
	return head, nil
}

// signature verifies a head's. It reports whether what the head says is the host's word.
func (v *Verifier) signature(h *store.HeadRow) (believed bool) {
	s := &v.sum
	head, err := headOf(h)
	if err == nil {
		err = head.Verify(h.NodeKey, h.Signature)
	}
	switch {
	case errors.Is(err, wire.ErrUnsigned):
		s.Unsigned++
		if v.signs {
			v.fault(h.Sequence, h.Sequence, Unsigned, "batches before it are signed")
		} else if by, ok := v.Notes.pinned(h.Node, h.AvailableMs); ok {
			v.fault(h.Sequence, h.Sequence, Unsigned, fmt.Sprintf("%s vouched for a key of this host", by))
			return false
		}
		return !v.signs
	case err != nil:
		v.fault(h.Sequence, h.Sequence, Signature, err.Error())
		return false
	}
	s.Signed++
	v.signs = true
	s.LastKey = h.NodeKey
	if s.Key == [wire.KeySize]byte{} {
		s.Key = h.NodeKey
	}
	switch word, note := v.Notes.Of(h.Node, h.NodeKey, h.AvailableMs); {
	case word == Withdrawn:
		v.fault(h.Sequence, h.Sequence, Key, fmt.Sprintf("key %s was withdrawn by %s", short(h.NodeKey), note.By))
	case word == Other:
		v.fault(h.Sequence, h.Sequence, Key, fmt.Sprintf("signed with key %s, and %s vouched for %s", short(h.NodeKey), note.By, short(note.Key)))
	case word == NoWord && h.NodeKey != s.Key:
		v.fault(h.Sequence, h.Sequence, Key, fmt.Sprintf("signed with key %s, batches before it with %s", short(h.NodeKey), short(s.Key)))
	default:
		return true
	}
	return false
}

// End ends the spool in hand. It is called once more behind the last head.
func (v *Verifier) End() error {
	if !v.begun {
		return nil
	}
	v.close()
	s := v.sum
	*v = Verifier{Notes: v.Notes, Whole: v.Whole, Each: v.Each, holes: v.holes[:0], givenUp: v.givenUp[:0], parts: v.parts[:0], asideAt: v.asideAt[:0], widest: v.widest[:0]}
	if v.Each == nil {
		return nil
	}
	return v.Each(s)
}

// close sorts what the holes are: given up, in quarantine, or missing. It tells of other content,
// too, as far as the heads reach. Senders decide how many holes, gaps and messages in quarantine there are: each is
// looked at once.
func (v *Verifier) close() {
	slices.SortFunc(v.givenUp, func(a, b store.BatchGap) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(b.To, a.To)) })
	v.widest = v.widest[:0]
	for i := range v.givenUp {
		v.widest = append(v.widest, v.widestOf(i))
	}
	v.asideAt = v.asideAt[:0]
	for seq := range v.aside {
		v.asideAt = append(v.asideAt, seq)
	}
	slices.Sort(v.asideAt)
	for _, h := range v.holes {
		missing := uint64(0)
		var from, to uint64
		flush := func() {
			if missing > 0 {
				v.fault(from, to, Missing, fmt.Sprintf("%d batches, neither stored nor in quarantine nor given up by the spool: on their way, or taken out", to-from+1))
				v.parts = append(v.parts, part{from, to, LossMissing, h.to + 1})
			}
			missing = 0
		}
		for seq := h.from; seq <= h.to; {
			if digest, ok := v.aside[seq]; ok {
				flush()
				v.sum.Quarantined++
				v.parts = append(v.parts, part{seq, seq, LossQuarantine, h.to + 1})
				if seq == h.to && digest != h.prev {
					v.faultBehind(h)
					v.fault(seq+1, seq+1, Link, fmt.Sprintf("it names %s as the frame before it, the message in quarantine is %s", short(h.prev), short(digest)))
				}
				seq++
				continue
			}
			if g, ok := v.gapOf(seq); ok {
				flush()
				end := min(g.To, h.to)
				v.sum.GivenUp += end - seq + 1
				v.parts = append(v.parts, part{seq, end, lossOf(g.Reason), h.to + 1})
				if g.To == h.to && g.Digest != [32]byte{} && g.Digest != h.prev {
					v.faultBehind(h)
					v.fault(h.to+1, h.to+1, Link, fmt.Sprintf("it names %s as the frame before it, the gap ends with %s", short(h.prev), short(g.Digest)))
				}
				seq = end + 1
				continue
			}
			end := min(h.to, v.nextKnown(seq)-1)
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
	for _, c := range v.others {
		v.sum.Conflicts++
		v.sum.fault(conflictFault(&c))
	}
	v.sum.Broken = uint64(len(v.broken))
	signed := uint64(0)
	for _, holds := range v.broken {
		if holds {
			signed++
		}
	}
	v.sum.Verified = v.sum.Signed - signed
}

// faultBehind notes the batch behind a hole as one with a fault.
func (v *Verifier) faultBehind(h hole) {
	if _, ok := v.broken[h.to+1]; !ok {
		v.broken[h.to+1] = h.signed
	}
}

// gapOf finds the widest gap that covers a sequence.
func (v *Verifier) gapOf(seq uint64) (g store.BatchGap, ok bool) {
	i := v.gapBehind(seq)
	if i == 0 {
		return g, false
	}
	g = v.givenUp[v.widest[i-1]]
	return g, g.To >= seq
}

// gapBehind is the index of the first gap that begins behind a sequence.
func (v *Verifier) gapBehind(seq uint64) int {
	i, _ := slices.BinarySearchFunc(v.givenUp, seq, func(g store.BatchGap, seq uint64) int {
		if g.From <= seq {
			return -1
		}
		return 1
	})
	return i
}

// widestOf is the index of the gap that reaches farthest among the first ones up to i.
func (v *Verifier) widestOf(i int) int {
	if i > 0 {
		if w := v.widest[i-1]; v.givenUp[w].To >= v.givenUp[i].To {
			return w
		}
	}
	return i
}

// nextKnown is the first sequence behind seq that is in quarantine or given up.
func (v *Verifier) nextKnown(seq uint64) uint64 {
	next := uint64(math.MaxUint64)
	if i, _ := slices.BinarySearch(v.asideAt, seq+1); i < len(v.asideAt) {
		next = v.asideAt[i]
	}
	if i := v.gapBehind(seq); i < len(v.givenUp) {
		next = min(next, v.givenUp[i].From)
	}
	return next
}

func conflictFault(c *store.Conflict) Fault {
	return Fault{Node: c.Node, Spool: c.Spool, From: c.Sequence, To: c.Sequence, Kind: Content,
		Detail: fmt.Sprintf("a message with other content, %s, came under this sequence: it is in quarantine as %s/%d", short(c.Digest), c.Stream, c.StreamSeq)}
}

func (v *Verifier) fault(from, to uint64, kind Kind, detail string) {
	v.sum.fault(Fault{Node: v.sum.Node, Spool: v.sum.Spool, From: from, To: to, Kind: kind, Detail: detail})
	if kind != Missing { // of a batch that is stored
		if _, ok := v.broken[from]; !ok {
			v.broken[from] = false // Add knows
		}
	}
}

func (s *Spool) fault(f Fault) {
	s.FaultCount++
	s.ByKind[f.Kind]++
	if len(s.Faults) < maxFaults {
		s.Faults = append(s.Faults, f)
	}
}

func short(b [32]byte) string { return hex.EncodeToString(b[:6]) }
