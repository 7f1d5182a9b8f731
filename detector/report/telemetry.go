package report

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// Thresholds of the telemetry limb. They are wide on purpose: a gap in a recording is
// common, tampering is rare, and the finding names a customer.
const (
	silenceMs = 10 * feature.MinuteMs // a node that reported is called silent from here on
	neverMs   = 15 * feature.MinuteMs // a node that never reported
	aliveMs   = 5 * feature.MinuteMs  // somebody else must have reported within this, for a silence
	outageMs  = 30 * feature.MinuteMs // a fleet of which nothing comes is dark from here on
	sustainMs = 10 * feature.MinuteMs // a contradiction must last this long
	coverMs   = 30_000                // time in a minute that a mean must rest on
	spanMs    = 5 * feature.MinuteMs  // widest step over which a counter is compared with a rate
	// tdpHighW and tdpLowW stand for a power limit that the inventory does not state, on
	// the side on which the check stays silent.
	tdpHighW, tdpLowW = 700, 300
	maxGPUs           = 16 // of a host whose number of GPUs is not stated
)

// Kinds of evidence of the telemetry limb.
const (
	kindSilence       = "silence"
	kindOutage        = "outage" // nothing of the whole fleet came
	kindContradiction = "contradiction"
	// kindAtWork is silence of GPUs while the host's meter, or its ports, show that they work.
	kindAtWork = "silence_at_work"
	// kindDark is one GPU that is not sampled while the others of its node are, and that draws power.
	kindDark = "dark_gpu_at_work"
	// kindCross is instruments of a run's GPUs that cannot both be right, as flops.CrossCheck says.
	kindCross = "cross_check"
)

// defect is one thing wrong with what a node reports.
type defect struct {
	Evidence
	knownMs int64
}

func (v *view) onTelemetry() {
	defects := slices.Concat(v.silences(), v.contradictions(), v.crossed(), v.darkAtWork())
	byAccount := map[string][]defect{}
	for _, d := range defects {
		for _, account := range v.holders(d.Evidence) {
			byAccount[account] = append(byAccount[account], d)
		}
	}
	for _, prev := range v.Prev {
		if prev.Limb == Telemetry && len(prev.Accounts) == 1 {
			if _, ok := byAccount[prev.Accounts[0]]; !ok {
				byAccount[prev.Accounts[0]] = nil
			}
		}
	}
	for account, found := range byAccount {
		knownMs := int64(math.MaxInt64)
		var lines []Evidence
		if prev, ok := v.Prev[ID("", Telemetry, account)]; ok {
			for _, e := range prev.Evidence {
				if v.stands(e) {
					lines = append(lines, e)
				}
			}
			if len(lines) > 0 {
				knownMs = prev.KnownAtMs
			}
		}
		for _, d := range found {
			knownMs = min(knownMs, max(d.knownMs, v.PrevAtMs))
			lines = extend(lines, d.Evidence)
		}
		if len(lines) == 0 {
			continue // late rows have filled what was missing
		}
		for i := range lines {
			if quiet(lines[i].Kind) {
				lines[i].Lost = strings.Join(v.lossesIn(lines[i]), ",")
			}
		}
		slices.SortFunc(lines, func(a, b Evidence) int {
			return cmp.Or(cmp.Compare(a.FromMs, b.FromMs), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Kind, b.Kind))
		})
		v.raise(Finding{
			Limb: Telemetry, Accounts: []string{account}, Parties: slices.Clone(v.resolve(account).Parties), State: Inquire, Severity: severityOf(lines),
			Explanation: telemetryText(account, lines), Evidence: lines,
		}, nil, account, nil, knownMs)
	}
}

// stands reports whether a line of an earlier judgement holds. What was measured against each other
// minute by minute stays; what a run's whole life shows is said anew while the run is judged.
func (v *view) stands(e Evidence) bool {
	switch e.Kind {
	case kindContradiction:
		return true
	case kindCross:
		return !v.judged(e)
	case kindDark:
		cells := v.Ev.CellsFrom(feature.GPUKey{Node: e.Node, GPU: *e.GPU}, e.FromMs)
		return !slices.ContainsFunc(cells, func(c feature.GPUCell) bool { return c.MinuteMs >= e.FromMs && c.EndMs() <= e.ToMs })
	}
	return v.stillSilent(e)
}

