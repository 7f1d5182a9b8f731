package score

import (
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/internal/bundle"
)

// FLOPs is how well one basis was estimated over one group of activities. Means and
// shares are -1 where there is nothing to judge.
type FLOPs struct {
	Basis        string   `json:"basis"` // executed, model
	Group        string   `json:"group"` // training (with finetuning and rl), inference, other, all
	Judged       int      `json:"judged"`
	Matched      int      `json:"matched"`
	MAPE         float64  `json:"mape"`
	Bias         float64  `json:"bias"`                // mean of ln(best / truth)
	Within30     float64  `json:"within_30"`           // of the matched
	Within30All  float64  `json:"within_30_of_all"`    // the unmatched count as outside
	Coverage     float64  `json:"coverage_90"`         // of the matched: low <= truth <= high
	HalfWidth    float64  `json:"median_half_width"`   // (high - low) / 2 / best
	HalfWidthLn  float64  `json:"median_half_ln"`      // ln(high / low) / 2; intervals that reach 0 are infinite and left out
	ZeroJudged   int      `json:"zero_truth"`          // activities whose truth is 0
	ZeroRight    int      `json:"zero_truth_answered"` // those with a best of 0
	Unmatched    []string `json:"unmatched"`
	relative     []float64
	logs         []float64
	half, halfLn []float64
	inside, near int
}

// Estimate is one activity's FLOPs as they were answered.
type Estimate struct {
	Basis, Activity, Kind string
	Run                   string // "": none is matched
	Truth                 float64
	Low, Best, High       float64
}

var flopsGroups = []string{"training", "inference", "other", "all"}

func scoreFLOPs(acts []activity, runs []answeredRun, ofRun, ofLabel []int) (out []FLOPs, each []Estimate) {
	for _, basis := range []string{"executed", "model"} {
		for _, group := range flopsGroups {
			f := FLOPs{Basis: basis, Group: group}
			for l, a := range acts {
				want := a.FLOPsExecuted
				if basis == "model" {
					want = a.FLOPsModel
				}
				if want == nil || a.Kind == "notebook" || a.Kind == "idle" || !inGroup(family(a.Kind), group) {
					continue
				}
				var got *interval
				if r := ofLabel[l]; r >= 0 && ofRun[r] == l && family(runs[r].Class) == family(a.Kind) {
					got = runs[r].FLOPsExecuted
					if basis == "model" {
						got = runs[r].FLOPsModel
					}
				}
				f.add(a.ID, *want, got)
				if group == "all" && *want > 0 {
					e := Estimate{Basis: basis, Activity: a.ID, Kind: a.Kind, Truth: *want}
					if got != nil {
						e.Run, e.Low, e.Best, e.High = runs[ofLabel[l]].Run, got.Low, got.Best, got.High
					}
					each = append(each, e)
				}
			}
			f.finish()
			out = append(out, f)
		}
	}
	return out, each
}

func inGroup(family, group string) bool {
	switch group {
	case "all":
		return true
	case "other":
		return family != "training" && family != "inference"
	}
	return family == group
}

func (f *FLOPs) add(id string, want float64, got *interval) {
	if want == 0 {
		f.ZeroJudged++
		if got != nil && got.Best == 0 {
			f.ZeroRight++
		}
		return
	}
	f.Judged++
	if got == nil {
		f.Unmatched = append(f.Unmatched, id)
		return
	}
	f.Matched++
	off := math.Abs(got.Best-want) / want
	f.relative = append(f.relative, off)
	if got.Best > 0 {
		f.logs = append(f.logs, math.Log(got.Best/want))
		f.half = append(f.half, (got.High-got.Low)/2/got.Best)
	}
	if got.Low > 0 && got.High >= got.Low {
		f.halfLn = append(f.halfLn, math.Log(got.High/got.Low)/2)
	}
	if off <= 0.3 {
		f.near++
	}
	if got.Low <= want && want <= got.High {
		f.inside++
	}
}

func (f *FLOPs) finish() {
	f.MAPE, f.Bias = mean(f.relative), mean(f.logs)
	if len(f.logs) == 0 {
		f.Bias = 0
	}
	f.Within30, f.Within30All = ratio(float64(f.near), float64(f.Matched)), ratio(float64(f.near), float64(f.Judged))
	f.Coverage = ratio(float64(f.inside), float64(f.Matched))
	f.HalfWidth, f.HalfWidthLn = quantile(f.half, 0.5), quantile(f.halfLn, 0.5)
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return ratio(sum, float64(len(v)))
}

// quantile of the values, interpolated; -1 without values.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return -1
	}
	s := slices.Sorted(slices.Values(v))
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 == len(s) {
		return s[i]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

// Thresholds is how well the probability of an exceeded limit was stated, over matched
// runs of labelled training, finetuning and rl, times the recording's own profiles.
type Thresholds struct {
	Judged int     `json:"judged"`
	Brier  float64 `json:"brier"`      // mean of (probability - exceeded)²; -1: nothing to judge
	Wrong  int     `json:"wrong_side"` // of 0.5
}

func scoreThresholds(profiles []bundle.Profile, acts []activity, runs []answeredRun, ofRun, ofLabel []int) Thresholds {
	var t Thresholds
	sum := 0.0
	for l, a := range acts {
		r := ofLabel[l]
		if a.FLOPsModel == nil || !isTraining(a.Kind) || r < 0 || ofRun[r] != l || !isTraining(runs[r].Class) {
			continue
		}
		for _, p := range profiles {
			for _, th := range runs[r].Thresholds {
				if th.Profile != p.Name {
					continue
				}
				exceeded := 0.0
				if *a.FLOPsModel > p.LimitFLOPs {
					exceeded = 1
				}
				t.Judged++
				sum += (th.Probability - exceeded) * (th.Probability - exceeded)
				if (th.Probability >= 0.5) != (exceeded == 1) {
					t.Wrong++
				}
			}
		}
	}
	t.Brier = ratio(sum, float64(t.Judged))
	return t
}
