package bundle

// windowRows is how far back an identical repeat is recognised. At 8 bytes a slot, twice,
// the window is bounded by 48 MiB a file.
const windowRows = 1 << 20

// window remembers the digests of the latest rows.
type window struct {
	have map[uint64]struct{}
	ring []uint64
	next int
}

// add reports whether the digest is new within the window, and remembers it.
func (w *window) add(d uint64) bool {
	if w.have == nil {
		w.have = map[uint64]struct{}{}
	}
	if _, ok := w.have[d]; ok {
		return false
	}
	if len(w.ring) < windowRows {
		w.ring = append(w.ring, d)
	} else {
		delete(w.have, w.ring[w.next])
		w.ring[w.next] = d
		w.next = (w.next + 1) % windowRows
	}
	w.have[d] = struct{}{}
	return true
}

// digest is FNV-1a over the fields with their borders, finished by a mixer. Two of 10^7
// rows collide within a window with a probability below 10^-6.
func digest(fields [][]byte) uint64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	for _, f := range fields {
		for _, b := range f {
			h = (h ^ uint64(b)) * prime
		}
		h = (h ^ 0x100) * prime // outside of a byte's range: "a","b" is not "ab",""
	}
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}
