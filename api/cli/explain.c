/* SPDX-License-Identifier: Apache-2.0 */
/* penstock explain: a question in words, and the answer for people. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "agent/base/addr.h"
#include "agent/base/mem.h"
#include "api/cli/cli.h"
#include "api/cli/record.h"
#include "api/cli/table.h"

/* "10.0.0.1:80", "[::1]:80": the port is asked for by name. */
static bool has_port(const char *word)
{
	const char *port = strrchr(word, ':');
	struct ip ip;
	auto_free char *address = port ? mem_dup(word, (size_t)(port - word) + 1) : NULL;
	if (!port || !port[1] || port[strspn(port + 1, "0123456789") + 1])
		return false;
	address[port - word] = 0;
	size_t length = strlen(address);
	if (length > 1 && address[0] == '[' && address[length - 1] == ']') {
		address[length - 1] = 0;
		return ip_parse(address + 1, &ip) == 0;
	}
	return !strchr(address, ':');
}

/* What the API would refuse in its own words; false after saying it in ours. */
static bool question_whole(const struct cli *cli)
{
	const char *destination = cli->words[1], *protocol = cli->protocol;
	bool ports = strcmp(protocol, "TCP") == 0 || strcmp(protocol, "UDP") == 0 || strcmp(protocol, "SCTP") == 0;
	if (!strchr(destination, '/') && has_port(destination))
		cli_usage(cli, "the port is --port %s, behind the address alone", strrchr(destination, ':') + 1);
	else if (ports && !cli->port)
		cli_usage(cli, "%s needs --port N", protocol);
	else
		return true;
	return false;
}

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
	if (!question_whole(cli))
		return NULL;
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

/* The request about a flow record; NULL after saying what is wrong. */
static char *flow_make(struct cli *cli)
{
	json_error_t wrong;
	bool standard = strcmp(cli->flow, "-") == 0;
	FILE *file = standard ? stdin : fopen(cli->flow, "re");
	if (!file) {
		cli_usage(cli, "%s: %s", cli->flow, strerror(errno));
		return NULL;
	}
	json_t *flow = json_loadf(file, JSON_REJECT_DUPLICATES, &wrong);
	if (!standard)
		fclose(file);
	if (!flow) {
		cli_usage(cli, "%s: line %d: %s", standard ? "standard input" : cli->flow, wrong.line, wrong.text);
		return NULL;
	}
	json_t *items = json_object_get(flow, "items"); /* as `penstock flows -o json` prints it */
	if (json_is_array(items) && json_array_size(items) != 1) {
		cli_usage(cli, "one flow record is wanted, not %zu: penstock flows --tail 1 -o json", json_array_size(items));
		json_decref(flow);
		return NULL;
	}
	json_t *question = json_pack("{s:O}", "flow", items ? json_array_get(items, 0) : flow);
	json_decref(flow);
	char *text = json_dumps(question, JSON_COMPACT);
	json_decref(question);
	return text;
}

static const char *text_of(const json_t *json, const char *member)
{
	const char *text = json_string_value(json_object_get(json, member));
	return text ? text : "";
}

static void rule_add(struct table *table, const json_t *rule)
{
	struct buffer text = {0};
	rule_text(rule, &text);
	table_take(table, &text);
}

/* Of a Service whose backends differ there is no one side. */
static void side_add(struct table *table, const char *name, const json_t *answer)
{
	const json_t *side = json_object_get(answer, name);
	bool differs = json_is_true(json_object_get(answer, "pending")) && !json_is_object(json_object_get(side, "rule"));
	const json_t *shadows = json_object_get(side, "shadows"), *audit = json_object_get(side, "audit");
	table_cell(table, name);
	table_cell(table, differs ? "by the backend" : json_is_object(side) ? text_of(side, "verdict") : "not local");
	table_cell(table, differs ? "" : text_of(side, "reason"));
	rule_add(table, json_object_get(side, "rule"));
	if (json_is_object(audit)) {
		table_cell(table, "  audit");
		table_cell(table, text_of(audit, "verdict"));
		table_cell(table, "");
		rule_add(table, json_object_get(audit, "rule"));
	}
	for (size_t at = 0; at < json_array_size(shadows); at++) {
		const json_t *shadow = json_array_get(shadows, at);
		table_cell(table, "  shadowed");
		table_cell(table, text_of(shadow, "action"));
		table_cell(table, "");
		rule_add(table, json_object_get(shadow, "rule"));
	}
}

