package detector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// errKilled is what a write returns to a process that is no more.
var errKilled = errors.New("killed")

// liveMemory is a memory that fills as a broker's clock goes on, and that keeps all versions.
type liveMemory struct {
	*memory
	parties *identity.Graph
	nowMs   int64
	// insertedMs says when a batch's row came into the store, and became visible.
	insertedMs map[store.BatchKey]int64
	position   *store.PositionRow
	gpuCells   hours[store.GPUCellRow]
	nodeCells  hours[store.NodeCellRow]
	commCells  hours[store.CommCellRow]
	flowCells  hours[store.FlowCellRow]
	gpuHours   hours[store.GPUHourRow]
	allRuns    map[string][]store.RunRow
	allFound   map[string][]store.FindingRow
	writes     int // so far
	dieAt      int // the write that is not done any more; 0: none
	dead       bool
	refuse     int // so many calls fail
	// dieWhen says which cells are not written any more; nil: none.
	dieWhen func(c store.Cells) bool
	// shownMs says how long after it came into the store a batch's row is seen, where that is not at once.
	shownMs map[store.BatchKey]int64
	review  reviewMemory
}

// shorten ends a recording early, so that a test is quick.
func shorten(m *memory, b *bundle.Bundle) {
	b.Manifest.EndMs = min(b.Manifest.EndMs, b.Manifest.StartMs+100*60_000)
	m.batches = slices.DeleteFunc(m.batches, func(x store.BatchRow) bool { return x.AvailableMs > b.Manifest.EndMs })
}

func newLiveMemory(t testing.TB, dir string) (*liveMemory, *bundle.Bundle) {
	t.Helper()
	m, b, parties := load(t, dir)
	shorten(m, b)
	l := &liveMemory{memory: m, parties: parties, insertedMs: map[store.BatchKey]int64{}, allRuns: map[string][]store.RunRow{}, allFound: map[string][]store.FindingRow{}}
	for i := range m.batches {
		m.batches[i].Sequence = uint64(i + 1)
		l.insertedMs[m.batches[i].BatchKey] = m.batches[i].AvailableMs
	}
	slices.SortStableFunc(m.gpu, func(a, b store.GPURow) int { return cmp.Compare(a.TsMs, b.TsMs) })
	slices.SortStableFunc(m.host, func(a, b store.HostRow) int { return cmp.Compare(a.TsMs, b.TsMs) })
	slices.SortStableFunc(m.fabric, func(a, b store.FabricRow) int { return cmp.Compare(a.TsMs, b.TsMs) })
	slices.SortStableFunc(m.flows, func(a, b store.FlowRow) int { return cmp.Compare(a.TsMs, b.TsMs) })
	slices.SortStableFunc(m.comm, func(a, b store.CollectiveRow) int { return cmp.Compare(a.TsMs, b.TsMs) })
	return l, b
}

func (l *liveMemory) write() error {
	if l.refuse > 0 {
		l.refuse--
		return errors.New("the store is away")
	}
	if l.dead {
		return errKilled
	}
	l.writes++
	if l.dieAt != 0 && l.writes >= l.dieAt {
		l.dead = true
		return errKilled
	}
	return nil
}

func (l *liveMemory) visible(keep func(b store.BatchRow, insertedMs int64) bool) []store.BatchRow {
	var out []store.BatchRow
	for _, b := range l.batches {
		b.InsertedMs = l.insertedMs[b.BatchKey]
		if b.InsertedMs+l.shownMs[b.BatchKey] <= l.nowMs && keep(b, b.InsertedMs) {
			out = append(out, b)
		}
	}
	return out
}

func (l *liveMemory) BatchesAfter(_ context.Context, _ string, after, to int64) ([]store.BatchRow, error) {
	return l.visible(func(b store.BatchRow, _ int64) bool { return b.AvailableMs > after && b.AvailableMs <= to }), nil
}

