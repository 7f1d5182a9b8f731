package score

import "github.com/flopwatch/flopwatch/internal/bundle"

// Claim is what was said of some GPU-time with what probability, and what is true of it.
type Claim struct {
	Group string  // the recording, or the store
	Run   string  // claims of one run are one witness
	Said  float64 // probability
	Right bool
	Hours float64 // GPU-hours
}

// Total is an interval of FLOPs that was said, and the value that is true.
type Total struct {
	Group, Run string
	Quantity   string  // executed, model
	Basis      string  // the tier that it rests on first; "": none was told
	Kind       string  // of the activity, or what a person says that it was
	Truth      float64 // positive
	Low, Best  float64
	High       float64
	Bases      []string // all tiers
}

// Observations are what calibration looks at.
type Observations struct {
	Group      string
	GPUHours   float64 // of the recording: GPUs that were labelled or answered, times the period
	Class      []Claim // of the class that was named; unknown names none
	Training   []Claim // of training of any kind
	Limits     []Claim // that a limit is exceeded; hours are 1 each
	Estimates  []Total
	RightFound int            // findings that were expected, or allowed
	WrongFound int            // findings that were not
	WrongLimbs map[string]int // of these, by limb
	Asked      int            // inquiries
	AskedHours float64        // GPU-hours over which inquiries were written; 0: none were
	Labels     int            // of a store: labels that were used
}

// observe collects what a comparison says of probabilities and intervals.
func observe(m bundle.Manifest, t truth, runs []answeredRun, labels, answers timeline, ofRun, ofLabel []int, res *Result) Observations {
	o := Observations{Group: res.Bundle, WrongLimbs: map[string]int{}}
	gpus := map[gpuKey]bool{}
	for k := range labels {
		gpus[k] = true
	}
	for k := range answers {
		gpus[k] = true
	}
	o.GPUHours = float64(len(gpus)) * float64(m.EndMs-m.StartMs) / hourMs
	type about struct {
		run   int
		right bool
	}
	class, training := map[about]float64{}, map[about]float64{}
	walk(labels, answers, func(p piece) {
		if !p.judged {
			return
		}
		pair(p, t.Activities, runs, ofRun, func(l, r int) {
			if l < 0 || r < 0 {
				return
			}
			kind := t.Activities[l].Kind
			if runs[r].Class != unknown {
				class[about{r, headline(kind) == headline(runs[r].Class)}] += p.hours
			}
			training[about{r, isTraining(kind)}] += p.hours
		})
	})
	for r := range runs {
		for _, right := range []bool{true, false} {
			if h := class[about{r, right}]; h > 0 && runs[r].ClassProbability != nil {
				o.Class = append(o.Class, Claim{o.Group, runs[r].Run, *runs[r].ClassProbability, right, h})
			}
			if h := training[about{r, right}]; h > 0 && runs[r].TrainingProbability != nil {
				o.Training = append(o.Training, Claim{o.Group, runs[r].Run, *runs[r].TrainingProbability, right, h})
			}
		}
	}
	for l, a := range t.Activities {
		r := ofLabel[l]
		if r < 0 || ofRun[r] != l || family(runs[r].Class) != family(a.Kind) || a.Kind == "notebook" || a.Kind == "idle" {
			continue
		}
		for _, q := range []struct {
			name string
			want *float64
			got  *interval
		}{{"executed", a.FLOPsExecuted, runs[r].FLOPsExecuted}, {"model", a.FLOPsModel, runs[r].FLOPsModel}} {
			if q.want == nil || *q.want <= 0 || q.got == nil {
				continue
			}
			e := Total{Group: o.Group, Run: runs[r].Run, Quantity: q.name, Kind: a.Kind, Truth: *q.want, Low: q.got.Low, Best: q.got.Best, High: q.got.High, Bases: runs[r].Basis}
			if len(runs[r].Basis) > 0 {
				e.Basis = runs[r].Basis[0]
			}
			o.Estimates = append(o.Estimates, e)
		}
		if a.FLOPsModel == nil || !isTraining(a.Kind) || !isTraining(runs[r].Class) {
			continue
		}
		for _, p := range m.Profiles {
			for _, th := range runs[r].Thresholds {
				if th.Profile == p.Name && p.LimitFLOPs > 0 {
					o.Limits = append(o.Limits, Claim{o.Group, runs[r].Run, th.Probability, *a.FLOPsModel > p.LimitFLOPs, 1})
				}
			}
		}
	}
	for _, f := range res.Findings {
		if f.Limb == "all" {
			continue
		}
		o.RightFound += f.Right + f.Allowed
		o.WrongFound += f.Wrong
		if f.Wrong > 0 {
			o.WrongLimbs[f.Limb] += f.Wrong
		}
	}
	return o
}

