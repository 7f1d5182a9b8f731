package chain_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

const hourStart = 1_700_000_000_000 / store.HourMs * store.HourMs

// hourHeads are heads as above, of ten ticks and ten seconds each.
func hourHeads(n uint64) []store.HeadRow {
	all := heads(n)
	for i := range all {
		at := int64(i+1) * 10_000
		h := &all[i]
		h.BootID, h.Ticks, h.FirstTick, h.SealedWallMs, h.SealedBootMs, h.AvailableMs = "b", uint64(i+1)*10, uint64(i)*10+1, hourStart+at, at, hourStart+at+5
	}
	return all
}

// TestHour: an hour in the middle of a spool, whose beginning, end and explanations lie elsewhere.
func TestHour(t *testing.T) {
	all := hourHeads(12)
	spool := store.SpoolKey{Cluster: "c", Node: "n", Spool: all[0].Spool}
	in := func() chain.Hour {
		return chain.Hour{Node: "n", HourMs: hourStart, Heads: hourHeads(12)[6:10], Before: map[store.BatchKey]store.HeadRow{all[6].BatchKey: all[5]}, First: map[store.SpoolKey][wire.KeySize]byte{spool: all[0].NodeKey}}
	}
	lossText := func(losses []store.Loss) string {
		var out []string
		for _, l := range losses {
			out = append(out, fmt.Sprintf("%s %d-%d: %d batches, %d ticks, %d to %d s", l.Reason, l.FromSequence, l.ToSequence, l.Batches, l.Ticks, (l.FromMs-hourStart)/1000, (l.ToMs-hourStart)/1000))
		}
		return strings.Join(out, "; ")
	}
	for name, tt := range map[string]struct {
		change func(h *chain.Hour)
		status string // status reasons, verified/batches
		losses string
	}{
		"as it was": {change: func(*chain.Hour) {}, status: "verified [] 4/4"},
		"the batch before it is another": {change: func(h *chain.Hour) {
			b := h.Before[all[6].BatchKey]
			b.Digest[0]++
			h.Before[all[6].BatchKey] = b
		}, status: "broken [link] 3/4"},
		"another key than the spool's first, though that of the hour before": {change: func(h *chain.Hour) { h.First[spool] = [32]byte{1} }, status: "broken [key] 0/4"},
		"a hole at its beginning": {change: func(h *chain.Hour) {
			delete(h.Before, all[6].BatchKey)
			h.Before[all[6].BatchKey] = all[3] // 5 and 6 are gone
		}, status: "incomplete [missing] 4/4", losses: "missing 5-6: 2 batches, 20 ticks, 40 to 60 s"},
		"a hole that is told later, and in quarantine": {change: func(h *chain.Hour) {
			h.Heads = append(h.Heads[:1:1], h.Heads[3:]...) // 8 and 9 are gone
			h.Before[all[9].BatchKey] = all[6]
			later := all[11]
			later.Gaps = []store.BatchGap{{From: 8, To: 8, Reason: 4, Digest: digest(8)}}
			sign(&later, keyOf(1))
			h.Later = map[store.SpoolKey][]store.HeadRow{spool: {later}}
			h.Aside = map[store.SpoolKey]map[uint64][32]byte{spool: {9: digest(9)}}
		}, status: "verified [] 2/2", losses: "disk 8-8: 1 batches, 10 ticks, 70 to 80 s; quarantine 9-9: 1 batches, 10 ticks, 80 to 90 s"},
		"told by a head that somebody forged": {change: func(h *chain.Hour) {
			h.Heads = append(h.Heads[:1:1], h.Heads[2:]...)
			h.Before[all[8].BatchKey] = all[6]
			later := all[11]
			later.Gaps = []store.BatchGap{{From: 8, To: 8, Reason: 4, Digest: digest(8)}}
			h.Later = map[store.SpoolKey][]store.HeadRow{spool: {later}}
		}, status: "incomplete [missing] 3/3", losses: "missing 8-8: 1 batches, 10 ticks, 70 to 80 s"},
		"given up in memory, and suspended": {change: func(h *chain.Hour) {
			for i := range h.Heads[1:] { // 30 ticks more before the second, of which it has seen 10 itself; 2 of these without a sample
				x := &h.Heads[1+i]
				x.Ticks, x.FirstTick, x.MissedTicks, x.SealedBootMs, x.SealedWallMs = x.Ticks+30, x.FirstTick+30, 2, x.SealedBootMs+30_000, x.SealedWallMs+30_000
			}
		}, status: "verified [] 4/4", losses: "memory 8-8: 0 batches, 30 ticks, 70 to 102 s"},
		"an agent that was started again": {change: func(h *chain.Hour) {
			for i := range h.Heads[1:] {
				x := &h.Heads[1+i]
				x.Ticks, x.FirstTick = uint64(i+1)*10, uint64(i)*10+1
			}
		}, status: "verified [] 4/4"},
		"other content": {change: func(h *chain.Hour) {
			h.Conflicts = []store.Conflict{{BatchKey: store.BatchKey{Spool: spool.Spool, Sequence: 3}, BrokerMs: hourStart + 9000}, {BatchKey: store.BatchKey{Spool: spool.Spool, Sequence: 4}, BrokerMs: hourStart + 19_000}}
		}, status: "broken [content] 4/4", losses: "conflict 3-4: 2 batches, 0 ticks, 9 to 19 s"},
		"nothing but other content": {change: func(h *chain.Hour) {
			h.Heads, h.Conflicts = nil, []store.Conflict{{BatchKey: store.BatchKey{Spool: spool.Spool, Sequence: 3}, BrokerMs: hourStart}}
		}, status: "broken [content] 0/0", losses: "conflict 3-3: 1 batches, 0 ticks, 0 to 0 s"},
	} {
		t.Run(name, func(t *testing.T) {
			h := in()
			tt.change(&h)
			row, losses, err := h.Check()
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%s %v %d/%d", row.Status, row.Reasons, row.Verified, row.Batches); got != tt.status {
				t.Errorf("%s, want %s: %s", got, tt.status, row.Detail)
			}
			if got := lossText(losses); got != tt.losses {
				t.Errorf("lost %s\nwant %s", got, tt.losses)
			}
			again, lossesAgain, err := h.Check()
			if err != nil || !reflect.DeepEqual(again, row) || !reflect.DeepEqual(lossesAgain, losses) {
				t.Errorf("the same rows gave another answer, %v", err)
			}
			spools, err := h.Spools()
			if err != nil || len(spools) != 1 {
				t.Fatalf("%d spools, %v", len(spools), err)
			}
			if s := spools[0]; s.Stored != row.Batches || s.Verified != row.Verified || s.Missing != row.Missing || s.Conflicts != row.Conflicts || s.Quarantined != row.Quarantined {
				t.Errorf("%+v, the hour says %+v", s, row)
			}
		})
	}
}

func BenchmarkHour(b *testing.B) {
	h := chain.Hour{Node: "n", HourMs: hourStart, Heads: hourHeads(360)}
	for b.Loop() {
		if row, _, err := h.Check(); err != nil || row.Status != chain.StatusVerified {
			b.Fatal(row, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/360, "µs/batch")
}
