/* SPDX-License-Identifier: Apache-2.0 */
/*
 * First bytes of connections into the relay's search for a name:
 *   clang -fsanitize=fuzzer,address,undefined -std=gnu11 -D_GNU_SOURCE -I. tests/fuzz/fuzz_sniff.c agent/relay/sniff.c
 * \ -o fuzz_sniff && ./fuzz_sniff tests/fuzz/corpus/sniff Without a fuzzing compiler: -DFUZZ_MAIN gives a program that
 * runs the files named on its command line, each also cut off and with bytes changed.
 *
 * What must hold: no byte beyond the given ones is read, a name has nothing but a name's characters, what was said of
 * the beginning still holds for the whole, and the search ends.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/relay/sniff.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "fuzz_sniff: %s\n", what);
	abort();
}

/* In memory of its own, so that a sanitizer sees what reads beyond. */
static enum sniff sniff_exactly(const uint8_t *data, size_t size, char name[SNIFF_NAME_MAX])
{
	void *copy = malloc(size ? size : 1);
	must(copy != NULL, "memory");
	if (size)
		memcpy(copy, data, size);
	memset(name, 'X', SNIFF_NAME_MAX);
	enum sniff known = sniff(copy, size, name);
	free(copy);
	return known;
}

static void name_is_clean(const char *name)
{
	size_t length = strnlen(name, SNIFF_NAME_MAX);
	must(length > 0 && length < SNIFF_NAME_MAX, "a name without an end, or none at all");
	must(strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-_[]:") == length, "a character that is no name's");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char name[SNIFF_NAME_MAX], early[SNIFF_NAME_MAX];
	enum sniff known = sniff_exactly(data, size, name);
	if (known == SNIFF_NAME)
		name_is_clean(name);
	must(known != SNIFF_MORE || size < SNIFF_BYTES_MAX, "it wants more and more");
	for (size_t cut = 0; cut < size; cut += 1 + size / 32) {
		enum sniff before = sniff_exactly(data, cut, early);
		must(before == SNIFF_MORE || before == known, "it changes its mind");
		must(before != SNIFF_NAME || !strcmp(name, early), "it changes the name");
	}
	return 0;
}

#ifdef FUZZ_MAIN
static void mutations(uint8_t *data, size_t size)
{
	unsigned seed = (unsigned)size;
	for (size_t cut = 0; cut <= size; cut += 1 + size / 128)
		LLVMFuzzerTestOneInput(data, cut);
	for (int round = 0; round < 2000 && size; round++) {
		size_t at = (seed = seed * 1103515245 + 12345) / 65536 % size;
		uint8_t before = data[at];
		data[at] = (uint8_t)(round % 3 ? "\r\n: \0\1\2\26\3\xff"
										 "Ho/."[seed / 65536 % 14]
									   : seed / 65536);
		LLVMFuzzerTestOneInput(data, size);
		data[at] = round % 5 ? before : data[at]; /* some stay and add up */
	}
}

int main(int argc, char **argv)
{
	static uint8_t data[1 << 16];
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
