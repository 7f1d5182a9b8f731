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
// One goroutine owns the state. After a crash everything is rebuilt from stored rows, or from
// stored cells where raw rows have expired:
// verdicts are versioned by the judged minute, so repeating a step writes the same
// version again and changes nothing.
package detector
