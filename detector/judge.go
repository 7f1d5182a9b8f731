package detector

import (
	"cmp"
	"maps"
	"slices"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/parallel"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/workload"
)

// activities says what the fleet did as far as the evidence shows: assembled in space,
// classified, joined over time, and estimated. Activities that no threshold looks at are
// estimated only where all is set. It is pure.
func activities(ev *feature.Evidence, all bool) (acts []judged, campaigns []run.Campaign) {
	eps := workload.Split(ev, run.Episodes(ev))
	classes := make([]run.ClassOf, len(eps))
	verdicts := make([]workload.Verdict, len(eps))
	parallel.Each(len(eps), func(i int) {
		verdicts[i] = workload.Classify(ev, eps[i])
		classes[i] = workload.ClassOf(verdicts[i])
	})
	runs := run.Join(ev, eps, classes)
	slices.SortFunc(runs, func(a, b run.Run) int { return cmp.Or(cmp.Compare(a.StartMs, b.StartMs), cmp.Compare(a.ID, b.ID)) })
	acts = make([]judged, len(runs))
	parallel.Each(len(runs), func(i int) {
		clipDark(ev, &runs[i])
		a := &acts[i]
		a.run = runs[i]
		a.weigh(eps, verdicts)
		if !all && !workload.IsRun(runs[i].Class) {
			return
		}
		in := flops.Input{Ev: ev, Members: runs[i].Members, Class: runs[i].Class, Share: a.share}
		a.est = flops.Of(in)
		a.contradictions = flops.CrossCheck(ev, in.Members, in.Class) // of other classes too: what hides as idle contradicts itself
		if all && in.Class != workload.Idle {
			e := flops.Engineer(in, a.est)
			a.engineering = &e
		}
	})
	return acts, run.Campaigns(ev, eps, runs)
}

// leastServing is how probable serving has to be for a training's share of the work on its GPUs to be
// asked for.
const leastServing = 0.01

// weigh takes what was said of the episodes of a run together, each by its GPU-time.
func (a *judged) weigh(eps []run.Episode, verdicts []workload.Verdict) {
	var total, shared float64
	var share [3]float64
	probs, missed := map[string]float64{}, map[string]float64{}
	for _, i := range a.run.Episodes {
		w := 0.0
		for _, m := range eps[i].Members {
			w += float64(m.EndMs - m.StartMs + feature.MinuteMs)
		}
		v := &verdicts[i]
		total += w
		for class, p := range v.Probs { // each class on its own: the order reaches no sum
			probs[class] += w * p
		}
		for _, name := range v.Missed {
			missed[name] += w
		}
		// Zeros: nothing is said, all is its own. So it is where the verdict itself rules out that
		// anybody serves: memory traffic alone is no sign of another.
		sharing := v.Share != ([3]float64{}) && v.Probs[workload.Inference]+v.Probs[workload.BatchInference] >= leastServing
		if sharing {
			shared += w
		}
		for k := range share {
			if sharing {
				share[k] += w * v.Share[k]
			} else {
				share[k] += w
			}
		}
	}
	if total <= 0 {
		return
	}
	a.probs = probs
	for class := range probs {
		probs[class] /= total
	}
	a.trainingProb = probs[workload.Training] + probs[workload.Finetuning] + probs[workload.RL]
	for _, name := range slices.Sorted(maps.Keys(missed)) {
		if missed[name] > total/2 { // of most of its time
			a.missed = append(a.missed, name)
		}
	}
	if shared > 0 {
		for k := range share {
			a.share[k] = share[k] / total
		}
	}
}

// looked is what a large fleet was seen to do at the moment judged last: its runs are written as of then, which saves
// looking a second time where the block ends.
type looked struct {
	ev        *feature.Evidence
	atMs      int64
	acts      []judged
	campaigns []run.Campaign
}

// judge looks at everything that was visible at atMs and keeps the verdict.
func (d *Detector) judge(startMs, atMs int64, last bool) error {
	ev := d.st.evidence(startMs, atMs, last)
	d.looked = nil
	large := d.st.gpuCells > largeFleet
	acts, campaigns := activities(ev, large)
	if large {
		d.looked = &looked{ev, atMs, acts, campaigns}
	}
	states := make([]report.RunState, len(acts))
	for i := range acts {
		states[i] = acts[i].state()
	}
	found := report.Evaluate(report.Input{
		AtMs: atMs, StartMs: startMs, PrevAtMs: d.prevAtMs, Ev: ev, Runs: states, Campaigns: campaigns, Resolve: d.parties.Resolve,
		Profiles: d.profiles, Peak16: d.peak16, Peak8: d.peak8, Estimate: estimator(ev), SpecialJurisdictions: d.cfg.SpecialJurisdictions, Prev: d.known(),
	})
	d.prevAtMs = atMs
	return d.keepFindings(atMs, found)
}

// estimator says what an activity's GPUs computed if it was of another class.
func estimator(ev *feature.Evidence) func(r *run.Run, class string) flops.Estimate {
	return func(r *run.Run, class string) flops.Estimate {
		return flops.Of(flops.Input{Ev: ev, Members: r.Members, Class: class})
	}
}

// peak16 is a part's dense 16-bit peak in FLOP per second.
func (d *Detector) peak16(gpuModel string) (float64, bool) {
	p := d.peak(gpuModel)
	return p.flopPerS, p.known
}

// peak8 is a part's best dense 8-bit peak in operations per second; false: it has none, or it is not
// known.
func (d *Detector) peak8(gpuModel string) (float64, bool) {
	p := d.peak(gpuModel)
	return p.peak8, p.known && p.peak8 > 0
}

func (d *Detector) peak(gpuModel string) peak {
	p, ok := d.peaks[gpuModel]
	if !ok {
		a, known := flops.Lookup(gpuModel)
		p = peak{a.Peak16, max(a.FP8, a.INT8), known}
		d.peaks[gpuModel] = p
	}
	return p
}

type peak struct {
	flopPerS, peak8 float64
	known           bool
}

// judged is one activity with its estimate.
type judged struct {
	run run.Run
	est flops.Estimate
	// trainingProb is that it is a training of any kind, probs that of each class.
	trainingProb float64
	probs        map[string]float64
	// missed are features that most of its time lacks, and that would have told classes apart.
	missed []string
	// share is what part of the tensor work on its GPUs is its own; zeros: all.
	share          [3]float64
	contradictions []flops.Contradiction
	// engineering is looked at where all is; nil: it was not.
	engineering *flops.Engineering
}

// state is what the report looks at.
func (a *judged) state() report.RunState {
	return report.RunState{Run: a.run, Est: a.est, TrainingProb: a.trainingProb, Contradictions: a.contradictions}
}
