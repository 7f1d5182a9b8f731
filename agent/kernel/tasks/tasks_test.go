package tasks

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
)

// lister lists what it is given.
type lister struct {
	pids []int32
	ok   bool
}

func (l *lister) GPUProcesses() (list []source.GPUProcess, seq uint64, ok bool) {
	for _, p := range l.pids {
		list = append(list, source.GPUProcess{PID: p})
	}
	return list, 1, l.ok
}

type jobs map[string]source.Job

func (j jobs) JobOf(int32) (source.Job, bool) { return source.Job{Source: "slurm", ID: "1"}, true }

func (j jobs) JobOfCgroup(path string) (source.Job, bool) { v, ok := j[path]; return v, ok }

// tree is a procfs and a hierarchy of control groups of files.
func tree(t *testing.T) (procfs string, put func(name, text string)) {
	t.Helper()
	dir := t.TempDir()
	put = func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("proc/self/mountinfo", "30 22 0:26 / "+dir+"/cg rw,nosuid shared:9 - cgroup2 none rw\n")
	return filepath.Join(dir, "proc"), put
}

func statOf(pid int, state string, start uint64) string {
	return strconv.Itoa(pid) + " (a) b) " + state + " 1 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 " + strconv.FormatUint(start, 10) + " 0 0\n"
}

func TestWatch(t *testing.T) {
	procfs, put := tree(t)
	for i, pid := range []int{10, 11, 12, 13} {
		put("proc/"+strconv.Itoa(pid)+"/stat", statOf(pid, "S", uint64(100+i)))
		put("proc/"+strconv.Itoa(pid)+"/cgroup", "1:cpu:/x\n0::/job\n")
	}
	put("proc/13/cgroup", "0::/none\n")
	put("cg/job/cgroup.procs", "10\n11\n12\n999\n")
	put("cg/none/cgroup.procs", "13\n10\n")
	l := &lister{pids: []int32{10, 13, 10, 0, 77}, ok: true}
	w := NewWatch(procfs, l, jobs{"/job": {Source: "slurm", ID: "5"}}, true)
	list, ok := w.Look()
	if !ok || len(list) != 4 {
		t.Fatalf("%d processes", len(list))
	}
	for i, want := range []struct {
		pid int32
		gpu bool
	}{{10, true}, {11, false}, {12, false}, {13, true}} {
		if p := list[i]; p.PID != want.pid || p.GPU != want.gpu || !p.Fresh || p.Start != uint64(100+i) {
			t.Errorf("%+v", *p)
		}
	}
	if len(w.Groups()) != 1 || w.Groups()[list[0].Group].ID != "5" {
		t.Errorf("groups %v", w.Groups())
	}
	put("proc/12/stat", statOf(12, "S", 900)) // another process
	put("proc/11/stat", statOf(11, "Z", 101))
	list, _ = w.Look()
	if len(list) != 3 || list[0].Fresh || !list[1].Fresh || list[1].PID != 12 {
		t.Errorf("%+v", list)
	}
	l.ok = false
	if list, ok = w.Look(); ok || len(list) != 3 || list[1].Fresh {
		t.Error("a list that is not known is another")
	}
}

// A list of some GPUs brings who is new on those, and takes nobody away who lives.
func TestWatchOfSomeGPUs(t *testing.T) {
	procfs, put := tree(t)
	for pid := 10; pid < 15; pid++ {
		put("proc/"+strconv.Itoa(pid)+"/stat", statOf(pid, "S", uint64(100+pid)))
	}
	l := &lister{pids: []int32{10, 11, 12}, ok: true}
	w := NewWatch(procfs, l, nil, false)
	w.Look()
	l.pids, l.ok = []int32{10, 14}, false
	put("proc/12/stat", statOf(12, "S", 900)) // another process has its number
	list, ok := w.Look()
	if ok || len(list) != 3 || list[0].PID != 10 || list[1].PID != 11 || list[2].PID != 14 || !list[1].GPU || !list[2].Fresh {
		t.Errorf("%v: %+v", ok, list)
	}
	put("proc/11/stat", statOf(11, "Z", 111))
	if list, _ = w.Look(); len(list) != 2 {
		t.Errorf("one that has ended stays: %+v", list)
	}
	l.ok = true
	put("proc/11/stat", statOf(11, "S", 111))
	if list, ok = w.Look(); !ok || len(list) != 2 || list[1].PID != 14 {
		t.Errorf("all GPUs: %v: %+v", ok, list)
	}
}

func TestBound(t *testing.T) {
	procfs, put := tree(t)
	l := &lister{ok: true}
	for pid := 1; pid <= maxWatched+5; pid++ {
		put("proc/"+strconv.Itoa(pid)+"/stat", statOf(pid, "S", 1))
		l.pids = append(l.pids, int32(pid))
	}
	w := NewWatch(procfs, l, nil, true)
	if list, _ := w.Look(); len(list) != maxWatched || w.Over() != 5 {
		t.Errorf("%d watched, %d over", len(list), w.Over())
	}
}

func TestSelf(t *testing.T) {
	s, err := ReadStat("/proc", int32(os.Getpid()))
	if err != nil || int(s.Parent) != os.Getppid() || s.Start == 0 || s.Dead {
		t.Errorf("%+v, %v", s, err)
	}
	if ms, err := BootMs("/proc"); err != nil || ms <= 0 {
		t.Errorf("%d, %v", ms, err)
	}
	gone := exec.CommandContext(t.Context(), "true")
	if err = gone.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err = ReadStat("/proc", int32(gone.Process.Pid)); !errors.Is(err, ErrGone) {
		t.Errorf("a process that has ended: %v", err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte(statOf(3, "R", 55)))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseStat(b) })
}

