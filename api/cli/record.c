/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/record.h"

#include <stdlib.h>
#include <string.h>

static const char *text_of(const json_t *json, const char *member)
{
	const char *text = json_string_value(json_object_get(json, member));
	return text ? text : "";
}

static long long number_of(const json_t *json, const char *member)
{
	return (long long)json_integer_value(json_object_get(json, member));
}

/* ---- parts ---- */

void rule_text(const json_t *rule, struct buffer *out)
{
	const char *namespace = text_of(rule, "namespace"), *name = text_of(rule, "ruleName");
	int index = (int)number_of(rule, "index");
	if (!json_is_object(rule))
		return;
	buffer_printf(out, "%s %s%s%s %s", text_of(rule, "kind"), namespace, *namespace ? "/" : "", text_of(rule, "name"),
		text_of(rule, "direction"));
	if (index >= 0)
		buffer_printf(out, "[%d]%s%s", index, *name ? " " : "", name);
	else
		buffer_puts(out, " isolation");
}

/* "NetworkPolicy shop/web Ingress[0]", "InterceptPolicy llm-egress openai", "NetworkPolicy shop/web isolates": enough
 * to find it. */
static void rule_short(const json_t *rule, struct buffer *out)
{
	const char *namespace = text_of(rule, "namespace"), *name = text_of(rule, "ruleName");
	int index = (int)number_of(rule, "index");
	if (!json_is_object(rule))
		return;
	buffer_printf(out, "%s %s%s%s ", text_of(rule, "kind"), namespace, *namespace ? "/" : "", text_of(rule, "name"));
	if (index < 0)
		buffer_puts(out, "isolates");
	else if (*name)
		buffer_puts(out, name);
	else
		buffer_printf(out, "%s[%d]", text_of(rule, "direction"), index);
}

bool time_read(const char *text, struct timespec *ret)
{
	struct tm broken = {0};
	const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &broken);
	if (!rest)
		return false;
	*ret = (struct timespec){.tv_sec = timegm(&broken)};
	if (*rest == '.')
		ret->tv_nsec = (long)(strtod(rest, NULL) * 1e9);
	return true;
}

/* In the reader's time zone, with milliseconds; of another day, the day instead of seconds. As wide either way. */
static enum style time_short(const json_t *record, struct buffer *out)
{
	struct timespec then;
	struct tm there, here;
	char text[32];
	time_t now = time(NULL);
	if (!time_read(text_of(record, "time"), &then))
		return STYLE_DIM;
	localtime_r(&then.tv_sec, &there);
	localtime_r(&now, &here);
	bool today = there.tm_yday == here.tm_yday && there.tm_year == here.tm_year;
	strftime(text, sizeof text, today ? "%H:%M:%S" : "%b %d %H:%M", &there);
	buffer_puts(out, text);
	if (today)
		buffer_printf(out, ".%03ld", then.tv_nsec / 1000000);
	return STYLE_DIM;
}

static enum style time_whole(const json_t *record, struct buffer *out)
{
	buffer_puts(out, text_of(record, "time"));
	return STYLE_DIM;
}

static enum style verdict_style(const json_t *record)
{
	static const struct {
		const char *verdict;
		enum style style;
	} styles[] = {{"Dropped", STYLE_RED}, {"Rejected", STYLE_RED}, {"Intercepted", STYLE_CYAN},
		{"Audited", STYLE_YELLOW}, {NULL, STYLE_PLAIN}};
	size_t at = 0;
	while (styles[at].verdict && strcmp(styles[at].verdict, text_of(record, "verdict")) != 0)
		at++;
	return styles[at].style;
}

static enum style event(const json_t *record, struct buffer *out)
{
	buffer_puts(out, text_of(record, "event"));
	return strcmp(text_of(record, "event"), "Refused") == 0 ? STYLE_RED : STYLE_PLAIN;
}

static enum style verdict(const json_t *record, struct buffer *out)
{
	buffer_puts(out, text_of(record, "verdict"));
	return verdict_style(record);
}

/* ---- both ends ---- */

static bool has_ports(const json_t *record)
{
	return strncmp(text_of(record, "protocol"), "ICMP", 4) != 0;
}

static void port_put(const json_t *record, const json_t *end, struct buffer *out)
{
	if (has_ports(record) && number_of(end, "port"))
		buffer_printf(out, ":%lld", number_of(end, "port"));
}

static void address_put(const json_t *record, const json_t *end, struct buffer *out)
{
	const char *ip = text_of(end, "ip");
	bool bracket = strchr(ip, ':') && has_ports(record) && number_of(end, "port");
	buffer_printf(out, bracket ? "[%s]" : "%s", ip);
	port_put(record, end, out);
}

/* The workload, else a name learnt from DNS; "" when only the address is known. */
static const char *name_of(const json_t *end)
{
	const char *name = json_string_value(json_array_get(json_object_get(end, "names"), 0));
	return *text_of(end, "workload") ? text_of(end, "workload") : name ? name : "";
}

