/* SPDX-License-Identifier: Apache-2.0 */
/* What a request says besides its path and body: query parameters and headers. Refusals name what is wrong. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "agent/base/mem.h"
#include "agent/model/decode.h"
#include "api/server/answer.h"
#include "api/server/problem.h"

static const char *const parameter_names[] = {
#define X(name, text) text,
	PARAMETERS(X)
#undef X
};

/* ---- encodings ---- */

static bool is_utf8(const char *text, size_t length)
{
	json_t *string = json_stringn(text, length);
	json_decref(string);
	return string != NULL;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *percent_decode(const char *text, size_t length)
{
	auto_free char *decoded = mem_alloc(length + 1);
	size_t used = 0;
	for (size_t at = 0; at < length; at++) {
		char c = text[at];
		if (c == '%') {
			if (at + 2 >= length || hex_value(text[at + 1]) < 0 || hex_value(text[at + 2]) < 0)
				return NULL;
			c = (char)(hex_value(text[at + 1]) << 4 | hex_value(text[at + 2]));
			at += 2;
		}
		if (!c)
			return NULL;
		decoded[used++] = c;
	}
	return is_utf8(decoded, used) ? steal_pointer(&decoded) : NULL;
}

bool number_parse(const char *text, uint64_t *ret)
{
	uint64_t value = 0;
	if (!*text)
		return false;
	for (; *text; text++)
		if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, 10, &value) ||
			__builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
			return false;
	*ret = value;
	return true;
}

/*
 * A continue token is "REVISION/NAMESPACE/NAME" as hex: opaque, safe in a query, and names the last key that was sent,
 * so that it stays good when the list has changed meanwhile.
 */
void continue_token(struct buffer *out, uint64_t revision, const char *namespace, const char *name)
{
	struct buffer text = {0};
	buffer_printf(&text, "%" PRIu64 "/%s/%s", revision, namespace, name);
	for (size_t at = 0; at < text.length; at++)
		buffer_printf(out, "%02x", (unsigned char)text.data[at]);
	buffer_free(&text);
}

static int continue_parse(const char *token, struct parameters *parameters)
{
	size_t length = strlen(token);
	auto_free char *text = mem_alloc(length / 2 + 1);
	char *namespace, *name;
	uint64_t revision;
	if (!length || length % 2)
		return -EINVAL;
	for (size_t at = 0; at < length; at += 2) {
		int high = hex_value(token[at]), low = hex_value(token[at + 1]);
		if (high < 0 || low < 0 || !(high | low))
			return -EINVAL;
		text[at / 2] = (char)(high << 4 | low);
	}
	if (!(namespace = strchr(text, '/')) || !(name = strchr(namespace + 1, '/')))
		return -EINVAL;
	*namespace ++ = 0;
	*name++ = 0;
	if (!number_parse(text, &revision) || !is_utf8(namespace, strlen(namespace)) || !is_utf8(name, strlen(name)))
		return -EINVAL;
	parameters->after_namespace = str_dup(namespace);
	parameters->after_name = str_dup(name);
	return 0;
}

/* ---- parameters ---- */

static int flag_parse(const char *value, bool *ret)
{
	*ret = !strcmp(value, "true");
	return *ret || !strcmp(value, "false") ? 0 : -EINVAL;
}

bool owner_valid(const char *name)
{
	size_t length = strlen(name);
	if (!length || length > OWNER_MAX)
		return false;
	for (const char *at = name; *at; at++)
		if (*at <= ' ' || *at >= 0x7f || *at == '"' || *at == '\\')
			return false;
	return true;
}

static int owner_parse(const char *value, char **ret)
{
	if (!owner_valid(value))
		return -EINVAL;
	*ret = str_dup(value);
	return 0;
}