func (l *liveMemory) BatchesInserted(_ context.Context, _ string, after, to int64) ([]store.BatchRow, error) {
	return l.visible(func(b store.BatchRow, insertedMs int64) bool { return insertedMs > after && b.AvailableMs <= to }), nil
}

func (l *liveMemory) FirstData(_ context.Context, _ string, from int64) (firstMs, availableMs int64, ok bool, err error) {
	all := l.visible(func(b store.BatchRow, _ int64) bool { return b.AvailableMs >= from })
	if len(all) == 0 {
		return 0, 0, false, nil
	}
	availableMs = slices.MinFunc(all, func(a, b store.BatchRow) int { return cmp.Compare(a.AvailableMs, b.AvailableMs) }).AvailableMs
	return slices.MinFunc(all, func(a, b store.BatchRow) int { return cmp.Compare(a.Minutes[0], b.Minutes[0]) }).Minutes[0] * StepMs, availableMs, true, nil
}

func (l *liveMemory) Position(context.Context, string) (store.PositionRow, bool, error) {
	if l.position == nil {
		return store.PositionRow{}, false, nil
	}
	return *l.position, true, nil
}

func (l *liveMemory) PutPosition(_ context.Context, _ string, p store.PositionRow) error {
	if err := l.write(); err != nil {
		return err
	}
	if l.position != nil && l.position.Epoch > p.Epoch {
		return store.ErrStaleEpoch
	}
	l.position = &p
	return nil
}

// PutCells writes table by table, as the store does: a process may die between any two of them.
func (l *liveMemory) PutCells(_ context.Context, c store.Cells, p store.Provenance) error {
	if l.dieWhen != nil && l.dieWhen(c) {
		l.dead = true
		return errKilled
	}
	return errors.Join(
		putCells(l, &l.gpuCells, c.GPU, p, func(r store.GPUCellRow) (any, int64) { return [3]any{r.Node, r.GPU, r.MinuteMs}, r.MinuteMs }),
		putCells(l, &l.nodeCells, c.Node, p, func(r store.NodeCellRow) (any, int64) { return [2]any{r.Node, r.MinuteMs}, r.MinuteMs }),
		putCells(l, &l.commCells, c.Comm, p, func(r store.CommCellRow) (any, int64) {
			return [6]any{r.Node, r.PID, r.GPU, r.Comm, r.Op, r.MinuteMs}, r.MinuteMs
		}),
		putCells(l, &l.flowCells, c.Flow, p, func(r store.FlowCellRow) (any, int64) { return [3]any{r.Node, r.Peer, r.MinuteMs}, r.MinuteMs }),
		putCells(l, &l.gpuHours, c.Hour, p, func(r store.GPUHourRow) (any, int64) { return [3]any{r.Node, r.GPU, r.MinuteMs}, r.MinuteMs }),
	)
}

func putCells[R any](l *liveMemory, to *hours[R], rows []R, p store.Provenance, of func(R) (key any, minuteMs int64)) error {
	if len(rows) == 0 {
		return nil
	}
	if err := l.write(); err != nil {
		return err
	}
	for _, r := range rows {
		key, minuteMs := of(r)
		to.put(minuteMs, key, r, p.Version+p.Epoch%60_000) // as the store does
	}
	return nil
}

// hours keeps the latest version of each cell, by hour and key.
type hours[R any] map[int64]map[any]version[R]

type version[R any] struct {
	row R
	at  uint64
}

func (h *hours[R]) put(minuteMs int64, key any, r R, at uint64) {
	if *h == nil {
		*h = hours[R]{}
	}
	hour := minuteMs / 3_600_000
	if (*h)[hour] == nil {
		(*h)[hour] = map[any]version[R]{}
	}
	if (*h)[hour][key].at <= at { // of one version the later
		(*h)[hour][key] = version[R]{r, at}
	}
}

// all are the cells as text, in order.
func (h hours[R]) all() []string {
	var out []string
	for _, hour := range h {
		for _, v := range hour { // sorted below
			out = append(out, fmt.Sprintf("%+v", v.row))
		}
	}
	slices.Sort(out)
	return out
}

