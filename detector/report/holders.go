package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/detector/workload"
)

// holder is a set of accounts behind which one party stands.
type holder struct {
	parties  []string // that stand behind all of them
	accounts []string
}

func (h *holder) words() string {
	if len(h.parties) == 0 {
		return "account " + strings.Join(h.accounts, ", ")
	}
	return list(h.parties)
}

// of names its accounts.
func (h *holder) of() string {
	if len(h.parties) == 0 {
		return h.words()
	}
	return "accounts of " + h.words()
}

func (h *holder) id() string {
	if len(h.parties) == 0 {
		return strings.Join(h.accounts, ",")
	}
	return h.parties[0]
}

// holdings are the sets of accounts that one party stands behind, smallest first: by edges of
// owners, parents and resellers, or directly where direct is set. Parties with the same accounts
// are one holder; an account of which no party is known is one of its own.
func (v *view) holdings(accounts []string, direct bool) []holder {
	byParty := map[string][]string{}
	var out []holder
	for _, a := range accounts {
		r := v.resolve(a)
		if !r.InScope {
			continue
		}
		parties := r.Parties
		if direct {
			parties = r.Holders
		}
		if len(parties) == 0 {
			out = append(out, holder{accounts: []string{a}})
		}
		for _, id := range parties {
			byParty[id] = append(byParty[id], a)
		}
	}
	same := map[string]*holder{}
	for id, held := range byParty { // sorted below
		key := strings.Join(held, "\x00")
		if same[key] == nil {
			same[key] = &holder{accounts: held}
		}
		same[key].parties = append(same[key].parties, id)
	}
	for _, h := range same {
		slices.Sort(h.parties)
		out = append(out, *h)
	}
	slices.SortFunc(out, func(a, b holder) int {
		return cmp.Or(cmp.Compare(len(a.accounts), len(b.accounts)), slices.Compare(a.accounts, b.accounts))
	})
	return out
}

