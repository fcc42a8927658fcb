/* SPDX-License-Identifier: Apache-2.0 */
/* The flow record of the contract, and the filters of the API. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "agent/base/addr.h"
#include "agent/observe/flow_names.h"
#include "agent/observe/rule_list.h"

static const char *const events[PS_EVENT_COUNT] = {
#define X(name, text) text,
	PS_EVENTS(X)
#undef X
};
static const char *const verdicts[PS_VERDICT_COUNT] = {
#define X(name, text) text,
	PS_VERDICTS(X)
#undef X
};
static const char *const reasons[PS_REASON_COUNT] = {
#define X(name, text, doc) text,
	PS_REASONS(X)
#undef X
};
static const char *const directions[PS_DIRECTION_COUNT] = {
#define X(name, text) text,
	PS_DIRECTIONS(X)
#undef X
};

/* Of a newer build's programs there may be more. */
static const char *word(const char *const *words, size_t count, uint8_t code)
{
	return code < count ? words[code] : "Unknown";
}
#define WORD(words, code) word(words, sizeof(words) / sizeof(*(words)), code)

/* What has no name is its number. */
static const char *protocol_text(uint8_t protocol, char number[4])
{
	switch (protocol) {
	case 1:
		return "ICMP";
	case 6:
		return "TCP";
	case 17:
		return "UDP";
	case 58:
		return "ICMPv6";
	case 132:
		return "SCTP";
	default:
		snprintf(number, 4, "%u", protocol);
		return number;
	}
}

/* ---- filters ---- */

bool workload_matches(const char *workload, const char *wanted)
{
	size_t length = strlen(wanted);
	bool all = length > 1 && strcmp(wanted + length - 2, "/*") == 0;
	return workload && (all ? strncmp(workload, wanted, length - 1) == 0 : strcmp(workload, wanted) == 0);
}

static bool verdict_matches(unsigned verdict, const char *wanted)
{
	if (strcmp(wanted, FEED_REFUSED) == 0)
		return verdict == PS_VERDICT_DROPPED || verdict == PS_VERDICT_REJECTED;
	return strcmp(WORD(verdicts, verdict), wanted) == 0;
}

static bool ip_matches(const struct ps_event *event, const struct ip *ip)
{
	struct ip ends[] = {flow_ip(event, 0), flow_ip(event, 1)};
	return ip_equal(&ends[0], ip) || ip_equal(&ends[1], ip);
}

bool flow_matches(const struct flow *flow, const struct feed_filter *filter)
{
	const struct ps_event *event = &flow->event;
	char number[4];
	if (filter->has_port && event->port[1] != filter->port)
		return false;
	if (filter->verdict && !verdict_matches(event->verdict, filter->verdict))
		return false;
	if (filter->protocol && strcmp(protocol_text(event->protocol, number), filter->protocol) != 0)
		return false;
	if (filter->has_ip && !ip_matches(event, &filter->ip))
		return false;
	return !filter->workload || workload_matches(flow->workload[0], filter->workload) ||
		   workload_matches(flow->workload[1], filter->workload);
}

/* ---- the record ---- */

static void text_render(struct buffer *out, const char *text)
{
	if (text)
		buffer_json_string(out, text);
	else
		buffer_puts(out, "null");
}

static void time_render(struct buffer *out, int64_t time)
{
	struct tm utc;
	char text[32];
	time_t seconds = time / 1000000000;
	gmtime_r(&seconds, &utc);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
	buffer_printf(out, "\"time\":\"%s.%06" PRId64 "Z\",", text, time % 1000000000 / 1000);
}

/* A decimal number without the zeros at its end. */
static void seconds_render(struct buffer *out, const char *name, uint64_t ns)
{
	char text[32];
	int length = snprintf(text, sizeof(text), "%" PRIu64 ".%09" PRIu64, ns / 1000000000, ns % 1000000000);
	while (text[length - 1] == '0')
		length--;
	length -= text[length - 1] == '.';
	buffer_printf(out, ",\"%s\":%.*s", name, length, text);
}

static void address_render(struct buffer *out, const struct ip *ip, uint16_t port)
{
	char text[ADDR_TEXT_MAX];
	ip_format(ip, text);
	buffer_printf(out, "{\"ip\":\"%s\",\"port\":%u,", text, port);
}

