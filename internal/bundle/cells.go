package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	maxGPU   = 1023      // highest GPU index
	maxCount = 1<<31 - 1 // highest count, rank or process id
	maxText  = 4096      // bytes of a name
	// maxFrac leaves room for sampling noise above 1, and still notices percents.
	maxFrac = 1.1
	// futureMs is how far behind the end of the recording a sample may lie. One absurd
	// time would otherwise make every later row of its file arrive after the end.
	futureMs = 24 * 3_600_000
	// maxNumber bounds what is measured, so that it fits 63 bits.
	maxNumber = 9e18
	// maxNames bounds the table of names that are shared between rows.
	maxNames = 1 << 16
)

// cells is one row under its columns. Methods read a cell and keep the first problem.
type cells struct {
	columns []string
	at      []int // field of each column; -1: the file lacks it
	fields  [][]byte
	line    int
	most    []float64 // largest number of each column
	endMs   int64     // of the recording
	bad     *Issue
	names   map[string]string
}

func (c *cells) raw(col int) []byte {
	if c.at[col] < 0 {
		return nil
	}
	return c.fields[c.at[col]]
}

func (c *cells) fail(col int, problem, wanted string) {
	if c.bad == nil {
		if c.at[col] < 0 {
			problem = "the header lacks this column"
		}
		c.bad = &Issue{Line: c.line, Column: c.columns[col], Value: string(c.raw(col)), Problem: problem, Wanted: wanted}
	}
}

// text gives a name; empty: not stated.
func (c *cells) text(col int) string {
	b := c.raw(col)
	if len(b) == 0 {
		return ""
	}
	if s, ok := c.names[string(b)]; ok {
		return s
	}
	switch {
	case len(b) > maxText:
		c.fail(col, "too long", fmt.Sprintf("at most %d bytes", maxText))
		return ""
	case !utf8.Valid(b):
		c.fail(col, "not UTF-8", "UTF-8")
		return ""
	case bytes.IndexByte(b, 0) >= 0:
		c.fail(col, "holds a zero byte", "text")
		return ""
	}
	s := string(b)
	if len(c.names) < maxNames {
		c.names[s] = s
	}
	return s
}

// key gives a name that must be there.
func (c *cells) key(col int) string {
	s := c.text(col)
	if s == "" {
		c.fail(col, "empty", "a value: the row cannot be placed without it")
	}
	return s
}

// most are bounds below maxNumber, of columns that the product keeps scaled by a thousand
// or in fewer bits.
var most = map[string]float64{"power_w": 4e6, "tdp_w": 4e6, "energy_j_total": 9e15, "fabric_gbps": 9e15, "sm_clock_mhz": 65_535}

// number gives a number from 0 to what its column can hold; empty: NaN.
func (c *cells) number(col int) float64 {
	b := c.raw(col)
	if len(b) == 0 {
		return math.NaN()
	}
	v, ok := parseFloat(b)
	switch {
	case !ok:
		c.fail(col, "not a number", "a decimal number, or an empty cell where nothing was measured")
	case v < 0:
		c.fail(col, "negative", "0 or more")
	case v > c.most[col]:
		c.fail(col, "too large", fmt.Sprintf("at most %g", c.most[col]))
	default:
		return v
	}
	return math.NaN()
}

// bounds are the largest numbers of columns.
func bounds(columns []string) []float64 {
	out := make([]float64, len(columns))
	for i, name := range columns {
		out[i] = maxNumber
		if m, ok := most[name]; ok {
			out[i] = m
		}
	}
	return out
}

// frac gives a fraction; empty: NaN.
func (c *cells) frac(col int) float64 {
	v := c.number(col)
	if v > maxFrac {
		c.fail(col, "not a fraction", "0 to 1")
		return math.NaN()
	}
	return v
}

func parseFloat(b []byte) (float64, bool) {
	for _, ch := range b { // ParseFloat also takes NaN, Inf, hex and underscores
		if (ch < '0' || ch > '9') && ch != '.' && ch != '-' && ch != '+' && ch != 'e' && ch != 'E' {
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(string(b), 64)
	return v, err == nil || errors.Is(err, strconv.ErrRange) // an infinite one is too large
}

// parseInt reads an integer, also as 17.0 or 1.7e1, which tools write whose integer
// columns had a gap.
func parseInt(b []byte) (int64, bool) {
	v, err := strconv.ParseInt(string(b), 10, 64)
	if err == nil {
		return v, true
	}
	f, ok := parseFloat(b)
	if !ok || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// count gives an integer from 0 to most; empty: Absent.
func (c *cells) count(col int, most int64) int {
	b := c.raw(col)
	if len(b) == 0 {
		return Absent
	}
	v, ok := parseInt(b)
	switch {
	case !ok:
		c.fail(col, "not an integer", "an integer, or an empty cell")
	case v < 0:
		c.fail(col, "negative", "0 or more")
	case v > most:
		c.fail(col, "too large", fmt.Sprintf("at most %d", most))
	default:
		return int(v)
	}
	return Absent
}

// keyCount gives an integer that must be there.
func (c *cells) keyCount(col int, most int64) int {
	v := c.count(col, most)
	if v == Absent {
		c.fail(col, "empty", "a value: the row cannot be placed without it")
	}
	return v
}

// time gives Unix milliseconds; empty: 0.
func (c *cells) time(col int) int64 {
	b := c.raw(col)
	if len(b) == 0 {
		return 0
	}
	v, ok := parseInt(b)
	switch {
	case !ok:
		c.fail(col, "not an integer", "Unix time in milliseconds")
	case !plausible(v):
		c.fail(col, "no plausible time", "Unix time in milliseconds, years 2000 to 2199")
	default:
		return v
	}
	return 0
}

// keyTime gives a time that must be there.
func (c *cells) keyTime(col int) int64 {
	v := c.time(col)
	if v == 0 {
		c.fail(col, "empty", "Unix time in milliseconds")
	}
	return v
}

// sampleTime gives the time of a sample, which is the first column of every file of samples.
func (c *cells) sampleTime() int64 {
	const col = 0
	v := c.keyTime(col)
	if v > c.endMs+futureMs {
		c.fail(col, "more than a day after the recording's end", fmt.Sprintf("a time up to end_ms, %d", c.endMs))
	}
	return v
}

// interval checks that an interval with a start and an end does not end before it starts.
func (c *cells) interval(endCol int, startMs, endMs int64) {
	if startMs != 0 && endMs != 0 && endMs < startMs {
		c.fail(endCol, "the interval ends before it starts", fmt.Sprintf("at least its start, %d, or an empty cell", startMs))
	}
}

// list gives GPU indices separated by blanks, sorted, each once; empty: nil.
func (c *cells) list(col int) []int {
	var out []int
	for b := range bytes.FieldsSeq(c.raw(col)) {
		v, ok := parseInt(b)
		if !ok || v < 0 || v > maxGPU {
			c.fail(col, "not a list of GPU indices", fmt.Sprintf("integers from 0 to %d separated by blanks", maxGPU))
			return nil
		}
		out = append(out, int(v))
	}
	slices.Sort(out)
	return slices.Compact(out)
}
