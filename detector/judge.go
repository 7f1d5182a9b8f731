package detector

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/forecast"
	"github.com/flopwatch/flopwatch/detector/report"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/detector/workload"
)

// activities says what the fleet did as far as the evidence shows: assembled in space,
// classified, joined over time, and estimated. Activities that no threshold looks at are
// estimated only where all is set. It is pure.
func activities(ev *feature.Evidence, all bool) []judged {
	eps := run.Episodes(ev)
	classes := make([]run.ClassOf, len(eps))
	training := make([]float64, len(eps)) // probability of it
	for i := range eps {
		v := workload.Classify(ev, eps[i])
		classes[i] = workload.ClassOf(v)
		training[i] = v.Probs[workload.Training] + v.Probs[workload.Finetuning] + v.Probs[workload.RL]
	}
	runs := run.Join(ev, eps, classes)
	slices.SortFunc(runs, func(a, b run.Run) int { return cmp.Or(cmp.Compare(a.StartMs, b.StartMs), cmp.Compare(a.ID, b.ID)) })
	out := make([]judged, len(runs))
	for i := range runs {
		clipDark(ev, &runs[i])
		out[i].run = runs[i]
		out[i].trainingProb = trainingProb(eps, training, runs[i].Episodes)
		if all || workload.IsRun(runs[i].Class) {
			out[i].est = flops.Of(flops.Input{Ev: ev, Members: runs[i].Members, Class: runs[i].Class})
		}
	}
	return out
}

// trainingProb weighs the episodes of a run by their GPU-time.
func trainingProb(eps []run.Episode, training []float64, of []int) float64 {
	var sum, total float64
	for _, i := range of {
		w := 0.0
		for _, m := range eps[i].Members {
			w += float64(m.EndMs - m.StartMs + feature.MinuteMs)
		}
		sum += w * training[i]
		total += w
	}
	if total <= 0 {
		return 0
	}
	return sum / total
}

// judge looks at everything that was visible at atMs and keeps the verdict.
func (d *Detector) judge(startMs, atMs int64, last bool) error {
	ev := d.st.evidence(startMs, atMs, last)
	acts := activities(ev, false)
	states := make([]report.RunState, len(acts))
	for i, a := range acts {
		states[i] = report.RunState{Run: a.run, Est: a.est, TrainingProb: a.trainingProb}
	}
	found := report.Evaluate(report.Input{
		AtMs: atMs, StartMs: startMs, PrevAtMs: d.prevAtMs, Ev: ev, Runs: states, Resolve: d.parties.Resolve,
		Profiles: d.profiles, Peak16: d.peak16, SpecialJurisdictions: d.cfg.SpecialJurisdictions, Prev: d.known(),
	})
	d.prevAtMs = atMs
	return d.keepFindings(atMs, found)
}

// peak16 is a part's dense 16-bit peak in FLOP per second.
func (d *Detector) peak16(gpuModel string) (float64, bool) {
	p, ok := d.peaks[gpuModel]
	if !ok {
		a, known := flops.Lookup(gpuModel)
		p = peak{a.Peak16, known}
		d.peaks[gpuModel] = p
	}
	return p.flopPerS, p.known
}

type peak struct {
	flopPerS float64
	known    bool
}

