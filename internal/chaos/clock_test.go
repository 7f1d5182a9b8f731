package chaos

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestTell is no test: it is a process that is asked for the time.
func TestTell(t *testing.T) {
	if os.Getenv("FLOPWATCH_CHAOS_TELL") == "" {
		return
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println("now", time.Now().UnixMilli())
	}
}

// TestStepClock: the wall clock of a process is another, and again, and back; ours is not.
func TestStepClock(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the code that is put into a process is that of amd64")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTell$")
	cmd.Env = append(os.Environ(), "FLOPWATCH_CHAOS_TELL=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }() // it says no more
	lines := bufio.NewScanner(out)
	ahead := func() time.Duration {
		t.Helper()
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), "now "); ok {
				ms, err := strconv.ParseInt(rest, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				return time.Until(time.UnixMilli(ms))
			}
		}
		t.Fatal("it has ended")
		return 0
	}
	for _, by := range []time.Duration{0, time.Hour, -time.Hour, 7 * time.Second, 0} {
		if err := stepClock(cmd.Process.Pid, by); errors.Is(err, errNoVDSO) || errors.Is(err, os.ErrPermission) {
			testenv.Need(t, "root", err)
		} else if err != nil {
			t.Fatal(err)
		}
		if got := ahead().Round(time.Minute); got != by.Round(time.Minute) {
			t.Errorf("stepped by %s, the clock is ahead by %s", by, got)
		}
	}
}
