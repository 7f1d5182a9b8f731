package drawn

import (
	"math"
	"slices"
)

// limit is a profile of the manifest.
type limit struct {
	Name    string        `json:"name"`
	FLOPs   float64       `json:"limit_flops"`
	Cluster *clusterLimit `json:"cluster"`
}

type clusterLimit struct {
	Gbps    float64 `json:"gbps"`
	OpsPerS float64 `json:"ops_per_s"`
}

// expected is a finding of truth.json.
type expected struct {
	Profile     *string  `json:"profile"`
	Limb        string   `json:"limb"`
	Accounts    []string `json:"accounts"`
	Runs        []string `json:"runs"`
	Orders      []string `json:"orders"`
	Parties     []string `json:"parties"`
	KnowableMs  int64    `json:"knowable_ms"`
	EarliestMs  int64    `json:"earliest_ms"`
	Required    bool     `json:"required"`
	Marginal    bool     `json:"marginal"`
	Undecidable bool     `json:"undecidable"`
	Note        string   `json:"note"`
}

type crossing struct {
	Profile    string  `json:"profile"`
	Run        string  `json:"run"`
	CrossingMs *int64  `json:"crossing_ms"`
	InPeriod   bool    `json:"in_period"`
	LimitFLOPs float64 `json:"limit_flops"`
}

func isRun(kind string) bool { return kind == "training" || kind == "finetuning" || kind == "rl" }

// count integrates the truth of every activity, minute by minute.
func (w *world) count() {
	n := int(math.Ceil(w.length / 60))
	for _, a := range w.acts {
		a.minutes = make([]float64, n+1)
		a.exec, a.model = 0, 0
	}
	for _, g := range w.gpus() {
		for i := range g.pieces {
			p := &g.pieces[i]
			if p.act == nil {
				continue
			}
			from, to := max(p.from, 0), min(p.to, w.length)
			for m := int(from / 60); m < n && float64(m)*60 < to; m++ {
				var x sig
				p.src.integral(max(from, float64(m)*60), min(to, float64(m+1)*60), 1, &x)
				p.act.exec += x[sExec]
				p.act.minutes[m+1] += x[sModel]
			}
		}
	}
	for _, a := range w.acts {
		for m := 1; m <= n; m++ {
			a.minutes[m] += a.minutes[m-1]
		}
		a.model = a.minutes[n]
	}
}

// span of an activity, s.
func (w *world) span(a *activity) (from, to float64) {
	from, to = math.Inf(1), 0
	for _, g := range w.gpus() {
		for _, h := range g.held {
			if h.act == a {
				from, to = min(from, h.from), max(to, h.to)
			}
		}
	}
	return max(from, 0), min(to, w.length)
}

// crosses says when a run's FLOPs exceed a limit; -1: never.
func (w *world) crosses(a *activity, limit float64) float64 {
	for m, done := range a.minutes {
		if done > limit {
			prev := a.minutes[max(m-1, 0)]
			return 60 * (float64(m-1) + (limit-prev)/(done-prev))
		}
	}
	return -1
}

// projection is the largest done + rate × what is left, and when it first reaches `want`.
func (w *world) projection(a *activity, want float64) (most, firstS float64) {
	from, to := w.span(a)
	firstS = -1
	for m := int(math.Ceil((from + 900) / 60)); m < len(a.minutes) && float64(m)*60 <= to; m++ {
		now := float64(m) * 60
		since := max(now-3600, from)
		rate := (a.minutes[m] - a.minutes[max(int(since/60), 0)]) / (now - since)
		left := 0.0
		for _, o := range w.orders {
			if !slices.Contains(a.accounts, o.account) {
				continue
			}
			for _, v := range o.versions {
				if v.at <= now && (len(o.versions) == 1 || v.at == latest(o, now).at) {
					left = max(left, v.to-now)
				}
			}
		}
		total := a.minutes[m] + rate*left
		most = max(most, total)
		if firstS < 0 && total >= want {
			firstS = now
		}
	}
	return most, firstS
}

// latest is the version of an order that is visible.
func latest(o *order, now float64) version {
	out := o.versions[0]
	for _, v := range o.versions {
		if v.at <= now {
			out = v
		}
	}
	return out
}

var excluding = []string{"rendering", "simulation", "HPC", "inference", "inference serving", "game streaming", "video transcoding"}

