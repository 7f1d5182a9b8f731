package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/flopwatch/flopwatch/internal/testenv/race"
	"github.com/flopwatch/flopwatch/internal/wire/wirepb"
)

// sample makes a batch with every kind of node record, absent values, extreme integers and
// awkward strings.
func sample(tb testing.TB) *Batch {
	tb.Helper()
	gpu := NewBuilder(KindGPU, SourceGPM)
	gpu.SetSource(12, SourceNVML)
	for i := range 70 {
		gpu.Begin()
		gpu.SetInt(1, 1778853422641+int64(i/2)*1000)
		gpu.SetStr(2, fmt.Sprintf("GPU-%d", i%2))
		gpu.SetInt(3, int64(i%2))
		gpu.SetInt(12, int64(700000+i*i))
		if i%3 == 0 {
			gpu.SetInt(13, math.MaxInt64-int64(i))
		}
		if i%5 == 0 {
			gpu.SetInt(17, math.MinInt64+int64(i))
		}
		end(tb, gpu)
	}
	host := NewBuilder(KindHost, SourceProcfs)
	host.Begin()
	host.SetInt(1, 5)
	host.SetInt(10, 0) // a measured zero
	end(tb, host)
	proc := NewBuilder(KindProcess, SourceProcfs)
	for i, exe := range []string{"python3", "", "naïve ⚙"} {
		proc.Begin()
		proc.SetInt(1, int64(i))
		proc.SetInt(2, 100)
		proc.SetStr(12, exe)
		if i == 1 {
			proc.SetStr(15, "job")
		}
		end(tb, proc)
	}
	return &Batch{
		Version: Version, Cluster: "c", Node: "node-1", Spool: [16]byte{1, 2, 3}, Sequence: 9, BootID: "b", Ticks: 4,
		SealedWallMs: 1778853422641, SealedBootMs: -3, AvailableMs: 17, PrevDigest: [32]byte{7},
		Tables: []Table{*gpu.Build(), *host.Build(), *proc.Build()},
		Gaps:   []Gap{{From: 2, To: 4, Reason: GapBytes, Digest: [32]byte{9}}, {From: 6, To: 6, Reason: GapCorrupt}},
	}
}

func end(tb testing.TB, b *Builder) {
	tb.Helper()
	if err := b.End(); err != nil {
		tb.Fatal(err)
	}
}

