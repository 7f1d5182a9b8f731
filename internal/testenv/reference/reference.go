// Package reference is what the collector is compared with in benchmarks: a plain program that takes
// JSON from JetStream, one message a row, to ClickHouse by clickhouse-go's batches. For tests alone.
package reference

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/flopwatch/flopwatch/internal/broker"
)

// Config says where broker and store are.
type Config struct{ NATS, URL, User, Password, Database string }

const firstMs = int64(1_717_200_000_000)

const stream, subject, table = "REFERENCE", "reference.rows", "reference_rows"

type row struct {
	TsMs   int64     `json:"ts_ms"`
	Node   string    `json:"node"`
	UUID   string    `json:"gpu_uuid"`
	GPU    uint32    `json:"gpu"`
	Values [23]int64 `json:"values"`
}

// Conn connects to the store until the test ends.
func Conn(tb testing.TB, cfg Config) driver.Conn {
	tb.Helper()
	conn, err := open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

func open(cfg Config) (driver.Conn, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	return clickhouse.Open(&clickhouse.Options{
		Addr: []string{u.Host}, Protocol: clickhouse.HTTP, Auth: clickhouse.Auth{Username: cfg.User, Password: cfg.Password, Database: cfg.Database},
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
	})
}

// Make makes table and stream.
func Make(tb testing.TB, js jetstream.JetStream, conn driver.Conn) {
	tb.Helper()
	var columns strings.Builder
	for i := range 23 {
		_, _ = fmt.Fprintf(&columns, ", v%d Int64 CODEC(Delta, ZSTD(1))", i)
	}
	err := conn.Exec(tb.Context(), "CREATE TABLE IF NOT EXISTS "+table+" (ts_ms Int64 CODEC(Delta, ZSTD(1)), node LowCardinality(String), gpu_uuid LowCardinality(String), gpu UInt32"+columns.String()+") ENGINE = MergeTree ORDER BY (node, gpu, ts_ms)")
	if err != nil {
		tb.Fatal(err)
	}
	_, err = js.CreateOrUpdateStream(tb.Context(), jetstream.StreamConfig{Name: stream, Subjects: []string{subject}, Storage: jetstream.FileStorage})
	if err != nil {
		tb.Fatal(err)
	}
}

// Publish publishes rows, a message each; n makes their noise.
func Publish(tb testing.TB, js jetstream.JetStream, rows, n int) {
	tb.Helper()
	var r row
	noise := uint64(n)
	for i := range rows {
		r.TsMs, r.Node, r.GPU = firstMs+int64(i/160)*1000, fmt.Sprintf("n%d", i/8%20), uint32(i%8)
		r.UUID = fmt.Sprintf("GPU-%s-%d", r.Node, r.GPU)
		for k := range r.Values {
			noise = noise*6364136223846793005 + 1442695040888963407
			r.Values[k] = int64(noise>>40)%400 + 4000
		}
		text, err := json.Marshal(&r)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := js.PublishAsync(subject, text); err != nil {
			tb.Fatal(err)
		}
		if i%2000 == 0 {
			<-js.PublishAsyncComplete()
		}
	}
	<-js.PublishAsyncComplete()
}

// WaitRows waits until the table has rows.
func WaitRows(tb testing.TB, conn driver.Conn, rows int) error {
	tb.Helper()
	for {
		var n uint64
		if err := conn.QueryRow(tb.Context(), "SELECT count() FROM "+table).Scan(&n); err != nil {
			return err
		}
		if n >= uint64(rows) {
			return nil
		}
		<-time.After(100 * time.Millisecond)
	}
}

// Run pulls 10,000 messages, inserts them as one batch, acknowledges them all with the last.
func Run(ctx context.Context, cfg Config) error {
	nc, err := broker.Connect(broker.ConnectConfig{URL: cfg.NATS, Name: "reference"})
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{Durable: "reference", AckPolicy: jetstream.AckAllPolicy, MaxAckPending: -1})
	if err != nil {
		return err
	}
	conn, err := open(cfg)
	if err != nil {
		return err
	}
	for {
		got, err := consumer.Fetch(10_000, jetstream.FetchMaxWait(200*time.Millisecond))
		if err != nil {
			return err
		}
		insert, err := conn.PrepareBatch(ctx, "INSERT INTO "+table)
		if err != nil {
			return err
		}
		var last jetstream.Msg
		for m := range got.Messages() {
			var r row
			if err := json.Unmarshal(m.Data(), &r); err != nil {
				return err
			}
			values := []any{r.TsMs, r.Node, r.UUID, r.GPU}
			for _, v := range r.Values {
				values = append(values, v)
			}
			if err := insert.Append(values...); err != nil {
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
