/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables of commands and options. Help, completion and the man page are made from them, so what is not in them does
 * not exist.
 */
#ifndef PENSTOCK_CLI_COMMAND_H
#define PENSTOCK_CLI_COMMAND_H

#include "agent/base/buffer.h"

struct cli;

struct option_row {
	char key;           /* unique, what a command lists in `options`; 0 ends the table */
	char letter;        /* the short form; 0: none */
	const char *name;   /* the long form; several rows may have the same, for other commands */
	const char *value;  /* what its value is called; NULL: it takes none */
	const char *help;   /* lines of 74 columns at most */
	const char *choice; /* for completion: the values, "FILE", or NULL */
};
extern const struct option_row option_rows[];

struct command {
	const char *name, *summary;
	const char *synopsis; /* a line each, without "penstock NAME" */
	const char *about;    /* lines of 100 columns at most */
	const char *words;    /* for completion: "KIND", "KIND NAME", the words, or NULL */
	const char *options;  /* keys of option_rows, in the order in which help shows them */
	int (*run)(struct cli *cli);
};
extern const struct command commands[]; /* ends with a NULL name */

/* What every command takes, and what the program takes without a command. */
#define OPTIONS_COMMON "SsBCKkh"
#define OPTIONS_ALONE OPTIONS_COMMON "V"

#define SOCKET_DEFAULT "/run/penstock/penstock.sock"

const struct command *command_find(const char *name); /* or NULL */
const struct option_row *option_by_key(char key);

void help_command(const struct command *command, struct buffer *out);
void help_all(struct buffer *out);
void man_page(struct buffer *out); /* penstock(1), as roff */
/* "-f, --file PATH" */
void help_option_name(const struct option_row *row, struct buffer *out);

struct exit_row {
	const char *code, *means;
};
extern const struct exit_row exit_rows[];
extern const struct exit_row environment_rows[]; /* name, what it says */

#endif
