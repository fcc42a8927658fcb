/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one error type: fixed size, owned by the caller, says where and what. Functions return 0 or a negative errno and
 * fill it. Who renders it (HTTP problem, terminal, log) lives elsewhere.
 */
#ifndef PENSTOCK_ERROR_H
#define PENSTOCK_ERROR_H

#include <stddef.h>

/* What went wrong, in the caller's terms. api/server maps it to an HTTP status, in one place. */
enum error_kind {
	ERROR_NONE,
	ERROR_SYNTAX,       /* 400: not JSON, not UTF-8, a cut-off gzip stream */
	ERROR_NOT_FOUND,    /* 404 */
	ERROR_CONFLICT,     /* 409: another owner's object, an old term */
	ERROR_PRECONDITION, /* 412 */
	ERROR_TOO_LARGE,    /* 413: body, object, nesting */
	ERROR_INVALID,      /* 422: understood, but wrong */
	ERROR_BUSY,         /* 503: later may work */
	ERROR_NO_SPACE,     /* 507: does not fit the maps */
	ERROR_SYSTEM,       /* 500: the kernel, the disk or ourselves */
};

struct error {
	enum error_kind kind;
	char path[256];   /* JSON pointer of the field, "" when there is none */
	char detail[768]; /* one sentence without the path */
};

/* Fill e (may be NULL) and return -errno, so that `return error_set(...)` reads well. path may be NULL. */
int error_set(struct error *e, enum error_kind kind, int errnum, const char *path, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
/* ERROR_SYSTEM with ": strerror" appended. */
int error_system(struct error *e, int errnum, const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * Appends one reference token of a JSON pointer (RFC 6901), escaped, to `length` bytes of it; returns the new length. A
 * token that does not fit is left out whole: the pointer then leads to the parent.
 */
size_t pointer_add(char *pointer, size_t length, size_t size, const char *token);

/* All errors of a body at once, the first 50; `total` goes on counting. `size` of them (at most 50) are on the heap. */
#define ERRORS_MAX 50
struct errors {
	struct error *list;
	size_t count;
	size_t total;
};
void errors_add(struct errors *errors, enum error_kind kind, const char *path, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
void errors_add_error(struct errors *errors, const struct error *e);
void errors_clear(struct errors *errors);

#endif
