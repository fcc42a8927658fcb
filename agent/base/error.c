/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/base/error.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"

static void error_fill(struct error *e, enum error_kind kind, const char *path, const char *format, va_list arguments)
{
	/* The arguments may point into e itself, as when a caller prefixes what it was told. */
	struct error filled = {.kind = kind};
	snprintf(filled.path, sizeof filled.path, "%s", path ? path : "");
	vsnprintf(filled.detail, sizeof filled.detail, format, arguments);
	*e = filled;
}

int error_set(struct error *e, enum error_kind kind, int errnum, const char *path, const char *format, ...)
{
	if (e) {
		va_list arguments;
		va_start(arguments, format);
		error_fill(e, kind, path, format, arguments);
		va_end(arguments);
	}
	return -errnum;
}

int error_system(struct error *e, int errnum, const char *format, ...)
{
	if (e) {
		va_list arguments;
		va_start(arguments, format);
		error_fill(e, ERROR_SYSTEM, NULL, format, arguments);
		va_end(arguments);
		size_t length = strlen(e->detail);
		char reason[128];
		snprintf(e->detail + length, sizeof e->detail - length, ": %s", strerror_r(errnum, reason, sizeof reason));
	}
	return -errnum;
}

size_t pointer_add(char *pointer, size_t length, size_t size, const char *token)
{
	size_t at = length, limit = size - 1;
	if (at + 1 > limit)
		return length;
	pointer[at++] = '/';
	for (; *token; token++) {
		bool escape = *token == '~' || *token == '/';
		if (at + 1 + escape > limit) {
			pointer[length] = 0;
			return length;
		}
		if (escape)
			pointer[at++] = '~';
		pointer[at++] = *token == '~' ? '0' : *token == '/' ? '1' : *token;
	}
	pointer[at] = 0;
	return at;
}

static struct error *errors_next(struct errors *errors)
{
	errors->total++;
	if (errors->count == ERRORS_MAX)
		return NULL;
	/* Doubling from 8, and 50 at most; the capacity follows from the count. */
	size_t count = errors->count;
	if (count == 0 || (count >= 8 && (count & (count - 1)) == 0)) {
		size_t capacity = count ? 2 * count : 8;
		errors->list = mem_resize(errors->list, capacity < ERRORS_MAX ? capacity : ERRORS_MAX, sizeof *errors->list);
	}
	return &errors->list[errors->count++];
}

void errors_add(struct errors *errors, enum error_kind kind, const char *path, const char *format, ...)
{
	struct error *e = errors_next(errors);
	if (!e)
		return;
	va_list arguments;
	va_start(arguments, format);
	error_fill(e, kind, path, format, arguments);
	va_end(arguments);
}

void errors_add_error(struct errors *errors, const struct error *e)
{
	struct error copy = *e; /* it may stand in the list that moves */
	struct error *place = errors_next(errors);
	if (place)
		*place = copy;
}

void errors_clear(struct errors *errors)
{
	free(errors->list);
	*errors = (struct errors){0};
}
