/* SPDX-License-Identifier: Apache-2.0 */
/* Objects as a table, with the columns that matter for their kind. */
#ifndef PENSTOCK_SHOW_H
#define PENSTOCK_SHOW_H

#include <jansson.h>
#include <stdbool.h>
#include "agent/base/buffer.h"
#include "api/client/resource.h"

/* wide: with more columns. */
void show_objects(const struct resource *resource, const json_t *items, bool wide);
/* A status: scalars as "Name: value", arrays of objects as tables. Knows no field, so it shows every one. */
void show_status(const json_t *status, struct buffer *out);

#endif
