package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/forecast"
	"github.com/flopwatch/flopwatch/detector/run"
	"github.com/flopwatch/flopwatch/detector/threshold"
	"github.com/flopwatch/flopwatch/detector/workload"
)

// inquiry is a condition that may be met, and what would settle it.
type inquiry struct {
	subject, kind                   string
	runs, orders, accounts, parties []string
	probability                     float64
	bounds                          flops.Interval // zeros: none
	crossing                        *forecast.Crossing
	knownMs                         int64 // 0: the judged moment
	text                            string
	asks                            []string
	evidence                        []Evidence
	severity                        string   // empty: info
	aliases                         []string // subjects under which it was asked before
}

// ask adds an inquiry. Its numbers are coarse, so that it is revised when something has changed.
func (v *view) ask(p *Profile, q inquiry) {
	f := Finding{
		Limb: Inquiry, Kind: q.kind, Runs: q.runs, Orders: q.orders, Accounts: q.accounts, Parties: q.parties, State: Inquire, Severity: "info",
		Explanation: q.text, Crossing: q.crossing, Asks: notNil(q.asks), Evidence: q.evidence,
	}
	if q.severity != "" {
		f.Severity = q.severity
	}
	if f.Parties == nil {
		f.Parties = v.behind(f.Accounts).parties
	}
	prob := min(max(math.Round(q.probability*20)/20, 0.05), 0.95)
	f.Probability = &prob
	f.Explanation += fmt.Sprintf(" Probability about %.2f.", prob)
	if q.bounds.High > 0 {
		f.Bounds = &flops.Interval{Low: coarse(q.bounds.Low), Best: coarse(q.bounds.Best), High: coarse(q.bounds.High)}
	}
	known := q.knownMs
	if known == 0 {
		known = v.AtMs
	}
	v.raise(f, p, q.subject, q.aliases, max(known, v.PrevAtMs))
}

// coarse keeps two significant digits.
func coarse(x float64) float64 {
	if x == 0 || math.IsNaN(x) {
		return 0
	}
	r, err := strconv.ParseFloat(strconv.FormatFloat(min(x, math.MaxFloat64), 'e', 1, 64), 64)
	if err != nil {
		return x
	}
	return r
}

// rough prints two significant digits.
func rough(x float64) string {
	if math.IsNaN(x) {
		return "not known"
	}
	return strings.Replace(strconv.FormatFloat(x, 'e', 1, 64), "e+", "e", 1)
}

// maxFLOPPerS is more than any accelerator does at training.
const maxFLOPPerS = 1e16

// reaches reports whether an activity's GPU-time could hold so many FLOP at all.
func (v *view) reaches(r *run.Run, need float64) bool {
	var ms int64
	for _, m := range r.Members {
		ms += m.EndMs - m.StartMs + feature.MinuteMs
	}
	return float64(ms)/1000*maxFLOPPerS >= need
}

// inquire asks about every activity that may have exceeded a limit, or may come to, and about which
// nothing is said yet: because of the interval, of the class, or of both.
func (v *view) inquire(runs []runView) {
	for i := range runs {
		v.inquireRun(&runs[i])
	}
	for i := range v.Runs {
		s := &v.Runs[i]
		if workload.IsRun(s.Run.Class) || s.Run.StartMs > v.AtMs || !v.mayMatter(s) {
			continue
		}
		maybe := *s
		if v.Estimate != nil {
			maybe.Est = v.Estimate(&s.Run, workload.Training)
		}
		r := v.runView(&maybe)
		v.inquireRun(&r)
	}
}

// mayMatter reports whether an activity that is judged to be no training may be one, and whether
// its GPU-time could hold the FLOP of some limit.
func (v *view) mayMatter(s *RunState) bool {
	for i := range v.Profiles {
		p := &v.Profiles[i]
		limit, _ := p.limitFor(s.Run.Accounts)
		if p.LimitFLOP > 0 && s.TrainingProb >= p.Inquire && v.reaches(&s.Run, limit) {
			return true
		}
		end, _ := v.mayGoOn(s)
		if p.LimitFLOP > 0 && s.TrainingProb >= p.Inquire && end > v.AtMs && s.Run.Open {
			return true
		}
	}
	return false
}

// mayGoOn is the latest end of the orders of an activity's accounts.
func (v *view) mayGoOn(s *RunState) (int64, []string) {
	r := runView{RunState: s, models: map[string]bool{}, joined: map[string]int64{}}
	for _, a := range s.Run.Accounts {
		r.joined[a] = s.Run.StartMs
	}
	return v.latestEnd(&r, v.AtMs)
}

