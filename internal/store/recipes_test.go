package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

var recipeBlock = regexp.MustCompile("(?ms)^## ([^\n]+)\n.*?^```sql\n(.*?)\n```")

// TestRecipes runs every query of deploy/clickhouse/RECIPES.md over two hosts of two GPUs and two hours of which all is known: the
// first host's GPUs work, the second's stand idle; account a has the first host, b the second from the second hour on.
func TestRecipes(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := Open(t.Context(), Config{URL: url, User: user, Password: password})
	closed(t, s, err)
	if err = s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	hour := time.Now().UnixMilli()/3_600_000*3_600_000 - 2*3_600_000
	if err = knownFleet(t.Context(), s, hour); err != nil {
		t.Fatal(err)
	}
	day := time.UnixMilli(hour).UTC()
	params := clickhouse.Parameters{"cluster": "c", "node": "n1", "gpu": "1", "account": "b", "from": day.Format(time.DateTime)}
	dates := day.Format(time.DateOnly)
	if next := day.Add(time.Hour); next.Day() != day.Day() {
		dates = next.Format(time.DateOnly)
	}
	want := map[string][]string{
		// gpus, util, tensor, watts, hottest, idle
		"Fleet now":     {"n1 2 1 0.5 1000 60 0", "n2 2 0 0 140 30 2"},
		"One GPU's day": {},
		// one GPU of n1, one sample now
		"One GPU's day, every sample": {"1 0.5 0.5 500.032 500.032 60"},
		// of three GPUs one whole hour, of two of them fifty-nine minutes of it seen
		"An account's month": {dates + " 3 1.9666666666666666 0.01 0.04 0"},
		"Top runs":           {"r2 training 7 8 9", "r1 training 1 2 3"},
		"Idle while allocated": {
			"b 2 2 0.04"},
	}
	columns := map[string]string{
		"Fleet now":     "node, gpus, util, tensor, round(watts), hottest, idle",
		"One GPU's day": "count()", "One GPU's day, every sample": "samples, tensor, tensor_max, watts_min, watts_max, hottest",
		"An account's month": "day, rented_gpu_hours, seen_gpu_hours, busy, kwh, tensor_cycles", "Top runs": "run_id, class, flops_model_low, flops_model_best, flops_model_high",
		"Idle while allocated": "account, idle_gpu_hours, gpus, kwh",
	}
	want["One GPU's day"] = []string{"118"}
	text, err := os.ReadFile(filepath.Join(testenv.Root(t), "deploy", "clickhouse", "RECIPES.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, m := range recipeBlock.FindAllStringSubmatch(string(text), -1) {
		name, sql := m[1], m[2]
		if columns[name] == "" {
			t.Errorf("%s: nothing is known of its answer", name)
			continue
		}
		seen++
		sql = "SELECT arrayStringConcat([" + stringify(columns[name]) + "], ' ') FROM (" + sql + ")"
		got, err := s.answers(clickhouse.Context(t.Context(), clickhouse.WithParameters(params)), sql)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if fmt.Sprint(got) != fmt.Sprint(want[name]) {
			t.Errorf("%s: %q, want %q", name, got, want[name])
		}
	}
	if seen != len(columns) {
		t.Errorf("%d recipes of %d", seen, len(columns))
	}
}

func stringify(list string) string {
	parts := strings.Split(list, ", ")
	for i := range parts {
		parts[i] = "toString(" + parts[i] + ")"
	}
	return strings.Join(parts, ", ")
}

func (s *Store) answers(ctx context.Context, sql string) ([]string, error) {
	rows, err := s.conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var out []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, rows.Err()
}

func knownFleet(ctx context.Context, s *Store, hour int64) error {
	n := len(CellSignals)
	p := Provenance{Version: 1, DetectorVersion: "d", ConfigDigest: "c", Epoch: 1}
	cells := Cells{Cluster: "c"}
	samples, err := NewRawBlock(TableGPUSamples)
	if err != nil {
		return err
	}
	for i, node := range []string{"n1", "n2"} {
		busy := float64(1 - i)
		for g := range 2 {
			cell := func(ms, cover int64) GPUCellRow {
				r := GPUCellRow{Node: node, GPU: g, MinuteMs: ms, Samples: 60, Mean: make([]float64, n), SD: make([]float64, n), CoverMs: make([]int64, n)}
				for _, k := range []int{0, 4} { // util, sm_active
					r.Mean[k], r.CoverMs[k] = max(busy, 0.01), cover
				}
				r.EnergyJ = CounterRow{FirstMs: ms, LastMs: ms + 59_000, Last: 72_000 * (1 + 10*busy), Delta: 72_000 * (1 + 10*busy)}
				r.MMACycles = CounterRow{FirstMs: ms, LastMs: ms + 59_000, Last: 1e9 * busy, Delta: 1e9 * busy}
				return r
			}
			for h := range int64(2) {
				for m := range int64(59) {
					cells.GPU = append(cells.GPU, cell(hour+h*3_600_000+m*60_000, 60_000))
				}
				cells.Hour = append(cells.Hour, GPUHourRow{cell(hour+h*3_600_000, 59*60_000), 1<<59 - 1})
			}
			samples.Begin(RawMeta{Cluster: "c", Node: node, Spool: "s", Sequence: 1, Sources: "nvml", AvailableMs: hour}, 1)
			for column, v := range map[string]int64{
				"ts_ms": time.Now().UnixMilli(), "gpu": int64(g), "util_e4": int64(10_000 * busy), "tensor_e4": int64(5000 * busy), "power_mw": int64(70_000 + 430_000*busy), "temp_c": int64(30 + 30*busy),
			} {
				samples.Ints(samples.Column(column), []int64{v}, nil)
			}
			samples.Strings(samples.Column("gpu_uuid"), []string{fmt.Sprint(node, g)}, []uint32{0}, nil)
			samples.End()
		}
	}
	rentals, err := NewRawBlock(TableAllocations)
	if err != nil {
		return err
	}
	for i, a := range []string{"a", "b", "b"} {
		gpus := "0 1"
		if i == 2 { // nothing ever came of this one
			gpus, i = "7", 1
		}
		// The first word on a rental is not the last: it went on.
		for version := range uint64(2) {
			rentals.Begin(RawMeta{Cluster: "c", Spool: "p", Sequence: 1 + version, Sources: "provider", AvailableMs: hour + int64(version)}, 1)
			rentals.Strings(rentals.Column("account"), []string{a}, []uint32{0}, nil)
			rentals.Strings(rentals.Column("node"), []string{fmt.Sprint("n", 1+i)}, []uint32{0}, nil)
			rentals.Strings(rentals.Column("gpu_list"), []string{gpus}, []uint32{0}, nil)
			rentals.Ints(rentals.Column("start_ms"), []int64{hour + int64(i)*3_600_000}, nil)
			if version == 0 {
				rentals.Ints(rentals.Column("end_ms"), []int64{hour + 1}, nil)
			}
			rentals.End()
		}
	}
	runs := []RunRow{
		{RunID: "r1", Class: "training", StartMs: hour, Model: FLOPs{Low: 1, Best: 2, High: 3}, Doc: "{}", Provenance: p},
		{RunID: "r2", Class: "training", StartMs: hour, Model: FLOPs{Low: 7, Best: 8, High: 9}, Doc: "{}", Provenance: p},
		{RunID: "r3", Class: "training", StartMs: hour, Model: FLOPs{Low: 70, Best: 80, High: 90}, SupersededBy: "r2", Doc: "{}", Provenance: p},
	}
	for table, b := range map[string]Block{TableGPUSamples: samples, TableAllocations: rentals} {
		if err := s.Insert(ctx, table, "", b); err != nil {
			return err
		}
	}
	if err := s.PutCells(ctx, cells, p); err != nil {
		return err
	}
	return s.PutRuns(ctx, "c", runs)
}
