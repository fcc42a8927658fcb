/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of the status, for people. */
#include <stdio.h>
#include <string.h>
#include "agent/base/buffer.h"
#include "api/cli/cli.h"
#include "api/cli/style.h"

#define NAME_WIDTH 11

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	return text ? text : "";
}

static const struct mark {
	const char *level, *sign;
	enum style style;
} marks[] = {
	{"ok", "\xe2\x9c\x94", STYLE_GREEN},
	{"warning", "!", STYLE_YELLOW},
	{"bad", "\xe2\x9c\x98", STYLE_RED},
};
#define MARKS (sizeof marks / sizeof marks[0])

static size_t mark_of(const json_t *check)
{
	for (size_t at = 0; at < MARKS; at++)
		if (strcmp(marks[at].level, text_of(check, "level")) == 0)
			return at;
	return MARKS - 1; /* what this program does not know is no good news */
}

static void check_show(const json_t *check, bool colours, struct buffer *out)
{
	const struct mark *mark = &marks[mark_of(check)];
	const char *mend = text_of(check, "mend");
	buffer_printf(out, "%s%s%s %-*s ", colours ? style_begin(mark->style) : "", mark->sign, colours ? STYLE_END : "",
		NAME_WIDTH, text_of(check, "name"));
	text_clean(out, text_of(check, "what"));
	buffer_puts(out, "\n");
	if (!*mend)
		return;
	buffer_printf(out, "%*s%s", NAME_WIDTH + 3, "", colours ? style_begin(STYLE_DIM) : "");
	text_clean(out, mend);
	buffer_printf(out, "%s\n", colours ? STYLE_END : "");
}

void doctor_print(const json_t *checks, bool colours, struct buffer *out)
{
	size_t index, counts[MARKS] = {0};
	json_t *check;
	json_array_foreach(checks, index, check)
	{
		counts[mark_of(check)]++;
		check_show(check, colours, out);
	}
	buffer_printf(out, "%zu well, %zu to look at, %zu not well\n", counts[0], counts[1], counts[2]);
}

int command_doctor(struct cli *cli)
{
	json_t *status = NULL, *check;
	size_t index;
	bool well = true;
	if (cli->word_count)
		return cli_usage(cli, "what is %s?", cli->words[0]);
	int code = cli_call(cli, "GET", "/v1/status", NULL, NULL, "", &status);
	if (code)
		return code;
	const json_t *checks = json_object_get(status, "checks");
	json_array_foreach(checks, index, check) well &= mark_of(check) != MARKS - 1;
	if (!json_is_array(checks)) {
		fputs("penstock: this agent does not say what it has checked\n", stderr);
		code = CODE_USAGE;
	} else if (cli->output == OUTPUT_TABLE) {
		struct buffer out = {0};
		doctor_print(checks, style_wanted(cli->color), &out);
		fputs(out.data, stdout);
		buffer_free(&out);
	} else {
		cli_print(checks, cli->output);
	}
	json_decref(status);
	return code ? code : well ? CODE_OK : CODE_REFUSED;
}