// findings says what must be found.
func (w *world) findings() ([]expected, []crossing) {
	out := slices.Clone(w.expect)
	var crossings []crossing
	open := w.sharp()
	for _, p := range w.profile {
		for _, a := range w.acts {
			if !isRun(a.kind) || a.noModel || p.FLOPs == 0 {
				continue
			}
			c, found := w.runFindings(p, a, open*a.blur)
			out = append(out, found...)
			if c != nil {
				crossings = append(crossings, *c)
			}
		}
		for _, o := range w.orders {
			out = append(out, w.orderFindings(p, o)...)
		}
		if p.Cluster != nil {
			out = append(out, w.clusterFindings(p)...)
		}
	}
	return append(out, w.flags()...), crossings
}

func (w *world) runFindings(p limit, a *activity, open float64) (*crossing, []expected) {
	parties, inScope, _ := w.behind(a.accounts)
	e := expected{Profile: &p.Name, Accounts: a.accounts, Runs: []string{a.id}, Orders: []string{}, Parties: parties, Required: true}
	at := w.crosses(a, p.FLOPs)
	var c *crossing
	if at >= 0 {
		ms := w.ms(at)
		c = &crossing{p.Name, a.id, &ms, true, p.FLOPs}
	}
	if !inScope {
		return c, nil
	}
	var out []expected
	if a.model > p.FLOPs/open {
		x := e
		x.Limb, x.Note = "actual", "run crossed the limit"
		x.KnowableMs, x.EarliestMs = w.ms(max(at, 0)), w.ms(max(0, w.crosses(a, p.FLOPs/open)))
		x.Marginal = a.model < p.FLOPs*open
		out = append(out, x)
	}
	most, first := w.projection(a, 1.3*p.FLOPs)
	from, _ := w.span(a)
	if most > 1.3*p.FLOPs/open {
		x := e
		x.Limb, x.Note = "projected", "FLOPs done + rate x remaining term"
		x.KnowableMs, x.EarliestMs = w.ms(max(first, 0)), w.ms(from+900)
		x.Marginal = most < 1.3*p.FLOPs*open || at >= 0 && at < from+1800 // crossed before, or as soon as, one may project
		out = append(out, x)
	}
	return c, out
}

// reach says whether an order's version could result in a limit: 0 no, 1 at full peak alone, 2 yes.
func reach(v version, limit float64) int {
	if slices.Contains(excluding, v.use) {
		return 0
	}
	left := v.to - max(v.from, v.at)
	full := float64(v.count) * v.peak16 * left
	switch {
	case 0.3*full >= limit:
		return 2
	case full >= limit:
		return 1
	}
	return 0
}

func (w *world) orderFindings(p limit, o *order) []expected {
	parties, inScope, _ := w.behind([]string{o.account})
	if !inScope || p.FLOPs == 0 {
		return nil
	}
	e := expected{Profile: &p.Name, Accounts: []string{o.account}, Runs: []string{}, Orders: []string{o.id}, Parties: parties}
	var out []expected
	was := 0
	for i, v := range o.versions {
		x := e
		x.KnowableMs = w.ms(max(0, v.at))
		x.EarliestMs = x.KnowableMs
		is := reach(v, p.FLOPs)
		near := is > 0 && is != reach(version{v.at, v.model, v.peak16 * 0.94, v.count, v.gbps, v.from, v.to, v.use}, p.FLOPs) || is < 2 && is != reach(version{v.at, v.model, v.peak16 * 1.06, v.count, v.gbps, v.from, v.to, v.use}, p.FLOPs)
		if v.peak16 == 0 && !slices.Contains(excluding, v.use) { // a part that no table has
			x.Limb, x.Undecidable, x.Note = "capacity", true, "the part's peak is not known"
			out = append(out, x)
			x.Limb = "changed_arrangement"
			out = append(out, x)
			was = 2
			continue
		}
		if is > 0 || near {
			x.Limb, x.Required, x.Note = "capacity", is == 2 && !near, "the order could result in the limit"
			out = append(out, x)
			if i > 0 && (was == 0 || near) {
				x.Limb, x.Note = "changed_arrangement", "an amendment makes the limit possible"
				out = append(out, x)
			}
		}
		was = max(was, is)
		if near {
			was = max(was, 1)
		}
	}
	return out
}

