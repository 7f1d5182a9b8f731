package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
	"github.com/flopwatch/flopwatch/detector/threshold"
)

// holding is what one account held in one site when the cluster limb was first met.
type holding struct {
	site    string
	sinceMs int64
	gpus    int // of known parts on networks that are stated
	nodes   []string
	// Peaks in operations per second: of those GPUs; of known parts on networks that are not stated;
	// of parts that are not known; of all, as the limb counts them; and at the most that its words
	// may mean.
	stated, sure, assumed, peak, most float64
	noGbps, noPart                    []string // nodes
}

func (v *view) onClusters() {
	for i := range v.Profiles {
		p := &v.Profiles[i]
		if p.Cluster == nil || p.JoinCluster {
			continue
		}
		for _, account := range v.accounts {
			who := v.behind([]string{account})
			if !who.inScope {
				continue
			}
			h, ok := v.cluster(p.Cluster, account, false)
			if !ok {
				v.askCluster(p, account)
				continue
			}
			f := Finding{Limb: Cluster, Accounts: []string{account}, Parties: who.parties, Severity: "high"}
			for _, node := range h.nodes {
				f.Evidence = append(f.Evidence, Evidence{Kind: "allocation", Node: node, FromMs: h.sinceMs, ToMs: h.sinceMs, Strength: "declared"})
			}
			site := "site " + h.site
			if h.site == "" {
				site, f.State = "a site that the inventory does not state", Inquire
			}
			if p.Cluster.Anywhere {
				site, f.State = "all sites together", ""
			}
			f.Explanation = fmt.Sprintf("Account %s holds %d GPUs in %s on nodes with a back-end network of more than %g Gbit/s; their %s peaks add up to %s operations per second, more than %s.",
				account, h.gpus, site, p.Cluster.Gbps, p.Cluster.peak(), flop(h.stated), flop(p.Cluster.OpsPerS))
			v.raise(f, p, account, nil, h.sinceMs)
		}
	}
}

// peak says which peaks are added up.
func (c *ClusterLimb) peak() string {
	bits, how := "16-bit", "dense"
	if c.Precision == threshold.Bits8 {
		bits = "8-bit"
	}
	if c.Sparsity == threshold.Sparse {
		how = "sparse"
	}
	return how + " " + bits
}

// peakOf is a part's peak as the limb counts it, and the most that its words may mean; known is
// false where the part is not in the table and the peak is one to assume.
func (v *view) peakOf(c *ClusterLimb, model string) (peak, most float64, known bool) {
	peak, known = v.Peak16(model)
	most = peak
	wide := 2 * peak
	if v.Peak8 != nil {
		if p, ok := v.Peak8(model); ok && p > 0 {
			wide = p
		}
	}
	switch c.Precision {
	case threshold.Bits8:
		peak, most = wide, wide
	case threshold.NotStated:
		most = max(most, wide)
	}
	switch c.Sparsity {
	case threshold.Sparse:
		peak, most = 2*peak, 2*most
	case threshold.NotStated:
		most *= 2
	}
	return peak, most, known
}

// assumedLogSD is the spread of the logarithm of a peak that was assumed.
const assumedLogSD = 0.8

// askCluster asks where the limb would be met if what is not stated was as large as it may be: the
// network of nodes, parts that the table lacks, the precision and sparsity of the rule's own number.
func (v *view) askCluster(p *Profile, account string) {
	h, ok := v.cluster(p.Cluster, account, true)
	if !ok {
		return
	}
	prob := h.probability(p.Cluster.OpsPerS)
	if prob < p.Inquire {
		return
	}
	var missing, asks []string
	if n := len(h.noGbps); n > 0 {
		missing = append(missing, fmt.Sprintf("the back-end network of %d node(s) is not stated (%s)", n, list(h.noGbps)))
		asks = append(asks, "the speed of their back-end network")
	}
	if n := len(h.noPart); n > 0 {
		missing = append(missing, fmt.Sprintf("the part of %d node(s) is not in the table of accelerators, and its peak was assumed (%s)", n, list(h.noPart)))
		asks = append(asks, "their GPU model and its dense 16-bit peak")
	}
	if h.most > h.peak {
		missing = append(missing, "the rule does not say at which precision, or whether with sparsity, peaks count")
		asks = append(asks, "a reading of the rule on precision and sparsity")
	}
	if h.site == "" && !p.Cluster.Anywhere {
		missing = append(missing, "the site is not stated")
		asks = append(asks, "the nodes' site")
	}
	q := inquiry{
		subject: Cluster + ":" + account, kind: Cluster, accounts: []string{account}, probability: prob, knownMs: h.sinceMs, asks: asks,
		bounds: flops.Interval{Low: h.stated, Best: h.peak, High: max(h.most, h.peak)},
		text: fmt.Sprintf("Account %s may hold a cluster beyond the limb of %s operations per second on more than %g Gbit/s: %s. What is stated adds up to %s, with what is assumed %s, at the most %s.",
			account, flop(p.Cluster.OpsPerS), p.Cluster.Gbps, strings.Join(missing, "; "), rough(h.stated), rough(h.peak), rough(h.most)),
	}
	for _, node := range h.nodes {
		q.evidence = append(q.evidence, Evidence{Kind: "allocation", Node: node, FromMs: h.sinceMs, ToMs: h.sinceMs, Strength: "declared"})
	}
	v.ask(p, q)
}

