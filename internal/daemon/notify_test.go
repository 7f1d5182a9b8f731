package daemon

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// socket is a systemd of sorts.
func socket(t *testing.T) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4096)
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestNotify(t *testing.T) {
	read := socket(t)
	var n Notifier
	n.Ready(t.Context(), "sampling")
	if got := read(); got != "READY=1\nSTATUS=sampling" {
		t.Errorf("got %q", got)
	}
	n.Reloading(t.Context())
	if got := read(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("got %q", got)
	}
	n.Stopping(t.Context())
	if got := read(); got != "STOPPING=1" {
		t.Errorf("got %q", got)
	}
}

func TestNotifyWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	var n Notifier
	n.Ready(t.Context(), "x")
	t.Setenv("WATCHDOG_USEC", "")
	if err := Watchdog(t.Context(), func() bool { return true }); err != nil {
		t.Error(err)
	}
}

func TestWatchdog(t *testing.T) {
	read := socket(t)
	t.Setenv("WATCHDOG_USEC", "10000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	asked := 0
	go func() {
		done <- Watchdog(ctx, func() bool {
			asked++
			return asked > 3
		})
	}()
	for range 2 {
		if got := read(); got != "WATCHDOG=1" {
			t.Errorf("got %q", got)
		}
	}
	cancel()
	if err := <-done; err != nil || asked < 4 {
		t.Errorf("%v, asked %d times", err, asked)
	}
	t.Setenv("WATCHDOG_USEC", "x")
	if err := Watchdog(t.Context(), func() bool { return true }); err == nil {
		t.Error("a bad period passed")
	}
}
