package embedded_test

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// post sends a statement as curl would and gives the status, the headers and the body.
func post(t *testing.T, s *embedded.Server, parameters url.Values, body io.Reader) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/?"+parameters.Encode(), body)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(s.Auth())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// ask posts a statement that must succeed.
func ask(t *testing.T, s *embedded.Server, query string) string {
	t.Helper()
	code, _, body := post(t, s, nil, strings.NewReader(query))
	if code != http.StatusOK {
		t.Fatalf("%s: status %d: %s", query, code, body)
	}
	return body
}

// TestAttacks sends every statement by which the engine, unguarded, would read or write files, reach other hosts, stop itself or change its users.
func TestAttacks(t *testing.T) {
	t.Parallel()
	s := testenv.ClickHouseServer(t, t.TempDir())
	const secret = "canary-5f1d"
	dir := t.TempDir()
	file, out := filepath.Join(dir, "secret"), filepath.Join(dir, "out")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	listener := "127.0.0.1:1" // never reached
	ask(t, s, "CREATE DATABASE w")
	ask(t, s, "CREATE TABLE w.t (s String) ENGINE = MergeTree ORDER BY s")
	for _, q := range []string{
		// Reading files: table functions, names, clauses, scalar functions, default expressions, dictionaries, databases, engines.
		"SELECT * FROM file('FILE', LineAsString)", "SELECT * FROM file('FILE', 'CSV', 's String')", "SELECT * FROM `FILE`", "SELECT * FROM default.`FILE`", "SELECT * FROM \"FILE\"",
		"DESCRIBE TABLE file('FILE')", "CREATE TABLE w.u AS file('FILE', LineAsString)", "INSERT INTO w.t SELECT * FROM file('FILE', LineAsString)",
		"INSERT INTO w.t FROM INFILE 'FILE' FORMAT LineAsString", "insert into w.t from/**/inFile 'FILE' format LineAsString", "INSERT INTO w.t (s) FROM\nINFILE 'FILE' COMPRESSION 'none' FORMAT CSV",
		"WITH 1 AS x INSERT INTO w.t FROM INFILE 'FILE' FORMAT CSV",
		"SELECT file('FILE')", "SELECT `file`('FILE')", "SELECT `fil\\x65`('FILE')", "SELECT \"file\" /**/ ('FILE')", "SELECT * APPLY(file) FROM (SELECT 'FILE')", "SELECT * APPLY file FROM (SELECT 'FILE')",
		"SELECT * APPLY `file` FROM (SELECT 'FILE')", "SELECT arrayMap(x -> file(x), ['FILE'])", "CREATE TABLE w.v (a UInt8, s String DEFAULT file('FILE')) ENGINE = Memory",
		"SELECT s FROM format(JSONEachRow, 'a String, s String DEFAULT file(\\'FILE\\')', '{\"a\":\"x\"}')",
		"SELECT s FROM format(JSONEachRow, concat('a String, s String DEFAULT fi', 'le(\\'FILE\\')'), '{\"a\":\"x\"}')",
		"SELECT catboostEvaluate('FILE', 1)",
		"CREATE DATABASE fs ENGINE = Filesystem('/')", "CREATE DATABASE x ENGINE = Overlay('a')", "CREATE TABLE w.f (s String) ENGINE = File(LineAsString, 'FILE')", "CREATE TABLE w.f (s String) ENGINE = File(LineAsString)",
		"CREATE DICTIONARY w.d (s String) PRIMARY KEY s SOURCE(FILE(path 'FILE' format 'LineAsString')) LAYOUT(COMPLEX_KEY_DIRECT()) LIFETIME(0)",
		"SELECT * FROM sqlite('FILE', 't')", "CREATE DATABASE x ENGINE = SQLite('FILE')", "SELECT * FROM fileCluster('default', 'FILE', 'LineAsString')", "SELECT * FROM executable('cat', LineAsString, 's String', (SELECT 'FILE'))",
		"SELECT * FROM format(Protobuf, 'x') SETTINGS format_schema = 'FILE:x'", "ATTACH TABLE w.x FROM 'DIR' (s String) ENGINE = MergeTree ORDER BY s", "RESTORE TABLE w.t FROM File('FILE')",
		// Writing files.
		"SELECT 1 INTO OUTFILE 'OUT'", "SELECT 1 INTO OUTFILE 'OUT' APPEND", "SHOW TABLES INTO OUTFILE 'OUT'", "EXPLAIN SELECT 1 INTO OUTFILE 'OUT'", "SELECT 1 /**/ INTO\tOUTFILE 'OUT' TRUNCATE FORMAT CSV",
		"INSERT INTO FUNCTION file('OUT', 'CSV', 's String') SELECT 1", "INSERT INTO FUNCTION file('OUT', 'CSV', 's String') VALUES ('x')", "INSERT INTO TABLE FUNCTION file('OUT', 'CSV', 's String') FORMAT CSV\nx\n",
		"BACKUP TABLE w.t TO File('OUT')", "BACKUP DATABASE w TO Disk('default', 'OUT')", "ALTER TABLE w.t FREEZE", "CREATE TABLE w.p (s String) ENGINE = MergeTree ORDER BY s SETTINGS disk = disk(type = local, path = 'DIR/')",
		// Other hosts.
		"SELECT * FROM url('http://LISTENER/', LineAsString)", "SELECT * FROM remote('LISTENER', system.one)", "SELECT * FROM remoteSecure('LISTENER', system.one)", "SELECT * FROM s3('http://LISTENER/b/x', 'CSV')",
		"SELECT * FROM mysql('LISTENER', 'a', 'b', 'c', 'd')", "SELECT * FROM postgresql('LISTENER', 'a', 'b', 'c', 'd')", "SELECT * FROM mongodb('LISTENER', 'a', 'b', 'c', 'd', 'e String')", "SELECT * FROM redis('LISTENER', 'a', 'a String')",
		"CREATE TABLE w.u (s String) ENGINE = URL('http://LISTENER/', CSV)", "INSERT INTO FUNCTION url('http://LISTENER/', 'CSV', 's String') SELECT 1", "CREATE DATABASE x ENGINE = MySQL('LISTENER', 'a', 'b', 'c')",
		"CREATE TABLE w.u (s String) ENGINE = Kafka SETTINGS kafka_broker_list = 'LISTENER', kafka_topic_list = 'a', kafka_group_name = 'b', kafka_format = 'CSV'",
		// The engine itself, its users and functions.
		"SYSTEM SHUTDOWN", "SYSTEM KILL", "system/**/shutdown", "SYSTEM STOP MERGES", "SYSTEM DROP MARK CACHE", "SELECT 1 PARALLEL WITH SYSTEM SHUTDOWN", "SELECT 1; SYSTEM SHUTDOWN", "SELECT 1;\nSELECT 2", "EXECUTE AS default SELECT 1",
		"CREATE USER x IDENTIFIED BY 'y'", "ALTER USER default IDENTIFIED BY 'y'", "GRANT ALL ON *.* TO default", "GRANT FILE ON *.* TO default WITH GRANT OPTION", "CREATE ROLE r", "SET ROLE ALL", "SET profile = 'default'", "SET readonly = 0", "SET log_comment = 'x'", "SET x.y", "USE nosuch", "USE w; SELECT 1",
		"CREATE FUNCTION f AS (x) -> x", "CREATE NAMED COLLECTION c AS a = 1", "KILL QUERY WHERE 1", "DETACH TABLE w.t", "CREATE WORKLOAD all", "DROP TABLE system.one", "INSERT INTO system.zeros VALUES (0)",
		"DROP DATABASE system", "DROP DATABASE default", "DROP DATABASE IF EXISTS `default` SYNC", "RENAME DATABASE default TO y", "DROP DATABASE information_schema", "DROP DATABASE INFORMATION_SCHEMA", "TRUNCATE DATABASE default",
		"CREATE TABLE system.x (a UInt8) ENGINE = Memory", "CREATE VIEW system.x AS SELECT 1",
		"SELECT 1 FORMAT Template SETTINGS format_template_resultset = 'FILE'", "SELECT 1 FORMAT Protobuf SETTINGS output_format_schema = 'OUT'", "CREATE TABLE w.e (s String) ENGINE = Executable('cat', 'CSV')",
		"\\q", "", ";",
	} {
		q = strings.NewReplacer("FILE", file, "OUT", out, "DIR", dir, "LISTENER", listener).Replace(strings.NewReplacer("INFILE", "\x01", "OUTFILE", "\x02", "GRANT FILE", "\x03", "SOURCE(FILE(", "\x04").Replace(q))
		q = strings.NewReplacer("\x01", "INFILE", "\x02", "OUTFILE", "\x03", "GRANT FILE", "\x04", "SOURCE(FILE(").Replace(q)
		code, _, body := post(t, s, nil, strings.NewReader(q))
		if code == http.StatusOK || strings.Contains(body, secret) {
			t.Errorf("%s: status %d: %s", q, code, body)
		}
		if code, _, body = post(t, s, url.Values{"query": {q}}, nil); code == http.StatusOK && strings.TrimSpace(q) != "" || strings.Contains(body, secret) {
			t.Errorf("as parameter: %s: status %d: %s", q, code, body)
		}
		if _, err := os.Stat(out); err == nil {
			t.Fatalf("%s: wrote a file", q)
		}
	}
	// Parameters of the URL are no way round either.
	for _, p := range []url.Values{
		{"format_schema": {file}}, {"format_template_row": {file}}, {"output_format_schema": {out}}, {"readonly": {"1"}, "async_insert": {"1"}, "no_such_setting": {"1"}}, {"x`='1', allow_ddl": {"0"}}, {"database": {"w` FORMAT x; --"}},
	} {
		if code, _, body := post(t, s, p, strings.NewReader("SELECT 1")); code == http.StatusOK {
			t.Errorf("%v: status %d: %s", p, code, body)
		}
	}
	if code, _, body := post(t, s, url.Values{"readonly": {"1"}}, strings.NewReader("CREATE TABLE w.ro (a UInt8) ENGINE = Memory")); code != http.StatusForbidden {
		t.Errorf("readonly: status %d: %s", code, body)
	}
	if got := ask(t, s, "SELECT count() FROM w.t"); got != "0\n" {
		t.Errorf("an attack left %s rows behind", got)
	}
	if s.Restarts() != 0 {
		t.Errorf("the engine died %d times", s.Restarts())
	}
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := testenv.ClickHouseServer(t, dir)
	user, password := s.Auth()
	st, err := os.Stat(filepath.Join(dir, "password"))
	if err != nil || st.Mode().Perm() != 0o600 || len(password) < 20 {
		t.Errorf("password file: %v, %v; %d characters", st.Mode(), err, len(password))
	}
	for name, c := range map[string]struct {
		set  func(*http.Request)
		want int
	}{
		"none":       {func(*http.Request) {}, http.StatusUnauthorized},
		"wrong":      {func(r *http.Request) { r.SetBasicAuth(user, password+"x") }, http.StatusForbidden},
		"empty":      {func(r *http.Request) { r.SetBasicAuth(user, "") }, http.StatusForbidden},
		"other user": {func(r *http.Request) { r.SetBasicAuth("admin", password) }, http.StatusForbidden},
		"bearer":     {func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+password) }, http.StatusForbidden},
		"basic":      {func(r *http.Request) { r.SetBasicAuth(user, password) }, http.StatusOK},
		"headers": {func(r *http.Request) {
			r.Header.Set("X-ClickHouse-User", user)
			r.Header.Set("X-ClickHouse-Key", password)
		}, http.StatusOK},
		"parameters":   {func(r *http.Request) { r.URL.RawQuery += "&user=" + user + "&password=" + url.QueryEscape(password) }, http.StatusOK},
		"default user": {func(r *http.Request) { r.SetBasicAuth("", password) }, http.StatusOK},
	} {
		req, rerr := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/?query=SELECT+1", nil)
		if rerr != nil {
			t.Fatal(rerr)
		}
		c.set(req)
		resp, rerr := http.DefaultClient.Do(req)
		if rerr != nil {
			t.Fatal(rerr)
		}
		if rerr = resp.Body.Close(); rerr != nil || resp.StatusCode != c.want {
			t.Errorf("%s: status %d, %v; want %d", name, resp.StatusCode, rerr, c.want)
		}
		if c.want != http.StatusOK && resp.Header.Get("X-ClickHouse-Exception-Code") != "516" {
			t.Errorf("%s: exception code %q", name, resp.Header.Get("X-ClickHouse-Exception-Code"))
		}
	}
}
