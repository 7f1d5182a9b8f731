package report

import (
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/detector/flops"
)

const (
	// crossFinding is the log odds from which on a contradiction between instruments is a finding; a
	// lesser one is asked about.
	crossFinding = 3.0 // 19 in 20
	// beforeMs is how far back a host's meter is looked at for what it showed at work.
	beforeMs = 30 * feature.MinuteMs
	// meterMs of a meter's readings make a mean.
	meterMs = 5 * feature.MinuteMs
	// restFrac and hostW bound what a host draws whose GPUs rest: each a fifth of its rating, and the
	// host 250 W beside each GPU and 600 W, with a fifth lost in supplies.
	restFrac    = 0.2
	hostW       = 600.0
	besideGPUW  = 250.0
	supplyLoss  = 1.2
	stillFrac   = 0.8 // of what it drew, or moved, at work: it goes on
	busyWatts   = 0.4 // of the rating: a GPU at work
	leastPortBs = 10e6
	darkShare   = 0.25 // of the rating, that a dark GPU draws at least to be said to work
)

// mean of what a host's cells say within a stretch; 0 cover: too little.
func meter(cells []feature.NodeCell, from, to int64) (watts, portBps float64, wattsMs, portMs int64) {
	var joules, bytes float64
	i := sort.Search(len(cells), func(i int) bool { return cells[i].MinuteMs >= from })
	for ; i < len(cells) && cells[i].EndMs() <= to; i++ {
		c := &cells[i]
		if c.PowerCoverMs > 0 {
			joules += c.PowerW * float64(c.PowerCoverMs)
			wattsMs += c.PowerCoverMs
		}
		if c.FabricCoverMs > 0 {
			bytes += c.FabricTxBytes + c.FabricRxBytes
			portMs += c.EndMs() - c.MinuteMs
		}
	}
	if wattsMs > 0 {
		watts = joules / float64(wattsMs)
	}
	if portMs > 0 {
		portBps = bytes / float64(portMs) * 1000
	}
	return watts, portBps, wattsMs, portMs
}

// rating of one GPU of a node, in watts: the larger one where it is not stated.
func (v *view) rating(node string) float64 {
	if tdp := v.Ev.Nodes[node].TDPW; tdp > 0 {
		return tdp
	}
	return tdpHighW
}

// workedOn says in numbers that a host's GPUs worked while none of them was sampled: its meter
// shows more than a host at rest can draw, or about what it drew while they worked, or its ports
// move what they moved then. Empty: nothing shows it.
func (v *view) workedOn(node string, from, to int64) string {
	host := v.Ev.Host[node]
	watts, port, wattsMs, portMs := meter(host, from, to)
	before, portBefore, beforeCover, portCover := meter(host, from-beforeMs, from)
	busy := v.busyBefore(node, from)
	if wattsMs >= meterMs {
		n := float64(max(v.Ev.Nodes[node].GPUCount, 0))
		if rest := supplyLoss*restFrac*v.rating(node)*n + besideGPUW*n + hostW; n > 0 && watts > rest {
			return fmt.Sprintf("the meter of %s showed %.0f W meanwhile, at rest it can draw %.0f W", node, watts, rest)
		}
		if busy && beforeCover >= meterMs && watts >= stillFrac*before {
			return fmt.Sprintf("the meter of %s showed %.0f W meanwhile, and %.0f W while its GPUs were seen at work", node, watts, before)
		}
	}
	if busy && portMs >= meterMs && portCover >= meterMs && port >= leastPortBs && port >= stillFrac*portBefore {
		return fmt.Sprintf("the ports of %s moved %.0f MB/s meanwhile, and %.0f MB/s while its GPUs were seen at work", node, port/1e6, portBefore/1e6)
	}
	return ""
}

// busyBefore reports whether half of a node's sampled GPUs worked by their watts just before.
func (v *view) busyBefore(node string, atMs int64) bool {
	at, seen := 0, 0
	for gpu := range max(v.Ev.Nodes[node].GPUCount, maxGPUs) {
		cells := v.Ev.CellsFrom(feature.GPUKey{Node: node, GPU: gpu}, atMs-meterMs)
		var sum float64
		var cover int64
		for i := range cells {
			if c := &cells[i]; c.MinuteMs >= atMs-meterMs && c.EndMs() <= atMs && c.Has(feature.PowerW) {
				sum, cover = sum+c.Mean[feature.PowerW]*float64(c.CoverMs[feature.PowerW]), cover+c.CoverMs[feature.PowerW]
			}
		}
		if cover > 0 {
			seen++
			if sum/float64(cover) > busyWatts*v.rating(node) {
				at++
			}
		}
	}
	return seen > 0 && 2*at >= seen
}

