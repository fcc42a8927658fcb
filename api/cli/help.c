/* SPDX-License-Identifier: Apache-2.0 */
/* --help, from the tables. */
#include <stdio.h>
#include <string.h>
#include "api/cli/command.h"

#define COLUMN 26 /* where what an option does begins */

void help_option_name(const struct option_row *row, struct buffer *out)
{
	if (row->letter)
		buffer_printf(out, "-%c, ", row->letter);
	buffer_printf(out, "--%s%s%s", row->name, row->value ? " " : "", row->value ? row->value : "");
}

static void show_option(const struct option_row *row, struct buffer *out)
{
	struct buffer name = {0};
	help_option_name(row, &name);
	buffer_printf(out, "  %-*s", COLUMN - 2, name.data);
	if (name.length + 2 >= COLUMN)
		buffer_printf(out, "\n%*s", COLUMN, "");
	buffer_free(&name);
	for (const char *at = row->help; at;) {
		size_t length = strcspn(at, "\n");
		buffer_printf(out, "%.*s\n", (int)length, at);
		at = at[length] ? at + length + 1 : NULL;
		if (at)
			buffer_printf(out, "%*s", COLUMN, "");
	}
}

static void show_options(const char *keys, struct buffer *out)
{
	for (; *keys; keys++)
		show_option(option_by_key(*keys), out);
}

void help_command(const struct command *command, struct buffer *out)
{
	const char *lead = "usage:";
	for (const char *at = command->synopsis; at; lead = "      ") {
		size_t length = strcspn(at, "\n");
		buffer_printf(out, "%s penstock %s %.*s\n", lead, command->name, (int)length, at);
		at = at[length] ? at + length + 1 : NULL;
	}
	if (command->about)
		buffer_printf(out, "\n%s\n", command->about);
	buffer_puts(out, "\n");
	show_options(command->options, out);
	show_options(OPTIONS_COMMON, out);
}

void help_all(struct buffer *out)
{
	buffer_puts(out, "usage: penstock COMMAND [options]\n\n");
	for (const struct command *command = commands; command->name; command++)
		buffer_printf(out, "  %-12s %s\n", command->name, command->summary);
	buffer_printf(out, "  %-12s %s\n\n", "help", "print this text, or a command's");
	show_options(OPTIONS_ALONE, out);
	buffer_puts(out, "\npenstock COMMAND --help, or penstock help COMMAND, says more. Exit codes:\n\n");
	for (const struct exit_row *row = exit_rows; row->code; row++)
		buffer_printf(out, "  %s  %s\n", row->code, row->means);
}
