/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"
#include "api/cli/cli.h"
#include "api/cli/show.h"

const struct resource *cli_resource(const struct cli *cli, const char *name)
{
	const struct resource *resource = resource_find(name);
	if (resource)
		return resource;
	struct buffer known = {0};
	for (int kind = 0; kind < KIND_COUNT; kind++)
		buffer_printf(&known, "%s%s", kind ? ", " : "", resources[kind].plural);
	cli_usage(cli, "there is no kind %s. There are %s", name, known.data);
	buffer_free(&known);
	return NULL;
}

char *cli_object_path(const struct cli *cli, const struct resource *resource, const char *name)
{
	const char *slash = strchr(name, '/'), *namespace = cli->namespace;
	auto_free char *before = slash ? mem_dup(name, slash - name + 1) : NULL;
	auto_free char *escaped = client_escape(slash ? slash + 1 : name);
	if (slash)
		before[slash - name] = 0;
	if (!resource->namespaced && (slash || namespace)) {
		cli_usage(cli, "a %s is in no namespace", resource->kind);
		return NULL;
	}
	if (slash && namespace && strcmp(before, namespace) != 0) {
		cli_usage(cli, "%s is not in the namespace %s", name, namespace);
		return NULL;
	}
	if (!*escaped || (slash && !*before)) {
		cli_usage(cli, "\"%s\" is not a name", name);
		return NULL;
	}
	if (!resource->namespaced)
		return str_format("/v1/%s/%s", resource->plural, escaped);
	auto_free char *escaped_namespace = client_escape(slash ? before : namespace ? namespace : "default");
	return str_format("/v1/%s/%s/%s", resource->plural, escaped_namespace, escaped);
}

static int get_list(struct cli *cli, const struct resource *resource, json_t **ret)
{
	struct buffer path = {0};
	buffer_printf(&path, "/v1/%s", resource->plural);
	if (cli->namespace && resource->namespaced) {
		auto_free char *namespace = client_escape(cli->namespace);
		buffer_printf(&path, "/%s", namespace);
	}
	if (cli->selector) {
		auto_free char *selector = client_escape(cli->selector);
		buffer_printf(&path, "?labelSelector=%s", selector);
	}
	int code = cli_call(cli, "GET", path.data, NULL, NULL, "", ret);
	buffer_free(&path);
	return code;
}

/* The objects of one kind, appended to items. */
static int get_kind(struct cli *cli, const struct resource *resource, json_t *items)
{
	json_t *answer = NULL;
	int code = CODE_OK;
	if (cli->word_count == 1) {
		code = get_list(cli, resource, &answer);
		if (code == CODE_OK && json_array_extend(items, json_object_get(answer, "items")) < 0) {
			fputs("penstock: the agent's answer is no list\n", stderr);
			code = CODE_UNREACHABLE;
		}
		json_decref(answer);
		return code;
	}
	for (int at = 1; at < cli->word_count; at++) {
		auto_free char *path = cli_object_path(cli, resource, cli->words[at]);
		if (!path)
			return CODE_USAGE;
		int one = cli_call(cli, "GET", path, NULL, NULL, "", &answer);
		if (one == CODE_OK)
			json_array_append_new(items, answer);
		code = one ? one : code;
	}
	return code;
}

static void print_all(const struct cli *cli, const json_t *items)
{
	if (cli->word_count == 2 && !strchr(cli->words[0], ',')) {
		if (json_array_size(items))
			cli_print(json_array_get(items, 0), cli->output);
		return;
	}
	json_t *list = json_pack("{s:s, s:O, s:s}", "apiVersion", "v1", "items", items, "kind", "List");
	cli_print(list, cli->output);
	json_decref(list);
}

/* "pods/shop/web", as in the API's paths. */
static void print_names(const struct resource *resource, const json_t *items)
{
	json_t *object;
	size_t index;
	json_array_foreach(items, index, object)
	{
		printf("%s/%s%s%s\n", resource->plural, manifest_metadata(object, "namespace"), resource->namespaced ? "/" : "",
			manifest_metadata(object, "name"));
	}
}

int command_get(struct cli *cli)
{
	int code = CODE_OK, shown = 0;
	if (!cli->word_count)
		return cli_usage(cli, "a kind is needed, such as pods");
	if (cli->selector && cli->word_count > 1)
		return cli_usage(cli, "either names or a selector");
	bool several = strchr(cli->words[0], ',') || strcmp(cli->words[0], "all") == 0;
	bool is_table = cli->output == OUTPUT_TABLE || cli->output == OUTPUT_WIDE;
	json_t *all = json_array();
	auto_free char *names = str_dup(cli->words[0]);
	if (strcmp(names, "all") == 0) {
		struct buffer every = {0};
		for (int kind = 0; kind < KIND_COUNT; kind++)
			buffer_printf(&every, "%s%s", kind ? "," : "", resources[kind].plural);
		free(names);
		names = buffer_take(&every);
	}
	for (char *rest = NULL, *name = strtok_r(names, ",", &rest); name; name = strtok_r(NULL, ",", &rest)) {
		const struct resource *resource = cli_resource(cli, name);
		json_t *items = json_array();
		int one = resource ? get_kind(cli, resource, items) : CODE_USAGE;
		code = one ? one : code;
		if (is_table && json_array_size(items)) {
			if (several)
				printf("%s%s\n", shown++ ? "\n" : "", resource->plural);
			show_objects(resource, items, cli->output == OUTPUT_WIDE);
		} else if (is_table && !one && !several) {
			fprintf(stderr, "No %s%s%s.\n", resource->plural, cli->namespace ? " in " : "",
				cli->namespace ? cli->namespace : "");
		}
		if (cli->output == OUTPUT_NAME)
			print_names(resource, items);
		json_array_extend(all, items);
		json_decref(items);
		if (one == CODE_UNREACHABLE || one == CODE_USAGE)
			break;
	}
	if (!is_table && cli->output != OUTPUT_NAME && code != CODE_UNREACHABLE && code != CODE_USAGE)
		print_all(cli, all);
	json_decref(all);
	return code;
}
