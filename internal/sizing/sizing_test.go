package sizing

import (
	"math"
	"os"
	"strings"
	"testing"
)

// TestCompute holds the arithmetic to a calculation by hand.
func TestCompute(t *testing.T) {
	n, err := Compute(Fleet{GPUs: 100_000, GPUsPerHost: 4, Hz: 2, RawDays: 10, CellDays: 100, Years: 3, StoreReplicas: 2, BrokerReplicas: 3, OutageHours: 2, Cores: 8, DiskTB: 2, Load: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	raw := 200_000 * 864_000 * (DiskPerSample.Value + OtherDiskPerSample.Value)
	cells := 100_000 * 144_000 * CellBytes.Value
	ledger := 1250 * 86_400 * 365 * 3 * LedgerBytes.Value
	rows := 200_000 * RowsPerSample.Value
	engine := (rows*EngineMicros.Value/1e6 + 16*EngineInsert.Value) * (1 + QueryShare.Value)
	for _, c := range []struct {
		what      string
		got, want float64
	}{
		{"hosts", float64(n.Hosts), 25_000}, {"frames", n.FramesPerS, 1250}, {"samples", n.SamplesPerS, 200_000}, {"rows", n.RowsPerS, rows},
		{"wire", n.WireBytesPerS, 200_000 * BytesPerSample.Value}, {"broker cores", n.BrokerCores, 1250 * BrokerMicros.Value / 1e6 * 3},
		{"broker disk", n.BrokerDisk * float64(n.BrokerServers), 3 * 7200 * 200_000 * BytesPerSample.Value}, {"collector", n.CollectorCores, rows * CollectorMicros.Value / 1e6},
		{"raw", n.RawBytes, raw}, {"cells", n.CellBytes, cells}, {"ledger", n.LedgerBytes, ledger}, {"all", n.StoreBytes, 2 * (raw + cells + ledger)}, {"engine", n.EngineCores, engine},
		{"shards", float64(n.Shards), math.Max(math.Ceil(engine/4), math.Ceil((raw+cells+ledger)/(2e12*DiskFill.Value)))}, {"machines", float64(n.StoreMachines), 2 * float64(n.Shards)},
	} {
		if math.Abs(c.got-c.want) > 1e-6*c.want {
			t.Errorf("%s: %g, want %g", c.what, c.got, c.want)
		}
	}
}

// TestGrows: more GPUs, a higher rate or more days never need less.
func TestGrows(t *testing.T) {
	base := Fleet{GPUs: 5000, StoreReplicas: 2, BrokerReplicas: 3}
	small, err := Compute(base)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Fleet){
		"gpus": func(f *Fleet) { f.GPUs *= 100 }, "rate": func(f *Fleet) { f.Hz = 10 }, "days": func(f *Fleet) { f.RawDays = 3000 }, "years": func(f *Fleet) { f.Years = 50 }, "replicas": func(f *Fleet) { f.StoreReplicas = 3 },
	} {
		f := base
		change(&f)
		n, err := Compute(f)
		if err != nil {
			t.Fatal(err)
		}
		if n.StoreBytes <= small.StoreBytes || n.StoreMachines < small.StoreMachines || n.Collectors < small.Collectors || n.BrokerServers < small.BrokerServers {
			t.Errorf("%s: %+v is less than %+v", name, n, small)
		}
	}
}

// TestCheck: values without sense are refused by name.
func TestCheck(t *testing.T) {
	for want, f := range map[string]Fleet{
		"GPUs": {}, "GPUs of a host": {GPUs: 1, GPUsPerHost: -1}, "samples": {GPUs: 1, Hz: 11}, "retention": {GPUs: 1, RawDays: -1}, "years": {GPUs: 1, Years: 101}, "replicas of the store": {GPUs: 1, StoreReplicas: 9},
		"replicas of streams": {GPUs: 1, BrokerReplicas: 2}, "outage": {GPUs: 1, OutageHours: -1}, "machine": {GPUs: 1, Cores: -1}, "load": {GPUs: 1, Load: 2}, "samples ": {GPUs: 1, Hz: math.NaN()},
	} {
		if _, err := Compute(f); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestFigures: every figure says how it is known.
func TestFigures(t *testing.T) {
	for _, f := range Figures() {
		if f.Name == "" || f.Value <= 0 || f.Date == "" || f.Command == "" && f.Kind != Assumed {
			t.Errorf("%+v", f)
		}
	}
}

// TestPage: the tables of deploy/SIZING.md are what the arithmetic says.
func TestPage(t *testing.T) {
	const path = "../../deploy/SIZING.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), Begin)
	was, tail, closed := strings.Cut(rest, End)
	if !ok || !closed {
		t.Fatalf("%s has no room for what is made", path)
	}
	page, err := Page()
	if err != nil {
		t.Fatal(err)
	}
	if was == page {
		return
	}
	if os.Getenv("FLOPWATCH_UPDATE") != t.Name() {
		t.Fatalf("%s is not what the figures say: FLOPWATCH_UPDATE=TestPage go test ./internal/sizing writes it", path)
	}
	if err = os.WriteFile(path, []byte(head+Begin+page+End+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
