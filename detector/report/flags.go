package report

import (
	_ "embed" // the catalogue
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/identity"
	"github.com/flopwatch/flopwatch/detector/threshold"
)

//go:embed data/flags.toml
var flagsTOML string

// Flag is one entry of the catalogue of red flags.
type Flag struct {
	ID       string   `toml:"id" json:"id"`
	Row      string   `toml:"row" json:"row"` // of REGULATION.md, section 3
	Text     string   `toml:"text" json:"text"`
	Source   string   `toml:"source" json:"source"`
	Label    string   `toml:"label" json:"label"`             // P primary, S secondary, INF our inference
	Check    string   `toml:"check" json:"check,omitempty"`   // what carries it; empty: a person has to look
	Judged   string   `toml:"judged" json:"judged,omitempty"` // what says it already
	Evidence []string `toml:"evidence" json:"evidence"`
	Ask      string   `toml:"ask" json:"ask,omitempty"` // what would resolve it
	GPURatio float64  `toml:"gpu_ratio" json:"gpu_ratio,omitempty"`
	GPUShare float64  `toml:"gpu_share" json:"gpu_share,omitempty"`
}

// Flags is the catalogue, in its order.
func Flags() ([]Flag, error) {
	flags, err := catalogue()
	return slices.Clone(flags), err
}

// catalogue is read once: it is part of the program.
var catalogue = sync.OnceValues(readFlags)

