package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/wire"
)

var update = flag.Bool("update", false, "write the golden files")

// fake is a source that says what it is told to.
type fake struct {
	name   string
	sample func(ctx context.Context, out source.Sink) error
}

func (f *fake) Name() string { return f.name }
func (f *fake) Close() error { return nil }
func (f *fake) Sample(ctx context.Context, _ source.Tick, out source.Sink) error {
	return f.sample(ctx, out)
}

// set sets fields by name: numbers, and texts.
func set(b *wire.Builder, values map[string]any) {
	for name, v := range values {
		id := field(b.Kind(), name)
		switch v := v.(type) {
		case int:
			b.SetInt(id, int64(v))
		case string:
			b.SetStr(id, v)
		}
	}
}

func row(out source.Sink, kind wire.Kind, src wire.Source, values map[string]any) {
	out.Row(kind, src, "", nil, func(b *wire.Builder) { set(b, values) })
}

func clocks() (wall, boot int64) { return 1_700_000_000_000, 5000 }

// made is a report of a made-up host: a GPU of Hopper, one before, one that hangs.
func made(t *testing.T) *Report {
	t.Helper()
	gpu := &fake{"gpu", func(_ context.Context, out source.Sink) error {
		for n, uuid := range []string{"GPU-a", "GPU-b"} {
			values := map[string]any{"ts_ms": 1, "gpu_uuid": uuid, "gpu": n, "util_e4": 9000, "power_mw": 600_000, "energy_mj": 7}
			if n == 0 {
				for _, f := range gpm {
					values[f] = 1
				}
			}
			row(out, wire.KindGPU, wire.SourceNVML, values)
			row(out, wire.KindDevice, wire.SourceNVML, map[string]any{"ts_ms": 1, "gpu_uuid": uuid, "gpu": n, "gpu_model": "NVIDIA X"})
			out.Status(source.Status{Instrument: "gpu/" + uuid, State: source.Active})
		}
		for name, v := range map[string]string{"library_matches_kernel": "no: the library says 580.95.05, the kernel 570.10.01", "library_root_only": "no", "library_replaced": "yes",
			"library_path": "/usr/lib/libnvidia-ml.so.1", "kernel_version": "570.10.01", "library_inode": "42"} {
			row(out, wire.KindFact, wire.SourceProcfs, map[string]any{"ts_ms": 1, "subject": "driver", "name": name, "value": v})
		}
		out.Status(source.Status{Instrument: "gpu/GPU-c", State: source.Stalled, Reason: "nvmlDeviceGetPowerUsage takes more than 2 s"})
		out.Status(source.Status{Instrument: "gpu", State: source.Degraded, Reason: "of 3 GPUs 1 do not answer and 0 are lost"})
		return nil
	}}
	kernel := &fake{"kernel", func(_ context.Context, out source.Sink) error {
		out.Status(source.Status{Instrument: "kernel", State: source.Unavailable, Reason: "no feature can see anything; kernel/NAME says why of each"})
		out.Status(source.Status{Instrument: "kernel/nccl", State: source.Unavailable, Reason: "programs at functions of user space are refused: needs kernel 6.6, CAP_BPF and CAP_PERFMON (EPERM, operation not permitted)"})
		out.Status(source.Status{Instrument: "kernel/file", State: source.Degraded, Reason: "3 processes could not be looked into: needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"})
		out.Status(source.Status{Instrument: "kernel/rdma", State: source.Unavailable, Reason: "there is no RDMA device"})
		return nil
	}}
	bmc := &fake{"bmc", func(_ context.Context, out source.Sink) error {
		row(out, wire.KindOutOfBand, wire.SourceBMC, map[string]any{"ts_ms": 1, "target": "n1", "component": "GPU_SXM_1", "method": "redfish_report", "gpu_uuid": "GPU-a", "power_mw": 1})
		row(out, wire.KindOutOfBand, wire.SourceBMC, map[string]any{"ts_ms": 1, "target": "n1", "component": "node", "method": "redfish_sensor", "power_mw": 1})
		out.Status(source.Status{Instrument: "bmc/n1", State: source.Degraded, Reason: "the controller has no report ProcessorGPMMetrics"})
		out.Status(source.Status{Instrument: "bmc/n2", State: source.Unavailable, Reason: "the controller at https://10.0.0.2 refuses the account in /c: 401"})
		out.Status(source.Status{Instrument: "bmc/n3", State: source.Stalled, Reason: "the controller at https://10.0.0.3 does not answer within 10s"})
		out.Status(source.Status{Instrument: "bmc/n4", State: source.Unavailable, Reason: "the controller was not asked yet"})
		return nil
	}}
	dead := &fake{"fabric", func(context.Context, source.Sink) error { return errors.New("no sysfs") }}
	found := Look(t.Context(), []source.Source{gpu, kernel, bmc, dead}, 100*time.Millisecond, clocks)
	r := &Report{Version: Version, Cluster: "main", Node: "n1", Build: "v1.2.3",
		Privileges: Privileges{UID: 997, Kernel: "6.12.0", BTF: true, Lockdown: "integrity", Capabilities: []Capability{{"CAP_BPF", true, "x"}, {"CAP_PERFMON", false, "y"}}},
		Driver: &Driver{Driver: "580.95.05", NVML: "13.580.95.05", Library: "/usr/lib/libnvidia-ml.so.1", GPM: true, Missing: []string{"nvmlNew"}, Unheard: []int{2},
			GPUs: []DriverGPU{
				{Index: 0, UUID: "GPU-a", Name: "NVIDIA H100", GPM: true, CCMode: "off", Numbers: map[string]int64{"mig_mode": 1}, Capabilities: []string{"gpm"}, Instances: make([]DriverInstance, 2)},
				{Index: 1, UUID: "GPU-b", Name: "NVIDIA A100", Numbers: map[string]int64{"mig_mode": 0}},
				{Index: 2, Name: "NVIDIA A100"},
			},
			Faults: []DriverFault{{GPU: 1, Function: "nvmlDeviceGetFanSpeed", Code: 3, Text: "Not Supported"}, {GPU: -1, Function: "nvmlSystemGetConfComputeState", Code: 3, Text: "Not Supported"}}},
		Checks: []Check{{"config", OK, "a.toml", ""}, {"broker", Fail, "refused", "flopwatch nats-user"}},
		Bench:  []string{"uprobe 900 ns a call"},
	}
	r.Spools = []Spool{{Dir: "/var/lib/flopwatch-agent/spool/main.n1", Segments: 2, Frames: 40, Bytes: 200 << 10, First: 11, Last: 50, Acked: 45, Committed: 30, Uncommitted: 20, Chained: 40,
		OldestMs: 1_700_000_000_000, Gaps: []SpoolGap{{1, 10, "bytes"}}, QuarantineFiles: 1, QuarantineBytes: 4096}}
	r.Checks = append(r.Checks, r.Spools[0].Check(time.UnixMilli(1_700_000_360_000)))
	r.Take(&found)
	return r
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -update and look at the change. Got:\n%s", name, got)
	}
}

