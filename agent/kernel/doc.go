// Package kernel is the instrument "kernel": what programs in the host's kernel (BPF) see
// of jobs on GPUs.
//
// # What it owns
//
// A set of features, each a package below with a program collection of its own in bpf:
// loading them, asking them on their own cadence, what each can see and why not more, what
// its probes cost, and switching it off. It must not know what a feature measures, nor what
// becomes of rows. Features know nothing of each other.
//
// # States
//
// Each feature is the instrument "kernel/NAME": active; degraded, with the reason, the
// kernel's error and what is used in its place; unavailable, with the reason and what would
// help; stalled while a call of it does not come back. What is not seen is absent, never 0.
// A feature whose subject is not on the host (Report.Absent) is unavailable and no loss: the
// whole is active without it. A feature that a kernel refuses, that fails or that panics
// takes no other with it: it is left alone and started again after RetryEvery.
//
// # Switches and cost
//
// A feature is off if Config.Off names it, or while the file Config.OffDir/NAME exists: then
// it is closed within seconds, and comes back when the file is gone. A feature with probes
// (Meter) tells what they took of the processes they are in; above MaxLoad of a core for
// each such process it is closed, says so, and comes back after PauseFor. A feature whose
// probes are in several libraries takes out those of the one that is called too often by
// itself, so that one user's calls blind nobody else. Costs are measured where BPF
// statistics are on, else calls times what a call costs.
//
// # Privilege
//
// CAP_BPF and CAP_PERFMON load and attach on kernels from 6.6; before, uprobes need
// CAP_SYS_ADMIN, and before 5.11 CAP_SYS_RESOURCE or an unlimited RLIMIT_MEMLOCK, as
// programs counted as locked memory. Files of other users' processes need CAP_SYS_PTRACE. The agent's process
// has to see the host's processes (hostPID in a container), as the kernel tells their
// numbers in the first namespace: without, features go on without programs where they can
// (InPlace), and see the processes of the agent's own namespace alone.
//
// # Crash, buffers, goroutines, budget
//
// Programs and links end with the agent's process: after a crash nothing stays attached,
// and counts begin from zero. One goroutine a feature, which ends with Close; a call that is
// stuck in the kernel is left behind after CloseFor. Sample never waits for a feature.
// The kernel's type information is mapped while features load, one after another, and given
// back behind them.
package kernel
