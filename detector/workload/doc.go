// Package workload says what kind of work an episode was, with a probability and the
// reasons that carried it.
//
// It owns the features (features.go, gpu.go, rhythm.go, hidden.go), each with its physical
// reason, and the rules (rules.go): an additive model of log-odds that a person can read.
// Every rule names a fact about the machine, the classes that it speaks for or against and
// how strongly; a fact that was not measured adds nothing. Rules come from how hardware is
// used (FLOPS.md 4 and 5), mostly from ratios of a GPU to itself: gradients are exchanged in
// megabytes and decoding activations in kilobytes; GPUs of a training move and stall together
// and servers do not; decoding is bound by memory bandwidth, training by tensor pipes;
// burn-in and mining are flat as nothing else is. They are not fitted: weights fitted to the
// drawn recordings were worse on every other recording, and no better on families left out.
//
// Sums of log-odds become probabilities by a calibration (calibrate.go, calibration.json),
// one for each set of instruments (seen.go): hosts' watts, plain NVML, tensor pipes without
// memory traffic or FP32, all pipes, collectives. It is data, made by `make calibration` of
// drawn recordings alone. The first minutes of a job give a cautious answer. What was not
// measured and would have told classes apart stands in Verdict.Missed. Unknown, the open set,
// is likely where no class leads, and is said where none does; the probability of a training
// stays in Probs either way.
//
// Where instruments contradict each other, the one that shows work counts: counters of
// activity that read zero while watts show work are not believed, and the verdict says so.
//
// Split (split.go) cuts an episode where what its GPUs do changes for good without a release.
// A cut rests on the half hour around it, so it stays as evidence grows.
//
// A training beneath served load (hidden.go) shows in what does not follow the load: tensor
// and FP32 work that stay where memory traffic goes away. Verdict.Share says what part of the
// tensor work it did, where another is seen (two programs on a GPU, somebody served, such FP32
// work): much traffic alone widens it downwards and cuts nothing. Where the load does not vary, or serving does FP32 work of its own, the
// two are not told apart without collectives, and Probs says how likely it is.
//
// Declarations (program names, launchers, orders) are weak evidence and can be outvoted by
// measurements.
//
// It must not know runs over time, FLOPs, thresholds or parties; it has no clock, no I/O
// and no logger, keeps nothing between calls and has nothing to recover after a crash.
//
// Budget: with run.Episodes and run.Join 50 ms at 50,000 minute cells.
package workload
