// Package tasks is what features of agent/kernel share about processes: which of them the
// host's GPUs make worth watching, when they were started, and iterators over their open
// files.
//
// Files runs an iterator over the files of all processes, or of one: that costs what the
// one has open, not what the host has. It needs kernel 6.1, or one that took it over, and is
// found out from the kernel's types: older kernels ignore the number and pass all
// processes, which is right and slow.
//
// Watch lists the processes on GPUs and, if asked, those in the same control groups where
// these name a job, as workers that load data are. It reads /proc/PID/{stat,cgroup} and the
// groups' cgroup.procs; never arguments or environment. A group is looked for in the mount
// of the hierarchy that has it: a container may have several, of other parts of it. One that
// no mount has is not known (0), and its processes are watched by number alone.
//
// It knows no record. It starts no goroutine; each value belongs to one. Buffers: 32 KiB an
// iterator; at most 2,048 processes and 512 groups are watched.
package tasks
