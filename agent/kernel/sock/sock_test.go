package sock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/kernel"
	"github.com/flopwatch/flopwatch/agent/kernel/kerneltest"
	"github.com/flopwatch/flopwatch/agent/kernel/probe"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks"
	"github.com/flopwatch/flopwatch/agent/kernel/tasks/tasktest"
	"github.com/flopwatch/flopwatch/agent/source"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// rig is a feature that watches processes of a test.
type rig struct {
	t      testing.TB
	f      *Feature
	lister *tasktest.Lister
	sink   tasktest.Sink
	seq    uint64
	report kernel.Report
}

func newRig(t testing.TB, cfg Config, pids ...int) *rig {
	t.Helper()
	r := &rig{t: t, f: New(cfg), lister: &tasktest.Lister{}}
	r.lister.List(pids...)
	jobs := tasktest.Jobs{PID: map[int32]source.Job{}}
	for _, p := range pids {
		jobs.PID[int32(p)] = source.Job{Source: "slurm", ID: fmt.Sprint(p)}
	}
	r.report = r.f.Start(t.Context(), &kernel.Env{Procfs: "/proc", Processes: r.lister, Jobs: jobs, Clock: &kernel.Clock{}})
	t.Cleanup(func() {
		if err := r.f.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// oldest is what the programs need: storage with sockets came into tracing with 5.12, as
// did iter/task_vma.
var oldest = []string{probe.TpBTF, probe.IterFile, probe.IterVMA}

// bpfRig needs the programs.
func bpfRig(t testing.TB, cfg Config, pids ...int) *rig {
	t.Helper()
	kerneltest.Require(t, oldest...)
	r := newRig(t, cfg, pids...)
	if r.report.State != source.Active {
		t.Fatalf("start: %s: %s", r.report.State, r.report.Reason())
	}
	return r
}

func (r *rig) look() {
	r.t.Helper()
	r.seq++
	r.report = r.f.Sample(r.t.Context(), source.Tick{Seq: r.seq, WallMs: int64(1_000_000 + r.seq), BootMs: int64(r.seq * 10_000)}, &r.sink)
	for _, err := range r.sink.Errors {
		r.t.Error(err)
	}
	r.sink.Errors = nil
}

// moved sums the rows of a peer.
func (r *rig) moved(peer string) (tx, rx, connections int64) {
	for _, row := range r.sink.Rows[wire.KindTCP] {
		if row.Str("peer") == peer {
			tx, rx, connections = tx+row.Int("tx_bytes"), rx+row.Int("rx_bytes"), connections+row.Int("connections")
		}
	}
	return tx, rx, connections
}

// until looks until something holds: a socket that its process has closed lives on till the
// other side has answered.
func (r *rig) until(holds func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 400 {
		if r.look(); holds() {
			return
		}
		<-tick.C
	}
}

func (r *rig) want(peer string, tx, rx int64) {
	r.t.Helper()
	r.until(func() bool { gotTx, gotRx, _ := r.moved(peer); return gotTx >= tx && gotRx >= rx })
	if gotTx, gotRx, _ := r.moved(peer); gotTx != tx || gotRx != rx {
		r.t.Errorf("%s: sent %d received %d, want %d and %d", peer, gotTx, gotRx, tx, rx)
	}
}

// TestExact counts each byte once, whatever lives when and is looked at how often.
func TestExact(t *testing.T) {
	r := bpfRig(t, Config{}, os.Getpid())
	p := newPeer(t, 1)
	r.look()
	var tx, rx int64
	do := func(host string, last uint64, looks int) {
		c := p.dial(t, host)
		for i := range uint64(3) {
			h := head{read: 100_003 + i, send: 70_001 + i, last: last}
			h.ask(t, c)
			tx, rx = tx+int64(h.read)+headBytes, rx+int64(h.send)
			for range looks {
				r.look()
			}
			if last == 0 {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("the peer closes first: %v", err)
				}
				break
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	do(p.peer4, 1, 1) // long-lived
	do(p.peer4, 0, 0) // gone before the look
	do(p.peer4, 1, 0)
	do(p.peer4, 1, 2)
	r.look()
	r.want(p.peer4, tx, rx)
	if row := r.sink.Rows[wire.KindTCP][0]; row.Str("job_source") != "slurm" || row.Str("job_id") != fmt.Sprint(os.Getpid()) {
		t.Errorf("the row's job is %v", row)
	}
	tx, rx = 0, 0
	do(p.peer6, 1, 1)
	do(p.peer6, 0, 0)
	r.look()
	r.want(p.peer6, tx, rx)
	if before := len(r.sink.Rows[wire.KindTCP]); true {
		r.look()
		if got := r.sink.Rows[wire.KindTCP][before:]; len(got) != 0 {
			t.Errorf("nothing moved, and rows came: %v", got)
		}
	}
	if r.report.State != source.Active {
		t.Errorf("%s: %s", r.report.State, r.report.Reason())
	}
}

// TestChurn looks without a pause while connections come and go: the sum is exact.
func TestChurn(t *testing.T) {
	r := bpfRig(t, Config{}, os.Getpid())
	p := newPeer(t, 13)
	r.look()
	const workers, each = 4, 60
	var tx, rx atomic.Int64
	done := make(chan struct{})
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range each {
				c, err := net.Dial("tcp", net.JoinHostPort(p.peer4, fmt.Sprint(port)))
				if err != nil {
					t.Error(err)
					return
				}
				h := head{read: uint64(1000*w + i), send: uint64(7*i + 1), last: uint64(i % 2)}
				for range 1 + i%2 {
					h.ask(t, c)
					tx.Add(int64(h.read) + headBytes)
					rx.Add(int64(h.send))
				}
				_ = c.Close()
			}
		})
	}
	go func() { all.Wait(); close(done) }()
	for looking := true; looking; {
		select {
		case <-done:
			looking = false
		default:
			r.look()
		}
	}
	r.want(p.peer4, tx.Load(), rx.Load())
}

// TestMapped is IPv4 through a socket of IPv6.
func TestMapped(t *testing.T) {
	r := bpfRig(t, Config{}, os.Getpid())
	p := newPeer(t, 2)
	r.look()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err = unix.Connect(fd, &unix.SockaddrInet6{Port: port, Addr: [16]byte(net.ParseIP(p.peer4).To16())}); err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "mapped")
	c, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	head{read: 5, send: 7}.ask(t, c)
	_ = c.Close()
	r.look()
	r.want(p.peer4, 5+headBytes, 7)
}

// TestAccepted is a connection that another host opens, and that ends between two looks.
func TestAccepted(t *testing.T) {
	r := bpfRig(t, Config{}, os.Getpid())
	p := newPeer(t, 3)
	l, err := net.Listen("tcp", net.JoinHostPort(p.own4, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r.look()
	got := make(chan int64)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		n, _ := io.Copy(io.Discard, c)
		_ = c.Close()
		got <- n
	}()
	p.say(t, fmt.Sprintf("send %s 123456", l.Addr()), "sent")
	if n := <-got; n != 123456 {
		t.Fatalf("received %d", n)
	}
	r.look()
	r.want(p.peer4, 0, 123456)
	if _, _, n := r.moved(p.peer4); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// TestOtherNamespace watches a process in a network namespace of its own.
func TestOtherNamespace(t *testing.T) {
	p := newPeer(t, 4)
	r := bpfRig(t, Config{}, p.pid)
	r.look()
	c := p.dial(t, p.peer4)
	head{read: 1000, send: 2000, last: 1}.ask(t, c)
	r.look()
	r.want(p.own4, 2000, 1000+headBytes)
	head{read: 1000, send: 2000}.ask(t, c)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the peer closes first: %v", err)
	}
	_ = c.Close()
	r.look()
	r.want(p.own4, 4000, 2000+2*headBytes)
	found := false
	for _, f := range r.addresses() {
		found = found || f == p.peer4
	}
	if !found {
		t.Errorf("the address within the namespace is not told: %v", r.addresses())
	}
}

// addresses are the facts that were told last.
func (r *rig) addresses() (all []string) {
	r.f.lookMs, r.f.toldMs = 0, 0
	delete(r.sink.Rows, wire.KindFact)
	r.look()
	for _, f := range r.sink.Rows[wire.KindFact] {
		if f.Str("name") == "address" {
			all = append(all, f.Str("value"))
		}
	}
	return all
}

func TestAddresses(t *testing.T) {
	p := newPeer(t, 5)
	r := bpfRig(t, Config{}, os.Getpid())
	got := r.addresses()
	subjects := map[string]bool{}
	for _, f := range r.sink.Rows[wire.KindFact] {
		subjects[f.Str("subject")] = true
	}
	if !subjects["host"] || len(subjects) != len(got) {
		t.Errorf("subjects %v of %d addresses", subjects, len(got))
	}
	want := map[string]bool{p.own4: true, p.own6: true}
	for _, a := range got {
		delete(want, a)
		if a == "127.0.0.1" || a == "::1" {
			t.Errorf("loopback is told")
		}
	}
	if len(want) != 0 {
		t.Errorf("missing %v in %v", want, got)
	}
	before := len(r.sink.Rows[wire.KindFact])
	r.look()
	if len(r.sink.Rows[wire.KindFact]) != before {
		t.Error("nothing changed, and the addresses are told again")
	}
}

// TestNotWatched sees nothing of others, nor of connections within the host.
func TestNotWatched(t *testing.T) {
	p := newPeer(t, 6)
	r := bpfRig(t, Config{}, 1)
	r.look()
	c := p.dial(t, p.peer4)
	head{read: 1000, send: 1000}.ask(t, c)
	_ = c.Close()
	r.look()
	r.want(p.peer4, 0, 0)
	r.lister.List(os.Getpid())
	r.look()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if in, err := l.Accept(); err == nil {
			_ = answer(in)
		}
	}()
	c, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	head{read: 1000, send: 1000}.ask(t, c)
	_ = c.Close()
	r.look()
	if rows := r.sink.Rows[wire.KindTCP]; len(rows) != 0 {
		t.Errorf("rows of what is not watched: %v", rows)
	}
}

// TestGroup counts a process that is on no GPU, in the control group of one that is, and
// names the job by the group.
func TestGroup(t *testing.T) {
	kerneltest.Require(t, oldest...)
	p := newPeer(t, 12)
	mount := ""
	if b, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if head, tail, ok := strings.Cut(line, " - "); ok && strings.HasPrefix(tail, "cgroup2 ") {
				mount = strings.Fields(head)[4]
			}
		}
	}
	dir, err := os.MkdirTemp(mount, "flopwatch")
	kerneltest.Need(t, "a control group of version 2", err)
	gpu := exec.CommandContext(t.Context(), "cat")
	in, err := gpu.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = gpu.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = gpu.Wait()
		_ = os.WriteFile(filepath.Join(mount, "cgroup.procs"), []byte(fmt.Sprint(p.pid)), 0)
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	for _, pid := range []int{gpu.Process.Pid, p.pid} {
		if err = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	r := bpfRig(t, Config{})
	r.f.watch = tasks.NewWatch("/proc", r.lister, tasktest.Jobs{Group: func(path string) (source.Job, bool) {
		return source.Job{Source: "kubernetes", ID: "pod"}, path == "/"+filepath.Base(dir)
	}}, true)
	r.lister.List(gpu.Process.Pid)
	r.look()
	c := p.dial(t, p.peer4)
	head{read: 10, send: 20, last: 1}.ask(t, c)
	r.want(p.own4, 20, 10+headBytes)
	// The job ends, and what its last socket moved is found when nobody is watched any more.
	head{read: 30, send: 40, last: 1}.ask(t, c)
	_ = c.Close()
	r.lister.List()
	r.want(p.own4, 60, 40+2*headBytes)
	for _, row := range r.sink.Rows[wire.KindTCP] {
		if row.Str("job_source") != "kubernetes" || row.Str("job_id") != "pod" {
			t.Errorf("row %v", row)
		}
	}
}

