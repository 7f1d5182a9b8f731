package main

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// Patience with a store that is away: an embedded engine that died is back within
// seconds, on the same data and the same socket.
const (
	tries    = 8
	tryAfter = 250 * time.Millisecond // doubled after each try
)

// steadily runs a step of work on the store, and runs it again, whole, if the connection
// broke meanwhile. What a step writes may be written twice: versions are keys.
func steadily(ctx context.Context, say func(format string, args ...any), what string, step func(context.Context) error) error {
	wait := tryAfter
	for try := 1; ; try++ {
		err := step(ctx)
		if err == nil || try == tries || !broke(err) || ctx.Err() != nil {
			return err
		}
		say("        lost the store, to %s again: %v", what, err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
		wait *= 2
	}
}

// broke tells a connection that broke from a statement that was refused.
func broke(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
