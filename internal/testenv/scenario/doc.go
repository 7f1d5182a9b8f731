// Package scenario makes recordings of fleets that never existed, with labels, for tests
// of the detector on what it has not seen.
//
// It owns a small physics of its own: parts with clocks, caps and watts; steps of a
// training with compute, exchange, optimizer, checkpoints and evaluation; decoding bound
// by memory; simulations, renderers, miners and the like; and what an agent makes of
// them: cadences, columns that are missing, late, repeated and lost rows, resets, clocks
// that disagree, declarations that are false. Labels come from the same integration,
// expected findings from BUNDLE.md's text. Nothing is taken from the generator of the
// shared recordings, and nothing of the detector is imported, so that neither can agree
// with itself.
//
// It must not know: how the detector judges. Deterministic for a seed; no goroutines.
// Errors of writing are returned; a half-written folder is the caller's to delete.
package scenario
