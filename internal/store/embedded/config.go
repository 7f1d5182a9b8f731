package embedded

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// layout are the paths under one data directory.
type layout struct{ root string }

func (d layout) engine() string    { return filepath.Join(d.root, "engine") }    // the engine's own tree
func (d layout) config() string    { return filepath.Join(d.root, "config") }    // generated at each start
func (d layout) empty() string     { return filepath.Join(d.root, "empty") }     // where the engine may look for files: nothing is ever put there
func (d layout) tmp() string       { return filepath.Join(d.root, "tmp") }       // spilled sorts and aggregations
func (d layout) restoring() string { return filepath.Join(d.root, "restoring") } // a restore is under way, or was cut off
func (d layout) url() string       { return filepath.Join(d.root, "url") }       // of the engine that runs, or ran, here
func (d layout) owner() string     { return filepath.Join(d.root, "version") }   // of the engine that ran here last
func (d layout) lock() string      { return filepath.Join(d.root, "lock") }      // flock of the running child, holding its pid
func (d layout) password() string  { return filepath.Join(d.root, "password") }  // of the user `default`, mode 0600

// create makes the directories that are missing.
func (d layout) create() error {
	for _, p := range []string{d.root, d.engine(), d.config(), d.empty(), d.tmp()} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return fmt.Errorf("create data directory %s: %w", p, err)
		}
	}
	return nil
}

