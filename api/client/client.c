/* SPDX-License-Identifier: Apache-2.0 */
#include "api/client/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <string.h>
#include "agent/base/buffer.h"
#include "agent/base/mem.h"

/* Applying a full state takes seconds; an agent that hangs must not hold its user for ever. */
#define TIMEOUT_S 300L

struct client {
	char *socket_path;
	CURL *curl;
};

struct client *client_new(const char *socket_path)
{
	struct client *client = mem_alloc(sizeof *client);
	curl_global_init(CURL_GLOBAL_DEFAULT);
	client->socket_path = str_dup(socket_path);
	client->curl = curl_easy_init();
	if (!client->curl)
		abort();
	return client;
}

void client_free(struct client *client)
{
	curl_easy_cleanup(client->curl);
	curl_global_cleanup();
	free(client->socket_path);
	free(client);
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
	if (code == CURLE_COULDNT_CONNECT) {
		char reason[64];
		const char *why = errnum ? strerror_r((int)errnum, reason, sizeof reason) : "nobody listens there";
		return error_set(
			e, ERROR_BUSY, ECONNREFUSED, NULL, "cannot reach the agent at %s: %s", client->socket_path, why);
	}
	return error_set(e, ERROR_SYSTEM, EIO, NULL, "the agent at %s gave no whole answer: %s", client->socket_path,
		curl_easy_strerror(code));
}

int client_call(struct client *client, const char *method, const char *path, const char *body, size_t length,
	struct answer *ret, struct error *e)
{
	CURL *curl = client->curl;
	struct buffer answer = {0};
	auto_free char *url = str_format("http://penstock%s", path);
	struct curl_slist *headers = curl_slist_append(NULL, "Expect:"); /* no pause before a large body */
	if (body)
		headers = curl_slist_append(headers, "Content-Type: application/json");
	curl_easy_reset(curl);
	curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, client->socket_path);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT, TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
	if (body) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)length);
	}
	CURLcode code = curl_easy_perform(curl);
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

char *client_escape(const char *text)
{
	char *escaped = curl_easy_escape(NULL, text, 0);
	if (!escaped)
		abort();
	char *copy = str_dup(escaped);
	curl_free(escaped);
	return copy;
}
