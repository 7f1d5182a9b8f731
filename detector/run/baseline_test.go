package run

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// rest is what a GPU shows without work, work what it shows with it. NaN: not measured.
type rest struct{ mem, watts, mhz, util float64 }

func cellsOf(minutes int64, at func(m int64) rest, noise float64, seed uint64) []feature.GPUCell {
	rng := rand.New(rand.NewPCG(seed, 1))
	var out []feature.GPUCell
	for m := range minutes {
		c := feature.GPUCell{Node: "a", MinuteMs: m * minuteMs, Samples: 4}
		r := at(m)
		for s, v := range map[feature.Signal]float64{feature.MemUsedBytes: r.mem, feature.PowerW: r.watts, feature.SMClockMHz: r.mhz, feature.UtilFrac: r.util} {
			if !math.IsNaN(v) {
				c.Mean[s], c.CoverMs[s] = v*(1+noise*(rng.Float64()-0.5)), minuteMs
			}
		}
		out = append(out, c)
	}
	return out
}

func unknown(int64) float64 { return math.NaN() }

// Whatever a GPU shows at rest, its use is found, and nothing else: 10 to 40 and 46 to 80.
func TestUseStandsOutFromEachGPUsOwnRest(t *testing.T) {
	nan := math.NaN()
	for _, base := range []float64{0, 0.02e9, 0.5e9, 0.9e9, 2.1e9, 2.9e9} {
		for _, jump := range []float64{0.35e9, 4e9, 60e9} {
			for _, mhz := range [][2]float64{{345, 1800}, {1980, 1700}, {nan, nan}} {
				for _, watts := range [][2]float64{{12, 60}, {33, 70}, {75, 640}, {130, 420}, {nan, nan}} {
					for _, tdp := range []float64{0, 72, 700} {
						if tdp > 0 && (watts[1] > 1.1*tdp || watts[1] < 0.5*tdp) {
							continue
						}
						for _, residue := range []float64{0, 0.04} {
							quiet := func(m int64) rest {
								r := rest{base, watts[0], mhz[0], 0}
								if m >= 40 {
									r.mem += residue * jump
								}
								return r
							}
							cells := cellsOf(100, func(m int64) rest {
								if (m >= 10 && m < 40) || (m >= 46 && m < 80) {
									r := rest{base + jump, watts[1], mhz[1], 0.9}
									if m%11 == 0 { // a stall
										r.util, r.watts = 0, watts[0]*1.3
									}
									return r
								}
								return quiet(m)
							}, 0.02, uint64(base+jump))
							name := fmt.Sprintf("rest %.2g GB, job %.2g GB, %v MHz, %v W of %v, residue %v", base/1e9, jump/1e9, mhz, watts, tdp, residue)
							got := heldSpans(cells, tdp, unknown)
							// What stays behind a program is told from it after the time of a stall.
							if len(got) != 2 || got[0] != (span{10 * minuteMs, 40 * minuteMs}) || got[1] != (span{46 * minuteMs, 80 * minuteMs}) {
								t.Errorf("%s: %v", name, minutesOf(got))
							}
						}
					}
				}
			}
		}
	}
}

func minutesOf(spans []span) (out []string) {
	for _, s := range spans {
		out = append(out, fmt.Sprintf("%d-%d", s.start/minuteMs, s.end/minuteMs))
	}
	return out
}

