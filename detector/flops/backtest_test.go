package flops_test

import (
	"encoding/csv"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/detector/flops"
)

// TestPublishedRuns gives the allocation tier the hardware and hours of published
// trainings and compares with the FLOPs that were published.
func TestPublishedRuns(t *testing.T) {
	t.Parallel()
	f, err := os.Open(filepath.Join("testdata", "published_runs.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	total, tierA := &score{}, &score{}
	for _, r := range rows[1:] {
		get := func(name string) string { return r[column[name]] }
		hours, _ := strconv.ParseFloat(get("accel_hours"), 64)
		want, _ := strconv.ParseFloat(get("flops_best"), 64)
		if hours == 0 || want == 0 || get("confidence") == "C" {
			continue
		}
		name := get("accelerator")
		switch { // the table writes the memory beside the part
		case strings.HasPrefix(name, "A100"):
			name = "A100-SXM4"
		case strings.HasPrefix(name, "TPUv"):
			name = strings.Replace(name, "TPUv", "TPU v", 1)
		case name == "V100":
			name = "Tesla V100-SXM2-32GB"
		}
		a, ok := flops.Lookup(name)
		if !ok {
			t.Errorf("%s: part %q is not in the table", get("model"), name)
			continue
		}
		e := flops.Hours(a, "training", hours)
		if len(e.Basis) != 1 || e.Basis[0] != flops.BasisAllocation || e.CoverageFrac != 0 {
			t.Errorf("%s: basis %v, coverage %v", get("model"), e.Basis, e.CoverageFrac)
		}
		total.add(e.Model, want)
		if get("confidence") == "A" {
			tierA.add(e.Model, want)
		}
		t.Logf("%-24s %-10s best/published %.2f [%.2f %.2f]", get("model"), a.Key, e.Model.Best/want, e.Model.Low/want, e.Model.High/want)
	}
	t.Logf("tiers A and B: %v", total)
	t.Logf("tier A alone:  %v", tierA)
	if total.n < 40 || total.covered*100 < 85*total.n {
		t.Errorf("the 90 %% interval of the allocation tier holds %d of %d published runs", total.covered, total.n)
	}
}