static void end_render(struct buffer *out, const struct flow *flow, int end)
{
	struct ip ip = flow_ip(&flow->event, end);
	buffer_puts(out, end ? ",\"destination\":" : ",\"source\":");
	address_render(out, &ip, flow->event.port[end]);
	buffer_puts(out, "\"workload\":");
	text_render(out, flow->workload[end]);
	buffer_puts(out, end ? ",\"names\":[]}" : "}");
}

static void rule_render(struct buffer *out, const struct rule_item *rule)
{
	buffer_puts(out, ",\"rule\":");
	if (!rule) {
		buffer_puts(out, "null");
		return;
	}
	buffer_printf(out, "{\"kind\":\"%s\",\"namespace\":", kinds[rule->kind].kind);
	buffer_json_string(out, rule->namespace);
	buffer_puts(out, ",\"name\":");
	buffer_json_string(out, rule->name);
	buffer_printf(
		out, ",\"direction\":\"%s\",\"index\":%d,\"ruleName\":", WORD(directions, rule->direction), rule->index);
	buffer_json_string(out, rule->rule_name);
	buffer_puts(out, "}");
}

static void backend_render(struct buffer *out, const struct flow *flow)
{
	struct ip ip = flow_backend_ip(&flow->event);
	buffer_puts(out, ",\"backend\":");
	address_render(out, &ip, flow->event.backend_port);
	buffer_puts(out, "\"workload\":");
	text_render(out, flow->backend);
	buffer_puts(out, "}");
}

static void counts_render(struct buffer *out, const struct ps_event *event)
{
	uint64_t packets = event->packets[0] + event->packets[1], bytes = event->bytes[0] + event->bytes[1];
	buffer_printf(out, ",\"packets\":%" PRIu64 ",\"bytes\":%" PRIu64, packets, bytes);
	if (event->opened)
		seconds_render(out, "durationSeconds", event->time > event->opened ? event->time - event->opened : 0);
}

static void process_render(struct buffer *out, const struct ps_event *event)
{
	char command[sizeof(event->command) + 1] = {0};
	memcpy(command, event->command, sizeof(event->command));
	buffer_printf(out, ",\"process\":{\"pid\":%u,\"name\":", event->process);
	buffer_json_string(out, command);
	buffer_puts(out, "}");
}

/* What is known of some records only. */
static void details_render(struct buffer *out, const struct flow *flow, bool counted)
{
	const struct ps_event *event = &flow->event;
	if (event->flags & PS_EVENT_BACKEND)
		backend_render(out, flow);
	if (counted)
		counts_render(out, event);
	if (event->handshake)
		seconds_render(out, "handshakeSeconds", event->handshake);
	if (counted && event->round_trip)
		seconds_render(out, "roundTripSeconds", event->round_trip * 1000ull);
	if (counted && (event->round_trip || event->retransmits))
		buffer_printf(out, ",\"retransmits\":%u", event->retransmits);
	if (event->process)
		process_render(out, event);
	if (event->flags & PS_EVENT_LEG)
		buffer_puts(out, ",\"onward\":true");
}

void flow_render(const struct flow *flow, struct buffer *out)
{
	const struct ps_event *event = &flow->event;
	uint8_t direction = flow->rule ? (uint8_t)flow->rule->direction : event->direction;
	char number[4];
	buffer_puts(out, "{");
	if (flow->number) {
		time_render(out, flow->time);
		buffer_printf(out, "\"event\":\"%s\",", WORD(events, event->event));
	}
	buffer_printf(out,
		"\"verdict\":\"%s\",\"reason\":\"%s\",\"direction\":\"%s\",\"family\":\"IPv%d\",\"protocol\":\"%s\"",
		WORD(verdicts, event->verdict), WORD(reasons, event->reason), WORD(directions, direction),
		event->family == 6 ? 6 : 4, protocol_text(event->protocol, number));
	end_render(out, flow, 0);
	end_render(out, flow, 1);
	rule_render(out, flow->rule);
	buffer_puts(out, ",\"proxy\":");
	text_render(out, flow->proxy);
	if (flow->revision != FLOW_REVISION_UNKNOWN)
		buffer_printf(out, ",\"revision\":%" PRIu64, flow->revision);
	else
		buffer_puts(out, ",\"revision\":null");
	details_render(out, flow, !flow->number || event->event == PS_EVENT_CLOSED);
	buffer_puts(out, "}");
}
