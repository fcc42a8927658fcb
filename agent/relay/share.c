/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/share.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "agent/base/mem.h"

#define INBOX_BYTES_MAX (1u << 20)

int share_open(struct share *share, unsigned threads)
{
	pthread_mutex_init(&share->lock, NULL);
	map_init(&share->owners, sizeof(struct flow_key), sizeof(unsigned));
	for (unsigned at = 0; at < threads; at++) {
		share->inboxes[at].event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (share->inboxes[at].event < 0)
			return -errno;
	}
	return 0;
}

unsigned share_claim(struct share *share, const struct flow_key *key, unsigned thread)
{
	pthread_mutex_lock(&share->lock);
	const unsigned *there = map_get(&share->owners, key);
	unsigned owner = there ? *there : thread;
	if (!there)
		map_put(&share->owners, key, &thread);
	pthread_mutex_unlock(&share->lock);
	return owner;
}

void share_release(struct share *share, const struct flow_key *key)
{
	pthread_mutex_lock(&share->lock);
	map_delete(&share->owners, key);
	pthread_mutex_unlock(&share->lock);
}

bool share_send(struct share *share, unsigned thread, const struct flow_key *key, const struct datagram *datagram)
{
	struct inbox *inbox = &share->inboxes[thread];
	size_t size = sizeof(struct parcel) + datagram->length;
	uint64_t one = 1;
	struct parcel *parcel = mem_alloc(size);
	parcel->key = *key;
	parcel->datagram = *datagram;
	parcel->datagram.data = (char *)(parcel + 1);
	memcpy(parcel->datagram.data, datagram->data, datagram->length);
	pthread_mutex_lock(&share->lock);
	bool fits = inbox->bytes + size <= INBOX_BYTES_MAX;
	if (fits) {
		*(inbox->last ? &inbox->last->next : &inbox->first) = parcel;
		inbox->last = parcel;
		inbox->bytes += size;
	}
	pthread_mutex_unlock(&share->lock);
	if (!fits)
		free(parcel);
	else if (write(inbox->event, &one, sizeof one) < 0)
		return true; /* it is readable already */
	return fits;
}

struct parcel *share_take(struct share *share, unsigned thread)
{
	struct inbox *inbox = &share->inboxes[thread];
	uint64_t count;
	ssize_t got = read(inbox->event, &count, sizeof count);
	(void)got;
	pthread_mutex_lock(&share->lock);
	struct parcel *first = inbox->first;
	inbox->first = inbox->last = NULL;
	inbox->bytes = 0;
	pthread_mutex_unlock(&share->lock);
	return first;
}

void share_close(struct share *share, unsigned threads)
{
	for (unsigned at = 0; at < threads; at++) {
		struct parcel *parcel = share_take(share, at), *next;
		for (; parcel; parcel = next) {
			next = parcel->next;
			free(parcel);
		}
		close(share->inboxes[at].event);
	}
	map_clear(&share->owners);
	pthread_mutex_destroy(&share->lock);
}
