package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	"github.com/flopwatch/flopwatch/internal/broker"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/loadgen"
	"github.com/flopwatch/flopwatch/internal/store"
)

// loadgenOptions are the flags.
type loadgenOptions struct {
	cfg    loadgen.Config
	search loadgen.Search
	find   bool
	local  localOptions

	url, creds, token, nkey, ca string
	store                       store.Config
	storePassword               string
	watch                       []string
	metrics, output             string
	seed                        int64
}

func newLoadgenCommand() *cobra.Command {
	var o loadgenOptions
	cmd := &cobra.Command{
		Use:   "loadgen --nats URL | --local DIR",
		Short: "Load a broker, a collector and a store as a fleet of GPU hosts does, and find what they bear",
		Long: `Loadgen is so many agents in one process: their frames, chains, signatures, kinds of rows, intervals, acks, commit
marks, back-off and backlog are the agents' own code. Values are invented, rows are drawn when they are sealed, and
spools are in memory; nothing else is left out (internal/loadgen says it all). It reports what was published,
acknowledged and committed, how long that took, and what it cost itself.

The exit code is 1 where a frame took longer than --max-lag from its seal to its commit mark, or where not everything
was committed. Ctrl-C ends the seals, waits for what is on its way, and reports.

  loadgen --local DIR --nodes 500 --for 2m         broker, engine and collector of their own on this machine, and
                                                   what each of them takes of the processors
  loadgen --local DIR --find-ceiling               how many GPUs this machine bears
  loadgen --nats URL --token-file F --nodes 50     a broker that is there; all hosts sign in as one user, who may do
                                                   what any node may: an administrator of the account, for tests
  loadgen --nats URL --nkeys DIR --nodes 50        each host with the key DIR/HOST.nk, as itself alone
                                                   (loadgen users makes them)

Its hosts are a cluster of their own (--cluster): give it a store of its own, or remember whose rows these are.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd); err != nil {
				return usageError{Err: err}
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	c := &o.cfg
	f.IntVar(&c.Nodes, "nodes", 10, "hosts; with --find-ceiling those of the first step, which is followed by larger or smaller ones")
	f.IntVar(&c.GPUs, "gpus", 8, "GPUs of a host")
	f.Float64Var(&c.Rate, "rate", 1, "samples a second")
	f.DurationVar(&c.SealEvery, "seal-every", 20*time.Second, "how long samples wait for their frame, as in the agent's configuration")
	f.DurationVar(&c.For, "for", time.Minute, "how long hosts send, their start included")
	f.DurationVar(&c.Ramp, "ramp", 0, "time over which hosts start (default: --seal-every, which spreads their frames evenly)")
	f.BoolVar(&c.Together, "together", false, "all hosts send at the same moments, as no fleet does")
	f.StringVar(&c.Cluster, "cluster", "loadgen", "cluster of the hosts")
	f.StringVar(&c.Prefix, "prefix", "lg", "beginning of the hosts' names")
	f.Int64Var(&o.seed, "seed", 1, "what the invented hosts are made from")
	f.BoolVar(&c.Plain, "plain", false, "samples of GPUs alone, without the other kinds of rows")
	f.DurationVar(&c.MaxLag, "max-lag", 10*time.Second, "what a frame may take from its seal to its commit mark")
	f.DurationVar(&c.Drain, "drain", time.Minute, "how long to wait at the end for what is on its way")
	f.Int64Var(&c.SpoolBytes, "spool-bytes", 1<<20, "what a host keeps in memory; beyond it the oldest is given up, and said")
	f.IntVar(&c.Connections, "connections", 0, "connections that all hosts share (default: one each, as agents have)")
	f.IntVar(&c.Workers, "workers", 0, "goroutines that invent and seal (default: one a processor)")
	f.StringVar(&o.url, "nats", "", "URL of the broker, nats://HOST:PORT or tls://HOST:PORT")
	f.StringVar(&o.token, "token-file", "", "file with the broker's token")
	f.StringVar(&o.creds, "nats-creds", "", "file with the credentials (JWT and key) of a user for all hosts")
	f.StringVar(&o.nkey, "nkey-file", "", "file with the seed of a user for all hosts")
	f.StringVar(&o.ca, "root-ca-file", "", "authority of the broker's certificate")
	f.StringVar(&c.NKeys, "nkeys", "", "folder with one seed a host, HOST.nk")
	f.StringVar(&o.store.URL, "clickhouse", "", "URL of the ClickHouse behind the collector: measures when rows are visible, and counts them at the end")
	f.StringVar(&o.store.User, "clickhouse-user", "", "user for --clickhouse")
	f.StringVar(&o.storePassword, "clickhouse-password-file", "", "file with the password for --clickhouse")
	f.StringVar(&o.store.Database, "database", "", "database of flopwatch's tables in --clickhouse (default flopwatch)")
	f.StringArrayVar(&o.watch, "watch", nil, "NAME=PID: tell what this process of this machine takes too (several times)")
	f.StringVar(&o.metrics, "metrics", "", "address to serve own /metrics on")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
	f.BoolVar(&o.find, "find-ceiling", false, "grow the fleet until the lag bound breaks or the collector falls behind; or shrink it until neither does")
	f.Float64Var(&o.search.Growth, "growth", 1.5, "--find-ceiling: by how much from step to step")
	f.DurationVar(&o.search.Step, "step", time.Minute, "--find-ceiling: how long a step is measured")
	f.IntVar(&o.search.Refine, "refine", 2, "--find-ceiling: how often the last way is halved")
	f.IntVar(&o.search.MaxNodes, "max-nodes", 50_000, "--find-ceiling: where to end")
	f.StringVar(&o.local.dir, "local", "", "start a broker, an engine and a collector of their own on this machine, with their data in `DIR`, which is kept")
	f.IntVar(&o.local.partitions, "partitions", 4, "--local: streams, and goroutines of the collector")
	f.StringVar(&o.local.engine, "engine", "", "--local: libchdb.so (default: engine/libchdb.so beside this binary)")
	cmd.AddCommand(newLoadgenUsersCommand())
	return cmd
}

// check reads what can be read before anything is asked.
func (o *loadgenOptions) check(cmd *cobra.Command) error {
	c := &o.cfg
	c.Seed = uint64(o.seed)
	switch {
	case o.output != "text" && o.output != "json":
		return fmt.Errorf("--output %s: wanted text or json", o.output)
	case o.url == "" && o.local.dir == "":
		return errors.New("--nats URL is needed, or --local DIR, which starts a broker of its own")
	case o.url != "" && o.local.dir != "":
		return errors.New("--local starts a broker of its own: --nats names another")
	case o.local.dir != "" && (o.store.URL != "" || c.NKeys != "" || o.token != "" || o.creds != "" || o.nkey != ""):
		return errors.New("--local has a store and a user of its own: --clickhouse, --nkeys, --token-file, --nats-creds and --nkey-file are for other brokers")
	case c.NKeys != "" && (o.token != "" || o.creds != "" || o.nkey != ""):
		return errors.New("--nkeys is how each host signs in: --token-file, --nats-creds and --nkey-file are for one user")
	case c.NKeys == "" && o.url != "" && boolInt(o.token != "")+boolInt(o.creds != "")+boolInt(o.nkey != "") > 1:
		return errors.New("one of --token-file, --nats-creds and --nkey-file is enough")
	}
	if c.Ramp == 0 && !cmd.Flags().Changed("ramp") {
		c.Ramp = min(c.SealEvery, c.For/2)
	}
	for _, w := range o.watch {
		name, pid, ok := strings.Cut(w, "=")
		n, err := strconv.Atoi(pid)
		if !ok || name == "" || err != nil || n <= 0 {
			return fmt.Errorf("--watch %s: wanted NAME=PID", w)
		}
		c.Watch = append(c.Watch, loadgen.Process{Name: name, PID: n})
	}
	at := o.url
	if at == "" {
		at = "nats://127.0.0.1"
	}
	c.Broker = broker.ConnectConfig{URL: at, CredsFile: o.creds, TokenFile: o.token, NKeyFile: o.nkey, RootCAFile: o.ca}
	if o.store.URL != "" {
		if err := o.store.Validate(); err != nil {
			return fmt.Errorf("--clickhouse, --database: %w", err)
		}
	}
	for name, v := range map[string]int64{"nodes": int64(c.Nodes), "gpus": int64(c.GPUs), "spool-bytes": c.SpoolBytes, "for": int64(c.For), "seal-every": int64(c.SealEvery), "max-lag": int64(c.MaxLag), "drain": int64(c.Drain)} {
		if v <= 0 {
			return fmt.Errorf("--%s must be more than 0", name)
		}
	}
	if c.Rate == 0 {
		return errors.New("--rate must be more than 0")
	}
	// A host has a connection, and a broker or engine in this tree has its own limit.
	most, err := enoughFiles(c, o.find && cmd.Flags().Changed("max-nodes"), o.search.MaxNodes)
	if err != nil {
		return err
	}
	o.search.MaxNodes = min(o.search.MaxNodes, most)
	return c.Validate()
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (o *loadgenOptions) run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	c := &o.cfg
	c.Log = textLog(stderr)
	if o.local.dir != "" {
		l, lerr := startLocal(ctx, o.local, stderr)
		if lerr != nil {
			return lerr
		}
		defer func() { err = errors.Join(err, l.stop()) }()
		c.Broker.URL, c.Broker.TokenFile = l.natsURL, l.token
		c.Watch = append(l.watch, c.Watch...)
		o.store, o.storePassword = l.store, l.password
	}
	if o.store.URL != "" {
		if o.storePassword != "" {
			password, rerr := os.ReadFile(o.storePassword)
			if rerr != nil {
				return fmt.Errorf("read --clickhouse-password-file: %w", rerr)
			}
			o.store.Password = strings.TrimRight(string(password), "\r\n")
		}
		st, serr := store.Open(ctx, o.store)
		if serr != nil {
			return fmt.Errorf("--clickhouse: %w", serr)
		}
		defer func() { err = errors.Join(err, st.Close()) }()
		c.Store = st
	}
	page := &loadgenPage{}
	if o.metrics != "" {
		stop, merr := page.serve(ctx, o.metrics)
		if merr != nil {
			return fmt.Errorf("--metrics: %w", merr)
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	said := time.Now()
	say := func(s loadgen.Snapshot) {
		page.set(s)
		if time.Since(said) < 5*time.Second {
			return
		}
		said = time.Now()
		_, _ = fmt.Fprintln(stderr, progressLine(&s)) // nothing depends on it
	}
	var r *loadgen.Report
	if o.find {
		r, err = loadgen.FindCeiling(ctx, *c, o.search, say, func(st loadgen.Step) { _, _ = fmt.Fprintln(stderr, stepLine(&st)) })
	} else {
		r, err = loadgen.Run(ctx, *c, say)
	}
	switch {
	case errors.Is(err, nats.ErrAuthorization):
		err = fmt.Errorf("sign in to nats at %s: %w (--token-file, --nats-creds, --nkey-file, --nkeys)", host(c.Broker.URL), err)
	case err != nil && r == nil && strings.Contains(err.Error(), "connect to broker"):
		err = fmt.Errorf("nats at %s: %w", host(c.Broker.URL), err)
	}
	if r == nil {
		return err
	}
	if perr := printLoadgen(stdout, r, o.output); perr != nil {
		return errors.Join(err, perr)
	}
	return err
}

func printLoadgen(out io.Writer, r *loadgen.Report, as string) error {
	if as == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		if err := e.Encode(r); err != nil {
			return fmt.Errorf("print: %w", err)
		}
		return nil
	}
	if _, err := io.WriteString(out, r.Text()); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

func progressLine(s *loadgen.Snapshot) string {
	line := fmt.Sprintf("%d hosts, %d GPUs: %d frames sealed, %d acknowledged, %d committed, %d waiting (the first since %.1f s), lag p50 %.1f s, p99 %.1f s",
		s.Hosts, s.GPUs, s.Frames, s.Acked, s.Committed, s.Waiting, s.Oldest.Seconds(), s.Commit.P50Ms/1000, s.Commit.P99Ms/1000)
	if s.Lost > 0 {
		line += fmt.Sprintf(", %d given up", s.Lost)
	}
	if s.Reason != "" {
		line += "; " + s.Reason
	}
	return line
}

func stepLine(s *loadgen.Step) string {
	line := fmt.Sprintf("step: %d hosts, %d GPUs, %.0f rows/s, commit lag p50 %.1f s, p99 %.1f s, max %.1f s: ", s.Hosts, s.GPUs, s.Sealed, s.Commit.P50Ms/1000, s.Commit.P99Ms/1000, s.Commit.MaxMs/1000)
	if s.Held {
		line += "held"
	} else {
		line += "not held: " + s.Why
	}
	var cores []string
	for _, c := range s.CPU {
		cores = append(cores, fmt.Sprintf("%s %.2f", c.Name, c.Cores))
	}
	return line + "; cores: " + strings.Join(cores, ", ")
}

// loadgenPage gives the last look at the fleet to Prometheus.
type loadgenPage struct{ lastSnapshot }

// serve answers on an address until stop is called.
func (p *loadgenPage) serve(ctx context.Context, listen string) (stop func() error, err error) {
	ln, err := daemon.Listen(ctx, listen)
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	if err = registry.Register(p); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { // ends with stop
		served <- daemon.Serve(ctx, ln, registry, func() daemon.Health { return daemon.Health{State: daemon.OK} })
	}()
	return func() error {
		cancel()
		return <-served
	}, nil
}

// awaitAnswer asks until what was started answers, for a minute.
func awaitAnswer(ctx context.Context, ask func(context.Context) error) error {
	var err error
	for range 300 {
		if err = ask(ctx); err == nil || ctx.Err() != nil {
			return err
		}
		t := time.NewTimer(200 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
	return err
}

func askCollector(base string) func(context.Context) error {
	return func(ctx context.Context) error {
		h, err := up.AskHealth(ctx, base)
		if err == nil && h.State == daemon.Failing {
			err = fmt.Errorf("the collector: %s", strings.Join(h.Reasons, "; "))
		}
		return err //nolint:wrapcheck // it names the URL
	}
}
