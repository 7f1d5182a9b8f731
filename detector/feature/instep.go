package feature

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// Beat is the rhythm that something kept over some time.
type Beat struct {
	PeriodMs  float64 // the middle of its minutes' periods; 0: it kept none
	Spread    float64 // what four fifths of these lie within, as a share of the period
	Share     float64 // of the time looked at, in which there was one near it
	Power     float64 // mean share of the variance
	Folded    bool    // see Peak
	CadenceMs float64
	Of        Signal // of a GPU: the signal that shows it most often
}

// Together says what speaks for one job driving two things rather than two jobs.
type Together struct {
	// LogOdds is by what the odds of one job change, as a logarithm: over 0 they keep time with each other, under 0 they
	// do not, 0: nothing of it was seen. It lies within 12 of 0.
	LogOdds  float64
	Minutes  int     // in which both had a rhythm
	PeriodMs float64 // that both keep; 0: none
	LagMs    float64 // by which crests of b follow those of a, by their own clocks: 0 to PeriodMs; of folded periods it means nothing, but for that it stays
	LagSDMs  float64 // how far from that it was, but for what clocks drift by
	Dips     int     // times that the load of both fell at once
	Lone     int     // times that it fell for one alone, while both were measured
}

// Fleet is what others in the fleet do: how common it is that different jobs keep one period, and when loads fall
// everywhere at once. A nil Fleet knows nothing of it, and assumes little. It is not changed once made.
type Fleet struct {
	same  float64           // how likely two different jobs keep one period within a hundredth
	dips  map[int64]float64 // share of the GPUs measured in a minute whose load fell in it
	nodes map[int64]float64
}

const (
	sameRecipe = 0.1 // without other knowledge: sweeps, and teams that share a recipe
	recipeSD   = 0.01
	knownPairs = 10  // of different jobs that weigh as much as that assumption
	octaves    = 6.9 // the logarithm of the range of periods
	mostOdds   = 12
	clockDrift = 1e-4 // between two clocks that nobody sets
	dipDepth   = 0.2  // of its usual load
)

// moment is what is compared of a cell.
type moment struct {
	fromMs, toMs int64
	peak         Peak
	of           int
	load         float64 // NaN: not measured
}

func gpuMoments(cells []GPUCell) []moment {
	out := make([]moment, len(cells))
	of := PowerW
	for _, s := range [...]Signal{SMActiveFrac, UtilFrac, PowerW} {
		n := 0
		for i := range cells {
			if cells[i].Has(s) {
				n++
			}
		}
		if 10*n >= 9*len(cells) {
			of = s
			break
		}
	}
	for i := range cells {
		c := &cells[i]
		out[i] = moment{c.MinuteMs, c.EndMs(), c.Rhythm, int(c.RhythmOf), c.Get(of)}
	}
	return out
}

func nodeMoments(cells []NodeCell) []moment {
	out := make([]moment, len(cells))
	for i := range cells {
		c := &cells[i]
		m := moment{c.MinuteMs, c.EndMs(), c.Rhythm, 0, math.NaN()}
		if c.RhythmOfPower {
			m.of = 1
		}
		if c.PowerCoverMs > 0 {
			m.load = c.PowerW
		}
		out[i] = m
	}
	return out
}

// BeatOf returns the rhythm that a GPU kept over cells, sorted by time.
func BeatOf(cells []GPUCell) Beat {
	b := beatOf(gpuMoments(cells))
	return b
}

// BeatOfNode does the same for the ports, or the watts, of a host.
func BeatOfNode(cells []NodeCell) Beat {
	b := beatOf(nodeMoments(cells))
	b.Of = 0
	return b
}

