/* SPDX-License-Identifier: Apache-2.0 */
#include "api/client/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include "agent/base/buffer.h"
#include "agent/base/mem.h"

/* Applying a full state takes seconds; an agent that hangs must not hold its user for ever. */
#define TIMEOUT_S 300L
#define CONNECT_TIMEOUT_S 15L /* the handshake included */

/* No record is near this long: whoever sends it is not the agent. */
#define LINE_MAX_BYTES (4u << 20)

#define HTTP "http://"
#define HTTPS "https://"
#define TOKEN_MAX 4096

struct client {
	char *name;                   /* for messages: the path, or the URL */
	char *socket_path;            /* NULL: TCP */
	char *base;                   /* "http://127.0.0.1:7642" */
	char *ca, *certificate, *key; /* NULL: none */
	char *authorization;          /* a header, or NULL */
	char why[CURL_ERROR_SIZE];
	CURL *curl;
	CURLM *multi;
	long patience; /* seconds */
	int stop;      /* ends a call when it becomes readable; -1: nothing does */
};

/* "http://HOST:PORT" and nothing behind it but a slash. */
static int server_http(const char *server, const char *scheme, struct client *client, struct error *e)
{
	size_t length = strlen(server);
	const char *host = server + strlen(scheme);
	while (length > strlen(scheme) && server[length - 1] == '/')
		length--;
	if (server + length <= host || host + strcspn(host, "/@?#\\ \t\r\n") < server + length)
		return error_set(e, ERROR_INVALID, EINVAL, NULL, "%s is not %sADDRESS:PORT", server, scheme);
	client->base = mem_dup(server, length + 1);
	client->base[length] = 0;
	return 0;
}

static int server_read(const char *server, struct client *client, struct error *e)
{
	const char *path = server;
	if (strncmp(server, HTTP, strlen(HTTP)) == 0)
		return server_http(server, HTTP, client, e);
	if (strncmp(server, HTTPS, strlen(HTTPS)) == 0)
		return server_http(server, HTTPS, client, e);
	if (strncmp(server, "unix:", 5) == 0)
		path = server + 5 + 2 * (strncmp(server + 5, "//", 2) == 0);
	else if (strstr(server, "://"))
		return error_set(
			e, ERROR_INVALID, EINVAL, NULL, "%s is neither unix:///PATH, a path nor https://ADDRESS:PORT", server);
	if (!*path)
		return error_set(e, ERROR_INVALID, EINVAL, NULL, "%s names no socket", *server ? server : "\"\"");
	client->socket_path = str_dup(path);
	client->base = str_dup("http://penstock");
	return 0;
}

/* ---- credentials ---- */

static char *text_of(const char *text)
{
	return text && *text ? str_dup(text) : NULL;
}

/* "http://127.0.0.1:7641", "http://[::1]:7641", "http://localhost:7641": what is sent there stays on this node. */
static bool stays_here(const char *base)
{
	const char *host = base + strlen(HTTP);
	size_t length = *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
	bool numbers = strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == length;
	return numbers || (length == 5 && strncmp(host, "[::1]", 5) == 0) ||
		   (length == 9 && strncasecmp(host, "localhost", 9) == 0);
}

/* The first word of the first line that is neither blank nor a comment: a line of the agent's own file will do. */
static int token_read(const char *file, struct client *client, struct error *e)
{
	char line[TOKEN_MAX];
	FILE *stream = fopen(file, "re");
	if (!stream)
		return error_set(e, ERROR_INVALID, errno, NULL, "%s: %s", file, strerror(errno));
	const char *token = NULL;
	while (!token && fgets(line, sizeof line, stream)) {
		if (!strchr(line, '\n') && !feof(stream)) {
			fclose(stream);
			explicit_bzero(line, sizeof line);
			return error_set(
				e, ERROR_INVALID, EINVAL, NULL, "%s: this is no token: a line is too long, or holds a zero byte", file);
		}
		char *word = line + strspn(line, " \t\r\n");
		word[strcspn(word, " \t\r\n")] = 0;
		token = *word && *word != '#' ? word : NULL;
	}
	fclose(stream);
	if (!token)
		return error_set(e, ERROR_INVALID, EINVAL, NULL, "%s: there is no token in it", file);
	if (strncmp(token, "sha256:", strlen("sha256:")) == 0)
		return error_set(e, ERROR_INVALID, EINVAL, NULL, "%s: this is a token's hash, not the token", file);
	client->authorization = str_format("Authorization: Bearer %s", token);
	explicit_bzero(line, sizeof line);
	return 0;
}

/* libcurl says of a file that it has a problem, not which. */
static int file_check(const char *file, struct error *e)
{
	if (!file || access(file, R_OK) == 0)
		return 0;
	return error_set(e, ERROR_INVALID, errno, NULL, "%s: %s", file, strerror(errno));
}

