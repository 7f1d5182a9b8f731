package wire

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"
)

// maxInterned bounds the strings that a decoder remembers, in entries; past it the
// decoder forgets them all and starts again.
const maxInterned = 1 << 16

// What a decoder keeps between frames: one that was larger, as senders may make them, costs
// its memory once.
const (
	maxKeptBytes   = 1 << 20 // of a message, and of the strings that it remembers
	maxKeptEntries = 1 << 19 // of an arena: 4 MiB of integers
)

// Decoder reads frames. It belongs to one goroutine. It keeps its buffers between calls
// and in steady state allocates nothing.
type Decoder struct {
	// SkippedColumns counts the columns of the last message whose field ids this code does
	// not know; UnknownFields counts the other protobuf fields that it skipped.
	SkippedColumns, UnknownFields int
	// DecodedBytes is the size of the last message when it was decompressed.
	DecodedBytes int

	zs      *zstd.Decoder
	raw     []byte
	tables  []Table
	gaps    []Gap
	columns arena[Column]
	ints    arena[int64]
	words   arena[uint64]
	refs    arena[uint32]
	strs    arena[string]
	names   map[string]string // so that the same name is one string over all batches
	named   int               // bytes in names
}

// NewDecoder returns a decoder that needs no Close.
func NewDecoder() (*Decoder, error) {
	zs, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxDecodedBytes),
		zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxWindow(1<<20))
	if err != nil {
		return nil, fmt.Errorf("make decompressor: %w", err)
	}
	return &Decoder{zs: zs, names: map[string]string{}}, nil
}

// arena hands out slices of one backing array and takes them all back at once.
type arena[T any] struct{ free, all []T }

func (a *arena[T]) reset() {
	if len(a.all) > maxKeptEntries {
		a.all = nil
	}
	a.free = a.all
}

// take returns n entries with whatever they held before.
func (a *arena[T]) take(n int) []T {
	if n > len(a.free) {
		// Slices handed out before keep the old array; after a few batches one array is
		// large enough for all.
		a.all = make([]T, max(n, 2*len(a.all), 64))
		a.free = a.all
	}
	s := a.free[:n:n]
	a.free = a.free[n:]
	return s
}

// Decode reads one frame into b, whose former contents are lost, and holds it to the
// contract. The slices of b belong to the decoder and are good until its next Decode;
// strings stay good. It keeps nothing of msg. After an error b means nothing, except
// that its head (Cluster, Node, Spool, Sequence) is set as far as it was read; that of a frame
// of a newer version too, if it is where this version has it. Errors wrap ErrCorrupt,
// ErrUnknownVersion, ErrUnknownKind, ErrInvalid or ErrTooLarge.
//
// A frame whose message is larger than MaxDecodedBytes, or another than it states, is given
// up before the memory is spent.
func (d *Decoder) Decode(msg []byte, b *Batch) error {
	*b = Batch{}
	d.SkippedColumns, d.UnknownFields = 0, 0
	if len(msg) > MaxFrameBytes {
		return fmt.Errorf("frame of %d bytes, at most %d: %w", len(msg), MaxFrameBytes, ErrTooLarge)
	}
	if len(msg) < 3 || msg[0] != frameMagic {
		return fmt.Errorf("%w: no frame magic in %d bytes", ErrCorrupt, len(msg))
	}
	if v := msg[1]; v == 0 || v > Version {
		if raw, err := d.inflate(msg[2:]); err == nil {
			peekHead(raw, b)
		}
		return fmt.Errorf("%w %d, this code knows %d", ErrUnknownVersion, v, Version)
	}
	raw, err := d.inflate(msg[2:])
	if err != nil {
		return err
	}
	d.columns.reset()
	d.ints.reset()
	d.words.reset()
	d.refs.reset()
	d.strs.reset()
	d.tables, d.gaps = d.tables[:0], d.gaps[:0]
	if err := d.batch(raw, b); err != nil {
		return err
	}
	if b.Version != uint32(msg[1]) {
		return invalid(0, 0, -1, "version %d in a frame of version %d", b.Version, msg[1])
	}
	b.Tables, b.Gaps = d.tables, d.gaps
	return b.check()
}

