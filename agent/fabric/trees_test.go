package fabric

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
)

// The trees below have the files, names and forms of real drivers' sysfs; their numbers
// are made up.

// below puts the files under a directory.
func below(dir string, files map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range files {
		out[dir+"/"+k] = v
	}
	return out
}

// pma is the counters directory of the InfiniBand core.
func pma(tx, rx, txp, rxp, wait int64) map[string]string {
	m := map[string]string{}
	for name, v := range map[string]int64{
		"port_xmit_data": tx, "port_rcv_data": rx, "port_xmit_packets": txp, "port_rcv_packets": rxp, "port_xmit_wait": wait,
		"symbol_error": 1, "link_downed": 2, "link_error_recovery": 3, "port_rcv_errors": 4, "port_xmit_discards": 5, "VL15_dropped": 0,
		"excessive_buffer_overrun_errors": 0, "local_link_integrity_errors": 0, "multicast_rcv_packets": 0, "port_rcv_switch_relay_errors": 0,
	} {
		m["counters/"+name] = fmt.Sprintln(v)
	}
	return m
}

var mlx5Hardware = map[string]string{
	"hw_counters/np_cnp_sent": "11\n", "hw_counters/rp_cnp_handled": "12\n", "hw_counters/np_ecn_marked_roce_packets": "13\n", "hw_counters/out_of_sequence": "14\n",
	"hw_counters/local_ack_timeout_err": "15\n", "hw_counters/rnr_nak_retry_err": "16\n", "hw_counters/out_of_buffer": "17\n", "hw_counters/lifespan": "10\n",
	"hw_counters/packet_seq_err": "0\n", "hw_counters/roce_adp_retrans": "0\n", "hw_counters/duplicate_request": "0\n", "hw_counters/req_cqe_error": "0\n",
}

func rdmaPort(layer, state, phys, rate string) map[string]string {
	return map[string]string{"link_layer": layer + "\n", "state": state + "\n", "phys_state": phys + "\n", "rate": rate + "\n", "lid": "0x4\n", "sm_lid": "0x1\n"}
}

const health = " symbol_errors=1 link_downed=2 link_recovered=3 rx_errors=4 tx_discards=5"

