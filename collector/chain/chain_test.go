package chain_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

var spoolID = [16]byte{0xab, 1}

func keyOf(n byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32)) }

// sign makes a head as the store would have it: nil key, not signed.
func sign(h *store.HeadRow, key ed25519.PrivateKey) {
	head := wire.Head{Cluster: h.Cluster, Node: h.Node, Spool: spoolID, Sequence: h.Sequence, PrevDigest: h.PrevDigest, BodyDigest: h.BodyDigest}
	for _, g := range h.Gaps {
		head.Gaps = append(head.Gaps, wire.Gap{From: g.From, To: g.To, Reason: wire.GapReason(g.Reason), Digest: g.Digest})
	}
	if key == nil {
		return
	}
	sum := head.Sum()
	copy(h.NodeKey[:], key[32:])
	copy(h.Signature[:], ed25519.Sign(key, sum[:]))
}

func digest(n uint64) [32]byte { return sha256.Sum256(fmt.Append(nil, "frame", n)) }

// heads are those of an undisturbed spool.
func heads(n uint64) []store.HeadRow {
	var all []store.HeadRow
	for seq := uint64(1); seq <= n; seq++ {
		h := store.HeadRow{BatchKey: store.BatchKey{Cluster: "c", Node: "n", Spool: hex.EncodeToString(spoolID[:]), Sequence: seq}, Digest: digest(seq), BodyDigest: [32]byte{byte(seq)}, AvailableMs: int64(seq)}
		if seq > 1 {
			h.PrevDigest = digest(seq - 1)
		}
		sign(&h, keyOf(1))
		all = append(all, h)
	}
	return all
}

func without(all []store.HeadRow, seqs ...uint64) []store.HeadRow {
	return slices.DeleteFunc(all, func(h store.HeadRow) bool { return slices.Contains(seqs, h.Sequence) })
}

