/* SPDX-License-Identifier: Apache-2.0 */
/* What /metrics says at one moment, and how fast it grows. */
#ifndef PENSTOCK_CLI_SAMPLES_H
#define PENSTOCK_CLI_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include "agent/base/buffer.h"
#include "agent/base/map.h"

struct sample {
	char *series; /* name{label="value",…} */
	double value;
};
struct samples {
	struct sample *list;
	size_t count, capacity;
	struct names by_series; /* struct sample: the index + 1 */
	double at;              /* seconds, CLOCK_MONOTONIC */
};
/* Prometheus' text format; lines that are not it are left out. */
void samples_read(struct samples *ret, const char *text, double at);
void samples_clear(struct samples *samples);

/* The next sample of a metric: size_t at = 0; while ((sample = samples_next(samples, "name", &at))) … */
const struct sample *samples_next(const struct samples *samples, const char *metric, size_t *at);
/* The sum of those whose label has this value (NULL: of all). */
double samples_sum(const struct samples *samples, const char *metric, const char *label, const char *value);
/* A second, since `before`; a counter that began again counts from 0. 0 when there is no before. */
double sample_rate(const struct samples *now, const struct samples *before, const struct sample *sample);
double samples_rate(
	const struct samples *now, const struct samples *before, const char *metric, const char *label, const char *value);
/* Appends a label's value; false: the series has no such label. */
bool series_label(const char *series, const char *label, struct buffer *out);

#endif
