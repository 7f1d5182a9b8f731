package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// roleStatements are those of deploy/clickhouse/roles.sql.
func roleStatements(t *testing.T) []string {
	t.Helper()
	return statementsOf(t, "roles.sql")
}

// statementsOf are those of a file of deploy/clickhouse.
func statementsOf(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testenv.Root(t), "deploy", "clickhouse", file))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "--") {
			continue
		}
		sql, ok := strings.CutSuffix(line, ";")
		if !ok || strings.Contains(sql, ";") {
			t.Fatalf("%s: %q is not one statement on one line", file, line)
		}
		out = append(out, sql)
	}
	return out
}

var grantText = regexp.MustCompile(`^(GRANT .* ON (\S+)) TO (\w+)$`)

// rolesGrants returns the grants of each role and user of roles.sql, without whom to.
func rolesGrants(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, sql := range roleStatements(t) {
		if m := grantText.FindStringSubmatch(sql); m != nil {
			out[m[3]] = append(out[m[3]], m[1])
		}
	}
	return out
}

// TestRolesParse: the engine's parser takes every statement, and every setting is one.
func TestRolesParse(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := Open(t.Context(), Config{URL: url, User: user, Password: password, Database: "roles"})
	closed(t, s, err)
	known, err := s.names(t.Context(), "SELECT name FROM system.settings")
	if err != nil {
		t.Fatal(err)
	}
	setting := regexp.MustCompile(`(\w+) = [\w']+`)
	for _, sql := range roleStatements(t) {
		if _, err := s.names(t.Context(), "SELECT formatQuery("+quote(sql)+")"); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
		if _, list, ok := strings.Cut(sql, " SETTINGS "); ok {
			var set []string
			for _, m := range setting.FindAllStringSubmatch(list, -1) {
				if !slices.Contains(known, m[1]) {
					t.Errorf("no setting %s", m[1])
				}
				if m[1] != "readonly" && m[1] != "async_insert" && m[1] != "max_memory_usage" { // the engine lets no statement set these, or so far
					set = append(set, m[0])
				}
			}
			if _, err := s.names(t.Context(), "SELECT 'x' SETTINGS "+strings.Join(set, ", ")); err != nil {
				t.Errorf("%s: %v", set, err)
			}
		}
		if strings.Contains(sql, "IDENTIFIED") && !strings.HasSuffix(sql, "NOT IDENTIFIED HOST NONE") || strings.HasPrefix(sql, "CREATE USER") && !strings.Contains(sql, " HOST NONE") {
			t.Errorf("a user who can sign in, or a secret: %s", sql)
		}
	}
}

// TestRolesAreComplete: every table and view of the migrations is somebody's to read and to write,
// and no grant is for one that there is not.
func TestRolesAreComplete(t *testing.T) {
	schema, err := ShippedSchema()
	if err != nil {
		t.Fatal(err)
	}
	grants := rolesGrants(t)
	holds := func(role, privilege, name string) bool {
		return slices.ContainsFunc(grants[role], func(g string) bool {
			return (strings.HasSuffix(g, " ON flopwatch."+name)) && regexp.MustCompile(`\b`+privilege+`\b`).MatchString(g)
		})
	}
	names := map[string]bool{"*": true, "_tmp_replace_*": true, "v_*": true}
	for _, r := range schema.Relations {
		names[r.Name] = true
		if r.View {
			if !holds("flopwatch_analyst", "SELECT", r.Name) {
				t.Errorf("view %s is granted to no analyst", r.Name)
			}
			for _, table := range r.Reads {
				if !holds("flopwatch_views", "SELECT", table) {
					t.Errorf("view %s reads %s, which flopwatch_views may not", r.Name, table)
				}
			}
			if want := "ALTER TABLE flopwatch." + r.Name + " MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views"; !slices.Contains(roleStatements(t), want) {
				t.Errorf("missing: %s", want)
			}
			continue
		}
		_, raw := rawTables[r.Name]
		writers := 0
		for _, role := range []string{"flopwatch_ingest", "flopwatch_detector", "flopwatch_operator", "flopwatch_corrector"} {
			if holds(role, "INSERT", r.Name) {
				writers++
			}
		}
		switch {
		case raw && !holds("flopwatch_ingest", "INSERT", r.Name):
			t.Errorf("no collector may write %s", r.Name)
		case raw && !holds("flopwatch_detector", "SELECT", r.Name):
			t.Errorf("no detector may read %s", r.Name)
		case writers != 1:
			t.Errorf("%d roles may write %s, want one", writers, r.Name)
		}
	}
	for role, all := range grants {
		for _, g := range all {
			if _, name, ok := strings.Cut(g, " ON flopwatch."); ok && !names[name] {
				t.Errorf("%s has a grant on %s, which does not exist", role, name)
			}
		}
	}
}

