package run

import "slices"

const (
	// blinkMs is the longest rest of a GPU beside others that went on: its program lies
	// between two samples of theirs.
	blinkMs = 3 * minuteMs
	// abreastMs is how far apart spans of one program may begin on one host.
	abreastMs = 2 * minuteMs
)

// evenOut settles short rests that only some of the GPUs of a host show which began together:
// the sampling of each decides whether a pause of a minute is seen. What most of them show holds
// for all. The resumption is settled when it comes, by what was seen until then.
func evenOut(of [][]span) {
	if len(of) < 2 {
		return
	}
	for g := range of {
		for n := 1; n < len(of[g]); n++ {
			x, y := of[g][n-1], of[g][n]
			if y.start-x.end > blinkMs {
				continue
			}
			through, broken := 0, 0
			for h := range of {
				z, ok := abreast(of[h], x)
				switch {
				case h == g || !ok:
				case z.end > y.start:
					through++
				default:
					broken++
				}
			}
			if through > broken {
				of[g][n-1].end = y.end
				of[g] = slices.Delete(of[g], n, n+1)
				n--
			}
		}
	}
	for g := range of {
		for n := 0; n < len(of[g]); n++ {
			z := of[g][n]
			var ends, starts []int64
			peers := 0
			for h := range of {
				i := slices.IndexFunc(of[h], func(s span) bool { return absMs(s.start-z.start) <= abreastMs })
				if h == g || i < 0 {
					continue
				}
				peers++
				if x := of[h][i]; i+1 < len(of[h]) && x.end < z.end {
					if y := of[h][i+1]; y.start-x.end <= pauseMs && y.start < z.end {
						ends, starts = append(ends, x.end), append(starts, y.start)
					}
				}
			}
			if 2*len(starts) <= peers+1 {
				continue
			}
			slices.Sort(ends)
			slices.Sort(starts)
			k := (peers + 1) / 2 // the resumption by which most had rested
			if k >= len(starts) || starts[k] >= z.end || ends[0] <= z.start || ends[0] > starts[k] {
				continue
			}
			of[g][n].end = ends[0]
			of[g] = slices.Insert(of[g], n+1, span{starts[k], z.end})
		}
	}
}

// abreast is the span that began with x.
func abreast(spans []span, x span) (span, bool) {
	for _, s := range spans {
		if absMs(s.start-x.start) <= abreastMs {
			return s, true
		}
	}
	return span{}, false
}