static int parameter_set(struct request *request, enum parameter_index index, const char *value)
{
	struct parameters *to = &request->parameters;
	const char *wanted = "true or false";
	struct error error = {0};
	int result;
	switch (index) {
	case PARAMETER_INDEX_OWNER:
		wanted = OWNER_WANTED;
		result = owner_parse(value, &to->owner);
		break;
	case PARAMETER_INDEX_FORCE:
		result = flag_parse(value, &to->force);
		break;
	case PARAMETER_INDEX_DRY_RUN:
		wanted = "true, false, or diff";
		to->diff = !strcmp(value, "diff");
		result = to->diff ? 0 : flag_parse(value, &to->dry_run);
		to->dry_run |= to->diff;
		break;
	case PARAMETER_INDEX_FOLLOW:
		result = flag_parse(value, &to->follow);
		break;
	case PARAMETER_INDEX_INVALID:
		wanted = "\"quarantine\"";
		to->quarantine = !strcmp(value, "quarantine");
		result = to->quarantine ? 0 : -EINVAL;
		break;
	case PARAMETER_INDEX_LIMIT:
		wanted = "a number, 0 for no limit";
		result = number_parse(value, &to->limit) ? 0 : -EINVAL;
		break;
	case PARAMETER_INDEX_CONTINUE:
		wanted = "the token of an earlier answer";
		result = *value ? continue_parse(value, to) : 0; /* empty: from the beginning, as in Kubernetes */
		break;
	case PARAMETER_INDEX_WORKLOAD:
	case PARAMETER_INDEX_VERDICT:
	case PARAMETER_INDEX_PROTOCOL:
	case PARAMETER_INDEX_PORT:
	case PARAMETER_INDEX_IP:
		result = filter_read(&to->feed, index, value, &wanted);
		break;
	default:
		wanted = "a label selector";
		result = selector_parse(value, &to->selector, &error);
		if (result < 0)
			return problem_answer(request, 400, "query parameter labelSelector: %s", error.detail);
	}
	if (result < 0)
		return problem_answer(request, 400, "query parameter %s must be %s", parameter_names[index], wanted);
	return 0;
}

struct parameter_walk {
	struct request *request;
	unsigned allowed, seen;
	int result;
};

static enum MHD_Result parameter_read(
	void *context, enum MHD_ValueKind type, const char *key, size_t key_size, const char *value, size_t size)
{
	struct parameter_walk *walk = context;
	int index = 0;
	auto_free char *name = percent_decode(key, key_size), *text = percent_decode(value ? value : "", size);
	(void)type;
	while (name && index < PARAMETER_COUNT && strcmp(parameter_names[index], name))
		index++;
	if (!name || !text)
		walk->result = problem_answer(walk->request, 400, "the query is not percent-encoded UTF-8");
	else if (index == PARAMETER_COUNT || !(walk->allowed & 1u << index))
		walk->result = problem_answer(walk->request, 400, "query parameter %s is not known here", name);
	else if (walk->seen & 1u << index)
		walk->result = problem_answer(walk->request, 400, "query parameter %s is given twice", name);
	else
		walk->result = parameter_set(walk->request, index, text);
	walk->seen |= 1u << index;
	return walk->result < 0 ? MHD_NO : MHD_YES;
}

int parameters_read(struct request *request, unsigned allowed)
{
	struct parameter_walk walk = {request, allowed, 0, 0};
	MHD_get_connection_values_n(request->http, MHD_GET_ARGUMENT_KIND, parameter_read, &walk);
	return walk.result;
}

void parameters_clear(struct parameters *parameters)
{
	free(parameters->owner);
	free(parameters->after_namespace);
	free(parameters->after_name);
	filter_clear(&parameters->feed);
	selector_free(parameters->selector);
	*parameters = (struct parameters){0};
}

/* ---- headers ---- */

/* Whether the media type is `wanted`, in UTF-8 if it says so. */
static bool media_type_is(const char *header, const char *wanted)
{
	size_t length = strcspn(header, "; \t");
	if (length != strlen(wanted) || strncasecmp(header, wanted, length))
		return false;
	const char *charset = strcasestr(header + length, "charset=");
	if (!charset)
		return true;
	charset += strlen("charset=");
	charset += *charset == '"';
	return !strncasecmp(charset, "utf-8", strlen("utf-8"));
}

/* What stands twice has no meaning: which of two lengths, two terms is it? Lists of entity tags may come in pieces. */
static const char *const single_headers[] = {
	"Content-Length", "Transfer-Encoding", "Content-Type", "Content-Encoding", "Penstock-Term", "Authorization"};
