package fabric

import (
	"fmt"
	"maps"
	"testing"

	"github.com/prometheus/procfs/sysfs"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv/race"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// ten is a host of eight InfiniBand ports and two Ethernet devices.
func ten(t testing.TB) string {
	files := map[string]string{}
	for i := range 8 {
		maps.Copy(files, rdma(fmt.Sprintf("mlx5_%d", i), "InfiniBand", "4: ACTIVE", "400 Gb/sec (4X NDR)", "250000000000\n", "250000000000\n"))
	}
	for i := range 2 {
		maps.Copy(files, ether(fmt.Sprintf("eth%d", i), "../../../devices/x", "up", "25000", "123456789012\n", "123456789012\n"))
	}
	return tree(t, files)
}

// keep is a sink that fills rows and forgets them.
type keep struct{ b *wire.Builder }

func (k *keep) Row(_ wire.Kind, _ wire.Source, _ string, _, fill func(*wire.Builder)) {
	k.b.Begin()
	fill(k.b)
	_ = k.b.End()
	if k.b.Rows() == 100 {
		k.b.Reset()
	}
}

func (k *keep) Status(source.Status) {}

// A tick between two looks at devices and links allocates nothing.
func TestTickAllocates(t *testing.T) {
	f, s := New(Config{Sysfs: ten(t)}), &keep{wire.NewBuilder(wire.KindFabric, wire.SourceSysfs)}
	defer f.Close()
	boot := int64(0)
	tick := func() {
		boot++
		if err := f.Sample(t.Context(), source.Tick{WallMs: boot, BootMs: boot}, s); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		tick()
	}
	if n := testing.AllocsPerRun(50, tick); n > 0 && !race.Enabled {
		t.Errorf("a tick makes %.1f allocations, want 0", n)
	}
}

// BenchmarkTick is a second of ten ports, everything that is due with it: a tenth of a
// look at rates and links, a thirtieth of a look at devices.
func BenchmarkTick(b *testing.B) {
	f, s := New(Config{Sysfs: ten(b)}), &keep{wire.NewBuilder(wire.KindFabric, wire.SourceSysfs)}
	defer f.Close()
	b.ReportAllocs()
	boot := int64(0)
	for b.Loop() {
		boot += 1000
		if err := f.Sample(b.Context(), source.Tick{WallMs: boot, BootMs: boot}, s); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkProcfs reads the same eight RDMA ports by prometheus/procfs. The fixture has two
// counters a port; a real mlx5 port has some 46 files.
func BenchmarkProcfs(b *testing.B) {
	fs, err := sysfs.NewFS(ten(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err = fs.InfiniBandClass(); err != nil {
			b.Fatal(err)
		}
	}
}