func FuzzParseMounts(f *testing.F) {
	f.Add([]byte("30 22 0:26 / /sys/fs/cgroup rw - cgroup2 none rw\n"))
	f.Add([]byte("30 22 0:26 /../.. /host\\040s rw - cgroup2 none rw\n0::/../../a\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range parseMounts(b) {
			if rest, ok := m.below(parseGroup(b)); ok && strings.HasPrefix(rest, "/../") {
				t.Errorf("%q leads out of the mount", rest)
			}
		}
		_ = parseGroup(b)
		_, _ = parseBoot(b)
	})
}

// Whoever ends his first thread and goes on in others is not dead, and watched as before.
func TestFirstThreadEnded(t *testing.T) {
	for state, dead := range map[string]map[int]bool{"Z": {1: true, 2: false}, "X": {1: true}, "S": {1: false, 2: false}, "D": {1: false}} {
		for threads, want := range dead {
			line := "7 (a) b) " + state + " 1 7 7 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 " + strconv.Itoa(threads) + " 0 55 0 0"
			s, err := parseStat([]byte(line))
			if err != nil || s.Dead != want || s.Start != 55 || s.Parent != 1 {
				t.Errorf("%s: %+v, %v", line, s, err)
			}
		}
	}
}

// Texts of mountinfo as hosts and containers have them, and where groups are found.
func TestMounts(t *testing.T) {
	const job = "/system.slice/slurmstepd.scope/job_7/step_0"
	for _, c := range []struct {
		name, mountinfo string
		there           []string          // directories; nil: all
		groups          map[string]string // "": not to be found
	}{
		{
			name: "systemd, unified alone",
			mountinfo: "25 30 0:23 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n" +
				"29 25 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
			groups: map[string]string{job: "/sys/fs/cgroup" + job, "/": "/sys/fs/cgroup"},
		},
		{
			name: "systemd, both versions",
			mountinfo: "31 25 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,size=4096k,nr_inodes=1024,mode=755\n" +
				"32 31 0:28 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate\n" +
				"33 31 0:29 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd\n",
			groups: map[string]string{job: "/sys/fs/cgroup/unified" + job},
		},
		{
			// A namespace of its own for control groups, and the host's hierarchy beside it.
			name: "pod with the host's hierarchy",
			mountinfo: "1612 1607 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw\n" +
				"1630 1598 0:26 /../../../.. /host/sys/fs/cgroup ro,nosuid,nodev,noexec,relatime master:9 - cgroup2 cgroup2 rw,nsdelegate\n",
			groups: map[string]string{
				"/":                      "/sys/fs/cgroup",
				"/inner":                 "/sys/fs/cgroup/inner",
				"/../../../.." + job:     "/host/sys/fs/cgroup" + job,
				"/../../../../":          "/host/sys/fs/cgroup",
				"/../cri-other.scope":    "",
				"/../../../../../beyond": "",
			},
		},
		{
			name:      "pod without it",
			mountinfo: "1612 1607 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw\n",
			groups:    map[string]string{"/../../../.." + job: "", "/../fs": "", "/": "/sys/fs/cgroup"},
		},
		{
			// The namespace of the host, and its own group mounted first, as older engines do.
			name: "container in the host's namespace",
			mountinfo: "700 690 0:26 /system.slice/docker-1f.scope /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw\n" +
				"701 690 0:26 / /host/cgroup ro,relatime - cgroup2 cgroup2 rw\n",
			groups: map[string]string{
				"/system.slice/docker-1f.scope/a": "/sys/fs/cgroup/a",
				"/system.slice/docker-1f.scope":   "/sys/fs/cgroup",
				"/system.slice/docker-1f.scope2":  "/host/cgroup/system.slice/docker-1f.scope2",
				job:                               "/host/cgroup" + job,
			},
		},
		{
			name:      "its own group alone",
			mountinfo: "700 690 0:26 /system.slice/docker-1f.scope /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
			groups:    map[string]string{job: ""},
		},
		{
			name: "one that lies under another, and a name with a space",
			mountinfo: "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 none rw\n31 22 0:30 / /sys/fs rw - tmpfs none rw\n" +
				"32 22 0:26 / /mnt/c\\040g rw shared:3 master:2 - cgroup2 none rw\n",
			there:  []string{"/mnt/c g" + job},
			groups: map[string]string{job: "/mnt/c g" + job},
		},
		{name: "none", mountinfo: "32 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", groups: map[string]string{"/": "", job: ""}},
	} {
		all := parseMounts([]byte(c.mountinfo))
		for path, want := range c.groups {
			got := all.find(path, func(dir string) bool { return c.there == nil || slices.Contains(c.there, dir) })
			if got != want {
				t.Errorf("%s: %s is at %q, want %q", c.name, path, got, want)
			}
		}
	}
	// This machine's own text, and the group of this process.
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range parseMounts(b) {
		if _, err := os.Stat(filepath.Join(m.at, "cgroup.procs")); err != nil {
			t.Logf("%+v: %v", m, err)
		}
	}
}
