package spool

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// mount makes a file system of so many bytes that the kernel itself says is full.
func mount(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		testenv.Need(t, "root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestRealFullDisk: a real file system is full, of the spool itself, and then of somebody
// else; then it is read-only.
func TestRealFullDisk(t *testing.T) {
	dir := mount(t, "2m")
	cfg := Config{Dir: filepath.Join(dir, "spool"), SegmentBytes: 128 << 10, MaxBytes: 1 << 30, MinFree: -1}
	s := open(t, cfg)
	put := func(n int) {
		t.Helper()
		for range n {
			seq := s.NextSequence()
			if err := s.Append(seq, bytes.Repeat([]byte{byte(seq)}, 3000)); err != nil {
				t.Fatalf("frame %d: %v", seq, err)
			}
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(2000) // 6 MB
	gaps := s.Gaps()
	if len(gaps) != 1 || gaps[0].Reason != ReasonDisk || gaps[0].From != 1 || s.First(1) != gaps[0].To+1 {
		t.Fatalf("gaps %+v, first %d", gaps, s.First(1))
	}
	if st := s.Stats(); st.Bytes < 1<<20 || st.Bytes > 2<<20 || st.Trouble != TroubleNone {
		t.Errorf("%+v", st)
	}
	other, err := os.Create(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Write(make([]byte, 4<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	put(200)
	if g := s.Gaps(); len(g) != 1 || g[0].To <= gaps[0].To || s.NextSequence() != 2201 {
		t.Errorf("gaps %+v, next %d", g, s.NextSequence())
	}
	shut(t, s)
	s = open(t, cfg)
	put(50)
	account := s.Stats()
	if account.CorruptStretches != 0 || s.Gaps()[0].To+uint64(account.Frames) != 2250 {
		t.Errorf("%+v, %+v", account, s.Gaps())
	}
	rep, err := Verify(cfg.Dir, nil)
	if err != nil || len(rep.Faults) > 0 {
		t.Errorf("%v, %v", rep.Faults, err)
	}
	if err := errors.Join(other.Close(), os.Remove(other.Name())); err != nil {
		t.Fatal(err)
	}
	put(50)
	if g := s.Gaps(); g[0].To+uint64(s.Stats().Frames) != 2300 {
		t.Errorf("%+v", g)
	}
	shut(t, s)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(cfg); Classify(err) != TroubleReadOnly {
		t.Errorf("a read-only file system: %v", err)
	}
	if rep, err := Verify(cfg.Dir, nil); err != nil || len(rep.Faults) > 0 || rep.Last != 2300 {
		t.Errorf("%+v, %v", rep, err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=2m"); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	if s.NextSequence() != 2301 {
		t.Errorf("next %d", s.NextSequence())
	}
	shut(t, s)
}
