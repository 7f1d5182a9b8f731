package wire

import (
	"cmp"
	"fmt"
	"slices"
)

// Builder collects rows of one kind and turns them into a Table. It belongs to one
// goroutine and keeps its memory over Reset.
//
//	b := wire.NewBuilder(wire.KindGPU, wire.SourceNVML)
//	b.Begin()
//	b.SetInt(1, tsMs)
//	b.SetStr(2, uuid)
//	b.SetInt(3, index)
//	err := b.End()
//	t := b.Build()
//
// A field that is not set in a row is absent in that row.
type Builder struct {
	kind   Kind
	source Source
	rows   int
	open   bool
	err    error // of the open row
	col    [256]*building
	order  []uint8 // field ids, in the schema's order
	table  Table
	perm   []int32
	ints   []int64
	refs   []uint32
	words  []uint64
}

// building is a column that grows. Entries of ints or refs, and bits, exist up to the
// last row in which the field was set.
type building struct {
	f      Field
	source Source
	ints   []int64
	refs   []uint32
	bits   []uint64
	set    int // rows that have the field
	dict   []string
	index  map[string]uint32
}

// NewBuilder returns a builder for a kind; source holds for every column until SetSource.
// An unknown kind makes every End fail.
func NewBuilder(kind Kind, source Source) *Builder {
	b := &Builder{kind: kind, source: source}
	for _, f := range Schema[kind] {
		c := &building{f: f, source: source}
		if f.Type == Str {
			c.index = map[string]uint32{}
		}
		b.col[f.ID] = c
		b.order = append(b.order, f.ID)
	}
	return b
}

// Kind is the kind the builder was made for.
func (b *Builder) Kind() Kind { return b.kind }

// Rows is the number of rows since Reset.
func (b *Builder) Rows() int { return b.rows }

// SetSource says by which way a field is measured, where it differs from the builder's.
// It holds for all rows: rows of another source belong in another table.
func (b *Builder) SetSource(id uint8, s Source) {
	if c := b.col[id]; c != nil {
		c.source = s
	}
}

// Begin opens a row. A row that is still open is dropped.
func (b *Builder) Begin() {
	if b.open {
		b.undo()
	}
	b.open, b.err = true, nil
}

// SetInt sets an integer field of the open row; setting it again replaces the value.
func (b *Builder) SetInt(id uint8, v int64) {
	c := b.col[id]
	if c == nil || c.f.Type != Int {
		b.fail(id, "not an integer field")
		return
	}
	for len(c.ints) <= b.rows {
		c.ints = append(c.ints, 0)
	}
	c.ints[b.rows] = v
	c.mark(b.rows)
}

// SetStr sets a string field of the open row; setting it again replaces the value. It
// keeps s in the builder's dictionary.
func (b *Builder) SetStr(id uint8, s string) {
	c := b.col[id]
	if c == nil || c.f.Type != Str {
		b.fail(id, "not a string field")
		return
	}
	if len(s) > MaxStringBytes {
		b.fail(id, "string is too long")
		return
	}
	ref, ok := c.index[s]
	if !ok {
		ref = uint32(len(c.dict))
		c.index[s] = ref
		c.dict = append(c.dict, s)
	}
	for len(c.refs) <= b.rows {
		c.refs = append(c.refs, 0)
	}
	c.refs[b.rows] = ref
	c.mark(b.rows)
}

func (b *Builder) fail(id uint8, what string) {
	if b.err == nil {
		b.err = invalid(b.kind, id, b.rows, "%s", what)
	}
}

func (c *building) mark(r int) {
	for len(c.bits) <= r>>6 {
		c.bits = append(c.bits, 0)
	}
	if bit := uint64(1) << (r & 63); c.bits[r>>6]&bit == 0 {
		c.bits[r>>6] |= bit
		c.set++
	}
}

func (c *building) has(r int) bool { return r>>6 < len(c.bits) && c.bits[r>>6]>>(r&63)&1 == 1 }

