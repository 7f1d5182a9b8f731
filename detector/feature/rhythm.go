package feature

import (
	"math"
	"math/bits"
)

// A rhythm is looked for in the rows of a cell's window. What is demanded is demanded of the strongest line of the
// spectrum beside what its neighbours have by chance, so that neither noise of any colour nor the size of a signal
// matters.
const (
	leastPoints   = 10   // of a series
	fewPoints     = 40   // fewer are held against white noise: too few neighbours
	goesOn        = 0.35 // of its amplitude that a line has at the end of the series, and before
	leastPower    = 0.05 // of the variance that it has
	leastCycles   = 4    // of a period within the series
	lineOverNoise = 18   // a line of noise is this strong once in 1e-6
)

// track is one signal over a window, oldest first, at the times at which it was measured.
type track struct {
	ts []int64
	v  []float64
	// since says that a value describes the time since the one before, as rates do; else it is a moment's.
	since bool
}

// grid is a track at even times: bins of dtMs that end with the last value.
type grid struct {
	dtMs     float64
	endMs    int64 // time of the last point
	n        int
	size     int // n, or the power of two above it
	jitter   float64
	v        [maxPoints]float64 // around their trend, 0 where nothing was measured
	variance float64
	level    float64 // mean before the trend was taken off
}

// octave numbers the intervals of a track: four to an octave.
func octave(ms int64) int {
	e := bits.Len64(uint64(ms)) - 1
	return 4*e + int(uint64(ms)<<2>>e)&3
}

// cadences returns the interval of a track's usual rows, and that of its densest where bursts lie between them, else
// the same again; 0: too few rows.
func cadences(ts []int64) (usual, dense float64) {
	var count, sum [4 * 24]int64
	most := int64(0)
	for i := 1; i < len(ts); i++ {
		if d := ts[i] - ts[i-1]; d > 0 && d <= maxCapMs {
			k := octave(d)
			count[k]++
			sum[k] += d
			most++
		}
	}
	if most < leastPoints-1 {
		return 0, 0
	}
	at, first, longest := 0, -1, int64(0)
	for k := range len(count) - 1 {
		if both := sum[k] + sum[k+1]; both > longest {
			at, longest = k, both
		}
		if first < 0 && count[k]+count[k+1] >= max(burstPoints, most/20) {
			first = k
		}
	}
	mean := func(k int) float64 { // with what jitter puts beside
		n, ms := int64(0), int64(0)
		for j := max(k-1, 0); j <= min(k+2, len(count)-1); j++ {
			n, ms = n+count[j], ms+sum[j]
		}
		return float64(ms) / float64(n)
	}
	usual = mean(at)
	if first >= 0 {
		dense = mean(first)
	}
	if dense == 0 || dense*1.6 > usual {
		dense = usual
	}
	return usual, dense
}

// burstPoints is how many rows a burst has at least.
const burstPoints = 64

// lastBurst cuts the last run of rows that follow each other as densely.
func (t track) lastBurst(dtMs float64) track {
	hi := len(t.ts)
	for hi >= burstPoints {
		lo := hi - 1
		for lo > 0 && float64(t.ts[lo]-t.ts[lo-1]) < 2.5*dtMs {
			lo--
		}
		if hi-lo >= burstPoints {
			return track{t.ts[lo:hi], t.v[lo:hi], t.since}
		}
		hi = lo
	}
	return track{}
}

