package wire

import (
	"crypto/ed25519"
	"fmt"
	"math"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"
)

// frameMagic begins every frame; it is no zstd, gzip or protobuf start.
const frameMagic = 0xF7

// Orders of differences, see batch.proto.
const (
	orderValue  = 0
	orderDelta  = 1
	orderDouble = 2
)

// encoder holds what one AppendBatch needs and what is worth keeping: nothing of a batch
// outlives the call.
type encoder struct {
	zs                 *zstd.Encoder
	msg, tab, col, num []byte
	dense              []int64
}

// encoders lends encoders to AppendBatch: one is about 300 KiB, and a replay has hundreds
// of nodes that encode in turn.
var encoders = sync.Pool{New: func() any { return &encoder{} }}

// AppendBatch appends the frame of b to dst. b.Version is 0 (the newest) or a version that
// this code knows. Rows are encoded in the order given: sort them by entity, then time,
// first (Builder does). It keeps neither dst nor b. Errors are FrameErrors, or wrap
// ErrTooLarge if the frame passes MaxFrameBytes.
func AppendBatch(dst []byte, b *Batch) ([]byte, error) { return appendBatch(dst, b, nil) }

func appendBatch(dst []byte, b *Batch, key ed25519.PrivateKey) ([]byte, error) {
	head := *b
	if head.Version == 0 {
		head.Version = Version
	}
	if err := head.check(); err != nil {
		return dst, err
	}
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	if e.zs == nil {
		zs, err := newCompressor()
		if err != nil {
			return dst, err
		}
		e.zs = zs
	}
	e.batch(&head)
	if key != nil {
		e.msg = sign(e.msg, &head, key)
	}
	if len(e.msg) > MaxDecodedBytes {
		return dst, fmt.Errorf("message of %d bytes, at most %d: %w", len(e.msg), MaxDecodedBytes, ErrTooLarge)
	}
	at := len(dst)
	dst = append(dst, frameMagic, byte(head.Version))
	dst = e.zs.EncodeAll(e.msg, dst)
	if n := len(dst) - at; n > MaxFrameBytes {
		return dst[:at], fmt.Errorf("frame of %d bytes, at most %d: %w", n, MaxFrameBytes, ErrTooLarge)
	}
	return dst, nil
}

// newCompressor makes the one kind of zstd encoder that frames are made with. The level is
// measured, see BenchmarkFrame: columns of differences are noise that entropy coding
// takes and longer match searches do not. The next level would save 3 % of the bytes for a
// third more time, and for 1 MiB more memory, which was two thirds of an agent's heap.
func newCompressor() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(256<<10),
		zstd.WithLowerEncoderMem(true),
		zstd.WithEncoderCRC(true))
}

func (e *encoder) batch(b *Batch) {
	m := e.msg[:0]
	m = appendUint(m, 1, uint64(b.Version))
	m = appendString(m, 2, b.Cluster)
	m = appendString(m, 3, b.Node)
	m = appendBytes(m, 4, b.Spool[:])
	m = appendUint(m, 5, b.Sequence)
	m = appendString(m, 6, b.BootID)
	m = appendUint(m, 7, b.Ticks)
	m = appendUint(m, 8, protowire.EncodeZigZag(b.SealedWallMs))
	m = appendUint(m, 9, protowire.EncodeZigZag(b.SealedBootMs))
	m = appendUint(m, 10, protowire.EncodeZigZag(b.AvailableMs))
	m = appendUint(m, 16, b.FirstTick)
	m = appendUint(m, 17, b.MissedTicks)
	if b.PrevDigest != [32]byte{} {
		m = appendBytes(m, 11, b.PrevDigest[:])
	}
	for i := range b.Tables {
		e.table(&b.Tables[i])
		m = appendBytes(m, 12, e.tab)
	}
	for _, g := range b.Gaps {
		t := e.tab[:0]
		t = appendUint(t, 1, g.From)
		t = appendUint(t, 2, g.To)
		t = appendUint(t, 3, uint64(g.Reason))
		if g.Digest != [32]byte{} {
			t = appendBytes(t, 4, g.Digest[:])
		}
		m = appendBytes(m, 13, t)
		e.tab = t
	}
	e.msg = m
}

