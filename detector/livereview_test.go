package detector

import (
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// led is a follower of a recording under profiles, at the moment at which it has taken up.
func led(t *testing.T, l *liveMemory, b *bundle.Bundle, epoch uint64, profiles []threshold.Profile) *Follower {
	t.Helper()
	cfg := configOf(t, b, epoch)
	cfg.Profiles = profiles
	var err error
	if cfg.ProfileVersion, err = threshold.Digest(profiles); err != nil {
		t.Fatal(err)
	}
	l.dead, l.dieAt = false, 0
	f, err := NewFollower(cfg, LiveConfig{
		StartMs: b.Manifest.StartMs, EndMs: b.Manifest.EndMs, SettleMs: -1, Retry: time.Nanosecond, Log: slog.New(slog.DiscardHandler),
		Held: func() error {
			if l.dead {
				return errKilled
			}
			return nil
		},
		BrokerMs: func() (int64, bool) { return l.nowMs, true },
	}, l)
	if err != nil {
		t.Fatal(err)
	}
	f.d.parties = l.parties
	if err = f.resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *Follower) goOn(t *testing.T, l *liveMemory, untilMs int64) {
	t.Helper()
	for f.judgedMs < untilMs {
		if err := f.advance(t.Context(), l.nowMs); err != nil {
			t.Fatal(err)
		}
		l.nowMs += 97_000
	}
}

// knownAt is when evidence sufficed for each finding under a profile that stands, by id.
func (l *liveMemory) knownAt(t *testing.T) map[string]report.Finding {
	t.Helper()
	_, lines := l.lines()
	out := map[string]report.Finding{}
	for _, text := range lines {
		var f report.Finding
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			t.Fatal(err)
		}
		if f.Profile != nil {
			out[f.Finding] = f
		}
	}
	return out
}

