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
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "benchstore:", err)
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
	fs.StringVar(&c.dir, "dir", "", "directory for the engine's data, emptied at the end; empty: a temporary one")
	fs.StringVar(&c.sessions, "sessions", "", "directory with *_telemetry.csv of real GPUs")
}
