package nccl

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/kernel/kerneltest"

	"github.com/flopwatch/flopwatch/agent/kernel"
)

// faults is a page of this process that does not come until it is let.
type faults struct {
	page []byte
	fd   int
}

func newFaults(t *testing.T) *faults {
	t.Helper()
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		kerneltest.Need(t, "userfaultfd", errno)
	}
	f := &faults{fd: int(fd)}
	api := struct{ api, features, ioctls uint64 }{api: 0xaa}
	if _, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, 0xc018aa3f, uintptr(unsafe.Pointer(&api))); errno != 0 {
		kerneltest.Need(t, "userfaultfd", errno)
	}
	var err error
	if f.page, err = unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		t.Fatal(err)
	}
	reg := struct{ start, bytes, mode, ioctls uint64 }{start: f.at(), bytes: uint64(len(f.page)), mode: 1}
	if _, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, 0xc020aa00, uintptr(unsafe.Pointer(&reg))); errno != 0 {
		t.Fatalf("register: %v", errno)
	}
	t.Cleanup(func() {
		f.let()
		_ = unix.Munmap(f.page)
	})
	return f
}

func (f *faults) at() uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(f.page)))) }

func (f *faults) let() {
	if f.fd >= 0 {
		_ = unix.Close(f.fd) // whoever waits for the page gets one
		f.fd = -1
	}
}

// TestMemoryThatDoesNotCome: a process whose memory is somewhere that never answers, as a
// file system of its own, keeps nobody waiting for long, and is not asked again.
func TestMemoryThatDoesNotCome(t *testing.T) {
	page := newFaults(t)
	f := New(Config{})
	f.wait = 20 * time.Millisecond
	f.env = &kernel.Env{}
	f.scans = []int64{1 << 62}
	p := &process{pid: int32(os.Getpid()), comms: map[uint64]*comm{}}
	f.procs = map[int32]*process{p.pid: p}
	for i := range uint64(20) {
		at := page.at() + 64*i
		p.comms[at] = &comm{at: at, born: 1, next: 1, rank: -1, want: expect{known: true, old: 1, new: 1, nranks: 1}}
	}
	f.mem.left = readATick
	f.resolve(1)
	if n := f.stuck.Load(); n != 1 || !p.shunned {
		t.Fatalf("%d reads are stuck, want 1; shunned: %v", n, p.shunned)
	}
	if why := f.report().Why; !strings.Contains(why, "1 processes does not answer") {
		t.Errorf("report %q", why)
	}
	for now := int64(2); now < 100_000; now += 1000 {
		f.mem.left = readATick
		f.resolve(now)
	}
	if n := f.stuck.Load(); n != 1 {
		t.Errorf("%d reads are stuck, want 1", n)
	}
	for _, c := range p.comms {
		if !c.unknown() {
			t.Errorf("a communicator that was not read is %q", c.name)
		}
	}
	page.let()
	for f.stuck.Load() != 0 {
		if t.Context().Err() != nil {
			t.Fatal("the read did not end")
		}
		<-time.After(time.Millisecond)
	}
}

// TestFilesThatDoNotCome: libraries whose storage does not answer hold up a bounded number of
// looks, and probes that come late are taken out again.
func TestFilesThatDoNotCome(t *testing.T) {
	f := New(Config{})
	f.wait = time.Millisecond
	let := make(chan struct{})
	late := make(chan *library, 2*maxStuck)
	for i := range 2 * maxStuck {
		_, err := within(&f.patience, func() *library { <-let; return &library{} }, func(l *library) { late <- l })
		if !errors.Is(err, errStuck) {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if n := f.stuck.Load(); n != maxStuck {
		t.Errorf("%d are left behind, want %d", n, maxStuck)
	}
	close(let)
	for range maxStuck {
		<-late
	}
	if _, err := within(&f.patience, func() int { return 1 }, func(int) {}); err != nil {
		t.Errorf("when all have come back: %v", err)
	}
}
