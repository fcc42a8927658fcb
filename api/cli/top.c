/* SPDX-License-Identifier: Apache-2.0 */
/* penstock top: asks the agent again and again. */
#include "api/cli/top.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "api/cli/cli.h"
#include "api/cli/live.h"
#include "api/cli/record.h"
#include "api/cli/terminal.h"

#define PATIENCE_S 10         /* an agent that hangs is told of */
#define FLOWS_MAX 2000        /* looked at for each frame; of more the rate is that of these */
#define CONNECTIONS_MAX 20000 /* counted by workload; a table with more is not asked for each frame */
#define SOON_S 0.5            /* the first rates */

struct top {
	struct cli *cli;
	struct top_view view;
	double flows_since; /* seconds since 1970: of the frame before */
};

static double clock_read(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double time_of(const json_t *record)
{
	const char *text = json_string_value(json_object_get(record, "time"));
	struct timespec time;
	return text && time_read(text, &time) ? (double)time.tv_sec + (double)time.tv_nsec / 1e9 : 0;
}

/* ---- the agent's answers ---- */

/* The text of a 200; NULL after noting the trouble. */
static char *fetch(struct top *top, const char *path)
{
	struct answer answer;
	struct error e;
	if (client_call(top->cli->client, "GET", path, NULL, 0, &answer, &e) < 0) {
		snprintf(top->view.trouble, sizeof top->view.trouble, "%s", e.detail);
		return NULL;
	}
	if (answer.status == 200)
		return answer.body;
	snprintf(top->view.trouble, sizeof top->view.trouble, "%s is answered with HTTP status %ld", path, answer.status);
	answer_clear(&answer);
	return NULL;
}

static json_t *fetch_json(struct top *top, const char *path)
{
	json_error_t wrong;
	auto_free char *text = fetch(top, path);
	json_t *json = text ? json_loads(text, 0, &wrong) : NULL;
	if (text && !json)
		snprintf(top->view.trouble, sizeof top->view.trouble, "the answer to %s is not JSON: %s", path, wrong.text);
	return json;
}

/* The items of a list that an agent may be unable to give: no trouble then. */
static json_t *fetch_items(struct top *top, const char *path)
{
	char trouble[sizeof top->view.trouble];
	memcpy(trouble, top->view.trouble, sizeof trouble);
	json_t *answer = fetch_json(top, path), *items = json_incref(json_object_get(answer, "items"));
	memcpy(top->view.trouble, trouble, sizeof trouble);
	json_decref(answer);
	return items;
}

/* ---- workloads ---- */

struct loads {
	struct names by_name;
	struct workload_load *list;
	size_t count, capacity;
};

static struct workload_load *load_of(struct loads *loads, const char *name, double open)
{
	size_t place = (uintptr_t)names_get(&loads->by_name, name);
	if (!place) {
		loads->list = list_room(loads->list, loads->count, &loads->capacity, sizeof *loads->list);
		loads->list[loads->count] = (struct workload_load){.name = str_dup(name), .open = open};
		place = ++loads->count;
		names_put(&loads->by_name, name, (void *)(uintptr_t)place);
	}
	return &loads->list[place - 1];
}

/* Both ends of a connection; a workload that speaks with itself has it once. */
static void ends_count(
	struct loads *loads, const json_t *record, double open, double opened, double refused, bool known)
{
	static const char *const ends[] = {"source", "destination"};
	const char *first = NULL;
	for (int end = 0; end < 2; end++) {
		const char *name = json_string_value(json_object_get(json_object_get(record, ends[end]), "workload"));
		if (!name || (first && strcmp(first, name) == 0))
			continue;
		struct workload_load *load = load_of(loads, name, known ? 0 : -1);
		load->open += open;
		load->opened += opened;
		load->refused += refused;
		first = name;
	}
}

static void open_count(struct top *top, struct loads *loads, bool *known)
{
	json_t *record, *items = NULL;
	size_t index;
	if (samples_sum(&top->view.now, "penstock_connections", NULL, NULL) <= CONNECTIONS_MAX)
		items = fetch_items(top, "/v1/connections");
	*known = items != NULL;
	json_array_foreach(items, index, record) ends_count(loads, record, 1, 0, 0, true);
	json_decref(items);
}

/* Rates of what came since the frame before. */
static void flows_count(struct top *top, struct loads *loads, bool open_known)
{
	struct top_view *view = &top->view;
	auto_free char *path = str_format("/v1/flows?limit=%d", FLOWS_MAX);
	double now = clock_read(CLOCK_REALTIME), since = top->flows_since;
	json_t *record, *items = fetch_items(top, path);
	size_t index;
	view->flows_known = items && since > 0;
	view->opened = view->refused = 0;
	top->flows_since = now;
	/* There were more: what is known begins later. */
	if (json_array_size(items) == FLOWS_MAX && time_of(json_array_get(items, 0)) > since)
		since = time_of(json_array_get(items, 0));
	double each = now > since ? 1 / (now - since) : 0;
	json_array_foreach(items, index, record)
	{
		const char *event = json_string_value(json_object_get(record, "event"));
		if (!view->flows_known || !event || time_of(record) <= since)
			continue;
		double opened = strcmp(event, "Opened") == 0 ? each : 0, refused = strcmp(event, "Refused") == 0 ? each : 0;
		if (opened + refused > 0)
			ends_count(loads, record, 0, opened, refused, open_known);
		view->opened += opened;
		view->refused += refused;
	}
	json_decref(items);
}

static int busier(const void *a, const void *b)
{
	const struct workload_load *one = a, *other = b;
	double difference = other->opened + other->refused - one->opened - one->refused;
	if (difference == 0)
		difference = other->open - one->open;
	return difference > 0 ? 1 : difference < 0 ? -1 : strcmp(one->name, other->name);
}

static void workloads_clear(struct top_view *view)
{
	for (size_t at = 0; at < view->workload_count; at++)
		free((char *)view->workloads[at].name);
	free(view->workloads);
	view->workloads = NULL;
	view->workload_count = 0;
}

static void workloads_count(struct top *top)
{
	struct loads loads = {0};
	bool known;
	open_count(top, &loads, &known);
	flows_count(top, &loads, known);
	if (loads.count)
		qsort(loads.list, loads.count, sizeof *loads.list, busier);
	workloads_clear(&top->view);
	top->view.workloads = loads.list;
	top->view.workload_count = loads.count;
	names_clear(&loads.by_name);
}

/* ---- one sample ---- */

static void history_add(struct history *history, double value)
{
	if (history->count == HISTORY)
		memmove(history->values, history->values + 1, --history->count * sizeof *history->values);
	history->values[history->count++] = value;
}

static void alerts_gather(struct top *top)
{
	json_t *record, *items = fetch_items(top, "/v1/alerts");
	double since = clock_read(CLOCK_REALTIME) - 60 * ALERT_MINUTES;
	size_t index;
	json_decref(top->view.alerts);
	top->view.alerts = items ? json_array() : NULL;
	json_array_foreach(items, index, record) if (time_of(record) >= since) json_array_append(top->view.alerts, record);
	json_decref(items);
}

/* 0, or -1 with the trouble noted: then everything is as it was before. */
static int gather(struct top *top)
{
	struct top_view *view = &top->view;
	view->trouble[0] = 0;
	auto_free char *metrics = fetch(top, "/metrics");
	json_t *status = metrics ? fetch_json(top, "/v1/status") : NULL;
	if (!status)
		return -1;
	json_decref(view->status);
	view->status = status;
	samples_clear(&view->before);
	view->before = view->now;
	samples_read(&view->now, metrics, clock_read(CLOCK_MONOTONIC));
	workloads_count(top);
	alerts_gather(top);
	history_add(&view->connections, samples_sum(&view->now, "penstock_connections", NULL, NULL));
	if (view->before.count) {
		history_add(&view->packets, samples_rate(&view->now, &view->before, "penstock_packets_total", NULL, NULL));
		history_add(&view->bytes, samples_rate(&view->now, &view->before, "penstock_bytes_total", NULL, NULL));
		history_add(&view->begun, view->opened);
	}
	return 0;
}

static void view_clear(struct top_view *view)
{
	samples_clear(&view->now);
	samples_clear(&view->before);
	json_decref(view->status);
	json_decref(view->alerts);
	workloads_clear(view);
}

/* ---- frames ---- */

static int trouble(const struct top *top)
{
	fprintf(stderr, "penstock: %s\n", top->view.trouble);
	return CODE_UNREACHABLE;
}

static int once(struct top *top, double interval)
{
	struct buffer text = {0};
	size_t columns, lines;
	terminal_size(&columns, &lines);
	struct timespec pause = {(time_t)interval, (long)((interval - (double)(time_t)interval) * 1e9)};
	if (gather(top) < 0)
		return trouble(top);
	nanosleep(&pause, NULL);
	if (live_ended())
		return CODE_OK;
	if (gather(top) < 0)
		return live_ended() ? CODE_OK : trouble(top);
	top_draw(&top->view, columns, SIZE_MAX, style_wanted(top->cli->color), &text);
	fputs(text.data, stdout);
	buffer_free(&text);
	return CODE_OK;
}

static void show(const struct top *top)
{
	struct buffer text = {0};
	size_t columns, lines;
	terminal_size(&columns, &lines);
	top_draw(&top->view, columns, lines, style_wanted(top->cli->color), &text);
	terminal_show(text.data);
	buffer_free(&text);
}

/* Until the next frame is due; false: it is to end. */
static bool pass(const struct top *top, double until)
{
	for (;;) {
		double left = until - clock_read(CLOCK_MONOTONIC);
		int key = 0;
		switch (terminal_wait(left > 0 ? left : 0, &key)) {
		case TERMINAL_TIME:
			return true;
		case TERMINAL_RESIZED:
			show(top);
			break;
		case TERMINAL_KEY:
			if (key == 'q' || key == 'Q')
				return false;
			break;
		case TERMINAL_END:
			return false;
		}
	}
}

static int live(struct top *top, int ends, double interval)
{
	if (gather(top) < 0)
		return live_ended() ? CODE_OK : trouble(top);
	terminal_enter(ends);
	show(top);
	for (double soon = interval < SOON_S ? interval : SOON_S;; soon = interval) {
		if (!pass(top, clock_read(CLOCK_MONOTONIC) + soon))
			break;
		gather(top);
		if (live_ended())
			break;
		show(top);
	}
	terminal_leave();
	return CODE_OK;
}

int command_top(struct cli *cli)
{
	struct top top = {.cli = cli};
	char *end;
	double interval = cli->interval ? strtod(cli->interval, &end) : 1;
	if (cli->word_count)
		return cli_usage(cli, "what is %s?", cli->words[0]);
	if (cli->interval && (*end || end == cli->interval || !(interval >= 0.1 && interval <= 3600)))
		return cli_usage(cli, "--interval is from 0.1 to 3600 seconds, not %s", cli->interval);
	int ends = live_begin();
	client_stop_by(cli->client, ends);
	client_patience(cli->client, PATIENCE_S);
	bool screen = !cli->once && isatty(STDOUT_FILENO);
	int code = screen ? live(&top, ends, interval) : once(&top, interval);
	view_clear(&top.view);
	return code;
}
