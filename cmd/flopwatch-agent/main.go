// Command flopwatch-agent samples a GPU host and publishes what it sees.
//
//	flopwatch-agent -config FILE          run until SIGINT or SIGTERM; SIGHUP reads FILE again
//	flopwatch-agent -config FILE -node N  under another name than the file's: one file, many hosts
//	flopwatch-agent -config FILE -check   check the file, print its digest, exit; notes on files that it names go to stderr
//	flopwatch-agent doctor -config FILE   say what is seen here, by which way, what is missing and what helps
//	flopwatch-agent -print-config         print a configuration with every key, its default and meaning
//	flopwatch-agent -version
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/flopwatch/flopwatch/internal/daemon"
)

func main() {
	frugal()
	relax()
	os.Exit(daemon.Main("flopwatch-agent", os.Stderr, func(ctx context.Context) error {
		return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "doctor" {
		return runDoctor(ctx, args[1:], stdout, stderr)
	}
	var node string
	line, done, err := daemon.ParseLine("flopwatch-agent", "-config FILE [-node NAME] [-check], doctor -config FILE, or -print-config for a file to begin with", defaultFile, args, stdout, stderr, func(f *flag.FlagSet) {
		f.StringVar(&node, "node", "", "`name` of this host, over the configuration's")
	})
	if done || err != nil {
		return err
	}
	cfg, digest, err := loadConfig(line.Config, node)
	if err != nil {
		return daemon.UsageError{Err: err}
	}
	if line.Check {
		for _, note := range cfg.files() {
			_, _ = fmt.Fprintln(stderr, "note: "+note) // stderr is all there is
		}
		return daemon.Print(stdout, digest+"\n")
	}
	level := new(slog.LevelVar)
	if err = level.UnmarshalText([]byte(cfg.Log.Level)); err != nil { // it was checked
		return fmt.Errorf("log level: %w", err)
	}
	lg, err := daemon.Logger(stderr, cfg.Log.Format, level)
	if err != nil {
		return daemon.UsageError{Err: err}
	}
	// From here on a reload is never the end of the process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	return sample(ctx, &settings{path: line.Config, as: node, cfg: cfg, digest: digest, level: level, lg: lg, quiet: newThrottle(lg.Handler(), time.Now)}, hup)
}
