/* SPDX-License-Identifier: Apache-2.0 */
/* Alerts that were raised: the last ALERTS_KEPT, counted by kind. One thread raises, any reads. */
#ifndef PENSTOCK_ALERT_LIST_H
#define PENSTOCK_ALERT_LIST_H

#include <stdbool.h>
#include <stdint.h>
#include "agent/observe/alerts.h"

#define ALERTS_KEPT 1024
#define SECOND INT64_C(1000000000)

struct alert {
	enum alert_kind kind;
	int64_t time, since;  /* ns since 1970: raised, began */
	const char *workload; /* "namespace/name" or NULL; copied */
	double value, threshold;
};

struct alert_list;
struct alert_list *alert_list_new(void);
void alert_list_free(struct alert_list *list);
/* The rest is its detail: one sentence, what to do next included. */
void alert_list_raise(struct alert_list *list, const struct alert *alert, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* Whether one was raised since this was asked last; by the thread that raises. */
bool alert_list_news(struct alert_list *list);
/* As alerts_list, alerts_follow, alerts_raised. */
void alert_list_read(struct alert_list *list, const struct feed_filter *filter, struct buffer *out);
void alert_list_follow(
	struct alert_list *list, const struct feed_filter *filter, uint64_t *after, size_t most, struct buffer *out);
uint64_t alert_list_count(struct alert_list *list, enum alert_kind kind);

/*
 * What keeps an alert from being raised again while it lasts. It has ended when its condition was not true for `quiet`;
 * that doubles with each alert, up to an hour, and starts again at `base` after an hour of quiet: what comes and goes
 * all day is not told each time.
 */
struct episode {
	int64_t last, quiet; /* ns; last: the condition was true; 0: never */
};
/* The condition is true: whether that is to be told. */
bool episode_begins(struct episode *episode, int64_t now, int64_t base);
bool episode_lasts(const struct episode *episode, int64_t now);
/* The condition is nearly true: an episode that lasts goes on, and none begins. */
void episode_goes_on(struct episode *episode, int64_t now);

#endif
