/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that does not fail: out of memory ends the process with a message. The data path goes on enforcing (fail
 * static) and a supervisor starts a new agent, so unwinding every allocation buys nothing.
 */
#ifndef PENSTOCK_MEM_H
#define PENSTOCK_MEM_H

#include <stddef.h>
#include <stdlib.h>

void *mem_alloc(size_t size);               /* zeroed */
void *mem_array(size_t count, size_t size); /* zeroed; count * size checked */
void *mem_resize(void *old, size_t count, size_t size);
void *mem_dup(const void *from, size_t size);
char *str_dup(const char *from); /* NULL gives NULL */
char *str_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Grow *list (elements of `size` bytes) so that it has room for count + 1. */
void *list_room(void *list, size_t count, size_t *capacity, size_t size);

static inline void cleanup_free(void *pointer)
{
	free(*(void **)pointer);
}
#define auto_free __attribute__((cleanup(cleanup_free)))
void cleanup_close(int *fd); /* closes unless negative */
#define auto_close __attribute__((cleanup(cleanup_close)))

/* Take a value out of a scope that would release it. */
static inline void *steal_pointer(void *pointer)
{
	void **place = pointer, *value = *place;
	*place = NULL;
	return value;
}
static inline int steal_fd(int *fd)
{
	int value = *fd;
	*fd = -1;
	return value;
}

#endif