// TestProfilesChange: a detector that comes back under other profiles judges history again beside live
// judging, whatever dies on the way; in the end findings are known from when they would have been had
// the profiles held all the time, and what was said under the old ones is still there.
func TestProfilesChange(t *testing.T) {
	t.Parallel()
	before, b := newLiveMemory(t, filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix"))
	onlyNodes(before, "hgx-4d94", "hgx-9240")
	onlyListed(before)
	old := configOf(t, b, 0).Profiles
	low := slices.Clone(old)
	for i := range low {
		low[i].LimitFLOPs /= 300
	}
	m := b.Manifest
	always := before.unjudged()
	always.nowMs = m.StartMs
	led(t, always, b, 1, low).goOn(t, always, m.EndMs)
	want := always.knownAt(t)

	for _, diesAt := range []int{0, 1, 2, 3, 4} { // the write of the review at which its process dies; 0: none
		l := before.unjudged()
		l.nowMs = m.StartMs
		led(t, l, b, 1, old).goOn(t, l, m.StartMs+70*60_000)
		said := len(l.allFound)
		f := led(t, l, b, 2, low)
		rows, _ := l.Reviews(t.Context(), "")
		if len(rows) != 1 || rows[0].State != store.ReviewOpen || rows[0].UntilMs != f.judgedMs || rows[0].WasBefore == rows[0].ProfileVersion {
			t.Fatalf("reviews at the start: %+v", rows)
		}
		if diesAt > 0 {
			l.dieAt = l.writes + diesAt
			if err := f.reviewOnce(t.Context(), l.parties); !errors.Is(err, errKilled) && !errors.Is(err, ErrStopped) {
				t.Fatalf("died at write %d: %v", diesAt, err)
			}
			f = led(t, l, b, 3, low)
			if rows, _ = l.Reviews(t.Context(), ""); len(rows) != 1 || rows[0].State == store.ReviewDone {
				t.Fatalf("reviews after a death at write %d: %+v", diesAt, rows)
			}
		}
		if err := f.reviewOnce(t.Context(), l.parties); err != nil {
			t.Fatal(err)
		}
		f.goOn(t, l, m.EndMs)
		if rows, _ = l.Reviews(t.Context(), ""); len(rows) != 1 || rows[0].State != store.ReviewDone {
			t.Errorf("reviews at the end: %+v", rows)
		}
		got := l.knownAt(t)
		early := 0
		for id, w := range want {
			g, ok := got[id]
			if !ok || g.KnownAtMs-w.KnownAtMs > 2*60_000 || w.KnownAtMs-g.KnownAtMs > 2*60_000 {
				t.Errorf("died at write %d: %s %s of %v is known from %d, wanted %d (%v)", diesAt, *w.Profile, w.Limb, w.Runs, g.KnownAtMs, w.KnownAtMs, ok)
			}
			if w.KnownAtMs < m.StartMs+70*60_000 {
				early++
			}
		}
		if len(got) != len(want) || early == 0 || said == 0 {
			t.Errorf("%d findings, wanted %d, of which %d lie before the change; %d were said under the old profiles", len(got), len(want), early, said)
		}
		versions := map[string]bool{}
		for _, rows := range l.allFound {
			for _, r := range rows {
				versions[r.Provenance.ProfileVersion] = true
			}
		}
		if len(versions) != 2 {
			t.Errorf("versions of %d sets of profiles are there", len(versions))
		}
		// Who comes back under the same profiles has nothing to judge again.
		again := led(t, l, b, 4, low)
		if err := again.reviewOnce(t.Context(), l.parties); err != nil || again.handed != nil {
			t.Errorf("judged again without need: %v", err)
		}
	}
}

// TestOldRunsAreTakenOver: runs and findings that lie beyond what live judging holds get versions under
// the new profiles, and nothing else does.
func TestOldRunsAreTakenOver(t *testing.T) {
	t.Parallel()
	l, b := followedPart(t)
	f := led(t, l, b, 9, configOf(t, b, 0).Profiles)
	old := RunLine{Run: "run-old", Class: "training", Members: []MemberLine{{Node: "n", StartMs: 1, EndMs: 2}}}
	doc, err := json.Marshal(old)
	if err != nil {
		t.Fatal(err)
	}
	l.allRuns["run-old"] = []store.RunRow{{RunID: "run-old", Doc: string(doc), Provenance: store.Provenance{Epoch: 1, Version: 1}}}
	name := f.d.profiles[0].Name
	finding := func(id, run string) store.FindingRow {
		text, err := json.Marshal(report.Finding{Finding: id, Profile: &name, Limb: report.Actual, Runs: []string{run}, KnownAtMs: 5})
		if err != nil {
			t.Fatal(err)
		}
		return store.FindingRow{FindingID: id, Profile: name, Limb: report.Actual, Doc: string(text)}
	}
	f.handed = &reviewed{
		row:      store.ReviewRow{ReviewID: "rev-1"},
		runs:     []store.RunRow{{RunID: "run-old", Doc: string(doc)}, {RunID: "run-of-nobody", Doc: string(doc)}},
		findings: []store.FindingRow{finding("fnd-old", "run-old"), finding("fnd-nobody", "run-of-nobody")},
	}
	for range 2 { // a write that is repeated
		if row, err := f.takeOver(t.Context()); err != nil || row == nil {
			t.Fatal(err)
		}
	}
	rows := l.allRuns["run-old"]
	if r := rows[len(rows)-1]; r.Provenance.Epoch != 9 || r.Provenance.ProfileVersion != f.d.cfg.ProfileVersion || int64(r.Provenance.Version) != f.judgedMs {
		t.Errorf("the old run: %+v", r.Provenance)
	}
	if len(l.allRuns["run-of-nobody"]) != 0 || len(l.allFound["fnd-nobody"]) != 0 {
		t.Error("a run that does not stand was said")
	}
	if found := l.allFound["fnd-old"]; len(found) == 0 || found[0].KnownAtMs != 0 && found[0].KnownAtMs != 5 {
		t.Errorf("the finding on it: %+v", found)
	}
	if err := f.tookOver(t.Context(), &f.handed.row); err != nil || f.handed != nil || l.review.rows["rev-1"].State != store.ReviewDone {
		t.Errorf("%+v, %v", l.review.rows, err)
	}
}
