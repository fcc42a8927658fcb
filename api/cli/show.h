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
/* Appends a=b,c=d of an object; the elements of an array; the JSON of anything else. */
void value_text(const json_t *json, struct buffer *out);

#endif
