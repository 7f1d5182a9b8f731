package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/durable"
)

func payload(seq uint64) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "frame %d.", seq), 1+int(seq*7%11))
}

func open(tb testing.TB, cfg Config) *Spool {
	tb.Helper()
	s, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func add(tb testing.TB, s *Spool, n int) {
	tb.Helper()
	for range n {
		seq := s.NextSequence()
		if err := s.Append(seq, payload(seq)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		tb.Fatal(err)
	}
}

func shut(tb testing.TB, s *Spool) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
}

// read returns the sequences from `from` on, having checked their content.
func read(tb testing.TB, s *Spool, from uint64) []uint64 {
	tb.Helper()
	var got []uint64
	var buf []byte
	r := s.Read(from)
	for {
		seq, frame, err := r.Next(buf)
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			tb.Fatal(err)
		}
		if !bytes.Equal(frame, payload(seq)) {
			tb.Fatalf("frame %d is %q", seq, frame)
		}
		got = append(got, seq)
		buf = frame
	}
}

func seqs(from, to uint64) []uint64 {
	var s []uint64
	for q := from; q <= to; q++ {
		s = append(s, q)
	}
	return s
}

func TestSpool(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "a"), SegmentBytes: 400}
	s := open(t, cfg)
	id := s.ID()
	if id == [16]byte{} || s.NextSequence() != 1 || s.LastDigest() != [32]byte{} || read(t, s, 1) != nil {
		t.Fatalf("a new spool: %x, %d", id, s.NextSequence())
	}
	if _, err := Open(cfg); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Append(2, []byte("x")); !errors.Is(err, ErrSequence) {
		t.Errorf("out of turn: %v", err)
	}
	if err := s.Append(1, nil); !errors.Is(err, ErrFrameSize) {
		t.Errorf("empty: %v", err)
	}
	if err := s.Append(1, payload(1)); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, 1); got != nil {
		t.Errorf("read %v before Sync", got)
	}
	if err := s.Ack(1); err == nil {
		t.Error("a frame that is not synced was acknowledged")
	}
	add(t, s, 29)
	select {
	case <-s.Notify():
	default:
		t.Error("Sync does not notify")
	}
	if got := read(t, s, 1); !slices.Equal(got, seqs(1, 30)) {
		t.Errorf("read %v", got)
	}
	if got := read(t, s, 12); !slices.Equal(got, seqs(12, 30)) {
		t.Errorf("read from 12: %v", got)
	}
	if err := s.Ack(20); err != nil {
		t.Fatal(err)
	}
	before := s.Stats().Segments
	if err := s.Commit(15); err != nil {
		t.Fatal(err)
	}
	if after := s.Stats().Segments; after >= before || before < 4 {
		t.Errorf("%d segments before the commit, %d after", before, after)
	}
	if err := s.Commit(31); err == nil {
		t.Error("a frame that does not exist was committed")
	}
	shut(t, s)
	shut(t, s)
	if err := s.Append(31, payload(31)); !errors.Is(err, ErrClosed) {
		t.Errorf("append to a closed spool: %v", err)
	}

	s = open(t, cfg)
	if s.ID() != id || s.NextSequence() != 31 || s.Acked() != 20 || s.Committed() != 15 || s.Synced() != 30 || len(s.Gaps()) != 0 {
		t.Errorf("after opening again: next %d, acked %d, committed %d, gaps %v", s.NextSequence(), s.Acked(), s.Committed(), s.Gaps())
	}
	if s.LastDigest() != sha256.Sum256(payload(30)) {
		t.Error("the chain of digests is broken")
	}
	if got := read(t, s, 16); !slices.Equal(got, seqs(16, 30)) {
		t.Errorf("read %v", got)
	}
	add(t, s, 5)
	if err := s.Commit(35); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Segments != 1 {
		t.Errorf("all is committed, and there are %d segments", st.Segments)
	}
	shut(t, s)
	s = open(t, cfg)
	if s.NextSequence() != 36 || s.LastDigest() != sha256.Sum256(payload(35)) || s.Acked() != 35 {
		t.Errorf("next %d", s.NextSequence())
	}
	shut(t, s)
}

// TestRestartOfEmpty: freed frames leave their sequence and digest in the segment's header.
func TestRestartOfEmpty(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 1}
	s := open(t, cfg)
	add(t, s, 3)
	if err := s.Commit(3); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	if err := os.Remove(filepath.Join(cfg.Dir, "positions")); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	defer shut(t, s)
	if s.NextSequence() != 4 || len(s.Gaps()) != 0 {
		t.Errorf("without positions: next %d, gaps %v", s.NextSequence(), s.Gaps())
	}
}