static int credentials_read(const struct client_credentials *credentials, struct client *client, struct error *e)
{
	bool plain = !client->socket_path && strncmp(client->base, HTTP, strlen(HTTP)) == 0;
	int result;
	if (!credentials || client->socket_path)
		return 0; /* who can open the socket is admin */
	client->ca = text_of(credentials->ca);
	client->certificate = text_of(credentials->certificate);
	client->key = text_of(credentials->key);
	if (!client->certificate != !client->key)
		return error_set(e, ERROR_INVALID, EINVAL, NULL, "a certificate and its key belong together");
	if ((result = file_check(client->ca, e)) < 0 || (result = file_check(client->certificate, e)) < 0 ||
		(result = file_check(client->key, e)) < 0)
		return result;
	if (!credentials->token_file || !*credentials->token_file)
		return 0;
	if (plain && !stays_here(client->base))
		return error_set(e, ERROR_INVALID, EINVAL, NULL,
			"%s: a token is not sent in the clear to another node; use https://ADDRESS:PORT", client->base);
	return token_read(credentials->token_file, client, e);
}

static void client_forget(struct client *client)
{
	if (client->authorization)
		explicit_bzero(client->authorization, strlen(client->authorization));
	free(client->authorization);
	free(client->ca);
	free(client->certificate);
	free(client->key);
	free(client->name);
	free(client->socket_path);
	free(client->base);
	free(client);
}

int client_new(const char *server, const struct client_credentials *credentials, struct client **ret, struct error *e)
{
	struct client *client = mem_alloc(sizeof *client);
	int result = server_read(server, client, e);
	if (result == 0)
		result = credentials_read(credentials, client, e);
	if (result < 0) {
		client_forget(client);
		return result;
	}
	curl_global_init(CURL_GLOBAL_DEFAULT);
	client->name = str_dup(client->socket_path ? client->socket_path : client->base);
	client->curl = curl_easy_init();
	client->multi = curl_multi_init();
	client->stop = -1;
	client->patience = TIMEOUT_S;
	if (!client->curl || !client->multi)
		abort();
	*ret = client;
	return 0;
}

void client_free(struct client *client)
{
	curl_multi_cleanup(client->multi);
	curl_easy_cleanup(client->curl);
	curl_global_cleanup();
	client_forget(client);
}

void client_stop_by(struct client *client, int fd)
{
	client->stop = fd;
}

void client_patience(struct client *client, long seconds)
{
	client->patience = seconds;
}

void answer_clear(struct answer *answer)
{
	free(answer->body);
	*answer = (struct answer){0};
}

static size_t collect(char *data, size_t size, size_t count, void *context)
{
	buffer_add(context, data, size * count);
	return size * count;
}

static int explain(const struct client *client, CURLcode code, struct error *e)
{
	long errnum = 0;
	curl_easy_getinfo(client->curl, CURLINFO_OS_ERRNO, &errnum);
	if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST) {
		char reason[64];
		const char *why = errnum ? strerror_r((int)errnum, reason, sizeof reason) : "nobody listens there";
		return error_set(e, ERROR_BUSY, ECONNREFUSED, NULL, "cannot reach the agent at %s: %s", client->name, why);
	}
	const char *why = *client->why ? client->why : curl_easy_strerror(code);
	if (code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_CACERT_BADFILE || code == CURLE_URL_MALFORMAT)
		return error_set(e, ERROR_INVALID, EINVAL, NULL, "no call to %s: %s", client->name, why);
	if (code == CURLE_SSL_CONNECT_ERROR || code == CURLE_PEER_FAILED_VERIFICATION)
		return error_set(e, ERROR_SYSTEM, EPROTO, NULL, "no TLS with the agent at %s: %s%s", client->name, why,
			client->ca || code == CURLE_SSL_CONNECT_ERROR ? "" : " (--ca FILE says who signs agents' certificates)");
	if (code == CURLE_OPERATION_TIMEDOUT)
		return error_set(e, ERROR_SYSTEM, ETIMEDOUT, NULL, "the agent at %s does not answer: %s", client->name, why);
	if (code == CURLE_PARTIAL_FILE || code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR)
		return error_set(
			e, ERROR_SYSTEM, EIO, NULL, "the agent at %s went away: its answer is not whole", client->name);
	return error_set(
		e, ERROR_SYSTEM, EIO, NULL, "the agent at %s gave no whole answer: %s", client->name, curl_easy_strerror(code));
}

/* What every request has. The headers are the caller's to free. */
static struct curl_slist *prepare(struct client *client, const char *method, const char *path, bool body)
{
	CURL *curl = client->curl;
	auto_free char *url = str_format("%s%s", client->base, path);
	struct curl_slist *headers = curl_slist_append(NULL, "Expect:"); /* no pause before a large body */
	if (body)
		headers = curl_slist_append(headers, "Content-Type: application/json");
	if (client->authorization)
		headers = curl_slist_append(headers, client->authorization);
	curl_easy_reset(curl);
	*client->why = 0;
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, client->why);
	if (client->socket_path)
		curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, client->socket_path);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3);
	if (client->ca)
		curl_easy_setopt(curl, CURLOPT_CAINFO, client->ca);
	if (client->certificate) {
		curl_easy_setopt(curl, CURLOPT_SSLCERT, client->certificate);
		curl_easy_setopt(curl, CURLOPT_SSLKEY, client->key);
	}
	return headers;
}

