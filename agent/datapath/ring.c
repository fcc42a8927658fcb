/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layout is the kernel's (kernel/bpf/ringbuf.c, Documentation/bpf/ringbuf.rst): a page with the consumer's
 * position, one with the producer's, then the data, twice behind each other, so that no record is torn at the end. A
 * record is 8 bytes of header (length, and whether it is ready) and data, rounded up to 8.
 */
#include "agent/datapath/ring.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WINDOW (128u << 10)

static int area_map(const struct ring *ring, int protection, uint64_t offset, size_t size, void **ret)
{
	void *area = mmap(NULL, size, protection, MAP_SHARED, ring->fd, (off_t)offset);
	if (area == MAP_FAILED)
		return -errno;
	*ret = area;
	return 0;
}

int ring_open(struct ring *ring, int fd, size_t size)
{
	void *consumer = NULL, *producer = NULL;
	*ring = (struct ring){.fd = fd, .page = (size_t)sysconf(_SC_PAGESIZE), .size = size};
	int result = area_map(ring, PROT_READ | PROT_WRITE, 0, ring->page, &consumer);
	if (result < 0)
		return result;
	ring->consumer = consumer;
	result = area_map(ring, PROT_READ, ring->page, ring->page, &producer);
	if (result == 0)
		ring->producer = producer;
	return result;
}

static void area_unmap(const void *area, size_t size)
{
	if (area)
		munmap((void *)(uintptr_t)area, size);
}

void ring_close(struct ring *ring)
{
	area_unmap(ring->consumer, ring->page);
	area_unmap(ring->producer, ring->page);
	area_unmap(ring->window, WINDOW);
	*ring = (struct ring){0};
}

/* Shows what is at this position and behind it. */
static int window_move(struct ring *ring, uint64_t position)
{
	uint64_t place = position & (ring->size - 1), begin = place & ~(uint64_t)(ring->page - 1);
	void *window = NULL;
	area_unmap(ring->window, WINDOW);
	ring->window = NULL;
	int result = area_map(ring, PROT_READ, 2 * ring->page + begin, WINDOW, &window);
	if (result < 0)
		return result;
	ring->window = window;
	ring->first = position - (place - begin);
	ring->end = ring->first + WINDOW;
	return 0;
}

/* NULL: none. */
static const uint8_t *window_show(const struct ring *ring, uint64_t position, size_t size)
{
	bool there = ring->window && position >= ring->first && position + size <= ring->end;
	return there ? ring->window + (position - ring->first) : NULL;
}

static int record_show(struct ring *ring, uint64_t position, size_t size, const uint8_t **ret)
{
	*ret = window_show(ring, position, size);
	int result = *ret ? 0 : window_move(ring, position);
	if (!*ret && result == 0)
		*ret = window_show(ring, position, size);
	return result < 0 ? result : *ret ? 0 : -EMSGSIZE;
}

int ring_read(
	struct ring *ring, unsigned int most, void (*each)(void *context, const void *record, size_t size), void *context)
{
	uint64_t position = __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE);
	unsigned int given = 0;
	while (given < most && position < __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE)) {
		const uint8_t *record;
		int result = record_show(ring, position, BPF_RINGBUF_HDR_SZ, &record);
		if (result < 0)
			return result;
		uint32_t length = __atomic_load_n((const uint32_t *)(const void *)record, __ATOMIC_ACQUIRE);
		if (length & BPF_RINGBUF_BUSY_BIT) /* its program is at work; what is behind it waits */
			break;
		size_t size = length & ~BPF_RINGBUF_DISCARD_BIT;
		result = record_show(ring, position, BPF_RINGBUF_HDR_SZ + size, &record);
		if (result < 0)
			return result;
		if (!(length & BPF_RINGBUF_DISCARD_BIT)) {
			each(context, record + BPF_RINGBUF_HDR_SZ, size);
			given++;
		}
		position += (BPF_RINGBUF_HDR_SZ + size + 7) & ~(size_t)7;
		__atomic_store_n(ring->consumer, position, __ATOMIC_RELEASE);
	}
	return (int)given;
}
