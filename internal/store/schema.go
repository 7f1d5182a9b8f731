package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Schema prints the reference of the database as it is: every table and view with its
// comment, and every column with type and comment.
func (s *Store) Schema(ctx context.Context) (string, error) {
	tables, err := s.conn.Query(ctx, "SELECT name, engine, comment FROM system.tables WHERE database = ? ORDER BY engine = 'View' DESC, name", s.cfg.Database)
	if err != nil {
		return "", fmt.Errorf("read schema: %w", err)
	}
	defer func() { _ = tables.Close() }()
	columns, err := s.columns(ctx)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "database %s\n", s.cfg.Database)
	for tables.Next() {
		var name, engine, comment string
		if err := tables.Scan(&name, &engine, &comment); err != nil {
			return "", fmt.Errorf("read schema: %w", err)
		}
		kind := "table"
		if engine == "View" {
			kind = "view"
		}
		fmt.Fprintf(&b, "\n%s %s\n  %s\n", kind, name, comment)
		for _, c := range columns[name] {
			fmt.Fprintf(&b, "    %-26s %-32s %s\n", c.name, c.typ, c.comment)
		}
	}
	if err := tables.Err(); err != nil {
		return "", fmt.Errorf("read schema: %w", err)
	}
	return b.String(), nil
}

type columnInfo struct{ name, typ, comment string }

func (s *Store) columns(ctx context.Context) (map[string][]columnInfo, error) {
	rows, err := s.conn.Query(ctx, "SELECT table, name, type, comment FROM system.columns WHERE database = ? ORDER BY table, position", s.cfg.Database)
	if err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	defer func() { _ = rows.Close() }()
	out := map[string][]columnInfo{}
	for rows.Next() {
		var table string
		var c columnInfo
		if err := rows.Scan(&table, &c.name, &c.typ, &c.comment); err != nil {
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
	"v_runs", "v_findings", "v_gpu_minutes", "v_gpu_samples", "v_node_coverage", "v_batches", "v_node_keys", "v_node_hours", "v_gpu_devices", "v_instruments",
	"v_gpu_health", "v_gpu_events", "v_gpu_instances", "v_gpu_holds", "v_tcp_samples", "v_checkpoints", "v_rdma_objects", "v_bmc_samples", "v_node_facts",
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
	err := s.conn.QueryRow(ctx, "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = ? AND table = ?", s.cfg.Database, table).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", table, err)
	}
	return n, nil
}
