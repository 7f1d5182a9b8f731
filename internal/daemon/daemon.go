package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// Exit codes of every command.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2 // a mistake on the command line or in the configuration
	// ExitInterrupted says that a signal ended the work: 128 + SIGINT, as shells have it.
	ExitInterrupted = 130
)

// UsageError marks a mistake of the caller: wrong arguments, a bad configuration.
type UsageError struct{ Err error }

// Error gives the cause's text.
func (e UsageError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e UsageError) Unwrap() error { return e.Err }

// Main runs a command and returns its exit code. The context ends at the first SIGINT or
// SIGTERM; a second signal ends the process at once, which is safe at any instruction.
// An error is printed to stderr, once, behind the command's name.
func Main(name string, stderr io.Writer, run func(context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	release := context.AfterFunc(ctx, stop) // back to the default: the next signal kills
	defer release()
	err := run(ctx)
	code := exitCode(ctx, err)
	if err != nil && code != ExitInterrupted {
		_, _ = fmt.Fprintf(stderr, "%s: %v\n", name, err) // there is nowhere else to say it
	}
	return code
}

func exitCode(ctx context.Context, err error) int {
	if err == nil {
		return ExitOK
	}
	if _, ok := errors.AsType[UsageError](err); ok {
		return ExitUsage
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return ExitInterrupted
	}
	return ExitFailure
}

// Logger makes a logger that writes to w in a format ("text" or "json") from level on.
// The level may be changed while the logger is in use.
func Logger(w io.Writer, format string, level *slog.LevelVar) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, UsageError{fmt.Errorf("log format %q: wanted text or json", format)}
}

// Build says which build this is.
type Build struct {
	Version  string // of the module; "(devel)" outside of a release
	Revision string // of the sources; empty: not known
	Modified bool   // the sources differed from the revision
	Go       string // the toolchain
}

// ReadBuild reads what the go command put into the binary.
func ReadBuild() Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Build{Version: "unknown"}
	}
	return build(info)
}

func build(info *debug.BuildInfo) Build {
	b := Build{Version: info.Main.Version, Go: info.GoVersion}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	return b
}

// String gives the build as "v1.2.3 0123456789ab modified go1.26.0".
func (b Build) String() string {
	s := b.Version
	if b.Revision != "" {
		s += " " + b.Revision[:min(12, len(b.Revision))]
	}
	if b.Modified {
		s += " modified"
	}
	if b.Go != "" {
		s += " " + b.Go
	}
	return s
}
