package embedded_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
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

// TestAttacks sends every statement by which the engine, unguarded, would read or write files, reach other hosts, stop itself or change its users: with all
// three layers, and with guard and grants alone, as on a kernel without Landlock.
func TestAttacks(t *testing.T) {
	t.Parallel()
	t.Run("confined", func(t *testing.T) { t.Parallel(); attack(t, testenv.ClickHouseServer(t, t.TempDir())) })
	t.Run("unconfined", func(t *testing.T) {
		t.Parallel()
		cfg := testenv.EngineConfig(t)
		cfg.DataDir, cfg.Args = t.TempDir(), []string{"--unconfined"}
		s, err := embedded.Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stopEngine(t, s) })
		attack(t, s)
	})
}

func attack(t *testing.T, s *embedded.Server) {
	t.Helper()
	const secret = "canary-5f1d"
	dir := t.TempDir()
	file, out := filepath.Join(dir, "secret"), filepath.Join(dir, "out")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	listener, reached := trap(t)
	ask(t, s, "CREATE DATABASE w")
	ask(t, s, "CREATE TABLE w.t (s String) ENGINE = MergeTree ORDER BY s")
	ask(t, s, "CREATE TABLE w.t2 (s String) ENGINE = MergeTree ORDER BY s")
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
		"SELECT * FROM {t:Identifier} SETTINGS param_t = 'FILE'", "SELECT file({x:String}) SETTINGS param_x = 'FILE'", "SELECT {f:Identifier}('FILE')", "SELECT * FROM SQLStandardValues('a String DEFAULT file(\\'FILE\\')', 'x')",
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
		// What 26.7 has beside.
		"SELECT * FROM eval('SELECT file(\\'FILE\\')')", "SELECT * FROM eval('SELECT 1') SETTINGS allow_experimental_eval_table_function = 1", "SELECT * FROM loop(file('FILE', LineAsString)) LIMIT 1",
		"SELECT * FROM filesystem('FILE')", "SELECT * FROM filesystem('DIR')", "SELECT content FROM filesystem('DIR')", "SELECT * FROM icebergLocal('DIR')", "SELECT * FROM deltaLakeLocal('DIR')", "SELECT * FROM paimonLocal('DIR')", "SELECT * FROM hdfs('hdfs://LISTENER/x', 'CSV')",
		"SELECT * FROM jdbc('jdbc:x://LISTENER', 't')", "SELECT * FROM odbc('DSN=x', 't')", "SELECT * FROM arrowstream('LISTENER', 'x')", "SELECT * FROM ytsaurus('http://LISTENER', 'a', 'b', 'c String')", "SELECT * FROM gcs('http://LISTENER/b/x', 'CSV')",
		"SELECT * FROM urlCluster('default', 'http://LISTENER/', LineAsString)", "SELECT * FROM cluster('default', system.one)", "SELECT * FROM clusterAllReplicas('default', system.one)", "SELECT * FROM python('x', 'a String')", "SELECT aiGenerate('x', 'y')", "SELECT aiGenerate('x', 'y') SETTINGS allow_experimental_ai_functions = 1",
		"CREATE TABLE w.q (a String) ENGINE = QueryRunner", "CREATE TABLE w.q (a String) ENGINE = Distributed('default', system, one)", "CREATE TABLE w.q (a String) ENGINE = Remote('LISTENER', system, one)", "CREATE TABLE w.q (a String) ENGINE = EmbeddedRocksDB(0, 'DIR') PRIMARY KEY a",
		"CREATE TABLE w.q (a String) ENGINE = IcebergLocal('DIR')", "CREATE TABLE w.q (a String) ENGINE = SQLite('FILE', 't')", "CREATE TABLE w.q (a String) ENGINE = FileLog('DIR', 'LineAsString')",
		"CREATE TABLE w.q ENGINE = Memory AS SELECT * FROM file('FILE', LineAsString)", "CREATE MATERIALIZED VIEW w.q ENGINE = Memory POPULATE AS SELECT file('FILE') AS s", "CREATE VIEW w.q AS SELECT file('FILE') AS s", "CREATE VIEW w.q AS SELECT * FROM file('FILE', LineAsString)",
		"ALTER TABLE w.t MODIFY COLUMN s DEFAULT file('FILE')", "ALTER TABLE w.t ADD COLUMN z String MATERIALIZED file('FILE')", "ALTER TABLE w.t UPDATE s = file('FILE') WHERE 1", "ALTER TABLE w.t MODIFY TTL toDateTime(file('FILE'))", "ALTER TABLE w.t ADD PROJECTION p (SELECT file('FILE'))",
		"ALTER TABLE w.t MODIFY SETTING disk = disk(type = local, path = 'DIR/')", "ALTER TABLE w.t FETCH PARTITION tuple() FROM '/x'", "ALTER TABLE w.t UNFREEZE WITH NAME 'x'", "ALTER TABLE w.t MOVE PARTITION tuple() TO DISK 'other'", "CREATE TABLE w.p (s String) ENGINE = MergeTree ORDER BY s SETTINGS storage_policy = 'other'",
		"CREATE TABLE w.p (s String) ENGINE = MergeTree ORDER BY s SETTINGS disk = disk(type = s3, endpoint = 'http://LISTENER/b/', access_key_id = 'a', secret_access_key = 'b')", "CREATE TABLE w.p (s String) ENGINE = MergeTree ORDER BY s SETTINGS disk = disk(type = web, endpoint = 'http://LISTENER/')",
		"CREATE DICTIONARY w.d (s String) PRIMARY KEY s SOURCE(EXECUTABLE(command 'cat FILE' format 'LineAsString')) LAYOUT(COMPLEX_KEY_DIRECT())", "CREATE DICTIONARY w.d (s String) PRIMARY KEY s SOURCE(HTTP(url 'http://LISTENER/' format 'CSV')) LAYOUT(COMPLEX_KEY_DIRECT())",
		"CREATE DICTIONARY w.d (s String) PRIMARY KEY s SOURCE(CLICKHOUSE(host 'LISTENER' table 'x')) LAYOUT(COMPLEX_KEY_DIRECT())", "BACKUP TABLE w.t TO Memory('x')", "BACKUP TABLE w.t TO Null", "BACKUP ALL TO S3('http://LISTENER/b/', 'a', 'b')", "RESTORE ALL FROM Disk('default', 'x')", "BACKUP TABLE w.t TO File('x') ASYNC",
		"INSERT INTO w.t VALUES (file('FILE'))", "INSERT INTO w.t FORMAT Values ((SELECT file('FILE')))", "INSERT INTO w.t SETTINGS input_format_values_interpret_expressions = 1 VALUES (catboostEvaluate('FILE', 1))", "INSERT INTO w.t SELECT file('FILE')", "INSERT INTO FUNCTION url('http://LISTENER/', 'CSV', 's String') VALUES ('x')",
		"DESCRIBE (SELECT * FROM file('FILE', LineAsString))", "SELECT (WITH 'FILE' AS p SELECT file(p))", "SELECT * REPLACE(file(s) AS s) FROM (SELECT 'FILE' AS s)", "SELECT * APPLY(x -> file(x)) FROM (SELECT 'FILE')", "SELECT 1 AS file, file('FILE')", "SELECT 1 WHERE file('FILE') != ''", "SELECT if(1, file('FILE'), '')",
		"SELECT $a$x$a$, file($$FILE$$)", "SELECT/**/file/**/('FILE')", "SELECT file -- (\n('FILE')", "SELECT FILE_('x')", "SELECT \u00a0file\u00a0('FILE')", "SELECT file\u2003('FILE')", "\ufeffSYSTEM SHUTDOWN", "/* */ SYSTEM /* */ SHUTDOWN", "-- x\nSYSTEM SHUTDOWN", "#! x\nSYSTEM SHUTDOWN", "(SYSTEM SHUTDOWN)", "EXPLAIN SYSTEM SHUTDOWN", "SYSTEM SHUTDOWN FORMAT CSV",
		"SELECT 1 FORMAT CSV; SYSTEM SHUTDOWN", "INSERT INTO w.t SELECT 'x'; SYSTEM SHUTDOWN", "SELECT 1;;SYSTEM SHUTDOWN", "SELECT '\\\\'; SYSTEM SHUTDOWN; --'", "BEGIN TRANSACTION", "SET TRANSACTION SNAPSHOT 1", "SYSTEM RELOAD CONFIG", "SYSTEM FLUSH LOGS", "SYSTEM SYNC FILE CACHE", "SYSTEM UNFREEZE WITH NAME 'x'",
		"SELECT getServerSetting('max_server_memory_usage') FORMAT Template SETTINGS format_template_row = 'FILE'", "SELECT 1 FORMAT CapnProto SETTINGS format_schema = 'FILE:x'", "SELECT 1 FORMAT ProtobufSingle SETTINGS format_schema_source = 'string', format_schema = 'x'", "SELECT 1 SETTINGS dialect = 'kusto'", "SELECT 1 SETTINGS dialect = 'prql', allow_experimental_prql_dialect = 1",
		"SELECT 1 SETTINGS jemalloc_enable_profiler = 1", "SELECT 1 SETTINGS ast_fuzzer_runs = 5", "SELECT 1 SETTINGS max_memory_usage = 0", "SELECT 1 SETTINGS max_untracked_memory = 99999999999", "SELECT 1 SETTINGS max_threads = 9999", "SELECT 1 SETTINGS implicit_select = 1",
		"SELECT * FROM (SELECT 1 SETTINGS dialect = 'prql')", "SELECT * FROM (SELECT 1 SETTINGS a = 1, max_untracked_memory = 99999999999)", "SELECT * FROM (SELECT * FROM eval('SELECT 1') SETTINGS allow_experimental_eval_table_function = 1)", "CREATE VIEW w.q AS SELECT 1 SETTINGS max_memory_usage = 0, dialect = 'prql'", "CREATE USER x IDENTIFIED WITH no_password", "SHOW CREATE USER default", "CREATE ROW POLICY p ON w.t USING 1 TO ALL", "CREATE QUOTA q", "MOVE USER x TO y",
		"CREATE TEMPORARY TABLE q (s String) ENGINE = File(LineAsString, 'FILE')", "CREATE TEMPORARY TABLE q AS file('FILE', LineAsString)", "CREATE TEMPORARY TABLE q AS SELECT * FROM file('FILE', LineAsString)", "CREATE TEMPORARY TABLE q (s String DEFAULT file('FILE'))", "CREATE TEMPORARY TABLE q (a UInt8); SYSTEM SHUTDOWN",
		"CREATE OR REPLACE TEMPORARY TABLE q ENGINE = URL('http://LISTENER/', CSV) AS SELECT 1", "SET max_threads = 1; SYSTEM SHUTDOWN", "SET max_threads = (SELECT file('FILE'))", "SET max_threads = 1, profile = 'x'", "SET param_x = 'y'", "SET DEFAULT ROLE NONE TO default", "USE w SETTINGS x = 1",
		"KILL QUERY WHERE query_id = 'x'; SYSTEM SHUTDOWN", "KILL QUERY WHERE query_id = file('FILE')", "SELECT * FROM w.t INTO OUTFILE 'OUT' AND STDOUT", "SELECT 1 INTO OUTFILE $$OUT$$", "INSERT INTO w.t FROM INFILE 'FILE'", "INSERT INTO w.t (s) FROM INFILE 'FILE' SETTINGS x = 1 FORMAT LineAsString", "INSERT INTO w.t FROM `INFILE` 'FILE' FORMAT CSV",
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
		// The same within others: they may fail or not, but not tell.
		if strings.HasPrefix(strings.ToUpper(strings.TrimSpace(q)), "SELECT") {
			for _, within := range []string{"WITH x AS (%s) SELECT * FROM x", "CREATE OR REPLACE VIEW w.within AS %s", "INSERT INTO w.t2 SELECT * FROM (%s)"} {
				if _, _, body := post(t, s, nil, strings.NewReader(fmt.Sprintf(within, q))); strings.Contains(body, secret) {
					t.Errorf("%s within %s: %s", q, within, body)
				}
			}
			if _, _, body := post(t, s, nil, strings.NewReader("SELECT * FROM w.within")); strings.Contains(body, secret) {
				t.Errorf("%s by a view: %s", q, body)
			}
			before := reached()
			if before != 0 {
				t.Fatalf("%s: another host was reached", q)
			}
		}
	}
	if n := reached(); n != 0 {
		t.Errorf("another host was reached %d times", n)
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
	if got := ask(t, s, "SELECT count() FROM w.t2 WHERE s LIKE '%canary%'"); got != "0\n" {
		t.Errorf("an attack brought %s rows in", got)
	}
	for name, body := range map[string]string{
		"values":    multipartOf("Values", "x String", "(file('"+file+"'))"),
		"structure": multipartOf("TSV", "x String DEFAULT file('"+file+"')", "a"), "structure 2": multipartOf("TSV", "x String) ENGINE = File(CSV, '"+file+"'", "a"), "structure 3": multipartOf("TSV", "x String) AS SELECT file('"+file+"') --", "a"),
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/?"+url.Values{"query": {"SELECT * FROM e"}, "e_structure": {field(body, 1)}, "e_format": {field(body, 0)}}.Encode(), strings.NewReader(field(body, 2)))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(s.Auth())
		req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if cerr := resp.Body.Close(); err != nil || cerr != nil || resp.StatusCode == http.StatusOK || strings.Contains(string(b), secret) {
			t.Errorf("external table by %s: status %d: %s, %v", name, resp.StatusCode, b, err)
		}
	}
	if s.Restarts() != 0 {
		t.Errorf("the engine died %d times", s.Restarts())
	}
}

// multipartOf is an external table "e": its format, its structure and the body that brings it, in one text.
func multipartOf(format, structure, data string) string {
	return format + "\x00" + structure + "\x00" + "--b\r\nContent-Disposition: form-data; name=\"e\"; filename=\"e\"\r\n\r\n" + data + "\r\n--b--\r\n"
}

func field(text string, i int) string { return strings.Split(text, "\x00")[i] }

// trap listens where no statement may reach, and counts who comes.
func trap(t *testing.T) (addr string, reached func() int64) {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, aerr := l.Accept()
			if aerr != nil {
				return
			}
			n.Add(1)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), n.Load
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
