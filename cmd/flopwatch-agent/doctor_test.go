package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/bmc/fakebmc"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/cmd/flopwatch-agent/doctor"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// examine runs the doctor as a process.
func examine(t *testing.T, code int, args ...string) (r doctor.Report, text string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t), append([]string{"doctor"}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("exit %d, wanted %d:\n%s%s", got, code, out, &errs)
	}
	if slices.Contains(args, "-json") {
		d := json.NewDecoder(bytes.NewReader(out))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
	}
	return r, string(out)
}

func find(t *testing.T, r *doctor.Report, what string) (found []doctor.Check) {
	t.Helper()
	for _, c := range r.Checks {
		if c.What == what {
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		t.Errorf("no check of %s: %+v", what, r.Checks)
	}
	return found
}

// TestDoctor: eight GPUs, a controller, and a spool that an agent uses, all in one look that
// changes nothing.
func TestDoctor(t *testing.T) {
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
	account := filepath.Join(dir, "account")
	if err := os.WriteFile(account, []byte("admin\nsecret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(dir, "wrong")
	if err := os.WriteFile(wrong, []byte("admin\nguessed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	nc, url := testenv.NATS(t)
	collect(t, nc)
	data := filepath.Join(t.TempDir(), "data") // the agent makes it, for itself alone
	metrics := freePort(t)
	running := start(t, write(t, fast(data, url, fmt.Sprintf("[metrics]\nlisten = \"127.0.0.1:%d\"\n", metrics)+noGPU)))
	eventually(t, "frames", func() bool { return metric(t, metrics, "flopwatch_agent_sequence_committed ") > 3 }, running.log.String)

	target := func(node, file string) string {
		return fmt.Sprintf("[[bmc.target]]\nnode = %q\naddress = %q\ncredentials_file = %q\nfingerprint = %q\n", node, controller.URL(), file, controller.Fingerprint())
	}
	config := write(t, fast(data, url, fmt.Sprintf("[gpu]\nlibrary = %q\n", library)+target("n1", account)+target("n2", wrong)))
	r, text := examine(t, 0, "-config", config, "-json")
	if strings.Contains(text, "secret") || strings.Contains(text, "guessed") {
		t.Errorf("an account is told:\n%s", text)
	}
	if r.Version != 1 || r.Node != "n1" || r.Driver == nil || r.Driver.Driver == "" || len(r.Driver.GPUs) != 8 || len(r.GPUs) != 8 {
		t.Errorf("report:\n%s", text)
	}
	for _, g := range r.GPUs {
		i := slices.IndexFunc(g.Kinds, func(k doctor.KindCoverage) bool { return k.Kind == "gpu" })
		if g.GPM != "yes" || g.MIG != "off" || i < 0 || g.Kinds[i].Measured*10 < g.Kinds[i].Known*8 {
			t.Errorf("GPU %+v", g)
		}
	}
	for _, c := range r.Controllers {
		switch {
		case c.Target == "n1" && (c.Credentials != "accepted" || c.Reachable != "yes" || c.Parts < 8 || !slices.Contains(c.Methods, "redfish_report")),
			c.Target == "n2" && (c.Credentials != "refused" || c.Remedy == ""):
			t.Errorf("controller %+v", c)
		}
	}
	if len(r.Controllers) != 2 || len(r.Spools) != 1 || r.Spools[0].Committed == 0 || r.Spools[0].Chained != r.Spools[0].Frames || len(r.Spools[0].Faults) > 0 {
		t.Errorf("controllers %+v, spools %+v", r.Controllers, r.Spools)
	}
	for _, what := range []string{"config", "data_dir", "spool", "broker", "driver"} {
		if c := find(t, &r, what); len(c) > 0 && c[0].Status != doctor.OK {
			t.Errorf("%+v", c)
		}
	}
	if c := find(t, &r, "agent"); len(c) > 0 && !strings.Contains(c[0].Text, "an agent runs") {
		t.Errorf("%+v", c)
	}
	if c := find(t, &r, "integrity"); len(c) != 2 || c[0].Status != doctor.Warn || c[1].Status != doctor.Warn { // a stub in a folder of the test's
		t.Errorf("%+v", c)
	}
	running.stop()
}

// TestDoctorWithoutDriver: what is missing is told with what helps, and what must be mended
// makes the exit code.
func TestDoctorWithoutDriver(t *testing.T) {
	child(t)
	text := fast(t.TempDir(), "nats://127.0.0.1:1", "[gpu]\nlibrary = \"/nowhere/libnvidia-ml.so.1\"\n")
	_, out := examine(t, 0, "-config", write(t, text), "-seconds", "3")
	for _, want := range []string{"unavailable  gpu", "degraded     job", "no list of them has come", "refuses with code 12", "what helps: install NVIDIA's driver", "warn broker"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q:\n%s", want, out)
		}
	}
	broken := strings.Replace(text, "[nats]", "[[bmc.target]]\nnode = \"n\"\naddress = \"https://127.0.0.1:1\"\ncredentials_file = \"/nowhere/account\"\n[nats]", 1)
	_, out = examine(t, 1, "-config", write(t, broken), "-seconds", "2")
	for _, want := range []string{"fail sources", "/nowhere/account", "active       host"} { // one takes no other with it
		if !strings.Contains(out, want) {
			t.Errorf("no %q:\n%s", want, out)
		}
	}
}

// TestDoctorWithoutChild: an agent that was installed without flopwatch-nvml has to be mended,
// and nothing that rests on it is said to be well.
func TestDoctorWithoutChild(t *testing.T) {
	r, _ := examine(t, 1, "-config", write(t, fast(t.TempDir(), "nats://127.0.0.1:1", "[gpu]\nchild = \"/nowhere/flopwatch-nvml\"\n")), "-seconds", "3", "-json")
	if c := find(t, &r, "driver"); len(c) != 1 || c[0].Status != doctor.Fail || c[0].Remedy == "" {
		t.Errorf("%+v", c)
	}
	for _, i := range r.Instruments {
		if (i.Name == "gpu" || i.Name == "job") && (i.State == "active" || i.Remedy == "") {
			t.Errorf("%+v", i)
		}
	}
}
