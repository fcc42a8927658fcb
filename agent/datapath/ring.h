/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a BPF ring buffer through a small window. libbpf's reader maps all of the ring twice, and what is mapped counts
 * as the process's memory: 8 MiB for our 4.
 */
#ifndef PENSTOCK_RING_H
#define PENSTOCK_RING_H

#include <stddef.h>
#include <stdint.h>

struct ring {
	int fd; /* the map's, borrowed */
	size_t page, size;
	uint64_t *consumer;       /* where we have read to; the kernel reads it */
	const uint64_t *producer; /* where programs have reserved to */
	const uint8_t *window;    /* NULL: none */
	uint64_t first, end;      /* positions that it shows */
};

/* size: the map's max_entries. 0 or a negative errno. */
int ring_open(struct ring *ring, int fd, size_t size);
void ring_close(struct ring *ring); /* one that was never opened, all zero, is fine */
/* Gives what is ready, `most` records at most; each is there until `each` returns. How many, or a negative errno. */
int ring_read(
	struct ring *ring, unsigned int most, void (*each)(void *context, const void *record, size_t size), void *context);

#endif
