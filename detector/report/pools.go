package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/threshold"
)

// Kinds of pools beside those of campaigns.
const (
	kindRestarts = "restarts" // a training and what may continue it
	kindParty    = "party_total"
	kindLineage  = "lineage"
)

// pool is work that may stand together against a limit.
type pool struct {
	kind, id string
	runs     []*runView
	weight   float64 // that they belong together
	reasons  []string
	knownMs  int64
	party    holder  // of a party's
	plus     float64 // FLOP that somebody stated besides
}

func (q *pool) ids() []string {
	out := make([]string, len(q.runs))
	for i, r := range q.runs {
		out[i] = r.Run.ID
	}
	return out
}

func (q *pool) accounts() []string {
	var out []string
	for _, r := range q.runs {
		out = append(out, r.Run.Accounts...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// words says what the pool is.
func (q *pool) words() string {
	switch q.kind {
	case kindRestarts:
		return "may be one training with restarts"
	case run.Islands:
		return "may be one training on islands that exchange weights"
	case run.SplitPools:
		return "may be one training in pools"
	case run.Structuring:
		return "may be one training cut into parts"
	case kindLineage:
		return "are made of one original model"
	}
	if len(q.party.parties) == 0 {
		return "belong to " + q.party.words()
	}
	return "belong to accounts of " + q.party.words()
}

// onPools looks at what stands together: parts that may be one run, and where a profile adds up,
// all runs of a party or of one lineage.
func (v *view) onPools(runs []runView) {
	pools := v.groupings(runs)
	owned := v.owned(runs)
	for k := range v.Profiles {
		p := &v.Profiles[k]
		if p.LimitFLOP <= 0 {
			continue
		}
		for i := range pools {
			v.grouping(p, &pools[i])
		}
		switch p.Counting.Aggregation {
		case threshold.ByLineage:
			for _, q := range v.lineages(p, runs) {
				v.aggregate(p, &q)
			}
			v.partyTotals(p, owned)
		case threshold.ByParty:
			for _, q := range v.held(runs) {
				v.aggregate(p, &q)
			}
			v.partyTotals(p, owned)
		case threshold.ByOwner:
			for i := range owned {
				v.aggregate(p, &owned[i])
			}
		default:
			v.partyTotals(p, owned)
		}
	}
}

// groupings are the campaigns, and runs with what may continue them.
func (v *view) groupings(runs []runView) []pool {
	byID := map[string]*runView{}
	for i := range runs {
		if runs[i].behind.inScope {
			byID[runs[i].Run.ID] = &runs[i]
		}
	}
	var out []pool
	take := func(q pool, ids []string) {
		for _, id := range ids {
			if r := byID[id]; r != nil {
				q.runs = append(q.runs, r)
			}
		}
		if len(q.runs) > 1 {
			out = append(out, q)
		}
	}
	// Restarts: all that hang together by alternatives.
	root := map[string]string{}
	var find func(id string) string
	find = func(id string) string {
		if up, ok := root[id]; ok && up != id {
			return find(up)
		}
		return id
	}
	type edge struct {
		weight  float64
		reasons []string
	}
	for i := range runs {
		for _, x := range runs[i].Run.Alternatives {
			if a, b := find(runs[i].Run.ID), find(x.Run); a != b {
				root[max(a, b)] = min(a, b)
			}
		}
	}
	members, edges := map[string][]string{}, map[string]edge{}
	for i := range runs {
		id := find(runs[i].Run.ID)
		members[id] = append(members[id], runs[i].Run.ID)
		for _, x := range runs[i].Run.Alternatives {
			e := edges[id]
			e.weight = max(e.weight, x.Weight)
			if len(e.reasons) < 3 && !slices.Contains(e.reasons, x.Reason) {
				e.reasons = append(e.reasons, x.Reason)
			}
			edges[id] = e
		}
	}
	roots := make([]string, 0, len(edges))
	for id := range edges {
		roots = append(roots, id)
	}
	slices.Sort(roots)
	for _, id := range roots {
		take(pool{kind: kindRestarts, id: id, weight: edges[id].weight, reasons: edges[id].reasons}, members[id])
	}
	for i := range v.Campaigns {
		c := &v.Campaigns[i]
		take(pool{kind: c.Kind, id: c.ID, weight: c.Weight, reasons: c.Reasons, knownMs: c.KnownMs}, c.Runs)
	}
	return out
}

// A pool's total gathers into a finding where its runs are clearly one, and goes on to until they
// are no longer likely one. What may be a restart is never gathered: it is asked about.
const (
	gatherWeight = 0.8
	gatherStay   = 0.5
)

// gathers reports whether a finding on the pool's total is raised; was: one stands.
func (q *pool) gathers(was bool) bool {
	if q.kind != run.Islands && q.kind != run.SplitPools {
		return false
	}
	return q.weight >= gatherWeight || was && q.weight >= gatherStay
}

// standing is how a pool stands against a profile's limit.
type standing struct {
	limit   float64
	total   flops.Interval // of all its runs
	now     float64        // probability that it has exceeded the limit, if the runs belong together
	coming  float64        // that it will by the margin, as for a projection
	alone   float64        // probability that one of its runs exceeds the limit by itself
	single  flops.Interval // of the run that did most
	prob    float64        // that they are trainings, by FLOP
	reached float64        // what is done and to come, best
}

// stand adds up what a profile counts of the runs, within its window.
func (v *view) stand(p *Profile, runs []*runView, plus float64) (s standing, ok bool) {
	var parts []part
	var weighed, mass float64
	s.limit = p.LimitFLOP
	for _, r := range runs {
		c, counts := v.compare(r, p)
		if !counts {
			continue
		}
		s.limit = min(s.limit, c.limit)
		est := c.est
		if w := p.Counting.WindowDays; w > 0 && est.Best > 0 {
			in := 1 - c.doneAt(v.AtMs-int64(w*float64(dayMs)))/est.Best
			est = flops.Interval{Low: est.Low * in, Best: est.Best * in, High: est.High * in}
		}
		parts = append(parts, part{est, r.Est.Terms})
		weighed += r.prob * est.Best
		mass += est.Best
		s.alone = max(s.alone, c.exceeds(r.prob))
		if est.Best > s.single.Best {
			s.single = est
		}
		s.reached += est.Best
		if r.Run.Open {
			done, rate := c.progress(p, v.AtMs)
			s.reached += v.value(r, v.AtMs, done, rate) - done
		}
	}
	if len(parts) == 0 || mass <= 0 {
		return s, false
	}
	s.limit = max(s.limit-plus, 0)
	s.prob = weighed / mass
	s.total = sum(parts)
	s.now = s.prob * threshold.ProbabilityExceeds(s.total, s.limit)
	if ratio := s.reached / s.total.Best; ratio > 1 {
		will := flops.Interval{Low: s.total.Low * ratio, Best: s.total.Best * ratio, High: s.total.High * ratio}
		s.coming = s.prob * threshold.ProbabilityExceeds(will, p.Projection.Margin*s.limit)
	}
	return s, true
}

const dayMs = 86_400_000

// has reports whether one of the runs has a finding of its own.
func (v *view) has(p *Profile, limb string, runs []*runView) bool {
	return slices.ContainsFunc(runs, func(r *runView) bool {
		_, ok := v.out[ID(p.Name, limb, r.Run.ID)]
		return ok
	})
}

// grouping asks about, or raises, what runs would have done if they were one. A finding on parts
// names one run of them: the one that had it before, or did most.
func (v *view) grouping(p *Profile, q *pool) {
	if p.JoinCluster && !v.anyCluster(p, q.accounts()) {
		return
	}
	s, ok := v.stand(p, q.runs, 0)
	if !ok {
		return
	}
	text := fmt.Sprintf("%d runs (%s) %s, with probability %.2f: %s. Together %s FLOP, 90 %% interval %s to %s, if they are one; the limit is %s FLOP, and the largest of them did %s.",
		len(q.runs), list(q.ids()), q.words(), q.weight, strings.Join(reasonsOr(q.reasons), "; "), rough(s.total.Best), rough(s.total.Low), rough(s.total.High), flop(s.limit), rough(s.single.Best))
	for _, limb := range []string{Actual, Projected} {
		r := q.subject(v, p, limb)
		was := v.raised(p.Name, limb, r.Run.ID, r.Run.Supersedes)
		if !q.gathers(was) || v.has(p, limb, []*runView{r}) {
			continue
		}
		if !was && (v.has(p, limb, q.runs) || v.has(p, Actual, q.runs)) {
			continue // one of them says it alone
		}
		one := s.now
		if limb == Projected {
			one = s.coming
		}
		if q.weight*one < 0.5 && !(was && (limb == Projected || s.total.Best > s.limit)) {
			continue
		}
		f := v.runFinding(r, p, limb, "medium")
		f.State = Inquire
		f.Accounts = q.accounts()
		f.Parties = v.behind(f.Accounts).parties
		f.Explanation = text
		v.raise(f, p, r.Run.ID, r.Run.Supersedes, max(q.knownMs, v.PrevAtMs))
	}
	if v.has(p, Actual, q.runs) || q.weight < p.Inquire {
		return
	}
	prob := q.weight*max(s.now, s.coming) + (1-q.weight)*s.alone
	bounds := mixture(s.total, s.single, q.weight)
	if max(s.now, s.coming) < p.Inquire || (s.coming >= s.now && v.has(p, Projected, q.runs)) {
		return
	}
	v.ask(p, inquiry{
		subject: q.kind + ":" + q.id, kind: q.kind, runs: q.ids(), accounts: q.accounts(), probability: prob, bounds: bounds, knownMs: q.knownMs,
		text: text, asks: []string{"job names, checkpoints or launch logs that tell one training from several", "a statement of the customer about these runs"},
		evidence: q.evidence(),
	})
}

// subject is the run that a finding on parts names.
func (q *pool) subject(v *view, p *Profile, limb string) *runView {
	best := q.runs[0]
	for _, r := range q.runs {
		if v.raised(p.Name, limb, r.Run.ID, r.Run.Supersedes) {
			return r
		}
		if r.Est.Model.Best > best.Est.Model.Best {
			best = r
		}
	}
	return best
}

func (q *pool) evidence() []Evidence {
	var out []Evidence
	for _, r := range q.runs {
		out = append(out, r.nodes...)
	}
	slices.SortStableFunc(out, func(a, b Evidence) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), cmp.Compare(a.FromMs, b.FromMs))
	})
	return out
}

