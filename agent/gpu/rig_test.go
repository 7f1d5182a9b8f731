package gpu_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/gpu"
	"github.com/flopwatch/flopwatch/agent/gpu/nvmlstub"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(fakeMode); mode != "" {
		os.Exit(fakeChild(mode))
	}
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// built is what this test process compiled.
var built struct {
	mu    sync.Mutex
	dir   string
	child string
	libs  map[string]string
}

// compile gives the real child and a variant of the stub. Without a C compiler it skips the
// test, or fails it where FLOPWATCH_REQUIRE lists "cc".
func compile(tb testing.TB, o nvmlstub.Options) (child, library string) {
	tb.Helper()
	_, err := exec.LookPath("gcc")
	testenv.Need(tb, "cc", err)
	built.mu.Lock()
	defer built.mu.Unlock()
	if built.dir == "" {
		if built.dir, err = os.MkdirTemp("", "flopwatch-gpu-"); err != nil {
			tb.Fatal(err)
		}
		built.libs = map[string]string{}
	}
	if built.child == "" {
		out := filepath.Join(built.dir, "flopwatch-nvml")
		cmd := exec.CommandContext(tb.Context(), "go", "build", "-ldflags=-s -w -extldflags=-Wl,-z,lazy", "-o", out, "./cmd/flopwatch-nvml")
		cmd.Dir = testenv.Root(tb)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		if text, berr := cmd.CombinedOutput(); berr != nil {
			tb.Fatalf("build flopwatch-nvml: %v: %s", berr, text)
		}
		built.child = out
	}
	key := fmt.Sprint(o)
	if built.libs[key] == "" {
		dir := filepath.Join(built.dir, fmt.Sprintf("lib%d", len(built.libs)))
		lib, lerr := nvmlstub.Build(tb.Context(), dir, o)
		if lerr != nil {
			tb.Fatal(lerr)
		}
		built.libs[key] = lib
	}
	return built.child, built.libs[key]
}

// rig is an instrument on the real child on the stub, with a clock that the test moves.
type rig struct {
	tb   testing.TB
	mem  *nvmlstub.Memory
	src  *gpu.Source
	out  *sink
	log  *logged
	tick source.Tick
}

const (
	wall0 = 1_790_000_000_000
	boot0 = 3_600_000
)

func newRig(tb testing.TB, o nvmlstub.Options, s nvmlstub.Scenario, cfg gpu.Config) *rig {
	tb.Helper()
	child, lib := compile(tb, o)
	dir := tb.TempDir()
	lib, err := nvmlstub.Install(lib, dir)
	if err != nil {
		tb.Fatal(err)
	}
	s.Manual = true
	mem, err := nvmlstub.Create(filepath.Join(dir, nvmlstub.Shared), s)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = mem.Close() })
	cfg.Child, cfg.Library = child, lib
	r := bare(tb, cfg)
	r.mem = mem
	return r
}

// bare is a rig without a stub.
func bare(tb testing.TB, cfg gpu.Config) *rig {
	tb.Helper()
	r := &rig{tb: tb, out: newSink(tb), log: &logged{}}
	if cfg.AnswerWait == 0 {
		cfg.AnswerWait = 5 * time.Second // a machine that is busy with other tests is no stalled GPU
	}
	cfg.Log = slog.New(slog.NewTextHandler(r.log, nil))
	src, err := gpu.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	r.src = src
	tb.Cleanup(func() { _ = src.Close() })
	return r
}

// now is the stub's time at the last tick.
func (r *rig) now() time.Duration { return time.Duration(r.tick.Seq) * time.Second }

// step is one tick, a second after the last.
func (r *rig) step() {
	r.tb.Helper()
	r.tick.Seq++
	r.tick.WallMs, r.tick.BootMs = wall0+int64(r.tick.Seq)*1000, boot0+int64(r.tick.Seq)*1000
	if r.mem != nil {
		if err := r.mem.SetNow(r.now()); err != nil {
			r.tb.Fatal(err)
		}
	}
	if err := r.src.Sample(r.tb.Context(), r.tick, r.out); err != nil {
		r.tb.Fatal(err)
	}
}

