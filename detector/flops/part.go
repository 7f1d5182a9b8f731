package flops

import (
	"fmt"
	"math"
	"regexp"
	"sync"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/run"
)

// limits are the extremes that a node's GPUs showed. A number that was not seen is 0.
type limits struct {
	memBytes, clockMHz, watts, linkBps float64
	tensor, cycles                     bool
}

func (ms *measurer) limits(node string, gpus float64, fromMs int64) limits {
	var l limits
	for g := range int(gpus) {
		cells := ms.ev.CellsFrom(feature.GPUKey{Node: node, GPU: g}, fromMs)
		for i := range cells {
			c := &cells[i]
			l.memBytes = max(l.memBytes, value(c, feature.MemUsedBytes))
			l.clockMHz = max(l.clockMHz, value(c, feature.SMClockMHz))
			if c.CoverMs[feature.PowerW] >= minuteMs/2 {
				l.watts = max(l.watts, c.Mean[feature.PowerW])
			}
			l.linkBps = max(l.linkBps, value(c, feature.NVLinkTxBps), value(c, feature.NVLinkRxBps))
			l.tensor = l.tensor || value(c, feature.TensorFrac) > 0.02
			l.cycles = l.cycles || c.MMACycles.Delta > 0
		}
	}
	return l
}

// Logarithms of how unlikely a part is that would have to exceed what it is built for.
const (
	neverMem   = -12.0
	neverClock = -9.0
	neverWatts = -10.0
	neverLink  = -8.0
)

// likely is the logarithm of how well a part explains the limits.
func (l *limits) likely(a *Accelerator) float64 {
	sum := 0.0
	if l.memBytes > 1e9 && a.MemBytes > 0 {
		most := a.MemBytes * 1.03 // the table has the largest version but of two
		switch a.Key {
		case "GH200", "H20", "H100_SXM":
			most = a.MemBytes * 1.5
		}
		fill := l.memBytes / a.MemBytes
		if l.memBytes > most {
			sum += neverMem
		} else {
			sum += math.Log((0.4+1.2*min(fill, 1))/a.MemBytes) + math.Log(64e9)
		}
	}
	if l.clockMHz > 300 {
		switch boost := a.BoostMHz; {
		case boost == 0: // not published: as little as of a part that no table has
		case l.clockMHz > 1.012*boost:
			sum += neverClock
		case l.clockMHz > 0.994*boost: // at rest or lightly loaded a GPU runs at its highest clock
			sum += 2.5
		}
	}
	if l.watts > 0 && a.TDPW > 0 {
		if r := l.watts / a.TDPW; r > 1.12 {
			sum += max(neverWatts, -40*(r-1.12))
		} else {
			sum += math.Log((0.3+1.4*r)/a.TDPW) + math.Log(400)
		}
	} else if l.watts > 0 {
		sum += math.Log(400 / (2.5 * max(l.watts, 70)))
	}
	if l.linkBps > 1e6 && a.Vendor == "NVIDIA" && l.linkBps > 0.55*a.LinkBps {
		sum += neverLink
	}
	if l.tensor && a.Arch == "Pascal" {
		sum -= 8
	}
	if l.cycles && !gpm(a) {
		sum -= 4
	}
	return sum
}

// beyond reports limits that the part cannot have shown.
func (l *limits) beyond(a *Accelerator) bool {
	used := limits{memBytes: max(l.memBytes, 0.9*a.MemBytes), clockMHz: l.clockMHz, watts: max(l.watts, 0.9*a.TDPW), linkBps: l.linkBps, tensor: l.tensor}
	full := limits{memBytes: 0.9 * a.MemBytes, clockMHz: l.clockMHz, watts: 0.9 * a.TDPW}
	full.clockMHz = min(full.clockMHz, max(a.BoostMHz, 300))
	return used.likely(a) < full.likely(a)-3
}

// novel is the same of a part that no table has.
func (l *limits) novel() float64 {
	sum := 0.0
	if l.memBytes > 1e9 {
		sum += math.Log(64e9 / (3.2 * l.memBytes))
	}
	if l.watts > 0 {
		sum += math.Log(400 / (2.5 * max(l.watts, 70)))
	}
	return sum
}