// End closes the row. A row that lacks a key field, or that set a field its kind has not,
// is dropped, and the error says why.
func (b *Builder) End() error {
	if !b.open {
		return invalid(b.kind, 0, b.rows, "End without Begin")
	}
	if len(b.order) == 0 {
		b.open = false
		return &FrameError{Kind: b.kind, Row: b.rows, What: "no such kind", Err: ErrUnknownKind}
	}
	if b.err == nil && b.rows >= MaxRows {
		b.err = fmt.Errorf("%s table of %d rows: %w", b.kind, b.rows, ErrTooLarge)
	}
	for _, id := range b.order {
		if c := b.col[id]; c.f.Key && !c.has(b.rows) {
			b.fail(id, "key field is not set")
		}
	}
	if b.err != nil {
		err := b.err
		b.undo()
		return err
	}
	b.open = false
	b.rows++
	return nil
}

// undo drops the open row. Its strings may stay in a dictionary.
func (b *Builder) undo() {
	b.open = false
	for _, id := range b.order {
		c := b.col[id]
		if c.has(b.rows) {
			c.bits[b.rows>>6] &^= 1 << (b.rows & 63)
			c.set--
		}
		c.ints = c.ints[:min(len(c.ints), b.rows)]
		c.refs = c.refs[:min(len(c.refs), b.rows)]
	}
}

// Build returns the rows sorted by entity (the key fields but ts_ms), then ts_ms, rows of
// equal keys in the order they came. Fields that no row has are left out. The table
// borrows the builder's memory until Reset; the caller may change it till then. Call Reset
// before the next Begin.
func (b *Builder) Build() *Table {
	if b.open {
		b.undo()
	}
	b.table.Kind, b.table.Rows, b.table.Columns = b.kind, b.rows, b.table.Columns[:0]
	sorted := b.sort()
	for _, id := range b.order {
		c := b.col[id]
		if c.set == 0 {
			continue
		}
		col := Column{Field: id, Source: c.source}
		if c.f.Type == Int {
			for len(c.ints) < b.rows {
				c.ints = append(c.ints, 0)
			}
			if !sorted {
				b.ints = permute(b.ints, c.ints, b.perm)
			}
			col.Int = c.ints[:b.rows:b.rows]
		} else {
			for len(c.refs) < b.rows {
				c.refs = append(c.refs, 0)
			}
			if !sorted {
				b.refs = permute(b.refs, c.refs, b.perm)
			}
			col.Ref, col.Dict = c.refs[:b.rows:b.rows], c.dict
		}
		if c.set < b.rows {
			for len(c.bits) < (b.rows+63)/64 {
				c.bits = append(c.bits, 0)
			}
			if !sorted {
				b.words = append(b.words[:0], c.bits...)
				clear(c.bits)
				for to, from := range b.perm {
					c.bits[to>>6] |= b.words[from>>6] >> (from & 63) & 1 << (to & 63)
				}
			}
			col.Present = c.bits[:(b.rows+63)/64]
		}
		b.table.Columns = append(b.table.Columns, col)
	}
	return &b.table
}

// sort fills b.perm with the rows in order and reports whether they were in order already.
func (b *Builder) sort() bool {
	b.perm = b.perm[:0]
	for r := range b.rows {
		b.perm = append(b.perm, int32(r))
	}
	less := func(x, y int32) int {
		var byTime int
		for _, id := range b.order {
			c := b.col[id]
			if !c.f.Key {
				continue
			}
			var d int
			switch {
			case c.f.Type == Str:
				// Dictionary order is order of first appearance: as good as any, and cheap.
				d = cmp.Compare(c.refs[x], c.refs[y])
			case c.f.Name == "ts_ms":
				byTime = cmp.Compare(c.ints[x], c.ints[y])
				continue
			default:
				d = cmp.Compare(c.ints[x], c.ints[y])
			}
			if d != 0 {
				return d
			}
		}
		return byTime
	}
	if slices.IsSortedFunc(b.perm, less) {
		return true
	}
	slices.SortStableFunc(b.perm, less)
	return false
}

// permute puts v into the order of perm, using scratch, which it returns grown.
func permute[T any](scratch, v []T, perm []int32) []T {
	scratch = append(scratch[:0], v...)
	for to, from := range perm {
		v[to] = scratch[from]
	}
	return scratch
}

// Reset drops the rows and keeps the memory. Dictionaries start again, as no string of a
// former batch may travel in a later one.
func (b *Builder) Reset() {
	b.rows, b.open, b.err = 0, false, nil
	for _, id := range b.order {
		c := b.col[id]
		c.ints, c.refs, c.bits, c.set = c.ints[:0], c.refs[:0], c.bits[:0], 0
		clear(c.dict)
		c.dict = c.dict[:0]
		clear(c.index)
	}
}
