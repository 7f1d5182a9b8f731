package embedded_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// nativeBlock appends a block of the Native format, revision 0, with the rows [from, to).
func nativeBlock(tb testing.TB, dst []byte, from, to int) []byte {
	tb.Helper()
	id, text, value := new(proto.ColUInt64), new(proto.ColStr), new(proto.ColFloat64).Nullable()
	lc := new(proto.ColStr).LowCardinality()
	for i := from; i < to; i++ {
		id.Append(uint64(i))
		text.Append(fmt.Sprintf("row\n\n%d", i))
		lc.Append([]string{"H100", "B200"}[i%2])
		value.Append(proto.Nullable[float64]{Set: i%3 != 0, Value: float64(i) / 2})
	}
	if err := lc.Prepare(); err != nil {
		tb.Fatal(err)
	}
	block := proto.Block{Columns: 4, Rows: to - from}
	buf := proto.Buffer{Buf: dst}
	if err := block.EncodeRawBlock(&buf, 0, []proto.InputColumn{{Name: "id", Data: id}, {Name: "text", Data: text}, {Name: "gpu", Data: lc}, {Name: "value", Data: value}}); err != nil {
		tb.Fatal(err)
	}
	return buf.Buf
}

const nativeTable = "CREATE TABLE n.t (id UInt64, text String, gpu LowCardinality(String), value Nullable(Float64)) ENGINE = MergeTree ORDER BY id"

func TestNativeBlocks(t *testing.T) {
	t.Parallel()
	s := testenv.ClickHouseServer(t, t.TempDir())
	ask(t, s, "CREATE DATABASE n")
	ask(t, s, nativeTable)
	var body []byte
	const rows, blocks = 20000, 5
	for b := range blocks {
		body = nativeBlock(t, body, b*rows, (b+1)*rows)
	}
	insert := url.Values{"query": {"INSERT INTO n.t FORMAT Native"}, "insert_deduplication_token": {"s/1-5/t"}}
	code, h, text := post(t, s, insert, bytes.NewReader(body))
	if code != http.StatusOK || text != "" {
		t.Fatalf("insert: status %d: %s", code, text)
	}
	if sum := h.Get("X-ClickHouse-Summary"); !strings.Contains(sum, `"written_rows":"100000"`) {
		t.Errorf("summary %s", sum)
	}
	want := "100000\t4999950000\t66666\tB200,H100\n"
	query := "SELECT count(), sum(id), countIf(value IS NOT NULL AND value = id / 2), arrayStringConcat(arraySort(groupUniqArray(gpu)), ',') FROM n.t WHERE text = concat('row\\n\\n', toString(id))"
	if got := ask(t, s, query); got != want {
		t.Errorf("read back %q, want %q", got, want)
	}
	// The same token is dropped, and so is the same content without one; another token is not.
	if code, _, text = post(t, s, insert, bytes.NewReader(body)); code != http.StatusOK {
		t.Fatalf("repeat: status %d: %s", code, text)
	}
	if got := ask(t, s, query); got != want {
		t.Errorf("after the same token %q, want %q", got, want)
	}
	insert.Set("insert_deduplication_token", "s/6-10/t")
	if code, _, text = post(t, s, insert, bytes.NewReader(body)); code != http.StatusOK {
		t.Fatalf("other token: status %d: %s", code, text)
	}
	if got := ask(t, s, "SELECT count() FROM n.t"); got != "200000\n" {
		t.Errorf("after another token %q rows", got)
	}
	// A body that is cut must not be acknowledged.
	insert.Set("insert_deduplication_token", "cut")
	if code, _, text = post(t, s, insert, bytes.NewReader(body[:len(body)-7])); code == http.StatusOK {
		t.Errorf("a cut body was accepted: %s", text)
	}
	// Compressed as a whole.
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	if _, err := zw.Write(nativeBlock(t, nil, 1e6, 1e6+10)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/?"+url.Values{"query": {"INSERT INTO n.t FORMAT Native"}}.Encode(), &z)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(s.Auth())
	req.Header.Set("Content-Encoding", "gzip")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err = resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("gzip insert: %s, %v", resp.Status, err)
	}
	if got := ask(t, s, "SELECT count() FROM n.t WHERE id >= 1000000"); got != "10\n" {
		t.Errorf("gzip insert left %q rows", got)
	}
}

