package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// world is a bucket of leases and the processes that share it, under a clock of its own.
type world struct {
	tb    testing.TB
	now   time.Time
	ttl   time.Duration
	keys  []string
	all   map[string]*Shares
	seen  map[string]time.Time // members: last renewal
	holds map[string]string    // leases
	kept  map[string]time.Time // leases: last renewal
	moves int
	idle  map[string]time.Duration // leases: how long nobody has held one
	worst time.Duration
	lazy  map[string]bool // members that take nothing
}

func newWorld(tb testing.TB, keys int) *world {
	w := &world{tb: tb, now: time.Unix(1_000_000, 0), ttl: 15 * time.Second, all: map[string]*Shares{}, seen: map[string]time.Time{}, holds: map[string]string{},
		kept: map[string]time.Time{}, idle: map[string]time.Duration{}, lazy: map[string]bool{}}
	for i := range keys {
		w.keys = append(w.keys, fmt.Sprintf("k%02d", i))
	}
	return w
}

func (w *world) join(id string) {
	w.all[id] = &Shares{keys: w.keys, id: id, ttl: w.ttl, members: map[string]time.Time{}, free: map[string]time.Time{}, shunned: map[string]time.Time{}}
}

// leave is a stop; die a kill.
func (w *world) die(id string) { delete(w.all, id) }
func (w *world) leave(id string) {
	w.die(id)
	delete(w.seen, id)
	maps.DeleteFunc(w.holds, func(_, by string) bool { return by == id })
}

// run lets time pass: each looks every fifth of a lease's life, in some order.
func (w *world) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(w.ttl / 5) {
		for id := range w.all {
			w.seen[id] = w.now
			for k, by := range w.holds {
				if by == id {
					w.kept[k] = w.now
				}
			}
		}
		maps.DeleteFunc(w.seen, func(_ string, at time.Time) bool { return w.now.Sub(at) >= w.ttl })
		maps.DeleteFunc(w.holds, func(k, _ string) bool { return w.now.Sub(w.kept[k]) >= w.ttl })
		ids := slices.Collect(maps.Keys(w.all))
		rand.Shuffle(len(ids), func(i, k int) { ids[i], ids[k] = ids[k], ids[i] })
		for _, id := range ids {
			members := map[string]bool{id: true}
			for m := range w.seen {
				members[m] = true
			}
			for _, by := range w.holds {
				members[by] = true
			}
			t := w.all[id].turns(members, maps.Clone(w.holds), w.now)
			for _, k := range t.Release {
				if w.holds[k] != id {
					w.tb.Errorf("%s gives up %s of %s", id, k, w.holds[k])
				}
				delete(w.holds, k)
				w.moves++
			}
			for _, k := range t.Take {
				if w.holds[k] == "" && !w.lazy[id] {
					w.holds[k], w.kept[k] = id, w.now
				}
			}
		}
		for _, k := range w.keys {
			if w.holds[k] != "" {
				w.idle[k] = 0
				continue
			}
			w.idle[k] += w.ttl / 5
			w.worst = max(w.worst, w.idle[k])
		}
	}
}

// fair holds that all hold as many, or one more.
func (w *world) fair(when string) {
	w.tb.Helper()
	count := map[string]int{}
	for id := range w.all {
		if !w.lazy[id] {
			count[id] = 0
		}
	}
	for _, by := range w.holds {
		count[by]++
	}
	counts := slices.Sorted(maps.Values(count))
	if len(w.holds) != len(w.keys) || counts[len(counts)-1]-counts[0] > 1 {
		w.tb.Errorf("%s: %d of %d held, %v", when, len(w.holds), len(w.keys), count)
	}
}

// TestSharesAreFair: whoever comes and goes, after a while each holds as many as the others, and
// then nothing moves any more.
func TestSharesAreFair(t *testing.T) {
	w := newWorld(t, 17)
	w.join("a")
	w.run(2 * w.ttl)
	w.fair("alone")
	w.join("b")
	w.join("c")
	w.run(4 * w.ttl)
	w.fair("three")
	if w.moves != 11 { // 17 of one: 6, 6, 5
		t.Errorf("%d moves for two who joined, want 11", w.moves)
	}
	w.moves, w.worst = 0, 0
	w.run(20 * w.ttl)
	if w.moves != 0 || w.worst != 0 {
		t.Errorf("at rest: %d moves, nobody's for %s", w.moves, w.worst)
	}
	w.leave("b")
	w.run(w.ttl / 5)
	w.fair("one left, one look later")
	w.join("b")
	w.run(4 * w.ttl)
	w.fair("back")
	w.worst = 0
	w.die("a")
	w.run(2 * w.ttl)
	w.fair("one died")
	if w.worst > w.ttl/5 { // counted from the expiry on
		t.Errorf("nobody's for %s behind the lease's end", w.worst)
	}
}

// TestSharesDoNotThrash: one that starts and dies again and again moves next to nothing, and one
// that takes nothing is passed over.
func TestSharesDoNotThrash(t *testing.T) {
	w := newWorld(t, 17)
	w.join("a")
	w.run(w.ttl)
	w.join("b")
	w.run(4 * w.ttl)
	w.moves = 0
	for i := range 20 {
		id := fmt.Sprint("crash-", i)
		w.join(id)
		w.run(w.ttl / 2)
		w.die(id)
		w.run(2 * w.ttl)
	}
	if w.moves > 0 {
		t.Errorf("%d moves for one that never stays", w.moves)
	}
	w.lazy["z"] = true
	w.join("z")
	w.worst = 0
	w.run(40 * w.ttl)
	// Given up for it, waited for, taken back, and left alone for twenty lives, twice.
	if w.worst > w.ttl+2*w.ttl/5 {
		t.Errorf("nobody's for %s", w.worst)
	}
	if w.moves > 40 {
		t.Errorf("%d moves in 40 lives beside one that takes nothing", w.moves)
	}
}

// TestSharesAtRandom: whatever happens, the end is fair and nothing is nobody's for longer than a
// lease lives and a look more.
func TestSharesAtRandom(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		w := newWorld(t, 1+rnd.IntN(33))
		w.join("first")
		for i := range 30 {
			switch ids := slices.Sorted(maps.Keys(w.all)); {
			case rnd.IntN(2) == 0 || len(ids) < 2:
				w.join(fmt.Sprint("m", i))
			case rnd.IntN(2) == 0:
				w.leave(ids[rnd.IntN(len(ids))])
			default:
				w.die(ids[rnd.IntN(len(ids))])
			}
			w.run(time.Duration(rnd.IntN(40)) * time.Second)
		}
		w.run(25 * w.ttl) // one that was passed over, as it took nothing, is so for twenty lives
		w.fair(fmt.Sprint("seed ", seed))
		before := w.moves
		w.run(5 * w.ttl)
		if w.moves != before {
			t.Errorf("seed %d: %d moves at rest", seed, w.moves-before)
		}
		if w.worst > w.ttl+2*w.ttl/5 {
			t.Errorf("seed %d: nobody's for %s", seed, w.worst)
		}
	}
}
