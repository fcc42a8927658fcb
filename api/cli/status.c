/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include "api/cli/cli.h"
#include "api/cli/status_show.h"
#include "api/cli/style.h"

int command_status(struct cli *cli)
{
	json_t *status = NULL;
	if (cli->word_count)
		return cli_usage(cli, "what is %s?", cli->words[0]);
	int code = cli_call(cli, "GET", "/v1/status", NULL, NULL, "", &status);
	if (code)
		return code;
	if (cli->output == OUTPUT_TABLE || cli->output == OUTPUT_WIDE) {
		struct buffer text = {0};
		status_show(status, cli->output == OUTPUT_WIDE, style_wanted(cli->color), &text);
		fputs(text.data, stdout);
		buffer_free(&text);
	} else {
		cli_print(status, cli->output);
	}
	json_decref(status);
	return CODE_OK;
}

int command_version(struct cli *cli)
{
	json_t *version = NULL;
	if (cli->word_count)
		return cli_usage(cli, "what is %s?", cli->words[0]);
	puts("penstock " PENSTOCK_VERSION " (" PENSTOCK_COMMIT ")");
	fflush(stdout);
	int code = cli_call(cli, "GET", "/version", NULL, NULL, "", &version);
	if (code)
		return code;
	const char *number = json_string_value(json_object_get(version, "version"));
	const char *commit = json_string_value(json_object_get(version, "commit"));
	printf("penstockd %s (%s)\n", number ? number : "?", commit ? commit : "?");
	json_decref(version);
	return CODE_OK;
}
