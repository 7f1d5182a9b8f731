package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/bmc/fakebmc"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestThrottle: over minutes of a thousand lines a second, a few of each message are said, and
// how many were not; what was quiet may speak at once.
func TestThrottle(t *testing.T) {
	var log bytes.Buffer
	now := time.Unix(1_700_000_000, 0)
	h := newThrottle(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}), func() time.Time { return now })
	lg := slog.New(h).With(slog.String("source", "gpu"))
	minute := func() int {
		log.Reset()
		for range 60 {
			for n := range 1000 {
				lg.Warn("it flaps", slog.Int("n", n))
			}
			now = now.Add(time.Second)
		}
		return strings.Count(log.String(), "\n")
	}
	if n := minute(); n != linesAtOnce+2 {
		t.Errorf("%d lines in the first minute", n)
	}
	if n := minute(); n != 3 || !strings.Contains(log.String(), "source=gpu") || !strings.Contains(log.String(), "lines_skipped=20000") && !strings.Contains(log.String(), "lines_skipped=19999") {
		t.Errorf("%d lines in the second minute:\n%s", n, log.String())
	}
	log.Reset()
	lg.Error("something else")
	lg.WithGroup("g").Error("something else")
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("a message that is not said often waits for one that is:\n%s", log.String())
	}
	log.Reset()
	for range 100 {
		lg.Debug("it flaps")
	}
	if n := strings.Count(log.String(), "\n"); n != 100 {
		t.Errorf("%d lines for who debugs", n)
	}
	log.Reset()
	for n := range 1000 {
		lg.Warn("another state", slog.String("instrument", fmt.Sprintf("gpu/GPU-%d", n)))
	}
	lg.Warn("another state", slog.String("instrument", "bmc/n1"))
	if n := strings.Count(log.String(), "\n"); n != linesAtOnce+1 || !strings.Contains(log.String(), "instrument=bmc/n1") {
		t.Errorf("an instrument that flaps keeps another's line back:\n%s", log.String())
	}
	now = now.Add(time.Hour)
	if n := minute(); n != linesAtOnce+2 {
		t.Errorf("%d lines after a quiet hour", n)
	}
	for n := range 10 * mostMessages {
		if err := h.Handle(t.Context(), slog.NewRecord(now, slog.LevelWarn, fmt.Sprint(n), 0)); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.all.byText) > mostMessages || h.all.skipped.Load() == 0 {
		t.Errorf("%d messages are kept", len(h.all.byText))
	}
}

// TestEverythingFlaps: a GPU that comes and goes, a broker that refuses and a controller that
// talks nonsense, all at once: the log stays small, and says all three.
func TestEverythingFlaps(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a while")
	}
	child(t)
	dir := t.TempDir()
	library, err := nvmlstub.Build(t.Context(), dir, nvmlstub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mem, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), nvmlstub.Demo(nvmlstub.H100SXM, 8, uint32(os.Getpid())))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	controller, err := fakebmc.Start(fakebmc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer controller.Close()
	account, token := filepath.Join(dir, "account"), filepath.Join(dir, "token")
	for path, text := range map[string]string{account: "admin\nsecret\n", token: "wrong"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	url := testenv.NATSServer(t, t.TempDir()).URL()
	url = "nats://" + url[strings.Index(url, "@")+1:]
	metrics := freePort(t)
	p := start(t, write(t, fast(t.TempDir(), url, fmt.Sprintf("[metrics]\nlisten = \"127.0.0.1:%d\"\n[gpu]\nlibrary = %q\n"+
		"[[bmc.target]]\nnode = \"n1\"\naddress = %q\ncredentials_file = %q\ninsecure = true\ninterval = \"10s\"\n", metrics, library, controller.URL(), account))+fmt.Sprintf("token_file = %q\n", token)))
	calls := func() float64 { return metric(t, metrics, "flopwatch_agent_nvml_readings_total ") }
	eventually(t, "readings", func() bool { return calls() > 8 }, p.log.String)
	p.says("instrument=bmc/n1") // its certificate is not checked
	controller.Set(fakebmc.Faults{Garbage: true})
	codes := []uint32{0, 999, 0, 3}
	for n := range 16 { // every GPU breaks and comes back, as often as it is read
		for g := range 8 {
			if err := mem.SetBroken(g, codes[n%len(codes)]); err != nil {
				t.Fatal(err)
			}
		}
		before := metric(t, metrics, "flopwatch_agent_ticks_total ")
		eventually(t, "tick", func() bool { return metric(t, metrics, "flopwatch_agent_ticks_total ") > before }, p.log.String)
	}
	p.says("the broker refuses this agent's credentials")
	p.stop()
	if n := strings.Count(p.log.String(), "\n"); n > 100 || strings.Contains(p.log.String(), "wrong") || strings.Contains(p.log.String(), "secret") {
		t.Errorf("%d lines:\n%s", n, p.log)
	}
	t.Logf("%d lines", strings.Count(p.log.String(), "\n"))
}
