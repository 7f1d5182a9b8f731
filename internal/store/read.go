package store

import (
	"fmt"
	"math"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// quote makes a string literal. The engine's own parameters are not used, as they would
// have to be encoded by type over each protocol.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// RowQuery selects rows of telemetry.
type RowQuery struct {
	Cluster string
	Nodes   []string // nil: all
	// FromMs and ToMs bound event time, [from, to).
	FromMs, ToMs int64
	// AvailableToMs leaves out what was not yet known then (available_ms greater); 0: no bound.
	AvailableToMs int64
}

// where makes the condition; hours says that the table is ordered by hour of timeColumn.
func (q RowQuery) where(timeColumn string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cluster = %s AND %s >= %d AND %s < %d", quote(q.Cluster), timeColumn, q.FromMs, timeColumn, q.ToMs)
	// The bucket stands first in the order of rows: said again in its own words, so that
	// the primary key is used whatever the optimizer makes of the line above.
	fmt.Fprintf(&b, " AND intDiv(%s, 3600000) BETWEEN intDiv(%d, 3600000) AND intDiv(%d, 3600000)", timeColumn, q.FromMs, q.ToMs)
	q.restrict(&b)
	return b.String()
}

func (q RowQuery) restrict(b *strings.Builder) {
	if q.AvailableToMs != 0 {
		fmt.Fprintf(b, " AND available_ms <= %d", q.AvailableToMs)
	}
	b.WriteString(q.restrictTo("node"))
}

// restrictTo is the condition that a column names one of the nodes.
func (q RowQuery) restrictTo(column string) string {
	if q.Nodes == nil {
		return ""
	}
	if len(q.Nodes) == 0 {
		return " AND 0"
	}
	quoted := make([]string, len(q.Nodes))
	for i, n := range q.Nodes {
		quoted[i] = quote(n)
	}
	return " AND " + column + " IN (" + strings.Join(quoted, ", ") + ")"
}

// textColumn reads LowCardinality(String) or String; equal strings of a block are one.
type textColumn struct {
	lc    proto.ColLowCardinalityRaw
	index proto.ColStr
	plain proto.ColStr
	isLC  bool
	dict  []string
}

func (t *textColumn) Infer(typ proto.ColumnType) error {
	switch typ {
	case "LowCardinality(String)":
		t.isLC = true
		t.lc.Index = &t.index
	case "String":
		t.isLC = false
	default:
		return fmt.Errorf("column of type %s, wanted a string", typ)
	}
	return nil
}

func (t *textColumn) Type() proto.ColumnType {
	if t.isLC {
		return "LowCardinality(String)"
	}
	return "String"
}

func (t *textColumn) Rows() int {
	if t.isLC {
		return t.lc.Rows()
	}
	return t.plain.Rows()
}

func (t *textColumn) Reset() {
	t.plain.Reset()
	if t.isLC {
		t.lc.Reset()
	}
	t.dict = t.dict[:0]
}

func (t *textColumn) DecodeState(r *proto.Reader) error {
	if t.isLC {
		return t.lc.DecodeState(r) // ch-go names the column
	}
	return nil
}

func (t *textColumn) DecodeColumn(r *proto.Reader, rows int) error {
	if !t.isLC {
		return t.plain.DecodeColumn(r, rows) // ch-go names the column
	}
	if err := t.lc.DecodeColumn(r, rows); err != nil {
		return err // ch-go names the column
	}
	for i := range t.index.Rows() {
		t.dict = append(t.dict, t.index.Row(i))
	}
	for i := range rows {
		if t.keyAt(i) >= len(t.dict) {
			return fmt.Errorf("row %d points beyond its dictionary of %d", i, len(t.dict))
		}
	}
	return nil
}

func (t *textColumn) keyAt(i int) int {
	switch t.lc.Key {
	case proto.KeyUInt8:
		return int(t.lc.Keys8[i])
	case proto.KeyUInt16:
		return int(t.lc.Keys16[i])
	case proto.KeyUInt32:
		return int(t.lc.Keys32[i])
	default:
		return int(t.lc.Keys64[i])
	}
}

func (t *textColumn) at(i int) string {
	if t.isLC {
		return t.dict[t.keyAt(i)]
	}
	return t.plain.Row(i)
}

// floatColumn reads a nullable number as a quotient; NULL is NaN.
type floatColumn interface {
	proto.ColResult
	at(i int) float64
}

type nullable[T uint16 | uint32 | uint64 | int64 | float64] struct {
	proto.ColNullable[T]
	div float64
}

func (n *nullable[T]) at(i int) float64 {
	if n.Nulls[i] != 0 {
		return math.NaN()
	}
	return float64(n.Values.Row(i)) / n.div
}

func newFloatColumn(t columnType, div float64) floatColumn {
	switch t {
	case tNU16:
		return &nullable[uint16]{proto.ColNullable[uint16]{Values: new(proto.ColUInt16)}, div}
	case tNU32:
		return &nullable[uint32]{proto.ColNullable[uint32]{Values: new(proto.ColUInt32)}, div}
	case tNU64:
		return &nullable[uint64]{proto.ColNullable[uint64]{Values: new(proto.ColUInt64)}, div}
	default:
		return &nullable[int64]{proto.ColNullable[int64]{Values: new(proto.ColInt64)}, div}
	}
}

func newFloat64Column() *nullable[float64] {
	return &nullable[float64]{proto.ColNullable[float64]{Values: new(proto.ColFloat64)}, 1}
}

// selection collects the columns of a SELECT beside their readers.
type selection struct {
	names []string
	res   proto.Results
}

func (s *selection) add(name, expr string, data proto.ColResult) {
	if expr != name {
		expr += " AS " + name
	} else {
		expr = "`" + name + "`"
	}
	s.names = append(s.names, expr)
	s.res = append(s.res, proto.ResultColumn{Name: name, Data: data})
}

func (s *selection) text(name string) *textColumn {
	c := new(textColumn)
	s.add(name, name, c)
	return c
}

// optionalText reads a nullable string; NULL is the empty string.
func (s *selection) optionalText(name string) *textColumn {
	c := new(textColumn)
	s.add(name+"_", "ifNull(toString("+name+"), '')", c)
	return c
}

func (s *selection) int(name string) *proto.ColInt64 {
	c := new(proto.ColInt64)
	s.add(name, name, c)
	return c
}

// optionalInt reads a nullable integer; NULL becomes absent.
func (s *selection) optionalInt(name string, absent int64) *proto.ColInt64 {
	c := new(proto.ColInt64)
	s.add(name+"_", fmt.Sprintf("ifNull(%s, toInt64(%d))", name, absent), c)
	return c
}

func (s *selection) float(name string, t columnType, div float64) floatColumn {
	c := newFloatColumn(t, div)
	s.add(name, name, c)
	return c
}

func (s *selection) sql() string { return "SELECT " + strings.Join(s.names, ", ") }
