/* SPDX-License-Identifier: Apache-2.0 */
/* Selectors under construction. Only for agent/model. */
#ifndef PENSTOCK_SELECTOR_H
#define PENSTOCK_SELECTOR_H

#include <jansson.h>

#include "agent/model/object.h"

struct selector *selector_new(void);
/* The requirement stays the selector's; values are added with requirement_value. */
struct requirement *selector_add(struct selector *selector, const char *key, enum selector_operator operator);
void requirement_value(struct requirement *requirement, const char *value);
/* Sorts what was added and drops what is there twice. */
void selector_finish(struct selector *selector);
/* A valid LabelSelector; NULL or absent selects everything. */
struct selector *selector_from_json(const json_t *json);

#endif
