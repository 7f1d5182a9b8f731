// Package flops estimates executed and model FLOPs of GPU intervals as 90 % intervals.
//
// It owns the accelerator table, the physics that turns counters, watts and hours into
// operations, and the errors of each way. It must not know thresholds, customers, SQL
// or files; it is pure and deterministic: sums run over members and minutes in order,
// never over a map. A crash loses nothing.
//
// # Two steps
//
// Measure adds up what the cells of the members saw, minute by minute, without knowing
// what kind of work it was (Work). Work.Estimate turns that into an Estimate for a
// class. Work of disjoint members, and of hours (Hour), can be merged to the last bit, so a
// caller may keep it. Of does both, and takes the share of an activity that has its GPUs not
// for itself (Estimate.Shared).
//
// # Tiers
//
// The tier is chosen for each GPU and minute by what was measured, never by what was
// declared: cumulative tensor cycles; tensor activity x SM clock; the energy counter;
// watts of the GPU; watts of the node, shared among its GPUs; utilisation; the bare
// allocation. Increments of cumulative counters are exact over gaps and are spread
// evenly over them.
//
//	FLOP(cycles)   = cycles x SMs x K           cycles are the mean over the SMs
//	FLOP(activity) = TensorActive x f_SM x SMs x K x time
//	FLOP(vector)   = PipeActive x f_SM/f_boost x peak of the pipe x 0.92 x time
//	FLOP(watts)    = a x^b x peak x time,  x = (watts - idle) / (board power - idle)
//
// K is dense FLOP per clock and SM. A busy tensor cycle means K(TF32) : K(16 bit) :
// K(FP8) = 1/2 : 1 : 2 operations, and FP8 lands in the HMMA counter like BF16, so the
// data type is a mixture (dtype.go). It is narrowed by what was measured: the IMMA and DFMA
// shares, the part (no FP8 before Hopper, no TF32 before Ampere), how many GPUs there are, how
// busy the tensor pipes were (an FP8 run that kept them busy half of the time would exceed
// every published training run), and how busy beside the SMs. Joules do not narrow it: a busy
// FP8 cycle costs an eighth more than a 16-bit one, less than layouts differ.
//
// A counter of cycles that is a sum over the SMs is told by activity x clock, or by a rate that
// no clock allows, and divided (cycles.go). At a power limit, where watts say nothing, the clock
// tells what they were spent on (slowed).
//
// # Parts
//
// What the GPUs are follows from the name that the inventory, else the driver, gives. Where the
// table lacks it, or the GPUs show more memory, clock, watts or link rate than such a part has,
// the parts of the table are weighed by those limits, with a part that no table has among them;
// the spread of what remains is a term of the interval (part.go).
//
// # Executed and model
//
// Executed is useful arithmetic: cycles are divided by what tiles waste, a few per cent
// in training and much more in decoding, where a small batch fills a tile partly; there
// the arithmetic intensity (tensor FLOP per DRAM byte) says how much. Model FLOPs
// divide further by recomputation: a mixture of none or selective (1.00-1.09) and full
// (1.27-1.34), because telemetry does not tell them apart, and a per cent for start-up
// and evaluation. No counter shows whether a cycle was recomputation; the interval
// carries that.
//
// # Errors
//
// Errors that all GPUs of a run share (data type, recomputation, tiles, calibration) are
// added once, in log space; they do not average down. Only the noise of samples shrinks
// with their number. Time without a signal is filled from the run's other GPUs in the
// same minute, else from its neighbours in time, else from the allocation prior, and
// widens the interval: down to nothing, up to the peak. Estimate.Terms says what the width is
// made of and which signal would narrow each part of it most.
//
// # Instruments against each other
//
// Watts over active SMs, joules a FLOP, cycles against activity, the energy counter against
// watts, the host's meter against its GPUs, a GPU against the run's others: each pair has a
// spread, and CrossCheck tells where one is off by more for ten minutes. Independently of that
// telling, the interval reaches what the watts say with the weight that the ratio gives it
// (doubt.go), without a step.
//
// # Sources
//
// Tensor counters: Pedersen et al., arXiv:2605.20799; Vilanakis, Zenodo
// 10.5281/zenodo.22881088. Watts: figures of 8xH100 conditions and of the OLMo reports. Hours:
// data/published_runs.csv. How hours and watts do on what was published, each run and system
// judged by the others, is in BACKTEST.md, which a test makes. Constants come from these, not
// from recordings of simulated fleets; `go test -v -run TestDrawn ./detector/flops -draws 6`
// measures on fleets whose every constant is drawn.
//
// # What it does not know
//
// The data type and the recomputation of a training that keeps its pipes half busy; MIG
// instances beyond those whose name says their size; sparsity (prior nought).
package flops
