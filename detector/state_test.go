package detector

import (
	"math"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/internal/store"
)

var nan = math.NaN()

const base = int64(1_700_000_040_000) // start of a minute

// gpuRow is a sample of GPU 0 of a node with nothing measured but watts.
func gpuRow(node string, tsMs, availableMs int64, powerW float64) feature.GPUSample {
	r := feature.GPUSample{Node: node, TsMs: tsMs, AvailableMs: availableMs, EnergyJ: nan, MMACycles: nan}
	for s := range r.Value {
		r.Value[s] = nan
	}
	r.Value[feature.PowerW] = powerW
	return r
}

// heldOf is the cells of GPU 0 of a node in memory.
func heldOf(d *Detector, node string) []feature.GPUCell {
	k := feature.GPUKey{Node: node}
	if d.st.gpu[k] == nil {
		return nil
	}
	return d.st.gpu[k].get(k)
}

func batch(node string, availableMs int64, minutes ...int64) store.BatchRow {
	return store.BatchRow{BatchKey: store.BatchKey{Node: node}, AvailableMs: availableMs, Minutes: minutes}
}

// TestLateRow shows that a row which comes late changes its cell from then on, and not
// before: what was not known yet must not carry a verdict.
func TestLateRow(t *testing.T) {
	t.Parallel()
	late := base + 45*60_000
	w := newWindow(feature.Samples{GPU: []feature.GPUSample{
		gpuRow("a", base, base, 100),
		gpuRow("a", base+10_000, base+10_000, 100),
		gpuRow("a", base+20_000, late, 400), // comes three quarters of an hour later
		gpuRow("a", base+30_000, base+30_000, 100),
	}})
	d := New(Config{}, nil, nil)
	minute := base / feature.MinuteMs

	if !apply(t, d, w, []store.BatchRow{batch("a", base+30_000, minute)}, base+WaitMs) {
		t.Fatal("the batch touched no cell")
	}
	cell := heldOf(d, "a")[0]
	if cell.Samples != 3 || cell.Mean[feature.PowerW] != 100 {
		t.Errorf("before the late row: got %d samples of %.1f W, want 3 of 100.0", cell.Samples, cell.Mean[feature.PowerW])
	}
	if cell.Has(feature.TensorFrac) {
		t.Error("a signal that nobody measured counts as measured")
	}

	apply(t, d, w, []store.BatchRow{batch("a", late, minute)}, late+WaitMs)
	cells := heldOf(d, "a")
	if len(cells) != 1 || cells[0].Samples != 4 || cells[0].Mean[feature.PowerW] != 200 {
		t.Errorf("after the late row: got %d cells, %d samples of %.1f W, want 1 cell, 4 of 200.0", len(cells), cells[0].Samples, cells[0].Mean[feature.PowerW])
	}
	if n, ok := d.st.nodes["a"]; !ok || n.Listed {
		t.Error("a node that the inventory lacks is not marked as unlisted")
	}
}

// TestDirtyFollowers shows that a late row also mends the cell behind it: a rate describes
// the time since the row before.
func TestDirtyFollowers(t *testing.T) {
	t.Parallel()
	late := base + 45*60_000
	w := newWindow(feature.Samples{GPU: []feature.GPUSample{
		gpuRow("a", base+10_000, base+10_000, 100),
		gpuRow("a", base+50_000, late, 100),
		gpuRow("a", base+70_000, base+70_000, 100),
	}})
	d := New(Config{}, nil, nil)
	minute := base / feature.MinuteMs
	cover := func() int64 {
		cells := heldOf(d, "a")
		return cells[len(cells)-1].CoverMs[feature.PowerW]
	}
	apply(t, d, w, []store.BatchRow{batch("a", base+70_000, minute, minute+1)}, base+70_000)
	if got := cover(); got != 60_000 {
		t.Errorf("cover of the second minute before the late row: got %d ms, want 60000", got)
	}
	apply(t, d, w, []store.BatchRow{batch("a", late, minute)}, late)
	if got := cover(); got != 20_000 {
		t.Errorf("cover of the second minute after the late row: got %d ms, want 20000", got)
	}
}

// TestEvidenceHidesWhatLiesAhead holds that a judged moment sees no end, order or minute
// that came after it.
func TestEvidenceHidesWhatLiesAhead(t *testing.T) {
	t.Parallel()
	s := newState()
	for m := range int64(3) {
		s.putGPU(feature.GPUCell{Node: "a", MinuteMs: base + m*feature.MinuteMs, Samples: 1})
		s.putHost(feature.NodeCell{Node: "a", MinuteMs: base + m*feature.MinuteMs})
		s.putComm("a", base+m*feature.MinuteMs, []feature.CommCell{{Node: "a", MinuteMs: base + m*feature.MinuteMs}})
		s.putFlows("a", base+m*feature.MinuteMs, []feature.FlowCell{{Node: "a", MinuteMs: base + m*feature.MinuteMs}})
	}
	at := base + 2*feature.MinuteMs
	s.processes = []feature.Process{{Node: "a", PID: 1, StartMs: base, EndMs: at + 1}, {Node: "a", PID: 2, StartMs: at + 1}}
	s.allocations = []feature.Allocation{{Account: "x", StartMs: base, EndMs: at}, {Account: "y", StartMs: base, EndMs: at + 5}, {Account: "z", StartMs: at + 1}}
	s.orders = []feature.Order{{Order: "o", AmendedMs: at}, {Order: "o", AmendedMs: at + 1}}

	ev := s.evidence(base, at, false)
	if n := len(ev.Cells(feature.GPUKey{Node: "a"})); n != 2 {
		t.Errorf("GPU cells: got %d, want 2: the third minute has not ended", n)
	}
	if len(ev.Host["a"]) != 2 || len(ev.Comm) != 2 || len(ev.Flows) != 2 {
		t.Errorf("host, communicator and flow cells: got %d, %d, %d, want 2 each", len(ev.Host["a"]), len(ev.Comm), len(ev.Flows))
	}
	if len(ev.Processes) != 1 || ev.Processes[0].EndMs != 0 {
		t.Errorf("processes: got %+v, want the first, still running", ev.Processes)
	}
	if len(ev.Allocations) != 2 || ev.Allocations[0].EndMs != at || ev.Allocations[1].EndMs != 0 {
		t.Errorf("allocations: got %+v, want x ended and y going on", ev.Allocations)
	}
	if len(ev.Orders) != 1 {
		t.Errorf("order versions: got %d, want 1", len(ev.Orders))
	}
	if n := len(s.evidence(base, at, true).Cells(feature.GPUKey{Node: "a"})); n != 3 {
		t.Errorf("GPU cells at the end of the data: got %d, want 3", n)
	}
}

