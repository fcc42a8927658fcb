/* SPDX-License-Identifier: Apache-2.0 */
/* penstock explain: a question in words, and the answer for people. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "agent/base/addr.h"
#include "agent/base/mem.h"
#include "api/cli/cli.h"
#include "api/cli/table.h"

static json_t *end_make(const struct cli *cli, const char *word)
{
	const char *namespace = cli->namespace ? cli->namespace : "default";
	struct ip ip;
	if (strchr(word, '/'))
		return json_pack("{s:s}", "workload", word);
	if (ip_parse(word, &ip) == 0)
		return json_pack("{s:s}", "ip", word);
	return json_pack("{s:s++}", "workload", namespace, "/", word);
}

/* As the API spells it, whatever the user's case; what is not known goes as it is, and is refused there. */
static const char *spell(const char *const *known, const char *word)
{
	for (; *known; known++)
		if (strcasecmp(*known, word) == 0)
			return *known;
	return word;
}

/* The request; NULL after saying what is wrong. */
static char *question_make(struct cli *cli)
{
	static const char *const protocols[] = {"TCP", "UDP", "SCTP", "ICMP", NULL};
	static const char *const families[] = {"IPv4", "IPv6", NULL};
	char *end = NULL;
	cli->protocol = cli->protocol ? spell(protocols, cli->protocol) : protocols[0];
	long port = cli->port ? strtol(cli->port, &end, 10) : 0;
	if (cli->port && (*end || end == cli->port)) {
		cli_usage(cli, "%s is not a port", cli->port);
		return NULL;
	}
	json_t *question = json_pack("{s:o,s:o,s:s}", "source", end_make(cli, cli->words[0]), "destination",
		end_make(cli, cli->words[1]), "protocol", cli->protocol);
	if (cli->port)
		json_object_set_new(question, "port", json_integer(port));
	if (cli->family)
		json_object_set_new(question, "family", json_string(spell(families, cli->family)));
	char *text = question ? json_dumps(question, JSON_COMPACT) : NULL;
	json_decref(question);
	if (!text) /* words that are not UTF-8 */
		cli_usage(cli, "what is %s?", cli->words[0]);
	return text;
}

static const char *text_of(const json_t *json, const char *member)
{
	const char *text = json_string_value(json_object_get(json, member));
	return text ? text : "";
}

/* "NetworkPolicy shop/web ingress[0] from-web", or nothing. */
static void rule_add(struct table *table, const json_t *rule)
{
	struct buffer text = {0};
	if (json_is_object(rule)) {
		const char *namespace = text_of(rule, "namespace"), *name = text_of(rule, "ruleName");
		int index = (int)json_integer_value(json_object_get(rule, "index"));
		buffer_printf(&text, "%s %s%s%s %s", text_of(rule, "kind"), namespace, *namespace ? "/" : "",
			text_of(rule, "name"), text_of(rule, "direction"));
		if (index >= 0)
			buffer_printf(&text, "[%d]%s%s", index, *name ? " " : "", name);
		else
			buffer_puts(&text, " isolation");
	}
	table_take(table, &text);
}

static void side_add(struct table *table, const char *name, const json_t *side)
{
	table_cell(table, name);
	table_cell(table, json_is_object(side) ? text_of(side, "verdict") : "not local");
	table_cell(table, text_of(side, "reason"));
	rule_add(table, json_object_get(side, "rule"));
}

static void answer_show(const struct cli *cli, const json_t *answer)
{
	const json_t *intercept = json_object_get(answer, "intercept");
	const json_t *steps = json_object_get(answer, "steps");
	struct buffer out = {0};
	struct table table;
	buffer_printf(&out, "%s: %s -> %s %s%s%s", text_of(answer, "verdict"), cli->words[0], cli->words[1], cli->protocol,
		cli->port ? "/" : "", cli->port ? cli->port : "");
	if (json_is_object(intercept))
		buffer_printf(&out, " to proxy %s", text_of(answer, "proxy"));
	buffer_printf(&out, ", revision %lld\n\n", (long long)json_integer_value(json_object_get(answer, "revision")));
	table_init(&table, 4);
	side_add(&table, "egress", json_object_get(answer, "egress"));
	side_add(&table, "ingress", json_object_get(answer, "ingress"));
	if (json_is_object(intercept)) {
		table_cell(&table, "intercept");
		table_cell(&table, text_of(intercept, "proxy"));
		table_cell(&table, json_is_true(json_object_get(intercept, "available")) ? "listens" : "does not listen");
		rule_add(&table, json_object_get(intercept, "rule"));
	}
	table_render(&table, "", &out);
	buffer_puts(&out, "\n");
	for (size_t at = 0; at < json_array_size(steps); at++)
		if (json_is_string(json_array_get(steps, at)))
			buffer_printf(&out, "%2zu. %s\n", at + 1, json_string_value(json_array_get(steps, at)));
	fputs(out.data, stdout);
	buffer_free(&out);
}

int command_explain(struct cli *cli)
{
	json_t *answer = NULL;
	if (cli->word_count != 2)
		return cli_usage(cli, "a source and a destination are wanted");
	auto_free char *question = question_make(cli);
	if (!question)
		return CODE_USAGE;
	int code = cli_call(cli, "POST", "/v1/explain", question, NULL, "", &answer);
	if (code)
		return code;
	if (cli->output == OUTPUT_TABLE)
		answer_show(cli, answer);
	else
		cli_print(answer, cli->output);
	json_decref(answer);
	return CODE_OK;
}
