package flops

import (
	"cmp"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// Lost is what is lost of the telemetry of a run's hosts while they were its members, of one
// reason.
type Lost struct {
	Reason         string
	Batches, Ticks int64
	Nodes          int
	FromMs, ToMs   int64 // the first beginning and the last end
}

// lost sums up the losses of the members' hosts, by reason, and says which share of the GPU-time
// they lie in: of that no signal can be said to cover it, whatever the samples around it show.
func lost(ev *feature.Evidence, members []run.Member) (by []Lost, share float64) {
	if len(ev.Losses) == 0 || len(members) == 0 {
		return nil, 0
	}
	var total, in int64
	seen := map[int]bool{} // losses that were counted
	nodes := map[string]map[string]bool{}
	sums := map[string]*Lost{}
	for _, m := range members {
		total += m.EndMs - m.StartMs
		through := m.StartMs // up to where losses were counted: they may overlap
		for i := firstLoss(ev.Losses, m.Node); i < len(ev.Losses) && ev.Losses[i].Node == m.Node; i++ {
			l := &ev.Losses[i]
			if l.ToMs < m.StartMs || l.FromMs >= m.EndMs {
				continue
			}
			if from, to := max(l.FromMs, through), min(l.ToMs, m.EndMs); to > from {
				in += to - from
				through = to
			}
			s := sums[l.Reason]
			if s == nil {
				s = &Lost{Reason: l.Reason, FromMs: l.FromMs, ToMs: l.ToMs}
				sums[l.Reason], nodes[l.Reason] = s, map[string]bool{}
			}
			nodes[l.Reason][l.Node] = true
			if !seen[i] { // the host's, whichever of its GPUs are members
				seen[i] = true
				s.Batches, s.Ticks = s.Batches+l.Batches, s.Ticks+l.Ticks
				s.FromMs, s.ToMs = min(s.FromMs, l.FromMs), max(s.ToMs, l.ToMs)
			}
		}
	}
	for reason, s := range sums { // sorted below
		s.Nodes = len(nodes[reason])
		by = append(by, *s)
	}
	slices.SortFunc(by, func(a, b Lost) int { return cmp.Compare(a.Reason, b.Reason) })
	if total > 0 {
		share = float64(in) / float64(total)
	}
	return by, share
}

func firstLoss(all []feature.Loss, node string) int {
	return sort.Search(len(all), func(i int) bool { return all[i].Node >= node })
}