func readFlags() ([]Flag, error) {
	var doc struct {
		Flag []Flag `toml:"flag"`
	}
	meta, err := toml.Decode(flagsTOML, &doc)
	if err != nil {
		return nil, fmt.Errorf("read catalogue of flags: %w", err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("read catalogue of flags: unknown field %s", unknown[0])
	}
	for i := range doc.Flag {
		f := &doc.Flag[i]
		if _, ok := checks[f.Check]; f.ID == "" || f.Text == "" || f.Source == "" || f.Check != "" && (!ok || f.Judged != "" || f.Ask == "") {
			return nil, fmt.Errorf("read catalogue of flags: entry %d (%s): a field is empty, or check %q is not known", i+1, f.ID, f.Check)
		}
	}
	return doc.Flag, nil
}

// raisedFlag is a flag on one account, or on accounts of one party.
type raisedFlag struct {
	subject  string
	accounts []string
	orders   []string
	runs     []string
	knownMs  int64
	what     string // in numbers
	evidence []Evidence
}

// checks are what the data can carry. Each returns its flags in a fixed order.
var checks = map[string]func(v *view, f *Flag, runs []runView) []raisedFlag{
	"declared_training": declaredTraining, "use_changed": useChanged, "reseller_abroad": resellerAbroad, "access_abroad": accessAbroad,
	"first_large": firstLarge, "reseller_unverified": resellerUnverified, "no_use": noUse, "repeated": repeated, "not_verified": notVerified,
	"jurisdictions": jurisdictions, "metered": metered, "cluster_order": clusterOrder,
}

// indicators raises what the catalogue knows and the limb red_flag does not hold.
func (v *view) indicators(runs []runView) {
	flags, err := catalogue()
	if err != nil {
		return // the catalogue is part of the program: a test holds it
	}
	for i := range flags {
		f := &flags[i]
		check, ok := checks[f.Check]
		if !ok {
			continue
		}
		for _, r := range check(v, f, runs) {
			v.indicator(f, r)
		}
	}
}

func (v *view) indicator(f *Flag, r raisedFlag) {
	subject := f.ID + ":" + r.subject
	v.raise(Finding{
		Limb: Indicator, Kind: f.ID, Runs: r.runs, Orders: r.orders, Accounts: r.accounts, Parties: v.behind(r.accounts).parties, State: Inquire, Severity: "info",
		Explanation: fmt.Sprintf("%s %s Source: %s (%s). One flag decides nothing: inquire, resolve, document.", f.Text, sentence(r.what)+".", f.Source, f.Label),
		Asks:        []string{f.Ask}, Evidence: r.evidence,
	}, nil, subject, nil, r.knownMs)
}

// inScope are the accounts on which indicators are raised.
func (v *view) inScope() []string {
	return slices.DeleteFunc(slices.Clone(v.accounts), func(a string) bool { return !v.resolve(a).InScope })
}

func (v *view) onAccount(account, what string, knownMs int64) raisedFlag {
	at := max(knownMs, v.StartMs)
	return raisedFlag{subject: account, accounts: []string{account}, knownMs: knownMs, what: what, evidence: []Evidence{{Kind: "register", FromMs: at, ToMs: at, Strength: "declared"}}}
}

// eachOrder looks at the versions of each order in scope.
func (v *view) eachOrder(look func(id string, versions []feature.Order) (what string, knownMs int64, ok bool)) []raisedFlag {
	var out []raisedFlag
	for _, id := range v.orderIDs {
		versions := v.orders[id]
		last := versions[len(versions)-1]
		if last.Account == "" || !v.resolve(last.Account).InScope {
			continue
		}
		if what, known, ok := look(id, versions); ok {
			out = append(out, raisedFlag{
				subject: id, orders: []string{id}, accounts: []string{last.Account}, knownMs: known, what: what,
				evidence: []Evidence{{Kind: "order", FromMs: max(last.StartMs, last.AmendedMs), ToMs: last.EndMs, Strength: "declared"}},
			})
		}
	}
	return out
}

// namesTraining reports whether a declared use names the training of models.
func namesTraining(use string) bool {
	u := normal(use)
	for _, word := range []string{"training", "train ", "pretrain", "pre train", "fine tun", "finetun", "foundation model", "llm"} {
		if strings.Contains(u+" ", word) {
			return true
		}
	}
	return false
}

func declaredTraining(v *view, _ *Flag, _ []runView) []raisedFlag {
	return v.eachOrder(func(id string, versions []feature.Order) (string, int64, bool) {
		for i := range versions {
			if o := &versions[i]; namesTraining(o.DeclaredUse) {
				return fmt.Sprintf("order %s declares %s", id, quoted(o.DeclaredUse)), o.AmendedMs, true
			}
		}
		return "", 0, false
	})
}

func useChanged(v *view, _ *Flag, _ []runView) []raisedFlag {
	return v.eachOrder(func(id string, versions []feature.Order) (string, int64, bool) {
		for i := 1; i < len(versions); i++ {
			if was, is := versions[i-1].DeclaredUse, versions[i].DeclaredUse; excludesTraining(was) && !excludesTraining(is) {
				return fmt.Sprintf("order %s declared %s, and since %s %s", id, quoted(was), utc(versions[i].AmendedMs), quoted(is)), versions[i].AmendedMs, true
			}
		}
		return "", 0, false
	})
}

func noUse(v *view, _ *Flag, _ []runView) []raisedFlag {
	return v.eachOrder(func(id string, versions []feature.Order) (string, int64, bool) {
		o := versions[len(versions)-1]
		if strings.TrimSpace(o.DeclaredUse) != "" {
			return "", 0, false
		}
		for i := range v.Profiles {
			if f, ok := v.out[ID(v.Profiles[i].Name, Capacity, id)]; ok {
				return fmt.Sprintf("order %s for %d x %s states no use", id, o.GPUCount, o.GPUModel), max(f.KnownAtMs, o.AmendedMs), true
			}
		}
		return "", 0, false
	})
}

func clusterOrder(v *view, _ *Flag, _ []runView) []raisedFlag {
	return v.eachOrder(func(id string, versions []feature.Order) (string, int64, bool) {
		for i := range versions {
			o := &versions[i]
			peak, known := v.Peak16(o.GPUModel)
			for k := range v.Profiles {
				c := v.Profiles[k].Cluster
				if c != nil && known && o.FabricGbps > c.Gbps && peak*float64(max(o.GPUCount, 0)) > c.OpsPerS {
					return fmt.Sprintf("order %s asks for %d x %s on %g Gbit/s: %s operations per second at their dense 16-bit peak", id, o.GPUCount, o.GPUModel, o.FabricGbps, flop(peak*float64(o.GPUCount))), o.AmendedMs, true
				}
			}
		}
		return "", 0, false
	})
}

// firstLarge compares an account's first order with the first orders of the others.
func firstLarge(v *view, f *Flag, _ []runView) []raisedFlag {
	first := map[string]feature.Order{}
	for _, id := range v.orderIDs {
		if o := v.orders[id][0]; o.Account != "" {
			if was, ok := first[o.Account]; !ok || o.AmendedMs < was.AmendedMs {
				first[o.Account] = o
			}
		}
	}
	fleet := v.fleetGPUs("")
	var out []raisedFlag
	for _, account := range v.inScope() {
		o, ok := first[account]
		if !ok || o.AmendedMs < v.StartMs { // a customer from before the data is no first-time buyer
			continue
		}
		var others []float64
		for a, x := range first { // sorted below
			if a != account && x.GPUCount > 0 {
				others = append(others, float64(x.GPUCount))
			}
		}
		slices.Sort(others)
		if len(others) < 3 {
			continue
		}
		if usual := others[len(others)/2]; float64(o.GPUCount) >= f.GPURatio*usual && float64(o.GPUCount) >= f.GPUShare*float64(fleet) {
			r := v.onAccount(account, fmt.Sprintf("the first order of account %s is for %d GPUs, of others for %g at the middle; the fleet has %d", account, o.GPUCount, usual, fleet), o.AmendedMs)
			r.orders = []string{o.Order}
			out = append(out, r)
		}
	}
	return out
}

func (v *view) onAccounts(look func(account string, r *identity.Resolution) (what string, ok bool)) []raisedFlag {
	var out []raisedFlag
	for _, account := range v.inScope() {
		r := v.resolve(account)
		if what, ok := look(account, &r); ok {
			out = append(out, v.onAccount(account, what, v.firstSeen[account]))
		}
	}
	return out
}

func resellerAbroad(v *view, _ *Flag, _ []runView) []raisedFlag {
	return v.onAccounts(func(account string, r *identity.Resolution) (string, bool) {
		for _, s := range r.Resellers {
			others := slices.DeleteFunc(slices.Clone(r.Countries), func(c string) bool { return slices.Contains(s.Countries, c) })
			if len(s.Countries) > 0 && len(others) > 0 {
				return fmt.Sprintf("account %s buys through %s (%s), and others behind it are in %s", account, s.Party, strings.Join(s.Countries, ", "), strings.Join(others, ", ")), true
			}
		}
		return "", false
	})
}

func resellerUnverified(v *view, _ *Flag, _ []runView) []raisedFlag {
	return v.onAccounts(func(account string, r *identity.Resolution) (string, bool) {
		for _, s := range r.Resellers {
			if s.Status != identity.Verified {
				return fmt.Sprintf("account %s buys through %s, which is not verified", account, s.Party), true
			}
		}
		return "", false
	})
}

func accessAbroad(v *view, _ *Flag, _ []runView) []raisedFlag {
	return v.onAccounts(func(account string, r *identity.Resolution) (string, bool) {
		strange := slices.DeleteFunc(slices.Clone(r.AccessCountries), func(c string) bool { return slices.Contains(r.Countries, c) })
		return fmt.Sprintf("account %s is reached from %s", account, strings.Join(strange, ", ")), len(strange) > 0 && len(r.Countries) > 0
	})
}

func jurisdictions(v *view, _ *Flag, _ []runView) []raisedFlag {
	return v.onAccounts(func(account string, r *identity.Resolution) (string, bool) {
		return fmt.Sprintf("behind account %s stand %s", account, strings.Join(r.Countries, ", ")), len(r.Countries) >= 3
	})
}

func notVerified(v *view, _ *Flag, _ []runView) []raisedFlag {
	renting := map[string]int64{}
	for _, allocs := range v.allocsByNode { // the earliest of each: the order reaches no output
		for _, a := range allocs {
			if at, ok := renting[a.Account]; !ok || a.StartMs < at {
				renting[a.Account] = a.StartMs
			}
		}
	}
	var out []raisedFlag
	for _, account := range v.inScope() {
		r := v.resolve(account)
		if at, rents := renting[account]; rents && r.Known && !r.Refused && len(r.Unverified) > 0 {
			out = append(out, v.onAccount(account, fmt.Sprintf("account %s rents GPUs, and %s is not verified", account, list(r.Unverified)), at))
		}
	}
	return out
}

// repeated: several runs of one party beyond one limit within a year.
func repeated(v *view, _ *Flag, runs []runView) []raisedFlag {
	var out []raisedFlag
	owned := v.owned(runs)
	for i := range v.Profiles {
		p := &v.Profiles[i]
		var asked []holder
		for _, q := range owned {
			var ids []string
			known := int64(math.MinInt64)
			for _, r := range q.runs {
				if f, ok := v.out[ID(p.Name, Actual, r.Run.ID)]; ok && r.Run.EndMs > v.AtMs-yearMs {
					ids, known = append(ids, r.Run.ID), max(known, f.KnownAtMs)
				}
			}
			if len(ids) > 1 && !within(asked, q.party) {
				asked = append(asked, q.party)
				out = append(out, raisedFlag{
					subject: p.Name + ":" + q.id, accounts: q.party.accounts, runs: ids, knownMs: known, what: fmt.Sprintf("%d runs (%s) of accounts of %s exceeded the limit of profile %s", len(ids), list(ids), q.party.words(), p.Name),
				})
			}
		}
	}
	return out
}

// rented is what an account had.
type rented struct{ flop, hours float64 }

// metering sums up what each account rented in the year before a moment.
func (v *view) metering(atMs int64) map[string]rented {
	byAccount := map[string]rented{}
	for i := range v.Ev.Allocations { // in their order: sums are the same each time
		a := &v.Ev.Allocations[i]
		if a.StartMs > atMs || a.Account == "" {
			continue
		}
		end := atMs
		if a.EndMs != 0 {
			end = min(end, a.EndMs)
		}
		ms := float64(max(0, end-max(a.StartMs, atMs-yearMs))) * float64(len(a.GPUs))
		peak, known := v.Peak16(v.Ev.Nodes[a.Node].GPUModel)
		if !known {
			continue
		}
		m := byAccount[a.Account]
		byAccount[a.Account] = rented{m.flop + ms/1000*peak, m.hours + ms/3.6e6}
	}
	return byAccount
}

// meteredSince is from when on what some accounts rented adds up to flop, which it does by now: not when
// somebody looked.
func (v *view) meteredSince(accounts []string, flop float64) int64 {
	lo, hi := v.AtMs, v.AtMs
	for i := range v.Ev.Allocations {
		lo = min(lo, v.Ev.Allocations[i].StartMs)
	}
	for lo < hi {
		mid := lo + (hi-lo)/2
		sum, by := 0.0, v.metering(mid)
		for _, a := range accounts {
			sum += by[a].flop
		}
		if sum >= flop {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return hi
}

// metered: the rented GPU-time of a party would hold a run beyond a limit.
func metered(v *view, _ *Flag, _ []runView) []raisedFlag {
	byAccount := v.metering(v.AtMs)
	var out []raisedFlag
	holders := v.holdings(v.inScope(), false)
	for i := range v.Profiles {
		p := &v.Profiles[i]
		if p.LimitFLOP <= 0 || p.Counting.Basis == threshold.Executed {
			continue
		}
		var asked []holder
		for _, h := range holders {
			var m rented
			for _, a := range h.accounts {
				m.flop, m.hours = m.flop+byAccount[a].flop, m.hours+byAccount[a].hours
			}
			if m.flop*p.Projection.Utilization >= p.LimitFLOP && !within(asked, h) {
				asked = append(asked, h)
				out = append(out, raisedFlag{
					subject: p.Name + ":" + h.id(), accounts: h.accounts, knownMs: v.meteredSince(h.accounts, p.LimitFLOP/p.Projection.Utilization),
					what: fmt.Sprintf("accounts of %s rented %s GPU-hours: %s FLOP at %.3g of their dense 16-bit peak, against the limit of profile %s of %s", h.words(), rough(m.hours), rough(m.flop*p.Projection.Utilization), p.Projection.Utilization, p.Name, flop(p.LimitFLOP)),
				})
			}
		}
	}
	return out
}
