// Package rdma is the feature "rdma": which RDMA objects processes hold, by device: queue
// pairs and whom they are connected to, registered memory, completion queues.
//
// # What it owns
//
// Asking the kernel's RDMA netlink (NLDEV), every 30 seconds, and the sums by device and
// process. It must not know what is sent: data passes the kernel by, and its volume is in
// the ports' counters (agent/fabric). It loads no module and needs no BPF: probes on
// libibverbs would see the same objects, at their making alone, and are not used.
//
// A row is told for each device and process that has an object; process 0 is the kernel.
// Connected are queue pairs that are ready to send. qp_pairs names up to 64 of them as
// own>remote, fewer where the field would be longer than a kilobyte: of more, the same ones
// on both ends, so that the ends can be joined (the order is by a hash of both numbers).
//
// # States
//
// Unavailable without an RDMA subsystem or device; a device comes into view within 15
// minutes. Degraded where objects belong to processes that this namespace of process
// numbers does not show (hostPID), or a device does not answer.
//
// # Crash, buffers, goroutines, budget
//
// No state over a look. At most 64 devices, 4,096 processes and 1,000,000 objects a look;
// the kernel's answers are read in messages of at most 64 KiB. No goroutine.
package rdma