// witness are the contradictions that make a finding: work against watts, which a fault of the
// sampling does not bring about. Counters and meters that differ by a factor are asked about, as late
// rows, resets and clocks that are off do that too; beyond any of these they are in contradictions.
// What the inventory calls a GPU is no instrument.
var witness = map[string]bool{flops.CrossWattsSM: true, flops.CrossJoules: true, flops.CrossCycles: true, flops.CrossPeers: true}

// certain reports whether a contradiction is a finding.
func certain(c *flops.Contradiction) bool { return witness[c.Kind] && c.LogOdds >= crossFinding }

// crossed are the contradictions between instruments that are as good as certain.
func (v *view) crossed() []defect {
	var out []defect
	for i := range v.Runs {
		for _, c := range v.Runs[i].Contradictions {
			if !certain(&c) || c.ToMs-c.FromMs < sustainMs {
				continue
			}
			out = append(out, defect{Evidence: crossEvidence(&c), knownMs: c.FromMs + sustainMs})
		}
	}
	return out
}

func crossEvidence(c *flops.Contradiction) Evidence {
	e := Evidence{Kind: kindCross, Node: c.Node, FromMs: c.FromMs, ToMs: c.ToMs, Strength: "measured", Detail: "on " + c.Node + " " + c.Reason}
	if c.GPU >= 0 {
		gpu := c.GPU
		e.GPU = &gpu
	}
	return e
}

// judged reports whether an activity of the last verdict covers a stretch of a node.
func (v *view) judged(e Evidence) bool {
	for i := range v.Runs {
		for _, m := range v.Runs[i].Run.Members {
			if m.Node == e.Node && (e.GPU == nil || *e.GPU == m.GPU) && m.StartMs < e.ToMs && m.EndMs > e.FromMs {
				return true
			}
		}
	}
	return false
}

// dark is one GPU that is not sampled while all others of its node are.
type dark struct {
	node         string
	gpu          int
	fromMs, toMs int64
}

// darkGPUs are rented GPUs that were sampled, and for silenceMs and more are not, while another of
// their node is.
func (v *view) darkGPUs() []dark {
	if v.looked {
		return v.darks
	}
	v.looked = true
	from := v.sinceMs()
	for all := v.gpuKeys(); len(all) > 0; {
		n := 1
		for n < len(all) && all[n].Node == all[0].Node {
			n++
		}
		keys := all[:n]
		all = all[n:]
		if n < 2 {
			continue
		}
		latest := int64(math.MinInt64)
		last := make([]int64, n)
		for g, k := range keys {
			if cells := v.Ev.CellsFrom(k, from); len(cells) > 0 {
				last[g] = cells[len(cells)-1].EndMs()
				latest = max(latest, last[g])
			}
		}
		for g, k := range keys {
			// A GPU that fell silent before the window has one cell of then, or none.
			if quietMs := latest - last[g]; last[g] != 0 && quietMs >= silenceMs && quietMs >= 4*v.spacing(k.Node) {
				v.darks = append(v.darks, dark{k.Node, k.GPU, last[g], latest})
			}
		}
	}
	return v.darks
}

// darkAtWork are dark GPUs whose host's meter shows them at work: beside what its other GPUs draw it
// shows more than it did before by a good part of the GPU's rating.
func (v *view) darkAtWork() []defect {
	var out []defect
	for _, d := range v.darkGPUs() {
		if drew, ok := v.residual(d); ok && drew > darkShare*v.rating(d.node) {
			gpu := d.gpu
			out = append(out, defect{
				Evidence: Evidence{
					Kind: kindDark, Node: d.node, GPU: &gpu, FromMs: d.fromMs, ToMs: d.toMs, Strength: "derived",
					Detail: fmt.Sprintf("the meter of %s shows about %.0f W that its sampled GPUs do not, as before GPU %d went dark", d.node, math.Round(drew/20)*20, d.gpu),
				},
				knownMs: d.fromMs + silenceMs,
			})
		}
	}
	return out
}

// residual is what a dark GPU draws by its host's meter: the meter less the other GPUs, less the
// same before it went dark with the GPU itself counted.
func (v *view) residual(d dark) (watts float64, ok bool) {
	rest := func(from, to int64, with bool) (float64, bool) {
		host, _, cover, _ := meter(v.Ev.Host[d.node], from, to)
		if cover < meterMs {
			return 0, false
		}
		for gpu := range max(v.Ev.Nodes[d.node].GPUCount, maxGPUs) {
			if gpu == d.gpu && !with {
				continue
			}
			var sum float64
			var ms int64
			for _, c := range v.Ev.CellsFrom(feature.GPUKey{Node: d.node, GPU: gpu}, from) {
				if c.MinuteMs >= from && c.EndMs() <= to && c.Has(feature.PowerW) {
					sum, ms = sum+c.Mean[feature.PowerW]*float64(c.CoverMs[feature.PowerW]), ms+c.CoverMs[feature.PowerW]
				}
			}
			if ms > 0 {
				host -= sum / float64(ms)
			} else if gpu == d.gpu {
				return 0, false
			}
		}
		return host, true
	}
	before, okBefore := rest(d.fromMs-beforeMs, d.fromMs-feature.MinuteMs, true)
	after, okAfter := rest(d.fromMs+feature.MinuteMs, d.toMs, false)
	return after - before, okBefore && okAfter
}

