package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// Block is rows of one table in columns, ready to insert.
type Block interface {
	Rows() int
	input() proto.Input
	scratch() *proto.Buffer
}

// RawMeta is what all rows of a batch share.
type RawMeta struct {
	Cluster, Node string // Node is not used by tables of the provider's facts
	Spool         string // hex
	Sequence      uint64
	Sources       string // "source:column,column;..."
	AvailableMs   int64
}

// RawBlock is rows of one raw table, filled column by column and batch by batch:
//
//	b.Begin(meta, rows)
//	outside := b.Ints(b.Column("ts_ms"), values, nil)
//	b.End()
//
// It belongs to one goroutine. In steady state, Reset between inserts, it allocates
// nothing.
type RawBlock struct {
	name    string
	columns []rawColumn
	filled  []bool
	byName  map[string]int
	in      proto.Input
	buf     proto.Buffer
	meta    rawMetaColumns
	rows    int // rows of batches that ended
	open    int // rows of the batch that is being filled
}

type rawMetaColumns struct {
	cluster, node, spool, sources *lcColumn // node is nil where the table has none
	sequence                      *intColumn[uint64]
	available                     *intColumn[int64]
}

// NewRawBlock returns an empty block for one of the raw tables.
func NewRawBlock(table string) (*RawBlock, error) {
	t, ok := rawTables[table]
	if !ok {
		return nil, fmt.Errorf("make block: no raw table %q", table)
	}
	lc := func() *lcColumn { return tLC.make().(*lcColumn) } // made of that type two lines above in columnType.make
	b := &RawBlock{name: table, byName: make(map[string]int, len(t.fields))}
	b.meta = rawMetaColumns{
		cluster: lc(), spool: lc(), sources: lc(),
		sequence:  tU64.make().(*intColumn[uint64]), // as above
		available: tI64.make().(*intColumn[int64]),  // as above
	}
	add := func(name string, c rawColumn) { b.in = append(b.in, proto.InputColumn{Name: name, Data: c}) }
	add("cluster", b.meta.cluster)
	if t.perNode {
		b.meta.node = lc()
		add("node", b.meta.node)
	}
	add("spool", b.meta.spool)
	add("sequence", b.meta.sequence)
	add("sources", b.meta.sources)
	add("available_ms", b.meta.available)
	for i, f := range t.fields {
		c := f.typ.make()
		if p, ok := precisions[f.name]; ok && table == TableGPUSamples {
			c.keep(p)
		}
		b.columns = append(b.columns, c)
		b.byName[f.name] = i
		add(f.name, c)
	}
	b.filled = make([]bool, len(b.columns))
	return b, nil
}

// Table is the table that the block is for.
func (b *RawBlock) Table() string { return b.name }

// Column returns the number of a column, or -1 if the table has none of that name.
func (b *RawBlock) Column(name string) int {
	if i, ok := b.byName[name]; ok {
		return i
	}
	return -1
}

// Bound narrows what an integer column holds: values beyond become absent, as those do that its
// type cannot hold. It has no effect on columns that are always present.
func (b *RawBlock) Bound(column int, lo, hi int64) { b.columns[column].bound(lo, hi) }

// Rows counts the rows of all batches that ended.
func (b *RawBlock) Rows() int { return b.rows }

// Begin opens a batch of rows rows.
func (b *RawBlock) Begin(m RawMeta, rows int) {
	b.open = rows
	b.meta.cluster.constant(m.Cluster, rows)
	if b.meta.node != nil {
		b.meta.node.constant(m.Node, rows)
	}
	b.meta.spool.constant(m.Spool, rows)
	b.meta.sources.constant(m.Sources, rows)
	b.meta.sequence.grow(rows)
	b.meta.available.grow(rows)
	for range rows {
		b.meta.sequence.vals = append(b.meta.sequence.vals, m.Sequence)
		b.meta.available.vals = append(b.meta.available.vals, m.AvailableMs)
	}
	clear(b.filled)
}

// Ints fills an integer column of the open batch: one value a row, those whose bit in
// present is 0 are absent (nil: all are there). Values that the column cannot hold become
// absent; it returns their number. It keeps neither slice.
func (b *RawBlock) Ints(column int, values []int64, present []uint64) (outside int) {
	b.filled[column] = true
	return b.columns[column].ints(values[:b.open], present)
}

// Strings fills a string column of the open batch: row r is dict[ref[r]]. It keeps the
// strings until Reset.
func (b *RawBlock) Strings(column int, dict []string, ref []uint32, present []uint64) {
	b.filled[column] = true
	b.columns[column].strings(dict, ref[:b.open], present)
}

// End closes the batch; columns that were not filled are absent.
func (b *RawBlock) End() {
	for i, f := range b.filled {
		if !f {
			b.columns[i].absent(b.open)
		}
	}
	b.rows += b.open
	b.open = 0
}

// Reset empties the block and keeps its memory.
func (b *RawBlock) Reset() {
	for _, c := range b.in {
		if c, ok := c.Data.(rawColumn); ok {
			c.reset()
		}
	}
	b.rows, b.open = 0, 0
}

func (b *RawBlock) input() proto.Input     { return b.in }
func (b *RawBlock) scratch() *proto.Buffer { return &b.buf }

// Insert stores a block in one statement, which is wholly stored or not at all when an
// error comes back, or, where the answer got lost, is not known: repeat it with the same
// token and the same rows. token is the dedup token, empty: none.
func (s *Store) Insert(ctx context.Context, table, token string, b Block) error {
	if !isTable(table) {
		return fmt.Errorf("insert: no table %q", table)
	}
	if b.Rows() == 0 {
		return nil
	}
	in := b.input()
	var sql strings.Builder
	sql.WriteString("INSERT INTO " + s.into(table) + " (")
	for i, c := range in {
		if i > 0 {
			sql.WriteString(", ")
		}
		sql.WriteString("`" + c.Name + "`")
	}
	sql.WriteString(")")
	if err := s.inserts.insert(ctx, sql.String(), s.insertSettings(token), in, b.scratch()); err != nil {
		return fmt.Errorf("insert %d rows into %s: %w", b.Rows(), table, err)
	}
	return nil
}

func (s *Store) insertSettings(token string) map[string]string {
	set := map[string]string{
		"async_insert": "0",
		// Cells and verdicts of a long replay touch many months; raw tables are partitioned
		// by arrival and touch one.
		"max_partitions_per_insert_block": "0",
	}
	if token != "" {
		set["insert_deduplication_token"] = token
	}
	if s.cfg.Replicated {
		set["insert_quorum"] = strconv.Itoa(s.cfg.Quorum)
	}
	return set
}
