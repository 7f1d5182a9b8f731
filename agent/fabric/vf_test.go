package fabric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// attr is a netlink attribute, as the kernel lays it out.
func attr(kind uint16, parts ...[]byte) []byte {
	b := []byte{0, 0, 0, 0}
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func u32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

// answer is a kernel's answer for a physical function, in the order in which rtnetlink
// puts it; sent says what function n sent, absent: its driver counts nothing.
func answer(name string, n int, sent func(vf int) (uint64, bool)) []byte {
	var list [][]byte
	for i := range n {
		mac := make([]byte, 36)
		binary.NativeEndian.PutUint32(mac, uint32(i))
		parts := [][]byte{
			attr(1, mac), attr(13, mac), attr(2, u32(uint32(i)), u32(0), u32(0)), attr(6, u32(uint32(i)), u32(0), u32(0)), attr(3, u32(uint32(i)), u32(0)),
			attr(4, u32(uint32(i)), u32(1)), attr(5, u32(uint32(i)), u32(0)), attr(7, u32(uint32(i)), u32(0)), attr(9, u32(uint32(i)), u32(0)),
		}
		if v, ok := sent(i); ok {
			parts = append(parts, attr(8|unix.NLA_F_NESTED, attr(0, u64(v/1000+1)), attr(1, u64(v/1000)), attr(2, u64(v+1)), attr(3, u64(v)), attr(4, u64(0)), attr(5, u64(0)), attr(6), attr(7, u64(8)), attr(8, u64(9))))
		}
		list = append(list, attr(vfInfo|unix.NLA_F_NESTED, parts...))
	}
	msg := append(make([]byte, unix.SizeofIfInfomsg), attr(unix.IFLA_IFNAME, []byte(name+"\x00"))...)
	msg = append(msg, attr(unix.IFLA_MTU, u32(1500))...)
	msg = append(msg, attr(unix.IFLA_NUM_VF, u32(uint32(n)))...)
	return append(msg, attr(unix.IFLA_VFINFO_LIST|unix.NLA_F_NESTED, list...)...)
}

// sriov is a host with an adapter of 16 functions: 0 to 11 with guests, 12 in a container's
// network namespace, 13 the host's own, 14 and 15 without a driver.
func sriov() map[string]string {
	m := join(ether("eth0", "../../../devices/pf", "up", "400000", "1\n", "2\n"), ether("eth0v13", "../../../devices/vf13", "up", "400000", "3\n", "4\n"),
		map[string]string{"class/net/eth0/ifindex": "4\n", "devices/pf/sriov_numvfs": "16\n", "devices/pf/net/eth0/phys_port_name": "p0\n", "devices/vf13/net/eth0v13/type": "1\n"})
	for i := range 16 {
		m[fmt.Sprintf("devices/pf/virtfn%d", i)] = fmt.Sprintf("-> ../vf%d", i)
		m[fmt.Sprintf("devices/vf%d/physfn", i)] = "-> ../pf"
		switch {
		case i < 12:
			m[fmt.Sprintf("devices/vf%d/driver", i)] = "-> ../../bus/pci/drivers/vfio-pci"
		case i < 14:
			m[fmt.Sprintf("devices/vf%d/driver", i)] = "-> ../../bus/pci/drivers/mlx5_core"
		}
	}
	m["bus/pci/drivers/vfio-pci/bind"], m["bus/pci/drivers/mlx5_core/bind"] = "", ""
	return m
}

func TestGuests(t *testing.T) {
	t.Parallel()
	f, s := New(Config{Sysfs: tree(t, sriov())}), newSink(t)
	defer f.Close()
	asked := 0
	f.ask = func(ifindex int) ([]byte, error) {
		if asked++; ifindex != 4 {
			t.Errorf("asked for interface %d", ifindex)
		}
		return answer("eth0", 16, func(vf int) (uint64, bool) { return uint64(vf) * 1_000_000, true }), nil
	}
	for i := range 21 {
		if err := f.Sample(t.Context(), source.Tick{WallMs: 1, BootMs: int64(i) * 1000}, s); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			got := strings.Split(s.take(), "\n")
			if len(got) != 2+13+1 || got[0] != "1 eth0 ethernet 0 1 2 400000 1" || got[1] != "1 eth0v13 vf 0 3 4 400000 1 parent_port=eth0" ||
				got[5] != "1 eth0/vf3 vf 0 3000000 3000001 - - parent_port=eth0 tx_packets=3000 rx_packets=3001 tx_discards=9 rx_discards=8" ||
				!strings.HasPrefix(got[14], "1 eth0/vf12 vf 0 12000000 ") {
				t.Errorf("rows: %q", got)
			}
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times in 21 s, want once in ten", asked)
	}
	if st := s.status["fabric/vf"]; st.State != source.Active {
		t.Errorf("status: %+v", st)
	}
}

func TestGuestsNotTold(t *testing.T) {
	t.Parallel()
	infiniband := sriov()
	infiniband["class/net/eth0/type"] = "32\n"
	infiniband["devices/pf/infiniband/mlx5_0/node_type"] = "1: CA\n"
	some := func(int) (uint64, bool) { return 1, true }
	for _, c := range []struct {
		name   string
		files  map[string]string
		answer []byte
		err    error
		rows   int // of functions
		want   string
	}{
		{"a driver that counts nothing", sriov(), answer("eth0", 16, func(int) (uint64, bool) { return 0, false }), nil, 0, "1 of 1 adapters do not tell what guests send: eth0: its driver counts nothing of its 13 virtual functions in use; the switch does"},
		{"all ones are no count", sriov(), answer("eth0", 16, func(int) (uint64, bool) { return 1<<64 - 2, true }), nil, 0, "1 of 1 adapters do not tell"},
		{"another network namespace", sriov(), answer("veth9", 16, some), nil, 0, "1 of 1 adapters do not tell what guests send: eth0: the kernel's interface 4 is \"veth9\" here: the agent is in another"},
		{"a sandbox without netlink", sriov(), nil, fmt.Errorf("open netlink: %w", unix.EAFNOSUPPORT), 0, "1 of 1 adapters do not tell what guests send: eth0: cannot ask the kernel for the counters of its virtual functions: errno 97"},
		{"a firmware that hangs", sriov(), nil, fmt.Errorf("ask netlink: %w", unix.EAGAIN), 0, "1 of 1 adapters do not tell what guests send: eth0: cannot ask the kernel for the counters of its virtual functions: no answer within a second"},
		{"an answer cut short", sriov(), answer("eth0", 16, some)[:200], nil, 0, "1 of 1 adapters do not tell what guests send: eth0: cannot ask the kernel for the counters of its virtual functions: the answer is not well-formed"},
		{"InfiniBand", infiniband, answer("eth0", 16, some), nil, 13, "13 InfiniBand functions are in use by guests: their RDMA passes the host by, and what is told of it is the firmware's word alone; the switch (UFM, gNMI) is the witness"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f, s := New(Config{Sysfs: tree(t, c.files)}), newSink(t)
			defer f.Close()
			f.ask = func(int) ([]byte, error) { return c.answer, c.err }
			if err := f.Sample(t.Context(), source.Tick{WallMs: 1, BootMs: 1}, s); err != nil {
				t.Fatal(err)
			}
			rows := s.take()
			if n := strings.Count(rows, "/vf"); n != c.rows {
				t.Errorf("%d rows of functions, want %d: %q", n, c.rows, rows)
			}
			if c.name == "InfiniBand" && !strings.Contains(rows, "1 mlx5_0/vf3 vf 1 1 2 - - parent_port=mlx5_0/1") {
				t.Errorf("rows: %q", rows)
			}
			if st := s.status["fabric/vf"]; st.State != source.Degraded || !strings.HasPrefix(st.Reason, c.want) {
				t.Errorf("status: %+v", st)
			}
		})
	}
}

