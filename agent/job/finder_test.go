package job

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/testenv/race"
)

func TestFinder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.process(7, "a", 1, 100, 0, slurmGroup)
	f.process(8, "b", 1, 100, 0, "0::/\n")
	f.process(9, "c", 1, 100, 0, "0::/system.slice/slurmd.service\n")
	f.process(10, "d", 1, 100, 0, "0::/system.slice/slurmstepd.scope/s5K1KKYAYG5D00/step_0/user/task_0\n")
	find := NewFinder(f.root)
	of := func(pid int32) string {
		j, ok := find.JobOf(pid)
		return fmt.Sprint(j.Source, " ", j.ID, " ", ok)
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	for range 2 {
		want("a job", of(7), "slurm 77 true")
		want("none", of(8), "  false")
		want("a scheduler's, but no job", of(9), "slurm  false")
		want("no such process", of(11), "  false")
		want("a SLUID", of(10), "slurm s5K1KKYAYG5D00 true")
	}
	find.learn(map[string]string{"s5K1KKYAYG5D00": "4711"})
	want("a SLUID whose number is known", of(10), "slurm 4711 true")
	j, ok := find.JobOfCgroup("/system.slice/slurmstepd.scope/s5K1KKYAYG5D00/step_0")
	want("by the group", fmt.Sprint(j, ok), "{slurm 4711} true")
	// The number is given to another process.
	f.kill(7)
	f.process(7, "e", 1, 900, 0, "0::/system.slice/train.service\n")
	want("another process of that number", of(7), "systemd train.service true")
	// A path that is not one.
	if j, ok = find.JobOfCgroup("\x00\xff"); ok || j != (source.Job{}) {
		t.Errorf("garbage is %v", j)
	}
}

func TestFinderIsBounded(t *testing.T) {
	t.Parallel()
	find := NewFinder("")
	for i := range 3 * maxFound {
		find.JobOfCgroup(fmt.Sprintf("/slurm/uid_1/job_%d/step_0", i))
	}
	for i := range 3 * maxFoundIn / maxCgroup {
		find.ofFile([]byte(fmt.Sprintf("0::/%d", i) + strings.Repeat("x", maxCgroup-32)))
	}
	if n := len(find.files) + len(find.paths); n > maxFound || find.bytes > maxFoundIn {
		t.Errorf("it keeps %d groups of %d bytes", n, find.bytes)
	}
}

func TestFinderByMany(t *testing.T) {
	t.Parallel()
	find := NewFinder("")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 200 {
				find.JobOf(int32(os.Getpid()))
				if j, ok := find.JobOfCgroup(fmt.Sprintf("/slurm/uid_1/job_%d", n)); !ok || j.ID != fmt.Sprint(n) {
					t.Errorf("%d: %v", n, j)
				}
				find.learn(map[string]string{"s5K1KKYAYG5D00": fmt.Sprint(i)})
			}
		})
	}
	all.Wait()
}

func TestFinderAllocates(t *testing.T) {
	f := newFixture(t)
	f.process(7, "a", 1, 100, 0, slurmGroup)
	find := NewFinder(f.root)
	n := testing.AllocsPerRun(100, func() {
		find.JobOf(7)
		find.JobOfCgroup("/slurm/uid_1/job_9")
	})
	if n > 0 && !race.Enabled {
		t.Errorf("a known group makes %.0f allocations", n)
	}
}

// BenchmarkFinder asks for the jobs of 200 processes.
func BenchmarkFinder(b *testing.B) {
	f := newFixture(b)
	for i := range 200 {
		f.process(1000+i, "python3", 1, 100, 1000, fmt.Sprintf("0::/system.slice/slurmstepd.scope/job_%d/step_0/user/task_0\n", i))
	}
	find := NewFinder(f.root)
	b.ReportAllocs()
	for b.Loop() {
		for i := range 200 {
			find.JobOf(int32(1000 + i))
		}
	}
}
