package chain

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// Reasons of losses, the closed set of the table's comment.
const (
	LossBytes      = "bytes"
	LossAge        = "age"
	LossCorrupt    = "corrupt"
	LossDisk       = "disk"
	LossMemory     = "memory"     // given up before it came to the spool
	LossQuarantine = "quarantine" // refused
	LossConflict   = "conflict"   // sent under a sequence that was taken
	LossMissing    = "missing"    // nobody accounts for it
)

func lossOf(reason uint8) string {
	switch wire.GapReason(reason) {
	case wire.GapBytes:
		return LossBytes
	case wire.GapAge:
		return LossAge
	case wire.GapCorrupt:
		return LossCorrupt
	case wire.GapDisk:
		return LossDisk
	}
	return fmt.Sprintf("reason%d", reason)
}

// Hour is what a host's hour is checked by.
type Hour struct {
	Node   string
	HourMs int64
	// Heads are all that became available in the hour, by spool and sequence.
	Heads []store.HeadRow
	// Before are the last heads before those of Heads whose sequence does not follow another of
	// Heads, by the latter; absent: there is none.
	Before map[store.BatchKey]store.HeadRow
	// First is the key of each spool's first batch, as far as it is known.
	First map[store.SpoolKey][wire.KeySize]byte
	// Later are heads of the spools that tell of gaps, whenever they became available.
	Later map[store.SpoolKey][]store.HeadRow
	// Aside are the spools' messages in quarantine.
	Aside map[store.SpoolKey]map[uint64][32]byte
	// Conflicts came in the hour.
	Conflicts []store.Conflict
	Notes     *Notes
}

// Starts are those of heads, by spool and sequence, that do not follow another of them.
func Starts(heads []store.HeadRow) (out []store.BatchKey) {
	for i := range heads {
		if i == 0 || !follows(&heads[i-1], &heads[i]) {
			out = append(out, heads[i].BatchKey)
		}
	}
	return out
}

func follows(a, b *store.HeadRow) bool {
	return a.Node == b.Node && a.Spool == b.Spool && a.Sequence+1 == b.Sequence
}

// detailFaults is how many faults are told in words.
const detailFaults = 3

// Check tells whether what was signed holds, and what was lost. It is pure: the same rows give the
// same answer.
func (in *Hour) Check() (store.ChainHour, []store.Loss, error) {
	out := store.ChainHour{Node: in.Node, HourMs: in.HourMs, Batches: uint64(len(in.Heads))}
	byKind := map[Kind]int{}
	var words []string
	var losses []store.Loss
	for at := 0; at < len(in.Heads); {
		end := at + 1
		for end < len(in.Heads) && follows(&in.Heads[end-1], &in.Heads[end]) {
			end++
		}
		sum, lost, err := in.stretch(in.Heads[at:end])
		if err != nil {
			return out, nil, err
		}
		losses = append(losses, lost...)
		out.Verified, out.Unsigned, out.Broken = out.Verified+sum.Verified, out.Unsigned+sum.Unsigned, out.Broken+sum.Broken
		out.Missing, out.GivenUp, out.Quarantined = out.Missing+sum.Missing, out.GivenUp+sum.GivenUp, out.Quarantined+sum.Quarantined
		for i := at; i < end; i++ {
			t := tally(in.before(i, at), &in.Heads[i])
			out.TicksDue, out.TicksStored, out.TicksMissed = out.TicksDue+t.due, out.TicksStored+t.got, out.TicksMissed+t.late
		}
		if sum.LastKey != [wire.KeySize]byte{} {
			out.NodeKey = sum.LastKey
		}
		for k, n := range sum.ByKind {
			byKind[k] += n
		}
		for _, f := range sum.Faults {
			words = append(words, f.text())
		}
		at = end
	}
	for i := range in.Heads {
		out.SeenMs, out.KnownMs = max(out.SeenMs, in.Heads[i].InsertedMs), max(out.KnownMs, in.Heads[i].AvailableMs)
	}
	losses = append(losses, in.conflicts(&out)...)
	if out.Conflicts > 0 {
		byKind[Content] = int(out.Conflicts)
		c := &in.Conflicts[0]
		words = append(words, fmt.Sprintf("spool %.8s, %d messages came with other content under sequences that were taken, the first under %d: it is in quarantine as %s/%d", c.Spool, out.Conflicts, c.Sequence, c.Stream, c.StreamSeq))
	}
	out.Reasons = (&Spool{ByKind: byKind}).Reasons()
	if n := len(words); n > detailFaults {
		words = append(words[:detailFaults], fmt.Sprintf("and %d more", n-detailFaults))
	}
	out.Detail = strings.Join(words, "; ")
	wrong := len(out.Reasons)
	if byKind[Missing] > 0 {
		wrong--
	}
	switch {
	case wrong > 0:
		out.Status = StatusBroken
	case out.Missing > 0:
		out.Status = StatusIncomplete
	case out.Unsigned > 0:
		out.Status = StatusUnsigned
	default:
		out.Status = StatusVerified
	}
	out.HeadsDigest = HeadsDigest(in.Heads)
	for i := range losses {
		l := &losses[i]
		l.Node, l.HourMs, l.KnownMs = in.Node, in.HourMs, max(l.KnownMs, out.KnownMs)
	}
	return out, losses, nil
}

