// Package source is what an instrument of the agent looks like from outside: it is asked at
// every tick, and puts rows and its own state into a sink.
//
// It must not know any instrument, nor what becomes of the rows. It starts no goroutine.
// The agent gives each source a goroutine of its own, so that one that hangs holds nobody up.
package source
