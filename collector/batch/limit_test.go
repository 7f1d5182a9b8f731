package batch_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestLimits: what drivers answer for "not available", and what no instrument can show, is left
// absent; what one can show is taken.
func TestLimits(t *testing.T) {
	b, err := batch.New(batch.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind  wire.Kind
		field string
		good  []int64
		bad   []int64
	}{
		{wire.KindGPU, "util_e4", []int64{0, 10_000, 10_100}, []int64{-1, 20_000, math.MaxUint16, math.MaxUint32, math.MinInt64}},
		{wire.KindGPU, "power_mw", []int64{0, 700_000, 1_200_000}, []int64{-1, math.MaxUint32, math.MaxInt64}},
		{wire.KindGPU, "energy_mj", []int64{0, 1 << 60}, []int64{-1, math.MinInt64}},
		{wire.KindGPU, "temp_c", []int64{-40, 25, 110}, []int64{255_000, math.MinInt64, math.MaxUint32}},
		{wire.KindGPU, "sm_clock_mhz", []int64{0, 1980}, []int64{math.MaxUint16}},
		{wire.KindGPU, "nvlink_tx_bps", []int64{0, 1 << 40}, []int64{math.MaxInt64}},
		{wire.KindHost, "cpu_e4", []int64{10_000}, []int64{12_800}},
		{wire.KindHealth, "fan_e4", []int64{10_000, 12_000}, []int64{math.MaxUint32}},
		{wire.KindOutOfBand, "power_mw", []int64{120_000_000}, []int64{math.MaxInt64, -5}},
		{wire.KindGPU, "boot_ms", []int64{0, 1 << 40}, nil},
	} {
		var id uint8
		for _, f := range wire.Schema[c.kind] {
			if f.Name == c.field {
				id = f.ID
			}
		}
		send := func(v int64) string {
			rows := wire.NewBuilder(c.kind, wire.SourceNVML)
			rows.Begin()
			for _, f := range wire.Schema[c.kind] {
				switch {
				case f.Key && f.ID == 1:
					rows.SetInt(1, 1_700_000_000_000)
				case f.Key && f.Type == wire.Int:
					rows.SetInt(f.ID, 0)
				case f.Key:
					rows.SetStr(f.ID, "x")
				}
			}
			rows.SetInt(id, v)
			if err := rows.End(); err != nil {
				t.Fatal(err)
			}
			w := &wire.Batch{Cluster: "c", Node: "n", Spool: [16]byte{1}, Sequence: 1, Tables: []wire.Table{*rows.Build()}}
			frame, err := wire.AppendBatch(nil, w)
			if err != nil {
				t.Fatal(err)
			}
			b.Reset(1, nil)
			o, err := b.Add(batch.Message{Subject: wire.BatchSubject(w), Data: frame, BrokerMs: 1_700_000_001_000}, never)
			if err != nil || o.Rows != 1 {
				t.Fatalf("%s %d: %+v, %v", c.field, v, o, err)
			}
			return o.Reason
		}
		for _, v := range c.good {
			if r := send(v); r != "" {
				t.Errorf("%s of %s: %d is %q", c.field, c.kind, v, r)
			}
		}
		for _, v := range c.bad {
			if r := send(v); r != batch.ReasonRange {
				t.Errorf("%s of %s: %d is taken", c.field, c.kind, v)
			}
		}
	}
}

// TestFewLongRowsFlush: blocks are bounded by what messages decompress to, not by rows alone.
func TestFewLongRowsFlush(t *testing.T) {
	b, err := batch.New(batch.Config{MaxDecodedBytes: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	b.Reset(1, nil)
	var parts []int
	for q := uint64(1); q <= 5; q++ {
		rows := wire.NewBuilder(wire.KindFact, wire.SourceProcfs)
		for i := range 100 {
			rows.Begin()
			rows.SetInt(1, 1_700_000_000_000)
			rows.SetStr(2, "host")
			rows.SetStr(3, fmt.Sprintf("%d-%d", q, i))
			rows.SetStr(10, fmt.Sprintf("%01000d", i+int(q)*100))
			if err := rows.End(); err != nil {
				t.Fatal(err)
			}
		}
		w := &wire.Batch{Cluster: "c", Node: "n", Spool: [16]byte{1}, Sequence: q, Tables: []wire.Table{*rows.Build()}}
		frame, err := wire.AppendBatch(nil, w)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Add(batch.Message{Seq: q, Subject: wire.BatchSubject(w), Data: frame, BrokerMs: 1_700_000_001_000}, never); err != nil {
			t.Fatal(err)
		}
		for _, in := range b.Full(nil) {
			parts = append(parts, in.Part, in.Block.Rows())
			in.Done()
		}
	}
	rest := b.Rest(nil)
	if fmt.Sprint(parts) != "[0 300]" || len(rest) != 2 || rest[0].Part != 1 || rest[0].Block.Rows() != 200 || rest[1].Table != store.TableBatches {
		t.Errorf("parts %v, rest %+v", parts, rest)
	}
}
