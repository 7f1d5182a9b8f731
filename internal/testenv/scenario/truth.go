package scenario

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

type truthMember struct {
	Node    string `json:"node"`
	GPUs    []int  `json:"gpus"`
	StartMs int64  `json:"start_ms"`
	EndMs   int64  `json:"end_ms"`
}

type truthActivity struct {
	ID       string        `json:"id"`
	Kind     string        `json:"kind"`
	Members  []truthMember `json:"members"`
	Accounts []string      `json:"accounts"`
	Executed *float64      `json:"flops_executed"`
	Model    *float64      `json:"flops_model"`
	DType    string        `json:"dtype"`
	Params   float64       `json:"params"`
	Evasion  []string      `json:"evasion"`
}

type truthFinding struct {
	Profile    *string  `json:"profile"`
	Limb       string   `json:"limb"`
	Accounts   []string `json:"accounts"`
	Runs       []string `json:"runs"`
	Orders     []string `json:"orders"`
	Parties    []string `json:"parties"`
	KnowableMs int64    `json:"knowable_ms"`
	EarliestMs int64    `json:"earliest_ms"`
	Required   bool     `json:"required"`
	Marginal   bool     `json:"marginal"`
	Note       string   `json:"note"`
}

type truthFile struct {
	Activities []truthActivity `json:"activities"`
	Expect     struct {
		Findings []truthFinding `json:"findings"`
	} `json:"expect"`
}

func (f *fleet) truth() truthFile {
	var t truthFile
	for j := range f.s.Jobs {
		job := &f.s.Jobs[j]
		a := truthActivity{ID: job.ID, Kind: job.Work.Kind, Accounts: accountsOf(job), DType: job.Work.DType, Params: job.Work.Params, Evasion: job.Evasion}
		executed, model := f.acts[j].executed, f.acts[j].model
		switch job.Work.Kind {
		case "hpc", "burn_in", "rendering", "mining":
			model = 0
		}
		a.Executed, a.Model = &executed, &model
		if job.NullModel {
			a.Model = nil
		}
		for _, at := range job.Attempts {
			for _, seat := range at.Seats {
				a.Members = append(a.Members, truthMember{seat.Node, seat.GPUs, f.s.ms(at.From), f.s.ms(math.Min(at.To, f.s.Minutes))})
			}
		}
		t.Activities = append(t.Activities, a)
	}
	t.Expect.Findings = f.expected()
	return t
}

func accountsOf(job *Job) []string {
	out := slices.Clone(job.Accounts)
	for _, a := range job.Attempts {
		if a.Account != "" && !slices.Contains(out, a.Account) {
			out = append(out, a.Account)
		}
	}
	slices.Sort(out)
	return out
}

// behind joins who stands behind several accounts; an account of which nothing is said
// is unknown, which is in scope.
func (s *Scenario) behind(accounts []string) Behind {
	out := Behind{InScope: len(accounts) == 0, Parties: []string{}}
	for _, a := range accounts {
		b, ok := s.Behind[a]
		out.InScope = out.InScope || b.InScope || !ok
		out.Special = out.Special || b.Special
		out.Refused = out.Refused || b.Refused
		out.Parties = append(out.Parties, b.Parties...)
	}
	slices.Sort(out.Parties)
	out.Parties = slices.Compact(out.Parties)
	return out
}

// flagAfter is how many minutes a run stands before a flag about it is expected.
const flagAfter = 30

// excluding uses keep an order from training.
var excluding = []string{"rendering", "simulation", "hpc", "inference", "inference serving", "game streaming", "video transcoding"}

func excludes(use string) bool { return slices.Contains(excluding, strings.ToLower(use)) }

// expected derives the findings that BUNDLE.md asks for.
func (f *fleet) expected() []truthFinding {
	s := f.s
	var out []truthFinding
	add := func(x truthFinding) {
		x.EarliestMs = x.KnowableMs
		for _, l := range []*[]string{&x.Accounts, &x.Runs, &x.Orders, &x.Parties} {
			if *l == nil {
				*l = []string{}
			}
		}
		out = append(out, x)
	}
	for j := range s.Jobs {
		f.onRun(j, add)
	}
	f.onOrders(add)
	f.onClusters(add)
	seen := map[string]float64{}
	var accounts []string
	see := func(a string, at float64) {
		at = math.Max(at, 0)
		if first, ok := seen[a]; !ok {
			seen[a] = at
			accounts = append(accounts, a)
		} else {
			seen[a] = math.Min(first, at)
		}
	}
	for _, o := range s.Orders {
		see(o.Account, o.Amended)
	}
	for _, r := range s.Rentals {
		if !s.Noise.NoRentals {
			see(r.Account, r.From)
		}
	}
	for _, a := range accounts {
		if b := s.behind([]string{a}); b.Special || b.Refused {
			add(truthFinding{Limb: "red_flag", Accounts: []string{a}, Parties: b.Parties, KnowableMs: s.ms(seen[a]), Required: true, Note: "party of an account"})
		}
	}
	for _, a := range s.Telemetry {
		add(truthFinding{Limb: "telemetry", Accounts: []string{a}, KnowableMs: startMs, Note: "defects of the recording"})
	}
	for _, a := range s.Tampered {
		add(truthFinding{Limb: "telemetry", Accounts: []string{a}, KnowableMs: startMs, Required: true, Note: "signals contradict each other"})
	}
	return out
}

