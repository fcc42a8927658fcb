/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One object, or {"items": […]}, on standard input → on standard output what the decoder makes of each: its canonical
 * JSON, or its errors. --all: also what this build does not enforce.
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "agent/base/buffer.h"
#include "agent/base/mem.h"
#include "agent/model/body.h"
#include "agent/model/decode.h"
#include "agent/model/read.h"

static json_t *errors_json(const struct errors *errors)
{
	json_t *list = json_array();
	for (size_t i = 0; i < errors->count; i++)
		json_array_append_new(
			list, json_pack("{s:s,s:s}", "pointer", errors->list[i].path, "detail", errors->list[i].detail));
	return list;
}

static json_t *canonical(const struct object *object)
{
	return json_loads(object->json, 0, NULL);
}

static json_t *object_result(const json_t *json, const char *pointer, bool all)
{
	struct object *object = NULL, *partial = NULL;
	struct errors errors = {0};
	int status = all ? object_read(json, pointer, true, &object, &errors)
					 : object_decode(json, pointer, &object, &partial, &errors);
	json_t *result = json_object();
	if (!status)
		json_object_set_new(result, "object", canonical(object));
	else
		json_object_set_new(result, "errors", errors_json(&errors));
	if (partial)
		json_object_set_new(result, "partial", canonical(partial));
	object_cleanup(&object);
	object_cleanup(&partial);
	errors_clear(&errors);
	return result;
}

static json_t *item_result(const struct body_item *item, const char *pointer, bool all)
{
	struct error e = {0};
	json_t *json = NULL;
	if (body_item_parse(item, pointer, &json, &e))
		return json_pack("{s:[{s:s,s:s}]}", "errors", "pointer", e.path, "detail", e.detail);
	json_t *result = object_result(json, pointer, all);
	json_decref(json);
	return result;
}

static json_t *body_result(const struct buffer *body, bool all)
{
	struct error e = {0};
	struct body_items items = {0};
	json_t *results = json_array();
	if (!body_split(body->data, body->length, BODY_JSON, "items", 1, &items, &e)) {
		for (size_t i = 0; i < items.count; i++) {
			char pointer[32];
			snprintf(pointer, sizeof(pointer), "/items/%zu", i);
			json_array_append_new(results, item_result(&items.list[i], pointer, all));
		}
	} else if (!strcmp(e.path, "/items")) {
		struct body_item whole = {body->data, body->length};
		json_array_append_new(results, item_result(&whole, "", all));
	} else {
		json_array_append_new(results, json_pack("{s:[{s:s,s:s}]}", "errors", "pointer", e.path, "detail", e.detail));
	}
	body_items_free(&items);
	return results;
}

int main(int argc, char **argv)
{
	bool all = argc > 1 && !strcmp(argv[1], "--all");
	struct buffer body = {0};
	char part[65536];
	size_t got;
	buffer_puts(&body, "");
	while ((got = fread(part, 1, sizeof(part), stdin)))
		buffer_add(&body, part, got);
	json_t *results = body_result(&body, all);
	json_dumpf(results, stdout, JSON_INDENT(2) | JSON_SORT_KEYS);
	putchar('\n');
	json_decref(results);
	buffer_free(&body);
	return 0;
}
