package spool

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/flopwatch/flopwatch/internal/durable"
)

// readFS is a file layer that counts what is read.
type readFS struct {
	durable.FS
	bytes, largest int64
}

type readFile struct {
	durable.File
	fs *readFS
}

func (r *readFS) Open(name string) (durable.File, error) {
	f, err := r.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return readFile{f, r}, nil
}

func (f readFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.bytes += int64(len(p))
	f.fs.largest = max(f.fs.largest, int64(len(p)))
	return f.File.ReadAt(p, off)
}

// Vector loads its whole buffer at start (issue 26035), Telegraf replays its whole log (16500): a
// spool of days is opened in the memory of one segment, and what is committed is not read again.
func TestOpenHoldsNoBacklog(t *testing.T) {
	const segment, frames, size = 1 << 20, 12_000, 4000
	cfg := Config{Dir: t.TempDir(), SegmentBytes: segment, FS: durable.NoSync(durable.OS{})}
	s := open(t, cfg)
	frame := bytes.Repeat([]byte{7}, size)
	for range frames {
		if err := s.Append(s.NextSequence(), frame); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	shut(t, s)

	heap := func() (live, all uint64) {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc, m.TotalAlloc
	}
	disk := &readFS{FS: cfg.FS}
	cfg.FS = disk
	live, all := heap()
	s = open(t, cfg)
	liveAfter, allAfter := heap()
	if st := s.Stats(); st.Frames != frames {
		t.Fatalf("%+v", st)
	}
	// All that was ever taken: one segment's bytes, its growth, and what is known of each frame.
	if n := allAfter - all; n > 4*segment+frames*128 {
		t.Errorf("opening %d MiB took %d KiB in all", frames*size>>20, n>>10)
	}
	if n := int64(liveAfter) - int64(live); n > frames*64+64<<10 {
		t.Errorf("%d KiB of %d MiB stay in memory", n>>10, frames*size>>20)
	}
	if disk.bytes > 2*frames*size || disk.largest > segment {
		t.Errorf("%d bytes were read, %d at once", disk.bytes, disk.largest)
	}
	if err := s.Commit(frames - 100); err != nil {
		t.Fatal(err)
	}
	shut(t, s)
	disk.bytes = 0
	s = open(t, cfg)
	if st := s.Stats(); st.UncommittedFrames != 100 || disk.bytes > 3*segment {
		t.Errorf("%d bytes were read for %+v", disk.bytes, st)
	}
	shut(t, s)
}
