/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/status_show.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>
#include "agent/base/mem.h"
#include "api/cli/show.h"
#include "api/cli/table.h"

static const char *text_of(const json_t *json, const char *member)
{
	const char *text = json_string_value(json_object_get(json, member));
	return text ? text : "";
}

static bool true_of(const json_t *json, const char *member)
{
	return json_is_true(json_object_get(json, member));
}

static long long number_of(const json_t *json, const char *member)
{
	return (long long)json_integer_value(json_object_get(json, member));
}

/* ---- lines: "Name: value" ---- */

static void line(struct table *table, const char *name, enum style style, struct buffer *value)
{
	struct buffer title = {0};
	buffer_printf(&title, "%s:", name);
	table_take(table, &title);
	table_take(table, value);
	table_style(table, style);
}

static void line_state(struct table *table, const json_t *status)
{
	struct buffer value = {0};
	bool ready = true_of(status, "ready");
	buffer_puts(&value, ready ? "ready" : "not ready: ");
	buffer_puts(&value, text_of(status, "notReadyBecause"));
	line(table, "State", ready ? STYLE_GREEN : STYLE_RED, &value);
}

static void lines_node(struct table *table, const json_t *status)
{
	struct buffer node = {0}, revision = {0}, version = {0};
	buffer_puts(&node, text_of(status, "node"));
	buffer_printf(&revision, "%lld", number_of(status, "revision"));
	if (*text_of(status, "epoch"))
		buffer_printf(&revision, " (epoch %s)", text_of(status, "epoch"));
	buffer_printf(&version, "penstockd %s, kernel %s", text_of(status, "version"), text_of(status, "kernel"));
	line(table, "Node", STYLE_BOLD, &node);
	line_state(table, status);
	line(table, "Revision", STYLE_PLAIN, &revision);
	line(table, "Version", STYLE_PLAIN, &version);
}

static void lines_engine(struct table *table, const json_t *status)
{
	const json_t *engine = json_object_get(status, "engine"), *ruleset = json_object_get(engine, "table");
	const json_t *sockets = json_object_get(status, "originalDestination");
	struct buffer active = {0}, stands = {0}, answered = {0};
	buffer_printf(&active, "%s", text_of(engine, "active"));
	if (strcmp(text_of(engine, "configured"), text_of(engine, "active")) != 0)
		buffer_printf(&active, " (configured: %s)", text_of(engine, "configured"));
	buffer_printf(&active, ": %s", text_of(engine, "reason"));
	buffer_printf(&stands, "table inet penstock of nftables %s%s",
		true_of(ruleset, "stands") ? "stands" : "is not there: ", text_of(ruleset, "reason"));
	buffer_printf(&answered, "SO_ORIGINAL_DST is %s%s",
		true_of(sockets, "attached") ? "answered" : "not answered: ", text_of(sockets, "reason"));
	line(table, "Engine", STYLE_PLAIN, &active);
	if (json_is_object(ruleset))
		line(table, "Hand-over", STYLE_PLAIN, &stands);
	if (json_is_object(sockets))
		line(table, "Original destination", STYLE_PLAIN, &answered);
}

static size_t count_of(const json_t *array, const char *member, const char *value)
{
	json_t *element;
	size_t index, count = 0;
	json_array_foreach(array, index, element) count += strcmp(text_of(element, member), value) == 0;
	return count;
}

static void line_workloads(struct table *table, const json_t *workloads)
{
	struct buffer value = {0};
	size_t pending = count_of(workloads, "state", "pending");
	buffer_printf(&value, "%zu attached", json_array_size(workloads) - pending);
	if (pending)
		buffer_printf(&value, ", %zu pending: no interface yet", pending);
	line(table, "Workloads", pending ? STYLE_YELLOW : STYLE_PLAIN, &value);
}

#define NEARLY_FULL 0.8

static void line_maps(struct table *table, const json_t *maps)
{
	const json_t *map, *fullest = NULL;
	double most = -1;
	size_t index;
	struct buffer value = {0};
	json_array_foreach((json_t *)maps, index, map)
	{
		double capacity = (double)number_of(map, "capacity");
		double share = capacity > 0 ? (double)number_of(map, "entries") / capacity : 0;
		if (share > most) {
			most = share;
			fullest = map;
		}
	}
	buffer_printf(&value, "%zu", json_array_size(maps));
	if (fullest)
		buffer_printf(&value, ", the fullest is %s: %lld of %lld entries (%.0f %%)", text_of(fullest, "map"),
			number_of(fullest, "entries"), number_of(fullest, "capacity"), most * 100);
	line(table, "Maps", most >= NEARLY_FULL ? STYLE_RED : STYLE_PLAIN, &value);
}

