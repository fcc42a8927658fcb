/* SPDX-License-Identifier: Apache-2.0 */
/* The status board: where the applying thread publishes and HTTP's threads read. Thread-safe; readers never wait for an
 * apply. */
#ifndef PENSTOCK_BOARD_H
#define PENSTOCK_BOARD_H

#include <stdbool.h>
#include "agent/state/snapshot.h"

struct board;
struct board *board_new(void);
void board_free(struct board *board);

void board_publish(struct board *board, struct snapshot *snapshot); /* takes the reference */
struct snapshot *board_snapshot(struct board *board);               /* a reference; NULL before the first */

/* The rendered GET /v1/status, a JSON object. set takes the text; get returns a copy and the number of the change. */
void board_set_status(struct board *board, char *json);
char *board_status(struct board *board, unsigned long *change);
/* Called (from the applying thread) after each change of the status, to wake those who follow. */
void board_watch(struct board *board, void (*changed)(void *context), void *context);

/* Ready: the data path enforces the persisted state. Otherwise why not, one sentence. */
void board_set_ready(struct board *board, bool ready, const char *why);
bool board_ready(struct board *board, char why[256]);

#endif
