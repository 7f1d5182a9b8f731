//go:build linux && cgo

package nvml

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// What libraries say for "not available" is absent, in whatever field it comes: never a count of
// 4294967295, 65535 or 9.2e18. dcgm-exporter shows one in its own README.
func TestBlanksAreAbsent(t *testing.T) {
	w := newWorker(&library{}, nil, newListener(&library{}, nil), 0)
	limits := map[uint32]int64{}
	for _, f := range fields {
		limits[f.id] = f.limit
	}
	for _, f := range healthFields {
		limits[f.id] = max(limits[f.id], f.limit)
	}
	if len(limits) < 20 {
		t.Fatalf("%d fields", len(limits))
	}
	for name, c := range map[string]struct {
		typ  nvml.ValueType
		bits uint64
	}{
		"all ones of 64 bits":           {nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, math.MaxUint64},
		"all ones of a long":            {nvml.VALUE_TYPE_UNSIGNED_LONG, math.MaxUint64},
		"all ones of 32 bits":           {nvml.VALUE_TYPE_UNSIGNED_INT, math.MaxUint32},
		"all ones of 16 bits":           {nvml.VALUE_TYPE_UNSIGNED_SHORT, math.MaxUint16},
		"minus one":                     {nvml.VALUE_TYPE_SIGNED_INT, math.MaxUint32},
		"minus one of 64 bits":          {nvml.VALUE_TYPE_SIGNED_LONG_LONG, math.MaxUint64},
		"DCGM's blank of 64 bits":       {nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, 0x7ffffffffffffff0},
		"DCGM's \"not found\"":          {nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, 0x7ffffffffffffff1},
		"DCGM's \"not supported\"":      {nvml.VALUE_TYPE_SIGNED_LONG_LONG, 0x7ffffffffffffff2},
		"DCGM's \"not permitted\"":      {nvml.VALUE_TYPE_UNSIGNED_LONG, 0x7ffffffffffffff3},
		"not a number":                  {nvml.VALUE_TYPE_DOUBLE, math.Float64bits(math.NaN())},
		"the largest number of doubles": {nvml.VALUE_TYPE_DOUBLE, math.Float64bits(math.MaxFloat64)},
	} {
		for id, limit := range limits {
			v := nvml.FieldValue{FieldId: id, ValueType: uint32(c.typ)}
			binary.NativeEndian.PutUint64(v.Value[:], c.bits)
			var off int64
			if n, got := w.value(callFields, &v, limit, &off, 1); got {
				t.Errorf("%s in field %d: %d", name, id, n)
			}
		}
	}
	// And what is next to them is a count like any other, zero above all.
	for _, c := range []struct {
		typ  nvml.ValueType
		bits uint64
	}{{nvml.VALUE_TYPE_UNSIGNED_INT, 0}, {nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, 0}, {nvml.VALUE_TYPE_UNSIGNED_LONG_LONG, 1 << 50}, {nvml.VALUE_TYPE_UNSIGNED_INT, math.MaxUint32 - 1}} {
		v := nvml.FieldValue{FieldId: nvml.FI_DEV_PCIE_REPLAY_COUNTER, ValueType: uint32(c.typ)}
		binary.NativeEndian.PutUint64(v.Value[:], c.bits)
		var off int64
		if n, got := w.value(callFields, &v, limits[v.FieldId], &off, 1); !got || uint64(n) != c.bits {
			t.Errorf("%d: %d, %v", c.bits, n, got)
		}
	}
}
