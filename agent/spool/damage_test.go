package spool

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// TestAnyByte flips a byte, cuts, or empties any file of a spool: Open always succeeds, keeps
// what is sound, and accounts for all that was acknowledged. What the damage took is told.
func TestAnyByte(t *testing.T) {
	p := newPowerFS()
	cfg := powerCase{config: Config{SegmentBytes: 500, MaxBytes: 2500}}
	s := open(t, cfg.on(p))
	id := s.ID()
	add(t, s, 40)
	if err := s.Ack(40); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitMark(0, []Range{{30, 34}}); err != nil {
		t.Fatal(err)
	}
	first := s.First(1)
	shut(t, s)
	names := make([]string, 0, len(p.names))
	for name := range p.names {
		names = append(names, name)
	}
	slices.Sort(names)
	check := func(what string, disk *powerFS) {
		t.Helper()
		s, err := Open(cfg.on(disk))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got := read(t, s, 1)
		if s.ID() != id || s.NextSequence() < 41 && got != nil {
			t.Fatalf("%s: another spool, or sequences again: next %d", what, s.NextSequence())
		}
		gaps := s.gaps
		for q := first; q <= 40; q++ {
			if !slices.Contains(got, q) && !slices.ContainsFunc(gaps, func(g Gap) bool { return g.From <= q && q <= g.To }) {
				t.Fatalf("%s: frame %d is gone: %v, %+v", what, q, got, gaps)
			}
		}
		add(t, s, 3)
		if err := s.Commit(s.Synced()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		shut(t, s)
	}
	n := 0
	for _, name := range names {
		size := len(p.names[name].data)
		step := max(1, size/60)
		for at := 0; at < size; at += step {
			disk := p.clone()
			disk.names[name].data[at] ^= 0x40
			check(name+" flipped", disk)
			if at%3 == 0 {
				disk = p.clone()
				disk.names[name].data = disk.names[name].data[:at]
				check(name+" cut", disk)
			}
			n++
		}
		if filepath.Ext(name) != ".seg" {
			disk := p.clone()
			delete(disk.names, name)
			check(name+" removed", disk)
		}
	}
	t.Logf("%d places", n)
}

// TestBadSector: a sector that the medium does not give back costs the frames in it, and no
// more, and no Open.
func TestBadSector(t *testing.T) {
	p := newPowerFS()
	cfg := powerCase{config: Config{SegmentBytes: 1 << 20, MaxBytes: 8 << 20}}
	s := open(t, cfg.on(p))
	add(t, s, 100)
	if err := s.Ack(100); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	name := "/spool/" + (&segment{base: 1}).name()
	bad := &badFS{powerFS: p, name: name, from: 2048, to: 2560}
	c := cfg.on(p)
	c.FS = bad
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	got := read(t, s, 1)
	if len(got) < 80 || len(got) == 100 || s.NextSequence() != 101 || s.Stats().CorruptStretches == 0 {
		t.Errorf("%d frames left, %+v", len(got), s.Stats())
	}
	account(t, s, 100)
	add(t, s, 2)
	shut(t, s)
}

// badFS is a file layer with a stretch of a file that cannot be read.
type badFS struct {
	*powerFS
	name     string
	from, to int64
}

type badFile struct {
	durable.File
	b *badFS
}

func (b *badFS) Open(name string) (durable.File, error) {
	f, err := b.powerFS.Open(name)
	if err == nil && name == b.name {
		return badFile{f, b}, nil
	}
	return f, err
}

func (f badFile) ReadAt(p []byte, off int64) (int, error) {
	if off < f.b.to && off+int64(len(p)) > f.b.from {
		return 0, syscall.EIO
	}
	return f.File.ReadAt(p, off)
}

// TestQuarantineBound: what quarantine has no room for is counted.
func TestQuarantineBound(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 300, MaxQuarantine: 200, FS: durable.NoSync(durable.OS{})}
	s := open(t, cfg)
	add(t, s, 30)
	if err := s.Ack(30); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	files, err := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		flip(t, f, segmentHeader+frameHeader+1)
	}
	for range 2 { // the same damage is not kept twice
		s = open(t, cfg)
		if st := s.Stats(); st.QuarantineBytes > 200 || st.QuarantineFiles == 0 || st.Unkept == 0 || st.CorruptStretches != st.Unkept+st.QuarantineFiles {
			t.Errorf("%+v", st)
		}
		account(t, s, 30)
		shut(t, s)
	}
}

// TestLeap: a wall clock that leaps while the spool is open makes no frame old.
func TestLeap(t *testing.T) {
	const opened, year = int64(1_700_000_000_000), int64(400 * 24 * 3600 * 1000)
	for _, c := range []struct{ now, want int64 }{
		{opened + 60_000, opened + 60_000},        // as it should be
		{opened + 60_000 + year, opened + 60_000}, // the wall clock leapt ahead
		{opened - year, opened - year},            // and back
	} {
		if got := ageClock(c.now, opened, time.Minute); got != c.want {
			t.Errorf("at %d: %d, want %d", c.now-opened, got-opened, c.want-opened)
		}
	}
}

// TestRanges holds the set to a plain one, in any order.
func TestRanges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var set ranges
		plain := map[uint64]bool{}
		for range 60 {
			from := 1 + r.Uint64N(120)
			to := from + r.Uint64N(9)
			set.add(from, to)
			for q := from; q <= to; q++ {
				plain[q] = true
			}
		}
		last := set.through
		for _, m := range set.more {
			if m.From < last+2 || m.To < m.From {
				t.Fatalf("%+v", set)
			}
			last = m.To
		}
		for q := uint64(1); q < 140; q++ {
			if set.has(q) != plain[q] {
				t.Fatalf("%d: %v, %+v", q, plain[q], set)
			}
		}
	}
	var set ranges
	for q := uint64(2); q < 1000; q += 2 {
		set.add(q, q)
	}
	if len(set.more) != maxRanges || !set.has(2) || set.has(998) {
		t.Errorf("%d stretches", len(set.more))
	}
	if !set.add(1, 999) || set.through != 999 || len(set.more) != 0 {
		t.Errorf("%+v", set)
	}
}

// BenchmarkStats is what an exporter's look costs with four days of a dead broker behind.
func BenchmarkStats(b *testing.B) {
	s := open(b, Config{Dir: b.TempDir(), FS: durable.NoSync(durable.OS{})})
	defer shut(b, s)
	frame := bytes.Repeat([]byte{1}, 4000)
	for range 4 * 24 * 360 {
		if err := s.Append(s.NextSequence(), frame); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if s.Stats().UnackedFrames == 0 {
			b.Fatal("nothing waits")
		}
	}
}

// BenchmarkOpen is what a start costs with four days behind.
func BenchmarkOpen(b *testing.B) {
	cfg := Config{Dir: b.TempDir()}
	s := open(b, Config{Dir: cfg.Dir, FS: durable.NoSync(durable.OS{})})
	frame := bytes.Repeat([]byte{1}, 4000)
	for range 4 * 24 * 360 {
		if err := s.Append(s.NextSequence(), frame); err != nil {
			b.Fatal(err)
		}
	}
	shut(b, s)
	b.SetBytes(4 * 24 * 360 * 4000)
	b.ReportAllocs()
	for b.Loop() {
		s := open(b, cfg)
		shut(b, s)
	}
}
