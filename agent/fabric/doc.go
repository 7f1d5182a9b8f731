// Package fabric reads the counters of a host's network ports: InfiniBand, RoCE, Ethernet,
// and the virtual functions of guests.
//
// # What it owns
//
// Which ports there are, what kind each is, and the reading of their cumulative counters,
// rate, link and health. It must not know jobs, nor what becomes of its rows, and forms no
// rates; it turns nothing on or off and needs no privilege: its files are world-readable,
// and the kernel answers its questions by netlink and ethtool to anybody. NVLink is agent/gpu's.
//
// # Ports, kinds and what is counted twice
//
//	infiniband  a port of /sys/class/infiniband with link layer InfiniBand, as "mlx5_0/1"
//	roce        the same with any other link layer: RDMA over Ethernet (RoCE, iWARP, EFA)
//	ethernet    a physical device of /sys/class/net, as "eth0"
//	vf          a virtual function or sub-function beside its parent, parent_port: the host's
//	            own under its own name, a guest's or a container's as "eth0/vf3", "mlx5_0/vf3"
//
// RDMA passes the kernel by. On an adapter with RoCE its bytes are in the roce port, those
// of sockets in the ethernet port: mlx5 counts the two apart, so their sum is the traffic.
// Other drivers may count RDMA in both, and bytes of a vf may be counted by the port it
// stands behind too. The kind says which is which; nothing is added up here. In a guest, a
// virtual function has no parent and is all that the guest has: it is named by its link
// layer, as any port.
//
// Left out, as their bytes are in another port: IPoIB (in the infiniband port; any device
// that is not of ARPHRD_ETHER), bonds, bridges, VLANs, veth (no device of their own),
// representors of a switch in the adapter (phys_port_name pfNvfM), soft-RoCE and soft-iWARP
// (in the network device they ride on), and the lower half of a paravirtual pair (its master
// is physical). A process sees the network devices of its own network namespace alone: in a
// container the agent needs the host's. A port that leaves the namespace is lost to the
// agent; a virtual function that does is still counted by its parent.
//
// # Files, and how often
//
// Every second: bytes and packets, four open files a port. Every ten seconds, each port at
// a second of its own, as many of these go to the adapter's firmware (mlx5 and its like keep
// hw_counters for 10 ms, so that a directory is one question):
//
//	             mlx5                                    bnxt_re              irdma             efa
//	bytes        counters/port_{xmit,rcv}_data x 4       hw {tx,rx}_bytes     ip{4,6}{Out,In}Octets  {tx,rx}_bytes
//	packets      counters/port_{xmit,rcv}_packets        hw {tx,rx}_pkts      ip{4,6}{Out,In}Pkts    {tx,rx}_pkts
//	cnp_sent     np_cnp_sent                             tx_cnp_pkts          cnpSent
//	cnp_handled  rp_cnp_handled                          rx_cnp_pkts          cnpHandled
//	ecn_marked   np_ecn_marked_roce_packets              rx_ecn_marked_pkts   RxECNMrkd
//	out_of_seq.  out_of_sequence                         oos_drop_count
//	ack_timeouts local_ack_timeout_err                   to_retransmits                         retrans_timeout_events
//	rnr_retries  rnr_nak_retry_err                       rnr_naks_rcvd        RNR received
//	rx_discards  out_of_buffer                           rx_out_of_buffer     ip{4,6}InDiscards rx_drops
//
// and, of all that answer to the InfiniBand core: symbol_error, link_downed,
// link_error_recovery, port_rcv_errors, port_xmit_discards, port_xmit_wait (of 32 bits, it
// stops at the top until somebody clears it; symbol_error of 16 and link_downed of 8 bits
// may too). Of network devices: carrier_down_count, rx_errors, tx_dropped, rx_dropped. A file
// that a driver does not have is absent; one that holds no number is a status that names it.
// counters_ext is for kernels before 4.5. What is wider than 63 bits is not a reading.
//
// The state of a link is read with the slow files, and at once when a port's bytes stop
// moving. A link that was up and is down, or that went down and came back in between
// (link_downed), is a status of its port; a port that never was up is not.
//
// # Guests
//
// What the virtual functions of guests send, the physical function's driver knows: every ten
// seconds one RTM_GETLINK with IFLA_VF_STATS an adapter, which costs the firmware a question
// a function. mlx5 counts RDMA of RoCE functions in it, and for InfiniBand asks the firmware
// through the IPoIB device; whether a given firmware answers the truth is not established,
// and the status says so. Functions without a driver, and those that are ports of the host,
// have no such row. Where netlink is silent, and for sub-functions in other network
// namespaces ("eth0/sf88"), the function's representor is asked by ethtool (vport_*, seen
// from the switch, so turned round). Adapters that guests have whole are in
// no class of sysfs: instrument fabric/passthrough counts them; only the switch sees them.
//
// # Bursts
//
// Burst reads the bytes of ports that are up, of all kinds but vf: two reads of open files a
// port and no allocation, 0.7 us a port here.
//
// # Why not prometheus/procfs, nor netlink's own parser
//
// procfs v0.23.0 reads every file of a port (46 of an mlx5 port) and opens each anew:
// BenchmarkProcfs beside BenchmarkTick shows what that costs. The netlink library is used for
// its socket; its parser of virtual functions knows no absent counter, numbers functions by
// their place, and reads the two counters of drops one attribute off. The parsers here are
// small and fuzzed.
//
// # Crash, buffers, goroutines, budget
//
// It holds no state but open files: four a port (eight with irdma), two of a virtual
// function, at most 128 ports and 256 functions of guests. It starts no goroutine; a Fabric
// belongs to one. A tick costs four pread calls a port and no allocation; a port whose link
// is down is read every ten seconds only, as its counters stand still. A firmware that hangs
// holds the sample up for a second at most through netlink; in sysfs it may hang for ever,
// and then the agent calls the source stalled.
package fabric
