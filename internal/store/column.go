package store

import (
	"math"
	"math/bits"

	"github.com/ClickHouse/ch-go/proto"
)

// rawColumn is a column of a RawBlock.
type rawColumn interface {
	proto.ColInput
	reset()
	absent(rows int)
	// ints appends rows values; it returns how many could not be held and became absent.
	ints(values []int64, present []uint64) int
	// bound narrows what ints takes.
	bound(lo, hi int64)
	// keep says how exactly ints are kept.
	keep(p precision)
	// strings appends rows references into dict.
	strings(dict []string, ref []uint32, present []uint64)
}

type number interface {
	uint16 | uint32 | uint64 | int64
}

// intColumn is an integer column, nullable or not.
type intColumn[T number] struct {
	typ      proto.ColumnType
	nullable bool
	hi, lo   int64 // inclusive bounds of what the type holds
	exact    precision
	encode   func(v []T, b *proto.Buffer)
	nulls    proto.ColUInt8
	vals     []T
}

func (c *intColumn[T]) Type() proto.ColumnType { return c.typ }
func (c *intColumn[T]) Rows() int              { return len(c.vals) }
func (c *intColumn[T]) reset()                 { c.nulls, c.vals = c.nulls[:0], c.vals[:0] }

func (c *intColumn[T]) EncodeColumn(b *proto.Buffer) {
	if c.nullable {
		c.nulls.EncodeColumn(b)
	}
	c.encode(c.vals, b)
}

func (c *intColumn[T]) WriteColumn(w *proto.Writer) { w.ChainBuffer(c.EncodeColumn) }

func (c *intColumn[T]) absent(rows int) {
	c.grow(rows)
	for range rows {
		c.vals = append(c.vals, 0)
	}
	if c.nullable {
		for range rows {
			c.nulls = append(c.nulls, 1)
		}
	}
}

func (c *intColumn[T]) grow(rows int) {
	if need := len(c.vals) + rows; need > cap(c.vals) {
		grown := make([]T, len(c.vals), max(need, 2*cap(c.vals)))
		copy(grown, c.vals)
		c.vals = grown
		if c.nullable {
			nulls := make(proto.ColUInt8, len(c.nulls), cap(grown))
			copy(nulls, c.nulls)
			c.nulls = nulls
		}
	}
}

func (c *intColumn[T]) ints(values []int64, present []uint64) int {
	c.grow(len(values))
	if !c.nullable {
		for _, v := range values {
			c.vals = append(c.vals, T(v))
		}
		return 0
	}
	at := len(c.vals)
	c.vals, c.nulls = c.vals[:at+len(values)], c.nulls[:at+len(values)]
	vals, nulls := c.vals[at:], c.nulls[at:]
	outside := 0
	for i, v := range values {
		switch {
		case present != nil && present[i>>6]>>(i&63)&1 == 0:
			vals[i], nulls[i] = 0, 1
		case v < c.lo || v > c.hi:
			vals[i], nulls[i] = 0, 1
			outside++
		default:
			vals[i], nulls[i] = T(v), 0
		}
	}
	if c.exact != (precision{}) {
		for i, v := range vals {
			if r := c.exact.round(uint64(v)); r <= uint64(c.hi) {
				vals[i] = T(r)
			}
		}
	}
	return outside
}

func (c *intColumn[T]) keep(p precision) { c.exact = p }

// precision is how exactly numbers that are not negative are kept. The zero value: as they are.
type precision struct {
	step   int // to multiples of 2^step
	digits int // or to so many binary digits
}

// round returns the nearest number that is kept: what it leaves out is at most half a step. What
// would become 0 is kept as it is: a GPU whose pipes ran for 300 cycles is not one whose pipes never ran.
func (p precision) round(v uint64) uint64 {
	step := p.step
	if p.digits > 0 {
		step = max(bits.Len64(v)-p.digits, 0)
	}
	if step == 0 || v < 1<<(step-1) {
		return v
	}
	return (v + 1<<(step-1)) >> step << step
}

func (c *intColumn[T]) bound(lo, hi int64) { c.lo, c.hi = max(c.lo, lo), min(c.hi, hi) }

func (c *intColumn[T]) strings([]string, []uint32, []uint64) {}

func encodeU16(v []uint16, b *proto.Buffer) { proto.ColUInt16(v).EncodeColumn(b) }
func encodeU32(v []uint32, b *proto.Buffer) { proto.ColUInt32(v).EncodeColumn(b) }
func encodeU64(v []uint64, b *proto.Buffer) { proto.ColUInt64(v).EncodeColumn(b) }
func encodeI64(v []int64, b *proto.Buffer)  { proto.ColInt64(v).EncodeColumn(b) }

// lcColumn is LowCardinality(String), nullable or not. In a nullable dictionary entry 0 is NULL.
type lcColumn struct {
	nullable bool
	dict     proto.ColStr
	index    map[string]uint32
	keys     []uint32
	remap    []uint32 // scratch of strings
	keys8    proto.ColUInt8
	keys16   proto.ColUInt16
}

