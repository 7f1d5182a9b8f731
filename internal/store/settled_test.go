package store

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/proto"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestSettledStoreShowsWhatReplicasHave: to a reader of a replicated store who looks once the row of
// a batch is not there before its samples are on every replica that may answer. Nobody else waits.
func TestSettledStoreShowsWhatReplicasHave(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	cfg := Config{URL: url, User: user, Password: password, Database: "settled"}
	one, err := Open(t.Context(), cfg)
	closed(t, one, err)
	if err = one.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err = ingest(t.Context(), one, "c"); err != nil {
		t.Fatal(err)
	}
	cfg.Replicated, cfg.Settled = true, true
	settled, err := Open(t.Context(), cfg)
	closed(t, settled, err)
	look := func(s *Store) (batches, inserted int, losses string) {
		t.Helper()
		all, err := s.BatchesAfter(t.Context(), "c", -1, 0)
		if err != nil {
			t.Fatal(err)
		}
		late, err := s.BatchesInserted(t.Context(), "c", 0, 1<<60)
		if err != nil {
			t.Fatal(err)
		}
		if losses, err = s.LossesMark(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
		return len(all), len(late), losses
	}
	none, _, nothing := look(settled)
	if err = one.PutLosses(t.Context(), "c", []Loss{{Node: "n", Spool: "s", Reason: "disk", Batches: 1}}); err != nil {
		t.Fatal(err)
	}
	batches, inserted, mark := look(one)
	if batches == 0 || inserted != batches {
		t.Fatalf("%d and %d batches: the test shows nothing", batches, inserted)
	}
	if _, late, losses := look(settled); none != 0 || late != 0 || losses != nothing {
		t.Errorf("%d and %d batches, losses %q, want none yet", none, late, losses)
	}
	for _, sql := range []string{
		"INSERT INTO " + one.table(TableBatches) + " (cluster, node, spool, sequence, available_ms, inserted_at) VALUES ('c', 'n', 's', 1, 1, now64(3) - toIntervalSecond(61))",
		"INSERT INTO " + one.table(TableLosses) + " (cluster, node, spool, reason, noted_at) VALUES ('c', 'n', 's', 'disk', now64(3) - toIntervalSecond(61))",
	} {
		if err = one.conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if all, late, losses := look(settled); all != 1 || late != 1 || losses == nothing || losses == mark {
		t.Errorf("of a minute ago: %d and %d batches, want 1; losses %q", all, late, losses)
	}
}

// TestReplicaLags: a server that lags is not asked for what is judged; no engine here has replicas, so
// what it says of itself is played.
func TestReplicaLags(t *testing.T) {
	delay, asked := uint64(0), ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var text [4096]byte
		n, _ := r.Body.Read(text[:])
		if asked = string(text[:n]); !strings.Contains(asked, "system.replicas") {
			return // an empty result
		}
		col := proto.ColUInt64{delay}
		var buf proto.Buffer
		if err := (&proto.Block{Columns: 1, Rows: 1}).EncodeRawBlock(&buf, 0, proto.Input{{Name: "delay", Data: col}}); err != nil {
			t.Error(err)
		}
		if _, err := w.Write(buf.Buf); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	u, addrs, err := servers(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg   Config
		delay uint64
		want  error
	}{
		{Config{Replicated: true, Settled: true}, 30, nil},
		{Config{Replicated: true, Settled: true}, 31, ErrReplicaLags},
		{Config{Replicated: true}, 4294967295, nil},
		{Config{Settled: true}, 4294967295, nil},
	} {
		c.cfg.Timeout = Config{}.withDefaults().Timeout
		s := &Store{cfg: c.cfg, native: newNative(u, addrs, c.cfg)}
		delay = c.delay
		if _, err := s.BatchesAfter(t.Context(), "c", 0, 0); !errors.Is(err, c.want) {
			t.Errorf("batches from a server %d s behind, %+v: %v", c.delay, c.cfg, err)
		}
		if _, _, err := s.Position(t.Context(), "c"); !errors.Is(err, c.want) {
			t.Errorf("position from a server %d s behind, %+v: %v", c.delay, c.cfg, err)
		}
		s.native.close()
	}
	if !strings.Contains(asked, TablePositions) {
		t.Errorf("asked last: %s", asked)
	}
	set := Config{Cluster: "fleet", Replicated: true, Settled: true}.settings()
	if set["fallback_to_stale_replicas_for_distributed_queries"] != "0" || set["max_replica_delay_for_distributed_queries"] != "30" {
		t.Errorf("settings %v", set)
	}
	if set := (Config{Cluster: "fleet", Replicated: true}).settings(); set["max_replica_delay_for_distributed_queries"] != "" {
		t.Errorf("settings of others %v", set)
	}
}
