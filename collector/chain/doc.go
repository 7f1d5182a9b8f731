// Package chain verifies what nodes signed: that of the batches in the store none was left out,
// put in, moved or changed since its node sealed it.
//
// It must not know SQL, nor how a record looks. Verifier and Hour are pure functions of heads: no
// clock, no I/O. Checker is the hourly check: what came into the store since, host by host and hour
// by hour, recomputed and never summed, so that a repeat gives the same rows. Nothing here is on
// the way of an ack: a batch is stored with the signature it came with, and whoever wants to know
// verifies, from the store alone, without the frames.
//
// What holds a chain together:
//
//   - each head is signed with the node's key, and names cluster, node, spool, sequence, the
//     digest of the frame before it, that of its own body, and the gaps that the spool told;
//   - a frame's digest covers its signature, and the next head names that digest: a store in
//     which a frame's digest was changed breaks at the next;
//   - sequences have no holes but those that a signed gap covers, or a message in quarantine.
//
// An hour's row says how many batches it had and a digest over them: what is gone later, or another,
// shows against it. Losses are what is not there, by reason, with the time between the seals around
// it; ticks are tallied as the view v_node_hours does.
//
// Memory: 20,000 heads at a time, about 12 MB, and the list of hours that are due. Budget: some 60 µs
// of CPU a batch, nearly all of it the signature's.
//
// What it cannot show: batches behind the last that arrived, or a host whose key is in another's
// hands. Of the last batch of a spool the frame's digest is vouched for by nobody yet; the body's is.
package chain
