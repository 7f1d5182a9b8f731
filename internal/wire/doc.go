// Package wire is the telemetry contract between agent and collector: record kinds,
// their fields and units, the protobuf batch, its versions, subjects and message ids.
//
// # What it owns
//
// How a record looks in bytes. It must not know NATS connections, ClickHouse or files.
// Decoders check untrusted bytes before they use them, and never panic.
//
// # A frame
//
// A frame is what the spool keeps and what travels as one NATS message:
//
//	byte  0     0xF7
//	byte  1     contract version (see Version)
//	bytes 2..   one zstd frame with content checksum: a flopwatch.wire.v1.Batch, batch.proto
//
// batch.proto is the contract, and wirepb its generated Go. The hot path is written by
// hand over protowire, so that a decoder reuses its memory; tests hold both to the same
// bytes. Fields may come in any order, and unknown ones among them; the decoder is stricter
// than protobuf in that singular fields come once and numbers come packed, in one piece.
//
// Inside a table each column stands alone: a presence bitmap, a source, and the values
// of the present rows as zigzag numbers, or as indices into a dictionary of strings. The
// encoder chooses plain values, differences, or differences of differences for each
// column, whichever needs fewest bits. Rows sorted by entity, then time, make the
// differences small; Builder sorts so.
//
// # Signatures
//
// A node that has a key signs the head of each batch (Head): whose it is, its place in the chain of
// its spool, the gaps that it tells, and a digest of the rest. Key and signature are the last two
// fields of the message, so that a frame's digest, which the next head names, covers them. Decode
// verifies nothing, as nothing is to wait for that; Head.Verify does, with or without the frame.
//
// # Limits
//
// MaxFrameBytes, MaxDecodedBytes, MaxRows, MaxTables, MaxDictEntries and MaxStringBytes
// bound what a hostile sender can make a decoder allocate, to about 40 MiB.
//
// # Versions
//
// Fields may be added within a version: a decoder skips field ids that it does not know
// and counts them (Decoder.SkippedColumns). An unknown kind or version is an error
// (ErrUnknownKind, ErrUnknownVersion): the collector keeps such a frame in quarantine
// until it is new enough.
//
// # Buffers and goroutines
//
// AppendBatch appends to the caller's slice and keeps nothing. A decoded Batch borrows
// its slices from the Decoder until its next Decode; its strings are the caller's for
// ever. A Table from Builder.Build borrows from the Builder until Reset. Builder and
// Decoder belong to one goroutine each. The package starts no goroutine. The one thing
// it shares is a pool of zstd encoders behind AppendBatch, which carries no state from
// one call to the next.
package wire
