package deploy_test

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/deploy/nats"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// boot starts a systemd that has this machine's files, under an overlay that ends with it,
// and its network. $1 is the repository, which it sees as /mnt; $2 a scratch folder; $3 is
// user for a manager without a process namespace of its own.
//
//go:embed testdata/boot.sh
var boot string

// guest is a running systemd.
type guest struct {
	pid  string
	user bool // it manages as systemd --user does, among the machine's processes
}

// newUserGuest starts a systemd that has the machine's process numbers, as programs in the
// kernel tell them. It is root's, so users, capabilities and sandboxes of units are as of a
// system's.
func newUserGuest(t *testing.T) *guest {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--uts", "--ipc", "--cgroup", "bash", "-c", boot, "boot", testenv.Root(t), t.TempDir(), "user")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it stops its units first
	cmd.WaitDelay = 30 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait() // stopped by the test's context
		t.Log(out.String())
	})
	g := &guest{pid: strconv.Itoa(cmd.Process.Pid), user: true}
	wait(t, "systemd runs", func() bool {
		state, _ := g.try(t, "systemctl", "--user", "is-system-running") // it fails until it does
		return strings.HasPrefix(state, "running") || strings.HasPrefix(state, "degraded")
	})
	return g
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child", "bash", "-c", boot, "boot", testenv.Root(t), t.TempDir())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // and its init with it
		_ = cmd.Wait()         // killed
	})
	g := &guest{}
	wait(t, "systemd runs", func() bool {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		g.pid = strings.TrimSpace(string(children))
		if g.pid == "" {
			return false
		}
		state, _ := g.try(t, "systemctl", "is-system-running") // it fails until it does
		return strings.HasPrefix(state, "running") || strings.HasPrefix(state, "degraded")
	})
	return g
}

func (g *guest) try(t *testing.T, args ...string) (string, error) {
	t.Helper()
	enter := []string{"-t", g.pid, "-m", "-u", "-i", "-C", "-r", "-w"}
	if !g.user {
		enter = append(enter, "-p")
	}
	return command(t, []string{"SYSTEMD_PAGER=", "XDG_RUNTIME_DIR=/run/user/0"}, "nsenter", append(enter, args...)...)
}

func (g *guest) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := g.try(t, args...)
	if err != nil {
		journal, _ := g.try(t, "journalctl", "--no-pager", "-o", "cat", "-n", "40", "-p", "info") // what it has
		t.Fatalf("%v: %v\n%s\n%s", args, err, out, journal)
	}
	return out
}

// shows gives properties of the agent's unit.
func (g *guest) shows(t *testing.T, property string) string {
	t.Helper()
	return g.showsOf(t, "flopwatch-agent", property)
}