/* curl_easy_perform, but for two things: `stop` ends it (CURLE_ABORTED_BY_CALLBACK), and idle(), if there is one, is
 * called whenever all that has come was taken; it ends it by a value other than 0. */
static CURLcode perform(struct client *client, int (*idle)(void *context), void *context)
{
	CURLcode code = CURLE_ABORTED_BY_CALLBACK;
	struct curl_waitfd stop = {.fd = client->stop, .events = CURL_WAIT_POLLIN};
	int running = 1, left;
	curl_multi_add_handle(client->multi, client->curl);
	for (;;) {
		if (curl_multi_perform(client->multi, &running) != CURLM_OK || (idle && idle(context) != 0))
			break;
		if (!running) {
			const CURLMsg *message = curl_multi_info_read(client->multi, &left);
			code = message ? message->data.result : CURLE_RECV_ERROR;
			break;
		}
		stop.revents = 0;
		curl_multi_poll(client->multi, &stop, client->stop >= 0, 1000, NULL);
		if (stop.revents)
			break;
	}
	curl_multi_remove_handle(client->multi, client->curl);
	return code;
}

int client_call(struct client *client, const char *method, const char *path, const char *body, size_t length,
	struct answer *ret, struct error *e)
{
	CURL *curl = client->curl;
	struct buffer answer = {0};
	struct curl_slist *headers = prepare(client, method, path, body != NULL);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, client->patience);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
	if (body) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)length);
	}
	CURLcode code = perform(client, NULL, NULL);
	long status = 0;
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	curl_slist_free_all(headers);
	/* An agent that refuses early (413) may answer before it has read all: the answer counts, not the broken pipe. */
	if (code != CURLE_OK && !(code == CURLE_SEND_ERROR && status >= 400)) {
		buffer_free(&answer);
		return explain(client, code, e);
	}
	ret->status = status;
	ret->length = answer.length;
	ret->body = buffer_take(&answer);
	return 0;
}

/* ---- streams ---- */

struct stream {
	struct client *client;
	const struct client_reader *reader;
	struct buffer rest;  /* the begin of a line; of a refusal, the body */
	bool refused, ended; /* ended: by the reader */
};

/* Everything up to the last line end, line by line; what is behind it waits. */
static void give_lines(struct stream *stream)
{
	char *from = stream->rest.data, *end = from + stream->rest.length, *stop;
	while (!stream->ended && (stop = memchr(from, '\n', (size_t)(end - from)))) {
		*stop = '\0';
		if (stop > from)
			stream->ended = stream->reader->line(stream->reader->context, from, (size_t)(stop - from)) != 0;
		from = stop + 1;
	}
	stream->rest.length = (size_t)(end - from);
	memmove(stream->rest.data, from, stream->rest.length + 1);
}

static size_t take_piece(char *data, size_t size, size_t count, void *context)
{
	struct stream *stream = context;
	long status = 0;
	curl_easy_getinfo(stream->client->curl, CURLINFO_RESPONSE_CODE, &status);
	buffer_add(&stream->rest, data, size * count);
	stream->refused = status < 200 || status > 299;
	if (!stream->refused)
		give_lines(stream);
	return stream->ended || stream->rest.length > LINE_MAX_BYTES ? 0 : size * count;
}

static int all_taken(void *context)
{
	struct stream *stream = context;
	const struct client_reader *reader = stream->reader;
	if (!stream->ended && !stream->refused && reader->idle)
		stream->ended = reader->idle(reader->context) != 0;
	return stream->ended;
}

int client_follow(
	struct client *client, const char *path, const struct client_reader *reader, struct answer *ret, struct error *e)
{
	struct stream stream = {.client = client, .reader = reader};
	struct curl_slist *headers = prepare(client, "GET", path, false);
	int result = 0;
	curl_easy_setopt(client->curl, CURLOPT_WRITEFUNCTION, take_piece);
	curl_easy_setopt(client->curl, CURLOPT_WRITEDATA, &stream);
	CURLcode code = perform(client, all_taken, &stream);
	curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &ret->status);
	curl_slist_free_all(headers);
	if (stream.refused && code == CURLE_OK) {
		ret->length = stream.rest.length;
		ret->body = buffer_take(&stream.rest);
	} else if (code == CURLE_OK) {
		result = error_set(e, ERROR_SYSTEM, EPIPE, NULL, "the agent at %s ended the stream", client->name);
	} else if (!stream.ended && code != CURLE_ABORTED_BY_CALLBACK) {
		result = explain(client, code, e);
	}
	buffer_free(&stream.rest);
	return result;
}

char *client_escape(const char *text)
{
	char *escaped = curl_easy_escape(NULL, text, 0);
	if (!escaped)
		abort();
	char *copy = str_dup(escaped);
	curl_free(escaped);
	return copy;
}