// probability that the limb is met, as far as it hangs on what is not stated: an even chance for
// each thing that is either so or not, and the spread of peaks that were assumed.
func (h *holding) probability(opsPerS float64) float64 {
	prob := 1.0
	if len(h.noGbps) > 0 {
		prob *= 0.5
	}
	if h.stated+h.sure > opsPerS && len(h.noPart) == 0 {
		return prob
	}
	assumed := flops.Interval{Best: h.assumed, Low: h.assumed * math.Exp(-z90*assumedLogSD), High: h.assumed * math.Exp(z90*assumedLogSD)}
	over := 0.0
	switch rest := opsPerS - (h.peak - h.assumed); {
	case rest < 0:
		over = 1
	case h.assumed > 0:
		over = threshold.ProbabilityExceeds(assumed, rest)
	}
	if h.most > opsPerS { // as the rule may mean it
		over = max(over, 0.5)
	}
	return prob * over
}

// anyCluster reports whether one of the accounts holds such a cluster.
func (v *view) anyCluster(p *Profile, accounts []string) bool {
	return p.Cluster == nil || slices.ContainsFunc(accounts, func(a string) bool {
		_, ok := v.cluster(p.Cluster, a, false)
		return ok
	})
}

// mayCluster is the probability that one of them does, for all that is stated.
func (v *view) mayCluster(p *Profile, accounts []string) float64 {
	prob := 0.0
	for _, a := range accounts {
		if h, ok := v.cluster(p.Cluster, a, true); ok {
			prob = max(prob, h.probability(p.Cluster.OpsPerS))
		}
	}
	return prob
}

// cluster walks through the account's rentals in time and stops where the peaks of what
// it holds at once in one site first exceed the limb. GPUs rented twice count once. Every node must
// be on a network of the limb's speed itself: what is linked through a slower one does not join. A
// node whose network or GPU model is not stated counts where it is lenient alone, and so does the
// most that the limb's words may mean.
func (v *view) cluster(limb *ClusterLimb, account string, lenient bool) (holding, bool) {
	type change struct {
		atMs  int64
		open  bool
		alloc *feature.Allocation
	}
	var changes []change
	for _, i := range v.byAccount[account] {
		a := &v.Ev.Allocations[i]
		if a.EndMs != 0 && a.EndMs <= v.StartMs {
			continue
		}
		if n := v.Ev.Nodes[a.Node]; !(n.FabricGbps > limb.Gbps) && !(lenient && !stated(n.FabricGbps)) {
			continue
		}
		changes = append(changes, change{max(a.StartMs, v.StartMs), true, a})
		if a.EndMs != 0 && a.EndMs <= v.AtMs {
			changes = append(changes, change{a.EndMs, false, a})
		}
	}
	// Ends come before starts of the same moment.
	slices.SortStableFunc(changes, func(a, b change) int {
		if c := cmp.Compare(a.atMs, b.atMs); c != 0 || a.open == b.open {
			return c
		}
		if a.open {
			return 1
		}
		return -1
	})
	held := map[string]map[feature.GPUKey]int{} // by site
	for _, c := range changes {
		site := v.Ev.Nodes[c.alloc.Node].Site
		if limb.Anywhere {
			site = ""
		}
		if held[site] == nil {
			held[site] = map[feature.GPUKey]int{}
		}
		for _, gpu := range c.alloc.GPUs {
			key := feature.GPUKey{Node: c.alloc.Node, GPU: gpu}
			if c.open {
				held[site][key]++
			} else if held[site][key]--; held[site][key] == 0 {
				delete(held[site], key)
			}
		}
		if !c.open {
			continue
		}
		h := v.holding(limb, held[site])
		reached := h.stated
		if lenient {
			reached = max(h.most, h.stated+h.sure+h.assumed*math.Exp(z90*assumedLogSD))
		}
		if reached > limb.OpsPerS {
			h.site, h.sinceMs = site, c.atMs
			return h, true
		}
	}
	return holding{}, false
}

// stated reports whether the inventory says a number.
func stated(x float64) bool { return !math.IsNaN(x) && x > 0 }

// holding adds up peaks: of parts that the table knows on networks that are stated, and of the
// others.
func (v *view) holding(limb *ClusterLimb, held map[feature.GPUKey]int) holding {
	var h holding
	type kind struct {
		model string
		fast  bool // its network is stated
	}
	count := map[kind]int{}
	for key := range held { // sorted below
		n := v.Ev.Nodes[key.Node]
		k := kind{n.GPUModel, stated(n.FabricGbps)}
		count[k]++
		h.nodes = append(h.nodes, key.Node)
		if !k.fast {
			h.noGbps = append(h.noGbps, key.Node)
		}
		if _, ok := v.Peak16(n.GPUModel); !ok {
			h.noPart = append(h.noPart, key.Node)
		}
	}
	kinds := make([]kind, 0, len(count))
	for k := range count {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b kind) int {
		return cmp.Or(strings.Compare(a.model, b.model), cmp.Compare(bit(a.fast), bit(b.fast)))
	})
	for _, k := range kinds {
		n := float64(count[k])
		peak, most, known := v.peakOf(limb, k.model)
		h.peak += peak * n
		h.most += most * n
		switch {
		case !known:
			h.assumed += peak * n
		case k.fast:
			h.stated += peak * n
			h.gpus += count[k]
		default:
			h.sure += peak * n
		}
	}
	for _, s := range []*[]string{&h.nodes, &h.noGbps, &h.noPart} {
		slices.Sort(*s)
		*s = slices.Compact(*s)
	}
	return h
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
