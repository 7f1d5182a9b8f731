package forecast

import (
	"math"
	"slices"
)

const (
	weekMs      = 7 * dayMs
	usualOn     = 0.92       // share of the calendar in which published trainings went on
	usualWeight = 3 * hourMs // what that is worth beside the run's own calendar
	usualGapMs  = 0.75 * hourMs
	driftSD     = 0.05 // of the level over ten days: longer sequences, slower nodes, heat
	growthSD    = 0.15 // a run that was scaled up once may be again
)

// pace is how a run goes on: its level while it goes, and what interruptions take of the
// calendar.
type pace struct {
	level, levelSD float64 // FLOP a millisecond of going on; spread of the logarithm
	on             float64 // share of the calendar
	lostPerMs      float64 // interruptions a millisecond x their mean square length, in milliseconds
	steps          int     // changes of the level upwards
}

// paceOf reads it off the series: the level from the last day, or the last hour where that
// differs by more than the level's own noise; interruptions from the last week.
func paceOf(in Input) pace {
	from := max(in.NowMs-weekMs, in.StartMs)
	age := in.NowMs - from
	if age <= 0 {
		return pace{}
	}
	bin := int64(5 * 60_000)
	if age > 2*dayMs {
		bin = 15 * 60_000
	}
	bin = min(bin, max(age/4, 60_000))
	var rates []float64
	before := at(in.Series, in.StartMs, from)
	for t := from; t < in.NowMs; t += bin {
		end := min(t+bin, in.NowMs)
		now := at(in.Series, in.StartMs, end)
		if end-t >= bin/2 {
			rates = append(rates, max(now-before, 0)/float64(end-t))
		}
		before = now
	}
	if len(rates) == 0 {
		return pace{}
	}
	day := rates[max(0, len(rates)-int(dayMs/bin)):]
	high := quantileOf(day, 0.8)
	if high <= 0 {
		high = quantileOf(rates, 0.8)
	}
	if high <= 0 {
		return pace{}
	}
	p := pace{}
	going := goingOn(day, high)
	if len(going) == 0 { // it stands still for a day
		going = goingOn(rates, high)
	}
	p.level = quantileOf(going, 0.5)
	noise := spreadOf(going, p.level)
	p.levelSD = math.Hypot(0.02, noise/math.Sqrt(float64(len(going))))
	// A step: the last hour is another level than the day before it.
	if hour := int(hourMs / bin); hour >= 2 && len(day) > hour {
		recent, earlier := goingOn(day[len(day)-hour:], high), goingOn(day[:len(day)-hour], high)
		if len(recent) >= 3 && len(earlier) >= 3 {
			r, e := quantileOf(recent, 0.5), quantileOf(earlier, 0.5)
			if math.Abs(math.Log(r/e)) > math.Max(0.08, 3*noiseOf(recent, earlier, r, e)) {
				p.level = r
				p.levelSD = math.Hypot(0.04, noiseOf(recent, recent, r, r)/math.Sqrt(float64(len(recent))))
				if r > e {
					p.steps++
				}
			}
		}
	}
	p.interruptions(rates, bin)
	return p
}

// interruptions counts stretches below half of the level that was usual around them.
func (p *pace) interruptions(rates []float64, bin int64) {
	var lost, squares, gap float64
	flush := func() {
		lost += gap
		squares += gap * gap
		gap = 0
	}
	for i := range rates {
		// the level around: runs that were scaled up were not interrupted before
		lo, hi := max(0, i-24), min(len(rates), i+25)
		usual := quantileOf(rates[lo:hi], 0.8)
		if usual > 0 && rates[i] < 0.5*usual {
			gap += (1 - rates[i]/usual) * float64(bin)
			continue
		}
		flush()
	}
	flush()
	total := float64(len(rates)) * float64(bin)
	p.on = (total - lost + usualOn*usualWeight) / (total + usualWeight)
	p.lostPerMs = (squares + (1-usualOn)*usualWeight*usualGapMs) / (total + usualWeight)
}

// outlook returns the calendar rate to expect until so much is done, and the spreads of its
// logarithm downwards and upwards.
func (p *pace) outlook(missing float64) (rate, down, up float64) {
	rate = p.level * p.on
	if rate <= 0 {
		return 0, 0, 0
	}
	horizon := missing / rate
	// Time lost to interruptions over the horizon: their number is Poisson's, so that the
	// variance of their sum is number x mean square.
	lostSD := math.Sqrt(p.lostPerMs*horizon) / math.Max(horizon*p.on, 1)
	drift := driftSD * math.Sqrt(math.Min(horizon/(10*dayMs), 4))
	down = math.Sqrt(p.levelSD*p.levelSD + math.Min(lostSD, 0.7)*math.Min(lostSD, 0.7) + drift*drift)
	up = math.Hypot(math.Hypot(p.levelSD, math.Min(lostSD, (1-p.on)/p.on+0.02)), drift)
	if p.steps > 0 {
		up = math.Hypot(up, growthSD)
	}
	return rate, down, up
}

func goingOn(rates []float64, high float64) []float64 {
	out := make([]float64, 0, len(rates))
	for _, r := range rates {
		if r > 0.5*high {
			out = append(out, r)
		}
	}
	return out
}

func noiseOf(a, b []float64, levelA, levelB float64) float64 {
	return math.Max(spreadOf(a, levelA), spreadOf(b, levelB))
}

// spreadOf is the median distance of logarithms from that of the level, as a standard deviation.
func spreadOf(rates []float64, level float64) float64 {
	var off []float64
	for _, r := range rates {
		if r > 0 && level > 0 {
			off = append(off, math.Abs(math.Log(r/level)))
		}
	}
	if len(off) == 0 {
		return 0
	}
	return 1.48 * quantileOf(off, 0.5)
}

func quantileOf(of []float64, q float64) float64 {
	if len(of) == 0 {
		return 0
	}
	s := slices.Clone(of)
	slices.Sort(s)
	return s[min(int(q*float64(len(s))), len(s)-1)]
}
