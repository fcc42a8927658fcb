/* SPDX-License-Identifier: Apache-2.0 */
/* object_decode without its last step. Only for agent/model and its tests. */
#ifndef PENSTOCK_READ_H
#define PENSTOCK_READ_H

#include <jansson.h>
#include <stdbool.h>

#include "agent/base/error.h"
#include "agent/model/object.h"

/* all: also what this build does not enforce. */
int object_read(const json_t *json, const char *pointer, bool all, struct object **ret, struct errors *errors);

#endif