// TestOlder does not count what a process moved before an agent that is younger looked.
func TestOlder(t *testing.T) {
	p := newPeer(t, 7)
	c := p.dial(t, p.peer4)
	head{read: 50_000, send: 50_000, last: 1}.ask(t, c)
	r := bpfRig(t, Config{}, os.Getpid())
	r.look()
	head{read: 11, send: 12, last: 1}.ask(t, c)
	r.look()
	_ = c.Close()
	r.look()
	r.want(p.peer4, 11+headBytes, 12)
}

// TestAll counts sockets of processes that are on no GPU.
func TestAll(t *testing.T) {
	p := newPeer(t, 8)
	r := bpfRig(t, Config{All: true})
	r.look()
	c := p.dial(t, p.peer4)
	head{read: 321, send: 654, last: 1}.ask(t, c)
	r.look()
	_ = c.Close()
	r.look()
	r.want(p.peer4, 321+headBytes, 654)
	r.want(p.own4, 654, 321+headBytes)
}

// TestFull drops what there is no room for, and says so: what is not in rows is told.
func TestFull(t *testing.T) {
	r := bpfRig(t, Config{sums: 1}, os.Getpid()) // the kernel finds room for one more a core
	r.look()
	var hosts []string
	var open []net.Conn
	var asked, counted int64
	for n := range (runtime.NumCPU() + 4) / 2 {
		p := newPeer(t, 100+n)
		hosts = append(hosts, p.peer4, p.peer6)
		for _, host := range hosts[2*n:] {
			c := p.dial(t, host)
			head{read: 1000, send: 500, last: 1}.ask(t, c)
			open = append(open, c)
			asked += 1500 + headBytes
		}
	}
	for _, c := range open {
		_ = c.Close()
	}
	var bytes int64
	degraded := false
	r.until(func() bool {
		counted = 0
		for _, host := range hosts {
			tx, rx, _ := r.moved(host)
			counted += tx + rx
		}
		for _, n := range r.f.Load().Counts {
			if n.Name == "dropped_bytes" {
				bytes = int64(n.Value)
			}
		}
		degraded = degraded || r.report.State == source.Degraded
		return counted+bytes >= asked
	})
	if counted+bytes != asked || bytes == 0 || counted == 0 || !degraded {
		t.Errorf("of %d bytes %d are in rows and %d dropped; told: %v", asked, counted, bytes, degraded)
	}
}

