/* SPDX-License-Identifier: Apache-2.0 */
/* A frame of penstock top: panels of lines, side by side where the terminal is wide. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "agent/base/mem.h"
#include "api/cli/record.h"
#include "api/cli/top.h"

/* Columns from which on two panels stand side by side: short lines, and names. */
#define SHORT_BESIDE 76
#define NAMES_BESIDE 96
#define GAP 4
#define RANKED_MIN 2
#define RANKED_MAX 12
#define ALERTS_MIN 3
#define ROOMY 28 /* lines from which on none is spared */

struct panel {
	char **lines;
	size_t count, capacity;
};
struct frame {
	const struct top_view *view;
	size_t columns, half; /* half: of a panel */
	bool colours;
	struct panel all;
};

static const char *text_of(const json_t *json, const char *member)
{
	const char *text = json_string_value(json_object_get(json, member));
	return text ? text : "";
}

/* ---- panels ---- */

static void panel_take(struct panel *panel, struct buffer *line)
{
	panel->lines = list_room(panel->lines, panel->count, &panel->capacity, sizeof *panel->lines);
	panel->lines[panel->count++] = buffer_take(line);
}

static void panel_clear(struct panel *panel)
{
	for (size_t at = 0; at < panel->count; at++)
		free(panel->lines[at]);
	free(panel->lines);
	*panel = (struct panel){0};
}

static void styled(const struct frame *frame, enum style style, const char *text, struct buffer *out)
{
	bool shown = frame->colours && style != STYLE_PLAIN;
	buffer_puts(out, shown ? style_begin(style) : "");
	buffer_puts(out, text);
	buffer_puts(out, shown ? STYLE_END : "");
}

static void panel_title(const struct frame *frame, struct panel *panel, const char *text)
{
	struct buffer line = {0};
	styled(frame, STYLE_BOLD, text, &line);
	panel_take(panel, &line);
}

/* The text's lines. */
static void panel_text(struct panel *panel, struct buffer *text)
{
	for (const char *at = text->data; at && *at;) {
		struct buffer line = {0};
		size_t length = strcspn(at, "\n");
		buffer_add(&line, at, length);
		panel_take(panel, &line);
		at += length + (at[length] == '\n');
	}
	buffer_free(text);
}

static void frame_blank(struct frame *frame)
{
	struct buffer line = {0};
	panel_take(&frame->all, &line);
}

/* Moves both panels into the frame: beside each other, or the second below the first. */
static void frame_pair(struct frame *frame, struct panel *left, struct panel *right)
{
	bool beside = frame->half < frame->columns;
	size_t rows = beside ? (left->count > right->count ? left->count : right->count) : left->count + 1 + right->count;
	for (size_t row = 0; row < rows; row++) {
		struct buffer line = {0};
		if (beside) {
			text_fit(&line, row < left->count ? left->lines[row] : "", frame->half, row < right->count);
			if (row < right->count) {
				buffer_printf(&line, "%*s", GAP, "");
				buffer_puts(&line, right->lines[row]);
			}
		} else if (row != left->count) {
			buffer_puts(&line, row < left->count ? left->lines[row] : right->lines[row - left->count - 1]);
		}
		panel_take(&frame->all, &line);
	}
	panel_clear(left);
	panel_clear(right);
}

/* ---- quantities ---- */

/* "0", "0.4", "12", "1.2k"; "-" before there is a rate. */
static void rate_put(const struct frame *frame, double rate, struct buffer *out)
{
	if (!frame->view->before.count)
		buffer_puts(out, "-");
	else if (rate > 0 && rate < 9.95)
		buffer_printf(out, "%.1f", rate);
	else
		text_count(out, rate);
}

/* Right-aligned in so many columns. */
static void aligned(struct buffer *text, size_t width, struct buffer *out)
{
	size_t taken = text->data ? text_width(text->data) : 0;
	buffer_printf(out, "%*s%s", taken < width ? (int)(width - taken) : 0, "", taken ? text->data : "");
	buffer_free(text);
}

/* The last values as bars of eight heights; the highest is the highest of all. */
static void sparkline(const struct history *history, size_t width, struct buffer *out)
{
	static const char *const bars[] = {"\xe2\x96\x81", "\xe2\x96\x82", "\xe2\x96\x83", "\xe2\x96\x84", "\xe2\x96\x85",
		"\xe2\x96\x86", "\xe2\x96\x87", "\xe2\x96\x88"};
	double highest = 0;
	size_t from = history->count > width ? history->count - width : 0;
	for (size_t at = from; at < history->count; at++)
		highest = history->values[at] > highest ? history->values[at] : highest;
	for (size_t at = from; at < history->count; at++)
		buffer_puts(out, bars[highest > 0 ? (int)(history->values[at] / highest * 7 + 0.5) : 0]);
}

