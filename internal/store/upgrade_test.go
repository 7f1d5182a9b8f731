package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// old is how many rows an upgraded table had before.
const old = 5

// TestUpgradeEveryVersion: a database of each earlier version, with rows in every table, is
// brought up to date. Nothing of what it held changes, today's writers work beside it, and it
// ends up as a fresh one.
func TestUpgradeEveryVersion(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	all, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string) *Store {
		s, err := Open(t.Context(), Config{URL: url, User: user, Password: password, Database: name})
		return closed(t, s, err)
	}
	fresh := open("fresh")
	if err = fresh.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := reference(t, fresh)
	for n := 1; n <= len(all); n++ {
		ends := n == 1 || n == len(all)
		if testing.Short() && !ends {
			continue
		}
		s := open(fmt.Sprintf("from_%d", n))
		if err = s.migrate(t.Context(), all[:n], nil); err != nil {
			t.Fatal(err)
		}
		had, err := s.columns(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tables := fill(t, s)
		before := rows(t, s, tables, had)
		if err = s.Migrate(t.Context()); err != nil {
			t.Fatalf("from %d: %v", n, err)
		}
		same(t, fmt.Sprintf("from %d", n), before, rows(t, s, tables, had))
		defaults(t, s, tables, had)
		if got := reference(t, s); got != want {
			t.Errorf("from %d: the schema differs from a fresh one:\n%s", n, difference(want, got))
		}
		if ends { // in between nothing is new: the schema is the same, and so are old rows
			if err = errors.Join(ingest(t.Context(), s, "new"), judge(t.Context(), s, "new"), correct(t.Context(), s, "new")); err != nil {
				t.Fatalf("from %d: %v", n, err)
			}
		}
		for _, table := range tables {
			if !ends || table == tableMigrations || table == TableRecordings || table == "node_keys" {
				continue
			}
			if raw, distinct, err := s.Count(t.Context(), table); err != nil || raw != distinct || raw < old+2 {
				t.Errorf("from %d: %s has %d rows, %d distinct, %v", n, table, raw, distinct, err)
			}
		}
		for _, view := range Views {
			if rows, err := s.CountView(t.Context(), view); err != nil || ends && rows == 0 {
				t.Errorf("from %d: %s has %d rows, %v", n, view, rows, err)
			}
		}
		// A merge writes old rows anew, with the new columns.
		for _, table := range altered(t, s, tables, had) {
			if err = s.conn.Exec(t.Context(), "OPTIMIZE TABLE "+s.table(table)+" FINAL"); err != nil {
				t.Fatal(err)
			}
		}
		after := rows(t, s, tables, had)
		for table, texts := range before {
			for _, text := range texts {
				if !slices.Contains(after[table], text) {
					t.Errorf("from %d: %s lost a row after the merge: %s", n, table, text)
				}
			}
		}
		if err = s.conn.Exec(t.Context(), "DROP DATABASE `"+s.cfg.Database+"`"); err != nil {
			t.Fatal(err)
		}
	}
}

var errCut = errors.New("cut off")

