package store

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Schema is the reference of a database: views first, then tables, by name.
type Schema struct {
	Relations []Relation `json:"relations"`
}

// Relation is a table or a view.
type Relation struct {
	Name    string `json:"name"`
	View    bool   `json:"view,omitempty"`
	Comment string `json:"comment"`
	// Reads are the tables that a view reads.
	Reads []string `json:"reads,omitempty"`
	// Engine, Partition, Key and TTL are a table's: of rows with an equal Key one stays.
	Engine    string         `json:"engine,omitempty"`
	Partition string         `json:"partition,omitempty"`
	Key       string         `json:"key,omitempty"`
	TTL       string         `json:"ttl,omitempty"`
	Columns   []SchemaColumn `json:"columns"`
}

// SchemaColumn is a column of a table or view.
type SchemaColumn struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Default string `json:"default,omitempty"`
	Codec   string `json:"codec,omitempty"`
	Comment string `json:"comment"`
}

// shippedSchema is what all migrations make of an empty database; a test holds it to the engine's word.
//
//go:embed schema.json
var shippedSchema []byte

// ShippedSchema is the schema that this program's migrations make.
func ShippedSchema() (Schema, error) {
	var out Schema
	if err := json.Unmarshal(shippedSchema, &out); err != nil {
		return out, fmt.Errorf("read the schema that is built in: %w", err)
	}
	return out, nil
}

var (
	engineName = regexp.MustCompile(`^\w+(\(.*?\))?( PARTITION| ORDER| PRIMARY|$)`)
	engineTTL  = regexp.MustCompile(` TTL (.*?)( SETTINGS |$)`)
)

// Schema reads the schema of the database as it is, as far as its user may see it.
func (s *Store) Schema(ctx context.Context) (Schema, error) {
	var out Schema
	sources, err := s.viewSources(ctx)
	if err != nil {
		return out, err
	}
	columns, err := s.columns(ctx)
	if err != nil {
		return out, err
	}
	tables, err := s.conn.Query(ctx, "SELECT database != ?, name, engine = 'View', engine_full, partition_key, sorting_key, comment FROM system.tables WHERE database IN (?, ?) ORDER BY engine = 'View' DESC, name",
		s.cfg.Database, s.cfg.Database, cmp.Or(s.localName(), s.cfg.Database))
	if err != nil {
		return out, fmt.Errorf("read schema: %w", err)
	}
	defer func() { _ = tables.Close() }()
	behind := map[string]Relation{} // Distributed tables
	for tables.Next() {
		var r Relation
		var local, view uint8
		var engine string
		if err := tables.Scan(&local, &r.Name, &view, &engine, &r.Partition, &r.Key, &r.Comment); err != nil {
			return out, fmt.Errorf("read schema: %w", err)
		}
		if r.View = view != 0; r.View {
			r.Reads = sources[r.Name]
		} else {
			r.Engine = engineName.FindString(engine)
			for _, end := range []string{" PARTITION", " ORDER", " PRIMARY"} {
				r.Engine = strings.TrimSuffix(r.Engine, end)
			}
			if m := engineTTL.FindStringSubmatch(engine); m != nil {
				r.TTL = m[1]
			}
		}
		if local != 0 {
			behind[r.Name] = r
			continue
		}
		for _, c := range columns[r.Name] {
			d := c.expression
			if c.kind != "" {
				d = c.kind + " " + d
			}
			r.Columns = append(r.Columns, SchemaColumn{c.name, c.typ, d, c.codec, c.comment})
		}
		out.Relations = append(out.Relations, r)
	}
	if err := tables.Err(); err != nil {
		return out, fmt.Errorf("read schema: %w", err)
	}
	for i := range out.Relations {
		r := &out.Relations[i]
		if l, is := behind[r.Name]; is { // which has the rows
			r.Partition, r.Key, r.TTL = l.Partition, l.Key, l.TTL
		}
	}
	return out, nil
}

// localName is the database of each shard's rows; "": there is none.
func (s *Store) localName() string {
	if s.cfg.Cluster == "" {
		return ""
	}
	return s.cfg.localDatabase()
}

