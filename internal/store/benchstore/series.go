package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// absent marks a value that was not measured.
const absent = math.MinInt64

// series is what one GPU showed over a recording, in the scaled integers of gpu_samples.
type series struct {
	tsMs   []int64
	values [][]int64 // by signals
}

// measure is a column of gpu_samples and the column of a session that it comes from.
type measure struct {
	column, from string
	scale        float64
	counter      bool  // cumulative
	quantum      int64 // the driver's own step: noise is in multiples of it
}

// signals are the metrics of a session.
var signals = []measure{
	{"util_e4", "gpu_util_pct", 100, false, 100}, {"mem_used_bytes", "mem_used_mib", 1 << 20, false, 1 << 20}, {"power_mw", "power_w", 1000, false, 1},
	{"energy_mj", "energy_mj", 1, true, 1}, {"sm_active_e4", "sm_active", 10_000, false, 1}, {"tensor_e4", "tensor_active", 10_000, false, 1},
	{"fp16_e4", "fp16_active", 10_000, false, 1}, {"dram_e4", "dram_active", 10_000, false, 1}, {"pcie_tx_bps", "pcie_tx_bytes_s", 1, false, 1},
	{"pcie_rx_bps", "pcie_rx_bytes_s", 1, false, 1}, {"nvlink_tx_bps", "nvlink_tx_bytes_s", 1, false, 1}, {"nvlink_rx_bps", "nvlink_rx_bytes_s", 1, false, 1},
	{"temp_c", "temp_c", 1, false, 1}, {"clocks_event_reasons", "throttle_reasons", 1, false, 1}, {"mem_util_e4", "mem_util_pct", 100, false, 100},
}

// sessions reads every *_telemetry.csv of a directory that holds anything: one series a GPU. every
// keeps one reading in so many.
func sessions(dir string, every int) ([]series, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*_telemetry.csv"))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	var out []series
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read session: %w", err)
		}
		if len(text) == 0 {
			continue // a pointer whose file is elsewhere
		}
		got, err := session(text, every)
		if err != nil {
			return nil, fmt.Errorf("read session %s: %w", path, err)
		}
		out = append(out, got...)
	}
	if out == nil {
		return nil, fmt.Errorf("no *_telemetry.csv in %s", dir)
	}
	return out, nil
}

func session(text []byte, every int) ([]series, error) {
	r := csv.NewReader(bytes.NewReader(text))
	head, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("head: %w", err)
	}
	at := func(name string) int { return slices.Index(head, name) }
	ts, gpu := at("timestamp"), at("gpu")
	if ts < 0 || gpu < 0 {
		return nil, errors.New("no columns timestamp and gpu")
	}
	byGPU := map[string]*series{}
	var order []string
	seen := map[string]int{}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err //nolint:wrapcheck // it names the line
		}
		s := byGPU[row[gpu]]
		if s == nil {
			s = &series{values: make([][]int64, len(signals))}
			byGPU[row[gpu]], order = s, append(order, row[gpu])
		}
		if seen[row[gpu]]++; (seen[row[gpu]]-1)%every != 0 {
			continue
		}
		sec, err := strconv.ParseFloat(row[ts], 64)
		if err != nil {
			return nil, fmt.Errorf("time %q: %w", row[ts], err)
		}
		s.tsMs = append(s.tsMs, int64(math.Round(sec*1000)))
		for i, sig := range signals {
			v := int64(absent)
			if c := at(sig.from); c >= 0 && row[c] != "" {
				x, err := strconv.ParseFloat(row[c], 64)
				if err != nil {
					return nil, fmt.Errorf("%s %q: %w", sig.from, row[c], err)
				}
				v = int64(math.Round(x * sig.scale))
			}
			s.values[i] = append(s.values[i], v)
		}
	}
	out := make([]series, 0, len(order))
	for _, name := range order {
		if len(byGPU[name].tsMs) > 1 {
			out = append(out, *byGPU[name])
		}
	}
	return out, nil
}