// askTelemetry asks about what is odd and concludes nothing: a dark GPU, GPUs of a rented node that
// are never seen while their host is, contradictions that are not certain, a part that is not what
// the inventory says.
func (v *view) askTelemetry() {
	v.askDark()
	v.askUnseen()
	for i := range v.Runs {
		for _, c := range v.Runs[i].Contradictions {
			if certain(&c) || c.ToMs-c.FromMs < sustainMs {
				continue
			}
			e := crossEvidence(&c)
			asks := []string{"a calibration of the host's meter and of the GPU's counters, or a second instrument"}
			if c.Kind == flops.CrossPart {
				asks = []string{"the part number of the GPUs, from the host or the board"}
			}
			for _, account := range v.holders(e) {
				v.ask(nil, inquiry{
					subject: "telemetry:" + c.Kind + ":" + c.Node + ":" + account, kind: "telemetry", accounts: []string{account},
					probability: 1 / (1 + math.Exp(-c.LogOdds)), knownMs: c.FromMs + sustainMs, text: fmt.Sprintf("On %s, whose GPUs account %s held, %s.", c.Node, account, c.Reason), asks: asks, evidence: []Evidence{e},
				})
			}
		}
	}
}

func (v *view) askDark() {
	for _, d := range v.darkGPUs() {
		gpu := d.gpu
		e := Evidence{Kind: "dark_gpu", Node: d.node, GPU: &gpu, FromMs: d.fromMs, ToMs: d.toMs, Strength: "derived"}
		if drew, ok := v.residual(d); ok && drew > darkShare*v.rating(d.node) {
			continue // that is a finding
		}
		for _, account := range v.holders(e) {
			v.ask(nil, inquiry{
				subject: fmt.Sprintf("dark_gpu:%s:%d:%s", d.node, d.gpu, account), kind: "dark_gpu", accounts: []string{account}, probability: 0.5, knownMs: d.fromMs + silenceMs, evidence: []Evidence{e},
				text: fmt.Sprintf("GPU %d of %s, held by account %s, has not been sampled since %s, and others of the node have. Whether it worked cannot be told.", d.gpu, d.node, account, utc(d.fromMs)),
				asks: []string{"the driver's log of the host: whether the GPU fell off the bus, was passed to a guest, or its sampling was stopped", "the host's meter"},
			})
		}
	}
}

// askUnseen asks about rented nodes whose hosts are seen and whose GPUs never are, where the
// inventory does not say that they cannot be: passed through to a guest, or in a mode that hides
// them.
func (v *view) askUnseen() {
	seen := map[string]bool{}
	for _, k := range v.gpuKeys() {
		seen[k.Node] = true
	}
	nodes := make([]string, 0, len(v.Ev.Host))
	for node := range v.Ev.Host {
		nodes = append(nodes, node)
	}
	slices.Sort(nodes)
	for _, node := range nodes {
		n, host := v.Ev.Nodes[node], v.Ev.Host[node]
		if seen[node] || n.Vantage != "" || n.GPUCount <= 0 || len(host) == 0 || host[len(host)-1].EndMs()-host[0].MinuteMs < neverMs {
			continue
		}
		e := Evidence{Kind: "unseen_gpus", Node: node, FromMs: host[0].MinuteMs, ToMs: host[len(host)-1].EndMs(), Strength: "derived"}
		watts, port, wattsMs, portMs := meter(host, e.ToMs-beforeMs, e.ToMs)
		shows := "its host reports"
		if wattsMs > 0 {
			shows = fmt.Sprintf("its meter shows about %.0f W", math.Round(watts/100)*100)
		}
		if portMs > 0 {
			shows += fmt.Sprintf(", its ports about %s bytes/s", rough(port))
		}
		for _, account := range v.holders(e) {
			v.ask(nil, inquiry{
				subject: "unseen_gpus:" + node + ":" + account, kind: "unseen_gpus", accounts: []string{account}, probability: 0.5, knownMs: e.FromMs + neverMs, evidence: []Evidence{e},
				text: fmt.Sprintf("No sample of the %d GPUs of %s, held by account %s, ever came, while %s. They may be passed through to a guest, or run in a mode that hides them.", n.GPUCount, node, account, shows),
				asks: []string{"the vantage of the node in the inventory: host, or outofband", "whether the GPUs are passed through"},
			})
		}
	}
}
