package wire

import (
	"compress/gzip"
	"encoding/csv"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// gpuColumns maps the columns of a bundle's gpu.csv to fields and scales.
var gpuColumns = []struct {
	name  string
	field uint8
	scale float64
}{
	{"util_frac", 10, 1e4}, {"mem_used_bytes", 11, 1}, {"power_w", 12, 1e3}, {"energy_j_total", 13, 1e3}, {"sm_clock_mhz", 14, 1},
	{"sm_active_frac", 15, 1e4}, {"sm_occupancy_frac", 16, 1e4}, {"tensor_frac", 17, 1e4}, {"hmma_frac", 18, 1e4}, {"imma_frac", 19, 1e4},
	{"dfma_frac", 20, 1e4}, {"fp64_frac", 21, 1e4}, {"fp32_frac", 22, 1e4}, {"fp16_frac", 23, 1e4}, {"int_frac", 24, 1e4}, {"dram_frac", 25, 1e4},
	{"mma_cycles_total", 26, 1}, {"pcie_tx_bps", 27, 1}, {"pcie_rx_bps", 28, 1}, {"nvlink_tx_bps", 29, 1}, {"nvlink_rx_bps", 30, 1},
	{"nvenc_frac", 31, 1e4}, {"nvdec_frac", 32, 1e4},
}

// bundleRows is a bundle's gpu.csv as field values by node; key fields included.
type bundleRow struct {
	tsMs, gpu int64
	set       []uint8
	val       []int64
}

func root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			tb.Fatal("no go.mod above the test")
		}
		dir = up
	}
}

func bundle(tb testing.TB, name string) map[string][]bundleRow {
	tb.Helper()
	path := filepath.Join(root(tb), "..", "shared", "bundles", name, "gpu.csv.gz")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		tb.Skip("the shared bundles are not beside this checkout")
	}
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	r := csv.NewReader(zr)
	r.ReuseRecord = true
	head, err := r.Read()
	if err != nil {
		tb.Fatal(err)
	}
	at := map[string]int{}
	for i, h := range head {
		at[strings.Clone(h)] = i
	}
	num := func(s string, scale float64) int64 {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil {
			tb.Fatal(err)
		}
		return int64(v*scale + 0.5)
	}
	nodes := map[string][]bundleRow{}
	for {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nodes
		}
		if err != nil {
			tb.Fatal(err)
		}
		row := bundleRow{tsMs: num(rec[at["ts_ms"]], 1), gpu: num(rec[at["gpu"]], 1)}
		for _, c := range gpuColumns {
			if i, ok := at[c.name]; ok && rec[i] != "" {
				row.set = append(row.set, c.field)
				row.val = append(row.val, num(rec[i], c.scale))
			}
		}
		node := strings.Clone(rec[at["node"]])
		nodes[node] = append(nodes[node], row)
	}
}

// uuids look as real ones do to a compressor: 16 random bytes in hex.
func uuid(node string, gpu int64) string {
	d := Digest([]byte(node + strconv.FormatInt(gpu, 10)))
	const hex = "0123456789abcdef"
	b := []byte("GPU-00000000-0000-0000-0000-000000000000")
	for i, j := 4, 0; i < len(b); i++ {
		if b[i] == '0' {
			b[i] = hex[d[j/2]>>(j%2*4)&15]
			j++
		}
	}
	return string(b)
}

func fill(tb testing.TB, b *Builder, node string, rows []bundleRow) {
	tb.Helper()
	b.Reset()
	for _, r := range rows {
		b.Begin()
		b.SetInt(1, r.tsMs)
		b.SetStr(2, uuid(node, r.gpu))
		b.SetInt(3, r.gpu)
		for i, f := range r.set {
			b.SetInt(f, r.val[i])
		}
		if err := b.End(); err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkFrame measures bytes a GPU row on the wire, and the time of a row's encoding
// (sorting included) and decoding, on recorded rows of a whole fleet cut into batches.
func BenchmarkFrame(bb *testing.B) {
	for _, name := range []string{"dev-clean_mix", "dev-multi_node_training", "dev-inference_heavy"} {
		nodes := bundle(bb, name)
		for _, per := range []int{80, 240, 2000} {
			var frames [][]byte
			total, values, bytes := 0, 0, 0
			b := NewBuilder(KindGPU, SourceRecorded)
			for node, rows := range nodes {
				for lo := 0; lo+per <= len(rows); lo += per {
					fill(bb, b, node, rows[lo:lo+per])
					t := b.Build()
					batch := &Batch{Cluster: "c", Node: node, Spool: [16]byte{1, 2, 3}, Sequence: uint64(lo + 1), BootID: "2f3c", PrevDigest: Digest([]byte(node)), Tables: []Table{*t}}
					frame := encode(bb, batch)
					total += per
					bytes += len(frame)
					for _, r := range rows[lo : lo+per] {
						values += len(r.set) + 2
					}
					if len(frames) < 50 {
						frames = append(frames, frame)
					}
				}
			}
			if total == 0 {
				continue
			}
			d := decoder(bb)
			var got Batch
			label := name + "/rows=" + strconv.Itoa(per)
			bb.Run("decode/"+label, func(bb *testing.B) {
				bb.ReportAllocs()
				i := 0
				for bb.Loop() {
					if err := d.Decode(frames[i%len(frames)], &got); err != nil {
						bb.Fatal(err)
					}
					i++
				}
				bb.ReportMetric(float64(bb.Elapsed().Nanoseconds())/float64(bb.N*per), "ns/row")
				bb.ReportMetric(float64(bytes)/float64(total), "B/row")
				bb.ReportMetric(float64(values)/float64(total), "values/row")
			})
			if err := d.Decode(frames[0], &got); err != nil {
				bb.Fatal(err)
			}
			var buf []byte
			bb.Run("encode/"+label, func(bb *testing.B) {
				bb.ReportAllocs()
				for bb.Loop() {
					var err error
					if buf, err = AppendBatch(buf[:0], &got); err != nil {
						bb.Fatal(err)
					}
				}
				bb.ReportMetric(float64(bb.Elapsed().Nanoseconds())/float64(bb.N*per), "ns/row")
			})
		}
	}
}
