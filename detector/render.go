package detector

import (
	"cmp"
	"maps"
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

// What a line holds at most of each kind: a line is read by people, and kept for every version.
const (
	maxContradictions = 20
	maxStragglers     = 10
	maxCampaigns      = 10
	maxCampaignRuns   = 100
	maxReasons        = 10    // of a campaign
	leastProbability  = 0.001 // of a class, of a grouping
)

// lines renders activities as BUNDLE.md has them, in their order.
func (d *Detector) lines(ev *feature.Evidence, acts []judged, campaigns []run.Campaign) []RunLine {
	out := make([]RunLine, len(acts))
	at := make(map[string]int, len(acts))
	merged := merge(acts)
	inquiries := d.inquiries()
	for i := range acts {
		id := acts[i].run.ID
		at[id] = i
		out[i] = d.line(ev, acts[i])
		out[i].IfOneRun = merged[id]
		out[i].Inquiries = nonNil(inquiries[id])
	}
	for i := range campaigns {
		c := campaignLine(&campaigns[i], acts, at)
		for _, id := range campaigns[i].Runs {
			if k, ok := at[id]; ok && len(out[k].Campaigns) < maxCampaigns {
				out[k].Campaigns = append(out[k].Campaigns, c)
			}
		}
	}
	for i := range out {
		out[i].Largest = largest(&out[i])
	}
	return out
}

// inquiries are the findings on each run that ask, sorted.
func (d *Detector) inquiries() map[string][]string {
	out := map[string][]string{}
	for _, id := range slices.Sorted(maps.Keys(d.prev)) {
		f := d.prev[id]
		if f.State != report.Inquire {
			continue
		}
		for _, r := range f.Runs {
			out[r] = append(out[r], id)
		}
	}
	return out
}

// campaignLine adds up what its runs computed: the sums of the intervals, since what is unknown
// about one is unknown about all.
func campaignLine(c *run.Campaign, acts []judged, at map[string]int) CampaignLine {
	l := CampaignLine{Campaign: c.ID, Kind: c.Kind, Weight: round(c.Weight, 3), KnownMs: c.KnownMs, Runs: nonNil(c.Runs), RunCount: len(c.Runs), Reasons: nonNil(c.Reasons)}
	var sum flops.Interval
	for _, id := range c.Runs {
		if k, ok := at[id]; ok {
			e := acts[k].est.Model
			sum = flops.Interval{Low: sum.Low + e.Low, Best: sum.Best + e.Best, High: sum.High + e.High}
		}
	}
	l.FLOPsModel = rounded(sum)
	l.Runs, l.Reasons = l.Runs[:min(len(l.Runs), maxCampaignRuns)], l.Reasons[:min(len(l.Reasons), maxReasons)]
	return l
}

// largest is the grouping of a run with others that adds up to most, of those that are plausible;
// nil: it stands alone in all of them.
func largest(l *RunLine) *GroupingLine {
	var out *GroupingLine
	take := func(kind string, runs []string, weight float64, total flops.Interval) {
		if len(runs) > 1 && total.Best > l.FLOPsModel.Best && (out == nil || total.Best > out.FLOPsModel.Best) {
			out = &GroupingLine{Kind: kind, Runs: runs, Weight: weight, FLOPsModel: total}
		}
	}
	if m := l.IfOneRun; m != nil {
		weight := 0.0
		for _, x := range l.Alternatives {
			weight = max(weight, x.Weight)
		}
		take("restarts", m.Runs, weight, m.FLOPsModel)
	}
	for i := range l.Campaigns {
		if c := &l.Campaigns[i]; c.Weight >= leastProbability {
			take(c.Kind, c.Runs, c.Weight, c.FLOPsModel)
		}
	}
	return out
}

// line renders an activity as BUNDLE.md has it.
func (d *Detector) line(ev *feature.Evidence, a judged) RunLine {
	l := RunLine{
		Run: a.run.ID, Class: a.run.Class, ClassProbability: round(a.run.ClassProb, 4), StartedMs: a.run.StartMs,
		Members: make([]MemberLine, len(a.run.Members)), Accounts: nonNil(a.run.Accounts),
		FLOPsExecuted: rounded(a.est.Executed), FLOPsModel: rounded(a.est.Model), Basis: nonNil(a.est.Basis),
		CoverageFrac: round(a.est.CoverageFrac, 4), Thresholds: []ThresholdLine{}, Reasons: nonNil(a.run.Reasons), Links: []LinkLine{}, Alternatives: []AlternativeLine{},
		TrainingProbability: round(a.trainingProb, 4), ClassProbabilities: probabilities(a.probs), FeaturesMissed: nonNil(a.missed),
		Terms: terms(a.est.Terms), NarrowMost: narrowMost(&a.est), Campaigns: []CampaignLine{}, Contradictions: contradictions(a.contradictions),
		ContradictionCount: len(a.contradictions), Engineering: engineering(&a), Inquiries: []string{},
	}
	if a.share != ([3]float64{}) {
		l.Share = &ShareLine{round(a.share[0], 4), round(a.share[1], 4), round(a.share[2], 4)}
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
		total, series := counted(p, &a.est)
		t := ThresholdLine{Profile: p.Name, LimitFLOP: p.LimitFLOPs, Probability: round(threshold.ProbabilityExceeds(total, p.LimitFLOPs), 4)}
		if c := forecast.Cross(forecast.Input{
			Series: series, StartMs: a.run.StartMs, NowMs: ev.EndMs, Model: total, LimitFLOP: p.LimitFLOPs, EndMs: contractEnd, Open: a.run.Open,
		}); c != nil {
			t.Crossing = c
		}
		l.Thresholds = append(l.Thresholds, t)
	}
	return l
}

// counted is what a profile compares with its limit: model FLOPs, or executed ones.
func counted(p threshold.Profile, est *flops.Estimate) (flops.Interval, []flops.Point) {
	if p.Counting.Basis != threshold.Executed {
		return est.Model, est.Series
	}
	series := slices.Clone(est.Series)
	for i := range series {
		series[i].ModelFLOP = series[i].ExecutedFLOP
	}
	return est.Executed, series
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

// probabilities are those of the classes that are not ruled out.
func probabilities(of map[string]float64) map[string]float64 {
	out := map[string]float64{}
	for class, p := range of {
		if p >= leastProbability {
			out[class] = round(p, 4)
		}
	}
	return out
}

// terms of the interval of the model FLOPs, widest first. One that has no bound is left out: JSON
// has no infinity, and nothing would narrow it.
func terms(of []flops.Term) []flops.Term {
	out := []flops.Term{}
	for _, t := range of {
		if t.LogSD > 0 && !math.IsInf(t.LogSD, 0) && !math.IsNaN(t.HalfWidth) && !math.IsInf(t.HalfWidth, 0) {
			t.LogSD, t.HalfWidth = round(t.LogSD, 4), round(t.HalfWidth, 4)
			out = append(out, t)
		}
	}
	slices.SortStableFunc(out, func(a, b flops.Term) int { return cmp.Or(cmp.Compare(b.LogSD, a.LogSD), cmp.Compare(a.Name, b.Name)) })
	return out
}

// z90 is half of a 90 % interval in standard deviations.
const z90 = 1.6449

// narrowMost is the signal that would narrow the interval most; nil: none is known.
func narrowMost(e *flops.Estimate) *NarrowLine {
	for _, t := range terms(e.Terms) {
		if t.Narrow == "" {
			continue
		}
		half := func(variance float64) float64 { return round(math.Sinh(z90*math.Sqrt(max(variance, 0))), 4) }
		return &NarrowLine{Term: t.Name, Signal: t.Narrow, HalfWidth: half(e.LogSD * e.LogSD), Then: half(e.LogSD*e.LogSD - t.LogSD*t.LogSD)}
	}
	return nil
}

// contradictions are those that say most, the most certain first.
func contradictions(of []flops.Contradiction) []ContradictionLine {
	of = slices.Clone(of)
	slices.SortStableFunc(of, func(a, b flops.Contradiction) int { return cmp.Compare(b.LogOdds, a.LogOdds) })
	out := []ContradictionLine{}
	for _, c := range of[:min(len(of), maxContradictions)] {
		l := ContradictionLine{Kind: c.Kind, Node: c.Node, FromMs: c.FromMs, ToMs: c.ToMs, Ratio: known(c.Ratio, 4), LogOdds: known(c.LogOdds, 2), Reason: c.Reason}
		if c.GPU >= 0 {
			gpu := c.GPU
			l.GPU = &gpu
		}
		out = append(out, l)
	}
	return out
}

// engineering is what a fleet's owner asks of a run; nil: it was not looked at.
func engineering(a *judged) *EngineeringLine {
	e := a.engineering
	if e == nil {
		return nil
	}
	hours := func(ms int64) *float64 { v := round(float64(ms)/3_600_000, 3); return &v }
	l := &EngineeringLine{MFU: known(e.MFU, 4), HFU: known(e.HFU, 4), Goodput: known(e.Goodput, 4), Stragglers: []StragglerLine{}}
	held := int64(0)
	for _, m := range a.run.Members {
		held += m.EndMs - m.StartMs
	}
	l.GPUHours = *hours(held)
	if l.Goodput != nil { // else nothing of it could be told: none is not what was seen
		restarts := e.Restarts
		l.Restarts, l.RestartGPUHours, l.StallGPUHours, l.IdleGPUHours = &restarts, hours(e.RestartMs), hours(e.StallMs), hours(e.IdleMs)
	}
	if kwh := e.EnergyJ / 3.6e6; !math.IsNaN(kwh) && !math.IsInf(kwh, 0) && kwh > 0 {
		kwh = significant(kwh)
		l.EnergyKWh = &kwh
	}
	for _, s := range e.Stragglers[:min(len(e.Stragglers), maxStragglers)] {
		l.Stragglers = append(l.Stragglers, StragglerLine{Node: s.Node, Behind: round(s.Behind, 4), Reason: s.Reason})
	}
	return l
}

// known is nil for what is not known.
func known(v float64, digits int) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	v = round(v, digits)
	return &v
}