func (h hours[R]) in(q store.RowQuery, at func(R) (node string, minuteMs int64)) []R {
	var out []R
	for hour := q.FromMs / 3_600_000; hour <= q.ToMs/3_600_000; hour++ {
		for _, v := range h[hour] { // readers take them in any order
			if node, ms := at(v.row); ms >= q.FromMs && ms < q.ToMs && (q.Nodes == nil || slices.Contains(q.Nodes, node)) {
				out = append(out, v.row)
			}
		}
	}
	return out
}

func (l *liveMemory) GPUCells(_ context.Context, q store.RowQuery) ([]store.GPUCellRow, error) {
	return l.gpuCells.in(q, func(r store.GPUCellRow) (string, int64) { return r.Node, r.MinuteMs }), nil
}

func (l *liveMemory) NodeCells(_ context.Context, q store.RowQuery) ([]store.NodeCellRow, error) {
	return l.nodeCells.in(q, func(r store.NodeCellRow) (string, int64) { return r.Node, r.MinuteMs }), nil
}

func (l *liveMemory) CommCells(_ context.Context, q store.RowQuery) ([]store.CommCellRow, error) {
	return l.commCells.in(q, func(r store.CommCellRow) (string, int64) { return r.Node, r.MinuteMs }), nil
}

func (l *liveMemory) FlowCells(_ context.Context, q store.RowQuery) ([]store.FlowCellRow, error) {
	return l.flowCells.in(q, func(r store.FlowCellRow) (string, int64) { return r.Node, r.MinuteMs }), nil
}

// between cuts rows that are sorted by time, before they are looked at one by one.
func between[R any](rows []R, q store.RowQuery, ts func(R) int64) []R {
	lo, _ := slices.BinarySearchFunc(rows, q.FromMs, func(r R, ms int64) int { return cmp.Compare(ts(r), ms) })
	hi, _ := slices.BinarySearchFunc(rows, q.ToMs, func(r R, ms int64) int { return cmp.Compare(ts(r), ms) })
	return rows[lo:hi]
}

func (l *liveMemory) GPURows(ctx context.Context, q store.RowQuery) ([]store.GPURow, error) {
	return (&memory{gpu: between(l.gpu, q, func(r store.GPURow) int64 { return r.TsMs })}).GPURows(ctx, q)
}

func (l *liveMemory) HostRows(ctx context.Context, q store.RowQuery) ([]store.HostRow, error) {
	return (&memory{host: between(l.host, q, func(r store.HostRow) int64 { return r.TsMs })}).HostRows(ctx, q)
}

func (l *liveMemory) FabricRows(ctx context.Context, q store.RowQuery) ([]store.FabricRow, error) {
	return (&memory{fabric: between(l.fabric, q, func(r store.FabricRow) int64 { return r.TsMs })}).FabricRows(ctx, q)
}

func (l *liveMemory) FlowRows(ctx context.Context, q store.RowQuery) ([]store.FlowRow, error) {
	return (&memory{flows: between(l.flows, q, func(r store.FlowRow) int64 { return r.TsMs })}).FlowRows(ctx, q)
}

func (l *liveMemory) CollectiveRows(ctx context.Context, q store.RowQuery) ([]store.CollectiveRow, error) {
	return (&memory{comm: between(l.comm, q, func(r store.CollectiveRow) int64 { return r.TsMs })}).CollectiveRows(ctx, q)
}

func (l *liveMemory) PutRuns(_ context.Context, _ string, rows []store.RunRow) error {
	if err := l.write(); err != nil {
		return err
	}
	for _, r := range rows {
		for _, old := range l.allRuns[r.RunID] {
			if old.Provenance.Version == r.Provenance.Version && old.Provenance.Epoch == r.Provenance.Epoch && old.Doc != r.Doc {
				return fmt.Errorf("run %s was judged twice at %d with one version", r.RunID, r.Provenance.Version)
			}
		}
		l.allRuns[r.RunID] = append(l.allRuns[r.RunID], r)
	}
	return nil
}

