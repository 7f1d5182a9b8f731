package spool

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/testenv/race"
)

// saga is what a user of a spool knows over all its lives.
type saga struct {
	published map[uint64][32]byte // what readers saw: none may change
	confirmed uint64              // by Sync
	committed map[uint64]bool
	carried   map[uint64][]Gap // gaps that a frame carries
	told      []Gap            // and those of frames that are committed
	life      int
	starved   int // appends that found no room at all
}

func newSaga() *saga {
	return &saga{published: map[uint64][32]byte{}, committed: map[uint64]bool{}, carried: map[uint64][]Gap{}}
}

func (g *saga) clone() *saga {
	c := newSaga()
	maps.Copy(c.published, g.published)
	maps.Copy(c.committed, g.committed)
	maps.Copy(c.carried, g.carried)
	c.confirmed, c.told, c.life = g.confirmed, slices.Clone(g.told), g.life
	return c
}

// frame is a frame of its own, with the digest of the one before it, as on the wire.
func (g *saga) frame(s *Spool, seq uint64) []byte {
	prev := s.LastDigest()
	text := fmt.Sprintf("frame %d of life %d", seq, g.life)
	return append(prev[:], strings.Repeat(text, 1+int(seq*7%11))...)
}

// live works with a spool: appends, syncs, acknowledges, commits, in and out of order.
func (g *saga) live(cfg Config, rounds int) (err error) {
	g.life++
	s, err := Open(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if s.NextSequence() <= g.confirmed {
		return fmt.Errorf("sequence %d would be given twice", s.NextSequence())
	}
	commit := func(from, to uint64) {
		for q := from; q <= to; q++ {
			if g.published[q] != [32]byte{} {
				g.committed[q] = true
				g.told = append(g.told, g.carried[q]...)
			}
		}
	}
	for i := range rounds {
		for range 1 + i%3 {
			seq := s.NextSequence()
			gaps := s.Gaps()
			frame := g.frame(s, seq)
			if err := s.Append(seq, frame); err != nil {
				if errors.Is(err, syscall.ENOSPC) && cfg.Free != nil {
					g.starved++
					continue
				}
				return err
			}
			g.carried[seq] = gaps
		}
		if err := s.Sync(); err != nil {
			return err
		}
		g.confirmed = max(g.confirmed, s.Synced())
		if err := g.look(s); err != nil {
			return err
		}
		top := s.Synced()
		switch i % 5 {
		case 0: // live frames overtake
			if err := s.AckRange(max(1, top-1), top); err != nil {
				return err
			}
		case 1, 4: // and are stored before the backlog
			from := max(1, top-min(top-1, 4))
			for q := from; q <= top; q++ {
				if _, ok := g.published[q]; !ok {
					from = q + 1 // nobody can have stored it
				}
			}
			commit(from, top) // whether the spool hears of it or not
			if _, err := s.CommitMark(s.Committed(), []Range{{from, top}}); err != nil {
				return err
			}
		case 2:
			if err := s.Ack(max(1, top-min(top-1, 6))); err != nil {
				return err
			}
		case 3:
			if i%10 == 3 {
				to := top - min(top, 5)
				for q := to; q > 0; q-- {
					if _, ok := g.published[q]; !ok {
						to = q - 1
					}
				}
				commit(1, to)
				if err := s.Commit(to); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// look reads all that a reader can see, and holds it to what was seen before.
func (g *saga) look(s *Spool) error {
	r := s.Read(1)
	var last uint64
	var digest [32]byte
	gaps := s.Gaps()
	for {
		seq, frame, err := r.Next(nil)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		sum := sha256.Sum256(frame)
		if was, ok := g.published[seq]; ok && was != sum {
			return fmt.Errorf("frame %d is another than it was", seq)
		}
		g.published[seq] = sum
		prev := [32]byte(frame)
		if last+1 == seq && last > 0 && prev != digest {
			return fmt.Errorf("the chain is broken between %d and %d", last, seq)
		}
		if last+1 != seq {
			for _, gap := range gaps {
				if gap.To == seq-1 && gap.Digest != [32]byte{} && prev != [32]byte{} && gap.Digest != prev {
					return fmt.Errorf("gap %+v has another digest than frame %d says", gap, seq)
				}
			}
		}
		last, digest = seq, sum
	}
}

// verify opens the spool with the power on for good. Every confirmed frame that is not
// committed must be there as it was, or be in a gap that is told or was; no gap may be called
// damage where a crash was all there was, but for frames that nobody confirmed.
func (g *saga) verify(cfg Config) error {
	s, err := Open(cfg)
	if err != nil {
		return fmt.Errorf("open after all: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if s.NextSequence() <= g.confirmed {
		return fmt.Errorf("next is %d, but %d was synced", s.NextSequence(), g.confirmed)
	}
	have := map[uint64]bool{}
	r := s.Read(1)
	for {
		seq, frame, err := r.Next(nil)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if was, ok := g.published[seq]; ok && was != sha256.Sum256(frame) {
			return fmt.Errorf("frame %d has changed", seq)
		}
		have[seq] = true
	}
	in := func(gaps []Gap, q uint64) bool {
		return slices.ContainsFunc(gaps, func(x Gap) bool { return x.From <= q && q <= x.To })
	}
	gaps := s.Gaps()
	for q := range g.published {
		if !have[q] && !g.committed[q] && !in(gaps, q) && !in(g.told, q) {
			return fmt.Errorf("frame %d is gone without a word: gaps %+v, committed %d", q, gaps, s.Committed())
		}
	}
	for _, gap := range gaps {
		if gap.Reason != ReasonCorrupt {
			continue
		}
		for q := gap.From; q <= gap.To; q++ {
			if _, ok := g.published[q]; ok && q <= g.confirmed {
				return fmt.Errorf("frame %d was confirmed, and the crash made it damage: %+v, committed %d", q, gap, s.Committed())
			}
		}
	}
	if st := s.Stats(); st.SetAside > 0 || st.GapsLost || st.PositionsLost && g.confirmed > 0 {
		return fmt.Errorf("a crash set files aside: %+v", st)
	}
	return g.look(s)
}

type powerCase struct {
	name     string
	capacity int64
	config   Config
}

func powerCases() []powerCase {
	return []powerCase{
		{"roomy", 0, Config{SegmentBytes: 600, MaxBytes: 1 << 20}},
		{"bounded", 0, Config{SegmentBytes: 600, MaxBytes: 1800}},
		{"full disk", 28 << 10, Config{SegmentBytes: 1200, MaxBytes: 1 << 20, MinFree: -1}},
		{"reserve", 40 << 10, Config{SegmentBytes: 1200, MaxBytes: 1 << 20, MinFree: 9 << 10}},
	}
}

func (c powerCase) on(p *powerFS) Config {
	cfg := c.config
	cfg.Dir, cfg.FS = "/spool", p
	cfg.NewID = func() ([16]byte, error) { return [16]byte{7}, nil }
	if p.capacity > 0 {
		cfg.Free = p.free
	}
	return cfg
}

// TestPowerCut cuts the power in every call of a spool's life that changes something on
// disk, and again in every call of the recovery, and has what was not synced be lost, be
// there, be there in part, or in torn sectors. Nothing that Sync confirmed may be missing
// without a gap.
func TestPowerCut(t *testing.T) {
	const rounds = 30
	start := time.Now()
	for _, c := range powerCases() {
		t.Run(c.name, func(t *testing.T) {
			cuts, again := 0, 0
			ops := map[string]int{}
			stride := 1
			if testing.Short() || race.Enabled {
				stride = 7
			}
			for at := 1; ; at += stride {
				p := newPowerFS()
				p.capacity, p.at = c.capacity, at
				g := newSaga()
				err := g.live(c.on(p), rounds)
				if err != nil && !errors.Is(err, errCut) {
					t.Fatalf("call %d: %v", at, err)
				}
				for f := range fates {
					rnd := rand.New(rand.NewPCG(uint64(at), uint64(f)))
					disk := p.cut(f, rnd)
					cuts++
					if err := after(c, disk.clone(), g.clone()); err != nil {
						t.Fatalf("power off in call %d, unsynced: %v: %v", at, f, err)
					}
					if f == fateAll || (at+int(f))%3 != 0 {
						continue
					}
					for k := 1; ; k++ {
						second := disk.clone()
						second.at = k
						s, err := Open(c.on(second))
						if err == nil {
							err = s.Close()
						}
						if err == nil {
							break
						}
						if !errors.Is(err, errCut) {
							t.Fatalf("recovery from a cut in call %d (%v), call %d: %v", at, f, k, err)
						}
						again++
						then := fate(rnd.IntN(int(fates)))
						if err := after(c, second.cut(then, rnd), g.clone()); err != nil {
							t.Fatalf("power off in call %d (%v) and in call %d of the recovery (%v): %v", at, f, k, then, err)
						}
					}
				}
				if err == nil {
					for op, n := range p.ops {
						ops[op] += n
					}
					t.Logf("%d calls (%v), %d cuts in them, %d more in recoveries; %d appends found no room", p.calls, ops, cuts, again, g.starved)
					break
				}
			}
		})
	}
	t.Logf("took %v", time.Since(start).Round(time.Millisecond))
}

// after is what a boot after a cut must find, and that life goes on from there.
func after(c powerCase, disk *powerFS, g *saga) error {
	if err := g.verify(c.on(disk)); err != nil {
		return err
	}
	if err := g.live(c.on(disk), 6); err != nil {
		return fmt.Errorf("living on: %w", err)
	}
	return g.verify(c.on(disk))
}

// TestFaultOnce lets one call of any kind fail with each of the errors that a medium gives,
// while the spool stays open and its user tries again.
func TestFaultOnce(t *testing.T) {
	faults := 0
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EINTR} {
		for at := 1; ; at++ {
			c := powerCases()[1]
			p := newPowerFS()
			n := 0
			p.fail = func(string) error {
				if n++; n == at {
					return errno
				}
				return nil
			}
			g := newSaga()
			var err error
			for try := range 3 { // a failed life is followed by another
				if err = g.live(c.on(p), 12); err == nil || try == 2 {
					break
				}
				if !errors.Is(err, errno) {
					t.Fatalf("%v in call %d: %v", errno, at, err)
				}
			}
			if err != nil {
				t.Fatalf("%v in call %d: %v", errno, at, err)
			}
			done := n < at
			p.fail = nil
			s := open(t, c.on(p))
			for q := range g.published {
				gone := s.First(q) != q && !g.committed[q]
				if gone && !slices.ContainsFunc(append(s.Gaps(), g.told...), func(x Gap) bool { return x.From <= q && q <= x.To }) {
					t.Fatalf("%v in call %d: frame %d is gone without a word", errno, at, q)
				}
			}
			if err := g.look(s); err != nil {
				t.Fatalf("%v in call %d: %v", errno, at, err)
			}
			shut(t, s)
			if done {
				break
			}
			faults++
		}
	}
	t.Logf("%d faults", faults)
}

// TestDiskFull: on a full disk the oldest gives way to the newest, with a word, and comes
// back to normal by itself.
func TestDiskFull(t *testing.T) {
	p := newPowerFS()
	cfg := powerCase{config: Config{SegmentBytes: 2048, MaxBytes: 1 << 20, MinFree: -1}}
	p.capacity = 64 << 10
	s := open(t, cfg.on(p))
	var want uint64
	put := func(n int) {
		t.Helper()
		for range n {
			want++
			if err := s.Append(want, bytes.Repeat([]byte{byte(want)}, 400)); err != nil {
				t.Fatalf("frame %d: %v; %+v", want, err, s.Stats())
			}
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(300)
	gaps := s.Gaps()
	if len(gaps) != 1 || gaps[0].From != 1 || gaps[0].Reason != ReasonDisk || gaps[0].Digest != sha256.Sum256(bytes.Repeat([]byte{byte(gaps[0].To)}, 400)) {
		t.Fatalf("gaps %+v", gaps)
	}
	kept := s.Stats().Frames
	if st := s.Stats(); st.Trouble != TroubleNone || int(gaps[0].To)+st.Frames != 300 || kept < 50 || st.GivenUp[ReasonDisk] != gaps[0].To {
		t.Errorf("%+v", st)
	}
	// Another takes nearly everything: less and less is kept, and the newest goes in.
	p.capacity = p.used() - 20<<10
	put(40)
	if st := s.Stats(); st.Frames >= kept || s.First(want) != want {
		t.Errorf("%+v", st)
	}
	// Nothing at all is left but what the spool has.
	p.capacity = 1
	errs := 0
	for range 60 {
		if err := s.Append(s.NextSequence(), make([]byte, 400)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			errs++
		}
	}
	if st := s.Stats(); errs == 0 || st.Trouble != TroubleNoRoom || st.Cause == "" || st.Frames == 0 {
		t.Errorf("%d errors, %+v", errs, st)
	}
	next := s.NextSequence()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg.on(p)) // a full disk is no reason not to open
	if s.NextSequence() != next {
		t.Errorf("next %d, was %d", s.NextSequence(), next)
	}
	p.capacity = 64 << 10
	want = s.NextSequence() - 1
	put(3)
	if st := s.Stats(); st.Trouble != TroubleNone {
		t.Errorf("%+v", st)
	}
	shut(t, s)
}

// TestReserve: below the reserve the spool stays as large as it is, and no larger.
func TestReserve(t *testing.T) {
	p := newPowerFS()
	cfg := powerCase{config: Config{SegmentBytes: 32 << 10, MaxBytes: 1 << 20, MinFree: 100 << 10}}
	p.capacity = 200 << 10
	s := open(t, cfg.on(p))
	defer shut(t, s)
	for range 1000 {
		if err := s.Append(s.NextSequence(), make([]byte, 300)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if st.Bytes > 90<<10 || st.Bytes < 50<<10 || st.Trouble != TroubleTight || st.GivenUp[ReasonDisk] == 0 || st.FreeBytes == 0 || st.ReserveBytes != 100<<10 {
		t.Errorf("%+v", st)
	}
	// Others fill the disk: the spool does not shrink for them.
	p.capacity -= 50 << 10
	for range 200 {
		if err := s.Append(s.NextSequence(), make([]byte, 300)); err != nil {
			t.Fatal(err)
		}
	}
	if now := s.Stats(); now.Bytes < st.Bytes-8<<10 {
		t.Errorf("the spool shrank from %d to %d bytes", st.Bytes, now.Bytes)
	}
}

// TestTightAndWell: while all is committed in time, less than the reserve costs nothing.
func TestTightAndWell(t *testing.T) {
	p := newPowerFS()
	cfg := powerCase{config: Config{SegmentBytes: 32 << 10, MaxBytes: 1 << 20, MinFree: 100 << 10}}
	p.capacity = 110 << 10
	s := open(t, cfg.on(p))
	defer shut(t, s)
	for seq := uint64(1); seq <= 1000; seq++ {
		if err := s.Append(seq, make([]byte, 300)); err != nil {
			t.Fatal(err)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		if seq > 3 {
			if err := s.Commit(seq - 3); err != nil {
				t.Fatal(err)
			}
		}
	}
	if st := s.Stats(); st.EvictedFrames != 0 || len(s.Gaps()) != 0 || st.Bytes > 10<<10 || st.Trouble != TroubleTight {
		t.Errorf("%+v", st)
	}
}

// TestCost: a frame on its way costs one fsync and three writes; what is freed, a few a
// segment.
func TestCost(t *testing.T) {
	p := newPowerFS()
	cfg := powerCase{config: Config{SegmentBytes: 1 << 20, MaxBytes: 64 << 20}}
	s := open(t, cfg.on(p))
	defer shut(t, s)
	before := maps.Clone(p.ops)
	const frames = 1000
	for seq := uint64(1); seq <= frames; seq++ {
		if err := s.Append(seq, make([]byte, 4000)); err != nil {
			t.Fatal(err)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		if err := s.Ack(seq); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(seq); err != nil {
			t.Fatal(err)
		}
	}
	segments := 4000*frames/cfg.config.SegmentBytes + 1
	syncs, writes := p.ops["fsync"]-before["fsync"], p.ops["write"]-before["write"]
	if int64(syncs) > frames+3*segments || int64(writes) > 3*frames+2*segments {
		t.Errorf("%d fsyncs, %d writes for %d frames in %d segments", syncs, writes, frames, segments)
	}
	t.Logf("%d fsyncs, %d writes, %d fsyncs of the directory for %d frames in %d segments", syncs, writes,
		p.ops["fsync of the directory"]-before["fsync of the directory"], frames, segments)
}

// TestMediumFails: what is no lack of room costs nothing that is there, and is told.
func TestMediumFails(t *testing.T) {
	for errno, want := range map[syscall.Errno]Trouble{syscall.EIO: TroubleIO, syscall.EROFS: TroubleReadOnly, syscall.EACCES: TroubleDenied} {
		p := newPowerFS()
		cfg := powerCase{config: Config{SegmentBytes: 600, MaxBytes: 1 << 20}}
		s := open(t, cfg.on(p))
		add(t, s, 30)
		before := s.Stats()
		p.fail = func(op string) error {
			if op == "read" || op == "open" || op == "stat" || op == "close" {
				return nil
			}
			return errno
		}
		for range 5 {
			if err := s.Append(s.NextSequence(), make([]byte, 300)); !errors.Is(err, errno) {
				t.Fatalf("got %v", err)
			}
		}
		if err := s.Ack(30); err != nil {
			t.Errorf("a position that cannot be kept: %v", err)
		}
		st := s.Stats()
		if st.Trouble != want || st.Cause == "" || st.Frames != before.Frames || st.Bytes != before.Bytes || st.PositionErrors != 1 || s.Acked() != 30 {
			t.Errorf("%v: %+v", errno, st)
		}
		if got := read(t, s, 1); !slices.Equal(got, seqs(1, 30)) {
			t.Errorf("read %v", got)
		}
		p.fail = nil
		add(t, s, 1)
		if st := s.Stats(); st.Trouble != TroubleNone || s.First(31) != 31 {
			t.Errorf("%+v", st)
		}
		shut(t, s)
	}
}
