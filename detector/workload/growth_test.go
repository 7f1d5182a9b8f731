package workload_test

import (
	"os"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/workload"
)

// TestGrowth judges growing prefixes of the recordings: a run keeps its id as evidence
// arrives, or leaves it to the run that took it up; classes do not flip wildly once there
// is something to see; and the last moment's training is found early.
func TestGrowth(t *testing.T) {
	t.Parallel()
	for _, l := range bundles(t) {
		step := max(feature.MinuteMs*5, (l.endMs-l.startMs)/60)
		if os.Getenv("FLOPWATCH_SHOW") == "" {
			if l.name != "dev-basic_split" && l.name != "dev-clean_mix" && l.name != "real-mlperf-lora" {
				continue
			}
			step *= 2
		}
		known := map[string]int64{} // id: moment of first sight
		class := map[string]string{}
		var lost, flips, judged int
		var episodes, classify, join time.Duration
		for at := l.startMs + 3*feature.MinuteMs; ; at += step {
			at = min(at, l.endMs)
			ev := feature.BuildEvidence(l.samples, l.startMs, at)
			t0 := time.Now()
			eps := workload.Split(ev, run.Episodes(ev))
			t1 := time.Now()
			classes := make([]run.ClassOf, len(eps))
			for i := range eps {
				v := workload.Classify(ev, eps[i])
				classes[i] = workload.ClassOf(v)
			}
			t2 := time.Now()
			runs := run.Join(ev, eps, classes)
			episodes, classify, join = episodes+t1.Sub(t0), classify+t2.Sub(t1), join+time.Since(t2)
			judged++
			now := map[string]bool{}
			for _, r := range runs {
				now[r.ID] = true
				for _, s := range r.Supersedes {
					now[s] = true
				}
				before, seen := class[r.ID]
				if seen && before != r.Class {
					flips++
					if os.Getenv("FLOPWATCH_SHOW") != "" {
						t.Logf("%s at %.0f min: %s %s -> %s %.2f (from %.1f) %v", l.name, float64(at-l.startMs)/60000, r.ID, before, r.Class, r.ClassProb, float64(r.StartMs-l.startMs)/60000, r.Reasons)
					}
				}
				class[r.ID] = r.Class
				if _, seen := known[r.ID]; !seen {
					known[r.ID] = at
				}
			}
			for id, first := range known {
				if !now[id] && first < at {
					lost++
					if os.Getenv("FLOPWATCH_SHOW") != "" {
						t.Logf("%s at %.0f min: lost %s (%s), first seen at %.0f", l.name, float64(at-l.startMs)/60000, id, class[id], float64(first-l.startMs)/60000)
					}
					delete(known, id)
				}
			}
			if at == l.endMs {
				break
			}
		}
		if lost > 0 {
			t.Errorf("%s: %d ids that were seen are gone", l.name, lost)
		}
		t.Logf("growth %-28s %d moments, %d runs, %d ids lost, %d class changes; mean ms: episodes %.1f, classify %.1f, join %.1f", l.name, judged, len(known), lost, flips,
			episodes.Seconds()*1e3/float64(judged), classify.Seconds()*1e3/float64(judged), join.Seconds()*1e3/float64(judged))
	}
}
