package collector

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// What is remembered of spools between ranges: senders decide how many there are.
const (
	maxSpools = 200_000
	maxRanges = 1_000_000 // of sequences, of all spools
)

// spoolState is what the store has of a spool, kept while the partition is held: nobody
// else writes it then.
type spoolState struct {
	stored sequences       // in `batches` or quarantine: tells repeats
	mark   wire.CommitMark // and what the spool gave up itself: what it need not send
	dirty  bool            // changed by the range in hand
	aside  *asideState     // nil: no retry has asked yet
}

// asideState is what retries are held to.
type asideState struct {
	taken  sequences             // in `batches`
	frames map[uint64][][32]byte // digests of what is in quarantine, by sequence
}

// claim is an identity that a message of the range in hand has brought.
type claim struct {
	seq    uint64 // of the message in the stream
	digest [32]byte
	fate   batch.Fate
}

// suspect is a message whose identity was handled before: whether it is a repeat its content tells.
type suspect struct {
	message int // index in the range
	key     store.BatchKey
}

// known tells a repeat, and remembers the sequence as one from then on. The range in hand
// either ends in the store or takes the whole hold, and this memory, with it. It may be built
// several times: each message gets the same answer again.
func (w *worker) known(ctx context.Context, at int, c batch.Claim) (batch.Fate, error) {
	k := store.BatchKey{Cluster: c.Cluster, Node: c.Node, Spool: c.Spool, Sequence: c.Sequence}
	mine, claimed := w.claims[k]
	if claimed && mine.seq == c.Message.Seq {
		return mine.fate, nil
	}
	s := w.spools[c.SpoolKey]
	if s == nil {
		if err := w.load(ctx, []store.SpoolKey{c.SpoolKey}); err != nil {
			return batch.Fresh, err
		}
		s = w.spools[c.SpoolKey]
	}
	s.mark.Spool = c.ID
	if !s.dirty { // for a repeat too: the spool has not heard
		s.dirty = true
		w.dirty = append(w.dirty, c.SpoolKey)
	}
	switch {
	case claimed && mine.digest == c.Message.Digest:
		return batch.Stored, nil // or refused by this very range: a repeat in any case
	case !s.stored.has(c.Sequence):
		s.stored.add(c.Sequence, c.Sequence)
		s.mark.Add(c.Sequence, c.Sequence)
		w.claims[k] = claim{c.Message.Seq, c.Message.Digest, batch.Fresh}
		return batch.Fresh, nil
	case !c.Message.Retry || claimed:
		w.suspects = append(w.suspects, suspect{at, k})
		return batch.Stored, nil
	}
	if err := w.loadAside(ctx, c.SpoolKey, s); err != nil {
		return batch.Fresh, err
	}
	if s.aside.taken.has(c.Sequence) || !slices.Contains(s.aside.frames[c.Sequence], c.Message.Digest) {
		w.suspects = append(w.suspects, suspect{at, k})
		return batch.Stored, nil
	}
	w.claims[k] = claim{c.Message.Seq, c.Message.Digest, batch.Aside}
	return batch.Aside, nil
}

// took notes that a message of the range in hand is to be stored.
func (w *worker) took(o *batch.Outcome) {
	s := w.spools[store.SpoolKey{Cluster: o.Cluster, Node: o.Node, Spool: o.BatchKey.Spool}]
	for _, g := range o.Gaps {
		s.mark.Add(g.From, g.To)
	}
	if s.aside != nil {
		s.aside.taken.add(o.Sequence, o.Sequence)
	}
}

