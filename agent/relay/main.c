/* SPDX-License-Identifier: Apache-2.0 */
/*
 * penstock-relay: takes intercepted TCP connections and carries each to where it was going. Some threads that share
 * nothing but the command line; this one waits for signals.
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

struct relay {
	struct options options;
	struct control control;
	struct worker *workers; /* options.threads */
	int signals;
	uint64_t done; /* threads that have ended */
};

/* ---- totals ---- */

static uint64_t total(const struct relay *relay, size_t offset)
{
	uint64_t sum = 0;
	for (unsigned at = 0; at < relay->options.threads; at++)
		sum += *(const _Atomic uint64_t *)((const char *)&relay->workers[at].context.totals + offset);
	return sum;
}
#define TOTAL(relay, field) ((unsigned long long)total(relay, offsetof(struct totals, field)))

static void print_totals(const struct relay *relay)
{
	struct buffer line = {0};
	unsigned long long open = TOTAL(relay, open);
	buffer_printf(&line,
		"totals: connections=%llu open=%llu refused=%llu failed=%llu source-client=%llu source-node=%llu",
		open + TOTAL(relay, ended), open, TOTAL(relay, refused), TOTAL(relay, failed),
		TOTAL(relay, sources[SOURCE_CLIENT]), TOTAL(relay, sources[SOURCE_NODE]));
	for (int source = 0; source < SOURCE_COUNT; source++)
		if (*source_reason(source))
			buffer_printf(&line, " fallback-%s=%llu", source_reason(source),
				(unsigned long long)total(relay, offsetof(struct totals, sources) + (size_t)source * sizeof(uint64_t)));
	log_info(ROOM, "%s", line.data);
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

static void say_listening(const union address *address, unsigned threads)
{
	struct buffer text = {0};
	address_format(&text, address);
	log_info(ROOM, "listening on %s, threads: %u", text.data, threads);
	buffer_free(&text);
}

static int open_listeners(struct relay *relay, struct error *e)
{
	struct options *options = &relay->options;
	bool transparent = true;
	int sockets[THREADS_MAX];
	for (unsigned i = 0; i < options->listens; i++) {
		int result = listeners_open(&options->listen[i], options->threads, sockets, &transparent, e);
		bool absent = result == -EAFNOSUPPORT || result == -EADDRNOTAVAIL;
		if (absent && options->listen[i].optional) {
			log_warn(ROOM, "%s: IPv4 only", e->detail);
			continue;
		}
		if (result < 0)
			return result;
		for (unsigned at = 0; at < options->threads; at++)
			relay->workers[at].listeners[relay->workers[at].listener_count++] = sockets[at];
		say_listening(&options->listen[i].address, options->threads);
	}
	if (!transparent)
		log_warn(ROOM, "not transparent by itself (CAP_NET_ADMIN is missing): penstockd has to adopt the listener");
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
	int result = open_listeners(relay, e);
	if (result < 0)
		return result;
	for (unsigned at = 0; at < relay->options.threads; at++) {
		struct worker *worker = &relay->workers[at];
		worker->context.options = &relay->options;
		worker->control = &relay->control;
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