// fill puts a track on even times. It returns false where there is too little, or nothing moves.
func (g *grid) fill(t track, dtMs float64) bool {
	n := len(t.ts)
	if n < leastPoints || !(dtMs > 0) {
		return false
	}
	end := t.ts[n-1]
	points := int(math.Min(float64(end-t.ts[0])/dtMs+1.5, maxPoints))
	if points < leastPoints {
		return false
	}
	g.dtMs, g.endMs, g.n = dtMs, end, points
	g.size = 1 << bits.Len(uint(points-1))
	if half := g.size / 2; points <= half+half/8 {
		g.size, g.n = half, half
	}
	var count [maxPoints]int32
	clear(g.v[:])
	peak := 0.0
	for i := n - 1; i >= 0; i-- {
		back := float64(end-t.ts[i]) / dtMs
		at := g.n - 1 - int(back+0.5)
		if at < 0 {
			break
		}
		off := back - math.Floor(back+0.5)
		g.jitter += off * off
		g.v[at] += t.v[i]
		count[at]++
		peak = math.Max(peak, math.Abs(t.v[i]))
	}
	if !(peak > 0) || peak > math.MaxFloat64/1e6 {
		return false
	}
	filled, gap := 0, -1
	var sx, sy, sxx, sxy float64
	for i := range g.n {
		if count[i] == 0 {
			continue
		}
		g.v[i] /= float64(count[i]) * peak
		if gap >= 0 && gap == i-2 { // one that fell beside its place
			g.v[gap+1] = (g.v[gap] + g.v[i]) / 2
			count[gap+1] = 1
		}
		gap = i
	}
	for i := range g.n {
		if count[i] > 0 {
			x := float64(i)
			sx, sy, sxx, sxy = sx+x, sy+g.v[i], sxx+x*x, sxy+x*g.v[i]
			filled++
		}
	}
	if filled < leastPoints || filled < g.n/3 {
		return false
	}
	w := float64(filled)
	slope := 0.0
	if d := w*sxx - sx*sx; d > 0 {
		slope = (w*sxy - sx*sy) / d
	}
	base := (sy - slope*sx) / w
	g.level = sy / w
	g.jitter = math.Sqrt(g.jitter / float64(n))
	for i := range g.n {
		if count[i] == 0 {
			g.v[i] = 0
			continue
		}
		g.v[i] -= base + slope*float64(i)
		g.variance += g.v[i] * g.v[i]
	}
	g.variance /= w
	return g.variance > 1e-12*(1+g.level*g.level)
}

// spectra gives the power of one or two grids at size/2 frequencies; b may be nil. Of few points nothing is tapered, so
// that what a line has of the variance can be told.
func spectra(a, b *grid, few bool, pa, pb *[maxPoints / 2]float64) (size int) {
	size = a.size
	if b != nil {
		size = max(size, b.size)
	}
	if few {
		size = min(4*size, maxPoints)
	}
	var re, im [maxPoints]float64
	a.taper(re[:size], few)
	if b != nil {
		b.taper(im[:size], few)
	}
	transform(re[:size], im[:size])
	halves(re[:size], im[:size], pa[:], pb[:])
	return size
}

// taper copies the points under a Hann window.
func (g *grid) taper(out []float64, flat bool) {
	if flat {
		copy(out, g.v[:g.n])
		return
	}
	turn(1/float64(g.n), 0.5, func(i int, c, _ float64) { out[i] = g.v[i] * (1 - c) }, g.n)
}

// turn calls f with cosine and sine of 2 pi freq (i + from) for i of n.
func turn(freq, from float64, f func(i int, c, s float64), n int) {
	s, c := math.Sincos(2 * math.Pi * freq * from)
	ds, dc := math.Sincos(2 * math.Pi * freq)
	for i := range n {
		f(i, c, s)
		c, s = c*dc-s*ds, c*ds+s*dc
	}
}

// at is the Hann-tapered sum of the points [lo, hi) at a frequency in cycles a point, so scaled that a cosine of
// amplitude A gives A/2; the phase is that at point 0.
func (g *grid) at(freq float64, lo, hi int) (re, im float64) {
	n := hi - lo
	s, c := math.Sincos(2 * math.Pi * freq * float64(lo))
	ds, dc := math.Sincos(2 * math.Pi * freq)
	ws, wc := math.Sincos(math.Pi / float64(n))
	dws, dwc := math.Sincos(2 * math.Pi / float64(n))
	for _, v := range g.v[lo:hi] {
		w := v * (1 - wc)
		re, im = re+w*c, im-w*s
		c, s = c*dc-s*ds, c*ds+s*dc
		wc, ws = wc*dwc-ws*dws, wc*dws+ws*dwc
	}
	return re / float64(n), im / float64(n)
}

