package score

import (
	"maps"
	"slices"
)

// Confusion is judged GPU-hours by labelled kind and answered class.
type Confusion map[string]map[string]float64

func (c Confusion) add(kind, class string, hours float64) {
	if c[kind] == nil {
		c[kind] = map[string]float64{}
	}
	c[kind][class] += hours
}

// Classes is how well time on GPUs was named.
type Classes struct {
	Confusion     Confusion          `json:"confusion_gpu_hours"`
	F1            map[string]float64 `json:"f1"` // by headline class
	MacroF1       float64            `json:"macro_f1"`
	Accuracy      float64            `json:"accuracy"`               // share of labelled GPU-hours, headline classes
	TrainingHours float64            `json:"training_gpu_hours"`     // labelled training, finetuning or rl
	Recall        float64            `json:"training_recall"`        // -1: nothing to judge
	FalsePositive float64            `json:"training_false_pos"`     // rate; -1: nothing to judge
	NegativeHours float64            `json:"non_training_gpu_hours"` // the rate's denominator
}

// Assembly is how well time on GPUs was put together to runs.
type Assembly struct {
	Precision float64 `json:"precision"`
	Recall    float64 `json:"recall"`
	F1        float64 `json:"f1"` // -1: nothing to judge
	Truth     int     `json:"truth_runs"`
	Answered  int     `json:"answered_runs"` // of class training, finetuning or rl
}

// pair gives each label of a piece its run and each run left over: visit(label, run)
// with -1 for none.
func pair(p piece, acts []activity, runs []answeredRun, ofRun []int, visit func(label, run int)) {
	left := slices.Clone(p.runs)
	partner := map[int]int{}
	for _, fits := range []func(l, r int) bool{
		func(l, r int) bool { return ofRun[r] == l },
		func(l, r int) bool { return headline(acts[l].Kind) == headline(runs[r].Class) },
		func(int, int) bool { return true },
	} {
		for _, l := range p.labels {
			if _, done := partner[l]; done {
				continue
			}
			if i := slices.IndexFunc(left, func(r int) bool { return fits(l, r) }); i >= 0 {
				partner[l] = left[i]
				left = slices.Delete(left, i, i+1)
			}
		}
	}
	for _, l := range p.labels {
		if r, ok := partner[l]; ok {
			visit(l, r)
		} else {
			visit(l, -1)
		}
	}
	for _, r := range left {
		visit(-1, r)
	}
}

func (c *Classes) finish() {
	tp, fp, fn := map[string]float64{}, map[string]float64{}, map[string]float64{}
	var right, labelled, hit, wrongly float64
	for _, kind := range slices.SortedFunc(maps.Keys(c.Confusion), byKind) {
		row := c.Confusion[kind]
		for _, class := range slices.SortedFunc(maps.Keys(row), byKind) {
			h := row[class]
			k, a := headline(kind), headline(class)
			switch {
			case kind == none && class == "idle":
			case k == a:
				tp[k] += h
				right += h
			default:
				fp[a] += h
				if kind != none {
					fn[k] += h
				}
			}
			if kind != none {
				labelled += h
			}
			switch {
			case isTraining(kind):
				c.TrainingHours += h
				if isTraining(class) {
					hit += h
				}
			case isTraining(class):
				wrongly += h
				c.NegativeHours += h
			case kind != none:
				c.NegativeHours += h
			}
		}
	}
	c.F1 = map[string]float64{}
	sum := 0.0
	for _, kind := range slices.SortedFunc(maps.Keys(c.Confusion), byKind) {
		k := headline(kind)
		if _, done := c.F1[k]; done || kind == none {
			continue
		}
		c.F1[k] = ratio(2*tp[k], 2*tp[k]+fp[k]+fn[k])
		sum += c.F1[k]
	}
	c.MacroF1 = ratio(sum, float64(len(c.F1)))
	c.Accuracy = ratio(right, labelled)
	c.Recall = ratio(hit, c.TrainingHours)
	c.FalsePositive = ratio(wrongly, c.NegativeHours)
}

// ratio is -1 where there is nothing to divide by.
func ratio(a, b float64) float64 {
	if b == 0 {
		return -1
	}
	return a / b
}

// assemble turns the judged overlap of training activities with runs into pairwise
// figures. A piece of time without a run counts in labelled, in no row. The number of
// pairs in n minutes is taken as n²/2.
func assemble(labelled []float64, shared overlap, runs int) Assembly {
	var a Assembly
	byRun := make([]float64, runs)
	var together, same, answered float64
	for l, row := range shared {
		same += labelled[l] * labelled[l]
		for r, h := range row {
			together += h * h
			byRun[r] += h
		}
	}
	for _, h := range byRun {
		answered += h * h
	}
	a.Precision, a.Recall = ratio(together, answered), ratio(together, same)
	a.F1 = ratio(2*together, answered+same)
	return a
}
