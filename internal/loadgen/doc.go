// Package loadgen is a fleet of GPU hosts in one process: it loads a broker, a collector and a
// store as so many agents would, and says how they bear it.
//
// # What it owns
//
// Invented hosts, when each of them seals, and what becomes of every frame. It must not know how
// the collector works, nor SQL: what the store has it asks through Store.
//
// # What is real, and what is not
//
// Real: agent.Recorder (privacy, gaps, chain of digests, signature by a key of the node's own),
// wire.Builder and the encoder, agent/spool with its bounds, eviction and gap records, agent/ship
// with its window, acks, commit marks, back-off, backlog and resend, and with Connections 0 one
// connection to the broker for each host. So what arrives, and when, is what agents send: every
// record kind of a host with eight GPUs and everything on, at the agents' own intervals.
//
// Not real, which is what one process saves:
//
//   - Values are drawn from a model of training, inference and idleness, not measured. Their noise
//     is set so that a sample of a GPU takes about what make bench-agent measures.
//   - The rows of a seal are drawn when it is sealed, not tick by tick, into builders that all
//     hosts of a worker share. Their times are the ticks'.
//   - Spools are in memory: what agents' disks cost them is not there.
//   - Bursts, MIG instances and management controllers are left out: they are off by default.
//   - Wall clocks of the hosts are this machine's, without error.
//
// # Lag
//
// From the seal to the broker's ack, to the collector's commit mark, and, where a store is asked,
// to the rows' being visible there (of up to 16 hosts). A sample is up to SealEvery old before
// that. A histogram's quantiles are good to 3 %, its maximum is exact.
//
// # Crash
//
// A generator that is killed leaves frames in the broker, which the collector takes, and chains
// that end. The next one's hosts have the same names and new spools.
//
// # Goroutines and buffers
//
// Fleet owns all: one goroutine a worker, and of each host one that ships; the connections have
// the client library's. All end with Close. A host takes some 100 KB, and what waits in its spool,
// at most SpoolBytes; with a connection of its own some 100 KB more.
package loadgen
