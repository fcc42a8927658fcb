/* SPDX-License-Identifier: Apache-2.0 */
/* Valid, pruned JSON → the typed part of an object. Cannot fail. Only for agent/model. */
#ifndef PENSTOCK_CONTENT_H
#define PENSTOCK_CONTENT_H

#include <jansson.h>

#include "agent/model/object.h"

enum content { CONTENT_NONE, CONTENT_WORKLOAD, CONTENT_POLICY, CONTENT_NODE, CONTENT_PROXY };
enum content content_of(enum kind kind);
/* Sets the member of the union that belongs to object->kind. */
void content_read(struct object *object, const json_t *pruned);

struct policy *policy_read(enum kind kind, const json_t *spec);
struct workload *workload_read(const json_t *spec);
struct workload *pod_read(const json_t *pod);
struct node *node_read(const json_t *node);
struct proxy *proxy_read(const json_t *spec);

#endif