func (l *liveMemory) PutRunMembers(context.Context, string, []store.RunMemberRow) error {
	return l.write()
}

func (l *liveMemory) PutFindings(_ context.Context, _ string, rows []store.FindingRow) error {
	if err := l.write(); err != nil {
		return err
	}
	for _, r := range rows {
		if all := l.allFound[r.FindingID]; len(all) > 0 {
			r.RaisedMs, r.RaisedAt = all[0].RaisedMs, all[0].RaisedAt
		}
		l.allFound[r.FindingID] = append(l.allFound[r.FindingID], r)
	}
	return nil
}

func latest[R any](all map[string][]R, to uint64, at func(R) store.Provenance) []R {
	var out []R
	for _, id := range slices.Sorted(maps.Keys(all)) {
		rows := slices.DeleteFunc(slices.Clone(all[id]), func(r R) bool { return at(r).Version > to })
		if len(rows) > 0 {
			slices.SortStableFunc(rows, func(a, b R) int {
				return cmp.Or(cmp.Compare(at(a).Epoch, at(b).Epoch), cmp.Compare(at(a).Version, at(b).Version))
			})
			out = append(out, rows[len(rows)-1])
		}
	}
	return out
}

func (l *liveMemory) RunsAsOf(_ context.Context, _ string, version uint64) ([]store.RunRow, error) {
	return latest(l.allRuns, version, func(r store.RunRow) store.Provenance { return r.Provenance }), nil
}

func (l *liveMemory) FindingsAsOf(_ context.Context, _ string, version uint64) ([]store.FindingRow, error) {
	return latest(l.allFound, version, func(r store.FindingRow) store.Provenance { return r.Provenance }), nil
}

func (l *liveMemory) LatestRuns(ctx context.Context, cluster string) ([]store.RunRow, error) {
	return l.RunsAsOf(ctx, cluster, maxMs)
}

func (l *liveMemory) LatestFindings(ctx context.Context, cluster string) ([]store.FindingRow, error) {
	return l.FindingsAsOf(ctx, cluster, maxMs)
}

func (l *liveMemory) PartiesMark(context.Context) (string, error) { return "", nil }

func (l *liveMemory) LossesMark(context.Context, string) (string, error) {
	return fmt.Sprint("mark ", l.losses), nil
}

func (l *liveMemory) PutParties(context.Context, []store.PartyRow) error { return nil }

func (l *liveMemory) PutPartyAccounts(context.Context, []store.PartyAccountRow) error { return nil }

func (l *liveMemory) Parties(context.Context, int64) ([]store.PartyRow, error) { return nil, nil }

func (l *liveMemory) PartyAccounts(context.Context, int64) ([]store.PartyAccountRow, error) {
	return nil, nil
}

// follow follows a recording to its end as its availability goes on, step by step of the
// broker's clock. Where the store dies under it, another leader with a new epoch goes on.
func follow(t *testing.T, l *liveMemory, b *bundle.Bundle, change func(*Config, *LiveConfig), dieAfter func(life int) int) (lives int) {
	t.Helper()
	m := b.Manifest
	for _, x := range l.batches {
		l.nowMs = min(cmp.Or(l.nowMs, x.AvailableMs), x.AvailableMs)
	}
	l.nowMs = min(l.nowMs, m.StartMs)
	for lives = 1; ; lives++ {
		if lives > 1000 {
			t.Fatal("no end after a thousand lives")
		}
		cfg, live := configOf(t, b, uint64(lives)), LiveConfig{
			StartMs: m.StartMs, EndMs: m.EndMs, SettleMs: -1, Retry: time.Nanosecond,
			Held: func() error {
				if l.dead {
					return errKilled
				}
				return nil
			},
			BrokerMs: func() (int64, bool) { return l.nowMs, true }, Log: slog.New(slog.DiscardHandler),
		}
		if change != nil {
			change(&cfg, &live)
		}
		l.dead, l.dieAt = false, 0
		if n := dieAfter(lives); n > 0 {
			l.dieAt = l.writes + n
		}
		f, err := NewFollower(cfg, live, l)
		if err != nil {
			t.Fatal(err)
		}
		f.d.parties = l.parties
		life := t.Context()
		err = func() error {
			if err := f.resume(life); err != nil {
				return err
			}
			for f.judgedMs < m.EndMs {
				if err := f.advance(life, l.nowMs); err != nil {
					return err
				}
				l.nowMs += 97_000 // no whole number of minutes
			}
			return f.writeReports(life, true)
		}()
		if err == nil {
			return lives
		}
		if !l.dead {
			t.Fatal(err)
		}
	}
}

