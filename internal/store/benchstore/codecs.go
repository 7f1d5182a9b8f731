package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// candidates are tried on every column whose type they fit.
var candidates = []string{
	"ZSTD(1)", "ZSTD(3)", "ZSTD(6)", "T64, ZSTD(1)", "T64, ZSTD(3)", "T64('bit'), ZSTD(1)", "Delta, ZSTD(1)", "Delta, ZSTD(3)", "Delta, T64, ZSTD(1)", "Delta, T64, ZSTD(3)",
	"DoubleDelta, ZSTD(1)", "DoubleDelta, ZSTD(3)", "GCD, T64, ZSTD(1)", "GCD, T64, ZSTD(3)", "GCD, Delta, T64, ZSTD(1)", "GCD, ZSTD(3)", "LZ4",
}

func runCodecs(ctx context.Context, args []string) (err error) {
	var c common
	fs := flag.NewFlagSet("codecs", flag.ContinueOnError)
	c.register(fs)
	every := fs.Int("every", 1, "keep one reading in so many")
	from := fs.String("table", "gpu_samples", "table to try codecs on")
	if err = fs.Parse(args); err != nil {
		return err //nolint:wrapcheck // it was printed
	}
	b, err := open(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if c.sessions != "" {
		all, err := sessions(c.sessions, *every)
		if err != nil {
			return err
		}
		if err := b.load(ctx, all); err != nil {
			return err
		}
	}
	return b.tryCodecs(ctx, *from)
}

// load stores sessions as they were recorded, each GPU of each session a GPU of its own.
func (b *bench) load(ctx context.Context, all []series) error {
	f := newFleet(all, fleetConfig{gpus: len(all), asRecorded: true})
	return f.insert(ctx, b.store, 0)
}

type column struct {
	name, typ, codec string
	present          uint64
}

// tryCodecs rewrites a table under each candidate and prints what each column then takes.
func (b *bench) tryCodecs(ctx context.Context, table string) error {
	columns, err := b.columns(ctx, table)
	if err != nil {
		return err
	}
	var key string
	if err := b.conn.QueryRow(ctx, "SELECT sorting_key FROM system.tables WHERE database = ? AND name = ?", database, table).Scan(&key); err != nil {
		return fmt.Errorf("read key of %s: %w", table, err)
	}
	took := map[string]map[string]uint64{} // column -> codec -> bytes
	note := func(codec string, bytes map[string]uint64) {
		for name, n := range bytes {
			if took[name] == nil {
				took[name] = map[string]uint64{}
			}
			took[name][codec] = n
		}
	}
	try := func(label string, codec func(column) string) error {
		bytes, err := b.rewrite(ctx, table, key, columns, codec)
		if err != nil {
			return err
		}
		note(label, bytes)
		return nil
	}
	if err := try("as it is", func(c column) string { return c.codec }); err != nil {
		return err
	}
	for _, cand := range candidates {
		if err := try(cand, func(c column) string {
			if fits(c.typ, cand) {
				return cand
			}
			return c.codec
		}); err != nil {
			return err
		}
	}
	var rows uint64
	if err := b.conn.QueryRow(ctx, "SELECT count() FROM "+database+"."+table).Scan(&rows); err != nil {
		return fmt.Errorf("count: %w", err)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(w, "%s: %d rows; bytes a row under each codec, - where it does not fit\n", table, rows)
	for _, c := range columns {
		type cost struct {
			codec string
			bytes uint64
		}
		var costs []cost
		for codec, n := range took[c.name] {
			if codec == "as it is" || fits(c.typ, codec) {
				costs = append(costs, cost{codec, n})
			}
		}
		slices.SortFunc(costs, func(a, b cost) int { return cmp.Or(cmp.Compare(a.bytes, b.bytes), strings.Compare(a.codec, b.codec)) })
		_, _ = fmt.Fprintf(w, "%s\t%s\tpresent %d\tas it is (%s) %.4f", c.name, c.typ, c.present, c.codec, float64(took[c.name]["as it is"])/float64(rows))
		for _, k := range costs[:min(6, len(costs))] {
			_, _ = fmt.Fprintf(w, "\t%s %.4f", k.codec, float64(k.bytes)/float64(rows))
		}
		_, _ = fmt.Fprintln(w)
	}
	return w.Flush() //nolint:wrapcheck // standard output
}

func fits(typ, codec string) bool {
	if strings.Contains(typ, "LowCardinality") || strings.Contains(typ, "String") || strings.Contains(typ, "Array") {
		return strings.HasPrefix(codec, "ZSTD") || codec == "LZ4"
	}
	if strings.Contains(typ, "Float") {
		return !strings.Contains(codec, "T64") && !strings.Contains(codec, "GCD")
	}
	if strings.Contains(typ, "Bool") {
		return strings.HasPrefix(codec, "ZSTD") || codec == "LZ4"
	}
	return true
}

func (b *bench) columns(ctx context.Context, table string) ([]column, error) {
	rows, err := b.conn.Query(ctx, "SELECT name, type, compression_codec FROM system.columns WHERE database = ? AND table = ? ORDER BY position", database, table)
	if err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []column
	for rows.Next() {
		var c column
		if err := rows.Scan(&c.name, &c.typ, &c.codec); err != nil {
			return nil, fmt.Errorf("read columns: %w", err)
		}
		c.codec = strings.TrimSuffix(strings.TrimPrefix(c.codec, "CODEC("), ")")
		out = append(out, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	for i := range out {
		if err := b.conn.QueryRow(ctx, "SELECT count(`"+out[i].name+"`) FROM "+database+"."+table).Scan(&out[i].present); err != nil {
			return nil, fmt.Errorf("count values: %w", err)
		}
	}
	return out, nil
}

func (b *bench) rewrite(ctx context.Context, table, key string, columns []column, codec func(column) string) (map[string]uint64, error) {
	var defs, names []string
	for _, c := range columns {
		defs, names = append(defs, "`"+c.name+"` "+c.typ+" CODEC("+codec(c)+")"), append(names, "`"+c.name+"`")
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"allow_suspicious_codecs": 1}))
	for _, sql := range []string{
		"DROP TABLE IF EXISTS " + database + ".candidate SYNC",
		"CREATE TABLE " + database + ".candidate (" + strings.Join(defs, ", ") + ") ENGINE = MergeTree ORDER BY (" + key + ") SETTINGS allow_suspicious_indices = 1, min_bytes_for_wide_part = 0",
		"INSERT INTO " + database + ".candidate SELECT " + strings.Join(names, ", ") + " FROM " + database + "." + table + " SETTINGS max_insert_threads = 1, max_partitions_per_insert_block = 0",
		"OPTIMIZE TABLE " + database + ".candidate FINAL",
	} {
		if err := b.exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	return b.sizes(ctx, "candidate")
}

// sizes are the bytes of each column in active parts.
func (b *bench) sizes(ctx context.Context, table string) (map[string]uint64, error) {
	rows, err := b.conn.Query(ctx, "SELECT column, sum(column_data_compressed_bytes) FROM system.parts_columns WHERE active AND database = ? AND table = ? GROUP BY column", database, table)
	if err != nil {
		return nil, fmt.Errorf("read sizes: %w", err)
	}
	defer func() { _ = rows.Close() }()
	out := map[string]uint64{}
	for rows.Next() {
		var name string
		var n uint64
		if err := rows.Scan(&name, &n); err != nil {
			return nil, fmt.Errorf("read sizes: %w", err)
		}
		out[name] = n
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read sizes: %w", err)
	}
	return out, nil
}
