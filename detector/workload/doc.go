// Package workload says what kind of work an episode was, with a probability and the
// reasons that carried it.
//
// It owns the features (features.go), each with its physical reason, and the rules
// (rules.go): an additive model of log-odds that a person can read. Every rule names a
// fact about the machine, the classes that it speaks for or against and how strongly; a
// fact that was not measured adds nothing. The sums go through a softmax whose sharpness
// grows with the time seen, so that the first minutes of a job give a cautious answer.
// Unknown is a class with a constant score: it wins when the facts speak for no class.
//
// Rules come from how hardware is used (FLOPS.md 4 and 5) and not from a fit: gradients
// are exchanged in megabytes and decoding activations in kilobytes; an optimizer works on
// FP32 pipes; GPUs of a training stall together and servers do not; decoding is bound by
// memory bandwidth, training by tensor pipes; burn-in and mining are flat as nothing else
// is. Declarations (program names, launchers, orders) are weak evidence and can be
// outvoted by measurements.
//
// It must not know runs over time, FLOPs, thresholds or parties; it has no clock, no I/O
// and no logger, keeps nothing between calls and has nothing to recover after a crash.
//
// Budget: with run.Episodes and run.Join 50 ms at 50,000 minute cells.
package workload
