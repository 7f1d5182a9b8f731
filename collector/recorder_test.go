package collector_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// recorder is a front that keeps the inserts of GPU rows that pass it.
type recorder struct {
	url    string
	target string
	proxy  http.Handler
	mu     sync.Mutex
	query  []string // of each insert
	header http.Header
	body   [][]byte
	rows   int
}

func newRecorder(tb testing.TB, target string) *recorder {
	tb.Helper()
	u, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	r := &recorder{target: target, proxy: quietProxy(u)}
	ln := listen(tb)
	srv := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	tb.Cleanup(func() { _ = srv.Close() })
	r.url = "http://" + ln.Addr().String()
	return r
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if strings.Contains(req.URL.Query().Get("query"), "`gpu_samples`") && strings.HasPrefix(req.URL.Query().Get("query"), "INSERT") {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
		r.mu.Lock()
		r.query, r.header, r.body = append(r.query, req.URL.RawQuery), req.Header.Clone(), append(r.body, body)
		r.rows += nativeRows(body)
		r.mu.Unlock()
	}
	r.proxy.ServeHTTP(w, req)
}

// nativeRows reads the number of rows of a block: behind the number of columns, both varints.
func nativeRows(body []byte) (n int) {
	for i, skipped := 0, false; i < len(body); i++ {
		if skipped {
			shift := 0
			for ; ; i++ {
				n |= int(body[i]&0x7f) << shift
				if shift += 7; body[i] < 0x80 {
					return n
				}
			}
		}
		skipped = body[i] < 0x80
	}
	return 0
}

// again sends what was kept once more, straight to the engine, into the same table.
func (r *recorder) again(tb testing.TB, n int) {
	tb.Helper()
	for i, q := range r.query {
		v, err := url.ParseQuery(q)
		if err != nil {
			tb.Fatal(err)
		}
		v.Set("insert_deduplication_token", fmt.Sprintf("again/%d/%d", n, i))
		req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, r.target+"/?"+v.Encode(), bytes.NewReader(r.body[i]))
		if err != nil {
			tb.Fatal(err)
		}
		req.Header = r.header.Clone()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			tb.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			tb.Fatalf("%s %s %v", resp.Status, text, err)
		}
	}
}