// noise gives what each frequency would have by chance, from the lower powers of its neighbourhood: lines, of which a
// comb may have many, are not among these.
func noise(p []float64, from int, bg *[maxPoints / 2]float64) {
	const share, ofMean = 0.3, 0.35667 // of exponentially distributed powers, that share is below that part of the mean
	var scratch [maxPoints / 2]float64
	prev, prevAt := 0.0, -1.0
	for lo := from; lo < len(p); {
		hi := min(max(2*lo, lo+8), len(p))
		if len(p)-hi < hi-lo && len(p)-hi < 16 {
			hi = len(p)
		}
		band := scratch[:copy(scratch[:], p[lo:hi])]
		level := choose(band, int(share*float64(len(band)))) / ofMean
		at := float64(lo+hi-1) / 2
		for k := lo; k < hi; k++ {
			bg[k] = level
		}
		if prevAt >= 0 { // between the middles of two bands
			for k := int(prevAt) + 1; float64(k) < at; k++ {
				x := (float64(k) - prevAt) / (at - prevAt)
				bg[k] = prev + x*(level-prev)
			}
		}
		prev, prevAt = level, at
		lo = hi
	}
}

// line finds the strongest line of a spectrum. It returns its frequency in cycles a point, and how many of it make the
// whole period: the strongest line may be a multiple.
func (g *grid) line(p []float64, size int, few bool) (freq float64, parts int, ok bool) {
	from := max(int(math.Ceil(leastCycles*float64(size)/float64(g.n))), 2)
	if few {
		return g.lineOfFew(p, size, from)
	}
	var bg [maxPoints / 2]float64
	noise(p, max(size/g.n, 1)*2, &bg)
	top, best := -1, 0.0
	for k := from; k < len(p)-1; k++ {
		if p[k] > best*bg[k] && p[k] >= p[k-1] && p[k] >= p[k+1] && bg[k] > 0 {
			top, best = k, p[k]/bg[k]
		}
	}
	if top < 0 {
		return 0, 0, false
	}
	cycles := float64(top*g.n) / float64(size)
	need := lineOverNoise * (1 + 6/cycles) // there are fewer neighbours of a long period, and noise has more of it
	if n := float64(g.n); 12*p[top] > n*n*g.variance {
		need /= 1.6 // it is a good part of all that moves
	}
	if best < need {
		return 0, 0, false
	}
	for k := from; k < len(p)-1; k++ { // of lines that stand out as much the one with most power
		if p[k] > p[top] && p[k] >= p[k-1] && p[k] >= p[k+1] && p[k] > max(best/4, need)*bg[k] {
			top = k
		}
	}
	at := float64(top) + apex(p[top-1], p[top], p[top+1])
	return at / float64(size), whole(p, &bg, at, from), true
}

// apex is where between its neighbours a line stands.
func apex(l, m, r float64) float64 {
	a, b, c := math.Log(l+1e-300), math.Log(m+1e-300), math.Log(r+1e-300)
	if d := a - 2*b + c; d < 0 {
		return min(max((a-c)/(2*d), -0.5), 0.5)
	}
	return 0
}

// whole says of how many parts a period consists whose strongest line is at bin at: lines between the multiples of
// it, at multiples of a part of it, tell.
func whole(p []float64, bg *[maxPoints / 2]float64, at float64, from int) int {
	mid := int(at + 0.5)
	top := p[mid]
	wide := 1 // steps do not last the same to the millisecond: how many bins the line has to either side
	for ; wide < 40; wide++ {
		lo, hi := max(mid-wide-1, 0), min(mid+wide+1, len(p)-1)
		if p[lo] < 12*bg[lo] && p[hi] < 12*bg[hi] {
			break
		}
	}
	// Multiples of the line itself are where the sampling puts them: the more seldom, the stronger they may be, and as much
	// wider than it.
	var own [maxPoints / 2]float64
	n := float64(2 * len(p))
	for j := 24; j > 1; j-- {
		f := math.Mod(at*float64(j), n)
		f = min(f, n-f)
		half := 0.5 + float64((wide-1)*j)
		for k := max(int(f-half), 0); k <= min(int(f+half+1), len(p)-1); k++ {
			own[k] = max(own[k], 10*top/float64(j*j))
		}
	}
	best, parts := math.Log(1e-5), 1
	for m := 2; m <= 16 && at/float64(m) >= float64(from); m++ {
		f := at / float64(m)
		sum, terms, strong := 0.0, 0, false
		for h := 1; h <= 3*m && h*int(f) < len(p)-1; h++ {
			x := f * float64(h)
			k := int(x + 0.5)
			if h%m == 0 || k >= len(p)-1 {
				continue
			}
			if p[k] < own[k] || math.Abs(x-at) < float64(wide+2) {
				continue
			}
			strong = strong || p[k] > 12*bg[k] && p[k] > top/50
			sum += min(p[k]/bg[k], 40)
			terms++
		}
		if !strong {
			continue
		}
		if l := gammaTail(sum, terms); l < best-1e-9 {
			best, parts = l, m
		}
	}
	return parts
}

