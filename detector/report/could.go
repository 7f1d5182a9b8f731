package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/forecast"
	"github.com/flopwatch/flopwatch/detector/threshold"
)

// z10 is the standard normal deviate that one in ten exceeds.
const z10 = 1.2815515655446004

// yearMs is the term that is assumed of an order of which no end is stated.
const yearMs = 365 * dayMs

// offer is an order as it stands, with what was assumed where it says too little.
type offer struct {
	o       feature.Order
	peak    float64 // operations per second of all its GPUs, as the profile counts them
	logSD   float64 // of a peak that was assumed
	fromMs  int64
	toMs    int64
	missing []string
	asks    []string
}

// flop is what it could compute from fromMs on, at its peak.
func (f *offer) flop() float64 { return f.peak * float64(max(0, f.toMs-f.fromMs)) / 1000 }

// offerAt fills in what an order does not state: the fleet's number of such GPUs, a year, a part
// like others. False: it excludes training, or nothing can be assumed.
func (v *view) offerAt(p *Profile, versions []feature.Order, atMs int64) (offer, bool) {
	o, ok := versionAt(versions, atMs)
	if !ok || excludesTraining(o.DeclaredUse) {
		return offer{}, false
	}
	f := offer{o: o, fromMs: max(o.StartMs, o.AmendedMs), toMs: o.EndMs}
	peak, known := v.Peak16(o.GPUModel)
	if peak <= 0 {
		return offer{}, false
	}
	note := func(missing, ask string) {
		f.missing, f.asks = append(f.missing, missing), append(f.asks, ask)
	}
	if !known {
		f.logSD = assumedLogSD
		note("the part is not in the table of accelerators: its peak was assumed", "the GPU model and its dense 16-bit peak")
	}
	count := o.GPUCount
	if count < 0 {
		count = v.fleetGPUs(o.GPUModel)
		note(fmt.Sprintf("the number of GPUs is not stated: the fleet's %d were assumed", count), "the number of GPUs")
	}
	if o.EndMs == 0 {
		f.toMs = f.fromMs + yearMs
		note("no end is stated: a year was assumed", "the term of the order")
	}
	if p.Counting.Sparsity == threshold.Sparse {
		peak *= 2
	}
	f.peak = peak * float64(count)
	if p.JoinCluster && p.Cluster != nil {
		switch {
		case !stated(o.FabricGbps):
			note("the network between the GPUs is not stated", "the speed of the back-end network")
		case !(o.FabricGbps > p.Cluster.Gbps):
			return offer{}, false
		}
		if !(f.peak*math.Exp(z90*f.logSD) > p.Cluster.OpsPerS) {
			return offer{}, false
		}
	}
	return f, f.flop() > 0
}

// fleetGPUs is how many GPUs of a model the inventory has; of all where none is named.
func (v *view) fleetGPUs(model string) int {
	n := 0
	for _, node := range v.Ev.Nodes { // a sum of integers
		if model == "" || normal(node.GPUModel) == normal(model) {
			n += max(node.GPUCount, 0)
		}
	}
	return n
}

// plausible is the probability that a training uses at least so much of the peak.
func (p *Profile) plausible(utilization, logSD float64) float64 {
	q := &p.Projection
	up, down := math.Log(q.UtilizationHigh/q.Utilization)/z10, math.Log(q.Utilization/q.UtilizationLow)/z10
	x := math.Log(utilization / q.Utilization)
	sd := math.Hypot(up, logSD)
	if x < 0 {
		sd = math.Hypot(down, logSD)
	}
	if sd <= 0 {
		if x <= 0 {
			return 1
		}
		return 0
	}
	return 0.5 * math.Erfc(x/sd/math.Sqrt2)
}

// askOrders asks about orders that no finding names: those that reach a limit at a higher
// utilisation than the profile counts with, those that say too little to tell, and those of one
// party that reach it together alone.
func (v *view) askOrders() {
	for i := range v.Profiles {
		p := &v.Profiles[i]
		if p.LimitFLOP <= 0 {
			continue
		}
		for _, id := range v.orderIDs {
			v.askOrder(p, id)
		}
		v.askParties(p)
	}
}

func (v *view) askOrder(p *Profile, id string) {
	if _, met := v.out[ID(p.Name, Capacity, id)]; met {
		return
	}
	if _, met := v.Prev[ID(p.Name, Capacity, id)]; met {
		return
	}
	f, ok := v.offerAt(p, v.orders[id], v.AtMs)
	if !ok || f.toMs <= max(v.StartMs, f.fromMs) || f.toMs <= v.AtMs {
		return
	}
	who := v.behind(accountList(f.o.Account))
	if !who.inScope {
		return
	}
	limit, why := p.limitFor(accountList(f.o.Account))
	prob := p.plausible(limit/f.flop(), f.logSD)
	if prob < p.Inquire {
		return
	}
	text := fmt.Sprintf("Order %s could result in a run beyond the limit of %s FLOP if %.2g of its %s was used, where %.3g is counted with and one training in ten reaches %.3g. Declared use: %s.",
		id, flop(limit), limit/f.flop(), p.peakWords(), p.Projection.Utilization, p.Projection.UtilizationHigh, quoted(f.o.DeclaredUse))
	if len(f.missing) > 0 {
		text += " " + sentence(strings.Join(f.missing, "; ")) + "."
	}
	offers := []offer{f}
	v.ask(p, inquiry{
		subject: Capacity + ":" + id, kind: Capacity, orders: []string{id}, accounts: accountList(f.o.Account), parties: who.parties, probability: prob,
		knownMs: max(f.o.AmendedMs, v.StartMs), crossing: p.crossing(offers, limit), text: text + why,
		asks:     append(f.asks, "what the capacity is for"),
		evidence: []Evidence{{Kind: "order", FromMs: f.fromMs, ToMs: f.o.EndMs, Strength: "declared"}},
	})
}