/* A bar of eighths of columns. */
static void bar(double share, size_t width, struct buffer *out)
{
	static const char *const parts[] = {"", "\xe2\x96\x8f", "\xe2\x96\x8e", "\xe2\x96\x8d", "\xe2\x96\x8c",
		"\xe2\x96\x8b", "\xe2\x96\x8a", "\xe2\x96\x89"};
	long eighths = (long)(share * (double)width * 8 + 0.5);
	if (share > 0 && !eighths)
		eighths = 1;
	for (long at = 0; at < eighths / 8; at++)
		buffer_puts(out, "\xe2\x96\x88");
	buffer_puts(out, parts[eighths % 8]);
}

/* ---- head ---- */

static void frame_head(struct frame *frame)
{
	const json_t *status = frame->view->status, *engine = json_object_get(status, "engine");
	struct buffer line = {0}, clock = {0}, node = {0};
	char text[32];
	time_t now = time(NULL);
	struct tm here;
	bool ready = json_is_true(json_object_get(status, "ready"));
	strftime(text, sizeof text, "%H:%M:%S", localtime_r(&now, &here));
	buffer_puts(&clock, text);
	text_clean(&node, text_of(status, "node"));
	styled(frame, STYLE_BOLD, node.data && node.length ? node.data : "penstock", &line);
	buffer_printf(&line, "   revision %lld", (long long)json_integer_value(json_object_get(status, "revision")));
	if (*text_of(engine, "active"))
		buffer_printf(&line, "   engine %s", text_of(engine, "active"));
	buffer_puts(&line, "   ");
	styled(frame, ready ? STYLE_GREEN : STYLE_RED, ready ? "ready" : "not ready", &line);
	size_t taken = text_width(line.data);
	if (taken + clock.length + 2 <= frame->columns)
		aligned(&clock, frame->columns - taken, &line);
	panel_take(&frame->all, &line);
	if (frame->view->trouble[0]) {
		styled(frame, STYLE_RED, frame->view->trouble, &line);
		panel_take(&frame->all, &line);
	}
	buffer_free(&clock);
	buffer_free(&node);
}

/* ---- traffic and verdicts ---- */

#define NAME_WIDTH 13
#define RATE_WIDTH 10

static void traffic_row(const struct frame *frame, struct panel *panel, const char *name, struct buffer *value,
	const struct history *history)
{
	struct buffer line = {0}, spark = {0};
	buffer_printf(&line, "%-*s", NAME_WIDTH, name);
	aligned(value, RATE_WIDTH, &line);
	sparkline(history, frame->half - NAME_WIDTH - RATE_WIDTH - 2, &spark);
	if (spark.length) {
		buffer_puts(&line, "  ");
		styled(frame, STYLE_CYAN, spark.data, &line);
	}
	buffer_free(&spark);
	panel_take(panel, &line);
}

static double last_of(const struct history *history)
{
	return history->count ? history->values[history->count - 1] : 0;
}

static void traffic(const struct frame *frame, struct panel *panel)
{
	const struct top_view *view = frame->view;
	struct buffer packets = {0}, bytes = {0}, open = {0}, begun = {0};
	panel_title(frame, panel, "TRAFFIC");
	rate_put(frame, last_of(&view->packets), &packets);
	buffer_puts(&packets, "/s");
	if (view->bytes.count)
		text_bytes(&bytes, last_of(&view->bytes));
	else
		buffer_puts(&bytes, "-");
	buffer_puts(&bytes, "/s");
	text_count(&open, last_of(&view->connections));
	if (view->flows_known)
		rate_put(frame, view->opened, &begun);
	else
		buffer_puts(&begun, "-");
	buffer_puts(&begun, "/s");
	traffic_row(frame, panel, "Packets", &packets, &view->packets);
	traffic_row(frame, panel, "Bytes", &bytes, &view->bytes);
	traffic_row(frame, panel, "Connections", &open, &view->connections);
	traffic_row(frame, panel, "New", &begun, &view->begun);
}

static void verdicts(const struct frame *frame, struct panel *panel)
{
	static const struct {
		const char *name;
		enum style style;
	} known[] = {{"Forwarded", STYLE_GREEN}, {"Intercepted", STYLE_CYAN}, {"Audited", STYLE_YELLOW},
		{"Dropped", STYLE_RED}, {"Rejected", STYLE_RED}};
	double rates[5], highest = 0;
	panel_title(frame, panel, "VERDICTS (packets/s)");
	for (size_t at = 0; at < 5; at++) {
		rates[at] =
			samples_rate(&frame->view->now, &frame->view->before, "penstock_packets_total", "verdict", known[at].name);
		highest = rates[at] > highest ? rates[at] : highest;
	}
	for (size_t at = 0; at < 5; at++) {
		struct buffer line = {0}, rate = {0}, strip = {0};
		buffer_printf(&line, "%-*s", NAME_WIDTH, known[at].name);
		rate_put(frame, rates[at], &rate);
		aligned(&rate, RATE_WIDTH, &line);
		bar(highest > 0 ? rates[at] / highest : 0, frame->half - NAME_WIDTH - RATE_WIDTH - 2, &strip);
		if (strip.length) {
			buffer_puts(&line, "  ");
			styled(frame, known[at].style, strip.data, &line);
		}
		buffer_free(&strip);
		panel_take(panel, &line);
	}
}