// aggregate raises what a profile adds up: the limit holds for the pool as a whole.
func (v *view) aggregate(p *Profile, q *pool) {
	s, ok := v.stand(p, q.runs, q.plus)
	if !ok || (len(q.runs) < 2 && q.plus == 0) || (p.JoinCluster && !v.anyCluster(p, q.accounts())) {
		return
	}
	window := ""
	if w := p.Counting.WindowDays; w > 0 {
		window = fmt.Sprintf(" within %g days", w)
	}
	stated := ""
	if q.plus > 0 {
		stated = fmt.Sprintf(", on top of %s FLOP that were stated", flop(q.plus))
	}
	text := fmt.Sprintf("%d runs (%s) %s, and the profile adds them up%s: %s FLOP together, 90 %% interval %s to %s%s; the limit is %s FLOP.",
		len(q.runs), list(q.ids()), q.words(), window, rough(s.total.Best), rough(s.total.Low), rough(s.total.High), stated, flop(p.LimitFLOP))
	subject := q.kind + ":" + q.id
	for _, limb := range []string{Actual, Projected} {
		prob, severity := s.now, "high"
		if limb == Projected {
			prob, severity = s.coming, "medium"
		}
		was := v.raised(p.Name, limb, subject, nil)
		if prob < 0.5 && !(was && (limb == Projected || s.total.Best > s.limit)) {
			continue
		}
		if limb == Projected && !was && s.now >= 0.5 {
			continue // what has happened needs no forecast
		}
		f := Finding{
			Limb: limb, Runs: q.ids(), Accounts: q.accounts(), Severity: severity, Evidence: q.evidence(), Explanation: text,
			State: v.uncovered(p, q.runs),
		}
		f.Parties = v.behind(f.Accounts).parties
		known := v.AtMs
		if limb == Actual {
			known = v.crossedTogether(p, q.runs, s.limit)
		}
		v.raise(f, p, subject, nil, max(known, v.PrevAtMs))
	}
	if max(s.now, s.coming) < p.Inquire || s.now >= 0.5 || s.coming >= 0.5 {
		return
	}
	v.ask(p, inquiry{
		subject: subject, kind: q.kind, runs: q.ids(), accounts: q.accounts(), probability: max(s.now, s.coming), bounds: s.total, text: text,
		asks: askFor(q.runs), evidence: q.evidence(),
	})
}

