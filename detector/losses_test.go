package detector

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestLosses: what is known to be lost of a run's hosts lowers its coverage and stands on the
// verdict with its reason, the same to the byte from rows and from cells; what became known later is
// not seen before; what is nobody's of the run changes nothing.
func TestLosses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testenv.Root(t), "deploy", "recordings", "mlperf-lora")
	m, b, parties := load(t, dir)
	epoch := uint64(0)
	judge := func(losses []store.Loss) (runs []string, all []RunLine, findings []string) {
		t.Helper()
		epoch++
		m.losses = losses
		if err := New(configOf(t, b, epoch), m, parties).Backfill(t.Context(), b.Manifest.StartMs, b.Manifest.EndMs); err != nil {
			t.Fatal(err)
		}
		runs, findings, err := Lines(t.Context(), m, b.Manifest.Cluster, epoch)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range runs {
			var l RunLine
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				t.Fatal(err)
			}
			all = append(all, l)
		}
		return runs, all, findings
	}
	plain, before, findings := judge(nil)
	at := slices.IndexFunc(before, func(l RunLine) bool { return l.Class == "finetuning" || l.Class == "training" })
	if at < 0 {
		t.Fatalf("no run among %d", len(before))
	}
	r := before[at]
	member := r.Members[0]
	if r.Lost != nil {
		t.Errorf("nothing is lost: %+v", r.Lost)
	}
	// Elsewhere, or before: not a byte differs.
	far := []store.Loss{{Node: "another", FromMs: member.StartMs, ToMs: member.EndMs, Reason: "disk", Batches: 5, KnownMs: member.EndMs},
		{Node: member.Node, FromMs: member.StartMs - 2000, ToMs: member.StartMs - 1000, Reason: "disk", Batches: 5, KnownMs: member.EndMs}}
	if again, _, f := judge(far); !slices.Equal(again, plain) || !slices.Equal(f, findings) {
		t.Error("losses of others change the verdict")
	}
	// A quarter of the host's time because its disk was full, and a stretch in it twice; a message
	// under a taken number has no length.
	quarter := (member.EndMs - member.StartMs) / 4
	known := member.StartMs + 2*quarter
	losses := []store.Loss{
		{Node: member.Node, FromMs: member.StartMs, ToMs: member.StartMs + quarter, Reason: "disk", Batches: 40, Ticks: 400, KnownMs: known},
		{Node: member.Node, FromMs: member.StartMs, ToMs: member.StartMs + quarter/2, Reason: "memory", Ticks: 7, KnownMs: known},
		{Node: member.Node, FromMs: known, ToMs: known, Reason: "conflict", Batches: 2, KnownMs: known},
	}
	lines, after, _ := judge(losses)
	got := after[at]
	want := []LostLine{{"conflict", 2, 0, 1, known, known}, {"disk", 40, 400, 1, member.StartMs, member.StartMs + quarter}, {"memory", 0, 7, 1, member.StartMs, member.StartMs + quarter/2}}
	if !slices.Equal(got.Lost, want) {
		t.Errorf("lost %+v, want %+v", got.Lost, want)
	}
	if got.CoverageFrac >= r.CoverageFrac {
		t.Errorf("coverage %v, before %v", got.CoverageFrac, r.CoverageFrac)
	}
	if got.FLOPsModel != r.FLOPsModel || got.Class != r.Class {
		t.Errorf("what was measured is judged otherwise: %+v, %+v", got.FLOPsModel, r.FLOPsModel)
	}
	if again, _, _ := judge(losses); !slices.Equal(again, lines) {
		t.Error("the same rows gave different verdicts")
	}
	// Known after the end of what is judged: the last moment is judged with everything, the others not.
	d := New(configOf(t, b, 99), m, parties)
	d.startMs = b.Manifest.StartMs
	if err := d.loadFacts(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ev := d.st.evidence(b.Manifest.StartMs, known-d.cfg.WaitMs-1, false); len(ev.Losses) != 0 {
		t.Errorf("seen before it was known: %+v", ev.Losses)
	}
	if ev := d.st.evidence(b.Manifest.StartMs, known, false); len(ev.Losses) != 3 {
		t.Errorf("%d losses are known", len(ev.Losses))
	}
}