func beatOf(ms []moment) Beat {
	type kept struct {
		period float64
		at     int
	}
	var all []kept
	total := int64(0)
	for i := range ms {
		total += ms[i].toMs - ms[i].fromMs
		if ms[i].peak.PeriodMs > 0 {
			all = append(all, kept{ms[i].peak.PeriodMs, i})
		}
	}
	if len(all) == 0 {
		return Beat{}
	}
	slices.SortStableFunc(all, func(a, b kept) int { return cmp.Compare(a.period, b.period) })
	b := Beat{PeriodMs: all[len(all)/2].period}
	b.Spread = (all[len(all)*9/10].period - all[len(all)/10].period) / b.PeriodMs
	var count [NumSignals]int
	near, weight, best := int64(0), 0.0, -1
	for _, k := range all {
		m := &ms[k.at]
		if math.Abs(k.period/b.PeriodMs-1) > 0.05 {
			continue
		}
		w := m.toMs - m.fromMs
		near += w
		weight += float64(w) * m.peak.Power
		count[m.of]++
		if d := math.Abs(k.period - b.PeriodMs); best < 0 || d < math.Abs(ms[best].peak.PeriodMs-b.PeriodMs) {
			best = k.at
		}
	}
	for s, n := range count {
		if n > count[b.Of] {
			b.Of = Signal(s)
		}
	}
	b.Share, b.Power = float64(near)/float64(total), weight/float64(near)
	b.Folded, b.CadenceMs = ms[best].peak.Folded, ms[best].peak.CadenceMs
	return b
}

// dips returns the moments at which the load of something fell that had been level: the first minute of each fall.
func dips(ms []moment) map[int64]bool {
	out := map[int64]bool{}
	var around []float64
	fallen := false
	for i := range ms {
		if math.IsNaN(ms[i].load) {
			continue
		}
		around = around[:0]
		for j := max(i-7, 0); j <= min(i+7, len(ms)-1); j++ {
			if j != i && !math.IsNaN(ms[j].load) {
				around = append(around, ms[j].load)
			}
		}
		if len(around) < 4 {
			continue
		}
		slices.Sort(around)
		usual := around[len(around)/2]
		spread := around[len(around)*3/4] - around[len(around)/4]
		low := usual-ms[i].load > max(dipDepth*usual, 2*spread) && usual > 0
		if low && !fallen {
			out[ms[i].fromMs] = true
		}
		fallen = low
	}
	return out
}

// NewFleet learns from evidence what two different jobs have in common: of accounts that differ it is known that they are
// two.
func NewFleet(ev *Evidence) *Fleet {
	f := &Fleet{same: sameRecipe}
	gpus := make([]GPUKey, 0, len(ev.GPU))
	for k := range ev.GPU {
		gpus = append(gpus, k)
	}
	slices.SortFunc(gpus, func(a, b GPUKey) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU)) })
	periods := map[string][]float64{} // of accounts
	owner := owners(ev)
	share := newShares()
	for _, k := range gpus {
		ms := gpuMoments(ev.GPU[k])
		share.add(ms)
		if account := owner[k]; account != "" {
			if b := beatOf(ms); b.PeriodMs > 0 && b.Share > 0.3 {
				periods[account] = append(periods[account], b.PeriodMs)
			}
		}
	}
	f.dips = share.shares()
	nodes := make([]string, 0, len(ev.Host))
	for n := range ev.Host {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	share = newShares()
	for _, n := range nodes {
		share.add(nodeMoments(ev.Host[n]))
	}
	f.nodes = share.shares()
	var middle []float64
	for _, p := range periods { // sorted below
		slices.Sort(p)
		middle = append(middle, p[len(p)/2])
	}
	slices.Sort(middle)
	equal, pairs := 0.0, float64(len(middle)*(len(middle)-1)/2)
	for i, p := range middle {
		equal += float64(sort.SearchFloat64s(middle, p*(1+recipeSD)) - i - 1)
	}
	f.same = (sameRecipe*knownPairs + max(equal, 0)) / (knownPairs + pairs)
	return f
}

// owners names the account that rents each GPU, where it is one.
func owners(ev *Evidence) map[GPUKey]string {
	out := map[GPUKey]string{}
	for i := range ev.Allocations {
		a := &ev.Allocations[i]
		for _, g := range a.GPUs {
			k := GPUKey{a.Node, g}
			if had, ok := out[k]; ok && had != a.Account {
				out[k] = ""
				continue
			}
			out[k] = a.Account
		}
	}
	return out
}

// shares counts in how many of what was measured a load fell, by minute.
type shares struct{ fell, of map[int64]int }

func newShares() shares { return shares{map[int64]int{}, map[int64]int{}} }

func (s shares) add(ms []moment) {
	for at := range dips(ms) {
		s.fell[at]++
	}
	for i := range ms {
		if !math.IsNaN(ms[i].load) {
			s.of[ms[i].fromMs]++
		}
	}
}

func (s shares) shares() map[int64]float64 {
	out := make(map[int64]float64, len(s.fell))
	for at, n := range s.fell {
		out[at] = float64(n) / float64(s.of[at])
	}
	return out
}

