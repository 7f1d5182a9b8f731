package job

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

func TestEnviron(t *testing.T) {
	t.Parallel()
	env := func(v ...string) string { return strings.Join(v, "\x00") + "\x00" }
	for _, c := range []struct{ name, env, want string }{
		{"nothing", "", "-1 -1 -1 -1   "},
		{"torchrun", env("PATH=/bin", "RANK=3", "WORLD_SIZE=16", "LOCAL_RANK=3", "LOCAL_WORLD_SIZE=8", "MASTER_ADDR=gpu01.example", "MASTER_PORT=29500", "TORCHELASTIC_RUN_ID=r1"), "3 16 3 8  gpu01.example:29500 torchrun"},
		{"run id", env("RANK=0", "WORLD_SIZE=2", "TORCHELASTIC_RUN_ID=my-run"), "0 2 -1 -1  my-run torchrun"},
		{"no run id", env("TORCHELASTIC_RUN_ID=none"), "-1 -1 -1 -1   torchrun"},
		{"the host itself says nothing", env("MASTER_ADDR=127.0.0.1", "MASTER_PORT=29500"), "-1 -1 -1 -1   "},
		{"localhost", env("MASTER_ADDR=LocalHost.localdomain", "MASTER_PORT=29500"), "-1 -1 -1 -1   "},
		{"IPv6, itself", env("MASTER_ADDR=[::1]", "MASTER_PORT=29500"), "-1 -1 -1 -1   "},
		{"IPv6", env("MASTER_ADDR=fd00::5", "MASTER_PORT=29500"), "-1 -1 -1 -1  fd00::5:29500 "},
		{"no port", env("MASTER_ADDR=gpu01"), "-1 -1 -1 -1   "},
		{"bad port", env("MASTER_ADDR=gpu01", "MASTER_PORT=70000"), "-1 -1 -1 -1   "},
		{"MPI", env("OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_LOCAL_RANK=1"), "1 4 1 -1   mpirun"},
		{"PMI", env("PMI_RANK=1", "PMI_SIZE=4"), "1 4 -1 -1   "},
		{"PMIx", env("PMIX_RANK=1"), "1 -1 -1 -1   "},
		{"a Slurm job started again", env("SLURM_JOB_ID=4711", "SLURM_RESTART_COUNT=2"), "-1 -1 -1 -1 4711   again 2"},
		{"restarts that are no count", env("SLURM_JOB_ID=4711", "SLURM_RESTART_COUNT=-1"), "-1 -1 -1 -1 4711  "},
		{"more restarts than there can be", env("SLURM_RESTART_COUNT=16777216"), "-1 -1 -1 -1   "},
		{"Slurm", env("SLURM_PROCID=5", "SLURM_NTASKS=8", "SLURM_LOCALID=1", "SLURM_JOB_ID=4711"), "5 8 1 -1 4711  "},
		{"torchrun under Slurm", env("SLURM_PROCID=0", "SLURM_NTASKS=2", "SLURM_LOCALID=0", "RANK=9", "WORLD_SIZE=16", "LOCAL_RANK=1"), "9 16 1 -1   "},
		{"Ray", env("RAY_JOB_ID=01000000"), "-1 -1 -1 -1   ray"},
		{"no such rank", env("RANK=16", "WORLD_SIZE=16"), "-1 -1 -1 -1   "},
		{"not numbers", env("RANK=1;rm", "WORLD_SIZE=-1", "LOCAL_RANK=", "LOCAL_WORLD_SIZE=99999999999", "SLURM_JOB_ID=12a"), "-1 -1 -1 -1   "},
		{"the first of two counts", env("RANK=1", "RANK=2", "WORLD_SIZE=4"), "1 4 -1 -1   "},
		{"long values are passed over", env("RANK="+strings.Repeat("1", 65), "MASTER_ADDR="+strings.Repeat("a", 257), "MASTER_PORT=1", "WORLD_SIZE=4"), "-1 4 -1 -1   "},
		{"strange bytes too", env("MASTER_ADDR=a b", "MASTER_PORT=1", "RANK=1\n"), "-1 -1 -1 -1   "},
		{"long names", env(strings.Repeat("RANK", 20)+"=1", "XRANK=1", "RANKX=1", "=RANK=1", "RANK"), "-1 -1 -1 -1   "},
		{"over the edge of the buffer", env("A="+strings.Repeat("x", chunk-8), "RANK=7", "WORLD_SIZE=8"), "7 8 -1 -1   "},
		{"behind much", env("A="+strings.Repeat("x", 300_000), "RANK=7", "WORLD_SIZE=8"), "7 8 -1 -1   "},
		{"behind too much", env("A="+strings.Repeat("x", maxEnviron), "RANK=7", "WORLD_SIZE=8"), "-1 -1 -1 -1   "},
	} {
		f := newFixture(t)
		f.write("7/environ", c.env)
		var r environReader
		e, err := r.read(f.j.fs, 7, false)
		got := fmt.Sprintf("%d %d %d %d %s %s %s", e.rank, e.world, e.localRank, e.localWorld, e.slurmJob, e.place, e.launcher)
		if e.restarts >= 0 {
			got += fmt.Sprintf(" again %d", e.restarts)
		}
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.want)
		}
		if !zero(&r) {
			t.Errorf("%s: what was read stays in memory", c.name)
		}
	}
	f := newFixture(t)
	f.write("7/environ", env("SLURM_PROCID=0", "SLURM_NTASKS=8", "SLURM_LOCALID=0"))
	var r environReader
	if e, err := r.read(f.j.fs, 7, true); err != nil || e.world != -1 || e.rank != -1 {
		t.Errorf("a batch script is no task: %+v, %v", e, err)
	}
	if _, err := r.read(f.j.fs, 8, false); err == nil || !zero(&r) {
		t.Errorf("no such process: %v", err)
	}
}

