package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/host"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// fakeSource does what a test says.
type fakeSource struct {
	name   string
	sample func(ctx context.Context, t source.Tick, out source.Sink) error
	closed atomic.Bool
}

func (f *fakeSource) Name() string { return f.name }

func (f *fakeSource) Sample(ctx context.Context, t source.Tick, out source.Sink) error {
	return f.sample(ctx, t, out)
}

func (f *fakeSource) Close() error {
	f.closed.Store(true)
	return nil
}

// hostRow puts one row of a host into out.
func hostRow(t source.Tick, out source.Sink) {
	out.Row(wire.KindHost, wire.SourceProcfs, "", nil, func(b *wire.Builder) {
		b.SetInt(1, t.WallMs)
		b.SetInt(11, int64(t.Seq))
	})
}

func counting(name string) *fakeSource {
	return &fakeSource{name: name, sample: func(_ context.Context, t source.Tick, out source.Sink) error {
		hostRow(t, out)
		return nil
	}}
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

// rig is an agent driven by hand on a spool.
type rig struct {
	tb    testing.TB
	agent *Agent
	spool *spool.Spool
	log   *logged
	seq   uint64
	wall  int64 // of the last tick
	boot  int64
	stop  func() error
}

func newRig(tb testing.TB, fsys durable.FS, cfg Config) *rig {
	tb.Helper()
	sp, err := spool.Open(spool.Config{Dir: tb.TempDir(), FS: fsys})
	if err != nil {
		tb.Fatal(err)
	}
	rec, err := NewRecorder(RecorderConfig{Cluster: "c", Node: "n1", Spool: sp, Privacy: ClearPrivacy(), BootID: "boot"})
	if err != nil {
		tb.Fatal(err)
	}
	r := &rig{tb: tb, spool: sp, log: &logged{}, wall: 1_700_000_000_000, boot: 1000}
	cfg.Node, cfg.Recorder, cfg.Manual = "n1", rec, true
	cfg.Log = slog.New(slog.NewTextHandler(r.log, nil))
	if r.agent, err = New(cfg); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.agent.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	tb.Cleanup(func() {
		_ = r.stop() // tests that care have looked
		if err := sp.Close(); err != nil && fsys == nil {
			tb.Error(err)
		}
	})
	return r
}

// tick makes the next tick, one second later.
func (r *rig) tick() error {
	r.seq, r.wall, r.boot = r.seq+1, r.wall+1000, r.boot+1000
	ctx, cancel := context.WithTimeout(r.tb.Context(), 20*time.Second)
	defer cancel()
	return r.agent.Step(ctx, source.Tick{Seq: r.seq, WallMs: r.wall, BootMs: r.boot})
}

func (r *rig) ticks(n int) {
	r.tb.Helper()
	for range n {
		if err := r.tick(); err != nil {
			r.tb.Fatal(err)
		}
	}
}

// sealed returns the ticks of the host rows in the spool, and its statuses as text.
func (r *rig) sealed() (ticks []int64, statuses []string) {
	r.tb.Helper()
	_, all := batches(r.tb, r.spool)
	for _, b := range all {
		for i := range b.Tables {
			t := &b.Tables[i]
			for row := range t.Rows {
				switch t.Kind {
				case wire.KindHost:
					ticks = append(ticks, t.Column(11).Int[row])
				case wire.KindStatus:
					s := t.Column(statusInstrument).Str(row) + " " + t.Column(statusState).Str(row)
					if c := t.Column(statusReason); c != nil && c.Has(row) {
						s += ": " + c.Str(row)
					}
					statuses = append(statuses, s)
				default:
				}
			}
		}
	}
	return ticks, statuses
}

func upTo(n int64) (out []int64) {
	for i := int64(1); i <= n; i++ {
		out = append(out, i)
	}
	return out
}

// eventually polls until ok.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for !ok() {
		select {
		case <-poll.C:
		case <-deadline.C:
			tb.Fatalf("%s: not within 20 s", what)
		}
	}
}

