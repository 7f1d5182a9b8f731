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

// ten is a host of eight InfiniBand ports with all their counters and two Ethernet devices.
func ten(t testing.TB) string {
	files := map[string]string{}
	for i := range 8 {
		d := fmt.Sprintf("class/infiniband/mlx5_%d", i)
		p := d + "/ports/1"
		for _, m := range []map[string]string{
			rdmaPort("InfiniBand", "4: ACTIVE", "5: LinkUp", "400 Gb/sec (4X NDR)"), pma(250000000000, 250000000000, 1e9, 1e9, 5), mlx5Hardware,
		} {
			maps.Copy(files, below(p, m))
		}
		files[d+"/fw_ver"] = "28.39.1002\n"
	}
	for i := range 2 {
		name := fmt.Sprintf("eth%d", i)
		maps.Copy(files, ether(name, "../../../devices/x", "up", "25000", "123456789012\n", "123456789012\n"))
		maps.Copy(files, below("class/net/"+name, map[string]string{
			"statistics/tx_packets": "12345678\n", "statistics/rx_packets": "12345678\n", "statistics/rx_errors": "0\n", "statistics/tx_dropped": "0\n", "statistics/rx_dropped": "0\n", "carrier_down_count": "1\n",
		}))
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
	burst := func() {
		boot++
		if err := f.Burst(t.Context(), source.Tick{Burst: 1, WallMs: boot, BootMs: boot}, s); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(50, burst); n > 0 && !race.Enabled {
		t.Errorf("a burst makes %.1f allocations, want 0", n)
	}
}

// BenchmarkTick is a second of ten ports, everything that is due with it: a tenth of the
// slow tier (rates, links, health, congestion), a thirtieth of a look at devices.
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

// BenchmarkBurst is a moment between two ticks.
func BenchmarkBurst(b *testing.B) {
	f, s := New(Config{Sysfs: ten(b)}), &keep{wire.NewBuilder(wire.KindFabric, wire.SourceSysfs)}
	defer f.Close()
	b.ReportAllocs()
	if err := f.Sample(b.Context(), source.Tick{BootMs: 1}, s); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := f.Burst(b.Context(), source.Tick{Burst: 1, BootMs: 2}, s); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGuests is one answer about 16 virtual functions.
func BenchmarkGuests(b *testing.B) {
	msg := answer("eth0", 16, func(vf int) (uint64, bool) { return uint64(vf) * 1e9, true })
	into := make([]function, 16)
	for i := range into {
		into[i].id = i
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeFunctions(msg, into); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkProcfs reads the same eight RDMA ports by prometheus/procfs.
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
