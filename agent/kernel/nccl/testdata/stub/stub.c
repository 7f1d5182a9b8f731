// A stand-in for the library of collectives, for tests: the functions of its interface with
// their argument lists, and a communicator that is laid out as far as agent/kernel/nccl reads
// it. It moves no data.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { char internal[128]; } id_t_;

struct comm {
	uint64_t magic;
	char before[12640];
	uint64_t net_magic;
	uint64_t hash;
	int rank, nranks, cuda, nvml, cap, least, most, pad;
	int64_t bus;
	char behind[4096];
	uint32_t children;
	uint64_t end;
};

#define MAGIC 0x0280028002800280ULL

static void eat(uint64_t acc[2], const void *p, size_t n)
{
	const char *at = p;
	acc[0] ^= n;
	while (n) {
		acc[0] += acc[1];
		acc[1] ^= acc[0];
		acc[0] ^= acc[0] >> 31;
		acc[0] *= 0x9de62bbc8cef3ce3;
		acc[1] ^= acc[1] >> 32;
		acc[1] *= 0x485cd6311b599e79;
		uint64_t x = 0;
		size_t k = n < 8 ? n : 8;
		memcpy(&x, at, k);
		at += k;
		n -= k;
		acc[0] += x;
	}
}

static uint64_t digest(uint64_t acc[2])
{
	uint64_t h = acc[0];
	h ^= h >> 31;
	h *= 0xbac3bd562846de6b;
	h += acc[1];
	h ^= h >> 32;
	h *= 0x995a187a14e7b445;
	return h;
}

static uint64_t hash(const char *id)
{
	if (getenv("STUB_OLD")) {
		uint64_t h = 5381;
		for (int i = 0; i < 128; i++)
			h = ((h << 5) + h) ^ (signed char)id[i];
		return h;
	}
	uint64_t acc[2] = {1, 1};
	eat(acc, id, 128);
	return digest(acc);
}

static struct comm *make(uint64_t h, int rank, int nranks)
{
	struct comm *c = calloc(1, sizeof(*c));
	if (!getenv("STUB_BARE")) {
		const char *bus = getenv("STUB_BUS");
		c->magic = c->end = MAGIC;
		c->net_magic = 0x1122334455667788;
		c->hash = h;
		c->rank = rank;
		c->nranks = nranks;
		c->cap = c->least = c->most = 90;
		c->bus = bus ? strtoll(bus, NULL, 16) : 0x1b000;
	}
	return c;
}

int ncclCommInitRank(struct comm **out, int nranks, id_t_ id, int rank)
{
	*out = make(hash(id.internal), rank, nranks);
	return 0;
}

int ncclCommInitRankConfig(struct comm **out, int nranks, id_t_ id, int rank, void *config)
{
	*out = make(hash(id.internal), rank, nranks);
	return 0;
}

int ncclCommInitRankScalable(struct comm **out, int nranks, int rank, int nid, id_t_ *ids, void *config)
{
	*out = make(hash(ids[0].internal), rank, nranks);
	return 0;
}

int ncclCommInitAll(struct comm **out, int n, const int *devices)
{
	for (int i = 0; i < n; i++)
		out[i] = make(0xabcdef0123456789ULL, i, n);
	return 0;
}

static struct comm *child(struct comm *c, int color, int key)
{
	uint64_t acc[2] = {1, 1};
	uint32_t n = ++c->children;
	eat(acc, &c->hash, 8);
	eat(acc, &n, 4);
	eat(acc, &color, 4);
	return make(digest(acc), key, key + 1);
}

int ncclCommSplit(struct comm *c, int color, int key, struct comm **out, void *config)
{
	*out = color < 0 ? NULL : child(c, color, key);
	return 0;
}

int ncclCommShrink(struct comm *c, int *list, int n, struct comm **out, void *config, int flags)
{
	*out = child(c, 0, 0);
	return 0;
}

int ncclCommDestroy(struct comm *c) { free(c); return 0; }
int ncclCommAbort(struct comm *c) { free(c); return 0; }

int ncclAllReduce(const void *s, void *r, size_t n, int t, int op, struct comm *c, void *st) { return 0; }
int ncclReduceScatter(const void *s, void *r, size_t n, int t, int op, struct comm *c, void *st) { return 0; }
int ncclAllGather(const void *s, void *r, size_t n, int t, struct comm *c, void *st) { return 0; }
int ncclBroadcast(const void *s, void *r, size_t n, int t, int root, struct comm *c, void *st) { return 0; }
int ncclBcast(void *b, size_t n, int t, int root, struct comm *c, void *st) { return ncclBroadcast(b, b, n, t, root, c, st); }
int ncclReduce(const void *s, void *r, size_t n, int t, int op, int root, struct comm *c, void *st) { return 0; }
int ncclAlltoAll(const void *s, void *r, size_t n, int t, struct comm *c, void *st) { return 0; }
int ncclGather(const void *s, void *r, size_t n, int t, int root, struct comm *c, void *st) { return 0; }
int ncclScatter(const void *s, void *r, size_t n, int t, int root, struct comm *c, void *st) { return 0; }
int ncclSend(const void *s, size_t n, int t, int peer, struct comm *c, void *st) { return 0; }
int ncclRecv(void *r, size_t n, int t, int peer, struct comm *c, void *st) { return 0; }
