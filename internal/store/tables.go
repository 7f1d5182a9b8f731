package store

import (
	"context"
	"fmt"
	"strings"
)

// Denied reports whether a server refused a statement for want of rights.
func Denied(err error) bool {
	return err != nil && strings.Contains(err.Error(), "ACCESS_DENIED") // over HTTP the code comes as text alone
}

// HasTables is an error where the database has no tables yet, or this user may not read what a
// collector must: at the start, and not with the first batch.
func (s *Store) HasTables(ctx context.Context) error {
	rows, err := s.conn.Query(ctx, "SELECT sequence FROM "+s.table(TableBatches)+" LIMIT 0")
	if err != nil {
		return fmt.Errorf("look for the tables of database %s: %w", s.cfg.Database, err)
	}
	if err = rows.Close(); err != nil {
		return fmt.Errorf("look for the tables of database %s: %w", s.cfg.Database, err)
	}
	return nil
}
