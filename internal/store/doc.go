// Package store keeps telemetry, cells, verdicts and sealed parties in ClickHouse. It
// is the only room that knows SQL, a table or a column: the embedded engine and a real
// server take the same statements, so a change of URL is all there is between them.
//
// It owns the migrations (numbered, embedded, forward-only), the row types, the writer
// and the reader. It must not know the wire contract, NATS, laws or names: the collector
// translates wire columns into a RawBlock, the detector maps rows to its own types.
//
// Natural keys prove, dedup tokens optimise. Raw tables replace on the natural key
// (node, GPU, time, source), and of equal keys the row that was available first stays, so a
// repeat never changes what was known at a moment. Readers take one row per key whether
// or not the engine has merged yet. Announcements (processes, allocations, orders,
// inventory) keep all versions with the moment at which each became known; readers take
// the latest that the asked moment could know. Cells replace by version. Verdicts keep
// every version.
//
// Absent is not zero: what was not measured is NULL in a table, and NaN in a row struct.
//
// Buffers: a RawBlock belongs to who made it and may be used again after Reset; Insert
// does not keep it. Rows that readers return belong to the caller. The package starts no
// goroutine of its own; the HTTP transport does, and Close ends it.
//
// Crash: an insert is one part of one table, wholly there or not at all, synced before
// it is answered (fsync settings stand in the tables). Repeating an insert with its token
// is harmless; so is repeating it without, by the natural key.
//
// Migrations go forward only. Each that is shipped is upgraded from, over data, in a test; every
// table, view and column has a comment (columns of views from viewcomment.go, behind the
// migrations), and schema.json is the reference that they make, held to the engine by a test.
// deploy/clickhouse/roles.sql grants what the statements here need: tests run them with the
// grants of each role alone.
//
// On a cluster (cluster.go) a table of nodes' rows is two, local and Distributed; the migrations
// are rewritten for it.
//
// Native TCP URLs (clickhouse://) are untested, and replicated tables are golden-tested as text only:
// the embedded engine has neither. Distributed ones are tried over one shard.
package store