// gammaTail is the logarithm of how likely the sum of n exponential powers is at least s, where that is little.
func gammaTail(s float64, n int) float64 {
	if s <= float64(n)+1 {
		return 0
	}
	lg, _ := math.Lgamma(float64(n))
	return min(-s+float64(n-1)*math.Log(s)-lg-math.Log(1-float64(n-1)/s), 0)
}

// lineOfFew does without neighbours: noise is white, and the share of the variance tells.
func (g *grid) lineOfFew(p []float64, size, from int) (freq float64, parts int, ok bool) {
	top := -1
	for k := from; k < len(p)-1; k++ {
		if p[k] >= p[k-1] && p[k] >= p[k+1] && (top < 0 || p[k] > p[top]) {
			top = k
		}
	}
	if top < 0 {
		return 0, 0, false
	}
	n := float64(g.n)
	share := min(2*p[top]/(n*n*g.variance), 1)
	if chance := n / 2 * math.Pow(1-share, (n-4)/2); chance > 1e-5 {
		return 0, 0, false
	}
	return (float64(top) + apex(p[top-1], p[top], p[top+1])) / float64(size), 1, true
}

// peak makes a line a Peak. It returns false where the line does not go on to the end of the series.
func (g *grid) peak(freq float64, parts int, since, few bool) (Peak, bool) {
	n := g.n
	half := n / 2
	r1, i1 := g.at(freq, 0, half)
	r2, i2 := g.at(freq, n-half, n)
	if parts > 1 || freq*float64(half) >= 2 {
		turned := math.Remainder(math.Atan2(i2, r2)-math.Atan2(i1, r1), 2*math.Pi)
		fine := freq + turned/(2*math.Pi*float64(n-half))
		if math.Abs(fine-freq)*float64(n) < 0.8 && fine > 0 {
			freq = fine
		}
	}
	amp := func(f float64, lo, hi int) float64 { return 2 * math.Hypot(g.at(f, lo, hi)) }
	all := amp(freq, 0, n)
	tail := min(max(n/4, int(2/freq)), n)
	if amp(freq, n-tail, n) < goesOn*all || !few && amp(freq, 0, n-tail) < goesOn*all {
		return Peak{}, false
	}
	base := freq / float64(parts)
	re, im := g.at(base, 0, n)
	power := 2 * (re*re + im*im)
	for h := 2; h <= max(2*parts, 3) && base*float64(h) < 0.5; h++ {
		a := all
		if h != parts {
			a = amp(base*float64(h), 0, n)
		}
		power += a * a / 2
	}
	if power < leastPower*g.variance {
		return Peak{}, false
	}
	crest := -math.Atan2(im, re) / (2 * math.Pi * base) // points after the first
	at := (crest - float64(n-1)) * g.dtMs               // ms after the last
	if since {
		at -= g.dtMs / 2
	}
	p := Peak{PeriodMs: g.dtMs / base, Power: min(power/g.variance, 1), CrestMs: at + float64(g.endMs), CadenceMs: g.dtMs}
	// What is faster than the samples is averaged away by rates, the less the nearer it comes to them; the deepest that a
	// thing which is never negative can swing is twice its mean, and half as much again where its harmonics fold onto it.
	x := math.Pi * (1 - freq)
	p.Folded = g.dtMs > denseMs && !(since && all > 3*math.Sin(x)/x*g.level)
	return p, true
}

