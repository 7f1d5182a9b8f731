package batch_test

import (
	"fmt"
	"testing"

	"github.com/flopwatch/flopwatch/collector/batch"
	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv/race"
	"github.com/flopwatch/flopwatch/internal/wire"
)

// TestEveryFieldHasAColumn holds contract and store together: New fails where they differ.
func TestEveryFieldHasAColumn(t *testing.T) {
	if _, err := batch.New(batch.Config{}); err != nil {
		t.Fatal(err)
	}
	tables := map[wire.Kind]string{
		wire.KindGPU: store.TableGPUSamples, wire.KindHost: store.TableHostSamples, wire.KindFabric: store.TableFabricSamples, wire.KindFlow: store.TableFlowSamples,
		wire.KindProcess: store.TableProcessEvents, wire.KindCollective: store.TableCollectiveSamples, wire.KindInventory: store.TableInventory,
		wire.KindAllocation: store.TableAllocations, wire.KindOrder: store.TableOrders,
		wire.KindDevice: store.TableGPUDevices, wire.KindStatus: store.TableInstrumentStatus,
		wire.KindHealth: store.TableGPUHealth, wire.KindEvent: store.TableGPUEvents, wire.KindInstance: store.TableGPUInstances, wire.KindHold: store.TableGPUHolds, wire.KindTCP: store.TableTCPSamples, wire.KindCheckpoint: store.TableCheckpoints, wire.KindRDMA: store.TableRDMAObjects, wire.KindOutOfBand: store.TableBMCSamples, wire.KindFact: store.TableNodeFacts,
	}
	if len(tables) != len(wire.Schema) || len(store.BatchKinds) != len(wire.Schema) {
		t.Fatalf("%d kinds in the contract, %d tables, %d counted in batches", len(wire.Schema), len(tables), len(store.BatchKinds))
	}
	for kind, fields := range wire.Schema {
		b, err := store.NewRawBlock(tables[kind])
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fields {
			if b.Column(f.Name) < 0 {
				t.Errorf("%s has no column %s", tables[kind], f.Name)
			}
		}
	}
}

// gpuFrame is a batch of 8 GPUs at 1 Hz with all 25 values, as an agent seals it.
func gpuFrame(tb testing.TB, node string, sequence uint64, seconds int) (string, []byte) {
	tb.Helper()
	t := wire.NewBuilder(wire.KindGPU, wire.SourceGPM)
	for g := range int64(8) {
		for s := range int64(seconds) {
			t.Begin()
			t.SetInt(1, 1_700_000_000_000+int64(sequence)*int64(seconds)*1000+s*1000)
			t.SetStr(2, fmt.Sprintf("GPU-%s-%d", node, g))
			t.SetInt(3, g)
			for id := uint8(10); id <= 32; id++ {
				v := (s*7919 + g*104729 + int64(id)*31) % 10_000
				if f, _ := wire.FieldOf(wire.KindGPU, id); f.Name == "energy_mj" || f.Name == "mma_cycles" {
					v = (int64(sequence)*int64(seconds)+s)*700_000 + v
				}
				t.SetInt(id, v)
			}
			if err := t.End(); err != nil {
				tb.Fatal(err)
			}
		}
	}
	w := &wire.Batch{Cluster: "c", Node: node, Spool: [16]byte{1}, Sequence: sequence, Tables: []wire.Table{*t.Build()}}
	frame, err := wire.AppendBatch(nil, w)
	if err != nil {
		tb.Fatal(err)
	}
	return wire.BatchSubject(w), frame
}

func never(batch.Claim) (batch.Fate, error) { return batch.Fresh, nil }

// TestAllocations pins the path from message to block: in steady state nothing is made, neither for
// a sample nor for a message.
func TestAllocations(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates by itself")
	}
	b, err := batch.New(batch.Config{})
	if err != nil {
		t.Fatal(err)
	}
	subject, frame := gpuFrame(t, "n", 1, 60)
	m := batch.Message{Stream: "S", Partition: "p", Seq: 1, Subject: subject, Data: frame, BrokerMs: 1_700_000_100_000}
	add := func() {
		b.Reset(1, nil)
		for range 4 {
			if o, err := b.Add(m, never); err != nil || o.Rows != 480 || o.Reason != "" {
				t.Fatalf("%+v, %v", o, err)
			}
		}
	}
	add()
	perMessage := testing.AllocsPerRun(50, add) / 4
	t.Logf("%.2f allocations a message of 480 rows", perMessage)
	if perMessage > 0 {
		t.Errorf("%.2f allocations a message of 480 rows, want none", perMessage)
	}
}

