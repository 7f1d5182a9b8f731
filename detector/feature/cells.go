package feature

import (
	"cmp"
	"slices"
)

// CellSource holds the cells of a large fleet elsewhere than in a map, packed, and makes them when they are asked for.
type CellSource interface {
	// Keys are the GPUs that have cells, sorted by node and index.
	Keys() []GPUKey
	// Has reports whether a GPU has cells.
	Has(k GPUKey) bool
	// Cells are a GPU's cells that end after fromMs, and the one before them, by time. They are only read.
	Cells(k GPUKey, fromMs int64) []GPUCell
}

// Cells are a GPU's cells by time: the way for every stage to read them, since a large fleet's are not in the map. They may have to
// be made, so ask once a GPU. They are only read, and may be kept. Several goroutines may ask at once.
func (ev *Evidence) Cells(k GPUKey) []GPUCell { return ev.CellsFrom(k, -1<<62) }

// CellsFrom are those that end after fromMs, and the one before them: much less work where only the latest count.
func (ev *Evidence) CellsFrom(k GPUKey, fromMs int64) []GPUCell {
	if ev.Source != nil {
		return ev.Source.Cells(k, fromMs)
	}
	cells := ev.GPU[k]
	i, _ := slices.BinarySearchFunc(cells, fromMs, func(c GPUCell, ms int64) int {
		if c.EndMs() > ms {
			return 1
		}
		return -1
	})
	return cells[max(i-1, 0):]
}

// HasGPU reports whether a GPU has cells.
func (ev *Evidence) HasGPU(k GPUKey) bool {
	if ev.Source != nil {
		return ev.Source.Has(k)
	}
	return len(ev.GPU[k]) > 0
}

// GPUKeys are the GPUs that have cells, sorted by node and index.
func (ev *Evidence) GPUKeys() []GPUKey {
	if ev.Source != nil {
		return ev.Source.Keys()
	}
	keys := make([]GPUKey, 0, len(ev.GPU))
	for k, cells := range ev.GPU {
		if len(cells) > 0 {
			keys = append(keys, k)
		}
	}
	SortKeys(keys)
	return keys
}

// SortKeys puts GPUs into the order of their nodes and indices.
func SortKeys(keys []GPUKey) {
	slices.SortFunc(keys, func(a, b GPUKey) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU)) })
}
