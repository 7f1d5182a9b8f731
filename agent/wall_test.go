package agent

import "testing"

// TestWallTimes: a clock that is set back, and again, gives no moment a second time.
func TestWallTimes(t *testing.T) {
	var w wallTimes
	given := map[int64]bool{}
	wall := int64(1_800_000_000_000)
	for i := range 6000 {
		step := int64(1000)
		if i%20 < 5 {
			step = 200 // a burst
		}
		switch wall += step; i {
		case 900:
			wall -= 7000 // whole seconds: ticks meet the earlier ones exactly
		case 1500:
			wall -= 600_000
		case 3000, 3001, 3002:
			wall -= 30_001
		}
		at := w.take(wall)
		if at < wall || at > wall+mostMs {
			t.Fatalf("tick %d at %d instead of %d", i, at, wall)
		}
		for d := int64(-apartMs + 1); d < apartMs; d++ {
			if given[at+d] {
				t.Fatalf("tick %d: %d is %d ms from another", i, at, d)
			}
		}
		given[at] = true
	}
	if at := w.take(wall + 10_000); at != wall+10_000 {
		t.Errorf("a clock that goes on is moved by %d ms", at-wall-10_000)
	}
}