// TestReport: the text and the JSON of a made-up host.
func TestReport(t *testing.T) {
	r := made(t)
	if !r.Failed() {
		t.Error("a failed check is no failure")
	}
	var text, obj bytes.Buffer
	if err := errors.Join(r.Print(&text), r.PrintJSON(&obj)); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", text.String())
	golden(t, "report.json", obj.String())
	var back Report
	d := json.NewDecoder(&obj)
	d.DisallowUnknownFields()
	if err := d.Decode(&back); err != nil || back.Version != Version {
		t.Errorf("the JSON is not the struct: %v", err)
	}
	for _, i := range r.Instruments {
		if strings.Contains(text.String(), "600000") {
			t.Errorf("a value is told: %s", i.Name)
		}
	}
}

// TestHangs: a source that does not come back keeps nobody waiting.
func TestHangs(t *testing.T) {
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	hangs := &fake{"gpu", func(context.Context, source.Sink) error { <-never; return nil }}
	well := &fake{"host", func(_ context.Context, out source.Sink) error {
		row(out, wire.KindDevice, wire.SourceNVML, map[string]any{"ts_ms": 1, "gpu_uuid": "GPU-a", "gpu": 0, "gpu_model": "NVIDIA X"})
		return nil
	}}
	found := Look(t.Context(), []source.Source{hangs, well}, 10*time.Millisecond, clocks)
	if len(found.Instruments) != 2 || found.Instruments[0].State != string(source.Stalled) || found.Instruments[1].State != string(source.Active) {
		t.Errorf("%+v", found.Instruments)
	}
}

// TestSilent: a source that has given nothing and said nothing is not well for that.
func TestSilent(t *testing.T) {
	silent := &fake{"job", func(context.Context, source.Sink) error { return nil }}
	parts := &fake{"kernel", func(_ context.Context, out source.Sink) error {
		out.Status(source.Status{Instrument: "kernel/sock", State: source.Active})
		return nil
	}}
	speaks := &fake{"bmc", func(_ context.Context, out source.Sink) error {
		out.Status(source.Status{Instrument: "bmc", State: source.Active})
		return nil
	}}
	found := Look(t.Context(), []source.Source{silent, parts, speaks}, 10*time.Millisecond, clocks)
	r := &Report{}
	r.Take(&found)
	state := map[string]Instrument{}
	for _, i := range r.Instruments {
		state[i.Name] = i
	}
	for _, name := range []string{"job", "kernel"} {
		if i := state[name]; i.State != string(source.Degraded) || !strings.Contains(i.Reason, "not known yet") || !strings.Contains(i.Remedy, "-seconds") {
			t.Errorf("%+v", i)
		}
	}
	for _, name := range []string{"kernel/sock", "bmc"} {
		if i := state[name]; i.State != string(source.Active) {
			t.Errorf("%+v", i)
		}
	}
}

