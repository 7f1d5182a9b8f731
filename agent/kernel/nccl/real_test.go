package nccl

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRealLibrary takes a real libnccl, where FLOPWATCH_REAL_NCCL names one: where its
// functions are, and that calls are counted which fail for want of a GPU. FLOPWATCH_REAL_LIBC
// is a folder with the C library that it wants, if that is not this host's.
func TestRealLibrary(t *testing.T) {
	path := os.Getenv("FLOPWATCH_REAL_NCCL")
	if path == "" {
		t.Skip("FLOPWATCH_REAL_NCCL names no library")
	}
	lib, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer lib.Close()
	began := time.Now()
	all, build, err := sites(lib, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d functions found in %v, build id %s", len(all), time.Since(began), build)
	for _, s := range all {
		if s.at.Steps {
			t.Errorf("%s is stepped over", s.fn.name)
		}
	}
	r := newRig(t, Config{})
	if err := os.Remove(filepath.Join(r.dir, "libnccl.so.2")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, filepath.Join(r.dir, "libnccl.so.2")); err != nil {
		t.Fatal(err)
	}
	var command []string
	if libc := os.Getenv("FLOPWATCH_REAL_LIBC"); libc != "" {
		command = []string{filepath.Join(libc, "ld-linux-x86-64.so.2"), "--library-path", libc, filepath.Join(r.dir, "driver")}
	}
	d := run(t, r.dir, nil, command...)
	t.Logf("a call without probes: %s ns", d.do("time 100000"))
	r.start()
	began = time.Now()
	r.tick(0)
	t.Logf("found and attached in %v", time.Since(began))
	d.do("init 0 4 1 5")
	d.do("coll allreduce 0 1000 7 100", "coll reduce 0 10 8 3")
	for range 3 {
		r.tick(1000)
	}
	p := r.f.procs[d.pid()]
	if len(p.inits)+len(p.comms) == 0 {
		t.Error("the communicator that was asked for is not known")
	}
	want := expect{known: true, old: hashOld(id(5)), new: hashNew(id(5)), rank: 1, nranks: 4}
	for _, c := range p.inits {
		if c.want != want {
			t.Errorf("asked for %+v, want %+v", c.want, want)
		}
	}
	for range 5 {
		r.tick(10_000)
	}
	rows := r.taken(d)
	if a, b := find(t, rows, "allreduce"), find(t, rows, "reduce"); a.calls != 100 || a.bytes != 400_000 || b.calls != 3 || b.bytes != 240 {
		t.Errorf("rows: %+v", rows)
	}
	t.Logf("a call with probes: %s ns", d.do("time 100000"))
	t.Logf("%+v", rows)
}
