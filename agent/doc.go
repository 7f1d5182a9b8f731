// Package agent is what runs on a GPU host: sources, one recorder, the spool, ship.
//
// # What it owns
//
// The order of events on a host: ticks (Agent), a goroutine for each source, the way from
// rows to a frame in the spool (Recorder), what each instrument can see and since when, and
// what of a host may leave it in clear (Privacy). Instruments live in the packages below,
// one each; agent must not know how they measure, nor the broker, the store or the
// collector.
//
// # Ticks
//
// Ticks are paced by the boot clock, so that no step of the wall clock moves them; a node's
// name shifts them within the interval, so that a fleet does not tick at once. A slot that
// passes without a tick (suspend, overload) is counted in Tick.Seq and in every batch, and
// never made up for. A source that is busy misses ticks, counted by source; others do not.
// A source that panics is an error that names it, and is left alone for a while; one that
// does not answer for ten seconds counts as stalled. The agent's own state is the instrument
// "agent".
//
// # From row to frame
//
// Rows go into one table a kind and group. Every SealEvery, or when a table is large, what
// is open is cut off and sealed by a goroutine of its own, so that a slow disk holds no tick
// up. While the spool takes nothing, cuts wait in memory, oldest first; past PendingRows the
// oldest are given up, which is counted, logged, and told by the agent's status. A table
// that is too large for a frame is split; one that breaks the contract is dropped alone.
//
// # Crash
//
// Recorder.Seal replaces names, encodes, signs with the node's key (LoadOrCreateNodeKey), appends,
// syncs. A row is taken when its frame is in
// the spool: before that (SealEvery, at most) it is lost with the process, and Ticks shows
// it: TickFile keeps their count for the next agent of the boot. What a host that loses its power had not
// sealed nobody counts. Behind it nothing is lost without a gap record. A sequence is assigned once, by the
// spool. A recorder of a replay numbers its batches from 1 and skips those that the spool
// already has, so that a killed replay goes on where it stopped.
//
// # The end
//
// When its context ends, Run lets the samples in hand finish, interrupts them, seals what
// there is, flushes the spool, waits a few seconds for the broker, and returns. A source
// that is stuck in the kernel is left behind, by name.
//
// # Buffers and goroutines
//
// Run owns: one goroutine a source, one that seals, one that notes ticks, one that ships; all end with it, a stuck
// source apart. Statuses are one row an instrument and tick at most. A Recorder is used by
// one goroutine at a time, borrows tables during Seal and keeps nothing of them. Privacy is
// immutable and may be shared.
package agent
