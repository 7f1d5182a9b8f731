package gpu_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/frame"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// fakeMode makes this test binary a child that behaves badly in a certain way.
const fakeMode = "FLOPWATCH_FAKE_CHILD"

// fakeChild is what a child does, by mode.
func fakeChild(mode string) int {
	if len(os.Environ()) != 2 { // PATH and the mode
		return 99
	}
	out := func(b []byte) { _, _ = os.Stdout.Write(b) }
	switch mode {
	case "127":
		fmt.Fprintln(os.Stderr, "flopwatch-nvml: symbol lookup error: undefined symbol: nvmlNew")
		return 127
	case "nocgo":
		fmt.Fprintln(os.Stderr, "flopwatch-nvml: built without cgo: NVIDIA's library cannot be loaded")
		return 2
	case "agent":
		return fakeAgent()
	case "mute":
		blocked() // not even the end of its input makes it end
	case "garbage":
		out(bytes.Repeat([]byte("Bus error\n"), 100))
		blocked()
	case "chatty":
		for i := range 100_000 {
			fmt.Fprintf(os.Stderr, "line %d %s\n", i, strings.Repeat("x", i%2000))
		}
	}
	w := frame.Welcome{Version: frame.Version, GPUs: 2, GPM: true, DriverVersion: "1.2.3"}
	if mode == "protocol" {
		w.Version++
	}
	if mode == "empty" {
		w.GPUs = 0
	}
	r := frame.NewReader(bufio.NewReader(os.Stdin))
	if mode == "tiers" || mode == "slow" || mode == "energy" {
		return fakeTiers(mode, r, out)
	}
	pids := []frame.Process{{PID: 1<<31 - 5, UsedBytes: -1}}
	for {
		t, body, err := r.Next()
		if err != nil {
			return 0
		}
		var q frame.Request
		if err = frame.DecodeRequest(t, body, &q); err != nil {
			return 98
		}
		switch q.Type {
		case frame.TypeHello:
			out(frame.AppendWelcome(nil, &w))
		case frame.TypeStop:
			return 0
		case frame.TypeSample, frame.TypeDescribe:
			for m := q.Sample; m != 0; m &= m - 1 {
				g := bits.TrailingZeros64(m)
				if q.Type == frame.TypeDescribe {
					out(frame.AppendDevice(nil, &frame.Device{Index: g, UUID: fmt.Sprintf("GPU-%d", g), MIGMode: -1, NVLinks: -1, MemTotalBytes: -1, PowerLimitMW: -1, SMClockMaxMHz: -1}))
				}
				reading := frame.Reading{GPU: g, GI: frame.WholeGPU, Seq: q.Seq, ElapsedUs: 5000, TookUs: 10, Calls: 1}
				reading.Set(frame.UtilE4, int64(g))
				if mode == "counters" {
					// NVLink goes up by 1 MiB a tick of 1 s; PCIe passes 32 bits; it wraps at tick 6.
					n := (q.BootMs - boot0) / 1000
					reading.Set(frame.NVLinkTxKiB, 1024*(n%6))
					reading.Set(frame.PCIeTxBytes, 1<<32-3000+1000*n)
					reading.Set(frame.PCIeRxBytes, n)
				}
				out(frame.AppendReading(nil, &reading))
				if q.Processes>>g&1 == 1 {
					out(frame.AppendProcesses(nil, &frame.Processes{GPU: g, Seq: q.Seq, Known: true, List: pids}))
				}
				if mode == "foreign" {
					out(frame.AppendDone(nil, &frame.Done{GPU: 40, Seq: q.Seq}))
				}
				out(frame.AppendDone(nil, &frame.Done{GPU: g, Seq: q.Seq, Calls: 1}))
			}
		}
	}
}

// blocked never returns. A bare select would be a deadlock, and end the process.
func blocked() {
	forever := time.NewTicker(time.Hour)
	for range forever.C {
		continue
	}
}

