package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

var migrationName = regexp.MustCompile(`^(\d{4})_[a-z_]+\.sql$`)

// migration is one numbered file. Once shipped it never changes: the next number does.
type migration struct {
	number int
	name   string
	digest string
	text   string
}

func migrations() ([]migration, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	slices.Sort(names)
	var all []migration
	for i, path := range names {
		name := strings.TrimPrefix(path, "migrations/")
		m := migrationName.FindStringSubmatch(name)
		if m == nil {
			return nil, fmt.Errorf("migration %s: name is not NNNN_noun.sql", name)
		}
		number, err := strconv.Atoi(m[1])
		if err != nil || number != i+1 {
			return nil, fmt.Errorf("migration %s: number is not %d", name, i+1)
		}
		text, err := migrationFiles.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read migration %s: %w", name, err)
		}
		sum := sha256.Sum256(text)
		all = append(all, migration{number, name, hex.EncodeToString(sum[:]), string(text)})
	}
	return all, nil
}

// statements renders a migration for a configuration, one statement an entry.
func (c Config) statements(m migration) ([]string, error) {
	settings := "fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1, "
	if c.Replicated {
		settings += "replicated_deduplication_window = 10000"
	} else {
		settings += "non_replicated_deduplication_window = 10000"
	}
	t, err := template.New(m.name).Funcs(template.FuncMap{
		"replacing": c.engine,
		"settings":  func() string { return settings },
	}).Parse(m.text)
	if err != nil {
		return nil, fmt.Errorf("parse migration %s: %w", m.name, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, nil); err != nil {
		return nil, fmt.Errorf("render migration %s: %w", m.name, err)
	}
	var out []string
	for part := range strings.SplitSeq(b.String(), ";\n") {
		var lines []string
		for line := range strings.Lines(part) {
			if !strings.HasPrefix(line, "--") {
				lines = append(lines, line)
			}
		}
		sql := strings.TrimSpace(strings.Join(lines, ""))
		switch {
		case sql == "":
		case c.Cluster == "":
			out = append(out, sql)
		default:
			several, err := c.overCluster(sql)
			if err != nil {
				return nil, fmt.Errorf("migration %s: %w", m.name, err)
			}
			out = append(out, several...)
		}
	}
	return out, nil
}

// Migrate brings the database to the newest migration. Every statement can be repeated,
// so a migration cut short by a crash is simply run again. A migration that was applied
// with another text, or that this program does not know, is an error, and nothing is done.
func (s *Store) Migrate(ctx context.Context) error {
	all, err := migrations()
	if err != nil {
		return err
	}
	if err = s.migrate(ctx, all, nil); err != nil {
		return err
	}
	return s.commentViews(ctx)
}

// migrate applies what the database lacks of all. done, where there is one, hears of each
// statement after it has run, by migration and number from 1 on; its error ends the work there.
func (s *Store) migrate(ctx context.Context, all []migration, done func(m migration, statement int) error) error {
	databases := []string{s.cfg.Database}
	if s.cfg.Cluster != "" {
		databases = append(databases, s.cfg.localDatabase())
	}
	for _, db := range databases {
		if err := s.exec(ctx, "CREATE DATABASE IF NOT EXISTS `"+db+"`"+s.cfg.onCluster()); err != nil {
			return fmt.Errorf("create database %s: %w", db, err)
		}
	}
	// Of a cluster without replication the server that migrates keeps the ledger.
	engine := strings.TrimSuffix(s.cfg.placed(s.cfg.engine(""), ""), "()")
	if s.cfg.Cluster != "" && !s.cfg.Replicated {
		engine = "ReplacingMergeTree"
	}
	err := s.exec(ctx, "CREATE TABLE IF NOT EXISTS "+s.table(tableMigrations)+s.cfg.onCluster()+
		" (`number` UInt32 COMMENT 'number of the migration', `name` String COMMENT 'its file', `digest` String COMMENT 'SHA-256 of its text', `applied_at` DateTime64(3) DEFAULT now64(3) COMMENT 'wall time')"+
		" ENGINE = "+engine+" ORDER BY number SETTINGS fsync_after_insert = 1, fsync_part_directory = 1 COMMENT 'Migrations that were applied.'")
	if err != nil {
		return fmt.Errorf("create ledger of migrations: %w", err)
	}
	applied, err := s.applied(ctx)
	if err != nil {
		return err
	}
	for number := range applied {
		if int(number) > len(all) {
			return fmt.Errorf("migrate %s: it is at migration %d, this program knows %d", s.cfg.Database, slices.Max(slices.Collect(maps.Keys(applied))), len(all))
		}
	}
	for _, m := range all {
		if digest, ok := applied[uint32(m.number)]; ok && digest != m.digest {
			return fmt.Errorf("migrate %s: %s was applied with another text", s.cfg.Database, m.name)
		}
	}
	for _, m := range all {
		if _, ok := applied[uint32(m.number)]; ok {
			continue
		}
		statements, err := s.cfg.statements(m)
		if err != nil {
			return err
		}
		for i, sql := range statements {
			err = s.exec(ctx, s.qualify(sql))
			if err == nil && done != nil {
				err = done(m, i+1)
			}
			if err != nil {
				return fmt.Errorf("migrate %s: %s statement %d: %w", s.cfg.Database, m.name, i+1, err)
			}
		}
		err = s.exec(ctx, "INSERT INTO "+s.table(tableMigrations)+" (number, name, digest) VALUES (?, ?, ?)", uint32(m.number), m.name, m.digest)
		if err != nil {
			return fmt.Errorf("record migration %s: %w", m.name, err)
		}
	}
	return nil
}

// target finds the names of tables in migrations: after CREATE TABLE, VIEW, FROM and JOIN,
// and only where they stand alone.
var target = regexp.MustCompile(`(?m)(CREATE TABLE IF NOT EXISTS|CREATE OR REPLACE VIEW|ALTER TABLE|FROM|JOIN) ([a-z_][a-z0-9_]*)`)

// qualify puts the database before the names of tables, as one connection pool serves
// statements before and after the database exists.
func (s *Store) qualify(sql string) string {
	return target.ReplaceAllStringFunc(sql, func(m string) string {
		i := strings.LastIndexByte(m, ' ')
		return m[:i+1] + s.table(m[i+1:])
	})
}

func (s *Store) applied(ctx context.Context) (map[uint32]string, error) {
	rows, err := s.conn.Query(ctx, "SELECT number, digest FROM "+s.table(tableMigrations)+" FINAL")
	if err != nil {
		return nil, fmt.Errorf("read ledger of migrations: %w", err)
	}
	defer func() { _ = rows.Close() }()
	out := map[uint32]string{}
	for rows.Next() {
		var number uint32
		var digest string
		if err := rows.Scan(&number, &digest); err != nil {
			return nil, fmt.Errorf("read ledger of migrations: %w", err)
		}
		out[number] = digest
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read ledger of migrations: %w", err)
	}
	return out, nil
}
