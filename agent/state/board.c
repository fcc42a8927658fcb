/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/state/board.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"

/* The lock is held for the time of a pointer or a short copy only. */
struct board {
	pthread_mutex_t lock;
	struct snapshot *snapshot;
	char *status;
	unsigned long change;
	bool ready;
	char why[256];
	void (*changed)(void *context);
	void *context;
};

struct board *board_new(void)
{
	struct board *board = mem_alloc(sizeof(*board));
	pthread_mutex_init(&board->lock, NULL);
	board->status = str_dup("{}");
	snprintf(board->why, sizeof(board->why), "the agent is starting");
	return board;
}

void board_free(struct board *board)
{
	if (!board)
		return;
	snapshot_put(board->snapshot);
	free(board->status);
	pthread_mutex_destroy(&board->lock);
	free(board);
}

void board_publish(struct board *board, struct snapshot *snapshot)
{
	pthread_mutex_lock(&board->lock);
	struct snapshot *before = board->snapshot;
	board->snapshot = snapshot;
	pthread_mutex_unlock(&board->lock);
	snapshot_put(before); /* may free much: not under the lock */
}

struct snapshot *board_snapshot(struct board *board)
{
	pthread_mutex_lock(&board->lock);
	struct snapshot *snapshot = board->snapshot ? snapshot_get(board->snapshot) : NULL;
	pthread_mutex_unlock(&board->lock);
	return snapshot;
}

void board_set_status(struct board *board, char *json)
{
	pthread_mutex_lock(&board->lock);
	char *before = board->status;
	if (before && strcmp(before, json) == 0) { /* nobody is woken for nothing */
		pthread_mutex_unlock(&board->lock);
		free(json);
		return;
	}
	board->status = json;
	board->change++;
	void (*changed)(void *) = board->changed;
	void *context = board->context;
	pthread_mutex_unlock(&board->lock);
	free(before);
	if (changed)
		changed(context); /* unlocked: who is woken reads the board */
}

char *board_status(struct board *board, unsigned long *change)
{
	pthread_mutex_lock(&board->lock);
	char *status = str_dup(board->status);
	if (change)
		*change = board->change;
	pthread_mutex_unlock(&board->lock);
	return status;
}

void board_watch(struct board *board, void (*changed)(void *context), void *context)
{
	pthread_mutex_lock(&board->lock);
	board->changed = changed;
	board->context = context;
	pthread_mutex_unlock(&board->lock);
}

void board_set_ready(struct board *board, bool ready, const char *why)
{
	pthread_mutex_lock(&board->lock);
	board->ready = ready;
	snprintf(board->why, sizeof(board->why), "%s", ready || !why ? "" : why);
	pthread_mutex_unlock(&board->lock);
}

bool board_ready(struct board *board, char why[256])
{
	pthread_mutex_lock(&board->lock);
	bool ready = board->ready;
	if (why)
		memcpy(why, board->why, sizeof(board->why));
	pthread_mutex_unlock(&board->lock);
	return ready;
}
