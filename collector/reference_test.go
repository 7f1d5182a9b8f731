package collector_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/broker"
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

// What a plain program does: one JSON message a row.

const referenceStream, referenceSubject, referenceTable = "REFERENCE", "reference.rows", "reference_rows"

type referenceRow struct {
	TsMs   int64     `json:"ts_ms"`
	Node   string    `json:"node"`
	UUID   string    `json:"gpu_uuid"`
	GPU    uint32    `json:"gpu"`
	Values [23]int64 `json:"values"`
}

func referenceConn(tb testing.TB, cfg childConfig) driver.Conn {
	tb.Helper()
	conn, err := openReference(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

func openReference(cfg childConfig) (driver.Conn, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	return clickhouse.Open(&clickhouse.Options{
		Addr: []string{u.Host}, Protocol: clickhouse.HTTP, Auth: clickhouse.Auth{Username: cfg.User, Password: cfg.Password, Database: cfg.Database},
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
	})
}

func makeReference(tb testing.TB, b *bench, conn driver.Conn) {
	tb.Helper()
	columns := ""
	for i := range 23 {
		columns += fmt.Sprintf(", v%d Int64 CODEC(Delta, ZSTD(1))", i)
	}
	err := conn.Exec(tb.Context(), "CREATE TABLE IF NOT EXISTS "+referenceTable+" (ts_ms Int64 CODEC(Delta, ZSTD(1)), node LowCardinality(String), gpu_uuid LowCardinality(String), gpu UInt32"+columns+") ENGINE = MergeTree ORDER BY (node, gpu, ts_ms)")
	if err != nil {
		tb.Fatal(err)
	}
	_, err = b.js.CreateOrUpdateStream(tb.Context(), jetstream.StreamConfig{Name: referenceStream, Subjects: []string{referenceSubject}, Storage: jetstream.FileStorage})
	if err != nil {
		tb.Fatal(err)
	}
}

func publishReference(tb testing.TB, b *bench, rows, n int) {
	tb.Helper()
	r := referenceRow{}
	noise := uint64(n)
	for i := range rows {
		r.TsMs, r.Node, r.GPU = startMs+int64(i/160)*1000, fmt.Sprintf("n%d", i/8%20), uint32(i%8)
		r.UUID = fmt.Sprintf("GPU-%s-%d", r.Node, r.GPU)
		for k := range r.Values {
			noise = noise*6364136223846793005 + 1442695040888963407
			r.Values[k] = int64(noise>>40)%400 + 4000
		}
		text, err := json.Marshal(&r)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := b.js.PublishAsync(referenceSubject, text); err != nil {
			tb.Fatal(err)
		}
		if i%2000 == 0 {
			<-b.js.PublishAsyncComplete()
		}
	}
	<-b.js.PublishAsyncComplete()
}

func referenceIdle(tb testing.TB, conn driver.Conn, rows int) error {
	tb.Helper()
	for {
		var n uint64
		if err := conn.QueryRow(tb.Context(), "SELECT count() FROM "+referenceTable).Scan(&n); err != nil {
			return err
		}
		if n >= uint64(rows) {
			return nil
		}
		<-time.After(100 * time.Millisecond)
	}
}

// runReference pulls 10,000 messages, inserts them as one batch, acknowledges them all with the last.
func runReference(ctx context.Context, cfg childConfig) error {
	nc, err := broker.Connect(broker.ConnectConfig{URL: cfg.NATS, Name: "reference"})
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, referenceStream, jetstream.ConsumerConfig{Durable: "reference", AckPolicy: jetstream.AckAllPolicy, MaxAckPending: -1})
	if err != nil {
		return err
	}
	conn, err := openReference(cfg)
	if err != nil {
		return err
	}
	for {
		got, err := consumer.Fetch(10_000, jetstream.FetchMaxWait(200*time.Millisecond))
		if err != nil {
			return err
		}
		insert, err := conn.PrepareBatch(ctx, "INSERT INTO "+referenceTable)
		if err != nil {
			return err
		}
		var last jetstream.Msg
		for m := range got.Messages() {
			var r referenceRow
			if err := json.Unmarshal(m.Data(), &r); err != nil {
				return err
			}
			row := []any{r.TsMs, r.Node, r.UUID, r.GPU}
			for _, v := range r.Values {
				row = append(row, v)
			}
			if err := insert.Append(row...); err != nil {
				return err
			}
			last = m
		}
		if last == nil {
			if err := insert.Abort(); err != nil {
				return err
			}
			continue
		}
		if err := insert.Send(); err != nil {
			return err
		}
		if err := last.Ack(); err != nil {
			return err
		}
	}
}
