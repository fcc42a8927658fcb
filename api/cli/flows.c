/* SPDX-License-Identifier: Apache-2.0 */
/* penstock flows, connections, alerts: what is kept, and what comes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "api/cli/cli.h"
#include "api/cli/live.h"
#include "api/cli/record.h"
#include "api/cli/terminal.h"
#include "api/client/yaml_json.h"

/* Not on a terminal: a name longer than this stands out of its column; one of them does not make all lines long. */
#define WIDEST 44
#define WIDEST_WIDE 72
#define COLUMNS_MAX 20

struct feed {
	const char *path, *none;
	const struct record_column *(*columns)(bool wide);
	const char *tail, *tail_following; /* when --tail is not given; "0": all */
};

struct listing {
	struct cli *cli;
	const struct record_column *columns;
	struct table table;
	size_t widths[COLUMNS_MAX];
	struct buffer text; /* to be written */
	bool titled;
	enum exit_code broken; /* CODE_OK: it is not */
};

/* ---- the request ---- */

static void query_add(struct buffer *path, const char *name, const char *value)
{
	auto_free char *escaped = client_escape(value);
	buffer_printf(path, "%c%s=%s", strchr(path->data, '?') ? '&' : '?', name, escaped);
}

static char *workload_name(const struct cli *cli)
{
	const char *name = cli->workload ? cli->workload : "*", *namespace = cli->namespace ? cli->namespace : "default";
	return strchr(name, '/') ? str_dup(name) : str_format("%s/%s", namespace, name);
}

/* NULL after saying what is wrong. The caller frees. */
static char *path_make(const struct cli *cli, const struct feed *feed)
{
	struct buffer path = {0};
	char *end;
	const char *tail = cli->tail ? cli->tail : cli->follow ? feed->tail_following : feed->tail;
	unsigned long count = strtoul(tail, &end, 10);
	if (*end || end == tail || *tail == '-') {
		cli_usage(cli, "%s is not a number of records", tail);
		return NULL;
	}
	buffer_puts(&path, feed->path);
	if (cli->follow)
		query_add(&path, "follow", "true");
	if (count)
		query_add(&path, "limit", tail);
	if (cli->workload || cli->namespace) {
		auto_free char *name = workload_name(cli);
		query_add(&path, "workload", name);
	}
	if (cli->verdict)
		query_add(&path, "verdict", cli->verdict);
	if (cli->protocol)
		query_add(&path, "protocol", cli->protocol);
	if (cli->port)
		query_add(&path, "port", cli->port);
	if (cli->ip)
		query_add(&path, "ip", cli->ip);
	return buffer_take(&path);
}

/* ---- the output ---- */

static bool tabular(const struct listing *listing)
{
	return listing->cli->output == OUTPUT_TABLE || listing->cli->output == OUTPUT_WIDE;
}

static void listing_begin(struct listing *listing, struct cli *cli, const struct feed *feed)
{
	size_t count = 0, lines;
	*listing = (struct listing){.cli = cli, .columns = feed->columns(cli->output == OUTPUT_WIDE)};
	while (listing->columns[count].title)
		count++;
	table_init(&listing->table, count);
	listing->table.gap = 2;
	listing->table.widest = cli->output == OUTPUT_WIDE ? WIDEST_WIDE : WIDEST;
	if (cli->output == OUTPUT_TABLE && isatty(STDOUT_FILENO))
		terminal_size(&listing->table.fit, &lines);
	if (listing->table.fit)
		listing->table.widest = 0;
	listing->table.flexible = record_flexible(listing->columns);
	listing->table.widths = listing->widths;
	listing->table.colours = style_wanted(cli->color);
}

static void row_add(struct listing *listing, const json_t *record)
{
	if (!listing->titled)
		record_titles(&listing->table, listing->columns);
	listing->titled = true;
	record_row(&listing->table, listing->columns, record);
}

/* Writes what was added. Nonzero: there is no use in going on. */
static int listing_flush(void *context)
{
	struct listing *listing = context;
	if (listing->table.count)
		table_render(&listing->table, "", &listing->text);
	if (!listing->text.length)
		return live_ended();
	int result = live_write(listing->text.data, listing->text.length);
	listing->text.length = 0;
	if (result < 0 && result != -EINTR) {
		fprintf(stderr, "penstock: standard output: %s\n", strerror(-result));
		listing->broken = CODE_USAGE;
	}
	return result < 0 ? result : live_ended();
}

