// Package ship carries frames from a spool to JetStream and frees them when the collector
// has stored them.
//
// # What it owns
//
// When a frame is sent, and sent again. It must not know what is in a frame (the subject of
// provider batches apart), how it lies on disk, or what the collector does with it.
//
// # Order of events
//
// Frames are published in order, a window of them at a time, with the id
// <node>/<spool>/<sequence>. An ack is noted in the spool; the first error throws the
// window away, and after a back-off ship goes on with what is not acknowledged, the broker
// recognising what it has. Frames are freed by commit marks alone, which come on the
// node's commit subject, or, for a node that was away, as the last message of the commit
// stream. If acknowledged frames stay uncommitted for ResendAfter without progress at the
// front they are sent again, the broker having forgotten their ids by then; each round without
// progress doubles the time, so that a collector that is down does not fill the stream.
//
// # Backlog
//
// With a BacklogRate, what waits to be sent is divided once it is more than BacklogBytes: the
// newest frame and those that come go first, in order, with at least half of the window for
// themselves; those before are the backlog, sent oldest first in what is left, no faster than
// the rate, no more than BacklogAhead ahead of the commit marks, and after a delay of the
// node's own. The rate is one host's manner; the marks are what protects a fleet that comes
// back together: 10,000 hosts have at most 2.5 GB of backlog in the streams at a time, which
// leaves them room for what is new, and go as fast as the collectors store. The rate is
// halved when the broker refuses, and comes back with the marks. So sequences reach the
// collector out of order; its marks and the spool's positions know ranges.
//
// # Trouble
//
// An error is named (no broker, no stream, stream full, denied, too large, no answer, spool),
// counted by name, told in a sentence with what would help, and logged once and then rarely.
// Every error pauses, doubling, with some chance in it. A frame that the broker can never take
// as it is set is parked: it stays in the spool, the others pass it, and it is tried again
// after ParkFor.
//
// # Crash
//
// Everything ship knows is in the spool; a killed ship goes on behind the last ack that the
// spool remembers, having asked for the last commit mark. Repeats are recognised by the broker
// or by the collector.
//
// A spool that was put back to an earlier state (a snapshot of the host) makes numbers anew that
// the collector has, which it sets aside in quarantine as conflicts. A mark beyond what the spool has made shows that:
// it is logged, and told as trouble with the spool until the numbers are passed. It is not mended
// here: a number is signed into its frame, and a spool cannot give it another. deploy/README.md
// says what to do. One that was offline until it had passed the collector's numbers is not told.
//
// # Goroutines and buffers
//
// Run is one goroutine a node and ends with its context; subscriptions use channels, and
// all nodes of a process share one connection and one JetStream context. A frame in flight
// belongs to the client library until its ack. At rest Run wakes with new frames, acks, marks
// and every AskAfter.
package ship
