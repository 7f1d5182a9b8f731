package store_test

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/store"
)

const minute = int64(1_717_200_000_000)

// same compares with NaN equal to NaN.
func same(a, b any) bool {
	return reflect.DeepEqual(normal(reflect.ValueOf(a)), normal(reflect.ValueOf(b)))
}

func normal(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Float64:
		return math.Float64bits(v.Float())
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = normal(v.Index(i))
		}
		return out
	case reflect.Struct:
		if t, ok := reflect.TypeAssert[time.Time](v); ok {
			return t.UnixMilli()
		}
		out := make([]any, v.NumField())
		for i := range out {
			out[i] = normal(v.Field(i))
		}
		return out
	default:
		return v.Interface()
	}
}

func gpuCell(node string, gpu int, at int64, value float64) store.GPUCellRow {
	n := len(store.CellSignals)
	c := store.GPUCellRow{Node: node, GPU: gpu, MinuteMs: at, AvailableMs: at + 90_000, Samples: 60, Mean: make([]float64, n), SD: make([]float64, n), CoverMs: make([]int64, n)}
	for i := range n {
		if i%3 == 2 { // not measured
			c.Mean[i], c.SD[i] = math.NaN(), math.NaN()
			continue
		}
		c.Mean[i], c.SD[i], c.CoverMs[i] = value/float64(i+3), value*1e-17, 59_999
	}
	c.Mean[0] = 0 // a measured zero
	c.TensorClockMHz, c.TensorClockMs = value/7, 12_345
	if gpu == 1 {
		c.Rhythm = store.RhythmRow{PeriodMs: 5800.25, Power: 0.5, CrestMs: 1.5, CadenceMs: 1000, Folded: true, Of: "nvlink_tx_bps"}
	}
	c.EnergyJ = store.CounterRow{FirstMs: at, LastMs: at + 59_000, First: 1e9 / 3, Last: 1e9/3 + value, Delta: value}
	return c
}

func TestCellsRoundTripExactly(t *testing.T) {
	s := openStore(t)
	want := store.Cells{
		Cluster: "c",
		GPU:     []store.GPUCellRow{gpuCell("a", 0, minute, 0.1), gpuCell("a", 1, minute, math.Pi), gpuCell("b", 0, minute+60_000, 1e300)},
		Node: []store.NodeCellRow{{
			Node: "a", MinuteMs: minute, AvailableMs: minute + 1, PowerW: 1.0 / 3, PowerSD: 0, PowerCoverMs: 60_000, CPUFrac: math.NaN(), StorageTxBps: 1, StorageRxBps: math.NaN(), StorageCoverMs: 5,
			FabricTxBytes: 7, FabricRxBytes: 8, FabricTxCV: 0.25, FabricCoverMs: 9, EthernetTxBytes: math.NaN(), EthernetRxBytes: math.NaN(),
			Rhythm: store.RhythmRow{PeriodMs: 435.4, Power: 0.25, CadenceMs: 100, Of: "power_w"},
		}},
		Comm: []store.CommCellRow{{Node: "a", PID: 5, GPU: 1, Comm: "c0", Op: "allreduce", NRanks: 16, Rank: -1, MinuteMs: minute, AvailableMs: minute, Calls: 2, Bytes: 1e12}},
		Flow: []store.FlowCellRow{{Node: "a", Peer: "b", MinuteMs: minute, AvailableMs: minute, TxBytes: 12}},
	}
	old := want
	old.GPU = []store.GPUCellRow{gpuCell("a", 0, minute, 99), gpuCell("a", 1, minute, 99)}
	for i, c := range []store.Cells{want, old, want} { // versions arrive in any order, and twice
		p := store.Provenance{Version: 2, DetectorVersion: "v", ConfigDigest: "d"}
		if i == 1 {
			p.Version = 1
		}
		if err := s.PutCells(t.Context(), c, p); err != nil {
			t.Fatal(err)
		}
	}
	q := store.RowQuery{Cluster: "c", FromMs: minute, ToMs: minute + 120_000}
	gpu, err := s.GPUCells(t.Context(), q)
	if err != nil || !same(gpu, want.GPU) {
		t.Errorf("gpu cells %v\n got %+v\nwant %+v", err, gpu, want.GPU)
	}
	node, err := s.NodeCells(t.Context(), q)
	if err != nil || !same(node, want.Node) {
		t.Errorf("node cells %v\n got %+v\nwant %+v", err, node, want.Node)
	}
	comm, err := s.CommCells(t.Context(), q)
	if err != nil || !same(comm, want.Comm) {
		t.Errorf("comm cells %v %+v", err, comm)
	}
	flow, err := s.FlowCells(t.Context(), q)
	if err != nil || !same(flow, want.Flow) {
		t.Errorf("flow cells %v %+v", err, flow)
	}
	q.Nodes = []string{"b"}
	if gpu, err = s.GPUCells(t.Context(), q); err != nil || len(gpu) != 1 {
		t.Errorf("%d cells of b, %v", len(gpu), err)
	}
	q.Nodes = []string{}
	if gpu, err = s.GPUCells(t.Context(), q); err != nil || len(gpu) != 0 {
		t.Errorf("%d cells of no node, %v", len(gpu), err)
	}
	bad := store.Cells{Cluster: "c", GPU: []store.GPUCellRow{{Node: "a", Mean: make([]float64, 3)}}}
	if err := s.PutCells(t.Context(), bad, store.Provenance{}); err == nil {
		t.Error("a cell of three signals was taken")
	}
}

