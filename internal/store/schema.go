package store

import (
	"context"
	"fmt"
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
