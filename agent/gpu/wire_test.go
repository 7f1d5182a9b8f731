package gpu_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// tables is a sink that makes tables as the agent does: one a kind and group.
type tables struct {
	tb   testing.TB
	open map[string]*wire.Builder
	rows map[wire.Kind]int
	// Values that travelled, of GPU rows.
	values int
}

func (s *tables) Row(kind wire.Kind, src wire.Source, group string, prepare, fill func(*wire.Builder)) {
	key := kind.String() + src.String() + group
	b := s.open[key]
	if b == nil {
		b = wire.NewBuilder(kind, src)
		if prepare != nil {
			prepare(b)
		}
		s.open[key] = b
	}
	b.Begin()
	fill(b)
	if err := b.End(); err != nil {
		s.tb.Errorf("row of %v: %v", kind, err)
	}
	s.rows[kind]++
}

func (*tables) Status(source.Status) {}

// seal gives the size of a frame of the tables of some kinds, of all if there is none named.
func (s *tables) seal(seq uint64, kinds ...wire.Kind) int {
	batch := wire.Batch{Spool: [16]byte{1}, Cluster: "cluster", Node: "node-0001", Sequence: seq, BootID: "6f1b2c3d-0000-4000-8000-000000000000", Ticks: seq * 10}
	for _, b := range s.open {
		t := b.Build()
		for _, k := range kinds {
			if t.Kind == k {
				batch.Tables = append(batch.Tables, *t)
			}
		}
		if len(kinds) == 0 {
			batch.Tables = append(batch.Tables, *t)
		}
		if t.Kind == wire.KindGPU && len(kinds) == 0 {
			for i := range t.Columns {
				for r := range t.Rows {
					if t.Columns[i].Has(r) {
						s.values++
					}
				}
			}
		}
	}
	frame, err := wire.AppendBatch(nil, &batch)
	if err != nil {
		s.tb.Fatal(err)
	}
	return len(frame)
}

// What a sample of the base tier takes on the wire: at most 30 bytes, with all that an H100
// gives; and what all tiers together take.
func TestBytesOnTheWire(t *testing.T) {
	s := nvmlstub.H100x8Training(0, time.Hour)
	for g := range s.GPUs {
		// No whole number of ticks fits a step: nothing repeats, as nothing does in truth.
		s.GPUs[g].Segments[0].Step = 1237*time.Millisecond + 123*time.Microsecond
		s.GPUs[g].Segments[0].Phase = time.Duration(g) * 1234567
	}
	r := newRig(t, nvmlstub.Options{}, s, gpu.Config{})
	r.steps(60)
	noise := rand.New(rand.NewPCG(1, 2))
	base, all, rows, ticks, seq := 0, 0, 0, 0, uint64(0)
	var out *tables
	// minute is six frames; with spacing, of a burst.
	minute := func(spacing time.Duration) {
		t.Helper()
		base, all, ticks = 0, 0, 0
		out = &tables{tb: t, rows: map[wire.Kind]int{}}
		for i := range 60 {
			if i%10 == 0 {
				out.open = map[string]*wire.Builder{}
			}
			r.tick.Seq++
			late := time.Duration(noise.IntN(3_000_000)) // ticks are not exact
			r.tick.WallMs, r.tick.BootMs = wall0+int64(r.tick.Seq)*1000+late.Milliseconds(), boot0+int64(r.tick.Seq)*1000+late.Milliseconds()
			if err := r.mem.SetNow(r.now() + late); err != nil {
				t.Fatal(err)
			}
			if err := r.src.Sample(t.Context(), r.tick, out); err != nil {
				t.Fatal(err)
			}
			for n := 1; spacing > 0 && time.Duration(n+1)*spacing <= time.Second; n++ {
				at := r.tick
				behind := late + time.Duration(n)*spacing
				at.Burst, at.WallMs, at.BootMs = n, at.WallMs+behind.Milliseconds(), at.BootMs+behind.Milliseconds()
				if err := r.mem.SetNow(r.now() + behind); err != nil {
					t.Fatal(err)
				}
				if err := r.src.Burst(t.Context(), at, out); err != nil {
					t.Fatal(err)
				}
			}
			ticks++
			if i%10 == 9 {
				seq++
				base += out.seal(seq, wire.KindGPU)
				all += out.seal(seq)
			}
		}
		rows = out.rows[wire.KindGPU]
	}
	minute(0)
	each := float64(base) / float64(rows)
	t.Logf("%.1f bytes a sample of %.1f values; %.1f with all tiers (%d GPU rows, %d of health in %d s)", each, float64(out.values)/float64(rows), float64(all)/float64(rows), rows, out.rows[wire.KindHealth], ticks)
	if rows != 8*ticks || each > 30 {
		t.Errorf("%d rows of %d ticks, %.1f bytes each", rows, ticks, each)
	}
	quiet := all
	minute(200 * time.Millisecond)
	t.Logf("a minute of bursts every 200 ms: %d rows and %d bytes, without them %d and %d", rows, all, 8*ticks, quiet)
}
