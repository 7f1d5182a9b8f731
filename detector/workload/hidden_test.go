package workload

import (
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// Much traffic for little tensor work is cut from a training only where something else is seen.
func TestShareAsksForAnother(t *testing.T) {
	t.Parallel()
	f := func(b besides) [3]float64 {
		x := facts{tensor: 0.16, dram: 0.36, beside: b}
		return x.share(Training)
	}
	if got := f(besides{alone: true}); got != ([3]float64{}) {
		t.Errorf("one program a GPU, nobody served: %v", got)
	}
	if got := f(besides{}); got[1] != 1 || got[2] != 1 || got[0] >= 1 {
		t.Errorf("nothing known: %v, the best value has to stay", got)
	}
	if got := f(besides{two: true}); !(got[1] < 1) {
		t.Errorf("two activities: %v", got)
	}
}

func TestHolders(t *testing.T) {
	t.Parallel()
	const hour = 60 * minuteMs
	ep := run.Episode{EndMs: hour, Members: []run.Member{{Node: "n", GPU: 0, EndMs: hour}, {Node: "n", GPU: 1, EndMs: hour}}}
	say := func(procs ...feature.Process) besides {
		ev := &feature.Evidence{Processes: procs}
		e := ep
		for _, p := range procs {
			e.Procs = append(e.Procs, run.ProcRef{Node: p.Node, PID: p.PID})
		}
		return besideOf(ev, &e, true)
	}
	one := feature.Process{Node: "n", PID: 1, GPUs: []int{0, 1}}
	two := feature.Process{Node: "n", PID: 2, GPUs: []int{1}}
	after := feature.Process{Node: "n", PID: 3, GPUs: []int{0, 1}, StartMs: hour / 2}
	before := feature.Process{Node: "n", PID: 1, GPUs: []int{0, 1}, EndMs: hour / 2}
	for name, c := range map[string]struct{ got, want besides }{
		"none known": {say(), besides{}},
		"one":        {say(one), besides{alone: true}},
		"a restart":  {say(before, after), besides{alone: true}},
		"half":       {say(two), besides{}},
		"two":        {say(one, two), besides{two: true}},
	} {
		if c.got != c.want {
			t.Errorf("%s: %+v, want %+v", name, c.got, c.want)
		}
	}
}
