package main

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// opened runs work and reports whether anybody opened the file meanwhile. The kernel says.
func opened(t *testing.T, path string, work func()) bool {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatalf("make inotify: %v", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err = unix.InotifyAddWatch(fd, path, unix.IN_OPEN|unix.IN_ACCESS); err != nil {
		t.Fatalf("watch %s: %v", path, err)
	}
	work()
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil && err != unix.EAGAIN { // an errno
		t.Fatalf("read inotify: %v", err)
	}
	return n > 0
}

// TestTruthIsNotOpened watches truth.json while the product works: a replay never opens
// it, scoring does.
func TestTruthIsNotOpened(t *testing.T) {
	t.Parallel()
	dir := writeBundle(t, tinyFiles(), nil)
	truth, out := filepath.Join(dir, "truth.json"), filepath.Join(t.TempDir(), "answers")
	work := func(args ...string) func() {
		return func() {
			if r := flopwatch(t, args...); r.code != 0 {
				t.Fatalf("%s: exit code %d: %s", args[0], r.code, r.stderr)
			}
		}
	}
	if opened(t, truth, work("replay", dir, "--out", out)) {
		t.Error("replay opened truth.json")
	}
	if !opened(t, truth, work("score", dir, out)) {
		t.Error("score did not open truth.json, or the watch does not work")
	}
}
