/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/alert_list.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "agent/base/mem.h"
#include "agent/observe/flows.h"

#define QUIET_MAX (3600 * SECOND)

struct kept {
	struct alert alert;
	char *workload, *detail;
};
struct alert_list {
	pthread_mutex_t lock; /* all but news */
	struct kept ring[ALERTS_KEPT];
	uint64_t raised; /* the newest one's number; they count from 1 */
	uint64_t counts[ALERT_COUNT];
	bool news;
};

static const char *const names[] = {
#define X(name, text, severity, doc) text,
	ALERTS(X)
#undef X
};
static const char *const severities[] = {
#define X(name, text, severity, doc) severity,
	ALERTS(X)
#undef X
};

struct alert_list *alert_list_new(void)
{
	struct alert_list *list = mem_alloc(sizeof(*list));
	pthread_mutex_init(&list->lock, NULL);
	return list;
}

static void kept_clear(struct kept *kept)
{
	free(kept->workload);
	free(kept->detail);
}

void alert_list_free(struct alert_list *list)
{
	if (!list)
		return;
	for (size_t at = 0; at < ALERTS_KEPT; at++)
		kept_clear(&list->ring[at]);
	pthread_mutex_destroy(&list->lock);
	free(list);
}

void alert_list_raise(struct alert_list *list, const struct alert *alert, const char *format, ...)
{
	char detail[1024];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(detail, sizeof(detail), format, arguments);
	va_end(arguments);
	struct kept kept = {.alert = *alert, .workload = str_dup(alert->workload), .detail = str_dup(detail)};

	pthread_mutex_lock(&list->lock);
	struct kept *place = &list->ring[++list->raised % ALERTS_KEPT];
	kept_clear(place);
	*place = kept;
	list->counts[alert->kind]++;
	pthread_mutex_unlock(&list->lock);
	list->news = true;
}

bool alert_list_news(struct alert_list *list)
{
	bool news = list->news;
	list->news = false;
	return news;
}

/* ---- reading ---- */

static void print_time(struct buffer *out, const char *member, int64_t when)
{
	char text[32];
	time_t seconds = when / SECOND;
	struct tm utc;
	gmtime_r(&seconds, &utc);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
	buffer_printf(out, "\"%s\":\"%s.%06lldZ\"", member, text, (long long)(when % SECOND / 1000));
}

/* One digit behind the point says enough of a rate; a count is whole. */
static void print_number(struct buffer *out, const char *member, double number)
{
	long long tenths = (long long)(number * 10 + 0.5);
	buffer_printf(out, ",\"%s\":%lld", member, tenths / 10);
	if (tenths % 10)
		buffer_printf(out, ".%lld", tenths % 10);
}

static void render(const struct kept *kept, struct buffer *out)
{
	const struct alert *alert = &kept->alert;
	buffer_puts(out, "{");
	print_time(out, "time", alert->time);
	buffer_printf(
		out, ",\"alert\":\"%s\",\"severity\":\"%s\",\"workload\":", names[alert->kind], severities[alert->kind]);
	if (kept->workload)
		buffer_json_string(out, kept->workload);
	else
		buffer_puts(out, "null");
	buffer_puts(out, ",\"detail\":");
	buffer_json_string(out, kept->detail);
	print_number(out, "value", alert->value);
	print_number(out, "threshold", alert->threshold);
	buffer_puts(out, ",");
	print_time(out, "since", alert->since);
	buffer_puts(out, "}");
}

static const struct kept *numbered(const struct alert_list *list, uint64_t number)
{
	return &list->ring[number % ALERTS_KEPT];
}

static bool matches(const struct kept *kept, const struct feed_filter *filter)
{
	return !filter->workload || workload_matches(kept->workload, filter->workload);
}

static uint64_t oldest(const struct alert_list *list)
{
	return list->raised > ALERTS_KEPT ? list->raised - ALERTS_KEPT + 1 : 1;
}

/* Where the last filter->limit that match begin. */
static uint64_t first_of_last(const struct alert_list *list, const struct feed_filter *filter)
{
	uint64_t number = list->raised + 1, found = 0;
	if (!filter->limit)
		return oldest(list);
	while (number > oldest(list) && found < filter->limit)
		found += matches(numbered(list, --number), filter);
	return number;
}

static void list_read(struct alert_list *list, const struct feed_filter *filter, struct buffer *out)
{
	bool more = false;
	for (uint64_t number = first_of_last(list, filter); number <= list->raised; number++) {
		if (!matches(numbered(list, number), filter))
			continue;
		buffer_puts(out, more ? "," : "");
		render(numbered(list, number), out);
		more = true;
	}
}

static void list_follow(
	struct alert_list *list, const struct feed_filter *filter, uint64_t *after, size_t most, struct buffer *out)
{
	size_t begun = out->length;
	uint64_t number = *after ? *after + 1 : first_of_last(list, filter);
	if (number < oldest(list)) { /* only who has read before can be too slow */
		buffer_printf(out, "{\"lost\":%llu}\n", (unsigned long long)(oldest(list) - number));
		number = oldest(list);
		*after = number - 1;
	}
	for (; number <= list->raised && out->length - begun < most; number++) {
		*after = number;
		if (!matches(numbered(list, number), filter))
			continue;
		render(numbered(list, number), out);
		buffer_puts(out, "\n");
	}
	if (number > list->raised)
		*after = list->raised;
}

void alert_list_read(struct alert_list *list, const struct feed_filter *filter, struct buffer *out)
{
	pthread_mutex_lock(&list->lock);
	list_read(list, filter, out);
	pthread_mutex_unlock(&list->lock);
}

void alert_list_follow(
	struct alert_list *list, const struct feed_filter *filter, uint64_t *after, size_t most, struct buffer *out)
{
	pthread_mutex_lock(&list->lock);
	list_follow(list, filter, after, most, out);
	pthread_mutex_unlock(&list->lock);
}

uint64_t alert_list_count(struct alert_list *list, enum alert_kind kind)
{
	pthread_mutex_lock(&list->lock);
	uint64_t count = list->counts[kind];
	pthread_mutex_unlock(&list->lock);
	return count;
}

/* ---- episodes ---- */

bool episode_lasts(const struct episode *episode, int64_t now)
{
	return episode->last && now - episode->last < episode->quiet;
}

bool episode_begins(struct episode *episode, int64_t now, int64_t base)
{
	int64_t since = now - episode->last;
	bool lasts = episode_lasts(episode, now), ever = episode->last != 0;
	episode->last = now;
	if (lasts)
		return false;
	if (!ever || since >= QUIET_MAX)
		episode->quiet = base;
	else if ((episode->quiet *= 2) > QUIET_MAX)
		episode->quiet = QUIET_MAX;
	return true;
}

void episode_goes_on(struct episode *episode, int64_t now)
{
	if (episode_lasts(episode, now))
		episode->last = now;
}
