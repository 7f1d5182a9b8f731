// A training of several processes, as far as an agent can see one: each calls collectives of
// the stub library, talks TCP to every other one under addresses of a network of their own,
// and the first writes a checkpoint now and then. It moves no data worth having.
//
//	customer RANKS CALLS FOLDER [CGROUP]
//
// CALLS a second of each process, in 10 portions. It prints "net private" or "net loopback"
// (without the right to a network of its own), then the number of each process, and ends with
// its standard input.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct { char internal[128]; } unique;
int ncclCommInitRank(void **, int, unique, int);
int ncclAllReduce(const void *, void *, size_t, int, int, void *, void *);
int ncclAllGather(const void *, void *, size_t, int, void *, void *);
int ncclReduceScatter(const void *, void *, size_t, int, int, void *, void *);

enum { PORT = 29500, PORTIONS = 10, MOST = 64, CHUNK = 2 << 20, CHUNKS = 50, EVERY = 600, FIRST = 150 };

static int private;

static struct sockaddr_in address(int rank, int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	// 198.18.0.0/15 is kept for benchmarks.
	a.sin_addr.s_addr = htonl((private ? 0xC6120001 : 0x7F010001) + rank);
	return a;
}

// network gives the loopback device of a network of its own an address for each process.
static int network(int ranks)
{
	if (unshare(CLONE_NEWNET)) return 0;
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	for (int r = -1; r < ranks; r++) {
		struct ifreq q = {0};
		if (r < 0) {
			strcpy(q.ifr_name, "lo");
			q.ifr_flags = IFF_UP | IFF_RUNNING;
			if (ioctl(s, SIOCSIFFLAGS, &q)) return 0;
			continue;
		}
		snprintf(q.ifr_name, sizeof(q.ifr_name), "lo:%d", r);
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0xC6120001 + r)};
		memcpy(&q.ifr_addr, &a, sizeof(a));
		if (ioctl(s, SIOCSIFADDR, &q)) return 0;
	}
	close(s);
	return 1;
}

static void nap(struct timespec *at, long ms)
{
	at->tv_nsec += ms * 1000000;
	at->tv_sec += at->tv_nsec / 1000000000;
	at->tv_nsec %= 1000000000;
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, at, NULL) == EINTR)
		;
}

// meet connects to those before this one, and waits for those behind.
static int meet(int rank, int ranks, int *to)
{
	int one = 1, n = 0, listener = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in own = address(rank, PORT), any = address(rank, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&own, sizeof(own)) || listen(listener, MOST)) return -1;
	for (int r = 0; r < rank; r++) {
		struct sockaddr_in peer = address(r, PORT);
		int s;
		for (int tries = 0;; tries++) {
			s = socket(AF_INET, SOCK_STREAM, 0);
			if (bind(s, (struct sockaddr *)&any, sizeof(any))) return -1;
			if (!connect(s, (struct sockaddr *)&peer, sizeof(peer))) break;
			close(s);
			if (tries > 100) return -1;
			usleep(50000);
		}
		to[n++] = s;
	}
	while (n < ranks - 1) {
		if ((to[n] = accept(listener, NULL, NULL)) < 0) return -1;
		n++;
	}
	close(listener);
	for (int i = 0; i < n; i++) fcntl(to[i], F_SETFL, O_NONBLOCK);
	return n;
}

static int work(int rank, int ranks, int calls, const char *folder)
{
	static char chunk[CHUNK], bytes[4096];
	char path[4096];
	int to[MOST], n = meet(rank, ranks, to), file = -1;
	if (n < 0) return 3;
	unique id;
	for (int i = 0; i < 128; i++) id.internal[i] = 11 + 7 * i;
	void *comm;
	ncclCommInitRank(&comm, ranks, id, rank);
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	nap(&at, 12 * rank);
	for (long tick = 0;; tick++, nap(&at, 1000 / PORTIONS)) {
		for (int i = 0; i < calls / PORTIONS; i++) {
			if (i % 4 == 0) ncclReduceScatter(bytes, bytes, 1 << 22, 9, 0, comm, NULL);
			else if (i % 4 == 1) ncclAllReduce(bytes, bytes, 1 << 10, 7, 0, comm, NULL);
			else ncclAllGather(bytes, bytes, 1 << 22, 9, comm, NULL);
		}
		for (int i = 0; i < n; i++) {
			if (send(to[i], bytes, sizeof(bytes), MSG_NOSIGNAL) < 0 && errno != EAGAIN) return 4;
			while (recv(to[i], bytes, sizeof(bytes), 0) == sizeof(bytes))
				;
		}
		if (rank) continue;
		long behind = tick % EVERY - FIRST;
		snprintf(path, sizeof(path), "%s/checkpoint-%ld.pt", folder, tick / EVERY);
		if (behind == 0) file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
		if (file >= 0 && behind < CHUNKS && write(file, chunk, CHUNK) != CHUNK) return 5;
		if (behind == CHUNKS) {
			close(file);
			file = -1;
			unlink(path);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc < 4) return 2;
	int ranks = atoi(argv[1]), calls = atoi(argv[2]);
	if (ranks < 1 || ranks > MOST) return 2;
	if (argc > 4) {
		int f = open(argv[4], O_WRONLY);
		if (f < 0 || write(f, "0\n", 2) != 2) perror(argv[4]);
		close(f);
	}
	private = network(ranks);
	printf("net %s\n", private ? "private" : "loopback");
	fflush(stdout);
	for (int r = 0; r < ranks; r++) {
		pid_t pid = fork();
		if (pid < 0) return 6;
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			_exit(work(r, ranks, calls, argv[3]));
		}
		printf("%d\n", pid);
	}
	fflush(stdout);
	char c;
	while (read(0, &c, 1) > 0)
		;
	return 0;
}
