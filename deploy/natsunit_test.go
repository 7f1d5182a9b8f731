package deploy_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/deploy/nats"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/testenv"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestNATSUnderSystemd installs, starts, reloads, kills, fills up and stops the broker's unit under
// a real systemd: the sandbox lets it serve, and a disk that was full costs a restart and nothing
// else. It needs root and namespaces, so it runs only where FLOPWATCH_REQUIRE lists systemd-boot.
func TestNATSUnderSystemd(t *testing.T) {
	if !testenv.Required("systemd-boot") {
		testenv.Need(t, "systemd-boot", errors.New("runs only if it is asked for, as root"))
	}
	scratch := filepath.Join(testenv.Root(t), ".cache", "try-nats") // the guest sees it
	defer func() { _ = os.RemoveAll(scratch) }()                    // scratch
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(scratch, "bin", "flopwatch"), "./cmd/flopwatch")
	build.Dir, build.Env = testenv.Root(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	seeds := t.TempDir()
	key := func(name string) string {
		public, err := nats.Key(filepath.Join(seeds, name))
		if err != nil {
			t.Fatal(err)
		}
		return public
	}

	g := newGuest(t)
	t.Log(g.run(t, "env", "BUILD=/mnt/.cache/try-nats/bin", "COMPONENTS=nats", "bash", "/mnt/deploy/install.sh", "install"))
	const unit = "flopwatch-nats"
	address := freePort(t)
	// As deploy/README.md says it; the disk of the streams is a small one of their own.
	g.run(t, "bash", "-euc", `
		flopwatch nats-user init
		flopwatch nats-user add --role collector --key `+key("collector")+`
		flopwatch nats-user add --role node --cluster main --node a --key `+key("a")+`
		sed -i 's/^listen: .*/listen: "`+address+`"/' /etc/flopwatch/nats/flopwatch.conf
		mkdir -p /var/lib/nats/flopwatch
		mount -t tmpfs -o size=64m tmpfs /var/lib/nats/flopwatch
		systemctl start `+unit)
	connect := func(u nats.User, seed string) jetstream.JetStream {
		var nc *client.Conn
		wait(t, "a connection of "+u.InboxPrefix(), func() (ok bool) {
			var err error
			nc, err = broker.Connect(broker.ConnectConfig{URL: "nats://" + address, NKeyFile: filepath.Join(seeds, seed), InboxPrefix: u.InboxPrefix()})
			return err == nil
		})
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	keeper := connect(nats.User{Role: nats.Collector}, "collector")
	if err := broker.EnsureStreams(t.Context(), keeper, broker.StreamsConfig{Partitions: broker.ClusterPartitions}); err != nil {
		t.Fatal(err)
	}
	publish := func(js jetstream.JetStream, node string, bytes int) error {
		_, err := js.Publish(t.Context(), wire.NodeSubject("main", node), make([]byte, bytes), jetstream.WithRetryAttempts(0))
		return err
	}
	messages := func(node string) uint64 {
		s, err := keeper.Stream(t.Context(), broker.NodeStream(wire.Partition(node, broker.ClusterPartitions)))
		if err != nil {
			return 0 // away
		}
		return s.CachedInfo().State.Msgs
	}
	a := connect(nats.User{Role: nats.Node, Cluster: "main", Name: "a"}, "a")
	if err := publish(a, "a", 10); err != nil {
		t.Fatal(err)
	}
	main := g.showsOf(t, unit, "MainPID")
	status := g.run(t, "grep", "-E", "^(Uid|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp|VmRSS):", "/proc/"+main+"/status")
	t.Log(strings.Join(strings.Fields(status), " "), "owner", g.run(t, "stat", "-c", "%U %a", "/var/lib/nats/flopwatch"))
	for _, want := range []string{`CapPrm:\s+0+\n`, `CapEff:\s+0+\n`, `CapBnd:\s+0+\n`, `CapAmb:\s+0+\n`, `NoNewPrivs:\s+1\n`, `Seccomp:\s+2\n`, `Uid:\s+[1-9]`} {
		if !regexp.MustCompile(want).MatchString(status) {
			t.Errorf("the server lacks %s", want)
		}
	}

	// One more host, while it runs.
	g.run(t, "bash", "-euc", `
		flopwatch nats-user add --role node --cluster main --node b --key `+key("b")+`
		systemctl reload `+unit)
	if err := publish(connect(nats.User{Role: nats.Node, Cluster: "main", Name: "b"}, "b"), "b", 10); err != nil {
		t.Error(err)
	}
	if pid := g.showsOf(t, unit, "MainPID"); pid != main {
		t.Errorf("a reload made process %s of %s", pid, main)
	}
	restarted := func(times string) func() bool {
		return func() bool {
			return g.showsOf(t, unit, "NRestarts") == times && g.showsOf(t, unit, "ActiveState") == "active"
		}
	}
	g.run(t, "systemctl", "kill", "-s", "KILL", "--kill-whom=main", unit)
	wait(t, "a restart", restarted("1"))
	wait(t, "the message from before", func() bool { return messages("a") == 1 })

	// No room: it refuses, and takes no more of that stream even when there is. Then it is started again.
	g.run(t, "bash", "-uc", "head -c 64M /dev/zero > /var/lib/nats/flopwatch/filler || true")
	taken := uint64(1)
	wait(t, "a refusal", func() bool {
		err := publish(a, "a", 256<<10)
		if err == nil {
			taken++
		}
		return err != nil
	})
	if n := g.showsOf(t, unit, "NRestarts"); n != "1" {
		t.Errorf("%s restarts while the disk is full", n)
	}
	g.run(t, "rm", "/var/lib/nats/flopwatch/filler")
	wait(t, "a restart when there is room", restarted("2"))
	wait(t, "a message is taken again", func() bool { return publish(a, "a", 10) == nil })
	if n := messages("a"); n < taken+1 {
		t.Errorf("%d messages of a, and %d were acknowledged", n, taken+1)
	}

	began := time.Now()
	g.run(t, "systemctl", "stop", unit)
	if result, code := g.showsOf(t, unit, "Result"), g.showsOf(t, unit, "ExecMainStatus"); result != "success" || code != "0" {
		t.Errorf("stopped: %s, exit code %s", result, code)
	}
	t.Logf("stopped in %s", time.Since(began).Round(time.Millisecond))
	journal := g.run(t, "journalctl", "--no-pager", "-o", "cat", "-t", "flopwatch")
	t.Log(journal)
	if regexp.MustCompile(`(?i)operation not permitted|permission denied|permissions violation`).MatchString(journal) {
		t.Error("the sandbox or the server's permissions refused something")
	}
	if !strings.Contains(journal, "the disk was full") {
		t.Error("the journal does not say why it was started again")
	}
	out := g.run(t, "bash", "/mnt/deploy/install.sh", "uninstall")
	t.Log(out)
	if !strings.Contains(out, "kept     /var/lib/nats/flopwatch, the data") || !strings.Contains(out, "kept     /etc/flopwatch/nats, the users") {
		t.Errorf("it does not say what it kept:\n%s", out)
	}
}