func TestUseSpans(t *testing.T) {
	nan := math.NaN()
	idle := rest{0.5e9, 75, 345, 0}
	job := rest{60e9, 640, 1800, 0.95}
	between := func(from, to int64, in, out rest) func(int64) rest {
		return func(m int64) rest {
			if m >= from && m < to {
				return in
			}
			return out
		}
	}
	noMem := func(f func(int64) rest) func(int64) rest {
		return func(m int64) rest { r := f(m); r.mem = nan; return r }
	}
	wattsOnly := func(f func(int64) rest) func(int64) rest {
		return func(m int64) rest { r := f(m); return rest{nan, r.watts, nan, nan} }
	}
	cases := []struct {
		name  string
		at    func(int64) rest
		tdp   float64
		floor func(int64) float64
		want  string
	}{
		{"a job seen from the middle on", between(0, 40, job, idle), 700, unknown, "[0-40]"},
		{"memory held by a monitor from minute 20 on, a job in 50 to 70", func(m int64) rest {
			r := between(50, 70, job, idle)(m)
			if m >= 20 {
				r.mem += 0.8e9
			}
			return r
		}, 700, unknown, "[20-50 50-70]"},
		{"no memory: stalls of three minutes", noMem(func(m int64) rest {
			if m >= 30 && m < 33 {
				return rest{60e9, 110, 345, 0}
			}
			return between(10, 60, job, idle)(m)
		}), 700, unknown, "[10-60]"},
		{"no memory, and eight minutes of rest", noMem(func(m int64) rest {
			if m >= 30 && m < 38 {
				return idle
			}
			return between(10, 60, job, idle)(m)
		}), 700, unknown, "[10-30 38-60]"},
		{"no memory, eight minutes with the clock up", noMem(func(m int64) rest {
			if m >= 30 && m < 38 {
				return rest{60e9, 115, 1980, 0}
			}
			return between(10, 60, job, idle)(m)
		}), 700, unknown, "[10-60]"},
		{"a pool that frees its memory for two minutes", func(m int64) rest {
			if m >= 30 && m < 32 {
				return rest{3e9, 130, 1980, 0}
			}
			return between(10, 60, job, idle)(m)
		}, 700, unknown, "[10-60]"},
		{"watts alone", wattsOnly(between(10, 60, job, idle)), 0, unknown, "[10-60]"},
		{"watts alone of a small part", wattsOnly(between(10, 60, rest{watts: 62}, rest{watts: 14})), 0, unknown, "[10-60]"},
		{"watts alone, never at rest, others of the part were", wattsOnly(between(0, 99, rest{watts: 62}, rest{watts: 14})), 0, func(int64) float64 { return 15 }, "[0-100]"},
		{"watts of work where the counters say none", func(m int64) rest {
			r := between(10, 60, job, idle)(m)
			return rest{nan, r.watts, nan, 0}
		}, 700, unknown, "[10-60]"},
		{"loaded before it was first seen, and at rest later", between(0, 30, rest{40e9, 120, 1980, 0}, idle), 700, unknown, "[0-30]"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cells := cellsOf(100, func(m int64) rest {
				if m == 99 && c.want == "[0-100]" {
					m = 0
				}
				return c.at(m)
			}, 0.02, 3)
			if got := fmt.Sprint(minutesOf(heldSpans(cells, c.tdp, c.floor))); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// A start, once given, stays: the spans of the first minutes are a beginning of those of all.
func TestStartsOfUseStay(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 9))
		level := rest{0.5e9, 75, 345, 0}
		cells := cellsOf(200, func(int64) rest {
			if rng.IntN(12) == 0 {
				level = rest{[]float64{0.5e9, 0.7e9, 2.4e9, 12e9, 60e9}[rng.IntN(5)], 70 + 600*rng.Float64()*float64(rng.IntN(2)), 345, rng.Float64() * float64(rng.IntN(2))}
			}
			return level
		}, 0.03, seed)
		all := heldSpans(cells, 700, unknown)
		for n := 1; n <= len(cells); n++ {
			part := heldSpans(cells[:n], 700, unknown)
			for i := range part {
				if i >= len(all) || part[i].start != all[i].start || part[i].end > all[i].end {
					t.Fatalf("seed %d: after %d min %v, later %v", seed, n, minutesOf(part), minutesOf(all))
				}
			}
		}
	}
}

// Cells of an hour give what their minutes give.
func TestWideCells(t *testing.T) {
	at := func(m int64) rest {
		if m >= 60 && m < 240 {
			return rest{60e9, 640, 1800, 0.95}
		}
		return rest{0.5e9, 75, 345, 0}
	}
	fine := cellsOf(360, at, 0, 1)
	var wide []feature.GPUCell
	for m := 0; m < 360; m += 60 {
		c := fine[m]
		c.SpanMs = 60 * minuteMs
		for s := range c.CoverMs {
			c.CoverMs[s] *= 60
		}
		wide = append(wide, c)
	}
	a, b := heldSpans(fine, 700, unknown), heldSpans(wide, 700, unknown)
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("minutes %v, hours %v", minutesOf(a), minutesOf(b))
	}
	x, y := stretch{start: a[0].start, end: a[0].end}, stretch{start: b[0].start, end: b[0].end}
	var s segmenter
	s.levels(&x, fine)
	s.levels(&y, wide)
	if x.mem != y.mem || math.Abs(x.power-y.power) > 1e-6*x.power || math.Abs(x.load-y.load) > 1e-6*x.load {
		t.Errorf("minutes %v %v %v, hours %v %v %v", x.mem, x.power, x.load, y.mem, y.power, y.load)
	}
}

func TestEvenOut(t *testing.T) {
	min := func(v ...int64) (out []span) {
		for i := 0; i < len(v); i += 2 {
			out = append(out, span{v[i] * minuteMs, v[i+1] * minuteMs})
		}
		return out
	}
	cases := []struct {
		name     string
		in, want [][]span
	}{
		{"one of four blinks", [][]span{min(5, 50), min(5, 30, 31, 50), min(5, 50), min(6, 50)}, [][]span{min(5, 50), min(5, 50), min(5, 50), min(6, 50)}},
		{"one of four does not show the pause", [][]span{min(5, 30, 32, 50), min(5, 50), min(5, 30, 32, 50), min(5, 30, 32, 50)},
			[][]span{min(5, 30, 32, 50), min(5, 30, 32, 50), min(5, 30, 32, 50), min(5, 30, 32, 50)}},
		{"another program on one GPU", [][]span{min(5, 50), min(9, 30, 31, 50), min(5, 50)}, [][]span{min(5, 50), min(9, 30, 31, 50), min(5, 50)}},
		{"a long rest of one", [][]span{min(5, 50), min(5, 30, 36, 50), min(5, 50)}, [][]span{min(5, 50), min(5, 30, 36, 50), min(5, 50)}},
	}
	for _, c := range cases {
		evenOut(c.in)
		if fmt.Sprint(c.in) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v", c.name, c.in)
		}
	}
}
