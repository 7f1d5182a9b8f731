package embedded_test

import (
	"context"
	"errors"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// open connects clickhouse-go over HTTP.
func open(tb testing.TB, s *embedded.Server, method clickhouse.CompressionMethod) driver.Conn {
	tb.Helper()
	u, err := url.Parse(s.URL())
	if err != nil {
		tb.Fatal(err)
	}
	user, password := s.Auth()
	conn, err := clickhouse.Open(&clickhouse.Options{
		Protocol: clickhouse.HTTP, Addr: []string{u.Host},
		Auth:        clickhouse.Auth{Database: "default", Username: user, Password: password},
		Compression: &clickhouse.Compression{Method: method, Level: 1},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if cerr := conn.Close(); cerr != nil {
			tb.Errorf("close: %v", cerr)
		}
	})
	return conn
}

func TestClickHouseGo(t *testing.T) {
	t.Parallel()
	s := testenv.ClickHouseServer(t, t.TempDir())
	for name, method := range map[string]clickhouse.CompressionMethod{
		"none": clickhouse.CompressionNone, "lz4": clickhouse.CompressionLZ4, "zstd": clickhouse.CompressionZSTD,
		"gzip": clickhouse.CompressionGZIP, "deflate": clickhouse.CompressionDeflate, "br": clickhouse.CompressionBrotli,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := open(t, s, method)
			db := "go_" + name
			roundTrip(t, conn, db)
			exceptions(t, conn)
		})
	}
}

