package ship

import (
	"testing"
	"time"
)

// TestPace: over any stretch no more is sent than the rate, the burst and one frame allow.
func TestPace(t *testing.T) {
	now := time.Unix(1000, 0)
	p := newPace(10_000)
	p.start(now.Add(2 * time.Second))
	if w := p.wait(now); w != 2*time.Second {
		t.Errorf("waits %v before its start", w)
	}
	now = now.Add(2 * time.Second)
	begin, sent := now, 0
	for now.Sub(begin) < 30*time.Second {
		if w := p.wait(now); w > 0 {
			now = now.Add(w)
			continue
		}
		p.spend(3000, now)
		sent += 3000
		if most := int(10_000*(now.Sub(begin).Seconds()+1)) + 3000; sent > most {
			t.Fatalf("%d bytes after %v", sent, now.Sub(begin))
		}
	}
	if sent < 290_000 {
		t.Errorf("%d bytes in 30 s", sent)
	}
	for range 20 {
		p.slower()
	}
	if p.rate <= 0 || p.rate > 10_000/64 {
		t.Errorf("slowed down to %d", p.rate)
	}
	for range 20 {
		p.faster()
	}
	if p.rate != 10_000 {
		t.Errorf("back to %d", p.rate)
	}
	if free := newPace(0); free.wait(now) != 0 {
		t.Error("no limit is one")
	}
}