// inOneLife is clean-mix, followed once for all tests that only read it.
var inOneLife struct {
	once sync.Once
	l    *liveMemory
	b    *bundle.Bundle
}

func followed(t *testing.T) (*liveMemory, *bundle.Bundle) {
	t.Helper()
	inOneLife.once.Do(func() {
		l, b := newLiveMemory(t, filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix"))
		follow(t, l, b, nil, func(int) int { return 0 })
		inOneLife.l, inOneLife.b = l, b
	})
	if inOneLife.l == nil {
		t.Fatal("the recording could not be followed")
	}
	return inOneLife.l, inOneLife.b
}

// lines are the verdicts that hold, whatever their epoch.
func (l *liveMemory) lines() (runs, findings []string) {
	for _, r := range latest(l.allRuns, maxMs, func(r store.RunRow) store.Provenance { return r.Provenance }) {
		if r.SupersededBy == "" {
			runs = append(runs, r.Doc)
		}
	}
	for _, r := range latest(l.allFound, maxMs, func(r store.FindingRow) store.Provenance { return r.Provenance }) {
		if !r.Retracted {
			findings = append(findings, r.Doc)
		}
	}
	slices.Sort(runs)
	slices.Sort(findings)
	return runs, findings
}

func wantSame(t *testing.T, what string, got, want []string) {
	t.Helper()
	if slices.Equal(got, want) {
		return
	}
	t.Errorf("%s: %d lines, wanted %d", what, len(got), len(want))
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Logf("got only  %.300s", g)
		}
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Logf("want only %.300s", w)
		}
	}
}

// TestFollowIsBackfill: the same rows give the same lines, followed live or judged at the end,
// in one life or in many that end between any two writes.
func TestFollowIsBackfill(t *testing.T) {
	t.Parallel()
	for _, dir := range testenv.Recordings(t) {
		for name, die := range map[string]func(int) int{
			"one life":   func(int) int { return 0 },
			"many lives": func(life int) int { return 2 + 5*(life%41) },
		} {
			t.Run(filepath.Base(dir)+"/"+name, func(t *testing.T) {
				t.Parallel()
				m, b, parties := load(t, dir)
				shorten(m, b)
				if err := New(configOf(t, b, 1), m, parties).Backfill(t.Context(), b.Manifest.StartMs, b.Manifest.EndMs); err != nil {
					t.Fatal(err)
				}
				runs, findings, err := Lines(t.Context(), m, b.Manifest.Cluster, 1)
				if err != nil {
					t.Fatal(err)
				}
				asked, err := Inquiries(t.Context(), m, b.Manifest.Cluster, 1)
				if err != nil {
					t.Fatal(err)
				}
				findings = append(findings, asked...)
				slices.Sort(runs)
				slices.Sort(findings)
				lives := 1
				var l *liveMemory
				if name == "one life" && filepath.Base(dir) == "clean-mix" {
					l, _ = followed(t)
				} else {
					l, b = newLiveMemory(t, dir)
					lives = follow(t, l, b, nil, die)
				}
				gotRuns, gotFindings := l.lines()
				t.Logf("%d lives, %d writes, %d runs, %d findings", lives, l.writes, len(gotRuns), len(gotFindings))
				wantSame(t, "runs", gotRuns, runs)
				wantSame(t, "findings", gotFindings, findings)
				for id, versions := range l.allFound {
					for _, v := range versions {
						if v.RaisedMs != versions[0].RaisedMs {
							t.Errorf("finding %s was raised at %d and at %d", id, versions[0].RaisedMs, v.RaisedMs)
						}
					}
				}
			})
		}
	}
}