// roundTrip creates a table with the types that flopwatch uses, fills it by a batch and reads it back.
func roundTrip(t *testing.T, conn driver.Conn, db string) {
	t.Helper()
	ctx := t.Context()
	if err := conn.Ping(ctx); err != nil {
		t.Fatalf("ping: %v", err)
	}
	for _, q := range []string{
		"CREATE DATABASE " + db,
		"CREATE TABLE " + db + `.t (
			i8 Int8, i16 Int16, i32 Int32, i64 Int64, u8 UInt8, u16 UInt16, u32 UInt32, u64 UInt64 CODEC(Delta, T64, ZSTD(1)),
			f32 Float32, f64 Float64, s String COMMENT 'free text', lc LowCardinality(String), n Nullable(Float64), nlc LowCardinality(Nullable(String)),
			a Array(UInt16), an Array(Nullable(Int64)), m Map(LowCardinality(String), String), at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)), d Date, b Bool, fs FixedString(16), id UUID
		) ENGINE = ReplacingMergeTree ORDER BY (i32) PARTITION BY toYYYYMM(at) TTL toDateTime(at) + INTERVAL 3000 DAY`,
	} {
		if err := conn.Exec(ctx, q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	at := time.Date(2026, 3, 4, 5, 6, 7, 890e6, time.UTC)
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO "+db+".t")
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	const rows = 3000
	ratio, label := 0.25, "x"
	for i := range rows {
		n, nlc := &ratio, &label
		if i%2 == 0 {
			n, nlc = nil, nil
		}
		var k int64 = 7
		if err = batch.Append(int8(-1), int16(-2), int32(i), int64(-4), uint8(5), uint16(6), uint32(7), uint64(1)<<63+uint64(i), float32(0.5), 2.5,
			"text\n\n\x00'", "H100", n, nlc, []uint16{1, 2, 3}, []*int64{nil, &k}, map[string]string{"a": "b"}, at, at, true, "0123456789abcdef",
			"61f0c404-5cb3-11e7-907b-a6006ad3dba0"); err != nil {
			t.Fatalf("append: %v", err)
		}
	}
	if err = batch.Send(); err != nil {
		t.Fatalf("send: %v", err)
	}
	var (
		u64    uint64
		f64    float64
		text   string
		lc     string
		n      *float64
		nlc    *string
		a      []uint16
		an     []*int64
		m      map[string]string
		got    time.Time
		isTrue bool
	)
	q := "SELECT u64, f64, s, lc, n, nlc, a, an, m, at, b FROM " + db + ".t WHERE i32 = {row:Int32} AND lc = {gpu:String}"
	if err = conn.QueryRow(ctx, q, clickhouse.Named("row", "2999"), clickhouse.Named("gpu", "H100")).Scan(&u64, &f64, &text, &lc, &n, &nlc, &a, &an, &m, &got, &isTrue); err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	if u64 != 1<<63+2999 || f64 != 2.5 || text != "text\n\n\x00'" || lc != "H100" || n == nil || *n != 0.25 || nlc == nil || *nlc != "x" || !isTrue ||
		!reflect.DeepEqual(a, []uint16{1, 2, 3}) || len(an) != 2 || an[0] != nil || *an[1] != 7 || m["a"] != "b" || !got.Equal(at) {
		t.Errorf("read back %v %v %q %v %v %v %v %v %v %v %v", u64, f64, text, lc, n, nlc, a, an, m, got, isTrue)
	}
	r, err := conn.Query(ctx, "SELECT i32, n FROM "+db+".t ORDER BY i32 SETTINGS max_block_size = 500")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for r.Next() {
		var i int32
		var v *float64
		if err = r.Scan(&i, &v); err != nil {
			t.Fatal(err)
		}
		if int(i) != count || (v == nil) != (i%2 == 0) {
			t.Fatalf("row %d: i32 = %d, n = %v", count, i, v)
		}
		count++
	}
	if err = errors.Join(r.Err(), r.Close()); err != nil || count != rows {
		t.Errorf("read %d rows of %d: %v", count, rows, err)
	}
	r, err = conn.Query(ctx, "SELECT i32 FROM "+db+".t WHERE i32 < 0")
	if err != nil {
		t.Fatal(err)
	}
	if r.Next() {
		t.Error("an empty result has a row")
	}
	if err = errors.Join(r.Err(), r.Close()); err != nil {
		t.Errorf("empty result: %v", err)
	}
	async := clickhouse.Context(ctx, clickhouse.WithAsync(true))
	if err = conn.Exec(async, "INSERT INTO "+db+".t (i32, s, at) VALUES (-5, 'async', '2026-03-04 00:00:00')"); err != nil {
		t.Errorf("async insert: %v", err)
	}
	var text2 string
	if err = conn.QueryRow(ctx, "SELECT s FROM "+db+".t WHERE i32 = ?", int32(-5)).Scan(&text2); err != nil || text2 != "async" {
		t.Errorf("async insert left %q, %v", text2, err)
	}
	names, err := ext.NewTable("names", ext.Column("k", "UInt32"), ext.Column("v", "String"))
	if err != nil {
		t.Fatal(err)
	}
	if err = names.Append(uint32(11), "eleven"); err != nil {
		t.Fatal(err)
	}
	var v string
	if err = conn.QueryRow(clickhouse.Context(ctx, clickhouse.WithExternalTable(names)), "SELECT v FROM names JOIN "+db+".t ON k = i32").Scan(&v); err != nil || v != "eleven" {
		t.Errorf("external table gave %q, %v", v, err)
	}
}

// exceptions asks for errors before and after the first block.
func exceptions(t *testing.T, conn driver.Conn) {
	t.Helper()
	ctx := t.Context()
	var ex *clickhouse.Exception
	if err := conn.Exec(ctx, "SELECT nothing FROM nowhere"); !errors.As(err, &ex) || ex.Code != 60 {
		t.Errorf("unknown table gave %v", err)
	}
	if err := conn.Exec(ctx, "SELEC 1"); !errors.As(err, &ex) || ex.Code != 62 {
		t.Errorf("wrong syntax gave %v", err)
	}
	r, err := conn.Query(ctx, "SELECT throwIf(number = 5000, 'five thousand'), number FROM numbers(10000) SETTINGS max_block_size = 100, max_threads = 1")
	if err == nil {
		for r.Next() {
			continue
		}
		err = errors.Join(r.Err(), r.Close())
	}
	if !errors.As(err, &ex) || ex.Code != 395 || !strings.Contains(ex.Message, "five thousand") {
		t.Errorf("an error in the middle of a stream gave %v", err)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	s := testenv.ClickHouseServer(t, t.TempDir())
	conn := open(t, s, clickhouse.CompressionNone)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- conn.Exec(ctx, "SELECT count() FROM system.numbers WHERE NOT ignore(sleepEachRow(0.1)) SETTINGS max_block_size = 1")
	}()
	running := func() (n uint64) {
		if err := conn.QueryRow(t.Context(), "SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow(0.1)%' AND query NOT LIKE '%processes%'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	wait(t, "the query to run", func() bool { return running() == 1 })
	cancel()
	if err := <-ended; err == nil {
		t.Error("a cancelled query ended well")
	}
	wait(t, "the query to be killed", func() bool { return running() == 0 })
}

// wait polls until ok, and fails after a minute.
func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
