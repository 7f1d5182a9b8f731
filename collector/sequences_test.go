package collector

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestSequences holds the set to a plain one, whatever comes in whatever order.
func TestSequences(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var s sequences
		want := map[uint64]bool{}
		for range 40 {
			from := 1 + rnd.Uint64N(60)
			to := from + rnd.Uint64N(4)
			s.add(from, to)
			for q := from; q <= to; q++ {
				want[q] = true
			}
			for q := range uint64(70) {
				if s.has(q) != want[q] {
					t.Fatalf("%d is %v after [%d, %d]: %v", q, s.has(q), from, to, s.ranges)
				}
			}
			for i := 1; i < len(s.ranges); i++ {
				if s.ranges[i].From <= s.ranges[i-1].To+1 {
					t.Fatalf("ranges touch: %v", s.ranges)
				}
			}
		}
	}
}

// TestBackoff: pauses grow, never beyond the bound, and two collectors do not have the same.
func TestBackoff(t *testing.T) {
	var a, b backoff
	same := 0
	for i := range 20 {
		x, y := a.next(), b.next()
		if x == y {
			same++
		}
		if x > maxPause || x < firstPause || i > 8 && x < maxPause/2 {
			t.Errorf("pause %d is %s", i, x)
		}
	}
	if same > 2 {
		t.Errorf("%d of 20 pauses are the same", same)
	}
}

// TestLingerAdapts: it widens where storing takes much of the time, or there are many parts, and comes back.
func TestLingerAdapts(t *testing.T) {
	w := worker{c: &Collector{cfg: Config{Linger: time.Second, MaxLinger: 8 * time.Second}}, linger: time.Second}
	for range 10 {
		w.adapt(2 * time.Second)
	}
	if w.linger != 4*time.Second && w.linger != 8*time.Second { // 2 s is a third of neither
		t.Errorf("slow store: %s", w.linger)
	}
	for range 20 {
		w.adapt(10 * time.Millisecond)
	}
	if w.linger != time.Second {
		t.Errorf("quick store: %s", w.linger)
	}
	w.c.crowded.Store(true)
	w.adapt(10 * time.Millisecond)
	if w.linger != 8*time.Second {
		t.Errorf("many parts: %s", w.linger)
	}
}

// TestCutsHeal: what was cut for want of memory grows until nothing is cut, however many ranges follow.
func TestCutsHeal(t *testing.T) {
	w := worker{cut: map[string]int{"a": leastRows, "b": 50_000}}
	for i := range 200 {
		w.grow()
		for table, rows := range w.cut {
			if rows < leastRows || rows > mostRows {
				t.Fatalf("%s: %d rows after %d ranges", table, rows, i+1)
			}
		}
	}
	if len(w.cut) != 0 {
		t.Errorf("still cut: %v", w.cut)
	}
}
