// Package broker knows NATS as infrastructure: how to connect (package natsd has a server
// to connect to), which streams and buckets there are and how they are set. It must not know what is in a
// message, nor ClickHouse.
//
// # Streams
//
//	FLOPWATCH_<p>       node batches of partition p; work queue, file, DiscardNew
//	FLOPWATCH_PROVIDER  the provider's batches; work queue, file, DiscardNew
//	FLOPWATCH_COMMIT    the last commit mark of each node; one message a subject, direct get
//
// Work queues, because the store is what keeps: a message goes when the collector has
// acknowledged it, which it does after the store has it. DiscardNew on one limit alone
// (bytes): a full stream refuses, and the agents' spools keep; two limits together once
// lost messages in the broker. Number of partitions: 1 when embedded, 16 otherwise; a
// divisor of wire.Partitions. Changing it on a broker that has streams works from few to
// many; from many to few the streams in the way have to be empty and deleted by hand.
//
// # Buckets
//
// BucketLease (entries expire after LeaseTTL) holds the collectors' and detectors' leases, whose
// revisions are fencing epochs; BucketCursor how far each stream is in the store, and the intent: what
// is being written. One key holds both, as they change in one compare-and-set. (Brokers of before have
// FLOPWATCH_INTENT too, which was never written: it may be deleted.)
//
// # Crash
//
// JetStream syncs to disk every SyncInterval, two minutes by default, so an ack is not yet
// durability: frames leave a spool on commit marks. A killed server loses nothing that the
// kernel has.
//
// # Goroutines
//
// A connection's are the client
// library's and end with Close.
package broker