func (e *encoder) table(t *Table) {
	m := e.tab[:0]
	m = appendUint(m, 1, uint64(t.Kind))
	m = appendUint(m, 2, uint64(t.Rows))
	for i := range t.Columns {
		e.column(&t.Columns[i], t.Rows)
		m = appendBytes(m, 3, e.col)
	}
	e.tab = m
}

func (e *encoder) column(c *Column, rows int) {
	m := e.col[:0]
	m = appendUint(m, 1, uint64(c.Field))
	m = appendUint(m, 2, uint64(c.Source))
	if c.Present != nil {
		e.num = appendBitmap(e.num[:0], c.Present, rows)
		m = appendBytes(m, 3, e.num)
	}
	num := e.num[:0]
	if c.Int != nil {
		v := e.present(c)
		order := differences(v)
		m = appendUint(m, 4, uint64(order))
		unit := commonUnit(v)
		for _, d := range v {
			num = protowire.AppendVarint(num, protowire.EncodeZigZag(d/unit))
		}
		m = appendBytes(m, 5, num)
		if unit > 1 {
			m = appendUint(m, 8, uint64(unit))
		}
	} else {
		for _, s := range c.Dict {
			m = protowire.AppendTag(m, 6, protowire.BytesType)
			m = protowire.AppendString(m, s)
		}
		for r, ref := range c.Ref {
			if c.Has(r) {
				num = protowire.AppendVarint(num, uint64(ref))
			}
		}
		m = appendBytes(m, 7, num)
	}
	e.num, e.col = num, m
}

// present copies the values of the present rows into the encoder's scratch.
func (e *encoder) present(c *Column) []int64 {
	if c.Present == nil {
		e.dense = append(e.dense[:0], c.Int...)
		return e.dense
	}
	v := e.dense[:0]
	for w, word := range c.Present {
		for ; word != 0; word &= word - 1 {
			v = append(v, c.Int[w<<6+bits.TrailingZeros64(word)])
		}
	}
	e.dense = v
	return v
}

// differences replaces v by the differences that need fewest bits, and returns their
// order. Overflow wraps, and wraps back in the decoder.
func differences(v []int64) int {
	var cost [3]int
	var prev, prevDelta int64
	for _, x := range v {
		d := x - prev
		cost[orderValue] += width(x)
		cost[orderDelta] += width(d)
		cost[orderDouble] += width(d - prevDelta)
		prev, prevDelta = x, d
	}
	order := orderValue
	for o := orderDelta; o <= orderDouble; o++ {
		if cost[o] < cost[order] {
			order = o
		}
	}
	for range order {
		prev = 0
		for i, x := range v {
			v[i], prev = x-prev, x
		}
	}
	return order
}

// commonUnit is the greatest common divisor of v, at least 1.
func commonUnit(v []int64) int64 {
	var unit uint64
	for _, x := range v {
		u := uint64(x)
		if x < 0 {
			u = -u
		}
		for u != 0 {
			unit, u = u, unit%u
		}
		if unit == 1 {
			return 1
		}
	}
	if unit == 0 || unit > math.MaxInt64 {
		return 1
	}
	return int64(unit)
}

func width(x int64) int { return bits.Len64(protowire.EncodeZigZag(x)) }

func appendBitmap(dst []byte, words []uint64, rows int) []byte {
	for i := range (rows + 7) / 8 {
		dst = append(dst, byte(words[i>>3]>>(i&7*8)))
	}
	return dst
}

// appendUint leaves a zero out, as proto3 does.
func appendUint(m []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return m
	}
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), v)
}

func appendString(m []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return m
	}
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), s)
}

func appendBytes(m []byte, field protowire.Number, b []byte) []byte {
	if len(b) == 0 {
		return m
	}
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), b)
}
