package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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
}

const (
	cluster = "bench"
	node    = "bench-node"
)

func startSite(ctx context.Context, g *group, bin, stub, work string, pids []uint32) (*site, error) {
	if err := os.MkdirAll(filepath.Join(work, "agent"), 0o700); err != nil {
		return nil, fmt.Errorf("make working directory: %w", err)
	}
	s := &site{work: work, token: rand.Text()}
	var err error
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
	if s.driver, err = newDriver(filepath.Join(work, "agent", "driver"), stub, pids); err != nil {
		return nil, err
	}
	g.add(s.driver.close)
	metrics, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	s.metrics = "http://127.0.0.1:" + strconv.Itoa(metrics) + "/metrics"
	config := filepath.Join(work, "agent", "agent.toml")
	if err = os.WriteFile(config, []byte(s.config(bin, metrics)), 0o600); err != nil {
		return nil, fmt.Errorf("write the agent's configuration: %w", err)
	}
	env := []string{"PATH=" + os.Getenv("PATH")}
	if v, ok := os.LookupEnv("GODEBUG"); ok { // gctrace=1: what the heap does
		env = append(env, "GODEBUG="+v)
	}
	if s.agent, err = start("flopwatch-agent", filepath.Join(work, "agent"), env, filepath.Join(bin, "flopwatch-agent"), "-config", config); err != nil {
		return nil, err
	}
	g.add(s.agent.stop)
	return s, reachable(ctx, s.agent, "127.0.0.1:"+strconv.Itoa(metrics))
}

func (s *site) config(bin string, metrics int) string {
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
`, cluster, node, filepath.Join(s.work, "agent", "data"), s.driver.library(), filepath.Join(bin, "flopwatch-nvml"), metrics, s.port, s.tokenFile())
}

func (s *site) contender() *contender {
	return &contender{
		name: "flopwatch-agent", version: "of this tree", note: "all sources on, spool on disk, batches to NATS, its own metrics served and not asked for",
		stub: s.driver, proc: s.agent, ours: true,
	}
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