func TestNoVFs(t *testing.T) {
	t.Parallel()
	f, s := New(Config{Sysfs: tree(t, sriov()), NoVFs: true}), newSink(t)
	defer f.Close()
	f.ask = func(int) ([]byte, error) { t.Error("asked"); return nil, errors.New("no") }
	if err := f.Sample(t.Context(), source.Tick{WallMs: 1, BootMs: 1}, s); err != nil {
		t.Fatal(err)
	}
}

// Adapters that guests have whole are known by their driver alone.
func TestWholeAdapters(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"class/net/": "", "devices/nic/class": "0x020700\n", "devices/gpu/class": "0x030200\n", "devices/vf/class": "0x020000\n", "devices/vf/physfn": "-> ../nic",
		"bus/pci/drivers/vfio-pci/0000:1a:00.0": "-> ../../../../devices/nic", "bus/pci/drivers/vfio-pci/0000:1b:00.0": "-> ../../../../devices/gpu", "bus/pci/drivers/vfio-pci/0000:1c:00.0": "-> ../../../../devices/vf",
	})
	f, s := New(Config{Sysfs: root}), newSink(t)
	defer f.Close()
	if err := f.Sample(t.Context(), source.Tick{WallMs: 1, BootMs: 1}, s); err != nil {
		t.Fatal(err)
	}
	if st := s.status["fabric/passthrough"]; st.State != source.Unavailable || !strings.HasPrefix(st.Reason, "1 network adapters are passed through to guests whole") {
		t.Errorf("status: %+v", st)
	}
}

