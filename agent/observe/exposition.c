/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/exposition.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

static const struct {
	const char *name, *type, *help;
} metrics[METRIC_COUNT] = {
#define X(id, text, kind, labels, meaning) [METRIC_##id] = {text, kind, meaning},
	METRICS(X)
#undef X
};

void metric_head(struct buffer *out, enum metric metric)
{
	buffer_printf(out, "# HELP %s %s\n# TYPE %s %s\n", metrics[metric].name, metrics[metric].help, metrics[metric].name,
		metrics[metric].type);
}

static void label_add(struct buffer *out, const char *label, const char *value)
{
	buffer_printf(out, "%s=\"", label);
	for (const char *at = value; *at;) {
		size_t plain = strcspn(at, "\\\"\n");
		buffer_add(out, at, plain);
		at += plain;
		if (*at)
			buffer_puts(out, *at == '\n' ? "\\n" : *at == '"' ? "\\\"" : "\\\\");
		at += *at != '\0';
	}
	buffer_puts(out, "\"");
}

static void labels_add(struct buffer *out, va_list pairs)
{
	const char *label, *separator = "{";
	while ((label = va_arg(pairs, const char *))) {
		buffer_puts(out, separator);
		label_add(out, label, va_arg(pairs, const char *));
		separator = ",";
	}
	if (*separator == ',')
		buffer_puts(out, "}");
}

void metric_labels(struct buffer *out, ...)
{
	va_list pairs;
	va_start(pairs, out);
	labels_add(out, pairs);
	va_end(pairs);
}

void metric_count(struct buffer *out, enum metric metric, uint64_t value, ...)
{
	va_list pairs;
	buffer_puts(out, metrics[metric].name);
	va_start(pairs, value);
	labels_add(out, pairs);
	va_end(pairs);
	buffer_printf(out, " %" PRIu64 "\n", value);
}

void metric_value(struct buffer *out, enum metric metric, double value, ...)
{
	va_list pairs;
	buffer_puts(out, metrics[metric].name);
	va_start(pairs, value);
	labels_add(out, pairs);
	va_end(pairs);
	buffer_printf(out, " %.15g\n", value);
}

void metric_count_labelled(struct buffer *out, enum metric metric, const char *labels, uint64_t value)
{
	buffer_printf(out, "%s%s %" PRIu64 "\n", metrics[metric].name, labels, value);
}

void metric_histogram(struct buffer *out, enum metric metric, const char *label, const char *value,
	const double *bounds, size_t bound_count, const uint64_t *buckets, double sum)
{
	const char *name = metrics[metric].name;
	struct buffer labels = {0};
	if (label)
		label_add(&labels, label, value);
	const char *text = labels.data ? labels.data : "", *comma = label ? "," : "";
	for (size_t i = 0; i < bound_count; i++)
		buffer_printf(out, "%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", name, text, comma, bounds[i], buckets[i]);
	buffer_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, text, comma, buckets[bound_count]);
	const char *open = label ? "{" : "", *close = label ? "}" : "";
	buffer_printf(out, "%s_sum%s%s%s %.15g\n", name, open, text, close, sum);
	buffer_printf(out, "%s_count%s%s%s %" PRIu64 "\n", name, open, text, close, buckets[bound_count]);
	buffer_free(&labels);
}
