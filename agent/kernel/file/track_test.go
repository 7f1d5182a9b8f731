package file

import (
	"testing"
)

const mib = 1 << 20

// film runs looks two seconds apart, each with the files that are open then.
type film struct {
	t     *testing.T
	tr    *tracker
	nowMs int64
	rows  []told
}

type told struct {
	pid            int32
	path           string
	startMs, endMs int64
	bytes          int64
	size           uint64
}

func newFilm(t *testing.T) *film {
	return &film{t: t, tr: newTracker(64*mib, 4*mib), nowMs: 1_000_000}
}

func (f *film) look(files ...opened) {
	f.nowMs += 2000
	starts := map[int32]uint64{7: 70, 8: 80}
	for i := range files {
		files[i].start = starts[files[i].pid]
	}
	for _, e := range f.tr.step(f.nowMs, files, starts) {
		f.rows = append(f.rows, told{e.w.key.pid, e.w.name(), e.startMs, e.endMs, e.bytes, e.fileSize})
	}
}

// of is a file of process 7 that is written from its beginning.
func of(size, changed uint64) opened {
	return opened{id: 1, dev: 1, ino: 10, size: size * mib, pos: size * mib, changedNs: changed, pid: 7, fd: 3, flags: writeOnly, path: "/ckpt/a.tmp"}
}

func (f *film) want(rows ...told) {
	f.t.Helper()
	if len(f.rows) != len(rows) {
		f.t.Fatalf("%d rows, want %d: %+v", len(f.rows), len(rows), f.rows)
	}
	for i := range rows {
		if f.rows[i] != rows[i] {
			f.t.Errorf("row %d is %+v, want %+v", i, f.rows[i], rows[i])
		}
	}
}

func TestWrittenAndClosed(t *testing.T) {
	f := newFilm(t)
	f.look()
	f.look(of(40, 1))
	f.look(of(100, 2))
	f.look(of(300, 3))
	f.look()
	f.want(
		told{7, "/ckpt/a.tmp", 1_004_000, -1, 100 * mib, 100 * mib},
		told{7, "/ckpt/a.tmp", 1_004_000, 1_008_000, 300 * mib, 300 * mib},
	)
}

func TestOneLookIsEnough(t *testing.T) {
	f := newFilm(t)
	f.look()
	f.look(of(500, 1))
	f.look()
	f.want(told{7, "/ckpt/a.tmp", 1_004_000, -1, 500 * mib, 500 * mib}, told{7, "/ckpt/a.tmp", 1_004_000, 1_004_000, 500 * mib, 500 * mib})
}

func TestIdleEnds(t *testing.T) {
	f := newFilm(t)
	f.look()
	f.look(of(100, 1))
	for range 20 {
		f.look(of(100, 1))
	}
	f.want(told{7, "/ckpt/a.tmp", 1_004_000, -1, 100 * mib, 100 * mib}, told{7, "/ckpt/a.tmp", 1_004_000, 1_004_000, 100 * mib, 100 * mib})
	f.rows = nil
	f.look(of(200, 2)) // it goes on later: another episode
	f.look()
	f.want(told{7, "/ckpt/a.tmp", 1_046_000, -1, 100 * mib, 200 * mib}, told{7, "/ckpt/a.tmp", 1_046_000, 1_046_000, 100 * mib, 200 * mib})
}

func TestRenameKeepsKey(t *testing.T) {
	f := newFilm(t)
	f.look()
	f.look(of(100, 1))
	o := of(200, 2)
	o.path = "/ckpt/a"
	f.look(o)
	f.look()
	f.want(told{7, "/ckpt/a.tmp", 1_004_000, -1, 100 * mib, 100 * mib}, told{7, "/ckpt/a.tmp", 1_004_000, 1_006_000, 200 * mib, 200 * mib})
}

func TestTruncation(t *testing.T) {
	f := newFilm(t)
	f.look()
	f.look(of(100, 1))
	f.look(of(80, 2)) // written anew in the same place
	f.look(of(180, 3))
	f.look()
	f.want(
		told{7, "/ckpt/a.tmp", 1_004_000, -1, 100 * mib, 100 * mib},
		told{7, "/ckpt/a.tmp", 1_004_000, 1_004_000, 100 * mib, 100 * mib},
		told{7, "/ckpt/a.tmp", 1_008_000, -1, 100 * mib, 180 * mib},
		told{7, "/ckpt/a.tmp", 1_008_000, 1_008_000, 100 * mib, 180 * mib},
	)
}

