/* SPDX-License-Identifier: Apache-2.0 */
/*
 * penstock-relay: takes intercepted TCP connections and UDP flows and carries each to where it was going. Some threads
 * that share nothing but the command line; this one waits for signals.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include "agent/base/error.h"
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/relay/listener.h"
#include "agent/relay/options.h"
#include "agent/relay/worker.h"

#define ROOM "relay"
#define UDP_FLOWS_MAX 65536

struct relay {
	struct options options;
	struct control control;
	struct worker *workers; /* options.threads */
	int signals;
	uint64_t done; /* threads that have ended */
	bool adopted;  /* some listener is not transparent by itself */
};

/* ---- totals ---- */

static uint64_t total(const struct relay *relay, size_t offset)
{
	uint64_t sum = 0;
	for (unsigned at = 0; at < relay->options.threads; at++)
		sum += *(const _Atomic uint64_t *)((const char *)&relay->workers[at] + offset);
	return sum;
}
#define TCP offsetof(struct worker, context.totals)
#define UDP offsetof(struct worker, udp.all.totals)

static void add_total(const struct relay *relay, struct buffer *line, size_t where, const char *name, size_t offset)
{
	buffer_printf(
		line, " %s%s=%llu", where == UDP ? "udp-" : "", name, (unsigned long long)total(relay, where + offset));
}

static void add_totals(const struct relay *relay, struct buffer *line, size_t where)
{
	uint64_t open = total(relay, where + offsetof(struct totals, open));
	uint64_t ended = total(relay, where + offsetof(struct totals, ended));
	buffer_printf(line, " %s=%llu", where == UDP ? "udp-flows" : "connections", (unsigned long long)(open + ended));
	add_total(relay, line, where, "open", offsetof(struct totals, open));
	add_total(relay, line, where, "refused", offsetof(struct totals, refused));
	add_total(relay, line, where, "failed", offsetof(struct totals, failed));
	if (where == UDP) {
		add_total(relay, line, where, "evicted", offsetof(struct totals, evicted));
		add_total(relay, line, where, "lost", offsetof(struct totals, lost));
	}
	for (int source = SOURCE_CLIENT; source < SOURCE_COUNT; source++) {
		const char *reason = source_reason(source);
		char name[40];
		snprintf(name, sizeof name, *reason ? "fallback-%s" : "source-%s", *reason ? reason : source_from(source));
		add_total(relay, line, where, name, offsetof(struct totals, sources) + (size_t)source * sizeof(uint64_t));
	}
}

static void print_totals(const struct relay *relay)
{
	struct buffer line = {0};
	add_totals(relay, &line, TCP);
	add_totals(relay, &line, UDP);
	log_info(ROOM, "totals:%s", line.data);
	buffer_free(&line);
}

/* ---- start ---- */

static void raise_file_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* Two files a flow: half of all. */
static unsigned default_flows(void)
{
	struct rlimit limit = {0};
	getrlimit(RLIMIT_NOFILE, &limit);
	return limit.rlim_cur / 4 < UDP_FLOWS_MAX ? (unsigned)(limit.rlim_cur / 4) : UDP_FLOWS_MAX;
}

static void say_listening(const union address *address, unsigned threads)
{
	struct buffer text = {0};
	address_format(&text, address);
	log_info(ROOM, "listening on %s, threads: %u", text.data, threads);
	buffer_free(&text);
}

/* For all threads. A node without IPv6 has IPv4 alone: then *there is false. */
static int open_one(struct relay *relay, const struct listen *where, int type, bool *there, struct error *e)
{
	int sockets[THREADS_MAX];
	bool transparent = true;
	int result = listeners_open(where, type, relay->options.threads, sockets, &transparent, e);
	bool absent = result == -EAFNOSUPPORT || result == -EADDRNOTAVAIL;
	*there = result == 0;
	if (absent && where->optional) {
		log_warn(ROOM, "%s: IPv4 only", e->detail);
		return 0;
	}
	if (!transparent)
		relay->adopted = true;
	for (unsigned at = 0; *there && at < relay->options.threads; at++) {
		struct worker *worker = &relay->workers[at];
		if (type == SOCK_STREAM)
			worker->listeners[worker->listener_count++] = sockets[at];
		else
			worker->udp.listeners[worker->udp.listener_count++] = sockets[at];
	}
	return result;
}

static int open_listeners(struct relay *relay, struct error *e)
{
	struct options *options = &relay->options;
	for (unsigned i = 0; i < options->listens; i++) {
		const struct listen *where = &options->listen[i];
		bool there = false;
		int result = options->tcp ? open_one(relay, where, SOCK_STREAM, &there, e) : 0;
		if (result == 0 && options->udp)
			result = open_one(relay, where, SOCK_DGRAM, &there, e);
		if (result < 0)
			return result;
		if (there)
			say_listening(&where->address, options->threads);
	}
	if (relay->adopted)
		log_warn(ROOM, "not transparent by itself (CAP_NET_ADMIN is missing): penstockd has to adopt the listener");
	return 0;
}

