package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
)

func TestMainMapsErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		err  error
		code int
		text string
	}{
		{"none", nil, ExitOK, ""},
		{"failure", broken, ExitFailure, "x: broken\n"},
		{"usage", fmt.Errorf("read configuration: %w", UsageError{broken}), ExitUsage, "x: read configuration: broken\n"},
		{"canceled by itself", context.Canceled, ExitFailure, "x: context canceled\n"},
	} {
		var stderr strings.Builder
		if code := Main("x", &stderr, func(context.Context) error { return c.err }); code != c.code || stderr.String() != c.text {
			t.Errorf("%s: got %d %q, want %d %q", c.name, code, stderr.String(), c.code, c.text)
		}
	}
}

func TestSignalEndsTheContext(t *testing.T) {
	var stderr strings.Builder
	code := Main("x", &stderr, func(ctx context.Context) error {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
			return fmt.Errorf("signal: %w", err)
		}
		<-ctx.Done()
		return fmt.Errorf("stop: %w", ctx.Err())
	})
	if code != ExitInterrupted || stderr.String() != "" {
		t.Errorf("got %d %q", code, stderr.String())
	}
}

func TestLogger(t *testing.T) {
	var out strings.Builder
	level := new(slog.LevelVar)
	lg, err := Logger(&out, "json", level)
	if err != nil {
		t.Fatal(err)
	}
	lg.LogAttrs(t.Context(), slog.LevelDebug, "hidden")
	level.Set(slog.LevelDebug)
	lg.LogAttrs(t.Context(), slog.LevelDebug, "shown")
	if s := out.String(); strings.Contains(s, "hidden") || !strings.Contains(s, `"msg":"shown"`) {
		t.Errorf("got %q", s)
	}
	if _, err := Logger(&out, "xml", level); err == nil {
		t.Error("an unknown format passed")
	}
}

func TestBuild(t *testing.T) {
	b := build(&debug.BuildInfo{GoVersion: "go1.26.0", Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"},
	}})
	if got, want := b.String(), "(devel) 0123456789ab modified go1.26.0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if ReadBuild().Version == "" {
		t.Error("this build has no version")
	}
}
