package nvmlstub

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// built are the programs that the tests share, built once; TestMain removes them.
var built struct {
	once                sync.Once
	dir, library, probe string
	old                 string
	err                 error
	sanitize            []string
	environment         []string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// need builds library, old library and probe. FLOPWATCH_STUB_SANITIZE=1 builds all of them
// with the address and undefined-behaviour sanitizers.
func need(t testing.TB) {
	t.Helper()
	_, err := exec.LookPath("gcc")
	testenv.Need(t, "cc", err)
	built.once.Do(func() {
		if os.Getenv("FLOPWATCH_STUB_SANITIZE") != "" {
			built.sanitize = []string{"-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"}
			built.environment = []string{"ASAN_OPTIONS=detect_leaks=0"}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if built.dir, built.err = os.MkdirTemp("", "nvmlstub"); built.err != nil {
			return
		}
		if built.library, built.err = Build(ctx, filepath.Join(built.dir, "new"), Options{Flags: built.sanitize}); built.err != nil {
			return
		}
		if built.old, built.err = Build(ctx, filepath.Join(built.dir, "old"), Options{OldDriver: true, Flags: built.sanitize}); built.err != nil {
			return
		}
		built.probe = filepath.Join(built.dir, "probe")
		args := append([]string{"-std=gnu11", "-O1", "-D_GNU_SOURCE", "-o", built.probe, "testdata/probe.c", "-ldl", "-pthread"}, built.sanitize...)
		if out, cerr := exec.CommandContext(ctx, "gcc", args...).CombinedOutput(); cerr != nil {
			built.err = fmt.Errorf("compile the probe: %w: %s", cerr, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
}

// probe is a process that has the library open.
type probe struct {
	t   testing.TB
	in  io.WriteCloser
	out *bufio.Reader
	err *strings.Builder
}

// start makes a directory with a library and starts a probe on it. With env the memory's path
// is told by environment.
func start(t testing.TB, library string, env ...string) *probe {
	t.Helper()
	cmd := exec.Command(built.probe, library)
	cmd.Env = slices.Concat([]string{"PATH=" + os.Getenv("PATH")}, built.environment, env)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &probe{t: t, in: in, out: bufio.NewReaderSize(out, 1<<20), err: &strings.Builder{}}
	cmd.Stderr = p.err
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the probe ended with %v: %s", err, p.err)
		}
	})
	return p
}

// line asks and returns the answer.
func (p *probe) line(format string, args ...any) string {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.t.Fatalf("ask: %v: %s", err, p.err)
	}
	s, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%s: %v: %s", fmt.Sprintf(format, args...), err, p.err)
	}
	return strings.TrimSpace(s)
}

type buffer []byte

func (b buffer) u32(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
func (b buffer) u64(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
func (b buffer) text(at int) string {
	return text(b[at:])
}

// call calls a function: ints are numbers, strings strings, bytes buffers.
func (p *probe) call(name string, args ...any) (code int, out []buffer) {
	p.t.Helper()
	return p.say("call "+name, args...)
}

// atOnce calls a function from several threads at once.
func (p *probe) atOnce(threads int, name string, args ...any) (code int) {
	p.t.Helper()
	code, _ = p.say(fmt.Sprintf("threads %d %s", threads, name), args...)
	return code
}

func (p *probe) say(command string, args ...any) (code int, out []buffer) {
	p.t.Helper()
	var b strings.Builder
	for _, a := range args {
		switch v := a.(type) {
		case int:
			fmt.Fprintf(&b, " i%d", v)
		case uint64:
			fmt.Fprintf(&b, " i%d", v)
		case string:
			fmt.Fprintf(&b, " s%s", v)
		case []byte:
			fmt.Fprintf(&b, " b%d:%x", len(v), v)
		default:
			p.t.Fatalf("argument of type %T", a)
		}
	}
	words := strings.Fields(p.line("%s%s", command, b.String()))
	code, err := strconv.Atoi(words[0])
	if err != nil {
		p.t.Fatalf("%s: answer %q", command, words)
	}
	for _, w := range words[1:] {
		raw, err := hex.DecodeString(w)
		if err != nil {
			p.t.Fatal(err)
		}
		out = append(out, raw)
	}
	return code, out
}

// ok is call for what must succeed; it returns the first buffer.
func (p *probe) ok(name string, args ...any) buffer {
	p.t.Helper()
	code, out := p.call(name, args...)
	if code != 0 {
		p.t.Fatalf("%s returned %d", name, code)
	}
	if len(out) == 0 {
		return nil
	}
	return out[0]
}

func (p *probe) device(i int) uint64 {
	p.t.Helper()
	return p.ok("nvmlDeviceGetHandleByIndex_v2", i, make([]byte, 8)).u64(0)
}

// bench is a library with a memory of a scenario beside it, and a probe that has initialized it.
func bench(t testing.TB, s Scenario) (*Memory, *probe) {
	t.Helper()
	need(t)
	return benchOf(t, built.library, s)
}

func benchOf(t testing.TB, library string, s Scenario) (*Memory, *probe) {
	t.Helper()
	dir := t.TempDir()
	lib, err := Install(library, dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Create(filepath.Join(dir, Shared), s)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, lib)
	p.ok("nvmlInit_v2")
	return m, p
}

func word(size int, versions ...uint32) []byte {
	b := make([]byte, size)
	for i, v := range versions {
		binary.LittleEndian.PutUint32(b[4*i:], v)
	}
	return b
}
