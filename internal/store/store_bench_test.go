package store_test

import (
	"fmt"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// BenchmarkGPURows reads samples back: 64 GPUs, an hour at 1 Hz stored, all or one minute read.
func BenchmarkGPURows(b *testing.B) {
	url, user, password := testenv.ClickHouse(b)
	s, err := store.Open(b.Context(), store.Config{URL: url, User: user, Password: password, Database: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if cerr := s.Close(); cerr != nil {
			b.Error(cerr)
		}
	}()
	if err := s.Migrate(b.Context()); err != nil {
		b.Fatal(err)
	}
	block, err := store.NewRawBlock(store.TableGPUSamples)
	if err != nil {
		b.Fatal(err)
	}
	const gpus, seconds = 64, 3600
	ts, power, index := make([]int64, seconds), make([]int64, seconds), make([]int64, seconds)
	ref := make([]uint32, seconds)
	for g := range gpus {
		for i := range seconds {
			ts[i], power[i], index[i] = minute+int64(i)*1000, 400_000+int64(i*7919%9000), int64(g%8)
		}
		block.Begin(store.RawMeta{Cluster: "c", Node: fmt.Sprint("node-", g/8), Spool: "s", Sequence: uint64(g), Sources: "nvml", AvailableMs: minute}, seconds)
		block.Ints(block.Column("ts_ms"), ts, nil)
		block.Strings(block.Column("gpu_uuid"), []string{fmt.Sprint("GPU-", g)}, ref, nil)
		block.Ints(block.Column("gpu"), index, nil)
		block.Ints(block.Column("power_mw"), power, nil)
		block.End()
	}
	if err := s.Insert(b.Context(), store.TableGPUSamples, "t", block); err != nil {
		b.Fatal(err)
	}
	for name, q := range map[string]store.RowQuery{
		"hour":   {Cluster: "c", FromMs: minute, ToMs: minute + 3_600_000},
		"minute": {Cluster: "c", FromMs: minute + 600_000, ToMs: minute + 660_000, AvailableToMs: minute + 1},
	} {
		b.Run(name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				rows, err := s.GPURows(b.Context(), q)
				if err != nil {
					b.Fatal(err)
				}
				n += len(rows)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
