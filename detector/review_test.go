package detector

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/store"
)

// reviewMemory is what a liveMemory keeps of reviews.
type reviewMemory struct {
	rows     map[string]store.ReviewRow
	runs     map[string]map[string][]store.RunRow
	findings map[string]map[string][]store.FindingRow
}

func (l *liveMemory) CellSpan(context.Context, string) (firstMs, lastMs int64, ok bool, err error) {
	firstMs = math.MaxInt64
	for _, h := range l.gpuCells {
		for _, v := range h {
			firstMs, lastMs, ok = min(firstMs, v.row.MinuteMs), max(lastMs, v.row.MinuteMs), true
		}
	}
	return firstMs, lastMs, ok, nil
}

func (l *liveMemory) Reviews(context.Context, string) ([]store.ReviewRow, error) {
	return slices.SortedFunc(maps.Values(l.review.rows), func(a, b store.ReviewRow) int { return cmp.Compare(a.ReviewID, b.ReviewID) }), nil
}

func (l *liveMemory) PutReview(_ context.Context, _ string, r store.ReviewRow) error {
	if err := l.write(); err != nil {
		return err
	}
	if l.review.rows == nil {
		l.review.rows = map[string]store.ReviewRow{}
	}
	if l.review.rows[r.ReviewID].Progress <= r.Progress {
		l.review.rows[r.ReviewID] = r
	}
	return nil
}

func putReviewed[R any](l *liveMemory, to *map[string]map[string][]R, review string, rows []R, id func(R) string) error {
	if err := l.write(); err != nil {
		return err
	}
	if *to == nil {
		*to = map[string]map[string][]R{}
	}
	if (*to)[review] == nil {
		(*to)[review] = map[string][]R{}
	}
	for _, r := range rows {
		(*to)[review][id(r)] = append((*to)[review][id(r)], r)
	}
	return nil
}

func (l *liveMemory) PutReviewedRuns(_ context.Context, _, review string, rows []store.RunRow) error {
	return putReviewed(l, &l.review.runs, review, rows, func(r store.RunRow) string { return r.RunID })
}

func (l *liveMemory) PutReviewedFindings(_ context.Context, _, review string, rows []store.FindingRow) error {
	return putReviewed(l, &l.review.findings, review, rows, func(r store.FindingRow) string { return r.FindingID })
}

func (l *liveMemory) ReviewedRuns(_ context.Context, _, review string, version uint64) ([]store.RunRow, error) {
	return latest(l.review.runs[review], version, func(r store.RunRow) store.Provenance { return r.Provenance }), nil
}

func (l *liveMemory) ReviewedFindings(_ context.Context, _, review string, version uint64) ([]store.FindingRow, error) {
	return latest(l.review.findings[review], version, func(r store.FindingRow) store.Provenance { return r.Provenance }), nil
}

