// Package detector judges event time minute by minute: dirty cells in, verdicts out.
//
// It owns the order of events: take batches as they became available, reduce the cells
// that they touch (or read the cells that an earlier judgement stored), and for each
// minute that lies the watermark's wait behind what has arrived (a fleet of many cells is
// judged every few minutes, a silent one more rarely): assemble
// activities (run), classify (workload), estimate (flops), compare (threshold), project
// (forecast), join with parties (identity), raise findings (report). The stages are pure
// functions; only this package reads and writes the store, and it never asks for the
// time: event time comes with the rows.
//
// It must not know SQL, NATS subjects, or names of customers.
//
// [Detector.Backfill] judges a period that is stored; [Follower] judges a store as it grows, to
// the same lines. It tails batches by availability; rows of batches that appear late are
// found by when they came into the store (up to five minutes may pass from that time, by the
// store's clock, until they are visible), make their cells anew and give new versions of the
// verdicts at the next moment. What is due is told by the broker's time, which the caller
// brings: a silent fleet is judged too. A position is stored after each block; whoever leads
// next takes the cells, runs and findings as they stood there, and judges the rest again under
// its own epoch. What an earlier leader said beyond the position is said again, or taken back.
// Before each write the lease is looked at, and the store refuses an older epoch; of cells of one
// moment those of the later epoch hold.
//
// The same rows give the same verdict, byte for byte, whatever deaths and new leaders lie between. A
// row counts from when a batch that touches its minute is taken, at the latest its own: rows come
// into the store before the row of their batch. A leader that begins looks again at the batches of
// the last five minutes before its position, which the one before may have seen or not, and makes
// what they touch as of the step that would have taken them; minutes that it finds as they are to
// be still roll up their hours. On a replicated store the row of a batch is shown a minute after it
// came, and servers that lag half a minute are not asked (internal/store, settled.go): the wait
// before a minute is judged is longer than both. Cells in memory of GPUs never give way to ones of fewer
// rows: raw rows expire, and a batch of a month ago would leave only itself.
//
// Memory holds minutes as long as there is room (500,000 of GPUs unless configured, some 0.2 KiB each once they are packed,
// and at least the last hour), and older time sealed: one wide cell for each thing that a GPU did in half an hour, an hour,
// a quarter of a day, a day (feature.Seal), so that activities that go on are kept from their beginning
// whatever their length. Hosts of which only watts are seen stay in minutes. When what is sealed follows from event time and the
// number of GPUs alone; rows that come late open a block again, from its stored minutes. What ended beyond the horizon (35 days), or sooner where there
// are too many cells, is judged no more. Rows that come hours after their time are read an hour and some nodes at a
// time, whatever their number.
//
// A detector that comes back under other profiles than history was judged under judges it again
// ([Review]): from stored cells, by a goroutine of its own that shares nothing with live judging but
// the store, rests three times as long as it works, waits while live judging lags, holds a quarter of
// the cells, and says after every two hours of event time how far it is, so that whoever leads next goes
// on there. What it says are versions of its own, beside what stood, which stays. At its end live
// judging takes over what it lacks: from when evidence sufficed for findings that it holds or will
// raise, and versions of runs and findings beyond its horizon. Reports of the latter are not written.
// flopwatch backtest does the same for who asks, and changes nothing that is live.
//
// One goroutine owns the state. After a crash everything is rebuilt from stored rows, or from
// stored cells where raw rows have expired:
// verdicts are versioned by the judged minute, so repeating a step writes the same
// version again and changes nothing.
package detector
