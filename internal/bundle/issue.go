package bundle

import (
	"fmt"
	"slices"
	"strings"
)

// MaxListed is how many issues of one file are kept in full; all are counted.
const MaxListed = 50

// maxValue is how many bytes of an offending cell an Issue quotes.
const maxValue = 64

// Issue is one row (or the end of a stream) that could not be used.
type Issue struct {
	File    string `json:"file"`
	Line    int    `json:"line"`             // of the file, 1 is the header; 0: the file as a whole
	Column  string `json:"column,omitempty"` // a column's name, a JSON field, or empty
	Value   string `json:"value,omitempty"`  // the cell as written, at most 64 bytes
	Problem string `json:"problem"`
	Wanted  string `json:"wanted,omitempty"`
}

// String gives the issue as "gpu.csv.gz:17: column power_w: not a number: "x" (wanted ...)".
func (i Issue) String() string {
	var b strings.Builder
	b.WriteString(place(i.File, i.Line, i.Column))
	b.WriteString(": ")
	b.WriteString(i.Problem)
	if i.Value != "" {
		fmt.Fprintf(&b, ": %q", i.Value)
	}
	if i.Wanted != "" {
		fmt.Fprintf(&b, " (wanted %s)", i.Wanted)
	}
	return b.String()
}

// Error is what makes a recording, or one file of it, unusable. It unwraps to its cause.
type Error struct {
	File    string
	Line    int    // 0: the file as a whole
	Column  string // a column's name, a JSON field or "byte n"; empty: none
	Problem string
	Cause   error
}

// Error names file, line, column, problem and cause.
func (e *Error) Error() string {
	s := place(e.File, e.Line, e.Column) + ": " + e.Problem
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

func place(file string, line int, column string) string {
	if line > 0 {
		file = fmt.Sprintf("%s:%d", file, line)
	}
	switch {
	case strings.HasPrefix(column, "byte "): // a place in JSON text
		file += ": " + column
	case column != "":
		file += ": column " + column
	}
	return file
}

// FileReport says what became of one file's rows in its latest reading.
type FileReport struct {
	File           string   `json:"file"` // as it lies in the directory: gpu.csv.gz
	Present        bool     `json:"present"`
	Rows           int      `json:"rows"`    // used
	Repeats        int      `json:"repeats"` // identical to an earlier row, dropped
	Late           int      `json:"late"`    // used, although older than a row before
	Bad            int      `json:"bad"`     // issues
	Issues         []Issue  `json:"issues,omitempty"`
	MissingColumns []string `json:"missing_columns,omitempty"`
	UnknownColumns []string `json:"unknown_columns,omitempty"`
}

func (r *FileReport) add(i Issue) {
	r.Bad++
	if len(r.Issues) < MaxListed {
		i.Value = truncate(i.Value)
		r.Issues = append(r.Issues, i)
	}
}

func truncate(s string) string {
	if len(s) > maxValue {
		s = s[:maxValue] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// Report sums up every file that was read.
type Report struct {
	Files       []FileReport `json:"files"`        // in the order of BUNDLE.md
	Unlisted    []string     `json:"unlisted"`     // nodes that telemetry names and nodes.csv lacks, sorted, at most 10,000
	UnknownKeys []string     `json:"unknown_keys"` // keys of the manifest that this version does not know, sorted
}

// Bad is the count of issues over all files.
func (r Report) Bad() int {
	n := 0
	for _, f := range r.Files {
		n += f.Bad
	}
	return n
}

// Report returns what is known so far: a file counts once it has been read (again:
// afresh), nodes.csv is read by Open.
func (b *Bundle) Report() Report {
	var out Report
	for _, f := range fileOrder {
		if r := b.reports[f]; r != nil {
			c := *r
			c.Issues = slices.Clone(r.Issues)
			out.Files = append(out.Files, c)
		}
	}
	for n := range b.unlisted {
		out.Unlisted = append(out.Unlisted, n)
	}
	slices.Sort(out.Unlisted)
	out.UnknownKeys = slices.Clone(b.Manifest.UnknownKeys)
	return out
}
