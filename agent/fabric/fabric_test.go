package fabric

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// sink keeps rows as text, and statuses.
type sink struct {
	t      testing.TB
	b      *wire.Builder
	status map[string]source.Status
	told   int
}

func newSink(t testing.TB) *sink {
	return &sink{t: t, b: wire.NewBuilder(wire.KindFabric, wire.SourceSysfs), status: map[string]source.Status{}}
}

func (s *sink) Row(kind wire.Kind, src wire.Source, group string, prepare, fill func(*wire.Builder)) {
	// Ports are read from files, what stands behind them is asked of the kernel.
	if kind != wire.KindFabric || src != wire.SourceSysfs && src != wire.SourceNetlink || group != "" || prepare != nil {
		s.t.Errorf("row of %v from %v in group %q", kind, src, group)
	}
	s.b.Begin()
	fill(s.b)
	if err := s.b.End(); err != nil {
		s.t.Error(err)
	}
}

func (s *sink) Status(st source.Status) { s.status[st.Instrument] = st; s.told++ }

// take returns the rows since the last call, as lines: the fields of every port, and by
// name those of some.
func (s *sink) take() string {
	t := s.b.Build()
	var out strings.Builder
	for r := range t.Rows {
		for i, f := range wire.Schema[wire.KindFabric] {
			c := t.Column(f.ID)
			has := c != nil && c.Has(r)
			if !has && i >= 8 {
				continue
			}
			if i > 0 {
				out.WriteByte(' ')
			}
			if i >= 8 {
				out.WriteString(f.Name + "=")
			}
			switch {
			case !has:
				out.WriteByte('-')
			case f.Type == wire.Str:
				out.WriteString(c.Str(r))
			default:
				fmt.Fprint(&out, c.Int[r])
			}
		}
		out.WriteByte('\n')
	}
	s.b.Reset()
	return out.String()
}

// tree makes files below a new directory; a value "-> x" is a symbolic link to x, and a
// name that ends in a slash a directory.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	write(t, root, files)
	return root
}

