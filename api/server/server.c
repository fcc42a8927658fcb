/* SPDX-License-Identifier: Apache-2.0 */
/* Start, stop, and the way of a request through libmicrohttpd's callbacks. */
#include "api/server/server.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "api/server/answer.h"
#include "api/server/listen.h"
#include "api/server/problem.h"
#include "api/server/route.h"
#include "api/server/state.h"
#include "api/server/ui.h"

#define CONNECTIONS_MAX 4096u     /* a listener; each costs a few KiB until it sends something */
#define DESCRIPTORS_RESERVED 256u /* for everything that is no connection */
#define API_THREADS 4u
#define API_MEMORY (32u << 10) /* a connection: headers, and the window in which bodies are read */
#define METRICS_MEMORY (8u << 10)
#define DISCARD_MAX (64u << 20)   /* beyond body_max; a client that sends more of a refused body is cut off */
#define BUDGET_BEYOND (64u << 20) /* beyond one largest body, for all bodies together */
#define STOP_MILLISECONDS 1000    /* for answers that are on their way */

/* ---- one request ---- */

static bool token_listed(struct request *request, const char *header, const char *token)
{
	const char *value = MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, header);
	size_t length = strlen(token);
	while (value && *value) {
		value += strspn(value, " \t,");
		size_t end = strcspn(value, " \t,;");
		if (end == length && !strncasecmp(value, token, length)) {
			const char *quality = value + end + strspn(value + end, " \t;");
			return strncmp(quality, "q=0", 3) || strspn(quality + 3, ".0") != strcspn(quality + 3, " \t,");
		}
		value += strcspn(value, ",");
	}
	return false;
}

static struct request *request_new(struct listener *listener, struct MHD_Connection *http, const char *method)
{
	struct request *request = mem_alloc(sizeof(*request));
	request->server = listener->server;
	request->http = http;
	request->connection = MHD_get_connection_info(http, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
	request->method = count_method_name(method);
	request->head = !strcmp(method, "HEAD");
	request->accepts_gzip = token_listed(request, "Accept-Encoding", "gzip");
	request->receive_max = listener->public ? API_MEMORY : listener->server->options.body_max + DISCARD_MAX;
	request->kind = -1;
	request->began = clock_now();
	atomic_fetch_add(&listener->server->active, 1);
	return request;
}

static void request_free(struct request *request)
{
	body_drop(request);
	parameters_clear(&request->parameters);
	answer_free(request->answer);
	free(request->namespace);
	free(request->name);
	atomic_fetch_sub(&request->server->held, request->held);
	atomic_fetch_sub(&request->server->active, 1);
	free(request);
}

/* Everything that can be refused before the body is there; a refusal sets the answer. */
static void request_check(struct request *request, const char *path, const struct listener *listener)
{
	const char *length = MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, "Content-Length");
	int result = route_find(request, path, listener->public);
	if (framing_read(request) < 0 || result < 0)
		return;
	if (listener->public && ui_route(request->route) && ui_check(request, listener->loopback) < 0)
		return;
	if (parameters_read(request, request->route->parameters) < 0)
		return;
	if (body_headers_read(request, request->route->body != BODY_NONE, request->route->body == BODY_OBJECTS) < 0)
		return;
	uint64_t body_max = route_body_max(request);
	if (length && request->route->body != BODY_NONE && strtoull(length, NULL, 10) > body_max)
		problem_answer(request, 413, "the body is larger than %llu bytes", (unsigned long long)body_max);
}

/* A client that waits for permission, or wants to send more than we would throw away, is answered at once. */
static bool request_answered_early(struct request *request)
{
	const char *length = MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, "Content-Length");
	return request->answer &&
		   (request->answer->close || MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, "Expect") ||
			   (length && strtoull(length, NULL, 10) > request->receive_max));
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *http, const char *url, const char *method,
	const char *version, const char *data, size_t *size, void **place)
{
	struct listener *listener = context;
	struct request *request = *place;
	(void)version;
	if (!request) {
		*place = request = request_new(listener, http, method);
		connection_deadline(
			&request->server->connections, request->connection, request->began, CONNECTION_GRACE_SECONDS, 0);
		request_check(request, url, listener);
		return request_answered_early(request) ? answer_queue(request) : MHD_YES;
	}
	if (*size) {
		body_receive(request, data, *size);
		*size = 0;
		return request->received > request->receive_max ? MHD_NO : MHD_YES;
	}
	if (!request->answer) {
		/* How long it waits from here on is not the client's doing. */
		connection_deadline(&request->server->connections, request->connection, 0, 0, 0);
		request->route->handler(request);
		/* call_reply may have answered already: it is sent when libmicrohttpd calls again, resumed. */
		if (request->suspended)
			return MHD_YES;
	}
	return answer_queue(request);
}

static void on_completed(void *context, struct MHD_Connection *http, void **place, enum MHD_RequestTerminationCode code)
{
	struct request *request = *place;
	(void)context;
	(void)http;
	(void)code;
	if (!request)
		return;
	struct server *server = request->server;
	if (request->queued) {
		count_request(&server->counters, request->label, request->method, request->answer->status);
		if (!request->followed)
			count_latency(&server->counters, request->label, clock_now() - request->began);
	}
	/* The next request's headers must come before libmicrohttpd gives the idle connection up, or soon after. */
	connection_deadline(
		&server->connections, request->connection, clock_now(), CONNECTION_IDLE_SECONDS + CONNECTION_HEADER_SECONDS, 0);
	request_free(request);
	*place = NULL;
}