// TestClusterGrants: on a cluster each role may do with a local table what it may do with the one of
// that name, and nothing else; the engine's parser takes every statement.
func TestClusterGrants(t *testing.T) {
	one := regexp.MustCompile(`^GRANT (.*) ON (flopwatch|flopwatch_local)\.(\S+) TO (\w+)$`)
	var want, got []string
	operator := map[string]string{}
	for _, file := range []string{"roles.sql", "cluster.sql"} {
		for _, sql := range statementsOf(t, file) {
			m := one.FindStringSubmatch(sql)
			switch {
			case m == nil:
			case m[3] == "*":
				if strings.Contains(m[1], "CREATE TABLE") {
					operator[m[2]] = strings.NewReplacer("CREATE VIEW, ", "", "DROP VIEW, ", "").Replace(m[1]) // there are no views
				} else {
					operator[m[2]+" "+m[4]] = m[1]
				}
			case m[2] == "flopwatch_local":
				got = append(got, m[1]+" "+m[3]+" "+m[4])
			case sharded[m[3]]:
				want = append(want, m[1]+" "+m[3]+" "+m[4])
			}
		}
	}
	if !slices.Equal(got, want) {
		for _, g := range want {
			if !slices.Contains(got, g) {
				t.Errorf("cluster.sql lacks %s", g)
			}
		}
		for _, g := range got {
			if !slices.Contains(want, g) {
				t.Errorf("cluster.sql has %s, and roles.sql has not", g)
			}
		}
	}
	for _, role := range []string{"", " flopwatch_operator", " flopwatch_auditor"} {
		if a, b := operator["flopwatch"+role], operator["flopwatch_local"+role]; a != b || a == "" {
			t.Errorf("on all tables of%s: %q, and on local ones %q", role, a, b)
		}
	}
	url, user, password := testenv.ClickHouse(t)
	s, err := Open(t.Context(), Config{URL: url, User: user, Password: password, Database: "roles"})
	closed(t, s, err)
	for _, sql := range statementsOf(t, "cluster.sql") {
		if _, err := s.names(t.Context(), "SELECT formatQuery("+quote(sql)+")"); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// roleEngine starts an engine on dir with the roles of roles.sql and opens it as a user of one of them, or as the administrator. The engine itself holds
// the user to its grants, as a server would. Unless held it leaves it to the administrator to let views run as flopwatch_views, as a server does.
func roleEngine(t *testing.T, dir, role string, held bool) *Store {
	t.Helper()
	var sql strings.Builder
	for _, line := range roleStatements(t) {
		if held || !strings.HasPrefix(line, "ALTER TABLE ") {
			sql.WriteString(line + ";\n")
		}
	}
	own := t.TempDir()
	users, roles := filepath.Join(own, "users.toml"), filepath.Join(own, "roles.sql")
	if err := os.WriteFile(roles, []byte(sql.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[[user]]\nname = \"one\"\nrole = %q\npassword_sha256 = \"%x\"\n", role, sha256.Sum256([]byte("one")))
	if err := os.WriteFile(users, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := testenv.EngineConfig(t)
	cfg.DataDir, cfg.UsersFile, cfg.RolesFile = dir, users, roles
	server, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Config{URL: server.URL(), User: "one", Password: "one"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if cerr := errors.Join(s.Close(), server.Stop(ctx)); cerr != nil {
			t.Error(cerr)
		}
	})
	return s
}

// TestRolesSuffice: with the grants of its role alone each program and person can do its work, and
// nothing else.
func TestRolesSuffice(t *testing.T) {
	dir := t.TempDir()
	held := false // the engine lets views run as flopwatch_views by itself
	as := func(role string, f func(t *testing.T, s *Store)) {
		if !t.Run(strings.TrimPrefix(role, "flopwatch_"), func(t *testing.T) { f(t, roleEngine(t, dir, role, held)) }) {
			t.FailNow()
		}
	}
	refused := func(t *testing.T, s *Store, statements ...string) {
		t.Helper()
		for _, sql := range statements {
			if err := s.conn.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "ACCESS_DENIED") {
				t.Errorf("%s: %v", sql, err)
			}
		}
	}
	views := func(t *testing.T, s *Store) {
		t.Helper()
		for _, view := range Views {
			if rows, err := s.CountView(t.Context(), view); err != nil || rows == 0 {
				t.Errorf("%s has %d rows, %v", view, rows, err)
			}
		}
		// What flopwatch chain hours asks.
		for _, ask := range []func() error{
			func() error { _, err := s.HourChecks(t.Context(), "c", []string{"n"}, 0, 1<<40); return err },
			func() error { _, err := s.Arrived(t.Context(), "c", nil, 0, 1<<40); return err },
			func() error { _, err := s.TroubledNodes(t.Context(), "c", 0, 1<<40); return err },
			func() error { _, err := s.NodeHours(t.Context(), "c", []string{"n"}, 0, 1<<40); return err },
		} {
			if err := ask(); err != nil {
				t.Error(err)
			}
		}
	}
	const noise = "INSERT INTO flopwatch.gpu_samples (cluster) SELECT 'x'"
	as("flopwatch_operator", func(t *testing.T, s *Store) {
		for range 2 {
			if err := s.Migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.ClaimRecording(t.Context(), "c", "d"); err != nil {
			t.Error(err)
		}
		refused(t, s, noise, "DROP TABLE flopwatch.batches", "ALTER TABLE flopwatch.batches DELETE WHERE 1", "ALTER TABLE flopwatch.batches DROP COLUMN digest", "TRUNCATE TABLE flopwatch.runs",
			"CREATE TABLE elsewhere.x (a UInt8) ENGINE = Memory")
	})
	definers := func(t *testing.T, s *Store, want ...string) {
		t.Helper()
		got, err := s.names(t.Context(), "SELECT DISTINCT definer FROM system.tables WHERE database = 'flopwatch' AND engine = 'View' ORDER BY definer")
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("definers %q, %v, want %q", got, err, want)
		}
	}
	apply := func(t *testing.T, s *Store) {
		for _, sql := range roleStatements(t) {
			if strings.HasPrefix(sql, "ALTER TABLE ") {
				if err := s.conn.Exec(t.Context(), sql); err != nil {
					t.Errorf("%s: %v", sql, err)
				}
			}
		}
		definers(t, s, "flopwatch_views")
	}
	as("admin", apply)
	// A later migration makes a view anew: it runs with its reader's rights until roles.sql is
	// applied again, so that analysts see less then, never more.
	as("flopwatch_operator", func(t *testing.T, s *Store) {
		if err := s.conn.Exec(t.Context(), s.qualify("CREATE OR REPLACE VIEW v_gpu_devices AS SELECT *, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time FROM gpu_devices COMMENT 'x'")); err != nil {
			t.Fatal(err)
		}
		if err := s.Migrate(t.Context()); err != nil {
			t.Error(err)
		}
		definers(t, s, "", "flopwatch_views")
	})
	as("flopwatch_analyst", func(t *testing.T, s *Store) { refused(t, s, "SELECT * FROM flopwatch.v_gpu_devices") })
	as("admin", apply)
	as("flopwatch_ingest", func(t *testing.T, s *Store) {
		if err := ingest(t.Context(), s, "c"); err != nil {
			t.Error(err)
		}
		refused(t, s, "SELECT count() FROM flopwatch.gpu_samples", "SELECT bytes FROM flopwatch.quarantine", "SELECT targets FROM flopwatch.batches", "SELECT * FROM flopwatch.v_batches",
			"INSERT INTO flopwatch.runs (cluster) SELECT 'x'", "ALTER TABLE flopwatch.gpu_samples DELETE WHERE 1", "CREATE DATABASE IF NOT EXISTS flopwatch", "SELECT * FROM flopwatch.parties")
	})
	as("flopwatch_detector", func(t *testing.T, s *Store) {
		if err := judge(t.Context(), s, "c"); err != nil {
			t.Error(err)
		}
		refused(t, s, noise, "SELECT bytes FROM flopwatch.quarantine", "INSERT INTO flopwatch.batches (cluster) SELECT 'x'", "ALTER TABLE flopwatch.findings DELETE WHERE 1", "TRUNCATE TABLE flopwatch.findings", "SELECT * FROM flopwatch.recordings",
			"INSERT INTO flopwatch.labels (cluster) SELECT 'x'")
	})
	as("flopwatch_corrector", func(t *testing.T, s *Store) {
		if err := correct(t.Context(), s, "c"); err != nil {
			t.Error(err)
		}
		refused(t, s, noise, "INSERT INTO flopwatch.runs (cluster) SELECT 'x'", "ALTER TABLE flopwatch.labels DELETE WHERE 1", "SELECT * FROM flopwatch.parties", "SELECT count() FROM flopwatch.gpu_samples")
	})
	as("flopwatch_analyst", func(t *testing.T, s *Store) {
		views(t, s)
		schema, err := s.Schema(t.Context())
		if err != nil || len(schema.Relations) != len(Views) {
			t.Errorf("sees %d tables and views, %v", len(schema.Relations), err)
		}
		refused(t, s, noise, "SELECT count() FROM flopwatch.gpu_samples", "SELECT * FROM flopwatch.runs", "SELECT * FROM flopwatch.parties", "SELECT reason FROM flopwatch.quarantine",
			"INSERT INTO flopwatch.findings (cluster) SELECT 'x'", "CREATE VIEW flopwatch.v_mine AS SELECT 1", "ALTER TABLE flopwatch.v_runs MODIFY SQL SECURITY NONE", "SELECT * FROM file('/etc/passwd')")
	})
	as("flopwatch_auditor", func(t *testing.T, s *Store) {
		views(t, s)
		schema, err := ShippedSchema()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range schema.Relations {
			if _, err := s.names(t.Context(), "SELECT toString(count()) FROM flopwatch."+r.Name); err != nil {
				t.Errorf("%s: %v", r.Name, err)
			}
		}
		for _, table := range []string{"users", "roles", "grants", "role_grants", "settings_profiles", "row_policies", "parts", "detached_parts", "mutations"} {
			if _, err := s.names(t.Context(), "SELECT toString(count()) FROM system."+table); err != nil {
				t.Errorf("system.%s: %v", table, err)
			}
		}
		refused(t, s, noise, "INSERT INTO flopwatch.schema_migrations (number) SELECT 1", "ALTER TABLE flopwatch.batches DELETE WHERE 1", "TRUNCATE TABLE flopwatch.quarantine")
	})
	// With the whole file the embedded engine does by itself what an administrator of a server repeats.
	held = true
	as("flopwatch_operator", func(t *testing.T, s *Store) {
		definers(t, s, "flopwatch_views")
		if err := s.conn.Exec(t.Context(), s.qualify("CREATE OR REPLACE VIEW v_gpu_devices AS SELECT *, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time FROM gpu_devices COMMENT 'x'")); err != nil {
			t.Fatal(err)
		}
		definers(t, s, "flopwatch_views")
	})
	as("flopwatch_analyst", views)
}
