// Command cmd breaks a small fleet of real processes again and again, and holds what is stored
// to what was taken: `make chaos`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/flopwatch/flopwatch/internal/chaos"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := chaos.Plan{Out: os.Stdout}
	var minutes int
	flag.Uint64Var(&p.Seed, "seed", 1, "seed of the first fault; each next one has the next number")
	flag.IntVar(&p.Faults, "faults", 200, "how many faults")
	flag.StringVar(&p.Only, "only", "", "only kinds that begin so")
	flag.IntVar(&p.Round, "round", 25, "faults after which a new world begins")
	flag.IntVar(&p.Worlds, "worlds", 3, "worlds at a time")
	flag.IntVar(&p.Agents, "agents", 3, "nodes of a world")
	flag.StringVar(&p.Bin, "bin", "bin", "folder of the commands, the engine and the stub")
	flag.StringVar(&p.Dir, "dir", "", "where the worlds live; empty: a folder for the time")
	flag.StringVar(&p.Evidence, "out", "out/chaos", "where the evidence of failures is kept")
	flag.IntVar(&minutes, "minutes", 45, "no longer than this")
	flag.Parse()
	p.Apart = os.Getuid() == 0
	if !p.Apart {
		fmt.Println("not root: no partitions, no full disks")
	}
	if p.Dir == "" {
		dir, err := os.MkdirTemp("", "fwchaos")
		if err != nil {
			return fmt.Errorf("make a folder: %w", err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		p.Dir = dir
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(minutes)*time.Minute)
	defer cancel()
	rep, err := chaos.Run(ctx, p)
	rep.Print(os.Stdout)
	if err == nil && rep.Survived() < p.Faults {
		err = errors.New("not all were survived")
	}
	return err
}
