// Package gpu is the agent's instrument for NVIDIA GPUs. It starts flopwatch-nvml, asks it at
// every tick, and turns its answers into rows. NVIDIA's library lives in that child: it may
// end the process that calls it, or hang in the kernel for ever.
//
// It must not know NVML beyond what agent/gpu/frame says, nor what becomes of rows. It
// judges nothing: a GPU that does not answer is stalled and its values are absent, never
// zero.
//
// What may go wrong, and what is done:
//
//   - no driver, no library, no GPU, no flopwatch-nvml: said once, status unavailable; looked
//     for again every few minutes, and no child runs in between.
//   - the child ends (a missing function is exit 127): restarted with back-off and jitter.
//   - one GPU hangs: it is asked nothing more until it answers, and after two seconds it is
//     stalled. The others go on. A late answer still counts, with the time it was read.
//   - all GPUs hang, or the child says nothing: it is killed and restarted. One that the
//     kernel does not let go of is abandoned; more than two are never alive.
//   - a GPU is lost: asked again with back-off.
//   - a GPU answers, and every call of it fails or is not supported: after three such answers
//     it is stalled too, as it gives nothing. It is asked on.
//   - calls are slow: a GPU whose passes take more than a quarter of the interval, three times
//     in a row, is asked less often, and said to be degraded.
//   - the driver was replaced: the child ends, and the new one finds the new library.
//
// Rows carry the tick's clocks plus what passed until the GPU was read. Link rates come from
// GPM, or where there is none from differences of counters over differences of boot time; a
// counter that went back gives no rate.
//
// What is read is told as it is, but for three values that are rounded, since the digits below
// are noise and would be half of what is sent: power to the nearest 0.1 W; energy down to a
// whole joule (it is a counter: no error adds up, and the energy of a minute is off by less
// than 1 J, 1 part in 4,000 of an idle GPU's and 1 in 40,000 of a busy one's); rates of links
// to 12 significant bits, 1 part in 4,096. The page of metrics shows them as they were read.
//
// Goroutines, for each child: one that starts it and waits for it, on a thread of its own, as
// the kernel ends the child with the thread that started it; one that reads its answers; one
// that reads its log lines. They end with the child. If this process crashes, the child reads
// the end of its input and ends, and the kernel kills it in any case.
//
// A tick costs a GPU about nine calls into the driver. Lists of processes and descriptions, which
// are spread over some ticks, stay within twelve; only the first tick of a child, which describes
// at once, takes more, and one more goes to a GPU with several processes both of its own and of MPS.
//
// Sample waits for answers at most half a second. A steady tick allocates next to nothing.
package gpu
