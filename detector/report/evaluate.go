package report

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/identity"
)

// maxEvidence bounds the evidence lines of one finding; a report says where its list ends.
const maxEvidence = 1000

// Evaluate returns all findings as of AtMs, sorted by id. A finding that was raised
// before keeps its known_at_ms; one on a run that was merged into another moves to the
// surviving run with the earliest known_at_ms; one on a run that is no longer judged to
// be training is withdrawn. Findings on orders and accounts, once raised, stay.
func Evaluate(in Input) []Finding {
	v := newView(in)
	runs := v.runs()
	v.onRuns(runs)
	v.onOrders()
	v.onClusters()
	v.redFlagsOnAccounts()
	v.redFlagsOnRuns(runs)
	v.onTelemetry()
	v.askTelemetry()
	v.onPools(runs)
	v.inquire(runs)
	v.indicators(runs)
	v.carry()
	out := make([]Finding, 0, len(v.out))
	for _, f := range v.out {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Finding) int { return cmp.Compare(a.Finding, b.Finding) })
	return out
}

// ID is the identity of a finding: profile ("" for none), limb, and the run, order or
// account it is about.
func ID(profile, limb, subject string) string {
	h := sha256.Sum256([]byte(strings.Join([]string{"finding/1", profile, limb, subject}, "\x00")))
	return "fnd-" + hex.EncodeToString(h[:8])
}

// view is the input with its indices, and the findings so far.
type view struct {
	Input
	allocsByNode map[string][]feature.Allocation
	byAccount    map[string][]int // indices of its rentals in the evidence
	keys         []feature.GPUKey // see gpuKeys
	looked       bool             // for dark GPUs
	darks        []dark
	ends         map[string]int64           // by run: the latest end of its orders at the judged moment
	orders       map[string][]feature.Order // versions by time of amendment, visible ones only
	orderIDs     []string
	accounts     []string // of visible orders and allocations, sorted
	firstSeen    map[string]int64
	resolved     map[string]identity.Resolution
	out          map[string]Finding
}

func newView(in Input) *view {
	in.Profiles = slices.Clone(in.Profiles)
	for i := range in.Profiles {
		in.Profiles[i].fill()
	}
	v := &view{
		Input: in, byAccount: map[string][]int{}, ends: map[string]int64{}, allocsByNode: map[string][]feature.Allocation{}, orders: map[string][]feature.Order{},
		firstSeen: map[string]int64{}, resolved: map[string]identity.Resolution{}, out: map[string]Finding{},
	}
	see := func(account string, atMs int64) {
		if first, ok := v.firstSeen[account]; account != "" && (!ok || atMs < first) {
			v.firstSeen[account] = atMs
		}
	}
	for i, a := range in.Ev.Allocations {
		if a.StartMs > in.AtMs {
			continue
		}
		v.byAccount[a.Account] = append(v.byAccount[a.Account], i)
		if a.EndMs > in.AtMs {
			a.EndMs = 0
		}
		v.allocsByNode[a.Node] = append(v.allocsByNode[a.Node], a)
		see(a.Account, a.StartMs)
	}
	for _, o := range in.Ev.Orders {
		if o.AmendedMs > in.AtMs {
			continue
		}
		if _, ok := v.orders[o.Order]; !ok {
			v.orderIDs = append(v.orderIDs, o.Order)
		}
		v.orders[o.Order] = append(v.orders[o.Order], o)
		see(o.Account, o.AmendedMs)
	}
	slices.Sort(v.orderIDs)
	for _, versions := range v.orders {
		slices.SortStableFunc(versions, func(a, b feature.Order) int { return cmp.Compare(a.AmendedMs, b.AmendedMs) })
	}
	for account := range v.firstSeen {
		v.accounts = append(v.accounts, account)
	}
	slices.Sort(v.accounts)
	return v
}

// gpuKeys are all GPUs of the evidence, sorted.
func (v *view) gpuKeys() []feature.GPUKey {
	if v.keys == nil {
		v.keys = v.Ev.GPUKeys()
	}
	return v.keys
}

func (v *view) resolve(account string) identity.Resolution {
	r, ok := v.resolved[account]
	if !ok {
		r = v.Resolve(account)
		v.resolved[account] = r
	}
	return r
}

// behind is who stands behind several accounts. No account at all means that nobody is
// known, which is in scope like an account without a party.
type behind struct {
	parties []string
	inScope bool
	reasons []string
}

func (v *view) behind(accounts []string) behind {
	b := behind{parties: []string{}}
	if len(accounts) == 0 {
		b.inScope, b.reasons = true, []string{"no account is known to hold these GPUs"}
		return b
	}
	for _, a := range accounts {
		r := v.resolve(a)
		b.parties = append(b.parties, r.Parties...)
		b.inScope = b.inScope || r.InScope
		for _, reason := range r.Reasons {
			b.reasons = append(b.reasons, a+": "+reason)
		}
	}
	slices.Sort(b.parties)
	b.parties = slices.Compact(b.parties)
	slices.Sort(b.reasons)
	b.reasons = slices.Compact(b.reasons)
	return b
}

// raise adds a finding. known is clamped to the data's period; aliases are subjects
// under which the finding was known before (merged runs).
func (v *view) raise(f Finding, p *Profile, subject string, aliases []string, knownAtMs int64) {
	profile := ""
	if p != nil {
		profile = p.Name
		f.Profile = &profile
	}
	f.Finding = ID(profile, f.Limb, subject)
	f.KnownAtMs = min(max(knownAtMs, v.StartMs), v.AtMs)
	first := true
	for _, s := range append([]string{subject}, aliases...) {
		if prev, ok := v.Prev[ID(profile, f.Limb, s)]; ok && (first || prev.KnownAtMs < f.KnownAtMs) {
			f.KnownAtMs, first = prev.KnownAtMs, false
		}
	}
	if f.State == "" {
		f.State = Met
	}
	f.Runs, f.Orders, f.Accounts, f.Parties = notNil(f.Runs), notNil(f.Orders), notNil(f.Accounts), notNil(f.Parties)
	f.ConditionsNotAssessed = []string{}
	if p != nil {
		f.ConditionsNotAssessed = append(f.ConditionsNotAssessed, p.ConditionsNotAssessed...)
		if why := v.behind(f.Accounts).reasons; len(why) > 0 {
			f.Explanation += " In scope because " + strings.Join(why, "; ") + "."
		}
		setDue(&f, p)
	}
	if len(f.Evidence) > maxEvidence {
		f.Evidence = f.Evidence[:maxEvidence]
	}
	if f.Evidence == nil {
		f.Evidence = []Evidence{}
	}
	f.Explanation = explain(&f, p)
	v.out[f.Finding] = f
}

// raised reports whether the finding stood at the judgement before.
func (v *view) raised(profile, limb, subject string, aliases []string) bool {
	for _, s := range append([]string{subject}, aliases...) {
		if _, ok := v.Prev[ID(profile, limb, s)]; ok {
			return true
		}
	}
	return false
}

// carry keeps what was raised on orders and accounts: that an order could have resulted
// in a run stays true after it was cut or has ended. Silence that late rows have filled
// is the exception, see onTelemetry.
func (v *view) carry() {
	for id, f := range v.Prev {
		if _, again := v.out[id]; again || len(f.Runs) > 0 || f.Limb == Actual || f.Limb == Projected || f.Limb == Telemetry || !IsFinding(f.Limb) {
			continue
		}
		v.out[id] = f
	}
}

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
