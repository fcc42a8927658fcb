/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"
#include "api/cli/cli.h"

int cli_manifests(struct cli *cli, struct manifests *ret)
{
	struct error e;
	*ret = (struct manifests){0};
	for (const char **file = cli->files; *file; file++) {
		if (manifests_add(ret, *file, &e) < 0) {
			struct buffer text = {0};
			buffer_printf(&text, "penstock: %s\n", e.detail);
			if (ret->wrong_source)
				place_excerpt(ret->wrong_source->text, ret->wrong_source->length, &ret->wrong, "", &text);
			fputs(text.data, stderr);
			buffer_free(&text);
			manifests_clear(ret);
			return CODE_USAGE;
		}
	}
	if (ret->object_count)
		return CODE_OK;
	manifests_clear(ret);
	fputs("penstock: there is no object in what was given\n", stderr);
	return CODE_USAGE;
}

static void add_query(struct buffer *query, const char *name, const char *value)
{
	auto_free char *escaped = client_escape(value);
	buffer_printf(query, "%c%s=%s", query->length ? '&' : '?', name, escaped);
}

char *cli_write_query(const struct cli *cli)
{
	struct buffer query = {0};
	if (cli->owner)
		add_query(&query, "owner", cli->owner);
	if (cli->force)
		add_query(&query, "force", "true");
	if (cli->dry_run)
		add_query(&query, "dryRun", "true");
	if (cli->quarantine)
		add_query(&query, "invalid", "quarantine");
	return buffer_take(&query);
}

/* "1 Namespace, 12 Pods": in the order in which the kinds come. */
static void count_kinds(const struct manifests *manifests, struct buffer *out)
{
	auto_free bool *counted = mem_array(manifests->object_count, sizeof *counted);
	for (size_t at = 0; at < manifests->object_count; at++) {
		const char *kind = json_string_value(json_object_get(manifests->objects[at].json, "kind"));
		size_t count = 0;
		if (counted[at] || !kind)
			continue;
		for (size_t other = at; other < manifests->object_count; other++) {
			const char *same = json_string_value(json_object_get(manifests->objects[other].json, "kind"));
			if (same && strcmp(same, kind) == 0) {
				counted[other] = true;
				count++;
			}
		}
		const struct resource *resource = resource_find(kind);
		size_t length = strlen(kind);
		bool y = resource && kind[length - 1] == 'y',
			 xy = resource && strcmp(resource->plural + length - 1, "ies") == 0;
		buffer_printf(out, "%s%zu ", out->length ? ", " : "", count);
		if (count == 1)
			buffer_puts(out, kind);
		else if (y && xy)
			buffer_printf(out, "%.*sies", (int)length - 1, kind);
		else
			buffer_printf(out, "%ss", kind);
	}
}

char *cli_apply_body(const struct manifests *manifests)
{
	json_t *objects = json_array();
	for (size_t at = 0; at < manifests->object_count; at++)
		json_array_append(objects, manifests->objects[at].json);
	json_t *request = json_pack("{s:o}", "apply", objects);
	char *body = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	return body;
}

int cli_apply_files(struct cli *cli, struct manifests *ret)
{
	if (!cli->files[0])
		return cli_usage(cli, "-f FILE, -f DIRECTORY or -f - is needed");
	if (cli->word_count)
		return cli_usage(cli, "what is %s? Files are given with -f", cli->words[0]);
	return cli_manifests(cli, ret);
}

int command_apply(struct cli *cli)
{
	struct manifests manifests;
	json_t *answer = NULL;
	int code = cli_apply_files(cli, &manifests);
	if (code)
		return code;
	auto_free char *body = cli_apply_body(&manifests);
	auto_free char *query = cli_write_query(cli);
	auto_free char *path = str_format("/v1/state%s", query);
	code = cli_call(cli, "PATCH", path, body, &manifests, "apply", &answer);
	if (code == CODE_OK) {
		struct buffer counts = {0};
		count_kinds(&manifests, &counts);
		cli_remarks(answer, &manifests, "apply");
		printf("%s %s: revision %lld\n", cli->dry_run ? "would apply" : "applied", counts.data,
			(long long)json_integer_value(json_object_get(answer, "revision")));
		buffer_free(&counts);
		json_decref(answer);
	}
	manifests_clear(&manifests);
	return code;
}
