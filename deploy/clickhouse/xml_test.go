package clickhouse

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// leaves reads a configuration as path and text, in the order of the file.
func leaves(t *testing.T, name string) (all [][2]string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // it was only read
	var path []string
	text, leaf := "", false
	for d := xml.NewDecoder(f); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			path, text, leaf = append(path, tok.Name.Local), "", true
		case xml.CharData:
			text += string(tok)
		case xml.EndElement:
			if leaf {
				all = append(all, [2]string{strings.Join(path, "/"), strings.TrimSpace(text)})
			}
			path, leaf = path[:len(path)-1], false
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestServerXML: each of ClickHouse's own tables in server.xml leaves by whole days after a time, those that auditors read later than the
// others, and the disk keeps the space that README.md speaks of. That a server takes it was not tried.
func TestServerXML(t *testing.T) {
	days := regexp.MustCompile(`^event_date \+ INTERVAL (14|90|400) DAY DELETE$`)
	ttl, partition := map[string]string{}, map[string]string{}
	free := ""
	for _, l := range leaves(t, "server.xml") {
		table, field, ok := strings.Cut(strings.TrimPrefix(l[0], "clickhouse/"), "/")
		switch {
		case ok && strings.HasSuffix(table, "_log") && field == "ttl" && ttl[table] == "" && days.MatchString(l[1]):
			ttl[table] = days.FindStringSubmatch(l[1])[1]
		case ok && strings.HasSuffix(table, "_log") && field == "partition_by" && partition[table] == "":
			partition[table] = l[1]
		case l[0] == "clickhouse/storage_configuration/disks/default/keep_free_space_ratio":
			free = l[1]
		default:
			t.Errorf("%s = %q is nothing that is meant to be here", l[0], l[1])
		}
	}
	for table := range ttl {
		if partition[table] != "toYYYYMMDD(event_date)" {
			t.Errorf("%s is partitioned by %q: a day cannot leave as a whole", table, partition[table])
		}
	}
	if len(partition) != len(ttl) {
		t.Errorf("%d tables have partitions, %d a time", len(partition), len(ttl))
	}
	for table, want := range map[string]string{"query_log": "90", "session_log": "400", "crash_log": "400", "backup_log": "400", "query_thread_log": "14", "query_views_log": "14", "part_log": "14",
		"trace_log": "14", "text_log": "14", "metric_log": "14", "asynchronous_metric_log": "14", "opentelemetry_span_log": "14", "processors_profile_log": "14", "asynchronous_insert_log": "14", "error_log": "14"} {
		if ttl[table] != want {
			t.Errorf("%s stays for %q days, want %s", table, ttl[table], want)
		}
	}
	if free != "0.05" || !strings.Contains(read(t, "README.md"), "keep_free_space") {
		t.Errorf("%q of the disk stays free; README.md tells what that does", free)
	}
}

// TestClusterXML: cluster.xml is the cluster that README.md's example of a collector names: the same servers by shard, the macros of one of
// them, one secret, writes to one replica, and ports of the encrypted native protocol.
func TestClusterXML(t *testing.T) {
	var shards [][]string
	count := map[string]int{}
	macros := map[string]string{}
	for _, l := range leaves(t, "cluster.xml") {
		path := strings.TrimPrefix(l[0], "clickhouse/")
		count[path+"="+l[1]]++
		switch {
		case path == "remote_servers/fleet/shard/internal_replication":
			shards = append(shards, nil)
		case path == "remote_servers/fleet/shard/replica/host" && len(shards) > 0:
			shards[len(shards)-1] = append(shards[len(shards)-1], l[1])
		case strings.HasPrefix(path, "macros/"):
			macros[strings.TrimPrefix(path, "macros/")] = l[1]
		case path == "zookeeper/node/host":
			count["keepers"]++
		case path == "remote_servers/fleet/secret" && l[1] != "CHANGE-ME-THE-SAME-ON-ALL":
			t.Errorf("a secret %q is shipped", l[1])
		}
	}
	doc := read(t, "README.md")
	example := regexp.MustCompile(`(?m)^shards = "(.+)"$`).FindStringSubmatch(doc)
	if example == nil || !strings.Contains(doc, "\ncluster = \"fleet\"\n") {
		t.Fatal("README.md has no example of a cluster named fleet")
	}
	var want [][]string
	servers := 0
	for shard := range strings.FieldsSeq(example[1]) {
		var hosts []string
		for u := range strings.SplitSeq(shard, ",") {
			hosts = append(hosts, strings.TrimSuffix(strings.TrimPrefix(u, "https://"), ":8443"))
			servers++
		}
		want = append(want, hosts)
	}
	if !slices.EqualFunc(shards, want, slices.Equal[[]string]) {
		t.Errorf("cluster.xml has %v, README.md %v", shards, want)
	}
	const replica = "remote_servers/fleet/shard/replica/"
	if count[replica+"port=9440"] != servers || count[replica+"secure=1"] != servers || count["remote_servers/fleet/shard/internal_replication=true"] != len(want) ||
		count["keepers"] != 3 || count["zookeeper/node/port=9181"] != 3 || count["remote_servers/fleet/secret=CHANGE-ME-THE-SAME-ON-ALL"] != 1 || count["distributed_ddl/path=/clickhouse/task_queue/ddl"] != 1 {
		t.Errorf("%v", count)
	}
	if len(macros) != 2 || macros["shard"] != "1" || macros["replica"] != want[0][0] {
		t.Errorf("macros %v: not those of %s", macros, want[0][0])
	}
	// What the statements say of the cluster: its name, and what of their paths is each server's own.
	sql := read(t, "../../internal/store/testdata/cluster.golden")
	for _, m := range regexp.MustCompile(`\{([a-z]+)\}`).FindAllStringSubmatch(sql, -1) {
		if m[1] != "database" && m[1] != "table" && macros[m[1]] == "" {
			t.Errorf("statements use the macro %s, which cluster.xml lacks", m[1])
		}
	}
	if !strings.Contains(sql, "ON CLUSTER `fleet`") || !strings.Contains(sql, "{shard}") || !strings.Contains(sql, "{replica}") {
		t.Error("the statements are not of this cluster")
	}
}