func TestEviction(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), MaxBytes: 2000}
	s := open(t, cfg)
	add(t, s, 5)
	if err := s.Commit(2); err != nil {
		t.Fatal(err)
	}
	add(t, s, 95)
	gaps := s.Gaps()
	if len(gaps) != 1 || gaps[0].From != 3 || gaps[0].Reason != ReasonBytes || gaps[0].Digest != sha256.Sum256(payload(gaps[0].To)) {
		t.Fatalf("gaps %+v", gaps)
	}
	if st := s.Stats(); st.Bytes > 2000 || st.EvictedFrames != int(gaps[0].To)-2 {
		t.Errorf("%+v", st)
	}
	if got := read(t, s, 1); !slices.Equal(got, seqs(gaps[0].To+1, 100)) {
		t.Errorf("read %v behind gap %+v", got, gaps)
	}
	if s.First(1) != gaps[0].To+1 {
		t.Errorf("first is %d", s.First(1))
	}
	shut(t, s)
	s = open(t, cfg)
	if !slices.Equal(s.Gaps(), gaps) {
		t.Errorf("after opening again: gaps %+v", s.Gaps())
	}
	// Frame 100 cannot have told the gap if it caused it; 101 does.
	seq := s.NextSequence()
	add(t, s, 1)
	told := len(s.Gaps()) == 1 && s.Gaps()[0] == gaps[0]
	if err := s.Commit(seq); err != nil {
		t.Fatal(err)
	}
	if told && len(s.Gaps()) != 0 {
		t.Errorf("the gap is told and committed, yet %+v", s.Gaps())
	}
	shut(t, s)
}

// TestPolicy: what the broker has acknowledged gives way before what nobody has, and what is
// committed is freed before either, wherever it lies.
func TestPolicy(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 500, MaxBytes: 4000}
	s := open(t, cfg)
	add(t, s, 20)
	if len(s.segments) < 5 {
		t.Fatalf("%d segments", len(s.segments))
	}
	acked := Range{s.segments[2].base, s.segments[3].base - 1}
	stored := Range{s.segments[1].base, s.segments[2].base - 1}
	if err := s.AckRange(acked.From, acked.To); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitMark(0, []Range{stored}); err != nil {
		t.Fatal(err)
	}
	if s.First(stored.From) != acked.From || s.Committed() != 0 || s.Acked() != 0 || !s.IsCommitted(stored.To) || s.Settled() {
		t.Errorf("first behind %d is %d", stored.From, s.First(stored.From))
	}
	for len(s.Gaps()) == 0 {
		add(t, s, 1)
	}
	g := s.Gaps()[0]
	if g.From != acked.From || g.To != acked.To || g.Digest != sha256.Sum256(payload(acked.To)) || s.First(1) != 1 {
		t.Errorf("gap %+v, acknowledged were %+v", g, acked)
	}
	for s.First(1) == 1 {
		add(t, s, 1)
	}
	if g := s.Gaps(); g[0].From != 1 || g[0].To != stored.From-1 || len(g) != 2 {
		t.Errorf("gaps %+v", g)
	}
	shut(t, s)
	s = open(t, cfg)
	if g := s.Gaps(); len(g) != 2 || s.Stats().CorruptStretches != 0 {
		t.Errorf("after opening again: %+v", g)
	}
	shut(t, s)
}

func TestAge(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 200, MaxAge: time.Hour, Now: func() time.Time { return now }}
	s := open(t, cfg)
	defer shut(t, s)
	add(t, s, 10)
	now = now.Add(2 * time.Hour)
	add(t, s, 1)
	g := s.Gaps()
	if len(g) != 1 || g[0].From != 1 || g[0].Reason != ReasonAge {
		t.Fatalf("gaps %+v", g)
	}
	if got := read(t, s, 1); !slices.Equal(got, seqs(g[0].To+1, 11)) {
		t.Errorf("read %v behind %+v", got, g)
	}
}

