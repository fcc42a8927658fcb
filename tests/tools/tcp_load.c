/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both ends of a TCP measurement, for IPv4.
 *
 * tcp_load serve PORT [transparent]               answers a connection's first bytes with one byte, discards the rest;
 *                                                 says "listens" when it does
 * tcp_load connect ADDRESS PORT THREADS SECONDS   connections one after the other in each thread: connect, one byte,
 *                                                 its answer, reset (so that no TIME_WAIT is left behind)
 * tcp_load bulk ADDRESS PORT SECONDS              one connection that sends for so long, until the other end has all
 *
 * The clients print one line of JSON: connections, failures and seconds, with the 50th and the 99th percentile of
 * connect() in microseconds; or bytes and seconds.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE (256 << 10)
#define EVENTS 256
#define THREADS_MAX 64
#define SAMPLES_MAX (1 << 19) /* of each thread */
#define ANSWERED (1ull << 32) /* beside the descriptor, in an epoll event */

static void die(const char *what)
{
	fprintf(stderr, "tcp_load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static struct sockaddr_in address(const char *ip, const char *port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	if (inet_pton(AF_INET, ip, &to.sin_addr) != 1)
		die(ip);
	return to;
}

/* ---- serve ---- */

static int listener_open(const char *port, bool transparent)
{
	const struct sockaddr_in at = address("0.0.0.0", port);
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0)
		die("socket");
	if (transparent && setsockopt(fd, SOL_IP, IP_TRANSPARENT, &one, sizeof one) < 0)
		die("IP_TRANSPARENT");
	if (bind(fd, (const struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 4096) < 0)
		die(port);
	return fd;
}

static void watch(int epoll, int operation, int fd, uint64_t data)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = data};
	if (epoll_ctl(epoll, operation, fd, &event) < 0)
		die("epoll");
}

static void take_all(int epoll, int listener)
{
	for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;)
		watch(epoll, EPOLL_CTL_ADD, fd, (uint64_t)fd);
}

static void take_bytes(int epoll, uint64_t data)
{
	static char piece[PIECE];
	int fd = (int)(uint32_t)data;
	ssize_t got = recv(fd, piece, sizeof piece, MSG_TRUNC); /* discarded where it is, not copied */
	if (got == 0 || (got < 0 && errno != EAGAIN)) {
		close(fd);
	} else if (got > 0 && !(data & ANSWERED)) {
		if (send(fd, "!", 1, MSG_NOSIGNAL) == 1)
			watch(epoll, EPOLL_CTL_MOD, fd, data | ANSWERED);
		else
			close(fd);
	}
}

static _Noreturn void serve(const char *port, bool transparent)
{
	struct epoll_event events[EVENTS];
	int listener = listener_open(port, transparent), epoll = epoll_create1(0);
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	watch(epoll, EPOLL_CTL_ADD, listener, (uint64_t)listener);
	puts("listens");
	fflush(stdout);
	for (;;) {
		int count = epoll_wait(epoll, events, EVENTS, -1);
		for (int i = 0; i < count; i++) {
			if (events[i].data.u64 == (uint64_t)listener)
				take_all(epoll, listener);
			else
				take_bytes(epoll, events[i].data.u64);
		}
	}
}

/* ---- connect ---- */

struct caller {
	pthread_t thread;
	const struct sockaddr_in *to;
	double end;
	unsigned long connections, failures;
	uint32_t *samples; /* nanoseconds that connect() took, of the first SAMPLES_MAX connections */
};