func TestVerify(t *testing.T) {
	note := func(key byte, trusted bool, fromMs int64) store.KeyNote {
		return store.KeyNote{Node: "n", Key: [32]byte(keyOf(key)[32:]), Trusted: trusted, FromMs: fromMs, By: "ann", NotedMs: fromMs}
	}
	for name, tt := range map[string]struct {
		heads  func() []store.HeadRow
		aside  map[uint64][32]byte
		notes  []store.KeyNote
		whole  bool
		others []store.Conflict
		want   string // kind from-to, ...
		sum    string // stored signed quarantined given-up missing
	}{
		"undisturbed":             {heads: func() []store.HeadRow { return heads(5) }, sum: "5 5 0 0 0"},
		"a batch taken out":       {heads: func() []store.HeadRow { return without(heads(5), 3) }, want: "missing 3-3", sum: "4 4 0 0 1"},
		"two stretches taken out": {heads: func() []store.HeadRow { return without(heads(9), 3, 4, 7) }, want: "missing 3-4, missing 7-7", sum: "6 6 0 0 3"},
		"a row moved to another place": {heads: func() []store.HeadRow {
			all := without(heads(5), 3)
			for i := range all[2:] {
				all[2+i].Sequence--
			}
			return all
		}, want: "link 3-3, signature 3-3, signature 4-4", sum: "4 2 0 0 0"},
		"a body changed":           {heads: func() []store.HeadRow { all := heads(3); all[1].BodyDigest[0]++; return all }, want: "signature 2-2", sum: "3 2 0 0 0"},
		"a frame's digest changed": {heads: func() []store.HeadRow { all := heads(3); all[1].Digest[0]++; return all }, want: "link 3-3", sum: "3 3 0 0 0"},
		"the previous digest changed to hide it": {heads: func() []store.HeadRow {
			all := without(heads(4), 2)
			all[1].PrevDigest = digest(1)
			return all
		}, want: "signature 3-3, missing 2-2", sum: "3 2 0 0 1"},
		"a gap put in to hide it": {heads: func() []store.HeadRow {
			all := without(heads(4), 2)
			all[1].Gaps = []store.BatchGap{{From: 2, To: 2, Reason: 1, Digest: digest(2)}}
			return all
		}, want: "signature 3-3, missing 2-2", sum: "3 2 0 0 1"},
		"given up": {heads: func() []store.HeadRow {
			all := without(heads(6), 2, 3)
			all[3].Gaps = []store.BatchGap{{From: 2, To: 3, Reason: 1, Digest: digest(3)}} // told later
			sign(&all[3], keyOf(1))
			return all
		}, sum: "4 4 0 2 0"},
		"given up, and another frame than the gap says": {heads: func() []store.HeadRow {
			all := without(heads(6), 2, 3)
			all[3].Gaps = []store.BatchGap{{From: 2, To: 3, Reason: 1, Digest: digest(99)}}
			sign(&all[3], keyOf(1))
			return all
		}, want: "link 4-4", sum: "4 4 0 2 0"},
		"a gap that grew, and a part that arrived": {heads: func() []store.HeadRow {
			all := without(heads(8), 2, 4, 5)
			all[2].Gaps = []store.BatchGap{{From: 2, To: 4, Reason: 4}}
			all[3].Gaps = []store.BatchGap{{From: 2, To: 5, Reason: 4, Digest: digest(5)}}
			sign(&all[2], keyOf(1))
			sign(&all[3], keyOf(1))
			return all
		}, sum: "5 5 0 3 0"},
		"in quarantine":                  {heads: func() []store.HeadRow { return without(heads(5), 3, 4) }, aside: map[uint64][32]byte{3: digest(3), 4: digest(4)}, sum: "3 3 2 0 0"},
		"another message in quarantine":  {heads: func() []store.HeadRow { return without(heads(5), 3, 4) }, aside: map[uint64][32]byte{3: digest(3), 4: digest(7)}, want: "link 5-5", sum: "3 3 2 0 0"},
		"one in quarantine, one missing": {heads: func() []store.HeadRow { return without(heads(5), 3, 4) }, aside: map[uint64][32]byte{3: digest(3)}, want: "missing 4-4", sum: "3 3 1 0 1"},
		"never signed": {heads: func() []store.HeadRow {
			all := heads(3)
			for i := range all {
				all[i].NodeKey, all[i].Signature, all[i].BodyDigest = [32]byte{}, [64]byte{}, [32]byte{}
			}
			return all
		}, sum: "3 0 0 0 0"},
		"signed from an upgrade on": {heads: func() []store.HeadRow {
			all := heads(3)
			all[0].NodeKey, all[0].Signature = [32]byte{}, [64]byte{}
			return all
		}, sum: "3 2 0 0 0"},
		"no longer signed": {heads: func() []store.HeadRow {
			all := heads(3)
			all[2].NodeKey, all[2].Signature = [32]byte{}, [64]byte{}
			return all
		}, want: "unsigned 3-3", sum: "3 2 0 0 0"},
		"signed by another":                         {heads: func() []store.HeadRow { all := heads(3); sign(&all[2], keyOf(2)); return all }, want: "key 3-3", sum: "3 3 0 0 0"},
		"signed by another that an operator trusts": {heads: func() []store.HeadRow { all := heads(3); sign(&all[2], keyOf(2)); return all }, notes: []store.KeyNote{note(2, true, 3)}, sum: "3 3 0 0 0"},
		"its key was withdrawn":                     {heads: func() []store.HeadRow { return heads(2) }, notes: []store.KeyNote{note(1, false, 0)}, want: "key 1-1, key 2-2", sum: "2 2 0 0 0"},
		"a beginning that names another": {heads: func() []store.HeadRow {
			all := heads(2)
			all[0].PrevDigest = digest(50)
			sign(&all[0], keyOf(1))
			return all
		}, want: "link 1-1", sum: "2 2 0 0 0"},
		"read from the middle on": {heads: func() []store.HeadRow { return heads(6)[3:] }, sum: "3 3 0 0 0"},
		"the beginning taken out": {heads: func() []store.HeadRow { return heads(6)[3:] }, whole: true, want: "missing 1-3", sum: "3 3 0 0 3"},
		"the beginning given up": {heads: func() []store.HeadRow {
			all := heads(6)[3:]
			all[1].Gaps = []store.BatchGap{{From: 1, To: 3, Reason: 2, Digest: digest(3)}}
			sign(&all[1], keyOf(1))
			return all
		}, whole: true, sum: "3 3 0 3 0"},
		"pinned, and signed with it":    {heads: func() []store.HeadRow { return heads(3) }, notes: []store.KeyNote{note(1, true, 0)}, sum: "3 3 0 0 0"},
		"pinned, and signed by another": {heads: func() []store.HeadRow { return heads(3) }, notes: []store.KeyNote{note(2, true, 2)}, want: "key 2-2, key 3-3", sum: "3 3 0 0 0"},
		"pinned, and not signed": {heads: func() []store.HeadRow {
			all := heads(2)
			for i := range all {
				all[i].NodeKey, all[i].Signature = [32]byte{}, [64]byte{}
			}
			return all
		}, notes: []store.KeyNote{note(1, true, 0)}, want: "unsigned 1-1, unsigned 2-2", sum: "2 0 0 0 0"},
		"a key that was changed, as an operator says": {heads: func() []store.HeadRow {
			all := heads(4)
			sign(&all[2], keyOf(2))
			sign(&all[3], keyOf(2))
			return all
		}, notes: []store.KeyNote{note(1, true, 0), note(1, false, 3), note(2, true, 3)}, sum: "4 4 0 0 0"},
		"withdrawn from a moment on": {heads: func() []store.HeadRow { return heads(3) }, notes: []store.KeyNote{note(1, true, 0), note(1, false, 3)}, want: "key 3-3", sum: "3 3 0 0 0"},
		"a gap put in by another's key": {heads: func() []store.HeadRow {
			all := without(heads(4), 2)
			all[1].Gaps = []store.BatchGap{{From: 2, To: 2, Reason: 1, Digest: digest(2)}}
			sign(&all[1], keyOf(9))
			return all
		}, want: "key 3-3, missing 2-2", sum: "3 3 0 0 1"},
		"other content under a taken sequence": {heads: func() []store.HeadRow { return heads(3) }, others: []store.Conflict{{BatchKey: store.BatchKey{Sequence: 2}, Stream: "S", StreamSeq: 7}}, want: "content 2-2", sum: "3 3 0 0 0"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []chain.Spool
			v := chain.Verifier{Notes: chain.NewNotes(tt.notes), Whole: tt.whole, Each: func(s chain.Spool) error { got = append(got, s); return nil }}
			if err := v.Begin(tt.aside, tt.others); err != nil {
				t.Fatal(err)
			}
			for _, h := range tt.heads() {
				if err := v.Add(h); err != nil {
					t.Fatal(err)
				}
			}
			if err := v.End(); err != nil || len(got) != 1 {
				t.Fatalf("%d spools, %v", len(got), err)
			}
			var faults []string
			for _, f := range got[0].Faults {
				faults = append(faults, fmt.Sprintf("%s %d-%d", f.Kind, f.From, f.To))
			}
			if s := strings.Join(faults, ", "); s != tt.want {
				t.Errorf("faults: %s\nwant    %s\n%v", s, tt.want, got[0].Faults)
			}
			s := got[0]
			if sum := fmt.Sprint(s.Stored, s.Signed, s.Quarantined, s.GivenUp, s.Missing); sum != tt.sum {
				t.Errorf("stored, signed, in quarantine, given up, missing: %s, want %s", sum, tt.sum)
			}
		})
	}
}

