package detector

import (
	"hash/maphash"
	"slices"
	"sort"
	"sync/atomic"

	"github.com/flopwatch/flopwatch/detector/feature"
)

// track is the cells of one GPU by time: as they are, or packed where the fleet is large. Which of both it is changes no verdict: cells
// are rounded to what packing keeps when they are made.
type track struct {
	cells  []feature.GPUCell
	packed feature.Packed
	n      int   // how many there are
	lastMs int64 // start of the latest
}

const (
	// largeFleet is the number of cells from which on a fleet is looked at once a block.
	largeFleet = 250_000
	// unpackedMost is how many cells are held as they are, 0.7 KiB each, before all are packed.
	unpackedMost = 600_000
	// unpackedTracks is of how many GPUs the cells that were made stay for those who ask again, while one moment is looked at.
	unpackedTracks = 2048
)

// get returns all cells. Those of a packed track are made: they are the caller's.
func (t *track) get(k feature.GPUKey) []feature.GPUCell {
	if t.packed == nil {
		return t.cells
	}
	return t.packed.Unpack(make([]feature.GPUCell, 0, t.n), k)
}

// view returns the cells that end after fromMs, the one before them, and none that begins after limitMs.
func (t *track) view(k feature.GPUKey, fromMs, limitMs int64) []feature.GPUCell {
	if t.packed == nil {
		lo := sort.Search(len(t.cells), func(i int) bool { return t.cells[i].EndMs() > fromMs })
		hi := sort.Search(len(t.cells), func(i int) bool { return t.cells[i].MinuteMs > limitMs })
		lo = max(lo-1, 0)
		return t.cells[lo:max(lo, hi):max(lo, hi)]
	}
	p, n := t.packed, t.n
	if limitMs < t.lastMs {
		p, n = p.Before(limitMs + 1)
	}
	if fromMs > 0 {
		p = p.FromBefore(fromMs)
		n = p.Count()
	}
	return p.Unpack(make([]feature.GPUCell, 0, n), k)
}

func (t *track) firstMs() int64 {
	if t.packed == nil {
		return t.cells[0].MinuteMs
	}
	return t.packed.FirstMs()
}

// set puts cells in place of all that there were.
func (t *track) set(cells []feature.GPUCell, pack bool) {
	t.n, t.cells, t.packed = len(cells), nil, nil
	if len(cells) == 0 {
		return
	}
	t.lastMs = cells[len(cells)-1].MinuteMs
	if !pack {
		t.cells = cells
		return
	}
	var p feature.Packed
	for i := range cells {
		p = p.Append(&cells[i])
	}
	t.packed = p
}

// put brings in a cell of a minute, in place of what there was of it. The usual case is an append.
func (t *track) put(c *feature.GPUCell, pack bool) {
	if t.n == 0 || c.MinuteMs > t.lastMs {
		t.n++
		t.lastMs = c.MinuteMs
		if pack {
			if cap(t.packed)-len(t.packed) < 512 {
				t.packed = slices.Grow(t.packed, 3<<10)
			}
			t.packed = t.packed.Append(c)
		} else {
			t.cells = append(t.cells, *c)
		}
		return
	}
	t.set(upsert(t.get(feature.GPUKey{Node: c.Node, GPU: c.GPU}), *c, func(x feature.GPUCell) int64 { return x.MinuteMs }), pack)
}

// at returns the cell of a minute.
func (t *track) at(k feature.GPUKey, minuteMs int64) (feature.GPUCell, bool) {
	if t == nil || t.n == 0 || minuteMs > t.lastMs {
		return feature.GPUCell{}, false
	}
	held := t.view(k, minuteMs, minuteMs)
	i, ok := cellAt(held, minuteMs, func(x feature.GPUCell) int64 { return x.MinuteMs })
	if !ok {
		return feature.GPUCell{}, false
	}
	return held[i], true
}

// source hands a moment's evidence the cells of a large fleet.
type source struct {
	gpu     map[feature.GPUKey]*track
	keys    []feature.GPUKey
	limitMs int64 // no cell that begins later is visible
	made    []atomic.Pointer[unpacked]
	seed    maphash.Seed
}

// unpacked is the cells of a GPU as they were made.
type unpacked struct {
	key   feature.GPUKey
	cells []feature.GPUCell
}

// Keys implements feature.CellSource.
func (s *source) Keys() []feature.GPUKey { return s.keys }

// Has implements feature.CellSource.
func (s *source) Has(k feature.GPUKey) bool {
	t := s.gpu[k]
	return t != nil && t.n > 0 && t.firstMs() <= s.limitMs
}

// Cells implements feature.CellSource.
func (s *source) Cells(k feature.GPUKey, fromMs int64) []feature.GPUCell {
	t := s.gpu[k]
	if t == nil || t.n == 0 {
		return nil
	}
	if t.packed == nil || fromMs > t.firstMs() {
		return t.view(k, fromMs, s.limitMs)
	}
	// Stages ask for a GPU one after the other.
	slot := &s.made[maphash.Comparable(s.seed, k)%unpackedTracks]
	if u := slot.Load(); u != nil && u.key == k {
		return u.cells
	}
	u := &unpacked{k, t.view(k, fromMs, s.limitMs)}
	slot.Store(u)
	return u.cells
}
