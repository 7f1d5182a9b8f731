package job

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// kernel tells ends of processes, and whether their collectives are seen.
type kernel struct {
	ends  []source.ProcessExit
	nccl  map[int32]string
	asked int
	polls bool
}

func (k *kernel) TakeExits(list []source.ProcessExit) []source.ProcessExit {
	list = append(list, k.ends...)
	k.ends = k.ends[:0]
	return list
}

func (k *kernel) CollectivesOf(pid int32) (what string, by wire.Source) {
	k.asked++
	return k.nccl[pid], k.by()
}

// by is who tells.
func (k *kernel) by() wire.Source {
	if k.polls {
		return wire.SourceProcfs
	}
	return wire.SourceEBPF
}

func (k *kernel) exit(pid int32, start uint64, status int32) {
	k.ends = append(k.ends, source.ProcessExit{PID: pid, StartTicks: start, Status: status, By: k.by()})
}

// watched takes a new agent that hears of ends and of collectives.
func (f *fixture) watched(k *kernel, bootID string) {
	cfg := Config{Procfs: f.root, Passwd: filepath.Join(f.root, "passwd"), Exits: k, Collectives: k}
	if bootID != "" {
		cfg.StateFile, cfg.BootID = filepath.Join(f.root, "processes.json"), bootID
	}
	f.j = New(cfg, f.l)
}

// ends returns rows of ends.
func (f *fixture) ends() string {
	f.t.Helper()
	f.sample()
	return f.s.fields("pid", "start_ms", "end_ms", "exit_code")
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	f, k := newFixture(t), &kernel{}
	f.watched(k, "")
	for pid := 10; pid < 17; pid++ {
		f.process(pid, "a", 1, 100*pid, 1000, slurmGroup)
	}
	f.l.set(10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15, 0, 16, 0)
	f.tick()
	row := func(pid int, endMs int64, code string) string {
		return fmt.Sprintf("%d|%d|%d|%s", pid, (btime+int64(pid))*1000, endMs, code)
	}
	seen := f.wall
	// The kernel tells an end before /proc shows it: it ends with that, and goes on being listed.
	k.exit(10, 1000, 9)
	f.want("told first", f.ends(), row(10, seen, "9"))
	f.l.set(10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15, 0, 16, 0)
	f.want("it is listed still", f.ends(), "")
	f.kill(10)
	f.want("it is gone", f.ends(), "")

	// Both at once.
	seen = f.wall
	f.kill(11)
	k.exit(11, 1100, 0)
	f.want("both at once", f.ends(), row(11, seen, "0"))

	// The end first, and then how.
	seen = f.wall
	f.kill(12)
	f.want("it is gone, not known how", f.ends(), row(12, seen, "-"))
	f.want("no news", f.ends(), "")
	k.exit(12, 1200, 1<<8)
	f.want("how", f.ends(), row(12, seen, "256"))
	k.exit(12, 1200, 1<<8)
	f.want("once", f.ends(), "")

	// Another that had the same number.
	k.exit(13, 1299, 9)
	f.want("another process", f.ends(), "")
	seen = f.wall
	f.kill(13)
	f.want("it is gone", f.ends(), row(13, seen, "-"))
	k.exit(13, 1301, 9)
	f.want("another that has the number now", f.ends(), "")

	// An end of which is not known how.
	seen = f.wall
	k.exit(14, 1400, -1)
	f.want("an end without a status", f.ends(), row(14, seen, "-"))
	seen = f.wall
	k.exit(15, 1500, 1<<16)
	f.want("a status that is none", f.ends(), row(15, seen, "-"))

	// So late that nobody waits for it.
	seen = f.wall
	f.kill(16)
	f.want("gone", f.ends(), row(16, seen, "-"))
	f.pass(lateMs/1000 + 1)
	k.exit(16, 1600, 1)
	f.want("late", f.ends(), "")
	if n := len(f.j.exits.waiting); n != 0 {
		t.Errorf("%d are waited for", n)
	}
}