// TestPrefixes opens every prefix of the last segment: what is whole is kept, and the spool
// goes on.
func TestPrefixes(t *testing.T) {
	src := t.TempDir()
	s := open(t, Config{Dir: src})
	add(t, s, 6)
	shut(t, s)
	if err := os.Remove(filepath.Join(src, "positions")); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(src, (&segment{base: 1}).name())
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Dir: src, FS: durable.NoSync(durable.OS{})}
	for n := range whole {
		if err := os.WriteFile(name, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(cfg)
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		kept := s.NextSequence() - 1
		if got := read(t, s, 1); !slices.Equal(got, seqs(1, kept)) || len(s.Gaps()) != 0 || s.Stats().CorruptStretches != 0 {
			t.Fatalf("%d bytes: read %v, next %d, gaps %v", n, got, kept+1, s.Gaps())
		}
		add(t, s, 2)
		if got := read(t, s, 1); !slices.Equal(got, seqs(1, kept+2)) {
			t.Fatalf("%d bytes, then two frames: read %v", n, got)
		}
		shut(t, s)
		if err := os.Remove(filepath.Join(src, "positions")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamage flips bytes anywhere in a spool of acknowledged frames: the others are kept,
// the damaged ones are in quarantine and are told as gaps, and no sequence comes twice.
func TestDamage(t *testing.T) {
	base := t.TempDir()
	src := filepath.Join(base, "src")
	s := open(t, Config{Dir: src, SegmentBytes: 300})
	id := s.ID()
	add(t, s, 12)
	if err := s.Ack(12); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	files, err := filepath.Glob(filepath.Join(src, "*.seg"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%d segments, %v", len(files), err)
	}
	round := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(data); at += 5 {
			round++
			dir := filepath.Join(base, fmt.Sprint(round))
			if err := os.CopyFS(dir, os.DirFS(src)); err != nil {
				t.Fatal(err)
			}
			bad := bytes.Clone(data)
			bad[at] ^= 0x40
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := Config{Dir: dir, SegmentBytes: 300, FS: durable.NoSync(durable.OS{})}
			s, err := Open(cfg)
			if err != nil {
				t.Fatalf("%s byte %d: %v", file, at, err)
			}
			account(t, s, 12)
			if s.ID() != id || s.NextSequence() != 13 || s.Stats().CorruptStretches == 0 {
				t.Fatalf("%s byte %d: next %d, %+v", file, at, s.NextSequence(), s.Stats())
			}
			add(t, s, 2)
			account(t, s, 14)
			shut(t, s)
			s = open(t, cfg)
			account(t, s, 14)
			shut(t, s)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// account wants every sequence up to last to be read once, or to be in a gap.
func account(tb testing.TB, s *Spool, last uint64) {
	tb.Helper()
	got := read(tb, s, 1)
	n := 0
	for q := uint64(1); q <= last; q++ {
		if n < len(got) && got[n] == q {
			n++
			continue
		}
		in := slices.ContainsFunc(s.Gaps(), func(g Gap) bool { return g.From <= q && q <= g.To })
		if !in && q > s.Committed() {
			tb.Fatalf("frame %d is neither read nor in a gap: read %v, gaps %+v", q, got, s.Gaps())
		}
	}
	if n != len(got) {
		tb.Fatalf("read %v, at most %d", got, last)
	}
}

// TestRot damages a frame while the spool is open.
func TestRot(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 300}
	s := open(t, cfg)
	defer shut(t, s)
	add(t, s, 12)
	name := filepath.Join(cfg.Dir, (&segment{base: 1}).name())
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("XX"), segmentHeader+frameHeader+2); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, 1); !slices.Equal(got, seqs(2, 12)) {
		t.Errorf("read %v", got)
	}
	if g := s.Gaps(); len(g) != 1 || g[0].From != 1 || g[0].To != 1 || g[0].Reason != ReasonCorrupt {
		t.Errorf("gaps %+v", g)
	}
	if m, err := filepath.Glob(filepath.Join(cfg.Dir, "quarantine", "*.bad")); err != nil || len(m) != 1 {
		t.Errorf("quarantine %v, %v", m, err)
	}
}

func TestForeignAndLost(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	id := s.ID()
	add(t, s, 2)
	shut(t, s)
	if err := os.Remove(filepath.Join(dir, "identity")); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{Dir: dir})
	if s.ID() != id {
		t.Error("a lost identity is not taken from the segments")
	}
	shut(t, s)
	other := t.TempDir()
	o := open(t, Config{Dir: other})
	add(t, o, 1)
	shut(t, o)
	seg := (&segment{base: 1}).name()
	data, err := os.ReadFile(filepath.Join(other, seg))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, seg), data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{Dir: dir})
	if s.ID() != id || s.NextSequence() != 1 || s.Stats().SetAside != 1 || read(t, s, 1) != nil {
		t.Errorf("another spool's segment: next %d, %+v", s.NextSequence(), s.Stats())
	}
	shut(t, s)
	if m, err := filepath.Glob(filepath.Join(dir, "quarantine", "*.whole")); err != nil || len(m) != 1 {
		t.Errorf("quarantine %v, %v", m, err)
	}
}