func TestSlowLogIsNone(t *testing.T) {
	f := newFilm(t)
	f.look()
	for i := range uint64(600) {
		o := of(100+i, i)
		o.flags |= appendOnly
		f.look(o)
	}
	f.look()
	f.want()
}

func TestAppendedToIsNotWritten(t *testing.T) {
	f := newFilm(t)
	f.look()
	o := of(5000, 1)
	o.flags |= appendOnly
	f.look(o)
	o = of(5070, 2)
	o.flags |= appendOnly
	f.look(o)
	f.look()
	f.want(told{7, "/ckpt/a.tmp", 1_006_000, -1, 70 * mib, 5070 * mib}, told{7, "/ckpt/a.tmp", 1_006_000, 1_006_000, 70 * mib, 5070 * mib})
}

func TestOpenBefore(t *testing.T) {
	f := newFilm(t)
	f.look(of(500, 1)) // all that is open at the first look
	f.look(of(500, 1))
	f.look()
	f.want()
}

// TestReader reads a file that it could write, too.
func TestReader(t *testing.T) {
	f := newFilm(t)
	f.look()
	for i := range uint64(10) {
		o := of(1000, 1)
		o.flags, o.pos = 2, i*100*mib
		f.look(o)
	}
	f.look()
	f.want()
}

// TestPreallocated has its size from the start, and is filled in order.
func TestPreallocated(t *testing.T) {
	f := newFilm(t)
	f.look()
	for i := range uint64(3) {
		o := of(1000, i)
		o.pos = i * 100 * mib
		f.look(o)
	}
	f.look()
	f.want(told{7, "/ckpt/a.tmp", 1_006_000, -1, 100 * mib, 1000 * mib}, told{7, "/ckpt/a.tmp", 1_006_000, 1_008_000, 200 * mib, 1000 * mib})
}

// TestMapped is written through memory: a sparse file whose blocks come as it is.
func TestMapped(t *testing.T) {
	f := newFilm(t)
	f.look()
	for i := range uint64(3) {
		o := of(1000, i)
		o.pos, o.flags, o.blocks = 0, 2, i*100*mib/512
		f.look(o)
	}
	f.look()
	f.want(told{7, "/ckpt/a.tmp", 1_006_000, -1, 100 * mib, 1000 * mib}, told{7, "/ckpt/a.tmp", 1_006_000, 1_008_000, 200 * mib, 1000 * mib})
}

// TestAllocated has all its blocks from the start: how much is written is not known.
func TestAllocated(t *testing.T) {
	f := newFilm(t)
	f.look()
	for i := range uint64(6) {
		o := of(1000, i)
		o.pos, o.flags, o.blocks = 0, 2, 1000*mib/512
		f.look(o)
	}
	f.look()
	f.want(told{7, "/ckpt/a.tmp", 1_010_000, -1, -1, 1000 * mib}, told{7, "/ckpt/a.tmp", 1_010_000, 1_014_000, -1, 1000 * mib})
}

// TestDatabase changes in place for ever.
func TestDatabase(t *testing.T) {
	f := newFilm(t)
	db := func(changed uint64) opened {
		o := of(1000, changed)
		o.pos, o.flags, o.blocks = 0, 2, 1000*mib/512
		return o
	}
	f.look(db(0))
	for i := range uint64(50) {
		f.look(db(i + 1))
	}
	f.look()
	f.want()
}

