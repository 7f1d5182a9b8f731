// Command cmd breaks a small fleet of real processes again and again, and holds what is stored
// to what was taken: `make chaos`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
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
	p.Flags(flag.CommandLine)
	minutes := flag.Int("minutes", 45, "no longer than this: what is not made by then counts as not survived")
	flag.Parse()
	if p.List {
		_, err := chaos.Run(ctx, p)
		return err
	}
	if !p.Apart {
		fmt.Println("no namespaces (or not root): no partitions, no full disks, no corruption")
	}
	if p.Dir == "" {
		dir, err := os.MkdirTemp("", "fwchaos")
		if err != nil {
			return fmt.Errorf("make a folder: %w", err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		p.Dir = dir
	}
	commit := commit(ctx)
	ctx, cancel := context.WithTimeout(ctx, time.Duration(*minutes)*time.Minute)
	defer cancel()
	rep, err := chaos.Run(ctx, p)
	if len(rep.Outcomes) > 0 {
		var text strings.Builder
		rep.Print(&text, &p, commit)
		fmt.Print(text.String())
		err = errors.Join(err, keep(filepath.Join(p.Evidence, "summary.md"), text.String()))
	}
	if err == nil && rep.Survived() < len(rep.Outcomes) {
		err = errors.New("not all were survived")
	}
	return err
}

// keep writes a summary behind those of earlier runs.
func keep(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("keep the summary: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("keep the summary: %w", err)
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("keep the summary: %w", err)
	}
	fmt.Println("summary:", path)
	return nil
}

// commit is what was tried.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