func write(t testing.TB, root string, files map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(files[name], "-> "); ok {
			err = os.Symlink(to, path)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(files[name]), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// rdma is a port as mlx5 shows it.
func rdma(device, layer, state, rate, tx, rx string) map[string]string {
	d := "class/infiniband/" + device + "/"
	p := d + "ports/1/"
	return map[string]string{
		d + "fw_ver": "28.39.1002\n", p + "link_layer": layer + "\n", p + "state": state + "\n", p + "rate": rate + "\n",
		p + "counters/port_xmit_data": tx, p + "counters/port_rcv_data": rx, p + "phys_state": "5: LinkUp\n",
	}
}

// ether is a network device.
func ether(name, device, state, speed, tx, rx string) map[string]string {
	d := "class/net/" + name + "/"
	m := map[string]string{
		d + "type": "1\n", d + "operstate": state + "\n", d + "speed": speed + "\n",
		d + "statistics/tx_bytes": tx, d + "statistics/rx_bytes": rx,
	}
	if device != "" {
		m[d+"device"] = "-> " + device
		m["devices/"+filepath.Base(device)+"/vendor"] = "0x15b3\n"
	}
	return m
}

func join(ms ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range ms {
		maps.Copy(out, m)
	}
	return out
}

func TestPorts(t *testing.T) {
	t.Parallel()
	const at = "1700000000000 "
	for _, c := range []struct {
		name   string
		files  map[string]string
		want   string
		status map[string]string // instrument: state and the start of its reason
	}{
		{
			"InfiniBand at 400 Gb/s", join(rdma("mlx5_0", "InfiniBand", "4: ACTIVE", "400 Gb/sec (4X NDR)", "250000000000\n", "17\n"), map[string]string{"class/net/": ""}),
			at + "mlx5_0/1 infiniband 5000 1000000000000 68 400000 1\n", map[string]string{"fabric": "active:"},
		},
		{
			"RoCE bond and its halves",
			join(rdma("mlx5_bond_0", "Ethernet", "4: ACTIVE", "100 Gb/sec (2X HDR)", "5\n", "6\n"),
				ether("eth2", "../../../devices/a", "up", "100000", "11\n", "12\n"), ether("eth3", "../../../devices/b", "up", "100000", "13\n", "14\n"),
				map[string]string{"class/net/eth2/master": "-> ../bond0", "class/net/eth3/master": "-> ../bond0"}, ether("bond0", "", "up", "200000", "24\n", "26\n")),
			at + "mlx5_bond_0/1 roce 5000 20 24 100000 1\n" + at + "eth2 ethernet 5000 11 12 100000 1\n" + at + "eth3 ethernet 5000 13 14 100000 1\n",
			map[string]string{"fabric": "active:"},
		},
		{
			"plain Ethernet whose speed is not known", join(ether("eth0", "../../../devices/virtio2", "up", "-1", "7\n", "8\n")),
			at + "eth0 ethernet 5000 7 8 - 1\n", map[string]string{"fabric": "active:"},
		},
		{
			"a speed of all ones, state unknown", join(ether("eth0", "../../../devices/virtio2", "unknown", "4294967295", "7\n", "8\n")),
			at + "eth0 ethernet 5000 7 8 - -\n", map[string]string{"fabric": "active:"},
		},
		{
			"not ports of their own", join(
				ether("lo", "", "unknown", "0", "1\n", "1\n"), ether("veth1", "", "up", "10000", "1\n", "1\n"), ether("docker0", "", "up", "-1", "1\n", "1\n"),
				ether("ib0", "../../../devices/ib", "up", "400000", "1\n", "1\n"), map[string]string{"class/net/ib0/type": "32\n"},
				ether("pf0vf0", "../../../devices/pf", "up", "400000", "1\n", "1\n"), map[string]string{"class/net/pf0vf0/phys_port_name": "c1pf0vf0\n"},
				ether("vmnic", "../../../devices/vmbus", "up", "1000", "9\n", "9\n"),
				ether("vmvf", "../../../devices/mana", "up", "1000", "9\n", "9\n"), map[string]string{"class/net/vmvf/master": "-> ../vmnic"},
				ether("up0", "../../../devices/pf", "up", "400000", "2\n", "2\n"), map[string]string{"class/net/up0/phys_port_name": "p0\n", "class/net/bonding_masters": "\n"}),
			at + "up0 ethernet 5000 2 2 400000 1\n" + at + "vmnic ethernet 5000 9 9 1000 1\n", map[string]string{"fabric": "active:"},
		},
		{
			"a port that is down", rdmaDown(),
			at + "mlx5_0/1 infiniband 5000 0 0 10000 0\n", map[string]string{"fabric": "active:"},
		},
		{
			"octets in hw_counters", join(map[string]string{
				"class/infiniband/rdmap0/ports/1/link_layer": "Unspecified\n", "class/infiniband/rdmap0/ports/1/state": "4: ACTIVE\n",
				"class/infiniband/rdmap0/ports/1/hw_counters/tx_bytes": "1000\n", "class/infiniband/rdmap0/ports/1/hw_counters/rx_bytes": "2000\n", "class/net/": "",
			}),
			at + "rdmap0/1 roce 5000 1000 2000 - 1\n", map[string]string{"fabric": "active:"},
		},
		{
			"64 bits in counters_ext", join(rdma("mlx4_0", "InfiniBand", "4: ACTIVE", "40 Gb/sec (4X QDR)", "4294967295\n", "4294967295\n"), map[string]string{
				"class/infiniband/mlx4_0/ports/1/counters_ext/port_xmit_data_64": "10000000000\n", "class/infiniband/mlx4_0/ports/1/counters_ext/port_rcv_data_64": "1\n", "class/net/": "",
			}),
			at + "mlx4_0/1 infiniband 5000 40000000000 4 40000 1\n", map[string]string{"fabric": "active:"},
		},
		{
			"no counters at all", map[string]string{"class/infiniband/irdma0/ports/1/link_layer": "Ethernet\n", "class/infiniband/irdma0/ports/1/state": "4: ACTIVE\n", "class/net/": ""},
			at + "irdma0/1 roce 5000 - - - 1\n",
			map[string]string{"fabric": "degraded:1 of 1 ports", "fabric/irdma0/1": "degraded:its driver has no counters of bytes in "},
		},
		{
			"garbage and negative counts",
			join(rdma("mlx5_0", "InfiniBand", "what", "fast", "N/A (no PMA)\n", "-5\n"), ether("eth0", "../../../devices/x", "up", "ten", "", "99999999999999999999\n")),
			at + "eth0 ethernet 5000 - - - 1\n",
			map[string]string{"fabric": "degraded:2 of 2 ports", "fabric/mlx5_0/1": "degraded:cannot read", "fabric/eth0": "degraded:cannot read"},
		},
		{
			"words that do not fit once they are octets", join(rdma("mlx5_0", "InfiniBand", "4: ACTIVE", "400 Gb/sec (4X NDR)", "4611686018427387904\n", "1\n"), map[string]string{"class/net/": ""}),
			at + "mlx5_0/1 infiniband 5000 - 4 400000 1\n", map[string]string{"fabric": "degraded:1 of 1", "fabric/mlx5_0/1": "degraded:cannot read"},
		},
		{"nothing", map[string]string{"class/net/": ""}, "", map[string]string{"fabric": "unavailable:no InfiniBand"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := tree(t, c.files)
			f, s := New(Config{Sysfs: root}), newSink(t)
			defer f.Close()
			if err := f.Sample(t.Context(), source.Tick{Seq: 1, WallMs: 1700000000000, BootMs: 5000}, s); err != nil {
				t.Fatal(err)
			}
			if got := s.take(); got != c.want {
				t.Errorf("rows:\n%swant:\n%s", got, c.want)
			}
			got := map[string]string{}
			for k, v := range s.status {
				got[k] = string(v.State) + ":" + v.Reason
			}
			for k, want := range c.status {
				if !strings.HasPrefix(got[k], want) {
					t.Errorf("status of %s: %q, want %q...", k, got[k], want)
				}
				delete(got, k)
			}
			if len(got) > 0 {
				t.Errorf("more statuses: %v", got)
			}
		})
	}
}

func rdmaDown() map[string]string {
	return join(rdma("mlx5_0", "InfiniBand", "1: DOWN", "10 Gb/sec (4X SDR)", "0\n", "0\n"), map[string]string{"class/net/": ""})
}

func TestVirtual(t *testing.T) {
	t.Parallel()
	root := tree(t, join(
		rdma("mlx5_2", "InfiniBand", "4: ACTIVE", "400 Gb/sec (4X NDR)", "1\n", "2\n"),
		map[string]string{
			"class/infiniband/mlx5_2/device": "-> ../../../devices/vf", "devices/vf/physfn": "-> ../pf", "devices/pf/vendor": "0x15b3\n",
			"devices/mlx5_core.sf.4/sfnum": "8\n", "devices/vf/vendor": "0x15b3\n",
		},
		ether("v0", "", "up", "400000", "3\n", "4\n"), map[string]string{"class/net/v0/device": "-> ../../../devices/vf"},
		ether("s8", "", "up", "400000", "5\n", "6\n"), map[string]string{"class/net/s8/device": "-> ../../../devices/mlx5_core.sf.4"},
		ether("p0", "", "up", "400000", "7\n", "8\n"), map[string]string{"class/net/p0/device": "-> ../../../devices/pf"},
	))
	f, s := New(Config{Sysfs: root}), newSink(t)
	defer f.Close()
	if err := f.Sample(t.Context(), source.Tick{Seq: 1, WallMs: 1, BootMs: 5}, s); err != nil {
		t.Fatal(err)
	}
	want := "1 p0 ethernet 5 7 8 400000 1\n1 mlx5_2/1 vf 5 4 8 400000 1\n1 s8 vf 5 5 6 400000 1\n1 v0 vf 5 3 4 400000 1\n"
	if got := s.take(); got != want {
		t.Errorf("rows:\n%swant:\n%s", got, want)
	}
}

// A port that is taken out is lost, is told once, and is active again when it returns.
func TestLostAndBack(t *testing.T) {
	t.Parallel()
	two := join(ether("eth0", "../../../devices/x", "up", "1000", "1\n", "2\n"), ether("eth1", "../../../devices/x", "up", "1000", "3\n", "4\n"))
	root := tree(t, two)
	f, s := New(Config{Sysfs: root}), newSink(t)
	defer f.Close()
	boot := int64(0)
	tick := func(stepMs int64) string {
		t.Helper()
		boot += stepMs
		if err := f.Sample(t.Context(), source.Tick{WallMs: boot, BootMs: boot}, s); err != nil {
			t.Fatal(err)
		}
		return s.take()
	}
	if got := tick(1000); strings.Count(got, "\n") != 2 {
		t.Fatalf("rows: %q", got)
	}
	if err := os.RemoveAll(filepath.Join(root, "class/net/eth1")); err != nil {
		t.Fatal(err)
	}
	if got := tick(30_000); got != "31000 eth0 ethernet 31000 1 2 1000 1\n" {
		t.Errorf("rows without eth1: %q", got)
	}
	if st := s.status["fabric/eth1"]; st.State != source.Lost {
		t.Errorf("status: %+v", st)
	}
	told := s.told
	tick(30_000)
	if s.told != told {
		t.Error("the loss was told again")
	}
	write(t, root, map[string]string{"class/net/eth1/type": "1\n", "class/net/eth1/operstate": "up\n", "class/net/eth1/statistics/tx_bytes": "9\n", "class/net/eth1/statistics/rx_bytes": "9\n", "class/net/eth1/device": "-> ../../../devices/x"})
	if got := tick(30_000); !strings.Contains(got, "eth1 ethernet 91000 9 9 - 1\n") {
		t.Errorf("rows with eth1 again: %q", got)
	}
	if st := s.status["fabric/eth1"]; st.State != source.Active {
		t.Errorf("status: %+v", st)
	}
}

// Counters that cannot be read are absent, with the errno; the rest of the host goes on.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	root := tree(t, join(ether("eth0", "../../../devices/x", "up", "1000", "1\n", "2\n"), ether("eth1", "../../../devices/x", "up", "1000", "3\n", "4\n")))
	rx := filepath.Join(root, "class/net/eth1/statistics/rx_bytes")
	if err := os.Remove(rx); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(rx, 0o755); err != nil { // a read gives EISDIR, for root as well
		t.Fatal(err)
	}
	f, s := New(Config{Sysfs: root}), newSink(t)
	defer f.Close()
	for range 3 {
		if err := f.Sample(t.Context(), source.Tick{WallMs: 1, BootMs: 1}, s); err != nil {
			t.Fatal(err)
		}
		if got, want := s.take(), "1 eth0 ethernet 1 1 2 1000 1\n1 eth1 ethernet 1 3 - 1000 1\n"; got != want {
			t.Errorf("rows %q, want %q", got, want)
		}
	}
	if st := s.status["fabric/eth1"]; st.State != source.Degraded || !strings.Contains(st.Reason, "rx_bytes: EISDIR") {
		t.Errorf("status: %+v", st)
	}
	if s.told != 2 {
		t.Errorf("%d statuses were told, want 2", s.told)
	}
	if err := os.Remove(rx); err != nil {
		t.Fatal(err)
	}
	write(t, root, map[string]string{"class/net/eth1/statistics/rx_bytes": "5\n"})
	if err := f.Sample(t.Context(), source.Tick{WallMs: 2, BootMs: 2}, s); err != nil {
		t.Fatal(err)
	}
	if s.status["fabric/eth1"].State != source.Active || s.status["fabric"].State != source.Active {
		t.Errorf("statuses after it was mended: %+v", s.status)
	}
}

// A link that is down costs nothing until it is looked at again.
func TestDownIsReadRarely(t *testing.T) {
	t.Parallel()
	root := tree(t, rdmaDown())
	f, s := New(Config{Sysfs: root}), newSink(t)
	defer f.Close()
	rows := 0
	for i := range 21 {
		if err := f.Sample(t.Context(), source.Tick{WallMs: int64(i), BootMs: int64(i) * 1000}, s); err != nil {
			t.Fatal(err)
		}
		rows += strings.Count(s.take(), "\n")
	}
	if rows != 3 {
		t.Errorf("%d rows in 21 s, want 3", rows)
	}
}

// Functions of adapters by the hundred leave the physical ports in.
func TestBounded(t *testing.T) {
	t.Parallel()
	files := ether("zz0", "../../../devices/pf", "up", "1000", "1\n", "2\n")
	files["devices/vf/physfn/vendor"] = "0x15b3\n"
	for i := range maxPorts + 10 {
		maps.Copy(files, ether(fmt.Sprintf("v%03d", i), "../../../devices/vf", "down", "-1", "0\n", "0\n"))
	}
	f, s := New(Config{Sysfs: tree(t, files)}), newSink(t)
	defer f.Close()
	if err := f.Sample(t.Context(), source.Tick{WallMs: 1, BootMs: 1}, s); err != nil {
		t.Fatal(err)
	}
	got := s.take()
	if n := strings.Count(got, "\n"); n != maxPorts || !strings.HasPrefix(got, "1 zz0 ethernet ") {
		t.Errorf("%d rows, the first of them %.20q", n, got)
	}
	if st := s.status["fabric"]; st.State != source.Degraded || st.Reason != "11 ports beyond the first 128 are left out" {
		t.Errorf("status: %+v", st)
	}
}

func TestNoSysfs(t *testing.T) {
	t.Parallel()
	err := New(Config{Sysfs: filepath.Join(t.TempDir(), "none")}).Sample(t.Context(), source.Tick{}, newSink(t))
	if err == nil || !strings.Contains(err.Error(), "is sysfs mounted at") {
		t.Errorf("error: %v", err)
	}
}

// The ports of the machine that runs the tests: whatever there is, it can be read.
func TestThisHost(t *testing.T) {
	t.Parallel()
	f, s := New(Config{}), newSink(t)
	if err := f.Sample(t.Context(), source.Tick{WallMs: 1, BootMs: 1}, s); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s%v", s.take(), s.status)
	n := len(f.ports)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if n > 0 && s.status["fabric"].State == source.Unavailable {
		t.Error("ports, and unavailable")
	}
}

func TestWhy(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]string{
		syscall.EACCES: "EACCES (permission denied): the agent's user", syscall.EIO: "EIO (input/output error): the driver or its firmware",
		syscall.Errno(95): "EOPNOTSUPP", syscall.Errno(200): "errno 200", errValue: "the driver gives no count", os.ErrClosed: "file already closed",
	} {
		if got := why(err); !strings.HasPrefix(got, want) {
			t.Errorf("why(%v) = %q", err, got)
		}
	}
}