// TestMigrationCutOff: every migration is cut off behind each of its statements, over data, and
// started anew each time.
func TestMigrationCutOff(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	all, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	open := func(name string) *Store {
		s, err := Open(t.Context(), Config{URL: url, User: user, Password: password, Database: name})
		return closed(t, s, err)
	}
	fresh, s := open("whole"), open("cut")
	if err = fresh.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, had := map[string][]string{}, map[string][]columnInfo{}
	var tables []string
	for n := 1; n <= len(all); n++ {
		statements, err := s.cfg.statements(all[n-1])
		if err != nil {
			t.Fatal(err)
		}
		for cut := 1; cut <= len(statements); cut++ {
			err := s.migrate(t.Context(), all[:n], func(_ migration, statement int) error {
				if statement == cut {
					return errCut
				}
				return nil
			})
			if !errors.Is(err, errCut) {
				t.Fatalf("migration %d cut off behind statement %d: %v", n, cut, err)
			}
			applied, err := s.applied(t.Context())
			if err != nil || len(applied) != n-1 {
				t.Fatalf("%d migrations count as applied, %v, want %d", len(applied), err, n-1)
			}
		}
		if err = s.migrate(t.Context(), all[:n], nil); err != nil {
			t.Fatal(err)
		}
		same(t, all[n-1].name, before, rows(t, s, tables, had))
		if had, err = s.columns(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n%3 == 1 {
			for _, table := range tables {
				if table == tableMigrations {
					continue
				}
				if err = s.conn.Exec(t.Context(), "TRUNCATE TABLE "+s.table(table)); err != nil {
					t.Fatal(err)
				}
			}
		}
		tables = fill(t, s)
		before = rows(t, s, tables, had)
	}
	if err = s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := reference(t, s), reference(t, fresh); got != want {
		t.Errorf("the schema differs from a fresh one:\n%s", difference(want, got))
	}
}

// TestMigrateRefuses: a database that this program cannot have made is left alone.
func TestMigrateRefuses(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := Open(t.Context(), Config{URL: url, User: user, Password: password, Database: "refuses"})
	closed(t, s, err)
	all, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	const at = 3
	if err = s.migrate(t.Context(), all[:at], nil); err != nil {
		t.Fatal(err)
	}
	if err = s.migrate(t.Context(), all[:at-1], nil); err == nil || !strings.Contains(err.Error(), "it is at migration 3, this program knows 2") {
		t.Errorf("a database newer than the program: %v", err)
	}
	other := slices.Clone(all)
	other[1].digest = strings.Repeat("0", 64)
	ran := 0
	err = s.migrate(t.Context(), other, func(migration, int) error { ran++; return nil })
	if err == nil || !strings.Contains(err.Error(), all[1].name+" was applied with another text") || ran != 0 {
		t.Errorf("a migration with another text: %v, %d statements", err, ran)
	}
	// Two collectors that start at once.
	done := make(chan error)
	for range 2 {
		go func() { done <- s.Migrate(context.WithoutCancel(t.Context())) }()
	}
	if err = errors.Join(<-done, <-done); err != nil {
		t.Errorf("two at once: %v", err)
	}
}

var (
	fixedString = regexp.MustCompile(`^FixedString\((\d+)\)$`)
	wrapped     = regexp.MustCompile(`^(LowCardinality|Nullable|Array)\((.*)\)$`)
)

// value gives an expression over `number` for a column: another value in each row, never the
// type's default, but that the second row of what may be absent is absent.
func value(t *testing.T, column, typ string) string {
	t.Helper()
	if m := wrapped.FindStringSubmatch(typ); m != nil {
		inner := value(t, column, m[2])
		switch m[1] {
		case "Nullable":
			return "if(number = 1, NULL, " + inner + ")"
		case "Array":
			return "[" + inner + ", " + inner + "]"
		}
		return inner
	}
	if m := fixedString.FindStringSubmatch(typ); m != nil {
		return "toFixedString(substring(hex(SHA512(concat(" + quote(column) + ", toString(number)))), 1, " + m[1] + "), " + m[1] + ")"
	}
	switch typ {
	case "String":
		return "concat(" + quote(column+" 'é\\\n") + ", toString(number))"
	case "UInt8", "UInt16", "UInt32", "UInt64", "Int64":
		return "to" + typ + "(number + " + fmt.Sprint(1+len(column)) + ")"
	case "Bool":
		return "toBool(number % 2 = 0)"
	case "Float64":
		return "number + 0.1"
	case "DateTime": // of rows that are to stay
		return "toStartOfDay(now()) + INTERVAL 20 DAY + number"
	case "DateTime64(3)":
		return "toDateTime64('2026-03-01 10:00:00.123', 3) + number"
	}
	t.Fatalf("column %s: this test has no value of type %s", column, typ)
	return ""
}

// fill puts rows into every table that there is, and returns the tables.
func fill(t *testing.T, s *Store) []string {
	t.Helper()
	names, err := s.names(t.Context(), "SELECT name FROM system.tables WHERE database = "+quote(s.cfg.Database)+" AND engine LIKE '%MergeTree' ORDER BY name")
	if err != nil || len(names) == 0 {
		t.Fatalf("tables %v, %v", names, err)
	}
	columns, err := s.columns(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range names {
		if table == tableMigrations {
			continue
		}
		var into, values []string
		for _, c := range columns[table] {
			if c.kind == "MATERIALIZED" || c.kind == "ALIAS" {
				continue
			}
			into, values = append(into, "`"+c.name+"`"), append(values, value(t, c.name, c.typ))
		}
		sql := "INSERT INTO " + s.table(table) + " (" + strings.Join(into, ", ") + ") SELECT " + strings.Join(values, ", ") + fmt.Sprintf(" FROM numbers(%d)", old)
		if err := s.conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("fill %s: %v", table, err)
		}
	}
	return names
}

// rows returns the rows of tables as text, of the columns that they had.
func rows(t *testing.T, s *Store, tables []string, had map[string][]columnInfo) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	if len(tables) == 0 {
		return out
	}
	var parts []string
	for _, table := range tables {
		var names []string
		for _, c := range had[table] {
			names = append(names, "`"+c.name+"`")
		}
		parts = append(parts, "SELECT "+quote(table)+" AS name, formatRowNoNewline('JSONCompactEachRow', "+strings.Join(names, ", ")+") AS text FROM "+s.table(table)+" FINAL")
	}
	res, err := s.conn.Query(t.Context(), "SELECT name, text FROM ("+strings.Join(parts, " UNION ALL ")+") ORDER BY name, text")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Close() }()
	for res.Next() {
		var table, text string
		if err := res.Scan(&table, &text); err != nil {
			t.Fatal(err)
		}
		out[table] = append(out[table], text)
	}
	if err := res.Err(); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if len(out[table]) < old && table != tableMigrations {
			t.Fatalf("%s has %d rows", table, len(out[table]))
		}
	}
	return out
}

