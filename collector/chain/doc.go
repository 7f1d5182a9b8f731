// Package chain verifies what nodes signed: that of the batches in the store none was left out,
// put in, moved or changed since its node sealed it.
//
// It must not know SQL, nor how a record looks. It is a pure function of heads: no clock, no I/O.
// Nothing here is on the way of an ack: a batch is stored with the signature it came with, and
// whoever wants to know verifies, from the store alone, without the frames.
//
// What holds a chain together:
//
//   - each head is signed with the node's key, and names cluster, node, spool, sequence, the
//     digest of the frame before it, that of its own body, and the gaps that the spool told;
//   - a frame's digest covers its signature, and the next head names that digest: a store in
//     which a frame's digest was changed breaks at the next;
//   - sequences have no holes but those that a signed gap covers, or a message in quarantine.
//
// What it cannot show: batches behind the last that arrived, or a host whose key is in another's
// hands. Of the last batch of a spool the frame's digest is vouched for by nobody yet; the body's is.
package chain
