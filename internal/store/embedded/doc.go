// Package embedded is ClickHouse without a server: libchdb behind ClickHouse's own HTTP interface, in a process of its own. Everything else in the
// product speaks clickhouse-go over HTTP, so that a real server is a change of URL.
//
// It owns: the binding of libchdb by purego (library.go), the HTTP front (front.go, session.go, coding.go), the judgement of statements (lexer.go,
// statement.go, guard.go), the confinement of the process (sandbox.go), the engine's configuration (config.go) and the supervisor (server.go).
// engine/fetch.sh fetches the library, pinned by version and digest.
//
// It must not know: a table, a row type or a subject of the product. The SQL it writes is its own: SET, USE, KILL QUERY, temporary tables.
//
// Three layers keep a statement inside the data directory. The guard asks the engine's own parser what a statement is and refuses more than one
// statement, control statements, and calls that read files. The grants of users.xml hold no sources and no table engines that reach outside. Landlock
// rules of the process forbid files outside the data directory, outgoing connections and signals to others, whatever the statement. Where the
// kernel has no Landlock the process says so on start and the guard refuses some more.
//
// Buffers and goroutines: the engine copies what it is given (inserter.Write) and owns its results until destroy; an insert holds one buffer of 1 MiB. Each
// request has a connection of its own and one goroutine that kills its query when the client leaves; it ends with the request. The supervisor is one
// goroutine, ended by Stop, beside one a child that waits for its end.
//
// On a crash of the engine the supervisor starts it again on the same data and the same socket, which it never closes: clients wait in the socket's
// queue instead of being refused. Every insert that was answered with 200 is on disk, since the merge-tree settings fsync parts; one that was not
// answered may be there or not, as a whole for each table, and is to be sent again with the same insert_deduplication_token. If the parent dies,
// the child is killed by the kernel, and ends by itself when its stdin ends. One flock guards the data directory against a second engine.
//
// Full disk: an eighth of the disk, at most 256 MiB, is kept free: inserts are refused beyond that (code 243), and merges wait. This build of the
// engine must not meet a disk without any room: on a tmpfs it answers with success what it could not write. Who fills such a disk by 256 MiB while
// an insert of some milliseconds is under way still gets that; give the engine a disk of its own.
//
// Limits: 4 GiB for the engine, 256 MiB for a result that cannot be streamed, 16 statements at a time or four a core. Idle it holds some 220 MB resident, most of it
// pages of the library; a connection costs 0.3 ms.
package embedded