// askParties asks where orders of one party, over all accounts that it stands behind, reach the
// limit together and none of them does alone: when that could be, at plausible utilisation. It is
// asked anew with each amendment.
func (v *view) askParties(p *Profile) {
	var accounts []string
	for _, id := range v.orderIDs {
		for _, o := range v.orders[id] {
			if o.Account != "" {
				accounts = append(accounts, o.Account)
			}
		}
	}
	slices.Sort(accounts)
	var asked []holder
	for _, h := range v.holdings(slices.Compact(accounts), false) {
		if within(asked, h) {
			continue
		}
		limit, why := p.limitFor(h.accounts)
		offers, total, logSD := v.offers(p, h, v.AtMs)
		if len(offers) < 2 || v.hasCapacity(p, offers) {
			continue
		}
		prob := p.plausible(limit/total, logSD)
		if prob < 0.5 { // that orders are used together is a question of its own
			continue
		}
		asked = append(asked, h)
		ids := make([]string, len(offers))
		var times []int64
		for i := range offers {
			ids[i] = offers[i].o.Order
			for _, o := range v.orders[ids[i]] {
				times = append(times, o.AmendedMs)
			}
		}
		slices.Sort(times)
		known, changed := v.AtMs, false
		for k, at := range times { // the first amendment with which they reached it
			if _, then, sd := v.offers(p, h, at); then > 0 && p.plausible(limit/then, sd) >= 0.5 {
				known, changed = at, k > 0 && at > v.StartMs
				break
			}
		}
		text := fmt.Sprintf("%d orders (%s) of %s reach the limit of %s FLOP together and none alone: %s FLOP at %.3g of their %s, %s at full peak.",
			len(offers), list(ids), h.of(), flop(limit), rough(p.Projection.Utilization*total), p.Projection.Utilization, p.peakWords(), rough(total))
		if changed {
			text += fmt.Sprintf(" The amendment of %s made it so.", utc(known))
		}
		crossing := p.crossing(offers, limit)
		if crossing != nil && crossing.P50 != nil {
			text += fmt.Sprintf(" Used together from their start, they would cross it about %s.", utc(*crossing.P50))
		}
		asks := []string{"whether the orders serve one training", "what each of them is for"}
		for i := range offers {
			asks = append(asks, offers[i].asks...)
		}
		slices.Sort(asks[2:])
		v.ask(p, inquiry{
			subject: "party_capacity:" + h.id(), kind: "party_capacity", orders: ids, accounts: h.accounts, probability: prob, knownMs: max(known, v.StartMs), crossing: crossing,
			text: text + why, asks: slices.Compact(asks),
		})
	}
}

// offers are the orders of a holder's accounts that may be used for training at a moment, and what
// they could compute together at their peak.
func (v *view) offers(p *Profile, h holder, atMs int64) (out []offer, total, logSD float64) {
	var spread float64
	for _, id := range v.orderIDs {
		f, ok := v.offerAt(p, v.orders[id], atMs)
		if !ok || !slices.Contains(h.accounts, f.o.Account) || f.toMs <= atMs || f.toMs <= v.StartMs {
			continue
		}
		out = append(out, f)
		total += f.flop()
		spread += f.flop() * f.logSD
	}
	if total > 0 {
		logSD = spread / total
	}
	return out, total, logSD
}

func (v *view) hasCapacity(p *Profile, offers []offer) bool {
	return slices.ContainsFunc(offers, func(f offer) bool {
		id := ID(p.Name, Capacity, f.o.Order)
		_, now := v.out[id]
		_, before := v.Prev[id]
		return now || before
	})
}

// crossing is when the offers, used from their start on, would have done the limit's FLOP, at the
// utilisation that one training in ten exceeds, at the middle, and at that which nine exceed.
func (p *Profile) crossing(offers []offer, limit float64) *forecast.Crossing {
	q := &p.Projection
	at := func(utilization float64) *int64 {
		type change struct {
			ms   int64
			rate float64 // FLOP per millisecond
		}
		var changes []change
		for i := range offers {
			r := offers[i].peak * utilization / 1000
			changes = append(changes, change{offers[i].fromMs, r}, change{offers[i].toMs, -r})
		}
		slices.SortFunc(changes, func(a, b change) int { return cmp.Or(cmp.Compare(a.ms, b.ms), cmp.Compare(a.rate, b.rate)) })
		done, rate := 0.0, 0.0
		for i, c := range changes {
			if i > 0 {
				add := rate * float64(c.ms-changes[i-1].ms)
				if rate > 0 && done+add >= limit {
					ms := changes[i-1].ms + int64(math.Ceil((limit-done)/rate))
					return &ms
				}
				done += add
			}
			rate += c.rate
		}
		return nil
	}
	return &forecast.Crossing{P10: at(q.UtilizationHigh), P50: at(q.Utilization), P90: at(q.UtilizationLow)}
}

func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
