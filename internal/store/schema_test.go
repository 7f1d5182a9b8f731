package store

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestRawTablesMatchTheDatabase holds table.go and the migrations together.
func TestRawTablesMatchTheDatabase(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := Open(t.Context(), Config{URL: url, User: user, Password: password, Database: "shape"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if cerr := s.Close(); cerr != nil {
			t.Error(cerr)
		}
	}()
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	columns, err := s.columns(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name := range rawTables {
		b, err := NewRawBlock(name)
		if err != nil {
			t.Fatal(err)
		}
		types := map[string]string{}
		for _, c := range columns[name] {
			types[c.name] = c.typ
		}
		for _, c := range b.in {
			if types[c.Name] != string(c.Data.Type()) {
				t.Errorf("%s.%s is %q in the database, %q here", name, c.Name, types[c.Name], c.Data.Type())
			}
			delete(types, c.Name)
		}
		delete(types, "first_wins")
		delete(types, "expires")
		if len(types) > 0 {
			t.Errorf("%s has columns that no batch fills: %v", name, types)
		}
	}
}

// TestLargeDictionaries writes columns whose dictionaries need 8, 16 and 32 bits.
func TestLargeDictionaries(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := Open(t.Context(), Config{URL: url, User: user, Password: password, Database: "dict"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if cerr := s.Close(); cerr != nil {
			t.Error(cerr)
		}
	}()
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := NewRawBlock(TableFlowSamples)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range []int{3, 300, 70_000} {
		b.Reset()
		ts, dict, ref := make([]int64, n), make([]string, n), make([]uint32, n)
		for r := range n {
			ts[r], dict[r], ref[r] = 5, fmt.Sprintf("peer-%06d", r), uint32(r)
		}
		b.Begin(RawMeta{Cluster: fmt.Sprint("c", i), Node: "n'\\", Spool: "s", Sequence: 1, Sources: "recorded", AvailableMs: 1}, n)
		b.Ints(b.Column("ts_ms"), ts, nil)
		b.Strings(b.Column("peer"), dict, ref, nil)
		b.End()
		for range 2 { // the token is known by then
			if err := s.Insert(t.Context(), TableFlowSamples, fmt.Sprint("t", i), b); err != nil {
				t.Fatal(err)
			}
		}
		rows, err := s.FlowRows(t.Context(), RowQuery{Cluster: fmt.Sprint("c", i), Nodes: []string{"n'\\"}, ToMs: 10})
		if err != nil || len(rows) != n || rows[n-1].Peer != dict[n-1] || rows[0].TxBytes == rows[0].TxBytes {
			t.Fatalf("%d of %d rows, %v", len(rows), n, err)
		}
	}
	// Rows of 1970 outlive a merge: expiry counts from arrival.
	if err := s.conn.Exec(t.Context(), "OPTIMIZE TABLE "+s.table(TableFlowSamples)+" FINAL"); err != nil {
		t.Fatal(err)
	}
	if raw, _, err := s.Count(t.Context(), TableFlowSamples); err != nil || raw != 70_303 {
		t.Errorf("%d rows, %v", raw, err)
	}
}

// TestFirstAvailableStays: of rows with one key the one that was available first holds,
// before and after a merge, whatever the order of arrival.
func TestFirstAvailableStays(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := Open(t.Context(), Config{URL: url, User: user, Password: password, Database: "first"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if cerr := s.Close(); cerr != nil {
			t.Error(cerr)
		}
	}()
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := NewRawBlock(TableHostSamples)
	if err != nil {
		t.Fatal(err)
	}
	for i, available := range []int64{20, 10, 30} {
		b.Reset()
		b.Begin(RawMeta{Cluster: "c", Node: "n", Spool: "s", Sequence: uint64(i), Sources: "bmc", AvailableMs: available}, 1)
		b.Ints(b.Column("ts_ms"), []int64{5}, nil)
		b.Ints(b.Column("power_mw"), []int64{available * 1000}, nil)
		b.End()
		if err := s.Insert(t.Context(), TableHostSamples, "", b); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		rows, err := s.HostRows(t.Context(), RowQuery{Cluster: "c", ToMs: 10})
		if err != nil || len(rows) != 1 || rows[0].AvailableMs != 10 || rows[0].PowerW != 10 {
			t.Errorf("rows %+v, %v", rows, err)
		}
		if rows, err = s.HostRows(t.Context(), RowQuery{Cluster: "c", ToMs: 10, AvailableToMs: 9}); err != nil || len(rows) != 0 {
			t.Errorf("known too early: %+v, %v", rows, err)
		}
		if err := s.conn.Exec(t.Context(), "OPTIMIZE TABLE "+s.table(TableHostSamples)+" FINAL"); err != nil {
			t.Fatal(err)
		}
	}
	if raw, _, err := s.Count(t.Context(), TableHostSamples); err != nil || raw != 1 {
		t.Errorf("%d rows after the merge, %v", raw, err)
	}
}

// TestReplicatedStatements holds the statements for a real cluster to their text, as the
// embedded engine cannot run them.
func TestReplicatedStatements(t *testing.T) {
	all, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, m := range all {
		statements, err := Config{Replicated: true}.statements(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range statements {
			b.WriteString("-- " + m.name + "\n" + sql + ";\n\n")
		}
	}
	golden := filepath.Join("testdata", "replicated.golden")
	if os.Getenv("FLOPWATCH_UPDATE") == t.Name() {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Error("statements for a cluster changed; a shipped migration must not. FLOPWATCH_UPDATE=" + t.Name() + " writes the golden file")
	}
}

func TestConfig(t *testing.T) {
	for url, good := range map[string]bool{
		"http://127.0.0.1:8123": true, "https://ch": true, "clickhouse://ch:9000": true,
		"": false, "ftp://x": false, "http://user:secret@h": false, "http://": false,
	} {
		if err := (Config{URL: url}).Validate(); (err == nil) != good {
			t.Errorf("%q: %v", url, err)
		} else if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
	if err := (Config{URL: "http://h", Database: "a`; DROP"}).Validate(); err == nil {
		t.Error("a database's name was taken that is none")
	}
}

// TestSchemaReference holds the reference that is built in, and the one that people read, to what
// the migrations make of an empty database.
func TestSchemaReference(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := Open(t.Context(), Config{URL: url, User: user, Password: password, Database: "flopwatch"})
	closed(t, s, err)
	if err = s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	schema, err := s.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		"schema.json": string(schema.JSON()),
		filepath.Join(testenv.Root(t), "deploy", "clickhouse", "SCHEMA.md"): schema.Markdown(),
	} {
		if os.Getenv("FLOPWATCH_UPDATE") == t.Name() {
			if err = os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if text != string(was) {
			t.Errorf("%s is not what the migrations make (FLOPWATCH_UPDATE=%s writes it):\n%s", path, t.Name(), difference(string(was), text))
		}
	}
	if shipped, err := ShippedSchema(); os.Getenv("FLOPWATCH_UPDATE") == "" && (err != nil || !reflect.DeepEqual(shipped, schema)) {
		t.Errorf("the schema that is built in reads otherwise, %v", err)
	}
}

// TestViewsOfWholeTablesAreWhole: a view keeps the columns that its table had when it was made, so
// a migration that adds columns has to make the view anew.
func TestViewsOfWholeTablesAreWhole(t *testing.T) {
	schema, err := ShippedSchema()
	if err != nil {
		t.Fatal(err)
	}
	all, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	whole := regexp.MustCompile(`CREATE OR REPLACE VIEW (\w+) AS\nSELECT \*`)
	views := map[string]bool{}
	for _, m := range all {
		for _, v := range whole.FindAllStringSubmatch(m.text, -1) {
			views[v[1]] = true
		}
	}
	columns := map[string][]string{}
	for _, r := range schema.Relations {
		for _, c := range r.Columns {
			if !strings.HasPrefix(c.Default, "MATERIALIZED") {
				columns[r.Name] = append(columns[r.Name], c.Name)
			}
		}
	}
	for _, r := range schema.Relations {
		for _, source := range r.Reads {
			for _, c := range columns[source] {
				if views[r.Name] && !slices.Contains(columns[r.Name], c) {
					t.Errorf("%s lacks %s of %s", r.Name, c, source)
				}
			}
		}
	}
	if len(views) == 0 {
		t.Error("no such view")
	}
}
