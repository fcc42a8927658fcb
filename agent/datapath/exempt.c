/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose connections are never intercepted: the agent's, and those of every process that holds a proxy's listener. A
 * process that such a one forks is exempt until it executes something else; a program sees to that (host.h).
 *
 * All of /proc is searched when the listeners are others than they were, soon again because workers follow, and from
 * then on now and again. Of the thread that looks for listeners alone.
 */
#include <bpf/bpf.h>
#include <stdlib.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/listeners.h"
#include "agent/datapath/private.h"

#define AGAIN_MS 250
#define BACK_OFF_MS 10000
#define SWEEP_MS 1000
/* Who is not found to hold one for so long is no proxy any more: searches are closer together. */
#define FORGET_MS 25000

struct exempt {
	uint64_t inodes; /* which listeners were searched for last, in one word */
	int64_t pause, due, sweep_due;
	struct map seen; /* process → ms when it was last found, or first seen in the kernel's map */
};

struct exempt *exempt_new(void)
{
	struct exempt *x = mem_alloc(sizeof(*x));
	map_init(&x->seen, sizeof(uint32_t), sizeof(int64_t));
	return x;
}

void exempt_free(struct exempt *x)
{
	if (x)
		map_clear(&x->seen);
	free(x);
}

struct hunt {
	struct exempt *exempt;
	int map;
	int64_t now;
};

static void note(struct hunt *hunt, uint32_t process)
{
	uint32_t holds = PS_EXEMPT_HOLDS;
	map_put(&hunt->exempt->seen, &process, &hunt->now);
	bpf_map_update_elem(hunt->map, &process, &holds, BPF_ANY);
}

/* The others that hold it are wanted too. */
static bool holder_note(void *context, size_t which, const struct holder *holder)
{
	note(context, (uint32_t)holder->pid);
	return false;
}

static void search_all(struct hunt *hunt, const uint32_t *inodes, size_t count)
{
	struct search search;
	note(hunt, (uint32_t)getpid());
	if (count)
		process_search(inodes, count, "", holder_note, hunt, &search);
}

/* What has ended must not be exempt under another's number. */
static int sweep_entry(void *context, const void *key, const void *value)
{
	struct hunt *hunt = context;
	uint32_t process = *(const uint32_t *)key;
	bool holds = *(const uint32_t *)value == PS_EXEMPT_HOLDS;
	const int64_t *seen = map_get(&hunt->exempt->seen, &process);
	if (holds && !seen) /* by an earlier agent */
		seen = map_put(&hunt->exempt->seen, &process, &hunt->now);
	if (process_alive((int32_t)process) && (!holds || hunt->now - *seen < FORGET_MS))
		return 0;
	bpf_map_delete_elem(hunt->map, &process);
	map_delete(&hunt->exempt->seen, &process);
	return 0;
}

static uint64_t inodes_word(const uint32_t *inodes, size_t count)
{
	uint64_t word = count;
	for (size_t i = 0; i < count; i++) /* in whatever order */
		word += hash_bytes(&inodes[i], sizeof(inodes[i]), 0);
	return word;
}

void exempt_look(struct exempt *x, int map, const uint32_t *inodes, size_t count, int64_t now)
{
	struct hunt hunt = {x, map, now};
	uint64_t word = inodes_word(inodes, count);
	if (word != x->inodes || !x->pause) {
		x->inodes = word;
		x->pause = AGAIN_MS;
	} else if (now < x->due) {
		goto sweep;
	} else if (x->pause < BACK_OFF_MS) {
		x->pause *= 2;
	}
	search_all(&hunt, inodes, count);
	x->due = now + (x->pause < BACK_OFF_MS ? x->pause : BACK_OFF_MS);
sweep:
	if (now < x->sweep_due)
		return;
	x->sweep_due = now + SWEEP_MS;
	read_entries(map, sizeof(uint32_t), sizeof(uint32_t), false, sweep_entry, &hunt);
}
