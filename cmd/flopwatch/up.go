package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/flopwatch/flopwatch/cmd/flopwatch/up"
	shipped "github.com/flopwatch/flopwatch/deploy/clickhouse"
	"github.com/flopwatch/flopwatch/internal/store/embedded"
)

const (
	// upWait is how far behind what arrives `up` judges: one machine's rows come within seconds.
	upWait = 2 * time.Minute
	// upAhead of a recording comes at once, so that there is something to see.
	upAhead = 30 * time.Minute
)

func newUpCommand() *cobra.Command {
	o := up.Options{}
	var facts, profiles string
	cmd := &cobra.Command{
		Use:   "up --data DIR [--recording BUNDLE | --fake-gpus N | --no-gpus]",
		Short: "Run everything on this machine: agent, NATS, ClickHouse, collector, detector",
		Long: `Up runs the whole product as one supervised process tree on a data directory: embedded NATS and ClickHouse, the
collector, the detector, and the agent. Where this host has NVIDIA's driver, the agent samples its GPUs. Elsewhere,
or where one of them is named, telemetry comes from a recording played on the wall clock (--recording), from made-up
GPUs (--fake-gpus, everything of which is marked FAKE), or from this host without GPUs (--no-gpus). A data directory
belongs to one of these; started again without naming one, it goes on with what it had.

Everything listens on 127.0.0.1 alone, and nobody signs in to NATS or ClickHouse without a secret that lies in the data
directory, readable by its owner; --users names others, such as a dashboard with the role analyst. Ctrl-C or SIGTERM stops the tree within seconds; the next start goes on.
SIGHUP reads --facts again. "flopwatch runs", "findings" and "doctor" ask a tree by its --data.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Data == "" {
				return usageError{Err: errors.New("--data DIR is required")}
			}
			if o.Wait < time.Second {
				return usageError{Err: fmt.Errorf("--wait %s: wanted 1s at least", o.Wait)}
			}
			if o.Ahead < 0 || o.Chunk < time.Second {
				return usageError{Err: errors.New("--ahead cannot be negative, --chunk not below 1s")}
			}
			if cmd.Flags().Changed("fake-gpus") && o.Wish.FakeGPUs == 0 {
				return usageError{Err: errors.New("--fake-gpus 0: wanted a number of GPUs; --no-gpus samples this host without any")}
			}
			if facts != "" && o.Wish.Recording != "" {
				return usageError{Err: errors.New("--facts is for live hosts: a recording brings its own")}
			}
			exe, err := os.Executable()
			if err == nil {
				exe, err = filepath.EvalSymlinks(exe)
			}
			if err != nil {
				return fmt.Errorf("find own binary: %w", err)
			}
			o.Exe = exe
			if facts != "" {
				if facts, err = filepath.Abs(facts); err != nil {
					return fmt.Errorf("resolve --facts: %w", err)
				}
				if _, err = newFacts(facts, "facts"); err != nil {
					return err
				}
			}
			if o.Users != "" {
				if o.Users, err = filepath.Abs(o.Users); err != nil {
					return fmt.Errorf("resolve --users: %w", err)
				}
				if err = embedded.CheckUsers(o.Users, shipped.Roles); err != nil {
					return fmt.Errorf("--users: %w", err)
				}
			}
			if profiles != "" {
				if o.Profiles, err = up.ProfilesOf(profiles); err != nil {
					return fmt.Errorf("--profiles: %w", err)
				}
			}
			o.Import = importer{facts: facts, log: slog.New(slog.DiscardHandler)}.run
			o.Fake = func(library string, gpus int) error { return fakeDriver(filepath.Dir(exe), library, gpus) }
			return up.Run(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Data, "data", "", "data directory, created if missing (required)")
	f.StringVar(&o.Wish.Recording, "recording", "", "play this recording on the wall clock")
	f.IntVar(&o.Wish.FakeGPUs, "fake-gpus", 0, "sample this many made-up GPUs")
	f.BoolVar(&o.Wish.HostOnly, "no-gpus", false, "sample this host without GPUs")
	f.StringVar(&o.Wish.Cluster, "cluster", "", "name of this host's cluster (default \"local\")")
	f.StringVar(&facts, "facts", "", "folder with the provider's nodes.csv, allocations.csv, orders.csv, parties.jsonl, in the recording format")
	f.StringVar(&profiles, "profiles", "", "judge by the threshold profiles of this file (TOML, see deploy/config/profiles.toml) in place of the recording's own, or the built-in ones; named at each start")
	f.DurationVar(&o.Wait, "wait", upWait, "judge a minute this long after it, whoever is missing")
	f.DurationVar(&o.Ahead, "ahead", upAhead, "how much of --recording comes at once at the first start (at most all of it)")
	f.DurationVar(&o.Chunk, "chunk", playChunk, "how much of --recording goes into one batch a host")
	f.IntVar(&o.Ports.Health, "port", up.DefaultPort, "port of /healthz; the others follow it; 0: any free ones")
	f.IntVar(&o.Ports.NATS, "nats-port", 0, "port of NATS (default: --port + 1)")
	f.IntVar(&o.Ports.ClickHouse, "clickhouse-port", 0, "port of ClickHouse's HTTP interface (default: --port + 2)")
	f.IntVar(&o.Ports.Agent, "agent-port", 0, "port of the agent's metrics (default: --port + 3)")
	f.IntVar(&o.Ports.Collector, "collector-port", 0, "port of the collector's metrics (default: --port + 4)")
	f.IntVar(&o.Ports.Detector, "detector-port", 0, "port of the detector's metrics (default: --port + 5)")
	f.StringVar(&o.Library, "gpu-library", "", "NVIDIA's libnvidia-ml.so.1 (default: the loader finds it)")
	f.StringVar(&o.Engine, "engine", "", "the embedded engine's libchdb.so (default: engine/ beside the binary)")
	f.StringVar(&o.Users, "users", "", "file of further users of ClickHouse and their roles (TOML; see flopwatch clickhouse --help)")
	f.BoolVarP(&o.Verbose, "verbose", "v", false, "what the children log, on stderr too")
	f.Lookup("chunk").Hidden = true
	return cmd
}
