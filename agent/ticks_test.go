package agent

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func openTicks(t *testing.T, path, boot string, spool byte) *TickFile {
	t.Helper()
	f, err := OpenTickFile(path, boot, [16]byte{spool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestTickFile: the count goes on within a boot and a spool, and begins at 0 behind anything else.
func TestTickFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ticks")
	f := openTicks(t, path, "boot", 1)
	if f.before != (tickCount{}) {
		t.Errorf("a new one begins with %+v", f.before)
	}
	f.put(tickCount{ticks: 7})
	f.sealing(5, 2) // of what came before; nothing goes back
	f.put(tickCount{ticks: 6})
	if again := openTicks(t, path, "boot", 1); again.before != (tickCount{7, 2}) {
		t.Errorf("goes on with %+v", again.before)
	} else if all := again.sealing(3, 1); all != (tickCount{10, 3}) {
		t.Errorf("counts %+v", all)
	}
	whole, err := os.ReadFile(path)
	if err != nil || len(whole) != tickLine {
		t.Fatalf("%q, %v", whole, err)
	}
	for name, text := range map[string]string{
		"empty": "", "cut off": string(whole[:tickLine-1]), "binary": strings.Repeat("\x00", tickLine), "a letter": strings.Replace(string(whole), "10", "1x", 1),
		"more missed than ticks": strings.Replace(string(whole), "010 ", "001 ", 1), "beyond all": strings.Replace(string(whole), " 00000000000000000010", " 99999999999999999999", 1),
		"negative": strings.Replace(string(whole), " 00000000000000000010", " -0000000000000000010", 1),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := openTicks(t, path, "boot", 1); got.before != (tickCount{}) {
				t.Errorf("goes on with %+v", got.before)
			}
		})
	}
	for name, other := range map[string]struct {
		boot  string
		spool byte
	}{"another boot": {"later", 1}, "another spool": {"boot", 2}} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := openTicks(t, path, other.boot, other.spool); got.before != (tickCount{}) {
				t.Errorf("goes on with %+v", got.before)
			}
			if got := openTicks(t, path, "boot", 1); got.before != (tickCount{}) {
				t.Errorf("what it overwrote is still there: %+v", got.before)
			}
		})
	}
}

// TestTickFileGivesUp: one that cannot be written is gone, lest the next agent goes on with a number from before.
func TestTickFileGivesUp(t *testing.T) {
	if _, err := OpenTickFile(filepath.Join(t.TempDir(), "none", "ticks"), "boot", [16]byte{}); err == nil {
		t.Error("it was opened in a folder that is not there")
	}
	path := filepath.Join(t.TempDir(), "ticks")
	f := openTicks(t, path, "boot", 1)
	f.put(tickCount{ticks: 7})
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	was := f.file
	f.file = full // its disk is full
	if err = was.Close(); err != nil {
		t.Fatal(err)
	}
	if all := f.sealing(9, 0); all.ticks != 9 {
		t.Errorf("counts %+v", all)
	}
	if _, err = os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	f.tick(10)
	f.put(tickCount{ticks: 10})
	if err = f.Close(); err != nil {
		t.Error(err)
	}
	if got := openTicks(t, path, "boot", 1); got.before != (tickCount{}) {
		t.Errorf("the next goes on with %+v", got.before)
	}
	if err = syscall.Mkfifo(path+"2", 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = OpenTickFile(path+"2", "boot", [16]byte{}); err == nil {
		t.Error("a pipe was opened")
	}
}

// TestTickFileAllocates nothing once it runs.
func TestTickFileAllocates(t *testing.T) {
	f := openTicks(t, filepath.Join(t.TempDir(), "ticks"), "boot", 1)
	n := uint64(0)
	if got := testing.AllocsPerRun(100, func() { n++; f.tick(n); f.put(tickCount{ticks: n}) }); got > 0 {
		t.Errorf("%.1f allocations a tick", got)
	}
}
