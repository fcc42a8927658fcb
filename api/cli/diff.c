/* SPDX-License-Identifier: Apache-2.0 */
/* What apply would change, as the agent would return it. */
#include <stdio.h>
#include <string.h>
#include "agent/base/map.h"
#include "agent/base/mem.h"
#include "api/cli/cli.h"
#include "api/cli/compare.h"
#include "api/cli/style.h"

static const char *text_of(const json_t *json, const char *member)
{
	const char *text = json_string_value(json_object_get(json, member));
	return text ? text : "";
}

/* The agent's answer lists what differs by kind, namespace and name. */
static struct names changes_index(const json_t *changes)
{
	struct names index = {0};
	json_t *change;
	size_t at;
	json_array_foreach(changes, at, change)
	{
		auto_free char *key =
			str_format("%s %s/%s", text_of(change, "kind"), text_of(change, "namespace"), text_of(change, "name"));
		names_put(&index, key, change);
	}
	return index;
}

static const json_t *change_find(const struct names *index, const json_t *object)
{
	const struct resource *resource = resource_find(text_of(object, "kind"));
	const char *namespace = manifest_metadata(object, "namespace");
	if (resource && resource->namespaced && !*namespace)
	namespace = "default";
	auto_free char *key = str_format("%s %s/%s", text_of(object, "kind"), namespace, manifest_metadata(object, "name"));
	return names_get(index, key);
}

static char *yaml_of(const json_t *object)
{
	struct buffer text = {0};
	if (json_is_object(object))
		json_to_yaml(object, &text);
	return buffer_take(&text);
}

static void name_add(struct buffer *out, const json_t *object)
{
	const char *namespace = manifest_metadata(object, "namespace");
	buffer_printf(
		out, "%s %s%s%s", text_of(object, "kind"), namespace, *namespace ? "/" : "", manifest_metadata(object, "name"));
}

static void change_show(const struct manifest_object *manifest, const json_t *change, bool colours, struct buffer *out)
{
	const json_t *old = json_object_get(change, "old"), *new = json_object_get(change, "new");
	struct buffer name = {0};
	name_add(&name, json_is_object(old) ? old : new);
	buffer_printf(out, "%s%s %s%s\n", colours ? style_begin(STYLE_BOLD) : "",
		json_is_object(old) ? "changed" : "created", name.data, colours ? STYLE_END : "");
	if (json_is_object(old))
		buffer_printf(out, "--- %s (now)\n", name.data);
	else
		buffer_puts(out, "--- /dev/null\n");
	buffer_printf(out, "+++ %s (%s)\n", name.data, manifest->source->name);
	auto_free char *before = yaml_of(old), *after = yaml_of(new);
	compare_lines(before, after, colours, out);
	buffer_free(&name);
}

/* Each object once, in the order of the files. */
static void changes_show(const struct cli *cli, const struct manifests *manifests, const json_t *changes)
{
	bool colours = style_wanted(cli->color);
	struct names index = changes_index(changes);
	size_t created = 0, changed = 0;
	for (size_t at = 0; at < manifests->object_count; at++) {
		const struct manifest_object *manifest = &manifests->objects[at];
		const json_t *change = change_find(&index, manifest->json);
		struct buffer out = {0};
		if (change) {
			bool new = !json_is_object(json_object_get(change, "old"));
			created += new;
			changed += !new;
			change_show(manifest, change, colours, &out);
		} else {
			buffer_puts(&out, "unchanged ");
			name_add(&out, manifest->json);
			buffer_puts(&out, "\n");
		}
		fputs(out.data, stdout);
		buffer_free(&out);
	}
	names_clear(&index);
	fflush(stdout);
	fprintf(stderr, "%zu created, %zu changed, %zu unchanged\n", created, changed,
		manifests->object_count - created - changed);
}

/* As diff(1) and kubectl diff: 1 is a difference, so what is refused is 2. */
int command_diff(struct cli *cli)
{
	struct manifests manifests;
	json_t *answer = NULL;
	int code = cli_apply_files(cli, &manifests);
	if (code)
		return code;
	auto_free char *body = cli_apply_body(&manifests);
	auto_free char *query = cli_write_query(cli);
	auto_free char *path = str_format("/v1/state%s%cdryRun=diff", query, *query ? '&' : '?');
	code = cli_call(cli, "PATCH", path, body, &manifests, "apply", &answer);
	if (code == CODE_REFUSED)
		code = CODE_USAGE;
	if (code == CODE_OK) {
		const json_t *changes = json_object_get(answer, "changes");
		cli_remarks(answer, &manifests, "apply");
		if (json_is_array(changes)) {
			changes_show(cli, &manifests, changes);
			code = json_array_size(changes) ? 1 : CODE_OK;
		} else {
			fputs("penstock: this agent does not say what would change\n", stderr);
			code = CODE_USAGE;
		}
		json_decref(answer);
	}
	manifests_clear(&manifests);
	return code;
}
