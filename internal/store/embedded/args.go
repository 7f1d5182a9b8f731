package embedded

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"strings"
	"syscall"
)

// Main is the server process behind an argument list without the program's name: what `flopwatch clickhouse` runs, and what a test helper can run
// without the rest of the product. It gives the exit code: 0 after a clean stop, 1 after a failure, 2 for wrong arguments.
func Main(args []string, stderr io.Writer) int {
	o, err := ParseArgs(args, stderr)
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	lg := slog.New(slog.NewTextHandler(stderr, nil))
	if err = ServeProcess(ctx, o, lg); err != nil {
		_, _ = fmt.Fprintf(stderr, "flopwatch clickhouse: %v\n", err) // nowhere else to say it
		return 1
	}
	return 0
}

// ParseArgs reads the arguments that Start gives its child.
func ParseArgs(args []string, stderr io.Writer) (Options, error) {
	var o Options
	fs := flag.NewFlagSet("clickhouse", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.DataDir, "data", "", "data `directory`, created if missing")
	fs.StringVar(&o.Listen, "listen", "127.0.0.1:8123", "`host:port` to serve ClickHouse's HTTP interface on")
	fs.StringVar(&o.LibPath, "lib", "", "`path` of libchdb.so")
	fs.StringVar(&o.User, "user", DefaultUser, "name of the user")
	fs.StringVar(&o.PasswordFile, "password-file", "", "`file` with the user's password, made if missing (default <data>/password)")
	fs.Uint64Var(&o.MemoryBytes, "memory-bytes", 0, "bound of the engine's memory, 0 is 4 GiB")
	fs.IntVar(&o.ListenFD, "listen-fd", 0, "inherited listening socket, for the supervisor")
	fs.IntVar(&o.ReadyFD, "ready-fd", 0, "inherited pipe that is told when requests are taken, for the supervisor")
	fs.BoolVar(&o.WatchStdin, "watch-stdin", false, "stop when stdin ends")
	fs.BoolVar(&o.Sandboxed, strings.TrimPrefix(sandboxedFlag, "--"), false, "the process is confined already; it sets this itself")
	if err := fs.Parse(args); err != nil {
		return o, fmt.Errorf("parse arguments: %w", err)
	}
	return o, nil
}
