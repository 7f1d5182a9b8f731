package store

import (
	"fmt"
	"regexp"
	"strings"
)

// On a cluster (Config.Cluster) a database is two: the named one holds what readers and people know,
// Distributed tables and views; another, its name with _local behind it, holds each shard's rows.
//
// Tables of what a node measures, of cells, and the ledger of batches are sharded: a collector
// inserts into its shard's local table, so that an insert is one part of one table, held by a quorum
// of the shard's replicas; a node's partition always goes to the same shard, so that rows of one key
// meet there. Cells come through the Distributed table, by node. What is not of a node (verdicts,
// parties, orders, the ledger of migrations) is small and asked for everywhere: where tables are
// replicated, every server of every shard holds all of it, under one path of its own in Keeper.
//
// Statements are the migrations', rewritten here, so that one server and a cluster have one schema.

// sharded tables are spread over the shards by node.
var sharded = func() map[string]bool {
	all := map[string]bool{TableChainHours: true, TableLosses: true, TableBatches: true, TableGaps: true, TableQuarantine: true, TableQuarantineDropped: true, TableGPUMinute: true, TableGPUHour: true, TableNodeMinute: true, TableCommMinute: true, TableFlowMinute: true}
	for name, t := range rawTables {
		all[name] = t.perNode
	}
	return all
}()

// distributed reports whether a table is Distributed over local ones. Without replication nothing
// would bring a table to all servers, so all are.
func (c Config) distributed(table string) bool {
	return c.Cluster != "" && (sharded[table] || !c.Replicated)
}

func (c Config) localDatabase() string { return c.Database + "_local" }

// onCluster follows a name in a statement that is for every server.
func (c Config) onCluster() string {
	if c.Cluster == "" || c.here {
		return ""
	}
	return " ON CLUSTER `" + c.Cluster + "`"
}

// path stands for a table's in Keeper until its name is known.
const path = "@path@"

// engine is a table's, by the column that decides between rows of one key, if one does.
func (c Config) engine(version string) string {
	switch {
	case !c.Replicated:
		return "ReplacingMergeTree(" + version + ")"
	case c.Cluster == "": // the server's default path: for databases that are Replicated themselves
		return "ReplicatedReplacingMergeTree(" + version + ")"
	case version == "":
		return "ReplicatedReplacingMergeTree(" + path + ")"
	}
	return "ReplicatedReplacingMergeTree(" + path + ", " + version + ")"
}

// placed puts the path and the replica's name in. {shard} and {replica} are macros of each server;
// the path does not change with the table's id, so that a server that is added later joins in.
func (c Config) placed(sql, table string) string {
	where := "'/clickhouse/tables/all/{database}/{table}', '{shard}-{replica}'"
	if c.distributed(table) {
		where = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'"
	}
	return strings.ReplaceAll(sql, path, where)
}

var (
	createTable = regexp.MustCompile(`^CREATE TABLE IF NOT EXISTS ([a-z_][a-z0-9_]*)\s`)
	createView  = regexp.MustCompile(`^CREATE OR REPLACE VIEW ([a-z_][a-z0-9_]*)\s`)
	alterTable  = regexp.MustCompile(`^ALTER TABLE ([a-z_][a-z0-9_]*)\s`)
	orderBy     = regexp.MustCompile("ORDER BY \\(?`?([a-z_][a-z0-9_]*)")
	tableNote   = regexp.MustCompile(`(?s)\nCOMMENT ('(?:[^'\\]|\\.)*')$`)
	// The commands that a Distributed table knows: it has columns and comments, no parts.
	ofColumns = regexp.MustCompile(`^(ADD COLUMN|MODIFY COLUMN|COMMENT COLUMN|DROP COLUMN|RENAME COLUMN|MODIFY COMMENT)\b`)
	// What a local column has and a Distributed one need not.
	columnCodec = regexp.MustCompile(` CODEC\((?:[^()]|\([^()]*\))*\)`)
	// What is left of a command that changes a codec alone.
	codecAlone = regexp.MustCompile("^MODIFY COLUMN `\\w+`$")
)