// TestMIGRights: what the driver refuses of a GPU that MIG splits, for want of a right, has its
// remedy; the same of a whole GPU, or another refusal, has not.
func TestMIGRights(t *testing.T) {
	split := DriverGPU{Index: 0, UUID: "GPU-a", Numbers: map[string]int64{"mig_mode": 1}}
	whole := DriverGPU{Index: 1, UUID: "GPU-b", Numbers: map[string]int64{"mig_mode": 0}}
	d := &Driver{GPUs: []DriverGPU{split, whole}, Faults: []DriverFault{
		{GPU: 1, Function: "nvmlDeviceGetComputeRunningProcesses", Code: 4, Text: "Insufficient Permissions"},
		{GPU: 0, Function: "nvmlDeviceGetFanSpeed", Code: 3, Text: "Not Supported"},
	}}
	if c := d.migRights(); len(c) != 0 {
		t.Errorf("%+v", c)
	}
	for range 2 {
		d.Faults = append(d.Faults, DriverFault{GPU: 0, Function: "nvmlDeviceGetMigDeviceHandleByIndex", Code: 4, Text: "Insufficient Permissions"})
	}
	r := &Report{Driver: d}
	r.Take(&Found{})
	i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.What == "mig" })
	if i < 0 || r.Checks[i].Status != Warn || !strings.HasSuffix(r.Checks[i].Text, ": nvmlDeviceGetMigDeviceHandleByIndex") || !strings.Contains(r.Checks[i].Remedy, "mig.conf") {
		t.Errorf("%+v", r.Checks)
	}
}

// TestDriver: a child that answers, one that says nonsense, one that hangs, one that is not there.
func TestDriver(t *testing.T) {
	script := func(text string) string {
		path := filepath.Join(t.TempDir(), "child")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const long = 20 * time.Second
	d := ReadDriver(t.Context(), script(`[ "$1 $5" = "-describe /lib.so" ] && echo '{"driver_version":"580","gpus":[{"index":0,"uuid":"GPU-a"}],"later":1}'; exit 1`), "/lib.so", long)
	if d.Error != "" || d.Driver != "580" || len(d.GPUs) != 1 || d.check().Status != OK {
		t.Errorf("%+v", d)
	}
	for name, c := range map[string]struct{ child, status string }{
		"nonsense":  {script("echo what; echo why >&2"), Warn},
		"not there": {"/nowhere/child", Fail}, // an agent that was not installed whole
		"silent":    {script("exit 2"), Warn},
	} {
		if d := ReadDriver(t.Context(), c.child, "", long); d.Error == "" || d.check().Status != c.status {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if d := ReadDriver(t.Context(), script("exec sleep 600"), "", time.Millisecond); d.Error == "" {
		t.Errorf("one that hangs: %+v", d)
	}
}

// TestSpool: a chain that holds, one that is broken, and a directory that is none; and nothing
// is changed.
func TestSpool(t *testing.T) {
	dir := t.TempDir()
	sp, err := spool.Open(spool.Config{Dir: dir, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 5; seq++ {
		prev := sp.LastDigest()
		if seq == 4 {
			prev[0]++ // somebody has put another frame in between
		}
		frame, err := wire.AppendBatch(nil, &wire.Batch{Version: wire.Version, Cluster: "c", Node: "n", Spool: sp.ID(), Sequence: seq, BootID: "b", Ticks: seq, PrevDigest: prev})
		if err != nil {
			t.Fatal(err)
		}
		if err := sp.Append(seq, frame); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(sp.Sync(), sp.Commit(1)); err != nil {
		t.Fatal(err)
	}
	// It is read beside its owner.
	s, err := ReadSpool(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if s.Frames == 0 || s.Last != 5 || s.Committed != 1 || s.Uncommitted != 4 || s.Chained != s.Frames-1 || len(s.Faults) != 1 || !strings.Contains(s.Faults[0], "follows a frame") {
		t.Errorf("%+v", s)
	}
	if c := s.Check(time.Now()); c.Status != Warn || !strings.Contains(c.Text, "4 wait") {
		t.Errorf("%+v", c)
	}
	ended, stop := context.WithCancel(t.Context())
	stop()
	if s, err = ReadSpool(ended, dir); err != nil || s.Unread != s.Frames || len(s.Faults) > 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := sp.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSpool(t.Context(), filepath.Join(dir, "not", "there")); err == nil {
		t.Error("a spool that is not there is read")
	}
}