// TestLateBatches: rows of batches that appear long after younger ones, in any order, end in
// the same runs as if they had come in time, whatever is killed between.
func TestLateBatches(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix")
	want, _ := followed(t)
	runs, _ := want.lines()
	l, b := newLiveMemory(t, dir)
	chance := rand.New(rand.NewPCG(1, 2))
	for i, x := range l.batches {
		if x.AvailableMs < b.Manifest.EndMs-60*60_000 && i%5 == 0 { // an hour later than younger ones
			l.insertedMs[x.BatchKey] += chance.Int64N(40 * 60_000)
		}
	}
	lives := follow(t, l, b, nil, func(life int) int { return 20 + 7*(life%13) })
	got, _ := l.lines()
	t.Logf("%d lives", lives)
	wantSame(t, "runs", got, runs)
}

// TestReportsAreWritten: each finding that holds has its folder, each that was taken back has
// none beside them.
func TestReportsAreWritten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix")
	l, b := newLiveMemory(t, dir)
	reports := filepath.Join(t.TempDir(), "reports")
	follow(t, l, b, func(_ *Config, c *LiveConfig) { c.ReportsDir = reports }, func(life int) int {
		if life < 6 {
			return 150
		}
		return 0
	})
	for id, versions := range l.allFound {
		_, err := os.Stat(filepath.Join(reports, id, "report.json"))
		if !report.IsFinding(versions[0].Limb) {
			if err == nil {
				t.Errorf("%s %s has a report", versions[0].Limb, id)
			}
			continue
		}
		if last := versions[len(versions)-1]; last.Retracted == (err == nil) {
			entries, _ := os.ReadDir(filepath.Join(reports, id))
			t.Errorf("finding %s, retracted %v: %v (%v)", id, last.Retracted, err, entries)
		}
	}
	if len(l.allFound) == 0 {
		t.Error("no finding was raised: the test shows nothing")
	}
}

// TestHorizon: minutes beyond the horizon leave memory, activities that go on stay whole, and
// what ended stays as it was judged.
func TestHorizon(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix")
	whole, _ := followed(t)
	want, _ := whole.lines()
	l, b := newLiveMemory(t, dir)
	span := b.Manifest.EndMs - b.Manifest.StartMs
	lives := follow(t, l, b, func(_ *Config, c *LiveConfig) { c.HorizonMs = span / 4 }, func(life int) int { return 200 + life })
	got, _ := l.lines()
	ids := func(lines []string) []string {
		out := make([]string, len(lines))
		for i, x := range lines {
			out[i], _, _ = strings.Cut(x, ",")
		}
		return out
	}
	missing := 0
	for _, id := range ids(want) {
		if !slices.Contains(ids(got), id) {
			name := strings.Trim(strings.TrimPrefix(id, `{"run":`), `"`)
			versions := l.allRuns[name]
			if n := len(versions); n > 0 && versions[n-1].Class == "idle" && versions[n-1].SupersededBy != noRun {
				continue // a rental without work begins again at the cut
			}
			missing++
			t.Logf("lost %s: %+v", name, versions)
		}
	}
	t.Logf("%d lives, %d runs, %d without a horizon, %d of those missing, cut at %d of %d", lives, len(got), len(want), missing, l.position.CutMs-b.Manifest.StartMs, span)
	if l.position.CutMs == 0 {
		t.Error("nothing was let go")
	}
	if missing > 0 {
		t.Error("runs were lost with the minutes that were let go")
	}
}