// InStep compares two GPUs over the time in which both have cells, sorted by time: whether they keep one period with a
// lag that stays, and whether their loads fall together.
func (f *Fleet) InStep(a, b []GPUCell) Together {
	var common map[int64]float64
	if f != nil {
		common = f.dips
	}
	return f.together(gpuMoments(a), gpuMoments(b), common)
}

// InStepNodes does the same for two hosts, by their ports and watts.
func (f *Fleet) InStepNodes(a, b []NodeCell) Together {
	var common map[int64]float64
	if f != nil {
		common = f.nodes
	}
	return f.together(nodeMoments(a), nodeMoments(b), common)
}

// InStep is that of a nil Fleet.
func InStep(a, b []GPUCell) Together { return (*Fleet)(nil).InStep(a, b) }

func (f *Fleet) together(a, b []moment, common map[int64]float64) Together {
	var t Together
	same := sameRecipe
	if f != nil {
		same = f.same
	}
	odds := t.rhythms(a, b, same)
	odds += t.falls(a, b, common)
	t.LogOdds = min(max(odds, -mostOdds), mostOdds)
	return t
}

// rhythms compares periods and lags. Neighbouring minutes look at much the same rows, so that of all minutes only as many
// count as there are windows in them.
func (t *Together) rhythms(a, b []moment, same float64) float64 {
	var periods, lags, at []float64
	agree, cadence, seen, firstMs, lastMs := 0.0, 0.0, 0, int64(0), int64(0)
	for i, j := 0, 0; i < len(a) && j < len(b); {
		x, y := &a[i], &b[j]
		if x.fromMs != y.fromMs {
			if x.fromMs < y.fromMs {
				i++
			} else {
				j++
			}
			continue
		}
		i, j = i+1, j+1
		if x.peak.PeriodMs <= 0 || y.peak.PeriodMs <= 0 {
			continue
		}
		odds, match := periodOdds(x.peak, y.peak, same)
		if seen == 0 {
			firstMs = x.fromMs
		}
		seen++
		lastMs = max(x.toMs, y.toMs)
		agree += odds
		if match {
			cadence = max(cadence, x.peak.CadenceMs, y.peak.CadenceMs)
			periods = append(periods, (x.peak.PeriodMs+y.peak.PeriodMs)/2)
			if x.of == y.of && x.toMs == y.toMs && x.toMs-x.fromMs == MinuteMs {
				at = append(at, float64(x.fromMs-firstMs))
				lags = append(lags, (y.peak.CrestMs-x.peak.CrestMs)/periods[len(periods)-1])
			}
		}
	}
	t.Minutes = seen
	if seen == 0 {
		return 0
	}
	windows := 1 + min(float64(lastMs-firstMs)/MinuteMs, float64(seen))/(WindowMs/MinuteMs)
	odds := agree / float64(seen) * min(windows, 2) // a period that stays says little more than one that was found once
	if 2*len(periods) < seen {
		return odds
	}
	slices.Sort(periods)
	t.PeriodMs = periods[len(periods)/2]
	if 2*len(lags) < len(periods) {
		return odds
	}
	sd := 0.02 + 0.03*cadence/t.PeriodMs
	stays, drifts := t.lag(lags, at, sd)
	if drifts {
		return min(odds, 0) - 2*(windows-1)
	}
	return odds + stays*(windows-1)
}

// lag fills in the lag and how it moves, from lags in cycles at times in ms. stays is the mean of what speaks for it to be
// that of one job; drifts says that it moves steadily, and faster than clocks go astray.
func (t *Together) lag(lags, at []float64, sd float64) (stays float64, drifts bool) {
	n := float64(len(lags))
	for i := 1; i < len(lags); i++ {
		lags[i] = lags[i-1] + math.Remainder(lags[i]-lags[i-1], 1)
	}
	var mx, my, sxx, sxy float64
	for i, l := range lags {
		mx, my = mx+at[i]/n, my+l/n
	}
	for i, l := range lags {
		sxx, sxy = sxx+(at[i]-mx)*(at[i]-mx), sxy+(at[i]-mx)*(l-my)
	}
	slope, around := 0.0, 0.0
	if sxx > 0 {
		slope = sxy / sxx
	}
	for i, l := range lags {
		d := l - my - slope*(at[i]-mx)
		around += d * d
	}
	moves := math.Abs(slope) * (at[len(at)-1] - at[0])
	drifts = math.Abs(slope)*t.PeriodMs > clockDrift && moves > 4*math.Sqrt(around/n) && moves > sd
	if most := clockDrift / t.PeriodMs; math.Abs(slope) > most {
		slope = math.Copysign(most, slope)
	}
	moved := 0.0
	for i, l := range lags {
		d := l - my - slope*(at[i]-mx)
		moved += d * d
		stays += math.Log(0.9*lagDensity(d, sd)+0.1) / n
	}
	t.LagSDMs = math.Sqrt(moved/n) * t.PeriodMs
	t.LagMs = (my - math.Floor(my)) * t.PeriodMs
	return stays, drifts
}

