package embedded_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// testRoles are roles as deploy/clickhouse/roles.sql writes them.
const testRoles = `-- roles of a test
CREATE ROLE IF NOT EXISTS acme_ingest;
CREATE ROLE acme_analyst;
CREATE ROLE IF NOT EXISTS acme_auditor;
GRANT INSERT ON w.raw TO acme_ingest;
GRANT SELECT(id) ON w.raw TO acme_ingest;
CREATE USER IF NOT EXISTS acme_views NOT IDENTIFIED HOST NONE;
GRANT SELECT ON w.raw TO acme_views;
ALTER TABLE w.v_raw MODIFY SQL SECURITY DEFINER DEFINER = acme_views;
GRANT SELECT ON w.v_raw TO acme_analyst;
GRANT SELECT ON w.* TO acme_auditor;
GRANT SELECT ON system.parts TO acme_auditor;
CREATE SETTINGS PROFILE IF NOT EXISTS acme_people SETTINGS readonly = 2 CONST, max_execution_time = 60 MIN 1 MAX 600, max_threads = 2 MIN 1 MAX 4, max_memory_usage = 4000000000 MIN 1 MAX 16000000000, max_concurrent_queries_for_user = 1 CONST TO acme_analyst, acme_auditor;
CREATE USER IF NOT EXISTS somebody HOST NONE DEFAULT ROLE acme_ingest;
GRANT acme_ingest TO somebody;
`

// roleServer starts an engine with one user of each role, whose password is the name and "-secret", and a table with a view.
func roleServer(t *testing.T, change func(*embedded.Config)) *embedded.Server {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	write("ingest.password", "ingest-secret\n")
	var users strings.Builder
	users.WriteString("[[user]]\nname = \"ingest\"\nrole = \"acme_ingest\"\npassword_file = \"ingest.password\"\n")
	for _, u := range [][2]string{{"analyst", "analyst"}, {"auditor", "acme_auditor"}, {"root", "admin"}, {"other", "analyst"}} {
		fmt.Fprintf(&users, "[[user]]\nname = %q\nrole = %q\npassword_sha256 = \"%x\"\n", u[0], u[1], sha256.Sum256([]byte(u[0]+"-secret")))
	}
	cfg := testenv.EngineConfig(t)
	cfg.DataDir, cfg.UsersFile, cfg.RolesFile = filepath.Join(dir, "data"), write("users.toml", users.String()), write("roles.sql", testRoles)
	if change != nil {
		change(&cfg)
	}
	s, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopEngine(t, s) })
	ask(t, s, "CREATE DATABASE w")
	ask(t, s, "CREATE TABLE w.raw (id UInt32, secret String) ENGINE = MergeTree ORDER BY id")
	ask(t, s, "CREATE VIEW w.v_raw AS SELECT id FROM w.raw")
	ask(t, s, "INSERT INTO w.raw VALUES (1, 'canary-77')")
	return s
}

// as asks as a user of roleServer.
func as(t *testing.T, s *embedded.Server, user string, q url.Values, query string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/?"+q.Encode(), strings.NewReader(query))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(user, user+"-secret")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	return resp.StatusCode, string(b)
}

