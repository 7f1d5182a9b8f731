// Package proc is the feature "proc": starts and ends of processes of GPU jobs, and who
// holds a GPU open.
//
// # What it owns
//
// Events of processes, in the order in which they happened, for whoever asks (Subscribe):
// the exit code of a process on a GPU, processes that live between two lists of the driver,
// candidates for a look at their libraries. It writes no row of a process: those are
// agent/job's. Of a program its file's base name is told; arguments and environment are
// never read.
//
// Told are processes on GPUs, what they start, what is started in their control groups
// where these name a job, and their ends; and the end of any process that had a GPU open
// among its first 128 descriptors: so one is seen that no list of the driver showed. A
// process that was forked and did not exec is told only then.
//
// # Facts
//
// Every 30 seconds, when they change and every hour, of the subject "host": gpu_openers,
// how many processes hold a GPU device open, the agent's own left out;
// gpu_openers_compute, those of them that hold the device of unified memory, as whoever
// computes does; gpu_openers_unlisted, those of these that the driver does not list and
// that inherited none of it from one that is listed. The last is a hint at processes which
// hide from the driver's list, not a proof: it has to stay above zero at two looks running,
// and it is not told while the list is not that of all GPUs.
//
// # Without BPF
//
// A pidfd for each process on a GPU says that it has ended, and /proc which children it
// has, both at every look. Exit codes come from the pidfd from kernel 6.15, else they are not
// known. Who holds a GPU open is read from /proc/PID/fd of all processes, every five minutes,
// which needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH. So it is too where the agent has a
// process namespace of its own, as numbers mean others there than in the kernel; who holds a
// GPU of the host open is not told then. Events and facts say which way they came.
//
// # Crash, buffers, goroutines, budget
//
// Kernel: a ring of 128 KiB, 4,096 tracked processes. Here: 256 events a subscriber, the
// oldest give way and are counted; 256 pidfds; 4,096 openers. No goroutine. Idle hosts cost
// one look at an empty ring a second.
package proc
