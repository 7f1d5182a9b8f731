package bundle_test

import (
	"testing"

	"github.com/flopwatch/flopwatch/internal/bundle"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// BenchmarkGPU reads the GPU samples of a shared recording: 26 columns a row.
func BenchmarkGPU(b *testing.B) {
	dir := testenv.Bundle(b, "dev-clean_mix")
	b.ReportAllocs()
	rows := 0
	for b.Loop() {
		r, err := bundle.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.GPU(func(bundle.GPURow) error { rows++; return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rows), "ns/row")
}
