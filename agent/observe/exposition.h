/* SPDX-License-Identifier: Apache-2.0 */
/* Prometheus' text format, version 0.0.4. Samples of one metric follow its head without another one in between. */
#ifndef PENSTOCK_EXPOSITION_H
#define PENSTOCK_EXPOSITION_H

#include <stddef.h>
#include <stdint.h>
#include "agent/base/buffer.h"
#include "agent/observe/metrics_list.h"

/* HELP and TYPE. */
void metric_head(struct buffer *out, enum metric metric);
/* One sample; then pairs of label and value (UTF-8, escaped here), ended by NULL. */
void metric_count(struct buffer *out, enum metric metric, uint64_t value, ...) __attribute__((sentinel));
void metric_value(struct buffer *out, enum metric metric, double value, ...) __attribute__((sentinel));
/* One sample of labels that are already escaped: {a="b"} or "". */
void metric_count_labelled(struct buffer *out, enum metric metric, const char *labels, uint64_t value);
/* {a="b",c="d"}, appended. */
void metric_labels(struct buffer *out, ...) __attribute__((sentinel));
/* _bucket, _sum and _count of a histogram with one label, or none (NULL); buckets are cumulative, one more than bounds.
 */
void metric_histogram(struct buffer *out, enum metric metric, const char *label, const char *value,
	const double *bounds, size_t bound_count, const uint64_t *buckets, double sum);

#endif