// TestStoreAway: a store that refuses is waited for, told once, and nothing is lost.
func TestStoreAway(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testenv.Root(t), "deploy", "recordings", "mlperf-lora")
	want, b := newLiveMemory(t, dir)
	follow(t, want, b, nil, func(int) int { return 0 })
	wantRuns, wantFindings := want.lines()
	synctest.Test(t, func(t *testing.T) {
		l, b := newLiveMemory(t, dir)
		l.nowMs = b.Manifest.EndMs + 60*60_000
		l.refuse = 3
		var said strings.Builder
		blocked := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(blocked, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := NewFollower(configOf(t, b, 1), LiveConfig{
			ReportsDir: filepath.Join(blocked, "reports"), // cannot be made
			Held:       func() error { return nil }, StartMs: b.Manifest.StartMs, EndMs: b.Manifest.EndMs,
			BrokerMs: func() (int64, bool) {
				l.refuse = 2
				return l.nowMs, true
			},
			Log: slog.New(slog.NewTextHandler(&said, nil)),
		}, l)
		if err != nil {
			t.Fatal(err)
		}
		f.d.parties = l.parties
		if err := f.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		runs, findings := l.lines()
		wantSame(t, "runs", runs, wantRuns)
		wantSame(t, "findings", findings, wantFindings)
		if s := f.Status(); s.Errors < 2 || s.LastError != "" || s.JudgedUpToMs != b.Manifest.EndMs {
			t.Errorf("status %+v", s)
		}
		if s := f.Status(); s.ReportError == "" || strings.Count(said.String(), "reports wait") != 1 {
			t.Errorf("a folder that cannot be made: %+v\n%s", s, said.String())
		}
		if err := os.Remove(blocked); err != nil {
			t.Fatal(err)
		}
		if err := f.writeReports(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		reported := 0 // a question has no folder
		for _, x := range f.d.prev {
			if report.IsFinding(x.Limb) {
				reported++
			}
		}
		if made, err := os.ReadDir(f.live.ReportsDir); err != nil || reported == 0 || len(made) != reported || f.Status().ReportError != "" {
			t.Errorf("%d folders, want %d: %v, %+v", len(made), reported, err, f.Status())
		}
		f.clock(b.Manifest.EndMs-3*60_000, true) // the broker's time is set back
		if s := f.Status(); s.AheadMs != 3*60_000+WaitMs+SettleMs || s.LagMs != 0 {
			t.Errorf("status under a broker whose time was set back: %+v", s)
		}
		if n := strings.Count(said.String(), "cannot go on"); n == 0 || n > 3 {
			t.Errorf("told %d times:\n%s", n, said.String())
		}
	})
}

// TestStaleLeaderSaysNothing: whoever lost the lease writes no more.
func TestStaleLeaderSaysNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testenv.Root(t), "deploy", "recordings", "mlperf-lora")
	l, b := newLiveMemory(t, dir)
	l.nowMs = b.Manifest.EndMs + 60*60_000
	lost := errors.New("lease lost")
	f, err := NewFollower(configOf(t, b, 1), LiveConfig{
		StartMs: b.Manifest.StartMs, EndMs: b.Manifest.EndMs, BrokerMs: func() (int64, bool) { return l.nowMs, true }, Log: slog.New(slog.DiscardHandler),
		Held: func() error {
			if l.writes >= 12 {
				return lost
			}
			return nil
		},
	}, l)
	if err != nil {
		t.Fatal(err)
	}
	if err = f.Run(t.Context()); !errors.Is(err, ErrStopped) || !errors.Is(err, lost) {
		t.Errorf("got %v, want %v", err, ErrStopped)
	}
	if l.writes != 12 {
		t.Errorf("%d writes, want 12", l.writes)
	}
	// Another leads, with a higher epoch: the store itself refuses the one before.
	l.position = &store.PositionRow{Epoch: 2}
	if f, err = NewFollower(configOf(t, b, 1), LiveConfig{
		StartMs: b.Manifest.StartMs, BrokerMs: func() (int64, bool) { return l.nowMs, true }, Log: slog.New(slog.DiscardHandler), Held: func() error { return nil },
	}, l); err != nil {
		t.Fatal(err)
	}
	if err = f.Run(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("got %v, want %v", err, ErrStopped)
	}
}