// JSON is the schema with each column on a line of its own.
func (s Schema) JSON() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	put := func(v any) {
		_ = e.Encode(v)         // strings and bools into memory: cannot fail
		b.Truncate(b.Len() - 1) // the line's end
	}
	b.WriteString("{\"relations\": [")
	for i, r := range s.Relations {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString("\n  ")
		columns := r.Columns
		r.Columns = []SchemaColumn{}
		put(r)
		b.Truncate(b.Len() - len("]}"))
		for k, c := range columns {
			if k > 0 {
				b.WriteString(",")
			}
			b.WriteString("\n    ")
			put(c)
		}
		b.WriteString("]}")
	}
	b.WriteString("]}\n")
	return b.Bytes()
}

// Markdown is the schema for people.
func (s Schema) Markdown() string {
	var b strings.Builder
	b.WriteString("# Tables and views\n\nViews are the stable interface; tables may change with a migration. Made by `flopwatch store schema`: not to be edited.\n\n")
	cell := strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace
	for _, r := range s.Relations {
		kind := "Table"
		if r.View {
			kind = "View"
		}
		fmt.Fprintf(&b, "## %s `%s`\n\n%s\n\n", kind, r.Name, r.Comment)
		if r.View {
			fmt.Fprintf(&b, "- reads: `%s`\n\n| column | type | meaning |\n|---|---|---|\n", strings.Join(r.Reads, "`, `"))
		} else {
			fmt.Fprintf(&b, "- engine: `%s`\n- key: `%s`\n", r.Engine, r.Key)
			if r.Partition != "" {
				fmt.Fprintf(&b, "- partition: `%s`\n", r.Partition)
			}
			if r.TTL != "" {
				fmt.Fprintf(&b, "- TTL: `%s`\n", r.TTL)
			}
			b.WriteString("\n| column | type | default | codec | meaning |\n|---|---|---|---|---|\n")
		}
		for _, c := range r.Columns {
			fmt.Fprintf(&b, "| `%s` | `%s` | ", c.Name, c.Type)
			if !r.View {
				b.WriteString(code(c.Default) + " | " + code(c.Codec) + " | ")
			}
			b.WriteString(cell(c.Comment) + " |\n")
		}
		b.WriteString("\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

type columnInfo struct{ name, typ, kind, expression, codec, comment string }

func (s *Store) columns(ctx context.Context) (map[string][]columnInfo, error) {
	rows, err := s.conn.Query(ctx, "SELECT table, name, type, default_kind, default_expression, compression_codec, comment FROM system.columns WHERE database = ? ORDER BY table, position", s.cfg.Database)
	if err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	defer func() { _ = rows.Close() }()
	out := map[string][]columnInfo{}
	for rows.Next() {
		var table string
		var c columnInfo
		if err := rows.Scan(&table, &c.name, &c.typ, &c.kind, &c.expression, &c.codec, &c.comment); err != nil {
			return nil, fmt.Errorf("read columns: %w", err)
		}
		out[table] = append(out[table], c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	return out, nil
}

// Views are the stable interface for analysts.
var Views = []string{
	"v_runs", "v_findings", "v_gpu_minutes", "v_gpu_hours", "v_fleet_now", "v_account_hours", "v_allocations", "v_gpu_samples", "v_node_coverage", "v_batches", "v_node_keys", "v_node_hours", "v_fleet_hours", "v_chain_hours", "v_losses", "v_quarantine", "v_gpu_devices", "v_instruments",
	"v_gpu_health", "v_gpu_events", "v_gpu_instances", "v_gpu_holds", "v_tcp_samples", "v_checkpoints", "v_rdma_objects", "v_bmc_samples", "v_node_facts",
	"v_run_terms", "v_labels", "v_reviews", "v_runs_by_profile", "v_findings_by_profile",
}

// CountView returns the rows of a view.
func (s *Store) CountView(ctx context.Context, view string) (uint64, error) {
	if !slices.Contains(Views, view) {
		return 0, fmt.Errorf("count rows: no view %q", view)
	}
	// Every column has to be computed: count() alone would skip them.
	rows, err := s.conn.Query(ctx, "SELECT * FROM "+s.table(view))
	if err != nil {
		return 0, fmt.Errorf("count rows of %s: %w", view, err)
	}
	defer func() { _ = rows.Close() }()
	n := uint64(0)
	for rows.Next() {
		n++
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("count rows of %s: %w", view, err)
	}
	return n, nil
}

// DiskBytes is what the active parts of a table take on disk.
func (s *Store) DiskBytes(ctx context.Context, table string) (uint64, error) {
	var n uint64
	err := s.conn.QueryRow(ctx, "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database IN (?, ?) AND table = ?", s.cfg.Database, s.cfg.localDatabase(), table).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", table, err)
	}
	return n, nil
}
