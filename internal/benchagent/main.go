// Command benchagent measures flopwatch-agent and flopwatch-nvml on fake GPUs: what they
// cost beside other monitors (`make bench-agent`), and whether they stay as they are over
// half an hour of faults (`make soak-agent`).
//
//	benchagent bench [-plain] [-rivals DIR] [-window 120s] [-warmup 20s] [-perf FILE]
//	benchagent soak [-plain] [-minutes 30] [-csv FILE]
//
// # What it measures
//
// Every contender has a driver library and counters of its own with the same load. All run
// at the same time over one window, so that what else the machine does hits all of them.
// CPU time, memory and context switches are those of a contender's whole tree of processes,
// from /proc; NVML calls are what the library counted. The broker is a process of its own,
// and this one commits what arrives; neither counts.
//
// Everything is on (kernel features need root), and there is everything to see: a training of
// eight processes that call collectives, talk to each other and write checkpoints, as a Slurm
// job (testdata/customer.c). With -plain the agent has no kernel features and no bursts, and
// the processes sleep. What probes cost the training is not the agent's CPU time: the benchmarks of
// agent/kernel/nccl tell.
//
// The agent puts probes into every library of collectives on the machine, for ten minutes after the last
// process that has it mapped: tests of agent/kernel/nccl beside a soak make its BPF objects grow.
//
// In a window of less than 100 s not everything can happen that is asked for: what is not
// judged is said.
//
// Bytes on the wire are told for GPU samples, whose limit DESIGN.md has: what their tables
// take in a frame of their own, with all of its head; and for everything that was shipped.
//
// Fake GPUs answer at once: what a real driver takes for a call is not in these figures,
// the number of calls is.
//
// It is test machinery: no product code may import or run it. It owns the processes that
// it starts, each in a process group that ends with it, and a working directory that it
// leaves behind with their logs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/flopwatch/flopwatch/internal/daemon"
)

func main() {
	os.Exit(daemon.Main("benchagent", os.Stderr, func(ctx context.Context) error {
		return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return daemon.UsageError{Err: errors.New("usage: benchagent bench|soak [-h]")}
	}
	flags := flag.NewFlagSet("benchagent "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	parse := func() error {
		switch err := flags.Parse(args[1:]); {
		case err != nil:
			return daemon.UsageError{Err: err}
		case flags.NArg() > 0:
			return daemon.UsageError{Err: fmt.Errorf("%q is no flag", flags.Arg(0))}
		}
		return nil
	}
	var bin, stub, out, nccl string
	var plain bool
	common := func() {
		flags.StringVar(&bin, "bin", "bin", "`folder` of flopwatch-agent and flopwatch-nvml")
		flags.StringVar(&stub, "stub", "bin/stub/libnvidia-ml.so.1", "driver library of the fake GPUs")
		flags.StringVar(&nccl, "nccl", "agent/kernel/nccl/testdata/stub", "`folder` of the stub library of collectives")
		flags.BoolVar(&plain, "plain", false, "no kernel features, no bursts, and GPUs' processes that do nothing")
		flags.StringVar(&out, "out", "out", "`folder` for results and the logs of all processes")
	}
	switch args[0] {
	case "bench":
		common()
		rivals := flags.String("rivals", ".cache/rivals", "`folder` that rivals.sh has filled")
		window := flags.Duration("window", 120*time.Second, "how long to measure; less than 100 s does not judge everything")
		perf := flags.String("perf", "", "take a profile of agent and child with perf, into this `file` (perf report -i FILE)")
		warmup := flags.Duration("warmup", 20*time.Second, "how long to wait before that")
		if err := parse(); err != nil {
			return err
		}
		work, err := workDir(out, "bench-agent")
		if err = errors.Join(err, absolute(&bin, &stub)); err != nil {
			return err
		}
		return runBench(ctx, benchOptions{setup: setup{bin: bin, stub: stub, work: work, nccl: nccl, plain: plain},
			rivals: *rivals, perf: *perf, warmup: *warmup, window: *window}, stdout)
	case "soak":
		common()
		minutes := flags.Float64("minutes", 30, "how long")
		csv := flags.String("csv", "", "`file` for the samples; default: soak-agent.csv in -out")
		if err := parse(); err != nil {
			return err
		}
		work, err := workDir(out, "soak-agent")
		if err = errors.Join(err, absolute(&bin, &stub)); err != nil {
			return err
		}
		if *csv == "" {
			*csv = filepath.Join(out, "soak-agent.csv")
		}
		return runSoak(ctx, soakOptions{setup: setup{bin: bin, stub: stub, work: work, nccl: nccl, plain: plain},
			csv: *csv, length: time.Duration(*minutes * float64(time.Minute))}, stdout)
	case "broker": // a process that the others start
		dir := flags.String("dir", "", "`folder` of the streams")
		port := flags.Int("port", 0, "port on the loopback address")
		token := flags.String("token-file", "", "`file` with the clients' token")
		if err := parse(); err != nil {
			return err
		}
		return runBroker(ctx, *dir, *port, *token)
	}
	return daemon.UsageError{Err: fmt.Errorf("%q is neither bench nor soak", args[0])}
}

// workDir makes an empty folder in out: a spool of an earlier run would be shipped first.
func workDir(out, name string) (string, error) {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", fmt.Errorf("make %s: %w", out, err)
	}
	work, err := os.MkdirTemp(out, name+"-")
	if err != nil {
		return "", fmt.Errorf("make working directory: %w", err)
	}
	return filepath.Abs(work)
}

func absolute(paths ...*string) error {
	for _, p := range paths {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("find %s: %w", *p, err)
		}
		*p = abs
	}
	return nil
}
