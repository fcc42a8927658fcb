/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands share. */
#ifndef PENSTOCK_CLI_H
#define PENSTOCK_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include "api/cli/command.h"
#include "api/client/client.h"
#include "api/client/manifest.h"
#include "api/client/resource.h"

enum exit_code { CODE_OK, CODE_REFUSED, CODE_USAGE, CODE_UNREACHABLE };
enum output { OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_YAML, OUTPUT_WIDE, OUTPUT_NAME };

struct cli {
	const struct command *command;
	struct client *client;
	/* options */
	const char *server, *owner, *namespace, *selector;
	const char *port, *protocol, *family, *flow;
	const char *workload, *verdict, *ip, *tail, *color, *interval;
	const char *archive;
	struct client_credentials credentials;
	const char **files; /* NULL-terminated */
	bool force, dry_run, quarantine;
	bool follow, once;
	enum output output;
	/* what remains */
	char **words;
	int word_count;
};

int command_apply(struct cli *cli);
int command_get(struct cli *cli);
int command_diff(struct cli *cli);
int command_delete(struct cli *cli);
int command_explain(struct cli *cli);
int command_flows(struct cli *cli);
int command_connections(struct cli *cli);
int command_alerts(struct cli *cli);
int command_top(struct cli *cli);
int command_status(struct cli *cli);
int command_doctor(struct cli *cli);
int command_export(struct cli *cli);
int command_completion(struct cli *cli);
int command_version(struct cli *cli);

/* Takes the value of one of the options by which the agent knows its caller; any other key is passed over. */
void cli_credential(struct cli *cli, char key, const char *value);
/* Candidates for the last of the words of a command line, on standard output (completion.c). */
int complete(struct cli *cli, char **words, int count);
/* Says what is wrong with the command line and where help is; CODE_USAGE. */
int cli_usage(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* An error that is not the agent's answer; CODE_UNREACHABLE or CODE_USAGE. */
int cli_error(const struct error *e);
/* A call; 0 and *ret for 2xx. Otherwise says why not, with the objects' places where `manifests` is given (their order
 * is the order in `array` of the body), and returns the exit code. */
int cli_call(struct cli *cli, const char *method, const char *path, const char *body, const struct manifests *manifests,
	const char *array, json_t **ret);
/* Says why not, of an answer that is not 2xx; CODE_REFUSED. */
int cli_refused(const struct answer *answer);
/* {"apply": [all of them]}. The caller frees. */
char *cli_apply_body(const struct manifests *manifests);
/* Of apply and diff: what --file names, and nothing else. 0, or the exit code after saying why. */
int cli_apply_files(struct cli *cli, struct manifests *ret);
/* "?owner=…&force=true…" of the write options, or "". The caller frees. */
char *cli_write_query(const struct cli *cli);
/* The warnings and quarantined objects of a write's answer, on standard error. */
void cli_remarks(const json_t *answer, const struct manifests *manifests, const char *array);
/* All files of --file. 0, or the exit code after saying why. At least one object. */
int cli_manifests(struct cli *cli, struct manifests *ret);
const struct resource *cli_resource(const struct cli *cli, const char *name); /* says so when there is none */
/* "/v1/pods/shop/web" for "shop/web", or "web" with --namespace or in "default". NULL after saying what is wrong. The
 * caller frees. */
char *cli_object_path(const struct cli *cli, const struct resource *resource, const char *name);
/* Appends the checks of a status as people read them, and how many are well. */
void doctor_print(const json_t *checks, bool colours, struct buffer *out);
void cli_print(const json_t *json, enum output output);

#endif
