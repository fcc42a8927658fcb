/* SPDX-License-Identifier: Apache-2.0 */
/* penstock: the command line, a client of the agent's API. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "api/cli/cli.h"

/* getopt's value of a long option: this and its place in option_rows. */
#define LONG 256

static void put(FILE *out, struct buffer *text)
{
	fputs(text->data, out);
	buffer_free(text);
}

static void help_put(const struct cli *cli, FILE *out)
{
	struct buffer text = {0};
	if (cli->command)
		help_command(cli->command, &text);
	else
		help_all(&text);
	put(out, &text);
}

/* The word's place in "table json yaml"; -1: it is none of them. */
static int choice_find(const char *choice, const char *word)
{
	size_t length = strlen(word);
	for (int at = 0; *choice; at++) {
		size_t one = strcspn(choice, " ");
		if (one == length && strncmp(choice, word, one) == 0)
			return at;
		choice += one + strspn(choice + one, " ");
	}
	return -1;
}

static int set_output(struct cli *cli, const struct option_row *row, const char *text)
{
	static const char names[] = "table json yaml wide name";
	int output = choice_find(names, text);
	if (output < 0 || choice_find(row->choice, text) < 0)
		return cli_usage(cli, "the output is one of %s, not %s", row->choice, text);
	cli->output = output;
	return -1;
}

static void add_file(struct cli *cli, const char *file)
{
	size_t count = 0;
	while (cli->files[count])
		count++;
	cli->files = mem_resize(cli->files, count + 2, sizeof *cli->files);
	cli->files[count] = file;
	cli->files[count + 1] = NULL;
}

void cli_credential(struct cli *cli, char key, const char *value)
{
	struct client_credentials *credentials = &cli->credentials;
	if (key == 'B')
		credentials->ca = value;
	else if (key == 'C')
		credentials->certificate = value;
	else if (key == 'K')
		credentials->key = value;
	else if (key == 'k')
		credentials->token_file = value;
}

/* -1: go on. Otherwise the exit code. */
static int set_option(struct cli *cli, const struct option_row *row)
{
	switch (row->key) {
	case 'f':
	case 'g':
		add_file(cli, optarg);
		break;
	case 'o':
		cli->owner = optarg;
		break;
	case 'F':
		cli->force = true;
		break;
	case 'd':
		cli->dry_run = true;
		break;
	case 'q':
		cli->quarantine = true;
		break;
	case 'A':
		cli->namespace = NULL;
		break;
	case 'n':
	case 'N':
		cli->namespace = optarg;
		break;
	case 'l':
		cli->selector = optarg;
		break;
	case 'W':
		cli->workload = optarg;
		break;
	case 'v':
		cli->verdict = optarg;
		break;
	case 'i':
		cli->ip = optarg;
		break;
	case 'e':
		cli->follow = true;
		break;
	case 'a':
		cli->tail = optarg;
		break;
	case 'I':
		cli->interval = optarg;
		break;
	case '1':
		cli->once = true;
		break;
	case 'c':
		if (choice_find(row->choice, optarg) < 0)
			return cli_usage(cli, "--color is auto, always or never, not %s", optarg);
		cli->color = optarg;
		break;
	case 'O':
	case 'G':
	case 'x':
		return set_output(cli, row, optarg);
	case 'p':
	case 'P':
		cli->port = optarg;
		break;
	case 't':
	case 'T':
		cli->protocol = optarg;
		break;
	case 'y':
		cli->family = optarg;
		break;
	case 'w':
		cli->flow = optarg;
		break;
	case 'E':
		cli->archive = optarg;
		break;
	case 'S':
	case 's':
		cli->server = optarg;
		break;
	case 'B':
	case 'C':
	case 'K':
	case 'k':
		cli_credential(cli, row->key, optarg);
		break;
	case 'V':
		puts("penstock " PENSTOCK_VERSION " (" PENSTOCK_COMMIT ")");
		return CODE_OK;
	case 'h':
		help_put(cli, stdout);
		return CODE_OK;
	}
	return -1;
}

/* ---- getopt's tables of what may be given here ---- */

struct accepted {
	struct option longs[64];
	char shorts[64];
};

static void accepted_add(struct accepted *a, const char *keys)
{
	size_t count = 0;
	while (a->longs[count].name)
		count++;
	for (; *keys && count + 1 < sizeof a->longs / sizeof a->longs[0]; keys++) {
		const struct option_row *row = option_by_key(*keys);
		a->longs[count++] = (struct option){.name = row->name,
			.has_arg = row->value ? required_argument : no_argument,
			.val = LONG + (int)(row - option_rows)};
		if (row->letter)
			snprintf(a->shorts + strlen(a->shorts), sizeof a->shorts - strlen(a->shorts), "%c%s", row->letter,
				row->value ? ":" : "");
	}
}

