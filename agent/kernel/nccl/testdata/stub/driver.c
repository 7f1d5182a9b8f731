// Calls the stub as its standard input says, a command a line, and answers "ok".
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

typedef struct { char internal[128]; } id_t_;
typedef void *comm;

int ncclCommInitRank(comm *, int, id_t_, int);
int ncclCommInitRankConfig(comm *, int, id_t_, int, void *);
int ncclCommInitRankScalable(comm *, int, int, int, id_t_ *, void *);
int ncclCommInitAll(comm *, int, const int *);
int ncclCommSplit(comm, int, int, comm *, void *);
int ncclCommShrink(comm, int *, int, comm *, void *, int);
int ncclCommDestroy(comm);
int ncclCommAbort(comm);
int ncclAllReduce(const void *, void *, size_t, int, int, comm, void *);
int ncclReduceScatter(const void *, void *, size_t, int, int, comm, void *);
int ncclAllGather(const void *, void *, size_t, int, comm, void *);
int ncclBroadcast(const void *, void *, size_t, int, int, comm, void *);
int ncclBcast(void *, size_t, int, int, comm, void *);
int ncclReduce(const void *, void *, size_t, int, int, int, comm, void *);
int ncclAlltoAll(const void *, void *, size_t, int, comm, void *);
int ncclGather(const void *, void *, size_t, int, int, comm, void *);
int ncclScatter(const void *, void *, size_t, int, int, comm, void *);
int ncclSend(const void *, size_t, int, int, comm, void *);
int ncclRecv(void *, size_t, int, int, comm, void *);

#define SLOTS 64
static comm comms[SLOTS];

static void coll(const char *name, comm c, size_t n, int t)
{
	char b[1];
	if (!strcmp(name, "allreduce")) ncclAllReduce(b, b, n, t, 0, c, NULL);
	else if (!strcmp(name, "reducescatter")) ncclReduceScatter(b, b, n, t, 0, c, NULL);
	else if (!strcmp(name, "allgather")) ncclAllGather(b, b, n, t, c, NULL);
	else if (!strcmp(name, "broadcast")) ncclBroadcast(b, b, n, t, 0, c, NULL);
	else if (!strcmp(name, "bcast")) ncclBcast(b, n, t, 0, c, NULL);
	else if (!strcmp(name, "reduce")) ncclReduce(b, b, n, t, 0, 0, c, NULL);
	else if (!strcmp(name, "alltoall")) ncclAlltoAll(b, b, n, t, c, NULL);
	else if (!strcmp(name, "gather")) ncclGather(b, b, n, t, 0, c, NULL);
	else if (!strcmp(name, "scatter")) ncclScatter(b, b, n, t, 0, c, NULL);
	else if (!strcmp(name, "send")) ncclSend(b, n, t, 0, c, NULL);
	else if (!strcmp(name, "recv")) ncclRecv(b, n, t, 0, c, NULL);
	else abort();
}

static id_t_ id(int seed)
{
	id_t_ v;
	for (int i = 0; i < 128; i++)
		v.internal[i] = seed + i * 7;
	return v;
}

int main(void)
{
	char line[512], a[256];
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		long p[5] = {0};
		int n = sscanf(line, "%255s", a);
		char *rest = line + strlen(a);
		if (n != 1) continue;
		if (!strcmp(a, "coll")) {
			char name[64];
			sscanf(rest, "%63s %ld %ld %ld %ld", name, &p[0], &p[1], &p[2], &p[3]);
			for (long i = 0; i < p[3]; i++) coll(name, comms[p[0]], p[1], p[2]);
		} else if (!strcmp(a, "flood")) {
			sscanf(rest, "%ld %ld", &p[0], &p[1]);
			for (long i = 0; i < p[1]; i++) ncclAllReduce(a, a, 1, 0, 0, (comm)(uintptr_t)(0x100000 + 16 * (p[0] + i)), NULL);
		} else if (!strcmp(a, "time")) {
			struct timespec x, y;
			sscanf(rest, "%ld", &p[0]);
			clock_gettime(CLOCK_MONOTONIC, &x);
			for (long i = 0; i < p[0]; i++) ncclAllReduce(a, a, 1024, 7, 0, comms[0], NULL);
			clock_gettime(CLOCK_MONOTONIC, &y);
			printf("%.1f\n", ((y.tv_sec - x.tv_sec) * 1e9 + (y.tv_nsec - x.tv_nsec)) / p[0]);
			continue;
		} else if (!strcmp(a, "map")) {
			char file[256];
			sscanf(rest, "%255s", file);
			int fd = open(file, O_RDWR | O_CREAT, 0600);
			if (fd < 0 || ftruncate(fd, 4096) || mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED) return 3;
			unlink(file);
		} else if (!strcmp(a, "seccomp")) {
			// As a container's filter that does not know system calls 335 and 336.
			struct sock_filter f[] = {
				BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
				BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 335, 0, 2),
				BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 336, 1, 0),
				BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
				BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
			};
			struct sock_fprog g = {sizeof(f) / sizeof(f[0]), f};
			if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &g)) return 4;
		} else {
			sscanf(rest, "%ld %ld %ld %ld %ld", &p[0], &p[1], &p[2], &p[3], &p[4]);
			if (!strcmp(a, "init")) ncclCommInitRank(&comms[p[0]], p[1], id(p[3]), p[2]);
			else if (!strcmp(a, "initconfig")) ncclCommInitRankConfig(&comms[p[0]], p[1], id(p[3]), p[2], NULL);
			else if (!strcmp(a, "initscalable")) {
				id_t_ v = id(p[3]);
				ncclCommInitRankScalable(&comms[p[0]], p[1], p[2], 1, &v, NULL);
			} else if (!strcmp(a, "initall")) ncclCommInitAll(&comms[p[0]], p[1], NULL);
			else if (!strcmp(a, "split")) ncclCommSplit(comms[p[0]], p[2], p[3], &comms[p[1]], NULL);
			else if (!strcmp(a, "shrink")) ncclCommShrink(comms[p[0]], NULL, 0, &comms[p[1]], NULL, 0);
			else if (!strcmp(a, "destroy")) ncclCommDestroy(comms[p[0]]);
			else if (!strcmp(a, "abort")) ncclCommAbort(comms[p[0]]);
			else if (!strcmp(a, "move")) { comms[p[1]] = comms[p[0]]; comms[p[0]] = NULL; }
			else return 5;
		}
		puts("ok");
	}
	return 0;
}
