/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One archive for a bug report: what the agent tells over its API, nothing else. It has no secrets to tell: objects are
 * kept without fields that do not matter to it, credentials and keys are in no answer.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "api/cli/archive.h"
#include "api/cli/cli.h"

static const struct part {
	const char *file, *path, *what;
} parts[] = {
	{"version.json", "/version", "the agent's build"},
	{"status.json", "/v1/status",
		"what it does: kernel, engine, hooks, maps, proxies, workloads, checks, the last error"},
	{"state.json", "/v1/state", "every object that is wanted"},
	{"owners.json", "/v1/owners", "who owns how much"},
	{"metrics.txt", "/metrics", "every metric, once"},
	{"flows.json", "/v1/flows?limit=1000", "the last 1000 flow records"},
	{"connections.json", "/v1/connections?limit=10000", "up to 10000 connections that there are now"},
	{"alerts.json", "/v1/alerts", "alerts"},
};
#define PARTS (sizeof parts / sizeof parts[0])

struct export
{
	struct answer answers[PARTS];
	char node[256];
	char time[32]; /* 20261123T174000Z */
	time_t now;
};

/* What the agent refuses or does not have is noted, and the rest is taken. */
static int gather(struct cli *cli, struct export *export)
{
	struct error e;
	for (size_t at = 0; at < PARTS; at++)
		if (client_call(cli->client, "GET", parts[at].path, NULL, 0, &export->answers[at], &e) < 0)
			return cli_error(&e);
	json_t *status = json_loadb(export->answers[1].body, export->answers[1].length, 0, NULL);
	const char *node = json_string_value(json_object_get(status, "node"));
	snprintf(export->node, sizeof export->node, "%.60s", node && *node ? node : "node");
	for (char *at = export->node; *at; at++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_", *at))
			*at = '_';
	json_decref(status);
	return CODE_OK;
}

static void manifest(const struct export *export, struct buffer *out)
{
	buffer_printf(out,
		"penstock " PENSTOCK_VERSION " (" PENSTOCK_COMMIT ") export of node %s at %s\n\n"
		"What the agent tells over its API. It holds no credentials and no packets' contents, but names and\n"
		"addresses of workloads and of whom they talk to.\n\n",
		export->node, export->time);
	for (size_t at = 0; at < PARTS; at++) {
		const struct answer *answer = &export->answers[at];
		buffer_printf(out, "%-17s %9zu bytes  GET %-28s %ld  %s\n", parts[at].file, answer->length, parts[at].path,
			answer->status, parts[at].what);
	}
	buffer_puts(out, "doctor.txt        what penstock doctor prints\n"
					 "penstock.yaml     the agent's configuration, as status.json has it\n");
}

/* What people would rather not read as JSON. */
static void from_status(const struct export *export, struct buffer *checks, struct buffer *configuration)
{
	json_t *status = json_loadb(export->answers[1].body, export->answers[1].length, 0, NULL);
	const char *text = json_string_value(json_object_get(status, "configuration"));
	doctor_print(json_object_get(status, "checks"), false, checks);
	buffer_printf(configuration, "%s\n", text ? text : "");
	json_decref(status);
}

static void add(const struct export *export, struct archive *archive, const char *file, const char *data, size_t length)
{
	char name[100];
	snprintf(name, sizeof name, "penstock-%.40s/%s", export->node, file);
	archive_add(archive, name, data, length);
}

static int write_all(const struct export *export, int fd)
{
	struct buffer text = {0}, checks = {0}, configuration = {0};
	struct archive *archive = archive_new(fd, export->now);
	if (!archive)
		return -ENOMEM;
	manifest(export, &text);
	from_status(export, &checks, &configuration);
	add(export, archive, "MANIFEST", text.data, text.length);
	for (size_t at = 0; at < PARTS; at++)
		add(export, archive, parts[at].file, export->answers[at].body, export->answers[at].length);
	add(export, archive, "doctor.txt", checks.data, checks.length);
	add(export, archive, "penstock.yaml", configuration.data, configuration.length);
	buffer_free(&text);
	buffer_free(&checks);
	buffer_free(&configuration);
	return archive_close(archive);
}

/* For the eyes of who made it: addresses are in it. A half-written file does not stay. */
static int write_file(const struct export *export, const char *path)
{
	struct stat status;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int result = fd < 0 ? -errno : write_all(export, fd);
	if (result == 0) {
		fprintf(stderr, "wrote %s\n", path);
		return CODE_OK;
	}
	if (fd >= 0 && stat(path, &status) == 0 && S_ISREG(status.st_mode))
		unlink(path);
	fprintf(stderr, "penstock: %s: %s\n", path, strerror(-result));
	return CODE_USAGE;
}

static int write_standard(const struct export *export)
{
	int result = isatty(STDOUT_FILENO) ? -ENOTTY : write_all(export, dup(STDOUT_FILENO));
	if (result == 0)
		return CODE_OK;
	fprintf(stderr, "penstock: standard output: %s\n",
		result == -ENOTTY ? "an archive is not for a terminal" : strerror(-result));
	return CODE_USAGE;
}

int command_export(struct cli *cli)
{
	struct export *export = mem_alloc(sizeof *export);
	struct tm utc;
	if (cli->word_count) {
		free(export);
		return cli_usage(cli, "what is %s? The file is given with -o", cli->words[0]);
	}
	export->now = time(NULL);
	gmtime_r(&export->now, &utc);
	strftime(export->time, sizeof export->time, "%Y%m%dT%H%M%SZ", &utc);
	int code = gather(cli, export);
	if (code == CODE_OK && cli->archive && strcmp(cli->archive, "-") == 0) {
		code = write_standard(export);
	} else if (code == CODE_OK) {
		auto_free char *name = str_format("penstock-%s-%s.tar.gz", export->node, export->time);
		code = write_file(export, cli->archive ? cli->archive : name);
	}
	size_t missing = 0;
	for (size_t at = 0; at < PARTS; at++) {
		missing += export->answers[at].status != 200;
		answer_clear(&export->answers[at]);
	}
	free(export);
	if (code == CODE_OK && missing) {
		fprintf(stderr, "penstock: %zu of %zu parts were refused: MANIFEST says which\n", missing, PARTS);
		code = CODE_REFUSED;
	}
	return code;
}
