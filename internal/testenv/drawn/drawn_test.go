package drawn

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/flopwatch/flopwatch/internal/bundle"
)

// Every family is readable to the last row, within its bound of rows.
func TestReadable(t *testing.T) {
	for _, name := range Families() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c, err := New(name, 1, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Write(dir); err != nil {
				t.Fatal(err)
			}
			b, err := bundle.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			rows := 0
			for _, err := range []error{
				b.GPU(func(bundle.GPURow) error { rows++; return nil }),
				b.Host(func(bundle.HostRow) error { return nil }),
				b.Fabric(func(bundle.FabricRow) error { return nil }),
				b.Flows(func(bundle.FlowRow) error { return nil }),
				b.Processes(func(bundle.ProcessRow) error { return nil }),
				b.Collectives(func(bundle.CollectiveRow) error { return nil }),
				b.Allocations(func(bundle.AllocationRow) error { return nil }),
				b.Orders(func(bundle.OrderRow) error { return nil }),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if register, err := b.OpenParties(); err == nil {
				err = register.Close()
				if err != nil {
					t.Fatal(err)
				}
			} else if !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			for _, f := range b.Report().Files {
				if f.Bad > 0 || len(f.UnknownColumns)+len(f.MissingColumns) > 0 {
					t.Errorf("%s: %d bad rows: %v; columns unknown %v, missing %v", f.File, f.Bad, f.Issues, f.UnknownColumns, f.MissingColumns)
				}
			}
			if u := b.Report().Unlisted; len(u) > 0 {
				t.Errorf("unlisted: %v", u)
			}
			if rows > maxRows*11/10 {
				t.Errorf("%d GPU rows, want at most %d", rows, maxRows)
			}
		})
	}
}

// The same draw is the same bytes; another number or seed is another recording.
func TestSameBytes(t *testing.T) {
	read := func(draw int, seed uint64) map[string][]byte {
		dir := t.TempDir()
		c, err := New("mixed", draw, seed)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(dir); err != nil {
			t.Fatal(err)
		}
		out := map[string][]byte{}
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if out[filepath.Base(n)], err = os.ReadFile(n); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	a, b, other, seeded := read(1, 0), read(1, 0), read(2, 0), read(1, 5)
	if len(a) < 8 {
		t.Errorf("%d files", len(a))
	}
	for n := range a {
		if !bytes.Equal(a[n], b[n]) {
			t.Errorf("%s differs between two writes", n)
		}
	}
	if bytes.Equal(a["gpu.csv"], other["gpu.csv"]) || bytes.Equal(a["gpu.csv"], seeded["gpu.csv"]) {
		t.Error("another number or seed gave the same recording")
	}
}

// What tensor counters add up to is the truth, but for tiles' waste and attention's slower
// instructions: no recording credits work that its counters do not hold.
func TestTruthIsInCounters(t *testing.T) {
	for _, name := range Families() {
		for draw := 1; draw <= 3; draw++ {
			c, err := New(name, draw, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range c.world.acts {
				if a.exec == 0 || a.kind == "hpc" || a.dtype == "fp32" {
					continue
				}
				var most float64 // FLOP that the cycles could have been
				for _, g := range c.world.gpus() {
					for i := range g.pieces {
						if p := &g.pieces[i]; p.act == a {
							var x sig
							p.src.integral(max(p.from, 0), min(p.to, c.world.length), 1, &x)
							most += x[sCycles] * g.node.si.perCycle(a.dtype)
						}
					}
				}
				share, least := a.exec/most, 0.02
				if a.kind == "training" && (a.dtype == "bf16" || a.dtype == "fp16" || a.dtype == "tf32") {
					least = 0.6
				}
				if share > 1.001 || share < least {
					t.Errorf("%s %s (%s, %s): truth is %.3f of the counters' work", c.Name(), a.id, a.kind, a.dtype, share)
				}
				if a.model > a.exec*1.0001 {
					t.Errorf("%s %s: model %g above executed %g", c.Name(), a.id, a.model, a.exec)
				}
			}
		}
	}
}

// Shares stay what hardware can show: a pipe is busy only where an SM is.
func TestSharesArePossible(t *testing.T) {
	for _, name := range Families() {
		c, err := New(name, 2, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range c.world.gpus() {
			for at := 0.0; at+60 < c.world.length; at += 600 {
				x := g.look(at, at+60)
				for i := sUtil; i <= sDec; i++ {
					if x.sig[i] < -1e-9 || x.sig[i] > 1.05 {
						t.Fatalf("%s %s %d at %.0f: signal %d is %g", c.Name(), g.node.name, g.index, at, i, x.sig[i])
					}
				}
				if x.sig[sTensor] > x.sig[sSM]*1.05+0.01 {
					t.Errorf("%s %s %d at %.0f: tensor %.3f above SM %.3f", c.Name(), g.node.name, g.index, at, x.sig[sTensor], x.sig[sSM])
				}
				if si := &g.node.si; x.watts > si.tdp*1.001 || x.watts < si.idleW*0.999 || x.mem > si.mem() {
					t.Errorf("%s %s %d at %.0f: %.0f W, %.3g bytes", c.Name(), g.node.name, g.index, at, x.watts, x.mem)
				}
			}
		}
	}
}