func TestRealTrees(t *testing.T) {
	t.Parallel()
	const cx7 = "class/infiniband/mlx5_0/ports/1"
	for _, c := range []struct {
		name   string
		files  map[string]string
		want   string
		status map[string]string
	}{
		{
			"mlx5 ConnectX-7 InfiniBand", join(below(cx7, rdmaPort("InfiniBand", "4: ACTIVE", "5: LinkUp", "400 Gb/sec (4X NDR)")), below(cx7, pma(25, 50, 7, 8, 9)), below(cx7, mlx5Hardware)),
			"1 mlx5_0/1 infiniband 5 100 200 400000 1 tx_packets=7 rx_packets=8 xmit_wait=9 cnp_sent=11 cnp_handled=12 ecn_marked=13 out_of_sequence=14 ack_timeouts=15 rnr_retries=16" + health + " rx_discards=17\n", nil,
		},
		{
			"mlx5 RoCE and its network device", join(
				below(cx7, rdmaPort("Ethernet", "4: ACTIVE", "5: LinkUp", "200 Gb/sec (2X NDR)")), below(cx7, pma(25, 50, 7, 8, 0)), below(cx7, mlx5Hardware),
				ether("ens1np0", "../../../devices/pf", "up", "200000", "1000\n", "2000\n"),
				below("class/net/ens1np0", map[string]string{
					"phys_port_name": "p0\n", "phys_switch_id": "ab\n", "carrier_down_count": "4\n", "statistics/tx_packets": "10\n", "statistics/rx_packets": "20\n",
					"statistics/rx_errors": "1\n", "statistics/tx_dropped": "2\n", "statistics/rx_dropped": "3\n", "ifindex": "7\n",
				})),
			"1 mlx5_0/1 roce 5 100 200 200000 1 tx_packets=7 rx_packets=8 xmit_wait=0 cnp_sent=11 cnp_handled=12 ecn_marked=13 out_of_sequence=14 ack_timeouts=15 rnr_retries=16" + health + " rx_discards=17\n" +
				"1 ens1np0 ethernet 5 1000 2000 200000 1 tx_packets=10 rx_packets=20 link_downed=4 rx_errors=1 tx_discards=2 rx_discards=3\n", nil,
		},
		{
			"bnxt_re", join(below("class/infiniband/bnxt_re0/ports/1", rdmaPort("Ethernet", "4: ACTIVE", "5: LinkUp", "400 Gb/sec (4X NDR)")), below("class/infiniband/bnxt_re0/ports/1/hw_counters", map[string]string{
				"tx_bytes": "1000\n", "rx_bytes": "2000\n", "tx_pkts": "10\n", "rx_pkts": "20\n", "tx_cnp_pkts": "1\n", "rx_cnp_pkts": "2\n", "rx_ecn_marked_pkts": "3\n", "oos_drop_count": "4\n",
				"to_retransmits": "5\n", "rnr_naks_rcvd": "6\n", "rx_roce_error_pkts": "7\n", "rx_out_of_buffer": "8\n", "active_qps": "64\n",
			})),
			"1 bnxt_re0/1 roce 5 1000 2000 400000 1 tx_packets=10 rx_packets=20 cnp_sent=1 cnp_handled=2 ecn_marked=3 out_of_sequence=4 ack_timeouts=5 rnr_retries=6 rx_errors=7 rx_discards=8\n", nil,
		},
		{
			"irdma of RoCE v2, both families", join(below("class/infiniband/rocep1s0/ports/1", rdmaPort("Ethernet", "4: ACTIVE", "5: LinkUp", "100 Gb/sec (4X EDR)")), below("class/infiniband/rocep1s0/ports/1/hw_counters", map[string]string{
				"ip4OutOctets": "1000\n", "ip6OutOctets": "24\n", "ip4InOctets": "2000\n", "ip6InOctets": "48\n", "ip4OutPkts": "1\n", "ip6OutPkts": "1\n", "ip4InPkts": "2\n", "ip6InPkts": "2\n",
				"cnpSent": "5\n", "cnpHandled": "6\n", "cnpIgnored": "0\n", "RxECNMrkd": "7\n", "ip4InDiscards": "1\n", "ip6InDiscards": "1\n",
			})),
			"1 rocep1s0/1 roce 5 1024 2048 100000 1 tx_packets=2 rx_packets=4 cnp_sent=5 cnp_handled=6 ecn_marked=7 rx_discards=2\n", nil,
		},
		{
			"EFA, whose standard counters are not", join(below("class/infiniband/rdmap0s6/ports/1", rdmaPort("Unspecified", "4: ACTIVE", "5: LinkUp", "100 Gb/sec (4X EDR)")), below("class/infiniband/rdmap0s6/ports/1", map[string]string{
				"counters/port_xmit_data": "N/A (no PMA)\n", "counters/port_rcv_data": "N/A (no PMA)\n",
				"hw_counters/tx_bytes": "1000\n", "hw_counters/rx_bytes": "2000\n", "hw_counters/tx_pkts": "10\n", "hw_counters/rx_pkts": "20\n", "hw_counters/rx_drops": "1\n", "hw_counters/retrans_timeout_events": "2\n",
			})),
			"1 rdmap0s6/1 roce 5 1000 2000 100000 1 tx_packets=10 rx_packets=20 ack_timeouts=2 rx_discards=1\n", nil,
		},
		{
			"soft-RoCE rides on a port that is counted", join(
				below("class/infiniband/rxe0", map[string]string{"node_desc": "rxe\n", "parent": "eth0\n"}), below("class/infiniband/rxe0/ports/1", rdmaPort("Ethernet", "4: ACTIVE", "5: LinkUp", "2.5 Gb/sec (1X SDR)")),
				below("class/infiniband/rxe0/ports/1/hw_counters", map[string]string{"sent_pkts": "1\n", "rcvd_pkts": "1\n"}),
				ether("eth0", "../../../devices/x", "up", "1000", "1\n", "2\n")),
			"1 eth0 ethernet 5 1 2 1000 1\n", nil,
		},
		{
			"a function in a guest is all that the guest has", join(below(cx7, rdmaPort("InfiniBand", "4: ACTIVE", "5: LinkUp", "400 Gb/sec (4X NDR)")), below(cx7, map[string]string{
				"counters/port_xmit_data": "25\n", "counters/port_rcv_data": "50\n",
			}), map[string]string{"class/infiniband/mlx5_0/device": "-> ../../../devices/0000:00:05.0", "devices/0000:00:05.0/device": "0x101e\n", "devices/0000:00:05.0/vendor": "0x15b3\n"}),
			"1 mlx5_0/1 infiniband 5 100 200 400000 1\n", nil,
		},
		{
			"a file that makes no sense is named", join(below(cx7, rdmaPort("InfiniBand", "4: ACTIVE", "5: LinkUp", "400 Gb/sec (4X NDR)")), below(cx7, pma(25, 50, 7, 8, 9)), map[string]string{cx7 + "/counters/symbol_error": "many\n"}),
			"1 mlx5_0/1 infiniband 5 100 200 400000 1 tx_packets=7 rx_packets=8 xmit_wait=9 link_downed=2 link_recovered=3 rx_errors=4 tx_discards=5\n",
			map[string]string{"fabric": "degraded:1 of 1 ports", "fabric/mlx5_0/1": "degraded:cannot read */counters/symbol_error: the driver gives no count"},
		},
		{
			"a rate that is none", join(below(cx7, rdmaPort("InfiniBand", "4: ACTIVE", "5: LinkUp", "fast")), below(cx7, map[string]string{"counters/port_xmit_data": "25\n", "counters/port_rcv_data": "50\n"})),
			"1 mlx5_0/1 infiniband 5 100 200 - 1\n",
			map[string]string{"fabric": "degraded:1 of 1 ports", "fabric/mlx5_0/1": "degraded:*/ports/1/rate holds \"fast\", which is no rate"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			root := tree(t, join(c.files, map[string]string{"class/net/": ""}))
			f, s := New(Config{Sysfs: root}), newSink(t)
			defer f.Close()
			if err := f.Sample(t.Context(), source.Tick{Seq: 1, WallMs: 1, BootMs: 5}, s); err != nil {
				t.Fatal(err)
			}
			if got := s.take(); got != c.want {
				t.Errorf("rows:\n%swant:\n%s", got, c.want)
			}
			if c.status == nil {
				c.status = map[string]string{"fabric": "active:"}
			}
			for k, want := range c.status {
				got := string(s.status[k].State) + ":" + s.status[k].Reason
				before, after, _ := strings.Cut(want, "*")
				if !strings.HasPrefix(got, before) || !strings.Contains(got, after) {
					t.Errorf("status of %s: %q, want %q", k, got, want)
				}
			}
			if len(s.status) != len(c.status) {
				t.Errorf("statuses: %v", s.status)
			}
		})
	}
}

