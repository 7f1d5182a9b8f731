// Package batch turns messages of a range of a stream into blocks for the store: decode,
// check, translate column by column, and set aside what cannot be taken at face value.
//
// It owns the checks at the door (subject against body, sizes, versions, clocks, ranges of
// values) and the translation from the wire contract to the store's columns. It must not
// know NATS connections, leases or SQL.
//
// Bad input costs bounded memory: a frame states its size before it is decompressed, blocks are
// flushed by rows and by bytes, and what a large message needed is not kept. A live batch
// whose samples, or whose seal, lie beyond the limits around the broker's clock is refused
// whole: of what such a host says no time is to be believed. Times at which something began
// (processes, holds, checkpoints, events) may lie in any past. A value that no instrument can
// show is left absent, and the message is kept beside its rows.
//
// A Builder belongs to one goroutine and keeps its memory from range to range; in steady
// state a message costs no allocation but its row of `batches`. It keeps no message after
// Reset, except bytes that go to quarantine. The blocks that it gives out are its own, good
// until Reset.
//
// It has no state that a crash could lose: the same messages give the same blocks in the
// same order, which is what lets a takeover repeat a range under the same dedup tokens.
//
// Budget: 1 µs of CPU per GPU row from message to block (see the benchmark).
package batch