// zero reports whether all of a reader's memory is.
func zero(r *environReader) bool {
	b := unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r))
	return bytes.Equal(b, make([]byte, len(b)))
}

func FuzzEnviron(f *testing.F) {
	f.Add([]byte("RANK=1\x00WORLD_SIZE=2\x00MASTER_ADDR=a\x00MASTER_PORT=1\x00"))
	f.Add([]byte("SLURM_JOB_ID=5\x00SLURM_RESTART_COUNT=3\x00"))
	f.Add([]byte("RANK\x00=\x00\x00RANK=1\x00RANK=2"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r environReader
		var s scanner
		for _, c := range b {
			s.next(&r, c)
		}
		s.next(&r, 0)
		e := r.declared()
		if e.rank >= 0 && e.world >= 0 && e.rank >= e.world || len(e.place) > maxPlace+6 || e.slurmJob != "" && !isNumbered(e.slurmJob, "") || e.restarts < -1 || e.restarts >= maxRank {
			t.Errorf("%+v", e)
		}
		for _, c := range []byte(e.place) {
			if !plain(c) {
				t.Errorf("place %q", e.place)
			}
		}
	})
}

// The rows, and that it is off unless asked for.
func TestEnvironRows(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	fields := []string{"pid", "launcher", "job_source", "job_id", "evidence", "confidence_e4", "world_size", "rank", "local_rank", "local_world_size", "rendezvous_hash"}
	f.process(10, "python3", 1, 100, 1000, slurmGroup)
	f.process(11, "python3", 1, 100, 1000, "0::/\n")
	f.process(12, "python3", 1, 100, 1000, "0::/\n")
	f.process(13, "python3", 1, 100, 1000, "0::/system.slice/slurmd.service\n")
	f.process(14, "python3", 1, 100, 1000, "0::/system.slice/train.service\n")
	for pid := 10; pid < 15; pid++ {
		f.write(strconv.Itoa(pid)+"/environ", "RANK=1\x00WORLD_SIZE=2\x00LOCAL_RANK=1\x00LOCAL_WORLD_SIZE=2\x00MASTER_ADDR=n1\x00MASTER_PORT=5\x00SLURM_JOB_ID=9\x00TORCHELASTIC_RUN_ID=x\x00")
	}
	f.write("12/environ", "RANK=1\x00WORLD_SIZE=2\x00")
	f.l.set(10, 0, 11, 0, 12, 0, 13, 0, 14, 0)
	f.sample()
	f.want("off", f.s.fields(fields...), strings.Join([]string{
		"10|-|slurm|77|cgroup|9900|-|-|-|-|-", "11|-|-|-|-|-|-|-|-|-|-", "12|-|-|-|-|-|-|-|-|-|-", "13|-|slurm|-|-|-|-|-|-|-|-", "14|-|systemd|train.service|cgroup|8000|-|-|-|-|-",
	}, "\n"))
	if _, told := f.s.parts[partEnviron]; told {
		t.Error("a status of what is off")
	}
	f.again(true)
	f.sample()
	want := strings.Join([]string{
		"10|torchrun|slurm|77|cgroup|9900|2|1|1|2|n1:5", "11|torchrun|slurm|9|environ|3000|2|1|1|2|n1:5", "12|-|-|-|environ|-|2|1|-|-|-",
		"13|torchrun|slurm|9|environ|5000|2|1|1|2|n1:5", "14|torchrun|systemd|train.service|cgroup|8000|2|1|1|2|n1:5",
	}, "\n")
	f.want("on", f.s.fields(fields...), want)
	if st := f.s.parts[partEnviron]; st.State != source.Active {
		t.Errorf("%+v", st)
	}
	// Where processes meet is in no file; the next agent reads it again.
	if err := f.j.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.root + "/processes.json")
	if err != nil || bytes.Contains(b, []byte("n1:5")) || !bytes.Contains(b, []byte(`"ranks"`)) {
		t.Errorf("%s, %v", b, err)
	}
	f.kill(14)
	f.again(true)
	f.sample()
	rows := strings.Split(want, "\n")
	rows[4] = strings.TrimSuffix(rows[4], "n1:5") + "-" // it ended while no agent ran
	f.want("the next agent", f.s.fields(fields...), strings.Join(rows, "\n"))
}