// TestProtocol goes through what curl and the clients rely on, one request a line.
func TestProtocol(t *testing.T) {
	t.Parallel()
	s := testenv.ClickHouseServer(t, t.TempDir())
	ask(t, s, "CREATE DATABASE p")
	ask(t, s, "CREATE TABLE p.t (a UInt32, b String) ENGINE = MergeTree ORDER BY a")
	v := func(kv ...string) url.Values {
		out := url.Values{}
		for i := 0; i < len(kv); i += 2 {
			out.Set(kv[i], kv[i+1])
		}
		return out
	}
	for _, c := range []struct {
		parameters url.Values
		body       string
		status     int
		want       string // exact for 200, else contained
	}{
		{nil, "SELECT 1", 200, "1\n"},
		{nil, "  -- a comment\n/* and ; another */ SELECT 1;", 200, "1\n"},
		{v("query", "SELECT 1 +"), "1", 200, "2\n"},
		{v("query", "SELECT 1", "default_format", "JSONEachRow"), "", 200, "{\"1\":1}\n"},
		{v("default_format", "CSV"), "SELECT 'a', 1 FORMAT TSV", 200, "a\t1\n"},
		{nil, "SELECT 1 AS x FORMAT JSONCompactEachRow", 200, "[1]\n"},
		{nil, "SELECT 1 AS x, 'y' AS z FORMAT TSVWithNames", 200, "x\tz\n1\ty\n"},
		{nil, "SELECT 1 WHERE 0", 200, ""},
		{v("param_x", "it's a \\tab", "param_n", "7"), "SELECT {x:String}, {n:UInt8} + 1", 200, "it\\'s a \\tab\t8\n"},
		{v("max_block_size", "7"), "SELECT getSetting('max_block_size')", 200, "7\n"},
		{v("database", "p"), "SELECT currentDatabase()", 200, "p\n"},
		{nil, "INSERT INTO p.t VALUES (1, 'x;y'), (2, 'FORMAT CSV')", 200, ""},
		{v("query", "INSERT INTO p.t (b, a) FORMAT CSV"), "\"three\n\n\",3\nfour,4\n", 200, ""},
		{nil, "INSERT INTO p.t FORMAT TSV\n5\tfive\n6\tsix\n", 200, ""},
		{v("query", "INSERT INTO p.t VALUES"), "(7, 'seven')", 200, ""},
		{nil, "INSERT INTO p.t SETTINGS max_insert_block_size = 100 FORMAT JSONEachRow {\"a\":8,\"b\":\"eight\"}", 200, ""},
		{nil, "INSERT INTO p.t SELECT number + 100, 'n' FROM numbers(3)", 200, ""},
		{nil, "INSERT INTO p.t (a) SELECT 200", 200, ""},
		{nil, "SELECT count(), sum(a), countIf(b IN ('x;y', 'FORMAT CSV', 'three\\n\\n', 'seven')) FROM p.t", 200, "12\t539\t4\n"},
		{nil, "EXISTS TABLE p.t", 200, "1\n"},
		{nil, "SHOW TABLES FROM p", 200, "t\n"},
		{nil, "SELECT nosuch FROM p.t", 404, "Code: 47."},
		{nil, "SELECT * FROM p.nosuch", 404, "Code: 60."},
		{nil, "SELECT * FROM p.t FORMAT NoSuch", 404, "Code: 73."},
		{nil, "SELEC", 400, "Code: 62."}, {nil, "exit", 400, "Code: 62."},
		{v("nosuch", "1"), "SELECT 1", 404, "Code: 115."},
		{nil, "INSERT INTO p.t FORMAT TSV\nnot a number\tx\n", 400, "Code: 27."},
		{nil, "SELECT sum(number) FROM numbers(100000000000) SETTINGS max_execution_time = 0.1", 408, "Code: 159."},
		{nil, "SELECT groupArray(number) FROM numbers(100000000) SETTINGS max_memory_usage = 1000000", 500, "Code: 241."},
		{v("session_id", "one", "session_check", "1"), "SELECT 1", 404, "Code: 372."},
		{v("session_id", "one", "max_block_size", "9"), "SELECT 1", 200, "1\n"},
		// A setting of the URL ends with its query, one that was SET with the session, as on a server.
		{v("session_id", "one"), "SELECT getSetting('max_block_size')", 200, "65409\n"},
		{v("session_id", "one"), "SET max_block_size = 11, max_threads = 3;", 200, ""},
		{v("session_id", "one", "max_block_size", "9", "database", "p"), "SELECT getSetting('max_block_size'), currentDatabase()", 200, "9\tp\n"},
		{v("session_id", "one"), "SELECT getSetting('max_block_size'), currentDatabase()", 200, "11\tdefault\n"},
		{v("session_id", "one", "readonly", "1"), "SELECT 1", 200, "1\n"},
		{v("session_id", "one"), "USE p", 200, ""},
		{v("session_id", "one"), "CREATE TEMPORARY TABLE mine (a UInt8)", 200, ""},
		{v("session_id", "one"), "INSERT INTO mine VALUES (5)", 200, ""},
		{v("session_id", "one"), "SELECT a, currentDatabase() FROM mine", 200, "5\tp\n"},
		{v("session_id", "two"), "SELECT a FROM mine", 404, "Code: 60."},
		{nil, "SET max_block_size = 1", 200, ""},
		{nil, "SELECT getSetting('max_block_size')", 200, "65409\n"},
		{v("role", "admin"), "SELECT 1", 200, "1\n"},
		{v("role", "other"), "SELECT 1", 403, "Code: 512."},
		{v("wait_end_of_query", "1"), "SELECT throwIf(number = 5000) FROM numbers(10000) SETTINGS max_block_size = 10, max_threads = 1", 500, "Code: 395."},
		{v("max_result_bytes", "1000"), "SELECT repeat('x', 10000) FROM numbers(10) FORMAT JSON", 400, "Code: 396."},
		{v("wait_end_of_query", "1"), "SELECT number FROM numbers(2)", 200, "0\n1\n"},
	} {
		code, h, body := post(t, s, c.parameters, strings.NewReader(c.body))
		if code != c.status || code == 200 && body != c.want || !strings.Contains(body, c.want) {
			t.Errorf("%v %q: status %d, body %q; want %d, %q", c.parameters, c.body, code, body, c.status, c.want)
		}
		if code != 200 && !strings.Contains(body, "Code: "+h.Get("X-ClickHouse-Exception-Code")+".") {
			t.Errorf("%q: exception code %q for %s", c.body, h.Get("X-ClickHouse-Exception-Code"), body)
		}
	}
	t.Run("middle", func(t *testing.T) {
		code, h, body := post(t, s, nil, strings.NewReader("SELECT throwIf(number = 500, 'boom') FROM numbers(1000) SETTINGS max_block_size = 10, max_threads = 1"))
		tag := h.Get("X-ClickHouse-Exception-Tag")
		if code != 200 || tag == "" || !strings.Contains(body, "\r\n__exception__\r\n"+tag+"\r\nCode: 395.") || !strings.HasSuffix(body, " "+tag+"\r\n__exception__\r\n") {
			t.Errorf("status %d, tag %q, body ends %q", code, tag, body[max(0, len(body)-300):])
		}
	})
	t.Run("large refused body", func(t *testing.T) {
		for range 20 {
			code, _, body := post(t, s, url.Values{"query": {"INSERT INTO p.nosuch FORMAT TSV"}}, strings.NewReader(strings.Repeat("1\tx\n", 2<<20)))
			if code != http.StatusNotFound || !strings.Contains(body, "Code: 60.") {
				t.Fatalf("status %d: %s", code, body)
			}
		}
	})
	t.Run("get", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL()+"/?query=DROP+TABLE+p.t", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(s.Auth())
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err = resp.Body.Close(); err != nil || resp.StatusCode != http.StatusForbidden {
			t.Errorf("GET changed data: %s, %v", resp.Status, err)
		}
	})
	t.Run("ping", func(t *testing.T) {
		resp, err := http.Get(s.URL() + "/ping")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if cerr := resp.Body.Close(); err != nil || cerr != nil || string(b) != "Ok.\n" {
			t.Errorf("ping says %q, %v", b, err)
		}
	})
}

