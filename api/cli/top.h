/* SPDX-License-Identifier: Apache-2.0 */
/* What penstock top shows: gathered by top.c, drawn by top_frame.c. */
#ifndef PENSTOCK_CLI_TOP_H
#define PENSTOCK_CLI_TOP_H

#include <jansson.h>
#include <stdbool.h>
#include "agent/base/buffer.h"
#include "api/cli/samples.h"

#define HISTORY 60
/* The last values, oldest first. */
struct history {
	double values[HISTORY];
	size_t count;
};

struct workload_load {
	const char *name;
	double open;            /* connections now; negative: not known */
	double opened, refused; /* a second */
};

struct top_view {
	struct samples now, before;
	json_t *status;
	json_t *alerts;                  /* of the last minutes, newest last; NULL: the agent does not say */
	struct workload_load *workloads; /* the busiest first */
	size_t workload_count;
	double opened, refused; /* connections a second */
	bool flows_known;
	struct history packets, bytes, connections, begun;
	char trouble[1024]; /* why what is shown is old; "": it is not */
};
#define ALERT_MINUTES 5

/* Appends a frame of at most `lines` lines, none longer than `columns`, each with its '\n'. */
void top_draw(const struct top_view *view, size_t columns, size_t lines, bool colours, struct buffer *out);

#endif