// guess is what a part may be.
type guess struct {
	acc    Accelerator
	named  float64 // probability that it is the one that was named
	likely string  // name of the likeliest part; empty: none of the table
}

const (
	namedPrior = 0.985 // of what an inventory or a driver says
	novelPrior = 0.15  // that a name which the table lacks is a part that it lacks
)

// identify weighs the parts of the table by the limits. A part that is named keeps its name
// unless the limits are beyond it; one that is not named is what explains them best, with the
// spread of what else does.
func identify(name string, named *Accelerator, tdpW float64, l limits) guess {
	rows, err := table()
	if err != nil {
		return guess{acc: generic(tdpW)}
	}
	if named != nil && !l.beyond(named) { // a GPU that is little used speaks against no name
		return guess{acc: *named, named: 1, likely: named.Name}
	}
	type candidate struct {
		acc  Accelerator
		w    float64
		self bool
	}
	var all []candidate
	families, vendor := familyOf(name)
	rest, total := 0.0, 0.0
	for i := range rows {
		a := rows[i].acc
		c := candidate{acc: a, w: 1, self: named != nil && a.Key == named.Key}
		if a.TDPW >= 390 {
			c.w = 3
		}
		if vendor != "" && a.Vendor != vendor {
			c.w *= 0.01
		}
		if len(families) > 0 && families[a.Arch] {
			c.w *= 10
		}
		if tdpW > 0 { // a limit that was set may lie below the part's, not far above it
			if r := tdpW / a.TDPW; r > 1.05 || r < 0.5 {
				c.w *= 0.02
			} else if r > 0.97 {
				c.w *= 5
			}
		}
		if !c.self {
			rest += c.w
		}
		all = append(all, c)
	}
	blank := generic(tdpW)
	if tdpW <= 0 && l.watts >= 150 {
		blank = generic(1.05 * l.watts)
	}
	if tdpW > 0 && l.watts > 1.3*tdpW {
		blank = generic(l.watts)
	}
	for i := range all {
		c := &all[i]
		switch {
		case c.self:
			c.w = namedPrior
		case named != nil:
			c.w *= 0.7 * (1 - namedPrior) / rest
		default:
			c.w *= (1 - novelPrior) / rest
		}
		c.w *= math.Exp(l.likely(&c.acc))
		total += c.w
	}
	n := candidate{acc: blank, w: novelPrior}
	if named != nil {
		n.w = 0.3 * (1 - namedPrior)
	}
	n.w *= math.Exp(l.novel())
	total += n.w
	all = append(all, n)
	if !(total > 0) {
		return guess{acc: blank}
	}
	top := 0
	for i := range all {
		all[i].w /= total
		if all[i].w > all[top].w {
			top = i
		}
	}
	g := guess{acc: all[top].acc, likely: all[top].acc.Name}
	if top == len(all)-1 {
		g.likely = ""
	}
	mean, square := 0.0, 0.0
	for i := range all {
		d := math.Log(all[i].acc.FLOPPerCycle() / g.acc.FLOPPerCycle())
		mean += all[i].w * d
		square += all[i].w * (d*d + sq(all[i].acc.LogSD))
		if all[i].self {
			g.named = all[i].w
		}
	}
	if all[top].w < 0.5 { // between several: the middle
		g.acc = g.acc.scaled(math.Exp(mean))
		square -= mean * mean
	}
	g.acc.LogSD = min(math.Sqrt(max(square, 0)), 0.9)
	if g.acc.LogSD < 0.02 {
		g.acc.LogSD = 0
	}
	return g
}

// scaled is a part whose rates are k times as high, whatever they are made of.
func (a Accelerator) scaled(k float64) Accelerator {
	for _, p := range []*float64{&a.FP64, &a.FP64Tensor, &a.FP32, &a.TF32, &a.Peak16, &a.FP8, &a.FP4, &a.INT8, &a.FLOPPerClkSM16} {
		*p *= k
	}
	a.Notes = "between several parts; " + a.Notes
	return a
}