// TestParallelRequests shows that requests do not wait for each other, up to the bound, and that a hundred clients get their own answers.
func TestParallelRequests(t *testing.T) {
	t.Parallel()
	s := testenv.ClickHouseServer(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			want := fmt.Sprintf("%d\n", i)
			code, _, body := post(t, s, url.Values{"param_i": {fmt.Sprint(i)}}, strings.NewReader("SELECT {i:UInt32}"))
			if code != http.StatusOK || body != want {
				t.Errorf("client %d: status %d, %q", i, code, body)
			}
		})
	}
	wg.Wait()
}

func TestCurl(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	testenv.Need(t, "curl", err)
	s := testenv.ClickHouseServer(t, t.TempDir())
	run := func(stdin string, args ...string) string {
		t.Helper()
		user, password := s.Auth()
		cmd := exec.CommandContext(t.Context(), curl, append([]string{"-sS", "--fail-with-body", "-u", user + ":" + password}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, cerr := cmd.CombinedOutput()
		if cerr != nil {
			t.Fatalf("curl %v: %v: %s", args, cerr, out)
		}
		return string(out)
	}
	run("", s.URL(), "-d", "CREATE DATABASE c")
	run("", s.URL()+"/?database=c", "-d", "CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
	run("1\n2\n3\n", s.URL()+"/?query=INSERT+INTO+c.t+FORMAT+TSV", "-H", "Transfer-Encoding: chunked", "--data-binary", "@-")
	if got := run("", "-G", s.URL(), "--data-urlencode", "query=SELECT sum(a) FROM c.t"); got != "6\n" {
		t.Errorf("GET gave %q", got)
	}
	if got := run("SELECT a FROM c.t ORDER BY a", s.URL(), "--compressed", "--data-binary", "@-"); got != "1\n2\n3\n" {
		t.Errorf("compressed gave %q", got)
	}
}

// TestCurlCompression asks for and sends each encoding as curl and scripts do, with an error in the middle of a compressed result.
func TestCurlCompression(t *testing.T) {
	t.Parallel()
	s := testenv.ClickHouseServer(t, t.TempDir())
	ask(t, s, "CREATE DATABASE c")
	ask(t, s, "CREATE TABLE c.t (a UInt64) ENGINE = MergeTree ORDER BY a")
	type reply struct {
		Status     string
		StatusCode int
		Header     http.Header
	}
	do := func(q url.Values, encoding, accept string, body []byte) (reply, []byte) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/?"+q.Encode(), bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(s.Auth())
		req.Header.Set("Accept-Encoding", accept)
		if encoding != "" {
			req.Header.Set("Content-Encoding", encoding)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if cerr := resp.Body.Close(); err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
		return reply{resp.Status, resp.StatusCode, resp.Header}, b
	}
	codecs := map[string]struct {
		w func(io.Writer) io.WriteCloser
		r func(io.Reader) io.Reader
	}{
		"gzip":    {func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, func(r io.Reader) io.Reader { z, _ := gzip.NewReader(r); return z }},
		"deflate": {func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }, func(r io.Reader) io.Reader { z, _ := zlib.NewReader(r); return z }},
		"br":      {func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) }, func(r io.Reader) io.Reader { return brotli.NewReader(r) }},
		"zstd":    {func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z }, func(r io.Reader) io.Reader { z, _ := zstd.NewReader(r); return z }},
		"lz4":     {func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) }, func(r io.Reader) io.Reader { return lz4.NewReader(r) }},
	}
	n := 0
	for name, c := range codecs {
		var b bytes.Buffer
		w := c.w(&b)
		for range 1000 {
			n++
			if _, err := fmt.Fprintln(w, n); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if resp, text := do(url.Values{"query": {"INSERT INTO c.t FORMAT TSV"}}, name, "", b.Bytes()); resp.StatusCode != http.StatusOK {
			t.Errorf("insert by %s: %s: %s", name, resp.Status, text)
		}
		if resp, text := do(url.Values{"query": {"INSERT INTO c.t FORMAT TSV"}}, name, "", b.Bytes()[:b.Len()/2]); resp.StatusCode == http.StatusOK {
			t.Errorf("half an insert by %s: %s: %s", name, resp.Status, text)
		}
		resp, body := do(nil, "", name, []byte("SELECT throwIf(number = 50000, 'boom'), number FROM numbers(100000) SETTINGS max_block_size = 100, max_threads = 1"))
		plain, _ := io.ReadAll(c.r(bytes.NewReader(body)))
		tag := resp.Header.Get("X-ClickHouse-Exception-Tag")
		if resp.Header.Get("Content-Encoding") != name || !strings.Contains(string(plain), "0\t49000\n") || !strings.HasSuffix(string(plain), " "+tag+"\r\n__exception__\r\n") || !strings.Contains(string(plain), "Code: 395.") {
			t.Errorf("error within %s (%s): ends %q", name, resp.Header.Get("Content-Encoding"), plain[max(0, len(plain)-200):])
		}
	}
	if got := ask(t, s, "SELECT count(), uniqExact(a) FROM c.t"); got != fmt.Sprintf("%d\t%[1]d\n", n) {
		t.Errorf("the table has %q, want %d", got, n)
	}
	if resp, body := do(nil, "xz", "", []byte("x")); resp.StatusCode != http.StatusNotImplemented {
		t.Errorf("xz: %s: %s", resp.Status, body)
	}
}