func (g *guest) showsOf(t *testing.T, unit, property string) string {
	t.Helper()
	return strings.TrimSpace(g.run(t, "systemctl", "show", map[bool]string{true: "--user", false: "--system"}[g.user], "-P", property, unit))
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// TestAgentUnderSystemd installs, starts, reloads, kills, stops and uninstalls the agent's
// unit under a real systemd, with fake GPUs and a NATS server on the fleet's configuration:
// the sandbox lets it do its work. It needs root and namespaces, so it runs only where
// FLOPWATCH_REQUIRE lists systemd-boot.
func TestAgentUnderSystemd(t *testing.T) {
	if !testenv.Required("systemd-boot") {
		testenv.Need(t, "systemd-boot", errors.New("runs only if it is asked for, as root"))
	}
	root := testenv.Root(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}

	// A server on the shipped configuration, and this node as a user of it.
	conf := t.TempDir()
	node := nats.User{Role: nats.Node, Cluster: "main", Name: host}
	keeper := nats.User{Role: nats.Collector}
	for _, u := range []*nats.User{&node, &keeper} {
		if u.Key, err = nats.Key(filepath.Join(conf, string(u.Role)+".nk")); err != nil {
			t.Fatal(err)
		}
		if err = nats.Add(conf, *u); err != nil {
			t.Fatal(err)
		}
	}
	o, err := server.ProcessConfigFile(filepath.Join(conf, "flopwatch.conf"))
	if err != nil {
		t.Fatal(err)
	}
	o.Host, o.Port, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, t.TempDir(), true, true
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	defer srv.Shutdown()
	if !srv.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server is not ready")
	}
	nc, err := broker.Connect(broker.ConnectConfig{URL: srv.ClientURL(), NKeyFile: filepath.Join(conf, "collector.nk"), InboxPrefix: keeper.InboxPrefix()})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err = broker.EnsureStreams(t.Context(), js, broker.StreamsConfig{Partitions: broker.ClusterPartitions}); err != nil {
		t.Fatal(err)
	}
	messages := func() uint64 {
		s, err := js.Stream(t.Context(), broker.NodeStream(wire.Partition(host, broker.ClusterPartitions)))
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}

	// Eight fake GPUs, in a folder that the guest sees.
	stub := filepath.Join(root, ".cache", "try-unit")
	library := stubbed(t, stub)
	defer func() { _ = os.RemoveAll(stub) }() // scratch

	g := newGuest(t)
	t.Log(g.run(t, "env", "BUILD=/mnt/.cache/try-unit/bin", "COMPONENTS=agent", "bash", "/mnt/deploy/install.sh", "install"))
	if got := strings.TrimSpace(g.run(t, "stat", "-c", "%a %U %G", "/etc/flopwatch/flopwatch-agent.toml")); got != "640 root flopwatch-agent" {
		t.Errorf("configuration: %s", got)
	}
	const state = "/var/lib/flopwatch-agent"
	listen := freePort(t)
	text := with(t, map[string]string{
		"library": state + "/stub/" + filepath.Base(library), "url": srv.ClientURL(), "nkey_file": "/etc/flopwatch/agent.nk", "site_key_file": "/etc/flopwatch/site.key", "listen": listen, "seal_every": "2s",
	})
	write(t, filepath.Join(stub, "agent.toml"), text)
	write(t, filepath.Join(stub, "agent.nk"), read(t, filepath.Join(conf, "node.nk")))
	g.run(t, "bash", "-euc", `
		cp /mnt/.cache/try-unit/agent.toml /etc/flopwatch/flopwatch-agent.toml
		install -o flopwatch-agent -m 0400 /mnt/.cache/try-unit/agent.nk /etc/flopwatch/agent.nk
		head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' > /tmp/site.key
		install -o flopwatch-agent -m 0400 /tmp/site.key /etc/flopwatch/site.key
		install -d -o flopwatch-agent -g flopwatch-agent -m 0700 `+state+` `+state+`/stub
		cp /mnt/.cache/try-unit/libnvidia-ml.so.1 /mnt/.cache/try-unit/nvml.shm `+state+`/stub/
		chown -R flopwatch-agent: `+state)

	g.run(t, "systemctl", "start", "flopwatch-agent") // Type=notify: it returns when the agent says so
	t.Logf("%s: %s", g.shows(t, "ActiveState"), g.shows(t, "StatusText"))
	wait(t, "batches arrive", func() bool { return messages() >= 3 })
	got := gpusIn(t, js, host)
	if got != 8 {
		t.Errorf("%d GPUs in the batches of %s, want 8", got, host)
	}
	main := g.shows(t, "MainPID")
	g.holds(t, 0)
	t.Logf("tasks %s, memory %s bytes", g.shows(t, "TasksCurrent"), g.shows(t, "MemoryCurrent"))

	g.run(t, "systemctl", "reload", "flopwatch-agent")
	if pid := g.shows(t, "MainPID"); pid != main {
		t.Errorf("a reload made process %s of %s", pid, main)
	}
	g.run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", "flopwatch-agent")
	wait(t, "a restart", func() bool { return g.shows(t, "NRestarts") == "1" && g.shows(t, "ActiveState") == "active" })
	before := messages()
	wait(t, "batches arrive again", func() bool { return messages() > before+1 })
	g.run(t, "systemctl", "stop", "flopwatch-agent") // no collector took anything: the spool keeps it
	if result, code := g.shows(t, "Result"), g.shows(t, "ExecMainStatus"); result != "success" || code != "0" {
		t.Errorf("stopped: %s, exit code %s", result, code)
	}
	refused := g.run(t, "journalctl", "--no-pager", "-o", "cat", "-t", "flopwatch-agent")
	if regexp.MustCompile(`(?i)operation not permitted|permission denied|permissions violation`).MatchString(refused) {
		t.Errorf("the sandbox or the broker refused something:\n%s", refused)
	}
	g.withKernel(t, listen)
	out := g.run(t, "bash", "/mnt/deploy/install.sh", "uninstall")
	t.Log(out)
	if !strings.Contains(out, "kept     /etc/flopwatch/flopwatch-agent.toml, which was edited") || !strings.Contains(out, "kept     "+state+", the data") {
		t.Errorf("it does not say what it kept:\n%s", out)
	}
}