// The kernel that runs the tests: what it says of a link decodes, in a network namespace
// of its own with a pair of devices, and its drivers' counters are read by ethtool.
func TestKernel(t *testing.T) {
	var missing error
	if os.Geteuid() != 0 {
		missing = errors.New("not root")
	}
	testenv.Need(t, "root", missing)
	runtime.LockOSThread() // not given back: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		testenv.Need(t, "netns", err)
	}
	out, err := exec.Command("ip", "link", "add", "fw0", "type", "veth", "peer", "name", "fw1").CombinedOutput()
	if err != nil {
		testenv.Need(t, "iproute2", fmt.Errorf("%w: %s", err, out))
	}
	found := 0
	for i := 1; i < 20; i++ {
		msg, aerr := askLink(i)
		if aerr != nil {
			continue
		}
		name, derr := decodeFunctions(msg, nil)
		if derr != nil {
			t.Errorf("interface %d: %v", i, derr)
		}
		if name == "fw0" || name == "fw1" {
			found++
		}
	}
	if found != 2 {
		t.Errorf("found %d of 2 devices", found)
	}
	if _, err = askLink(1 << 20); !errors.Is(err, unix.ENODEV) {
		t.Errorf("an interface that is not there: %v", err)
	}
	stats, err := ethtoolStats("fw0")
	if err != nil || len(stats) == 0 || stats[0].name != "peer_ifindex" || stats[0].value == 0 {
		t.Errorf("driver's counters: %+v, %v", stats, err)
	}
	if _, err = ethtoolStats("nothere"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("counters of a device that is not there: %v", err)
	}
	v := function{representor: "fw0", txBytes: -1, rxBytes: -1}
	if err = New(Config{}).representorStats(&v); err != nil || v.txBytes != -1 {
		t.Errorf("a device without counters of a switch's port: %v", err)
	}
}

// A representor stands in where netlink tells nothing: what its name says sent, the
// function received.
func TestRepresentor(t *testing.T) {
	t.Parallel()
	m := sriov()
	m["class/net/eth0/phys_switch_id"] = "0a0b\n"
	maps.Copy(m, ether("eth0_3", "../../../devices/pf", "up", "400000", "1\n", "2\n"))
	m["class/net/eth0_3/phys_port_name"], m["class/net/eth0_3/phys_switch_id"] = "pf0vf3\n", "0a0b\n"
	// A sub-function in a container, and one that is the host's own.
	for _, sf := range []string{"88", "89"} {
		maps.Copy(m, ether("en0pf0sf"+sf, "../../../devices/pf", "up", "400000", "1\n", "2\n"))
		m["class/net/en0pf0sf"+sf+"/phys_port_name"], m["class/net/en0pf0sf"+sf+"/phys_switch_id"] = "pf0sf"+sf+"\n", "0a0b\n"
	}
	m["class/net/eth0/phys_port_name"] = "p0\n"
	maps.Copy(m, ether("eth0s89", "../../../devices/mlx5_core.sf.4", "up", "400000", "5\n", "6\n"))
	m["devices/mlx5_core.sf.4/sfnum"] = "89\n"
	f, s := New(Config{Sysfs: tree(t, m)}), newSink(t)
	defer f.Close()
	f.ask = func(int) ([]byte, error) {
		return answer("eth0", 16, func(int) (uint64, bool) { return 0, false }), nil
	}
	f.stats = func(device string) ([]stat, error) {
		if device != "eth0_3" && device != "en0pf0sf88" {
			t.Errorf("asked %s", device)
		}
		return []stat{{"rx_packets", 1}, {"vport_rx_packets", 3}, {"vport_rx_bytes", 30}, {"vport_tx_packets", 4}, {"vport_tx_bytes", 40}, {"tx_vport_rdma_unicast_bytes", 1 << 63}}, nil
	}
	if err := f.Sample(t.Context(), source.Tick{WallMs: 1, BootMs: 1}, s); err != nil {
		t.Fatal(err)
	}
	want := "1 eth0 ethernet 1 1 2 400000 1\n1 eth0s89 vf 1 5 6 400000 1\n1 eth0v13 vf 1 3 4 400000 1 parent_port=eth0\n" +
		"1 eth0/vf3 vf 1 30 40 - - parent_port=eth0 tx_packets=3 rx_packets=4\n1 eth0/sf88 vf 1 30 40 - - parent_port=eth0 tx_packets=3 rx_packets=4\n"
	if got := s.take(); got != want {
		t.Errorf("rows:\n%swant:\n%s", got, want)
	}
	if st := s.status["fabric/vf"]; st.State != source.Degraded || !strings.HasSuffix(st.Reason, "eth0: its driver does not count 12 of its 13 virtual functions in use; the switch does") {
		t.Errorf("status: %+v", st)
	}
	names := append(u32(2), make([]byte, 64)...)
	copy(names[4:], "vport_rx_bytes")
	copy(names[36:], "a_name_that_fills_all_of_its_thirty_two_bytes")
	got := pairs(names, append(u32(2), append(u64(5), u64(6)...)...))
	if len(got) != 2 || got[0] != (stat{"vport_rx_bytes", 5}) || len(got[1].name) != 28 && len(got[1].name) != 32 {
		t.Errorf("pairs: %+v", got)
	}
}

func FuzzLink(f *testing.F) {
	f.Add(answer("eth0", 3, func(vf int) (uint64, bool) { return uint64(vf), vf != 1 }))
	f.Add(answer("", 0, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		into := []function{{id: 0, txBytes: -1}, {id: 2, txBytes: -1}}
		if _, err := decodeFunctions(b, into); err != nil && !errors.Is(err, errLink) {
			t.Errorf("error: %v", err)
		}
		for _, v := range into {
			if v.txBytes < -1 {
				t.Errorf("bytes: %d", v.txBytes)
			}
		}
		_ = pairs(b, b)
	})
}
