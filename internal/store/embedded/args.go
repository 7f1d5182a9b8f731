package embedded

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// What Patience is called on the command line of Main.
const (
	turnWaitFlag    = "--turn-wait"
	receiveWaitFlag = "--receive-wait"
	sendWaitFlag    = "--send-wait"
)

// Main is the server process behind an argument list without the program's name: what Start runs, for binaries that are nothing but the engine.
// It gives the exit code: 0 after a clean stop, 1 after a failure, 2 for wrong arguments.
func Main(args []string, stderr io.Writer) int {
	o, err := ParseArgs(args)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err) // nowhere else to say it
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err = ServeProcess(ctx, o, slog.New(slog.NewTextHandler(stderr, nil))); err != nil {
		_, _ = fmt.Fprintln(stderr, err) // nowhere else to say it
		return 1
	}
	return 0
}

// ParseArgs reads the arguments that Start gives its child: "--name value" and the switches. `flopwatch clickhouse` takes the same ones, but for those of Patience.
func ParseArgs(args []string) (o Options, err error) {
	texts := map[string]*string{"--data": &o.DataDir, "--lib": &o.LibPath, "--listen": &o.Listen, "--user": &o.User, "--password-file": &o.PasswordFile,
		"--users": &o.UsersFile, "--roles": &o.RolesFile}
	numbers := map[string]*int{"--listen-fd": &o.ListenFD, "--ready-fd": &o.ReadyFD, "--queries": &o.Queries, accountsFlag: &o.AccountsFD}
	waits := map[string]*time.Duration{turnWaitFlag: &o.Patience.Turn, receiveWaitFlag: &o.Patience.Receive, sendWaitFlag: &o.Patience.Send}
	switches := map[string]*bool{"--watch-stdin": &o.WatchStdin, "--restoring": &o.Restoring, "--unconfined": &o.Unconfined, sandboxedFlag: &o.Sandboxed}
	for i := 0; i < len(args); i++ {
		name := args[i]
		if on, ok := switches[name]; ok {
			*on = true
			continue
		}
		if i++; i == len(args) {
			return o, fmt.Errorf("argument %s has no value", name)
		}
		switch {
		case texts[name] != nil:
			*texts[name] = args[i]
		case numbers[name] != nil:
			*numbers[name], err = strconv.Atoi(args[i])
		case waits[name] != nil:
			*waits[name], err = time.ParseDuration(args[i])
		case name == "--memory-bytes":
			o.MemoryBytes, err = strconv.ParseUint(args[i], 10, 64)
		default:
			return o, fmt.Errorf("unknown argument %s", name)
		}
		if err != nil {
			return o, fmt.Errorf("argument %s: %w", name, err)
		}
	}
	return o, nil
}