// holds checks who the agent and its child are, and that the agent has these capabilities
// and no other, and the child none.
func (g *guest) holds(t *testing.T, capabilities uint64) {
	t.Helper()
	main := g.shows(t, "MainPID")
	children := strings.Fields(g.run(t, "pgrep", "-P", main))
	if len(children) != 1 {
		t.Errorf("the agent's children: %v", children)
	}
	for _, pid := range append(children, main) {
		effective := uint64(0)
		if pid == main {
			effective = capabilities
		}
		status := g.run(t, "grep", "-E", "^(Name|Uid|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp|VmRSS):", "/proc/"+pid+"/status")
		t.Log(strings.Join(strings.Fields(status), " "))
		for what, v := range map[string]uint64{"CapPrm": effective, "CapEff": effective, "CapAmb": effective, "CapBnd": capabilities} {
			if want := fmt.Sprintf("%s:\t%016x\n", what, v); !strings.Contains(status, want) {
				t.Errorf("process %s lacks %q", pid, want)
			}
		}
		for _, want := range []string{`NoNewPrivs:\s+1\n`, `Seccomp:\s+2\n`} {
			if !regexp.MustCompile(want).MatchString(status) {
				t.Errorf("process %s lacks %s", pid, want)
			}
		}
		if regexp.MustCompile(`Uid:\s+0\s`).MatchString(status) {
			t.Errorf("process %s is root", pid)
		}
	}
}

const withKernelConf = 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON | 1<<unix.CAP_SYS_PTRACE

// TestKernelUnderSystemd has the unit with kernel.conf among the machine's processes: all that
// [kernel] is for works inside of the sandbox. What a system's unit needs beside that is
// TestAgentUnderSystemd's.
func TestKernelUnderSystemd(t *testing.T) {
	if !testenv.Required("systemd-boot") {
		testenv.Need(t, "systemd-boot", errors.New("runs only if it is asked for, as root"))
	}
	stub := filepath.Join(testenv.Root(t), ".cache", "try-kernel")
	defer func() { _ = os.RemoveAll(stub) }() // scratch
	library := stubbed(t, stub)
	const state = "/var/lib/flopwatch-agent"
	listen := freePort(t)
	write(t, filepath.Join(stub, "agent.toml"), with(t, map[string]string{"library": state + "/stub/" + filepath.Base(library), "url": "nats://" + freePort(t), "listen": listen}))
	g := newUserGuest(t)
	// This manager has folders of units and of state of its own, and its socket for notes is
	// where the unit does not see it.
	t.Log(g.run(t, "env", "DESTDIR=/stage", "BUILD=/mnt/.cache/try-kernel/bin", "COMPONENTS=agent", "bash", "-euc", `
		bash /mnt/deploy/install.sh install
		cp -r /stage/. /
		systemd-sysusers /usr/local/lib/sysusers.d/flopwatch-agent.conf
		cp /mnt/.cache/try-kernel/agent.toml /etc/flopwatch/flopwatch-agent.toml
		chown root:flopwatch-agent /etc/flopwatch/flopwatch-agent.toml
		install -d -o flopwatch-agent -g flopwatch-agent -m 0700 `+state+` `+state+`/stub
		cp /mnt/.cache/try-kernel/libnvidia-ml.so.1 /mnt/.cache/try-kernel/nvml.shm `+state+`/stub/
		chown -R flopwatch-agent: `+state+`
		units=/run/config/systemd/user
		mkdir -p $units
		cp -r /usr/local/lib/systemd/system/flopwatch-agent.service* $units/
		cp /usr/local/lib/flopwatch/kernel.conf $units/flopwatch-agent.service.d/
		printf '[Service]\nType=exec\nWatchdogSec=0\nStateDirectory=\nReadWritePaths=`+state+`\nStandardOutput=append:/run/agent.log\nStandardError=append:/run/agent.log\n' > $units/flopwatch-agent.service.d/zz.conf
		systemctl --user daemon-reload
		systemctl --user start flopwatch-agent || { systemctl --user status --no-pager flopwatch-agent || true; cat /run/agent.log; exit 1; }`))
	defer func() { t.Log(g.run(t, "cat", "/run/agent.log")) }()
	// Degraded: some library of another user's may be out of reach.
	tells(t, listen, map[string]string{"gpu": "active", "job": "active", "kernel/file": "active", "kernel/proc": "active", "kernel/sock": "active", "kernel/nccl": "active degraded"})
	g.holds(t, withKernelConf)
	g.run(t, "systemctl", "--user", "stop", "flopwatch-agent")
	if result, code := g.shows(t, "Result"), g.shows(t, "ExecMainStatus"); result != "success" || code != "0" {
		t.Errorf("stopped: %s, exit code %s", result, code)
	}
}