// unstatedBytes is what a message may have whose size its compression does not state: zstd's
// header has no place for sizes below 256.
const unstatedBytes = 255

// inflate decompresses a message. Every encoder of this contract has written one zstd frame
// that states the message's size, or a tiny one; what states none could be of any size. The
// decompressor is held to the room that it is given.
func (d *Decoder) inflate(m []byte) ([]byte, error) {
	d.DecodedBytes = 0
	var h zstd.Header
	if err := h.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: decompress: %w", ErrCorrupt, err)
	}
	size := uint64(unstatedBytes)
	if h.HasFCS {
		size = h.FrameContentSize
	}
	if size > MaxDecodedBytes {
		return nil, fmt.Errorf("message of %d bytes, at most %d: %w", size, MaxDecodedBytes, ErrTooLarge)
	}
	const slack = 64 // with room behind the end it copies faster
	if need := int(size) + slack; cap(d.raw) < need || cap(d.raw) > max(maxKeptBytes, 4*need) {
		d.raw = make([]byte, 0, need)
	}
	raw, err := d.zs.DecodeAll(m, d.raw[:0:size+slack])
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return nil, fmt.Errorf("message of more than the %d bytes that its compression states: %w", size, ErrTooLarge)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: decompress: %w", ErrCorrupt, err)
	}
	if uint64(len(raw)) > size || h.HasFCS && uint64(len(raw)) < size {
		return nil, fmt.Errorf("%w: decompress: %d bytes where %d were stated", ErrCorrupt, len(raw), size)
	}
	d.DecodedBytes = len(raw)
	return raw, nil
}

// peekHead reads the identity of a message of a newer version, as far as it is where this
// version has it. Nobody may believe it who has no second witness.
func peekHead(m []byte, b *Batch) {
	var f field
	var err error
	for len(m) > 0 {
		if m, err = next(m, &f); err != nil {
			return
		}
		text := f.typ == protowire.BytesType && len(f.bytes) <= MaxStringBytes && utf8.Valid(f.bytes)
		switch {
		case f.num == 2 && text:
			b.Cluster = string(f.bytes)
		case f.num == 3 && text:
			b.Node = string(f.bytes)
		case f.num == 4 && len(f.bytes) == len(b.Spool):
			copy(b.Spool[:], f.bytes)
		case f.num == 5 && f.typ == protowire.VarintType:
			b.Sequence = f.value
		}
	}
}

// field is one protobuf field: a number for varints, bytes otherwise.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	value uint64
	bytes []byte
}

// next cuts one field off m.
func next(m []byte, f *field) ([]byte, error) {
	num, typ, n := protowire.ConsumeTag(m)
	if n < 0 {
		return nil, fmt.Errorf("%w: tag: %w", ErrCorrupt, protowire.ParseError(n))
	}
	m = m[n:]
	*f = field{num: num, typ: typ}
	switch typ {
	case protowire.VarintType:
		f.value, n = protowire.ConsumeVarint(m)
	case protowire.BytesType:
		f.bytes, n = protowire.ConsumeBytes(m)
	default:
		n = protowire.ConsumeFieldValue(num, typ, m)
	}
	if n < 0 {
		return nil, fmt.Errorf("%w: field %d: %w", ErrCorrupt, num, protowire.ParseError(n))
	}
	return m[n:], nil
}

// want holds a known field to its type, and singular fields to one appearance.
func (f *field) want(typ protowire.Type, seen *uint32, singular bool) error {
	if f.typ != typ {
		return fmt.Errorf("%w: field %d has wire type %d", ErrCorrupt, f.num, f.typ)
	}
	if bit := uint32(1) << f.num; singular {
		if *seen&bit != 0 {
			return fmt.Errorf("%w: field %d comes twice", ErrCorrupt, f.num)
		}
		*seen |= bit
	}
	return nil
}