/* ---- rankings ---- */

struct ranked {
	const struct sample *sample;
	double rate;
};

static int faster(const void *a, const void *b)
{
	const struct ranked *one = a, *other = b;
	if (one->rate != other->rate)
		return one->rate < other->rate ? 1 : -1;
	if (one->sample->value != other->sample->value)
		return one->sample->value < other->sample->value ? 1 : -1;
	return strcmp(one->sample->series, other->sample->series);
}

/* "NetworkPolicy shop/web Ingress from-web" */
static void series_rule(const char *series, struct buffer *out)
{
	static const char *const labels[] = {"kind", "policy_namespace", "policy", "direction", "rule"};
	for (size_t at = 0; at < 5; at++) {
		struct buffer value = {0};
		series_label(series, labels[at], &value);
		if (value.length)
			buffer_printf(out, "%s%s", value.data, at == 1 ? "/" : at < 4 ? " " : "");
		buffer_free(&value);
	}
}

/* A number in a column of so many. */
static void cell_number(struct table *table, struct buffer *number, size_t width)
{
	struct buffer cell = {0};
	aligned(number, width, &cell);
	table_take(table, &cell);
}

static void titles(struct table *table, const char *const *names)
{
	for (; *names; names++) {
		table_cell(table, *names);
		table_style(table, STYLE_DIM);
	}
}

static void table_put(const struct frame *frame, struct table *table, struct panel *panel)
{
	struct buffer text = {0};
	table->colours = frame->colours;
	table_render(table, "", &text);
	panel_text(panel, &text);
}

static void rules(const struct frame *frame, struct panel *panel, size_t most)
{
	static const char *const names[] = {"HITS/S", " TOTAL", "RULE", NULL};
	const struct top_view *view = frame->view;
	struct ranked *list = NULL;
	size_t count = 0, capacity = 0;
	const struct sample *sample;
	for (size_t at = 0; (sample = samples_next(&view->now, "penstock_rule_hits_total", &at));) {
		list = list_room(list, count, &capacity, sizeof *list);
		list[count++] = (struct ranked){sample, sample_rate(&view->now, &view->before, sample)};
	}
	panel_title(frame, panel, "TOP RULES");
	struct table table;
	table_init(&table, 3);
	table.gap = 2;
	titles(&table, names);
	if (count)
		qsort(list, count, sizeof *list, faster);
	for (size_t at = 0; at < count && at < most && list[at].sample->value > 0; at++) {
		struct buffer rate = {0}, total = {0}, name = {0};
		rate_put(frame, list[at].rate, &rate);
		text_count(&total, list[at].sample->value);
		series_rule(list[at].sample->series, &name);
		cell_number(&table, &rate, 6);
		cell_number(&table, &total, 6);
		table_take(&table, &name);
	}
	free(list);
	table_put(frame, &table, panel);
}

static void workloads(const struct frame *frame, struct panel *panel, size_t most)
{
	static const char *const names[] = {"  OPEN", " NEW/S", "REFUSED/S", "WORKLOAD", NULL};
	const struct top_view *view = frame->view;
	struct table table;
	panel_title(frame, panel, "TOP WORKLOADS");
	table_init(&table, 4);
	table.gap = 2;
	titles(&table, names);
	for (size_t at = 0; at < view->workload_count && at < most; at++) {
		const struct workload_load *load = &view->workloads[at];
		struct buffer open = {0}, opened = {0}, refused = {0};
		if (load->open < 0)
			buffer_puts(&open, "-");
		else
			text_count(&open, load->open);
		rate_put(frame, load->opened, &opened);
		rate_put(frame, load->refused, &refused);
		cell_number(&table, &open, 6);
		cell_number(&table, &opened, 6);
		cell_number(&table, &refused, 9);
		if (load->refused > 0)
			table_style(&table, STYLE_RED);
		table_cell(&table, load->name);
	}
	table_put(frame, &table, panel);
}

/* ---- proxies and alerts ---- */

