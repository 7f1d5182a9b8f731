package job

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv/race"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// sink keeps rows as text, and statuses.
type sink struct {
	t        testing.TB
	b, holds *wire.Builder
	status   source.Status            // of "job"
	parts    map[string]source.Status // of all
	told     int
}

func newSink(t testing.TB) *sink {
	return &sink{
		t: t, b: wire.NewBuilder(wire.KindProcess, wire.SourceProcfs), holds: wire.NewBuilder(wire.KindHold, wire.SourceDeclared),
		parts: map[string]source.Status{},
	}
}

func (s *sink) Row(kind wire.Kind, src wire.Source, group string, prepare, fill func(*wire.Builder)) {
	b := s.b
	switch {
	case kind == wire.KindProcess && src == wire.SourceProcfs && (group == "process" || strings.HasPrefix(group, "process ")) && prepare != nil:
		prepare(b)
	case kind == wire.KindHold && src == wire.SourceDeclared && group == "hold" && prepare == nil:
		b = s.holds
	default:
		s.t.Errorf("row of %v from %v in group %q", kind, src, group)
	}
	b.Begin()
	fill(b)
	if err := b.End(); err != nil {
		s.t.Error(err)
	}
}

func (s *sink) Status(st source.Status) {
	s.parts[st.Instrument] = st
	if st.Instrument == "job" {
		s.status = st
		s.told++
	} else if !strings.HasPrefix(st.Instrument, "job/") {
		s.t.Errorf("status of %q", st.Instrument)
	}
}

// take returns the rows of processes since the last call, a line each: their first nine
// fields, separated by bars.
func (s *sink) take() string {
	return s.fields("start_ms", "pid", "end_ms", "gpu_list", "exe", "launcher", "job_source", "job_id", "user_hash")
}

// fields is take with other fields.
func (s *sink) fields(names ...string) string {
	t := s.b.Build()
	if c := t.Column(fieldGPUs); c != nil && c.Source != wire.SourceNVML {
		s.t.Errorf("gpu_list is from %v", c.Source)
	}
	for _, f := range []uint8{fieldExit, fieldNCCL} {
		if c := t.Column(f); c != nil && c.Source != wire.SourceEBPF {
			s.t.Errorf("field %d is from %v", f, c.Source)
		}
	}
	for _, f := range []uint8{fieldWorld, fieldRank, fieldPlace, fieldProject, fieldRestarts} {
		if c := t.Column(f); c != nil && c.Source != wire.SourceDeclared {
			s.t.Errorf("field %d is from %v", f, c.Source)
		}
	}
	text := table(t, names)
	s.b.Reset()
	return text
}

// held returns the rows of holds since the last call, a line each.
func (s *sink) held(names ...string) string {
	if len(names) == 0 {
		names = []string{"start_ms", "gpu_uuid", "job_source", "job_id", "gpu", "end_ms", "evidence", "confidence_e4", "shares"}
	}
	text := table(s.holds.Build(), names)
	s.holds.Reset()
	return text
}

// table is a table as lines of fields.
func table(t *wire.Table, names []string) string {
	var lines []string
	for r := range t.Rows {
		var f []string
		for _, name := range names {
			at := slices.IndexFunc(wire.Schema[t.Kind], func(f wire.Field) bool { return f.Name == name })
			field := wire.Schema[t.Kind][at]
			c := t.Column(field.ID)
			switch {
			case c == nil || !c.Has(r):
				f = append(f, "-")
			case field.Type == wire.Str:
				f = append(f, c.Str(r))
			default:
				f = append(f, strconv.FormatInt(c.Int[r], 10))
			}
		}
		lines = append(lines, strings.Join(f, "|"))
	}
	return strings.Join(lines, "\n")
}

// lister is a driver whose list a test changes.
type lister struct {
	list []source.GPUProcess
	seq  uint64
	ok   bool
}

func (l *lister) GPUProcesses() ([]source.GPUProcess, uint64, bool) { return l.list, l.seq, l.ok }