/* What the agent looked at (penstock doctor). */
static void line_checks(struct table *table, const json_t *checks)
{
	struct buffer value = {0};
	size_t all = json_array_size(checks), well = count_of(checks, "level", "ok");
	size_t warnings = count_of(checks, "level", "warning"), bad = all - well - warnings;
	if (!all)
		return;
	buffer_printf(&value, "%zu well", well);
	if (warnings)
		buffer_printf(&value, ", %zu warning%s", warnings, warnings == 1 ? "" : "s");
	if (bad)
		buffer_printf(&value, ", %zu not well", bad);
	if (well < all)
		buffer_puts(&value, ": penstock doctor says which");
	line(table, "Checks", bad ? STYLE_RED : warnings ? STYLE_YELLOW : STYLE_PLAIN, &value);
}

static void lines_trouble(struct table *table, const json_t *status)
{
	const json_t *error = json_object_get(status, "lastError");
	size_t quarantined = json_array_size(json_object_get(status, "quarantined"));
	struct buffer aside = {0}, last = {0};
	if (quarantined)
		buffer_printf(&aside, "%zu object%s", quarantined, quarantined == 1 ? "" : "s");
	else
		buffer_puts(&aside, "nothing");
	if (json_is_object(error))
		buffer_printf(&last, "%s: %s", text_of(error, "time"), text_of(error, "detail"));
	else
		buffer_puts(&last, "none");
	line(table, "Quarantined", quarantined ? STYLE_RED : STYLE_PLAIN, &aside);
	line(table, "Last error", json_is_object(error) ? STYLE_RED : STYLE_PLAIN, &last);
}

/* ---- sections: a table each ---- */

struct column {
	const char *title, *member; /* the member's value, or: */
	void (*render)(const json_t *element, struct buffer *out);
};
#define COLUMNS_MAX 9

struct section {
	const char *title, *member;
	struct column columns[COLUMNS_MAX];
	bool wide_only;
	bool (*of_note)(const json_t *element); /* not wide: there only if it is so of any element; NULL: always */
};

static void qualified_name(const json_t *element, struct buffer *out)
{
	const char *namespace = text_of(element, "namespace");
	buffer_printf(out, "%s%s%s", namespace, *namespace ? "/" : "", text_of(element, "name"));
}

static void up_or_down(const json_t *proxy, struct buffer *out)
{
	buffer_puts(out, true_of(proxy, "up") ? "up" : "down");
}

/* {"TCP": ["IPv4", "IPv6"]} as TCP/IPv4,TCP/IPv6 */
static void available(const json_t *proxy, struct buffer *out)
{
	json_t *families, *family;
	const char *protocol;
	size_t at;
	json_object_foreach(json_object_get(proxy, "available"), protocol, families)
	{
		json_array_foreach(families, at, family)
			buffer_printf(out, "%s%s/%s", out->length ? "," : "", protocol, json_string_value(family));
	}
}

static void socket_of(const json_t *listener, struct buffer *out)
{
	const char *address = text_of(listener, "address");
	long long count = number_of(listener, "count");
	buffer_printf(out, strchr(address, ':') ? "%s [%s]:%lld" : "%s %s:%lld", text_of(listener, "protocol"), address,
		number_of(listener, "port"));
	if (count > 1)
		buffer_printf(out, " \xc3\x97%lld", count);
}

static void result_of(const json_t *trial, struct buffer *out)
{
	buffer_puts(out, true_of(trial, "passed") ? "passed" : "failed");
}

static bool trial_failed(const json_t *trial)
{
	return !true_of(trial, "passed");
}

/* "/spec/x: why; /spec/y: why" */
static void errors_of(const json_t *quarantined, struct buffer *out)
{
	json_t *error;
	size_t index;
	json_array_foreach(json_object_get(quarantined, "errors"), index, error)
	{
		const char *pointer = text_of(error, "pointer");
		buffer_printf(out, "%s%s%s%s", index ? "; " : "", pointer, *pointer ? ": " : "", text_of(error, "detail"));
	}
}

static void fill_of(const json_t *map, struct buffer *out)
{
	double capacity = (double)number_of(map, "capacity");
	buffer_printf(out, "%.0f %%", capacity > 0 ? 100 * (double)number_of(map, "entries") / capacity : 0);
}

