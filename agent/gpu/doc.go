// Package gpu is the agent's instrument for NVIDIA GPUs. It starts flopwatch-nvml, asks it at
// every tick, and turns its answers into rows. NVIDIA's library lives in that child: it may
// end the process that calls it, or hang in the kernel for ever.
//
// It must not know NVML beyond what agent/gpu/frame says, nor what becomes of rows. It
// judges nothing: a GPU that does not answer is stalled and its values are absent, never
// zero.
//
// # Tiers
//
//   - inventory: what a GPU is and how it is partitioned; at the start, every five minutes, and
//     when an event says that it may have changed. Facts of the driver and its library are read
//     from files with it, and told when they change, or an hour after they were last told.
//   - slow: health, every 20 s by default. A look at it is spread over some ticks.
//   - processes: every 10 s. A list that is not whole (a call that is refused, an instance that
//     does not answer, more than 1,024) is not known: the GPU is degraded, with the reason, and
//     GPUProcesses says that there may be others.
//   - base: what a GPU does, at every tick. Of a GPU with MIG on, its instances in turn.
//   - burst: what moves fast (power, energy, counters of links; GPM on option), at moments
//     between ticks, for as long as the agent asks (Burst).
//
// Events come as they happen. Those of one kind between two ticks are one row with a count. Whether
// they are heard is a state of its own, "gpu/events": without it a host whose Xid errors nobody hears
// of would be one that has none. It is stalled if the call that waits for them does not come back.
//
// # What a GPU costs, and how bursts fit
//
// A whole pass is nine calls, and there are twelve in any second for each GPU: the rest is for
// what is rare. A moment of a burst is one call, three with GPM. In a burst a tick is
//
//   - whole, if the moments of a second leave room for it (every 400 ms or more seldom), and once
//     in BurstBase (5 s) in any case;
//   - else lean: the child keeps room for as many moments as the last second had, and reads what
//     is most worth first (power, energy, links and GPM; SM clock, utilization, memory, reasons,
//     temperature, memory clock);
//   - else, where the last second refused moments, thin: power, energy, links and GPM alone.
//
// What does not fit is left out and counted, and the child holds the budget once more by itself.
// With everything on, a minute of bursts every 200 ms gives about 200 of 240 moments, tensor
// activity 60 times and the SM clock 48 times; every 100 ms about 300 of 540, and the SM clock
// 12 times.
//
// Rows of moments hold what was read and no more. They are rows of the same kind: a reader that
// takes a value for the time since the row before that has the same column, as the detector
// does, counts no time twice and sees no gap. Rates of moments are of the time since the reading
// before, of whatever kind; those of ticks of the time since the tick before, so that rows of
// ticks say what they say without bursts. Such a reader weighs a second's rate of a link, where
// that is made of counters, as a fifth of a second beside the moments': the sum stays what it is
// but for half a per cent. The product of tensor activity and SM clock rests on fewer rows in a
// burst; mma_cycles is exact.
//
// # What may go wrong, and what is done
//
//   - no driver, no library, no GPU, no flopwatch-nvml: said once, status unavailable; looked
//     for again every few minutes, and no child runs in between.
//   - the child ends (a missing function is exit 127): restarted with back-off and jitter.
//   - one GPU hangs, in whatever call: it is asked nothing more until it answers, and after two
//     seconds it is stalled. The others go on. A late answer still counts, with the time it was
//     read.
//   - all GPUs hang, or the child says nothing: it is killed and restarted. One that the
//     kernel does not let go of is abandoned; more than two are never alive.
//   - a GPU is lost: asked again with back-off; that it is lost, and back, are events.
//   - a GPU answers, and every call of it fails or is not supported: after three such answers
//     it is stalled too, as it gives nothing. It is asked on.
//   - calls are slow: the customer's job comes first. Time in the driver is held to DriverShare,
//     2 % for each GPU in the mean of a minute. Bursts end at a quarter of what may be spent,
//     processes, health and descriptions wait at a half (and at most eight times as long as
//     usual), ticks at the whole. A GPU whose passes take more than a quarter of the interval,
//     three times in a row, is asked less often, whatever the share, and so are lists of processes
//     and looks at the health. It is degraded, with the time that calls take and the kind that
//     takes most; all is as before when calls are.
//   - the driver was replaced: the child ends, and the new one finds the new library.
//
// What is not there by nature is no fault: a GPU before Hopper, or one with MIG on, is active,
// with a reason that says what it cannot tell.
//
// # Integrity
//
// What the library says is a claim. Facts tell its file, whose that is, whether root alone could
// put another in its place, whether another is there now than the one loaded, and whether
// it and the kernel's driver are of one version. Energy is held against power: over five minutes
// each, the increment of the counter and the sum of power over time. The ratio is the fact
// "integrity" of the GPU; two windows in a row beyond a factor of 1.5 make it degraded. The
// margin is wide because power is a moment's in a second, and steps of a training that last a
// second or a part of it are seen at the same place for minutes. A mismatch is telemetry: nothing
// is withheld, and nothing is done. Whether DCGM reads the same counters beside the agent is the
// host's fact "dcgm": the names of its programs among the host's processes, or "none".
//
// Whether GPM's cycles since boot are the mean over the SMs or their sum is not documented, and a
// wrong guess would be wrong a hundredfold. So mma_cycles and sm_cycles_elapsed are told from when
// the elapsed cycles of some seconds have been held against the SM clock, as the mean; where they
// fit neither they are not told. What was learnt never turns into the other unit, a leap by a
// factor of a hundred in a counter since boot: a reading that contradicts it is not told, ten far
// from it end the telling, and another driver or a counter that began again is learnt anew. The
// first five or six readings behind a start lack them; the increment over those is there in the
// next. The fact "cycles" of the GPU says which it is; the health has the
// counters as they were read.
//
// # Values
//
// Rows carry the tick's clocks plus what passed until the GPU was read. Link rates come from
// GPM, or where there is none from differences of counters over differences of boot time; a
// counter that went back gives no rate, and where it is energy's, an event "reset".
//
// What is read is told as it is, but for some values of the base tier that are rounded, since the
// digits below are noise and would be half of what is sent: power to the nearest 0.1 W; energy
// down to a whole joule (it is a counter: no error adds up, and the energy of a minute is off by
// less than 1 J, 1 part in 4,000 of an idle GPU's and 1 in 40,000 of a busy one's); cycles of GPM
// down to 2^22, 1 part in 24,000 of a minute's at 1.7 GHz; rates of links to 12 significant bits,
// 1 part in 4,096. The health has all digits, as has the page of metrics. A sample of 31 values is
// some 23 bytes on the wire, 25 with all tiers.
//
// # What is not read, though the library has it
//
//   - use of a GPU by process (GetProcessUtilization), and its accounting: of time-slices, which say
//     nothing of tensor cores; accounting would have to be turned on, and nothing is set here.
//   - the driver's own buffer of samples (GetSamples), GPM's graphics activity and its rates link by
//     link, raw bytes of NVLink (140, 141): what is read says the same or more.
//   - PCIe by GetPcieThroughput: each call counts for 20 ms with the driver held.
//   - where in SRAM errors were (GetSramEccErrorStatus): root alone may ask. Violations
//     (GetViolationStatus) are out of date; the counters of time held down are read.
//   - topology and peers: UUID, PCI address, module and NVLink domain are there instead.
//   - encoders, which no cheap call tells of; counters of NVLink 5 beside received errors.
//   - attestation reports of confidential computing: the mode is read; a report takes seconds of the
//     driver's, and is for who can check its chain.
//
// # Goroutines
//
// For each child: one that starts it and waits for it, on a thread of its own, as the kernel ends
// the child with the thread that started it, and as that thread sheds the agent's capabilities
// first, which NVIDIA's library must not get; one that reads its answers; one that reads its log
// lines. They end with the child. If this process crashes, the child reads the end of its input
// and ends, and the kernel kills it in any case.
//
// # Buffers
//
// Sample waits for answers at most half a second, Burst a quarter of that. Of a GPU eight readings
// wait to be fetched, of its instances sixteen, of the host 256 kinds of events: what is beyond is
// counted. A steady tick allocates next to nothing.
package gpu