// loadPassword reads the password in path, or mints one there if the file does not exist.
func loadPassword(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		p := strings.TrimSpace(string(b))
		if p == "" {
			return "", fmt.Errorf("password file %s is empty", path)
		}
		return p, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read password file %s: %w", path, err)
	}
	var raw [24]byte
	if _, err = rand.Read(raw[:]); err != nil {
		return "", fmt.Errorf("mint password: %w", err)
	}
	p := base64.RawURLEncoding.EncodeToString(raw[:])
	// Written aside and linked into place, so that two processes that start at once agree on one password.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".password-*")
	if err != nil {
		return "", fmt.Errorf("write password file %s: %w", path, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(p + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return "", fmt.Errorf("write password file %s: %w", path, err)
	}
	if err = os.Link(tmp.Name(), path); errors.Is(err, os.ErrExist) {
		return loadPassword(path)
	} else if err != nil {
		return "", fmt.Errorf("write password file %s: %w", path, err)
	}
	return p, nil
}

// limits bound what the engine may use.
type limits struct {
	memoryBytes uint64 // max_server_memory_usage
	resultBytes uint64 // of a result that cannot be streamed
	queries     int    // statements at a time
	noMerges    bool   // while rows are counted
}

func defaultLimits() limits {
	return limits{memoryBytes: 4 << 30, resultBytes: 256 << 20, queries: 16}
}

// queryBytes bounds one statement, so that a greedy one leaves room for the others and for inserts.
func (l limits) queryBytes() uint64 { return l.memoryBytes / 4 * 3 }

// grants is all that a statement may do: no sources (file, url, remote, s3, ...), no SYSTEM, no users, no functions, no dictionaries,
// no named collections. Of table engines that reach outside none is granted; the engine grants the others by itself.
var grants = []string{
	"GRANT SHOW, SELECT, INSERT, ALTER TABLE, ALTER VIEW, ALTER DATABASE, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE TEMPORARY TABLE, DROP DATABASE, DROP TABLE, DROP VIEW, UNDROP TABLE, TRUNCATE, OPTIMIZE, KILL QUERY, CHECK ON *.*",
	"GRANT TABLE ENGINE ON MergeTree", "GRANT TABLE ENGINE ON ReplacingMergeTree", "GRANT TABLE ENGINE ON AggregatingMergeTree",
	"GRANT TABLE ENGINE ON SummingMergeTree", "GRANT TABLE ENGINE ON CollapsingMergeTree", "GRANT TABLE ENGINE ON VersionedCollapsingMergeTree",
	"REVOKE INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, UNDROP TABLE ON system.*", "REVOKE ALTER DATABASE, DROP DATABASE ON default.*",
	"REVOKE INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, UNDROP TABLE ON information_schema.*",
	"REVOKE INSERT, ALTER, CREATE, DROP, TRUNCATE, OPTIMIZE, UNDROP TABLE ON INFORMATION_SCHEMA.*",
	"GRANT TABLE ENGINE ON Memory", "GRANT TABLE ENGINE ON Null", "GRANT TABLE ENGINE ON View", "GRANT TABLE ENGINE ON MaterializedView",
}

// internalRole is the front's own: it kills queries, makes snapshots and lets views run as their definers. No request gets it.
const internalRole = "flopwatch_front"

// othersWords are tables of the engine that hold pieces of others' statements, and so of their data (the last message of each error, for one). This build lets
// everybody read them, whatever the grants say, so they are taken away at each start, from everybody; with them models, which looks for a program to run.
var othersWords = []string{"errors", "asynchronous_inserts", "query_cache", "schema_inference_cache", "view_refreshes", "warnings", "models"}

// temporaryTables everybody may have: external tables of a request and those of a session. They end with the connection.
var temporaryTables = []string{"GRANT CREATE TEMPORARY TABLE ON *.*", "GRANT TABLE ENGINE ON Memory"}

// frozenSettings may not be changed by a statement or a URL: each would reach outside the data directory, run text that the guard has not seen, or
// weaken durability.
var frozenSettings = []string{
	"format_schema", "format_schema_source", "output_format_schema", "format_template_resultset", "format_template_row", "format_avro_schema_registry_url",
	"fsync_metadata", "allow_introspection_functions", "implicit_select",
	// Other languages than the one that the guard reads, and statements made of strings or by chance.
	"dialect", "polyglot_dialect", "allow_experimental_kusto_dialect", "allow_experimental_prql_dialect", "allow_experimental_polyglot_dialect",
	"allow_experimental_eval_table_function", "allow_python_table_function", "allow_fuzz_query_functions", "ast_fuzzer_runs", "ast_fuzzer_any_query",
	// Other hosts and files.
	"allow_experimental_ai_functions", "url_base", "s3_allow_server_credentials_in_user_queries", "rename_files_after_processing", "into_outfile_create_parent_directories",
	"dynamic_disk_allow_from_env", "dynamic_disk_allow_from_zk", "dynamic_disk_allow_include", "jemalloc_enable_profiler", "allow_get_client_http_header",
	// Memory that is not counted.
	"max_untracked_memory", "memory_profiler_step",
}

// plainValues: the data of INSERT ... VALUES are values, not expressions, which could call what the guard has not seen. For all but an administrator whom
// the kernel confines.
var plainValues = []limit{
	{name: "input_format_values_interpret_expressions", value: "0", fixed: true}, {name: "input_format_values_deduce_templates_of_expressions", value: "0", fixed: true},
}

// bounds are the most that anybody may ask for.
var bounds = []limit{{name: "max_threads", high: "64"}, {name: "max_insert_threads", high: "16"}, {name: "max_final_threads", high: "64"}, {name: "max_download_threads", high: "16"}}

// writeConfig writes config.xml and users.xml and returns the former's path.
func (d layout) writeConfig(lim limits, roles *roleSet, confined bool) (string, error) {
	var b bytes.Buffer
	still := ""
	if lim.noMerges {
		still = "\n    <max_bytes_to_merge_at_max_space_in_pool>1</max_bytes_to_merge_at_max_space_in_pool>\n    <max_bytes_to_merge_at_min_space_in_pool>1</max_bytes_to_merge_at_min_space_in_pool>" +
			"\n    <max_number_of_merges_with_ttl_in_pool>0</max_number_of_merges_with_ttl_in_pool>"
	}
	room, err := engineReserve(d.root)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, `<clickhouse>
  <path>%[1]s/</path>
  <tmp_path>%[2]s/</tmp_path>
  <user_files_path>%[3]s/</user_files_path>
  <format_schema_path>%[3]s/</format_schema_path>
  <user_scripts_path>%[3]s/</user_scripts_path>
  <users_config>%[4]s</users_config>
  <timezone>UTC</timezone>
  <display_name>flopwatch</display_name>
  <max_server_memory_usage>%[5]d</max_server_memory_usage>
  <mark_cache_size>134217728</mark_cache_size>
  <index_mark_cache_size>16777216</index_mark_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <index_uncompressed_cache_size>0</index_uncompressed_cache_size>
  <mmap_cache_size>64</mmap_cache_size>
  <compiled_expression_cache_size>33554432</compiled_expression_cache_size>
  <query_cache><max_size_in_bytes>0</max_size_in_bytes></query_cache>
  <background_pool_size>4</background_pool_size>
  <background_schedule_pool_size>4</background_schedule_pool_size>
  <background_common_pool_size>2</background_common_pool_size>
  <background_fetches_pool_size>1</background_fetches_pool_size>
  <background_move_pool_size>1</background_move_pool_size>
  <access_control_improvements>
    <table_engines_require_grant>true</table_engines_require_grant>
    <select_from_system_db_requires_grant>true</select_from_system_db_requires_grant>
    <select_from_information_schema_requires_grant>true</select_from_information_schema_requires_grant>
    <settings_constraints_replace_previous>true</settings_constraints_replace_previous>
  </access_control_improvements>
  <storage_configuration><disks><default><keep_free_space_bytes>%[7]d</keep_free_space_bytes></default></disks></storage_configuration>
  <merge_tree>
    <fsync_after_insert>1</fsync_after_insert>
    <fsync_part_directory>1</fsync_part_directory>
    <min_rows_to_fsync_after_merge>1</min_rows_to_fsync_after_merge>
    <min_compressed_bytes_to_fsync_after_merge>1</min_compressed_bytes_to_fsync_after_merge>
    <non_replicated_deduplication_window>10000</non_replicated_deduplication_window>
    <max_suspicious_broken_parts>100000</max_suspicious_broken_parts>
    <max_suspicious_broken_parts_bytes>1099511627776</max_suspicious_broken_parts_bytes>
    <number_of_free_entries_in_pool_to_execute_mutation>2</number_of_free_entries_in_pool_to_execute_mutation>
    <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>2</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
    <number_of_free_entries_in_pool_to_lower_max_size_of_merge>2</number_of_free_entries_in_pool_to_lower_max_size_of_merge>%[6]s
  </merge_tree>
</clickhouse>
`, esc(d.engine()), esc(d.tmp()), esc(d.empty()), esc(filepath.Join(d.config(), "users.xml")), lim.memoryBytes, still, room)
	path := filepath.Join(d.config(), "config.xml")
	if err := note(path, b.Bytes()); err != nil {
		return "", fmt.Errorf("write engine configuration %s: %w", path, err)
	}
	path2 := filepath.Join(d.config(), "users.xml")
	if err := note(path2, usersXML(lim, roles, confined)); err != nil {
		return "", fmt.Errorf("write engine configuration %s: %w", path2, err)
	}
	return path, nil
}