// TestMoreThanFit counts live sockets of which there are more than sums, at one look.
func TestMoreThanFit(t *testing.T) {
	r := bpfRig(t, Config{sums: 1}, os.Getpid()) // the kernel finds room for one more a core
	r.look()
	var hosts []string
	for n := range min((runtime.NumCPU()+4)/2, maxRounds) {
		p := newPeer(t, 120+n)
		for _, host := range []string{p.peer4, p.peer6} {
			c := p.dial(t, host)
			defer c.Close()
			head{read: 1000, send: 500, last: 1}.ask(t, c)
			hosts = append(hosts, host)
		}
	}
	r.look()
	for _, host := range hosts {
		if tx, rx, n := r.moved(host); tx != 1000+headBytes || rx != 500 || n != 1 {
			t.Errorf("%s: %d sent, %d received, %d connections", host, tx, rx, n)
		}
	}
	if r.report.State != source.Active {
		t.Errorf("%s: %s", r.report.State, r.report.Reason())
	}
}

// none is a way to read counters that finds nothing.
type none struct{ looker }

func (none) report() kernel.Report { return kernel.Active() }

// TestRowsWait: rows beyond the bound come later, with nothing lost; what is lost beyond the
// next bound is said.
func TestRowsWait(t *testing.T) {
	f := New(Config{All: true})
	f.watch, f.why, f.by = tasks.NewWatch("/proc", nil, nil, true), kernel.Active(), none{}
	add := func(n int) (bytes int64) {
		f.looks++
		for i := range n {
			b := uint64(i + 1)
			f.add(sum{peer: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), tx: b, rx: 1, connections: 1})
			bytes += int64(b) + 1
		}
		return bytes
	}
	told := func() (rows int, bytes int64) {
		var sink tasktest.Sink
		f.put(&sink)
		for _, row := range sink.Rows[wire.KindTCP] {
			rows, bytes = rows+1, bytes+row.Int("tx_bytes")+row.Int("rx_bytes")
			if row.Int("connections") != 1 {
				t.Fatalf("row %v", row)
			}
		}
		return rows, bytes
	}
	want := add(maxRows + 100)
	rows, bytes := told()
	if rows != maxRows {
		t.Errorf("%d rows", rows)
	}
	want += add(50) // to peers that wait, with those
	rows, more := told()
	if bytes += more; rows != 100 || bytes != want || f.left != 0 || f.report(true).State != source.Active {
		t.Errorf("%d rows, of %d bytes %d are told, %d rows left out", rows, want, bytes, f.left)
	}
	if rows, _ = told(); rows != 0 || len(f.sums) != 0 {
		t.Errorf("told again: %d rows, %d wait", rows, len(f.sums))
	}
	add(maxRows + maxWaits + 7)
	_, _ = told()
	if f.left != 7 || len(f.sums) != maxWaits || !strings.Contains(f.report(true).Why, "7 rows of too many peers were left out") {
		t.Errorf("%d left out, %d wait: %s", f.left, len(f.sums), f.report(true).Reason())
	}
	add(1)
	for len(f.sums) > 0 {
		_, _ = told()
	}
	if f.left != 7 || f.report(true).State != source.Active {
		t.Errorf("%d left out: %s", f.left, f.report(true).Reason())
	}
}