// severityOf: silence may be anything; work that goes on unseen, and instruments that contradict
// each other, are seldom an accident.
func severityOf(lines []Evidence) string {
	for _, e := range lines {
		if e.Kind == kindAtWork || e.Kind == kindDark || e.Kind == kindCross {
			return "medium"
		}
	}
	return "low"
}

// telemetryText is made from the evidence alone, so that it stays the same while the
// evidence does.
func telemetryText(account string, lines []Evidence) string {
	silent, working, dark, single, odd := 0, 0, 0, 0, 0
	var details []string
	nodes := map[string]bool{}
	lost, reasons := 0, map[string]bool{}
	for _, e := range lines {
		nodes[e.Node] = true
		if e.Lost != "" {
			lost++
			for r := range strings.SplitSeq(e.Lost, ",") {
				reasons[r] = true
			}
		}
		if e.Detail != "" && len(details) < 3 && !slices.Contains(details, e.Detail) {
			details = append(details, e.Detail)
		}
		switch e.Kind {
		case kindSilence:
			silent++
		case kindAtWork:
			working++
		case kindOutage:
			dark++
		case kindDark:
			single++
		default:
			odd++
		}
	}
	var what []string
	if silent > 0 {
		what = append(what, fmt.Sprintf("%d stretch(es) without a sample of the GPUs while others of the fleet, or the host's own meter, reported", silent))
	}
	if working > 0 {
		what = append(what, fmt.Sprintf("%d stretch(es) without a sample of the GPUs while the host's meter or ports show them at work", working))
	}
	if single > 0 {
		what = append(what, fmt.Sprintf("%d stretch(es) in which one GPU was not sampled, the others of its node were, and the host's meter shows it at work", single))
	}
	if dark > 0 {
		what = append(what, fmt.Sprintf("%d stretch(es) without a sample while nothing of the fleet came: what these GPUs did cannot be told", dark))
	}
	if odd > 0 {
		what = append(what, fmt.Sprintf("%d stretch(es) in which signals contradict each other (power against activity, counters against rates, GPUs against the host's meter)", odd))
	}
	text := fmt.Sprintf("On %d node(s) whose GPUs account %s held: %s. The account held the GPUs; that says nothing about who caused it.", len(nodes), account, strings.Join(what, "; "))
	if len(details) > 0 {
		text += " In numbers: " + strings.Join(details, "; ") + "."
	}
	if lost > 0 {
		var why []string
		for _, r := range slices.Sorted(maps.Keys(reasons)) {
			why = append(why, lossWord(r))
		}
		text += fmt.Sprintf(" In %d of these stretches samples are known to be lost: %s.", lost, strings.Join(why, "; "))
	}
	return text
}

// quiet reports whether a kind of evidence is the absence of samples.
func quiet(kind string) bool {
	return kind == kindSilence || kind == kindOutage || kind == kindAtWork
}

// extend adds a stretch, joining it with one of the same node and kind that it touches.
func extend(lines []Evidence, e Evidence) []Evidence {
	for i := range lines {
		l := &lines[i]
		if (l.Kind == e.Kind || (quiet(l.Kind) && quiet(e.Kind))) && l.Node == e.Node && sameGPU(l.GPU, e.GPU) && e.FromMs <= l.ToMs+feature.MinuteMs && l.FromMs <= e.ToMs+feature.MinuteMs {
			l.FromMs, l.ToMs = min(l.FromMs, e.FromMs), max(l.ToMs, e.ToMs)
			switch {
			case l.Kind == kindAtWork || e.Kind == kindAtWork:
				l.Kind = kindAtWork
			case l.Kind != e.Kind: // others reported in a part of it
				l.Kind = kindSilence
			}
			l.Detail = cmp.Or(e.Detail, l.Detail)
			return lines
		}
	}
	return append(lines, e)
}

func sameGPU(a, b *int) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }

// holders are the accounts that held GPUs of the node for at least half of a stretch, and
// for as long as it takes to call it one: rentals and samples seldom end in one minute.
func (v *view) holders(e Evidence) []string {
	var out []string
	for _, a := range v.allocsByNode[e.Node] {
		to := e.ToMs
		if a.EndMs != 0 {
			to = min(to, a.EndMs)
		}
		held := to - max(e.FromMs, a.StartMs)
		if a.Account != "" && len(a.GPUs) > 0 && (e.GPU == nil || slices.Contains(a.GPUs, *e.GPU)) && 2*held >= e.ToMs-e.FromMs && held >= min(silenceMs, sustainMs) {
			out = append(out, a.Account)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// sampled is a time over which something was sampled.
type sampled struct{ fromMs, toMs int64 }

// nodeMinutes are the times of a node in which a GPU, or where no GPU is ever seen the
// host, was sampled, by their starts.
func (v *view) nodeMinutes() map[string][]sampled {
	out := map[string][]sampled{}
	see := func(node string, fromMs, toMs int64) {
		list := out[node]
		if n := len(list); n > 0 && list[n-1] == (sampled{fromMs, toMs}) { // another GPU of the same minute
			return
		}
		out[node] = append(list, sampled{fromMs, toMs})
	}
	from := v.sinceMs()
	for _, k := range v.gpuKeys() {
		cells := v.Ev.CellsFrom(k, from)
		for i := range cells {
			see(k.Node, cells[i].MinuteMs, cells[i].EndMs())
		}
	}
	for node, cells := range v.Ev.Host {
		if _, ok := out[node]; ok {
			continue
		}
		first := max(0, sort.Search(len(cells), func(i int) bool { return cells[i].EndMs() > from })-1)
		for i := first; i < len(cells); i++ {
			see(node, cells[i].MinuteMs, cells[i].EndMs())
		}
	}
	for node, m := range out {
		slices.SortFunc(m, func(a, b sampled) int { return cmp.Or(cmp.Compare(a.fromMs, b.fromMs), cmp.Compare(a.toMs, b.toMs)) })
		m = slices.Compact(m)
		// Of the cells before the window the latest alone counts: those of a GPU that fell silent
		// long ago would make a gap of what the others of its node filled.
		latest, n := -1, 0
		for i := range m {
			if m[i].toMs <= from {
				n++
				if latest < 0 || m[i].toMs > m[latest].toMs {
					latest = i
				}
			}
		}
		if n > 1 {
			kept := m[latest]
			m = slices.DeleteFunc(m, func(c sampled) bool { return c.toMs <= from && c != kept })
		}
		out[node] = m
	}
	return out
}

// sinceMs is from when on cells are looked at: what lay well behind the last
// judgement was looked at then. One cell before is kept, so that a gap that
// reaches into it shows where it began.
func (v *view) sinceMs() int64 {
	if v.PrevAtMs == 0 {
		return -1 << 62
	}
	return v.PrevAtMs - aliveMs - 2*feature.MinuteMs
}

func (v *view) silences() []defect {
	minutes := v.nodeMinutes()
	seen := map[string]bool{}
	for _, k := range v.gpuKeys() {
		seen[k.Node] = true
	}
	nodes := make([]string, 0, len(v.Ev.Nodes))
	for node := range v.Ev.Nodes {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	var out []defect
	for _, node := range nodes {
		m := minutes[node]
		if len(m) == 0 || v.readable(node) && !seen[node] {
			if d, ok := v.never(node, minutes); ok {
				out = append(out, d)
			}
			continue
		}
		from := m[0].toMs
		for i := range m {
			from = max(from, m[i].toMs)
			to := v.AtMs
			if i+1 < len(m) {
				to = m[i+1].fromMs
			}
			if to-from < silenceMs {
				continue
			}
			kind, wait := kindSilence, max(silenceMs, 4*v.spacing(node))
			if !v.alive(minutes, node, from, to) {
				kind, wait = kindOutage, max(outageMs, wait)
			}
			if to-from < wait {
				continue
			}
			detail := ""
			if kind == kindSilence {
				if detail = v.workedOn(node, from, to); detail != "" {
					kind = kindAtWork
				}
			}
			out = append(out, defect{
				Evidence: Evidence{Kind: kind, Node: node, FromMs: from, ToMs: to, Strength: "derived", Detail: detail},
				knownMs:  from + wait,
			})
		}
	}
	return out
}

// readable reports whether the provider says that a node's GPUs can be read on the host: then
// what its host tells of itself does not stand for them.
func (v *view) readable(node string) bool { return v.Ev.Nodes[node].Vantage == "host" }

// never: a node of the inventory with rented GPUs of which no row came; of the host neither,
// unless the GPUs can be read there. No data is a finding, whoever else reports: it is never
// a healthy state.
func (v *view) never(node string, minutes map[string][]sampled) (defect, bool) {
	n := v.Ev.Nodes[node]
	if !n.Listed || n.GPUCount == 0 || len(v.Ev.Host[node]) > 0 && !v.readable(node) {
		return defect{}, false
	}
	for _, a := range v.allocsByNode[node] {
		from := max(a.StartMs, v.StartMs)
		kind, wait := kindSilence, int64(neverMs)
		if !v.alive(minutes, node, v.AtMs-aliveMs, v.AtMs) {
			kind, wait = kindOutage, outageMs
		}
		if a.EndMs != 0 || v.AtMs-from < wait {
			continue
		}
		return defect{
			Evidence: Evidence{Kind: kind, Node: node, FromMs: from, ToMs: v.AtMs, Strength: "derived"},
			knownMs:  from + wait,
		}, true
	}
	return defect{}, false
}

// spacing is the middle distance between a node's latest samples, in whole minutes, over
// all its GPUs, or its host where no GPU is seen: coarse sampling is not silence. Cells of old time, which are
// wider than a minute, do not tell.
func (v *view) spacing(node string) int64 {
	const latest = 20
	var d []int64
	add := func(n int, minute func(int) (fromMs, toMs int64)) {
		for i := max(1, n-latest); i < n; i++ {
			before, _ := minute(i - 1)
			if from, to := minute(i); to-from <= feature.MinuteMs {
				d = append(d, from-before)
			}
		}
	}
	for gpu := range max(v.Ev.Nodes[node].GPUCount, maxGPUs) {
		cells := v.Ev.Cells(feature.GPUKey{Node: node, GPU: gpu})
		add(len(cells), func(i int) (int64, int64) { return cells[i].MinuteMs, cells[i].EndMs() })
	}
	if len(d) == 0 {
		cells := v.Ev.Host[node]
		add(len(cells), func(i int) (int64, int64) { return cells[i].MinuteMs, cells[i].EndMs() })
	}
	if len(d) == 0 {
		return feature.MinuteMs
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// alive reports whether the rest of the fleet, or another source of the same node, was
// sampled near the end of a stretch: else the path to us was down, not the agent.
func (v *view) alive(minutes map[string][]sampled, node string, from, to int64) bool {
	from = max(from, to-aliveMs)
	// A minute counts that begins in the stretch: of a wider time its last one does.
	in := func(n int, at func(int) sampled) bool {
		i := sort.Search(n, func(i int) bool { return at(i).toMs-feature.MinuteMs >= from })
		return i < n && at(i).fromMs < to
	}
	host := v.Ev.Host[node]
	if in(len(host), func(i int) sampled { return sampled{host[i].MinuteMs, host[i].EndMs()} }) {
		return true
	}
	for other, m := range minutes {
		if other != node && in(len(m), func(i int) sampled { return m[i] }) {
			return true
		}
	}
	return false
}

// stillSilent reports whether a stretch is still empty: late rows may have filled it.
func (v *view) stillSilent(e Evidence) bool {
	inside := func(n int, at func(int) sampled) bool {
		i := sort.Search(n, func(i int) bool { return at(i).toMs-feature.MinuteMs >= e.FromMs })
		return i < n && at(i).fromMs+feature.MinuteMs <= e.ToMs
	}
	hasGPU := false
	for gpu := range max(v.Ev.Nodes[e.Node].GPUCount, maxGPUs) {
		k := feature.GPUKey{Node: e.Node, GPU: gpu}
		cells := v.Ev.CellsFrom(k, e.FromMs)
		hasGPU = hasGPU || v.Ev.HasGPU(k)
		if inside(len(cells), func(i int) sampled { return sampled{cells[i].MinuteMs, cells[i].EndMs()} }) {
			return false
		}
	}
	host := v.Ev.Host[e.Node]
	return hasGPU || v.readable(e.Node) || !inside(len(host), func(i int) sampled { return sampled{host[i].MinuteMs, host[i].EndMs()} })
}
