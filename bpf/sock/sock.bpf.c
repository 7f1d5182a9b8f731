//go:build ignore

// TCP bytes by owner and peer, from the sockets' own counters. Nothing runs when data
// moves. A socket of a watched process carries, in storage of its own, how much of it has
// been counted; what came since is added to a sum when an iterator passes it and when it
// closes, so each byte is in one sum once.
#include "kernel.h"

LICENSE;

#define BPF_MAP_TYPE_ARRAY_OF_MAPS 12
#define BPF_F_CLONE (1U << 9)

#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define SOCK_DONE 1 // bit of skc_flags: the peer's FIN has come

// States of TCP, include/net/tcp_states.h.
#define ESTABLISHED 1
#define SYN_SENT 2
#define FIN_WAIT1 4
#define FIN_WAIT2 5
#define CLOSE 7
#define LAST_ACK 9
#define LISTEN 10

struct in6_addr {
	__u8 bytes[16];
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__u16 skc_family;
	unsigned char skc_state;
	unsigned long skc_flags;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} CORE;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
} CORE;

struct tcp_sock {
	__u64 bytes_acked;
	__u64 bytes_received;
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u32 total_retrans;
} CORE;

struct socket {
	struct sock *sk;
} CORE;

struct kernfs_node {
	__u64 id;
} CORE;

struct cgroup {
	struct kernfs_node *kn;
} CORE;

struct css_set {
	struct cgroup *dfl_cgrp;
} CORE;

struct task_struct___cgroups {
	struct css_set *cgroups;
} CORE;

// key of a sum. Addresses of IPv4 are mapped into IPv6.
struct key {
	__u64 cgroup;
	__u32 tgid;
	__u32 zero;
	__u8 peer[16];
};

struct sum {
	__u64 tx;
	__u64 rx;
	__u64 retransmits;
	__u64 connections;
};

struct sums {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 8192);
	TYPE(key, struct key);
	TYPE(value, struct sum);
};

struct sums sums_a SEC(".maps");
struct sums sums_b SEC(".maps");

// The sums that programs add to. User space puts the other pair in, which returns when no
// program uses the first any more, and then reads that in peace.
struct {
	UINT(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	struct sums *values[];
} current SEC(".maps") = {
	.values = {&sums_a},
};

// seen is how much of a socket has been counted, and for whom. What a listener accepts
// begins with a copy of the listener's.
struct seen {
	__u64 tx;
	__u64 rx;
	__u64 cgroup;
	__u32 tgid;
	__u32 retransmits;
	__u32 turn; // in which it was counted as a connection
	__u32 zero;
};

struct {
	UINT(type, BPF_MAP_TYPE_SK_STORAGE);
	UINT(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	TYPE(key, int);
	TYPE(value, struct seen);
} sockets SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 4096);
	TYPE(key, __u32);
	TYPE(value, __u8); // 2: it was not watched at the last look
} processes SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 1024);
	TYPE(key, __u64);
	TYPE(value, __u8);
} cgroups SEC(".maps");

// Own addresses of the sockets that were counted.
struct {
	UINT(type, BPF_MAP_TYPE_LRU_HASH);
	UINT(max_entries, 128);
	TYPE(key, struct in6_addr);
	TYPE(value, __u32); // turn in which it was seen
} addresses SEC(".maps");

__u32 everyone; // 1: sockets of all processes
__u32 turn = 1;
__u64 began; // of the agent, ns since boot
__u64 dropped_bytes;
__u64 dropped_sockets;

INLINE bool watched(__u32 tgid, __u64 cgroup)
{
	return everyone || bpf_map_lookup_elem(&processes, &tgid) || bpf_map_lookup_elem(&cgroups, &cgroup);
}

INLINE void mapped(struct in6_addr *a, __be32 v4)
{
	__builtin_memset(a, 0, sizeof(*a));
	a->bytes[10] = a->bytes[11] = 0xff;
	__builtin_memcpy(&a->bytes[12], &v4, 4);
}