func (d *Decoder) batch(m []byte, b *Batch) (err error) {
	var f field
	var seen uint32
	whole := m
	for len(m) > 0 {
		before := len(whole) - len(m)
		if m, err = next(m, &f); err != nil {
			return fmt.Errorf("batch: %w", err)
		}
		if seen&(1<<14) != 0 && f.num != 15 || seen&(1<<15) != 0 {
			return fmt.Errorf("%w: field %d behind the signature's", ErrCorrupt, f.num)
		}
		typ := protowire.VarintType
		switch f.num {
		case 2, 3, 4, 6, 11, 12, 13, 14, 15:
			typ = protowire.BytesType
		case 1, 5, 7, 8, 9, 10, 16, 17:
		default:
			d.UnknownFields++
			continue
		}
		if err = f.want(typ, &seen, f.num != 12 && f.num != 13); err != nil {
			return fmt.Errorf("batch: %w", err)
		}
		switch f.num {
		case 1:
			b.Version = uint32(min(f.value, 1<<32-1))
		case 2:
			b.Cluster, err = d.name(f.bytes)
		case 3:
			b.Node, err = d.name(f.bytes)
		case 4:
			err = fixed(b.Spool[:], f.bytes, "spool")
		case 5:
			b.Sequence = f.value
		case 6:
			b.BootID, err = d.name(f.bytes)
		case 7:
			b.Ticks = f.value
		case 8:
			b.SealedWallMs = protowire.DecodeZigZag(f.value)
		case 9:
			b.SealedBootMs = protowire.DecodeZigZag(f.value)
		case 10:
			b.AvailableMs = protowire.DecodeZigZag(f.value)
		case 11:
			err = fixed(b.PrevDigest[:], f.bytes, "previous digest")
		case 12:
			err = d.table(f.bytes)
		case 13:
			err = d.gap(f.bytes)
		case 14:
			if err = fixed(b.Key[:], f.bytes, "key"); err == nil {
				b.BodyDigest = sha256.Sum256(whole[:before])
			}
		case 15:
			if seen&(1<<14) == 0 {
				return fmt.Errorf("%w: a signature without a key before it", ErrCorrupt)
			}
			err = fixed(b.Signature[:], f.bytes, "signature")
		case 16:
			b.FirstTick = f.value
		case 17:
			b.MissedTicks = f.value
		}
		if err != nil {
			return err
		}
	}
	if seen&(1<<14) != 0 && seen&(1<<15) == 0 {
		return fmt.Errorf("%w: a key without a signature behind it", ErrCorrupt)
	}
	return nil
}

func (d *Decoder) gap(m []byte) (err error) {
	if len(d.gaps) >= MaxGaps {
		return fmt.Errorf("more than %d gaps: %w", MaxGaps, ErrTooLarge)
	}
	var g Gap
	var f field
	var seen uint32
	for len(m) > 0 {
		if m, err = next(m, &f); err != nil {
			return fmt.Errorf("gap: %w", err)
		}
		typ := protowire.VarintType
		if f.num == 4 {
			typ = protowire.BytesType
		} else if f.num > 4 {
			d.UnknownFields++
			continue
		}
		if err = f.want(typ, &seen, true); err != nil {
			return fmt.Errorf("gap: %w", err)
		}
		switch f.num {
		case 1:
			g.From = f.value
		case 2:
			g.To = f.value
		case 3:
			if f.value > 255 {
				return invalid(0, 0, -1, "gap reason %d", f.value)
			}
			g.Reason = GapReason(f.value)
		case 4:
			if err = fixed(g.Digest[:], f.bytes, "gap digest"); err != nil {
				return err
			}
		}
	}
	d.gaps = append(d.gaps, g)
	return nil
}