static const struct section sections[] = {
	{.title = "Proxies",
		.member = "proxies",
		.columns = {{.title = "NAME", .member = "name"}, {.title = "STATE", .render = up_or_down},
			{.title = "PORT", .member = "port"}, {.title = "PROTOCOLS", .member = "protocols"},
			{.title = "AVAILABLE", .render = available}, {.title = "ON-UNAVAILABLE", .member = "onUnavailable"}}},
	{.title = "Listeners",
		.member = "listeners",
		.columns = {{.title = "PROXY", .member = "proxy"}, {.title = "SOCKET", .render = socket_of},
			{.title = "STATE", .member = "state"}, {.title = "PID", .member = "pid"}, {.title = "UID", .member = "uid"},
			{.title = "EXECUTABLE", .member = "executable"}, {.title = "WHY", .member = "why"}}},
	{.title = "Trials of engines",
		.member = "tried",
		.columns = {{.title = "ENGINE", .member = "engine"}, {.title = "PROTOCOL", .member = "protocol"},
			{.title = "FAMILY", .member = "family"}, {.title = "RESULT", .render = result_of},
			{.title = "DETAIL", .member = "detail"}},
		.of_note = trial_failed},
	{.title = "Hooks",
		.member = "hooks",
		.columns = {{.title = "INTERFACE", .member = "interface"}, {.title = "INDEX", .member = "ifindex"},
			{.title = "HOOK", .member = "hook"}, {.title = "ROLE", .member = "role"},
			{.title = "WORKLOAD", .member = "endpoint"}, {.title = "ERROR", .member = "error"}}},
	{.title = "Workloads",
		.member = "workloads",
		.columns = {{.title = "NAME", .render = qualified_name}, {.title = "KIND", .member = "kind"},
			{.title = "STATE", .member = "state"}, {.title = "INTERFACE", .member = "interface"}}},
	{.title = "Control groups",
		.member = "cgroups",
		.columns = {{.title = "CGROUP", .member = "cgroup"}, {.title = "STATE", .member = "state"},
			{.title = "ERROR", .member = "error"}}},
	{.title = "Quarantined",
		.member = "quarantined",
		.columns = {{.title = "KIND", .member = "kind"}, {.title = "NAME", .render = qualified_name},
			{.title = "OWNER", .member = "owner"}, {.title = "WHY", .render = errors_of}}},
	{.title = "Maps",
		.member = "maps",
		.columns = {{.title = "MAP", .member = "map"}, {.title = "ENTRIES", .member = "entries"},
			{.title = "CAPACITY", .member = "capacity"}, {.title = "FULL", .render = fill_of}},
		.wide_only = true},
};
#define SECTIONS (sizeof sections / sizeof sections[0])

static enum style word_style(const char *word)
{
	static const struct {
		const char *word;
		enum style style;
	} styles[] = {{"up", STYLE_GREEN}, {"Ready", STYLE_GREEN}, {"Adopted", STYLE_GREEN}, {"passed", STYLE_GREEN},
		{"down", STYLE_RED}, {"failed", STYLE_RED}, {"Ignored", STYLE_YELLOW}, {"pending", STYLE_YELLOW}};
	for (size_t at = 0; at < sizeof styles / sizeof styles[0]; at++)
		if (strcmp(styles[at].word, word) == 0)
			return styles[at].style;
	return STYLE_PLAIN;
}

static void cell(struct table *table, const struct column *column, const json_t *element)
{
	struct buffer text = {0};
	if (column->render)
		column->render(element, &text);
	else
		value_text(json_object_get(element, column->member), &text);
	enum style style = word_style(text.data ? text.data : "");
	table_take(table, &text);
	table_style(table, style);
}

/* A column that says nothing of any element is left out. */
static bool column_used(const struct column *column, const json_t *array)
{
	json_t *element;
	size_t index;
	bool used = false;
	json_array_foreach((json_t *)array, index, element) used |=
		column->render ||
		!(json_is_null(json_object_get(element, column->member)) || !json_object_get(element, column->member));
	return used;
}

static void section_head(const char *title, bool colours, struct buffer *out)
{
	buffer_printf(out, "\n%s%s%s:\n", colours ? style_begin(STYLE_BOLD) : "", title, colours ? STYLE_END : "");
}

