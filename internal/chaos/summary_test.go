package chaos

import (
	"strings"
	"testing"
	"time"
)

// TestSummary: a run's table has what a reader needs to trust it and to repeat it; what failed and
// what was not made is not passed over.
func TestSummary(t *testing.T) {
	p := Plan{Options: Options{Agents: 3, Apart: true}, Seed: 1, Faults: 200, Worlds: 3}
	r := Report{
		Outcomes: []Outcome{{Seed: 1, Kind: "partition"}, {Seed: 2, Kind: "stall", What: "SIGSTOP engine", Wrong: []string{"batch 7 is gone\nand 8"}, Again: "make chaos SEED=2 FAULTS=1 AGENTS=3"}, {Seed: 3, Kind: "partition"}},
		Totals:   tally{Frames: 100, Rows: 900, Stored: 95, StoredRows: 880, Aside: 3, Lost: 2, Injected: 4, Repeats: 5, LostReasons: map[string]int{"disk": 2}},
		Peaks:    map[string]int64{"col": 40 << 20, "broker": 50 << 20}, Notes: []string{"stall: up to 40 frames waited in a spool"},
		Began: time.Date(2026, 11, 22, 16, 12, 0, 0, time.UTC), Took: 17 * time.Minute, Load: [2]float64{0.5, 6.25},
	}
	var b strings.Builder
	r.Print(&b, &p, "0123456789ab")
	for _, want := range []string{
		"2026-11-22 16:12 UTC: 2 of 200 survived", "`make chaos SEED=1 FAULTS=200 AGENTS=3 WORLDS=3`, commit 0123456789ab, in 17m0s", "**197 were not made**", "network namespaces", "load average 0.5 at the beginning and up to 6.2",
		"| partition | 2 | 2 |\n", "| stall | 1 | 0 |\n", "| all | 3 | 2 |\n", "| taken | 100 | 900 |\n| stored | 95 | 880 |\n| in quarantine for a clock | 3 | |\n| given up and told map[disk:2] | 2 | |\n",
		"broker 50 MiB, col 40 MiB", "- stall: up to 40 frames", "- FAILED: seed 2, stall: SIGSTOP engine: batch 7 is gone (`make chaos SEED=2 FAULTS=1 AGENTS=3`)\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the summary lacks %q:\n%s", want, b.String())
		}
	}
	p.Apart = false
	b.Reset()
	if r.Print(&b, &p, ""); !strings.Contains(b.String(), "NOT root") {
		t.Errorf("it is not said that there was no root:\n%s", b.String())
	}
}
