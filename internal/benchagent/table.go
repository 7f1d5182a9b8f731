package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// table aligns columns and keeps the first error until end.
type table struct {
	w   *tabwriter.Writer
	err error
}

func newTable(w io.Writer) *table {
	return &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)}
}

// row prints cells, each ended by a tab.
func (t *table) row(cells ...string) {
	for _, c := range cells {
		t.print(c + "\t")
	}
	t.print("\n")
}

func (t *table) print(s string) {
	if t.err == nil {
		_, t.err = io.WriteString(t.w, s)
	}
}

func (t *table) end() error {
	if t.err == nil {
		t.err = t.w.Flush()
	}
	if t.err != nil {
		return fmt.Errorf("print table: %w", t.err)
	}
	return nil
}
