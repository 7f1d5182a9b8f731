package gpu

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/flopwatch/flopwatch/internal/wire"
)

// A second reader of the same counters is told with the samples (DCGM issue 62, nvtop issue 483).
func TestDCGM(t *testing.T) {
	value := func(procFS string) string {
		t.Helper()
		switch f := dcgmFact(nil, procFS); {
		case len(f) == 0:
			return ""
		case len(f) > 1 || f[0].subject != "host" || f[0].name != "dcgm" || f[0].src != wire.SourceProcfs:
			t.Errorf("facts %+v", f)
			return ""
		default:
			return f[0].value
		}
	}
	tree := func(comms map[string]string) string {
		t.Helper()
		dir := t.TempDir()
		for pid, comm := range comms {
			if err := os.MkdirAll(filepath.Join(dir, pid), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, pid, "comm"), []byte(comm+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	many := map[string]string{"2": "kthreadd"}
	for pid := range maxLooked {
		many[fmt.Sprint(10+pid)] = "sh"
	}
	for _, c := range []struct {
		name  string
		comms map[string]string
		want  string
	}{
		{"a host without", map[string]string{"1": "systemd", "2": "kthreadd", "77": "python3", "self": "nv-hostengine"}, "none"},
		{"its engine", map[string]string{"1": "systemd", "2": "kthreadd", "812": "nv-hostengine"}, "nv-hostengine"},
		{"an exporter with the engine in it", map[string]string{"2": "kthreadd", "9": "dcgm-exporter"}, "dcgm-exporter"},
		{"both", map[string]string{"2": "kthreadd", "9": "dcgm-exporter", "8": "nv-hostengine"}, "nv-hostengine,dcgm-exporter"},
		{"another name", map[string]string{"2": "kthreadd", "9": "nv-hostengine2", "10": "dcgm"}, "none"},
		{"a container's own processes", map[string]string{"1": "flopwatch-agent"}, ""},
		{"a container's, with DCGM beside it", map[string]string{"1": "flopwatch-agent", "5": "dcgm-exporter"}, "dcgm-exporter"},
		{"too many to say that there is none", many, ""},
	} {
		if got := value(tree(c.comms)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := value(filepath.Join(t.TempDir(), "nowhere")); got != "" {
		t.Errorf("no /proc: %q", got)
	}

	// A real one, by the kernel's own name for it.
	exe := filepath.Join(t.TempDir(), "nv-hostengine")
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(cat)
	if err == nil {
		err = os.WriteFile(exe, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err = io.WriteString(in, "it runs\n"); err != nil {
		t.Fatal(err)
	}
	if line, rerr := bufio.NewReader(out).ReadString('\n'); rerr != nil {
		t.Fatalf("%q: %v", line, rerr)
	}
	if got := value("/proc"); got != "nv-hostengine" && got != "nv-hostengine,dcgm-exporter" {
		t.Errorf("beside a real process: %q", got)
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// What a look costs on the machine that runs it.
func BenchmarkDCGM(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = dcgmFact(nil, "/proc")
	}
}