func esc(s string) string {
	var e bytes.Buffer
	_ = xml.EscapeText(&e, []byte(s)) // a bytes.Buffer does not fail
	return e.String()
}

// profileName is the settings profile by which a connection is held to a role's limits.
func (r *role) profileName() string { return "held_" + r.name }

// usersXML writes the one user that connections have, the roles that it can be held to, and their profiles. The engine knows no other way to
// tell one connection from another: the front takes on a request's role (SET ROLE) before it runs anything for it.
func usersXML(lim limits, roles *roleSet, lax bool) []byte {
	var b bytes.Buffer
	constraints := func(p *profile, strict bool) {
		b.WriteString("      <log_comment><readonly/></log_comment>\n")
		for _, s := range frozenSettings {
			fmt.Fprintf(&b, "      <%[1]s><readonly/></%[1]s>\n", s)
		}
		set := append([]limit{{name: "max_memory_usage", low: "1"}}, bounds...)
		if strict {
			set = append(set, plainValues...)
		}
		if p != nil {
			set = append(set, p.settings...)
		}
		written := map[string]bool{}
		for _, s := range slices.Backward(set) {
			if s.name == "max_memory_usage" {
				s.high = smaller(s.high, lim.queryBytes())
			}
			if written[s.name] || slices.Contains(frozenSettings, s.name) || !s.fixed && s.low == "" && s.high == "" {
				continue
			}
			written[s.name] = true
			fmt.Fprintf(&b, "      <%s>", s.name)
			if s.fixed {
				b.WriteString("<readonly/>")
			}
			if s.low != "" {
				fmt.Fprintf(&b, "<min>%s</min>", esc(s.low))
			}
			if s.high != "" {
				fmt.Fprintf(&b, "<max>%s</max>", esc(s.high))
			}
			fmt.Fprintf(&b, "</%s>\n", s.name)
		}
	}
	list := func(grants []string) {
		b.WriteString("    <grants>\n")
		for _, g := range grants {
			fmt.Fprintf(&b, "      <query>%s</query>\n", esc(g))
		}
		b.WriteString("    </grants>\n")
	}
	fmt.Fprintf(&b, "<clickhouse>\n  <profiles>\n    <default><async_insert>0</async_insert><implicit_select>0</implicit_select><max_memory_usage>%d</max_memory_usage></default>\n", lim.queryBytes())
	all := append([]*role{{name: adminRole, grants: slices.Concat(grants, roles.definerGrants())}}, roles.roles...)
	for _, r := range all {
		fmt.Fprintf(&b, "    <%s><constraints>\n", r.profileName())
		constraints(r.profile, !lax || r.name != adminRole)
		fmt.Fprintf(&b, "    </constraints></%s>\n", r.profileName())
	}
	b.WriteString("  </profiles>\n  <users>\n  <default>\n    <password></password>\n    <networks><ip>::/0</ip></networks>\n    <profile>default</profile>\n    <quota>default</quota>\n    <access_management>0</access_management>\n")
	can := []string{"GRANT " + internalRole}
	for _, r := range all {
		can = append(can, "GRANT "+r.name)
	}
	list(can)
	b.WriteString("  </default>\n")
	for _, name := range slices.Sorted(maps.Keys(roles.definers)) {
		fmt.Fprintf(&b, "  <%s>\n    <no_password></no_password>\n    <networks><host>none.invalid</host></networks>\n    <profile>default</profile>\n    <quota>default</quota>\n", name)
		list(roles.definers[name])
		fmt.Fprintf(&b, "  </%s>\n", name)
	}
	b.WriteString("  </users>\n  <roles>\n")
	fmt.Fprintf(&b, "  <%s>\n", internalRole)
	list([]string{"GRANT ALL ON *.*"})
	fmt.Fprintf(&b, "  </%s>\n", internalRole)
	for _, r := range all {
		fmt.Fprintf(&b, "  <%s>\n", r.name)
		list(append(slices.Clip(r.grants), temporaryTables...))
		fmt.Fprintf(&b, "  </%s>\n", r.name)
	}
	b.WriteString("  </roles>\n  <quotas><default></default></quotas>\n</clickhouse>\n")
	return b.Bytes()
}

// definerGrants let an administrator make views that run as the definers.
func (s *roleSet) definerGrants() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(s.definers)) {
		out = append(out, "GRANT SET DEFINER ON "+name)
	}
	return out
}

// smaller is the smaller of a bound, "" for none, and n.
func smaller(bound string, n uint64) string {
	if v, err := strconv.ParseUint(bound, 10, 64); err == nil && v < n {
		return bound
	}
	return strconv.FormatUint(n, 10)
}

// args are the engine's command-line arguments.
func (d layout) args(configFile string) []string {
	return []string{"clickhouse", "--path=" + d.engine(), "--config-file=" + configFile}
}