func (f *fleet) onRun(j int, add func(truthFinding)) {
	s, job := f.s, &f.s.Jobs[j]
	if !trains(job.Work.Kind) {
		return
	}
	cum := f.acts[j].byMinute
	accounts := accountsOf(job)
	if s.Noise.NoRentals {
		accounts = nil
	}
	b := s.behind(accounts)
	from, last := job.Attempts[0].From, 0.0
	for _, a := range job.Attempts {
		last = math.Max(last, math.Min(a.To, s.Minutes))
	}
	if len(job.Accounts) > 1 {
		add(truthFinding{Limb: "red_flag", Accounts: accounts, Runs: []string{job.ID}, Parties: b.Parties, KnowableMs: s.ms(from + flagAfter), Required: true, Note: "one run over several accounts"})
	} else if len(accounts) > 1 {
		for _, a := range job.Attempts {
			if a.Account != job.Attempts[0].Account {
				add(truthFinding{Limb: "red_flag", Accounts: accounts, Runs: []string{job.ID}, Parties: b.Parties, KnowableMs: s.ms(a.From + flagAfter), Required: true, Note: "one run over several accounts"})
				break
			}
		}
	}
	otherwise := 0
	for _, a := range accounts {
		uses := 0
		for _, o := range s.Orders {
			if o.Account == a {
				uses++
				if excludes(o.Use) {
					otherwise++
				} else {
					otherwise -= 1000
				}
			}
		}
	}
	if otherwise > 0 && len(job.Attempts) > 0 {
		add(truthFinding{Limb: "red_flag", Accounts: accounts, Runs: []string{job.ID}, Parties: b.Parties, KnowableMs: s.ms(from + flagAfter), Required: true, Note: "training on a rental declared otherwise"})
	}
	if !b.InScope {
		return
	}
	at := func(m float64) float64 {
		if m < 1 {
			return 0
		}
		return cum[min(int(m)-1, len(cum)-1)]
	}
	for k := range s.Profiles {
		p := &s.Profiles[k]
		x := truthFinding{Profile: &p.Name, Accounts: accounts, Runs: []string{job.ID}, Parties: b.Parties}
		crossed := math.Inf(1)
		for m := range cum {
			if cum[m] > p.Limit {
				crossed = float64(m + 1)
				break
			}
		}
		total := f.acts[j].model
		if near := total / p.Limit; near > 0.8 {
			y := x
			y.Limb, y.KnowableMs, y.Required, y.Note = "actual", s.ms(math.Min(crossed, s.Minutes)), crossed <= s.Minutes, "crossed"
			y.Marginal = near < 1.25
			add(y)
		}
		best, bestAt := 0.0, -1.0
		until := math.Min(last, crossed)
		if crossed < from+15 { // what crosses sooner is projected once it is old enough
			until = last
		}
		for m := from + 15; m <= until; m++ {
			end := 0.0
			for _, v := range s.versions(m) {
				if slices.Contains(accounts, v.Account) && (v.Part == f.partOf(job) || v.Model == "-") && f.worked(job, v.Account, m) {
					end = math.Max(end, v.To)
				}
			}
			since := math.Max(m-60, from)
			rate := (at(m) - at(since)) / (m - since)
			value := at(m) + rate*math.Max(0, end-m)
			best = math.Max(best, value)
			if bestAt < 0 && value >= 1.3*p.Limit {
				bestAt = m
			}
		}
		if ratio := best / (1.3 * p.Limit); ratio > 0.75 {
			y := x
			y.Limb, y.Required, y.Marginal, y.Note = "projected", bestAt >= 0, ratio < 1.3, "projected"
			y.KnowableMs = s.ms(math.Max(bestAt, from+15))
			add(y)
		}
	}
}

