package file

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

const (
	maxWriters = 4096
	idleMs     = 30_000  // without growth until an episode ends
	againMs    = 60_000  // between rows of one that goes on
	youngMs    = 600_000 // how long a file counts as newly opened
	touches    = 3       // looks running at which a file had changed and had not grown
)

// Flags of open(2).
const (
	accessMode = 3
	writeOnly  = 1
	appendOnly = 0o2000
)

// opened is a file that a process has open for writing.
type opened struct {
	id        uint64 // equal where a descriptor was inherited
	dev       uint32
	ino       uint64
	size      uint64
	pos       uint64
	blocks    uint64 // of 512 bytes
	changedNs uint64
	pid       int32
	start     uint64 // ns since boot
	fd        uint32
	flags     uint32
	path      string
	fs        string
}

// writerKey is a file within a process.
type writerKey struct {
	pid   int32
	start uint64
	dev   uint32
	ino   uint64
}

// writer is a process that has a file open.
type writer struct {
	key     writerKey
	last    opened
	seen    uint64 // look
	firstMs int64
	path    string // as of when it was first known
	touched int    // looks running
	alone   bool   // no other process writes the file
	fresh   bool   // it was opened after the process was first looked at

	open           bool // an episode goes on
	startMs, endMs int64
	grown, blocks  uint64 // bytes in it
	sized          uint64 // bytes that all writers made the file grow by
	unsure         bool   // others wrote the file too
	quiet          bool   // it changed without growing
	told           bool
	toldMs         int64
}

// episode is what a row tells.
type episode struct {
	w        *writer
	startMs  int64
	endMs    int64 // -1: it goes on
	bytes    int64 // -1: not known
	fileSize uint64
}

// tracker makes episodes of looks.
type tracker struct {
	minBytes uint64
	minRate  uint64 // bytes per second

	// sinceNs is when the last look was, Unix: what a new file's time of change is held
	// against.
	sinceNs uint64

	look    uint64
	writers map[writerKey]*writer
	holders map[uint64]int32 // process by descriptor
	known   map[int32]uint64 // start of each process that was looked at
	over    int              // writers left out of the last look
	out     []episode        // of this look
	list    []opened

	// Of one look.
	sums    map[writerKey]int // index into list
	here    map[inode]int     // writers
	has     map[hold]bool
	counted map[uint64]bool
	old     map[uint64]int32
}

// hold is a descriptor in a process, inode a file.
type (
	hold struct {
		id  uint64
		pid int32
	}
	inode struct {
		dev uint32
		ino uint64
	}
)

func newTracker(minBytes, minRate uint64) *tracker {
	return &tracker{minBytes: minBytes, minRate: minRate, writers: map[writerKey]*writer{}, holders: map[uint64]int32{}, known: map[int32]uint64{},
		sums: map[writerKey]int{}, here: map[inode]int{}, has: map[hold]bool{}, counted: map[uint64]bool{}, old: map[uint64]int32{}}
}

// step takes a look: all files that are open, and the processes that were looked at, with
// their starts. The result is good until the next step.
func (t *tracker) step(nowMs int64, files []opened, processes map[int32]uint64) []episode {
	t.look++
	t.out, t.over = t.out[:0], 0
	t.merge(files)
	clear(t.here)
	for i := range t.list {
		t.here[inode{t.list[i].dev, t.list[i].ino}]++
	}
	for i := range t.list {
		o := &t.list[i]
		k := writerKey{o.pid, o.start, o.dev, o.ino}
		w := t.writers[k]
		if w == nil {
			if len(t.writers) >= maxWriters {
				t.over++
				continue
			}
			w = t.begin(k, o, nowMs)
			t.writers[k] = w
		}
		w.seen = t.look
		w.alone = t.here[inode{o.dev, o.ino}] == 1
		t.advance(w, o, nowMs)
	}
	for k, w := range t.writers {
		if w.seen != t.look {
			t.end(w)
			delete(t.writers, k)
		}
	}
	clear(t.known)
	maps.Copy(t.known, processes)
	slices.SortFunc(t.out, func(a, b episode) int {
		return cmp.Or(cmp.Compare(a.startMs, b.startMs), cmp.Compare(a.w.key.pid, b.w.key.pid), cmp.Compare(a.w.key.ino, b.w.key.ino))
	})
	return t.out
}