// lagDensity is how likely a lag of one job lies so far from its mean, in cycles, beside one that may be anywhere.
func lagDensity(cycles, sd float64) float64 {
	return math.Exp(-cycles*cycles/(2*sd*sd)) / (sd * math.Sqrt(2*math.Pi))
}

// periodOdds compares two periods: what they differ by if one job makes both, and if two do, which may have one recipe.
func periodOdds(a, b Peak, same float64) (odds float64, match bool) {
	switch {
	case a.Folded == b.Folded && (!a.Folded || math.Abs(a.CadenceMs/b.CadenceMs-1) < 0.01):
	case a.Folded && !b.Folded && foldsOnto(b.PeriodMs, a.PeriodMs, a.CadenceMs), b.Folded && !a.Folded && foldsOnto(a.PeriodMs, b.PeriodMs, b.CadenceMs):
		return 1, false
	default:
		return 0, false // they cannot be compared
	}
	mean := (a.PeriodMs + b.PeriodMs) / 2
	d := math.Log(a.PeriodMs / b.PeriodMs)
	span := min(max(a.CadenceMs, b.CadenceMs)*maxPoints, WindowMs+MinuteMs)
	sd := max(0.3*mean/span, 5e-4)
	normal := func(sd float64) float64 { return math.Exp(-d*d/(2*sd*sd)) / (sd * math.Sqrt(2*math.Pi)) }
	if math.Abs(d) > 4*sd {
		for m := 2.0; m <= 4; m++ { // one of them shows a part of the step
			if math.Abs(math.Abs(d)-math.Log(m)) < 4*sd {
				return 0, false
			}
		}
	}
	one := 0.9*normal(sd) + 0.1/octaves
	two := (1-same)/octaves + same*normal(math.Hypot(sd, recipeSD))
	return math.Log(one / two), math.Abs(d) < 4*sd
}

// falls compares when loads fell.
func (t *Together) falls(a, b []moment, common map[int64]float64) float64 {
	fa, fb := dips(a), dips(b)
	if len(fa)+len(fb) == 0 {
		return 0
	}
	both := map[int64]bool{}
	has := map[int64]bool{}
	for i := range a {
		has[a[i].fromMs] = !math.IsNaN(a[i].load)
	}
	for i := range b {
		if has[b[i].fromMs] && !math.IsNaN(b[i].load) {
			both[b[i].fromMs] = true
		}
	}
	n := float64(len(both))
	if n < 10 {
		return 0
	}
	near := func(falls map[int64]bool, at int64) bool {
		return falls[at] || falls[at-MinuteMs] || falls[at+MinuteMs]
	}
	times := make([]int64, 0, len(fa)+len(fb))
	for at := range fa {
		times = append(times, at)
	}
	for at := range fb {
		if !near(fa, at) {
			times = append(times, at)
		}
	}
	slices.Sort(times)
	odds := 0.0
	for _, at := range times {
		if !both[at] {
			continue
		}
		other, inA := fb, fa[at]
		if !inA {
			other = fa
		}
		chance := min(3*(float64(len(other))+0.5)/(n+1), 0.9)
		if c := common[at]; c > chance {
			chance = min(c, 0.9)
		}
		if inA && near(fb, at) {
			t.Dips++
			odds += min(math.Log(0.9/chance), 3)
		} else {
			t.Lone++
			odds += max(math.Log(0.1/(1-chance)), -2.5)
		}
	}
	return odds
}

// foldsOnto reports whether samples at a cadence cannot tell the first period from the second.
func foldsOnto(ms, seenMs, cadenceMs float64) bool {
	f := math.Abs(math.Remainder(cadenceMs/ms, 1))
	return math.Abs(f-cadenceMs/seenMs) < 0.02*max(f, 0.02)+0.002
}
