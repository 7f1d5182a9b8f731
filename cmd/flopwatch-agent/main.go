// Command flopwatch-agent samples a GPU host and publishes what it sees.
//
//	flopwatch-agent -config FILE          run until SIGINT or SIGTERM; SIGHUP reads FILE again
//	flopwatch-agent -config FILE -node N  under another name than the file's: one file, many hosts
//	flopwatch-agent -config FILE -check   check the file, print its digest, exit
//	flopwatch-agent -print-config         print a configuration with every key, its default and meaning
//	flopwatch-agent -version
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/flopwatch/flopwatch/internal/daemon"
)

func main() {
	frugal()
	os.Exit(daemon.Main("flopwatch-agent", os.Stderr, func(ctx context.Context) error {
		return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("flopwatch-agent", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", "", "configuration `file` (TOML)")
	node := flags.String("node", "", "`name` of this host, over the configuration's")
	check := flags.Bool("check", false, "check the configuration, print its digest, and exit")
	printed := flags.Bool("print-config", false, "print a configuration with every key, its default and meaning, and exit")
	version := flags.Bool("version", false, "print the build and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return daemon.UsageError{Err: err}
	}
	switch {
	case *version:
		return say(stdout, daemon.ReadBuild().String()+"\n")
	case *printed:
		return say(stdout, defaultFile)
	case *path == "" || flags.NArg() > 0:
		return daemon.UsageError{Err: errors.New("usage: flopwatch-agent -config FILE [-node NAME] [-check], or -print-config for a file to begin with")}
	}
	cfg, digest, err := loadConfig(*path, *node)
	if err != nil {
		return daemon.UsageError{Err: err}
	}
	if *check {
		return say(stdout, digest+"\n")
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
	return sample(ctx, &settings{path: *path, as: *node, cfg: cfg, digest: digest, level: level, lg: lg}, hup)
}

func say(w io.Writer, text string) error {
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
