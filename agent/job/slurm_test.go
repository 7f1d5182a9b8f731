package job

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

const sluid = "s5K1KKYAYG5D00"

// newSlurmHost is a fixture with a directory of Slurm's files, as $root/slurm, and one of
// dcgm-exporter's, as $root/mapping.
func newSlurmHost(t testing.TB) *fixture {
	f := newFixture(t)
	f.driverFiles()
	f.write("sys/kernel/random/boot_id", boot+"\n")
	for _, dir := range []string{"slurm", "mapping", "cgroup"} {
		if err := os.MkdirAll(filepath.Join(f.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.again(false)
	return f
}

// again takes a new agent.
func (f *fixture) again(environ bool) {
	f.j = New(Config{
		Procfs: f.root, Passwd: filepath.Join(f.root, "passwd"), Devices: threeGPUs(), SlurmDir: filepath.Join(f.root, "slurm"),
		MappingDir: filepath.Join(f.root, "mapping"), Cgroups: filepath.Join(f.root, "cgroup"), Environ: environ,
		StateFile: filepath.Join(f.root, "processes.json"), BootID: boot,
	}, f.l)
}

// slurmFile writes a job's file as the prolog does.
func (f *fixture) slurmFile(name string, lines ...string) {
	f.t.Helper()
	body := "flopwatch-slurm 1\njob_id " + strings.Split(name, ".")[0] + "\nboot_id " + boot + "\n"
	for _, l := range lines {
		body += l + "\n"
	}
	f.write("slurm/."+name, body+"end\n")
	path := filepath.Join(f.root, "slurm")
	if err := os.Rename(filepath.Join(path, "."+name), filepath.Join(path, name)); err != nil {
		f.t.Fatal(err)
	}
}

// pass lets seconds pass in one tick.
func (f *fixture) pass(seconds int64) {
	f.wall += (seconds - 1) * 1000
	f.boot += (seconds - 1) * 1000
	f.sample()
}

// slurm-job-exporter issue 65: what is allocated and idle is seen. jobstats issue 34: a minor
// is no index.
func TestSlurmHolds(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	f.sample()
	f.want("nothing", f.s.held(), "")
	start := btime*1000 + 900_000
	since := "start " + strconv.Itoa(start/1000)
	f.slurmFile("77", "uid 1000", "user alice", "account climate", "gpus "+gpu0+","+mig1, "minors 2,0", "nodes 4", "restarts 1", "future thing", since)
	f.slurmFile("78.n02", "node n02", "uid 1001", "minors 1", since)
	f.pass(31)
	f.want("two jobs", f.s.held("start_ms", "gpu_uuid", "gpu", "job_source", "job_id", "device", "evidence", "confidence_e4", "shares", "user_hash", "project_hash", "end_ms"), strings.Join([]string{
		fmt.Sprintf("%d|%s|0|slurm|77|%s|slurm_file|9900|1|alice|climate|-", start, gpu0, gpu0),
		fmt.Sprintf("%d|%s|1|slurm|78|/dev/nvidia1|slurm_file|9405|1|uid:1001|-|-", start, gpu1),
		fmt.Sprintf("%d|%s|2|slurm|77|%s|slurm_file|9900|1|alice|climate|-", start, mig1, mig1),
	}, "\n"))
	f.want("no process", f.s.take(), "")
	if st := f.s.parts[partSlurm]; st.State != source.Active {
		t.Errorf("%+v", st)
	}
	// The processes of a job have its account.
	f.process(10, "python3", 1, 100, 1000, slurmGroup)
	f.l.set(10, 0)
	f.sample()
	f.want("a process", f.s.fields("job_id", "project_hash", "evidence", "confidence_e4"), "77|climate|cgroup|9900")
	// The epilog.
	if err := os.Remove(filepath.Join(f.root, "slurm/77")); err != nil {
		t.Fatal(err)
	}
	f.sample()
	f.want("the epilog", f.s.held("gpu_uuid", "job_id", "end_ms"), fmt.Sprintf("%s|77|%d\n%s|77|%d", gpu0, f.wall, mig1, f.wall))
	// The job is put back and started anew under its number.
	f.slurmFile("78.n02", "node n02", "minors 1", "restarts 1", "start "+strconv.Itoa(start/1000+100))
	f.pass(31)
	f.want("started again", f.s.held("start_ms", "job_id", "end_ms"), fmt.Sprintf("%d|78|%d\n%d|78|-", start, start+100_000, start+100_000))
	// Two jobs on one GPU, as with shards.
	f.slurmFile("79", "minors 1")
	f.pass(31)
	f.want("shards", f.s.held("job_id", "confidence_e4", "shares", "end_ms"), "79|4702|2|-\n78|4702|2|-")
}

// job_defense_shield issue 13: a file that is damaged accuses nobody.
func TestBadSlurmFiles(t *testing.T) {
	t.Parallel()
	head := "flopwatch-slurm 1\njob_id 5\nboot_id " + boot + "\n"
	for _, c := range []struct{ name, body, want string }{
		{"empty", "", `line 1: "end" is missing: the file was cut off`},
		{"zeroes", strings.Repeat("\x00", 64), "line 1: it has no end of line"},
		{"another version", "flopwatch-slurm 2\n", `line 1: it has to be "flopwatch-slurm 1"`},
		{"another's file", "{\"a\":1}\nx\n", "line 1: it has to be"},
		{"cut off in a line", head + "user al", "line 4: it has no end of line: the file was cut off"},
		{"cut off between lines", head + "user alice\n", `line 5: "end" is missing`},
		{"more behind the end", head + "end\nuser bob\n", `line 5: there is more behind "end"`},
		{"twice", head + "user alice\nuser bob\nend\n", `line 5: a second "user"`},
		{"no job", "flopwatch-slurm 1\nboot_id " + boot + "\nend\n", "no line job_id"},
		{"no boot", "flopwatch-slurm 1\njob_id 5\nend\n", "no line boot_id"},
		{"another job", strings.Replace(head, "job_id 5", "job_id 6", 1) + "end\n", "its name is not JOBID"},
		{"job", "flopwatch-slurm 1\njob_id 5; rm\nend\n", `line 2: job_id "5; rm" is not a number of at most 10 digits`},
		{"user", head + "user a\x01b\nend\n", `line 4: user is not a name without blanks`},
		{"GPUs", head + "gpus GPU-1,2\nend\n", "line 4: gpus \"GPU-1,2\" is not a list of UUIDs"},
		{"a driver not at work", head + "gpus GPU-????????-????-????-????-????????????\nend\n", "line 4: gpus"},
		{"minors", head + "minors 0,x\nend\n", `line 4: minors "0,x" is not a list of numbers`},
		{"range", head + "minors 0-3\nend\n", "line 4: minors"},
		{"start", head + "start yesterday\nend\n", `line 4: start "yesterday" is not a time`},
		{"restarts", head + "restarts -1\nend\n", `line 4: restarts "-1" is not how often the job was started again`},
		{"too many restarts", head + "restarts 16777216\nend\n", "line 4: restarts"},
		{"SLUID", head + "sluid s1\nend\n", "line 4: sluid"},
		{"too large", head + strings.Repeat("x y\n", 5000), "it is larger than 16384 bytes"},
	} {
		f := newSlurmHost(t)
		f.slurmFile("4", "minors 1")
		f.write("slurm/5", c.body)
		f.sample()
		f.want(c.name+": holds", f.s.held("job_id", "end_ms"), "4|-")
		if st := f.s.parts[partSlurm]; st.State != source.Degraded || !strings.Contains(st.Reason, "1 files are refused, and name no holder: "+f.root+"/slurm/5: ") || !strings.Contains(st.Reason, c.want) {
			t.Errorf("%s: %+v, want %q", c.name, st, c.want)
		}
	}
	f := newSlurmHost(t)
	f.slurmFile("5", "minors 1")
	f.sample()
	f.want("good", f.s.held("job_id", "end_ms"), "5|-")
	// It becomes bad: what it said is not known any more, and that is no end.
	f.write("slurm/5", head+"minors 1,2")
	f.pass(31)
	f.want("bad", f.s.held("job_id", "end_ms"), "")
	// Others can write it.
	f.slurmFile("5", "minors 1")
	if err := os.Chmod(filepath.Join(f.root, "slurm/5"), 0o666); err != nil {
		t.Fatal(err)
	}
	f.slurmFile("6", "minors 2")
	if err := os.Rename(filepath.Join(f.root, "slurm/6"), filepath.Join(f.root, "real")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(f.root, "real"), filepath.Join(f.root, "slurm/6")); err != nil {
		t.Fatal(err)
	}
	f.pass(31)
	if st := f.s.parts[partSlurm]; !strings.Contains(st.Reason, "2 files are refused") || !strings.Contains(st.Reason, "others can write it (mode 666): chmod go-w") {
		t.Errorf("%+v", st)
	}
	f.want("nobody", f.s.held("job_id", "end_ms"), "")
	if os.Geteuid() == 0 {
		f.slurmFile("5", "minors 1")
		if err := os.Chown(filepath.Join(f.root, "slurm/5"), 1234, 0); err != nil {
			t.Fatal(err)
		}
		f.pass(31)
		if st := f.s.parts[partSlurm]; !strings.Contains(st.Reason, "it belongs to user 1234, not to root") {
			t.Errorf("%+v", st)
		}
	}
	if err := os.RemoveAll(filepath.Join(f.root, "slurm")); err != nil {
		t.Fatal(err)
	}
	f.pass(31)
	f.want("the directory vanishes: no end", f.s.held("job_id", "end_ms"), "")
	if st := f.s.parts[partSlurm]; st.State != source.Lost {
		t.Errorf("%+v", st)
	}
}

// Where an epilog did not run, holds end with the boot, with the job's groups, or at last.
func TestNoEpilog(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	group := func(name string) string { return filepath.Join(f.root, "cgroup/system.slice", name) }
	make := func(name string) {
		if err := os.MkdirAll(group(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	make("slurmstepd.scope/job_77/step_0")
	make("n02_slurmstepd.scope/" + sluid)
	f.write("slurm/70", "flopwatch-slurm 1\njob_id 70\nboot_id 00000000-2222-3333-4444-555555555555\nminors 1\nend\n")
	f.slurmFile("77", "minors 0")
	f.slurmFile("78.n02", "node n02", "sluid "+sluid, "minors 1")
	f.slurmFile("79", "minors 2") // an allocation in which nothing was started
	f.sample()
	f.want("held", f.s.held("job_id", "end_ms"), "79|-\n78|-\n77|-")
	if st := f.s.parts[partSlurm]; st.State != source.Degraded || !strings.Contains(st.Reason, "1 files are of an earlier boot of the host, and name no holder ("+f.root+"/slurm/70)") {
		t.Errorf("%+v", st)
	}
	// The groups go; job 77 has a process still.
	f.process(10, "python3", 1, 100, 1000, slurmGroup)
	f.l.set(10, 2)
	f.sample()
	for _, name := range []string{"slurmstepd.scope/job_77", "n02_slurmstepd.scope/" + sluid} {
		if err := os.RemoveAll(group(name)); err != nil {
			t.Fatal(err)
		}
	}
	f.pass(31)
	f.want("doubt", f.s.held("job_id", "confidence_e4", "end_ms"), "78|5000|-")
	seen := f.wall
	for range 21 {
		f.pass(30)
	}
	rows := f.s.held("job_id", "end_ms")
	if !strings.Contains(rows, "78|1700") || strings.Contains(rows, "77|1700") || strings.Contains(rows, "79|1700") {
		t.Errorf("after ten minutes: %s (seen at %d)", rows, seen)
	}
	if st := f.s.parts[partSlurm]; !strings.Contains(st.Reason, "1 jobs have ended and their files remain ("+f.root+"/slurm/78.n02): the epilog has to remove them") {
		t.Errorf("%+v", st)
	}
	f.kill(10)
	for range 30 {
		f.pass(30)
	}
	if rows = f.s.held("job_id", "end_ms"); !strings.Contains(rows, "77|1700") || strings.Contains(rows, "79|1700") {
		t.Errorf("its process has ended: %s", rows)
	}
	f.wall = time.Now().UnixMilli() + forgottenMs
	f.pass(31)
	if rows = f.s.held("job_id", "end_ms"); !strings.Contains(rows, "79|17") && !strings.Contains(rows, "79|18") {
		t.Errorf("after a week: %s", rows)
	}
}

// The next agent knows which jobs had begun, so that their end is seen.
func TestNoEpilogAcrossAgents(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	group := filepath.Join(f.root, "cgroup/system.slice/slurmstepd.scope/job_77")
	if err := os.MkdirAll(group, 0o755); err != nil {
		t.Fatal(err)
	}
	f.slurmFile("77", "minors 0")
	f.sample()
	if err := f.j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(group); err != nil {
		t.Fatal(err)
	}
	f.again(false)
	for range 22 {
		f.pass(30)
	}
	if rows := f.s.held("job_id", "end_ms"); !strings.Contains(rows, "77|1700") {
		t.Errorf("after ten minutes: %s", rows)
	}
}

// A job that is put into the queue again comes back under its number: what is allocated to it
// then is held, though its earlier run's groups are gone and no epilog ran between.
func TestRequeue(t *testing.T) {
	t.Parallel()
	for _, epilog := range []bool{false, true} {
		f := newSlurmHost(t)
		group := filepath.Join(f.root, "cgroup/system.slice/slurmstepd.scope/job_77")
		if err := os.MkdirAll(group, 0o755); err != nil {
			t.Fatal(err)
		}
		first, second := btime*1000+100_000, btime*1000+1_000_000
		f.slurmFile("77", "minors 0", "restarts 0", "start "+strconv.Itoa(first/1000))
		f.sample()
		f.want("first run", f.s.held("start_ms", "job_id", "restart_count", "end_ms"), fmt.Sprintf("%d|77|0|-", first))
		if err := f.j.Close(); err != nil {
			t.Fatal(err)
		}
		f.again(false) // the next agent knows that the first run had a group
		f.sample()
		f.s.held()
		if err := os.Remove(group); err != nil {
			t.Fatal(err)
		}
		if epilog {
			if err := os.Remove(filepath.Join(f.root, "slurm/77")); err != nil {
				t.Fatal(err)
			}
			f.pass(31)
		}
		f.slurmFile("77", "minors 0", "restarts 1", "start "+strconv.Itoa(second/1000))
		for range 30 {
			f.pass(31)
		}
		rows := f.s.held("start_ms", "restart_count", "end_ms", "confidence_e4")
		if !strings.Contains(rows, fmt.Sprintf("%d|1|-|9405", second)) || strings.Contains(rows, fmt.Sprintf("%d|1|1", second)) || strings.Contains(rows, "|5000") || !strings.Contains(rows, fmt.Sprintf("%d|0|1", first)) {
			t.Errorf("epilog %t: %s", epilog, rows)
		}
	}
}

// A SLUID becomes the job's number where a prolog wrote it; where only environments say so,
// if they agree, take no other's number, and with less confidence.
func TestSLUIDs(t *testing.T) {
	t.Parallel()
	const other = "s5K1KKYAYG5D01"
	groupOf := func(id string) string { return "0::/system.slice/slurmstepd.scope/" + id + "/step_0/user/task_0\n" }
	f := newSlurmHost(t)
	f.again(true)
	f.process(10, "python3", 1, 100, 1000, groupOf(sluid))
	f.write("10/environ", "SLURM_JOB_ID=4711\x00")
	f.l.set(10, 0)
	fields := []string{"pid", "job_id", "evidence", "confidence_e4"}
	f.sample()
	f.want("the environment says", lastLines(f.s.fields(fields...), 1), "10|4711|environ|7000")
	if j, ok := f.j.finder.JobOf(10); !ok || j.ID != "4711" {
		t.Errorf("the finder says %v", j)
	}
	// Another claims the same number.
	f.process(11, "python3", 1, 100, 1001, groupOf(other))
	f.write("11/environ", "SLURM_JOB_ID=4711\x00")
	f.l.set(10, 0, 11, 0)
	f.sample()
	f.want("two claim it", f.s.fields(fields...), "10|"+sluid+"|cgroup|9900\n11|"+other+"|cgroup|9900")
	// The prolog of one.
	f.slurmFile("4711", "sluid "+sluid, "minors 1")
	f.pass(31)
	f.want("the prolog says", f.s.fields(fields...), "10|4711|cgroup|9900")
	f.s.held()
	f.l.set(11, 0)
	f.sample()
	f.want("the other stays what it is", f.j.known[11].job.id, other)
	// Two files of one SLUID.
	f.slurmFile("4712", "sluid "+sluid, "minors 2")
	f.pass(31)
	f.want("two files", f.s.fields(fields...), "10|"+sluid+"|cgroup|9900")
}

// dcgm-exporter's directory: files named by index, with jobs in them.
func TestMapping(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	f.boot = f.wall // the host was booted in 1970, before the files were made
	f.write("mapping/0", "101\n")
	f.write("mapping/1", "102 103\n\n")
	f.write("mapping/2.4", "104")
	f.write("mapping/2", "")
	f.write("mapping/README", "not a GPU")
	f.write("mapping/7", "105")
	f.sample()
	f.want("mapped", f.s.held("gpu_uuid", "job_id", "evidence", "confidence_e4", "shares"), strings.Join([]string{
		gpu0 + "|101|dcgm_mapping|7920|1", gpu1 + "|102|dcgm_mapping|3960|2", gpu1 + "|103|dcgm_mapping|3960|2", mig1 + "|104|dcgm_mapping|7920|1",
	}, "\n"))
	if st := f.s.parts[partMapping]; st.State != source.Degraded || !strings.Contains(st.Reason, "1 devices that are held are none that the driver lists") {
		t.Errorf("%+v", st)
	}
	// A prolog of our own knows more.
	f.slurmFile("101", "minors 2", "user alice")
	f.pass(31)
	f.want("the prolog knows more", f.s.held("gpu_uuid", "job_id", "evidence", "user_hash", "end_ms"), gpu0+"|101|slurm_file|alice|-")
	heard := f.wall
	f.write("mapping/1", "102\x00\x00\n")
	f.pass(31)
	f.want("damaged: no end", f.s.held("job_id", "end_ms"), "")
	if st := f.s.parts[partMapping]; st.State != source.Degraded || !strings.Contains(st.Reason, f.root+`/mapping/1: line 1: "102??" is not the id of a job`) {
		t.Errorf("%+v", st)
	}
	f.write("mapping/1", "103")
	f.pass(31)
	f.want("one is gone", f.s.held("job_id", "shares", "end_ms"), "102|2|"+strconv.FormatInt(heard, 10)+"\n103|1|-")
	f.wall = time.Now().UnixMilli() + 100_000
	f.boot = 10_000
	f.again(false)
	f.sample()
	if st := f.s.parts[partMapping]; st.State != source.Degraded || !strings.Contains(st.Reason, "it is of an earlier boot of the host") {
		t.Errorf("%+v", st)
	}
	if err := os.RemoveAll(filepath.Join(f.root, "mapping")); err != nil {
		t.Fatal(err)
	}
	f.s.held()
	f.pass(31)
	f.want("the directory vanishes: no end", f.s.held("job_id", "end_ms"), "")
	if st := f.s.parts[partMapping]; st.State != source.Lost {
		t.Errorf("%+v", st)
	}
}

// Holds go on over agents; what ended meanwhile has lasted until it was last seen.
func TestHoldsAcrossAgents(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	f.slurmFile("77", "minors 0")
	f.slurmFile("78", "minors 1")
	f.sample()
	start := f.wall
	f.want("first agent", f.s.held("start_ms", "job_id", "end_ms"), fmt.Sprintf("%d|78|-\n%d|77|-", start, start))
	f.pass(60)
	seen := f.wall
	if err := f.j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(f.root, "slurm/78")); err != nil {
		t.Fatal(err)
	}
	f.again(false)
	f.pass(600)
	f.want("second agent", f.s.held("start_ms", "job_id", "end_ms"), fmt.Sprintf("%d|78|%d\n%d|77|-", start, seen, start))
	if err := f.j.Close(); err != nil {
		t.Fatal(err)
	}
	// After a boot, nothing is held that nobody says.
	f.j = New(Config{
		Procfs: f.root, Passwd: filepath.Join(f.root, "passwd"), SlurmDir: filepath.Join(f.root, "slurm"),
		StateFile: filepath.Join(f.root, "processes.json"), BootID: "99999999-2222-3333-4444-555555555555",
	}, f.l)
	last := f.wall
	f.pass(600)
	f.want("after a boot", f.s.held("start_ms", "job_id", "end_ms"), fmt.Sprintf("%d|77|%d", start, last))
}

// ceems issue 284: a host that runs several slurmd, each with a part of the job.
func TestSeveralSlurmd(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	f.slurmFile("77.n01", "node n01", "minors 0")
	f.slurmFile("77.n02", "node n02", "minors 1")
	f.process(10, "a", 1, 100, 1000, "0::/system.slice/n01_slurmstepd.scope/job_77/step_0/user/task_0\n")
	f.process(11, "b", 1, 100, 1000, "0::/system.slice/n02_slurmstepd.scope/job_77/step_0/user/task_0\n")
	f.l.set(10, 2, 11, 1)
	f.sample()
	f.want("holds", f.s.held("gpu", "job_id", "shares"), "1|77|1\n2|77|1")
	f.want("processes", f.s.fields("pid", "job_id"), "10|77\n11|77")
}

// runScript runs a script of deploy/slurm as slurmd does, with nothing but Slurm's variables.
func runScript(t *testing.T, name string, env ...string) {
	t.Helper()
	script := filepath.Join(testenv.Root(t), "deploy/slurm", name)
	cmd := exec.CommandContext(t.Context(), "/bin/sh", script)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%s: %v: %s", name, err, out)
	}
}

func TestScripts(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	dir := filepath.Join(f.root, "slurm")
	base := []string{"FLOPWATCH_SLURM_DIR=" + dir, "FLOPWATCH_PROC=" + f.root}
	with := func(env ...string) []string { return append(env, base...) }
	only := func(what, want string) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: files %q, want %q", what, got, want)
		}
	}
	runScript(t, "prolog-flopwatch.sh", with("SLURM_JOB_ID=4711", "SLURM_JOB_GPUS=0,2", "SLURM_JOB_USER=alice", "SLURM_JOB_UID=1000", "SLURM_JOB_ACCOUNT=climate",
		"SLURM_JOB_SLUID="+sluid, "SLURM_JOB_NUM_NODES=2", "SLURM_RESTART_COUNT=1", "SLURM_JOB_START_TIME=1700000500", "CUDA_VISIBLE_DEVICES=0,1")...)
	runScript(t, "prolog-flopwatch.sh", with("SLURM_JOB_ID=4712", "SLURMD_NODENAME=n02", "SLURM_JOB_GPUS=0", "SLURM_JOB_START_TIME=1700000500", "SLURM_JOB_RESTART_COUNT=0", "CUDA_VISIBLE_DEVICES="+mig0, "SLURM_JOB_USER=b;rm -rf", "SLURM_JOB_UID=x")...)
	runScript(t, "prolog-flopwatch.sh", with("SLURM_JOB_ID=4713")...)
	runScript(t, "prolog-flopwatch.sh", with("SLURM_JOB_ID=../x", "SLURM_JOB_GPUS=0")...)
	runScript(t, "prolog-flopwatch.sh", with("SLURM_JOB_ID=4714", "SLURM_JOB_START_TIME=1700000500", "SLURM_JOB_GPUS=0,9")...)
	only("prologs", "4711 4712.n02 4714")
	b, err := os.ReadFile(filepath.Join(dir, "4711"))
	if err != nil {
		t.Fatal(err)
	}
	f.want("file", string(b), "flopwatch-slurm 1\njob_id 4711\nboot_id "+boot+"\nsluid "+sluid+"\nuid 1000\nuser alice\naccount climate\ngpus "+gpu2+","+gpu0+"\nminors 0,2\nnodes 2\nrestarts 1\nstart 1700000500\nend\n")
	f.sample()
	if st := f.s.parts[partSlurm]; st.State != source.Degraded || !strings.Contains(st.Reason, "1 devices that are held are none that the driver lists, or are named by a number that cannot be resolved: /dev/nvidia9") {
		t.Errorf("%+v", st)
	}
	f.want("holds", f.s.held("gpu_uuid", "job_id", "user_hash", "restart_count"), strings.Join([]string{
		gpu0 + "|4711|alice|1", gpu2 + "|4711|alice|1", gpu2 + "|4714|-|-", mig0 + "|4712|-|0",
	}, "\n"))
	runScript(t, "epilog-flopwatch.sh", with("SLURM_JOB_ID=4711")...)
	runScript(t, "epilog-flopwatch.sh", with("SLURM_JOB_ID=4712", "SLURMD_NODENAME=n02")...)
	runScript(t, "epilog-flopwatch.sh", with("SLURM_JOB_ID=4714/../../x")...)
	runScript(t, "epilog-flopwatch.sh", with()...)
	only("epilogs", "4714")
	// Where nothing can be written, a job is not held up.
	runScript(t, "prolog-flopwatch.sh", "FLOPWATCH_SLURM_DIR=/proc/flopwatch", "SLURM_JOB_ID=1", "SLURM_JOB_GPUS=0")
	runScript(t, "prolog-flopwatch.sh", "FLOPWATCH_SLURM_DIR="+dir, "FLOPWATCH_PROC=/nowhere", "SLURM_JOB_ID=1", "SLURM_JOB_GPUS=0")
	only("nothing can be read", "4714")
}

func TestScriptsAreClean(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("shellcheck")
	testenv.Need(t, "shellcheck", err)
	dir := filepath.Join(testenv.Root(t), "deploy/slurm")
	out, err := exec.CommandContext(t.Context(), tool, "-s", "sh", filepath.Join(dir, "prolog-flopwatch.sh"), filepath.Join(dir, "epilog-flopwatch.sh")).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
