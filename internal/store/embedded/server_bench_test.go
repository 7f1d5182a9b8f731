package embedded_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// BenchmarkInsertNative posts blocks of 100,000 rows as the collector does.
func BenchmarkInsertNative(b *testing.B) {
	s := testenv.ClickHouseServer(b, b.TempDir())
	do := func(q url.Values, body []byte) {
		req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, s.URL()+"/?"+q.Encode(), bytes.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		req.SetBasicAuth(s.Auth())
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		if err = resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			b.Fatal(resp.Status, err)
		}
	}
	do(nil, []byte("CREATE DATABASE n"))
	do(nil, []byte(nativeTable))
	const rows = 100000
	block := nativeBlock(b, nil, 0, rows)
	b.SetBytes(int64(len(block)))
	i := 0
	for b.Loop() {
		i++
		do(url.Values{"query": {"INSERT INTO n.t FORMAT Native"}, "insert_deduplication_token": {fmt.Sprint(i)}}, block)
	}
	b.ReportMetric(float64(rows)*float64(i)/b.Elapsed().Seconds(), "rows/s")
}
