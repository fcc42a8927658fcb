/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/connection.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include "agent/base/mem.h"
#include "api/server/auth.h"
#include "api/server/request.h"

#define SECOND 1000000000ull

uint64_t clock_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

/* The client is gone, and everything it sent is read: libmicrohttpd may have missed the end of the stream (hangup.c).
 */
static bool hung_up(const struct connection *connection)
{
	struct pollfd ask = {.fd = connection->fd};
	int unread = 0;
	return poll(&ask, 1, 0) > 0 && !ioctl(connection->fd, FIONREAD, &unread) && !unread;
}

/* shutdown, not close: the descriptor is libmicrohttpd's, which sees the end of the stream and cleans up. */
static void connections_sweep(struct connections *connections)
{
	struct connection *connection;
	uint64_t now = clock_now();
	for (connection = LIST_FIRST(&connections->list); connection; connection = LIST_NEXT(connection, link)) {
		if ((!connection->deadline || connection->deadline > now) && !hung_up(connection))
			continue;
		shutdown(connection->fd, SHUT_RDWR);
		connection->deadline = 0;
	}
}

static void *connections_run(void *argument)
{
	struct connections *connections = argument;
	pthread_mutex_lock(&connections->lock);
	while (!connections->stop) {
		if (LIST_EMPTY(&connections->list)) {
			pthread_cond_wait(&connections->wake, &connections->lock);
			continue;
		}
		uint64_t next = clock_now() + SECOND;
		struct timespec until = {(time_t)(next / SECOND), (long)(next % SECOND)};
		while (
			!connections->stop && pthread_cond_timedwait(&connections->wake, &connections->lock, &until) != ETIMEDOUT)
			;
		connections_sweep(connections);
		pthread_mutex_unlock(&connections->lock);
		follow_sweep(connections->server);
		pthread_mutex_lock(&connections->lock);
	}
	pthread_mutex_unlock(&connections->lock);
	return NULL;
}

int connections_start(struct connections *connections, struct server *server)
{
	pthread_condattr_t attributes;
	connections->server = server;
	LIST_INIT(&connections->list);
	pthread_mutex_init(&connections->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&connections->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	int result = pthread_create(&connections->thread, NULL, connections_run, connections);
	connections->running = !result;
	return -result;
}

void connections_stop(struct connections *connections)
{
	if (connections->running) {
		pthread_mutex_lock(&connections->lock);
		connections->stop = true;
		pthread_cond_signal(&connections->wake);
		pthread_mutex_unlock(&connections->lock);
		pthread_join(connections->thread, NULL);
		connections->running = false;
	}
	pthread_cond_destroy(&connections->wake);
	pthread_mutex_destroy(&connections->lock);
}

struct connection *connection_opened(struct connections *connections, int fd)
{
	struct connection *connection = mem_alloc(sizeof(*connection));
	connection->fd = fd;
	connection->deadline = clock_now() + CONNECTION_HEADER_SECONDS * SECOND;
	pthread_mutex_lock(&connections->lock);
	if (LIST_EMPTY(&connections->list))
		pthread_cond_signal(&connections->wake);
	LIST_INSERT_HEAD(&connections->list, connection, link);
	pthread_mutex_unlock(&connections->lock);
	return connection;
}

void connection_closed(struct connections *connections, struct connection *connection)
{
	pthread_mutex_lock(&connections->lock);
	LIST_REMOVE(connection, link);
	pthread_mutex_unlock(&connections->lock);
	caller_free(connection->caller);
	free(connection);
}

void connection_deadline(
	struct connections *connections, struct connection *connection, uint64_t began, unsigned seconds, uint64_t bytes)
{
	uint64_t deadline = seconds ? began + seconds * SECOND + bytes / CONNECTION_RATE * SECOND : 0;
	pthread_mutex_lock(&connections->lock);
	connection->deadline = deadline;
	pthread_mutex_unlock(&connections->lock);
}
