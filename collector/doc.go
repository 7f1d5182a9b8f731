// Package collector takes batches from JetStream to the store: exactly once in effect.
//
// It owns the order of events: who reads a partition, what was begun and what is done.
// It must not know how a record looks (collector/batch does), nor SQL, nor agents.
//
// The protocol, for each partition (a stream), by one collector at a time:
//
//  1. lease: create the partition's key in a bucket whose keys expire; the revision is the
//     fencing epoch. Renewed at a third of its life; a collector that cannot renew stops.
//     Whose turn it is to try is broker.Shares' word: several collectors hold as many each, or one
//     more. It is a policy alone: two that try at once are told apart by the lease.
//  2. position: one key a stream in a bucket that does not expire: {done, from, to, epoch}.
//     Taking over begins by writing the new epoch into it, so that every later
//     compare-and-set of the former holder fails.
//  3. fetch up to so many messages, or for so long; write the intent [from, to] into the
//     position by compare-and-set; a takeover that finds an intent reads exactly that
//     range and repeats it.
//  4. drop what `batches` (or quarantine) already holds, check the rest, insert table by
//     table under tokens that name stream, range, table and content; `batches` last.
//  5. advance done and clear the intent by compare-and-set; acknowledge; publish the commit
//     marks of the spools concerned.
//
// A crash between any two of these repeats work that the store recognises: by token
// where its log remembers, by natural key where not. Messages that the broker has again
// under sequences already used (it lost its unsynced tail) are not told by their sequence
// but by the identity of the batch, so none is skipped and none counts twice.
//
// What cannot be taken at face value goes to quarantine (collector/batch says what that is) and
// is handled by that: it blocks no partition, and its spool need not send it again as far as
// its identity is to be believed. It is judged again only as a retry: a message with the
// header Flopwatch-Retry. The rule for a retry of (cluster, node, spool, sequence):
//
//   - `batches` has it, or the range in hand brings it: a repeat, nothing is added;
//   - quarantine alone has it, with this content: it is checked like a new one; taken, it is stored as any other,
//     and counts as stored from its row of `batches` on; refused, nothing is added, as it is kept;
//   - nobody has it: it is a new message.
//
// A repeat is one by its content: where the store has another message under the identity, the one
// in hand goes to quarantine under reason conflict, beside the other, once. Its spool is told that it
// is handled. So a spool that was put back to an earlier state, or a forger, changes nothing, loses
// nothing without a word, and shows.
//
// So the header, which anybody may set, gains nobody anything, and a crash between any two steps
// of a retry ends like one of any other message. A row of quarantine with reason range goes with
// a row of `batches`, which comes last: alone it does not make a batch handled.
//
// A message under an identity that the store has is a repeat only if the store has its content too, by
// digest; another content is set aside as a conflict, once. Such a row makes no batch handled either: it may be
// stored before the row of `batches` of the first content.
//
// # DESIGN.md 3 Delivery, clause by clause
//
//	one collector a partition, by lease   hold, broker.TryLease       TestTwoCollectorsContend, TestPausedHolder
//	the revision is the fencing epoch     takeOver                    TestStaleEpochIsRefused, TestStaleEpochStartsAnew
//	intent [from, to, epoch] by CAS       step, positionKey.set       TestDieAtEachStep/intent, TestStopAtStep
//	reads exactly that range              fetch                       TestDieAtEachStep (the range that is repeated)
//	drops what `batches` holds            known                       TestResendsChangeNothing, TestReordered
//	one insert a table, by token          store, token, insert        TestDieAtEachStep (rows = distinct, no keys needed)
//	   but where a block is full          batch.Builder.Full          TestFewLongRowsFlush, TestLargeRangesFlush
//	   or the store lacks memory          heed, batch.Builder.Limit   TestNoMemory, TestLimit
//	async_insert=0, quorum                store.insertSettings        TestInsertSettings, as text; no cluster here
//	`batches` last                        batch.Builder.Rest          TestDieAtEachStep/inserted_gaps, TestRangeCutShort
//	advance, acknowledge, mark            step, publishMarks          TestDieAtEachStep/advanced to /marked
//	a takeover repeats the intent         takeOver, fetch             TestDieAtEachStep, TestLateInsert
//	re-sends beyond the broker's window   known, convict              TestResendsChangeNothing, TestKill, TestConflict
//	tokens optimise, keys prove           raw tables                  TestLateInsert, TestKill
//	a full stream refuses, spools keep    broker.EnsureStreams        TestLongOutage
//
// # When the store has trouble
//
// A range whose insert fails is tried again until it is stored, with pauses that double up to 10 seconds and
// differ by chance; inserts that were acknowledged are left out. Between tries it is kept as messages alone
// (MaxBytes, and one message more), and the builder goes to another partition: memory is bounded by Parallel builders and
// a range for each partition, whatever the backlog is. The broker's stream fills to its limit, refuses, and spools keep.
// Linger widens to MaxLinger where storing takes a third of the time, where the store says that it has too
// many parts, or where a table has half of those at which it delays inserts (TestPartsNearTheLimit). A block for which it has no
// memory is cut in two, and again, down to 100 rows or to one message, and grows again with each range that is
// stored. Where even the least is refused the range waits as any other, and the condition (/healthz) says so. The store may
// have kept what it refused: cut anew it comes under another token, and natural keys show it once (TestNoMemory).
//
// # Cost
//
// BENCH_ROWS=960000 make bench-ingest, 22 November 2026, two cores at a load of 2, rows of 25 values, microseconds of CPU a
// row in this process + in the engine: 1.05 + 2.77 with 80 rows a message, 0.85 + 2.45 with 480; the same blocks
// sent again by nobody who decodes 0.10 + 2.87, so that the whole costs 1.29 and 1.11 times the limit; a plain Go program
// (JSON, a message a row, clickhouse-go) 7.9 + 7.7. make outage, a million rows: 212 MiB at most.
//
// Where it goes, of this process (BENCH_PROFILE=FILE, go tool pprof -top, with 480 rows a message): a third in wire's decoder,
// half of that in readInts; a quarter in moving memory, from the network to columns and on to the engine's request; a tenth
// in zstd; the rest in columns (presence, rounding, dictionaries) and system calls: 0.9 s of samples, so shares are rough. Building
// allocates nothing a row (TestAllocations); encoding and inserts are not pinned.
//
// Run owns all goroutines: one that shares the partitions with other collectors, one that surveys backlog and parts, per
// partition one that works and one that renews, and two more where this collector checks chains. Messages belong
// to the range in hand and are dropped at its end.
//
// Every hour one of all collectors, by a lease of its own, verifies what hosts signed of what came
// into the store since (collector/chain), and stores what it found and what is lost. It is here as it
// reads and writes the ledger that the collector keeps, and judges nothing; no ack waits for it. What the last day comes
// to (Standing) it reads from the store after each check, so that a restart or another holder tells the same.
package collector