// Spools sums up the hour's spools, whose stretches are put together.
func (in *Hour) Spools() ([]Spool, error) {
	var out []Spool
	at := map[string]int{}
	of := func(cluster, spool string) *Spool {
		i, ok := at[spool]
		if !ok {
			i = len(out)
			at[spool] = i
			out = append(out, Spool{Cluster: cluster, Node: in.Node, Spool: spool, ByKind: map[Kind]int{}})
		}
		return &out[i]
	}
	for i := 0; i < len(in.Heads); {
		end := i + 1
		for end < len(in.Heads) && follows(&in.Heads[end-1], &in.Heads[end]) {
			end++
		}
		part, _, err := in.stretch(in.Heads[i:end])
		if err != nil {
			return nil, err
		}
		of(part.Cluster, part.Spool).add(&part)
		i = end
	}
	for _, c := range in.Conflicts {
		s := of(c.Cluster, c.Spool)
		s.Conflicts++
		s.fault(conflictFault(&c))
	}
	return out, nil
}

// add takes the sums of a later stretch in.
func (s *Spool) add(part *Spool) {
	if s.Stored == 0 {
		s.First, s.Whole, s.Key = part.First, part.Whole, part.Key
	}
	s.Last, s.LastKey = part.Last, part.LastKey
	s.Stored, s.Signed, s.Quarantined, s.GivenUp, s.Missing = s.Stored+part.Stored, s.Signed+part.Signed, s.Quarantined+part.Quarantined, s.GivenUp+part.GivenUp, s.Missing+part.Missing
	s.Verified, s.Unsigned, s.Broken = s.Verified+part.Verified, s.Unsigned+part.Unsigned, s.Broken+part.Broken
	for k, n := range part.ByKind {
		s.ByKind[k] += n
	}
	s.FaultCount += part.FaultCount
	s.Faults = append(s.Faults, part.Faults[:min(len(part.Faults), maxFaults-len(s.Faults))]...)
}

// Altered holds what the store has of an hour of a host against what it had when the hour was
// checked. Batches that came since are no fault; that some are gone, or others, is.
func Altered(was *store.ChainHour, batches uint64, digest [32]byte) (Fault, bool) {
	f := Fault{Node: was.Node, Kind: AlteredHour}
	switch {
	case batches < was.Batches:
		f.Detail = fmt.Sprintf("%d batches of the hour are in the store, %d were when it was checked", batches, was.Batches)
	case batches == was.Batches && digest != was.HeadsDigest:
		f.Detail = fmt.Sprintf("the %d batches of the hour are others than when it was checked", batches)
	default:
		return f, false
	}
	return f, true
}