func one(t *testing.T) (f *Fabric, s *sink, root string, tick func(stepMs int64) string) {
	t.Helper()
	root = tree(t, join(
		below("class/infiniband/mlx5_0/ports/1", rdmaPort("InfiniBand", "4: ACTIVE", "5: LinkUp", "400 Gb/sec (4X NDR)")),
		below("class/infiniband/mlx5_0/ports/1", pma(25, 50, 7, 8, 9)), map[string]string{"class/net/": ""}))
	f, s = New(Config{Sysfs: root}), newSink(t)
	t.Cleanup(func() { _ = f.Close() })
	boot := int64(0)
	return f, s, root, func(stepMs int64) string {
		t.Helper()
		boot += stepMs
		if err := f.Sample(t.Context(), source.Tick{WallMs: boot, BootMs: boot}, s); err != nil {
			t.Fatal(err)
		}
		return s.take()
	}
}

// What may go to firmware is asked once in ten seconds; a second costs four files.
func TestSlowTier(t *testing.T) {
	t.Parallel()
	_, _, _, tick := one(t)
	slow := 0
	for range 41 {
		row := tick(1000)
		if !strings.Contains(row, "tx_packets=7") || strings.Count(row, "\n") != 1 {
			t.Fatalf("row: %q", row)
		}
		if strings.Contains(row, "symbol_errors") {
			slow++
		}
	}
	if slow < 5 || slow > 6 {
		t.Errorf("the slow files were read %d times in 41 s, want once at the start and every ten seconds", slow)
	}
}