// set is a new look: pairs of pid and GPU.
func (l *lister) set(pairs ...int) {
	l.list, l.ok = nil, true
	for i := 0; i < len(pairs); i += 2 {
		l.list = append(l.list, source.GPUProcess{PID: int32(pairs[i]), GPU: pairs[i+1], UsedBytes: -1})
	}
	l.seq++
}

// fixture is a procfs made of files.
type fixture struct {
	t    testing.TB
	root string
	l    *lister
	j    *Job
	s    *sink
	wall int64
	boot int64
}

const btime = 1_700_000_000

func newFixture(t testing.TB) *fixture {
	f := &fixture{t: t, root: t.TempDir(), l: &lister{}, s: newSink(t), wall: btime*1000 + 900_000, boot: 900_000}
	f.write("stat", "cpu  1 2 3 4\nbtime "+strconv.Itoa(btime)+"\nprocesses 5\n")
	f.write("passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000:A:/home/alice:/bin/sh\n")
	f.restart("")
	return f
}

// restart takes a new agent.
func (f *fixture) restart(bootID string) {
	cfg := Config{Procfs: f.root, Passwd: filepath.Join(f.root, "passwd")}
	if bootID != "" {
		cfg.StateFile, cfg.BootID = filepath.Join(f.root, "processes.json"), bootID
	}
	f.j = New(cfg, f.l)
}

