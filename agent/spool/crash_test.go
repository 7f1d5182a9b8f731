package spool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/flopwatch/flopwatch/internal/durable"
)

var errFault = errors.New("injected fault")

// faulty is a file layer in which call number at fails, having half happened if it is a
// write. If dead, every later call fails too, as for a process that was killed; if power is
// set, bytes that were not synced are lost then, from a random place on.
type faulty struct {
	durable.FS
	at, calls   int
	dead, power bool
	rnd         *rand.Rand
	synced      map[string]int64 // by path: bytes that a power cut leaves
}

func (f *faulty) fault() bool {
	f.calls++
	if f.calls == f.at {
		return true
	}
	return f.dead && f.calls > f.at
}

func (f *faulty) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func (f *faulty) MkdirAll(dir string) error {
	if f.fault() {
		return errFault
	}
	return f.FS.MkdirAll(dir)
}

func (f *faulty) wrap(name string, file durable.File, err error) (durable.File, error) {
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, f, name}, nil
}

func (f *faulty) Create(name string) (durable.File, error) {
	if f.fault() {
		return nil, errFault
	}
	file, err := f.FS.Create(name)
	return f.wrap(name, file, err)
}

func (f *faulty) Open(name string) (durable.File, error) {
	if f.fault() {
		return nil, errFault
	}
	file, err := f.FS.Open(name)
	return f.wrap(name, file, err)
}

func (f *faulty) Rename(from, to string) error {
	if f.fault() {
		return errFault
	}
	delete(f.synced, to)
	if n, ok := f.synced[from]; ok {
		f.synced[to] = n
	}
	return f.FS.Rename(from, to)
}

func (f *faulty) Remove(name string) error {
	if f.fault() {
		return errFault
	}
	delete(f.synced, name)
	return f.FS.Remove(name)
}

func (f *faulty) SyncDir(dir string) error {
	if f.fault() {
		return errFault
	}
	return f.FS.SyncDir(dir)
}

type faultyFile struct {
	durable.File
	f    *faulty
	name string
}

func (x *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if x.f.fault() {
		if x.f.calls != x.f.at {
			return 0, errFault
		}
		n, _ := x.File.WriteAt(p[:len(p)/2], off)
		return n, errFault
	}
	return x.File.WriteAt(p, off)
}

func (x *faultyFile) Sync() error {
	if x.f.fault() {
		return errFault
	}
	size, err := x.Size()
	if err != nil {
		return err
	}
	x.f.synced[x.name] = size
	return x.File.Sync()
}

func (x *faultyFile) Truncate(n int64) error {
	if x.f.fault() {
		return errFault
	}
	return x.File.Truncate(n)
}

