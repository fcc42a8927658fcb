/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workaround for libmicrohttpd 0.9.75: what it refuses by itself it answers in HTML, a wrong Content-Length with its
 * head sent twice, and a chunk's head that does not fit with 500. It queues these answers like anybody: this
 * MHD_queue_response takes the place of its own for libmicrohttpd alone, sends a problem, and ends the connection. Our
 * own answers go to the real one.
 *
 * libmicrohttpd's own answer is queued behind it all the same, into a socket that is shut down: told that nothing could
 * be queued it frees the connection's memory, and reads on in it when there were too many parameters or cookies.
 */
#include "api/server/refusal.h"

#include <dlfcn.h>
#include <gnutls/gnutls.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include "api/server/problem.h"

static const struct {
	unsigned status;
	const char *reason, *detail;
} refusals[] = {
	{413, "Content Too Large", "the length of the body is beyond any limit"},
	{414, "URI Too Long", "the path and the query are too long"},
	{431, "Request Header Fields Too Large", "the headers are too large"},
	{505, "HTTP Version Not Supported", "HTTP/1.1 and HTTP/1.0 are spoken here"},
	{400, "Bad Request", "the request is malformed: its first line, a header, its length or its chunks"}, /* last */
};
#define REFUSAL_COUNT (sizeof(refusals) / sizeof(refusals[0]))

typedef enum MHD_Result queue_function(struct MHD_Connection *http, unsigned status, struct MHD_Response *response);
static pthread_once_t queue_once = PTHREAD_ONCE_INIT;
static queue_function *queue_real;

static void queue_find(void)
{
	queue_real = (queue_function *)dlsym(RTLD_NEXT, "MHD_queue_response");
}

enum MHD_Result response_queue(struct MHD_Connection *http, unsigned status, struct MHD_Response *response)
{
	pthread_once(&queue_once, queue_find);
	return queue_real ? queue_real(http, status, response) : MHD_NO;
}

static void refusal_send(struct MHD_Connection *http, unsigned status, int fd)
{
	struct buffer body = {0}, text = {0};
	size_t at = 0;
	while (at < REFUSAL_COUNT - 1 && refusals[at].status != status)
		at++;
	problem_render(&body, (int)refusals[at].status, refusals[at].detail, NULL);
	buffer_printf(&text,
		"HTTP/1.1 %u %s\r\nContent-Type: application/problem+json\r\nContent-Length: %zu\r\nConnection: "
		"close\r\n\r\n%s",
		refusals[at].status, refusals[at].reason, body.length, body.data);
	const union MHD_ConnectionInfo *secure = MHD_get_connection_info(http, MHD_CONNECTION_INFO_GNUTLS_SESSION);
	if (secure)
		gnutls_record_send(secure->tls_session, text.data, text.length);
	else
		send(fd, text.data, text.length, MSG_NOSIGNAL | MSG_DONTWAIT);
	buffer_free(&body);
	buffer_free(&text);
}

/* Nothing of this connection waits to be sent: requests are read one after the other. */
enum MHD_Result MHD_queue_response(struct MHD_Connection *http, unsigned status, struct MHD_Response *response)
{
	int fd = MHD_get_connection_info(http, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	refusal_send(http, status, fd);
	shutdown(fd, SHUT_RDWR);
	return response_queue(http, status, response);
}