// table reads kind and rows first, since columns mean nothing without them.
func (d *Decoder) table(m []byte) (err error) {
	if len(d.tables) >= MaxTables {
		return fmt.Errorf("more than %d tables: %w", MaxTables, ErrTooLarge)
	}
	var kind, rows uint64
	var f field
	var seen uint32
	columns := 0
	for rest := m; len(rest) > 0; {
		if rest, err = next(rest, &f); err != nil {
			return fmt.Errorf("table: %w", err)
		}
		switch f.num {
		case 1, 2:
			if err = f.want(protowire.VarintType, &seen, true); err != nil {
				return fmt.Errorf("table: %w", err)
			}
			if f.num == 1 {
				kind = f.value
			} else {
				rows = f.value
			}
		case 3:
			if err = f.want(protowire.BytesType, &seen, false); err != nil {
				return fmt.Errorf("table: %w", err)
			}
			columns++
		default:
			d.UnknownFields++
		}
	}
	k := Kind(min(kind, 255))
	if _, ok := Schema[k]; !ok {
		return &FrameError{Kind: k, Row: -1, What: fmt.Sprintf("this code knows version %d", Version), Err: ErrUnknownKind}
	}
	used := 0
	for i := range d.tables {
		used += d.tables[i].Rows
	}
	if rows < 1 || rows > uint64(MaxRows-used) {
		return &FrameError{Kind: k, Row: -1, What: fmt.Sprintf("%d rows behind %d others, must be 1 to %d together", rows, used, MaxRows), Err: ErrTooLarge}
	}
	if columns > 256 {
		return invalid(k, 0, -1, "%d columns", columns)
	}
	t := Table{Kind: k, Rows: int(rows), Columns: d.columns.take(columns)[:0]}
	var known [256]bool
	for rest := m; len(rest) > 0; {
		if rest, err = next(rest, &f); err != nil {
			return err
		}
		if f.num != 3 {
			continue
		}
		if t.Columns, err = d.column(f.bytes, k, t.Rows, t.Columns, &known); err != nil {
			return err
		}
	}
	d.tables = append(d.tables, t)
	return nil
}

// column reads one column and appends it to cols, unless its field is unknown.
func (d *Decoder) column(m []byte, k Kind, rows int, cols []Column, known *[256]bool) (_ []Column, err error) {
	var id, source, order, unit uint64
	var present, ints, refs []byte
	var f field
	var seen uint32
	entries := 0
	for rest := m; len(rest) > 0; {
		if rest, err = next(rest, &f); err != nil {
			return cols, fmt.Errorf("%s column: %w", k, err)
		}
		typ := protowire.VarintType
		switch f.num {
		case 3, 5, 6, 7:
			typ = protowire.BytesType
		case 1, 2, 4, 8:
		default:
			d.UnknownFields++
			continue
		}
		if err = f.want(typ, &seen, f.num != 6); err != nil {
			return cols, fmt.Errorf("%s column: %w", k, err)
		}
		switch f.num {
		case 1:
			id = f.value
		case 2:
			source = f.value
		case 3:
			present = f.bytes
		case 4:
			order = f.value
		case 5:
			ints = f.bytes
		case 6:
			entries++
		case 7:
			refs = f.bytes
		case 8:
			unit = f.value
		}
	}
	if id > 255 {
		d.SkippedColumns++
		return cols, nil
	}
	c := Column{Field: uint8(id)}
	fd, ok := FieldOf(k, c.Field)
	if !ok {
		d.SkippedColumns++
		return cols, nil
	}
	if known[c.Field] {
		return cols, invalid(k, c.Field, -1, "given twice")
	}
	known[c.Field] = true
	if source > 255 {
		return cols, invalid(k, c.Field, -1, "source %d", source)
	}
	c.Source = Source(source)
	if seen&(1<<3) != 0 {
		if len(present) != (rows+7)/8 {
			return cols, invalid(k, c.Field, -1, "presence has %d bytes for %d rows", len(present), rows)
		}
		c.Present = d.bitmap(present)
	}
	if fd.Type == Int {
		if entries > 0 || refs != nil {
			return cols, invalid(k, c.Field, -1, "strings in an integer field")
		}
		if order > orderDouble {
			return cols, invalid(k, c.Field, -1, "order %d", order)
		}
		if unit > math.MaxInt64 {
			return cols, invalid(k, c.Field, -1, "unit %d", unit)
		}
		c.Int = d.ints.take(rows)
		err = readInts(&c, k, ints, int(order), max(1, int64(unit)))
	} else {
		if ints != nil || order != 0 || unit != 0 {
			return cols, invalid(k, c.Field, -1, "integers in a string field")
		}
		if entries > MaxDictEntries {
			return cols, &FrameError{Kind: k, Field: c.Field, Row: -1, What: fmt.Sprintf("dictionary of %d entries, at most %d", entries, MaxDictEntries), Err: ErrTooLarge}
		}
		if err = d.dict(&c, k, m, entries); err == nil {
			c.Ref = d.refs.take(rows)
			err = readRefs(&c, k, refs)
		}
	}
	return append(cols, c), err
}

