/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Feeds for the server without a kernel. A record is its number, {"number":N,"pad":"xx…"}: the last `keep` of them are
 * there. Of the filter, port=P lets every P-th number through, ip makes following slow; connections are one record that
 * shows the filter.
 */
#ifndef PENSTOCK_SERVER_FEEDS_H
#define PENSTOCK_SERVER_FEEDS_H

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "api/server/server.h"

#define FAKE_PAD 200

struct fake_feeds {
	uint64_t keep;
	pthread_mutex_t lock; /* last */
	uint64_t last[FEED_COUNT];
};

static const char *const fake_names[] = {"flows", "connections", "alerts"};

static bool fake_matches(const struct feed_filter *filter, uint64_t number)
{
	return !filter->has_port || number % filter->port == 0;
}

static void fake_record(struct buffer *out, uint64_t number, const char *end)
{
	char pad[FAKE_PAD + 1];
	memset(pad, 'x', FAKE_PAD);
	pad[FAKE_PAD] = 0;
	buffer_printf(out, "{\"number\":%" PRIu64 ",\"pad\":\"%s\"}%s", number, pad, end);
}

static void fake_text(struct buffer *out, const char *name, const char *text)
{
	buffer_printf(out, ",\"%s\":", name);
	if (text)
		buffer_json_string(out, text);
	else
		buffer_puts(out, "null");
}

static void fake_filter(const struct feed_filter *filter, struct buffer *out)
{
	char ip[ADDR_TEXT_MAX];
	buffer_printf(out, "{\"limit\":%" PRIu64 ",\"port\":%d", filter->limit, filter->has_port ? filter->port : -1);
	if (filter->has_ip)
		ip_format(&filter->ip, ip);
	fake_text(out, "ip", filter->has_ip ? ip : NULL);
	fake_text(out, "workload", filter->workload);
	fake_text(out, "verdict", filter->verdict);
	fake_text(out, "protocol", filter->protocol);
	buffer_puts(out, "}");
}

/* Behind which number the last `limit` that match begin; lock held. */
static uint64_t fake_begin(const struct fake_feeds *feeds, enum feed feed, const struct feed_filter *filter)
{
	uint64_t last = feeds->last[feed], oldest = last > feeds->keep ? last - feeds->keep : 0, found = 0;
	for (; last > oldest && (!filter->limit || found < filter->limit); last--)
		found += fake_matches(filter, last);
	return last;
}

static void fake_feed_list(
	struct fake_feeds *feeds, enum feed feed, const struct feed_filter *filter, struct buffer *out)
{
	bool any = false;
	pthread_mutex_lock(&feeds->lock);
	for (uint64_t number = fake_begin(feeds, feed, filter); number++ < feeds->last[feed];) {
		if (!fake_matches(filter, number))
			continue;
		if (any)
			buffer_puts(out, ",");
		fake_record(out, number, "");
		any = true;
	}
	pthread_mutex_unlock(&feeds->lock);
}

/* One connection: the filter. */
struct fake_connections {
	struct text_source source;
	struct buffer text;
};

static bool fake_connections_next(struct text_source *source, struct buffer *out)
{
	const struct fake_connections *connections = (const struct fake_connections *)source;
	buffer_printf(out, "{\"items\":[%s]}\n", connections->text.data);
	return false;
}

static void fake_connections_free(struct text_source *source)
{
	buffer_free(&((struct fake_connections *)source)->text);
	free(source);
}

static struct text_source *fake_connections_open(void *context, const struct feed_filter *filter, size_t *held)
{
	struct fake_connections *connections = mem_alloc(sizeof(*connections));
	(void)context;
	connections->source = (struct text_source){fake_connections_next, fake_connections_free};
	fake_filter(filter, &connections->text);
	*held = connections->text.length;
	return &connections->source;
}

static void fake_feed_follow(struct fake_feeds *feeds, enum feed feed, const struct feed_filter *filter,
	uint64_t *after, size_t most, struct buffer *out)
{
	size_t begin = out->length;
	pthread_mutex_lock(&feeds->lock);
	uint64_t last = feeds->last[feed], gone = last > feeds->keep ? last - feeds->keep : 0;
	if (!*after) {
		*after = fake_begin(feeds, feed, filter);
	} else if (*after < gone) {
		buffer_printf(out, "{\"lost\":%" PRIu64 "}\n", gone - *after);
		*after = gone;
	}
	while (*after < last && out->length - begin < most)
		if (fake_matches(filter, ++*after))
			fake_record(out, *after, "\n");
	pthread_mutex_unlock(&feeds->lock);
	if (filter->has_ip)
		usleep(50000);
}

/* A line of standard input; false at its end. Lines come whole: they are short, and written at once. */
static bool fake_feeds_command(struct fake_feeds *feeds, struct server *server)
{
	char text[4096];
	ssize_t length = read(STDIN_FILENO, text, sizeof(text) - 1);
	if (length <= 0)
		return false;
	text[length] = 0;
	for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		for (enum feed feed = 0; feed < FEED_COUNT; feed++) {
			size_t name = strlen(fake_names[feed]);
			if (strncmp(line, fake_names[feed], name))
				continue;
			pthread_mutex_lock(&feeds->lock);
			feeds->last[feed] += strtoull(line + name, NULL, 10);
			pthread_mutex_unlock(&feeds->lock);
			server_news(server, feed);
		}
	return true;
}

#endif
