/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP server with an applying thread that keeps everything in memory and no data path: for tests of clients that
 * are slow, hang up or send half of something, and of the route table.
 *
 *   server --unix PATH [--metrics HOST:PORT] [--body-max BYTES] [--delay MILLISECONDS] [--keep RECORDS]
 *     with --keep there are feeds (server_feeds.h): "flows 3" on standard input brings three new flows
 *     [--tcp HOST:PORT --certificate FILE --key FILE --client-ca FILE --tokens FILE], read again upon SIGHUP
 *   server --routes      prints METHOD and path of every route
 */
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/intake/intake.h"
#include "api/server/route.h"
#include "api/server/server.h"
#include "tests/tools/server_feeds.h"

struct applier {
	struct server *server;
	struct board *board;
	struct snapshot *current;
	uint64_t body_max;
	unsigned delay;
	struct fake_feeds feeds;
};

static void status_publish(struct applier *applier)
{
	board_set_status(applier->board, str_format("{\"revision\":%" PRIu64 "}", applier->current->revision));
}

static void call_apply(struct applier *applier, struct call *call)
{
	const struct timespec delay = {applier->delay / 1000, applier->delay % 1000 * 1000000l};
	struct candidate candidate = {0};
	struct reply reply = {.dry_run = call->dry_run};
	nanosleep(&delay, NULL);
	if (intake_read(call, applier->current, applier->body_max, time(NULL), &candidate, &reply.errors) == 0) {
		reply.status = 200;
		reply.revision = call->dry_run ? applier->current->revision : candidate.snapshot->revision;
		reply.etag_revision = call->dry_run ? 0 : candidate.etag;
		reply.quarantined = steal_pointer(&candidate.set_aside);
		reply.changes = call->diff ? candidate_changes(&candidate) : NULL;
		if (!call->dry_run) {
			snapshot_put(applier->current);
			applier->current = snapshot_get(candidate.snapshot);
			board_publish(applier->board, snapshot_get(applier->current));
			status_publish(applier);
		}
	}
	candidate_clear(&candidate);
	call_reply(call, &reply);
}

static void count_print(void *out, const struct api_count *count)
{
	buffer_printf(out, "penstock_api_requests_total{method=\"%s\",route=\"%s\",code=\"%d\"} %" PRIu64 "\n",
		count->method, count->route, count->code, count->requests);
}

static void latency_print(void *out, const struct api_latency *latency)
{
	for (size_t at = 0; at < latency->bound_count; at++)
		buffer_printf(out, "penstock_api_request_duration_seconds_bucket{route=\"%s\",le=\"%g\"} %" PRIu64 "\n",
			latency->route, latency->bounds[at], latency->buckets[at]);
}

static void metrics(void *context, struct buffer *out)
{
	struct applier *applier = context;
	struct server *server = __atomic_load_n(&applier->server, __ATOMIC_ACQUIRE);
	if (server)
		server_counts(server, count_print, latency_print, out);
}

static void feed_list(void *context, enum feed feed, const struct feed_filter *filter, struct buffer *out)
{
	fake_feed_list(&((struct applier *)context)->feeds, feed, filter, out);
}

static void feed_follow(
	void *context, enum feed feed, const struct feed_filter *filter, uint64_t *after, size_t most, struct buffer *out)
{
	fake_feed_follow(&((struct applier *)context)->feeds, feed, filter, after, most, out);
}

static void routes_print(void)
{
	const char *method, *label;
	int at = 0;
	while (route_next(&at, &method, &label))
		printf("%s %s\n", method, label);
}

static void tcp_option(struct server_tcp *tcp, int option)
{
	if (option == 't')
		tcp->listen = optarg;
	else if (option == 'c')
		tcp->certificate = optarg;
	else if (option == 'K')
		tcp->key = optarg;
	else if (option == 'a')
		tcp->client_ca = optarg;
	else if (option == 'T')
		tcp->token_file = optarg;
}

static void options_read(int argc, char **argv, struct server_options *options, struct applier *applier)
{
	static const struct option known[] = {{"unix", required_argument, NULL, 'u'},
		{"metrics", required_argument, NULL, 'm'}, {"body-max", required_argument, NULL, 'b'},
		{"delay", required_argument, NULL, 'd'}, {"keep", required_argument, NULL, 'k'},
		{"tcp", required_argument, NULL, 't'}, {"certificate", required_argument, NULL, 'c'},
		{"key", required_argument, NULL, 'K'}, {"client-ca", required_argument, NULL, 'a'},
		{"tokens", required_argument, NULL, 'T'}, {"routes", no_argument, NULL, 'r'}, {NULL, 0, NULL, 0}};
	int option;
	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (option == 'u')
			options->unix_path = optarg;
		else if (option == 'm')
			options->metrics_listen = optarg;
		else if (option == 'b')
			options->body_max = strtoull(optarg, NULL, 10);
		else if (option == 'd')
			applier->delay = (unsigned)atoi(optarg);
		else if (option == 'k')
			applier->feeds.keep = strtoull(optarg, NULL, 10);
		else if (option == 'r')
			routes_print();
		else
			tcp_option(&options->tcp, option);
		if (option == 'r' || option == '?')
			exit(option == '?' ? 2 : 0);
	}
}

static void run(struct applier *applier, int signals)
{
	struct pollfd wait[] = {{.fd = signals, .events = POLLIN}, {.fd = server_fd(applier->server), .events = POLLIN},
		{.fd = applier->feeds.keep ? STDIN_FILENO : -1, .events = POLLIN}};
	struct call *call;
	for (;;) {
		poll(wait, 3, -1);
		struct signalfd_siginfo info;
		if (wait[0].revents && read(signals, &info, sizeof(info)) == sizeof(info)) {
			if (info.ssi_signo != SIGHUP)
				return;
			server_reload(applier->server);
		}
		if ((call = server_next(applier->server)))
			call_apply(applier, call);
		if (wait[2].revents && !fake_feeds_command(&applier->feeds, applier->server))
			wait[2].fd = -1;
	}
}

int main(int argc, char **argv)
{
	struct applier applier = {.board = board_new(), .body_max = 512u << 20, .feeds.lock = PTHREAD_MUTEX_INITIALIZER};
	struct server_options options = {.unix_group = "root", .metrics_listen = "", .metrics = metrics};
	struct server *server;
	struct error e = {0};
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGHUP);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	options.body_max = applier.body_max;
	options_read(argc, argv, &options, &applier);
	if (applier.feeds.keep) {
		options.feed_list = feed_list;
		options.connections = fake_connections_open;
		options.feed_follow = feed_follow;
	}
	options.board = applier.board;
	options.context = &applier;
	applier.body_max = options.body_max;

	applier.current = snapshot_new("0123456789abcdef");
	board_publish(applier.board, snapshot_get(applier.current));
	board_set_ready(applier.board, true, NULL);
	status_publish(&applier);
	if (!options.unix_path || server_start(&options, &server, &e) < 0) {
		fprintf(stderr, "server: %s%s%s\n", e.path, *e.path ? ": " : "",
			options.unix_path ? e.detail : "--unix PATH is needed");
		snapshot_put(applier.current);
		board_free(applier.board);
		return 1;
	}
	__atomic_store_n(&applier.server, server, __ATOMIC_RELEASE);
	int signals = signalfd(-1, &mask, SFD_CLOEXEC);
	run(&applier, signals);
	server_stop(server);
	snapshot_put(applier.current);
	board_free(applier.board);
	close(signals);
	return 0;
}
