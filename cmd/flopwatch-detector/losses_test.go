package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/detector"
	"github.com/flopwatch/flopwatch/internal/store"
)

// following is a detector within the test that follows a site under a clock of its own.
type following struct {
	*detector.Follower
	nowMs *atomic.Int64
	end   func()
}

func (s site) follow(t *testing.T, epoch uint64, nowMs int64) following {
	t.Helper()
	f := following{nowMs: new(atomic.Int64)}
	f.nowMs.Store(nowMs)
	var err error
	f.Follower, err = detector.NewFollower(detector.Config{Cluster: cluster, ProfileVersion: "p", ConfigDigest: "d", Epoch: epoch, WaitMs: 60_000, Now: time.Now}, detector.LiveConfig{
		BrokerMs: func() (int64, bool) { return f.nowMs.Load(), true }, Held: func() error { return nil }, Log: slog.New(slog.DiscardHandler), SettleMs: -1, Poll: 5 * time.Millisecond,
	}, s.store)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	ended := false
	f.end = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(f.end)
	return f
}

// at lets time pass and returns the verdict on the one run that goes on then.
func (f following) at(t *testing.T, s site, nowMs int64) (store.RunRow, detector.RunLine) {
	t.Helper()
	f.nowMs.Store(nowMs)
	for deadline := time.Now().Add(60 * time.Second); f.Status().JudgedUpToMs < nowMs/60_000*60_000-60_000; {
		if time.Now().After(deadline) {
			t.Fatalf("not judged in a minute: %+v", f.Status())
		}
		timer := time.NewTimer(10 * time.Millisecond)
		<-timer.C
	}
	runs, err := s.store.LatestRuns(t.Context(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	var stands []store.RunRow
	for i := range runs {
		if runs[i].SupersededBy == "" {
			stands = append(stands, runs[i])
		}
	}
	if len(stands) != 1 {
		t.Fatalf("%d runs, want one", len(stands))
	}
	var l detector.RunLine
	if err = json.Unmarshal([]byte(stands[0].Doc), &l); err != nil {
		t.Fatal(err)
	}
	return stands[0], l
}

// TestLossAndItsReturn: what is found lost of a run's host lowers the run's coverage and stands on its
// verdict with the reason; when it is brought back, from quarantine, hours after the minute was judged
// and its hour rolled up, minute, hour and verdict are made anew, by whichever detector leads then.
func TestLossAndItsReturn(t *testing.T) {
	for name, die := range map[string]bool{"one detector": false, "another detector": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			const minute, hour = int64(60_000), int64(3_600_000)
			start := time.Now().UnixMilli()/hour*hour - 4*hour
			const minutes, lost = int64(66), int64(20)
			for i := range minutes {
				if i != lost {
					s.sample(t, uint64(i+1), start+i*minute)
				}
			}
			now := start + (minutes+1)*minute
			f := s.follow(t, 1, now)
			before, l := f.at(t, s, now)
			if len(l.Lost) != 0 || before.CoverageFrac < 0.99 {
				t.Fatalf("nothing is known to be lost: coverage %v, %+v", before.CoverageFrac, l.Lost)
			}
			samples := func() (n int) {
				t.Helper()
				rows, err := s.store.GPUHours(t.Context(), store.RowQuery{Cluster: cluster, FromMs: start, ToMs: start + hour})
				if err != nil || len(rows) != 1 {
					t.Fatalf("%d roll-ups of the first hour, %v", len(rows), err)
				}
				return rows[0].Samples
			}
			if n := samples(); n != 59*12 {
				t.Errorf("the hour has %d samples", n)
			}
			if die {
				f.end()
			}
			loss := store.Loss{Node: "gpu-1", Spool: "s", FromSequence: uint64(lost + 1), ToSequence: uint64(lost + 1), Reason: "quarantine", Batches: 1, Ticks: 12,
				FromMs: start + lost*minute, ToMs: start + (lost+1)*minute, HourMs: start, KnownMs: now + minute}
			if err := s.store.PutLosses(t.Context(), cluster, []store.Loss{loss}); err != nil {
				t.Fatal(err)
			}
			now += 3 * minute
			if die {
				f = s.follow(t, 2, now)
			}
			after, l := f.at(t, s, now)
			want := detector.LostLine{Reason: "quarantine", Batches: 1, Ticks: 12, Nodes: 1, FromMs: loss.FromMs, ToMs: loss.ToMs}
			if len(l.Lost) != 1 || l.Lost[0] != want {
				t.Errorf("lost %+v, want %+v", l.Lost, want)
			}
			if after.CoverageFrac >= before.CoverageFrac || l.CoverageFrac != after.CoverageFrac {
				t.Errorf("coverage %v after %v, %v on the line", after.CoverageFrac, before.CoverageFrac, l.CoverageFrac)
			}
			if die {
				f.end()
			}
			s.sampleAt(t, uint64(lost+1), start+lost*minute, now)
			loss.Gone, loss.KnownMs = true, now
			if err := s.store.PutLosses(t.Context(), cluster, []store.Loss{loss}); err != nil {
				t.Fatal(err)
			}
			now += 3 * minute
			if die {
				f = s.follow(t, 3, now)
			}
			back, l := f.at(t, s, now)
			if len(l.Lost) != 0 || back.CoverageFrac <= after.CoverageFrac {
				t.Errorf("brought back: lost %+v, coverage %v after %v", l.Lost, back.CoverageFrac, after.CoverageFrac)
			}
			if n := samples(); n != 60*12 {
				t.Errorf("the hour has %d samples after the batch came", n)
			}
			cells, err := s.store.GPUCells(t.Context(), store.RowQuery{Cluster: cluster, FromMs: loss.FromMs, ToMs: loss.ToMs})
			if err != nil || len(cells) != 1 || cells[0].Samples != 12 {
				t.Errorf("the minute: %+v, %v", cells, err)
			}
			f.end()
		})
	}
}
