package report

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/workload"
)

// joinMs of work make an account part of a run: boundaries of rentals are known to two minutes.
const joinMs = 2 * feature.MinuteMs

// runView is a run that counts as training, with what the limbs ask of it.
type runView struct {
	*RunState
	prob   float64 // that it is a training
	behind behind
	models map[string]bool  // GPU models, normalised; "" among them: not known
	joined map[string]int64 // since when an account has worked on it
	nodes  []Evidence       // one line a node
}

// runs prepares the runs that are judged to be training.
func (v *view) runs() []runView {
	var out []runView
	for i := range v.Runs {
		s := &v.Runs[i]
		if !workload.IsRun(s.Run.Class) || s.Run.StartMs > v.AtMs {
			continue
		}
		out = append(out, v.runView(s))
	}
	return out
}

func (v *view) runView(s *RunState) runView {
	r := runView{RunState: s, prob: s.TrainingProb, behind: v.behind(s.Run.Accounts), models: map[string]bool{}, joined: v.joined(s)}
	if r.prob == 0 && workload.IsRun(s.Run.Class) {
		r.prob = 1 // not stated
	}
	for _, m := range s.Run.Members {
		r.models[normal(v.Ev.Nodes[m.Node].GPUModel)] = true
	}
	r.nodes = runEvidence(s)
	return r
}

// joined gives for each account of the run the first moment at which it held a GPU of
// the run at work, for two minutes at least. Accounts of which no rental is known get
// the run's start.
func (v *view) joined(s *RunState) map[string]int64 {
	out := map[string]int64{}
	brief := map[string]bool{}
	for _, m := range s.Run.Members {
		for _, a := range v.allocsByNode[m.Node] {
			if !slices.Contains(s.Run.Accounts, a.Account) || !slices.Contains(a.GPUs, m.GPU) {
				continue
			}
			from, to := max(m.StartMs, a.StartMs), m.EndMs
			if a.EndMs != 0 {
				to = min(to, a.EndMs)
			}
			if to-from < min(joinMs, m.EndMs-m.StartMs) || to <= from {
				brief[a.Account] = true
				continue
			}
			if first, ok := out[a.Account]; !ok || from < first {
				out[a.Account] = from
			}
		}
	}
	for _, account := range s.Run.Accounts {
		if _, ok := out[account]; !ok && !brief[account] {
			out[account] = s.Run.StartMs
		}
	}
	return out
}

// onRuns raises what reaches a probability of one half: that it is a training, and that its FLOPs
// exceed the limit. What was raised stays while its class and its best value do.
//
// Each run stands by itself: what may be one with others is said, and asked about, beside it.
func (v *view) onRuns(runs []runView) {
	for i := range runs {
		r := &runs[i]
		if !r.behind.inScope {
			continue
		}
		for k := range v.Profiles {
			p := &v.Profiles[k]
			c, ok := v.compare(r, p)
			if !ok || (p.JoinCluster && !v.anyCluster(p, r.Run.Accounts)) {
				continue
			}
			was := v.raised(p.Name, Actual, r.Run.ID, r.Run.Supersedes)
			need := c.need
			if was {
				need = c.limit
			}
			crossedMs, crossed := c.crossing(need)
			v.projected(r, p, c, crossedMs, crossed)
			if crossed {
				v.actual(r, p, c, crossedMs)
			}
		}
	}
}

func (v *view) actual(r *runView, p *Profile, c comparison, crossedMs int64) {
	m := c.est
	f := v.runFinding(r, p, Actual, "high")
	f.Explanation = fmt.Sprintf("The %s FLOPs of run %s exceed the limit of %s FLOP: best value %s, 90 %% interval %s to %s, from %s over %.0f %% of its GPU-time.",
		c.basis(), r.Run.ID, flop(c.limit), flop(m.Best), flop(m.Low), flop(m.High), words(r.Est.Basis), 100*r.Est.CoverageFrac)
	f.Explanation += c.why + v.mayBeMore(r, p)
	if text := lostText(r.Est.Lost); text != "" {
		f.Explanation += " " + text
	}
	v.raise(f, p, r.Run.ID, r.Run.Supersedes, max(crossedMs, v.PrevAtMs))
}

