package score

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

const (
	z90 = 1.6449 // of a 90 % interval
	// gpuMonthHours is a month of a GPU.
	gpuMonthHours = 730.5
	// ruleOfThree is how many of a thing that was never seen may be expected, at 95 %.
	ruleOfThree = 2.9957
)

// edges of the bins of probability.
var edges = []float64{0, 0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.99, 1}

// Bin is claims of like probability. Shares are by GPU-hours; the interval says what so few
// witnesses can tell, a run being one.
type Bin struct {
	From      float64 `json:"from"`
	To        float64 `json:"to"`
	Said      float64 `json:"said"`  // mean probability
	Right     float64 `json:"right"` // share that was right
	Low       float64 `json:"right_low"`
	High      float64 `json:"right_high"` // 90 % interval of it
	Hours     float64 `json:"gpu_hours"`
	Witnesses int     `json:"runs"`
	Holds     bool    `json:"holds"` // what was said lies within the interval
}

// Curve is how often what was said with a probability was right.
type Curve struct {
	Bins  []Bin   `json:"bins"`
	Brier float64 `json:"brier"` // -1: nothing to judge
	ECE   float64 `json:"ece"`   // mean distance of said and right
	Hours float64 `json:"gpu_hours"`
	Runs  int     `json:"runs"`
}

// Reliability is curves of what the detector states.
type Reliability struct {
	Class    Curve `json:"class"`    // of the class that is named
	Training Curve `json:"training"` // of training of any kind
	Limits   Curve `json:"limits"`   // that a limit is exceeded
}

func bins(claims []Claim) Curve {
	c := Curve{Bins: []Bin{}, Brier: -1, ECE: -1}
	type sums struct {
		said, right, hours float64
		of                 map[string]float64 // hours by run
	}
	all := make([]sums, len(edges)-1)
	runs := map[string]bool{}
	brier := 0.0
	for _, x := range claims {
		i := len(all) - 1
		for i > 0 && x.Said < edges[i] {
			i--
		}
		s := &all[i]
		if s.of == nil {
			s.of = map[string]float64{}
		}
		run := x.Group + "\x00" + x.Run
		runs[run] = true
		s.said += x.Said * x.Hours
		s.hours += x.Hours
		s.of[run] += x.Hours
		truth := 0.0
		if x.Right {
			s.right += x.Hours
			truth = 1
		}
		brier += x.Hours * (x.Said - truth) * (x.Said - truth)
		c.Hours += x.Hours
	}
	if c.Runs = len(runs); c.Hours == 0 {
		return c
	}
	c.ECE = 0
	for i, s := range all {
		if s.hours == 0 {
			continue
		}
		b := Bin{From: edges[i], To: edges[i+1], Said: s.said / s.hours, Right: s.right / s.hours, Hours: s.hours, Witnesses: len(s.of)}
		squares := 0.0
		for _, run := range slices.Sorted(maps.Keys(s.of)) {
			squares += s.of[run] * s.of[run]
		}
		b.Low, b.High = wilson(b.Right, s.hours*s.hours/squares)
		b.Holds = b.Low <= b.Said && b.Said <= b.High
		c.ECE += s.hours / c.Hours * math.Abs(b.Said-b.Right)
		c.Bins = append(c.Bins, b)
	}
	c.Brier = brier / c.Hours
	return c
}

// wilson is the 90 % interval of a share that n witnesses tell.
func wilson(p, n float64) (low, high float64) {
	if n <= 0 {
		return 0, 1
	}
	middle := (p + z90*z90/(2*n)) / (1 + z90*z90/n)
	half := z90 / (1 + z90*z90/n) * math.Sqrt(p*(1-p)/n+z90*z90/(4*n*n))
	return max(middle-half, 0), min(middle+half, 1)
}