// What a check of an hour can come to.
const (
	StatusVerified   = "verified"
	StatusUnsigned   = "unsigned"
	StatusIncomplete = "incomplete"
	StatusBroken     = "broken"
)

// Statuses lists them, for counters.
var Statuses = [...]string{StatusVerified, StatusUnsigned, StatusIncomplete, StatusBroken}

func (f *Fault) text() string {
	what := fmt.Sprintf("batch %d", f.From)
	if f.From != f.To {
		what = fmt.Sprintf("batches %d to %d", f.From, f.To)
	}
	return fmt.Sprintf("spool %.8s, %s: %s: %s", f.Spool, what, f.Kind, f.Detail)
}

// last is the last head before one that follows none of the hour's; nil: there is none.
func (in *Hour) last(first *store.HeadRow) *store.HeadRow {
	if b, ok := in.Before[first.BatchKey]; ok {
		return &b
	}
	return nil
}

// before is the head before one of a stretch that begins at from.
func (in *Hour) before(i, from int) *store.HeadRow {
	if i == from {
		return in.last(&in.Heads[i])
	}
	return &in.Heads[i-1]
}

// stretch checks heads that follow each other, and what lies before the first.
func (in *Hour) stretch(heads []store.HeadRow) (Spool, []store.Loss, error) {
	first := &heads[0]
	k := store.SpoolKey{Cluster: first.Cluster, Node: first.Node, Spool: first.Spool}
	v := Verifier{Notes: in.Notes, Whole: true}
	if err := v.Begin(in.Aside[k], nil); err != nil {
		return Spool{}, nil, err
	}
	before := in.last(first)
	if before != nil {
		v.Before(*before, in.First[k])
	}
	for i := range heads {
		if err := v.Add(heads[i]); err != nil {
			return Spool{}, nil, err
		}
	}
	if len(v.holes) > 0 {
		for i := range in.Later[k] {
			v.GivenUp(in.Later[k][i])
		}
	}
	v.close()
	losses := holesOf(before, first, v.parts)
	for i := range heads {
		a := before
		if i > 0 {
			a = &heads[i-1]
		}
		if a == nil && first.Sequence > 1 || i == 0 && len(v.parts) > 0 {
			continue
		}
		t := tally(a, &heads[i])
		if n := t.lost(); n > 0 {
			from, to := t.times(a, &heads[i])
			losses = append(losses, store.Loss{Spool: first.Spool, FromSequence: heads[i].Sequence, ToSequence: heads[i].Sequence, Reason: LossMemory, Ticks: n, FromMs: from, ToMs: to})
		}
	}
	return v.sum, losses, nil
}

// holesOf turns what became of the sequences between two heads into losses. before is nil where the
// spool has none: then nobody knows since when.
func holesOf(before, behind *store.HeadRow, parts []part) []store.Loss {
	if len(parts) == 0 {
		return nil
	}
	t := tally(before, behind)
	from, to := t.times(before, behind)
	all := parts[len(parts)-1].to - parts[0].from + 1
	// Shares by sequences, in whole numbers: nothing is lost in rounding.
	share := func(total int64, sequence uint64) int64 {
		done := sequence - parts[0].from
		return int64(float64(total) * (float64(done) / float64(all)))
	}
	out := make([]store.Loss, 0, len(parts))
	for _, p := range parts {
		l := store.Loss{Spool: behind.Spool, FromSequence: p.from, ToSequence: p.to, Reason: p.reason, Batches: p.to - p.from + 1,
			FromMs: from + share(to-from, p.from), ToMs: from + share(to-from, p.to+1)}
		l.Ticks = uint64(share(int64(t.lost()), p.to+1) - share(int64(t.lost()), p.from))
		out = append(out, l)
	}
	return out
}