func TestStepSealsEveryTenSeconds(t *testing.T) {
	r := newRig(t, nil, Config{Sources: []source.Source{counting("host")}})
	r.ticks(10)
	if got, _ := r.sealed(); len(got) != 0 {
		t.Errorf("sealed before it was due: %v", got)
	}
	r.ticks(1)
	if got, _ := r.sealed(); !slices.Equal(got, upTo(10)) {
		t.Errorf("sealed %v", got)
	}
	r.ticks(4)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	got, statuses := r.sealed()
	if !slices.Equal(got, upTo(15)) {
		t.Errorf("sealed %v", got)
	}
	if want := []string{"agent active", "host active", "agent unavailable: the agent was stopped"}; !slices.Equal(statuses, want) {
		t.Errorf("statuses %q", statuses)
	}
	_, all := batches(t, r.spool)
	if len(all) != 2 || all[0].Ticks != 10 || all[0].FirstTick != 1 || all[1].Ticks != 15 || all[1].FirstTick != 11 || all[1].MissedTicks != 0 {
		t.Errorf("%d batches: %+v", len(all), all)
	}
}

func TestLargeTableIsSealedEarly(t *testing.T) {
	many := &fakeSource{name: "many", sample: func(_ context.Context, t source.Tick, out source.Sink) error {
		for i := range int64(100) {
			out.Row(wire.KindHost, wire.SourceProcfs, "", nil, func(b *wire.Builder) {
				b.SetInt(1, t.WallMs+i)
				b.SetInt(11, int64(t.Seq))
			})
		}
		return nil
	}}
	r := newRig(t, nil, Config{Sources: []source.Source{many}, SealRows: 250})
	r.ticks(3)
	if got, _ := r.sealed(); len(got) != 250 {
		t.Errorf("%d rows sealed", len(got))
	}
}

// TestBusySource: a source that hangs misses ticks and counts as stalled, others do not, and
// when it comes back all is well.
func TestBusySource(t *testing.T) {
	release := make(chan struct{})
	entered := make(chan struct{}, 100)
	slow := &fakeSource{name: "slow", sample: func(ctx context.Context, t source.Tick, out source.Sink) error {
		entered <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		out.Row(wire.KindTCP, wire.SourceEBPF, "", nil, func(b *wire.Builder) {
			b.SetInt(1, t.WallMs)
			b.SetStr(2, "peer")
			b.SetStr(3, "slurm")
			b.SetStr(4, "1")
		})
		return nil
	}}
	r := newRig(t, nil, Config{Sources: []source.Source{counting("host"), slow}, StallAfter: 3 * time.Second})
	go func() { _ = r.tick() }() // it waits for the slow one
	<-entered
	eventually(t, "the first tick", func() bool { return r.agent.Stats().Sources[0].Samples == 1 })
	r.ticks(5)
	st := r.agent.Stats()
	if s := st.Sources[1]; s.Missed != 5 || !s.Stalled || s.Samples != 0 {
		t.Errorf("slow: %+v", s)
	}
	if s := st.Sources[0]; s.Missed != 0 || s.Samples != 6 {
		t.Errorf("host: %+v", s)
	}
	if want := []string{"source slow does not answer"}; !slices.Equal(st.Conditions, want) {
		t.Errorf("conditions %q", st.Conditions)
	}
	close(release)
	eventually(t, "the end of the first sample", func() bool { return r.agent.Stats().Sources[1].Samples == 1 })
	r.ticks(2)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	_, statuses := r.sealed()
	var slowly []string
	for _, s := range statuses {
		if strings.HasPrefix(s, "slow") {
			slowly = append(slowly, s)
		}
	}
	if want := []string{"slow stalled: it was asked and does not answer", "slow active"}; !slices.Equal(slowly, want) {
		t.Errorf("statuses %q", slowly)
	}
}