// The link of a port whose bytes stop is looked at at once; its way down, up, and down
// unseen in between, is told.
func TestLink(t *testing.T) {
	t.Parallel()
	_, s, root, tick := one(t)
	port := filepath.Join(root, "class/infiniband/mlx5_0/ports/1")
	set := func(name, value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(port, name), []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tick(1000)
	set("counters/port_xmit_data", "26")
	tick(1000)
	set("state", "1: DOWN")
	set("phys_state", "2: Polling")
	set("counters/link_downed", "3")
	if row := tick(1000); !strings.Contains(row, " 400000 0 ") {
		t.Errorf("row at the tick at which the bytes stopped: %q", row)
	}
	st := s.status["fabric/mlx5_0/1"]
	if st.State != source.Degraded || st.Reason != "the link was up and is down (1: DOWN, physically 2: Polling): look at its cable, transceiver and switch port" {
		t.Errorf("status: %+v", st)
	}
	if st = s.status["fabric"]; st.State != source.Degraded || st.Reason != "the links of 1 of 1 ports were up and are down" {
		t.Errorf("status of the whole: %+v", st)
	}
	set("state", "4: ACTIVE")
	tick(10_000)
	if st = s.status["fabric/mlx5_0/1"]; st.State != source.Degraded || !strings.HasPrefix(st.Reason, "the link went down 1 times within minutes, and is up") {
		t.Errorf("status after it came back: %+v", st)
	}
	set("counters/link_downed", "7")
	tick(10_000)
	if st = s.status["fabric/mlx5_0/1"]; !strings.HasPrefix(st.Reason, "the link went down 5 times") {
		t.Errorf("status after four more: %+v", st)
	}
	for range 31 {
		tick(10_000)
	}
	if s.status["fabric/mlx5_0/1"].State != source.Active || s.status["fabric"].State != source.Active {
		t.Errorf("status five minutes later: %+v", s.status)
	}
}

func TestRenamed(t *testing.T) {
	t.Parallel()
	root := tree(t, join(ether("eth0", "../../../devices/x", "up", "1000", "1\n", "2\n"), map[string]string{"class/net/eth0/ifindex": "3\n"}))
	f, s := New(Config{Sysfs: root}), newSink(t)
	defer f.Close()
	for _, boot := range []int64{1, 30_001} {
		if err := f.Sample(t.Context(), source.Tick{WallMs: boot, BootMs: boot}, s); err != nil {
			t.Fatal(err)
		}
		if boot == 1 {
			if err := os.Rename(filepath.Join(root, "class/net/eth0"), filepath.Join(root, "class/net/ens1")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if st := s.status["fabric/eth0"]; st.State != source.Lost || st.Reason != "it is now named ens1, where its counters go on" {
		t.Errorf("status: %+v", st)
	}
	if got := s.take(); !strings.Contains(got, "ens1 ethernet 30001 1 2") {
		t.Errorf("rows: %q", got)
	}
}

func TestBurst(t *testing.T) {
	t.Parallel()
	root := tree(t, join(
		below("class/infiniband/mlx5_0/ports/1", rdmaPort("InfiniBand", "4: ACTIVE", "5: LinkUp", "400 Gb/sec (4X NDR)")), below("class/infiniband/mlx5_0/ports/1", pma(25, 50, 7, 8, 9)),
		below("class/infiniband/mlx5_1/ports/1", rdmaPort("InfiniBand", "1: DOWN", "3: Disabled", "10 Gb/sec (4X SDR)")), below("class/infiniband/mlx5_1/ports/1", pma(1, 1, 1, 1, 1)),
		ether("eth0", "../../../devices/x", "up", "1000", "1\n", "2\n"),
		ether("v0", "../../../devices/vf", "up", "1000", "1\n", "2\n"), map[string]string{"devices/vf/physfn/vendor": "0x15b3\n"}))
	f, s := New(Config{Sysfs: root}), newSink(t)
	defer f.Close()
	var _ source.Burster = f
	if err := f.Burst(t.Context(), source.Tick{Seq: 1, Burst: 1, WallMs: 1, BootMs: 1}, s); err != nil || s.take() != "" {
		t.Errorf("burst before the first tick: %v", err)
	}
	if err := f.Sample(t.Context(), source.Tick{Seq: 1, WallMs: 1, BootMs: 1}, s); err != nil {
		t.Fatal(err)
	}
	s.take()
	if err := f.Burst(t.Context(), source.Tick{Seq: 1, Burst: 1, WallMs: 101, BootMs: 102}, s); err != nil {
		t.Fatal(err)
	}
	if got, want := s.take(), "101 mlx5_0/1 infiniband 102 100 200 - -\n101 eth0 ethernet 102 1 2 - -\n"; got != want {
		t.Errorf("rows:\n%swant:\n%s", got, want)
	}
}
