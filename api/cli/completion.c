/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Completion: the scripts are a few lines that ask "penstock __complete WORD…", whose last word is the one to be
 * completed. It answers one candidate a line, or ":file" where the shell's own completion of files is wanted. What a
 * command line can hold is in the tables of command.c; names of objects come from the agent, quietly.
 */
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"
#include "api/cli/cli.h"

#define NAMES_MAX_TEXT "1000"

static const struct script {
	const char *shell, *text;
} scripts[] = {
	{"bash", "# bash completion of penstock: source <(penstock completion bash)\n"
			 "_penstock()\n"
			 "{\n"
			 "\tlocal line current=${COMP_WORDS[COMP_CWORD]}\n"
			 "\tCOMPREPLY=()\n"
			 "\twhile IFS= read -r line; do\n"
			 "\t\tif [ \"$line\" = :file ]; then\n"
			 "\t\t\tcompopt -o filenames 2>/dev/null\n"
			 "\t\t\twhile IFS= read -r line; do COMPREPLY+=(\"$line\"); done < <(compgen -f -- \"$current\")\n"
			 "\t\telse\n"
			 "\t\t\tCOMPREPLY+=(\"$line\")\n"
			 "\t\tfi\n"
			 "\tdone < <(\"${COMP_WORDS[0]}\" __complete \"${COMP_WORDS[@]:1:COMP_CWORD}\" 2>/dev/null)\n"
			 "}\n"
			 "complete -F _penstock penstock\n"},
	{"zsh", "#compdef penstock\n"
			"# zsh completion of penstock: source <(penstock completion zsh), after compinit\n"
			"_penstock()\n"
			"{\n"
			"\tlocal -a found\n"
			"\tfound=(\"${(@f)$(\"${words[1]}\" __complete \"${(@)words[2,CURRENT]}\" 2>/dev/null)}\")\n"
			"\tif [[ \"${found[1]}\" == :file ]]; then\n"
			"\t\t_files\n"
			"\telif [[ -n \"${found[1]}\" ]]; then\n"
			"\t\tcompadd -- \"${found[@]}\"\n"
			"\tfi\n"
			"}\n"
			"if [[ \"${funcstack[1]}\" = _penstock ]]; then _penstock; else compdef _penstock penstock; fi\n"},
	{"fish", "# fish completion of penstock: penstock completion fish | source\n"
			 "function __penstock_complete\n"
			 "\tset -l words (commandline -opc)\n"
			 "\tset -l current (commandline -ct)\n"
			 "\tfor line in ($words[1] __complete $words[2..-1] \"$current\" 2>/dev/null)\n"
			 "\t\tif test \"$line\" = :file\n"
			 "\t\t\t__fish_complete_path \"$current\"\n"
			 "\t\telse\n"
			 "\t\t\techo $line\n"
			 "\t\tend\n"
			 "\tend\n"
			 "end\n"
			 "complete -c penstock -f -a '(__penstock_complete)'\n"},
};

int command_completion(struct cli *cli)
{
	for (size_t at = 0; cli->word_count == 1 && at < sizeof scripts / sizeof scripts[0]; at++) {
		if (strcmp(scripts[at].shell, cli->words[0]) == 0) {
			fputs(scripts[at].text, stdout);
			return CODE_OK;
		}
	}
	return cli_usage(cli, "one of bash, zsh and fish is wanted");
}

/* ---- candidates ---- */

static void offer(const char *current, const char *word)
{
	if (strncmp(word, current, strlen(current)) == 0)
		puts(word);
}

static void offer_words(const char *current, const char *words)
{
	for (size_t length; *words; words += length, words += strspn(words, " ")) {
		length = strcspn(words, " ");
		auto_free char *word = mem_dup(words, length + 1);
		word[length] = 0;
		offer(current, word);
	}
}

static void offer_options(const char *current, const char *keys)
{
	for (; *keys; keys++) {
		const struct option_row *row = option_by_key(*keys);
		auto_free char *word = str_format("--%s", row->name);
		offer(current, word);
	}
}

static void offer_commands(const char *current)
{
	for (const struct command *command = commands; command->name; command++)
		offer(current, command->name);
	offer(current, "help");
}

/* ---- names, from the agent ---- */

