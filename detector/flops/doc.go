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
// class. Work of disjoint members can be merged, so a caller may keep it. Of does both.
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
// data type is a mixture, narrowed by what was measured: the IMMA and DFMA shares, the
// part (no FP8 before Hopper), and the busy level of the tensor pipes (an FP8 run that
// kept them busy half of the time would exceed every published training run).
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
// widens the interval: down to nothing, up to the peak.
//
// # Sources
//
// Tensor counters: Pedersen et al., arXiv:2605.20799; Vilanakis, Zenodo
// 10.5281/zenodo.22881088. Watts: figures of 8xH100 conditions and of the OLMo reports,
// collected with the priors of the allocation tier in the project's evidence base
// (published runs: 49 rows). Constants come from these, not from simulated fleets.
package flops
