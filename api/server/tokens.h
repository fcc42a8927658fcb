/* SPDX-License-Identifier: Apache-2.0 */
/* The token file, hashed: who holds which token, and what he may do. */
#ifndef PENSTOCK_TOKENS_H
#define PENSTOCK_TOKENS_H

#include <stddef.h>
#include <sys/types.h>
#include "agent/base/error.h"
#include "api/server/identity.h"

struct tokens;
/*
 * Lines "sha256:HEX ROLE NAME" or "TOKEN ROLE NAME", role admin or viewer; blank lines and those that begin with #
 * count for nothing. A mistake is told as "file:line: what"; so is a file that others may read, or that is empty. With
 * `warn` the log says what is odd.
 */
int tokens_load(const char *file, bool warn, struct tokens **ret, struct error *e);
void tokens_free(struct tokens *tokens);
size_t tokens_count(const struct tokens *tokens);
/* Whose it is; takes the same time whichever it is, and whether it is one. */
bool tokens_find(const struct tokens *tokens, const char *text, size_t length, struct identity *ret);

#endif
