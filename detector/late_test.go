package detector

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// portions is a memory that knows how much was read of it at once.
type portions struct {
	*memory
	most    int // rows of GPUs in one answer
	answers int
}

func (p *portions) GPURows(ctx context.Context, q store.RowQuery) ([]store.GPURow, error) {
	rows, err := p.memory.GPURows(ctx, q)
	p.most, p.answers = max(p.most, len(rows)), p.answers+1
	return rows, err
}

// TestRowsOfDaysAreReadInPortions: rows that come long after their time make the same cells as
// rows that come in time, and are not all in memory at once.
func TestRowsOfDaysAreReadInPortions(t *testing.T) {
	t.Parallel()
	m, b, parties := load(t, filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix"))
	made := map[bool]map[nodeMinute]string{}
	for _, far := range []bool{false, true} {
		from := b.Manifest.StartMs - dayMs
		if far {
			from = b.Manifest.EndMs + dayMs
		}
		p := &portions{memory: m}
		d := New(configOf(t, b, 1), p, parties)
		w, err := d.loadWindow(t.Context(), m.batches, from, maxMs)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = (&rawFeed{d: d, w: w, nearMs: from, batches: m.batches}).until(t.Context(), maxMs); err != nil {
			t.Fatal(err)
		}
		made[far] = map[nodeMinute]string{}
		for k, c := range d.pending.cells {
			made[far][k] = fmt.Sprintf("%+v", c)
		}
		t.Logf("far %v: %d cells, %d answers, %d of %d rows in the largest", far, len(made[far]), p.answers, p.most, len(m.gpu))
		if far && p.most*int(b.Manifest.EndMs-b.Manifest.StartMs) > 2*len(m.gpu)*(farSpanMs+feature.WindowMs) {
			t.Errorf("%d rows were in memory at once, of %d", p.most, len(m.gpu))
		}
	}
	if len(made[true]) == 0 || !maps.Equal(made[true], made[false]) {
		t.Error("rows that come late make other cells")
	}
}

// TestLateBeforeTheCut: a minute that memory let go does not come back on its own, but its cell
// is stored; one of an activity that is kept whole does.
func TestLateBeforeTheCut(t *testing.T) {
	t.Parallel()
	minute := base / feature.MinuteMs
	w := newWindow(feature.Samples{GPU: []feature.GPUSample{gpuRow("gone", base, base, 100), gpuRow("kept", base, base, 100)}})
	d := New(Config{}, nil, nil)
	d.cutMs = base + 2*feature.MinuteMs
	d.st.putGPU(feature.GPUCell{Node: "kept", MinuteMs: base - feature.MinuteMs})
	if !apply(t, d, w, []store.BatchRow{batch("gone", base, minute), batch("kept", base, minute)}, base+WaitMs) {
		t.Error("nothing came")
	}
	if n := len(d.pending.cells); n != 2 {
		t.Errorf("%d cells will be stored, want 2", n)
	}
	if n := len(heldOf(d, "gone")); n != 0 {
		t.Errorf("%d cells came back that were let go", n)
	}
	if n := len(heldOf(d, "kept")); n != 2 {
		t.Errorf("%d cells of a GPU that is kept, want 2", n)
	}
}

// TestLateBehindExpiredRows: a batch that comes when the other rows of its minute have expired does not
// put a cell of its own rows in place of the one made of all of them.
func TestLateBehindExpiredRows(t *testing.T) {
	t.Parallel()
	minute := base / feature.MinuteMs
	d := New(Config{}, nil, nil)
	whole := newWindow(feature.Samples{GPU: []feature.GPUSample{gpuRow("a", base, base, 100), gpuRow("a", base+10_000, base+10_000, 100), gpuRow("a", base+20_000, base+20_000, 100)}})
	apply(t, d, whole, []store.BatchRow{batch("a", base+20_000, minute)}, base+WaitMs)
	late := base + 31*dayMs
	left := newWindow(feature.Samples{GPU: []feature.GPUSample{gpuRow("a", base+30_000, late, 400)}})
	apply(t, d, left, []store.BatchRow{batch("a", late, minute)}, late+WaitMs)
	if cells := heldOf(d, "a"); len(cells) != 1 || cells[0].Samples != 3 || cells[0].Mean[feature.PowerW] != 100 {
		t.Errorf("cells %+v", cells)
	}
	if c := d.pending.cells[nodeMinute{"a", base}]; len(c.gpu) != 1 || c.gpu[0].Samples != 3 {
		t.Errorf("to be stored: %+v", c.gpu)
	}
}

// TestReportThatFailsComesLast: one folder that cannot be written holds up no other.
func TestReportThatFailsComesLast(t *testing.T) {
	t.Parallel()
	q := newReportQueue()
	q.add([]store.FindingRow{{FindingID: "a"}, {FindingID: "b"}, {FindingID: "c"}}, base)
	q.failed["a"] = 1
	if got := q.due(false); !slices.Equal(got, []string{"b", "c", "a"}) {
		t.Errorf("order %v", got)
	}
}

// TestAncientRows: rows of a host that believes it is 1970 move no verdict on the present, and
// cost no walk over half a century.
func TestAncientRows(t *testing.T) {
	t.Parallel()
	want, _ := followed(t)
	l, b := newLiveMemory(t, filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix"))
	x, availableMs := l.gpu[0], b.Manifest.StartMs+20*60_000
	row := store.BatchRow{BatchKey: store.BatchKey{Cluster: b.Manifest.Cluster, Node: x.Node, Sequence: 99_999}, AvailableMs: availableMs, Minutes: []int64{1, 2}}
	l.batches = append(l.batches, row)
	l.insertedMs[row.BatchKey] = availableMs
	slices.SortStableFunc(l.batches, byAvailability)
	ancient := make([]store.GPURow, 0, len(l.gpu)+10)
	for i := range int64(10) {
		x.TsMs, x.AvailableMs = 60_000+i*10_000, availableMs
		ancient = append(ancient, x)
	}
	l.gpu = append(ancient, l.gpu...)
	follow(t, l, b, nil, func(life int) int { return 100 * (life % 2) })
	runs, findings := l.lines()
	wantRuns, wantFindings := want.lines()
	wantSame(t, "runs", runs, wantRuns)
	wantSame(t, "findings", findings, wantFindings)
	if l.gpuCells[0] == nil {
		t.Error("the minutes of 1970 have no cells: the test shows nothing")
	}
}

// TestNothingIsJudgedBeforeItCame: rows of the past hour and a half that came all at once are
// judged from that moment on, and not minute by minute of a past in which nobody had them.
func TestNothingIsJudgedBeforeItCame(t *testing.T) {
	t.Parallel()
	l, b := newLiveMemory(t, filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix"))
	cameMs := b.Manifest.EndMs
	for i := range l.batches {
		l.batches[i].AvailableMs, l.insertedMs[l.batches[i].BatchKey] = cameMs, cameMs
	}
	for i := range l.gpu {
		l.gpu[i].AvailableMs = cameMs
	}
	for i := range l.host {
		l.host[i].AvailableMs = cameMs
	}
	l.nowMs = cameMs + 30*60_000
	f, err := NewFollower(configOf(t, b, 1), LiveConfig{
		SettleMs: -1, Held: func() error { return nil }, BrokerMs: func() (int64, bool) { return l.nowMs, true }, Log: slog.New(slog.DiscardHandler),
	}, l)
	if err != nil {
		t.Fatal(err)
	}
	f.d.parties = l.parties
	if err = f.advance(t.Context(), l.nowMs); err != nil {
		t.Fatal(err)
	}
	if f.d.startMs >= cameMs-60*60_000 {
		t.Errorf("the period begins at %d, the rows at %d", f.d.startMs, b.Manifest.StartMs)
	}
	versions := 0
	for id, all := range l.allRuns {
		for _, r := range all {
			versions++
			if r.JudgedMs < cameMs-WaitMs {
				t.Errorf("run %s was judged at %d, %d minutes before anything came", id, r.JudgedMs, (cameMs-r.JudgedMs)/60_000)
			}
		}
	}
	if versions == 0 {
		t.Error("no verdict on anything")
	}
}