func encode(tb testing.TB, b *Batch) []byte {
	tb.Helper()
	f, err := AppendBatch(nil, b)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func decoder(tb testing.TB) *Decoder {
	tb.Helper()
	d, err := NewDecoder()
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

func TestRoundTrip(t *testing.T) {
	want := sample(t)
	frame := encode(t, want)
	d := decoder(t)
	var got Batch
	for range 3 { // the second and third on used memory
		if err := d.Decode(frame, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&got, want) {
			t.Fatalf("got  %+v\nwant %+v", &got, want)
		}
	}
	if again := encode(t, &got); !bytes.Equal(again, frame) {
		t.Error("encoding a decoded batch gives other bytes")
	}
	if h := want.Tables[1].Column(10); h == nil || !h.Has(0) || h.Int[0] != 0 {
		t.Error("a measured zero is lost")
	}
	if c := want.Tables[1].Column(11); c != nil {
		t.Error("a field that was never measured has a column")
	}
}

// TestProtobuf holds the hand-written codec to batch.proto, in both directions.
func TestProtobuf(t *testing.T) {
	want := sample(t)
	want.FirstTick, want.MissedTicks = 2, 1
	frame := encode(t, want)
	var pb wirepb.Batch
	if err := proto.Unmarshal(inflate(t, frame), &pb); err != nil {
		t.Fatal(err)
	}
	if n := len(pb.ProtoReflect().GetUnknown()); n > 0 {
		t.Errorf("%d bytes unknown to batch.proto", n)
	}
	if pb.GetNode() != want.Node || pb.GetSequence() != want.Sequence || pb.GetTables()[0].GetRows() != 70 ||
		pb.GetSealedBootMs() != -3 || pb.GetFirstTick() != 2 || pb.GetMissedTicks() != 1 || pb.GetGaps()[1].GetReason() != uint32(GapCorrupt) {
		t.Errorf("read by generated code: %v", &pb)
	}
	out, err := proto.Marshal(&pb)
	if err != nil {
		t.Fatal(err)
	}
	var got Batch
	if err := decoder(t).Decode(deflate(t, out), &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&got, want) {
		t.Errorf("through generated code:\ngot  %+v\nwant %+v", &got, want)
	}
}

func inflate(tb testing.TB, frame []byte) []byte {
	tb.Helper()
	r, err := zstd.NewReader(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	raw, err := r.DecodeAll(frame[2:], nil)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

func deflate(tb testing.TB, raw []byte) []byte {
	tb.Helper()
	w, err := newCompressor()
	if err != nil {
		tb.Fatal(err)
	}
	return w.EncodeAll(raw, []byte{frameMagic, Version})
}

// TestInvalid changes one thing in a good message, by way of the generated code, and wants
// the error that names it.
func TestInvalid(t *testing.T) {
	base := inflate(t, encode(t, sample(t)))
	col := func(b *wirepb.Batch, table, i int) *wirepb.Column { return b.Tables[table].Columns[i] }
	for _, tc := range []struct {
		name   string
		change func(*wirepb.Batch)
		is     error
		text   string
	}{
		{"no cluster", func(b *wirepb.Batch) { b.Cluster = "" }, ErrInvalid, "invalid batch: no cluster"},
		{"short spool", func(b *wirepb.Batch) { b.Spool = []byte{1} }, ErrInvalid, "invalid batch: spool of 1 bytes, must be 16"},
		{"zero spool", func(b *wirepb.Batch) { b.Spool = make([]byte, 16) }, ErrInvalid, "invalid batch: no spool"},
		{"no sequence", func(b *wirepb.Batch) { b.Sequence = 0 }, ErrInvalid, "invalid batch: no sequence"},
		{"other version", func(b *wirepb.Batch) { b.Version = 2 }, ErrInvalid, "invalid batch: version 2 in a frame of version 1"},
		{"gap ahead", func(b *wirepb.Batch) { b.Gaps[0].To = 9 }, ErrInvalid, "invalid batch: gap 0 is [2, 9] in sequence 9"},
		{"unknown kind", func(b *wirepb.Batch) { b.Tables[0].Kind = 77 }, ErrUnknownKind, "unknown record kind: kind(77): this code knows version 1"},
		{"provider kind", func(b *wirepb.Batch) { b.Node = "" }, ErrInvalid, `invalid batch: gpu: does not belong in a batch of node ""`},
		{"no rows", func(b *wirepb.Batch) { b.Tables[1].Rows = 0 }, ErrTooLarge, "too large: host: 0 rows behind 70 others, must be 1 to 65536 together"},
		{"many rows", func(b *wirepb.Batch) { b.Tables[1].Rows = MaxRows }, ErrTooLarge, "too large: host: 65536 rows behind 70 others, must be 1 to 65536 together"},
		{"more rows", func(b *wirepb.Batch) { b.Tables[0].Rows = 71 }, ErrInvalid, "invalid batch: gpu field ts_ms row 70: no integer: unexpected EOF"},
		{"fewer rows", func(b *wirepb.Batch) { b.Tables[0].Rows = 69 }, ErrInvalid, "invalid batch: gpu field ts_ms: 1 bytes of integers behind the last row"},
		{"key absent", func(b *wirepb.Batch) { c := col(b, 0, 2); c.Present = make([]byte, 9); c.Ints = nil }, ErrInvalid, "invalid batch: gpu field gpu row 0: key field is absent"},
		{"key missing", func(b *wirepb.Batch) { b.Tables[0].Columns = b.Tables[0].Columns[1:] }, ErrInvalid, "invalid batch: gpu field ts_ms: key field is missing"},
		{"twice", func(b *wirepb.Batch) { b.Tables[0].Columns = append(b.Tables[0].Columns, col(b, 0, 0)) }, ErrInvalid, "invalid batch: gpu field ts_ms: given twice"},
		{"bitmap", func(b *wirepb.Batch) { col(b, 0, 4).Present = []byte{1} }, ErrInvalid, "invalid batch: gpu field energy_mj: presence has 1 bytes for 70 rows"},
		{"bitmap tail", func(b *wirepb.Batch) {
			c := col(b, 0, 4)
			c.Present[8] |= 0x80
		}, ErrInvalid, "invalid batch: gpu field energy_mj: presence beyond row 69"},
		{"order", func(b *wirepb.Batch) { col(b, 0, 3).Order = 3 }, ErrInvalid, "invalid batch: gpu field power_mw: order 3"},
		{"source", func(b *wirepb.Batch) { col(b, 0, 3).Source = 256 }, ErrInvalid, "invalid batch: gpu field power_mw: source 256"},
		{"strings in ints", func(b *wirepb.Batch) { col(b, 0, 3).Dict = []string{"x"} }, ErrInvalid, "invalid batch: gpu field power_mw: strings in an integer field"},
		{"ints in strings", func(b *wirepb.Batch) { col(b, 0, 1).Ints = []int64{1} }, ErrInvalid, "invalid batch: gpu field gpu_uuid: integers in a string field"},
		{"reference", func(b *wirepb.Batch) { col(b, 0, 1).Refs[3] = 2 }, ErrInvalid, "invalid batch: gpu field gpu_uuid row 3: reference 2 into a dictionary of 2"},
		{"long string", func(b *wirepb.Batch) { col(b, 0, 1).Dict[1] = string(make([]byte, MaxStringBytes+1)) }, ErrInvalid, "invalid batch: gpu field gpu_uuid: dictionary entry 1: string of 1025 bytes, at most 1024: too large"},
	} {
		var pb wirepb.Batch
		if err := proto.Unmarshal(base, &pb); err != nil {
			t.Fatal(err)
		}
		tc.change(&pb)
		raw, err := proto.Marshal(&pb)
		if err != nil {
			t.Fatal(err)
		}
		var b Batch
		err = decoder(t).Decode(deflate(t, raw), &b)
		if !errors.Is(err, tc.is) || err.Error() != tc.text {
			t.Errorf("%s: got %v, want %s", tc.name, err, tc.text)
		}
	}
}

// TestUnknown: later contracts may add columns and fields, and a newer version is told
// from damage.
func TestUnknown(t *testing.T) {
	var pb wirepb.Batch
	if err := proto.Unmarshal(inflate(t, encode(t, sample(t))), &pb); err != nil {
		t.Fatal(err)
	}
	pb.Tables[0].Columns = append(pb.Tables[0].Columns, &wirepb.Column{Field: 200, Ints: []int64{1, 2}}, &wirepb.Column{Field: 70000})
	raw, err := proto.Marshal(&pb)
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, 0xf8, 0x07, 0x01) // field 127, varint
	d := decoder(t)
	var b Batch
	if err := d.Decode(deflate(t, raw), &b); err != nil {
		t.Fatal(err)
	}
	if d.SkippedColumns != 2 || d.UnknownFields != 1 || !reflect.DeepEqual(&b, sample(t)) {
		t.Errorf("skipped %d columns and %d fields, got %+v", d.SkippedColumns, d.UnknownFields, b)
	}
	frame := encode(t, sample(t))
	frame[1] = Version + 1
	if err := d.Decode(frame, &b); !errors.Is(err, ErrUnknownVersion) {
		t.Errorf("newer version: %v", err)
	}
	if want := sample(t); b.Cluster != want.Cluster || b.Node != want.Node || b.Spool != want.Spool || b.Sequence != want.Sequence || b.Tables != nil {
		t.Errorf("head of a newer version: %+v", b)
	}
	frame[0] = '{'
	if err := d.Decode(frame, &b); !errors.Is(err, ErrCorrupt) {
		t.Errorf("no magic: %v", err)
	}
}

// TestDamage: every prefix and every flipped bit is an error, and none panics.
func TestDamage(t *testing.T) {
	frame := encode(t, sample(t))
	d := decoder(t)
	var b Batch
	for n := range frame {
		if err := d.Decode(frame[:n], &b); err == nil {
			t.Errorf("a prefix of %d of %d bytes decodes", n, len(frame))
		}
	}
	undetected := 0
	for i := range len(frame) * 8 {
		frame[i/8] ^= 1 << (i % 8)
		if err := d.Decode(frame, &b); err == nil {
			// Bits of the zstd header may be without meaning; then nothing may change.
			undetected++
			if !reflect.DeepEqual(&b, sample(t)) {
				t.Errorf("bit %d is flipped and the batch differs", i)
			}
		}
		frame[i/8] ^= 1 << (i % 8)
	}
	if undetected > 32 {
		t.Errorf("%d flipped bits without effect", undetected)
	}
	raw := inflate(t, frame)
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		bad := bytes.Clone(raw)
		for range 1 + r.IntN(3) {
			bad[r.IntN(len(bad))] = byte(r.Uint32())
		}
		_ = d.Decode(deflate(t, bad[:1+r.IntN(len(bad))]), &b) // must return
	}
}

func TestRandomTables(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	d := decoder(t)
	kinds := []Kind{KindGPU, KindHost, KindFabric, KindFlow, KindProcess, KindCollective}
	for range 200 {
		bl := NewBuilder(kinds[r.IntN(len(kinds))], Source(r.IntN(9)))
		rows := 1 + r.IntN(200)
		for range rows {
			bl.Begin()
			for _, f := range Schema[bl.Kind()] {
				if !f.Key && r.IntN(3) == 0 {
					continue
				}
				if f.Type == Str {
					bl.SetStr(f.ID, fmt.Sprint(r.IntN(20)))
				} else {
					bl.SetInt(f.ID, int64(r.Uint64()>>r.IntN(64)))
				}
			}
			end(t, bl)
		}
		want := &Batch{Version: 1, Cluster: "c", Node: "n", Spool: [16]byte{1}, Sequence: 1, Tables: []Table{*bl.Build()}}
		var got Batch
		if err := d.Decode(encode(t, want), &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&got.Tables[0], &want.Tables[0]) {
			t.Fatalf("got %+v\nwant %+v", got.Tables[0], want.Tables[0])
		}
	}
}

func TestLimits(t *testing.T) {
	ok := func() *Batch {
		return &Batch{Cluster: "c", Node: "n", Spool: [16]byte{1}, Sequence: 1, Tables: []Table{{Kind: KindHost, Rows: 1,
			Columns: []Column{{Field: 1, Int: []int64{5}}}}}}
	}
	for _, tc := range []struct {
		name   string
		change func(*Batch)
		is     error
	}{
		{"good", func(*Batch) {}, nil},
		{"newer version", func(b *Batch) { b.Version = 2 }, ErrUnknownVersion},
		{"tables", func(b *Batch) { b.Tables = make([]Table, MaxTables+1) }, ErrTooLarge},
		{"lengths", func(b *Batch) { b.Tables[0].Rows = 2 }, ErrInvalid},
		{"not UTF-8", func(b *Batch) { b.Node = "\xff" }, ErrInvalid},
		{"gaps", func(b *Batch) { b.Gaps = make([]Gap, MaxGaps+1) }, ErrTooLarge},
		{"frame", func(b *Batch) {
			r := rand.New(rand.NewPCG(1, 2))
			n := MaxRows
			b.Tables[0].Rows = n
			b.Tables[0].Columns = nil
			for _, f := range []uint8{1, 10, 11, 12} {
				v := make([]int64, n)
				for i := range v {
					v[i] = int64(r.Uint64())
				}
				b.Tables[0].Columns = append(b.Tables[0].Columns, Column{Field: f, Int: v})
			}
		}, ErrTooLarge},
	} {
		b := ok()
		tc.change(b)
		dst, err := AppendBatch([]byte("before"), b)
		if !errors.Is(err, tc.is) || !bytes.HasPrefix(dst, []byte("before")) || (err != nil && len(dst) != 6) {
			t.Errorf("%s: %d bytes, %v", tc.name, len(dst), err)
		}
	}
}

// bombs are small frames that inflate to more than a message may have.
func bombs(tb testing.TB) map[string][]byte {
	tb.Helper()
	frame := func(body []byte) []byte { return append([]byte{frameMagic, Version}, body...) }
	// A frame of zstd that states no size: a window of 1 MiB, and blocks of 128 KiB of one byte.
	zeros := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50}
	for range 8192 { // 1 GiB in 32 KiB
		zeros = append(zeros, 0x02, 0x00, 0x10, 0)
	}
	zeros = append(zeros, 0x03, 0x00, 0x10, 0)
	// The same where 200 bytes are stated.
	liar := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 200}, zeros[6:]...)
	inner := deflate(tb, make([]byte, MaxDecodedBytes))[2:] // the most that one may have, again and again
	var many []byte
	for range 100 {
		many = append(many, inner...)
	}
	return map[string][]byte{
		"stated": deflate(tb, make([]byte, 256<<20)), "not stated": frame(zeros), "stated wrongly": frame(liar), "many": frame(many),
	}
}

