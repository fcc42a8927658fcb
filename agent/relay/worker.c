/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/worker.h"

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"

_Static_assert(PIECE >= DATAGRAM_MAX, "one buffer serves both");

#define ROOM "relay"
#define EVENTS_MAX 256
#define ACCEPTS_MAX 64      /* in a row: then those that are there have their turn */
#define ACCEPT_AGAIN_MS 100 /* after file descriptors ran out */
#define WARN_AGAIN_MS 10000

/* ---- lists ---- */

static void list_remove(struct connection *c)
{
	*(c->previous ? &c->previous->next : &c->list->first) = c->next;
	*(c->next ? &c->next->previous : &c->list->last) = c->previous;
	c->list = NULL;
}

static void list_append(struct connections *list, struct connection *c)
{
	if (c->list)
		list_remove(c);
	c->list = list;
	c->next = NULL;
	c->previous = list->last;
	*(list->last ? &list->last->next : &list->first) = c;
	list->last = c;
}

/* To the end of the list where it belongs by now. */
static void sort(struct worker *worker, struct connection *c)
{
	if (c->finished)
		list_append(&worker->finished, c);
	else if (c->connected)
		list_append(&worker->carrying, c);
	else if (!c->list)
		list_append(&worker->connecting, c);
}

static void enqueue(struct worker *worker, struct connection *c)
{
	if (c->queued)
		return;
	c->queued = true;
	c->next_queued = NULL;
	*worker->queue_end = c;
	worker->queue_end = &c->next_queued;
}

/* ---- accepting ---- */

