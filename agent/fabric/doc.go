// Package fabric reads the byte counters of a host's network ports from sysfs.
//
// # What it owns
//
// Which ports there are, what kind each is, and the reading of their cumulative counters,
// rate and link state. It must not know rates, jobs, or what becomes of its rows; it turns
// nothing on or off and needs no privilege: all files are world-readable.
//
// # Ports, kinds and what is counted twice
//
//	infiniband  a port of /sys/class/infiniband with link layer InfiniBand, as "mlx5_0/1"
//	roce        the same with any other link layer: RDMA over Ethernet (RoCE, EFA)
//	ethernet    a physical device of /sys/class/net, as "eth0"
//	vf          either, if it is a virtual function or a sub-function of an adapter
//
// RDMA passes the kernel by. On an adapter with RoCE its bytes are in the roce port, those
// of sockets in the ethernet port: mlx5 counts the two apart, so their sum is the traffic.
// Other drivers may count RDMA in both, and bytes of a vf may be counted by the port it
// stands behind too. The kind says which is which; nothing is added up here.
//
// Left out, as their bytes are in another port: IPoIB (in the infiniband port; any device
// that is not of ARPHRD_ETHER), bonds, bridges, VLANs, veth (no device of their own),
// representors of a switch in the adapter (phys_port_name pfNvfM), and the lower half of a
// paravirtual pair (its master is physical). A process sees the network devices of its own
// network namespace alone: in a container the agent needs the host's.
//
// Counters: counters/port_{xmit,rcv}_data count words of four octets; drivers without them
// (EFA, bnxt_re) count octets in hw_counters/{tx,rx}_bytes; kernels before 4.5 have 64 bits
// in counters_ext alone. What is wider than 63 bits, or no number, is not a reading.
//
// # Why not prometheus/procfs
//
// procfs v0.23.0 reads every file of a port (46 of an mlx5 port, some of which go to its
// firmware) and opens each anew: BenchmarkProcfs beside BenchmarkTick shows what that costs.
// Two counters a tick, over files that stay open, and two more files every ten seconds is
// all that is asked here. The parsers are small and fuzzed.
//
// # Crash, buffers, goroutines, budget
//
// It holds no state but open files: two a port, at most 128 ports. It starts no goroutine;
// a Fabric belongs to one. A tick costs two pread calls a port and no allocation; a port
// whose link is down is read every ten seconds only, as its counters stand still.
package fabric