// uncovered is the state of a finding on runs: a question where the signals cover less of them than
// the profile asks for.
func (v *view) uncovered(p *Profile, runs []*runView) string {
	var covered, all float64
	for _, r := range runs {
		for _, m := range r.Run.Members {
			w := float64(m.EndMs - m.StartMs)
			all += w
			covered += w * r.Est.CoverageFrac
		}
	}
	if covered < p.MinCoverageFrac*all {
		return Inquire
	}
	return Met
}

// crossedTogether is when the runs' best values together exceeded a limit.
func (v *view) crossedTogether(p *Profile, runs []*runView, limit float64) int64 {
	var comparisons []comparison
	var moments []int64
	for _, r := range runs {
		if c, ok := v.compare(r, p); ok {
			comparisons = append(comparisons, c)
			for i := range c.series {
				moments = append(moments, c.series[i].EndMs)
			}
		}
	}
	slices.Sort(moments)
	moments = slices.Compact(moments)
	back := int64(p.Counting.WindowDays * float64(dayMs))
	at, _ := slices.BinarySearchFunc(moments, true, func(ms int64, _ bool) int {
		total := 0.0
		for i := range comparisons {
			total += comparisons[i].doneAt(ms)
			if back > 0 {
				total -= comparisons[i].doneAt(ms - back)
			}
		}
		if total > limit {
			return 1
		}
		return -1
	})
	if at < len(moments) {
		return moments[at]
	}
	return v.AtMs
}

