package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/flopwatch/flopwatch/agent"
	"github.com/flopwatch/flopwatch/agent/exporter"
	"github.com/flopwatch/flopwatch/agent/host"
	"github.com/flopwatch/flopwatch/agent/ship"
	"github.com/flopwatch/flopwatch/agent/spool"
	"github.com/flopwatch/flopwatch/internal/daemon"
	"github.com/flopwatch/flopwatch/internal/durable"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// settings are the configuration in force.
type settings struct {
	path   string
	as     string // the node's name on the command line; "": as the file says
	cfg    config
	digest string
	level  *slog.LevelVar
	lg     *slog.Logger // of the daemon itself
	quiet  *throttle    // of all else: whatever flaps, it says a few lines
}

// segmentBytes is small: what a restart reads back at once stays in the process's memory for
// a while, and half an hour of eight GPUs fits.
const segmentBytes = 1 << 20

// tickFile keeps the count of ticks from one agent to the next, in data_dir.
const tickFile = "ticks"

// nodeKeyFile holds the key by which this host signs, in data_dir.
const nodeKeyFile = "node.key"

// sample wires and runs; what it opens it closes, in the order last in, first out.
func sample(ctx context.Context, s *settings, hup <-chan os.Signal) (err error) {
	cfg, lg := s.cfg, slog.New(s.quiet)
	node, err := host.Name(cfg.Node)
	if err != nil {
		return err // it says what to set
	}
	bootID, err := host.BootID(cfg.Host.Procfs)
	if err != nil {
		return err // it names the file
	}
	lock, err := lockData(cfg.DataDir)
	if err != nil {
		return err // it names the directory
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	privacy, err := openPrivacy(cfg)
	if err != nil {
		return err
	}
	key, err := agent.LoadOrCreateNodeKey(filepath.Join(cfg.DataDir, nodeKeyFile))
	if err != nil {
		return err // it names the file
	}
	lg.LogAttrs(ctx, slog.LevelInfo, "signing batches", slog.String("public_key", hex.EncodeToString(key[ed25519.PublicKeySize:])))
	sp, err := openSpool(ctx, cfg, node, lg)
	if err != nil {
		return err // it names the directory
	}
	defer func() { err = errors.Join(err, sp.Close()) }()
	ticks, err := agent.OpenTickFile(filepath.Join(cfg.DataDir, tickFile), bootID, sp.ID())
	if err != nil { // sampling goes on
		lg.LogAttrs(ctx, slog.LevelWarn, "what this agent samples and cannot seal, should it be killed, will not be counted", slog.Any("err", err))
	} else {
		defer func() { err = errors.Join(err, ticks.Close()) }()
	}
	rec, err := agent.NewRecorder(agent.RecorderConfig{Cluster: cfg.Cluster, Node: node, Spool: sp, Privacy: privacy, BootID: bootID, Key: key, Clock: host.Clocks, Ticks: ticks})
	if err != nil {
		return err // it says what is missing
	}
	if cfg.NATS.InboxPrefix == "" {
		cfg.NATS.InboxPrefix = wire.NodeInbox(cfg.Cluster, node)
	}
	nc, l, err := connect(cfg.NATS, node, lg)
	if err != nil {
		return daemon.UsageError{Err: fmt.Errorf("configuration %s: %w", s.path, err)}
	}
	defer nc.Close()
	js, err := ship.JetStream(nc)
	if err != nil {
		return err // it says what failed
	}
	sh, err := ship.New(ship.Config{Conn: nc, JetStream: js, Spool: sp, Cluster: cfg.Cluster, Node: node, BackoffMax: retryMax, BacklogRate: cfg.NATS.BacklogRate, Log: lg})
	if err != nil {
		return err // it says what is missing
	}
	inst := &instruments{lg: lg, bootID: bootID, node: node}
	sources := inst.all(cfg)
	a, err := agent.New(agent.Config{Node: node, Recorder: rec, Sources: sources, Ship: shipper{sh, nc}, Interval: cfg.Interval, SealEvery: cfg.SealEvery, Burst: agent.Burst(cfg.Burst), Log: lg})
	if err != nil {
		return err // it says what is wrong
	}
	d := &agentDaemon{settings: s, agent: a, spool: sp, ship: sh, link: l, inst: inst, node: node, maxBytes: cfg.Spool.MaxBytes, notify: daemon.Notifier{Log: lg}}
	return d.run(ctx, hup)
}

// lockData makes sure that a directory has one agent, whatever its name: two would tell the
// same GPUs under two names, and each the ends of the other's processes.
func lockData(dir string) (io.Closer, error) {
	files := durable.OS{}
	if err := files.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("make data_dir: %w", err)
	}
	lock, err := files.Lock(filepath.Join(dir, "lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("another flopwatch-agent runs on data_dir %s: %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock data_dir: %w", err)
	}
	return lock, nil
}

func openPrivacy(cfg config) (*agent.Privacy, error) {
	if cfg.ClearNames {
		return agent.ClearPrivacy(), nil
	}
	key, err := siteKey(cfg)
	if err != nil {
		return nil, err // it names the file
	}
	return agent.NewPrivacy(key)
}

// siteKey reads the site's key. One that is named is never made: a name with a mistake in it, or a
// file that has not come yet, would make this host's people others than on all hosts.
func siteKey(cfg config) ([]byte, error) {
	if cfg.SiteKeyFile == "" {
		return agent.LoadOrCreateSiteKey(filepath.Join(cfg.DataDir, "site.key"))
	}
	key, err := agent.ReadSiteKey(cfg.SiteKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf(`%w: put the key of the site there, 64 hex digits, mode 0600; site_key_file = "" makes one for this host alone`, err)
	}
	return key, err
}

// spoolName is the directory of a cluster's and node's spool.
func spoolName(cluster, node string) string { return wire.Token(cluster) + "." + wire.Token(node) }

// openSpool opens the spool of this cluster and node: under another name the collector would
// refuse what an earlier one left, so each has a spool of its own.
func openSpool(ctx context.Context, cfg config, node string, lg *slog.Logger) (*spool.Spool, error) {
	root := filepath.Join(cfg.DataDir, "spool")
	name := spoolName(cfg.Cluster, node)
	dir := filepath.Join(root, name)
	sp, err := spool.Open(spool.Config{Dir: dir, MaxBytes: cfg.Spool.MaxBytes, MaxAge: cfg.Spool.MaxAge, MinFree: cfg.Spool.MinFree, SegmentBytes: segmentBytes, Now: time.Now})
	if err != nil {
		return nil, err
	}
	others, err := os.ReadDir(root)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("look for other spools: %w", err), sp.Close())
	}
	for _, o := range others {
		if o.IsDir() && o.Name() != name {
			lg.LogAttrs(ctx, slog.LevelWarn, "there is a spool of another cluster or node; run this agent under that name for a while to ship it, or remove it", slog.String("dir", filepath.Join(root, o.Name())))
		}
	}
	if st := sp.Stats(); st.TornBytes > 0 || st.CorruptStretches > 0 || st.SetAside > 0 || st.PositionsLost || st.GapsLost {
		lg.LogAttrs(ctx, slog.LevelWarn, "the spool was repaired", slog.Int64("torn_bytes", st.TornBytes), slog.Int("quarantined", st.CorruptStretches),
			slog.Int("set_aside", st.SetAside), slog.Bool("positions_lost", st.PositionsLost), slog.Bool("gaps_lost", st.GapsLost))
	}
	return sp, nil
}