func (v *view) inquireRun(r *runView) {
	if !r.behind.inScope || r.prob <= 0 {
		return
	}
	for k := range v.Profiles {
		p := &v.Profiles[k]
		c, ok := v.compare(r, p)
		if !ok || !(c.est.High > 0) {
			continue
		}
		if _, met := v.out[ID(p.Name, Actual, r.Run.ID)]; met {
			continue
		}
		_, projected := v.out[ID(p.Name, Projected, r.Run.ID)]
		missing := p.JoinCluster && !v.anyCluster(p, r.Run.Accounts)
		chance := 1.0
		if missing {
			chance = v.mayCluster(p, r.Run.Accounts)
		}
		if chance < p.Inquire {
			continue
		}
		now, coming := chance*c.exceeds(r.prob), 0.0
		done, rate := c.progress(p, v.AtMs)
		will := v.value(r, v.AtMs, done, rate)
		old := float64(v.AtMs-r.Run.StartMs) >= p.Projection.AfterMinutes*feature.MinuteMs
		if r.Run.Open && old && !projected && c.est.Best > 0 && will > c.est.Best {
			ratio := will / c.est.Best
			coming = chance * r.prob * threshold.ProbabilityExceeds(flops.Interval{Low: c.est.Low * ratio, Best: c.est.Best * ratio, High: c.est.High * ratio}, p.Projection.Margin*c.limit)
		}
		if now < p.Inquire && coming < p.Inquire || projected && r.Run.Open {
			continue // it is projected, and goes on: that says more
		}
		q := inquiry{
			subject: r.Run.ID, aliases: r.Run.Supersedes, kind: Actual, runs: []string{r.Run.ID}, accounts: slices.Clone(r.Run.Accounts), parties: slices.Clone(r.behind.parties),
			probability: now, bounds: c.est, asks: askFor([]*runView{r}), evidence: slices.Clone(r.nodes),
		}
		class := fmt.Sprintf("it is judged to be %s, and a training with probability %.1f", strings.ReplaceAll(r.Run.Class, "_", " "), r.prob)
		q.text = fmt.Sprintf("Run %s may have exceeded the limit of %s FLOP: best value %s, 90 %% interval %s to %s (%s basis); %s; signals cover %.0f %% of its GPU-time.",
			r.Run.ID, flop(c.limit), rough(c.est.Best), rough(c.est.Low), rough(c.est.High), c.basis(), class, 100*r.Est.CoverageFrac)
		if coming > now {
			q.kind, q.probability = Projected, coming
			end, _ := v.latestEnd(r, v.AtMs)
			q.text = fmt.Sprintf("Run %s may come to exceed the limit of %s FLOP: at its rate over the last %s it would reach %s FLOP by %s, the end of its orders; 90 %% interval of what it did so far %s to %s; %s.",
				r.Run.ID, flop(c.limit), span(p.Projection.WindowMinutes), rough(will), utc(end), rough(c.est.Low), rough(c.est.High), class)
		} else if at, over := c.crossing(c.asked(p, r.prob*chance)); over {
			q.knownMs = at
		}
		q.text += c.why
		if missing {
			q.text += " Whether the GPUs stand on a cluster as the profile wants it cannot be told: network speed, site or part of some nodes is not stated."
			q.asks = append([]string{"network speed, site and GPU model of the nodes"}, q.asks...)
		}
		v.ask(p, q)
	}
}

// asked is the best value from which on the probability is that of an inquiry.
func (c *comparison) asked(p *Profile, prob float64) float64 {
	x := threshold.Exceeded(c.est, min(p.Inquire/prob, 1))
	if !(x > 0) || math.IsInf(x, 0) {
		return c.limit
	}
	return c.limit * c.est.Best / x
}

// askFor names what would narrow the intervals of runs, and their classes.
func askFor(runs []*runView) []string {
	var out []string
	add := func(s string) {
		if s != "" && !slices.Contains(out, s) && len(out) < 4 {
			out = append(out, s)
		}
	}
	for _, r := range runs {
		if r.prob < 0.95 {
			add("what these GPUs were used for, by the customer or by job names and launch logs")
		}
		if r.Est.CoverageFrac < 0.9 {
			add("telemetry of the time that no signal covers")
		}
		for _, t := range r.Est.Terms[:min(len(r.Est.Terms), 2)] {
			add(t.Narrow)
		}
	}
	if len(out) == 0 {
		add("the customer's own figures: parameters, tokens and precision")
	}
	return out
}
