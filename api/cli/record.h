/* SPDX-License-Identifier: Apache-2.0 */
/* Records of flows, connections and alerts as rows of a table. */
#ifndef PENSTOCK_CLI_RECORD_H
#define PENSTOCK_CLI_RECORD_H

#include <jansson.h>
#include <stdbool.h>
#include <time.h>
#include "agent/base/buffer.h"
#include "api/cli/table.h"

struct record_column {
	const char *title;
	/* Appends the cell's text; what it appends nothing for is shown as "-". The style of the cell. */
	enum style (*cell)(const json_t *record, struct buffer *out);
};
/* Columns end with a NULL title. */
const struct record_column *flow_columns(bool wide);
const struct record_column *connection_columns(bool wide);
const struct record_column *alert_columns(bool wide);

/* For table.flexible: names may be cut where the terminal is narrow. Not of the wide ones. */
unsigned record_flexible(const struct record_column *columns);
void record_titles(struct table *table, const struct record_column *columns);
void record_row(struct table *table, const struct record_column *columns, const json_t *record);

/* "NetworkPolicy shop/web Ingress[0] from-web", or nothing for null. */
void rule_text(const json_t *rule, struct buffer *out);
/* "2026-11-23T10:00:00.000001Z" → seconds since 1970; false if it is none. */
bool time_read(const char *text, struct timespec *ret);

#endif