static void backend_add(struct table *table, const json_t *backend)
{
	static const char *const sides[] = {"egress", "ingress"};
	const char *workload = text_of(backend, "workload"), *ip = text_of(backend, "ip");
	const char *proxy = text_of(backend, "proxy");
	char port[16];
	struct buffer place = {0};
	snprintf(port, sizeof(port), "%lld", (long long)json_integer_value(json_object_get(backend, "port")));
	buffer_printf(&place, strchr(ip, ':') ? "[%s]:%s" : "%s:%s", ip, port);
	for (int at = 0; at < 2; at++) {
		const json_t *side = json_object_get(backend, sides[at]);
		if (at && !json_is_object(side))
			continue;
		table_cell(table, at ? "" : place.data);
		table_cell(table, at                                               ? ""
						  : *workload                                      ? workload
						  : json_is_true(json_object_get(backend, "node")) ? "this node"
																		   : "");
		table_cell(table, sides[at]);
		table_cell(table, json_is_object(side) ? text_of(side, "verdict") : "not local");
		rule_add(table, json_object_get(side, "rule"));
	}
	if (*proxy) {
		table_cell(table, "");
		table_cell(table, "");
		table_cell(table, "proxy");
		table_cell(table, proxy);
		table_cell(table, "");
	}
	buffer_free(&place);
}

static void backends_show(const json_t *backends, struct buffer *out)
{
	struct table table;
	if (!json_array_size(backends))
		return;
	buffer_printf(out, "\nBackends of Service %s:\n", text_of(json_array_get(backends, 0), "service"));
	table_init(&table, 5);
	for (size_t at = 0; at < json_array_size(backends); at++)
		backend_add(&table, json_array_get(backends, at));
	table_render(&table, "  ", out);
}

static void past_show(const json_t *past, struct buffer *out)
{
	const json_t *rule = json_object_get(past, "rule"), *revision = json_object_get(past, "revision");
	if (!json_is_object(past))
		return;
	buffer_printf(out, "Then: %s, %s", text_of(past, "verdict"), text_of(past, "reason"));
	if (json_is_integer(revision))
		buffer_printf(out, ", revision %lld", (long long)json_integer_value(revision));
	if (json_is_object(rule) && !json_is_true(json_object_get(rule, "exists")))
		buffer_puts(out, "; that rule is not there any more");
	else if (json_is_true(json_object_get(rule, "changedSince")))
		buffer_puts(out, "; its policy has been changed since");
	buffer_printf(out, "\n%s\n\n", text_of(past, "explanation"));
}

/* "Allow: shop/web -> 10.0.0.9 TCP/80, revision 7", or "Today: Allow, revision 7" */
static void head_show(const struct cli *cli, const json_t *answer, struct buffer *out)
{
	bool pending = json_is_true(json_object_get(answer, "pending"));
	const char *verdict = pending ? "Allow or Deny, by the backend" : text_of(answer, "verdict");
	if (cli->flow)
		buffer_printf(out, "Today: %s", verdict);
	else
		buffer_printf(out, "%s: %s -> %s %s%s%s", verdict, cli->words[0], cli->words[1], cli->protocol,
			cli->port ? "/" : "", cli->port ? cli->port : "");
	if (json_is_object(json_object_get(answer, "intercept")))
		buffer_printf(out, " to proxy %s", text_of(answer, "proxy"));
	buffer_printf(out, ", revision %lld\n\n", (long long)json_integer_value(json_object_get(answer, "revision")));
}

static void answer_show(const struct cli *cli, const json_t *answer)
{
	const json_t *intercept = json_object_get(answer, "intercept");
	const json_t *steps = json_object_get(answer, "steps");
	struct buffer out = {0};
	struct table table;
	past_show(json_object_get(answer, "past"), &out);
	head_show(cli, answer, &out);
	table_init(&table, 4);
	side_add(&table, "egress", answer);
	side_add(&table, "ingress", answer);
	if (json_is_object(intercept)) {
		table_cell(&table, "intercept");
		table_cell(&table, text_of(intercept, "proxy"));
		table_cell(&table, json_is_true(json_object_get(intercept, "available")) ? "listens" : "does not listen");
		rule_add(&table, json_object_get(intercept, "rule"));
	}
	table_render(&table, "", &out);
	backends_show(json_object_get(answer, "backends"), &out);
	buffer_puts(&out, "\n");
	for (size_t at = 0; at < json_array_size(steps); at++)
		if (json_is_string(json_array_get(steps, at)))
			buffer_printf(&out, "%2zu. %s\n", at + 1, json_string_value(json_array_get(steps, at)));
	fputs(out.data, stdout);
	buffer_free(&out);
}

/* The body to ask with; NULL after saying what is wrong. */
static char *body_make(struct cli *cli)
{
	if (cli->flow && (cli->word_count || cli->port || cli->protocol || cli->family || cli->namespace))
		cli_usage(cli, "a flow record says itself what it is about");
	else if (cli->flow)
		return flow_make(cli);
	else if (cli->word_count != 2)
		cli_usage(cli, "a source and a destination are wanted");
	else
		return question_make(cli);
	return NULL;
}

int command_explain(struct cli *cli)
{
	json_t *answer = NULL;
	auto_free char *question = body_make(cli);
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
