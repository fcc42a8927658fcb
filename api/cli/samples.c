/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/samples.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"

/* The end of "name{label="value"}": values may hold anything, braces and blanks too. */
static const char *series_end(const char *line)
{
	bool quoted = false;
	for (; *line && *line != '\n' && (quoted || *line != ' '); line++) {
		if (quoted && *line == '\\' && line[1])
			line++;
		else if (*line == '"')
			quoted = !quoted;
	}
	return line;
}

void samples_read(struct samples *ret, const char *text, double at)
{
	*ret = (struct samples){.at = at};
	for (const char *line = text; *line;) {
		const char *end = series_end(line), *next = strchr(end, '\n');
		char *rest;
		double value = strtod(end, &rest);
		if (*line != '#' && *end == ' ' && rest > end) {
			ret->list = list_room(ret->list, ret->count, &ret->capacity, sizeof *ret->list);
			char *series = mem_dup(line, (size_t)(end - line) + 1);
			series[end - line] = 0;
			ret->list[ret->count++] = (struct sample){.series = series, .value = value};
			names_put(&ret->by_series, series, (void *)(uintptr_t)ret->count);
		}
		line = next ? next + 1 : end + strlen(end);
	}
}

void samples_clear(struct samples *samples)
{
	for (size_t at = 0; at < samples->count; at++)
		free(samples->list[at].series);
	free(samples->list);
	names_clear(&samples->by_series);
	*samples = (struct samples){0};
}

const struct sample *samples_next(const struct samples *samples, const char *metric, size_t *at)
{
	size_t length = strlen(metric);
	for (; *at < samples->count; ++*at) {
		const char *series = samples->list[*at].series;
		if (strncmp(series, metric, length) == 0 && (!series[length] || series[length] == '{'))
			return &samples->list[(*at)++];
	}
	return NULL;
}

static bool has_label(const struct sample *sample, const char *label, const char *value)
{
	struct buffer text = {0};
	bool equal =
		!label || (series_label(sample->series, label, &text) && strcmp(text.data ? text.data : "", value) == 0);
	buffer_free(&text);
	return equal;
}

double samples_sum(const struct samples *samples, const char *metric, const char *label, const char *value)
{
	const struct sample *sample;
	double sum = 0;
	for (size_t at = 0; (sample = samples_next(samples, metric, &at));)
		if (has_label(sample, label, value))
			sum += sample->value;
	return sum;
}

double sample_rate(const struct samples *now, const struct samples *before, const struct sample *sample)
{
	size_t place = (uintptr_t)names_get(&before->by_series, sample->series);
	double old = place ? before->list[place - 1].value : 0;
	if (!before->count || now->at <= before->at)
		return 0;
	return (sample->value - (old <= sample->value ? old : 0)) / (now->at - before->at);
}

double samples_rate(
	const struct samples *now, const struct samples *before, const char *metric, const char *label, const char *value)
{
	const struct sample *sample;
	double sum = 0;
	for (size_t at = 0; (sample = samples_next(now, metric, &at));)
		if (has_label(sample, label, value))
			sum += sample_rate(now, before, sample);
	return sum;
}

bool series_label(const char *series, const char *label, struct buffer *out)
{
	size_t length = strlen(label);
	const char *at = strchr(series, '{');
	while (at && *at && *at != '}') {
		const char *name = at + 1, *value = strchr(name, '=');
		if (!value || value[1] != '"')
			return false;
		bool wanted = (size_t)(value - name) == length && strncmp(name, label, length) == 0;
		for (at = value + 2; *at && *at != '"'; at++) {
			if (*at == '\\' && at[1])
				at++;
			if (wanted)
				buffer_add(out, *at == 'n' && at[-1] == '\\' ? "\n" : at, 1);
		}
		if (wanted)
			return true;
		at += *at == '"';
	}
	return false;
}