// Intervals is how well intervals of one quantity hold that rest on one tier. Shares are -1 where there
// is nothing to judge.
type Intervals struct {
	Quantity string  `json:"quantity"` // executed, model
	Basis    string  `json:"basis"`    // the best tier; "all"
	Group    string  `json:"group"`    // training (with finetuning and rl), other, all
	Judged   int     `json:"judged"`
	Inside   int     `json:"inside"`
	Coverage float64 `json:"coverage_90"`
	Low      float64 `json:"coverage_low"` // 90 % interval of it
	High     float64 `json:"coverage_high"`
	Width    float64 `json:"median_half_width"`
	MAPE     float64 `json:"mape"`
	Within30 float64 `json:"within_30"`
	Bias     float64 `json:"bias"` // mean of ln(best / truth)
	// Scale is by how much (logarithmic) widths would have to grow for 90 % to hold; ScaledOut is the
	// coverage of widths that are scaled by what the other recordings say: nothing is judged by what
	// it was fitted on. -1: fewer than two recordings, or than ten runs.
	Scale     float64 `json:"scale"`
	ScaledOut float64 `json:"coverage_scaled_left_out"`
}

// Refit is a logistic refit of a curve, on the log odds of what was said.
type Refit struct {
	Slope     float64 `json:"slope"` // 1: as sure as it should be; below: too sure; 0: too few runs
	Intercept float64 `json:"intercept"`
	Brier     float64 `json:"brier"`          // as said
	LeftOut   float64 `json:"brier_left_out"` // refitted, each recording by the others; -1: it could not be
}