// accountsOf are the accounts of runs, sorted.
func accountsOf(runs []runView) []string {
	var out []string
	for i := range runs {
		out = append(out, runs[i].Run.Accounts...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// owned are the runs of all accounts that one party stands behind.
func (v *view) owned(runs []runView) []pool {
	return v.poolsOf(runs, v.holdings(accountsOf(runs), false))
}

// held are the runs of the accounts that one party holds itself.
func (v *view) held(runs []runView) []pool {
	return v.poolsOf(runs, v.holdings(accountsOf(runs), true))
}

func (v *view) poolsOf(runs []runView, holders []holder) []pool {
	var out []pool
	for _, h := range holders {
		q := pool{kind: kindParty, id: h.id(), weight: 1, party: h}
		for i := range runs {
			if runs[i].behind.inScope && slices.ContainsFunc(runs[i].Run.Accounts, func(a string) bool { return slices.Contains(h.accounts, a) }) {
				q.runs = append(q.runs, &runs[i])
			}
		}
		if len(q.runs) > 0 {
			out = append(out, q)
		}
	}
	return out
}

// lineages are the trainings made of each original that was stated.
func (v *view) lineages(p *Profile, runs []runView) []pool {
	var out []pool
	for k := range p.Originals {
		o := &p.Originals[k]
		if len(o.Accounts) == 0 {
			continue // everybody's trainings are not one model
		}
		q := pool{kind: kindLineage, id: fmt.Sprintf("%d:%s", k, strings.Join(o.Accounts, ",")), weight: 1, reasons: []string{o.Source}}
		if p.Counting.FineTuning != threshold.Cumulative { // else each run's own limit is less by it
			q.plus = o.FLOPs
		}
		for i := range runs {
			if runs[i].behind.inScope && slices.ContainsFunc(runs[i].Run.Accounts, func(a string) bool { return slices.Contains(o.Accounts, a) }) {
				q.runs = append(q.runs, &runs[i])
			}
		}
		if len(q.runs) > 1 {
			out = append(out, q)
		}
	}
	return out
}

// partyTotals asks where a profile counts each run alone and a party's runs would exceed it
// together: nothing is met, and it is how a large training would be cut. Sets of accounts that hold
// one that was asked about are not asked about again.
func (v *view) partyTotals(p *Profile, owned []pool) {
	var asked []holder
	for i := range owned {
		q := &owned[i]
		if within(asked, q.party) {
			continue
		}
		s, ok := v.stand(p, q.runs, 0)
		if v.askedOf(p, q.ids()) {
			continue // whether they are one is asked already
		}
		if !ok || v.has(p, Actual, q.runs) || (p.JoinCluster && !v.anyCluster(p, q.accounts())) {
			continue
		}
		if len(q.runs) > 1 && s.now >= 0.5 {
			asked = append(asked, q.party)
			v.ask(p, inquiry{
				subject: kindParty + ":" + q.id, kind: kindParty, runs: q.ids(), accounts: q.accounts(), probability: s.now, bounds: s.total, evidence: q.evidence(),
				text: fmt.Sprintf("%d runs (%s) %s. Each alone stays within the limit of %s FLOP, and the profile counts each alone; together they did %s FLOP, 90 %% interval %s to %s. The probability is that of the sum.",
					len(q.runs), list(q.ids()), q.words(), flop(s.limit), rough(s.total.Best), rough(s.total.Low), rough(s.total.High)),
				asks: []string{"whether the runs train, or go into, one model", "why the work is spread over these runs and accounts"},
			})
			continue
		}
		v.synthetic(p, q, s)
	}
}

// askedOf reports whether a grouping of just these runs is asked about.
func (v *view) askedOf(p *Profile, runs []string) bool {
	for _, f := range v.out { // any one: the order reaches no output
		if f.Limb == Inquiry && f.Profile != nil && *f.Profile == p.Name && f.Kind != kindParty && len(f.Runs) == len(runs) && len(runs) > 1 && slices.Equal(slices.Sorted(slices.Values(f.Runs)), slices.Sorted(slices.Values(runs))) {
			return true
		}
	}
	return false
}

func within(asked []holder, h holder) bool {
	for i := range asked {
		if !slices.ContainsFunc(asked[i].accounts, func(a string) bool { return !slices.Contains(h.accounts, a) }) {
			return true
		}
	}
	return false
}

// synthetic asks about batch inference of the same party where its making of training data would
// count, and would take the sum beyond the limit.
func (v *view) synthetic(p *Profile, q *pool, s standing) {
	if p.Counting.SyntheticData != threshold.Included || v.Estimate == nil || !(s.total.Best > 0) || s.now >= 0.5 {
		return
	}
	parts := make([]part, 0, len(q.runs))
	for _, r := range q.runs {
		parts = append(parts, part{r.Est.Model, r.Est.Terms})
	}
	ids := []string{}
	for i := range v.Runs {
		r := &v.Runs[i].Run
		if r.Class != workload.BatchInference || !slices.ContainsFunc(r.Accounts, func(a string) bool { return slices.Contains(q.party.accounts, a) }) || !v.reaches(r, s.limit-s.total.High) {
			continue
		}
		est := v.Estimate(r, r.Class)
		parts = append(parts, part{est.Model, est.Terms})
		ids = append(ids, r.ID)
	}
	total := sum(parts)
	if prob := threshold.ProbabilityExceeds(total, s.limit); len(ids) > 0 && prob >= 0.5 {
		v.ask(p, inquiry{
			subject: "synthetic_data:" + q.id, kind: "synthetic_data", runs: append(q.ids(), ids...), accounts: q.party.accounts, probability: s.prob * prob, bounds: total, evidence: q.evidence(),
			text: fmt.Sprintf("The profile counts the making of training data that is not public. The runs %s of %s train, and %s of the same accounts are batch inference: together %s FLOP, 90 %% interval %s to %s; the limit is %s FLOP. The probability is that of the sum.",
				list(q.ids()), q.party.words(), list(ids), rough(total.Best), rough(total.Low), rough(total.High), flop(s.limit)),
			asks: []string{"what the batch inference made, and whether a model was trained on it"},
		})
	}
}
