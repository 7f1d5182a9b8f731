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
	var tracks [len(rhythmic)]track
	var of [len(rhythmic)]Signal
	n := 0
	ts, v := make([]int64, 0, len(rhythmic)*len(rows)), make([]float64, 0, len(rhythmic)*len(rows))
	for _, signals := range rhythmic {
		for _, s := range signals {
			if c.CoverMs[s] == 0 {
				continue
			}
			from := len(ts)
			least, most := math.Inf(1), math.Inf(-1)
			for i := range rows {
				if x := rows[i].Value[s]; !math.IsNaN(x) {
					ts, v = append(ts, rows[i].TsMs), append(v, x)
					least, most = min(least, x), max(most, x)
				}
			}
			if len(ts)-from >= leastPoints && most > least && !math.IsInf(most, 0) && !math.IsInf(least, 0) {
				tracks[n], of[n] = track{ts[from:], v[from:], s != PowerW}, s
				n++
				break
			}
			ts, v = ts[:from], v[:from]
		}
	}
	if n == 0 {
		return
	}
	if p, at := rhythm(tracks[:n], c.MinuteMs); at >= 0 {
		c.Rhythm, c.RhythmOf = p.rounded(), of[at]
	}
}

// rounded leaves out digits that mean nothing, so that a column of cells packs well.
func (p Peak) rounded() Peak {
	p.PeriodMs, p.CrestMs = math.Round(p.PeriodMs*100)/100, math.Round(p.CrestMs*10)/10
	p.Power, p.CadenceMs = math.Round(p.Power*1000)/1000, math.Round(p.CadenceMs*10)/10
	return p
}
