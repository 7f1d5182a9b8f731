package flops

import (
	_ "embed" // the table of accelerators
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

//go:embed data/accelerators.csv
var acceleratorsCSV string

// Accelerator is what is known of a part. A number that is not known is 0.
type Accelerator struct {
	Key, Name, Vendor, Arch string
	SMs                     float64
	BoostMHz, TensorMHz     float64 // TensorMHz: the clock behind the published tensor peak
	FLOPPerClkSM16          float64 // dense, 16 bit, one SM
	FP64, FP64Tensor, FP32  float64 // FLOP/s
	TF32, Peak16, FP8, FP4  float64 // dense tensor peaks, FLOP/s; Peak16 is BF16 or FP16
	INT8                    float64 // OP/s
	MemBytes, MemBps        float64
	TDPW                    float64
	LinkBps                 float64 // NVLink, both directions together
	Share                   float64 // part of a whole GPU: 1, or a MIG slice's share of the SMs
	LogSD                   float64 // spread of ln(peak) where the part was not recognised exactly
	Source, Notes           string
}

// Lookup finds the part that NVML (or an inventory) names. It returns false, and a wide
// generic prior, for a name that the table does not know.
func Lookup(nvmlName string) (Accelerator, bool) {
	name, share := splitMIG(nvmlName)
	rows, err := table()
	if err != nil {
		return generic(0), false
	}
	best, bestLen := -1, 0
	for i := range rows {
		if n := rows[i].match(name); n > bestLen {
			best, bestLen = i, n
		}
	}
	if best >= 0 {
		return rows[best].acc.slice(share), true
	}
	for _, f := range families() {
		if f.pattern.MatchString(name) {
			for i := range rows {
				if rows[i].acc.Key == f.key {
					a := rows[i].acc
					a.LogSD, a.Notes = f.logSD, "nearest known part for "+nvmlName+"; "+a.Notes
					return a.slice(share), true
				}
			}
		}
	}
	return generic(0), false
}

// Table returns all parts, in the order of the file.
func Table() ([]Accelerator, error) {
	rows, err := table()
	if err != nil {
		return nil, err
	}
	out := make([]Accelerator, len(rows))
	for i := range rows {
		out[i] = rows[i].acc
	}
	return out, nil
}

// generic is a part of which the board power alone may be known (0: not even that).
// Published parts give 0.4 to 2.2 dense 16-bit TFLOP/s a watt, 0.85 at the middle, below
// 700 W; boards of more watts exist since 2022 alone, and give 1.3 to 2.5, 1.8 at the
// middle. A name that the table lacks is more often a later part than an earlier one.
func generic(tdpW float64) Accelerator {
	a := Accelerator{
		Key: "generic", Name: "unknown accelerator", TDPW: 400, Peak16: 400e12, FP32: 30e12, FP64: 5e12, FP64Tensor: 5e12,
		TF32: 200e12, FP8: 800e12, INT8: 800e12, MemBps: 2e12, BoostMHz: 1800, TensorMHz: 1700, Share: 1, LogSD: 0.8,
		Notes: "not in the table of accelerators: wide prior",
	}
	if tdpW > 0 {
		perWatt := 0.85
		a.LogSD = 0.6
		if tdpW >= 650 { // as stated, or as seen at work
			perWatt, a.LogSD = 1.8, 0.35
		}
		k := perWatt * tdpW / 400
		for _, p := range []*float64{&a.Peak16, &a.FP32, &a.FP64, &a.FP64Tensor, &a.TF32, &a.FP8, &a.INT8, &a.MemBps} {
			*p *= k
		}
		a.TDPW = tdpW
	}
	return a
}

// FLOPPerCycle returns the dense 16-bit FLOP of the whole part in one cycle in which
// all its tensor pipes are busy.
func (a *Accelerator) FLOPPerCycle() float64 {
	if a.SMs > 0 && a.FLOPPerClkSM16 > 0 {
		return a.SMs * a.FLOPPerClkSM16
	}
	mhz := a.TensorMHz
	if mhz == 0 {
		mhz = a.BoostMHz
	}
	if mhz == 0 {
		mhz = 1700
	}
	return a.Peak16 / (mhz * 1e6)
}

// tensorMHz returns the clock at which Peak16 holds.
func (a *Accelerator) tensorMHz() float64 {
	if a.TensorMHz > 0 {
		return a.TensorMHz
	}
	return a.Peak16 / a.FLOPPerCycle() / 1e6
}

// boostMHz returns the clock at which the vector peaks hold.
func (a *Accelerator) boostMHz() float64 {
	if a.BoostMHz > 0 {
		return a.BoostMHz
	}
	return a.tensorMHz()
}

// fp16Vector returns the FLOP/s of the FP16 pipes without tensor cores, from the ratio
// to FP32 that the architectures have: four on Ampere, two on Hopper, Volta and Pascal.
func (a *Accelerator) fp16Vector() float64 {
	switch a.Arch {
	case "Ampere":
		return 4 * a.FP32
	case "Hopper", "Volta", "Pascal":
		return 2 * a.FP32
	}
	return a.FP32
}

// IdleW returns the watts of a part that does nothing: about a tenth of the board power
// on large modules, 15 % on small ones.
func (a *Accelerator) IdleW() float64 {
	if a.TDPW >= 600 {
		return 0.10 * a.TDPW
	}
	return 0.15 * a.TDPW
}

// slice scales a part to the share of its SMs.
func (a Accelerator) slice(gi int) Accelerator {
	a.Share = 1
	if gi == 0 || a.SMs == 0 {
		return a
	}
	sms := float64(gi) * 2 * math.Round(a.SMs/16) // SMs come in pairs, a GPU in eight parts of which seven are used
	if gi >= 7 && a.Arch != "Ampere" {
		sms = a.SMs
	}
	k := min(sms/a.SMs, 1)
	a.Share, a.SMs = k, a.SMs*k
	for _, p := range []*float64{&a.FP64, &a.FP64Tensor, &a.FP32, &a.TF32, &a.Peak16, &a.FP8, &a.FP4, &a.INT8, &a.MemBytes, &a.MemBps, &a.TDPW} {
		*p *= k
	}
	a.Notes = "MIG slice; " + a.Notes
	return a
}

var errNoMIG = errors.New("no MIG slice in the name")

// splitMIG takes "... MIG 1g.10gb" off a name; the number is the count of slices of
// seven, 0 for a whole GPU.
func splitMIG(name string) (string, int) {
	base, profile, ok := strings.Cut(name, " MIG ")
	if !ok {
		return name, 0
	}
	gi, err := parseMIG(profile)
	if err != nil {
		return name, 0
	}
	return base, gi
}

func parseMIG(profile string) (int, error) {
	for part := range strings.SplitSeq(profile, ".") {
		if n, ok := strings.CutSuffix(part, "g"); ok {
			gi, err := strconv.Atoi(n)
			if err != nil || gi < 1 || gi > 7 {
				return 0, errNoMIG
			}
			return gi, nil
		}
	}
	return 0, errNoMIG
}

// row is a part and how its name is recognised. RE2 has no look-ahead, so a pattern
// "X(?!Y)" is kept as X and an exclusion X+Y.
type row struct {
	acc      Accelerator
	include  *regexp.Regexp
	excludes *regexp.Regexp
}

// match returns the length of the text that the pattern recognises, 0 for none: the
// longest wins, so "GB200" is no B200 and "L40S" no L40.
func (r *row) match(name string) int {
	at := r.include.FindStringIndex(name)
	if at == nil || r.excludes != nil && r.excludes.MatchString(name) {
		return 0
	}
	return at[1] - at[0]
}

var table = sync.OnceValues(func() ([]row, error) { return parseTable(acceleratorsCSV) })

func parseTable(text string) ([]row, error) {
	records, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read table of accelerators: %w", err)
	}
	if len(records) < 2 {
		return nil, errors.New("read table of accelerators: no rows")
	}
	column := map[string]int{}
	for i, name := range records[0] {
		column[name] = i
	}
	rows := make([]row, 0, len(records)-1)
	for line, rec := range records[1:] {
		r, rowErr := parseRow(column, rec)
		if rowErr != nil {
			return nil, fmt.Errorf("read table of accelerators, row %d: %w", line+2, rowErr)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func parseRow(column map[string]int, rec []string) (row, error) {
	var firstErr error
	cell := func(name string) string {
		i, ok := column[name]
		if !ok {
			firstErr = errors.Join(firstErr, fmt.Errorf("column %s is missing", name))
			return ""
		}
		return rec[i]
	}
	number := func(name string, unit float64) float64 {
		text := cell(name)
		if text == "" {
			return 0
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			firstErr = errors.Join(firstErr, fmt.Errorf("column %s: %w", name, err))
		}
		return v * unit
	}
	a := Accelerator{
		Key: cell("key"), Name: cell("name"), Vendor: cell("vendor"), Arch: cell("arch"), SMs: number("sm_or_cu", 1),
		BoostMHz: number("boost_mhz", 1), TensorMHz: number("tensor_clock_mhz", 1), FLOPPerClkSM16: number("flop_per_clk_per_sm_16bit_dense", 1),
		FP64: number("fp64_vec_tf", 1e12), FP64Tensor: number("fp64_tensor_tf", 1e12), FP32: number("fp32_vec_tf", 1e12),
		TF32: number("tf32_dense_tf", 1e12), Peak16: max(number("bf16_dense_tf", 1e12), number("fp16_dense_tf", 1e12)),
		FP8: number("fp8_dense_tf", 1e12), FP4: number("fp4_dense_tf", 1e12), INT8: number("int8_dense_tops", 1e12),
		MemBytes: number("mem_gb", 1e9), MemBps: number("mem_bw_gbs", 1e9), TDPW: number("tdp_w", 1), LinkBps: number("nvlink_total_gbs_bidir", 1e9),
		Share: 1, Source: cell("source"), Notes: cell("notes"),
	}
	r := row{acc: a}
	pattern := cell("nvml_name_regex")
	if firstErr != nil {
		return row{}, firstErr
	}
	if pattern == "" { // parts that NVML does not name are found by the table's own name
		pattern = `(?i)\b` + regexp.QuoteMeta(strings.TrimSpace(strings.SplitN(a.Name, "(", 2)[0])) + `\b`
	}
	include, exclude, hasExclude := strings.Cut(pattern, "(?!")
	var err error
	if r.include, err = regexp.Compile(include); err != nil {
		return row{}, fmt.Errorf("pattern of %s: %w", a.Key, err)
	}
	if hasExclude {
		if r.excludes, err = regexp.Compile(include + strings.TrimSuffix(exclude, ")")); err != nil {
			return row{}, fmt.Errorf("exclusion of %s: %w", a.Key, err)
		}
	}
	return r, nil
}

// family is a name that the table lacks but whose nearest part is known.
type family struct {
	pattern *regexp.Regexp
	key     string
	logSD   float64
}

// families lists short and rare names. Inventories write "H100" for what NVML calls
// "NVIDIA H100 80GB HBM3"; which form factor is meant is then a guess.
var families = sync.OnceValue(func() []family {
	of := func(pattern, key string, logSD float64) family {
		return family{regexp.MustCompile(pattern), key, logSD}
	}
	return []family{
		of(`H100.*HBM2`, "H100_PCIE", 0.10), of(`(?i)\bH100`, "H100_SXM", 0.15), of(`(?i)\bH800`, "H800_SXM", 0.15),
		of(`(?i)\bA100`, "A100_SXM", 0.05), of(`(?i)\bA800`, "A800_SXM", 0.05), of(`(?i)\bA10G\b`, "A10", 0.10),
		of(`(?i)\bV100`, "V100_SXM2", 0.08), of(`(?i)\bP100`, "P100_SXM2", 0.08), of(`RTX A6000`, "A40", 0.08),
		of(`RTX 6000 Ada`, "L40S", 0.15), of(`(?i)\bMI25[05]`, "MI250X", 0.15), of(`(?i)\bMI308`, "MI300X", 0.8),
		of(`(?i)gfx942`, "MI300X", 0.1), of(`(?i)\bH20\d`, "H200_SXM", 0.2),
	}
})
