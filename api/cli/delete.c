/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"
#include "api/cli/cli.h"

static int delete_files(struct cli *cli)
{
	struct manifests manifests;
	json_t *answer = NULL;
	int code = cli_manifests(cli, &manifests);
	if (code)
		return code;
	json_t *keys = json_array();
	for (size_t at = 0; at < manifests.object_count; at++) {
		const json_t *object = manifests.objects[at].json;
		const char *kind = json_string_value(json_object_get(object, "kind"));
		const struct resource *resource = kind ? resource_find(kind) : NULL;
		const char *namespace = manifest_metadata(object, "namespace");
		if (!*namespace && resource && resource->namespaced)
		namespace = "default";
		json_t *key = json_pack("{s:s, s:s}", "kind", kind ? kind : "", "name", manifest_metadata(object, "name"));
		if (*namespace)
			json_object_set_new(key, "namespace", json_string(namespace));
		json_array_append_new(keys, key);
	}
	json_t *request = json_pack("{s:[], s:o}", "apply", "delete", keys);
	auto_free char *body = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	auto_free char *query = cli_write_query(cli);
	auto_free char *path = str_format("/v1/state%s", query);
	code = cli_call(cli, "PATCH", path, body, &manifests, "delete", &answer);
	if (code == CODE_OK) {
		cli_remarks(answer, &manifests, "delete");
		printf("%s %zu object%s: revision %lld\n", cli->dry_run ? "would delete" : "deleted", manifests.object_count,
			manifests.object_count == 1 ? "" : "s", (long long)json_integer_value(json_object_get(answer, "revision")));
		json_decref(answer);
	}
	manifests_clear(&manifests);
	return code;
}

static int delete_one(struct cli *cli, const struct resource *resource, const char *name)
{
	json_t *answer = NULL;
	auto_free char *path = cli_object_path(cli, resource, name);
	if (!path)
		return CODE_USAGE;
	auto_free char *query = cli_write_query(cli);
	auto_free char *whole = str_format("%s%s", path, query);
	int code = cli_call(cli, "DELETE", whole, NULL, NULL, "", &answer);
	if (code == CODE_OK) {
		cli_remarks(answer, NULL, "");
		printf("%s %s %s: revision %lld\n", cli->dry_run ? "would delete" : "deleted", resource->kind, name,
			(long long)json_integer_value(json_object_get(answer, "revision")));
		json_decref(answer);
	}
	return code;
}

int command_delete(struct cli *cli)
{
	if (cli->files[0] && cli->word_count)
		return cli_usage(cli, "either -f or a kind and names");
	if (cli->files[0])
		return delete_files(cli);
	if (cli->word_count < 2)
		return cli_usage(cli, "a kind and a name, or -f FILE, are needed");
	const struct resource *resource = cli_resource(cli, cli->words[0]);
	if (!resource)
		return CODE_USAGE;
	int code = CODE_OK;
	for (int at = 1; at < cli->word_count && code != CODE_UNREACHABLE; at++) {
		int one = delete_one(cli, resource, cli->words[at]);
		code = one ? one : code;
	}
	return code;
}
