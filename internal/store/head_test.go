package store_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestHeads brings what a node signed into the store and out again, twice inserted as after a
// re-send, and accounts for every sequence of a spool.
func TestHeads(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := store.Open(t.Context(), store.Config{URL: url, User: user, Password: password, Database: "heads"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if cerr := s.Close(); cerr != nil {
			t.Error(cerr)
		}
	}()
	if err = s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	const hour = int64(3_600_000)
	const start = 1_700_000_000_000 / hour * hour
	spool := strings.Repeat("ab", 16)
	key := func(seq uint64) store.BatchKey {
		return store.BatchKey{Cluster: "c", Node: "n", Spool: spool, Sequence: seq}
	}
	var rows []store.BatchRow
	add := func(seq uint64, atMs int64, ticks uint64, gaps ...store.BatchGap) {
		r := store.BatchRow{BatchKey: key(seq), Digest: [32]byte{byte(seq)}, PrevDigest: [32]byte{byte(seq - 1)}, BodyDigest: [32]byte{1, byte(seq)}, NodeKey: [32]byte{9}, Signature: [64]byte{8, byte(seq)},
			Gaps: gaps, BootID: "b", Ticks: ticks, SealedWallMs: atMs, SealedBootMs: 5, AvailableMs: atMs + 10}
		r.Rows[0], r.Rows[2] = 160, 20
		rows = append(rows, r)
	}
	add(1, start+1000, 20)
	add(2, start+21_000, 40)
	// 3 to 5 are given up, 6 is in quarantine, 7 and 8 are missing.
	gap := store.BatchGap{From: 3, To: 5, Reason: 4, Digest: [32]byte{5}}
	add(9, start+hour+1000, 180, gap)
	add(10, start+hour+21_000, 200, gap, store.BatchGap{From: 4, To: 5, Reason: 1})
	for _, token := range []string{"a", "b"} {
		if err = s.Insert(t.Context(), store.TableBatches, token, store.BatchBlock(rows)); err != nil {
			t.Fatal(err)
		}
	}
	if err = s.Insert(t.Context(), store.TableGaps, "g", store.GapBlock([]store.GapRow{{Cluster: "c", Node: "n", Spool: spool, FromSequence: 3, ToSequence: 5, Reason: "disk", AvailableMs: start + hour + 1010}})); err != nil {
		t.Fatal(err)
	}
	if err = s.Insert(t.Context(), store.TableQuarantine, "q", store.QuarantineBlock([]store.QuarantineRow{
		{Stream: "S", StreamSeq: 6, BatchKey: key(6), Reason: "future", Rows: 7, BrokerMs: start + 99_000, Bytes: []byte("abc")},
		{Stream: "S", StreamSeq: 9, BatchKey: key(9), Reason: "range", Rows: 7, BrokerMs: start + 99_000, Bytes: []byte("stored as well")},
		{Stream: "S", StreamSeq: 7, Reason: "decode", BrokerMs: start + 99_000, Bytes: []byte("nobody's")},
	})); err != nil {
		t.Fatal(err)
	}

	var got []store.HeadRow
	if err = s.Heads(t.Context(), store.HeadQuery{Cluster: "c", Nodes: []string{"n"}}, func(h store.HeadRow) error { got = append(got, h); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(rows) {
		t.Fatalf("%d heads, want %d", len(got), len(rows))
	}
	for i, h := range got {
		r := rows[i]
		if h.InsertedMs < start {
			t.Errorf("inserted at %d", h.InsertedMs)
		}
		h.InsertedMs = 0
		want := store.HeadRow{BootID: r.BootID, Ticks: r.Ticks, SealedWallMs: r.SealedWallMs, SealedBootMs: r.SealedBootMs, BatchKey: r.BatchKey, Digest: r.Digest, PrevDigest: r.PrevDigest, BodyDigest: r.BodyDigest, NodeKey: r.NodeKey, Signature: r.Signature, Gaps: r.Gaps, AvailableMs: r.AvailableMs}
		if !reflect.DeepEqual(h, want) {
			t.Errorf("got  %+v\nwant %+v", h, want)
		}
	}
	count := 0
	if err = s.Heads(t.Context(), store.HeadQuery{Cluster: "c", FromMs: start + 1011, ToMs: start + hour + 1011}, func(store.HeadRow) error { count++; return nil }); err != nil || count != 2 {
		t.Errorf("%d heads of a stretch, %v", count, err)
	}

	aside, err := s.QuarantinedFrames(t.Context(), "c", nil)
	abc := [32]byte{0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad}
	if err != nil || !reflect.DeepEqual(aside, map[store.BatchKey][32]byte{key(6): abc}) {
		t.Errorf("in quarantine: %x, %v", aside, err)
	}

	hours, err := s.NodeHours(t.Context(), "c", nil, 0, 0)
	want := []store.NodeHour{
		{Node: "n", HourMs: start, Stored: 2, Rows: 360, Ticks: 40 - 20 + 1, TicksDue: 21, Quarantined: 1},
		{Node: "n", HourMs: start + hour, Stored: 2, Rows: 360, Ticks: 1 + 20, TicksDue: 160, TicksLost: 139, LostDisk: 3, Missing: 2},
	}
	if err != nil || !reflect.DeepEqual(hours, want) {
		t.Errorf("hours: %+v\nwant   %+v\n%v", hours, want, err)
	}
	if hours, err = s.NodeHours(t.Context(), "c", []string{"n"}, start+hour, start+2*hour); err != nil || !reflect.DeepEqual(hours, want[1:]) {
		t.Errorf("hours of a stretch: %+v, %v", hours, err)
	}
}