// ends reads both addresses; false: the socket stays within the host, or is no IP socket.
INLINE bool ends(struct sock *sk, struct in6_addr *own, struct in6_addr *peer)
{
	__u16 family = 0;
	core_read(&family, sk, __sk_common.skc_family);
	if (family == AF_INET) {
		__be32 a = 0, b = 0;
		core_read(&a, sk, __sk_common.skc_rcv_saddr);
		core_read(&b, sk, __sk_common.skc_daddr);
		mapped(own, a);
		mapped(peer, b);
	} else if (family == AF_INET6) {
		core_read(own, sk, __sk_common.skc_v6_rcv_saddr);
		core_read(peer, sk, __sk_common.skc_v6_daddr);
	} else {
		return false;
	}
	__u64 *o = (__u64 *)own, *p = (__u64 *)peer;
	if (o[0] == p[0] && o[1] == p[1])
		return false; // its own address
	if (p[0] == 0) {
		__u32 third;
		__builtin_memcpy(&third, &peer->bytes[8], 4);
		if (third == 0)
			return false; // ::1 and no peer
		if (peer->bytes[8] == 0 && peer->bytes[9] == 0 && peer->bytes[10] == 0xff && peer->bytes[11] == 0xff &&
		    (peer->bytes[12] == 127 || peer->bytes[12] == 0))
			return false;
	}
	return true;
}

// payload reads how many bytes of data a socket has had acknowledged and received. The
// kernel's counters count SYN and FIN as a byte each: what was acknowledged is no more than
// what was sent for the first time, and a FIN that came is known by a flag.
INLINE void payload(struct sock *sk, __u64 *tx, __u64 *rx, __u32 *retransmits)
{
	struct tcp_sock *tp = (struct tcp_sock *)sk;
	__u64 sent = 0, again = 0;
	unsigned long flags = 0;
	core_read(tx, tp, bytes_acked);
	core_read(rx, tp, bytes_received);
	core_read(retransmits, tp, total_retrans);
	core_read(&sent, tp, bytes_sent);
	core_read(&again, tp, bytes_retrans);
	core_read(&flags, sk, __sk_common.skc_flags);
	if (sent >= again && *tx > sent - again)
		*tx = sent - again;
	if ((flags >> SOCK_DONE & 1) && *rx > 0)
		*rx -= 1;
}

// count adds what a socket has moved since it was counted last; last: it closes.
INLINE void count(struct sock *sk, struct seen *s, bool last)
{
	struct key k = {};
	struct in6_addr own = {}, peer = {};
	__u64 tx = 0, rx = 0;
	__u32 again = 0, zero = 0;
	if (!ends(sk, &own, &peer))
		return;
	payload(sk, &tx, &rx, &again);
	bool first = s->turn != turn;
	bool more = tx > s->tx || rx > s->rx || again > s->retransmits;
	if (!first && !more)
		return;
	k.cgroup = s->cgroup;
	k.tgid = s->tgid;
	__builtin_memcpy(k.peer, &peer, sizeof(k.peer));
	void *sums = bpf_map_lookup_elem(&current, &zero);
	if (!sums)
		return;
	struct sum *sum = bpf_map_lookup_elem(sums, &k);
	if (!sum) {
		struct sum none = {};
		bpf_map_update_elem(sums, &k, &none, BPF_NOEXIST);
		sum = bpf_map_lookup_elem(sums, &k);
	}
	if (!sum) { // full: it stays uncounted, and is counted later if it lives so long
		if (last) {
			__sync_fetch_and_add(&dropped_sockets, 1);
			__sync_fetch_and_add(&dropped_bytes, (tx > s->tx ? tx - s->tx : 0) + (rx > s->rx ? rx - s->rx : 0));
		}
		return;
	}
	// The iterator and the close may meet: what each takes over from the last is taken once.
	if (tx > s->tx) {
		__u64 old = __sync_lock_test_and_set(&s->tx, tx);
		if (tx > old)
			__sync_fetch_and_add(&sum->tx, tx - old);
	}
	if (rx > s->rx) {
		__u64 old = __sync_lock_test_and_set(&s->rx, rx);
		if (rx > old)
			__sync_fetch_and_add(&sum->rx, rx - old);
	}
	if (again > s->retransmits) {
		__u32 old = __sync_lock_test_and_set(&s->retransmits, again);
		if (again > old)
			__sync_fetch_and_add(&sum->retransmits, again - old);
	}
	if (first) {
		s->turn = turn;
		__sync_fetch_and_add(&sum->connections, 1);
		__u32 *at = bpf_map_lookup_elem(&addresses, &own);
		if (!at || *at != turn) {
			__u32 now = turn;
			bpf_map_update_elem(&addresses, &own, &now, BPF_ANY);
		}
	}
}

