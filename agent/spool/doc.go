// Package spool keeps a node's frames on disk until the collector has stored them.
//
// # What it owns
//
// One directory: identity, segments, two positions, gaps, quarantine. It holds bytes, not
// records: it must not know internal/wire, NATS or time (which the caller lends it), and so
// it can be recovered without knowing any version of the contract.
//
// # Files
//
//	identity        the spool's random id, minted when the directory is first opened
//	<base>.seg      frames from sequence base (16 hex digits) on; the last is written to
//	positions       Acked and Committed, in two slots written in turn, each with a checksum
//	gaps            ranges of sequences that were given up and that must still be told
//	quarantine/     damaged bytes as they were found, <segment>-<offset>.bad
//	lock            held while the spool is open
//
// A segment is a header (magic, id, base sequence, SHA-256 of the frame before base,
// CRC-32C) and frames, each with a header of its own (magic, sequence, length, time,
// CRC-32C of the payload, CRC-32C of the header). A frame's number is its sequence, from 1;
// Append takes them in order and without holes.
//
// # Order of calls, and what a crash leaves
//
// Append writes, Sync makes durable; only synced frames are handed to readers, so nothing
// is published that a crash could take back and whose sequence would then be given to
// another frame. A crash inside Append leaves a torn tail, which Open cuts off: it was never
// published. Damage anywhere else is quarantined and becomes a gap. A crash inside a
// creation leaves a segment without a header, which Open removes: it never had a frame.
// Positions are not synced: lost ones only cause repeats, which the collector recognises.
// Evicting writes the gap first, and removes the segment then; Open finishes what it finds
// half done. No path deletes a directory.
//
// # Bounds
//
// MaxBytes and MaxAge bound the spool. What gives way is the oldest whole segment, whether
// acknowledged or not, and a Gap with the digest of its last frame takes its place, so that
// the chain of digests stays provable. A full disk is not a full spool: Append returns the
// error, keeps what it has, and the caller keeps its rows and tries again.
//
// # Gaps
//
// Who appends a frame carries Gaps() in it. A gap stays on the list until a frame appended
// after the gap's last change is committed; so it may be told more than once, and may
// grow at its end meanwhile.
//
// # Buffers and goroutines
//
// Append keeps nothing of the frame. Reader.Next reads into the caller's buffer. All
// methods may be called from several goroutines; frames are appended by one. The package
// starts no goroutine. An open spool holds up to three files.
package spool