// conflicts counts them, and makes one loss of each stretch of them.
func (in *Hour) conflicts(out *store.ChainHour) (losses []store.Loss) {
	all := slices.Clone(in.Conflicts)
	slices.SortStableFunc(all, func(a, b store.Conflict) int {
		return cmp.Or(cmp.Compare(a.Spool, b.Spool), cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.BrokerMs, b.BrokerMs))
	})
	for _, c := range all {
		out.Conflicts++
		if n := len(losses); n > 0 && losses[n-1].Spool == c.Spool && c.Sequence <= losses[n-1].ToSequence+1 {
			l := &losses[n-1]
			l.ToSequence, l.Batches = c.Sequence, l.Batches+1
			l.FromMs, l.ToMs, l.KnownMs = min(l.FromMs, c.BrokerMs), max(l.ToMs, c.BrokerMs), max(l.KnownMs, c.BrokerMs)
			continue
		}
		losses = append(losses, store.Loss{Spool: c.Spool, FromSequence: c.Sequence, ToSequence: c.Sequence, Reason: LossConflict, Batches: 1, FromMs: c.BrokerMs, ToMs: c.BrokerMs, KnownMs: c.BrokerMs})
	}
	return losses
}

// HeadsDigest is the SHA-256 over heads, by spool and sequence.
func HeadsDigest(heads []store.HeadRow) (out [32]byte) {
	if len(heads) == 0 {
		return out
	}
	d := sha256.New()
	for i := range heads {
		AddHead(d, &heads[i])
	}
	return [32]byte(d.Sum(nil))
}

// AddHead takes spool, sequence and digest of a head into a digest of heads.
func AddHead(d hash.Hash, h *store.HeadRow) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], h.Sequence)
	_, _ = d.Write([]byte(h.Spool)) // a hash's Write does not fail
	_, _ = d.Write(b[:])
	_, _ = d.Write(h.Digest[:])
}

// ticks is the tally of a stored batch's ticks since the stored one before it. The view
// v_node_hours says the same in SQL.
type ticks struct {
	due, got, late int64
	sameRun        bool
}

func (t ticks) lost() uint64 { return uint64(max(t.due-t.got-t.late, 0)) }

// tally counts the ticks up to b. a is the last batch of the spool before it; nil: there is none.
func tally(a, b *store.HeadRow) (t ticks) {
	if b.Ticks == 0 {
		return t
	}
	t.sameRun = a != nil && a.BootID == b.BootID && b.Ticks >= a.Ticks
	base, late := int64(0), int64(b.MissedTicks)
	if t.sameRun {
		base, late = int64(a.Ticks), late-int64(a.MissedTicks)
	}
	if b.FirstTick == 0 { // of an agent that did not say
		t.due, t.got = 1, 1
		if t.sameRun {
			t.due = int64(b.Ticks) - base
			if t.got = min(1, t.due); a.Sequence+1 == b.Sequence {
				t.got = t.due
			}
		}
		return t
	}
	t.due = int64(b.Ticks) - base
	own := min(int64(b.Ticks)-max(base, int64(b.FirstTick)-1), t.due)
	t.late = min(max(late, 0), t.due)
	t.got = max(own-t.late, 0)
	return t
}

// times are between which moments of event time ticks of b's tally are lost: from the seal of a
// to the first tick of b itself, as far as its clocks tell.
func (t ticks) times(a, b *store.HeadRow) (fromMs, toMs int64) {
	toMs = sealed(b)
	if t.sameRun && t.due > 0 && a.SealedBootMs > 0 && b.SealedBootMs > a.SealedBootMs {
		toMs -= (b.SealedBootMs - a.SealedBootMs) * t.got / t.due
	}
	if a == nil {
		return toMs, toMs
	}
	return min(sealed(a), toMs), toMs
}

// sealed is when a batch was sealed, as the view has it.
func sealed(h *store.HeadRow) int64 {
	switch {
	case h.SealedWallMs > 0:
		return h.SealedWallMs
	case h.MaxTsMs > 0:
		return h.MaxTsMs
	}
	return h.AvailableMs
}