// moment is the n-th moment of a burst behind the last tick.
func (r *rig) moment(n int, spacing time.Duration) {
	r.tb.Helper()
	t, behind := r.tick, time.Duration(n)*spacing
	t.Burst = n
	t.WallMs, t.BootMs = t.WallMs+behind.Milliseconds(), t.BootMs+behind.Milliseconds()
	if r.mem != nil {
		if err := r.mem.SetNow(r.now() + behind); err != nil {
			r.tb.Fatal(err)
		}
	}
	if err := r.src.Burst(r.tb.Context(), t, r.out); err != nil {
		r.tb.Fatal(err)
	}
}

// burst is some seconds of ticks with moments between, as the agent paces them: as far from the
// next tick as from the one before. f is called behind each, with the time since the first.
func (r *rig) burst(seconds int, spacing time.Duration, f func(at time.Duration)) {
	r.tb.Helper()
	for i := range seconds {
		r.step()
		f(time.Duration(i) * time.Second)
		for n := 1; time.Duration(n+1)*spacing <= time.Second; n++ {
			r.moment(n, spacing)
			f(time.Duration(i)*time.Second + time.Duration(n)*spacing)
		}
	}
}

func (r *rig) steps(n int) {
	r.tb.Helper()
	for range n {
		r.step()
	}
}

// until steps until a condition holds, with a little real time between.
func (r *rig) until(what string, cond func() bool) {
	r.tb.Helper()
	ctx, cancel := context.WithTimeout(r.tb.Context(), 20*time.Second)
	defer cancel()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			r.tb.Fatalf("%s: not within 20 s; statuses %v; log:\n%s", what, r.out.status, r.log)
		case <-pause.C:
		}
		r.step()
	}
}

func (r *rig) state(gpu int) source.State { return r.out.status["gpu/"+r.mem.UUID(gpu)].State }

// row is a row as a test looks at it.
type row struct {
	ints    map[string]int64
	strs    map[string]string
	sources map[string]wire.Source
	group   string
}

func (r *row) has(name string) bool {
	_, ok := r.ints[name]
	return ok
}

// sink takes rows as the agent does.
type sink struct {
	tb     testing.TB
	rows   map[wire.Kind][]row
	groups map[string]map[string]wire.Source
	status map[string]source.Status
	told   []source.Status
}

func newSink(tb testing.TB) *sink {
	return &sink{tb: tb, rows: map[wire.Kind][]row{}, groups: map[string]map[string]wire.Source{}, status: map[string]source.Status{}}
}

func (s *sink) Row(kind wire.Kind, src wire.Source, group string, prepare, fill func(b *wire.Builder)) {
	b := wire.NewBuilder(kind, src)
	if prepare != nil {
		prepare(b)
	}
	b.Begin()
	fill(b)
	if err := b.End(); err != nil {
		s.tb.Errorf("row of %v: %v", kind, err)
		return
	}
	r := row{ints: map[string]int64{}, strs: map[string]string{}, sources: map[string]wire.Source{}, group: group}
	t := b.Build()
	for _, c := range t.Columns {
		if !c.Has(0) {
			continue
		}
		for _, f := range wire.Schema[kind] {
			if f.ID != c.Field {
				continue
			}
			r.sources[f.Name] = c.Source
			if f.Type == wire.Int {
				r.ints[f.Name] = c.Int[0]
			} else {
				r.strs[f.Name] = c.Dict[c.Ref[0]]
			}
		}
	}
	// Rows of a group have the same sources, column by column.
	of := s.groups[fmt.Sprint(kind, src, group)]
	if of == nil {
		of = map[string]wire.Source{}
		s.groups[fmt.Sprint(kind, src, group)] = of
	}
	for name, src := range r.sources {
		if was, ok := of[name]; ok && was != src {
			s.tb.Errorf("group %q: column %s is of %v and of %v", group, name, was, src)
		}
		of[name] = src
	}
	s.rows[kind] = append(s.rows[kind], r)
}

func (s *sink) Status(st source.Status) {
	s.status[st.Instrument] = st
	s.told = append(s.told, st)
}

// take empties the sink of rows of a kind.
func (s *sink) take(kind wire.Kind) []row {
	rows := s.rows[kind]
	delete(s.rows, kind)
	return rows
}

// of are the rows of one GPU.
func of(rows []row, gpu int) []row {
	var out []row
	for _, r := range rows {
		if r.ints["gpu"] == int64(gpu) {
			out = append(out, r)
		}
	}
	return out
}

// logged is a log that tests read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