SEC("tp_btf/inet_sock_set_state")
int on_state(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	int old = (int)ctx[1], new = (int)ctx[2];
	__u16 protocol = 0;
	if (new == ESTABLISHED || new == FIN_WAIT2)
		return 0;
	core_read(&protocol, sk, sk_protocol);
	if (protocol != IPPROTO_TCP)
		return 0;
	struct seen *s = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (new == CLOSE) {
		if (s && old != LISTEN && old != SYN_SENT)
			count(sk, s, true);
		return 0;
	}
	if (new == SYN_SENT && s) { // connected anew: another life of the same socket
		s->tx = s->rx = 0;
		payload(sk, &s->tx, &s->rx, &s->retransmits);
		return 0;
	}
	if (s || (new != SYN_SENT && new != LISTEN && new != FIN_WAIT1 && new != LAST_ACK))
		return 0;
	// These four come from a call of the process that has the socket.
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	__u64 cgroup = bpf_get_current_cgroup_id();
	if (!watched(tgid, cgroup))
		return 0;
	struct seen begin = {.cgroup = cgroup, .tgid = tgid};
	bpf_sk_storage_get(&sockets, sk, &begin, BPF_SK_STORAGE_GET_F_CREATE);
	return 0;
}

SEC("iter/task_file")
int pass(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	if (!task || !file)
		return 0;
	struct inode *inode = file->f_inode;
	__u16 mode = 0, protocol = 0, family = 0;
	core_read(&mode, inode, i_mode);
	if ((mode & S_IFMT) != S_IFSOCK)
		return 0;
	struct socket *socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	struct sock *sk = socket->sk;
	if (!sk)
		return 0;
	core_read(&family, sk, __sk_common.skc_family);
	core_read(&protocol, sk, sk_protocol);
	if ((family != AF_INET && family != AF_INET6) || protocol != IPPROTO_TCP)
		return 0;
	__u32 tgid = task->tgid;
	__u64 cgroup = 0;
	struct css_set *set = NULL;
	struct cgroup *group = NULL;
	struct kernfs_node *kn = NULL;
	core_read(&set, (struct task_struct___cgroups *)task, cgroups);
	if (set)
		core_read(&group, set, dfl_cgrp);
	if (group)
		core_read(&kn, group, kn);
	if (kn)
		core_read(&cgroup, kn, id);
	if (!watched(tgid, cgroup))
		return 0;
	__u8 state = 0;
	core_read(&state, sk, __sk_common.skc_state);
	if (state == CLOSE)
		return 0; // counted when it closed
	struct seen begin = {.cgroup = cgroup, .tgid = tgid};
	struct seen *s = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!s) {
		// What a process that is older than the agent moved before it was watched may be in
		// an earlier agent's rows.
		__u64 start = 0;
		core_read(&start, task, group_leader->start_boottime);
		__u8 *how = bpf_map_lookup_elem(&processes, &tgid);
		if (start < began && ((how && *how == 2) || (!how && turn == 1)) && state != LISTEN)
			payload(sk, &begin.tx, &begin.rx, &begin.retransmits);
		s = bpf_sk_storage_get(&sockets, sk, &begin, BPF_SK_STORAGE_GET_F_CREATE);
	}
	if (!s) { // the kernel bounds what may be kept with a socket (net.core.optmem_max)
		__sync_fetch_and_add(&dropped_sockets, 1);
		return 0;
	}
	if (s->tgid != tgid && !bpf_map_lookup_elem(&processes, &s->tgid)) {
		s->tgid = tgid; // handed on by a process that is not watched any more
		s->cgroup = cgroup;
	}
	if (state != LISTEN)
		count(sk, s, false);
	return 0;
}