static void offer_names(struct cli *cli, const char *current, const struct resource *resource)
{
	struct answer answer;
	json_t *object;
	size_t index;
	if (!cli->client && client_new(cli->server, &cli->credentials, &cli->client, NULL) < 0)
		return;
	auto_free char *path = str_format("/v1/%s?limit=" NAMES_MAX_TEXT, resource->plural);
	if (client_call(cli->client, "GET", path, NULL, 0, &answer, NULL) < 0)
		return;
	json_t *list = answer.status == 200 ? json_loadb(answer.body, answer.length, 0, NULL) : NULL;
	json_array_foreach(json_object_get(list, "items"), index, object)
	{
		const char *namespace = manifest_metadata(object, "namespace"), *name = manifest_metadata(object, "name");
		bool bare = !*namespace || (cli->namespace && strcmp(cli->namespace, namespace) == 0);
		auto_free char *whole = bare ? str_dup(name) : str_format("%s/%s", namespace, name);
		if (bare || !cli->namespace)
			offer(current, whole);
	}
	json_decref(list);
	answer_clear(&answer);
}

static void offer_kinds(const char *current, bool all)
{
	for (int kind = 0; kind < KIND_COUNT; kind++)
		offer(current, resources[kind].plural);
	if (all)
		offer(current, "all");
}

static void offer_workloads(struct cli *cli, const char *current)
{
	offer_names(cli, current, &resources[KIND_WORKLOAD]);
	offer_names(cli, current, &resources[KIND_POD]);
}

/* ---- what stands before the word ---- */

struct line {
	const struct option_row *waiting; /* for its value */
	const char *first;                /* of the command's words, the first */
	int words;
};

static const struct option_row *option_of(const char *word, const char *keys)
{
	for (; *keys; keys++) {
		const struct option_row *row = option_by_key(*keys);
		if ((strncmp(word, "--", 2) == 0 && strcmp(word + 2, row->name) == 0) ||
			(row->letter && word[0] == '-' && word[1] == row->letter && !word[2]))
			return row;
	}
	return NULL;
}

static void note_value(struct cli *cli, const struct option_row *row, const char *value)
{
	if (row->key == 'S' || row->key == 's')
		cli->server = value;
	cli_credential(cli, row->key, value);
	if (row->letter == 'n')
		cli->namespace = value;
}

static struct line line_read(struct cli *cli, char **words, int count)
{
	struct line line = {0};
	for (int at = 0; at < count; at++) {
		const char *keys = cli->command ? cli->command->options : "";
		if (line.waiting && strcmp(words[at], "=") != 0) { /* bash takes "--a=b" apart */
			note_value(cli, line.waiting, words[at]);
			line.waiting = NULL;
		} else if (words[at][0] == '-' && words[at][1]) {
			const struct option_row *row = option_of(words[at], keys);
			row = row ? row : option_of(words[at], OPTIONS_ALONE);
			line.waiting = row && row->value ? row : NULL;
		} else if (!cli->command && !line.first && !line.waiting) {
			cli->command = command_find(words[at]);
			line.first = cli->command ? NULL : words[at];
		} else if (!line.waiting) {
			line.first = line.words++ ? line.first : words[at];
		}
	}
	return line;
}

static void offer_value(struct cli *cli, const char *current, const struct option_row *row)
{
	if (row->choice && strcmp(row->choice, "FILE") == 0)
		puts(":file");
	else if (row->choice)
		offer_words(current, row->choice);
	else if (row->letter == 'n')
		offer_names(cli, current, &resources[KIND_NAMESPACE]);
	else if (row->key == 'W')
		offer_workloads(cli, current);
}

static void offer_word(struct cli *cli, const char *current, const struct line *line)
{
	const char *words = cli->command->words;
	if (!words)
		return;
	if (strcmp(words, "WORKLOAD") == 0) {
		offer_workloads(cli, current);
	} else if (strcmp(words, "KIND NAME") != 0) {
		if (!line->words)
			offer_words(current, words);
	} else if (!line->words) {
		offer_kinds(current, cli->command->run == command_get);
	} else {
		const struct resource *resource = resource_find(line->first);
		if (resource)
			offer_names(cli, current, resource);
	}
}

int complete(struct cli *cli, char **words, int count)
{
	const char *current = count ? words[count - 1] : "";
	struct line line = line_read(cli, words, count ? count - 1 : 0);
	if (strcmp(current, "=") == 0)
		current = "";
	if (line.waiting) {
		offer_value(cli, current, line.waiting);
	} else if (current[0] == '-') {
		offer_options(current, cli->command ? cli->command->options : "");
		offer_options(current, cli->command ? OPTIONS_COMMON : OPTIONS_ALONE);
	} else if (cli->command) {
		offer_word(cli, current, &line);
	} else if (!line.first || strcmp(line.first, "help") == 0) {
		offer_commands(current);
	}
	if (cli->client)
		client_free(cli->client);
	return CODE_OK;
}