func (f *fleet) worked(job *Job, account string, minute float64) bool {
	for _, a := range job.Attempts {
		if (a.Account == account || slices.Contains(job.Accounts, account)) && a.From <= minute {
			return true
		}
	}
	return false
}

func (f *fleet) partOf(job *Job) string {
	return f.nodes[f.at[job.Attempts[0].Seats[0].Node]].spec.Part
}

// versions are the orders as they stand at a minute.
func (s *Scenario) versions(minute float64) []Order {
	last := map[string]int{}
	var ids []string
	for i, o := range s.Orders {
		if o.Amended > minute {
			continue
		}
		if k, ok := last[o.ID]; !ok {
			ids = append(ids, o.ID)
			last[o.ID] = i
		} else if s.Orders[k].Amended <= o.Amended {
			last[o.ID] = i
		}
	}
	var out []Order
	for _, id := range ids {
		out = append(out, s.Orders[last[id]])
	}
	return out
}

// reach is what an order can reach at a share of the peak from its amendment on.
func reach(o *Order, share float64) float64 {
	p := parts[o.Part]
	if o.Model == "-" {
		return 0
	}
	return float64(o.GPUs) * p.Peak16() * share * 60 * math.Max(0, o.To-math.Max(o.From, o.Amended))
}

func (f *fleet) onOrders(add func(truthFinding)) {
	s := f.s
	byID := map[string][]Order{}
	var ids []string
	for _, o := range s.Orders {
		if _, ok := byID[o.ID]; !ok {
			ids = append(ids, o.ID)
		}
		byID[o.ID] = append(byID[o.ID], o)
	}
	for _, id := range ids {
		list := byID[id]
		slices.SortStableFunc(list, func(a, b Order) int { return cmp.Compare(a.Amended, b.Amended) })
		b := s.behind([]string{list[0].Account})
		if !b.InScope {
			continue
		}
		for k := range s.Profiles {
			p := &s.Profiles[k]
			x := truthFinding{Profile: &p.Name, Accounts: []string{list[0].Account}, Orders: []string{id}, Parties: b.Parties, Limb: "capacity"}
			done, changed, optional := false, false, false
			for v := range list {
				o := &list[v]
				// A version counts while it holds; those before the recording count at its start.
				if o.Amended > s.Minutes || (v+1 < len(list) && list[v+1].Amended <= 0) {
					continue
				}
				sure, possible := !excludes(o.Use) && reach(o, 0.3) >= p.Limit, !excludes(o.Use) && reach(o, 1) >= p.Limit
				known := s.ms(math.Max(o.Amended, 0))
				if sure && !done {
					y := x
					y.KnowableMs, y.Required, y.Note = known, true, "could result"
					add(y)
					done = true
				} else if possible && !done && !optional {
					y := x
					y.KnowableMs, y.Note = known, "only at full peak"
					optional = true
					defer add(y)
				}
				if v > 0 && o.Amended > 0 && !changed && possible {
					q := &list[v-1]
					if before := !excludes(q.Use) && reach(q, 1) >= p.Limit; !before {
						y := x
						y.Limb, y.KnowableMs, y.Required, y.Note = "changed_arrangement", known, sure, "amendment"
						add(y)
						changed = true
					}
				}
			}
		}
	}
}

func (f *fleet) onClusters(add func(truthFinding)) {
	s := f.s
	for k := range s.Profiles {
		p := &s.Profiles[k]
		if p.OpsS <= 0 || s.Noise.NoRentals {
			continue
		}
		var accounts []string
		for _, r := range s.Rentals {
			if !slices.Contains(accounts, r.Account) {
				accounts = append(accounts, r.Account)
			}
		}
		for _, a := range accounts {
			b := s.behind([]string{a})
			if !b.InScope {
				continue
			}
			for m := 0.0; m < s.Minutes; m++ {
				held := map[string]float64{}
				for _, r := range s.Rentals {
					n := f.nodes[f.at[r.Seat.Node]]
					gbps := n.spec.Gbps
					if gbps == 0 {
						gbps = 1600
					}
					if r.Account == a && r.From <= m && (r.To == 0 || r.To > m) && gbps > p.Gbps && !n.spec.Unlisted {
						held[n.spec.Site] += n.part.Peak16() * float64(len(r.Seat.GPUs))
					}
				}
				most := 0.0
				for _, v := range held {
					most = math.Max(most, v)
				}
				if most > p.OpsS {
					add(truthFinding{Profile: &p.Name, Limb: "cluster", Accounts: []string{a}, Parties: b.Parties, KnowableMs: s.ms(m), Required: true, Note: "held together"})
					break
				}
			}
		}
	}
}
