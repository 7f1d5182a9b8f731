package store

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
)

// Retention is how many days rows stay, counted from their arrival in the store. 0: as it is, in a new database as the
// migrations have it.
type Retention struct {
	// RawDays is for samples; at first 30. Cells and evidence outlive them.
	RawDays int `toml:"raw_days"`
	// AnnouncementDays is for processes, holds, checkpoints and facts; at first 400.
	AnnouncementDays int `toml:"announcement_days"`
	// MinuteDays is for minute cells, from which a run can be judged again; at first 800.
	MinuteDays int `toml:"minute_days"`
	// HourDays is for roll-ups by the hour; at first 2,600.
	HourDays int `toml:"hour_days"`
}

// maxDays keeps expiry within what a DateTime holds.
const maxDays = 20_000

// Days of the migrations.
const (
	rawDays, announcementDays = 30, 400
	minuteDays, hourDays      = 800, 2600
)

// Validate reports the first setting that cannot be used.
func (r Retention) Validate() error {
	for _, d := range []struct {
		name string
		days int
	}{{"raw_days", r.RawDays}, {"announcement_days", r.AnnouncementDays}, {"minute_days", r.MinuteDays}, {"hour_days", r.HourDays}} {
		if d.days < 0 || d.days > maxDays {
			return fmt.Errorf("retention.%s %d: from 1 to %d days, or 0: as it is", d.name, d.days, maxDays)
		}
	}
	if r.MinuteDays > 0 && r.MinuteDays < r.RawDays {
		return fmt.Errorf("retention.minute_days %d: cells outlive raw_days %d, they are what is left of raw rows", r.MinuteDays, r.RawDays)
	}
	return nil
}

var intervalDays = regexp.MustCompile(`toIntervalDay\((\d+)\)`)

// Retain sets how long rows stay, where that is not so already. Of raw rows it is for those that arrive from now on; cells that
// are there go by the new rule. It returns the tables that it changed.
func (s *Store) Retain(ctx context.Context, r Retention) ([]string, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if r == (Retention{}) {
		return nil, nil
	}
	now, err := s.Schema(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.cfg.retain(r, now)
	if err != nil {
		return nil, err
	}
	var changed []string
	for _, t := range all {
		for _, sql := range t.statements {
			if err := s.exec(ctx, s.qualify(sql)); err != nil {
				return changed, fmt.Errorf("set retention of %s: %w", t.table, err)
			}
		}
		changed = append(changed, t.table)
	}
	return changed, nil
}

// retained is a table whose retention changes.
type retained struct {
	table      string
	statements []string
}

// retain makes the statements that bring a database to a retention.
func (c Config) retain(r Retention, now Schema) (all []retained, err error) {
	shipped, err := ShippedSchema()
	if err != nil {
		return nil, err
	}
	was := map[string]int{}
	for _, t := range now.Relations {
		was[t.Name] = t.days()
	}
	for _, t := range shipped.Relations {
		var days int
		var sql string
		switch t.days() {
		case rawDays:
			days, sql = r.RawDays, "MODIFY COLUMN expires DEFAULT now() + INTERVAL %d DAY"
		case announcementDays:
			days, sql = r.AnnouncementDays, "MODIFY COLUMN expires DEFAULT now() + INTERVAL %d DAY"
		case minuteDays:
			days, sql = r.MinuteDays, "MODIFY TTL inserted_at + INTERVAL %d DAY DELETE"
		case hourDays:
			days, sql = r.HourDays, "MODIFY TTL inserted_at + INTERVAL %d DAY DELETE"
		default:
			continue
		}
		if days == 0 || was[t.Name] == days || was[t.Name] == 0 { // 0: as it is; not there, or somebody's own rule
			continue
		}
		statements := []string{"ALTER TABLE " + t.Name + " " + fmt.Sprintf(sql, days)}
		if c.Cluster != "" {
			if statements, err = c.overCluster(statements[0]); err != nil {
				return nil, err
			}
		}
		all = append(all, retained{t.Name, statements})
	}
	return all, nil
}

// days is how long rows of a table stay, 0: for ever, or by a rule that is none of ours.
func (r *Relation) days() int {
	text := r.TTL
	for _, c := range r.Columns {
		if c.Name == "expires" {
			text = c.Default
		}
	}
	if m := intervalDays.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1]) // digits; too many: 0, a rule of somebody else
		return n
	}
	return 0
}
