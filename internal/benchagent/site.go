package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/flopwatch/flopwatch/internal/broker/natsd"
)

// site is our agent with all it needs: a driver of its own, a broker in a process of its
// own, and who commits.
type site struct {
	work    string
	port    int // the broker's
	token   string
	broker  *process
	commit  *committer
	driver  *driver
	agent   *process
	metrics string // URL
	plain   bool   // as before there were kernel features and bursts
	users   *customer
}

const (
	cluster = "bench"
	node    = "bench-node"
)

// setup is what a site is made of.
type setup struct {
	bin, stub, work string
	nccl            string // folder of the stub library of collectives
	plain           bool   // no kernel features, no bursts, and customers who do nothing
}

func startSite(ctx context.Context, g *group, o setup) (*site, error) {
	work := o.work
	if err := os.MkdirAll(filepath.Join(work, "agent"), 0o700); err != nil {
		return nil, fmt.Errorf("make working directory: %w", err)
	}
	s := &site{work: work, token: rand.Text(), plain: o.plain}
	var err error
	if o.plain {
		s.users, err = idle(g, work)
	} else {
		s.users, err = busy(ctx, g, work, o.nccl)
	}
	if err != nil {
		return nil, err
	}
	if s.port, err = freePort(ctx); err != nil {
		return nil, err
	}
	if err = os.WriteFile(s.tokenFile(), []byte(s.token), 0o600); err != nil {
		return nil, fmt.Errorf("write token: %w", err)
	}
	g.add(func() error { return s.stopBroker() })
	if err = s.startBroker(ctx); err != nil {
		return nil, err
	}
	if s.commit, err = newCommitter(ctx, s.url()); err != nil {
		return nil, err
	}
	commitCtx, stopCommit := context.WithCancel(ctx)
	committed := make(chan error, 1)
	go func() { committed <- s.commit.run(commitCtx) }() // ends with stopCommit
	g.add(func() error {
		stopCommit()
		defer s.commit.close()
		return <-committed
	})
	if s.driver, err = newDriver(filepath.Join(work, "agent", "driver"), o.stub, s.users.pids); err != nil {
		return nil, err
	}
	g.add(s.driver.close)
	if err = s.users.allocate(s.driver.uuids()); err != nil {
		return nil, err
	}
	metrics, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	s.metrics = "http://127.0.0.1:" + strconv.Itoa(metrics) + "/metrics"
	config := filepath.Join(work, "agent", "agent.toml")
	if err = os.WriteFile(config, []byte(s.config(o.bin, metrics)), 0o600); err != nil {
		return nil, fmt.Errorf("write the agent's configuration: %w", err)
	}
	env := []string{"PATH=" + os.Getenv("PATH")}
	if v, ok := os.LookupEnv("GODEBUG"); ok { // gctrace=1: what the heap does
		env = append(env, "GODEBUG="+v)
	}
	if s.agent, err = start("flopwatch-agent", filepath.Join(work, "agent"), env, filepath.Join(o.bin, "flopwatch-agent"), "-config", config); err != nil {
		return nil, err
	}
	g.add(s.agent.stop)
	return s, reachable(ctx, s.agent, "127.0.0.1:"+strconv.Itoa(metrics))
}

// Bursts are more frequent than anybody needs them: each minute of the window has one.
const everything = `
[burst]
every = "60s"
length = "10s"
spacing = "200ms"

[kernel]
enabled = true

[job]
slurm_dir = %q
`

const plain = `
[kernel]
enabled = false
`

func (s *site) config(bin string, metrics int) string {
	rest := plain
	if !s.plain {
		rest = fmt.Sprintf(everything, s.users.slurmDir)
	}
	return fmt.Sprintf(`cluster = %q
node = %q
data_dir = %q

[gpu]
enabled = true
library = %q
child = %q

[metrics]
listen = "127.0.0.1:%d"

[nats]
url = "nats://127.0.0.1:%d"
token_file = %q

[log]
level = "info"
`, cluster, node, filepath.Join(s.work, "agent", "data"), s.driver.library(), filepath.Join(bin, "flopwatch-nvml"), metrics, s.port, s.tokenFile()) + rest
}

func (s *site) contender() *contender {
	note := "everything on: all sources, kernel features, a burst of 10 s a minute, spool on disk, batches to NATS, its own metrics served and not asked for"
	if s.plain {
		note = "all sources but kernel features, no bursts, spool on disk, batches to NATS, its own metrics served and not asked for"
	}
	return &contender{
		name: "flopwatch-agent", version: "of this tree", note: note,
		stub: s.driver, proc: s.agent, ours: true,
	}
}

// states says what each instrument of the agent can see: its name, and a state other than
// active; of single GPUs such a state alone.
func (s *site) states(ctx context.Context) ([]string, error) {
	var text bytes.Buffer
	if _, err := fetch(ctx, s.metrics, &text); err != nil {
		return nil, fmt.Errorf("ask the agent for its metrics: %w", err)
	}
	var all []string
	for line := range strings.Lines(text.String()) {
		labels, ok := strings.CutPrefix(line, `flopwatch_agent_instrument_state{instrument="`)
		if !ok || !strings.HasSuffix(line, " 1\n") {
			continue
		}
		name, rest, _ := strings.Cut(labels, `",state="`)
		if state, _, _ := strings.Cut(rest, `"`); state != "active" {
			name += " " + state
		} else if strings.HasPrefix(name, "gpu/") {
			continue
		}
		all = append(all, name)
	}
	return all, nil
}

func (s *site) tokenFile() string { return filepath.Join(s.work, "token") }

func (s *site) url() string { return fmt.Sprintf("nats://%s@127.0.0.1:%d", s.token, s.port) }

func (s *site) startBroker(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start broker: %w", err)
	}
	dir := filepath.Join(s.work, "nats")
	if s.broker, err = start("broker", s.work, []string{"PATH=" + os.Getenv("PATH")}, self, "broker", "-dir", dir, "-port", strconv.Itoa(s.port), "-token-file", s.tokenFile()); err != nil {
		return err
	}
	return reachable(ctx, s.broker, "127.0.0.1:"+strconv.Itoa(s.port))
}

func (s *site) stopBroker() error {
	if s.broker == nil {
		return nil
	}
	err := s.broker.stop()
	s.broker = nil
	return err
}

// runBroker is the broker's process.
func runBroker(ctx context.Context, dir string, port int, tokenFile string) error {
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return fmt.Errorf("read token: %w", err)
	}
	s, err := natsd.StartServer(ctx, natsd.ServerConfig{Dir: dir, Port: port, Token: string(token)})
	if err != nil {
		return err // it says what failed
	}
	<-ctx.Done()
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(s.Stop(stopCtx))
}