// TestVerifyManyHoles: a host that makes holes, gaps and messages in quarantine without number costs a look at each, not
// at each for each.
func TestVerifyManyHoles(t *testing.T) {
	const n = 300_000
	aside := map[uint64][32]byte{}
	var sum chain.Spool
	v := chain.Verifier{Whole: true, Each: func(s chain.Spool) error { sum = s; return nil }}
	var gaps []store.BatchGap
	for seq := uint64(2); seq < n; seq += 2 { // the even ones are not there
		switch seq / 2 % 3 {
		case 0:
			aside[seq] = [32]byte{}
		case 1:
			gaps = append(gaps, store.BatchGap{From: seq, To: seq, Reason: 4}, store.BatchGap{From: seq, To: seq, Reason: 1})
		}
	}
	if err := v.Begin(aside, nil); err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= n; seq += 2 {
		h := store.HeadRow{BatchKey: store.BatchKey{Cluster: "c", Node: "n", Spool: hex.EncodeToString(spoolID[:]), Sequence: seq}, Digest: digest(seq), AvailableMs: int64(seq)}
		if seq == n-1 {
			h.Gaps = gaps
		}
		if err := v.Add(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.End(); err != nil {
		t.Fatal(err)
	}
	if missing := uint64(n/2-1) - uint64(len(aside)) - uint64(len(gaps)/2); sum.Stored != n/2 || sum.Quarantined != uint64(len(aside)) || sum.GivenUp != uint64(len(gaps)/2) || sum.Missing != missing {
		t.Errorf("stored %d, in quarantine %d, given up %d, missing %d of %d; %d faults", sum.Stored, sum.Quarantined, sum.GivenUp, sum.Missing, missing, sum.FaultCount)
	}
}
