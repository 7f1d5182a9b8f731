//go:build ignore

// targets: amd64,arm64

// Counts the calls of collectives where they happen, and tells the making, splitting and
// ending of communicators one by one. Programs run at the entry of functions of a library
// that the process itself calls: what they read there is that process's word.
#include "bpf.h"
#include "regs.h"

LICENSE;

#define ID_BYTES 128
#define MAX_STATS 10240
#define MAX_PROCESSES 4096
#define MAX_KNOWN 1024
#define MAX_KEYS 512 // of one process: none can take the room of all
#define DTYPES 12
#define NO_DTYPE 255
#define MAX_COUNT (1ULL << 44) // elements; more is no message but a wrong reading

// The cookie of a probe says what the function is and where its arguments are, by position.
#define FUNC(cookie) ((cookie)&0xff)
#define COUNT_AT(cookie) (((cookie) >> 8) & 0xf)
#define DTYPE_AT(cookie) (((cookie) >> 12) & 0xf)
#define COMM_AT(cookie) (((cookie) >> 16) & 0xf)

// On kernels without cookies each function has programs of its own, with this set.
volatile const __u64 fixed_cookie = 0;

struct stat_key {
	__u32 tgid;
	__u8 func;
	__u8 dtype;
	__u16 zero;
	__u64 comm;
};

struct stat {
	__u64 calls;
	__u64 bytes;
	__u64 first_ns; // since boot
	__u64 last_ns;
};

struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, MAX_STATS);
	TYPE(key, struct stat_key);
	TYPE(value, struct stat);
} stats SEC(".maps");

// How many keys a process has in stats.
struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, MAX_PROCESSES);
	TYPE(key, __u32);
	TYPE(value, __u64);
} processes SEC(".maps");

// How many keys processes may have that user space knows to be on a GPU. All others share
// what it leaves them: nobody who is not on a GPU takes the room of those who are.
struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, MAX_KNOWN);
	TYPE(key, __u32);
	TYPE(value, __u64);
} limits SEC(".maps");

__u64 guest_room = MAX_STATS; // keys of all others together
__u64 guest_keys;

enum {
	DROP_STATS,  // a call was not counted: no room
	DROP_EVENTS, // an event was not told: no room
	DROP_READ,   // the memory of the process could not be read
	DROPS,
};

struct {
	UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	UINT(max_entries, DROPS);
	TYPE(key, __u32);
	TYPE(value, __u64);
} drops SEC(".maps");

enum {
	EVENT_INIT = 1,
	EVENT_INIT_ALL = 2,
	EVENT_SPLIT = 3, // and shrink: func tells
	EVENT_END = 4,
};

struct event {
	__u8 kind;
	__u8 func;
	__u8 has_id;
	__u8 zero;
	__u32 tgid;
	__u64 boot_ns;
	__u64 out;  // where the new communicator will be written
	__u64 comm; // the one that it is about
	__s32 nranks;
	__s32 rank;
	__s32 color;
	__s32 key;
	__u8 id[ID_BYTES];
};

struct {
	UINT(type, BPF_MAP_TYPE_RINGBUF);
	UINT(max_entries, 128 << 10);
} events SEC(".maps");

INLINE void drop(__u32 why)
{
	__u64 *n = bpf_map_lookup_elem(&drops, &why);
	if (n)
		(*n)++;
}

INLINE __u64 cookie(void *ctx) { return fixed_cookie ? fixed_cookie : bpf_get_attach_cookie(ctx); }

// Registers have to be read at constant places: all are, before any is chosen.
struct arguments {
	__u64 a0, a1, a2, a3, a4, a5, a6, a7;
};

#define FIX(v) asm volatile("" : "+r"(v))

INLINE void arguments(struct pt_regs *ctx, struct arguments *a)
{
	a->a0 = ARG0(ctx);
	FIX(a->a0);
	a->a1 = ARG1(ctx);
	FIX(a->a1);
	a->a2 = ARG2(ctx);
	FIX(a->a2);
	a->a3 = ARG3(ctx);
	FIX(a->a3);
	a->a4 = ARG4(ctx);
	FIX(a->a4);
	a->a5 = ARG5(ctx);
	FIX(a->a5);
#ifdef ARG6
	a->a6 = ARG6(ctx);
	FIX(a->a6);
	a->a7 = ARG7(ctx);
	FIX(a->a7);
#endif
}

// argument returns the value of an argument by its position; ok is cleared if it is on the
// stack and cannot be read.
INLINE __u64 argument(struct pt_regs *ctx, struct arguments *a, __u64 at, bool *ok)
{
	switch (at) {
	case 0: return a->a0;
	case 1: return a->a1;
	case 2: return a->a2;
	case 3: return a->a3;
	case 4: return a->a4;
	case 5: return a->a5;
#ifdef ARG6
	case 6: return a->a6;
	case 7: return a->a7;
#endif
	}
	__u64 v = 0;
	if (bpf_probe_read_user(&v, sizeof(v), (void *)(STACK(ctx) + STACK_ARGS + 8 * (at - REGISTER_ARGS))))
		*ok = false;
	return v;
}