// mayBeMore says of a run's finding what other runs may add to it.
func (v *view) mayBeMore(r *runView, p *Profile) string {
	out := ""
	if n := len(r.Run.Alternatives); n > 0 {
		total := r.Est.Model.Best
		for i := range v.Runs {
			if id := v.Runs[i].Run.ID; slices.ContainsFunc(r.Run.Alternatives, func(x run.Alternative) bool { return x.Run == id }) {
				total += v.Runs[i].Est.Model.Best
			}
		}
		out = fmt.Sprintf(" It may be one with %d other run(s), and did %s FLOP with them.", n, rough(total))
	}
	for i := range v.Campaigns {
		if c := &v.Campaigns[i]; slices.Contains(c.Runs, r.Run.ID) && c.Weight >= p.Inquire {
			out += fmt.Sprintf(" With %d other run(s) it may be one training (%s, probability %.2f).", len(c.Runs)-1, strings.ReplaceAll(c.Kind, "_", " "), c.Weight)
		}
	}
	return out
}

func reasonsOr(reasons []string) []string {
	if len(reasons) == 0 {
		return []string{"no reason is stated"}
	}
	return reasons
}

// list names the first of many.
func list(ids []string) string {
	const most = 6
	if len(ids) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(ids[:most], ", "), len(ids)-most)
	}
	return strings.Join(ids, ", ")
}