// FalseFindings is how many findings that nobody expected come up in time.
type FalseFindings struct {
	GPUMonths float64        `json:"gpu_months"`
	Wrong     int            `json:"wrong"`
	Right     int            `json:"right"` // expected, or allowed
	Limbs     map[string]int `json:"wrong_by_limb"`
	// Per10k is per 10,000 GPU-months, Low and High its 90 % interval; where none was seen High is by the
	// rule of three. -1: no time was watched.
	Per10k float64 `json:"per_10000_gpu_months"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	// Inquiries are no findings: what is asked, and what that makes in 10,000 GPU-months. -1: none were written.
	Inquiries   int     `json:"inquiries"`
	AskedPer10k float64 `json:"inquiries_per_10000_gpu_months"`
}

// Calibration is what recordings with known truth, and labels, say of the detector's own words.
type Calibration struct {
	Groups    []string      `json:"recordings"`
	Class     Curve         `json:"class"`
	Training  Curve         `json:"training"`
	Limits    Curve         `json:"limits"`
	Refit     Refit         `json:"class_refit"`
	RefitT    Refit         `json:"training_refit"`
	Intervals []Intervals   `json:"intervals"`
	Findings  FalseFindings `json:"findings"`
	Labels    int           `json:"labels"`
	Notes     []string      `json:"notes"`
}

// Calibrate takes observations together.
func Calibrate(all []Observations) Calibration {
	c := Calibration{Groups: []string{}, Notes: []string{}, Findings: FalseFindings{Limbs: map[string]int{}}}
	var class, training, limits []Claim
	var estimates []Total
	var hours, askedHours float64
	for i := range all {
		o := &all[i]
		c.Groups = append(c.Groups, o.Group)
		class, training, limits = append(class, o.Class...), append(training, o.Training...), append(limits, o.Limits...)
		estimates = append(estimates, o.Estimates...)
		c.Labels += o.Labels
		c.Findings.Inquiries += o.Asked
		askedHours += o.AskedHours
		if o.GPUHours > 0 { // of labels alone nothing says how many findings nobody looked at
			hours += o.GPUHours
			c.Findings.Wrong += o.WrongFound
			c.Findings.Right += o.RightFound
			for limb, n := range o.WrongLimbs {
				c.Findings.Limbs[limb] += n
			}
		}
	}
	c.Class, c.Training, c.Limits = bins(class), bins(training), bins(limits)
	c.Refit, c.RefitT = refit(class), refit(training)
	c.Intervals = intervals(estimates)
	c.Findings.rate(hours)
	c.Findings.AskedPer10k = -1
	if askedHours > 0 {
		c.Findings.AskedPer10k = float64(c.Findings.Inquiries) * 10_000 * gpuMonthHours / askedHours
	}
	c.notes(len(all))
	return c
}

func (f *FalseFindings) rate(hours float64) {
	f.Per10k, f.Low, f.High = -1, -1, -1
	if f.GPUMonths = hours / gpuMonthHours; hours <= 0 {
		return
	}
	per := 10_000 / f.GPUMonths
	low, high := poisson(f.Wrong)
	f.Per10k, f.Low, f.High = float64(f.Wrong)*per, low*per, high*per
}

// poisson is the exact 90 % interval of what is to be expected where n came; with none the upper end
// is that of the rule of three.
func poisson(n int) (low, high float64) {
	if n == 0 {
		return 0, ruleOfThree
	}
	atMost := func(k int, mean float64) float64 {
		term, sum := math.Exp(-mean), 0.0
		for i := 0; i <= k; i++ {
			sum += term
			term *= mean / float64(i+1)
		}
		return sum
	}
	solve := func(f func(mean float64) float64) float64 { // f falls
		lo, hi := 0.0, 10*float64(n)+30
		for range 200 {
			if mid := (lo + hi) / 2; f(mid) > 0 {
				lo = mid
			} else {
				hi = mid
			}
		}
		return lo
	}
	return solve(func(m float64) float64 { return 0.05 - (1 - atMost(n-1, m)) }), solve(func(m float64) float64 { return atMost(n, m) - 0.05 })
}

// inRefit is how far from 0 and 1 a probability counts at most: log odds have no bound.
const inRefit = 0.001

// refit fits right ~ logistic(intercept + slope * log odds of said), by GPU-hours of runs, and says what
// it would be worth on recordings that it has not seen.
func refit(claims []Claim) Refit {
	out := Refit{LeftOut: -1, Brier: -1}
	groups := map[string]bool{}
	hours := 0.0
	for _, c := range claims {
		groups[c.Group] = true
		hours += c.Hours
	}
	if hours == 0 {
		return out
	}
	out.Brier = bins(claims).Brier
	a, b, ok := logistic(claims, "")
	if !ok {
		return out
	}
	out.Intercept, out.Slope = a, b
	if len(groups) < 2 {
		return out
	}
	sum := 0.0
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		a, b, ok := logistic(claims, g)
		if !ok {
			a, b = 0, 1
		}
		for _, c := range claims {
			if c.Group == g {
				d := sigmoid(a+b*logOdds(c.Said)) - truthOf(c)
				sum += c.Hours * d * d
			}
		}
	}
	out.LeftOut = sum / hours
	return out
}

func truthOf(c Claim) float64 {
	if c.Right {
		return 1
	}
	return 0
}

func logOdds(p float64) float64 {
	p = min(max(p, inRefit), 1-inRefit)
	return math.Log(p / (1 - p))
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// logistic fits by Newton's steps, with a weak prior towards what was said; claims of one group are left out.
func logistic(claims []Claim, without string) (a, b float64, ok bool) {
	runs, hours := map[string]bool{}, 0.0
	for _, c := range claims {
		if c.Group != without {
			runs[c.Group+"\x00"+c.Run] = true
			hours += c.Hours
		}
	}
	if len(runs) < 5 {
		return 0, 1, false
	}
	unit := float64(len(runs)) / hours // a run of usual size weighs 1
	b = 1
	const prior = 1.0
	for range 50 {
		ga, gb, haa, hab, hbb := -prior*a, -prior*(b-1), prior, 0.0, prior
		for _, c := range claims {
			if c.Group == without {
				continue
			}
			x, w := logOdds(c.Said), c.Hours*unit
			p := sigmoid(a + b*x)
			d, v := w*(truthOf(c)-p), w*p*(1-p)
			ga, gb = ga+d, gb+d*x
			haa, hab, hbb = haa+v, hab+v*x, hbb+v*x*x
		}
		det := haa*hbb - hab*hab
		if det <= 0 {
			return 0, 1, false
		}
		da, db := (hbb*ga-hab*gb)/det, (haa*gb-hab*ga)/det
		a, b = a+da, b+db
		if math.Abs(da)+math.Abs(db) < 1e-9 {
			break
		}
	}
	return a, b, !math.IsNaN(a + b)
}

func intervals(all []Total) []Intervals {
	var out []Intervals
	bases := map[string]bool{"all": true}
	for i := range all {
		bases[all[i].Basis] = true
	}
	order := []string{"all", "mma_cycles", "tensor_activity", "energy", "power", "utilization", "allocation"}
	names := slices.SortedFunc(maps.Keys(bases), func(a, b string) int {
		x, y := slices.Index(order, a), slices.Index(order, b)
		return cmp.Or(cmp.Compare(cmpIndex(x), cmpIndex(y)), cmp.Compare(a, b))
	})
	for _, quantity := range []string{"executed", "model"} {
		for _, group := range []string{"training", "other", "all"} {
			for _, basis := range names {
				var of []Total
				for i := range all {
					e := &all[i]
					if e.Quantity == quantity && (basis == "all" || e.Basis == basis) && (group == "all" || isTraining(e.Kind) == (group == "training")) {
						of = append(of, *e)
					}
				}
				if len(of) > 0 {
					out = append(out, interval90(quantity, basis, group, of))
				}
			}
		}
	}
	return out
}

func interval90(quantity, basis, group string, of []Total) Intervals {
	x := Intervals{Quantity: quantity, Basis: basis, Group: group, Judged: len(of), Scale: -1, ScaledOut: -1}
	var width, off, logs []float64
	near := 0
	for i := range of {
		e := &of[i]
		if e.Low <= e.Truth && e.Truth <= e.High {
			x.Inside++
		}
		off = append(off, math.Abs(e.Best-e.Truth)/e.Truth)
		if math.Abs(e.Best-e.Truth) <= 0.3*e.Truth {
			near++
		}
		if e.Best > 0 {
			width, logs = append(width, (e.High-e.Low)/2/e.Best), append(logs, math.Log(e.Best/e.Truth))
		}
	}
	n := float64(len(of))
	x.Coverage = float64(x.Inside) / n
	x.Low, x.High = wilson(x.Coverage, n)
	x.Width, x.MAPE, x.Within30 = quantile(width, 0.5), mean(off), float64(near)/n
	if len(logs) > 0 {
		x.Bias = mean(logs)
	}
	// How far the truth lies from the best value, in ends of the interval.
	reach := map[string][]float64{}
	for i := range of {
		if e := &of[i]; e.Low > 0 && e.Best > e.Low && e.High > e.Best {
			d := math.Log(e.Truth / e.Best)
			if d > 0 {
				d /= math.Log(e.High / e.Best)
			} else {
				d /= math.Log(e.Low / e.Best)
			}
			reach[e.Group] = append(reach[e.Group], d)
		}
	}
	groups := slices.Sorted(maps.Keys(reach))
	pool := func(without string) []float64 {
		var v []float64
		for _, g := range groups {
			if g != without {
				v = append(v, reach[g]...)
			}
		}
		return v
	}
	whole := pool("")
	if len(groups) < 2 || len(whole) < 10 {
		return x
	}
	x.Scale = quantile(whole, 0.9)
	inside := 0
	for _, g := range groups {
		scale := quantile(pool(g), 0.9)
		for _, d := range reach[g] {
			if d <= scale {
				inside++
			}
		}
	}
	x.ScaledOut = float64(inside) / float64(len(whole))
	return x
}
