package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/threshold"
)

// excludesTraining reports whether a declared use excludes training. Anything else, and
// an empty one, does not.
func excludesTraining(use string) bool {
	switch normal(use) {
	case "rendering", "simulation", "hpc", "inference", "inference serving", "game streaming", "video transcoding":
		return true
	}
	return false
}

// normal lower-cases, trims, and makes one blank of any run of blanks, hyphens and
// underscores.
func normal(s string) string {
	return strings.Join(strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return r == ' ' || r == '\t' || r == '-' || r == '_' || r == '\n' || r == '\r'
	}), " ")
}

// versionAt is the version of an order that was in effect at a moment.
func versionAt(versions []feature.Order, atMs int64) (feature.Order, bool) {
	for _, o := range slices.Backward(versions) {
		if o.AmendedMs <= atMs {
			return o, true
		}
	}
	return feature.Order{}, false
}

// potential is what one version of an order could compute at its full dense peak.
type potential struct {
	flop     float64
	peak     float64 // FLOP/s of all its GPUs
	known    bool    // model and end were stated
	assumed  bool    // the model is named, and not known: its peak is that of a part like others
	excluded bool
	termMs   int64
}

// potential counts the term from the amendment on: an amended order counts what remains. Peaks are
// dense, of 16 bit.
func (v *view) potential(o *feature.Order) potential {
	pot := potential{excluded: excludesTraining(o.DeclaredUse)}
	peak, ok := v.Peak16(o.GPUModel)
	pot.assumed = !ok && peak > 0 && o.GPUModel != ""
	if !ok && !pot.assumed || o.EndMs == 0 {
		return pot
	}
	pot.known = ok
	pot.peak = peak * float64(max(o.GPUCount, 0))
	pot.termMs = max(0, o.EndMs-max(o.StartMs, o.AmendedMs))
	pot.flop = pot.peak * float64(pot.termMs) / 1000
	return pot
}

// couldResult: the order could result in a run that reaches the limit.
func (pot potential) couldResult(p *Profile, o *feature.Order) bool {
	return (pot.known || pot.assumed) && !pot.excluded && p.counted(pot) >= pot.limit(p, o) && pot.cluster(p, o)
}

// impossible: even at full peak, or by its declared use.
func (pot potential) impossible(p *Profile, o *feature.Order) bool {
	return pot.excluded || (pot.known && (p.atPeak(pot) < pot.limit(p, o) || !pot.cluster(p, o)))
}

// limit is what a training on the order would be compared with.
func (pot potential) limit(p *Profile, o *feature.Order) float64 {
	limit, _ := p.limitFor(accountList(o.Account))
	return limit
}

// atPeak is what the order could compute at its full peak, as the profile counts sparsity.
func (p *Profile) atPeak(pot potential) float64 {
	if p.Counting.Sparsity == threshold.Sparse {
		return 2 * pot.flop
	}
	return pot.flop
}

// counted is what it is counted with.
func (p *Profile) counted(pot potential) float64 { return p.Projection.Utilization * p.atPeak(pot) }

// peakWords names the peak that a profile counts.
func (p *Profile) peakWords() string {
	if p.Counting.Sparsity == threshold.Sparse {
		return "sparse 16-bit peak"
	}
	return "dense 16-bit peak"
}

// cluster is asked only where a profile joins both conditions.
func (pot potential) cluster(p *Profile, o *feature.Order) bool {
	return !p.JoinCluster || p.Cluster == nil || (o.FabricGbps > p.Cluster.Gbps && pot.peak > p.Cluster.OpsPerS)
}

func (v *view) onOrders() {
	for _, id := range v.orderIDs {
		versions := v.orders[id]
		for k := range versions {
			o := &versions[k]
			sinceMs := max(o.AmendedMs, v.StartMs)
			if k+1 < len(versions) && versions[k+1].AmendedMs <= sinceMs {
				continue // replaced before the data begin, or by a version of the same moment
			}
			who := v.behind([]string{o.Account})
			if !who.inScope {
				continue
			}
			pot := v.potential(o)
			for i := range v.Profiles {
				if p := &v.Profiles[i]; p.LimitFLOP > 0 && pot.couldResult(p, o) {
					v.capacity(p, o, pot, who, sinceMs)
					if k > 0 {
						before := v.potential(&versions[k-1])
						if before.impossible(p, &versions[k-1]) {
							v.changed(p, &versions[k-1], o, before, pot, who, sinceMs)
						}
					}
				}
			}
		}
	}
	v.askOrders()
}

func (v *view) orderFinding(limb string, o *feature.Order, who behind) Finding {
	return Finding{
		Limb: limb, Orders: []string{o.Order}, Accounts: accountList(o.Account), Parties: who.parties, Severity: "medium",
		Evidence: []Evidence{{Kind: "order", FromMs: max(o.StartMs, o.AmendedMs), ToMs: o.EndMs, Strength: "declared"}},
	}
}

func (v *view) capacity(p *Profile, o *feature.Order, pot potential, who behind, sinceMs int64) {
	if _, before := v.out[ID(p.Name, Capacity, o.Order)]; before {
		return // an earlier version could already
	}
	f := v.orderFinding(Capacity, o, who)
	f.Explanation = fmt.Sprintf("Order %s could result in a run beyond the limit of %s FLOP: %s reach %s FLOP at %.3g of their %s. Declared use: %s, which does not exclude training.",
		o.Order, flop(pot.limit(p, o)), terms(o, pot), flop(p.counted(pot)), p.Projection.Utilization, p.peakWords(), quoted(o.DeclaredUse))
	f.assume(pot)
	v.raise(f, p, o.Order, nil, sinceMs)
}

// assume says that the peak of a part that no table knows was taken from other parts.
func (f *Finding) assume(pot potential) {
	if pot.assumed {
		f.State = Inquire
		f.Explanation += " The part is not in the table of accelerators: its peak was assumed, and has to be asked for."
	}
}

func (v *view) changed(p *Profile, was, o *feature.Order, before, pot potential, who behind, sinceMs int64) {
	if _, already := v.out[ID(p.Name, ChangedArrangement, o.Order)]; already {
		return
	}
	why := fmt.Sprintf("%s reached only %s FLOP at full peak", terms(was, before), flop(p.atPeak(before)))
	if before.excluded {
		why = fmt.Sprintf("its declared use, %s, excluded training", quoted(was.DeclaredUse))
	}
	f := v.orderFinding(ChangedArrangement, o, who)
	f.Explanation = fmt.Sprintf("The amendment of order %s on %s makes a run beyond the limit of %s FLOP possible: before, %s; now %s reach %s FLOP at %.3g of their %s, declared use %s.",
		o.Order, utc(o.AmendedMs), flop(pot.limit(p, o)), why, terms(o, pot), flop(p.counted(pot)), p.Projection.Utilization, p.peakWords(), quoted(o.DeclaredUse))
	f.assume(pot)
	v.raise(f, p, o.Order, nil, sinceMs)
}

func terms(o *feature.Order, pot potential) string {
	return fmt.Sprintf("%d x %s for %.1f h", o.GPUCount, o.GPUModel, float64(pot.termMs)/3.6e6)
}

func accountList(account string) []string {
	if account == "" {
		return []string{}
	}
	return []string{account}
}