// An environment that may not be read is said, with what would help.
func TestEnvironDenied(t *testing.T) {
	t.Parallel()
	f := newSlurmHost(t)
	f.again(true)
	f.process(10, "python3", 1, 100, 1000, slurmGroup)
	if err := os.MkdirAll(f.root+"/10/environ", 0o755); err != nil { // it cannot be read
		t.Fatal(err)
	}
	f.l.set(10, 0)
	f.sample()
	if st := f.s.parts[partEnviron]; st.State != source.Degraded || !strings.Contains(st.Reason, "the environments of 1 processes may not be read") || !strings.Contains(st.Reason, "both CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH") {
		t.Errorf("%+v", st)
	}
	f.want("all else is told", f.s.take(), "1700000001000|10|-|0|python3|-|slurm|77|alice")
	f.kill(10)
	f.sample()
	if st := f.s.parts[partEnviron]; st.State != source.Active {
		t.Errorf("it has ended: %+v", st)
	}
}

// What the status says that it takes: CAP_SYS_PTRACE alone is not enough to read what another
// user's process was given, both capabilities are.
func TestEnvironCapabilities(t *testing.T) {
	if os.Geteuid() != 0 {
		testenv.Need(t, "root", errors.New("this is user "+strconv.Itoa(os.Geteuid())))
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "echo up; read x")
	cmd.Env = []string{"RANK=1", "WORLD_SIZE=4"}
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
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if _, err = out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		caps []uint
		ok   bool
	}{
		{nil, false}, {[]uint{unix.CAP_SYS_PTRACE}, false}, {[]uint{unix.CAP_DAC_READ_SEARCH}, false}, {[]uint{unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}, true},
	} {
		type result struct {
			env         environ
			setup, read error
		}
		done := make(chan result, 1)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with its lesser rights
			var r result
			if r.setup = become(65534, c.caps); r.setup == nil {
				r.env, r.read = new(environReader).read(newProcfs("/proc"), int32(cmd.Process.Pid), false)
			}
			done <- r
		}()
		switch r := <-done; {
		case r.setup != nil:
			testenv.Need(t, "root", r.setup)
		case c.ok && (r.read != nil || r.env.rank != 1 || r.env.world != 4):
			t.Errorf("with %v: %+v, %v", c.caps, r.env, r.read)
		case !c.ok && !errors.Is(r.read, fs.ErrPermission):
			t.Errorf("with %v: %+v, %v: want it denied", c.caps, r.env, r.read)
		}
	}
}

// become makes the thread another user's, with some capabilities.
func become(uid uintptr, caps []uint) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return errno
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for _, c := range caps {
		data[c/32].Effective |= 1 << (c % 32)
		data[c/32].Permitted |= 1 << (c % 32)
	}
	return unix.Capset(&head, &data[0])
}

// The secret in a real process's environment is nowhere in this one's memory after a read.
func TestEnvironLeavesNothing(t *testing.T) {
	// Made of parts and outside of the heap, so that it is there once.
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(page) }()
	secret := page[:0]
	secret = append(secret, 'k', 'e', 'y', '-')
	for i := range 12 {
		secret = append(secret, 'A'+byte(i), '0'+byte(i%10))
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `i=0; s=key-; for c in A B C D E F G H I J K L; do s=$s$c$((i % 10)); i=$((i + 1)); done; export API_KEY=$s RANK=1 WORLD_SIZE=4; exec sleep 60`)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	if err = cmd.Start(); err != nil {
		t.Fatalf("no shell here: %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	proc := newProcfs("/proc")
	r := new(environReader)
	ctx := t.Context()
	for e := noEnviron; e.rank != 1; {
		if e, err = r.read(proc, int32(cmd.Process.Pid), false); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(time.Millisecond): // until the shell has become sleep
		}
	}
	if n := searchMemory(t, secret); n != 1 { // the test's own
		t.Errorf("the secret is in memory %d times, want once: the test's own", n)
	}
}

// searchMemory counts where the process's own writable memory holds what.
func searchMemory(t *testing.T, what []byte) (n int) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	// Outside of the heap, so that the search does not find what it has read itself.
	buf, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(buf) }()
	self := uint64(uintptr(unsafe.Pointer(&buf[0])))
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if c, serr := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); serr != nil || c != 3 || !strings.HasPrefix(mode, "rw") {
			continue
		}
		for at := from; at < to; at += uint64(len(buf)) {
			if at < self+uint64(len(buf)) && self < at+uint64(len(buf)) {
				continue
			}
			m, rerr := syscall.Pread(int(mem.Fd()), buf[:min(uint64(len(buf)), to-at)], int64(at))
			if rerr != nil {
				continue
			}
			n += bytes.Count(buf[:m], what)
		}
	}
	return n
}

func BenchmarkEnviron(b *testing.B) {
	fs, r := newProcfs("/proc"), new(environReader)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.read(fs, int32(os.Getpid()), false); err != nil {
			b.Fatal(err)
		}
	}
}