// convict finds those of the suspects whose content the store does not have under their
// identity. What was found of a message holds as long as the range is in hand.
func (w *worker) convict(ctx context.Context, msgs []message) error {
	var ask []store.BatchKey
	for _, s := range w.suspects {
		if _, ok := w.convicted[msgs[s.message].seq]; !ok {
			ask = append(ask, s.key)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	held := map[store.BatchKey][][32]byte{}
	for most := 500; len(ask) > 0; { // a statement has a size
		n := min(most, len(ask))
		some, err := w.c.cfg.Store.Digests(ctx, ask[:n])
		if err != nil {
			return w.refused(err)
		}
		maps.Copy(held, some)
		ask = ask[n:]
	}
	for _, s := range w.suspects {
		m := &msgs[s.message]
		if _, ok := w.convicted[m.seq]; ok {
			continue
		}
		all := held[s.key]
		if mine, ok := w.claims[s.key]; ok {
			all = append(all, mine.digest)
		}
		// That the store shows nothing of it accuses nobody.
		if len(all) == 0 || slices.Contains(all, m.digest) {
			w.convicted[m.seq] = ""
			continue
		}
		w.convicted[m.seq] = fmt.Sprintf("the store has %x under this sequence, this is %x", all[0][:6], m.digest[:6])
		held[s.key] = append(held[s.key], m.digest) // once is enough
	}
	return nil
}

// meetSpools loads what the store has of spools that are new to this hold in one query, as
// far as message ids tell them. The ids are hints: known asks by the body.
func (w *worker) meetSpools(ctx context.Context, msgs []message) error {
	var unknown []store.SpoolKey
	asked := map[store.SpoolKey]bool{}
	for _, m := range msgs {
		k, ok := spoolHint(m.msg)
		if !ok || asked[k] || w.spools[k] != nil {
			continue
		}
		asked[k] = true
		unknown = append(unknown, k)
	}
	const atOnce = 500
	for len(unknown) > 0 {
		n := min(atOnce, len(unknown))
		if err := w.load(ctx, unknown[:n]); err != nil {
			return err
		}
		unknown = unknown[n:]
	}
	return nil
}

// spoolHint reads a message's id, <node>/<spool>/<sequence>, and the cluster's token.
func spoolHint(m *nats.Msg) (k store.SpoolKey, ok bool) {
	node, rest, ok := strings.Cut(m.Header.Get(nats.MsgIdHdr), "/")
	if len(rest) < 34 || rest[32] != '/' || strings.IndexByte(rest[33:], '/') >= 0 || !ok {
		return k, false
	}
	cluster := m.Subject
	for range 3 {
		if _, cluster, ok = strings.Cut(cluster, "."); !ok {
			return k, false
		}
	}
	if cluster, _, ok = strings.Cut(cluster, "."); !ok {
		return k, false
	}
	if node == "-" {
		node = ""
	}
	return store.SpoolKey{Cluster: cluster, Node: node, Spool: rest[:32]}, true
}

func (w *worker) load(ctx context.Context, keys []store.SpoolKey) error {
	handled, err := w.c.cfg.Store.Handled(ctx, keys)
	if err != nil {
		return w.refused(err)
	}
	for _, k := range keys {
		s := &spoolState{}
		s.mark.Cluster, s.mark.Node, s.mark.Epoch = k.Cluster, k.Node, w.epoch
		for _, r := range handled[k].Stored {
			s.stored.add(r.From, r.To)
			s.mark.Add(r.From, r.To)
		}
		for _, r := range handled[k].GivenUp {
			s.mark.Add(r.From, r.To)
		}
		w.spools[k] = s
	}
	return nil
}

func (w *worker) loadAside(ctx context.Context, k store.SpoolKey, s *spoolState) error {
	if s.aside != nil {
		return nil
	}
	ranges, err := w.c.cfg.Store.Taken(ctx, k)
	if err != nil {
		return w.refused(err)
	}
	frames, err := w.c.cfg.Store.HeldAside(ctx, k)
	if err != nil {
		return w.refused(err)
	}
	s.aside = &asideState{frames: frames}
	for _, r := range ranges {
		s.aside.taken.add(r.From, r.To)
	}
	return nil
}

// publishMarks tells spools what they may forget. A mark that gets lost is made good by
// the next, or by the answer to a repeat.
func (w *worker) publishMarks() error {
	for _, k := range w.dirty {
		s := w.spools[k]
		s.dirty = false
		w.mark = wire.AppendCommitMark(w.mark[:0], &s.mark)
		if err := w.c.cfg.Conn.Publish(wire.CommitSubject(k.Cluster, k.Node), w.mark); err != nil {
			return fmt.Errorf("publish commit mark: %w", err)
		}
		w.c.stats.marks.Add(1)
	}
	w.dirty = w.dirty[:0]
	ranges := 0
	if w.stepsSinceCount++; w.stepsSinceCount >= 100 {
		w.stepsSinceCount = 0
		for _, s := range w.spools {
			ranges += len(s.stored.ranges)
		}
	}
	if len(w.spools) > maxSpools || ranges > maxRanges {
		clear(w.spools) // what is still needed is loaded again
	}
	return nil
}