// withKernel grants the agent what [kernel] needs, as README.md says it, and looks at what it
// then sees.
func (g *guest) withKernel(t *testing.T, listen string) {
	t.Helper()
	g.run(t, "bash", "-euc", `
		install -D -m 0644 /usr/local/lib/flopwatch/kernel.conf /etc/systemd/system/flopwatch-agent.service.d/kernel.conf
		systemctl daemon-reload
		systemctl start flopwatch-agent`)
	// This systemd has a process namespace of its own, in which nccl knows that it would take
	// processes for others; TestKernelUnderSystemd has the machine's.
	wants := map[string]string{"gpu": "active", "kernel/file": "active", "kernel/nccl": "unavailable", "kernel/proc": "active", "kernel/sock": "active"}
	tells(t, listen, wants)
	g.holds(t, withKernelConf)

	// A probe that is really hit, in the same sandbox: the doctor in the unit's place.
	g.run(t, "bash", "-euc", `
		systemctl stop flopwatch-agent
		cd /etc/systemd/system
		cp /usr/local/lib/systemd/system/flopwatch-agent.service flopwatch-doctor.service
		cp -r flopwatch-agent.service.d flopwatch-doctor.service.d
		cat > flopwatch-doctor.service.d/zz.conf <<- END
			[Service]
			Type=oneshot
			Restart=no
			WatchdogSec=0
			StandardOutput=truncate:/run/doctor.txt
			ExecStart=
			ExecStart=/usr/local/bin/flopwatch-agent doctor -bench -config /etc/flopwatch/flopwatch-agent.toml
		END
		systemctl daemon-reload
		systemctl start flopwatch-doctor`)
	said := g.run(t, "cat", "/run/doctor.txt")
	t.Log(said)
	for _, want := range []string{`has  CAP_BPF `, `has  CAP_PERFMON `, `has  CAP_SYS_PTRACE `, `-    CAP_SYS_ADMIN `, `uprobe_multi \+4 +\d+ ns a call`, `ok   broker +connected`} {
		if !regexp.MustCompile(want).MatchString(said) {
			t.Errorf("the doctor does not say %s", want)
		}
	}
	g.run(t, "bash", "-euc", "rm -r /etc/systemd/system/flopwatch-*.service*; systemctl daemon-reload")
}

// gpusIn counts the GPUs that the node's batches tell of.
func gpusIn(t *testing.T, js jetstream.JetStream, node string) int {
	t.Helper()
	dec, err := wire.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	stream := broker.NodeStream(wire.Partition(node, broker.ClusterPartitions))
	c, err := js.CreateConsumer(t.Context(), stream, jetstream.ConsumerConfig{Durable: "collector", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Fetch(20, jetstream.FetchMaxWait(3*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	uuids := map[string]bool{}
	for m := range got.Messages() {
		var b wire.Batch
		if err := dec.Decode(m.Data(), &b); err != nil {
			t.Fatal(err)
		}
		for i := range b.Tables {
			if b.Tables[i].Kind != wire.KindGPU {
				continue
			}
			for row, uuid := 0, b.Tables[i].Column(2); row < b.Tables[i].Rows; row++ {
				uuids[uuid.Str(row)] = true
			}
		}
	}
	return len(uuids)
}