const (
	denseMs = 130                                               // samples as dense as this fold no step of a training
	wideMs  = (WindowMs + MinuteMs + maxPoints - 1) / maxPoints // so wide bins hold a whole window
)

// rhythm looks for the period of one or two tracks, which come in the order in which they are believed. It returns the
// number of the one that shows it, or -1.
func rhythm(tracks []track, minuteMs int64) (Peak, int) {
	if len(tracks) == 0 {
		return Peak{}, -1
	}
	p, at := rhythmOfTwo(tracks)
	if at < 0 {
		return Peak{}, -1
	}
	if p.CrestMs = math.Mod(p.CrestMs-float64(minuteMs), p.PeriodMs); p.CrestMs < 0 {
		p.CrestMs += p.PeriodMs
	}
	return p, at
}

func rhythmOfTwo(tracks []track) (Peak, int) {
	var usual, dense [2]float64
	for i, t := range tracks {
		if i > 0 && len(t.ts) == len(tracks[0].ts) && &t.ts[0] == &tracks[0].ts[0] {
			usual[i], dense[i] = usual[0], dense[0]
			continue
		}
		usual[i], dense[i] = cadences(t.ts)
		if n := len(t.ts); n > 0 {
			if span := float64(t.ts[n-1] - t.ts[0]); span > 1.3*maxPoints*usual[i] { // denser than one series can hold
				dense[i], usual[i] = min(dense[i], usual[i]), max(usual[i], wideMs)
			}
		}
	}
	var slow, fast [2]Peak
	look(tracks, usual, &slow)
	var bursts [2]track
	any := false
	for i, t := range tracks {
		if dense[i] < usual[i] {
			bursts[i] = t.lastBurst(dense[i])
			any = any || len(bursts[i].ts) > 0
		}
	}
	if any {
		look(bursts[:len(tracks)], dense, &fast)
	}
	for i := range tracks {
		if p := both(slow[i], fast[i], bursts[i].spanMs()); p.PeriodMs > 0 {
			return p, i
		}
	}
	return Peak{}, -1
}

// both joins what all rows show and what the last burst of dense ones does, which lasts burstMs: what is short enough
// to be seen in it is its to say.
func both(slow, fast Peak, burstMs float64) Peak {
	switch {
	case slow.PeriodMs == 0 || fast.PeriodMs > 0 && (slow.PeriodMs < burstMs/leastCycles || slow.Power < 0.5 && fast.foldsOnto(slow)):
		return fast
	case fast.PeriodMs > 0:
		slow.Folded = false
	case burstMs > 0:
		slow.Folded = slow.Folded && slow.PeriodMs < burstMs/leastCycles
	}
	return slow
}

// foldsOnto reports whether one of the first multiples of a period's frequency may be what slower samples show as another.
func (p Peak) foldsOnto(seen Peak) bool {
	for h := 1.0; h <= 8; h++ {
		if foldsOnto(p.PeriodMs/h, seen.PeriodMs, seen.CadenceMs) {
			return true
		}
	}
	return false
}

func (t track) spanMs() float64 {
	if len(t.ts) == 0 {
		return 0
	}
	return float64(t.ts[len(t.ts)-1] - t.ts[0])
}

// look fills in the peaks of one or two tracks.
func look(tracks []track, dtMs [2]float64, out *[2]Peak) {
	var g [2]grid
	var has [2]bool
	var few [2]bool
	for i, t := range tracks {
		has[i] = g[i].fill(t, dtMs[i])
		few[i] = g[i].n < fewPoints
	}
	var p [2][maxPoints / 2]float64
	var size [2]int
	switch {
	case has[0] && has[1] && few[0] == few[1]:
		size[0] = spectra(&g[0], &g[1], few[0], &p[0], &p[1])
		size[1] = size[0]
	default:
		var none [maxPoints / 2]float64
		for i := range has {
			if has[i] {
				size[i] = spectra(&g[i], nil, few[i], &p[i], &none)
			}
		}
	}
	for i := range has {
		if !has[i] {
			continue
		}
		if freq, parts, ok := g[i].line(p[i][:size[i]/2], size[i], few[i]); ok {
			if found, on := g[i].peak(freq, parts, tracks[i].since, few[i]); on {
				out[i] = found
			}
		}
	}
}