// TestShards are two processes with a file each, and both with one file at places of their own.
func TestShards(t *testing.T) {
	f := newFilm(t)
	f.look()
	other := of(100, 1)
	other.pid, other.ino, other.id, other.path = 8, 11, 2, "/ckpt/b"
	f.look(of(100, 1), other)
	f.look()
	if len(f.rows) != 4 || f.rows[0].pid != 7 || f.rows[1].pid != 8 {
		t.Fatalf("rows %+v", f.rows)
	}
	f = newFilm(t)
	f.look()
	for i := range uint64(4) {
		a, b := of(1000+i*200, i), of(1000+i*200, i)
		a.pos, b.pos = (100+i*100)*mib, (600+i*100)*mib
		b.pid, b.id = 8, 2
		f.look(a, b)
	}
	f.look()
	var sum int64
	for _, r := range f.rows {
		if r.endMs >= 0 {
			sum += r.bytes
		}
	}
	if len(f.rows) != 4 || sum != (100+300+600+300)*mib {
		t.Errorf("rows %+v", f.rows)
	}
}

// TestSharedByOffset are two that write at places they name: who wrote what is not known.
func TestSharedByOffset(t *testing.T) {
	f := newFilm(t)
	f.look()
	for i := range uint64(4) {
		a, b := of(100+i*200, i), of(100+i*200, i)
		a.pos, b.pos = 0, 0
		b.pid, b.id = 8, 2
		f.look(a, b)
	}
	f.look()
	for _, r := range f.rows {
		if r.bytes != -1 {
			t.Errorf("row %+v", r)
		}
	}
	if len(f.rows) != 4 {
		t.Errorf("rows %+v", f.rows)
	}
}

// TestInherited is one open file in two processes.
func TestInherited(t *testing.T) {
	f := newFilm(t)
	f.look()
	for i := range uint64(3) {
		a := of(100+i*100, i+1)
		b := a
		b.pid = 8
		f.look(b, a)
	}
	f.look()
	f.want(told{7, "/ckpt/a.tmp", 1_004_000, -1, 100 * mib, 100 * mib}, told{7, "/ckpt/a.tmp", 1_004_000, 1_008_000, 300 * mib, 300 * mib})
}

func TestBound(t *testing.T) {
	f := newFilm(t)
	files := make([]opened, maxWriters+10)
	for i := range files {
		files[i] = of(1, 1)
		files[i].ino, files[i].id = uint64(i), uint64(i+1)
	}
	f.look(files...)
	if len(f.tr.writers) != maxWriters || f.tr.over != 10 {
		t.Errorf("%d writers, %d over", len(f.tr.writers), f.tr.over)
	}
	f.look()
	if len(f.tr.writers) != 0 || len(f.tr.holders) != 0 {
		t.Error("what is closed is kept")
	}
}

func FuzzParseOpen(f *testing.F) {
	b := make([]byte, openBytes+3)
	b[72] = 3
	copy(b[80:], "ext4")
	copy(b[openBytes:], "/ab")
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		o, n := parseOpen(b, map[string]string{})
		if n > len(b) || n > 0 && (n < openBytes || len(o.path) > pathMost || len(o.fs) > 16) {
			t.Errorf("%d of %d bytes: %+v", n, len(b), o)
		}
	})
}

func FuzzParseFdinfo(f *testing.F) {
	f.Add([]byte("pos:\t12\nflags:\t02100001\nmnt_id:\t9\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var o opened
		parseFdinfo(b, &o)
	})
}

// FuzzTrack takes looks from bytes: it must not panic, nor tell what cannot be.
func FuzzTrack(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	f.Fuzz(func(t *testing.T, b []byte) {
		tr := newTracker(mib, 1)
		now := int64(1000)
		for len(b) >= 6 {
			n := int(b[0] % 4)
			var files []opened
			for i := 0; i < n && len(b) >= 6; i++ {
				files = append(files, opened{id: uint64(b[0] % 5), ino: uint64(b[1] % 3), size: uint64(b[2]) * mib, pos: uint64(b[3]) * mib, changedNs: uint64(b[4]),
					pid: int32(b[5] % 3), flags: uint32(b[4]) | uint32(b[5])<<4})
				b = b[6:]
			}
			if n == 0 {
				b = b[1:]
			}
			now += 2000
			for _, e := range tr.step(now, files, map[int32]uint64{0: 0, 1: 0, 2: 0}) {
				if e.startMs > now || e.endMs > now || e.endMs >= 0 && e.endMs < e.startMs || e.bytes == 0 {
					t.Errorf("%+v", e)
				}
			}
		}
	})
}