func TestVerdictsAreVersioned(t *testing.T) {
	s := openStore(t)
	p := func(version, epoch uint64) store.Provenance {
		return store.Provenance{Version: version, DetectorVersion: "v1", ProfileVersion: "p1", ConfigDigest: "d", Epoch: epoch}
	}
	run := store.RunRow{
		RunID: "run-1", JudgedMs: minute, Class: "training", ClassProbability: 0.9, StartMs: minute, Executed: store.FLOPs{Low: 1e22, Best: 2e22, High: 3e22},
		Model: store.FLOPs{Low: math.NaN(), Best: math.NaN(), High: math.NaN()}, CoverageFrac: 0.5, Doc: `{"run":"it's \\ here"}`, Provenance: p(1, 3),
	}
	later := run
	later.EndMs, later.Provenance, later.SupersededBy = minute+1, p(2, 3), "run-0"
	for _, r := range []store.RunRow{run, later, run} {
		if err := s.PutRuns(t.Context(), "c", []store.RunRow{r}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.LatestRuns(t.Context(), "c"); err != nil || !same(got, []store.RunRow{later}) {
		t.Errorf("runs %v\n got %+v\nwant %+v", err, got, later)
	}
	if raw, distinct, err := s.Count(t.Context(), store.TableRuns); err != nil || distinct != 2 {
		t.Errorf("%d rows, %d versions of runs, %v", raw, distinct, err)
	}
	stale := run
	stale.Provenance = p(9, 2)
	if err := s.PutRuns(t.Context(), "c", []store.RunRow{stale}); !errors.Is(err, store.ErrStaleEpoch) {
		t.Errorf("a stale epoch: %v", err)
	}
	members := []store.RunMemberRow{{"run-1", 2, 3, "a", 0, minute, minute + 1}, {"run-1", 2, 3, "a", 1, minute, minute + 1}}
	if err := s.PutRunMembers(t.Context(), "c", members); err != nil {
		t.Fatal(err)
	}
	if got, err := s.RunMembers(t.Context(), "c", "run-1", 2, 3); err != nil || !same(got, members) {
		t.Errorf("members %+v, %v", got, err)
	}

	raised := time.UnixMilli(1_800_000_000_123).UTC()
	f := store.FindingRow{FindingID: "f-1", Profile: "eu", Limb: "actual", Subject: "run-1", KnownAtMs: minute, RaisedMs: minute + 600_000, RaisedAt: raised, State: "inquire", Severity: "high", Doc: "{}", Provenance: p(1, 3)}
	again := f
	again.RaisedMs, again.RaisedAt, again.State, again.Provenance = minute+999_000, raised.Add(time.Hour), "met", p(2, 3)
	seen := again
	seen.AcknowledgedAt, seen.Provenance = raised.Add(2*time.Hour), p(3, 3)
	last := again
	last.Retracted, last.Provenance = true, p(4, 4)
	for _, r := range []store.FindingRow{f, again, seen, last} {
		if err := s.PutFindings(t.Context(), "c", []store.FindingRow{r}); err != nil {
			t.Fatal(err)
		}
	}
	want := last
	want.RaisedMs, want.RaisedAt, want.AcknowledgedAt = f.RaisedMs, f.RaisedAt, seen.AcknowledgedAt
	if got, err := s.LatestFindings(t.Context(), "c"); err != nil || !same(got, []store.FindingRow{want}) {
		t.Errorf("findings %v\n got %+v\nwant %+v", err, got, want)
	}
	gpu := store.GPURow{Node: "a", GPU: 1, TsMs: minute, AvailableMs: minute, Values: make([]float64, len(store.GPUMeasures)), EnergyJ: math.NaN(), MMACycles: 5}
	for range 2 {
		if err := s.PutEvidence(t.Context(), "c", "f-1", []store.GPURow{gpu}, []store.HostRow{{Node: "a", TsMs: minute, PowerW: 1, CPUFrac: math.NaN()}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, table := range []string{store.TableEvidenceGPU, store.TableEvidenceHost} {
		if _, n, err := s.Count(t.Context(), table); err != nil || n != 1 {
			t.Errorf("%s: %d rows, %v", table, n, err)
		}
	}
}

func TestPartiesAreVersioned(t *testing.T) {
	s := openStore(t)
	yes := true
	one := store.PartyRow{PartyID: "p1", Version: 1, Envelope: "sealed", Status: "unverified", Kind: "entity", Countries: []string{"DE", "US"}, Edges: "[]", AvailableMs: 10}
	two := one
	two.Version, two.Status, two.USPerson, two.VerifiedMs, two.AvailableMs = 2, "verified", &yes, 15, 20
	if err := s.PutParties(t.Context(), []store.PartyRow{two, one}); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[int64]store.PartyRow{0: two, 19: one, 20: two} {
		if got, err := s.Parties(t.Context(), at); err != nil || !reflect.DeepEqual(got, []store.PartyRow{want}) {
			t.Errorf("at %d: %+v, %v", at, got, err)
		}
	}
	accounts := []store.PartyAccountRow{{"acct-1", "p1", 1, false, 10}, {"acct-2", "p1", 1, false, 10}, {"acct-2", "p1", 2, true, 20}}
	if err := s.PutPartyAccounts(t.Context(), accounts); err != nil {
		t.Fatal(err)
	}
	if got, err := s.PartyAccounts(t.Context(), 0); err != nil || !reflect.DeepEqual(got, accounts[:1]) {
		t.Errorf("accounts %+v, %v", got, err)
	}
	if got, err := s.PartyAccounts(t.Context(), 10); err != nil || len(got) != 2 {
		t.Errorf("accounts before %+v, %v", got, err)
	}
}

func TestSchemaHasCommentsAndViewsAnswer(t *testing.T) {
	s := openStore(t)
	if err := s.PutCells(t.Context(), store.Cells{Cluster: "c", GPU: []store.GPUCellRow{gpuCell("a", 0, minute, 1)}}, store.Provenance{Version: 1}); err != nil {
		t.Fatal(err)
	}
	schema, err := s.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var views []string
	for _, r := range schema.Relations {
		if r.Comment == "" {
			t.Errorf("%s has no comment", r.Name)
		}
		for _, c := range r.Columns {
			if c.Comment == "" {
				t.Errorf("%s.%s has no comment: tables have theirs in the migration, computed columns of views in viewcomment.go", r.Name, c.Name)
			}
		}
		if r.View {
			views = append(views, r.Name)
			if len(r.Reads) == 0 || !strings.HasPrefix(r.Name, "v_") {
				t.Errorf("view %s reads %v", r.Name, r.Reads)
			}
		}
	}
	if want := slices.Sorted(slices.Values(store.Views)); !slices.Equal(views, want) {
		t.Errorf("views %v, want %v", views, want)
	}
	// Nothing is done where nothing is missing.
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, view := range store.Views {
		if _, err := s.CountView(t.Context(), view); err != nil {
			t.Errorf("view %s: %v", view, err)
		}
	}
	if n, err := s.CountView(t.Context(), "v_node_coverage"); err != nil || n != 1 {
		t.Errorf("coverage has %d rows, %v", n, err)
	}
}

// TestCellsOfADeposedLeader: a leader whose successor has taken the position writes no cells, and one
// that was stopped between the check and the insert does not put its cells in place of later ones.
func TestCellsOfADeposedLeader(t *testing.T) {
	s := openStore(t)
	at := uint64(minute + 600_000)
	put := func(mean float64, epoch uint64) error {
		return s.PutCells(t.Context(), store.Cells{Cluster: "c", GPU: []store.GPUCellRow{gpuCell("a", 0, minute, mean)}}, store.Provenance{Version: at, Epoch: epoch})
	}
	for _, c := range []struct {
		mean  float64
		epoch uint64
	}{{2, 60_007}, {1, 60_006}} { // the successor's first: no position is taken yet, so the check lets both pass
		if err := put(c.mean, c.epoch); err != nil {
			t.Fatal(err)
		}
	}
	cells, err := s.GPUCells(t.Context(), store.RowQuery{Cluster: "c", FromMs: minute, ToMs: minute + 60_000})
	if err != nil || len(cells) != 1 || cells[0].Mean[1] != 2.0/4 {
		t.Errorf("cells %+v, %v: want those of the later epoch", cells, err)
	}
	if err = s.PutPosition(t.Context(), "c", store.PositionRow{Epoch: 60_007, JudgedMs: int64(at)}); err != nil {
		t.Fatal(err)
	}
	if err = put(1, 60_006); !errors.Is(err, store.ErrStaleEpoch) {
		t.Errorf("cells of the epoch before: %v", err)
	}
	if err = put(3, 60_007); err != nil {
		t.Error(err)
	}
}
