package report

import (
	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// ContractEnd is the latest end of the orders that the accounts which have worked on a
// run hold for its GPU models, in the versions visible at ev.EndMs; 0: no such order.
func ContractEnd(ev *feature.Evidence, r run.Run) int64 {
	v := newView(Input{AtMs: ev.EndMs, StartMs: ev.StartMs, Ev: ev})
	s := RunState{Run: r}
	w := runView{RunState: &s, models: map[string]bool{}, joined: v.joined(&s)}
	for _, m := range r.Members {
		w.models[normal(ev.Nodes[m.Node].GPUModel)] = true
	}
	end, _ := v.latestEnd(&w, ev.EndMs)
	return end
}

// Subject is what a finding is about: its run, order or account.
func (f *Finding) Subject() string {
	var named []string
	switch f.Limb {
	case Actual, Projected:
		named = f.Runs
	case Capacity, ChangedArrangement:
		named = f.Orders
	case RedFlag, Inquiry, Indicator:
		if named = f.Runs; len(named) == 0 {
			named = f.Orders
		}
		if len(named) == 0 {
			named = f.Accounts
		}
	default:
		named = f.Accounts
	}
	if len(named) == 0 {
		return ""
	}
	return named[0]
}