// TestNobodys: segments of which nobody can say whose they are go into quarantine, and a new
// spool begins.
func TestNobodys(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 300}
	s := open(t, cfg)
	id := s.ID()
	add(t, s, 12)
	if err := s.Ack(12); err != nil {
		t.Fatal(err)
	}
	segments := s.Stats().Segments
	shut(t, s)
	files, err := filepath.Glob(filepath.Join(cfg.Dir, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, filepath.Join(cfg.Dir, "identity")) {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		data[9] ^= 1
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, cfg)
	if s.ID() == id || s.NextSequence() != 1 || s.Acked() != 0 || len(s.Gaps()) != 0 || s.Stats().SetAside != segments+3 {
		t.Errorf("next %d, acked %d, %+v", s.NextSequence(), s.Acked(), s.Stats())
	}
	add(t, s, 3)
	shut(t, s)
}

func FuzzScan(f *testing.F) {
	seg := appendSegmentHeader(nil, [16]byte{1}, 1, [32]byte{})
	f.Add(appendFrame(appendFrame(seg, 1, 5, []byte("abc")), 2, 6, []byte("defg")))
	f.Add([]byte(segmentMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, _, damage := scan(data, 1)
		last := uint64(0)
		used := int64(0)
		for _, r := range s.frames {
			if r.seq <= last || int(r.off)+int(r.len) > len(data) {
				t.Fatalf("frame %+v behind %d", r, last)
			}
			last = r.seq
			used += frameHeader + int64(r.len)
		}
		for _, d := range damage {
			used += d.end - d.off
		}
		if !s.headless {
			used += segmentHeader
		}
		if used != int64(len(data)) {
			t.Fatalf("%d of %d bytes accounted for", used, len(data))
		}
	})
}

func FuzzGaps(f *testing.F) {
	list := []Gap{{From: 1, To: 2, Reason: ReasonAge, told: 4}}
	slot := appendGaps(nil, 3, list)
	f.Add(append(slot, slot...))
	f.Add(append(slot, make([]byte, len(slot))...))
	v1 := appendGapEntries([]byte(gapsMagic1), list)
	f.Add(binary.LittleEndian.AppendUint32(v1, checksum(v1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		turn, _, gaps, err := parseGaps(data)
		if err != nil {
			return
		}
		again := appendGaps(nil, turn+1, gaps)
		if turn+1 == 0 {
			return
		}
		got, _, list, err := parseGaps(append(again, make([]byte, len(again))...))
		if err != nil || got != turn+1 || !slices.Equal(list, gaps) {
			t.Errorf("%v, %v", list, err)
		}
	})
}

func FuzzPositions(f *testing.F) {
	f.Add(make([]byte, slotUsed))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < slotUsed {
			return
		}
		if turn, _, _, ok := parsePositions(data[:slotUsed]); ok && turn == 0 {
			t.Error("a slot that was never written is sound")
		}
	})
}

// TestOldGaps: a list of the first version is read, and replaced by one of the second.
func TestOldGaps(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentBytes: 300}
	s := open(t, cfg)
	add(t, s, 12)
	if err := s.Commit(3); err != nil {
		t.Fatal(err)
	}
	first := s.segments[0].base
	shut(t, s)
	list := appendGapEntries([]byte(gapsMagic1), []Gap{{From: first - 1, To: first - 1, Reason: ReasonAge, Digest: [32]byte{1}, told: 13}})
	if err := os.WriteFile(filepath.Join(cfg.Dir, "gaps"), binary.LittleEndian.AppendUint32(list, checksum(list)), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s = open(t, cfg)
		if g := s.Gaps(); len(g) != 1 || g[0].Reason != ReasonAge || g[0].To != first-1 || s.gapFile.file == nil || s.Stats().GapsLost {
			t.Errorf("gaps %+v, %+v", g, s.Stats())
		}
		shut(t, s)
	}
}

// TestOldest: the time of the oldest frame that is not committed.
func TestOldest(t *testing.T) {
	now := time.UnixMilli(1000)
	s, err := Open(Config{Dir: t.TempDir(), FS: durable.NoSync(durable.OS{}), SegmentBytes: 200, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	want := func(ms int64) {
		t.Helper()
		if got, err := s.OldestMs(); err != nil || got != ms {
			t.Errorf("got %d, %v, want %d", got, err, ms)
		}
	}
	want(0)
	for i := range 5 {
		now = time.UnixMilli(int64(1000 + i))
		if err := s.Append(s.NextSequence(), make([]byte, 60)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	want(1000)
	if err := s.Commit(2); err != nil {
		t.Fatal(err)
	}
	want(1002)
	if err := s.Commit(5); err != nil {
		t.Fatal(err)
	}
	want(0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OldestMs(); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}