static void on_connection(
	void *context, struct MHD_Connection *http, void **place, enum MHD_ConnectionNotificationCode code)
{
	struct listener *listener = context;
	struct connections *connections = &listener->server->connections;
	hangups_read_first();
	if (code == MHD_CONNECTION_NOTIFY_STARTED)
		*place = connection_opened(
			connections, MHD_get_connection_info(http, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd);
	else if (*place)
		connection_closed(connections, *place);
}

/* Paths and queries come as they were sent: "%2F" in a name is no separator. */
static size_t on_unescape(void *context, struct MHD_Connection *http, char *text)
{
	(void)context;
	(void)http;
	return strlen(text);
}

__attribute__((format(printf, 2, 0))) static void on_log(void *context, const char *format, va_list arguments)
{
	char line[512];
	(void)context;
	vsnprintf(line, sizeof(line), format, arguments);
	line[strcspn(line, "\n")] = 0;
	log_debug("api", "libmicrohttpd: %s", line);
}

/* ---- start and stop ---- */

/* Raises the soft limit of descriptors, and says how many connections one listener may have. */
static unsigned connections_allowed(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 512;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= 2 * CONNECTIONS_MAX + DESCRIPTORS_RESERVED)
		return CONNECTIONS_MAX;
	if (limit.rlim_max < 2 * DESCRIPTORS_RESERVED)
		return 64;
	return (unsigned)(limit.rlim_max - DESCRIPTORS_RESERVED) / 2;
}

static int listener_start(struct listener *listener, const char *where, unsigned threads, struct error *e)
{
	listener->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0,
		NULL, NULL, on_request, listener, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET,
		listener->fd, MHD_OPTION_CONNECTION_LIMIT, connections_allowed(), MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)CONNECTION_IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)(listener->public && !listener->loopback ? METRICS_MEMORY : API_MEMORY), MHD_OPTION_NOTIFY_COMPLETED,
		on_completed, listener, MHD_OPTION_NOTIFY_CONNECTION, on_connection, listener, MHD_OPTION_UNESCAPE_CALLBACK,
		on_unescape, NULL, threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, threads, MHD_OPTION_END);
	if (!listener->daemon)
		return error_system(e, errno ? errno : EIO, "cannot serve HTTP on %s", where);
	return 0;
}

static int listeners_start(struct server *server, struct error *e)
{
	const struct server_options *options = &server->options;
	struct stat status;
	int result;
	if ((result = listen_unix(options->unix_path, options->unix_group, &server->api.fd, e)) < 0)
		return result;
	if (!stat(options->unix_path, &status)) {
		server->unix_device = status.st_dev;
		server->unix_inode = status.st_ino;
	}
	if (*options->metrics_listen && (result = listen_tcp(options->metrics_listen, &server->metrics.fd, e)) < 0)
		return result;
	server->metrics.loopback = server->metrics.fd >= 0 && ui_loopback(server->metrics.fd);
	if ((result = listener_start(&server->api, options->unix_path, API_THREADS, e)) < 0)
		return result;
	if (server->metrics.fd >= 0)
		result = listener_start(&server->metrics, options->metrics_listen, 1, e);
	return result;
}

int server_start(const struct server_options *options, struct server **ret, struct error *e)
{
	struct server *server = mem_alloc(sizeof(*server));
	server->options = *options;
	server->options.unix_path = str_dup(options->unix_path);
	server->options.unix_group = str_dup(options->unix_group);
	server->options.metrics_listen = str_dup(options->metrics_listen ? options->metrics_listen : "");
	server->api = (struct listener){server, NULL, -1, false, false};
	server->metrics = (struct listener){server, NULL, -1, true, false};
	server->budget = options->body_max + BUDGET_BEYOND;
	server->counters.routes = mem_array((size_t)route_label_count(), sizeof(*server->counters.routes));
	TAILQ_INIT(&server->followers);
	pthread_mutex_init(&server->follow_lock, NULL);
	int result = queue_start(server);
	if (!result)
		result = connections_start(&server->connections, server);
	if (result < 0) {
		error_system(e, -result, "cannot start the HTTP server");
	} else {
		board_watch(options->board, follow_changed, server);
		result = listeners_start(server, e);
	}
	if (result < 0) {
		server_stop(server);
		return result;
	}
	*ret = server;
	return 0;
}

static void listener_quiesce(struct listener *listener)
{
	if (listener->daemon) /* gives the socket back to us */
		MHD_quiesce_daemon(listener->daemon);
	if (listener->fd >= 0)
		close(listener->fd);
}

/* Only what is still ours: another agent may have replaced it. */
static void socket_file_remove(const struct server *server)
{
	struct stat status;
	const char *path = server->options.unix_path;
	if (server->unix_inode && !stat(path, &status) && status.st_dev == server->unix_device &&
		status.st_ino == server->unix_inode)
		unlink(path);
}

void server_stop(struct server *server)
{
	const struct timespec pause = {0, 5000000};
	atomic_store(&server->stopping, true);
	board_watch(server->options.board, NULL, NULL);
	socket_file_remove(server);
	listener_quiesce(&server->api);
	listener_quiesce(&server->metrics);
	queue_stop(server);
	follow_stop(server);
	for (int waited = 0; atomic_load(&server->active) && waited < STOP_MILLISECONDS; waited += 5)
		nanosleep(&pause, NULL);
	if (server->api.daemon)
		MHD_stop_daemon(server->api.daemon);
	if (server->metrics.daemon)
		MHD_stop_daemon(server->metrics.daemon);
	connections_stop(&server->connections);
	queue_free(server);
	pthread_mutex_destroy(&server->follow_lock);
	free(server->counters.routes);
	free((char *)(uintptr_t)server->options.unix_path);
	free((char *)(uintptr_t)server->options.unix_group);
	free((char *)(uintptr_t)server->options.metrics_listen);
	free(server);
}