// TestRoles: each user may do what its role is for and nothing else, by whatever way it asks.
func TestRoles(t *testing.T) {
	t.Parallel()
	s := roleServer(t, nil)
	session := url.Values{"session_id": {"mine"}}
	for _, c := range []struct {
		user, query, want string
		q                 url.Values
	}{
		{"ingest", "INSERT INTO w.raw VALUES (2, 'x')", "", nil},
		{"ingest", "SELECT count() FROM w.raw WHERE id = 2", "1\n", nil},
		{"analyst", "SELECT id FROM w.v_raw ORDER BY id", "1\n2\n", nil},
		{"analyst", "SELECT getSetting('readonly'), getSetting('max_threads'), getSetting('max_execution_time')", "2\t2\t60\n", nil},
		{"analyst", "SELECT id FROM w.v_raw ORDER BY id LIMIT 1 SETTINGS max_threads = 4", "1\n", nil},
		{"analyst", "SELECT getSetting('max_threads')", "4\n", url.Values{"max_threads": {"4"}}},
		{"analyst", "SHOW TABLES FROM w", "v_raw\n", nil},
		{"analyst", "SELECT count() FROM system.tables WHERE database = 'w'", "1\n", nil},
		{"analyst", "SELECT * FROM merge('w', '.*') ORDER BY id", "1\n2\n", nil},
		{"analyst", "CREATE TEMPORARY TABLE t (a UInt8)", "", session},
		{"analyst", "INSERT INTO t VALUES (9)", "", session},
		{"analyst", "SELECT a FROM t", "9\n", session},
		{"analyst", "SELECT getSetting('max_threads')", "3\n", url.Values{"session_id": {"mine"}, "max_threads": {"3"}}},
		{"analyst", "SELECT getSetting('max_threads')", "2\n", session},
		{"auditor", "SELECT secret FROM w.raw WHERE id = 1", "canary-77\n", nil},
		{"auditor", "SELECT count() > 0 FROM system.parts", "1\n", nil},
		{"root", "CREATE TABLE w.more (a UInt8) ENGINE = MergeTree ORDER BY a", "", nil},
		{"root", "DROP TABLE w.more", "", nil},
	} {
		if code, body := as(t, s, c.user, c.q, c.query); code != http.StatusOK || body != c.want {
			t.Errorf("%s: %s: status %d: %q, want %q", c.user, c.query, code, body, c.want)
		}
	}
	readers := []string{"SELECT * FROM w.raw", "SELECT count() FROM w.raw WHERE secret != ''", "SELECT secret FROM (SELECT * FROM w.raw)", "WITH x AS (SELECT secret FROM w.raw) SELECT * FROM x",
		"SELECT * FROM view(SELECT secret FROM w.raw)", "EXPLAIN SELECT secret FROM w.raw", "SELECT (SELECT max(secret) FROM w.raw)",
		"SELECT * FROM viewExplain('EXPLAIN', '', (SELECT secret FROM w.raw))", "SELECT * FROM loop(w.raw) LIMIT 1", "SELECT * FROM mergeTreeIndex('w', 'raw', with_marks = true)", "SELECT * FROM eval('SELECT secret FROM w.raw')",
		"SELECT * FROM dictionary('w.raw')", "SELECT joinGet('w.raw', 'secret', 1)", "SELECT * FROM remote('127.0.0.1', w.raw)", "SELECT * FROM cluster('default', w.raw)", "SELECT secret IN w.raw FROM (SELECT 'x' AS secret)"}
	refused := map[string][]string{
		"ingest":  append(slicesWithout(readers, "SELECT count() FROM w.raw"), "SELECT * FROM w.v_raw", "INSERT INTO w.v_raw SELECT 1", "TRUNCATE TABLE w.raw", "DROP TABLE w.raw", "ALTER TABLE w.raw DELETE WHERE 1", "CREATE TABLE w.x (a UInt8) ENGINE = MergeTree ORDER BY a"),
		"analyst": append(readers, "INSERT INTO w.raw VALUES (3, 'x')", "CREATE VIEW w.v2 AS SELECT * FROM w.raw", "CREATE TABLE w.x (a UInt8) ENGINE = Memory", "ALTER TABLE w.v_raw MODIFY SQL SECURITY NONE", "DROP TABLE w.v_raw", "DESCRIBE w.raw", "SHOW CREATE TABLE w.raw", "SELECT * FROM system.parts WHERE throwIf(1)"),
		"auditor": {"INSERT INTO w.raw VALUES (3, 'x')", "TRUNCATE TABLE w.raw", "ALTER TABLE w.raw DELETE WHERE 1", "OPTIMIZE TABLE w.raw", "CREATE DATABASE x", "DROP TABLE w.v_raw", "RENAME TABLE w.raw TO w.r", "CREATE DICTIONARY w.d (id UInt32) PRIMARY KEY id SOURCE(NULL()) LAYOUT(FLAT()) LIFETIME(0)"},
	}
	everybody := []string{"SET ROLE admin", "SET ROLE ALL", "SET ROLE NONE", "SET ROLE DEFAULT", "SET profile = 'default'", "SET readonly = 0", "GRANT SELECT ON w.raw TO default", "SELECT 1 SETTINGS profile = 'default'",
		"SELECT 1 SETTINGS max_threads = 2, profile = 'held_admin'", "SELECT 1 SETTINGS `profile` = 'default'", "SELECT 1 SETTINGS log_comment = 'x'", "EXECUTE AS default SELECT 1", "CREATE USER x", "SET max_memory_usage = 0", "SELECT 1 SETTINGS max_memory_usage = 99000000000",
		"SELECT 1 SETTINGS dialect = 'prql'", "SET dialect = 'kusto'", "SELECT 1 SETTINGS max_threads = 100000", "SELECT 1 SETTINGS max_untracked_memory = 1000000000000", "SELECT * FROM system.users", "SYSTEM SHUTDOWN"}
	for user, list := range refused {
		for _, q := range append(list, everybody...) {
			for _, params := range []url.Values{nil, {"session_id": {"s"}}} {
				code, body := as(t, s, user, params, q)
				if code == http.StatusOK || strings.Contains(body, "canary") {
					t.Errorf("%s: %s: status %d: %s", user, q, code, body)
				}
			}
		}
		for _, p := range []url.Values{{"role": {"admin"}}, {"profile": {"default"}}, {"max_memory_usage": {"0"}}, {"dialect": {"prql"}}, {"max_threads": {"999"}}} {
			if code, body := as(t, s, user, p, "SELECT 1"); code == http.StatusOK {
				t.Errorf("%s: %v: status %d: %s", user, p, code, body)
			}
		}
	}
	for _, p := range []url.Values{{"readonly": {"0"}}, {"max_execution_time": {"9999"}}, {"max_threads": {"5"}}} {
		// A readonly of 0 is no demand, and is left out.
		if code, body := as(t, s, "analyst", p, "SELECT getSetting('readonly')"); code == http.StatusOK && body != "2\n" {
			t.Errorf("analyst: %v: status %d: %s", p, code, body)
		}
	}
	// A session belongs to its user.
	if code, body := as(t, s, "other", url.Values{"session_id": {"mine"}}, "SELECT a FROM t"); code == http.StatusOK {
		t.Errorf("another's session: %s", body)
	}
	// A view that is made anew runs as its definer again.
	ask(t, s, "CREATE OR REPLACE VIEW w.v_raw AS SELECT id, id * 2 AS twice FROM w.raw")
	if code, body := as(t, s, "analyst", nil, "SELECT sum(twice) FROM w.v_raw"); code != http.StatusOK || body != "6\n" {
		t.Errorf("after the view was made anew: status %d: %s", code, body)
	}
	if got := ask(t, s, "SELECT count() FROM w.raw"); got != "2\n" {
		t.Errorf("the table has %s rows", got)
	}
}

