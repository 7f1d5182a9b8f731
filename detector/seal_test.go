package detector

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// judgedWith judges a recording with so many minutes in memory.
func judgedWith(t *testing.T, dir string, maxCells int) []RunLine {
	t.Helper()
	m, b, parties := load(t, dir)
	cfg := configOf(t, b, 1)
	cfg.MaxCells = maxCells
	d := New(cfg, m, parties)
	if err := d.Backfill(t.Context(), b.Manifest.StartMs, b.Manifest.EndMs); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d cells in memory, %d stored", d.st.gpuCells, len(m.stored.GPU))
	lines, _, err := Lines(t.Context(), m, b.Manifest.Cluster, 1)
	if err != nil {
		t.Fatal(err)
	}
	runs := make([]RunLine, len(lines))
	for i := range lines {
		if err := json.Unmarshal([]byte(lines[i]), &runs[i]); err != nil {
			t.Fatal(err)
		}
	}
	return runs
}

// TestSealedSaysTheSame: a fleet of which all but the last hour is sealed is judged as one of which every minute is there: the
// same activities of the same class, members to the minute, FLOPs within half a per cent.
func TestSealedSaysTheSame(t *testing.T) {
	t.Parallel()
	for _, dir := range sealedRecordings(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			want, got := judgedWith(t, dir, 0), judgedWith(t, dir, 1)
			sealed := map[string]RunLine{}
			for _, l := range got {
				sealed[l.Run] = l
			}
			if len(want) == 0 || len(got) != len(want) {
				t.Errorf("%d activities, want %d", len(got), len(want))
			}
			for _, l := range want {
				s, ok := sealed[l.Run]
				if !ok {
					t.Errorf("%s (%s) is not there", l.Run, l.Class)
					continue
				}
				if s.Class != l.Class {
					t.Errorf("%s is %s (%.2f), want %s (%.2f)", l.Run, s.Class, s.ClassProbability, l.Class, l.ClassProbability)
				}
				if !slices.EqualFunc(s.Members, l.Members, func(a, b MemberLine) bool {
					return a.Node == b.Node && a.GPU == b.GPU && math.Abs(float64(a.StartMs-b.StartMs)) <= 60_000 && math.Abs(float64(a.EndMs-b.EndMs)) <= 60_000
				}) {
					t.Errorf("%s has other members: %v, want %v", l.Run, s.Members, l.Members)
				}
				if d := math.Abs(s.FLOPsExecuted.Best - l.FLOPsExecuted.Best); d > 0.005*l.FLOPsExecuted.Best {
					t.Errorf("%s (%s) executed %.4g, want %.4g", l.Run, l.Class, s.FLOPsExecuted.Best, l.FLOPsExecuted.Best)
				}
			}
		})
	}
}

func sealedRecordings(t *testing.T) []string {
	if *sealedBundles != "" {
		dirs, err := filepath.Glob(*sealedBundles)
		if err != nil {
			t.Fatal(err)
		}
		return dirs
	}
	return testenv.Recordings(t)
}

// TestSealedFollowIsBackfill: with all but the last hour sealed, a store that is followed by many leaders, with batches that come hours
// late and open what was sealed, is judged to the lines of a backfill.
func TestSealedFollowIsBackfill(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testenv.Root(t), "deploy", "recordings", "clean-mix")
	m, b, parties := load(t, dir)
	shorten(m, b)
	cfg := configOf(t, b, 1)
	cfg.MaxCells = 1
	if err := New(cfg, m, parties).Backfill(t.Context(), b.Manifest.StartMs, b.Manifest.EndMs); err != nil {
		t.Fatal(err)
	}
	want, _, err := Lines(t.Context(), m, b.Manifest.Cluster, 1)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	chance := rand.New(rand.NewPCG(3, 4))
	l, b := newLiveMemory(t, dir)
	for i, x := range l.batches {
		if i%5 == 0 && x.AvailableMs < b.Manifest.EndMs-150*60_000 {
			l.insertedMs[x.BatchKey] += chance.Int64N(140 * 60_000)
		}
	}
	lives := follow(t, l, b, func(c *Config, live *LiveConfig) { live.MaxCells = 1 }, func(int) int { return 3 + chance.IntN(40) })
	got, _ := l.lines()
	t.Logf("%d lives", lives)
	wantSame(t, "runs", got, want)
}
