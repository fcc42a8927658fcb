/* SPDX-License-Identifier: Apache-2.0 */
/* Start, stop, and the way of a request through libmicrohttpd's callbacks. */
#include "api/server/server.h"

#include <errno.h>
#include <gnutls/abstract.h>
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
#include "api/server/audit.h"
#include "api/server/auth.h"
#include "api/server/listen.h"
#include "api/server/problem.h"
#include "api/server/route.h"
#include "api/server/state.h"
#include "api/server/ui.h"

#define CONNECTIONS_MAX 4096u /* a listener; each costs a few KiB until it sends something */
#define LISTENERS 3u
#define ADDRESS_CONNECTIONS_MAX 256u /* from one address, over TCP */
#define ARRIVING_BURST 1000          /* connections of one address at once, over TCP, and then … */
#define ARRIVING_PER_SECOND 100      /* … new ones: a handshake takes a millisecond or two */
#define WRONG_BURST 100              /* wrong credentials of one address, before they are 429 … */
#define WRONG_PER_SECOND 10          /* … or not written down any more */
#define REMOTE_NICE 5                /* a flood of handshakes must not take the processor from the agent's own work */
#define DESCRIPTORS_RESERVED 256u    /* for everything that is no connection */
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
	request->listener = listener;
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
	free(request->path);
	atomic_fetch_sub(&request->server->held, request->held);
	atomic_fetch_sub(&request->server->active, 1);
	free(request);
}

/* Everything that can be refused before the body is there; a refusal sets the answer. */
static void request_check(struct request *request, const char *path, const struct listener *listener)
{
	const char *length = MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, "Content-Length");
	int result = route_find(request, path, listener->public);
	if (framing_read(request) < 0 || auth_check(request) < 0 || result < 0)
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
		if (audit_wants(request))
			request->path = str_dup(url);
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

/* Before anything is sent or received. */
static enum MHD_Result on_arrival(void *context, const struct sockaddr *address, socklen_t length)
{
	struct listener *listener = context;
	(void)length;
	return !listener->remote || caller_may_come(listener->server, address) ? MHD_YES : MHD_NO;
}

/* This thread, one of libmicrohttpd's, comes after the agent's others. */
static void thread_yields(void)
{
	static __thread bool yields;
	if (!yields)
		setpriority(PRIO_PROCESS, (id_t)gettid(), getpriority(PRIO_PROCESS, (id_t)gettid()) + REMOTE_NICE);
	yields = true;
}

static void on_connection(
	void *context, struct MHD_Connection *http, void **place, enum MHD_ConnectionNotificationCode code)
{
	struct listener *listener = context;
	struct connections *connections = &listener->server->connections;
	hangups_read_first();
	if (code != MHD_CONNECTION_NOTIFY_STARTED) {
		if (*place)
			connection_closed(connections, *place);
		return;
	}
	struct connection *connection =
		connection_opened(connections, MHD_get_connection_info(http, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd);
	if (listener->remote) {
		thread_yields();
		connection->caller = caller_new(listener->server, http);
	}
	*place = connection;
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
	if (limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= LISTENERS * CONNECTIONS_MAX + DESCRIPTORS_RESERVED)
		return CONNECTIONS_MAX;
	if (limit.rlim_max < 2 * DESCRIPTORS_RESERVED)
		return 64;
	return (unsigned)(limit.rlim_max - DESCRIPTORS_RESERVED) / LISTENERS;
}

/* Never asked: every session has credentials of its own (tls.h). libmicrohttpd wants a certificate or this. */
static int on_certificate(gnutls_session_t session, const gnutls_datum_t *authorities, int authority_count,
	const gnutls_pk_algorithm_t *algorithms, int algorithm_count, gnutls_pcert_st **ret, unsigned *count,
	gnutls_privkey_t *key)
{
	(void)session, (void)authorities, (void)authority_count, (void)algorithms, (void)algorithm_count;
	(void)ret, (void)count, (void)key;
	return -1;
}

static int listener_start(struct listener *listener, const char *where, unsigned threads, struct error *e)
{
	const bool tls = listener->remote && *listener->server->options.tcp.certificate;
	struct MHD_OptionItem remote[] = {
		{MHD_OPTION_PER_IP_CONNECTION_LIMIT, ADDRESS_CONNECTIONS_MAX, NULL},
		{tls ? MHD_OPTION_HTTPS_PRIORITIES : MHD_OPTION_END, 0, (void *)(uintptr_t)TLS_PRIORITIES},
		{MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)on_certificate},
		{MHD_OPTION_END, 0, NULL},
	};
	struct MHD_OptionItem none = {MHD_OPTION_END, 0, NULL};
	listener->daemon = MHD_start_daemon(
		MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | (tls ? MHD_USE_TLS : 0), 0,
		on_arrival, listener, on_request, listener, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET,
		listener->fd, MHD_OPTION_CONNECTION_LIMIT, connections_allowed(), MHD_OPTION_CONNECTION_TIMEOUT,
		(unsigned)CONNECTION_IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)(listener->public && !listener->loopback ? METRICS_MEMORY : API_MEMORY), MHD_OPTION_NOTIFY_COMPLETED,
		on_completed, listener, MHD_OPTION_NOTIFY_CONNECTION, on_connection, listener, MHD_OPTION_UNESCAPE_CALLBACK,
		on_unescape, NULL, MHD_OPTION_ARRAY, listener->remote ? remote : &none,
		threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, threads, MHD_OPTION_END);
	if (!listener->daemon)
		return error_system(e, errno ? errno : EIO, "cannot serve HTTP on %s", where);
	return 0;
}