// TestOthersWords: what others asked, and what the engine told them of their data, is in no table of the engine that a reader may read.
func TestOthersWords(t *testing.T) {
	t.Parallel()
	s := roleServer(t, nil)
	for _, q := range []string{"SELECT toUInt8(secret) FROM w.raw", "SELECT throwIf(secret = 'canary-77', 'canary-77') FROM w.raw", "SELECT count() FROM w.raw WHERE secret = 'canary-77'", "SELECT * FROM w.`canary-77`"} {
		if _, body := as(t, s, "auditor", nil, q); q != "SELECT count() FROM w.raw WHERE secret = 'canary-77'" && !strings.Contains(body, "canary-77") {
			t.Errorf("%s: %s", q, body)
		}
	}
	names := ask(t, s, "SELECT name FROM system.tables WHERE database = 'system'")
	tables := strings.Fields(names)
	if len(tables) < 50 {
		t.Errorf("%d tables", len(tables))
	}
	fixed := regexp.MustCompile(`^(unicode|documentation|functions|completions|.*settings|dashboards|keywords|time_zones|contributors|licenses|numbers.*|zeros.*|primes|formats|fail_points|events|.*metrics|privileges|collations)$`)
	for _, table := range append(tables, "errors", "warnings", "models") {
		if fixed.MatchString(table) {
			continue
		}
		if _, body := as(t, s, "analyst", nil, "SELECT * FROM system.`"+table+"` LIMIT 1000"); strings.Contains(body, "canary-77") {
			t.Errorf("an analyst reads in system.%s what the auditor was told", table)
		}
	}
}

func slicesWithout(all []string, prefix string) []string {
	var out []string
	for _, s := range all {
		if !strings.HasPrefix(s, prefix) {
			out = append(out, s)
		}
	}
	return out
}