// clusterFindings adds up what each account holds in each site over time.
func (w *world) clusterFindings(p limit) []expected {
	var out []expected
	var accounts []string
	for _, x := range w.rentals {
		if !slices.Contains(accounts, x.account) {
			accounts = append(accounts, x.account)
		}
	}
	for _, account := range accounts {
		parties, inScope, _ := w.behind([]string{account})
		if !inScope {
			continue
		}
		most, at, unknown := 0.0, 0.0, false
		for _, begin := range w.rentals {
			if begin.account != account {
				continue
			}
			t := max(begin.from, 0)
			sum := map[string]float64{}
			for _, x := range w.rentals {
				if x.account != account || x.from > t || x.to >= 0 && x.to <= t || math.IsNaN(x.node.listedGbps) || x.node.listedGbps <= p.Cluster.Gbps {
					continue
				}
				if !x.node.si.known || x.node.listed != x.node.si.name {
					unknown = true
				}
				sum[x.node.site] += float64(len(x.gpus)) * x.node.si.dense16
			}
			for _, v := range sum {
				if v > most {
					most = v
				}
				if v > p.Cluster.OpsPerS && (at == 0 || t < at) {
					at = t
				}
			}
		}
		near := math.Abs(most/p.Cluster.OpsPerS-1) < 0.06
		if most > p.Cluster.OpsPerS || near || unknown {
			out = append(out, expected{
				Profile: &p.Name, Limb: "cluster", Accounts: []string{account}, Runs: []string{}, Orders: []string{}, Parties: parties, KnowableMs: w.ms(at), EarliestMs: w.ms(at),
				Required: !near && !unknown, Undecidable: unknown, Note: "holdings of one account in one site",
			})
		}
	}
	return out
}

// flags are red flags about customers and runs.
func (w *world) flags() []expected {
	var out []expected
	seen := map[string]bool{}
	first := func(account string) float64 {
		at := math.Inf(1)
		for _, o := range w.orders {
			if o.account == account {
				at = min(at, o.versions[0].at)
			}
		}
		for _, x := range w.rentals {
			if x.account == account {
				at = min(at, x.from)
			}
		}
		return at
	}
	var accounts []string
	for _, o := range w.orders {
		accounts = append(accounts, o.account)
	}
	for _, x := range w.rentals {
		accounts = append(accounts, x.account)
	}
	for _, a := range accounts {
		parties, _, flags := w.behind([]string{a})
		if seen[a] || len(flags) == 0 {
			continue
		}
		seen[a] = true
		at := w.ms(max(0, first(a)))
		out = append(out, expected{Limb: "red_flag", Accounts: []string{a}, Runs: []string{}, Orders: []string{}, Parties: parties, KnowableMs: at, EarliestMs: at, Required: true, Note: flags[0]})
	}
	for _, a := range w.acts {
		if !isRun(a.kind) {
			continue
		}
		parties, _, _ := w.behind(a.accounts)
		from, _ := w.span(a)
		x := expected{Limb: "red_flag", Accounts: a.accounts, Runs: []string{a.id}, Orders: []string{}, Parties: parties, KnowableMs: w.ms(from), EarliestMs: w.ms(from), Required: true}
		declared, otherwise := false, false
		for _, o := range w.orders {
			if slices.Contains(a.accounts, o.account) {
				declared = true
				otherwise = otherwise || slices.Contains(excluding, o.versions[0].use)
			}
		}
		switch {
		case len(a.accounts) > 1:
			x.Note = "one run over several accounts"
			out = append(out, x)
		case declared && otherwise:
			x.Note = "training on a rental declared otherwise"
			out = append(out, x)
		}
	}
	return out
}

func (w *world) truth() map[string]any {
	findings, crossings := w.findings()
	var acts []map[string]any
	for _, a := range w.acts {
		type member struct {
			Node    string `json:"node"`
			GPUs    []int  `json:"gpus"`
			StartMs int64  `json:"start_ms"`
			EndMs   int64  `json:"end_ms"`
		}
		var members []member
		for _, g := range w.gpus() {
			for _, h := range g.held {
				if h.act == a {
					members = append(members, member{g.node.name, []int{g.index}, w.ms(h.from), w.ms(min(h.to, w.length))})
				}
			}
		}
		if len(members) == 0 {
			continue
		}
		x := map[string]any{"id": a.id, "kind": a.kind, "members": members, "accounts": a.accounts, "flops_executed": a.exec, "flops_model": a.model, "dtype": a.dtype, "params": a.params, "evasion": a.evasion, "notes": a.notes}
		if a.noExec {
			x["flops_executed"] = nil
		}
		if a.noModel {
			x["flops_model"] = nil
		}
		acts = append(acts, x)
	}
	return map[string]any{"activities": acts, "expect": map[string]any{"findings": findings, "crossings": crossings}, "family": w.family}
}