static void section_show(const struct section *section, const json_t *array, bool colours, struct buffer *out)
{
	const struct column *used[COLUMNS_MAX];
	size_t count = 0, index;
	struct table table;
	json_t *element;
	for (const struct column *column = section->columns; column < section->columns + COLUMNS_MAX && column->title;
		 column++)
		if (column_used(column, array))
			used[count++] = column;
	table_init(&table, count);
	table.colours = colours;
	for (size_t at = 0; at < count; at++) {
		table_cell(&table, used[at]->title);
		table_style(&table, STYLE_DIM);
	}
	json_array_foreach((json_t *)array, index, element)
	{
		for (size_t at = 0; at < count; at++)
			cell(&table, used[at], element);
	}
	section_head(section->title, colours, out);
	table_render(&table, "  ", out);
}

/* Counts it with an equal one that is there already: the sockets of one SO_REUSEPORT group. */
static bool listener_counted(json_t *all, const json_t *listener)
{
	json_t *other;
	size_t index;
	json_array_foreach(all, index, other)
	{
		long long count = number_of(other, "count");
		json_object_del(other, "count");
		bool equal = json_equal(other, listener);
		json_object_set_new(other, "count", json_integer(count + equal));
		if (equal)
			return true;
	}
	return false;
}

/* The proxies' listeners as one list. The caller releases it. */
static json_t *listeners_of(const json_t *status)
{
	json_t *all = json_array(), *proxy, *listener;
	size_t at, inner;
	json_array_foreach(json_object_get(status, "proxies"), at, proxy)
	{
		json_array_foreach(json_object_get(proxy, "listeners"), inner, listener)
		{
			json_t *copy = json_copy(listener);
			json_object_set(copy, "proxy", json_object_get(proxy, "name"));
			if (!listener_counted(all, copy)) {
				json_object_set_new(copy, "count", json_integer(1));
				json_array_append(all, copy);
			}
			json_decref(copy);
		}
	}
	return all;
}

static bool section_wanted(const struct section *section, const json_t *array, bool wide)
{
	json_t *element;
	size_t index;
	bool noted = !section->of_note || wide;
	json_array_foreach((json_t *)array, index, element) noted |= section->of_note && section->of_note(element);
	return json_array_size(array) && noted && (wide || !section->wide_only);
}

/* ---- members that are new to this program ---- */

static bool known(const char *member)
{
	static const char *const told[] = {"node", "ready", "notReadyBecause", "revision", "epoch", "version", "kernel",
		"engine", "originalDestination", "checks", "configuration", "lastError", NULL};
	for (size_t at = 0; at < SECTIONS; at++)
		if (strcmp(sections[at].member, member) == 0)
			return true;
	for (const char *const *name = told; *name; name++)
		if (strcmp(*name, member) == 0)
			return true;
	return false;
}

/* "lastError" → "Last error" */
static void title_of(const char *member, struct buffer *out)
{
	for (size_t at = 0; member[at]; at++) {
		char c = member[at];
		if (at && isupper((unsigned char)c))
			buffer_puts(out, " ");
		c = (char)(at ? tolower((unsigned char)c) : toupper((unsigned char)c));
		buffer_add(out, &c, 1);
	}
}

static void lines_unknown(struct table *table, const json_t *status)
{
	const char *member;
	json_t *value;
	json_object_foreach((json_t *)status, member, value)
	{
		struct buffer title = {0}, text = {0};
		if (known(member))
			continue;
		title_of(member, &title);
		if (json_is_object(json_array_get(value, 0)))
			buffer_printf(&text, "%zu, with -o json or yaml", json_array_size(value));
		else
			value_text(value, &text);
		line(table, title.data, STYLE_PLAIN, &text);
		buffer_free(&title);
	}
}

void status_show(const json_t *status, bool wide, bool colours, struct buffer *out)
{
	struct table table;
	table_init(&table, 2);
	table.gap = 1;
	table.colours = colours;
	lines_node(&table, status);
	lines_engine(&table, status);
	line_workloads(&table, json_object_get(status, "workloads"));
	line_maps(&table, json_object_get(status, "maps"));
	line_checks(&table, json_object_get(status, "checks"));
	lines_trouble(&table, status);
	lines_unknown(&table, status);
	table_render(&table, "", out);
	json_t *listeners = listeners_of(status);
	for (const struct section *section = sections; section < sections + SECTIONS; section++) {
		const json_t *array = json_object_get(status, section->member);
		if (strcmp(section->member, "listeners") == 0)
			array = listeners;
		else if (strcmp(section->member, "tried") == 0)
			array = json_object_get(json_object_get(status, "engine"), "tried");
		if (section_wanted(section, array, wide))
			section_show(section, array, colours, out);
	}
	json_decref(listeners);
}