// line renders an activity as BUNDLE.md has it.
func (d *Detector) line(ev *feature.Evidence, a judged) RunLine {
	l := RunLine{
		Run: a.run.ID, Class: a.run.Class, ClassProbability: round(a.run.ClassProb, 4), StartedMs: a.run.StartMs,
		Members: make([]MemberLine, len(a.run.Members)), Accounts: nonNil(a.run.Accounts),
		FLOPsExecuted: rounded(a.est.Executed), FLOPsModel: rounded(a.est.Model), Basis: nonNil(a.est.Basis),
		CoverageFrac: round(a.est.CoverageFrac, 4), Thresholds: []ThresholdLine{}, Reasons: nonNil(a.run.Reasons), Links: []LinkLine{}, Alternatives: []AlternativeLine{},
	}
	if !a.run.Open {
		l.EndedMs = &a.run.EndMs
	}
	for i, m := range a.run.Members {
		l.Members[i] = MemberLine{Node: m.Node, GPU: m.GPU, StartMs: m.StartMs, EndMs: m.EndMs}
	}
	for _, x := range a.est.Lost {
		l.Lost = append(l.Lost, LostLine(x))
	}
	for _, k := range a.run.Links {
		l.Links = append(l.Links, LinkLine{Kind: k.Kind, Weight: round(k.Weight, 3), Reason: k.Reason})
	}
	for _, x := range a.run.Alternatives {
		l.Alternatives = append(l.Alternatives, AlternativeLine{Run: x.Run, Weight: round(x.Weight, 3), Reason: x.Reason})
	}
	if !workload.IsRun(a.run.Class) {
		return l
	}
	contractEnd := report.ContractEnd(ev, a.run)
	for _, p := range d.cfg.Profiles {
		if p.LimitFLOPs <= 0 {
			continue
		}
		t := ThresholdLine{Profile: p.Name, LimitFLOP: p.LimitFLOPs, Probability: round(threshold.ProbabilityExceeds(a.est.Model, p.LimitFLOPs), 4)}
		if c := forecast.Cross(forecast.Input{
			Series: a.est.Series, StartMs: a.run.StartMs, NowMs: ev.EndMs, Model: a.est.Model, LimitFLOP: p.LimitFLOPs, EndMs: contractEnd, Open: a.run.Open,
		}); c != nil {
			t.Crossing = c
		}
		l.Thresholds = append(l.Thresholds, t)
	}
	return l
}

// merge says for each run that may be one with others, though the evidence does not carry
// it, what they would have computed together: the sums of the intervals, since what is
// unknown about one is unknown about all.
func merge(acts []judged) map[string]*MergedLine {
	group := map[string]string{} // run id -> representative
	find := func(id string) string {
		for group[id] != "" && group[id] != id {
			id = group[id]
		}
		return id
	}
	for _, a := range acts {
		for _, x := range a.run.Alternatives {
			if from, to := find(a.run.ID), find(x.Run); from != to {
				group[max(from, to)] = min(from, to)
			}
		}
	}
	totals := map[string]*MergedLine{}
	for _, a := range acts { // by start: sums in a fixed order
		root := find(a.run.ID)
		if totals[root] == nil {
			totals[root] = &MergedLine{}
		}
		t := totals[root]
		t.Runs = append(t.Runs, a.run.ID)
		t.FLOPsModel.Low += a.est.Model.Low
		t.FLOPsModel.Best += a.est.Model.Best
		t.FLOPsModel.High += a.est.Model.High
	}
	out := map[string]*MergedLine{}
	for _, a := range acts {
		if t := totals[find(a.run.ID)]; len(t.Runs) > 1 {
			out[a.run.ID] = &MergedLine{Runs: t.Runs, FLOPsModel: rounded(t.FLOPsModel)}
		}
	}
	return out
}

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// round cuts to digits after the point, so that a line holds what is known and no more.
func round(v float64, digits int) float64 {
	p := math.Pow(10, float64(digits))
	return math.Round(v*p) / p
}

// rounded keeps six significant digits. An end that is not bounded is written as the
// largest number: JSON has no infinity.
func rounded(v flops.Interval) flops.Interval {
	return flops.Interval{Low: significant(v.Low), Best: significant(v.Best), High: significant(v.High)}
}

func significant(v float64) float64 {
	if v == 0 || math.IsNaN(v) {
		return v
	}
	v = max(-math.MaxFloat64, min(v, math.MaxFloat64))
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 6, 64), 64)
	if err != nil {
		return v
	}
	return r
}