/* An adopted listener does not help with UDP: each answer needs a transparent socket of its own. */
static int check_udp(struct options *options, struct error *e)
{
	static const char missing[] = "UDP needs CAP_NET_ADMIN or CAP_NET_RAW, to answer from the original destinations";
	int on = 1;
	auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (!options->udp || setsockopt(fd, SOL_IP, IP_TRANSPARENT, &on, sizeof on) == 0)
		return 0;
	if (options->udp_wanted)
		return error_set(e, ERROR_SYSTEM, EPERM, NULL, "%s", missing);
	log_warn(ROOM, "%s: carrying TCP alone", missing);
	options->udp = false;
	return 0;
}

static int relay_open(struct relay *relay, struct error *e)
{
	sigset_t handled;
	sigemptyset(&handled);
	sigaddset(&handled, SIGTERM);
	sigaddset(&handled, SIGINT);
	sigaddset(&handled, SIGUSR1);
	sigprocmask(SIG_BLOCK, &handled, NULL); /* threads inherit it */
	signal(SIGPIPE, SIG_IGN);
	raise_file_limit();
	relay->workers = mem_array(relay->options.threads, sizeof *relay->workers);
	relay->signals = signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
	relay->control.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	relay->control.done = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (relay->signals < 0 || relay->control.wake < 0 || relay->control.done < 0)
		return error_system(e, errno, "eventfd");
	if (share_open(&relay->control.share, relay->options.threads) < 0)
		return error_system(e, errno, "eventfd");
	if (!relay->options.udp_flows)
		relay->options.udp_flows = default_flows();
	int result = check_udp(&relay->options, e);
	if (result == 0)
		result = open_listeners(relay, e);
	if (result < 0)
		return result;
	for (unsigned at = 0; at < relay->options.threads; at++) {
		struct worker *worker = &relay->workers[at];
		worker->context.options = &relay->options;
		worker->control = &relay->control;
		worker->udp.thread = at;
		if ((result = worker_open(worker)) < 0)
			return error_system(e, -result, "epoll");
	}
	for (unsigned at = 0; at < relay->options.threads; at++)
		if ((result = worker_start(&relay->workers[at])) < 0)
			return error_system(e, -result, "start a thread");
	return 0;
}

/* ---- waiting, and the end ---- */

static void enter_stage(struct relay *relay, enum stage stage)
{
	uint64_t one = 1;
	relay->control.stage = stage;
	ssize_t written = write(relay->control.wake, &one, sizeof one);
	(void)written;
}

/* The next signal; 0 when the time is over or all threads have ended. */
static int next_signal(struct relay *relay, int64_t wait_ms)
{
	struct pollfd fds[2] = {{.fd = relay->signals, .events = POLLIN}, {.fd = relay->control.done, .events = POLLIN}};
	struct signalfd_siginfo info;
	uint64_t ended;
	if (relay->done >= relay->options.threads || poll(fds, 2, wait_ms < 0 ? -1 : (int)wait_ms) == 0)
		return 0;
	if (read(relay->control.done, &ended, sizeof ended) == sizeof ended)
		relay->done += ended;
	return read(relay->signals, &info, sizeof info) == sizeof info ? (int)info.ssi_signo : -1;
}

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Until a signal to end, all threads have ended, or `until` (0: for ever). */
static void wait_for_end(struct relay *relay, int64_t until_ms)
{
	for (;;) {
		int64_t left = until_ms ? until_ms - now_ms() : -1;
		int number = next_signal(relay, until_ms && left < 0 ? 0 : left);
		if (number == SIGUSR1)
			print_totals(relay);
		else if (number >= 0)
			return;
	}
}

static void relay_run(struct relay *relay)
{
	wait_for_end(relay, 0);
	log_info(ROOM, "stopping");
	enter_stage(relay, STAGE_DRAINING);
	wait_for_end(relay, now_ms() + (int64_t)relay->options.drain_s * 1000);
	enter_stage(relay, STAGE_ENDING);
	for (unsigned at = 0; at < relay->options.threads; at++)
		pthread_join(relay->workers[at].thread, NULL);
	print_totals(relay);
	close(relay->signals);
	close(relay->control.wake);
	close(relay->control.done);
	share_close(&relay->control.share, relay->options.threads);
	free(relay->workers);
}

int main(int argc, char **argv)
{
	static struct relay relay = {.signals = -1}; /* threads may still look at it when main returns */
	struct error e;
	int code = options_parse(argc, argv, &relay.options);
	if (code >= 0)
		return code;
	if (relay_open(&relay, &e) < 0) {
		log_error(ROOM, "%s", e.detail);
		return 1;
	}
	relay_run(&relay);
	return 0;
}