// merge makes one of several descriptors of a file within a process, and leaves out those
// that were inherited.
func (t *tracker) merge(files []opened) {
	slices.SortFunc(files, func(a, b opened) int { return cmp.Or(cmp.Compare(a.pid, b.pid), cmp.Compare(a.fd, b.fd)) })
	clear(t.has)
	for i := range files {
		t.has[hold{files[i].id, files[i].pid}] = true
	}
	t.old, t.holders = t.holders, t.old
	clear(t.holders)
	clear(t.sums)
	clear(t.counted)
	t.list = t.list[:0]
	for i := range files {
		o := &files[i]
		if o.id != 0 {
			if holder, ok := t.old[o.id]; ok && holder != o.pid && t.has[hold{o.id, holder}] {
				continue
			}
			if t.counted[o.id] {
				continue // the same open file again, by dup or by inheritance
			}
			t.counted[o.id] = true
			t.holders[o.id] = o.pid
		}
		k := writerKey{o.pid, o.start, o.dev, o.ino}
		if at, ok := t.sums[k]; ok {
			m := &t.list[at]
			m.pos += o.pos
			if o.flags&accessMode != writeOnly {
				m.flags &^= accessMode
			}
			m.flags |= o.flags & appendOnly
			continue
		}
		t.sums[k] = len(t.list)
		t.list = append(t.list, *o)
	}
}

// begin is the first sight of a file. What counts as written before it is what the writer
// passed since it opened the file, if that was between two looks.
func (t *tracker) begin(k writerKey, o *opened, nowMs int64) *writer {
	w := &writer{key: k, last: *o, firstMs: nowMs, alone: true}
	start, known := t.known[k.pid]
	w.fresh = known && start == k.start
	if w.fresh && o.flags&appendOnly == 0 {
		if o.flags&accessMode == writeOnly || o.changedNs >= t.sinceNs {
			w.last.pos, w.last.changedNs = 0, 0
		}
	}
	return w
}

// advance takes in what has become of a file since the last look.
func (t *tracker) advance(w *writer, o *opened, nowMs int64) {
	if w.path == "" {
		w.path = o.path
	}
	if o.size < w.last.size { // truncated: what follows is another file in the same place
		t.end(w)
		w.last.size, w.last.pos, w.last.blocks = o.size, min(o.pos, w.last.pos), min(o.blocks, w.last.blocks)
	}
	var grown, blocks uint64
	sized := o.size - w.last.size
	changed := o.changedNs != w.last.changedNs
	switch {
	case o.size > w.last.size && w.alone:
		grown = o.size - w.last.size
	case o.pos > w.last.pos && o.flags&appendOnly == 0 && (changed || o.flags&accessMode == writeOnly):
		grown = o.pos - w.last.pos
	}
	if changed && o.blocks > w.last.blocks {
		blocks = (o.blocks - w.last.blocks) * 512
	}
	active := grown > 0 || changed && blocks > 0 || changed && o.size > w.last.size
	if changed && !active {
		w.touched++
	} else {
		w.touched = 0
	}
	fsOf, pathOf := cmp.Or(w.last.fs, o.fs), o.path
	w.last = *o
	w.last.fs = fsOf
	if w.path == "" {
		w.path = pathOf
	}
	quiet := w.touched >= touches && o.size >= t.minBytes && w.fresh && nowMs-w.firstMs <= youngMs
	switch {
	case active || quiet || w.open && changed:
		if !w.open {
			w.open, w.startMs, w.unsure, w.quiet = true, nowMs, false, false
		}
		w.endMs = nowMs
		w.grown += grown
		w.blocks += blocks
		w.sized += sized
		w.unsure = w.unsure || !w.alone && grown == 0
		w.quiet = w.quiet || quiet
	case w.open && nowMs-w.endMs >= idleMs:
		t.end(w)
	}
	if w.open && t.counts(w, nowMs) && (!w.told || nowMs-w.toldMs >= againMs) {
		w.told, w.toldMs = true, nowMs
		t.out = append(t.out, t.episode(w, -1))
	}
}

// counts reports whether an episode is more than a log that grows.
func (t *tracker) counts(w *writer, nowMs int64) bool {
	if w.told {
		return true
	}
	if w.quiet {
		return true
	}
	bytes := max(w.grown, w.blocks, w.sized)
	if bytes < t.minBytes {
		return false
	}
	return bytes/max(uint64(max(nowMs-w.startMs, 0))/1000, 1) >= t.minRate
}

// end closes an episode, and tells it if it is one.
func (t *tracker) end(w *writer) {
	if w.open && t.counts(w, w.endMs) {
		t.out = append(t.out, t.episode(w, w.endMs))
	}
	w.open, w.told, w.touched, w.grown, w.blocks, w.sized = false, false, 0, 0, 0, 0
}

func (t *tracker) episode(w *writer, endMs int64) episode {
	e := episode{w: w, startMs: w.startMs, endMs: endMs, bytes: -1, fileSize: w.last.size}
	switch {
	case w.unsure && w.grown == 0:
	case w.grown > 0:
		e.bytes = int64(w.grown)
	case w.blocks > 0:
		e.bytes = int64(w.blocks)
	}
	return e
}

// name is the path, or what stands for one that is not known.
func (w *writer) name() string {
	if w.path != "" {
		return w.path
	}
	return fmt.Sprintf("inode %d of device %d", w.key.ino, w.key.dev)
}