// fakeAgent runs an instrument with a mute child, says its process id, and waits to be killed.
func fakeAgent() int {
	exe, err := os.Executable()
	if err != nil {
		return 97
	}
	src, err := gpu.New(gpu.Config{Child: exe, Env: []string{fakeMode + "=mute"}, AnswerWait: time.Millisecond})
	if err != nil {
		return 97
	}
	if err = src.Sample(context.Background(), source.Tick{Seq: 1, BootMs: 1}, &discard{}); err != nil {
		return 97
	}
	fmt.Println(src.Stats().ChildPID)
	blocked()
	return 0
}

// The child does not outlive the agent, not even one that does not read its input.
func TestChildDiesWithTheAgent(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = []string{fakeMode + "=agent", "PATH=/usr/bin"}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	_, err = fmt.Fscan(out, &pid)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	if err != nil || pid <= 0 {
		t.Fatalf("child %d: %v", pid, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("process %d is still alive", pid)
		case <-pause.C:
		}
	}
}

func fake(t *testing.T, mode string, cfg gpu.Config) *rig {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Child, cfg.Env = exe, []string{fakeMode + "=" + mode}
	return bare(t, cfg)
}

func TestRestarts(t *testing.T) {
	for mode, want := range map[string]string{
		"127":     "exit 127",
		"garbage": "cannot be understood",
		"foreign": "cannot be understood",
		"mute":    "not ready within",
	} {
		t.Run(mode, func(t *testing.T) {
			cfg := gpu.Config{BackoffMin: time.Millisecond, BackoffMax: 20 * time.Millisecond, AnswerWait: 20 * time.Millisecond}
			if mode == "mute" {
				cfg.HelloTimeout = 50 * time.Millisecond
			}
			r := fake(t, mode, cfg)
			r.until("restarts", func() bool { return r.src.Stats().Restarts >= 3 })
			r.until("stalled", func() bool { return r.out.status["gpu"].State == source.Stalled })
			if st := r.out.status["gpu"]; !strings.Contains(st.Reason, want) {
				t.Errorf("status: %+v, want %q", st, want)
			}
			if mode == "127" && !strings.Contains(r.log.String(), "nvmlNew") {
				t.Errorf("the log does not tell what was missing:\n%s", r.log)
			}
		})
	}
}

func TestUnavailable(t *testing.T) {
	for mode, want := range map[string]string{
		"nocgo":    "built without cgo",
		"protocol": "install both from one release",
		"empty":    "sees no GPU",
	} {
		t.Run(mode, func(t *testing.T) {
			r := fake(t, mode, gpu.Config{})
			r.until("unavailable", func() bool { return r.out.status["gpu"].State == source.Unavailable })
			r.until("no child is kept", func() bool { return r.src.Stats().ChildPID == 0 })
			r.steps(10)
			if st := r.out.status["gpu"]; !strings.Contains(st.Reason, want) {
				t.Errorf("status: %+v, want %q", st, want)
			}
			if st := r.src.Stats(); st.Starts != 1 || strings.Count(r.log.String(), "not watched") != 1 {
				t.Errorf("stats: %+v; log:\n%s", st, r.log)
			}
		})
	}
	t.Run("no child", func(t *testing.T) {
		r := bare(t, gpu.Config{Child: "/nowhere/flopwatch-nvml"})
		r.steps(5)
		if st := r.out.status["gpu"]; st.State != source.Unavailable || !strings.Contains(st.Reason, "/nowhere/flopwatch-nvml") {
			t.Errorf("status: %+v", st)
		}
		if n := strings.Count(r.log.String(), "level="); n != 1 {
			t.Errorf("said %d times:\n%s", n, r.log)
		}
	})
}

