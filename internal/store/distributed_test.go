//go:build distributed

package store

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
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
	}
	content := func(s *Store, relation string, columns []string) string {
		t.Helper()
		rows, err := s.names(t.Context(), "SELECT toString(tuple("+strings.Join(columns, ", ")+")) AS row FROM "+s.table(relation)+" ORDER BY row")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(rows, "\n")
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
			if !strings.Contains(c.Name, "inserted") && c.Name != "expires" && c.Name != "applied_at" { // wall time
				columns = append(columns, c.Name)
			}
		}
		if want, got := content(one, r.Name, columns), content(cluster, r.Name, columns); got != want || (want == "" && r.Name != TableRecordings && r.Name != "node_keys") {
			t.Errorf("%s has\n%s\non one server\n%s", r.Name, got, want)
		}
		if i < len(spread.Relations) && (spread.Relations[i].Comment != r.Comment || len(spread.Relations[i].Columns) != len(r.Columns)) {
			t.Errorf("%s: comment %q, %d columns", r.Name, spread.Relations[i].Comment, len(spread.Relations[i].Columns))
		}
		if sharded[r.Name] && !strings.HasPrefix(spread.Relations[i].Engine, "Distributed") {
			t.Errorf("%s is %s", r.Name, spread.Relations[i].Engine)
		}
	}
	if rows, err := cluster.names(t.Context(), "SELECT toString(count()) FROM `spread_local`.gpu_samples FINAL"); err != nil || rows[0] != "2" {
		t.Errorf("the local table has %v rows, %v", rows, err)
	}
}

// clusterEngine is an engine that is a cluster of one shard, and may use Distributed.
func clusterEngine(t *testing.T) *embedded.Server {
	t.Helper()
	root, dir := testenv.Root(t), t.TempDir()
	path := filepath.Join(root, "internal", "store", "embedded", "config.go")
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(was)
	for anchor, behind := range map[string]string{
		// An address of its own with the port that it would have: the engine takes that for itself and connects to nobody.
		"  <timezone>UTC</timezone>\n": "  <tcp_port>9000</tcp_port><remote_servers><one><shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard></one></remote_servers>\n",
		"var grants = []string{\n":     "\t\"GRANT TABLE ENGINE ON Distributed\", \"GRANT REMOTE ON *.*\",\n",
	} {
		if strings.Count(text, anchor) != 1 {
			t.Fatalf("%s: %q is not there once: bring this test up to date", path, anchor)
		}
		text = strings.Replace(text, anchor, anchor+behind, 1)
	}
	config, overlay, exe := filepath.Join(dir, "config.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "engine")
	plan, err := json.Marshal(map[string]map[string]string{"Replace": {path: config}})
	if err != nil {
		t.Fatal(err)
	}
	if err = errors.Join(os.WriteFile(config, []byte(text), 0o600), os.WriteFile(overlay, plan, 0o600)); err != nil {
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