// TestSignIn: every way in which clients sign in, and what they are told where that fails.
func TestSignIn(t *testing.T) {
	t.Parallel()
	s := roleServer(t, nil)
	basic := func(user, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(user, password) }
	}
	headers := func(user, key string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("X-ClickHouse-User", user)
			r.Header.Set("X-ClickHouse-Key", key)
		}
	}
	parameters := func(user, password string) func(*http.Request) {
		return func(r *http.Request) {
			r.URL.RawQuery += "&user=" + url.QueryEscape(user) + "&password=" + url.QueryEscape(password)
		}
	}
	both := func(a, b func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) { a(r); b(r) }
	}
	for name, c := range map[string]struct {
		set  func(*http.Request)
		want int
	}{
		"basic": {basic("analyst", "analyst-secret"), 200}, "headers": {headers("analyst", "analyst-secret"), 200}, "parameters": {parameters("analyst", "analyst-secret"), 200},
		"password from a file": {basic("ingest", "ingest-secret"), 200},
		"wrong password":       {basic("analyst", "analyst-secreT"), 403}, "wrong key": {headers("analyst", "x"), 403}, "wrong parameter": {parameters("analyst", ""), 403},
		"another's password": {basic("analyst", "auditor-secret"), 403}, "no such user": {basic("nobody", "analyst-secret"), 403}, "no password": {headers("analyst", ""), 403},
		"a user of the roles file": {basic("acme_views", ""), 403}, "a role": {basic("acme_analyst", "analyst-secret"), 403},
		"two ways":         {both(basic("analyst", "analyst-secret"), headers("analyst", "analyst-secret")), 403},
		"two other ways":   {both(parameters("analyst", "analyst-secret"), headers("analyst", "analyst-secret")), 403},
		"nothing":          {func(*http.Request) {}, 401},
		"a key alone":      {headers("", "analyst-secret"), 403},
		"bearer":           {func(r *http.Request) { r.Header.Set("Authorization", "Bearer analyst-secret") }, 403},
		"a bad user's log": {basic("x\r\nSet-Cookie: a=b", "y"), 403},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/?query=SELECT+1", nil)
		if err != nil {
			t.Fatal(err)
		}
		c.set(req)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if cerr := resp.Body.Close(); err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
		if resp.StatusCode != c.want {
			t.Errorf("%s: status %d: %s", name, resp.StatusCode, b)
		}
		if c.want != 200 && (resp.Header.Get("X-ClickHouse-Exception-Code") != "516" || !strings.Contains(string(b), "Code: 516. DB::Exception: ") || !strings.Contains(string(b), "(AUTHENTICATION_FAILED)")) {
			t.Errorf("%s: code %s: %s", name, resp.Header.Get("X-ClickHouse-Exception-Code"), b)
		}
		if (resp.Header.Get("WWW-Authenticate") != "") != (c.want == 401) {
			t.Errorf("%s: WWW-Authenticate %q with status %d", name, resp.Header.Get("WWW-Authenticate"), c.want)
		}
	}
}

// TestUsersFile: what is wrong in a file of users or roles is said with its place.
func TestUsersFile(t *testing.T) {
	t.Parallel()
	cfg := testenv.EngineConfig(t)
	digest := strings.Repeat("ab", 32)
	for _, c := range []struct{ users, roles, want string }{
		{"[[user]]\nname = 'a'\nrole = 'nosuch'\npassword_sha256 = '" + digest + "'", testRoles, `user 1 ("a"): role: there is no role "nosuch"; there are admin, acme_ingest`},
		{"[[user]]\nname = 'a'\nrole = 'analyst'", testRoles, "one of password_file and password_sha256"},
		{"[[user]]\nname = 'a'\nrole = 'analyst'\npassword = 'clear'", testRoles, `unknown key "user.password"`},
		{"[[user]]\nname = 'a'\nrole = 'analyst'\npassword_sha256 = 'abc'", testRoles, "64 hexadecimal digits"},
		{"[[user]]\nname = 'a'\nrole = 'analyst'\npassword_file = 'nosuch'", testRoles, "no such file"},
		{"[[user]]\nname = 'a b'\nrole = 'analyst'\npassword_sha256 = '" + digest + "'", testRoles, "name:"},
		{"[[user]]\nname = 'default'\nrole = 'analyst'\npassword_sha256 = '" + digest + "'", testRoles, "administrator that always exists"},
		{strings.Repeat("[[user]]\nname = 'a'\nrole = 'analyst'\npassword_sha256 = '"+digest+"'\n", 2), testRoles, "already"},
		{"[[user]]\nname = 'a'\nrole = 'analyst'\npassword_sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'", testRoles, "empty password"},
		{"", testRoles, "names no user"},
		{"[[user", testRoles, "users.toml"},
		{"[[user]]\nname = 'a'\nrole = 'x'\npassword_sha256 = '" + digest + "'", "CREATE ROLE x;\nGRANT SELECT ON a.b TO y;", "roles.sql: line 2:"},
		{"[[user]]\nname = 'a'\nrole = 'x'\npassword_sha256 = '" + digest + "'", "CREATE ROLE x;\nDROP TABLE a.b;", "not a statement about roles"},
		{"[[user]]\nname = 'a'\nrole = 'x'\npassword_sha256 = '" + digest + "'", "CREATE ROLE x;\n", "role x has no grants"},
		{"[[user]]\nname = 'a'\nrole = 'x'\npassword_sha256 = '" + digest + "'", "CREATE ROLE x;\nGRANT SELECT ON a.b TO x;\nCREATE SETTINGS PROFILE p SETTINGS a = 1 WRONG TO x", "line 3:"},
	} {
		dir := t.TempDir()
		users, roles := filepath.Join(dir, "users.toml"), filepath.Join(dir, "roles.sql")
		for p, text := range map[string]string{users: c.users, roles: c.roles} {
			if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg.DataDir, cfg.UsersFile, cfg.RolesFile = filepath.Join(dir, "data"), users, roles
		s, err := embedded.Start(t.Context(), cfg)
		if err == nil {
			stopEngine(t, s)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.users, err, c.want)
		}
	}
}

func stopEngine(t *testing.T, s *embedded.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Errorf("stop engine: %v", err)
	}
}
