package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// flagAfterMs of work make a flag about a run: a shorter overlap of accounts, or a class
// that has stood for less, is not yet something to ask a customer about. A run that
// ends sooner is flagged at its end.
const flagAfterMs = 30 * feature.MinuteMs

// redFlagsOnAccounts: special jurisdictions and refused verifications, from the
// account's first order or rental on. No flag decides anything: each asks for inquiry.
func (v *view) redFlagsOnAccounts() {
	special := map[string]bool{}
	for _, c := range v.SpecialJurisdictions {
		special[strings.ToUpper(strings.TrimSpace(c))] = true
	}
	for _, account := range v.accounts {
		r := v.resolve(account)
		var reasons, countries []string
		for _, c := range r.Countries {
			if special[c] {
				countries = append(countries, c)
			}
		}
		severity := "medium"
		if len(countries) > 0 {
			reasons = append(reasons, fmt.Sprintf("somebody behind it resides, is formed or has headquarters in a jurisdiction under special measures (%s)", strings.Join(countries, ", ")))
		}
		if r.Refused {
			severity = "high"
			reasons = append(reasons, "verification of somebody behind it was refused")
		}
		if len(reasons) == 0 {
			continue
		}
		firstMs := v.firstSeen[account]
		v.raise(Finding{
			Limb: RedFlag, Accounts: []string{account}, Parties: slices.Clone(r.Parties), State: Inquire, Severity: severity,
			Explanation: fmt.Sprintf("Account %s: %s. One flag decides nothing: inquire, resolve, document.", account, strings.Join(reasons, "; ")),
			Evidence:    []Evidence{{Kind: "register", FromMs: max(firstMs, v.StartMs), ToMs: max(firstMs, v.StartMs), Strength: "declared"}},
		}, nil, account, nil, firstMs)
	}
}

// redFlagsOnRuns: one run over several accounts, and training on a rental that was
// declared for something else. Both on one run are one finding.
func (v *view) redFlagsOnRuns(runs []runView) {
	for i := range runs {
		r := &runs[i]
		var reasons []string
		knownMs := v.AtMs
		// earliest the flag may be raised: the run has stood for long enough, or ended.
		ripe := func(sinceMs int64) (int64, bool) {
			at := sinceMs + flagAfterMs
			if !r.Run.Open {
				at = min(at, max(r.Run.EndMs, sinceMs))
			}
			return at, at <= v.AtMs
		}
		already := v.raised("", RedFlag, r.Run.ID, r.Run.Supersedes)
		if r.prob < 0.5 && !already {
			continue // it is more likely no training
		}
		if second, n := secondJoin(r.joined); n > 1 {
			if at, ok := ripe(second); ok || already {
				knownMs = min(knownMs, at)
				reasons = append(reasons, fmt.Sprintf("it runs over several accounts (%s)", strings.Join(r.Run.Accounts, ", ")))
			}
		}
		for _, account := range r.Run.Accounts {
			since, worked := r.joined[account]
			if !worked {
				continue
			}
			use, order, otherwise := v.declaredOtherwise(r, account, since)
			if !otherwise {
				continue
			}
			if at, ok := ripe(since); ok || already {
				knownMs = min(knownMs, at)
				reasons = append(reasons, fmt.Sprintf("it trains on a rental of %s that was declared for %s (order %s)", account, quoted(use), order))
			}
		}
		if len(reasons) == 0 {
			continue
		}
		v.raise(Finding{
			Limb: RedFlag, Runs: []string{r.Run.ID}, Accounts: slices.Clone(r.Run.Accounts), Parties: slices.Clone(r.behind.parties),
			State: Inquire, Severity: "medium",
			Explanation: fmt.Sprintf("Run %s: %s. One flag decides nothing: inquire, resolve, document.", r.Run.ID, strings.Join(reasons, "; ")),
			Evidence:    slices.Clone(r.nodes),
		}, nil, r.Run.ID, r.Run.Supersedes, max(knownMs, v.PrevAtMs))
	}
}

// secondJoin is when the second account began to work on a run, and how many did.
func secondJoin(joined map[string]int64) (atMs int64, accounts int) {
	times := make([]int64, 0, len(joined))
	for _, at := range joined {
		times = append(times, at)
	}
	slices.Sort(times)
	if len(times) < 2 {
		return 0, len(times)
	}
	return times[1], len(times)
}

// declaredOtherwise reports whether every order of the account that may stand for the
// run's GPUs, in the version of that moment, declares a use that excludes training. With
// one order among them that does not, nobody can say which of them the GPUs belong to.
func (v *view) declaredOtherwise(r *runView, account string, atMs int64) (use, order string, ok bool) {
	for _, id := range v.orderIDs {
		o, seen := versionAt(v.orders[id], atMs)
		if !seen || o.Account != account || !matches(r.models, o.GPUModel) || (o.EndMs != 0 && o.EndMs < atMs) {
			continue
		}
		if !excludesTraining(o.DeclaredUse) {
			return "", "", false
		}
		if !ok {
			use, order, ok = o.DeclaredUse, id, true
		}
	}
	return use, order, ok
}
