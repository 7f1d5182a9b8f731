// Package nccl counts the collective calls of processes on GPUs, by probes at the functions
// of the library that makes them (libnccl, librccl, or another that exports ncclAllReduce).
//
// # What it owns
//
// Finding the library wherever it is mapped, in whichever container; the probes in it; and
// which communicator a call belongs to. It must not know jobs, ranks as launchers tell them,
// or what becomes of rows.
//
// # Rows
//
// One a process, GPU, communicator and operation every Config.RowEvery, of what was called
// since the last: also when a communicator or its process ends. ts_ms is when it was read,
// first_ms and last_ms when the first and the last of all calls came. gpu is -1 where it is
// not known.
//
//	op             bytes of a call
//	allreduce      count x size of the type
//	broadcast, reduce
//	reducescatter  count x size x ranks: the whole that is scattered, not the part
//	allgather      count x size x ranks: the whole that is gathered
//	alltoall, gather, scatter: the same, the whole of one rank
//	sendrecv       sends or receives, whichever moved more: of a rank that passes on what it
//	               gets they are the same bytes
//
// So equal work has equal bytes whichever way it is done, and a call's bytes are those of
// the buffer that a program thinks in. Where a factor is not known bytes are absent, never 0.
// dtype_bytes splits them by type (bf16:123 f32:45). Calls are seen when they are enqueued:
// counts and times are of the program, not of the GPU. What was captured into a CUDA graph
// is seen once and not when it is played again: counts are lower bounds, and graph_captured
// is left absent, as nothing here looks at captures.
//
// # Communicators
//
// comm is the same on all ranks and hosts: a truncated SHA-256 of the hash that NCCL keeps in
// the communicator (nccl_hash, as its log prints it), which every rank has and which can be
// read at any time, so that an agent that was started later, or again, comes to the same
// name. Where it cannot be read: of the unique id, as the program gave it; for one that was
// split off, of its parent's name, colour and ordinal. A communicator of which nothing is
// known gets a name that begins with "unknown-" and is of this process alone. The unique id
// itself is never kept nor told: who has it can join.
//
// The hash, rank, number of ranks and the GPU's PCI address stand together in NCCL's
// structure from 2.18 on. Where they stand is learnt from the first communicator whose id was
// seen, whose hash (DJB2a to 2.25, another mixer from 2.26) proves the place; before that,
// the addresses of this host's GPUs are looked for.
//
// # Libraries
//
// A library is known by its real inode, below overlays, which an iterator in the kernel
// tells: containers of one image share it, and get one set of probes. Probes are for all
// processes that map it, so that one started later is seen from its first call. Without
// the iterator it is known by size, time and build id of the file. Libraries are looked for
// at the start, when a process comes to the GPUs (and 2, 5 and 15 s behind), when a call
// comes from a process that was not known, and every Config.ScanEvery. A look that would be
// long, as somebody has millions of mappings, comes in pieces of at most 8 million mappings,
// 64 files and 32 MiB of /proc/PID/maps, which take one part in a hundred of the time; that
// is said, and processes on GPUs are looked at first and by themselves then (from kernel 6.1).
//
// Probes go behind the landing pad where a function begins with one and a push follows,
// which the kernel need not step over. Only entries have probes. A process on a GPU that
// uses NCCL while no library is visible (linked in, hidden symbols) is said in the status:
// nothing is counted of it. While the driver does not list which processes are on GPUs, that
// is said in its place.
//
// # Trust
//
// What a process passes to the library is its own word; rows of it are evidence about it
// alone. A process that makes up thousands of communicators fills its own share of the
// kernel's map (512 keys), and what is not counted is counted as such. Processes that are on
// no GPU share a quarter of the map, and give way to those on GPUs in every list here. Of one
// process at most 16 new libraries are opened at a look, whatever it maps. Its
// memory and files are read in bounds; no file is opened but a regular one. A read that does
// not come back within 3 seconds, as of a page or a file that is in a file system of the
// process's own, is left behind and said, and that process's memory is not read again.
//
// A library that is called more than Config.MaxRate times a second, or whose probes cost
// more than kernel.Config.MaxLoad of its processes, loses its probes for Config.PauseFor.
// Others may share the file, as containers of one image do: those on GPUs that call it in
// measure get probes of their own (from kernel 6.6), so that one blinds no other.
//
// # Crash, buffers, goroutines, budget
//
// Probes end with the agent's process. In the kernel: 10,240 counts, a ring of 128 KiB. Here:
// at most 1,024 processes with 256 communicators each, 32 libraries. It starts goroutines
// to take probes out, and waits for them, and to read what is others', of which at most 8
// are left behind. A tick without events is one look at the
// ring; every ten seconds the counts are read in batches and a file of /proc a process.
package nccl