// TestBomb: a small frame may not make the decoder spend memory beyond that of the largest
// message, nor keep that.
func TestBomb(t *testing.T) {
	for name, msg := range bombs(t) {
		t.Run(name, func(t *testing.T) {
			if len(msg) > MaxFrameBytes {
				t.Fatalf("a frame of %d bytes", len(msg))
			}
			d := decoder(t)
			var b Batch
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := d.Decode(msg, &b)
			runtime.ReadMemStats(&after)
			spent := after.TotalAlloc - before.TotalAlloc
			t.Logf("%d bytes: %v, %d KiB spent", len(msg), err, spent>>10)
			if damaged := name == "stated wrongly"; err == nil || errors.Is(err, ErrTooLarge) == damaged || errors.Is(err, ErrCorrupt) != damaged {
				t.Errorf("decodes to %v", err)
			}
			if spent > MaxDecodedBytes+4<<20 {
				t.Errorf("%d bytes of memory spent", spent)
			}
			if err := d.Decode(encode(t, sample(t)), &b); err != nil || cap(d.raw) > maxKeptBytes {
				t.Errorf("behind it: %v, %d bytes kept", err, cap(d.raw))
			}
		})
	}
}

// TestLargeFramesAreForgotten: what the largest batches need is not kept for ever.
func TestLargeFramesAreForgotten(t *testing.T) {
	d := decoder(t)
	var b Batch
	for i := range 3 {
		table := Table{Kind: KindGPU, Rows: MaxRows}
		for _, f := range Schema[KindGPU] {
			c := Column{Field: f.ID}
			if f.Type == Str {
				c.Dict, c.Ref = make([]string, 4096), make([]uint32, MaxRows)
				for k := range c.Dict {
					c.Dict[k] = fmt.Sprintf("%d-%d-%0900d", i, f.ID, k)
				}
			} else {
				c.Int = make([]int64, MaxRows)
			}
			table.Columns = append(table.Columns, c)
		}
		frame := encode(t, &Batch{Cluster: "c", Node: "n", Spool: [16]byte{1}, Sequence: 1, Tables: []Table{table}})
		if err := d.Decode(frame, &b); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d bytes are %d bytes, %d integers", len(frame), d.DecodedBytes, len(d.ints.all))
	}
	for range 2 {
		if err := d.Decode(encode(t, sample(t)), &b); err != nil {
			t.Fatal(err)
		}
	}
	if kept := 8*len(d.ints.all) + 4*len(d.refs.all) + 16*len(d.strs.all) + cap(d.raw) + d.named; kept > 16<<20 {
		t.Errorf("%d bytes kept: %d integers, %d strings, %d bytes of names", kept, len(d.ints.all), len(d.strs.all), d.named)
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates by itself")
	}
	frame := encode(t, sample(t))
	d := decoder(t)
	var b Batch
	if n := testing.AllocsPerRun(100, func() {
		if err := d.Decode(frame, &b); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a decode, want 0", n)
	}
}