static void listing_end(struct listing *listing)
{
	buffer_free(&listing->text);
}

/* ---- follow ---- */

/* {"lost": N}: the agent had to leave out some between two records. */
static bool loss_told(struct listing *listing, const json_t *record)
{
	const json_t *lost = json_object_get(record, "lost");
	if (!json_is_integer(lost) || json_object_get(record, "time"))
		return false;
	listing_flush(listing);
	fprintf(stderr, "penstock: %lld records are missing here: they came faster than they were read\n",
		(long long)json_integer_value(lost));
	return true;
}

static int line_take(void *context, const char *line, size_t length)
{
	struct listing *listing = context;
	json_error_t wrong;
	json_t *record = json_loadb(line, length, 0, &wrong);
	if (!json_is_object(record)) {
		listing_flush(listing);
		fprintf(stderr, "penstock: the agent's answer is not JSON: %s\n", record ? "no object" : wrong.text);
		json_decref(record);
		listing->broken = CODE_UNREACHABLE;
		return -1;
	}
	if (!loss_told(listing, record)) {
		if (tabular(listing)) {
			row_add(listing, record);
		} else if (listing->cli->output == OUTPUT_YAML) {
			buffer_puts(&listing->text, "---\n");
			json_to_yaml(record, &listing->text);
		} else {
			buffer_add(&listing->text, line, length);
			buffer_puts(&listing->text, "\n");
		}
	}
	json_decref(record);
	return live_ended() || listing->broken != CODE_OK;
}

static int follow(struct cli *cli, const struct feed *feed, const char *path)
{
	struct listing listing;
	struct answer answer = {0};
	struct error e;
	listing_begin(&listing, cli, feed);
	const struct client_reader reader = {.line = line_take, .idle = listing_flush, .context = &listing};
	client_stop_by(cli->client, live_begin());
	int code = CODE_OK, result = client_follow(cli->client, path, &reader, &answer, &e);
	if (live_ended())
		code = CODE_OK;
	else if (listing.broken != CODE_OK || listing_flush(&listing) < 0)
		code = listing.broken;
	else if (result < 0)
		code = cli_error(&e);
	else if (answer.body)
		code = cli_refused(&answer);
	answer_clear(&answer);
	listing_end(&listing);
	return code;
}

/* ---- once ---- */

static int list(struct cli *cli, const struct feed *feed, const char *path)
{
	struct listing listing;
	json_t *answer = NULL, *record;
	size_t index;
	int code = cli_call(cli, "GET", path, NULL, NULL, "", &answer);
	if (code)
		return code;
	listing_begin(&listing, cli, feed);
	if (tabular(&listing)) {
		json_array_foreach(json_object_get(answer, "items"), index, record) row_add(&listing, record);
		if (!listing.titled)
			fprintf(stderr, "%s\n", feed->none);
		code = listing_flush(&listing) < 0 ? CODE_USAGE : CODE_OK;
	} else {
		cli_print(answer, cli->output);
	}
	listing_end(&listing);
	json_decref(answer);
	return code;
}

static int show(struct cli *cli, const struct feed *feed)
{
	if (cli->word_count)
		return cli_usage(cli, "what is %s?", cli->words[0]);
	auto_free char *path = path_make(cli, feed);
	if (!path)
		return CODE_USAGE;
	return cli->follow ? follow(cli, feed, path) : list(cli, feed, path);
}

int command_flows(struct cli *cli)
{
	static const struct feed flows = {"/v1/flows", "No flows.", flow_columns, "50", "10"};
	return show(cli, &flows);
}

int command_connections(struct cli *cli)
{
	static const struct feed connections = {"/v1/connections", "No connections.", connection_columns, "0", "0"};
	return show(cli, &connections);
}

int command_alerts(struct cli *cli)
{
	static const struct feed alerts = {"/v1/alerts", "No alerts.", alert_columns, "50", "10"};
	return show(cli, &alerts);
}