SEC("uprobe/coll")
int coll(struct pt_regs *ctx)
{
	__u64 c = cookie(ctx);
	bool ok = true;
	struct arguments a = {};
	arguments(ctx, &a);
	__u64 count = argument(ctx, &a, COUNT_AT(c), &ok);
	__u32 dtype = argument(ctx, &a, DTYPE_AT(c), &ok);
	__u64 comm = argument(ctx, &a, COMM_AT(c), &ok);
	if (!ok) {
		drop(DROP_READ);
		return 0;
	}
	struct stat_key key = {};
	key.tgid = bpf_get_current_pid_tgid() >> 32;
	key.func = FUNC(c);
	key.dtype = dtype < DTYPES ? dtype : NO_DTYPE;
	key.comm = comm;
	__u64 bytes = 0;
	if (dtype < DTYPES && count < MAX_COUNT) {
		// log2 of the sizes of types 0 to 11, three bits each from the right: int8, uint8,
		// int32, uint32, int64, uint64, half, float, double, bfloat16, two of 8 bits.
		__u64 shifts = 2ULL << 6 | 2ULL << 9 | 3ULL << 12 | 3ULL << 15 | 1ULL << 18 | 2ULL << 21 |
			       3ULL << 24 | 1ULL << 27;
		bytes = count << ((shifts >> (3 * dtype)) & 7);
	}
	__u64 now = bpf_ktime_get_boot_ns();
	struct stat *s = bpf_map_lookup_elem(&stats, &key);
	if (!s) {
		__u64 none = 0, *keys, *limit = bpf_map_lookup_elem(&limits, &key.tgid);
		if (!limit && guest_keys >= guest_room) {
			drop(DROP_STATS);
			return 0;
		}
		keys = bpf_map_lookup_elem(&processes, &key.tgid);
		if (!keys) {
			bpf_map_update_elem(&processes, &key.tgid, &none, BPF_NOEXIST);
			keys = bpf_map_lookup_elem(&processes, &key.tgid);
		}
		if (!keys || *keys >= (limit ? *limit : MAX_KEYS)) {
			drop(DROP_STATS);
			return 0;
		}
		struct stat fresh = {.first_ns = now};
		if (!bpf_map_update_elem(&stats, &key, &fresh, BPF_NOEXIST)) {
			__sync_fetch_and_add(keys, 1);
			if (!limit)
				__sync_fetch_and_add(&guest_keys, 1);
		}
		s = bpf_map_lookup_elem(&stats, &key);
		if (!s) {
			drop(DROP_STATS);
			return 0;
		}
	}
	__sync_fetch_and_add(&s->calls, 1);
	__sync_fetch_and_add(&s->bytes, bytes);
	s->last_ns = now;
	return 0;
}

INLINE struct event *event(__u8 kind, __u8 func)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		drop(DROP_EVENTS);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->kind = kind;
	e->func = func;
	e->tgid = bpf_get_current_pid_tgid() >> 32;
	e->boot_ns = bpf_ktime_get_boot_ns();
	return e;
}

INLINE void identify(struct event *e, __u64 at)
{
	if (bpf_probe_read_user(e->id, ID_BYTES, (void *)at))
		drop(DROP_READ);
	else
		e->has_id = 1;
}

// ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank) and the same
// with a configuration behind. The id is 128 bytes by value: on x86 on the stack, on arm64 a
// pointer to a copy takes its place.
SEC("uprobe/init")
int init(struct pt_regs *ctx)
{
	struct event *e = event(EVENT_INIT, FUNC(cookie(ctx)));
	if (!e)
		return 0;
	e->out = ARG0(ctx);
	e->nranks = ARG1(ctx);
#if defined(__TARGET_ARCH_x86)
	e->rank = ARG2(ctx);
	identify(e, STACK(ctx) + STACK_ARGS);
#else
	e->rank = ARG3(ctx);
	identify(e, ARG2(ctx));
#endif
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

// ncclCommInitRankScalable(ncclComm_t *comm, int nranks, int rank, int nid, ncclUniqueId *ids,
// ncclConfig_t *config): the first id is the communicator's.
SEC("uprobe/init_scalable")
int init_scalable(struct pt_regs *ctx)
{
	struct event *e = event(EVENT_INIT, FUNC(cookie(ctx)));
	if (!e)
		return 0;
	e->out = ARG0(ctx);
	e->nranks = ARG1(ctx);
	e->rank = ARG2(ctx);
	identify(e, ARG4(ctx));
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

// ncclCommInitAll(ncclComm_t *comms, int ndev, const int *devices): no id, one process.
SEC("uprobe/init_all")
int init_all(struct pt_regs *ctx)
{
	struct event *e = event(EVENT_INIT_ALL, FUNC(cookie(ctx)));
	if (!e)
		return 0;
	e->out = ARG0(ctx);
	e->nranks = ARG1(ctx);
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

// ncclCommSplit(comm, color, key, ncclComm_t *new, config) and
// ncclCommShrink(comm, exclude, count, ncclComm_t *new, config, flags).
SEC("uprobe/split")
int split(struct pt_regs *ctx)
{
	struct event *e = event(EVENT_SPLIT, FUNC(cookie(ctx)));
	if (!e)
		return 0;
	e->comm = ARG0(ctx);
	e->color = ARG1(ctx);
	e->key = ARG2(ctx);
	e->out = ARG3(ctx);
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

// ncclCommDestroy(comm), ncclCommAbort(comm).
SEC("uprobe/destroy")
int destroy(struct pt_regs *ctx)
{
	struct event *e = event(EVENT_END, FUNC(cookie(ctx)));
	if (!e)
		return 0;
	e->comm = ARG0(ctx);
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}
