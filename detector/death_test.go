package detector

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/detector/feature"
	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// onlyNodes leaves what was measured of some nodes.
func onlyNodes(l *liveMemory, nodes ...string) {
	gone := func(node string) bool { return !slices.Contains(nodes, node) }
	l.batches = slices.DeleteFunc(l.batches, func(r store.BatchRow) bool { return gone(r.Node) })
	l.gpu = slices.DeleteFunc(l.gpu, func(r store.GPURow) bool { return gone(r.Node) })
	l.host = slices.DeleteFunc(l.host, func(r store.HostRow) bool { return gone(r.Node) })
	l.fabric = slices.DeleteFunc(l.fabric, func(r store.FabricRow) bool { return gone(r.Node) })
	l.flows = slices.DeleteFunc(l.flows, func(r store.FlowRow) bool { return gone(r.Node) })
	l.comm = slices.DeleteFunc(l.comm, func(r store.CollectiveRow) bool { return gone(r.Node) })
	l.inventory = slices.DeleteFunc(l.inventory, func(r store.InventoryRow) bool { return gone(r.Node) })
	l.processes = slices.DeleteFunc(l.processes, func(r store.ProcessRow) bool { return gone(r.Node) })
	l.allocations = slices.DeleteFunc(l.allocations, func(r store.AllocationRow) bool { return gone(r.Node) })
}

// onlyListed lets go of rows of which no batch is listed.
func onlyListed(l *liveMemory) {
	listed := map[nodeMinute]bool{}
	for _, x := range l.batches {
		listed[nodeMinute{x.Node, feature.MinuteOf(x.AvailableMs)}] = true
	}
	gone := func(node string, availableMs int64) bool {
		return !listed[nodeMinute{node, feature.MinuteOf(availableMs)}]
	}
	l.gpu = slices.DeleteFunc(l.gpu, func(r store.GPURow) bool { return gone(r.Node, r.AvailableMs) })
	l.host = slices.DeleteFunc(l.host, func(r store.HostRow) bool { return gone(r.Node, r.AvailableMs) })
	l.fabric = slices.DeleteFunc(l.fabric, func(r store.FabricRow) bool { return gone(r.Node, r.AvailableMs) })
	l.flows = slices.DeleteFunc(l.flows, func(r store.FlowRow) bool { return gone(r.Node, r.AvailableMs) })
	l.comm = slices.DeleteFunc(l.comm, func(r store.CollectiveRow) bool { return gone(r.Node, r.AvailableMs) })
}

// unjudged is a store with the same rows, of which nothing is judged yet.
func (l *liveMemory) unjudged() *liveMemory {
	rows := *l.memory
	rows.runs, rows.findings, rows.stored, rows.cells = map[string]store.RunRow{}, map[string]store.FindingRow{}, store.Cells{}, 0
	return &liveMemory{memory: &rows, parties: l.parties, insertedMs: maps.Clone(l.insertedMs), allRuns: map[string][]store.RunRow{}, allFound: map[string][]store.FindingRow{}}
}

