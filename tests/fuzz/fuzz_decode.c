/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies into the splitter and the decoder:
 *   clang -fsanitize=fuzzer,address,undefined -std=gnu11 -D_GNU_SOURCE -I. tests/fuzz/fuzz_decode.c \
 *     agent/base/[!g]*.c agent/model/[a-z]*.c -ljansson -o fuzz_decode && ./fuzz_decode tests/fuzz/corpus/decode
 * Without a fuzzing compiler: -DFUZZ_MAIN gives a program that runs the files named on its command line, each also cut
 * off and with bytes changed.
 *
 * What must hold: no crash or leak, an error for everything refused, and canonical text that decodes to itself.
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "agent/base/mem.h"
#include "agent/model/body.h"
#include "agent/model/decode.h"
#include "agent/model/read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "fuzz_decode: %s\n", what);
	abort();
}

static void errors_are_text(const struct errors *errors)
{
	for (size_t i = 0; i < errors->count; i++) {
		json_t *path = json_string(errors->list[i].path), *detail = json_string(errors->list[i].detail);
		must(path && detail && *errors->list[i].detail, "an error is empty or no UTF-8");
		json_decref(path);
		json_decref(detail);
	}
}

static void canonical_is_stable(const struct object *object)
{
	struct object *owned = object_with(object, "owner", 1), *again = NULL;
	struct errors errors = {0};
	auto_free char *text = object_encode(owned);
	json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	must(json && !object_read(json, "", true, &again, &errors), "what was encoded does not decode");
	must(!strcmp(again->json, object->json), "what was encoded decodes to something else");
	json_decref(json);
	object_put(again);
	object_put(owned);
}

/* Decodes to what the whole text decodes to. */
static void same_as_whole(const json_t *json, const struct body_item *item)
{
	json_t *whole = json_loadb(item->text, item->length, JSON_DECODE_ANY, NULL);
	must(whole != NULL, "text that jansson refuses is accepted");
	json_decref(whole);
	if (!(whole = json_loadb(item->text, item->length, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL)))
		return;
	struct object *a = NULL, *b = NULL;
	struct errors x = {0}, y = {0};
	must(object_read(json, "", true, &a, &x) == object_read(whole, "", true, &b, &y), "decodes otherwise");
	must(!a || !strcmp(a->json, b->json), "decodes to something else");
	must(x.total == y.total, "has other errors");
	object_cleanup(&a);
	object_cleanup(&b);
	errors_clear(&x);
	errors_clear(&y);
	json_decref(whole);
}

static void one_item(const struct body_item *item)
{
	json_t *json = NULL;
	struct error e = {0};
	if (body_item_parse(item, "/items/0", &json, &e)) {
		must(e.kind == ERROR_SYNTAX, "a parse error of another kind");
		must(!json_loadb(item->text, item->length, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL),
			"good text is refused");
		return;
	}
	same_as_whole(json, item);
	for (int all = 0; all < 2; all++) {
		struct object *object = NULL, *partial = NULL;
		struct errors errors = {0};
		int status = all ? object_read(json, "", true, &object, &errors)
						 : object_decode(json, "/items/0", &object, &partial, &errors);
		must(!status == !errors.total && !status == !!object, "refused without an error, or the reverse");
		errors_are_text(&errors);
		if (object)
			canonical_is_stable(object);
		if (partial)
			canonical_is_stable(partial);
		object_cleanup(&object);
		object_cleanup(&partial);
		errors_clear(&errors);
	}
	struct object_key key;
	object_key_read(json, &key);
	json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *body = mem_dup(data, size ? size : 1);
	struct error e = {0};
	for (int format = BODY_JSON; format <= BODY_NDJSON; format++) {
		struct body_items items = {0};
		if (!body_split(body, size, format, "items", 0, &items, &e))
			for (size_t i = 0; i < items.count; i++)
				one_item(&items.list[i]);
		else
			must(*e.detail, "a body is refused without a word");
		body_items_free(&items);
	}
	if (!body_check(body, size, &e)) {
		struct body_item whole = {body, size};
		one_item(&whole);
	}
	struct body_member *members = NULL;
	size_t count = 0;
	if (!body_members(body, size, &members, &count, &e))
		free(members);
	struct selector *selector = NULL;
	auto_free char *text = str_format("%.*s", (int)(size < 1000 ? size : 1000), body);
	if (!selector_parse(text, &selector, &e))
		selector_free(selector);
	free(body);
	return 0;
}

#ifdef FUZZ_MAIN
static void mutations(uint8_t *data, size_t size)
{
	unsigned seed = (unsigned)size;
	for (size_t cut = 0; cut <= size; cut += 1 + size / 64)
		LLVMFuzzerTestOneInput(data, cut);
	for (int round = 0; round < 400 && size; round++) {
		size_t at = (seed = seed * 1103515245 + 12345) / 65536 % size;
		uint8_t before = data[at];
		data[at] = (uint8_t)(round % 3 ? "{}[]\",:\\0a-.n\xff"[seed / 65536 % 14] : seed / 65536);
		LLVMFuzzerTestOneInput(data, size);
		data[at] = round % 5 ? before : data[at]; /* some stay and add up */
	}
}

int main(int argc, char **argv)
{
	static uint8_t data[1 << 20];
	for (int i = 1; i < argc; i++) {
		FILE *file = fopen(argv[i], "rb");
		must(file != NULL, argv[i]);
		size_t size = fread(data, 1, sizeof(data), file);
		fclose(file);
		mutations(data, size);
	}
	printf("%d files\n", argc - 1);
	return 0;
}
#endif
