package threshold

import (
	"cmp"
	"math"
	"slices"

	"github.com/flopwatch/flopwatch/detector/flops"
)

const z90 = 1.6448536269514722

// ProbabilityExceeds returns the probability that the quantity is greater than the
// limit, for a quantity whose logarithm is normal on either side of its best value: 0.5
// at the best value, 0.95 at the low and 0.05 at the high end. A lower end of 0 leaves
// the lower side as wide as its middle allows.
func ProbabilityExceeds(est flops.Interval, limit float64) float64 {
	switch {
	case limit <= 0:
		if est.Best > 0 {
			return 1
		}
		return 0
	case !(est.High > 0):
		return 0
	case !(est.Best > 0): // nothing is the best value: the high end is the 95 % point of what remains
		return 0.05 * min(1, est.High/limit)
	}
	if limit >= est.Best {
		if !(est.High > est.Best) {
			return step(est.Best > limit)
		}
		return normalTail(math.Log(limit/est.Best) * z90 / math.Log(est.High/est.Best))
	}
	if est.Low <= 0 { // linear from 1 at nothing to 0.5 at the best value
		return 1 - 0.5*limit/est.Best
	}
	if !(est.Low < est.Best) {
		return 1
	}
	return normalTail(-math.Log(est.Best/limit) * z90 / math.Log(est.Best/est.Low))
}

func step(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func normalTail(z float64) float64 { return 0.5 * math.Erfc(z/math.Sqrt2) }

// InForceAt reports whether the rule was law at the moment.
func (p *Profile) InForceAt(ms int64) bool {
	switch p.Status {
	case InForce, Enacted, Revoked:
	default:
		return false
	}
	from, fromErr := dateMs(p.ValidFrom)
	to, toErr := dateMs(p.ValidTo)
	if fromErr != nil || toErr != nil {
		return false
	}
	return ms >= from && (p.ValidTo == "" || ms < to)
}

// Deadline says when something is due, or would be if the rule were in force and bound
// the operator. At most one of the two is set.
type Deadline struct {
	DueAtMs, WouldBeDueAtMs *int64
	Basis                   string // in_force, proposed, custom; empty: the rule has no deadline
}

// Due returns the deadline of something known at the moment.
func (p *Profile) Due(knownAtMs int64) Deadline {
	if p.DeadlineDays <= 0 {
		return Deadline{}
	}
	at := knownAtMs + int64(p.DeadlineDays*24*3600*1000)
	switch {
	case p.Status == Custom:
		return Deadline{WouldBeDueAtMs: &at, Basis: Custom}
	case p.InForceAt(knownAtMs) && p.BindsOperator:
		return Deadline{DueAtMs: &at, Basis: InForce}
	case p.InForceAt(knownAtMs):
		return Deadline{WouldBeDueAtMs: &at, Basis: InForce}
	}
	return Deadline{WouldBeDueAtMs: &at, Basis: Proposed}
}

// Held is GPUs of one node that an account holds.
type Held struct {
	Account, Site, Node string
	GPUs                int
	FabricGbps          float64 // NaN: not stated
	PeakFLOPs           float64 // dense 16-bit peak of one GPU, FLOP/s
}

// Capacity is what an account holds on fast networks in one site.
type Capacity struct {
	Account, Site  string
	GPUs           int
	Nodes          []string
	OpsPerS        float64 // of nodes whose network is faster than the limb's
	UnknownOpsPerS float64 // of nodes whose network is not stated, in addition
	Met            bool
	Possible       bool // met if the unstated networks were fast
}

// Capacities compares what accounts hold with a cluster limb: one row an account and
// site (an account alone where the limb does not ask for one site), sorted.
func Capacities(limb Cluster, held []Held) []Capacity {
	rows := slices.Clone(held)
	if !limb.Colocated {
		for i := range rows {
			rows[i].Site = ""
		}
	}
	slices.SortStableFunc(rows, func(a, b Held) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Site, b.Site), cmp.Compare(a.Node, b.Node),
			cmp.Compare(a.GPUs, b.GPUs), cmp.Compare(a.PeakFLOPs, b.PeakFLOPs))
	})
	var out []Capacity
	for i := range rows {
		r := &rows[i]
		if i == 0 || rows[i-1].Account != r.Account || rows[i-1].Site != r.Site {
			out = append(out, Capacity{Account: r.Account, Site: r.Site})
		}
		c := &out[len(out)-1]
		ops := float64(r.GPUs) * r.PeakFLOPs
		switch {
		case math.IsNaN(r.FabricGbps):
			c.UnknownOpsPerS += ops
		case r.FabricGbps > limb.Gbps:
			c.OpsPerS += ops
			c.GPUs += r.GPUs
			if len(c.Nodes) == 0 || c.Nodes[len(c.Nodes)-1] != r.Node {
				c.Nodes = append(c.Nodes, r.Node)
			}
		}
	}
	for i := range out {
		out[i].Met = out[i].OpsPerS > limb.OpsPerS
		out[i].Possible = out[i].OpsPerS+out[i].UnknownOpsPerS > limb.OpsPerS
	}
	return out
}

// ClusterMet reports whether one account's GPUs in one site meet the limb, and their
// peaks together.
func ClusterMet(limb Cluster, held []Held) (met bool, opsPerS float64) {
	for _, c := range Capacities(limb, held) {
		met = met || c.Met
		opsPerS = max(opsPerS, c.OpsPerS)
	}
	return met, opsPerS
}