#define FRAMING_COUNT 2 /* the first of them say where the next request begins */
#define SINGLE_COUNT (sizeof(single_headers) / sizeof(single_headers[0]))

struct header_walk {
	size_t count; /* of single_headers */
	unsigned seen;
	const char *twice;
};

static enum MHD_Result header_once(void *context, enum MHD_ValueKind type, const char *name, const char *value)
{
	struct header_walk *walk = context;
	(void)type;
	(void)value;
	for (size_t at = 0; at < walk->count; at++) {
		if (strcasecmp(name, single_headers[at]))
			continue;
		if (walk->seen & 1u << at)
			walk->twice = single_headers[at];
		walk->seen |= 1u << at;
	}
	return walk->twice ? MHD_NO : MHD_YES;
}

static int headers_once(struct request *request, size_t count)
{
	struct header_walk walk = {.count = count};
	MHD_get_connection_values(request->http, MHD_HEADER_KIND, header_once, &walk);
	return walk.twice ? problem_answer(request, 400, "header %s is given twice", walk.twice) : 0;
}

static const char *header_get(struct request *request, const char *name)
{
	return MHD_lookup_connection_value(request->http, MHD_HEADER_KIND, name);
}

/* The header without the spaces behind it, which are none of its value (RFC 9112, 5.1). NULL: it is absent; the caller
 * frees. */
static char *header_dup(struct request *request, const char *name)
{
	const char *value = header_get(request, name);
	char *copy = value ? str_dup(value) : NULL;
	size_t length = copy ? strlen(copy) : 0;
	while (length && strchr(" \t", copy[length - 1]))
		copy[--length] = 0;
	return copy;
}

static int content_type_read(struct request *request, bool takes_ndjson)
{
	const char *type = header_get(request, "Content-Type");
	if (!type || media_type_is(type, "application/json"))
		return 0;
	request->ndjson = takes_ndjson && media_type_is(type, "application/x-ndjson");
	if (request->ndjson)
		return 0;
	return problem_answer(
		request, 415, "the Content-Type must be application/json%s", takes_ndjson ? " or application/x-ndjson" : "");
}

static enum MHD_Result header_named(void *context, enum MHD_ValueKind type, const char *name, const char *value)
{
	(void)type;
	(void)value;
	*(bool *)context = name[strcspn(name, " \t")];
	return *(bool *)context ? MHD_NO : MHD_YES;
}

int framing_read(struct request *request)
{
	const char *coding = header_get(request, "Transfer-Encoding"), *wrong = NULL;
	bool spaced = false;
	MHD_get_connection_values(request->http, MHD_HEADER_KIND, header_named, &spaced);
	if (spaced)
		wrong = "there is a space in a header's name";
	else if (coding && strcasecmp(coding, "chunked"))
		wrong = "the Transfer-Encoding must be chunked or absent";
	else if (coding && header_get(request, "Content-Length"))
		wrong = "Content-Length and Transfer-Encoding exclude each other";
	if (wrong)
		problem_answer(request, 400, "%s", wrong);
	else if (headers_once(request, FRAMING_COUNT) == 0)
		return 0;
	request->answer->close = true;
	return -EINVAL;
}

int body_headers_read(struct request *request, bool takes_body, bool takes_ndjson)
{
	auto_free char *term = header_dup(request, "Penstock-Term"), *encoding = header_dup(request, "Content-Encoding");
	if (headers_once(request, SINGLE_COUNT) < 0)
		return -EINVAL;
	request->has_term = term != NULL;
	if (term && !number_parse(term, &request->term))
		return problem_answer(request, 400, "header Penstock-Term must be a number");
	if (!takes_body)
		return 0;
	if (content_type_read(request, takes_ndjson) < 0)
		return -EINVAL;
	request->gzip = encoding && (!strcasecmp(encoding, "gzip") || !strcasecmp(encoding, "x-gzip"));
	if (!encoding || request->gzip || !strcasecmp(encoding, "identity"))
		return 0;
	problem_answer(request, 415, "the Content-Encoding must be gzip or absent");
	request->answer->accept_encoding = "gzip";
	return -EINVAL;
}
