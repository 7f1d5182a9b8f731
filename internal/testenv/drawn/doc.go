// Package drawn makes recordings with truth in which every physical constant is drawn from
// a wide prior, so that the detector is judged on fleets to which nobody fitted it. It is
// written from BUNDLE.md and FLOPS.md alone, without a look at how the detector decides,
// and independent of internal/testenv/scenario and of the shared recordings.
//
// A recording is a family (what is tested), a number and a seed: the same three give the
// same bytes. Families are also the folds of leave-one-family-out: what is ever fitted is
// judged on a family that it has not seen.
//
// How it works: each GPU holds pieces of time, each with a source that can integrate what
// the GPU does over any interval (signal.go): steady levels, the phases of a training's
// step on a beat that wanders, or levels mixed in bins of two seconds by an arrival
// process. Gauges are the integral over the sampling interval, divided; counters of joules,
// tensor cycles and port bytes, watts of hosts, flows between nodes, and the truth are
// integrals of the same source. So nothing has to be kept consistent by hand, and
// TestTruthIsInCounters holds that no truth is more than what the counters hold.
//
// What is drawn (priors; U uniform, L log-uniform):
//
//   - Fleet: one of 28 NVIDIA parts with figures of data sheets, weighted to those that
//     data centres buy, or a part that no table has (all figures moved by factors of up to
//     2); 1 to 16 GPUs a node, 1 to 24 nodes, InfiniBand, RoCE, or Ethernet alone.
//   - Silicon: idle watts ±12 %, 2 to 8 % of TDP for a context, power limits of 55 to 95 %
//     in every seventh fleet, idle clocks of 135 to 345 MHz or locked (a quarter), idle
//     memory 0 to 3 GB, the shares of watts that issuing SMs (U 0.65-0.98), tensor pipes
//     (U 0.35-0.7), DRAM (U 0.2-0.4) and links take, clocks that fall with the power limit
//     (exponent U 1.8-2.6). TestWattsAsMeasured holds them against section 5 of FLOPS.md.
//   - Training: parameters L by what fits into memory for the layout (DDP, ZeRO, FSDP, TP,
//     PP, both, experts, offload), sequences of 128 to 16384, 1 to 16 micro-batches,
//     recomputation none/selective/full, 16 bit / FP8 / TF32 at 0.74 / 0.21 / 0.05 on
//     Hopper and Blackwell, tensor pipes busy U 0.4-0.74 (Hopper up) or U 0.42-0.76 of
//     computing time, less for small matrices, FP8, TP and experts, tiles' waste 0.5 to 7 %
//     (20 % small), attention's cycles worth U 0.5-0.95 on Hopper up, overlap of traffic
//     U 0-0.95, steps L 0.2-60 s that wander by 0.3 to 3 %, stragglers, data loaders,
//     saves of U 12-14 bytes a parameter at L 0.5-6 GB/s a node or asynchronous,
//     evaluations, hangs, autotuning before step one. TestTrainingsAsPublished: MFU 0.35
//     (0.20 to 0.58), 1.6 pJ a model FLOP.
//   - Inference: parameters L 3-70 % of memory, FP16/BF16, FP8, INT8, TP 1 to 8, prompts L
//     80-6000, answers L 20-1200 tokens, Poisson arrivals under a daily wave and a slow
//     log-normal tide, load U 0.05-0.7 or a queue that never ends; prefill bound by
//     arithmetic, decoding by weights, KV cache and tiles of 8 to 64 rows.
//   - Also reinforcement learning on the same GPUs (rounds L 10-600 s) or on split pools,
//     simulations (FP64, DFMA, FP32, memory), rendering and codecs, mining, burn-in,
//     notebooks, idle contexts with monitors.
//   - Telemetry: a cadence of 1 to 60 s, jitter up to 30 %, noise 0.1 to 3 %, watts of the
//     interval or of the last second, 0 to 5 % of rows lost or late by up to 15 minutes,
//     repeats, resets of counters, clocks off by up to 90 s in every eighth fleet; columns
//     by named sets (columnSets); processes true, generic, partial, absent or false;
//     collectives and flows, bursts of ports at 5 Hz.
//   - Law: 16 shapes of ownership on both sides of scope (shapes), limits L around the
//     largest run by more than what the telemetry leaves open (world.sharp), orders with
//     amendments, clusters.
//
// Truth follows BUNDLE.md: the model's FLOP are 6 PD and causal attention at half (4 PD for
// LoRA; rollouts and updates of RL), without recomputation, evaluation, autotuning;
// executed FLOP are useful ones, tiles' waste left out; null for rendering and mining. A
// finding is required where the truth is clear of the limit by the factor that the
// telemetry leaves open, marginal within it, undecidable for parts without a known peak.
//
// It must not be imported by products. It owns no goroutine; it writes only below the
// directory that it is given.
package drawn