// Attribution is how well runs were given to accounts: over activities with labelled accounts and the
// run that is matched to them.
type Attribution struct {
	Group     string  `json:"group"`  // training, all
	Judged    int     `json:"judged"` // activities with labelled accounts and a matched run
	Exact     float64 `json:"exact"`  // share whose accounts are just the labelled ones; -1: nothing to judge
	Precision float64 `json:"precision"`
	Recall    float64 `json:"recall"`
	F1        float64 `json:"f1"`
	Unmatched int     `json:"unmatched"` // activities with labelled accounts and no run
}

func scoreAttribution(acts []activity, runs []answeredRun, ofRun, ofLabel []int) []Attribution {
	var out []Attribution
	for _, group := range []string{"training", "all"} {
		a := Attribution{Group: group}
		exact, hit, said, wanted := 0, 0, 0, 0
		for l := range acts {
			if len(acts[l].Accounts) == 0 || group == "training" && !isTraining(acts[l].Kind) || acts[l].Kind == "idle" {
				continue
			}
			r := ofLabel[l]
			if r < 0 || ofRun[r] != l {
				a.Unmatched++
				continue
			}
			a.Judged++
			if sameSet(acts[l].Accounts, runs[r].Accounts) {
				exact++
			}
			want := map[string]bool{}
			for _, x := range acts[l].Accounts {
				want[x] = true
			}
			got := map[string]bool{}
			for _, x := range runs[r].Accounts {
				if !got[x] && want[x] {
					hit++
				}
				got[x] = true
			}
			said, wanted = said+len(got), wanted+len(want)
		}
		a.Exact = ratio(float64(exact), float64(a.Judged))
		a.Precision, a.Recall = ratio(float64(hit), float64(said)), ratio(float64(hit), float64(wanted))
		a.F1 = ratio(2*float64(hit), float64(said+wanted))
		out = append(out, a)
	}
	return out
}

// CrossingSummary sums up Crossings.
type CrossingSummary struct {
	Judged    int     `json:"judged"`
	Answered  int     `json:"answered"`
	OffFrac   float64 `json:"median_off_frac"` // of the answered; -1: none
	Within10  float64 `json:"within_10"`       // of the judged: off by no more than a tenth of the time from the run's start
	Coverage  float64 `json:"coverage_80"`     // of the answered: p10 <= truth <= p90
	OffMedian float64 `json:"median_abs_off_minutes"`
}

func sumCrossings(all []Crossing) CrossingSummary {
	s := CrossingSummary{Judged: len(all)}
	var frac, minutes []float64
	near, covered := 0, 0
	for _, c := range all {
		if !c.Answered {
			continue
		}
		s.Answered++
		frac, minutes = append(frac, c.OffFrac), append(minutes, max(c.OffMin, -c.OffMin))
		if c.OffFrac <= 0.1 {
			near++
		}
		if c.Covered {
			covered++
		}
	}
	s.OffFrac, s.OffMedian = quantile(frac, 0.5), quantile(minutes, 0.5)
	s.Within10, s.Coverage = ratio(float64(near), float64(s.Judged)), ratio(float64(covered), float64(s.Answered))
	return s
}