func (f *fixture) write(name, body string) {
	f.t.Helper()
	path := filepath.Join(f.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func statLine(pid int, comm string, state string, ppid int, start int) string {
	return fmt.Sprintf("%d (%s) %s %d 1 1 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 9 0 %d 1000 10 18446744073709551615 1 1\n", pid, comm, state, ppid, start)
}

func (f *fixture) process(pid int, comm string, ppid, start int, uid int, cgroup string) {
	f.t.Helper()
	dir := strconv.Itoa(pid)
	f.write(dir+"/stat", statLine(pid, comm, "S", ppid, start))
	f.write(dir+"/status", fmt.Sprintf("Name:\t%s\nUmask:\t0022\nUid:\t%d\t%d\t0\t0\nGid:\t1\t1\t1\t1\n", comm, uid, uid))
	f.write(dir+"/cgroup", cgroup)
}

func (f *fixture) exe(pid int, target string) {
	f.t.Helper()
	if err := os.Symlink(target, filepath.Join(f.root, strconv.Itoa(pid), "exe")); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) kill(pid int) {
	f.t.Helper()
	if err := os.RemoveAll(filepath.Join(f.root, strconv.Itoa(pid))); err != nil {
		f.t.Fatal(err)
	}
}

// tick passes a second and returns the rows.
func (f *fixture) tick() string {
	f.t.Helper()
	f.wall += 1000
	f.boot += 1000
	if err := f.j.Sample(f.t.Context(), source.Tick{WallMs: f.wall, BootMs: f.boot}, f.s); err != nil {
		f.t.Fatal(err)
	}
	return f.s.take()
}

func (f *fixture) want(what, got, want string) {
	f.t.Helper()
	if got != want {
		f.t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

const slurmGroup = "0::/system.slice/slurmstepd.scope/job_77/step_0/user/task_0\n"

func TestLifeOfAProcess(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.process(50, "slurmstepd", 1, 10, 0, "0::/system.slice/slurmstepd.scope/system\n")
	f.process(90, "torchrun", 50, 5000, 1000, slurmGroup)
	f.process(100, "pt_main_thread", 90, 12345, 1000, slurmGroup)
	f.exe(100, "/opt/conda/bin/python3.11 (deleted)")
	f.want("before the driver has looked", f.tick(), "")
	if f.s.told != 1 || f.s.status.State != source.Degraded || !strings.Contains(f.s.status.Reason, "not known yet") {
		t.Errorf("told %+v before it is known", f.s.status)
	}
	f.l.set(100, 3, 100, 1, 100, 3)
	const start = "1700000123450|100|"
	f.want("first seen", f.tick(), start+"-|1 3|python3.11|torchrun|slurm|77|alice")
	if f.s.status.State != source.Active || f.s.told != 2 {
		t.Errorf("status %+v, told %d times", f.s.status, f.s.told)
	}
	f.want("nothing new", f.tick(), "")
	f.l.set(100, 1)
	f.want("left a GPU, which it used all the same", f.tick(), "")
	f.l.set(100, 0, 100, 1)
	f.want("another GPU", f.tick(), start+"-|0 1 3|python3.11|torchrun|slurm|77|alice")
	f.write("100/cgroup", strings.Replace(slurmGroup, "77", "78", 1))
	f.want("another job, not yet looked at", f.tick(), "")
	f.l.set(100, 1)
	f.want("another job", f.tick(), start+"-|0 1 3|python3.11|torchrun|slurm|78|alice")
	f.l.ok = false
	f.want("the driver does not answer", f.tick(), "")
	f.l.set()
	f.want("the driver lists it no more", f.tick(), "")
	lastSeen := f.wall
	f.kill(100)
	f.want("it has ended", f.tick(), fmt.Sprintf("%s%d|0 1 3|python3.11|torchrun|slurm|78|alice", start, lastSeen))
	f.want("it ends once", f.tick(), "")
}

// A number that is given to another process, and a zombie, are ends.
func TestReuseAndZombie(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.process(7, "a)(b 1 2", 1, 100, 1234, "0::/\n")
	f.process(8, "b", 1, 100, 1000, "0::/\n")
	f.l.set(7, 0, 8, 0)
	f.want("both", f.tick(), "1700000001000|7|-|0|a)(b 1 2|-|-|-|uid:1234\n1700000001000|8|-|0|b|-|-|-|alice")
	seen := f.wall
	f.process(7, "c", 1, 300, 1000, slurmGroup)
	f.write("8/stat", statLine(8, "b", "Z", 1, 100)) // nine threads: its first has ended alone
	f.want("reused, not listed", f.tick(), fmt.Sprintf("1700000001000|7|%d|0|a)(b 1 2|-|-|-|uid:1234", seen))
	f.l.set(7, 0, 8, 0)
	f.want("reused, listed", f.tick(), "1700000003000|7|-|0|c|-|slurm|77|alice")
	seen = f.wall
	f.write("8/stat", strings.Replace(statLine(8, "b", "Z", 1, 100), " 20 0 9 0 ", " 20 0 1 0 ", 1))
	f.want("a zombie", f.tick(), fmt.Sprintf("1700000001000|8|%d|0|b|-|-|-|alice", seen))
}

func TestLaunchers(t *testing.T) {
	t.Parallel()
	batch := "0::/system.slice/slurmstepd.scope/job_77/step_batch/user/task_0\n"
	for _, c := range []struct{ comms, group, want string }{
		{"python3<torchrun<bash<slurmstepd", slurmGroup, "torchrun"}, {"python3<bash<slurmstepd", slurmGroup, "srun"}, {"python3<slurmstepd", batch, "sbatch"},
		{"python3<pt_elastic", "", "torchrun"}, {"python3<python3<deepspeed", "", "deepspeed"}, {"gmx<orted", "", "mpirun"}, {"gmx<prterun", "", "mpirun"},
		{"gmx<hydra_pmi_proxy", "", "mpirun"}, {"gmx<mpiexec", "", "mpirun"}, {"ray::PPO.train()<raylet", "", "ray"}, {"python3<raylet", "", "ray"},
		{"accelerate", "", "accelerate"}, {"python3<accelerate-laun", "", "accelerate"}, {"python3<bash<sshd", "", "-"}, {"python3", "", "-"},
		{strings.Repeat("sh<", 15) + "torchrun", "", "torchrun"}, {strings.Repeat("sh<", 16) + "torchrun", "", "-"},
	} {
		f := newFixture(t)
		comms := strings.Split(c.comms, "<")
		for i, comm := range comms {
			ppid := 101 + i
			if i == len(comms)-1 {
				ppid = 1
			}
			f.process(100+i, comm, ppid, 100, 0, c.group)
		}
		f.l.set(100, 0)
		if got := strings.Split(f.tick(), "|")[5]; got != c.want {
			t.Errorf("%s: %q, want %q", c.comms, got, c.want)
		}
	}
	f := newFixture(t) // a circle does not hold the agent
	f.process(5, "a", 6, 1, 0, "")
	f.process(6, "b", 5, 1, 0, "")
	f.l.set(5, 0)
	f.want("a circle of parents", f.tick(), "1700000000010|5|-|0|a|-|-|-|root")
}

// The key of a process stays when the wall clock is stepped, and a later process gets the
// new one.
func TestClockStep(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.process(1000, "a", 1, 100, 0, "")
	f.l.set(1000, 0)
	f.want("before", f.tick(), "1700000001000|1000|-|0|a|-|-|-|root")
	f.write("stat", "btime 1600000000\n")
	f.process(1001, "b", 1, 100, 0, "")
	f.wall -= 100_000_000_000
	f.l.set(1000, 1, 1001, 1)
	f.want("after", f.tick(), "1600000001000|1001|-|1|b|-|-|-|root\n1700000001000|1000|-|0 1|a|-|-|-|root")
	f.kill(1000)
	f.want("an end is not before its start", f.tick(), "1700000001000|1000|1700000001000|0 1|a|-|-|-|root")
}

func TestAcrossAgents(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.restart("boot-1")
	f.process(1, "init", 0, 0, 0, "0::/init.scope\n")
	f.process(10, "a", 1, 100, 1000, slurmGroup)
	f.process(11, "b", 1, 100, 1000, slurmGroup)
	f.l.set(10, 0, 11, 1)
	a, b := "1700000001000|10|-|0|a|-|slurm|77|alice", "1700000001000|11|%s|1|b|-|slurm|77|alice"
	f.want("first agent", f.tick(), a+"\n"+fmt.Sprintf(b, "-"))
	seen := f.wall
	// It is killed; b ends, and the wall clock is stepped.
	f.kill(11)
	f.write("stat", "btime 1700000007\n")
	f.restart("boot-1")
	f.wall += 7000
	f.l.ok = false
	bEnd := fmt.Sprintf(b, strconv.FormatInt(seen, 10))
	f.want("second agent, before the driver has looked", f.tick(), a+"\n"+bEnd)
	f.l.set(10, 0)
	f.want("second agent, the driver's list", f.tick(), "")
	// It is killed before those rows were sealed: they are told again.
	f.restart("boot-1")
	f.want("third agent", f.tick(), a+"\n"+bEnd)
	for range 130 {
		f.tick()
	}
	f.kill(10)
	seen = f.wall
	f.restart("boot-2")
	f.want("after a boot, and a minute's sights", f.tick(), fmt.Sprintf("1700000001000|10|%d|0|a|-|slurm|77|alice", seen-10_000))
	if err := f.j.Close(); err != nil {
		t.Error(err)
	}
	st, err := os.Stat(filepath.Join(f.root, "processes.json"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("state file: %v, %v", st, err)
	}
	f.write("processes.json", `{"version":1,"processes":[{"pid":-1}]}`)
	f.restart("boot-2")
	f.l.set()
	f.want("a damaged list", f.tick(), "")
	if f.s.status.State != source.Degraded || !strings.Contains(f.s.status.Reason, "are not told: decode the list of processes: the entry of pid -1 is not one") {
		t.Errorf("status %+v", f.s.status)
	}
	if _, err = os.Stat(filepath.Join(f.root, "processes.json.damaged")); err != nil {
		t.Error(err)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	has := func(f *fixture, state source.State, part string) {
		t.Helper()
		if f.s.status.State != state || !strings.Contains(f.s.status.Reason, part) {
			t.Errorf("status %+v, want %s with %q", f.s.status, state, part)
		}
	}
	f := newFixture(t)
	f.tick()
	has(f, source.Degraded, "not known yet") // at once: nothing was seen, and that is not well
	for range 31 {
		f.tick()
	}
	has(f, source.Unavailable, "no list of the GPUs' processes has come")

	f = newFixture(t)
	f.l.set(5, 0)
	f.tick()
	has(f, source.Active, "")
	f.l.set(5, 0)
	f.tick()
	has(f, source.Degraded, "of the GPUs' processes 1 are not in "+f.root+" and 0 may not be read: the agent has to be in the PID namespace")
	f.write("self/mountinfo", "22 27 0:21 / "+f.root+" rw,nosuid shared:5 - proc proc rw,gid=9,hidepid=invisible\n")
	f.l.set(5, 0, 6, 0)
	f.tick()
	f.l.set(5, 0, 6, 0)
	f.tick()
	has(f, source.Degraded, "2 are not in "+f.root+" and 0 may not be read: procfs is mounted with hidepid=invisible")
	f.l.set()
	f.tick()
	has(f, source.Active, "")
	f.l.ok = false
	for range 31 {
		f.tick()
	}
	has(f, source.Degraded, "cannot be listed now")

	// Of some GPUs: who is new on those is told, and it is not all.
	f = newFixture(t)
	f.process(5, "a", 1, 1, 0, "")
	f.process(6, "b", 1, 1, 0, "")
	f.l.set(5, 0)
	f.l.ok = false
	f.tick()
	has(f, source.Degraded, "the processes of all GPUs cannot be listed now")
	f.l.set(6, 0)
	f.l.ok = false
	for range 31 {
		f.tick()
	}
	has(f, source.Degraded, "the processes of all GPUs cannot be listed now")
	if len(f.j.known) != 2 {
		t.Errorf("%d processes are known", len(f.j.known))
	}
	f.l.set(5, 0, 6, 0)
	f.tick()
	has(f, source.Active, "")

	f = newFixture(t)
	f.process(5, "a", 1, 1, 0, "")
	f.l.set(5, 0)
	f.tick()
	f.kill(5)
	if err := os.MkdirAll(filepath.Join(f.root, "5/stat"), 0o755); err != nil { // EISDIR
		t.Fatal(err)
	}
	f.want("not readable is no end", f.tick(), "")
	has(f, source.Degraded, "0 are not in "+f.root+" and 1 may not be read (is a directory)")

	f = newFixture(t)
	if err := os.MkdirAll(filepath.Join(f.root, "self/ns"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("pid:[4026532222]", filepath.Join(f.root, "self/ns/pid")); err != nil {
		t.Fatal(err)
	}
	f.l.set()
	f.tick()
	has(f, source.Degraded, "in a PID namespace of its own")
}

// Without NVML nobody lists processes and devices: who holds what is told all the same.
func TestHoldsWithoutDriver(t *testing.T) {
	t.Parallel()
	f, k := newKube(t)
	k.set(listPods, podHolds("ai", "a", "main nvidia.com/gpu="+gpu1+"::0"), podHolds("ai", "b", "main nvidia.com/gpu=2"))
	k.set(podsAPIMethod, podBytes("ai", "a", uid, "Running"))
	f.write("sys/kernel/random/boot_id", boot+"\n")
	if err := os.MkdirAll(filepath.Join(f.root, "slurm"), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Procfs: f.root, Passwd: filepath.Join(f.root, "passwd"), Devices: &gpus{}, PodResources: k.path, PodsAPI: k.path, SlurmDir: filepath.Join(f.root, "slurm"),
		StateFile: filepath.Join(f.root, "processes.json"), BootID: boot,
	}
	f.j = New(cfg, f.l)
	f.slurmFile("5", "gpus "+gpu2+","+mig0, "restarts 1", "start 1700000800")
	f.slurmFile("6", "minors 2", "start 1700000800") // the driver's files say which
	f.settle(1)
	fields := []string{"gpu_uuid", "gpu", "job_source", "job_id", "evidence", "confidence_e4", "restart_count", "end_ms"}
	held := strings.Join([]string{
		gpu2 + "|-|slurm|5|slurm_file|9900|1|-", mig0 + "|-|slurm|5|slurm_file|9900|1|-", gpu0 + "|-|slurm|6|slurm_file|9405|-|-",
		gpu1 + "|-|kubernetes|" + uid + "|podresources|9900|-|-",
	}, "\n")
	sorted := func(rows string) string {
		l := strings.Split(rows, "\n")
		slices.Sort(l)
		return strings.Join(l, "\n")
	}
	f.want("held", sorted(f.s.held(fields...)), sorted(held))
	if f.s.told != 1 || f.s.status.State != source.Degraded || !strings.Contains(f.s.status.Reason, "not known yet") {
		t.Errorf("told %+v before it is known", f.s.status)
	}
	if st := f.s.parts["job/podresources"]; st.State != source.Degraded || !strings.Contains(st.Reason, "1 devices that are held are none that the driver lists, or are named by a number that cannot be resolved: 2") {
		t.Errorf("%+v", st)
	}
	f.pass(31)
	const reason = "the GPUs' processes are not known, as no list of them has come (the status of gpu says why): who holds GPUs is told all the same"
	if st := f.s.status; st.State != source.Degraded || st.Reason != reason {
		t.Errorf("%+v", st)
	}
	if err := os.Remove(filepath.Join(f.root, "slurm/5")); err != nil {
		t.Fatal(err)
	}
	f.sample()
	rows := f.s.held("gpu_uuid", "job_id", "end_ms")
	for _, uuid := range []string{gpu2, mig0} {
		if !strings.Contains(rows, uuid+"|5|"+strconv.FormatInt(f.wall, 10)) {
			t.Errorf("the epilog: %s", rows)
		}
	}
	f.want("no process", f.s.take(), "")
	// The next agent, which nobody of the schedulers answers: nothing has ended.
	if err := f.j.Close(); err != nil {
		t.Fatal(err)
	}
	k.down()
	if err := os.Rename(filepath.Join(f.root, "slurm"), filepath.Join(f.root, "away")); err != nil {
		t.Fatal(err)
	}
	f.j = New(cfg, f.l)
	f.settle(1)
	f.pass(31)
	f.want("no end", f.s.held("end_ms"), "")
	if st := f.s.status; st.State != source.Unavailable {
		t.Errorf("nobody was heard: %+v", st)
	}
	// They are back, and so is the driver.
	if err := os.Rename(filepath.Join(f.root, "away"), filepath.Join(f.root, "slurm")); err != nil {
		t.Fatal(err)
	}
	f.pass(31)
	if st := f.s.status; st.State != source.Degraded || st.Reason != reason {
		t.Errorf("%+v", st)
	}
	f.l.set()
	f.sample()
	if st := f.s.status; st.State != source.Active {
		t.Errorf("%+v", st)
	}
}

// Where procfs goes away, nothing has ended.
func TestProcfsGoesAway(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.process(5, "a", 1, 1, 0, "")
	f.l.set(5, 0)
	f.tick()
	if err := os.Rename(f.root, f.root+".away"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(f.root + ".away") })
	if err := f.j.Sample(t.Context(), source.Tick{WallMs: f.wall, BootMs: f.boot}, f.s); err == nil || !strings.Contains(err.Error(), "procfs is not at") {
		t.Errorf("error: %v", err)
	}
	f.want("rows", f.s.take(), "")
	if err := os.Rename(f.root+".away", f.root); err != nil {
		t.Fatal(err)
	}
	f.want("it is back", f.tick(), "")
	err := New(Config{Procfs: f.root + ".none"}, f.l).Sample(t.Context(), source.Tick{}, f.s)
	if err == nil || !strings.Contains(err.Error(), "read when the host was started from") {
		t.Errorf("error: %v", err)
	}
}

func TestBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 3 {
		f.process(5+i, "a", 1, 1, 0, "")
	}
	for i := range maxProcesses - 1 {
		p := &process{pid: int32(100_000 + i)}
		f.j.known[p.pid] = p
	}
	f.l.set(5, 0, 6, 0, 7, 0, -3, 0, 8, -1, 9, 1<<40)
	f.want("one more fits", f.tick(), "1700000000010|5|-|0|a|-|-|-|root")
	if f.s.status.State != source.Degraded || f.s.status.Reason != "2 processes beyond the first 4096 are left out" {
		t.Errorf("status %+v", f.s.status)
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	u := users{path: filepath.Join(f.root, "passwd")}
	if got := u.name(1000, 0) + " " + u.name(7, 0) + " " + u.name(0, 0); got != "alice uid:7 root" {
		t.Error(got)
	}
	f.write("passwd", "#x:x:7::\nroot:x:0:0\ntoor:x:0:0\nbob:x:7:7:B:/:/\nbad name:x:8:8:::\nneg:x:-1:1:::\n")
	if got := u.name(7, 1000) + " " + u.name(7, 61_000) + " " + u.name(0, 61_000) + " " + u.name(8, 130_000) + " " + u.name(1000, 130_000); got != "uid:7 bob root uid:8 uid:1000" {
		t.Error(got)
	}
	none := users{path: filepath.Join(f.root, "none")}
	if got := none.name(5, 0); got != "uid:5" {
		t.Error(got)
	}
}

// In a user namespace the kernel gives one number for all users that it does not know: whose
// a process is, is absent then, not the user "nobody".
func TestUsersOfAUserNamespace(t *testing.T) {
	t.Parallel()
	const nobody = "nobody:x:65534:65534::/:/bin/sh\n"
	for name, c := range map[string]struct {
		uidMap, want string
		state        source.State
	}{
		"the host's":     {"         0          0 4294967295\n", "nobody", source.Active},
		"systemd's":      {"         0          0          1\n       990        990          1\n", "", source.Degraded},
		"a container's":  {"         0     100000      65536\n", "", source.Degraded},
		"not understood": {"         0          0 all\n", "", source.Degraded},
		"in two":         {"0 0 4000000000\n4000000000 4000000000 294967295\n", "nobody", source.Active},
	} {
		f := newFixture(t)
		f.write("passwd", nobody+"alice:x:1000:1000::/:/bin/sh\n")
		f.write("self/uid_map", c.uidMap)
		f.process(5, "a", 1, 1, overflowUID, "")
		f.process(6, "b", 1, 1, 1000, "")
		f.l.set(5, 0, 6, 1)
		f.tick()
		if got := f.j.known[5].user; got != c.want {
			t.Errorf("%s: the user is %q, want %q", name, got, c.want)
		}
		if got := f.j.known[6].user; got != "alice" {
			t.Errorf("%s: a user who is known is %q", name, got)
		}
		if st := f.s.status; st.State != c.state || (c.state == source.Degraded) != strings.Contains(st.Reason, "whose the GPUs' processes are is not known") {
			t.Errorf("%s: %+v", name, st)
		}
		f.kill(5)
		if f.tick(); f.s.status.State != source.Active {
			t.Errorf("%s: when it has ended: %+v", name, f.s.status)
		}
	}
}

// Real processes: this test's children, under whatever groups they have here.
func TestRealProcesses(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Fatalf("no procfs here: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	shell := exec.CommandContext(ctx, "/bin/sh", "-c", "echo up; read x; exit 0")
	in, err := shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	if err = shell.Start(); err != nil {
		t.Fatalf("no shell here: %v", err)
	}
	if _, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	l, s := &lister{}, newSink(t)
	l.set(shell.Process.Pid, 0)
	boot := int64(1_000_000)
	sample := func(j *Job) string {
		boot += 1000
		if serr := j.Sample(ctx, source.Tick{WallMs: time.Now().UnixMilli(), BootMs: boot}, s); serr != nil {
			t.Fatal(serr)
		}
		return s.take()
	}
	first := New(Config{}, l)
	row := sample(first)
	f := strings.Split(row, "|")
	if len(f) != 9 {
		t.Fatalf("row %q", row)
	}
	start, err := strconv.ParseInt(f[0], 10, 64)
	if d := start - before.UnixMilli(); err != nil || math.Abs(float64(d)) > 3000 { // btime is whole seconds, a clock may be slewed
		t.Errorf("start %s is %d ms from the test's", f[0], d)
	}
	target, err := os.Readlink("/proc/" + f[1] + "/exe")
	if err != nil || f[4] != filepath.Base(target) {
		t.Errorf("exe %q, link %q, %v", f[4], target, err)
	}
	if me, uerr := user.Current(); uerr == nil && f[8] != me.Username && f[8] != "uid:"+me.Uid {
		t.Errorf("user %q, this is %s", f[8], me.Username)
	}
	second := New(Config{}, l)
	if again := sample(second); again != row {
		t.Errorf("another agent says %q, not %q", again, row)
	}
	if err = second.Close(); err != nil {
		t.Error(err)
	}
	if err = in.Close(); err != nil {
		t.Fatal(err)
	}
	// It has exited, and nobody has reaped it yet.
	if err = unix.Waitid(unix.P_PID, shell.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	ended := sample(first)
	_ = shell.Wait() // its status is no matter
	if err = first.Close(); err != nil {
		t.Error(err)
	}
	if g := strings.Split(ended, "|"); len(g) != 9 || g[0] != f[0] || g[1] != f[1] || g[2] == "-" {
		t.Errorf("end %q", ended)
	}
	t.Log(row)
}

// many is a host of n processes on eight GPUs.
func many(t testing.TB, n int) *fixture {
	f := newFixture(t)
	var pairs []int
	for i := range n {
		f.process(1000+i, "python3", 1, 100+i, 1000, slurmGroup)
		f.exe(1000+i, "/usr/bin/python3.11")
		pairs = append(pairs, 1000+i, i%8)
	}
	f.l.set(pairs...)
	f.tick()
	return f
}

func TestTickAllocates(t *testing.T) {
	f := many(t, 64)
	f.j.exits.lister = &kernel{}
	f.j.exits.wait(&process{pid: 1}, source.Tick{BootMs: f.boot})
	n := testing.AllocsPerRun(20, func() {
		if err := f.j.Sample(t.Context(), source.Tick{WallMs: f.wall, BootMs: f.boot}, f.s); err != nil {
			t.Fatal(err)
		}
	})
	if n > 2*64+4 && !race.Enabled { // a path each, for us and for the kernel
		t.Errorf("a tick of 64 processes makes %.0f allocations", n)
	}
}

// BenchmarkTick is a second, with a tenth of a new list of the driver's.
func BenchmarkTick(b *testing.B) {
	for _, n := range []int{16, 64} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			f := many(b, n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if i++; i%10 == 0 {
					f.l.seq++
				}
				if err := f.j.Sample(b.Context(), source.Tick{WallMs: f.wall, BootMs: f.boot}, f.s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRealTick is a second of 16 real processes, each a shell that waits.
func BenchmarkRealTick(b *testing.B) {
	l, s := &lister{}, newSink(b)
	var pairs []int
	for i := range 16 {
		c := exec.CommandContext(b.Context(), "/bin/sh", "-c", "read x")
		if _, err := c.StdinPipe(); err != nil {
			b.Fatal(err)
		}
		if err := c.Start(); err != nil {
			b.Fatalf("no shell here: %v", err)
		}
		defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
		pairs = append(pairs, c.Process.Pid, i%8)
	}
	l.set(pairs...)
	j := New(Config{}, l)
	defer j.Close()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i++; i%10 == 0 {
			l.seq++
		}
		if err := j.Sample(b.Context(), source.Tick{WallMs: 1e12, BootMs: 1e6}, s); err != nil {
			b.Fatal(err)
		}
	}
	if n := strings.Count(s.take(), "\n") + 1; n != 16 {
		b.Errorf("%d rows, want 16", n)
	}
}

// BenchmarkRealStat reads one line of a real procfs, which a tick does for each process that cannot be watched.
func BenchmarkRealStat(b *testing.B) {
	p := newProcfs("/proc")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.stat(int32(os.Getpid())); err != nil {
			b.Fatal(err)
		}
	}
}
