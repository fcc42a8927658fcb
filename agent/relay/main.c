/* SPDX-License-Identifier: Apache-2.0 */
/*
 * penstock-relay: takes intercepted TCP connections and carries each to where it was going, from the node's own
 * address. One thread, one epoll set. One line on standard output for each finished connection.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include "agent/base/addr.h"
#include "agent/base/error.h"
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/relay/connection.h"

#define ROOM "relay"
#define EVENTS_MAX 256
#define CONNECT_TIMEOUT_S 10

struct options {
	struct ip address;
	uint16_t port;
	unsigned connect_timeout_s;
};

struct connections {
	struct connection *first, *last;
};

struct relay {
	int epoll, listener, signals;
	struct options options;
	bool accepting;                /* the listener is in the set: not while file descriptors are short */
	struct connections connecting; /* oldest first: as all share one timeout, they run out in this order */
	struct connections carrying;
	struct connections finished; /* freed after the round, as its events may still name them */
};

static const char usage[] =
	"usage: penstock-relay --listen PORT [--address ADDRESS] [--connect-timeout SECONDS]\n"
	"\n"
	"A transparent TCP relay: accepts connections that penstockd hands over, connects each to its original\n"
	"destination from the node's own address, and logs one line for each that has ended.\n"
	"\n"
	"  --listen PORT              TCP port to listen on\n"
	"  --address ADDRESS          address to listen on, default 0.0.0.0; :: takes IPv4 and IPv6\n"
	"  --connect-timeout SECONDS  how long connecting onward may take, default 10\n"
	"  --version                  print the version\n"
	"  --help                     print this text\n";

/* ---- start ---- */

static int listener_open(const struct options *options, int *ret, struct error *e)
{
	int on = 1, off = 0, family = options->address.family == 4 ? AF_INET : AF_INET6;
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(options->port)};
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(options->port)};
	auto_close int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_system(e, errno, "socket");
	four.sin_addr.s_addr = ip_v4(&options->address);
	memcpy(six.sin6_addr.s6_addr, options->address.bytes, 16);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (setsockopt(fd, SOL_IP, IP_TRANSPARENT, &on, sizeof on) < 0)
		return error_system(e, errno, "IP_TRANSPARENT (needs CAP_NET_ADMIN)");
	if (family == AF_INET6)
		setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &off, sizeof off);
	int result = family == AF_INET ? bind(fd, (struct sockaddr *)&four, sizeof four)
								   : bind(fd, (struct sockaddr *)&six, sizeof six);
	if (result < 0)
		return error_system(e, errno, "bind to port %u", options->port);
	if (listen(fd, SOMAXCONN) < 0)
		return error_system(e, errno, "listen on port %u", options->port);
	*ret = steal_fd(&fd);
	return 0;
}

static void raise_file_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int watch(struct relay *relay, int fd, void *what)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
	return epoll_ctl(relay->epoll, EPOLL_CTL_ADD, fd, &event);
}

static int relay_open(struct relay *relay, struct error *e)
{
	sigset_t stop;
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	sigprocmask(SIG_BLOCK, &stop, NULL);
	signal(SIGPIPE, SIG_IGN);
	raise_file_limit();
	int result = listener_open(&relay->options, &relay->listener, e);
	if (result < 0)
		return result;
	relay->signals = signalfd(-1, &stop, SFD_CLOEXEC | SFD_NONBLOCK);
	relay->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (relay->signals < 0 || relay->epoll < 0 || watch(relay, relay->signals, &relay->signals) < 0 ||
		watch(relay, relay->listener, &relay->listener) < 0)
		return error_system(e, errno, "epoll");
	relay->accepting = true;
	return 0;
}

/* ---- the loop ---- */

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void list_remove(struct connection *c)
{
	*(c->previous ? &c->previous->next : &c->list->first) = c->next;
	*(c->next ? &c->next->previous : &c->list->last) = c->previous;
	c->list = NULL;
}

static void list_move(struct connection *c, struct connections *list)
{
	if (c->list == list)
		return;
	if (c->list)
		list_remove(c);
	c->list = list;
	c->next = NULL;
	c->previous = list->last;
	*(list->last ? &list->last->next : &list->first) = c;
	list->last = c;
}

/* The list where it belongs by now. */
static void sort(struct relay *relay, struct connection *c)
{
	list_move(c, c->finished ? &relay->finished : c->connected ? &relay->carrying : &relay->connecting);
}

