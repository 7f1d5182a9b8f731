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
// Absent is not zero: a mean counts only where its CoverMs is positive, and a raw
// value that was not measured is NaN.
package feature