// cut takes away what a power cut may take away of the segments.
func (f *faulty) cut(tb testing.TB, dir string) {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range files {
		st, err := os.Stat(name)
		if err != nil {
			tb.Fatal(err)
		}
		if lost := st.Size() - f.synced[name]; lost > 0 {
			if err := os.Truncate(name, f.synced[name]+f.rnd.Int64N(lost+1)); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// life is what a user of a spool knows.
type life struct {
	synced, committed uint64
	digests           map[uint64][32]byte // of synced frames: none may change
}

// live works with a spool until a call fails: appends, syncs, acknowledges, commits.
func (l *life) live(cfg Config, rounds int) error {
	s, err := Open(cfg)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // a killed process closes nothing; errors are expected
	if s.NextSequence() <= l.synced {
		return fmt.Errorf("sequence %d would be given twice", s.NextSequence())
	}
	for i := range rounds {
		for range 1 + i%3 {
			seq := s.NextSequence()
			if err := s.Append(seq, payload(seq)); err != nil {
				return err
			}
		}
		if err := s.Sync(); err != nil {
			return err
		}
		for q := l.synced + 1; q < s.NextSequence(); q++ {
			l.digests[q] = sha256.Sum256(payload(q))
		}
		l.synced = s.NextSequence() - 1
		if err := s.Ack(l.synced); err != nil {
			return err
		}
		if i%2 == 1 {
			to := max(l.committed, l.synced-min(l.synced, 3))
			if err := s.Commit(to); err != nil {
				return err
			}
			l.committed = max(l.committed, to)
		}
	}
	return nil
}

// verify opens the spool with sound files and wants every synced frame that was not
// committed, as it was, or a gap for it.
func (l *life) verify(tb testing.TB, cfg Config) {
	tb.Helper()
	cfg.FS = durable.NoSync(durable.OS{})
	s, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	defer shut(tb, s)
	have := map[uint64]bool{}
	for _, q := range read(tb, s, 1) {
		have[q] = true
	}
	gaps := s.Gaps()
	for q := l.committed + 1; q <= l.synced; q++ {
		if have[q] {
			continue
		}
		gone := false
		for _, g := range gaps {
			gone = gone || g.From <= q && q <= g.To && g.Reason == ReasonBytes
		}
		if !gone && q > s.Committed() {
			tb.Fatalf("frame %d was synced, not committed, and is gone; gaps %+v, committed %d", q, gaps, s.Committed())
		}
	}
	if s.NextSequence() <= l.synced {
		tb.Fatalf("next is %d, but %d was synced", s.NextSequence(), l.synced)
	}
	for _, g := range gaps {
		if g.Reason == ReasonCorrupt {
			tb.Fatalf("a crash left a corrupt gap %+v", g)
		}
	}
	if st := s.Stats(); st.CorruptStretches > 0 {
		tb.Fatalf("a crash put %d stretches into quarantine", st.CorruptStretches)
	}
}

// TestCrash stops a spool's life at every call to the file layer in turn: killed, cut off
// from power, or with that one call failing.
func TestCrash(t *testing.T) {
	for _, mode := range []string{"killed", "power", "once"} {
		t.Run(mode, func(t *testing.T) {
			for at := 1; ; at++ {
				dir := t.TempDir()
				l := life{digests: map[uint64][32]byte{}}
				f := &faulty{FS: durable.NoSync(durable.OS{}), at: at, dead: mode != "once", power: mode == "power",
					rnd: rand.New(rand.NewPCG(uint64(at), 1)), synced: map[string]int64{}}
				cfg := Config{Dir: dir, FS: f, SegmentBytes: 250, MaxBytes: 1500}
				err := l.live(cfg, 14)
				if err != nil && !errors.Is(err, errFault) {
					t.Fatalf("call %d: %v", at, err)
				}
				if f.power {
					f.cut(t, dir)
				}
				l.verify(t, cfg)
				// And it goes on.
				cfg.FS = durable.NoSync(durable.OS{})
				if err := l.live(cfg, 6); err != nil {
					t.Fatalf("after a stop at call %d: %v", at, err)
				}
				l.verify(t, cfg)
				if err == nil && f.calls < at {
					t.Logf("%d stops", at-1)
					break
				}
			}
		})
	}
}

// TestRetry lets one call fail while the spool stays open, and the user tries again: no
// frame may be lost, and none come twice.
func TestRetry(t *testing.T) {
	for at := 1; ; at++ {
		dir := t.TempDir()
		f := &faulty{FS: durable.NoSync(durable.OS{}), at: 1 << 30, rnd: rand.New(rand.NewPCG(1, 1)), synced: map[string]int64{}}
		s := open(t, Config{Dir: dir, FS: f, SegmentBytes: 250})
		f.calls, f.at = 0, at
		try := func(do func() error) {
			t.Helper()
			err := do()
			if errors.Is(err, errFault) {
				err = do()
			}
			if err != nil {
				t.Fatalf("call %d: %v", at, err)
			}
		}
		for seq := uint64(1); seq <= 12; seq++ {
			try(func() error {
				if s.NextSequence() != seq {
					return nil // written, though an error was returned
				}
				return s.Append(seq, payload(seq))
			})
			try(s.Sync)
			try(func() error { return s.Ack(seq) })
		}
		try(func() error { return s.Commit(3) })
		if err := s.Close(); err != nil && !errors.Is(err, errFault) {
			t.Fatal(err)
		}
		cfg := Config{Dir: dir, FS: durable.NoSync(durable.OS{}), SegmentBytes: 250}
		again := open(t, cfg)
		if got := read(t, again, 4); len(got) != 9 || again.NextSequence() != 13 || len(again.Gaps()) != 0 {
			t.Fatalf("call %d: read %v, gaps %v", at, got, again.Gaps())
		}
		shut(t, again)
		if f.calls < at {
			t.Logf("%d faults", at-1)
			return
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	frame := make([]byte, 4000) // 240 GPU rows
	for _, mode := range []string{"sync each", "sync every 64", "kernel only"} {
		b.Run(mode, func(b *testing.B) {
			cfg := Config{Dir: b.TempDir()}
			if mode == "kernel only" {
				cfg.FS = durable.NoSync(durable.OS{})
			}
			s := open(b, cfg)
			defer shut(b, s)
			b.ReportAllocs()
			b.SetBytes(int64(len(frame)))
			n := 0
			for b.Loop() {
				seq := s.NextSequence()
				if err := s.Append(seq, frame); err != nil {
					b.Fatal(err)
				}
				if n++; mode != "sync every 64" || n%64 == 0 {
					if err := s.Sync(); err != nil {
						b.Fatal(err)
					}
				}
				if n%1000 == 0 {
					if err := s.Commit(s.Synced()); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
