/* SPDX-License-Identifier: Apache-2.0 */
/* What was seen and what is going on: flows, connections, alerts. Lists, or streams of what comes (follow.c). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "agent/base/mem.h"
#include "api/server/answer.h"
#include "api/server/follow.h"
#include "api/server/problem.h"
#include "api/server/state.h"
#include "bpf/abi.h"

/* ---- filters ---- */

#define QUOTED(name, text) " " text
#define LISTED(name, text) text,
static const char *const verdicts[] = {PS_VERDICTS(LISTED) FEED_REFUSED, NULL};

/* Protocols that have names; what has none is called by its number. */
#define PROTOCOLS(X) X("TCP", 6) X("UDP", 17) X("SCTP", 132) X("ICMP", 1) X("ICMPv6", 58)
#define NAMED(name, number) {name, number},
#define NAME(name, number) " " name
static const struct {
	const char *name;
	unsigned number;
} protocols[] = {PROTOCOLS(NAMED)};

/* One of a list, in any case; *ret is how records spell it. */
static int word_parse(const char *value, const char *const *words, char **ret)
{
	for (; *words; words++)
		if (!strcasecmp(value, *words)) {
			*ret = str_dup(*words);
			return 0;
		}
	return -EINVAL;
}

static int protocol_parse(const char *value, char **ret)
{
	uint64_t number = UINT64_MAX;
	if (number_parse(value, &number) && number > UINT8_MAX)
		return -EINVAL;
	for (size_t at = 0; at < sizeof(protocols) / sizeof(protocols[0]); at++)
		if (!strcasecmp(value, protocols[at].name) || number == protocols[at].number) {
			*ret = str_dup(protocols[at].name);
			return 0;
		}
	if (number > UINT8_MAX)
		return -EINVAL;
	*ret = str_format("%u", (unsigned)number);
	return 0;
}

static int workload_parse(const char *value, char **ret)
{
	const char *slash = strchr(value, '/');
	if (!slash || slash == value || !slash[1] || strchr(slash + 1, '/'))
		return -EINVAL;
	*ret = str_dup(value);
	return 0;
}

static int port_parse(const char *value, struct feed_filter *filter)
{
	uint64_t port;
	if (!number_parse(value, &port) || !port || port > 65535)
		return -EINVAL;
	filter->port = (uint16_t)port;
	filter->has_port = true;
	return 0;
}

int filter_read(struct feed_filter *filter, enum parameter_index index, const char *value, const char **wanted)
{
	switch (index) {
	case PARAMETER_INDEX_WORKLOAD:
		*wanted = "namespace/name, or namespace/* for all of one";
		return workload_parse(value, &filter->workload);
	case PARAMETER_INDEX_VERDICT:
		*wanted = "one of" PS_VERDICTS(QUOTED) " " FEED_REFUSED;
		return word_parse(value, verdicts, &filter->verdict);
	case PARAMETER_INDEX_PROTOCOL:
		*wanted = "one of" PROTOCOLS(NAME) " or a number";
		return protocol_parse(value, &filter->protocol);
	case PARAMETER_INDEX_PORT:
		*wanted = "a number from 1 to 65535";
		return port_parse(value, filter);
	default:
		*wanted = "an IPv4 or IPv6 address";
		filter->has_ip = true;
		return ip_parse(value, &filter->ip);
	}
}

void filter_clear(struct feed_filter *filter)
{
	free(filter->workload);
	free(filter->verdict);
	free(filter->protocol);
}

/* ---- answers ---- */

/* The next answer is made while those that clients have not taken yet are not more than this; over TCP, half of it: who
 * is on the node can always look. */
#define HELD_MAX (64u << 20)

static void list_answer(struct request *request, enum feed feed)
{
	const struct server_options *options = &request->server->options;
	atomic_uint_fast64_t *held = &request->server->held;
	const unsigned most = request->listener->remote ? HELD_MAX / 2 : HELD_MAX;
	if (atomic_load(held) > most) {
		problem_answer(request, 503, "%u MiB of answers wait for clients that read slowly", most >> 20);
		return;
	}
	answer_set(request, answer_new(200, "application/json"));
	if (feed == FEED_CONNECTIONS) {
		request->answer->source = options->connections(options->context, &request->parameters.feed, &request->held);
	} else {
		struct buffer *out = &request->answer->text;
		buffer_puts(out, "{\"items\":[");
		options->feed_list(options->context, feed, &request->parameters.feed, out);
		buffer_puts(out, "]}\n");
		request->held = out->length;
	}
	atomic_fetch_add(held, request->held);
}

static void feed_answer(struct request *request, enum feed feed)
{
	const struct server_options *options = &request->server->options;
	struct parameters *parameters = &request->parameters;
	bool follow = parameters->follow && !request->head;
	parameters->feed.limit = parameters->limit;
	if (follow ? !options->feed_follow : !options->feed_list || !options->connections)
		problem_answer(request, 503, "there is no data path to ask");
	else if (follow)
		stream_answer(request, feed);
	else
		list_answer(request, feed);
}

void read_flows(struct request *request)
{
	feed_answer(request, FEED_FLOWS);
}

void read_connections(struct request *request)
{
	feed_answer(request, FEED_CONNECTIONS);
}

void read_alerts(struct request *request)
{
	feed_answer(request, FEED_ALERTS);
}
