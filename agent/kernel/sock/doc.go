// Package sock is the feature "sock": how many bytes processes of GPU jobs send and receive
// by TCP, by peer and job.
//
// # What it owns
//
// The reading of the sockets' own counters, and the sums over sockets of one owner and
// peer. It must not know which peers are in the fleet: the rows hold addresses, which the
// recorder hides. To be joined with them, the host's own addresses, and those that watched
// sockets use in other network namespaces (pods), are told as facts named "address", of
// the subjects "host", "host/1", ...; a subject without a value is an address given up.
//
// # What is counted
//
// Payload that the peer acknowledged and payload received: what the kernel's counters add
// for SYN and FIN is taken off. A socket keeps in the kernel how much of it was counted, so
// each byte is in one row, whether a look finds it or its close; a socket that opened and
// closed between two looks is counted by its close. What a socket moved before it was
// watched is counted if its process began after the agent did, else not: it may be in an
// earlier agent's rows. A socket that passes from hand to hand stays its first watched
// owner's.
//
// Watched are processes on GPUs, and those in their control groups where these name a job;
// with Config.All every process. Left out: loopback, peers that are the socket's own
// address, UNIX sockets, and what passes the kernel by (RDMA). A row is of a peer and a job:
// the sum over all processes and control groups of it, with what its last sockets moved,
// which is found when it has ended. The job is that of the process when it was watched; if
// the socket was made in a group of another job, that one: numbers of processes come again.
//
// # Without BPF
//
// The kernel is asked by netlink (sock_diag), in each network namespace of watched
// processes: that needs CAP_SYS_ADMIN to enter other namespaces and CAP_SYS_PTRACE to see
// whose sockets they are. What a socket moves between the last look and its close is lost
// then. The state is degraded, and says so. It is so too where the agent has a process
// namespace of its own, as numbers mean others there than in the kernel.
//
// # Crash, buffers, goroutines, budget
//
// Kernel: two maps of 8,192 sums (1 MiB each), 4,096 processes, 56 bytes a watched socket.
// When the sums are full they are emptied, and filled again with the sockets that found no
// room, up to eight times a look; bytes of sockets that close while they are full are
// counted as dropped, and told: whose they were is not known, so that every job's bytes are
// lower bounds then. Here: sums are read in pieces of 256; at most 2,048 rows a look, those
// with the most bytes; 8,192 more come with later looks, and what is beyond is told. Without
// BPF: 16,384 sockets, and what is beyond is told. No goroutine. The
// looks are 10 seconds apart, and farther where they take more than 0.2 % of a core.
package sock