// TestOwners: a job keeps its bytes when it has ended, and gets none of another's that has
// one of its numbers.
func TestOwners(t *testing.T) {
	f := New(Config{})
	f.watch = tasks.NewWatch("/proc", nil, nil, true)
	a, b, own := source.Job{Source: "slurm", ID: "1"}, source.Job{Source: "slurm", ID: "2"}, source.Job{Source: "slurm", ID: "1.0"}
	f.groups[71] = owner{job: a, group: 71}
	f.groups[72] = owner{job: b, group: 72}
	f.remember([]*tasks.Process{{PID: 5, Group: 71, Job: own}, {PID: 6, Group: 71}, {PID: 7, Group: 1, Job: b}})
	f.remember(nil) // they have ended
	for _, c := range []struct {
		what string
		s    sum
		want source.Job
	}{
		{"a process that names its job", sum{tgid: 5, group: 71}, own},
		{"one that does not, in a group that does", sum{tgid: 6, group: 71}, a},
		{"one that was never listed", sum{tgid: 99, group: 72}, b},
		{"another that has a number of before, in another job", sum{tgid: 5, group: 72}, b},
		{"a group that names none", sum{tgid: 7, group: 1}, b},
		{"nobody", sum{tgid: 99, group: 1}, source.Job{}},
	} {
		if got := f.jobOf(c.s); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
	for range keepLooks {
		f.remember(nil)
	}
	if len(f.jobs) != 0 || len(f.groups) != 0 {
		t.Errorf("%d processes and %d groups are remembered for ever", len(f.jobs), len(f.groups))
	}
	for n := range int32(3) {
		var list []*tasks.Process
		for i := range int32(maxOwners/2 + 1) {
			list = append(list, &tasks.Process{PID: 1 + i + n*maxOwners, Job: a})
		}
		f.remember(list)
		if len(f.jobs) > maxOwners {
			t.Errorf("%d processes are remembered", len(f.jobs))
		}
	}
}

// TestDiagOlder: without BPF too, what a process moved before it was watched is not counted
// if it is older than the agent, though the list of processes came late.
func TestDiagOlder(t *testing.T) {
	p := newPeer(t, 13)
	c := p.dial(t, p.peer4)
	defer c.Close()
	head{read: 50_000, send: 50_000, last: 1}.ask(t, c)
	r := newRig(t, Config{NoBPF: true})
	r.look() // nobody is listed yet
	r.lister.List(os.Getpid())
	r.look()
	head{read: 7, send: 8, last: 1}.ask(t, c)
	r.look()
	r.want(p.peer4, 7+headBytes, 8)
}

// TestDiag is what is seen without BPF.
func TestDiag(t *testing.T) {
	p := newPeer(t, 11)
	r := newRig(t, Config{NoBPF: true}, os.Getpid(), p.pid)
	if r.report.State != source.Degraded || r.report.Fallback == "" {
		t.Fatalf("%s: %s", r.report.State, r.report.Reason())
	}
	r.look()
	c := p.dial(t, p.peer4)
	head{read: 100_000, send: 3000, last: 1}.ask(t, c)
	r.look()
	head{read: 100_000, send: 3000, last: 1}.ask(t, c)
	r.look()
	r.want(p.peer4, 200_000+2*headBytes, 6000)
	r.want(p.own4, 6000, 200_000+2*headBytes)
	_ = c.Close()
}

// TestHidden is a kernel that does not tell its types.
func TestHidden(t *testing.T) {
	if tasktest.Role() == "hidden" {
		r := newRig(t, Config{}, os.Getpid())
		if r.report.State != source.Degraded {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
		t.Log(r.report.Reason())
		r.look()
		return
	}
	kerneltest.Require(t, probe.TpBTF)
	tasktest.Again(t, "hidden", "TestHidden", func(cmd *exec.Cmd) { cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS })
}

// TestOwnNamespace is an agent whose processes have other numbers than the kernel's programs
// tell: it does not go by these.
func TestOwnNamespace(t *testing.T) {
	if tasktest.Role() != "apart" {
		kerneltest.Require(t, oldest...)
		tasktest.Apart(t, "apart", "TestOwnNamespace")
		return
	}
	r := newRig(t, Config{}, os.Getpid())
	for range 2 {
		if r.report.State != source.Degraded || r.report.Fallback == "" || !strings.Contains(r.report.Why, "hostPID") {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
		r.look()
	}
}

// TestPrivilege runs as nobody, with the two capabilities that are asked for and with none.
func TestPrivilege(t *testing.T) {
	switch tasktest.Role() {
	case "capable":
		if r := newRig(t, Config{}, os.Getpid()); r.report.State != source.Active {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
		return
	case "nobody":
		if r := newRig(t, Config{}, os.Getpid()); r.report.State != source.Degraded || r.report.Errno == 0 {
			t.Errorf("%s: %s", r.report.State, r.report.Reason())
		}
		return
	}
	kerneltest.Require(t, oldest...)
	for role, caps := range map[string][]uintptr{"capable": {unix.CAP_BPF, unix.CAP_PERFMON}, "nobody": nil} {
		tasktest.Again(t, role, "TestPrivilege", func(cmd *exec.Cmd) {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
			cmd.SysProcAttr.AmbientCaps = caps
		})
	}
}

func TestNotKnown(t *testing.T) {
	f := New(Config{NoBPF: true})
	f.Start(t.Context(), &kernel.Env{Procfs: "/proc"})
	defer f.Close()
	var sink tasktest.Sink
	if r := f.Sample(context.Background(), source.Tick{Seq: 1, WallMs: 1, BootMs: 1}, &sink); r.State == source.Active {
		t.Error("active without a list of processes on GPUs")
	}
}