// A process that ended before the driver's list named it, and shows in /proc for a while.
func TestExitBeforeTheList(t *testing.T) {
	t.Parallel()
	f, k := newFixture(t), &kernel{}
	f.watched(k, "")
	f.process(10, "short", 1, 1000, 1000, slurmGroup)
	f.process(11, "other", 1, 1100, 1000, slurmGroup)
	k.exit(10, 1000, 2<<8)
	k.exit(11, 1099, 2<<8)
	f.want("not known", f.ends(), "")
	f.l.set(10, 0, 11, 0)
	f.want("listed", f.ends(), fmt.Sprintf("10|%d|-|-\n11|%d|-|-", (btime+10)*1000, (btime+11)*1000))
	f.want("its end", f.ends(), fmt.Sprintf("10|%d|%d|512", (btime+10)*1000, f.wall-1000))
	f.l.set(10, 0, 11, 0)
	f.want("listed again", f.ends(), "")
}

func TestExitsAreBounded(t *testing.T) {
	t.Parallel()
	f, k := newFixture(t), &kernel{}
	f.watched(k, "")
	f.process(10, "a", 1, 1000, 1000, slurmGroup)
	k.exit(10, 1000, 1)
	for i := range int32(3 * maxExits) {
		k.exit(1000+i, 5, 0)
		k.exit(1000+i, 5, 0)
	}
	f.l.set(10, 0)
	f.sample()
	f.want("the oldest gave way", f.s.fields("pid", "end_ms"), "10|-")
	if n := len(f.j.exits.past); n != maxExits {
		t.Errorf("%d ends are kept, want %d", n, maxExits)
	}
	f.want("the last is there", fmt.Sprint(f.j.exits.of(1000+3*maxExits-1, 5) != nil), "true")
	for i := range maxWaiting + 5 {
		f.j.exits.wait(&process{pid: int32(i + 1), start: 7}, source.Tick{BootMs: f.boot})
	}
	if n := len(f.j.exits.waiting); n != maxWaiting {
		t.Errorf("%d are waited for, want %d", n, maxWaiting)
	}
}

// The next agent tells an end again as it was, with how it came.
func TestExitAcrossAgents(t *testing.T) {
	t.Parallel()
	f, k := newFixture(t), &kernel{nccl: map[int32]string{10: "visible"}}
	f.watched(k, "boot-1")
	f.process(10, "a", 1, 1000, 1000, slurmGroup)
	f.process(11, "b", 1, 1100, 1000, slurmGroup)
	f.l.set(10, 0, 11, 1)
	f.sample()
	seen := f.wall
	f.s.take()
	k.exit(10, 1000, 139) // it is in /proc still
	f.kill(11)
	f.sample()
	fields := []string{"pid", "end_ms", "exit_code", "nccl"}
	f.want("two ends", f.s.fields(fields...), fmt.Sprintf("10|%d|139|visible\n11|%d|-|-", seen, seen))
	k.exit(11, 1100, 15)
	f.sample()
	late := fmt.Sprintf("11|%d|15|-", seen)
	f.want("the other's status", f.s.fields(fields...), late)
	f.watched(k, "boot-1") // the first is killed
	f.sample()
	f.want("the next agent", f.s.fields(fields...), fmt.Sprintf("10|%d|139|visible\n", seen)+late)
	f.l.set(10, 0)
	f.sample()
	f.want("it is listed still", f.s.fields(fields...), "")
	// Numbers and starts of another boot are others'.
	f.process(12, "c", 1, 1200, 1000, slurmGroup)
	f.l.set(12, 0)
	f.sample()
	f.s.take()
	f.watched(k, "boot-2")
	k.exit(12, 1200, 9)
	f.sample()
	if rows := f.s.fields("pid", "exit_code"); strings.Contains(rows, "12|9") {
		t.Errorf("after a boot: %s", rows)
	}
}