static const struct option_row *row_by_letter(const char *keys, int letter)
{
	for (; *keys; keys++)
		if (option_by_key(*keys)->letter == letter)
			return option_by_key(*keys);
	return NULL;
}

static const struct option_row *row_of(int option, const char *keys, const char *common)
{
	if (option >= LONG)
		return &option_rows[option - LONG];
	const struct option_row *own = row_by_letter(keys, option);
	return own ? own : row_by_letter(common, option);
}

/* getopt did not know it: is it another command's? */
static int refuse_option(const struct cli *cli, const char *given)
{
	size_t length = strcspn(given, "=");
	bool known = false;
	for (const struct option_row *row = option_rows; row->key; row++) {
		bool is_long = strncmp(given, "--", 2) == 0 && strlen(row->name) == length - 2 &&
					   strncmp(given + 2, row->name, length - 2) == 0;
		if (is_long && given[length] && !row->value)
			return cli_usage(cli, "%.*s takes no value", (int)length, given);
		known |= is_long || (given[0] == '-' && row->letter && given[1] == row->letter);
	}
	if (!known)
		return cli_usage(cli, "there is no option %s", given);
	return cli_usage(cli, "%s takes no option %.*s", cli->command ? cli->command->name : "penstock itself",
		strncmp(given, "--", 2) == 0 ? (int)length : 2, given);
}

/* -1: go on. */
static int parse(struct cli *cli, int argc, char **argv, const char *keys, const char *common, const char *first)
{
	struct accepted accepted = {0};
	snprintf(accepted.shorts, sizeof accepted.shorts, "%s", first);
	accepted_add(&accepted, keys);
	accepted_add(&accepted, common);
	opterr = 0;
	for (;;) {
		int option = getopt_long(argc, argv, accepted.shorts, accepted.longs, NULL);
		if (option == -1)
			return -1;
		const char *given = argv[optind - 1];
		if (option == ':')
			return cli_usage(cli, "%s needs a value", given);
		const struct option_row *row = option == '?' ? NULL : row_of(option, keys, common);
		int code = row ? set_option(cli, row) : refuse_option(cli, given);
		if (code >= 0)
			return code;
	}
}

static int command_run(struct cli *cli)
{
	struct error e = {0};
	if (client_new(cli->server, &cli->credentials, &cli->client, &e) < 0) {
		fprintf(stderr, "penstock: %s\n", e.detail);
		return CODE_USAGE;
	}
	int code = cli->command->run(cli);
	client_free(cli->client);
	return code;
}

/* "penstock help COMMAND" */
static int help_run(struct cli *cli, int argc, char **argv)
{
	if (argc > 2)
		return cli_usage(cli, "help is of one command");
	if (argc == 2 && !(cli->command = command_find(argv[1])))
		return cli_usage(cli, "there is no command %s", argv[1]);
	help_put(cli, stdout);
	return CODE_OK;
}

static int run(struct cli *cli, int argc, char **argv)
{
	int code = parse(cli, argc, argv, "", OPTIONS_ALONE, "+:");
	if (code >= 0)
		return code;
	if (optind == argc) {
		help_put(cli, stderr);
		return CODE_USAGE;
	}
	argc -= optind;
	argv += optind;
	if (strcmp(argv[0], "__complete") == 0)
		return complete(cli, argv + 1, argc - 1);
	if (strcmp(argv[0], "__man") == 0) {
		struct buffer page = {0};
		man_page(&page);
		put(stdout, &page);
		return CODE_OK;
	}
	if (strcmp(argv[0], "help") == 0)
		return help_run(cli, argc, argv);
	cli->command = command_find(argv[0]);
	if (!cli->command)
		return cli_usage(cli, "there is no command %s", argv[0]);
	optind = 0; /* glibc: from the start again */
	code = parse(cli, argc, argv, cli->command->options, OPTIONS_COMMON, ":");
	if (code >= 0)
		return code;
	cli->words = argv + optind;
	cli->word_count = argc - optind;
	return command_run(cli);
}

static const char *server_default(void)
{
	static const char *const names[] = {"PENSTOCK_SERVER", "PENSTOCK_SOCKET"};
	for (size_t at = 0; at < sizeof names / sizeof names[0]; at++) {
		const char *value = getenv(names[at]);
		if (value && *value)
			return value;
	}
	return SOCKET_DEFAULT;
}

int main(int argc, char **argv)
{
	struct cli cli = {.server = server_default(),
		.credentials = {
			getenv("PENSTOCK_CA"), getenv("PENSTOCK_CERT"), getenv("PENSTOCK_KEY"), getenv("PENSTOCK_TOKEN_FILE")}};
	cli.files = mem_alloc(sizeof *cli.files);
	int code = run(&cli, argc, argv);
	free(cli.files);
	/* A full disk behind `get > file` must not look like success. */
	if (fflush(stdout) != 0 && code == CODE_OK) {
		perror("penstock: standard output");
		code = CODE_USAGE;
	}
	return code;
}
