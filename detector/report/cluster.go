package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// holding is what one account held in one site when the cluster limb was first met.
type holding struct {
	site    string
	sinceMs int64
	peak    float64 // FLOP/s, dense 16-bit
	gpus    int
	nodes   []string
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
			h, ok := v.cluster(p.Cluster, account)
			if !ok {
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
			f.Explanation = fmt.Sprintf("Account %s holds %d GPUs in %s on nodes with a back-end network of more than %g Gbit/s; their dense 16-bit peaks add up to %s operations per second, more than %s.",
				account, h.gpus, site, p.Cluster.Gbps, flop(h.peak), flop(p.Cluster.OpsPerS))
			v.raise(f, p, account, nil, h.sinceMs)
		}
	}
}

func (v *view) anyCluster(p *Profile, accounts []string) bool {
	if p.Cluster == nil {
		return true
	}
	for _, a := range accounts {
		if _, ok := v.cluster(p.Cluster, a); ok {
			return true
		}
	}
	return false
}

// cluster walks through the account's rentals in time and stops where the peaks of what
// it holds at once in one site first exceed the limb. GPUs rented twice count once; a
// node whose network or GPU model is not stated does not count.
func (v *view) cluster(limb *ClusterLimb, account string) (holding, bool) {
	type change struct {
		atMs  int64
		open  bool
		alloc *feature.Allocation
	}
	var changes []change
	for i := range v.Ev.Allocations {
		a := &v.Ev.Allocations[i]
		if a.Account != account || a.StartMs > v.AtMs || (a.EndMs != 0 && a.EndMs <= v.StartMs) {
			continue
		}
		if n := v.Ev.Nodes[a.Node]; !(n.FabricGbps > limb.Gbps) {
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
		n := v.Ev.Nodes[c.alloc.Node]
		if held[n.Site] == nil {
			held[n.Site] = map[feature.GPUKey]int{}
		}
		for _, gpu := range c.alloc.GPUs {
			key := feature.GPUKey{Node: c.alloc.Node, GPU: gpu}
			if c.open {
				held[n.Site][key]++
			} else if held[n.Site][key]--; held[n.Site][key] == 0 {
				delete(held[n.Site], key)
			}
		}
		if !c.open {
			continue
		}
		if h := v.sum(held[n.Site]); h.peak > limb.OpsPerS {
			h.site, h.sinceMs = n.Site, c.atMs
			return h, true
		}
	}
	return holding{}, false
}

func (v *view) sum(held map[feature.GPUKey]int) holding {
	var h holding
	byModel := map[string]int{}
	for key := range held {
		model := v.Ev.Nodes[key.Node].GPUModel
		if _, ok := v.Peak16(model); !ok {
			continue
		}
		byModel[model]++
		h.gpus++
		h.nodes = append(h.nodes, key.Node)
	}
	models := make([]string, 0, len(byModel))
	for model := range byModel {
		models = append(models, model)
	}
	slices.SortFunc(models, strings.Compare)
	for _, model := range models {
		peak, _ := v.Peak16(model)
		h.peak += peak * float64(byModel[model])
	}
	slices.Sort(h.nodes)
	h.nodes = slices.Compact(h.nodes)
	return h
}