// projected asks at each minute since the last judgement whether what is done and what
// the last hour's rate would add until the orders end reaches the profile's margin over the limit. A
// run that crossed with no projection before it gets none afterwards: what has happened
// needs no forecast. Only a run that crossed before it was old enough keeps the right.
func (v *view) projected(r *runView, p *Profile, c comparison, crossedMs int64, crossed bool) {
	id, q := r.Run.ID, &p.Projection
	margin, after := q.Margin, q.AfterMinutes*feature.MinuteMs
	text := func(atMs int64) string {
		end, orders := v.latestEnd(r, atMs)
		done, rate := c.progress(p, atMs)
		left := max(0, end-atMs)
		via := "no order for its GPUs is known, so no time is left to count"
		if len(orders) > 0 {
			via = fmt.Sprintf("the latest end of %s is %s", strings.Join(orders, ", "), utc(end))
		}
		return fmt.Sprintf("Run %s had done %s FLOP (%s basis) at %s and did %s FLOP/s over the last %s; %s. Together %s FLOP, at least %.1f times the limit of %s FLOP.",
			id, flop(done), c.basis(), utc(atMs), flop(rate*1000), span(q.WindowMinutes), via, flop(done+rate*float64(left)), margin, flop(c.limit)) + c.why
	}
	if v.raised(p.Name, Projected, id, r.Run.Supersedes) {
		f := v.runFinding(r, p, Projected, "medium")
		f.Explanation = fmt.Sprintf("Run %s was projected to exceed the limit of %s FLOP.", id, flop(c.limit))
		if at := v.prevKnown(p.Name, Projected, id, r.Run.Supersedes); float64(at-r.Run.StartMs) >= after {
			f.Explanation = text(at)
			if done, rate := c.progress(p, at); v.value(r, at, done, rate) < margin*c.limit {
				f.Explanation = fmt.Sprintf("Run %s was projected at %s to reach at least %.1f times the limit of %s FLOP by the end of its orders; as re-judged since, it had done %s FLOP then.",
					id, utc(at), margin, flop(c.limit), flop(done))
			}
		}
		f.Explanation += v.mayBeMore(r, p)
		v.raise(f, p, id, r.Run.Supersedes, v.AtMs)
		return
	}
	from, until := r.Run.StartMs+int64(after), v.AtMs
	early := crossed && crossedMs < from
	if crossed && !early {
		until = min(until, crossedMs)
	}
	if !r.Run.Open {
		until = min(until, r.Run.EndMs)
	}
	// What was judged before need not be asked again, unless the run came to be seen as
	// training, or to be one, only now.
	if v.PrevAtMs > 0 && (!crossed || v.raised(p.Name, Actual, id, r.Run.Supersedes)) {
		from = max(from, v.PrevAtMs)
	}
	for _, atMs := range moments(r.Est.Series, from, until) {
		done, rate := c.progress(p, atMs)
		if v.value(r, atMs, done, rate) < margin*c.need {
			continue
		}
		f := v.runFinding(r, p, Projected, "medium")
		f.Explanation = text(atMs) + v.mayBeMore(r, p)
		v.raise(f, p, id, r.Run.Supersedes, max(atMs, v.PrevAtMs))
		return
	}
}

func span(minutes float64) string {
	if minutes == 60 {
		return "hour"
	}
	return fmt.Sprintf("%g minutes", minutes)
}

func (v *view) value(r *runView, atMs int64, done, rate float64) float64 {
	end, known := v.ends[r.Run.ID]
	if !known || atMs != v.AtMs {
		if end, _ = v.latestEnd(r, atMs); atMs == v.AtMs {
			v.ends[r.Run.ID] = end
		}
	}
	return done + rate*float64(max(0, end-atMs))
}

func (v *view) prevKnown(profile, limb, subject string, aliases []string) int64 {
	known := int64(math.MaxInt64)
	for _, s := range append([]string{subject}, aliases...) {
		if f, ok := v.Prev[ID(profile, limb, s)]; ok {
			known = min(known, f.KnownAtMs)
		}
	}
	return known
}

// moments are the ends of minutes from..until at which a projection is asked, the last
// included.
func moments(series []flops.Point, from, until int64) []int64 {
	if from > until {
		return nil
	}
	out := []int64{}
	k := sort.Search(len(series), func(i int) bool { return series[i].EndMs >= from })
	for ; k < len(series) && series[k].EndMs <= until; k++ {
		out = append(out, series[k].EndMs)
	}
	if len(out) == 0 || out[len(out)-1] != until {
		out = append(out, until)
	}
	return out
}

// latestEnd is the latest end of the orders that the run's accounts held at a moment
// for its GPU models, in the versions visible then; 0: none.
func (v *view) latestEnd(r *runView, atMs int64) (endMs int64, orders []string) {
	for _, id := range v.orderIDs {
		o, ok := versionAt(v.orders[id], atMs)
		if !ok {
			continue
		}
		since, worked := r.joined[o.Account]
		if !worked || since > atMs || !matches(r.models, o.GPUModel) {
			continue
		}
		orders = append(orders, id)
		endMs = max(endMs, o.EndMs)
	}
	return endMs, orders
}

// matches reports whether an order's GPU model may be one of a run's: names that were
// not stated contradict nothing.
func matches(models map[string]bool, model string) bool {
	return model == "" || len(models) == 0 || models[""] || models[normal(model)]
}

func (v *view) runFinding(r *runView, p *Profile, limb, severity string) Finding {
	f := Finding{
		Limb: limb, Runs: []string{r.Run.ID}, Accounts: slices.Clone(r.Run.Accounts), Parties: slices.Clone(r.behind.parties),
		Severity: severity, Evidence: slices.Clone(r.nodes),
	}
	if r.Est.CoverageFrac < p.MinCoverageFrac {
		f.State = Inquire
	}
	return f
}

// runEvidence is one line a node: from its first member's start to its last one's end.
func runEvidence(s *RunState) []Evidence {
	at := map[string]int{}
	var out []Evidence
	kind, strength := flops.BasisAllocation, "declared"
	if len(s.Est.Basis) > 0 {
		kind = s.Est.Basis[0]
	}
	switch kind {
	case flops.BasisMMACycles, flops.BasisTensorActivity:
		strength = "measured"
	case flops.BasisEnergy, flops.BasisPower, flops.BasisUtilization:
		strength = "derived"
	}
	for _, m := range s.Run.Members {
		if k, ok := at[m.Node]; ok {
			out[k].FromMs, out[k].ToMs = min(out[k].FromMs, m.StartMs), max(out[k].ToMs, m.EndMs)
			continue
		}
		at[m.Node] = len(out)
		out = append(out, Evidence{Kind: kind, Node: m.Node, FromMs: m.StartMs, ToMs: m.EndMs, Strength: strength})
	}
	slices.SortFunc(out, func(a, b Evidence) int { return strings.Compare(a.Node, b.Node) })
	return out
}