static int add(struct worker *worker, int fd, uint32_t events, void *what)
{
	struct epoll_event event = {.events = events, .data.ptr = what};
	return epoll_ctl(worker->context.epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static void accept_pause(struct worker *worker)
{
	if (worker->now_ms >= worker->warn_again_ms) {
		log_warn(ROOM, "no file descriptor is free: accepting when one is");
		worker->warn_again_ms = worker->now_ms + WARN_AGAIN_MS;
	}
	for (unsigned at = 0; at < worker->listener_count; at++)
		epoll_ctl(worker->context.epoll, EPOLL_CTL_DEL, worker->listeners[at], NULL);
	worker->accept_again_ms = worker->now_ms + ACCEPT_AGAIN_MS;
}

static void accept_resume(struct worker *worker)
{
	worker->accept_again_ms = 0;
	for (unsigned at = 0; at < worker->listener_count; at++)
		add(worker, worker->listeners[at], EPOLLIN, &worker->listeners[at]);
}

/*
 * The client's address is asked for here and the onward connection is made by this thread at once: the kernel side
 * attributes a connection to the client whose connection the thread took last.
 */
static bool accept_one(struct worker *worker, int listener)
{
	union address client = {0};
	socklen_t size = sizeof client;
	int fd = accept4(listener, &client.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			accept_pause(worker);
		return errno == ECONNABORTED || errno == EINTR;
	}
	sort(worker, connection_new(&worker->context, fd, &client));
	return true;
}

/* Before the sockets are closed: who is connected already is not turned away. */
static void accept_last(struct worker *worker)
{
	for (unsigned at = 0; at < worker->listener_count; at++) {
		while (accept_one(worker, worker->listeners[at]))
			;
		close(worker->listeners[at]);
	}
	worker->listener_count = 0;
	worker->accept_again_ms = 0;
}

/* ---- time ---- */

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void sooner(int64_t *wait, int64_t other)
{
	if (*wait < 0 || other < *wait)
		*wait = other;
}

static void expire_list(
	struct worker *worker, struct connections *list, unsigned seconds, const char *outcome, int64_t *wait)
{
	struct connection *c;
	while (seconds && (c = list->first)) {
		int64_t left = c->since_ms + (int64_t)seconds * 1000 - worker->now_ms;
		if (left > 0) {
			sooner(wait, left);
			return;
		}
		connection_abort(&worker->context, c, outcome);
		sort(worker, c);
	}
}

/* Ends what has run out of time; returns how long epoll may wait for the next, -1 for ever. */
static int expire(struct worker *worker)
{
	const struct options *options = worker->context.options;
	int64_t wait = -1;
	worker->now_ms = now_ms();
	expire_list(worker, &worker->connecting, options->connect_timeout_s, "connect: timeout", &wait);
	expire_list(worker, &worker->carrying, options->idle_s, "idle: timeout", &wait);
	if (worker->accept_again_ms && worker->accept_again_ms <= worker->now_ms)
		accept_resume(worker);
	if (worker->accept_again_ms)
		sooner(&wait, worker->accept_again_ms - worker->now_ms);
	int64_t udp = udp_expire(&worker->udp, worker->now_ms);
	if (udp >= 0)
		sooner(&wait, udp);
	return worker->queue ? 0 : wait > INT_MAX ? INT_MAX : (int)wait;
}

/* ---- the loop ---- */

static void run_queue(struct worker *worker)
{
	struct connection *c = worker->queue, *next;
	worker->queue = NULL;
	worker->queue_end = &worker->queue;
	for (; c; c = next) {
		next = c->next_queued;
		c->queued = false;
		if (connection_run(&worker->context, c))
			enqueue(worker, c);
		c->since_ms = c->connected ? worker->now_ms : c->since_ms;
		sort(worker, c);
	}
}

static void free_finished(struct worker *worker)
{
	struct connection *c, *next;
	for (c = worker->finished.first; c; c = next) {
		next = c->next;
		if (c->queued)
			continue;
		list_remove(c);
		connection_free(c);
	}
}

static void abort_all(struct worker *worker)
{
	struct connections *const lists[] = {&worker->connecting, &worker->carrying};
	for (int at = 0; at < 2; at++) {
		for (struct connection *c; (c = lists[at]->first);) {
			connection_abort(&worker->context, c, "stopped");
			sort(worker, c);
		}
	}
}

static int follow_stage(struct worker *worker)
{
	int stage = worker->control->stage;
	if (stage != STAGE_SERVING) {
		accept_last(worker);
		udp_drain(&worker->udp);
	}
	if (stage == STAGE_ENDING) {
		abort_all(worker);
		udp_stop(&worker->udp);
	}
	return stage;
}

static bool is_busy(const struct worker *worker)
{
	return worker->connecting.first || worker->carrying.first || udp_is_busy(&worker->udp);
}

static void take_event(struct worker *worker, const struct epoll_event *event)
{
	int *listener = event->data.ptr;
	if (event->data.ptr == worker->control)
		return; /* the stage is looked at in each round */
	if (event->data.ptr == &worker->udp)
		return; /* so is UDP */
	if (listener >= worker->listeners && listener < worker->listeners + LISTEN_MAX) {
		for (int at = 0; at < ACCEPTS_MAX && accept_one(worker, *listener); at++)
			;
		return;
	}
	struct side *side = event->data.ptr;
	connection_event(side, event->events);
	enqueue(worker, side->connection);
}

static bool has_udp(const struct worker *worker, const struct epoll_event *events, int count)
{
	bool told = worker->udp.queue != NULL;
	for (int at = 0; at < count && !told; at++)
		told = events[at].data.ptr == &worker->udp;
	return told;
}

static void *serve(void *argument)
{
	struct worker *worker = argument;
	struct epoll_event events[EVENTS_MAX];
	for (;;) {
		int stage = follow_stage(worker);
		int wait = expire(worker);
		free_finished(worker);
		if (stage != STAGE_SERVING && !is_busy(worker))
			break;
		int count = epoll_wait(worker->context.epoll, events, EVENTS_MAX, wait);
		worker->now_ms = now_ms();
		for (int at = 0; at < count; at++)
			take_event(worker, &events[at]);
		run_queue(worker);
		if (has_udp(worker, events, count))
			udp_serve(&worker->udp, worker->now_ms);
	}
	run_queue(worker); /* what is finished leaves it */
	free_finished(worker);
	udp_close(&worker->udp);
	pipes_close(&worker->context.pipes);
	free(worker->context.piece);
	close(worker->context.epoll);
	if (worker->context.routes >= 0)
		close(worker->context.routes);
	uint64_t one = 1;
	ssize_t written = write(worker->control->done, &one, sizeof one);
	(void)written;
	return NULL;
}

int worker_open(struct worker *worker)
{
	worker->queue_end = &worker->queue;
	worker->context.piece = mem_alloc(PIECE);
	worker->context.routes = address_routes_open();
	worker->context.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (worker->context.epoll < 0)
		return -errno;
	/* Never read: each write is one edge for every thread. */
	int result = add(worker, worker->control->wake, EPOLLIN | EPOLLET, worker->control);
	worker->udp.all.options = worker->context.options;
	worker->udp.all.routes = worker->context.routes;
	worker->udp.buffer = worker->context.piece;
	worker->udp.share = &worker->control->share;
	if (result == 0)
		result = udp_open(&worker->udp);
	if (result == 0)
		result = add(worker, worker->udp.all.epoll, EPOLLIN, &worker->udp);
	for (unsigned at = 0; at < worker->listener_count && result == 0; at++)
		result = add(worker, worker->listeners[at], EPOLLIN, &worker->listeners[at]);
	return result;
}

int worker_start(struct worker *worker)
{
	return -pthread_create(&worker->thread, NULL, serve, worker);
}
