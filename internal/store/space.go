package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// ErrNoSpace says that the store refuses to write as its disk is full, or would be fuller than it may get. Nothing of the insert
// is stored; it can be repeated when there is room.
var ErrNoSpace = errors.New("the store's disk is full")

// Is makes errors.Is find ErrNoSpace in what the server answers: it refuses (243), or stumbled over the disk.
func (e *Error) Is(target error) bool {
	const notEnoughSpace = 243
	return target == ErrNoSpace && (e.Code == notEnoughSpace || strings.Contains(e.Message, "No space left on device"))
}

// exec runs a statement that changes the schema. Where the disk is full its error is ErrNoSpace.
func (s *Store) exec(ctx context.Context, sql string, args ...any) error {
	err := s.conn.Exec(ctx, sql, args...)
	if err == nil {
		return nil
	}
	if text := err.Error(); strings.Contains(text, "NOT_ENOUGH_SPACE") || strings.Contains(text, "No space left on device") { // over HTTP the code comes as text alone
		return fmt.Errorf("%w; make room and do it again, it goes on from here: %w", ErrNoSpace, err)
	}
	return err //nolint:wrapcheck // the caller knows what it was for
}

// Disk is a disk of the server.
type Disk struct {
	Name                            string
	FreeBytes, TotalBytes, KeepFree uint64 // below KeepFree nothing is inserted
}

// Usable is what can still be written.
func (d Disk) Usable() uint64 { return d.FreeBytes - min(d.KeepFree, d.FreeBytes) }

// Space is how full the store is.
type Space struct {
	Disks []Disk // that hold tables
	// StoredBytes is what all tables take, DayBytes what arrived on the last whole day (0: there is none yet).
	StoredBytes, DayBytes uint64
}

// Lasts says for how long there is room if every day brings what the last one did and nothing goes; false: it cannot be told.
func (s Space) Lasts() (time.Duration, bool) {
	if s.DayBytes == 0 || len(s.Disks) == 0 {
		return 0, false
	}
	usable := uint64(0)
	for _, d := range s.Disks {
		usable += d.Usable()
	}
	const century = 36_500
	return time.Duration(min(float64(usable)/float64(s.DayBytes), century) * float64(24*time.Hour)), true
}

// Space asks how full the store is; on a cluster, the server that answers.
func (s *Store) Space(ctx context.Context) (Space, error) {
	var out Space
	rows, err := s.conn.Query(ctx, "SELECT name, free_space, total_space, keep_free_space FROM system.disks ORDER BY name")
	if err != nil {
		return out, fmt.Errorf("read disks of the store: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var d Disk
		if err = rows.Scan(&d.Name, &d.FreeBytes, &d.TotalBytes, &d.KeepFree); err != nil {
			return out, fmt.Errorf("read disks of the store: %w", err)
		}
		out.Disks = append(out.Disks, d)
	}
	if err = rows.Err(); err != nil {
		return out, fmt.Errorf("read disks of the store: %w", err)
	}
	parts, err := s.conn.Query(ctx, "SELECT table, partition, sum(bytes_on_disk) FROM system.parts WHERE active AND database IN (?, ?) GROUP BY table, partition", s.cfg.Database, s.cfg.localDatabase())
	if err != nil {
		return out, fmt.Errorf("read sizes of the store: %w", err)
	}
	defer func() { _ = parts.Close() }()
	days := map[string]uint64{} // by the day on which its rows go
	for parts.Next() {
		var table, partition string
		var bytes uint64
		if err := parts.Scan(&table, &partition, &bytes); err != nil {
			return out, fmt.Errorf("read sizes of the store: %w", err)
		}
		out.StoredBytes += bytes
		if table == TableGPUSamples || table == TableHostSamples || table == TableFabricSamples || table == TableGPUHealth { // they are the bulk
			days[partition] += bytes
		}
	}
	if err := parts.Err(); err != nil {
		return out, fmt.Errorf("read sizes of the store: %w", err)
	}
	if sorted := slices.Sorted(maps.Keys(days)); len(sorted) > 1 { // the latest day is not over
		out.DayBytes = days[sorted[len(sorted)-2]]
	}
	return out, nil
}