/* Waits for nothing longer than a second: a SYN that has to be sent again counts as failed. */
static int socket_open(void)
{
	const struct timeval second = {.tv_usec = 950000};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
	setsockopt(fd, SOL_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static bool call(const struct sockaddr_in *to, uint32_t *took)
{
	const struct linger reset = {.l_onoff = 1};
	char answer;
	int fd = socket_open();
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	double begin = now();
	bool well = connect(fd, (const struct sockaddr *)to, sizeof *to) == 0;
	*took = (uint32_t)((now() - begin) * 1e9);
	well = well && send(fd, "?", 1, MSG_NOSIGNAL) == 1 && recv(fd, &answer, 1, 0) == 1;
	close(fd);
	return well;
}

static void *call_on(void *argument)
{
	struct caller *caller = argument;
	while (now() < caller->end) {
		uint32_t took;
		if (!call(caller->to, &took)) {
			caller->failures++;
			continue;
		}
		if (caller->connections < SAMPLES_MAX)
			caller->samples[caller->connections] = took;
		caller->connections++;
	}
	return NULL;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

/* Of all threads' samples together. */
static size_t samples_gather(const struct caller *callers, int threads, uint32_t **ret)
{
	size_t count = 0;
	uint32_t *all = calloc((size_t)threads * SAMPLES_MAX, sizeof *all);
	if (!all)
		die("memory");
	for (int i = 0; i < threads; i++) {
		size_t own = callers[i].connections < SAMPLES_MAX ? callers[i].connections : SAMPLES_MAX;
		memcpy(all + count, callers[i].samples, own * sizeof *all);
		count += own;
	}
	qsort(all, count, sizeof *all, compare);
	*ret = all;
	return count;
}

static int connect_for(const struct sockaddr_in *to, int threads, double seconds)
{
	static struct caller callers[THREADS_MAX];
	unsigned long connections = 0, failures = 0;
	double begin = now();
	if (threads < 1 || threads > THREADS_MAX)
		die("threads");
	for (int i = 0; i < threads; i++) {
		callers[i] =
			(struct caller){.to = to, .end = begin + seconds, .samples = calloc(SAMPLES_MAX, sizeof(uint32_t))};
		if (!callers[i].samples || pthread_create(&callers[i].thread, NULL, call_on, &callers[i]))
			die("thread");
	}
	for (int i = 0; i < threads; i++) {
		pthread_join(callers[i].thread, NULL);
		connections += callers[i].connections;
		failures += callers[i].failures;
	}
	seconds = now() - begin;
	uint32_t *all;
	size_t count = samples_gather(callers, threads, &all);
	printf("{\"connections\": %lu, \"failures\": %lu, \"seconds\": %.6f, \"p50\": %.1f, \"p99\": %.1f}\n", connections,
		failures, seconds, count ? all[count / 2] / 1e3 : 0, count ? all[count * 99 / 100] / 1e3 : 0);
	free(all);
	for (int i = 0; i < threads; i++)
		free(callers[i].samples);
	return 0;
}

/* ---- bulk ---- */

static int bulk_for(const struct sockaddr_in *to, double seconds)
{
	static char piece[PIECE];
	const struct timeval patience = {.tv_sec = 10};
	unsigned long long bytes = 0;
	int fd = socket_open();
	if (connect(fd, (const struct sockaddr *)to, sizeof *to) < 0)
		die("connect");
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	double begin = now();
	while (now() < begin + seconds) {
		ssize_t sent = send(fd, piece, sizeof piece, MSG_NOSIGNAL);
		if (sent < 0)
			die("send");
		bytes += (unsigned long long)sent;
	}
	/* What is still on its way counts as soon as the other end has closed, too. */
	shutdown(fd, SHUT_WR);
	ssize_t got;
	while ((got = recv(fd, piece, sizeof piece, 0)) > 0)
		;
	if (got < 0)
		die("recv");
	printf("{\"bytes\": %llu, \"seconds\": %.6f}\n", bytes, now() - begin);
	close(fd);
	return 0;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";
	struct sockaddr_in to;
	if (strcmp(verb, "serve") == 0 && argc >= 3)
		serve(argv[2], argc > 3);
	if (argc >= 5)
		to = address(argv[2], argv[3]);
	if (strcmp(verb, "connect") == 0 && argc == 6)
		return connect_for(&to, atoi(argv[4]), atof(argv[5]));
	if (strcmp(verb, "bulk") == 0 && argc == 5)
		return bulk_for(&to, atof(argv[4]));
	fprintf(stderr, "usage: tcp_load serve PORT [transparent] | connect ADDRESS PORT THREADS SECONDS | "
					"bulk ADDRESS PORT SECONDS\n");
	return 2;
}
