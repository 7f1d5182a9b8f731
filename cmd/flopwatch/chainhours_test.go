package main

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/collector/chain"
	"github.com/flopwatch/flopwatch/internal/store"
)

// TestChainHours holds `flopwatch chain hours` to a golden file: hours of every kind, of hosts that lose in every way.
func TestChainHours(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	const hour, start = store.HourMs, int64(1_700_000_000_000) / store.HourMs * store.HourMs // 14 November 2023, 22:00
	var batches []store.BatchRow
	key := func(node string, seq uint64) store.BatchKey {
		return store.BatchKey{Cluster: "fleet", Node: node, Spool: strings.Repeat("ab", 16), Sequence: seq}
	}
	// Ten ticks each, sealed ten seconds apart from an hour's start on.
	add := func(node string, seq uint64, sealedMs, availableMs int64, ticks, missed uint64) {
		r := store.BatchRow{BatchKey: key(node, seq), Digest: [32]byte{byte(seq)}, BootID: "b", Ticks: ticks, FirstTick: ticks - 9, MissedTicks: missed, SealedWallMs: sealedMs, SealedBootMs: sealedMs - start, AvailableMs: availableMs}
		r.Rows[0] = 80
		batches = append(batches, r)
	}
	for i := range int64(3) { // an undisturbed hour, a silent one, and one that was not checked
		add("good", uint64(i+1), start+10_000*i, start+10_000*i+5, uint64(10*i+10), 0)
	}
	add("good", 4, start+2*hour, start+2*hour+5, 40, 0)
	add("good", 5, start+2*hour+10_000, start+2*hour+10_005, 50, 0)
	add("late", 1, start, start+hour, 10, 0) // sealed in one hour, arrived in the next, and more since that was checked
	add("late", 2, start+10_000, start+hour, 20, 0)
	// lossy: 2 and 3 have no room on disk, 4 is too old, 6 is in quarantine, 8 is missing; behind 9, ticks were never sealed or had no sample.
	for _, seq := range []uint64{1, 5, 7, 9} {
		add("lossy", seq, start+int64(seq)*10_000, start+int64(seq)*10_000+5, seq*10, 0)
	}
	add("lossy", 10, start+200_000, start+200_005, 130, 2)
	add("evil", 1, start, start+5, 10, 0)
	insert := func(table string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(table, err)
		}
	}
	insert("batches", s.store.Insert(t.Context(), store.TableBatches, "", store.BatchBlock(batches)))
	insert("gaps", s.store.Insert(t.Context(), store.TableGaps, "", store.GapBlock([]store.GapRow{
		{Cluster: "fleet", Node: "lossy", Spool: strings.Repeat("ab", 16), FromSequence: 2, ToSequence: 3, Reason: "disk", AvailableMs: start + 50_005},
		{Cluster: "fleet", Node: "lossy", Spool: strings.Repeat("ab", 16), FromSequence: 4, ToSequence: 4, Reason: "age", AvailableMs: start + 50_005},
	})))
	insert("quarantine", s.store.Insert(t.Context(), store.TableQuarantine, "", store.QuarantineBlock([]store.QuarantineRow{
		{Stream: "S", StreamSeq: 6, BatchKey: key("lossy", 6), Subject: "flopwatch.v1.0.fleet.lossy", Reason: "future", Rows: 7, BrokerMs: start + 60_000, Bytes: []byte("abc")},
		{Stream: "S", StreamSeq: 7, BatchKey: key("evil", 1), Subject: "flopwatch.v1.0.fleet.evil", Reason: "conflict", Rows: 7, BrokerMs: start + 60_000, Bytes: []byte("other")},
	})))
	insert("chain_hours", s.store.PutChainHours(t.Context(), "fleet", []store.ChainHour{
		{Node: "good", HourMs: start, Status: chain.StatusVerified, Batches: 3, Verified: 3},
		{Node: "late", HourMs: start + hour, Status: chain.StatusVerified, Batches: 1, Verified: 1},
		{Node: "lossy", HourMs: start, Status: chain.StatusIncomplete, Reasons: []string{"missing"}, Detail: "spool abababab, batch 8: missing", Batches: 5, Verified: 5, Missing: 1, GivenUp: 3, Quarantined: 1},
		{Node: "evil", HourMs: start, Status: chain.StatusBroken, Reasons: []string{"content"}, Detail: "spool \x1b[31m, other content", Batches: 1, Broken: 1, Conflicts: 1},
	}))

	var got strings.Builder
	scrub := regexp.MustCompile(`"checked_ms":[1-9][0-9]{12}`)
	window := []string{"--from", "2023-11-14T22:30", "--to", "2023-11-15T00:30"}
	for _, args := range [][]string{{}, {"--all"}, {"--node", "good"}, {"--node", "lossy", "--json"}, {"--node", "good", "--json"}, {"--status", "unchecked"}, {"--all", "--status", "unchecked,broken"}, {"--node", "nobody"}, {"--status", "unsigned"}} {
		out, err := s.run(append(append([]string{"chain", "hours"}, args...), window...)...)
		if err != nil {
			t.Fatal(args, err)
		}
		got.WriteString("$ flopwatch chain hours " + strings.Join(args, " ") + "\n" + scrub.ReplaceAllString(out, `"checked_ms":0`) + "\n")
	}
	golden := filepath.Join("testdata", "chainhours.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("answers differ from %s (go test ./cmd/flopwatch -update writes it anew): %s\n%s", golden, firstDifference(got.String(), string(want)), got.String())
	}

	if out, err := s.run("chain", "hours"); err != nil || !strings.Contains(out, "Nothing of cluster fleet is known to be lost") || !strings.Contains(out, "not checked") {
		t.Errorf("of the last day: %v, %s", err, out)
	}
	for _, k := range []struct {
		want string
		args []string
	}{
		{"wanted 90m", []string{"--from", "yesterday"}},
		{"--to \"soon\"", []string{"--to", "soon"}},
		{"does not lie behind", []string{"--from", "2026-01-02", "--to", "2026-01-01"}},
		{"lies in the future", []string{"--from", "2126-01-02"}},
		{"leave one out", []string{"--from", "1h", "--since", "1h"}},
		{"wanted one of verified, unsigned, incomplete, broken, unchecked, nothing", []string{"--status", "bad"}},
		{"takes no argument", []string{"good"}},
	} {
		if _, err := s.run(append([]string{"chain", "hours"}, k.args...)...); err == nil || !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%v: %v, want %q", k.args, err, k.want)
		}
	}
}