// Real processes: what wait(2) said of them is what the row holds.
func TestRealExit(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]string{"echo up; read x; exit 3": "768", "echo up; read x; kill -9 $$": "9"} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err = cmd.Start(); err != nil {
			t.Fatalf("no shell here: %v", err)
		}
		if _, err = bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		l, k, s := &lister{}, &kernel{}, newSink(t)
		l.set(cmd.Process.Pid, 0)
		j := New(Config{Exits: k}, l)
		sample := func(bootMs int64) string {
			if serr := j.Sample(t.Context(), source.Tick{WallMs: time.Now().UnixMilli(), BootMs: bootMs}, s); serr != nil {
				t.Fatal(serr)
			}
			return s.fields("pid", "exit_code")
		}
		pid := strconv.Itoa(cmd.Process.Pid)
		if row := sample(1_000_000); row != pid+"|-" {
			t.Errorf("row %q", row)
		}
		start := j.known[int32(cmd.Process.Pid)].start
		if err = in.Close(); err != nil {
			t.Fatal(err)
		}
		if err = cmd.Wait(); err == nil {
			t.Errorf("%s: it did not fail", script)
		}
		if row := sample(1_001_000); row != pid+"|-" {
			t.Errorf("end %q", row)
		}
		status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !ok {
			t.Fatal(errors.New("no status of wait(2)"))
		}
		k.exit(int32(cmd.Process.Pid), start, int32(status))
		if row := sample(1_002_000); row != pid+"|"+want {
			t.Errorf("%s: end %q, want %s", script, row, want)
		}
		if err = j.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Whether collectives are seen is asked once a list, and told when it changes.
func TestCollectives(t *testing.T) {
	t.Parallel()
	f, k := newFixture(t), &kernel{nccl: map[int32]string{11: "statically_linked"}}
	f.watched(k, "boot-1")
	f.process(10, "a", 1, 1000, 1000, slurmGroup)
	f.process(11, "b", 1, 1100, 1000, slurmGroup)
	next := func() string {
		f.l.set(10, 0, 11, 1)
		f.sample()
		return f.s.fields("pid", "nccl")
	}
	f.want("first", next(), "10|-\n11|statically_linked")
	k.nccl[10] = "visible"
	for range 9 {
		f.sample()
	}
	f.want("not before the next list", f.s.take(), "")
	if k.asked != 2 {
		t.Errorf("asked %d times, want 2", k.asked)
	}
	f.want("the next list", next(), "10|visible")
	f.want("nothing new", next(), "")
	delete(k.nccl, 10)
	f.want("not known any more", next(), "")
	k.nccl[10] = "not_visible"
	f.want("another", next(), "10|not_visible")
	if k.asked != 10 {
		t.Errorf("asked %d times, want 10", k.asked)
	}
	delete(k.nccl, 10)
	f.watched(k, "boot-1")
	f.want("the next agent", next(), "10|not_visible\n11|statically_linked")
}

// How often a job was started again: of the hold, and of its processes.
func TestRestarts(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	f.again(true)
	start := btime + 800
	since := "start " + strconv.Itoa(start)
	f.slurmFile("77", "minors 0", "restarts 2", "nodes 4", since)
	f.slurmFile("78.n01", "node n01", "minors 1", "restarts 0", since)
	f.slurmFile("78.n02", "node n02", "minors 1", "restarts 1", since)
	f.slurmFile("79", "minors 2", since)
	group := func(job string) string { return strings.Replace(slurmGroup, "77", job, 1) }
	f.process(10, "a", 1, 81_000, 1000, slurmGroup)   // the file counts, not what it says
	f.process(11, "b", 1, 81_000, 1000, "0::/\n")     // by what it holds
	f.process(12, "c", 1, 81_000, 1000, group("79"))  // its own word
	f.process(13, "d", 1, 81_000, 1000, group("79"))  // of another job
	f.process(14, "e", 1, 70_000, 1000, group("77"))  // of the job's last start but one
	f.process(15, "f", 1, 81_000, 1000, group("990")) // of a job without a file, which says nothing
	for pid, env := range map[int]string{10: "77 9", 12: "79 3", 13: "5 9", 14: "77 1", 15: "990 "} {
		job, n, _ := strings.Cut(env, " ")
		f.write(strconv.Itoa(pid)+"/environ", "SLURM_JOB_ID="+job+"\x00SLURM_RESTART_COUNT="+n+"\x00")
	}
	f.write("11/environ", "")
	f.l.set(10, 2, 11, 1, 12, 0, 13, 0, 14, 2, 15, 0)
	f.sample()
	f.want("holds", f.s.held("job_id", "gpu", "restart_count"), "79|0|-\n78|1|1\n77|2|2")
	fields := []string{"pid", "job_id", "restart_count"}
	told := "14|77|1\n10|77|2\n11|78|1\n12|79|3\n13|79|-\n15|990|-" // by start
	f.want("processes", f.s.fields(fields...), told)
	// The epilog: what was known stays.
	if err := os.Remove(filepath.Join(f.root, "slurm/77")); err != nil {
		t.Fatal(err)
	}
	f.pass(31)
	f.want("the hold's end", f.s.held("job_id", "end_ms", "restart_count"), fmt.Sprintf("77|%d|2", f.wall))
	f.want("processes stay what they are", f.s.fields(fields...), "")
	// The next agent, without environments.
	if err := f.j.Close(); err != nil {
		t.Fatal(err)
	}
	f.again(false)
	f.sample()
	f.want("the next agent", f.s.fields(fields...), told)
	f.want("its holds", f.s.held("job_id", "restart_count"), "79|-\n78|1")
	// Put back and started again, with the same file.
	f.slurmFile("79", "minors 2", "restarts 1", "start "+strconv.Itoa(start+10))
	f.pass(31)
	f.want("again", f.s.held("job_id", "end_ms", "restart_count"), fmt.Sprintf("79|%d|-\n79|-|1", (start+10)*1000))
	f.want("the file counts", f.s.fields(fields...), "12|79|1\n13|79|1")
}

