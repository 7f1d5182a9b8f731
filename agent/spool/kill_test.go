package spool

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
)

// killDir names, for the child process of TestKill, the directory to work in.
const killDir = "FLOPWATCH_SPOOL_KILL_DIR"

// TestKillChild is no test of its own: it is the process that TestKill kills. It appends
// for ever and says which sequences are synced.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(killDir)
	if dir == "" {
		return // only a child of TestKill has work
	}
	s := open(t, Config{Dir: dir, SegmentBytes: 2000, MaxBytes: 1 << 20})
	for i := uint64(0); ; i++ {
		add(t, s, 1)
		if err := s.Ack(s.Synced()); err != nil {
			t.Fatal(err)
		}
		if top := s.Synced(); i%7 == 6 && top > 4 { // live frames are stored before the backlog
			if _, err := s.CommitMark(0, []Range{{top - 3, top}}); err != nil {
				t.Fatal(err)
			}
		}
		if i%50 == 49 {
			if err := s.Commit(max(s.Synced(), 41) - 40); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := fmt.Printf("synced %d\n", s.Synced()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKill kills a real process with signal 9, again and again, on one directory.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(5, 6))
	said := uint64(0)
	for range 8 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKillChild$", "-test.v")
		cmd.Env = append(os.Environ(), killDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err = cmd.Start(); err != nil {
			t.Fatal(err)
		}
		left := 1 + r.IntN(150)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var n uint64
			if _, err = fmt.Sscanf(lines.Text(), "synced %d", &n); err != nil {
				continue // the test framework's own
			}
			if n <= said {
				t.Fatalf("sequence %d comes after %d", n, said)
			}
			said = n
			if left--; left == 0 {
				if err = cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err = cmd.Wait(); err == nil || left > 0 {
			t.Fatalf("the child ended by itself, %d lines early: %v", left, err)
		}
		s := open(t, Config{Dir: dir, SegmentBytes: 2000, MaxBytes: 1 << 20})
		if s.NextSequence() <= said || len(s.Gaps()) > 0 || s.Stats().CorruptStretches > 0 {
			t.Fatalf("killed after %d: next %d, gaps %v, %+v", said, s.NextSequence(), s.Gaps(), s.Stats())
		}
		got := read(t, s, s.Committed()+1)
		for q := s.Committed() + 1; q < s.NextSequence(); q++ {
			if !slices.Contains(got, q) && !known(s.gaps, q) { // freed out of order
				t.Fatalf("killed after %d: frame %d is gone; %v", said, q, got)
			}
		}
		said = s.NextSequence() - 1
		shut(t, s)
	}
	t.Log("synced by eight killed processes: " + strconv.FormatUint(said, 10))
}