// TestPanic: a source that panics is an error that names it; it is asked again after a while.
func TestPanic(t *testing.T) {
	calls := 0
	bad := &fakeSource{name: "bad", sample: func(_ context.Context, t source.Tick, out source.Sink) error {
		calls++
		out.Row(wire.KindHost, wire.SourceProcfs, "bad", nil, func(b *wire.Builder) {
			b.SetInt(1, t.WallMs)
			if calls < 3 {
				panic("oh")
			}
			b.SetInt(11, -1)
		})
		return nil
	}}
	r := newRig(t, nil, Config{Sources: []source.Source{bad, counting("host")}})
	r.ticks(12)
	st := r.agent.Stats()
	if s := st.Sources[0]; s.Panics != 2 || s.Errors != 2 || s.Missed != 3 || s.Samples != 7 { // 1, pause 1, 3, pause 2, 6...
		t.Errorf("bad: %+v", s)
	}
	if s := st.Sources[1]; s.Samples != 12 {
		t.Errorf("host: %+v", s)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	got, statuses := r.sealed()
	if n := len(got); n != 12+7 {
		t.Errorf("%d rows", n)
	}
	if !slices.Contains(statuses, "bad degraded: it saw nothing: source bad panicked: oh") || !slices.Contains(statuses, "bad active") {
		t.Errorf("statuses %q", statuses)
	}
	if !bad.closed.Load() || !strings.Contains(r.log.String(), "source panicked") {
		t.Errorf("closed %v, log:\n%s", bad.closed.Load(), r.log)
	}
}

func TestErrors(t *testing.T) {
	var fail error
	s := &fakeSource{name: "s", sample: func(_ context.Context, _ source.Tick, out source.Sink) error {
		out.Row(wire.KindHost, wire.SourceProcfs, "", nil, func(b *wire.Builder) { b.SetInt(11, 1) }) // no key
		return fail
	}}
	r := newRig(t, nil, Config{Sources: []source.Source{s}})
	r.ticks(1)
	fail = errors.New("no file")
	r.ticks(3)
	fail = nil
	r.ticks(2)
	st := r.agent.Stats()
	if s := st.Sources[0]; s.Errors != 3 || s.Samples != 3 {
		t.Errorf("%+v", s)
	}
	if st.RefusedRows[wire.KindHost] != 6 || st.Rows[wire.KindHost] != 0 {
		t.Errorf("rows %v, refused %v", st.Rows, st.RefusedRows)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	_, statuses := r.sealed()
	if got := slices.DeleteFunc(statuses, func(s string) bool { return !strings.HasPrefix(s, "s ") }); !slices.Equal(got, []string{"s active", "s degraded: it saw nothing: no file", "s active"}) {
		t.Errorf("statuses %q", got)
	}
	if n := strings.Count(r.log.String(), "source saw nothing"); n != 1 {
		t.Errorf("said %d times:\n%s", n, r.log)
	}
}

// fullDisk refuses writes while it is full.
type fullDisk struct {
	durable.FS
	full atomic.Bool
}

type fullFile struct {
	durable.File
	d *fullDisk
}

func (d *fullDisk) wrap(f durable.File, err error) (durable.File, error) {
	if err != nil {
		return nil, err
	}
	return fullFile{f, d}, nil
}

func (d *fullDisk) Create(name string) (durable.File, error) { return d.wrap(d.FS.Create(name)) }
func (d *fullDisk) Open(name string) (durable.File, error)   { return d.wrap(d.FS.Open(name)) }

func (f fullFile) WriteAt(p []byte, off int64) (int, error) {
	if f.d.full.Load() {
		return 0, syscall.ENOSPC
	}
	return f.File.WriteAt(p, off)
}

// TestFullDisk: rows wait in memory up to the bound; then the oldest are given up, which is
// counted and told; the agent goes on, and nothing is sealed twice.
func TestFullDisk(t *testing.T) {
	disk := &fullDisk{FS: durable.NoSync(durable.OS{})}
	r := newRig(t, disk, Config{Sources: []source.Source{counting("host")}, PendingRows: 35})
	r.ticks(11)
	disk.full.Store(true)
	for range 60 {
		if err := r.tick(); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	st := r.agent.Stats()
	if st.PendingRows > 35+10+2 || st.LostRows[wire.KindHost] == 0 || st.SealErrors == 0 {
		t.Errorf("%d rows wait, %v are lost, %d errors", st.PendingRows, st.LostRows, st.SealErrors)
	}
	if c := strings.Join(st.Conditions, "\n"); !strings.Contains(c, "the spool takes nothing: ") || !strings.Contains(c, "no space left on device") || !strings.Contains(c, "rows were given up") {
		t.Errorf("conditions %q", c)
	}
	disk.full.Store(false)
	r.ticks(11)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	got, statuses := r.sealed()
	if want := 82 - int(st.LostRows[wire.KindHost]); len(got) != want || len(slices.Compact(slices.Clone(got))) != want || got[9] != 10 || got[len(got)-1] != 82 {
		t.Errorf("%d of %d rows: %v", len(got), want, got)
	}
	if s := strings.Join(statuses, "\n"); !strings.Contains(s, "rows were given up, the last of ticks") {
		t.Errorf("the gap is not told: %q", statuses)
	}
	if n := strings.Count(r.log.String(), "the spool takes nothing"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// TestFullDiskAtTheEnd: what cannot be sealed is an error, not silence.
func TestFullDiskAtTheEnd(t *testing.T) {
	disk := &fullDisk{FS: durable.NoSync(durable.OS{})}
	r := newRig(t, disk, Config{Sources: []source.Source{counting("host")}})
	r.ticks(3)
	disk.full.Store(true)
	if err := r.stop(); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "rows") && !strings.Contains(err.Error(), "stay behind") {
		t.Errorf("got %v", err)
	}
}

// TestClock: a step of the wall clock and missed ticks are counted and told; neither stops
// the agent.
func TestClock(t *testing.T) {
	r := newRig(t, nil, Config{Sources: []source.Source{counting("host")}})
	r.ticks(3)
	r.wall -= 3_600_000
	r.ticks(2)
	r.seq, r.wall, r.boot = r.seq+7, r.wall+7000, r.boot+7000 // suspended
	r.ticks(1)
	st := r.agent.Stats()
	if st.ClockSteps != 1 || st.MissedTicks != 7 || st.Sources[0].Samples != 6 {
		t.Errorf("%+v", st)
	}
	want := []string{"the wall clock was stepped by -3600.0 s", "7 ticks passed without a sample: the host was suspended or overloaded"}
	if !slices.Equal(st.Conditions, want) {
		t.Errorf("conditions %q", st.Conditions)
	}
	r.ticks(601)
	if st := r.agent.Stats(); len(st.Conditions) != 0 {
		t.Errorf("conditions for ever: %q", st.Conditions)
	}
}

// TestStatuses: told on change and every five minutes, a new reason after a while.
func TestStatuses(t *testing.T) {
	say := source.Status{Instrument: "gpu/GPU-1", State: source.Active}
	s := &fakeSource{name: "gpu", sample: func(_ context.Context, _ source.Tick, out source.Sink) error {
		out.Status(source.Status{Instrument: "gpu", State: source.Active})
		out.Status(say)
		return nil
	}}
	r := newRig(t, nil, Config{Sources: []source.Source{s}})
	r.ticks(5)
	say.State, say.Reason = source.Stalled, "no answer for 3 s"
	r.ticks(5)
	say.Reason = "no answer for 8 s \xff"
	r.ticks(40)
	say.State, say.Reason = source.Active, ""
	r.ticks(300)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	_, statuses := r.sealed()
	got := slices.DeleteFunc(statuses, func(s string) bool { return !strings.HasPrefix(s, "gpu/") })
	want := []string{"gpu/GPU-1 active", "gpu/GPU-1 stalled: no answer for 3 s", "gpu/GPU-1 stalled: no answer for 8 s \uFFFD", "gpu/GPU-1 active"}
	if !slices.Equal(got[:min(len(got), 4)], want) || len(got) > 5 {
		t.Errorf("statuses %q", got)
	}
}

// TestSilent: a source that has given no rows and not spoken has shown nothing: it is not
// active for that, and its first row, or its own word, is.
func TestSilent(t *testing.T) {
	rows := false
	silent := &fakeSource{name: "silent", sample: func(_ context.Context, t source.Tick, out source.Sink) error {
		if rows {
			hostRow(t, out)
		}
		return nil
	}}
	r := newRig(t, nil, Config{Sources: []source.Source{silent}})
	r.ticks(3)
	state := func() source.Status {
		t.Helper()
		all := r.agent.Stats().Instruments
		i := slices.IndexFunc(all, func(s StatusAt) bool { return s.Instrument == "silent" })
		if i < 0 {
			t.Fatalf("no state of silent: %+v", all)
		}
		return all[i].Status
	}
	if st := state(); st.State != source.Degraded || !strings.Contains(st.Reason, "nothing yet") {
		t.Errorf("%+v", st)
	}
	rows = true
	r.ticks(1)
	if st := state(); st.State != source.Active || st.Reason != "" {
		t.Errorf("%+v", st)
	}
	rows = false // what comes and goes, such as checkpoints, is no fault
	r.ticks(2)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	_, statuses := r.sealed()
	statuses = slices.DeleteFunc(statuses, func(s string) bool { return !strings.HasPrefix(s, "silent") })
	if len(statuses) != 2 || statuses[1] != "silent active" {
		t.Errorf("statuses %q", statuses)
	}
	if log := r.log.String(); strings.Contains(log, "silent") { // the start is no news
		t.Errorf("log:\n%s", log)
	}
}

// TestTooManyTables and groups: batches stay within the contract.
func TestManyGroups(t *testing.T) {
	s := &fakeSource{name: "s", sample: func(_ context.Context, tk source.Tick, out source.Sink) error {
		for i := range 150 {
			prepared := false
			out.Row(wire.KindHost, wire.SourceProcfs, fmt.Sprint(i), func(b *wire.Builder) {
				prepared = true
				b.SetSource(11, wire.SourceSysfs)
			}, func(b *wire.Builder) {
				b.SetInt(1, tk.WallMs)
				b.SetInt(11, int64(tk.Seq))
			})
			if prepared != (tk.Seq == 1) {
				t.Errorf("tick %d, group %d: prepared %v", tk.Seq, i, prepared)
			}
		}
		return nil
	}}
	r := newRig(t, nil, Config{Sources: []source.Source{s}})
	r.ticks(5)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if got, _ := r.sealed(); len(got) != 750 {
		t.Errorf("%d rows", len(got))
	}
	if _, all := batches(t, r.spool); len(all) != 3 || all[0].Tables[3].Column(11).Source != wire.SourceSysfs {
		t.Errorf("%d batches", len(all))
	}
}

// TestPoison: a table that the contract refuses takes no other with it.
func TestPoison(t *testing.T) {
	s := &fakeSource{name: "s", sample: func(_ context.Context, tk source.Tick, out source.Sink) error {
		hostRow(tk, out)
		out.Row(wire.KindProcess, wire.SourceProcfs, "", nil, func(b *wire.Builder) {
			b.SetInt(1, tk.WallMs)
			b.SetInt(2, 7)
			b.SetStr(12, "bad \xff name")
		})
		return nil
	}}
	r := newRig(t, nil, Config{Sources: []source.Source{s}})
	r.ticks(5)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	got, statuses := r.sealed()
	if !slices.Equal(got, upTo(5)) || len(statuses) != 3 {
		t.Errorf("%v %q", got, statuses)
	}
	if st := r.agent.Stats(); st.RefusedRows[wire.KindProcess] != 5 || st.PendingRows != 0 {
		t.Errorf("%+v", st)
	}
}

// TestTooLarge: a table whose frame would be too large is split.
func TestTooLarge(t *testing.T) {
	rows := 0
	s := &fakeSource{name: "s", sample: func(_ context.Context, tk source.Tick, out source.Sink) error {
		for range 3000 {
			rows++
			out.Row(wire.KindFlow, wire.SourceEBPF, "", nil, func(b *wire.Builder) {
				b.SetInt(1, tk.WallMs)
				b.SetStr(2, fmt.Sprintf("%x-%s", rows, strings.Repeat(fmt.Sprint(rows*2654435761%1000003), 100)))
				if rows%3 > 0 {
					b.SetInt(10, int64(rows))
				}
			})
		}
		return nil
	}}
	r := newRig(t, nil, Config{Sources: []source.Source{s}, PendingRows: 60_000})
	r.ticks(5)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	_, all := batches(t, r.spool)
	n, seen := 0, map[string]bool{}
	for _, b := range all {
		for i := range b.Tables {
			if tab := &b.Tables[i]; tab.Kind == wire.KindFlow {
				n += tab.Rows
				for row := range tab.Rows {
					peer := tab.Column(2).Str(row)
					var id int
					if _, err := fmt.Sscanf(peer, "%x-", &id); err != nil {
						t.Fatal(err)
					}
					if tx := tab.Column(10); tx.Has(row) != (id%3 > 0) || tx.Has(row) && tx.Int[row] != int64(id) {
						t.Fatalf("row %d has %v", id, tx.Int[row])
					}
					seen[peer] = true
				}
			}
		}
	}
	if n != rows || len(seen) != rows || len(all) < 2 {
		t.Errorf("%d of %d rows, %d distinct, %d batches", n, rows, len(seen), len(all))
	}
}

// TestStopLeavesTheDeafBehind: a source that listens to nothing does not hold the end up.
func TestStopLeavesTheDeafBehind(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	deaf := &fakeSource{name: "deaf", sample: func(context.Context, source.Tick, source.Sink) error {
		close(entered)
		<-release
		return nil
	}}
	r := newRig(t, nil, Config{Sources: []source.Source{deaf, counting("host")}, StopTimeout: 20 * time.Millisecond})
	go func() { _ = r.tick() }()
	<-entered
	eventually(t, "the other source", func() bool { return r.agent.Stats().Sources[1].Samples == 1 })
	if err := r.stop(); err != nil && !strings.Contains(err.Error(), "does not answer within") { // a slow disk may be late too
		t.Fatal(err)
	}
	if !strings.Contains(r.log.String(), "left behind") {
		t.Errorf("log:\n%s", r.log)
	}
	close(release)
}

// TestApply: sources come and go while the agent runs.
func TestApply(t *testing.T) {
	first := counting("host")
	r := newRig(t, nil, Config{Sources: []source.Source{first}})
	r.ticks(2)
	if err := r.agent.Apply(t.Context(), Change{Add: []source.Source{counting("host")}}); err == nil {
		t.Error("two of one name")
	}
	if err := r.agent.Apply(t.Context(), Change{Remove: []string{"host"}, Add: []source.Source{counting("host"), counting("other")}, SealEvery: time.Second}); err != nil {
		t.Fatal(err)
	}
	if !first.closed.Load() {
		t.Error("not closed")
	}
	r.ticks(2)
	if err := r.agent.Apply(t.Context(), Change{Remove: []string{"other"}}); err != nil {
		t.Fatal(err)
	}
	r.ticks(2)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	got, statuses := r.sealed()
	slices.Sort(got)
	if !slices.Equal(got, []int64{1, 2, 3, 3, 4, 4, 5, 6}) {
		t.Errorf("ticks %v", got)
	}
	if !slices.Contains(statuses, "other unavailable: it is switched off in the configuration") {
		t.Errorf("statuses %q", statuses)
	}
	if err := r.agent.Apply(t.Context(), Change{}); err == nil {
		t.Error("changed after its end")
	}
}

// stepClock is a clock that a test moves and that moves with real time beside.
type stepClock struct{ wall, boot atomic.Int64 }

func (c *stepClock) read() (int64, int64) {
	w, b := host.Clocks()
	return w + c.wall.Load(), b + c.boot.Load()
}

// TestPace: ticks come by themselves, a step of the wall clock does not move them, and a
// suspend is counted, not made up for.
func TestPace(t *testing.T) {
	sp := openSpool(t, t.TempDir())
	defer sp.Close()
	rec, err := NewRecorder(RecorderConfig{Cluster: "c", Node: "n", Spool: sp, Privacy: privacy(t)})
	if err != nil {
		t.Fatal(err)
	}
	var clock stepClock
	a, err := New(Config{Node: "n", Recorder: rec, Clocks: clock.read, Interval: 10 * time.Millisecond, SealEvery: 50 * time.Millisecond, Sources: []source.Source{counting("host")}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	reach := func(n uint64) { eventually(t, "ticks", func() bool { return a.Stats().Tick.Seq >= n }) }
	reach(10)
	clock.wall.Add(-86_400_000)
	eventually(t, "the step", func() bool { return a.Stats().ClockSteps == 1 })
	before := a.Stats()
	reach(before.Tick.Seq + 5)
	clock.wall.Add(3_600_000)
	clock.boot.Add(3_600_000)
	eventually(t, "the suspend", func() bool { return a.Stats().MissedTicks >= 359_000 })
	st := a.Stats()
	if st.ClockSteps != 1 || st.Sources[0].Samples > 10_000 {
		t.Errorf("%+v", st)
	}
	if err := a.Apply(t.Context(), Change{Interval: 5 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	reach(st.Tick.Seq + 20)
	eventually(t, "batches", func() bool { return a.Stats().Batches > 2 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil {
		t.Error("ran twice")
	}
}

func TestPhase(t *testing.T) {
	seen := map[int64]bool{}
	for i := range 200 {
		node := fmt.Sprintf("node-%d", i)
		d := untilPhase(node, 1_700_000_000_123, 1000)
		if d < 0 || d >= 1000 || untilPhase(node, 1_700_000_000_123+d, 1000) != 0 {
			t.Errorf("%s: %d", node, d)
		}
		seen[d/100] = true
	}
	if len(slices.Collect(maps.Keys(seen))) != 10 {
		t.Errorf("phases are not spread: %v", seen)
	}
	if d := untilPhase("n", -5, 1000); d < 0 || d >= 1000 {
		t.Errorf("before 1970: %d", d)
	}
}

// shipper is a fake.
type shipper struct {
	end     error
	drained atomic.Bool
}

func (s *shipper) Run(ctx context.Context) error {
	if s.end != nil {
		return s.end
	}
	<-ctx.Done()
	return nil
}

func (s *shipper) Drain(ctx context.Context) error {
	s.drained.Store(true)
	<-ctx.Done()
	return ctx.Err()
}

// TestShip: at the end the agent waits for the broker only so long, and that is no error; a
// shipper that ends by itself is one.
func TestShip(t *testing.T) {
	s := &shipper{}
	r := newRig(t, nil, Config{Sources: []source.Source{counting("host")}, Ship: s, DrainTimeout: 10 * time.Millisecond})
	r.ticks(2)
	if err := r.stop(); err != nil || !s.drained.Load() {
		t.Errorf("%v, drained %v", err, s.drained.Load())
	}
	gone := errors.New("gone")
	r = newRig(t, nil, Config{Sources: []source.Source{counting("host")}, Ship: &shipper{end: gone}})
	if err := r.stop(); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	sp := openSpool(t, t.TempDir())
	defer sp.Close()
	rec, err := NewRecorder(RecorderConfig{Cluster: "c", Node: "n", Spool: sp, Privacy: privacy(t)})
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"no node": {Recorder: rec}, "no recorder": {Node: "n"},
		"twins": {Node: "n", Recorder: rec, Sources: []source.Source{counting("a"), counting("a")}},
		"self":  {Node: "n", Recorder: rec, Sources: []source.Source{counting("agent")}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// BenchmarkTick is the core's own cost: a tick of eight GPUs, and its share of sealing.
func BenchmarkTick(b *testing.B) {
	gpus := &fakeSource{name: "gpu", sample: func(_ context.Context, t source.Tick, out source.Sink) error {
		for g := range int64(8) {
			out.Row(wire.KindGPU, wire.SourceNVML, "", nil, func(w *wire.Builder) {
				w.SetInt(1, t.WallMs)
				w.SetStr(2, "GPU-0000000"+fmt.Sprint(g))
				w.SetInt(3, g)
				w.SetInt(4, t.BootMs)
				for f := uint8(10); f <= 34; f++ {
					w.SetInt(f, int64(t.Seq)*1000+int64(f)*7+int64((t.Seq*uint64(g+1)*2654435761)>>7%512))
				}
			})
		}
		return nil
	}}
	r := newRig(b, durable.NoSync(durable.OS{}), Config{Sources: []source.Source{gpus}})
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		r.ticks(1)
	}
	b.StopTimer()
	if st := r.agent.Stats(); st.Rows[wire.KindGPU] > 0 {
		b.ReportMetric(float64(st.Bytes)/float64(st.Rows[wire.KindGPU]), "B/sample")
	}
}