func same(t *testing.T, what string, before, after map[string][]string) {
	t.Helper()
	for table, texts := range before {
		if table != tableMigrations && !slices.Equal(texts, after[table]) {
			t.Errorf("%s: rows of %s changed:\n%s\nnow\n%s", what, table, strings.Join(texts, "\n"), strings.Join(after[table], "\n"))
		}
	}
}

// altered names the tables that got columns.
func altered(t *testing.T, s *Store, tables []string, had map[string][]columnInfo) []string {
	t.Helper()
	now, err := s.columns(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, table := range tables {
		if len(now[table]) != len(had[table]) {
			out = append(out, table)
		}
	}
	return out
}

// defaults checks that rows of before have the defaults in columns that are new.
func defaults(t *testing.T, s *Store, tables []string, had map[string][]columnInfo) {
	t.Helper()
	now, err := s.columns(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range altered(t, s, tables, had) {
		was := map[string]bool{}
		for _, c := range had[table] {
			was[c.name] = true
		}
		var wrong []string
		for _, c := range now[table] {
			if was[c.name] {
				delete(was, c.name)
				continue
			}
			if c.kind == "" {
				wrong = append(wrong, "toString(any(`"+c.name+"`)) != toString(defaultValueOfTypeName("+quote(c.typ)+")) OR uniqExact(`"+c.name+"`) > 1")
			}
		}
		if len(was) > 0 {
			t.Errorf("%s lost columns: %v", table, slices.Sorted(maps.Keys(was)))
		}
		if len(wrong) == 0 { // what is new is computed
			continue
		}
		var bad []uint8
		if err := s.conn.QueryRow(t.Context(), "SELECT [toUInt8(ifNull("+strings.Join(wrong, ", 0)), toUInt8(ifNull(")+", 0))] FROM "+s.table(table)).Scan(&bad); err != nil {
			t.Fatal(err)
		}
		for i, b := range bad {
			if b != 0 {
				t.Errorf("%s: old rows are not at the default: %s", table, wrong[i])
			}
		}
	}
}

// reference is a database's schema as text, without its name.
func reference(t *testing.T, s *Store) string {
	t.Helper()
	r, err := s.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(r.JSON())
}

// difference returns the lines that only one of two texts has.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out []string
	for _, l := range w {
		if !slices.Contains(g, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}