static enum style source_short(const json_t *record, struct buffer *out)
{
	const json_t *end = json_object_get(record, "source");
	buffer_puts(out, *name_of(end) ? name_of(end) : text_of(end, "ip"));
	return STYLE_PLAIN;
}

static enum style destination_short(const json_t *record, struct buffer *out)
{
	const json_t *end = json_object_get(record, "destination");
	buffer_puts(out, "\xe2\x86\x92 ");
	if (*name_of(end)) {
		buffer_puts(out, name_of(end));
		port_put(record, end, out);
	} else {
		address_put(record, end, out);
	}
	return STYLE_PLAIN;
}

static void end_whole(const json_t *record, const json_t *end, struct buffer *out)
{
	if (*name_of(end))
		buffer_printf(out, "%s ", name_of(end));
	address_put(record, end, out);
}

static enum style source_whole(const json_t *record, struct buffer *out)
{
	end_whole(record, json_object_get(record, "source"), out);
	return STYLE_PLAIN;
}

static enum style destination_whole(const json_t *record, struct buffer *out)
{
	const json_t *backend = json_object_get(record, "backend");
	buffer_puts(out, "\xe2\x86\x92 ");
	end_whole(record, json_object_get(record, "destination"), out);
	if (json_is_object(backend)) {
		buffer_puts(out, " \xe2\x86\x92 ");
		end_whole(record, backend, out);
	}
	return STYLE_PLAIN;
}

static enum style protocol(const json_t *record, struct buffer *out)
{
	buffer_puts(out, text_of(record, "protocol"));
	return STYLE_PLAIN;
}

/* ---- why ---- */

/* The rule; before it the reason, unless the rule says it itself. */
static void why_put(const json_t *record, void (*put)(const json_t *rule, struct buffer *out), struct buffer *out)
{
	static const char *const said[] = {"Policy", "Intercept", "Isolated", NULL};
	const json_t *rule = json_object_get(record, "rule");
	const char *reason = text_of(record, "reason");
	size_t at = 0;
	if (json_is_true(json_object_get(record, "onward"))) /* its addresses may be the client's own */
		reason = json_is_object(rule) ? "onward" : "onward, for the client";
	while (said[at] && strcmp(said[at], reason) != 0)
		at++;
	if (!json_is_object(rule) || !said[at])
		buffer_printf(out, "%s%s", reason, json_is_object(rule) ? ": " : "");
	put(rule, out);
}

static enum style why(const json_t *record, struct buffer *out)
{
	why_put(record, rule_short, out);
	return STYLE_PLAIN;
}

static enum style why_whole(const json_t *record, struct buffer *out)
{
	why_put(record, rule_text, out);
	return STYLE_PLAIN;
}

static enum style proxy(const json_t *record, struct buffer *out)
{
	buffer_puts(out, text_of(record, "proxy"));
	return verdict_style(record) == STYLE_CYAN ? STYLE_CYAN : STYLE_PLAIN;
}

static enum style process(const json_t *record, struct buffer *out)
{
	const json_t *of = json_object_get(record, "process");
	if (json_is_object(of))
		buffer_printf(out, "%s[%lld]", text_of(of, "name"), number_of(of, "pid"));
	return STYLE_PLAIN;
}

static enum style revision(const json_t *record, struct buffer *out)
{
	if (json_is_integer(json_object_get(record, "revision")))
		buffer_printf(out, "%lld", number_of(record, "revision"));
	return STYLE_PLAIN;
}

/* ---- how much, how long ---- */

static enum style packets(const json_t *record, struct buffer *out)
{
	if (json_object_get(record, "packets"))
		text_count(out, json_number_value(json_object_get(record, "packets")));
	return STYLE_PLAIN;
}

static enum style bytes(const json_t *record, struct buffer *out)
{
	if (json_object_get(record, "bytes"))
		text_bytes(out, json_number_value(json_object_get(record, "bytes")));
	return STYLE_PLAIN;
}

static enum style seconds(const json_t *record, const char *member, struct buffer *out)
{
	const json_t *value = json_object_get(record, member);
	if (json_is_number(value))
		text_duration(out, json_number_value(value));
	return STYLE_PLAIN;
}

static enum style duration(const json_t *record, struct buffer *out)
{
	return seconds(record, "durationSeconds", out);
}

static enum style handshake(const json_t *record, struct buffer *out)
{
	return seconds(record, "handshakeSeconds", out);
}

static enum style round_trip(const json_t *record, struct buffer *out)
{
	return seconds(record, "roundTripSeconds", out);
}

static enum style retransmits(const json_t *record, struct buffer *out)
{
	if (json_object_get(record, "retransmits"))
		buffer_printf(out, "%lld", number_of(record, "retransmits"));
	return STYLE_PLAIN;
}