static void accept_some(struct relay *relay)
{
	for (int at = 0; at < EVENTS_MAX; at++) {
		int fd = accept4(relay->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		bool any = relay->connecting.first || relay->carrying.first; /* whose end gives descriptors back */
		if (fd < 0 && (errno == EMFILE || errno == ENFILE) && any) {
			log_warn(ROOM, "no file descriptor is free: accepting again when a connection ends");
			epoll_ctl(relay->epoll, EPOLL_CTL_DEL, relay->listener, NULL);
			relay->accepting = false;
		}
		if (fd < 0)
			return;
		int64_t deadline_ms = now_ms() + (int64_t)relay->options.connect_timeout_s * 1000;
		sort(relay, connection_new(relay->epoll, fd, deadline_ms, relay->options.port));
	}
}

static void free_finished(struct relay *relay)
{
	struct connection *c;
	while ((c = relay->finished.first)) {
		list_remove(c);
		connection_free(c);
		if (!relay->accepting)
			relay->accepting = watch(relay, relay->listener, &relay->listener) == 0;
	}
}

/* Ends the connects whose time is over; returns how long epoll may wait for the next one, -1 for ever. */
static int expire(struct relay *relay)
{
	int64_t now = now_ms();
	struct connection *c;
	while ((c = relay->connecting.first)) {
		if (c->deadline_ms > now)
			return (int)(c->deadline_ms - now);
		connection_abort(c, "connect: timeout");
		sort(relay, c);
	}
	return -1;
}

static void serve(struct relay *relay)
{
	struct epoll_event events[EVENTS_MAX];
	for (;;) {
		int timeout = expire(relay);
		free_finished(relay);
		int count = epoll_wait(relay->epoll, events, EVENTS_MAX, timeout);
		for (int at = 0; at < count; at++) {
			if (events[at].data.ptr == &relay->signals)
				return;
			if (events[at].data.ptr == &relay->listener) {
				accept_some(relay);
				continue;
			}
			struct side *side = events[at].data.ptr;
			connection_ready(side->connection, relay->epoll, side, events[at].events);
			sort(relay, side->connection);
		}
	}
}

static void relay_close(struct relay *relay)
{
	struct connections *const lists[] = {&relay->connecting, &relay->carrying};
	close(relay->listener);
	for (int at = 0; at < 2; at++) {
		for (struct connection *c; (c = lists[at]->first);) {
			connection_abort(c, "stopped");
			sort(relay, c);
		}
	}
	relay->accepting = true; /* nothing to take up again */
	free_finished(relay);
	close(relay->signals);
	close(relay->epoll);
}

/* ---- the command line ---- */

static int refuse(const char *what, const char *value)
{
	fprintf(stderr, "penstock-relay: %s%s%s\n\n%s", what, value ? ": " : "", value ? value : "", usage);
	return 2;
}

static bool number(const char *text, unsigned long high, unsigned long *ret)
{
	char *end;
	errno = 0;
	*ret = strtoul(text, &end, 10);
	return *text >= '0' && *text <= '9' && !*end && !errno && *ret >= 1 && *ret <= high;
}

/* -1: go on; else the exit code. */
static int parse(int argc, char **argv, struct options *options)
{
	static const struct option names[] = {{"listen", required_argument, NULL, 'l'},
		{"address", required_argument, NULL, 'a'}, {"connect-timeout", required_argument, NULL, 't'},
		{"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'v'}, {0}};
	unsigned long value;
	for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
		switch (option) {
		case 'l':
			if (!number(optarg, 65535, &value))
				return refuse("--listen is not a port", optarg);
			options->port = (uint16_t)value;
			break;
		case 'a':
			if (ip_parse(optarg, &options->address) < 0)
				return refuse("--address is not an IP address", optarg);
			break;
		case 't':
			if (!number(optarg, 3600, &value))
				return refuse("--connect-timeout is not between 1 and 3600 seconds", optarg);
			options->connect_timeout_s = (unsigned)value;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		case 'v':
			puts("penstock-relay " PENSTOCK_VERSION " (" PENSTOCK_COMMIT ")");
			return 0;
		default:
			fprintf(stderr, "\n%s", usage);
			return 2;
		}
	}
	if (optind < argc)
		return refuse("what is this", argv[optind]);
	return options->port ? -1 : refuse("--listen PORT is needed", NULL);
}

int main(int argc, char **argv)
{
	struct relay relay = {.listener = -1, .options = {.connect_timeout_s = CONNECT_TIMEOUT_S}};
	struct error e;
	char text[ADDR_TEXT_MAX];
	relay.options.address = ip_from_v4(0);
	int code = parse(argc, argv, &relay.options);
	if (code >= 0)
		return code;
	if (relay_open(&relay, &e) < 0) {
		log_error(ROOM, "%s", e.detail);
		return 1;
	}
	ip_format(&relay.options.address, text);
	log_info(ROOM, "listening on %s port %u", text, relay.options.port);
	serve(&relay);
	log_info(ROOM, "stopping");
	relay_close(&relay);
	return 0;
}