// TestClipDark: of a run of which nothing is seen any more no more than a pause is counted,
// whatever its processes did not report; one host that is still seen keeps all of it.
func TestClipDark(t *testing.T) {
	t.Parallel()
	day := int64(24 * 3_600_000)
	ev := &feature.Evidence{GPU: map[feature.GPUKey][]feature.GPUCell{}, Host: map[string][]feature.NodeCell{}}
	for m := range int64(60) {
		for _, n := range []string{"a", "b"} {
			k := feature.GPUKey{Node: n}
			ev.GPU[k] = append(ev.GPU[k], feature.GPUCell{Node: n, MinuteMs: base + m*feature.MinuteMs})
		}
	}
	dark := func() *run.Run {
		return &run.Run{Open: true, StartMs: base, EndMs: base + day, Members: []run.Member{{Node: "a", StartMs: base, EndMs: base + day}, {Node: "b", StartMs: base, EndMs: base + day}}}
	}
	r := dark()
	clipDark(ev, r)
	want := base + 60*feature.MinuteMs + pauseMs
	if r.Open || r.EndMs != want || r.Members[0].EndMs != want || r.Members[1].EndMs != want {
		t.Errorf("a dark run: got %+v, want it to end at %d", r, want)
	}
	ev.Host["b"] = []feature.NodeCell{{Node: "b", MinuteMs: base + day - feature.MinuteMs}}
	if r = dark(); r.EndMs != base+day {
		t.Fatal("the case is not what it says")
	}
	clipDark(ev, r)
	if !r.Open || r.Members[0].EndMs != base+day {
		t.Errorf("a run whose host is still seen was cut: %+v", r)
	}
	stated := &run.Run{Open: true, StartMs: base, EndMs: base + day, Members: []run.Member{{Node: "c", StartMs: base, EndMs: base + day}}}
	clipDark(ev, stated)
	if !stated.Open || stated.EndMs != base+day {
		t.Errorf("a rental that was never sampled was cut: %+v", stated)
	}
}

// TestUnstatedCountIsNotZero: what nobody stated stays empty in the evidence, while a
// stated zero stays a zero.
func TestUnstatedCountIsNotZero(t *testing.T) {
	t.Parallel()
	e := evidenceRows{
		ev: &feature.Evidence{
			Nodes:  map[string]feature.Node{"a": {Node: "a", GPUCount: -1, FabricGbps: nan, TDPW: nan}, "b": {Node: "b", FabricGbps: nan, TDPW: nan}},
			Orders: []feature.Order{{Order: "o", Account: "x", GPUCount: -1, FabricGbps: nan}},
		},
		f: report.Finding{Accounts: []string{"x"}, Evidence: []report.Evidence{{Node: "a"}, {Node: "b"}}},
	}
	if got := e.nodes(); got[1][3] != "" || got[2][3] != "0" {
		t.Errorf("gpu_count of nodes: got %q and %q, want an empty cell and 0", got[1][3], got[2][3])
	}
	if got := e.orders(); got[1][4] != "" {
		t.Errorf("gpu_count of an order: got %q, want an empty cell", got[1][4])
	}
}

// TestLinks holds the order of pairs' cells whatever order they come in.
func TestLinks(t *testing.T) {
	t.Parallel()
	s := newState()
	put := func(node string, minute int64, bytes float64) {
		s.putFlows(node, base+minute*feature.MinuteMs, []feature.FlowCell{{Node: node, MinuteMs: base + minute*feature.MinuteMs, TxBytes: bytes}})
	}
	put("a", 0, 1)
	put("b", 2, 2)
	if n := len(s.flows.all()); n != 2 {
		t.Fatalf("cells: got %d, want 2", n)
	}
	put("a", 1, 3) // late: behind what was built already
	put("b", 2, 4) // again
	put("a", 2, 5)
	var got []float64
	for _, c := range s.flows.all() {
		got = append(got, c.TxBytes)
	}
	want := []float64{1, 3, 5, 4}
	for i := range want {
		if len(got) != len(want) || got[i] != want[i] {
			t.Fatalf("cells by minute and node: got %v, want %v", got, want)
		}
	}
}

func apply(t *testing.T, d *Detector, w *window, batches []store.BatchRow, availMs int64) bool {
	t.Helper()
	any, err := d.apply(t.Context(), &rawFeed{d: d, w: w}, batches, availMs)
	if err != nil {
		t.Fatal(err)
	}
	return any
}