/* ---- alerts ---- */

static enum style severity(const json_t *record, struct buffer *out)
{
	buffer_puts(out, text_of(record, "severity"));
	return strcmp(text_of(record, "severity"), "critical") == 0 ? STYLE_RED : STYLE_YELLOW;
}

static enum style alert(const json_t *record, struct buffer *out)
{
	buffer_puts(out, text_of(record, "alert"));
	return STYLE_BOLD;
}

static enum style workload(const json_t *record, struct buffer *out)
{
	buffer_puts(out, text_of(record, "workload"));
	return STYLE_PLAIN;
}

static enum style detail(const json_t *record, struct buffer *out)
{
	buffer_puts(out, text_of(record, "detail"));
	return STYLE_PLAIN;
}

static enum style value(const json_t *record, struct buffer *out)
{
	if (json_is_number(json_object_get(record, "value")))
		buffer_printf(out, "%.6g", json_number_value(json_object_get(record, "value")));
	return STYLE_PLAIN;
}

static enum style threshold(const json_t *record, struct buffer *out)
{
	if (json_is_number(json_object_get(record, "threshold")))
		buffer_printf(out, "%.6g", json_number_value(json_object_get(record, "threshold")));
	return STYLE_PLAIN;
}

static enum style since(const json_t *record, struct buffer *out)
{
	buffer_puts(out, text_of(record, "since"));
	return STYLE_DIM;
}

/* ---- tables ---- */

#define ARROW "\xe2\x86\x92 "

const struct record_column *flow_columns(bool wide)
{
	static const struct record_column narrow[] = {{"TIME", time_short}, {"EVENT", event}, {"VERDICT", verdict},
		{"SOURCE", source_short}, {ARROW "DESTINATION", destination_short}, {"PROTOCOL", protocol},
		{"RULE/REASON", why}, {NULL, NULL}};
	static const struct record_column all[] = {{"TIME", time_whole}, {"EVENT", event}, {"VERDICT", verdict},
		{"SOURCE", source_whole}, {ARROW "DESTINATION", destination_whole}, {"PROTOCOL", protocol}, {"PROXY", proxy},
		{"PACKETS", packets}, {"BYTES", bytes}, {"DURATION", duration}, {"HANDSHAKE", handshake},
		{"ROUND-TRIP", round_trip}, {"RETRANSMITS", retransmits}, {"PROCESS", process}, {"REVISION", revision},
		{"RULE/REASON", why_whole}, {NULL, NULL}};
	return wide ? all : narrow;
}

const struct record_column *connection_columns(bool wide)
{
	static const struct record_column narrow[] = {{"VERDICT", verdict}, {"SOURCE", source_short},
		{ARROW "DESTINATION", destination_short}, {"PROTOCOL", protocol}, {"BYTES", bytes}, {"AGE", duration},
		{"RULE/REASON", why}, {NULL, NULL}};
	static const struct record_column all[] = {{"VERDICT", verdict}, {"SOURCE", source_whole},
		{ARROW "DESTINATION", destination_whole}, {"PROTOCOL", protocol}, {"PROXY", proxy}, {"PACKETS", packets},
		{"BYTES", bytes}, {"AGE", duration}, {"HANDSHAKE", handshake}, {"ROUND-TRIP", round_trip},
		{"RETRANSMITS", retransmits}, {"PROCESS", process}, {"REVISION", revision}, {"RULE/REASON", why_whole},
		{NULL, NULL}};
	return wide ? all : narrow;
}

const struct record_column *alert_columns(bool wide)
{
	static const struct record_column narrow[] = {{"TIME", time_short}, {"SEVERITY", severity}, {"ALERT", alert},
		{"WORKLOAD", workload}, {"DETAIL", detail}, {NULL, NULL}};
	static const struct record_column all[] = {{"TIME", time_whole}, {"SEVERITY", severity}, {"ALERT", alert},
		{"WORKLOAD", workload}, {"VALUE", value}, {"THRESHOLD", threshold}, {"SINCE", since}, {"DETAIL", detail},
		{NULL, NULL}};
	return wide ? all : narrow;
}

unsigned record_flexible(const struct record_column *columns)
{
	unsigned flexible = 0;
	for (size_t at = 0; columns[at].title; at++) {
		bool name = columns[at].cell == source_short || columns[at].cell == destination_short;
		flexible |= (unsigned)(name || columns[at].cell == workload) << at;
	}
	return flexible;
}

void record_titles(struct table *table, const struct record_column *columns)
{
	for (; columns->title; columns++) {
		table_cell(table, columns->title);
		table_style(table, STYLE_BOLD);
	}
}

void record_row(struct table *table, const struct record_column *columns, const json_t *record)
{
	for (; columns->title; columns++) {
		struct buffer text = {0};
		enum style style = columns->cell(record, &text);
		table_take(table, &text);
		table_style(table, style);
	}
}
