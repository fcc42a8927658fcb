/* SPDX-License-Identifier: Apache-2.0 */
/* The manual page penstock(1), from the tables: "penstock __man". */
#include <stdbool.h>
#include <string.h>
#include "api/cli/command.h"
#include "api/client/resource.h"

/* Text as roff: nothing in it is a request, an escape or a hyphen; what is not ASCII is named by its number. */
static void text_add(struct buffer *out, const char *text, size_t length)
{
	bool begins = !out->length || out->data[out->length - 1] == '\n';
	for (const char *end = text + length; text < end; begins = *text == '\n', text++) {
		unsigned char c = (unsigned char)*text;
		if (begins && (c == '.' || c == '\''))
			buffer_puts(out, "\\&");
		if (c == '\\')
			buffer_puts(out, "\\e");
		else if (c == '-')
			buffer_puts(out, "\\-");
		else if (c < 0x80)
			buffer_add(out, text, 1);
		else if (c >= 0xe0 && c < 0xf0 && end - text >= 3) {
			buffer_printf(
				out, "\\[u%04X]", (c & 0xfu) << 12 | ((unsigned)text[1] & 0x3f) << 6 | ((unsigned)text[2] & 0x3f));
			text += 2;
		}
	}
}

static void text(struct buffer *out, const char *words)
{
	text_add(out, words, strlen(words));
}

/* Each line alone, not filled. */
static void lines(struct buffer *out, const char *prefix, const char *words)
{
	while (words) {
		size_t length = strcspn(words, "\n");
		buffer_puts(out, prefix);
		text_add(out, words, length);
		words = words[length] ? words + length + 1 : NULL;
		buffer_puts(out, words ? "\n.br\n" : "\n");
	}
}

static void option(struct buffer *out, const struct option_row *row)
{
	struct buffer name = {0};
	help_option_name(row, &name);
	buffer_puts(out, ".TP\n\\fB");
	text(out, name.data);
	buffer_puts(out, "\\fR\n");
	lines(out, "", row->help);
	buffer_free(&name);
}

static void options(struct buffer *out, const char *keys)
{
	for (; *keys; keys++)
		option(out, option_by_key(*keys));
}

static void command(struct buffer *out, const struct command *c)
{
	struct buffer prefix = {0};
	buffer_puts(out, ".SS ");
	text(out, c->name);
	buffer_printf(&prefix, "\\fBpenstock %s\\fR ", c->name);
	buffer_puts(out, "\n");
	lines(out, prefix.data, c->synopsis);
	buffer_puts(out, ".PP\nTo ");
	text(out, c->summary);
	buffer_puts(out, ".\n");
	if (c->about) {
		buffer_puts(out, ".PP\n");
		if (strstr(c->about, "  ")) /* columns */
			lines(out, "", c->about);
		else
			text(out, c->about);
		buffer_puts(out, "\n");
	}
	options(out, c->options);
	buffer_free(&prefix);
}

static void rows(struct buffer *out, const struct exit_row *row)
{
	for (; row->code; row++) {
		buffer_puts(out, ".TP\n\\fB");
		text(out, row->code);
		buffer_puts(out, "\\fR\n");
		text(out, row->means);
		buffer_puts(out, "\n");
	}
}

static void kinds_list(struct buffer *out)
{
	buffer_puts(out, ".SH KINDS\n");
	for (int kind = 0; kind < KIND_COUNT; kind++)
		buffer_printf(out, "%s%s", resources[kind].plural, kind + 1 < KIND_COUNT ? ", " : ".\n");
}

static const struct exit_row examples[] = {
	{"kubectl get ns,nodes,pods,svc,endpointslices,netpol -A -o json | penstock apply -f -",
		"enforces what the cluster has"},
	{"penstock diff -f policy.yaml", "says what apply would change"},
	{"penstock flows -n shop --verdict Refused", "shows what was refused to and from one namespace, and by which rule"},
	{"penstock explain shop/chat 203.0.113.9 --port 443", "says what would become of this connection, and why"},
	{"penstock flows --tail 1 -o json | penstock explain --flow -", "says more about the last one"},
	{0},
};

void man_page(struct buffer *out)
{
	buffer_puts(out, ".\\\" made from the tables of the program by penstock __man\n"
					 ".TH PENSTOCK 1 \"\" \"penstock " PENSTOCK_VERSION "\" \"Penstock\"\n"
					 ".SH NAME\npenstock \\- the command line of penstockd, the node agent\n"
					 ".SH SYNOPSIS\n\\fBpenstock\\fR COMMAND [options]\n"
					 ".SH DESCRIPTION\nPushes policy to the agent of this node, shows what it does with it, and says "
					 "why.\n"
					 "Everything goes over the agent's HTTP API.\n"
					 ".SH OPTIONS\nEvery command takes these; \\-\\-version stands alone.\n");
	options(out, OPTIONS_ALONE);
	buffer_puts(out, ".SH COMMANDS\n");
	for (const struct command *c = commands; c->name; c++)
		command(out, c);
	kinds_list(out);
	buffer_puts(out, ".SH EXAMPLES\n");
	rows(out, examples);
	buffer_puts(out, ".SH EXIT STATUS\n");
	rows(out, exit_rows);
	buffer_puts(out, ".SH ENVIRONMENT\n");
	rows(out, environment_rows);
	buffer_puts(out, ".SH FILES\n.TP\n\\fB" SOCKET_DEFAULT "\\fR\nthe agent's socket\n"
					 ".SH SEE ALSO\n.BR penstockd (8),\n.BR penstock.yaml (5),\n.BR penstock\\-relay (1)\n");
}