// agentDaemon is the running process.
type agentDaemon struct {
	*settings
	agent *agent.Agent
	spool *spool.Spool
	ship  *ship.Ship
	link  *link
	inst  *instruments
	node  string
	// maxBytes of the spool.
	maxBytes int64
	notify   daemon.Notifier
	export   *exporter.Exporter
	slow     atomic.Int64 // gpu.slow_interval; it may be reloaded while the page is made
	owners   atomic.Bool  // metrics.owners
}

func (d *agentDaemon) run(ctx context.Context, hup <-chan os.Signal) error {
	// The answers to a monitor go on until all is drained.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	var served sync.WaitGroup
	defer served.Wait()
	defer stopServing()
	d.export = exporter.New(exporter.Config{
		Build: daemon.ReadBuild().String(), Node: d.node, Agent: d.agent.Stats, Spool: d.spool, SpoolMaxBytes: d.cfg.Spool.MaxBytes, Ship: d.ship.Stats,
		Broker: func() exporter.Broker {
			st := d.link.state()
			return exporter.Broker{Up: st.Up, Downs: st.Downs}
		},
		LogSkipped: d.quiet.all.skipped.Load, NVML: d.inst.nvml, Kernel: d.inst.kernel,
		GPUs: func() []exporter.GPU {
			return d.inst.latest(time.Now(), exporter.Freshness{Interval: d.agent.Interval(), Slow: time.Duration(d.slow.Load())}, d.owners.Load())
		},
		Log: slog.New(d.quiet),
	})
	d.slow.Store(int64(d.cfg.GPU.SlowInterval))
	d.owners.Store(d.cfg.Metrics.Owners)
	d.export.SetConfig(d.digest)
	d.export.ShowGPUs(d.cfg.Metrics.GPU)
	if d.cfg.Metrics.Listen != "" {
		ln, err := daemon.Listen(ctx, d.cfg.Metrics.Listen)
		if err != nil {
			return fmt.Errorf("serve metrics (metrics.listen): %w", err)
		}
		reg := prometheus.NewRegistry()
		if err = d.export.Register(reg); err != nil {
			return errors.Join(err, ln.Close())
		}
		served.Go(func() {
			if err := daemon.Serve(serving, ln, reg, d.health); err != nil { // sampling goes on
				d.lg.LogAttrs(serving, slog.LevelError, "metrics and health are not served any more", slog.Any("err", err))
			}
		})
	}

	g, gctx := errgroup.WithContext(ctx)
	ticking := make(chan struct{})
	g.Go(func() error {
		defer close(ticking)
		return d.agent.Run(gctx)
	})
	g.Go(func() error {
		if err := daemon.Watchdog(gctx, d.alive); err != nil { // systemd will see
			d.lg.LogAttrs(gctx, slog.LevelError, "systemd's watchdog is not told", slog.Any("err", err))
		}
		return nil
	})
	g.Go(func() error {
		if err := settle(gctx); err != nil { // it goes on, larger
			d.lg.LogAttrs(gctx, slog.LevelInfo, "memory of the start was not given back", slog.Any("err", err))
		}
		return nil
	})
	g.Go(func() error {
		d.lg.LogAttrs(ctx, slog.LevelInfo, "sampling", slog.String("cluster", d.cfg.Cluster), slog.String("node", d.node),
			slog.String("build", daemon.ReadBuild().String()), slog.String("config_digest", d.digest), slog.Int64("memory_limit", debug.SetMemoryLimit(-1)))
		d.notify.Ready(ctx, "sampling as "+d.node)
		for {
			select {
			case <-gctx.Done():
				d.notify.Stopping(ctx)
				return nil
			case <-ticking: // by an error, which ends the group
				return nil
			case <-hup:
				d.notify.Reloading(ctx)
				d.reload(gctx)
				d.notify.Ready(ctx, "sampling as "+d.node)
			}
		}
	})
	err := g.Wait()
	st, sent := d.agent.Stats(), d.ship.Stats()
	d.lg.LogAttrs(ctx, slog.LevelInfo, "stopped", slog.Uint64("ticks", st.Tick.Seq), slog.Uint64("batches", st.Batches),
		slog.Uint64("published", sent.Published), slog.Uint64("in_spool", d.spool.Synced()-d.spool.Committed()))
	return err // it says what failed
}

// alive says whether ticks come: what systemd's watchdog asks.
func (d *agentDaemon) alive() bool {
	st := d.agent.Stats()
	if st.Tick.Seq == 0 {
		return true // the first one is still to come
	}
	_, boot := host.Clocks()
	return boot-st.Tick.BootMs < max(10_000, 3*d.agent.Interval().Milliseconds())
}