// TestPlaceNodes: what the inventory does not state is taken from the node's own driver and
// ports; where both speak the inventory holds, and the difference shows.
func TestPlaceNodes(t *testing.T) {
	t.Parallel()
	const h100, a100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"
	d := New(Config{}, nil, nil)
	d.rates = map[string]float64{"live": 3200}
	var devices []store.DeviceRow
	for gpu := range 8 {
		for _, node := range []string{"live", "listed", "wrong"} {
			devices = append(devices, store.DeviceRow{Node: node, GPU: gpu, Model: h100, PowerLimitW: 650})
		}
	}
	d.placeNodes([]store.InventoryRow{
		{Node: "listed", GPUCount: -1, FabricGbps: 400, TDPW: nan},
		{Node: "wrong", GPUModel: a100, GPUCount: 16, FabricGbps: nan, TDPW: nan},
		{Node: "silent", GPUModel: a100, GPUCount: 8, FabricGbps: nan, TDPW: nan},
	}, devices)
	n := d.st.nodes
	if x := n["live"]; x.Listed || x.GPUModel != h100 || x.GPUCount != 8 || x.TDPW != 650 || x.FabricGbps != 3200 {
		t.Errorf("a node that no inventory lists: %+v", x)
	}
	if x := n["listed"]; !x.Listed || x.GPUModel != h100 || x.GPUCount != 8 || x.TDPW != 650 || x.FabricGbps != 400 {
		t.Errorf("a node of which the inventory states little: %+v", x)
	}
	if x := n["wrong"]; x.GPUModel != a100 || x.GPUCount != 16 || x.SeenModel != h100 || x.SeenCount != 8 || x.TDPW == 650 || !otherPart(x.GPUModel, x.SeenModel) {
		t.Errorf("a node that says otherwise: %+v", x)
	}
	if x := n["silent"]; x.SeenModel != "" || x.SeenCount != 0 || x.GPUModel != a100 {
		t.Errorf("a node that says nothing: %+v", x)
	}
	if otherPart(h100, h100) || otherPart("", h100) || otherPart("something new", h100) {
		t.Error("names of one part, or that nobody knows, are no contradiction")
	}
}

// TestTrim: minutes before the cut leave memory, and are counted; what goes on stays whole.
func TestTrim(t *testing.T) {
	t.Parallel()
	whole, b := followed(t)
	d := New(configOf(t, b, 1), whole, whole.parties)
	cells, err := d.readCells(t.Context(), store.RowQuery{FromMs: b.Manifest.StartMs - dayMs, ToMs: b.Manifest.EndMs + dayMs})
	if err != nil {
		t.Fatal(err)
	}
	for i := range cells {
		d.put(cells[i].cells)
	}
	total := d.st.gpuCells
	on := d.st.sortedGPUs()[0]
	all := len(d.st.gpu[on].get(on))
	d.acts = []judged{
		{run: run.Run{ID: "on", StartMs: b.Manifest.StartMs, Open: true, Members: []run.Member{{Node: on.Node, GPU: on.GPU, StartMs: b.Manifest.StartMs, EndMs: b.Manifest.EndMs}}}},
		{run: run.Run{ID: "ended", StartMs: b.Manifest.StartMs, EndMs: b.Manifest.StartMs + 1}},
	}
	d.trim(b.Manifest.EndMs - 50*60_000)
	kept := 0
	for k, c := range d.st.gpu {
		held := c.get(k)
		kept += len(held)
		if k != on && held[0].MinuteMs < d.cutMs {
			t.Errorf("a minute at %d lies before the cut at %d", held[0].MinuteMs, d.cutMs)
		}
		if k == on && len(held) != all {
			t.Errorf("%d cells of what goes on, want %d", len(held), all)
		}
	}
	if kept != d.st.gpuCells || kept >= total || kept == 0 {
		t.Errorf("%d cells counted, %d there, %d before", d.st.gpuCells, kept, total)
	}
}