func (d *Decoder) bitmap(b []byte) []uint64 {
	words := d.words.take((len(b) + 7) / 8)
	clear(words)
	for i, x := range b {
		words[i>>3] |= uint64(x) << (i & 7 * 8)
	}
	return words
}

// varint is protowire.ConsumeVarint with the one-byte case inlined.
func varint(m []byte) (uint64, int) {
	if len(m) > 0 && m[0] < 0x80 {
		return uint64(m[0]), 1
	}
	return protowire.ConsumeVarint(m)
}

// readInts fills c.Int, one entry a row, from packed zigzag differences of the present
// rows; absent rows get 0.
func readInts(c *Column, k Kind, m []byte, order int, unit int64) error {
	var value, delta int64
	for r := range c.Int {
		if !c.Has(r) {
			c.Int[r] = 0
			continue
		}
		u, n := varint(m)
		if n < 0 {
			return invalid(k, c.Field, r, "no integer: %v", protowire.ParseError(n))
		}
		m = m[n:]
		x := protowire.DecodeZigZag(u) * unit // wraps, as differences may
		switch order {
		case orderValue:
			value = x
		case orderDelta:
			value += x
		default:
			delta += x
			value += delta
		}
		c.Int[r] = value
	}
	if len(m) > 0 {
		return invalid(k, c.Field, -1, "%d bytes of integers behind the last row", len(m))
	}
	return nil
}

func readRefs(c *Column, k Kind, m []byte) error {
	for r := range c.Ref {
		if !c.Has(r) {
			c.Ref[r] = 0
			continue
		}
		u, n := varint(m)
		if n < 0 {
			return invalid(k, c.Field, r, "no reference: %v", protowire.ParseError(n))
		}
		if u >= uint64(len(c.Dict)) {
			return invalid(k, c.Field, r, "reference %d into a dictionary of %d", u, len(c.Dict))
		}
		m = m[n:]
		c.Ref[r] = uint32(u)
	}
	if len(m) > 0 {
		return invalid(k, c.Field, -1, "%d bytes of references behind the last row", len(m))
	}
	return nil
}

// dict reads the dictionary out of the column's bytes m.
func (d *Decoder) dict(c *Column, k Kind, m []byte, entries int) (err error) {
	c.Dict = d.strs.take(entries)[:0]
	var f field
	for len(m) > 0 {
		if m, err = next(m, &f); err != nil {
			return err
		}
		if f.num != 6 {
			continue
		}
		s, err := d.name(f.bytes)
		if err != nil {
			return invalid(k, c.Field, -1, "dictionary entry %d: %v", len(c.Dict), err)
		}
		c.Dict = append(c.Dict, s)
	}
	return nil
}

// name returns b as a string that is shared with earlier batches.
func (d *Decoder) name(b []byte) (string, error) {
	if s, ok := d.names[string(b)]; ok {
		return s, nil
	}
	if len(b) > MaxStringBytes {
		return "", fmt.Errorf("string of %d bytes, at most %d: %w", len(b), MaxStringBytes, ErrTooLarge)
	}
	if !utf8.Valid(b) {
		return "", fmt.Errorf("%w: string %q is not UTF-8", ErrInvalid, b)
	}
	if len(d.names) >= maxInterned || d.named > maxKeptBytes {
		d.names, d.named = map[string]string{}, 0
	}
	s := string(b)
	d.named += len(s)
	d.names[s] = s
	return s, nil
}

func fixed(dst, src []byte, what string) error {
	if len(src) != len(dst) {
		return invalid(0, 0, -1, "%s of %d bytes, must be %d", what, len(src), len(dst))
	}
	copy(dst, src)
	return nil
}