/* "● ai-gateway 3.3/s" or "○ waf down" */
static void proxy_put(const struct frame *frame, const json_t *proxy, struct buffer *out)
{
	struct buffer name = {0};
	bool up = json_is_true(json_object_get(proxy, "up"));
	text_clean(&name, text_of(proxy, "name"));
	styled(frame, up ? STYLE_GREEN : STYLE_RED, up ? "\xe2\x97\x8f" : "\xe2\x97\x8b", out);
	buffer_printf(out, " %s ", name.data ? name.data : "");
	buffer_free(&name);
	if (!up) {
		styled(frame, STYLE_RED, "down", out);
		return;
	}
	rate_put(frame,
		samples_rate(&frame->view->now, &frame->view->before, "penstock_intercepted_connections_total", "proxy",
			text_of(proxy, "name")),
		out);
	buffer_puts(out, "/s");
}

/* As many in a line as fit. */
static void proxies(const struct frame *frame, struct panel *panel)
{
	const json_t *list = json_object_get(frame->view->status, "proxies");
	json_t *proxy;
	struct buffer line = {0};
	size_t index;
	panel_title(frame, panel, "PROXIES (connections/s)");
	json_array_foreach(list, index, proxy)
	{
		struct buffer one = {0};
		proxy_put(frame, proxy, &one);
		if (line.length && text_width(line.data) + 3 + text_width(one.data) > frame->columns)
			panel_take(panel, &line);
		buffer_printf(&line, "%s%s", line.length ? "   " : "", one.data);
		buffer_free(&one);
	}
	if (!json_array_size(list))
		styled(frame, STYLE_DIM, "none", &line);
	panel_take(panel, &line);
}

/* The last ones. */
static void alerts(const struct frame *frame, struct panel *panel, size_t most)
{
	const json_t *list = frame->view->alerts;
	size_t count = json_array_size(list), from = count > most ? count - most : 0;
	struct buffer title = {0};
	struct table table;
	buffer_printf(&title, "ALERTS (%d minutes)", ALERT_MINUTES);
	panel_title(frame, panel, title.data);
	buffer_free(&title);
	if (!count) {
		struct buffer line = {0};
		styled(frame, list ? STYLE_GREEN : STYLE_DIM, list ? "none" : "the agent does not say", &line);
		panel_take(panel, &line);
		return;
	}
	const struct record_column *columns = alert_columns(false);
	size_t width = 0;
	while (columns[width].title)
		width++;
	table_init(&table, width);
	table.gap = 2;
	for (size_t at = from; at < count; at++)
		record_row(&table, columns, json_array_get(list, at));
	table_put(frame, &table, panel);
}

/* ---- a whole frame ---- */

/* How many rows each ranking may have, so that the rest fits as well. */
static size_t ranked_most(const struct frame *frame, size_t lines)
{
	size_t told = json_array_size(frame->view->alerts);
	/* Two lines of titles; a blank, a title and a line of proxies; a blank, a title and alerts. */
	size_t others = frame->all.count + 2 + 2 + 1 + 2 + (told > ALERTS_MIN ? ALERTS_MIN : told ? told : 1);
	size_t room = lines > others ? lines - others : 0;
	if (frame->half >= frame->columns)
		room = room > 3 ? (room - 3) / 2 : 0;
	return room < RANKED_MIN ? RANKED_MIN : room > RANKED_MAX ? RANKED_MAX : room;
}

/* How wide each of two panels is: half of it, or all where the terminal is narrower than that. */
static void frame_split(struct frame *frame, size_t beside)
{
	frame->half = frame->columns >= beside ? (frame->columns - GAP) / 2 : frame->columns;
	if (frame->half < NAME_WIDTH + RATE_WIDTH + 2)
		frame->half = NAME_WIDTH + RATE_WIDTH + 2;
}

void top_draw(const struct top_view *view, size_t columns, size_t lines, bool colours, struct buffer *out)
{
	struct frame frame = {.view = view, .columns = columns, .colours = colours};
	struct panel left = {0}, right = {0};
	frame_split(&frame, SHORT_BESIDE);
	frame_head(&frame);
	if (lines >= ROOMY)
		frame_blank(&frame);
	traffic(&frame, &left);
	verdicts(&frame, &right);
	frame_pair(&frame, &left, &right);
	frame_blank(&frame);
	frame_split(&frame, NAMES_BESIDE);
	size_t most = ranked_most(&frame, lines);
	rules(&frame, &left, most);
	workloads(&frame, &right, most);
	frame_pair(&frame, &left, &right);
	frame_blank(&frame);
	proxies(&frame, &frame.all);
	frame_blank(&frame);
	alerts(&frame, &frame.all, lines > frame.all.count + 2 ? lines - frame.all.count - 1 : 1);
	for (size_t row = 0; row < frame.all.count && row < lines; row++) {
		text_fit(out, frame.all.lines[row], columns, false);
		buffer_puts(out, "\n");
	}
	panel_clear(&frame.all);
}
