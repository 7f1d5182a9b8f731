// Package embedded is ClickHouse without a server: libchdb behind ClickHouse's own HTTP interface, in a process of its own. Everything else in the
// product speaks clickhouse-go over HTTP, so that a real server is a change of URL.
//
// It owns: the binding of libchdb by purego (library.go) and its way to the disk (diskhook_amd64.go, room.go), the HTTP front (front.go, own.go, session.go, coding.go, turns.go), who may sign in and what for
// (users.go, roles.go), the judgement of statements (lexer.go, statement.go, guard.go), the confinement of the process (sandbox.go), the engine's
// configuration (config.go), backups (backup.go, restore.go) and the supervisor (server.go). engine/fetch.sh fetches the library, pinned by version and digest.
//
// It must not know: a table, a row type or a subject of the product. Roles are a text it is given. The SQL it writes is its own: SET, USE, KILL QUERY,
// temporary tables, FREEZE.
//
// The engine knows one user. The front signs people in and lets the engine hold each connection to a role of users.xml (SET ROLE) and to a profile's bounds
// before anything of a request runs on it.
//
// Three layers keep a statement inside the data directory. The guard asks the engine's own parser what a statement is and refuses more than one
// statement, control statements, calls that read files, and engines and settings that reach outside. The grants of the roles hold no sources and no table
// engines that reach outside. Landlock rules of the process forbid files outside the engine's own, the password's included, outgoing connections and signals
// to others, whatever the statement. Where the kernel has no Landlock the process says so on start and the guard refuses some more.
//
// Buffers and goroutines: the engine copies what it is given (inserter.Write) and owns its results until destroy; an insert holds one buffer of 1 MiB. Each
// request has a connection of its own and one goroutine that kills its query when the client leaves; it ends with the request. Kept sessions expire by one
// timer. The supervisor is one goroutine, ended by Stop, beside one a child that waits for its end;
// in the child one more says when writes wait for room, until its context ends.
//
// On a crash of the engine the supervisor starts it again on the same data and the same socket, which it never closes: clients wait in the socket's
// queue instead of being refused. Every insert that was answered with 200 is on disk, since the merge-tree settings fsync parts; one that was not
// answered may be there or not, as a whole for each table, and is to be sent again with the same insert_deduplication_token. If the parent dies,
// the child is killed by the kernel, and ends by itself when its stdin ends. One flock guards the data directory against a second engine.
// A restore that was cut off leaves a mark, on which no engine starts.
//
// Full disk: an eighth of the disk, at most 256 MiB, is kept free from inserts, half of that from other statements that write (code 243), an eighth of it from
// merges. Others may fill the disk all the same, and this build of the engine takes no notice of a write that failed: it answered inserts with success that
// it did not write. So its calls of write, pwrite, writev, fsync and fdatasync go through hooks (hookDisk): a write that finds no room waits for it, and
// what waits is not acknowledged; any other error of the disk ends the process, as a crash does. Reads go on meanwhile. TestDiskFilledByOthers.
//
// Limits: 4 GiB for the engine, three quarters of it for a statement, 256 MiB for a result that cannot be streamed, 16 statements at a time or four a core, half
// of them readers'. Idle it holds some 220 MB resident, most of it pages of the library; a connection costs 0.3 ms.
package embedded
