// Command benchstore measures what rows take on disk and what questions cost, on the embedded engine: `make bench-store`.
//
//	benchstore codecs -sessions DIR [-every N] | -dir DATA [-table T]   each column under each codec that fits it
//	benchstore fleet -sessions DIR [-rows N] [-gpus N] [-tick 1s]       a fleet's samples: bytes a value, and the recipes of deploy/clickhouse, timed
//
// Sessions are CSV files of real GPUs (*_telemetry.csv, columns as in series.go), read at 10 Hz: those of
// github.com/atharvanihalani/gpu-telemetry-exploration, which has no licence to ship them under. With -dir, codecs reads the
// tables of an engine's data directory, such as one that `flopwatch replay --data` or `flopwatch up` left.
//
// # How a fleet is made
//
// Each GPU follows one of the recorded series from a moment of its own, over and over. Every value gets noise of its own, evenly
// spread over the step to the reading before it, in multiples of what the driver itself steps by: where the recording stands
// still, so does the copy; counters go on by the recorded increments, with noise of a sixteenth. Times have a jitter of up to
// 3 ms a node, batches are of ten ticks, inserts of a hundred thousand rows by the store's own writer, so that keys, batch
// identities and availability are as a collector leaves them. Values are counted where they are present, and measured columns
// alone: keys, times and identities count in the bytes, not in the values.
//
// It is test machinery: no product code may import or run it. It owns the engine that it starts and the data directory, which it
// removes unless -dir named it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "clickhouse" {
		os.Exit(embedded.Main(os.Args[2:], os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "benchstore:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: benchstore codecs|fleet [flags]")
	}
	switch args[0] {
	case "codecs":
		return runCodecs(ctx, args[1:])
	case "fleet":
		return runFleet(ctx, args[1:])
	}
	return fmt.Errorf("no command %q: codecs or fleet", args[0])
}

// common are the flags of all commands.
type common struct {
	lib, dir, sessions string
}

func (c *common) register(fs *flag.FlagSet) {
	fs.StringVar(&c.lib, "lib", "bin/engine/libchdb.so", "the engine's library")
	fs.StringVar(&c.dir, "dir", "", "the engine's data directory, which stays; empty: a temporary one")
	fs.StringVar(&c.sessions, "sessions", "", "directory with *_telemetry.csv of real GPUs")
}
