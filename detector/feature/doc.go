// Package feature reduces what was sampled to cells of one minute, and holds the
// types in which every later stage of the detector sees the fleet.
//
// It owns: the list of signals, cells (GPU, node, communicator, flow), and the facts
// that the provider and the job layer state (processes, allocations, orders,
// inventory), bundled as Evidence. It is pure: no clock, no I/O, no logger. The same
// rows give the same cells, byte for byte.
//
// It must not know SQL, subjects, files, thresholds or names of customers.
//
// Callers own the rows that they pass in, which are only read; cells share nothing
// with them but strings. There are no goroutines and no state, so a crash loses nothing:
// cells are recomputed from rows.
//
// # How a cell is made
//
// Absent is not zero: a mean counts only where its CoverMs is positive, and a raw
// value that was not measured is NaN.
//
// A value at ts describes the time since the same source's previous row that carried
// the same signal. Its weight is that time, at most cap = 5 x the median interval of
// the signal in the window, clamped to 90 s .. 600 s, and it is credited to the minute
// of ts. So a cell may cover more than its minute where rows are coarse: at one row in
// 300 s a cell in five covers 300,000 ms and the others do not exist. A row that has no
// predecessor in the window is evidence of a value but not of a duration: it weighs
// nothing beside others, and alone it is credited with the part of its own minute
// before it, at least 1 ms.
//
// Rows with the same source and ts are one row: the values of the one available last
// hold, and a value that it lacks is taken from the others. An exact repeat changes
// nothing, not even the availability.
//
// A cell rests on the rows of its window, [minute - Window, minute + 1 min), and on
// nothing else; DirtyMinutes is the inverse of that rule.
//
// Byte counters of ports are credited by increment, to the minute of the later reading. Some
// adapters count the bytes of a virtual function in its parent too, others in the function alone:
// of a parent and the sum of its functions the greater counts, which is never double, and does not
// take a guest's traffic for silence. It is of the parent's kind: how much of a function's bytes
// is RDMA nobody tells, so that of guests on a RoCE adapter they are in the sum of Ethernet.
//
// # Rhythm
//
// A cell says at which period its links, pipes or watts repeat (Peak), from all rows of its window: trainings go in
// steps. It is the strongest line of the spectrum, held against what its neighbourhood has by chance, so that load of any
// colour without a period has none; a line that is a multiple of a slower one gives the slower. Bursts of dense rows are
// looked at apart, and hold for what is too fast for the others. What samples fold onto a longer period is said to be so
// (Peak.Folded), unless it swings deeper than anything can that is averaged between two samples. It takes 4 periods, so
// that 165 s is the longest. 0 means that none was found or too little sampled, never that there is none.
//
// Beat (BeatOf, BeatOfNode) is what a GPU or a host kept over some cells. Fleet (NewFleet) compares two: InStep and
// InStepNodes give log-odds that one job drives both, from the period, from the lag between their crests, which stays
// where one job makes it and wanders where two do, and from minutes in which the load of both falls.
//
// # Clocks
//
// Offsets tells how far the clock of a host is ahead of those it works with, up to five minutes, from when their loads
// start, stop and stall; a host that is not in its answer is not known to be off, nor to be right.
package feature
