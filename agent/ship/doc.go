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
// <node>/<spool>/<sequence>. An ack moves the spool's position; the first error throws the
// window away, and after a back-off ship goes on behind the last ack, the broker
// recognising what it has. Frames are freed by commit marks alone, which come on the
// node's commit subject, or, for a node that was away, as the last message of the commit
// stream. If acknowledged frames stay uncommitted for ResendAfter without any progress they
// are sent again, the broker having forgotten their ids by then; each round without
// progress doubles the time, so that a collector that is down does not fill the stream.
//
// # Crash
//
// Everything ship knows is in the spool; a killed ship goes on behind the last ack that the
// spool remembers. Repeats are recognised by the broker or by the collector.
//
// # Goroutines and buffers
//
// Run is one goroutine a node and ends with its context; subscriptions use channels, and
// all nodes of a process share one connection and one JetStream context. A frame in flight
// belongs to the client library until its ack.
package ship