static int remote_refuse(struct error *e, const char *listen, const char *what)
{
	return error_set(e, ERROR_INVALID, EINVAL, "api.tcp.listen", "%s is not a loopback address: %s", listen, what);
}

/* Files first: nobody can connect to a listener that is not started. */
static int remote_open(struct server *server, struct error *e)
{
	const struct server_tcp *tcp = &server->options.tcp;
	int result;
	if (!*tcp->listen)
		return 0;
	if ((result = credentials_open(&server->credentials, tcp, true, e)) < 0 ||
		(result = listen_tcp(tcp->listen, &server->tcp.fd, e)) < 0)
		return result;
	/* The configuration said so already; this is about the address that it became. */
	if (!ui_loopback(server->tcp.fd) && !*tcp->certificate)
		return remote_refuse(e, tcp->listen, "it needs TLS");
	if (!ui_loopback(server->tcp.fd) && !*tcp->client_ca && !*tcp->token_file)
		return remote_refuse(e, tcp->listen, "it needs client certificates or tokens");
	if (!*tcp->client_ca && !*tcp->token_file)
		log_warn("api",
			"%s: without api.tcp.tls.clientCA and api.tcp.tokenFile nobody is known there: only /healthz, "
			"/readyz and /version are answered",
			tcp->listen);
	if ((result = credentials_watch(&server->credentials)) < 0)
		return error_system(e, -result, "cannot watch certificates and tokens");
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
	if ((result = remote_open(server, e)) < 0 ||
		(result = listener_start(&server->api, options->unix_path, API_THREADS, e)) < 0)
		return result;
	if (server->metrics.fd >= 0)
		result = listener_start(&server->metrics, options->metrics_listen, 1, e);
	if (!result && server->tcp.fd >= 0)
		result = listener_start(&server->tcp, options->tcp.listen, API_THREADS, e);
	return result;
}

static char *text_of(const char *text)
{
	return str_dup(text ? text : "");
}

void server_reload(struct server *server)
{
	if (*server->options.tcp.listen)
		credentials_reload(&server->credentials);
}

int server_start(const struct server_options *options, struct server **ret, struct error *e)
{
	struct server *server = mem_alloc(sizeof(*server));
	server->options = *options;
	server->options.unix_path = str_dup(options->unix_path);
	server->options.unix_group = str_dup(options->unix_group);
	server->options.metrics_listen = text_of(options->metrics_listen);
	server->options.tcp = (struct server_tcp){text_of(options->tcp.listen), text_of(options->tcp.certificate),
		text_of(options->tcp.key), text_of(options->tcp.client_ca), text_of(options->tcp.token_file)};
	server->api = (struct listener){.server = server, .fd = -1};
	server->metrics = (struct listener){.server = server, .fd = -1, .public = true};
	server->tcp = (struct listener){.server = server, .fd = -1, .remote = true};
	throttle_init(&server->wrong, WRONG_BURST, WRONG_PER_SECOND);
	throttle_init(&server->told, WRONG_BURST, WRONG_PER_SECOND);
	throttle_init(&server->arriving, ARRIVING_BURST, ARRIVING_PER_SECOND);
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
	listener_quiesce(&server->tcp);
	queue_stop(server);
	follow_stop(server);
	for (int waited = 0; atomic_load(&server->active) && waited < STOP_MILLISECONDS; waited += 5)
		nanosleep(&pause, NULL);
	if (server->api.daemon)
		MHD_stop_daemon(server->api.daemon);
	if (server->metrics.daemon)
		MHD_stop_daemon(server->metrics.daemon);
	if (server->tcp.daemon)
		MHD_stop_daemon(server->tcp.daemon);
	connections_stop(&server->connections);
	queue_free(server);
	pthread_mutex_destroy(&server->follow_lock);
	free(server->counters.routes);
	credentials_close(&server->credentials);
	throttle_free(&server->wrong);
	throttle_free(&server->told);
	throttle_free(&server->arriving);
	const struct server_tcp *tcp = &server->options.tcp;
	const char *texts[] = {server->options.unix_path, server->options.unix_group, server->options.metrics_listen,
		tcp->listen, tcp->certificate, tcp->key, tcp->client_ca, tcp->token_file};
	for (size_t at = 0; at < sizeof(texts) / sizeof(texts[0]); at++)
		free((char *)(uintptr_t)texts[at]);
	free(server);
}
