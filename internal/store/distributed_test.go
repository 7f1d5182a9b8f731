//go:build distributed

package store

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flopwatch/flopwatch/internal/store/embedded"
	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestDistributed: with local tables behind Distributed ones every reader and writer does its work, and
// every view says what it says on one server. The engine can play a cluster of one shard, itself, and has
// no Keeper: that several shards and replicas do the same is not tried here.
func TestDistributed(t *testing.T) {
	server := clusterEngine(t)
	user, password := server.Auth()
	open := func(cfg Config) *Store {
		cfg.URL, cfg.User, cfg.Password = server.URL(), user, password
		s, err := Open(t.Context(), cfg)
		closed(t, s, err)
		if err = s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, cluster := open(Config{Database: "plain"}), open(Config{Database: "spread", Cluster: "one", here: true})
	for _, s := range []*Store{one, cluster} {
		if err := ingest(t.Context(), s.Shard(3), "c"); err != nil {
			t.Fatal(err)
		}
		if err := judge(t.Context(), s, "c"); err != nil {
			t.Fatal(err)
		}
		if err := correct(t.Context(), s, "c"); err != nil {
			t.Fatal(err)
		}
	}
	content := func(s *Store, relation string, columns []string) string {
		t.Helper()
		rows, err := s.names(t.Context(), "SELECT toString(tuple("+strings.Join(columns, ", ")+")) AS row FROM "+s.table(relation)+" ORDER BY row")
		if err != nil {
			t.Fatal(err)
		}
		return wall.ReplaceAllString(strings.Join(rows, "\n"), "<now>")
	}
	schema, err := one.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	spread, err := cluster.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(spread.Relations) != len(schema.Relations) {
		t.Errorf("%d tables and views, %d on one server", len(spread.Relations), len(schema.Relations))
	}
	for i, r := range schema.Relations {
		var columns []string
		for _, c := range r.Columns {
			columns = append(columns, c.Name)
		}
		if want, got := content(one, r.Name, columns), content(cluster, r.Name, columns); got != want || (want == "" && r.Name != TableRecordings && r.Name != "node_keys") {
			t.Errorf("%s has\n%s\non one server\n%s", r.Name, got, want)
		}
		if i < len(spread.Relations) && (spread.Relations[i].Comment != r.Comment || len(spread.Relations[i].Columns) != len(r.Columns)) {
			t.Errorf("%s: comment %q, %d columns", r.Name, spread.Relations[i].Comment, len(spread.Relations[i].Columns))
		}
		if l := spread.Relations[i]; l.Key != r.Key || l.Partition != r.Partition || l.TTL != r.TTL {
			t.Errorf("%s: key %q, partition %q, TTL %q, on one server %q, %q, %q", r.Name, l.Key, l.Partition, l.TTL, r.Key, r.Partition, r.TTL)
		}
		if sharded[r.Name] && !strings.HasPrefix(spread.Relations[i].Engine, "Distributed") {
			t.Errorf("%s is %s", r.Name, spread.Relations[i].Engine)
		}
	}
	// Retention is the local tables', and once is enough.
	days := Retention{RawDays: 7, AnnouncementDays: 500, MinuteDays: 90, HourDays: 3000}
	changed, err := cluster.Retain(t.Context(), days)
	if err != nil || !slices.Contains(changed, TableGPUMinute) || !slices.Contains(changed, TableGPUHour) || !slices.Contains(changed, TableGPUSamples) {
		t.Errorf("retention: %v, %v", changed, err)
	}
	if again, err := cluster.Retain(t.Context(), days); err != nil || again != nil {
		t.Errorf("retention, again: %v, %v", again, err)
	}
	if err = ingest(t.Context(), cluster.Shard(3), "later"); err != nil {
		t.Fatal(err)
	}
	rows, err := cluster.names(t.Context(), "SELECT toString(round(dateDiff('hour', now(), max(expires)) / 24)) FROM `spread_local`.gpu_samples WHERE cluster = 'later'")
	if err != nil || rows[0] != "7" {
		t.Errorf("samples stay %v days, %v", rows, err)
	}
	rows, err = cluster.names(t.Context(), "SELECT engine_full FROM system.tables WHERE database = 'spread_local' AND name = 'features_gpu_hour'")
	if err != nil || !strings.Contains(rows[0], "TTL inserted_at + toIntervalDay(3000)") {
		t.Errorf("hours: %v, %v", rows, err)
	}
	// Parts of the local tables press.
	if share, err := cluster.PartPressure(t.Context()); err != nil || share <= 0 {
		t.Errorf("parts: %g, %v", share, err)
	}
	if rows, err := cluster.names(t.Context(), "SELECT toString(count()) FROM `spread_local`.gpu_samples FINAL WHERE cluster = 'c'"); err != nil || rows[0] != "3" {
		t.Errorf("the local table has %v rows, %v", rows, err)
	}
}

// wall is what the store, or the test, took from the clock. The rows are of 1970.
var wall = regexp.MustCompile(`\b1[7-9]\d{8}(\d{3})?\b|'20\d\d-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?'|'20\d\d-\d\d-\d\d'`)

// clusterEngine is an engine that is a cluster of one shard, and may use Distributed.
func clusterEngine(t *testing.T) *embedded.Server {
	t.Helper()
	root, dir := testenv.Root(t), t.TempDir()
	overlay, exe := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "engine")
	replace := map[string]string{}
	for _, e := range []struct{ file, anchor, behind string }{
		// An address of its own with the port that it would have: the engine takes that for itself and connects to nobody.
		{"config.go", "  <timezone>UTC</timezone>\n", "  <tcp_port>9000</tcp_port><remote_servers><one><shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard></one></remote_servers>\n"},
		{"config.go", "var grants = []string{\n", "\t\"GRANT TABLE ENGINE ON Distributed\", \"GRANT REMOTE ON *.*\",\n"},
		{"guard.go", "var engines = []string{\n", "\t\"Distributed\",\n"},
	} {
		path, edited := filepath.Join(root, "internal", "store", "embedded", e.file), filepath.Join(dir, e.file)
		from := path
		if replace[path] != "" {
			from = edited
		}
		was, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(was), e.anchor) != 1 {
			t.Fatalf("%s: %q is not there once: bring this test up to date", path, e.anchor)
		}
		if err = os.WriteFile(edited, []byte(strings.Replace(string(was), e.anchor, e.anchor+e.behind, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[path] = edited
	}
	plan, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err == nil {
		err = os.WriteFile(overlay, plan, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-overlay", overlay, "-o", exe, "./internal/testenv/enginecmd")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the engine's process: %v: %s", err, out)
	}
	cfg := testenv.EngineConfig(t)
	cfg.Exe, cfg.DataDir = exe, filepath.Join(dir, "data")
	server, err := embedded.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return server
}
