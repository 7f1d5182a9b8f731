package nvmlstub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// monitor finds a program that others wrote to read GPUs: on this machine, or in the cache, into which
// testdata/monitors.sh brings it.
func monitor(t *testing.T, name string) string {
	t.Helper()
	need(t)
	if built.sanitize != nil {
		t.Skip("a program without the sanitizers cannot load a library with them")
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	dir := filepath.Join(testenv.Root(t), ".cache", "monitors")
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "sh", "testdata/monitors.sh", dir).CombinedOutput()
	if _, serr := os.Stat(path); serr == nil {
		return path
	}
	testenv.Need(t, name, fmt.Errorf("sh agent/gpu/nvmlstub/testdata/monitors.sh .cache/monitors: %w: %s", errors.Join(err), bytes.TrimSpace(out)))
	return path
}

// eight is a host of eight GPUs that differ in power and memory, with this process on all of
// them, and the environment in which a program finds the library.
func eight(t *testing.T, and ...func(*Scenario)) (environment []string) {
	t.Helper()
	s := Scenario{Manual: true, Processes: []Process{{PID: uint32(os.Getpid()), UsedBytes: 9 << 30, Name: "train"}}}
	for i := range 8 {
		l := TrainSegment(H100SXM, 0, time.Hour).Compute
		l[PowerW], l[MemUsedBytes], l[TempC] = float64(300+20*i), float64(10+i)*(1<<30), float64(50+i)
		s.GPUs = append(s.GPUs, GPU{Segments: []Segment{{Length: time.Hour, Compute: l}}})
		s.Processes[0].GPUs = append(s.Processes[0].GPUs, i)
	}
	for _, f := range and {
		f(&s)
	}
	dir := t.TempDir()
	if _, err := Install(built.library, dir); err != nil {
		t.Fatal(err)
	}
	m, err := Create(filepath.Join(dir, Shared), s)
	if err != nil {
		t.Fatal(err)
	}
	if err = m.SetNow(10 * time.Minute); err != nil {
		t.Fatal(err)
	}
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TERM=xterm", "LANG=C.UTF-8", "LD_LIBRARY_PATH=" + dir}
}

// usedMiB is what the first version of the memory call tells of GPU i: with what is reserved.
func usedMiB(i int) int { return (10+i)*1024 + 551 }

func TestGpustat(t *testing.T) {
	program := monitor(t, "gpustat")
	run := func(environment []string) []byte {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, "--json")
		cmd.Env, cmd.Stderr = environment, t.Output()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpustat: %v: %s", err, out)
		}
		return out
	}
	out := run(eight(t))
	var got struct {
		GPUs []struct {
			Index     int
			Name      string
			UUID      string
			Util      int `json:"utilization.gpu"`
			Temp      int `json:"temperature.gpu"`
			Power     int `json:"power.draw"`
			Limit     int `json:"enforced.power.limit"`
			Used      int `json:"memory.used"`
			Total     int `json:"memory.total"`
			Processes []struct {
				PID  int `json:"pid"`
				Used int `json:"gpu_memory_usage"`
			}
		}
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("gpustat says %s: %v", out, err)
	}
	if len(got.GPUs) != 8 {
		t.Fatalf("gpustat sees %d GPUs: %s", len(got.GPUs), out)
	}
	for i, g := range got.GPUs {
		if g.Index != i || g.Name != "NVIDIA H100 80GB HBM3" || g.Util != 100 || g.Temp != 50+i || g.Power != 300+20*i || g.Limit != 700 || g.Used != usedMiB(i) || g.Total != 81559 {
			t.Errorf("GPU %d: %+v", i, g)
		}
		if len(g.Processes) != 1 || g.Processes[0].PID != os.Getpid() || g.Processes[0].Used != 9<<10 {
			t.Errorf("processes on GPU %d: %+v", i, g.Processes)
		}
	}
	// One that is cut into MIG devices has power, but no use that it could show.
	cut := run(eight(t, func(s *Scenario) { s.GPUs[3].Instances = Instances("1g.10gb", "3g.40gb") }))
	var some struct {
		GPUs []struct {
			Util  *int `json:"utilization.gpu"`
			Power *int `json:"power.draw"`
		}
	}
	if err := json.Unmarshal(cut, &some); err != nil || len(some.GPUs) != 8 {
		t.Fatalf("gpustat says %s: %v", cut, err)
	}
	if some.GPUs[3].Util != nil || some.GPUs[3].Power == nil || some.GPUs[2].Util == nil {
		t.Errorf("with MIG devices: %s", cut)
	}
}

// What a terminal does with text is left; where the cursor is put elsewhere, a blank is.
var (
	moves  = regexp.MustCompile("\x1b\\[[0-9;?]*[ABCDGHJKXdfr]")
	styles = regexp.MustCompile("\x1b\\[[0-9;?]*[a-zA-Z]|\x1b[()][0AB]|\x1b[=>78]|[\x0e\x0f]")
)

func TestNvtop(t *testing.T) {
	program := monitor(t, "nvtop")
	terminal, side := pty(t, 60, 160)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-C")
	cmd.Env = eight(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = side, side, side
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := side.Close(); err != nil {
		t.Fatal(err)
	}
	var wanted []*regexp.Regexp
	for i := range 8 {
		used := strings.ReplaceAll(fmt.Sprintf("%.3f", float64(usedMiB(i))/1024), ".", `\.`)
		for _, w := range []string{
			fmt.Sprintf(`Device %d +\[NVIDIA H100 80GB HBM3\]`, i), fmt.Sprintf(`POW +%d +/ +700 +W`, 300+20*i), used + `Gi/79\.647Gi`,
			fmt.Sprintf(`\b%d +\S+ +%d +Compute +100%% +9216MiB`, os.Getpid(), i), fmt.Sprintf(`TEMP +%d\D`, 50+i),
		} {
			wanted = append(wanted, regexp.MustCompile(w))
		}
	}
	var screen bytes.Buffer
	var text string
	missing := func() (list []string) {
		text = styles.ReplaceAllString(moves.ReplaceAllString(screen.String(), " "), "")
		for _, w := range wanted {
			if !w.MatchString(text) {
				list = append(list, w.String())
			}
		}
		return list
	}
	chunk := make([]byte, 1<<16)
	for {
		n, err := terminal.Read(chunk) // ends with the program, and that with the context
		screen.Write(chunk[:n])
		if err != nil || len(missing()) == 0 {
			break
		}
	}
	if list := missing(); len(list) > 0 {
		t.Errorf("nvtop does not show %q, but:\n%s", list, text)
	}
	cancel()
	_ = cmd.Wait() // was killed
}

// pty is a terminal of some size: the end that a test reads, and the one that a program has.
func pty(t *testing.T, rows, columns uint16) (*os.File, *os.File) {
	t.Helper()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	fd := int(terminal.Fd())
	number, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0), unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}))
	if err != nil {
		t.Fatal(err)
	}
	side, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return terminal, side
}
