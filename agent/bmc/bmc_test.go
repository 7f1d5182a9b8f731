package bmc

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/bmc/fakebmc"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// quick is the interval of tests.
const quick = 100 * time.Millisecond

// sink keeps rows as maps of text by field, and statuses.
type sink struct {
	t      testing.TB
	b      map[wire.Kind]*wire.Builder
	status map[string]source.Status
}

func newSink(t testing.TB) *sink {
	return &sink{t: t, b: map[wire.Kind]*wire.Builder{}, status: map[string]source.Status{}}
}

func (s *sink) Row(kind wire.Kind, src wire.Source, _ string, _, fill func(*wire.Builder)) {
	b := s.b[kind]
	if b == nil {
		b = wire.NewBuilder(kind, src)
		s.b[kind] = b
	}
	b.Begin()
	fill(b)
	if err := b.End(); err != nil {
		s.t.Error(err)
	}
}

func (s *sink) Status(st source.Status) { s.status[st.Instrument] = st }

// rows returns what came since the last call.
func (s *sink) rows(kind wire.Kind) []map[string]string {
	b := s.b[kind]
	if b == nil || b.Rows() == 0 {
		return nil
	}
	t := b.Build()
	var out []map[string]string
	for r := range t.Rows {
		row := map[string]string{}
		for _, f := range wire.Schema[kind] {
			c := t.Column(f.ID)
			switch {
			case c == nil || !c.Has(r):
			case f.Type == wire.Str:
				row[f.Name] = c.Str(r)
			default:
				row[f.Name] = fmt.Sprint(c.Int[r])
			}
		}
		out = append(out, row)
	}
	b.Reset()
	return out
}

func credentialsFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bmc.cred")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func fake(t testing.TB, opt fakebmc.Options) *fakebmc.Server {
	t.Helper()
	s, err := fakebmc.Start(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func of(t testing.TB, s *fakebmc.Server, node string) Target {
	return Target{Node: node, Address: s.URL(), CredentialsFile: credentialsFile(t, "admin\nsecret\n"), Fingerprint: s.Fingerprint(), Interval: quick, Timeout: 5 * time.Second, Method: MethodRedfish}
}

// asked is the instrument on targets, with a sink.
type asked struct {
	*BMC
	t    testing.TB
	s    *sink
	once sync.Once
}

func start(t testing.TB, targets ...Target) *asked {
	t.Helper()
	b, err := New(Config{Targets: targets, minInterval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	a := &asked{BMC: b, t: t, s: newSink(t)}
	t.Cleanup(func() { a.once.Do(func() { _ = b.Close() }) })
	return a
}

// until samples until the condition holds.
func (a *asked) until(what string, ok func(rows []map[string]string) bool) []map[string]string {
	a.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := a.Sample(a.t.Context(), source.Tick{}, a.s); err != nil {
			a.t.Fatal(err)
		}
		rows := a.s.rows(wire.KindOutOfBand)
		if ok(rows) {
			return rows
		}
		select {
		case <-deadline.C:
			a.t.Fatalf("%s did not come; statuses: %v", what, a.s.status)
		case <-tick.C:
		}
	}
}

func (a *asked) untilState(node string, state source.State, reason string) {
	a.t.Helper()
	a.until(fmt.Sprintf("%s %q", state, reason), func([]map[string]string) bool {
		st := a.s.status["bmc/"+node]
		return st.State == state && strings.Contains(st.Reason, reason)
	})
}

func by(rows []map[string]string, component string) map[string]string {
	for _, r := range slices.Backward(rows) {
		if r["component"] == component {
			return r
		}
	}
	return nil
}

func some(rows []map[string]string) bool { return len(rows) > 0 }

// Every vendor's tree gives the GPUs' rows and the node's power.
func TestVendors(t *testing.T) {
	t.Parallel()
	now := time.Now().UnixMilli()
	for vendor, first := range map[string]string{"supermicro": "GPU_SXM_1", "dell": "GPU_SXM_1", "hpe": "GPU_0", "ami": "GPU_SXM_1"} {
		t.Run(vendor, func(t *testing.T) {
			t.Parallel()
			a := start(t, of(t, fake(t, fakebmc.Options{Vendor: vendor}), "n1"))
			rows := a.until("rows", some)
			r := by(rows, first)
			want := map[string]string{
				"target": "n1", "component": first, "vantage": "outofband", "method": "redfish_report", "gpu_uuid": "GPU-" + fakebmc.UUID(0), "power_mw": "650000", "temp_c": "61",
				"util_e4": "9900", "sm_active_e4": "9250", "sm_occupancy_e4": "2800", "tensor_e4": "5200", "hmma_e4": "5150", "imma_e4": "0", "dfma_e4": "0", "fp64_e4": "0", "fp32_e4": "625", "fp16_e4": "100", "int_e4": "1800",
				"dram_e4": "4100", "pcie_tx_bps": "1000000000", "pcie_rx_bps": "2000000000", "nvlink_tx_bps": "150000000000", "nvlink_rx_bps": "150000000000", "sm_clock_mhz": "1755",
			}
			for k, v := range want {
				if k == "nvlink_tx_bps" || k == "nvlink_rx_bps" {
					if !strings.HasPrefix(r[k], "1500000") && !strings.HasPrefix(r[k], "1499999") {
						t.Errorf("%s = %q, want about %s", k, r[k], v)
					}
				} else if r[k] != v {
					t.Errorf("%s = %q, want %q", k, r[k], v)
				}
			}
			for _, k := range []string{"ts_ms", "report_ms"} {
				if len(r[k]) != 13 || r[k] < fmt.Sprint(now-60_000) {
					t.Errorf("%s = %q", k, r[k])
				}
			}
			if len(r["energy_mj"]) < 4 || !strings.HasSuffix(r["energy_mj"], "000") {
				t.Errorf("energy_mj = %q", r["energy_mj"])
			}
			if _, known := r["gpu"]; known {
				t.Error("an index was guessed from a name")
			}
			if r = by(rows, "node"); r["power_mw"] != "7028000" || r["method"] != "redfish_sensor" || r["report_ms"] != "" {
				t.Errorf("node: %v", r)
			}
			if r = by(rows, "Chassis_0_TotalGPU"); r["power_mw"] != "5228000" {
				t.Errorf("all GPUs: %v", r)
			}
			components := map[string]bool{}
			for _, r := range rows {
				components[r["component"]] = true
			}
			if len(components) != 10 {
				t.Errorf("components: %v", slices.Sorted(maps.Keys(components)))
			}
			a.untilState("n1", source.Active, "")
			if st := a.s.status["bmc"]; st.State != source.Active {
				t.Errorf("status of the whole: %+v", st)
			}
		})
	}
}

// A board without a telemetry service is read sensor by sensor.
func TestSensors(t *testing.T) {
	t.Parallel()
	a := start(t, of(t, fake(t, fakebmc.Options{Vendor: "plain", GPUs: 4}), "n1"))
	rows := a.until("rows", some)
	r := by(rows, "GPU_3")
	for k, v := range map[string]string{"method": "redfish_sensor", "gpu_uuid": "GPU-" + fakebmc.UUID(3), "power_mw": "653000", "temp_c": "61", "sm_clock_mhz": "1755", "sm_active_e4": "9250", "tensor_e4": "5200"} {
		if r[k] != v {
			t.Errorf("%s = %q, want %q", k, r[k], v)
		}
	}
	if _, known := r["report_ms"]; known || r["dram_e4"] != "" {
		t.Errorf("made up: %v", r)
	}
}

// The index is that of the driver where the GPUs are this host's.
func TestIndex(t *testing.T) {
	t.Parallel()
	target := of(t, fake(t, fakebmc.Options{GPUs: 2}), "n1")
	b, err := New(Config{Targets: []Target{target}, Devices: devices{{Index: 7, UUID: "GPU-" + fakebmc.UUID(1)}}, minInterval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	a := &asked{BMC: b, t: t, s: newSink(t)}
	t.Cleanup(func() { _ = b.Close() })
	rows := a.until("rows", some)
	if by(rows, "GPU_SXM_2")["gpu"] != "7" || by(rows, "GPU_SXM_1")["gpu"] != "" {
		t.Errorf("rows: %v", rows)
	}
}

type devices []source.GPUDevice

func (d devices) GPUDevices() ([]source.GPUDevice, bool) { return d, true }

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		fault  fakebmc.Faults
		state  source.State
		reason string
		gpus   bool // rows of GPUs come on
	}{
		{"a report that stands still", fakebmc.Faults{Frozen: true}, source.Degraded, "report HGX_ProcessorGPMMetrics_0 is stalled: it says the same time again and again", false},
		{"reports of an hour ago", fakebmc.Faults{OldBy: time.Hour}, source.Degraded, "HGX_ProcessorGPMMetrics_0 is stalled: it is older than", false},
		{"reports without a time", fakebmc.Faults{NoTime: true}, source.Degraded, "report HGX_ProcessorGPMMetrics_0 carries no time", true},
		{"values that the controller calls stale", fakebmc.Faults{StaleGPU: "GPU_SXM_2"}, source.Degraded, "values of report HGX_ProcessorGPMMetrics_0 are stale and left out", true},
		{"GPM gone from a tray", fakebmc.Faults{NoReports: []string{"HGX_ProcessorGPMMetrics_0"}}, source.Degraded, "report HGX_ProcessorGPMMetrics_0 cannot be read: it answers 404 (Not Found): no tensor or SM activity", true},
		{"a report that fails", fakebmc.Faults{Broken: []string{"HGX_PlatformEnvironmentMetrics_0"}}, source.Degraded, "report HGX_PlatformEnvironmentMetrics_0 cannot be read: it answers 500 (Internal Server Error): no power", true},
		{"a GPU that is gone", fakebmc.Faults{GoneGPU: "GPU_SXM_5"}, source.Degraded, "1 GPUs that were there are not: GPU_SXM_5", true},
		{"names without values", fakebmc.Faults{NotNumber: true}, source.Degraded, "and no value: the GPUs may be without power", false},
		{"garbage", fakebmc.Faults{Garbage: true}, source.Stalled, "its answer is not the JSON that belongs there", false},
		{"an answer without end", fakebmc.Faults{Huge: true}, source.Degraded, "the answer has more than 4 MiB", false},
		{"sent elsewhere", fakebmc.Faults{Redirect: "https://192.0.2.1"}, source.Lost, "cannot be read: the controller redirects to somewhere else, where its session must not go", false},
		{"no node power", fakebmc.Faults{NoPower: true}, source.Degraded, "the node's power cannot be read: it answers 404", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := fake(t, fakebmc.Options{})
			a := start(t, of(t, s, "n1"))
			a.untilState("n1", source.Active, "")
			s.Set(c.fault)
			a.until(c.reason, func([]map[string]string) bool { return strings.Contains(a.s.status["bmc/n1"].Reason, c.reason) })
			if st := a.s.status["bmc/n1"]; st.State != c.state {
				t.Errorf("status: %+v", st)
			}
			rows := a.s.rows(wire.KindOutOfBand)
			if c.gpus {
				rows = a.until("rows of GPUs", func(rows []map[string]string) bool { return by(rows, "GPU_SXM_1") != nil })
			} else if c.state == source.Degraded {
				rows = a.until("rows of the node", some)
				if r := by(rows, "GPU_SXM_1"); r != nil {
					t.Errorf("values that were told before: %v", r)
				}
			}
			switch c.name {
			case "GPM gone from a tray":
				if r := by(rows, "GPU_SXM_1"); r["tensor_e4"] != "" || r["power_mw"] != "650000" {
					t.Errorf("row: %v", r)
				}
				a.untilState("n1", source.Degraded, "the controller has no report ProcessorGPMMetrics")
			case "values that the controller calls stale":
				if by(rows, "GPU_SXM_2") != nil && by(rows, "GPU_SXM_2")["tensor_e4"] != "" {
					t.Errorf("row: %v", by(rows, "GPU_SXM_2"))
				}
			}
			// And back.
			s.Set(fakebmc.Faults{})
			a.untilState("n1", source.Active, "")
		})
	}
}

// A report that is made more rarely than it is asked for gives a row when it moves, and is
// no fault in between.
func TestSlowReport(t *testing.T) {
	t.Parallel()
	s := fake(t, fakebmc.Options{})
	s.Set(fakebmc.Faults{Frozen: true, NoPower: true})
	target := of(t, s, "n1")
	target.Interval = 3 * quick
	a := start(t, target)
	rows := a.until("rows", some)
	first := by(rows, "GPU_SXM_1")["report_ms"]
	asked := s.Counts().Asked["/redfish/v1/TelemetryService/MetricReports/HGX_ProcessorGPMMetrics_0"]
	a.until("more questions", func(rows []map[string]string) bool {
		if len(rows) > 0 {
			t.Errorf("rows of a report that has not moved: %v", rows)
		}
		if st := a.s.status["bmc/n1"]; st.State != source.Active {
			t.Errorf("status: %+v", st)
		}
		return s.Counts().Asked["/redfish/v1/TelemetryService/MetricReports/HGX_ProcessorGPMMetrics_0"] >= asked+2
	})
	s.Set(fakebmc.Faults{Frozen: true, NoPower: true}) // its next minute
	if rows = a.until("rows", some); by(rows, "GPU_SXM_1")["report_ms"] <= first {
		t.Errorf("row: %v", by(rows, "GPU_SXM_1"))
	}
	a.untilState("n1", source.Stalled, "report HGX_ProcessorGPMMetrics_0 is stalled")
}

// Answers that nobody fetches are few, the newest of them.
func TestPending(t *testing.T) {
	t.Parallel()
	b := newTarget(Target{Node: "n1", Interval: quick})
	for i := range maxPending + 5 {
		c := newComponent("node", "dcmi")
		c.setPower(float64(i))
		b.keep([]*component{c}, source.Status{State: source.Active})
	}
	got, _ := b.taken(nil)
	if len(got) != maxPending || got[0].components[0].value[power] != 5000 || b.dropped != 5 {
		t.Errorf("%d answers, %d dropped", len(got), b.dropped)
	}
	if got, _ = b.taken(got[:0]); len(got) != 0 {
		t.Errorf("handed over twice: %v", got)
	}
}

// No more controllers are asked at once than is said.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	s := fake(t, fakebmc.Options{GPUs: 1})
	var targets []Target
	for i := range 6 {
		targets = append(targets, of(t, s, fmt.Sprint("n", i)))
	}
	b, err := New(Config{Targets: targets, Concurrency: 1, minInterval: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	a := &asked{BMC: b, t: t, s: newSink(t)}
	t.Cleanup(func() { _ = b.Close() })
	seen := map[string]bool{}
	a.until("rows of all", func(rows []map[string]string) bool {
		for _, r := range rows {
			seen[r["target"]] = true
		}
		return len(seen) == 6
	})
	if most := s.Counts().Most; most != 1 {
		t.Errorf("%d requests at once", most)
	}
}

// One session is kept, renewed when the controller forgets it, and given back; nothing but
// reading is asked.
func TestSession(t *testing.T) {
	t.Parallel()
	s := fake(t, fakebmc.Options{})
	a := start(t, of(t, s, "n1"))
	for range 5 {
		a.until("rows", some)
	}
	if c := s.Counts(); c.Logins != 1 || c.Open != 1 {
		t.Errorf("after five answers: %+v", c)
	}
	s.Forget()
	for range 3 {
		a.until("rows after the session was forgotten", some)
	}
	if st := a.s.status["bmc/n1"]; st.State != source.Active {
		t.Errorf("status: %+v", st)
	}
	a.once.Do(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	if c := s.Counts(); c.Logins != 2 || c.Open != 0 || c.Logouts != 1 || len(c.Writes) != 0 {
		t.Errorf("at the end: %+v", c)
	}
}

// A controller whose clock is years off is read all the same: when a row was is this host's to say,
// and what is old is judged by the controller's own clock.
func TestClockOfController(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]time.Duration{"behind": -20 * 365 * 24 * time.Hour, "ahead": 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fake(t, fakebmc.Options{GPUs: 1, Now: func() time.Time { return time.Now().Add(off) }})
			before := time.Now().UnixMilli()
			a := start(t, of(t, s, "n1"))
			for range 2 {
				r := by(a.until("rows", some), "GPU_SXM_1")
				ts, err := strconv.ParseInt(r["ts_ms"], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				report, err := strconv.ParseInt(r["report_ms"], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				if now := time.Now().UnixMilli(); ts < before || ts > now || report > now+off.Milliseconds() || report < before+off.Milliseconds()-60_000 {
					t.Errorf("ts_ms %d, report_ms %d; it is %d", ts, report, now)
				}
			}
			a.untilState("n1", source.Active, "")
		})
	}
}

// A refused account is not hammered.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	s := fake(t, fakebmc.Options{Password: "other", User: "admin"})
	a := start(t, of(t, s, "n1"))
	a.untilState("n1", source.Unavailable, "refuses the account in")
	if st := a.s.status["bmc/n1"]; strings.Contains(st.Reason, "secret") || !strings.Contains(st.Reason, "bmc.cred: it answers 401 (Unauthorized); it is tried again in 5m0s") {
		t.Errorf("reason: %s", st.Reason)
	}
	timer := time.NewTimer(10 * quick)
	<-timer.C
	if c := s.Counts(); c.Denied != 1 {
		t.Errorf("%d attempts, want 1", c.Denied)
	}
	if st := a.s.status["bmc"]; st.State != source.Degraded || st.Reason != "1 of 1 controllers are not fully read; one of them: bmc/n1" {
		t.Errorf("status of the whole: %+v", st)
	}
}

// A controller without sessions is asked with basic authentication.
func TestNoSessions(t *testing.T) {
	t.Parallel()
	s := fake(t, fakebmc.Options{})
	s.Set(fakebmc.Faults{NoSessions: true})
	a := start(t, of(t, s, "n1"))
	a.until("rows", func(rows []map[string]string) bool { return by(rows, "GPU_SXM_8") != nil })
}

// Controllers that do not answer hold no tick up, nor others, and stop at once at the end.
func TestSlow(t *testing.T) {
	t.Parallel()
	slow, good := fake(t, fakebmc.Options{}), fake(t, fakebmc.Options{})
	slow.Set(fakebmc.Faults{Delay: time.Hour})
	first := of(t, slow, "slow")
	first.Timeout = 50 * time.Millisecond
	a := start(t, first, of(t, good, "good"))
	a.until("rows of the other", func(rows []map[string]string) bool { return len(rows) > 0 && rows[0]["target"] == "good" })
	a.untilState("slow", source.Stalled, "does not answer within 50ms")
	a.once.Do(func() { _ = a.Close() })
}

func TestTrust(t *testing.T) {
	t.Parallel()
	s := fake(t, fakebmc.Options{GPUs: 1})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CertificatePEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "https://" + l.Addr().String()
	_ = l.Close()
	other := func(o fakebmc.Options, pin bool) func(*Target) {
		o.GPUs = 1
		b := fake(t, o)
		file := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(file, b.CertificatePEM(), 0o644); err != nil {
			t.Fatal(err)
		}
		return func(t *Target) {
			if t.Address, t.Fingerprint = b.URL(), b.Fingerprint(); !pin {
				t.Fingerprint, t.CAFile = "", file
			}
		}
	}
	expired, pinned := other(fakebmc.Options{Expired: true}, false), other(fakebmc.Options{Expired: true}, true)
	elsewhere := other(fakebmc.Options{Name: "tenant.invented.example"}, false)
	for _, c := range []struct {
		name   string
		change func(*Target)
		state  source.State
		reason string
	}{
		{"authority", func(t *Target) { t.Fingerprint, t.CAFile = "", ca }, source.Active, ""},
		{"pin in capitals with colons", func(t *Target) {
			t.Fingerprint = strings.ToUpper(t.Fingerprint[:2] + ":" + t.Fingerprint[2:])
		}, source.Active, ""},
		{"insecure", func(t *Target) { t.Fingerprint, t.Insecure = "", true }, source.Degraded, "the controller's certificate is not checked (insecure)"},
		{"nothing said", func(t *Target) { t.Fingerprint = "" }, source.Unavailable, "its certificate is signed by nobody that is trusted here"},
		{"another pin", func(t *Target) { t.Fingerprint = strings.Repeat("00", 32) }, source.Unavailable, "the controller shows another certificate than the pinned one; its SHA-256 is " + s.Fingerprint()},
		{"nobody there", func(t *Target) { t.Address = nobody }, source.Unavailable, "connection refused"},
		{"expired", expired, source.Unavailable, "cannot be read: its certificate has expired, or is not valid yet, by this host's clock: renew it, or set fingerprint"},
		{"expired and pinned", pinned, source.Active, ""},
		{"for another name", elsewhere, source.Unavailable, "cannot be read: its certificate is for other names than that in address: set fingerprint, or address as the certificate has it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			target := of(t, s, "n1")
			c.change(&target)
			start(t, target).untilState("n1", c.state, c.reason)
		})
	}
}