// origins keeps who told what of each row, with the group it is in.
type origins struct {
	t      *testing.T
	groups []string
	rows   []string
}

func (o *origins) Status(source.Status) {}

func (o *origins) Row(kind wire.Kind, src wire.Source, group string, prepare, fill func(*wire.Builder)) {
	o.t.Helper()
	if kind != wire.KindProcess {
		return
	}
	b := wire.NewBuilder(kind, src)
	prepare(b)
	b.Begin()
	fill(b)
	if err := b.End(); err != nil {
		o.t.Fatal(err)
	}
	t := b.Build()
	by := func(field uint8) string {
		if c := t.Column(field); c != nil && c.Has(0) {
			return c.Source.String()
		}
		return "-"
	}
	o.groups = append(o.groups, group)
	o.rows = append(o.rows, by(fieldNCCL)+" "+by(fieldExit))
}

// What a fallback found is not said to come from programs in the kernel, over a restart
// either; and of the rows of a process in one batch the last comes last.
func TestWhoTold(t *testing.T) {
	t.Parallel()
	for _, polls := range []bool{false, true} {
		f, k := newFixture(t), &kernel{polls: polls, nccl: map[int32]string{}}
		f.watched(k, "b1")
		f.process(10, "a", 1, 1000, 1000, slurmGroup)
		f.process(11, "a", 1, 1100, 1000, slurmGroup)
		f.l.set(10, 0, 11, 0)
		o := &origins{t: t}
		look := func() {
			t.Helper()
			f.boot, f.wall = f.boot+1000, f.wall+1000
			if err := f.j.Sample(t.Context(), source.Tick{WallMs: f.wall, BootMs: f.boot}, o); err != nil {
				t.Fatal(err)
			}
		}
		want := func(what string, rows ...string) {
			t.Helper()
			if got := strings.Join(o.rows, ", "); got != strings.Join(rows, ", ") {
				t.Errorf("%s (polls %v): %s, want %s", what, polls, got, strings.Join(rows, ", "))
			}
			for i := 1; i < len(o.groups); i++ {
				if o.groups[i] < o.groups[i-1] {
					t.Errorf("%s: group %q behind %q", what, o.groups[i], o.groups[i-1])
				}
			}
			o.rows = nil
		}
		by := k.by().String()
		look()
		want("first seen", "- -", "- -")
		k.nccl[10] = "visible"
		f.l.set(10, 0, 11, 0)
		look()
		want("visible", by+" -")
		k.exit(10, 1000, 9)
		look()
		want("its end", by+" "+by)
		k.nccl[11] = "not_visible"
		f.l.set(11, 0)
		look()
		if err := f.j.Close(); err != nil {
			t.Fatal(err)
		}
		o.rows, o.groups = nil, nil
		k.nccl = nil
		f.watched(k, "b1")
		f.l.set(11, 0)
		look()
		want("the next agent", by+" -", by+" "+by) // the end again, as the last one may have died with it
	}
}
