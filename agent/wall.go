package agent

// wallTimes keeps the wall times of ticks apart when the clock is set back: the time that it lives
// through again has been given to other samples, and the store takes two rows of one GPU and one
// moment for the same row. What was given longer ago than the ring reaches, or before a restart, is
// not known.
type wallTimes struct {
	ring [wallRing]int64
	n    int   // given so far
	high int64 // the latest
}

const (
	wallRing = 8192 // two hours of ticks a second, at 64 KiB
	// apartMs is how far ticks stay apart: rows have the tick's time and the milliseconds that
	// their reading took. mostMs is how far a tick is moved at most.
	apartMs, mostMs = 25, 150
)

// take returns the time that a tick gets: its own, or one just behind it.
func (w *wallTimes) take(wall int64) int64 {
	if wall <= w.high+apartMs && w.n > 0 { // it has been here
		for at := wall; at <= wall+mostMs; at += apartMs {
			if w.free(at) {
				wall = at
				break
			}
		}
	}
	w.ring[w.n%wallRing] = wall
	w.n++
	w.high = max(w.high, wall)
	return wall
}

func (w *wallTimes) free(at int64) bool {
	for _, given := range w.ring[:min(w.n, wallRing)] {
		if d := at - given; -apartMs < d && d < apartMs {
			return false
		}
	}
	return true
}