// overCluster rewrites a statement of a migration for a cluster.
func (c Config) overCluster(sql string) ([]string, error) {
	name := func(m []string) (table, whole, local string) {
		return m[1], "`" + c.Database + "`.`" + m[1] + "`", "`" + c.localDatabase() + "`.`" + m[1] + "`"
	}
	if m := createTable.FindStringSubmatch(sql); m != nil {
		table, whole, local := name(m)
		rest := strings.TrimPrefix(sql, strings.TrimRight(m[0], " \n"))
		if !c.distributed(table) {
			return []string{c.placed("CREATE TABLE IF NOT EXISTS "+whole+c.onCluster()+rest, table)}, nil
		}
		note := ""
		if n := tableNote.FindStringSubmatch(sql); n != nil {
			note = " COMMENT " + n[1]
		}
		return []string{
			c.placed("CREATE TABLE IF NOT EXISTS "+local+c.onCluster()+rest, table),
			"CREATE TABLE IF NOT EXISTS " + whole + c.onCluster() + " AS " + local +
				" ENGINE = Distributed('" + c.Cluster + "', '" + c.localDatabase() + "', '" + table + "', " + shardBy(sql) + ")" + note,
		}, nil
	}
	if m := createView.FindStringSubmatch(sql); m != nil {
		_, whole, _ := name(m)
		rest := strings.TrimPrefix(sql, strings.TrimRight(m[0], " \n"))
		return []string{"CREATE OR REPLACE VIEW " + whole + c.onCluster() + rest}, nil
	}
	if m := alterTable.FindStringSubmatch(sql); m != nil {
		table, whole, local := name(m)
		rest := strings.TrimPrefix(sql, strings.TrimRight(m[0], " \n"))
		if !c.distributed(table) {
			return []string{"ALTER TABLE " + whole + c.onCluster() + rest}, nil
		}
		out := []string{"ALTER TABLE " + local + c.onCluster() + rest}
		var of []string
		for _, command := range commands(rest) {
			if ofColumns.MatchString(command) && !strings.Contains(command, " TTL ") { // which is of rows
				if command = columnCodec.ReplaceAllString(command, ""); !codecAlone.MatchString(command) {
					of = append(of, command)
				}
			}
		}
		if of != nil {
			out = append(out, "ALTER TABLE "+whole+c.onCluster()+"\n    "+strings.Join(of, ",\n    "))
		}
		return out, nil
	}
	return nil, fmt.Errorf("a cluster has no form of the statement %.60q", sql)
}

// shardBy is the expression by which rows that come through a Distributed table are spread.
func shardBy(sql string) string {
	for _, column := range []string{"node", "cluster"} {
		if strings.Contains(sql, "\n    `"+column+"` ") {
			return "cityHash64(" + column + ")"
		}
	}
	if m := orderBy.FindStringSubmatch(sql); m != nil {
		return "cityHash64(" + m[1] + ")"
	}
	return "rand()"
}

// commands splits what an ALTER does at its commas, but not those within brackets or quotes.
func commands(text string) []string {
	var out []string
	depth, quoted, from := 0, false, 0
	for i := 0; i < len(text); i++ {
		switch ch := text[i]; {
		case quoted && ch == '\\':
			i++
		case ch == '\'':
			quoted = !quoted
		case quoted:
		case ch == '(':
			depth++
		case ch == ')':
			depth--
		case ch == ',' && depth == 0:
			out, from = append(out, strings.TrimSpace(text[from:i])), i+1
		}
	}
	return append(out, strings.TrimSpace(text[from:]))
}

// Shard is the store as the collector of a partition has it: it reads as before, and inserts into the
// local tables of the shard that the partition belongs to. Where there is no cluster it is the store
// itself. It is closed with the store.
func (s *Store) Shard(partition int) *Store {
	if s.cfg.Cluster == "" {
		return s
	}
	to := *s
	to.local = true
	if n := len(s.shards); n > 0 {
		to.inserts = s.shards[partition%n]
	}
	return &to
}

// into is the table that an insert goes to.
func (s *Store) into(table string) string {
	if s.local && s.cfg.distributed(table) {
		return "`" + s.cfg.localDatabase() + "`.`" + table + "`"
	}
	return s.table(table)
}
