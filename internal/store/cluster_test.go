package store

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/flopwatch/flopwatch/internal/testenv"
)

// TestClusterStatements holds the statements for shards with replicas to their text: no engine here
// has Keeper.
func TestClusterStatements(t *testing.T) {
	all, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Cluster: "fleet", Replicated: true}.withDefaults()
	var b strings.Builder
	for _, m := range all {
		statements, err := cfg.statements(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, sql := range statements {
			b.WriteString("-- " + m.name + "\n" + sql + ";\n\n")
			if strings.Contains(sql, path) || !strings.Contains(sql, " ON CLUSTER `fleet`") {
				t.Errorf("%s: %.200s", m.name, sql)
			}
		}
	}
	golden := filepath.Join("testdata", "cluster.golden")
	if os.Getenv("FLOPWATCH_UPDATE") == t.Name() {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Error("statements for a cluster changed; a shipped migration must not. FLOPWATCH_UPDATE=" + t.Name() + " writes the golden file")
	}
}

// TestClusterRetention: on shards [retention] is of the local tables, which have the rows and their TTL, and what
// a Distributed table states of `expires` follows.
func TestClusterRetention(t *testing.T) {
	shipped, err := ShippedSchema()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Cluster: "fleet", Replicated: true}.withDefaults()
	all, err := cfg.retain(Retention{RawDays: 7, AnnouncementDays: 500, MinuteDays: 90, HourDays: 3000}, shipped)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, r := range all {
		got[r.table] = r.statements
	}
	const local, whole = "ALTER TABLE `flopwatch_local`.", "ALTER TABLE `flopwatch`."
	for table, want := range map[string][]string{
		TableGPUSamples: {local + "`gpu_samples` ON CLUSTER `fleet` MODIFY COLUMN expires DEFAULT now() + INTERVAL 7 DAY", whole + "`gpu_samples` ON CLUSTER `fleet`\n    MODIFY COLUMN expires DEFAULT now() + INTERVAL 7 DAY"},
		TableGPUMinute:  {local + "`features_gpu_minute` ON CLUSTER `fleet` MODIFY TTL inserted_at + INTERVAL 90 DAY DELETE"},
		TableGPUHour:    {local + "`features_gpu_hour` ON CLUSTER `fleet` MODIFY TTL inserted_at + INTERVAL 3000 DAY DELETE"},
	} {
		if !slices.Equal(got[table], want) {
			t.Errorf("%s: %q", table, got[table])
		}
	}
	for _, r := range shipped.Relations {
		if days := r.days(); days > 0 != (len(got[r.Name]) > 0) {
			t.Errorf("%s, which keeps rows for %d days: %q", r.Name, days, got[r.Name])
		}
	}
}

// TestEveryTableHasAPlace: what a node measures is spread, and nothing else.
func TestEveryTableHasAPlace(t *testing.T) {
	schema, err := ShippedSchema()
	if err != nil {
		t.Fatal(err)
	}
	// What is declared of nodes, or rests on verdicts, is little, and joined with the rest everywhere.
	whole := []string{TableAllocations, TableInventory, TableEvidenceGPU, TableEvidenceHost, TableRunMembers, "node_keys"}
	for _, r := range schema.Relations {
		if r.View || slices.Contains(whole, r.Name) {
			continue
		}
		key := strings.Split(strings.ReplaceAll(r.Key, " ", ""), ",")
		measured := slices.Contains(key, "node") && slices.ContainsFunc(key, func(c string) bool { return strings.HasSuffix(c, "_ms") })
		if measured && !sharded[r.Name] {
			t.Errorf("%s has rows of nodes over time (%s) and would be whole on every server: name it in sharded (cluster.go), or here", r.Name, r.Key)
		}
	}
	for table := range sharded {
		if !isTable(table) {
			t.Errorf("no table %q", table)
		}
	}
}

func TestCommands(t *testing.T) {
	got := commands("\n    ADD COLUMN `a` Array(Tuple(Int8, String)) COMMENT 'x, (y\\', z' CODEC(Delta, ZSTD(1)) AFTER `b`,\n    ADD INDEX i a TYPE minmax")
	want := []string{"ADD COLUMN `a` Array(Tuple(Int8, String)) COMMENT 'x, (y\\', z' CODEC(Delta, ZSTD(1)) AFTER `b`", "ADD INDEX i a TYPE minmax"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := columnCodec.ReplaceAllString(want[0], ""); got != "ADD COLUMN `a` Array(Tuple(Int8, String)) COMMENT 'x, (y\\', z' AFTER `b`" {
		t.Errorf("%q", got)
	}
}

func TestServers(t *testing.T) {
	for text, want := range map[string][]string{
		"http://a:1, b,c:3": {"a:1", "b:8123", "c:3"}, "https://a/": {"a:8443"}, "clickhouse://[::1]:9001,b": {"[::1]:9001", "b:9000"},
		"http://a,": nil, "a": nil, "http://u:secret@a": nil, "ftp://a": nil,
	} {
		_, got, err := servers(text)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, cfg := range []Config{{URL: "http://a", Shards: "http://b"}, {URL: "http://a", Cluster: "x`"}, {URL: "http://a", Cluster: "x", Shards: "http://c b"}} {
		if cfg.Validate() == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// TestNextServer: where a server cannot be reached the next is asked.
func TestNextServer(t *testing.T) {
	url, user, password := testenv.ClickHouse(t)
	s, err := Open(t.Context(), Config{URL: "http://127.0.0.1:1," + strings.TrimPrefix(url, "http://"), User: user, Password: password, Database: "next"})
	closed(t, s, err)
	if err = s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err = ingest(t.Context(), s, "c"); err != nil {
		t.Error(err)
	}
}
