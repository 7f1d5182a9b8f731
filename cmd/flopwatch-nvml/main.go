// Command flopwatch-nvml reads GPUs through NVIDIA's management library for flopwatch-agent,
// which starts it and talks to it over its standard input and output.
//
//	flopwatch-nvml [-library FILE]
//	flopwatch-nvml -describe [-library FILE] [-timeout 15s]
//	flopwatch-nvml -version
//
// With -describe it says in JSON what the library, the GPUs and their capabilities are, for
// "flopwatch-agent doctor", within the same budget of calls: that takes some seconds. It ends
// with 1 where the library refuses or a GPU does not answer in time, and says what it knows.
//
// It does without internal/daemon, which brings an HTTP server along: this process is small,
// and does nothing but wait in the driver.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flopwatch/flopwatch/agent/gpu/nvml"
	"github.com/flopwatch/flopwatch/internal/resident"
)

// Exit codes, as of all commands.
const (
	exitFailure = 1
	exitUsage   = 2
)

// tidyEvery is how often the program's own pages are given back to the page cache.
const tidyEvery = 10 * time.Second

func main() {
	code, err := run(os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "flopwatch-nvml: %v\n", err) // there is nowhere else to say it
	}
	os.Exit(code)
}

func run(args []string, stdout, stderr io.Writer) (code int, err error) {
	flags := flag.NewFlagSet("flopwatch-nvml", flag.ContinueOnError)
	flags.SetOutput(stderr)
	library := flags.String("library", "", "`path` of libnvidia-ml.so.1; empty: as the loader finds it")
	describe := flags.Bool("describe", false, "print what there is in JSON and exit")
	timeout := flags.Duration("timeout", 15*time.Second, "how long -describe may take")
	version := flags.Bool("version", false, "print the build and exit")
	if err = flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0, nil
	} else if err != nil {
		return exitUsage, nil //nolint:nilerr // flags has said it
	}
	if *version {
		return printVersion(stdout)
	}
	if flags.NArg() > 0 {
		return exitUsage, errors.New("usage: flopwatch-nvml [-library FILE], started by flopwatch-agent")
	}
	// Workers wait in the driver, on threads of their own: one thread's worth of Go is plenty.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(25) // the binding copies 20 KiB a GPU and second, and 300 KiB live: a megabyte of heap is enough
	out, err := answers()
	if err != nil {
		return exitFailure, err
	}
	if *describe {
		return printInspection(out, nvml.Config{Library: *library}, *timeout)
	}
	go func() { // until the process ends: one that hangs in the driver is not waited for
		time.Sleep(tidyEvery)
		debug.FreeOSMemory()                                             // of what only the start needed
		_ = resident.Keep(context.Background(), tidyEvery, resident.All) // if it fails it goes on, larger
	}()
	// No signal is caught: there is nothing to lose, and a hung driver must not keep it.
	switch err = nvml.Serve(context.Background(), os.Stdin, out, nvml.Config{Library: *library}); {
	case errors.Is(err, nvml.ErrNoCgo):
		return exitUsage, err
	case err != nil:
		return exitFailure, err
	}
	return 0, nil
}

// printInspection leaves behind what hangs in the driver: the process ends.
func printInspection(w io.Writer, cfg nvml.Config, timeout time.Duration) (int, error) {
	if timeout <= 0 {
		return exitUsage, fmt.Errorf("-timeout %s: wanted more than 0", timeout)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	found, err := nvml.Inspect(ctx, cfg)
	switch {
	case errors.Is(err, nvml.ErrNoCgo):
		return exitUsage, err
	case found == nil:
		return exitFailure, err
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if jerr := enc.Encode(found); jerr != nil {
		return exitFailure, fmt.Errorf("print what there is: %w", jerr)
	}
	if err != nil || found.Code != 0 || found.TimedOut || len(found.Unheard) > 0 {
		return exitFailure, err
	}
	return 0, nil
}

func printVersion(w io.Writer) (int, error) {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version + " " + info.GoVersion
	}
	if _, err := fmt.Fprintln(w, version); err != nil {
		return exitFailure, fmt.Errorf("print version: %w", err)
	}
	return 0, nil
}

// answers takes the standard output away from everybody else: a driver library that prints
// something must not print between frames. What is printed goes to standard error.
func answers() (*os.File, error) {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("keep the way to the agent: %w", err)
	}
	if err = unix.Dup3(2, 1, 0); err != nil {
		return nil, fmt.Errorf("turn standard output to standard error: %w", err)
	}
	return os.NewFile(uintptr(fd), "answers"), nil
}
