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
//	positions       Acked and Committed, in two slots, each with a checksum
//	gaps            ranges of sequences that were given up and that must still be told, and
//	                ranges that were freed out of order; two slots, written in place
//	ballast         up to 64 KiB of room that is let go when nothing else can give way
//	quarantine/     damaged bytes as they were found, <segment>-<offset>.bad, and files that
//	                could not be made sense of, <name>.whole
//	lock            held while the spool is open
//
// A segment is a header (magic, id, base sequence, SHA-256 of the frame before base,
// CRC-32C) and frames, each with a header of its own (magic, sequence, length, time,
// CRC-32C of the payload, CRC-32C of the header). A frame's number is its sequence, from 1;
// Append takes them in order and without holes. Lists of gaps of the first version, replaced
// as a whole, are read.
//
// # Order of calls, and what a crash leaves
//
// Append writes, Sync makes durable; only synced frames are handed to readers, so nothing
// is published that a crash could take back and whose sequence would then be given to
// another frame. A crash inside Append leaves a torn tail, which Open cuts off: it was never
// published. Frames that were written behind it and never synced may be found whole: then
// the hole before them becomes a gap. A crash inside a creation leaves a segment without a
// header, which Open removes: it never had a frame. Positions are synced before anything is
// freed that they tell of; older ones only cause repeats, which the collector recognises.
// Evicting writes the gap first, and removes the segment then; Open finishes what it finds
// half done. It is assumed that a disk writes a sector whole; nothing is assumed of the order
// in which what is not synced comes to the disk.
//
// # Damage
//
// Open does not fail for it, and throws nothing away without a word. Damaged stretches of
// segments, sectors that cannot be read, lists, positions, another spool's segments: they go
// to quarantine (bounded; what passes the bound is counted), the sound rest is kept, and what
// is missing becomes a gap. A lost identity is taken from a segment; if none tells it, all is
// set aside and a new spool begins. No path deletes a directory.
//
// # Bounds
//
// MaxBytes and MaxAge bound the spool; by age, a wall clock that leaps makes no frame old.
// What gives way is a whole segment: the oldest that the broker has acknowledged, else the
// oldest. Committed ones are freed at once, in whatever order. A Gap with the digest of its
// last frame takes its place, so that the chain of digests stays provable.
//
// # Full disk
//
// While the file system has less than MinFree, the spool does not grow by more than two
// segments, which are smaller then: what is new displaces what is old, a little at a time, and
// what is committed in time displaces nothing. It does not shrink for others, as filling a disk must not be a way to erase what was measured. If a write finds no
// room at all, segments give way, one by one, until it succeeds; gaps are recorded in blocks
// that are there already. If all is one segment, the ballast makes room for the next one's
// header. Where nothing is left to give, where the file system is read-only, or the medium
// fails, Append returns the error, the spool keeps what it has, Stats tells the trouble, and
// the caller keeps its rows and tries again. On a file system that copies on write, gaps need
// the room that MinFree and the ballast leave.
//
// # Out of order
//
// Frames may be acknowledged and committed in any order; up to 64 stretches beyond the first
// hole are known. Acked and Committed are the ends of what has no hole. What is committed
// beyond is not kept over a restart, as the collector's mark tells it again; what was freed
// of it is.
//
// # Gaps
//
// Who appends a frame carries Gaps() in it. A gap stays on the list until a frame appended
// after the gap's last change is committed; so it may be told more than once, and may
// grow at its end meanwhile.
//
// # Buffers and goroutines
//
// Append keeps nothing of the frame. Reader.Next reads into the caller's buffer. Open reads
// one segment at a time into one buffer. All methods may be called from several goroutines;
// frames are appended by one. The package starts no goroutine. An open spool holds up to five
// files, and 16 bytes of memory a frame. Verify reads a directory beside its owner.
//
// # Budget
//
// A frame costs one look at the free space, one write and, in Sync, one fsync; an ack, one
// write of 28 bytes; freeing a segment, two or three fsyncs.
package spool