// followedPart is two nodes of a recording, every row of which has its batch, followed in one life.
func followedPart(t *testing.T) (*liveMemory, *bundle.Bundle) {
	t.Helper()
	l, b := newLiveMemory(t, filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix"))
	onlyNodes(l, "hgx-4d94", "hgx-9240")
	onlyListed(l)
	follow(t, l, b, nil, func(int) int { return 0 })
	return l, b
}

// wantSameStore holds two stores to the same verdicts, cells and roll-ups.
func wantSameStore(t *testing.T, got, want *liveMemory) {
	t.Helper()
	runs, findings := got.lines()
	wantRuns, wantFindings := want.lines()
	wantSame(t, "runs", runs, wantRuns)
	wantSame(t, "findings", findings, wantFindings)
	wantSameCells(t, got, want)
}

func wantSameCells(t *testing.T, got, want *liveMemory) {
	t.Helper()
	wantSame(t, "cells of GPUs", got.gpuCells.all(), want.gpuCells.all())
	wantSame(t, "cells of hosts", got.nodeCells.all(), want.nodeCells.all())
	wantSame(t, "cells of communicators", got.commCells.all(), want.commCells.all())
	wantSame(t, "cells of pairs", got.flowCells.all(), want.flowCells.all())
	wantSame(t, "roll-ups of hours", got.gpuHours.all(), want.gpuHours.all())
}

// TestDeathAtEveryWrite: a detector that dies at any of its writes and is followed by another leaves
// what one that lives on does: verdicts, cells and roll-ups, byte for byte. The recordings end with
// rows of which no batch is listed: they count for neither.
func TestDeathAtEveryWrite(t *testing.T) {
	t.Parallel()
	recordings := filepath.Join(testenv.Root(t), "deploy", "recordings")
	for _, c := range []struct {
		name, dir string
		nodes     []string
		sample    int // positions that are tried, and the last ones; 0: all
		last      int
	}{
		{"every write", "mlperf-lora", nil, 0, 0},
		{"two nodes", "clean-mix", []string{"hgx-4d94", "hgx-9240"}, 10, 12},
		{"all nodes", "clean-mix", nil, 3, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want, b := newLiveMemory(t, filepath.Join(recordings, c.dir))
			if c.nodes != nil {
				onlyNodes(want, c.nodes...)
			}
			follow(t, want, b, nil, func(int) int { return 0 })
			chance := rand.New(rand.NewPCG(20261122, uint64(len(c.nodes))))
			tried := 0
			for at := 1; at <= want.writes; at++ {
				if c.sample != 0 && at <= want.writes-c.last && chance.IntN(want.writes) >= c.sample {
					continue
				}
				tried++
				l := want.unjudged()
				lives := follow(t, l, b, nil, func(life int) int { return []int{at, 0}[min(life, 2)-1] })
				wantSameStore(t, l, want)
				if lives != 2 {
					t.Errorf("%d lives", lives)
				}
				if t.Failed() {
					t.Fatalf("the first of them died at write %d of %d", at, want.writes)
				}
			}
			t.Logf("%d of %d writes", tried, want.writes)
			if len(want.gpuHours) == 0 && c.dir == "clean-mix" {
				t.Error("no hour was rolled up: the test shows nothing of them")
			}
		})
	}
}

// TestDeathAmongLateBatches: batches that come hours after younger ones, and rows of batches that are seen
// only minutes after they came, change nothing in the end: not the cells, nor the roll-ups of
// hours that were over, nor the runs, wherever the detectors died.
func TestDeathAmongLateBatches(t *testing.T) {
	t.Parallel()
	want, b := followedPart(t)
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			chance := rand.New(rand.NewPCG(seed, 7))
			l := want.unjudged()
			l.shownMs = map[store.BatchKey]int64{}
			for i, x := range l.batches {
				if x.AvailableMs < b.Manifest.EndMs-80*60_000 && i%4 == 0 {
					l.insertedMs[x.BatchKey] += 62*60_000 + chance.Int64N(20*60_000)
				}
				if chance.IntN(2) == 0 {
					l.shownMs[x.BatchKey] = chance.Int64N(overlapMs - 97_000)
				}
			}
			l.dieWhen = func(c store.Cells) bool { return len(c.Hour) > 0 && chance.IntN(3) == 0 }
			lives := follow(t, l, b, nil, func(int) int { return 3 + chance.IntN(40) })
			t.Logf("%d lives", lives)
			runs, _ := l.lines()
			wantRuns, _ := want.lines()
			wantSame(t, "runs", runs, wantRuns)
			wantSameCells(t, l, want)
		})
	}
}

// TestDeathBeforeTheRollUp: a batch changes a minute of an hour that was rolled up long ago, and the
// detector dies when the minute is stored and the hour is not. The next finds the minute as it is
// to be, and rolls the hour up all the same.
func TestDeathBeforeTheRollUp(t *testing.T) {
	t.Parallel()
	want, b := followedPart(t)
	l := want.unjudged()
	at := slices.IndexFunc(l.batches, func(x store.BatchRow) bool {
		return x.Node == "hgx-4d94" && x.AvailableMs > b.Manifest.StartMs+15*60_000
	})
	late := l.batches[at].BatchKey
	// What came after it is seen before it.
	l.insertedMs[late], l.shownMs = b.Manifest.StartMs+80*60_000, map[store.BatchKey]int64{late: 200_000}
	died := false
	l.dieWhen = func(c store.Cells) bool {
		was := died
		died = died || len(c.Hour) > 0 && l.nowMs >= l.insertedMs[late]
		return died && !was
	}
	follow(t, l, b, nil, func(int) int { return 0 })
	wantSameCells(t, l, want)
	runs, _ := l.lines()
	wantRuns, _ := want.lines()
	wantSame(t, "runs", runs, wantRuns)
	if !died {
		t.Error("no roll-up was lost: the test shows nothing")
	}
}