// familyOf reads the architecture and the vendor out of a name that the table lacks.
func familyOf(name string) (arch map[string]bool, vendor string) {
	for _, f := range archWords() {
		if f.pattern.MatchString(name) {
			arch, vendor = f.arch, f.vendor
			break
		}
	}
	if nvidiaWord().MatchString(name) {
		vendor = "NVIDIA"
	}
	return arch, vendor
}

var nvidiaWord = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?i)nvidia|tesla|geforce|quadro`) })

type archWord struct {
	pattern *regexp.Regexp
	vendor  string
	arch    map[string]bool
}

var archWords = sync.OnceValue(func() []archWord {
	of := func(pattern, vendor string, arch ...string) archWord {
		w := archWord{pattern: regexp.MustCompile(pattern), vendor: vendor, arch: map[string]bool{}}
		for _, a := range arch {
			w.arch[a] = true
		}
		return w
	}
	return []archWord{
		of(`(?i)rubin|\bV?R\d{3}\b`, "NVIDIA", "Rubin"), of(`(?i)blackwell|\bG?B\d{2,3}`, "NVIDIA", "Blackwell", "Blackwell Ultra"),
		of(`(?i)hopper|\bG?H\d{2,3}`, "NVIDIA", "Hopper"), of(`(?i)ampere|\bA\d{2,3}`, "NVIDIA", "Ampere"),
		of(`(?i)\bada\b|\bL\d{1,2}S?\b|RTX 40`, "NVIDIA", "Ada"), of(`(?i)volta|\bV\d{3}`, "NVIDIA", "Volta"),
		of(`(?i)instinct|\bMI\d{3}|radeon|gfx\d`, "AMD", "CDNA2", "CDNA3", "CDNA4"), of(`(?i)gaudi`, "Intel", "Gaudi"),
		of(`(?i)\btpu`, "Google", "TPU"), of(`(?i)trainium|trn\d`, "AWS", "NeuronCore", "NeuronCore-v3"), of(`(?i)ascend`, "Huawei", "DaVinci"),
	}
})

// partCross says where the GPUs are not what the inventory names.
func (ms *measurer) partCross(members []run.Member) (Contradiction, bool) {
	h := ms.host(members[0].Node)
	n := ms.ev.Nodes[members[0].Node]
	if h.doubted == "" {
		return Contradiction{}, false
	}
	c := Contradiction{
		Kind: CrossPart, Node: n.Node, GPU: -1, FromMs: members[0].StartMs, ToMs: members[len(members)-1].EndMs,
		Ratio: h.acc.Peak16 / h.namedPeak, LogOdds: min(math.Log((1-h.named)/max(h.named, 1e-9)), 20), Reason: h.doubted,
	}
	for _, m := range members {
		c.FromMs, c.ToMs = min(c.FromMs, m.StartMs), max(c.ToMs, m.EndMs)
	}
	return c, true
}

// doubtful words why the GPUs are not what was named.
func doubtful(name string, named *Accelerator, g guess, l limits) string {
	var why string
	switch {
	case l.memBytes > 1.03*named.MemBytes && named.MemBytes > 0:
		why = fmt.Sprintf("%.0f GB were in use, it has %.0f", l.memBytes/1e9, named.MemBytes/1e9)
	case l.clockMHz > 1.012*named.BoostMHz && named.BoostMHz > 0:
		why = fmt.Sprintf("it ran at %.0f MHz, its highest clock is %.0f", l.clockMHz, named.BoostMHz)
	case l.watts > 1.12*named.TDPW && named.TDPW > 0:
		why = fmt.Sprintf("it drew %.0f W of %.0f", l.watts, named.TDPW)
	case l.linkBps > 0.55*named.LinkBps:
		why = fmt.Sprintf("its links moved %.0f GB/s", l.linkBps/1e9)
	default:
		why = "memory, clocks and watts together speak against it"
	}
	if g.likely == "" {
		return fmt.Sprintf("the inventory names %q, but %s: a part that the table of accelerators lacks", name, why)
	}
	return fmt.Sprintf("the inventory names %q, but %s: more like %s", name, why, g.likely)
}
