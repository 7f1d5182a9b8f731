// Package agent is what runs on a GPU host: sources, one recorder, the spool, ship.
//
// # What it owns
//
// The way from filled tables to a frame in the spool (Recorder), and what of a host may
// leave it in clear (Privacy). Instruments live in the packages below, one each; agent must
// not know how they measure, nor the broker, the store or the collector.
//
// # Order of events, and crash
//
// Seal replaces names, encodes, appends, syncs. A row is taken when its frame is in the
// spool: before that it is lost with the process, and Ticks shows it; behind it nothing is
// lost without a gap record. A sequence is assigned once, by the spool. A recorder of a
// replay numbers its batches from 1 and skips those that the spool already has, so that a
// killed replay goes on where it stopped.
//
// # Buffers and goroutines
//
// A Recorder belongs to one goroutine, borrows tables during Seal and keeps nothing of
// them. Privacy is immutable and may be shared. The package starts no goroutine.
package agent
