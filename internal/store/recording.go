package store

import (
	"context"
	"errors"
	"fmt"
)

// ErrNotAlone refuses a replay into a database that holds something else.
var ErrNotAlone = errors.New("the database holds other telemetry")

// ClaimRecording says that a recording is replayed into this database. The error is
// [ErrNotAlone] where live telemetry, or another recording, is there already: parties are
// the operator's, not a cluster's, and those of a recording must not mix with others.
func (s *Store) ClaimRecording(ctx context.Context, cluster, digest string) error {
	claimed, err := s.names(ctx, "SELECT digest FROM "+s.table(TableRecordings)+" FINAL ORDER BY digest")
	if err != nil {
		return fmt.Errorf("read recordings: %w", err)
	}
	for _, d := range claimed {
		if d != digest {
			return fmt.Errorf("database %s, another recording: %w", s.cfg.Database, ErrNotAlone)
		}
	}
	if len(claimed) > 0 {
		return nil
	}
	live, err := s.names(ctx, "SELECT DISTINCT cluster FROM "+s.table(TableBatches)+" ORDER BY cluster LIMIT 1")
	if err != nil {
		return fmt.Errorf("read clusters: %w", err)
	}
	if len(live) > 0 {
		return fmt.Errorf("database %s, cluster %s: %w", s.cfg.Database, live[0], ErrNotAlone)
	}
	var w writer
	w.text("digest").Append(digest)
	w.text("cluster").Append(cluster)
	return s.Insert(ctx, TableRecordings, "", &columnsBlock{in: w.in})
}

// names reads one column of text.
func (s *Store) names(ctx context.Context, sql string) ([]string, error) {
	rows, err := s.conn.Query(ctx, sql)
	if err != nil {
		return nil, err //nolint:wrapcheck // the caller says what was read
	}
	var out []string
	for rows.Next() {
		var name string
		if err = rows.Scan(&name); err != nil {
			break
		}
		out = append(out, name)
	}
	return out, errors.Join(err, rows.Err(), rows.Close())
}