func (c *lcColumn) Type() proto.ColumnType {
	if c.nullable {
		return "LowCardinality(Nullable(String))"
	}
	return "LowCardinality(String)"
}
func (c *lcColumn) Rows() int { return len(c.keys) }

func (c *lcColumn) reset() {
	c.dict.Reset()
	clear(c.index)
	c.keys = c.keys[:0]
	if c.nullable {
		c.dict.Append("")
	}
}

func (c *lcColumn) key(s string) uint32 {
	if k, ok := c.index[s]; ok {
		return k
	}
	k := uint32(c.dict.Rows())
	c.dict.Append(s)
	c.index[s] = k
	return k
}

func (c *lcColumn) constant(s string, rows int) {
	k := c.key(s)
	for range rows {
		c.keys = append(c.keys, k)
	}
}

func (c *lcColumn) absent(rows int) {
	if c.nullable {
		for range rows {
			c.keys = append(c.keys, 0)
		}
		return
	}
	c.constant("", rows)
}

func (c *lcColumn) bound(int64, int64) {}

func (c *lcColumn) keep(precision) {}

func (c *lcColumn) ints([]int64, []uint64) int { return 0 }

func (c *lcColumn) strings(dict []string, ref []uint32, present []uint64) {
	c.remap = c.remap[:0]
	for range dict {
		c.remap = append(c.remap, math.MaxUint32)
	}
	for i, r := range ref {
		if present != nil && present[i>>6]>>(i&63)&1 == 0 {
			if c.nullable {
				c.keys = append(c.keys, 0)
			} else {
				c.keys = append(c.keys, c.key(""))
			}
			continue
		}
		k := c.remap[r]
		if k == math.MaxUint32 {
			k = c.key(dict[r])
			c.remap[r] = k
		}
		c.keys = append(c.keys, k)
	}
}

// EncodeState writes the version of the key serialization: shared dictionaries with additional keys.
func (c *lcColumn) EncodeState(b *proto.Buffer) { b.PutInt64(1) }

func (c *lcColumn) EncodeColumn(b *proto.Buffer) {
	if len(c.keys) == 0 {
		return
	}
	const hasAdditionalKeys, needUpdate = 1 << 9, 1 << 10
	n := c.dict.Rows()
	width := int64(2)
	switch {
	case n <= math.MaxUint8:
		width = 0
	case n <= math.MaxUint16:
		width = 1
	}
	b.PutInt64(hasAdditionalKeys | needUpdate | width)
	b.PutInt64(int64(n))
	c.dict.EncodeColumn(b)
	b.PutInt64(int64(len(c.keys)))
	switch width {
	case 0:
		c.keys8 = c.keys8[:0]
		for _, k := range c.keys {
			c.keys8 = append(c.keys8, uint8(k))
		}
		c.keys8.EncodeColumn(b)
	case 1:
		c.keys16 = c.keys16[:0]
		for _, k := range c.keys {
			c.keys16 = append(c.keys16, uint16(k))
		}
		c.keys16.EncodeColumn(b)
	default:
		proto.ColUInt32(c.keys).EncodeColumn(b)
	}
}

func (c *lcColumn) WriteColumn(w *proto.Writer) { w.ChainBuffer(c.EncodeColumn) }

// columnType is the shape of a raw column.
type columnType uint8

const (
	tI64  columnType = iota // Int64, always present
	tU64                    // UInt64, always present
	tNI64                   // Nullable(Int64)
	tNU16
	tNU32
	tNU64
	tLC  // LowCardinality(String), always present
	tNLC // LowCardinality(Nullable(String))
)

func (t columnType) make() rawColumn {
	switch t {
	case tI64:
		return &intColumn[int64]{typ: "Int64", lo: math.MinInt64, hi: math.MaxInt64, encode: encodeI64}
	case tU64:
		return &intColumn[uint64]{typ: "UInt64", lo: math.MinInt64, hi: math.MaxInt64, encode: encodeU64}
	case tNI64:
		return &intColumn[int64]{typ: "Nullable(Int64)", nullable: true, lo: math.MinInt64, hi: math.MaxInt64, encode: encodeI64}
	case tNU16:
		return &intColumn[uint16]{typ: "Nullable(UInt16)", nullable: true, hi: math.MaxUint16, encode: encodeU16}
	case tNU32:
		return &intColumn[uint32]{typ: "Nullable(UInt32)", nullable: true, hi: math.MaxUint32, encode: encodeU32}
	case tNU64:
		return &intColumn[uint64]{typ: "Nullable(UInt64)", nullable: true, hi: math.MaxInt64, encode: encodeU64}
	case tLC, tNLC:
		c := &lcColumn{nullable: t == tNLC, index: make(map[string]uint32)}
		c.reset()
		return c
	}
	return nil
}