// reviewOf is a review of a whole recording under profiles.
func reviewOf(t *testing.T, l *liveMemory, b *bundle.Bundle, profiles []threshold.Profile) *Review {
	t.Helper()
	cfg := configOf(t, b, 0)
	if profiles != nil {
		cfg.Profiles = profiles
	}
	var err error
	if cfg.ProfileVersion, err = threshold.Digest(cfg.Profiles); err != nil {
		t.Fatal(err)
	}
	m := b.Manifest
	r, err := NewReview(ReviewConfig{
		Config: cfg, Last: true, BlockMs: 15 * 60_000,
		Row: store.ReviewRow{ReviewID: ReviewID(store.ReviewBacktest, &cfg, m.StartMs, m.EndMs), Kind: store.ReviewBacktest, FromMs: m.StartMs, UntilMs: m.EndMs},
	}, l, l.parties)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// against compares a review with what was judged live.
func against(t *testing.T, l *liveMemory, b *bundle.Bundle, r *Review, profiles ...string) Difference {
	t.Helper()
	in := DiffInput{FromMs: b.Manifest.StartMs, UntilMs: b.Manifest.EndMs, Profiles: profiles}
	in.Runs, _ = l.LatestRuns(t.Context(), "")
	in.Findings, _ = l.LatestFindings(t.Context(), "")
	in.NewRuns, in.New = r.Verdicts()
	d, err := Diff(in)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestReviewUnderTheSameProfiles: history that is judged again under what it was judged under stays as
// it was.
func TestReviewUnderTheSameProfiles(t *testing.T) {
	t.Parallel()
	l, b := followedPart(t)
	r := reviewOf(t, l, b, nil)
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range r.d.profiles {
		names = append(names, p.Name)
	}
	d := against(t, l, b, r, names...)
	if d.Runs == 0 || d.Findings == 0 || d.LeftOut != 0 {
		t.Errorf("%d runs and %d findings compared, %d left out: the test shows nothing", d.Runs, d.Findings, d.LeftOut)
	}
	for _, c := range d.Changes {
		t.Errorf("%+v, was %+v, is %+v", c, c.Was, c.Is)
	}
}

// TestReviewUnderOtherProfiles: a limit that is lower raises findings with the moment from which
// evidence sufficed, beside the old verdicts, which stay as they were; one that is higher takes them back.
func TestReviewUnderOtherProfiles(t *testing.T) {
	t.Parallel()
	l, b := followedPart(t)
	runs, findings := l.lines()
	base := configOf(t, b, 0).Profiles
	low, high := slices.Clone(base), slices.Clone(base)
	for i := range base {
		low[i].LimitFLOPs, high[i].LimitFLOPs = base[i].LimitFLOPs/1000, base[i].LimitFLOPs*1e6
	}
	changes := func(profiles []threshold.Profile, names ...string) map[string]int {
		r := reviewOf(t, l, b, profiles)
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		n := map[string]int{}
		for _, c := range against(t, l, b, r, names...).Changes {
			n[c.Of+" "+c.What]++
			if len(c.Reasons) == 0 {
				t.Errorf("%s of %s %s without a reason", c.What, c.Of, c.ID)
			}
			if c.What == Appears && c.Of == "finding" && c.Limb == "actual" && (c.Is.KnownAtMs <= b.Manifest.StartMs || c.Is.KnownAtMs >= b.Manifest.EndMs) {
				t.Errorf("a limit of a thousandth was crossed at %d ms, the end is %d", c.Is.KnownAtMs, b.Manifest.EndMs)
			}
		}
		return n
	}
	var names []string
	for i := range base {
		names = append(names, base[i].Name)
	}
	if n := changes(low, names...); n["finding appears"] == 0 && n["finding changes"] == 0 || n["finding vanishes"] != 0 {
		t.Errorf("a thousandth of the limits: %v", n)
	}
	if n := changes(high, names...); n["finding appears"] != 0 {
		t.Errorf("a million times the limits: %v", n)
	}
	other := slices.Clone(low[:1])
	other[0].Name = "another"
	if n := changes(other, "another"); n["finding vanishes"] != 0 {
		t.Errorf("another profile: %v", n)
	}
	now, found := l.lines()
	wantSame(t, "runs", now, runs)
	wantSame(t, "findings", found, findings)
}

// TestReviewDiesAnywhere: a review that is cut off at any of its writes and taken up again says in the
// end what one says that is not.
func TestReviewDiesAnywhere(t *testing.T) {
	t.Parallel()
	l, b := followedPart(t)
	low := slices.Clone(configOf(t, b, 0).Profiles)
	for i := range low {
		low[i].LimitFLOPs /= 1000
	}
	texts := func() (out []string) {
		for _, rows := range l.review.runs {
			for _, r := range latest(rows, maxMs, func(r store.RunRow) store.Provenance { return r.Provenance }) {
				out = append(out, r.SupersededBy+" "+r.Doc)
			}
		}
		for _, rows := range l.review.findings {
			for _, f := range latest(rows, maxMs, func(f store.FindingRow) store.Provenance { return f.Provenance }) {
				out = append(out, map[bool]string{true: "retracted "}[f.Retracted]+f.Doc)
			}
		}
		slices.Sort(out)
		return out
	}
	l.writes = 0
	if err := reviewOf(t, l, b, low).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	want, writes := texts(), l.writes
	if len(want) == 0 || writes < 15 {
		t.Fatalf("%d lines in %d writes: the test shows nothing", len(want), writes)
	}
	for at := 1; at <= writes; at++ {
		l.review, l.writes, l.dieAt, l.dead = reviewMemory{}, 0, at, false
		if err := reviewOf(t, l, b, low).Run(t.Context()); !errors.Is(err, errKilled) {
			t.Fatalf("cut off at write %d: %v", at, err)
		}
		l.dieAt, l.dead = 0, false
		r := reviewOf(t, l, b, low)
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if wantSame(t, "lines", texts(), want); t.Failed() || r.Row().State != store.ReviewDone {
			t.Fatalf("cut off at write %d of %d, it is %s", at, writes, r.Row().State)
		}
	}
}

// TestReviewOfNothing: a period of which there are no cells is an error.
func TestReviewOfNothing(t *testing.T) {
	t.Parallel()
	l, b := followedPart(t)
	b.Manifest.StartMs, b.Manifest.EndMs = b.Manifest.EndMs+dayMs, b.Manifest.EndMs+2*dayMs
	if err := reviewOf(t, l, b, nil).Run(t.Context()); !errors.Is(err, ErrNoCells) {
		t.Errorf("%v", err)
	}
}
