/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/record.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/buffer.h"

static void format_time(char text[40])
{
	struct timespec now;
	struct tm utc;
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	size_t length = strftime(text, 32, "%Y-%m-%dT%H:%M:%S", &utc);
	snprintf(text + length, 8, ".%03dZ", (int)(now.tv_nsec / 1000000) % 1000);
}

static double age(const struct record *record)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec * 1000000000ll + now.tv_nsec - record->started_ns) / 1e9;
}

static const char *protocol(const struct record *record)
{
	return record->udp ? "udp" : "tcp";
}

static void add_text(struct buffer *line, const struct record *r, const char *time, const char *outcome)
{
	const char *reason = source_reason(r->source);
	buffer_printf(line, "%s ", time);
	address_format(line, r->client);
	buffer_puts(line, " -> ");
	address_format(line, r->destination);
	buffer_printf(line, " up=%llu down=%llu seconds=%.3f source=%s", (unsigned long long)r->up,
		(unsigned long long)r->down, age(r), source_from(r->source));
	if (*reason)
		buffer_printf(line, "(%s)", reason);
	buffer_printf(line, " protocol=%s", protocol(r));
	if (r->udp)
		buffer_printf(line, " datagrams=%llu/%llu lost=%llu", (unsigned long long)r->datagrams_up,
			(unsigned long long)r->datagrams_down, (unsigned long long)r->lost);
	else
		buffer_printf(line, " name=%s", r->name ? r->name : "-");
	buffer_printf(line, " outcome=\"%s\"\n", outcome);
}

static void add_json(struct buffer *line, const struct record *r, const char *time, const char *outcome)
{
	buffer_printf(line, "{\"time\":\"%s\",\"client\":\"", time);
	address_format(line, r->client);
	buffer_puts(line, "\",\"destination\":\"");
	address_format(line, r->destination);
	buffer_printf(line,
		"\",\"up\":%llu,\"down\":%llu,\"seconds\":%.3f,\"source\":\"%s\",\"reason\":\"%s\",\"protocol\":\"%s\"",
		(unsigned long long)r->up, (unsigned long long)r->down, age(r), source_from(r->source),
		source_reason(r->source), protocol(r));
	if (r->udp) {
		buffer_printf(line, ",\"datagramsUp\":%llu,\"datagramsDown\":%llu,\"lost\":%llu",
			(unsigned long long)r->datagrams_up, (unsigned long long)r->datagrams_down, (unsigned long long)r->lost);
	} else {
		buffer_puts(line, ",\"name\":");
		buffer_json_string(line, r->name ? r->name : "");
	}
	buffer_puts(line, ",\"outcome\":");
	buffer_json_string(line, outcome);
	buffer_puts(line, "}\n");
}

void record_write(const struct record *record, const char *outcome, bool json)
{
	struct buffer line = {0};
	char time[40];
	format_time(time);
	(json ? add_json : add_text)(&line, record, time, outcome);
	/* One write a line: lines of several threads never mix. */
	ssize_t written = write(STDOUT_FILENO, line.data, line.length);
	(void)written;
	buffer_free(&line);
}