// Children that the kernel does not end are left behind, and never more than two are alive.
func TestImmortalChildren(t *testing.T) {
	restore := gpu.Immortal()
	r := fake(t, "mute", gpu.Config{
		BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond, HelloTimeout: 20 * time.Millisecond, ReapTimeout: 20 * time.Millisecond, AnswerWait: 10 * time.Millisecond,
	})
	r.until("two are left behind", func() bool { return r.src.Stats().Abandoned == 2 })
	r.steps(20)
	r.until("it is said", func() bool {
		return strings.Contains(r.out.status["gpu"].Reason, "2 flopwatch-nvml hang in the kernel")
	})
	if st := r.src.Stats(); st.Starts != 2 || st.ChildPID != 0 {
		t.Errorf("stats: %+v", st)
	}
	// Nor does the instrument that a reload puts in its place.
	if err := r.src.Close(); err != nil {
		t.Error(err)
	}
	r = fake(t, "mute", gpu.Config{BackoffMin: time.Millisecond, HelloTimeout: 20 * time.Millisecond, ReapTimeout: 20 * time.Millisecond, AnswerWait: 10 * time.Millisecond})
	r.steps(20)
	if st := r.src.Stats(); st.Starts != 0 || !strings.Contains(r.out.status["gpu"].Reason, "2 flopwatch-nvml hang in the kernel") {
		t.Errorf("the next instrument: %+v, %+v", st, r.out.status["gpu"])
	}
	restore()
	gpu.KillAbandoned()
	r.until("when they end, another is started", func() bool { return r.src.Stats().Starts > 0 })
}

func TestRatesOfCounters(t *testing.T) {
	r := fake(t, "counters", gpu.Config{})
	r.until("rows", func() bool { return len(of(r.out.rows[wire.KindGPU], 0)) >= 12 })
	prev := int64(-1)
	for _, row := range of(r.out.take(wire.KindGPU), 0) {
		n := (row.ints["boot_ms"] - boot0) / 1000
		if prev < 0 {
			prev = n
			continue
		}
		if wrapped := n%6 == 0; row.has("nvlink_tx_bps") == wrapped || !wrapped && row.ints["nvlink_tx_bps"] != 1<<20 {
			t.Errorf("tick %d: nvlink %d, there %v", n, row.ints["nvlink_tx_bps"], row.has("nvlink_tx_bps"))
		}
		// Before it has passed 32 bits nobody knows that it does not wrap there.
		if wide := n >= 3; row.has("pcie_tx_bps") != wide || wide && row.ints["pcie_tx_bps"] != 1000 {
			t.Errorf("tick %d: pcie %d, there %v", n, row.ints["pcie_tx_bps"], row.has("pcie_tx_bps"))
		}
		if row.ints["ts_ms"] != wall0+n*1000+5 {
			t.Errorf("tick %d: ts_ms %d", n, row.ints["ts_ms"])
		}
	}
}

// Processes of another PID namespace are not known; that is not the same as none.
func TestHiddenProcesses(t *testing.T) {
	r := fake(t, "plain", gpu.Config{})
	r.steps(15)
	if list, _, ok := r.src.GPUProcesses(); ok || len(list) != 0 {
		t.Errorf("processes: %v, %v", list, ok)
	}
	r.steps(30)
	if st := r.out.status["gpu"]; st.State != source.Degraded || !strings.Contains(st.Reason, "hostPID") {
		t.Errorf("status: %+v", st)
	}
}

// A child that talks a lot does not fill the log.
func TestChattyChild(t *testing.T) {
	r := fake(t, "chatty", gpu.Config{})
	r.until("rows", func() bool { return len(r.out.rows[wire.KindGPU]) > 0 })
	if n := strings.Count(r.log.String(), "flopwatch-nvml says"); n == 0 || n > 20 {
		t.Errorf("%d lines in the log", n)
	}
}

// What a steady tick costs the agent, the sink aside.
func TestSteadyTickAllocatesLittle(t *testing.T) {
	for mode, most := range map[string]float64{"plain": 10, "tiers": 25} { // with events, health and instances
		r := fake(t, mode, gpu.Config{ProcessInterval: -1})
		r.steps(5)
		out := &discard{}
		n := testing.AllocsPerRun(100, func() {
			r.tick.Seq++
			r.tick.BootMs += 1000
			if err := r.src.Sample(t.Context(), r.tick, out); err != nil {
				t.Fatal(err)
			}
			moment := r.tick
			moment.Burst, moment.BootMs = 1, moment.BootMs+500
			if err := r.src.Burst(t.Context(), moment, out); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%s: %v allocations a tick and a moment", mode, n)
		if n > most {
			t.Errorf("%s: %v allocations a tick and a moment", mode, n)
		}
	}
}

type discard struct{ rows int }

func (d *discard) Row(wire.Kind, wire.Source, string, func(*wire.Builder), func(*wire.Builder)) {
	d.rows++
}
func (d *discard) Status(source.Status) {}
