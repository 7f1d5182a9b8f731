package flops

import (
	_ "embed" // published trainings
	"encoding/csv"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
)

//go:embed data/published_runs.csv
var publishedCSV string

// published is a training whose hardware, hours and FLOPs were published.
type published struct {
	model     string
	acc       Accelerator
	hours     float64
	flop      float64 // on the model basis
	firstHand bool    // all inputs stand in a primary source
}

// utilisation is the share of the 16-bit peak that its hours reached, downtime included.
func (p *published) utilisation() float64 { return p.flop / (p.hours * 3600 * p.acc.Peak16) }

var publishedRuns = sync.OnceValues(func() ([]published, error) { return parsePublished(publishedCSV) })

// parsePublished reads the rows that give hardware, hours and FLOPs; estimates of third hands
// are left out.
func parsePublished(text string) ([]published, error) {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read published trainings: %w", err)
	}
	column := map[string]int{}
	for i, name := range append([][]string{{}}, rows...)[min(1, len(rows))] {
		column[name] = i
	}
	for _, name := range []string{"model", "accelerator", "accel_hours", "flops_best", "confidence"} {
		if _, ok := column[name]; !ok {
			return nil, fmt.Errorf("read published trainings: column %s is missing", name)
		}
	}
	var out []published
	for i, r := range rows[1:] {
		get := func(name string) string { return r[column[name]] }
		if get("accel_hours") == "" || get("flops_best") == "" || get("confidence") == "C" {
			continue
		}
		hours, err := strconv.ParseFloat(get("accel_hours"), 64)
		if err != nil {
			return nil, fmt.Errorf("read published trainings, row %d: %w", i+2, err)
		}
		flop, err := strconv.ParseFloat(get("flops_best"), 64)
		if err != nil {
			return nil, fmt.Errorf("read published trainings, row %d: %w", i+2, err)
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
		acc, ok := Lookup(name)
		if !ok {
			return nil, fmt.Errorf("read published trainings, row %d: part %q is not in the table of accelerators", i+2, name)
		}
		out = append(out, published{model: get("model"), acc: acc, hours: hours, flop: flop, firstHand: get("confidence") == "A"})
	}
	return out, nil
}

// shrink is how many runs of an architecture weigh as much as all others together.
const shrink = 3

// wholeRun returns the share of the 16-bit peak that published trainings on an architecture
// reached over all hours that they paid for, downtime included, and the spread of the next
// one's logarithm: the mean of its own runs, drawn towards that of all. One run can be left
// out, to be judged by the others.
func wholeRun(arch, except string) (u, sd float64) {
	runs, err := publishedRuns()
	if err != nil {
		return 0.31, 0.31
	}
	mean, n := 0.0, 0.0
	for i := range runs {
		if r := &runs[i]; r.model != except {
			mean, n = mean+math.Log(r.utilisation()), n+1
		}
	}
	mean /= n
	var own, ownN, within, ownWithin float64
	for i := range runs {
		r := &runs[i]
		if r.model == except {
			continue
		}
		v := math.Log(r.utilisation())
		off := sq(v - archMean(runs, r.acc.Arch, except, mean))
		within += off
		if r.acc.Arch == arch {
			own, ownN, ownWithin = own+v, ownN+1, ownWithin+off
		}
	}
	within /= n - 1
	spread := (ownWithin + 2*shrink*within) / (ownN + 2*shrink)
	return math.Exp((own + shrink*mean) / (ownN + shrink)), math.Sqrt(spread * (1 + 1/(ownN+shrink)))
}

// archMean is the mean of an architecture's runs, drawn towards that of all.
func archMean(runs []published, arch, except string, mean float64) float64 {
	sum, n := shrink*mean, float64(shrink)
	for i := range runs {
		if r := &runs[i]; r.model != except && r.acc.Arch == arch {
			sum, n = sum+math.Log(r.utilisation()), n+1
		}
	}
	return sum / n
}