// TestNoMessagePanics feeds each prefix of a frame and each frame with a bit turned.
func TestNoMessagePanics(t *testing.T) {
	b, err := batch.New(batch.Config{})
	if err != nil {
		t.Fatal(err)
	}
	subject, frame := gpuFrame(t, "n", 1, 2)
	try := func(data []byte) {
		b.Reset(1, nil)
		o, err := b.Add(batch.Message{Subject: subject, Data: data, BrokerMs: 1_700_000_100_000}, never)
		if err != nil {
			t.Fatal(err)
		}
		if o.Reason == "" && o.Rows != 16 {
			t.Fatalf("taken with %d rows", o.Rows)
		}
		if (o.Reason != "") != (quarantined(b) == 1) {
			t.Fatalf("%+v, %d in quarantine", o, b.Quarantined())
		}
	}
	for n := range frame {
		try(frame[:n])
	}
	for n := range frame {
		damaged := append([]byte(nil), frame...)
		damaged[n] ^= 1 << (n % 8)
		try(damaged)
	}
}

func TestLargeRangesFlush(t *testing.T) {
	b, err := batch.New(batch.Config{MaxBlockRows: 1000})
	if err != nil {
		t.Fatal(err)
	}
	b.Reset(1, nil)
	var parts []int
	for q := uint64(1); q <= 10; q++ {
		subject, frame := gpuFrame(t, "n", q, 60)
		if _, err := b.Add(batch.Message{Seq: q, Subject: subject, Data: frame, BrokerMs: 1_700_000_900_000}, never); err != nil {
			t.Fatal(err)
		}
		for _, in := range b.Full(nil) {
			parts = append(parts, in.Part, in.Block.Rows())
			in.Done()
		}
	}
	rest := b.Rest(nil)
	if fmt.Sprint(parts) != "[0 1440 1 1440 2 1440]" || len(rest) != 2 || rest[0].Part != 3 || rest[0].Block.Rows() != 480 || rest[1].Table != store.TableBatches || b.Rows() != 4800 {
		t.Errorf("parts %v, rest %+v, %d rows", parts, rest, b.Rows())
	}
}

// TestLimit: blocks of any table are cut where the store has no memory for larger ones: to messages, and to rows.
func TestLimit(t *testing.T) {
	b, err := batch.New(batch.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, limits := range []map[string]int{{store.TableGPUSamples: 100, store.TableBatches: 3, store.TableQuarantine: 1}, nil} {
		b.Reset(1, nil)
		b.Limit(limits)
		got := map[string][]int{}
		note := func(all []batch.Insert) {
			for _, in := range all {
				if in.Part != len(got[in.Table]) {
					t.Errorf("part %d of %s comes as number %d", in.Part, in.Table, len(got[in.Table]))
				}
				got[in.Table] = append(got[in.Table], in.Block.Rows())
				in.Done()
			}
		}
		for q := uint64(1); q <= 7; q++ {
			subject, frame := gpuFrame(t, "n", q, 10)
			for _, data := range [][]byte{frame, frame[:len(frame)/2]} {
				if _, err := b.Add(batch.Message{Seq: q, Subject: subject, Data: data, BrokerMs: 1_700_000_900_000}, never); err != nil {
					t.Fatal(err)
				}
			}
			note(b.Full(nil))
		}
		rest := b.Rest(nil)
		note(rest)
		want := "map[batches:[3 3 1] gpu_samples:[160 160 160 80] quarantine:[1 1 1 1 1 1 1]]"
		if limits == nil {
			want = "map[batches:[7] gpu_samples:[560] quarantine:[7]]"
		}
		if fmt.Sprint(got) != want || rest[len(rest)-1].Table != store.TableBatches {
			t.Errorf("%v, want %s", got, want)
		}
	}
}

func FuzzAdd(f *testing.F) {
	subject, frame := gpuFrame(f, "n", 1, 1)
	f.Add(subject, frame)
	b, err := batch.New(batch.Config{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		b.Reset(1, nil)
		if _, err := b.Add(batch.Message{Subject: subject, Data: data, BrokerMs: 1}, never); err != nil {
			t.Fatal(err)
		}
	})
}

// BenchmarkAdd is the collector's own work between message and insert.
func BenchmarkAdd(b *testing.B) {
	for _, seconds := range []int{10, 60} {
		b.Run(fmt.Sprintf("rows=%d", 8*seconds), func(b *testing.B) {
			c, err := batch.New(batch.Config{})
			if err != nil {
				b.Fatal(err)
			}
			subject, frame := gpuFrame(b, "n", 1, seconds)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n%100 == 0 {
					c.Reset(1, nil)
				}
				n++
				if _, err := c.Add(batch.Message{Subject: subject, Data: frame, BrokerMs: 1_700_000_900_000}, never); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*8*seconds), "ns/row")
			b.ReportMetric(float64(len(frame))/float64(8*seconds), "wire-B/row")
		})
	}
}

func quarantined(b *batch.Builder) uint64 {
	c := b.Quarantined()
	return c.Total()
}
