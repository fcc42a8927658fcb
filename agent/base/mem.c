/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Nothing here may allocate. */
static void __attribute__((noreturn)) mem_exhausted(void)
{
	static const char text[] = "out of memory\n";
	ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
	(void)written;
	abort();
}

void *mem_alloc(size_t size)
{
	return mem_array(1, size);
}

void *mem_array(size_t count, size_t size)
{
	void *memory = calloc(count ? count : 1, size ? size : 1); /* calloc checks the product */
	if (!memory)
		mem_exhausted();
	return memory;
}

void *mem_resize(void *old, size_t count, size_t size)
{
	size_t total;
	if (__builtin_mul_overflow(count, size, &total))
		mem_exhausted();
	void *memory = realloc(old, total ? total : 1);
	if (!memory)
		mem_exhausted();
	return memory;
}

void *mem_dup(const void *from, size_t size)
{
	void *copy = malloc(size ? size : 1);
	if (!copy)
		mem_exhausted();
	if (size)
		memcpy(copy, from, size);
	return copy;
}

char *str_dup(const char *from)
{
	return from ? mem_dup(from, strlen(from) + 1) : NULL;
}

char *str_format(const char *format, ...)
{
	char *text;
	va_list arguments;
	va_start(arguments, format);
	int length = vasprintf(&text, format, arguments);
	va_end(arguments);
	if (length < 0)
		mem_exhausted();
	return text;
}

void *list_room(void *list, size_t count, size_t *capacity, size_t size)
{
	if (count < *capacity)
		return list;
	size_t wanted = *capacity ? *capacity + *capacity / 2 + 1 : 8;
	if (wanted <= count)
		wanted = count + 1;
	list = mem_resize(list, wanted, size);
	*capacity = wanted;
	return list;
}

void cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
