package feature

import "math"

// The signals in which the rhythm of a GPU is looked for, in the order in which they are believed: links move when ranks
// meet, pipes when they compute, and the board's watts follow both. Of each line the first that was measured is taken.
var rhythmic = [...][]Signal{
	{NVLinkTxBps, NVLinkRxBps},
	{TensorFrac, SMActiveFrac, UtilFrac},
	{PCIeTxBps, PCIeRxBps},
	{PowerW},
}

// rhythmOf finds the rhythm of a GPU in the rows of the window, sorted and without repeats.
func (c *GPUCell) rhythmOf(rows []GPUSample) {
	for i := 0; i < len(rhythmic); i += 2 {
		var tracks [2]track
		var of [2]Signal
		n := 0
		for _, signals := range rhythmic[i:min(i+2, len(rhythmic))] {
			for _, s := range signals {
				if c.CoverMs[s] == 0 || c.SD[s] == 0 && still(rows, s) {
					continue
				}
				var beside []int64
				if n > 0 {
					beside = tracks[0].ts
				}
				if t, ok := trackOf(rows, s, beside); ok {
					tracks[n], of[n] = t, s
					n++
					break
				}
			}
		}
		if p, at := rhythm(tracks[:n], c.MinuteMs); at >= 0 {
			c.Rhythm, c.RhythmOf = p.rounded(), of[at]
			return
		}
	}
}

// still says that a signal stands, as far as some of the rows tell: of a GPU that idles all do.
func still(rows []GPUSample, s Signal) bool {
	const every = 13
	for i := every; i < len(rows); i += every {
		if a, b := rows[i-every].Value[s], rows[i].Value[s]; a != b {
			return false
		}
	}
	return true
}

// trackOf is a signal over the rows; not ok where it is too short, or nothing moves. beside is times of another signal,
// which it has too where they are the same: most rows have all signals.
func trackOf(rows []GPUSample, s Signal, beside []int64) (t track, ok bool) {
	t = track{v: make([]float64, 0, len(rows)), since: s != PowerW}
	shared := len(beside) > 0
	if !shared {
		t.ts = make([]int64, 0, len(rows))
	}
	least, most := math.Inf(1), math.Inf(-1)
	for i := range rows {
		x, ts := rows[i].Value[s], rows[i].TsMs
		if math.IsNaN(x) {
			continue
		}
		if shared && (len(t.v) >= len(beside) || beside[len(t.v)] != ts) {
			t.ts, shared = append(make([]int64, 0, len(rows)), beside[:len(t.v)]...), false
		}
		if !shared {
			t.ts = append(t.ts, ts)
		}
		t.v = append(t.v, x)
		if x < least {
			least = x
		}
		if x > most {
			most = x
		}
	}
	if shared {
		t.ts = beside[:len(t.v)]
	}
	return t, len(t.v) >= leastPoints && most > least && !math.IsInf(most, 0) && !math.IsInf(least, 0)
}

// rounded leaves out digits that mean nothing, so that a column of cells packs well.
func (p Peak) rounded() Peak {
	p.PeriodMs, p.CrestMs = math.Round(p.PeriodMs*100)/100, math.Round(p.CrestMs*10)/10
	p.Power, p.CadenceMs = math.Round(p.Power*1000)/1000, math.Round(p.CadenceMs*10)/10
	return p
}
