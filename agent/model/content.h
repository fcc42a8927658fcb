/* SPDX-License-Identifier: Apache-2.0 */
/* Valid, pruned JSON → the typed part of an object. Cannot fail. Only for agent/model. */
#ifndef PENSTOCK_CONTENT_H
#define PENSTOCK_CONTENT_H

#include <jansson.h>

#include "agent/model/object.h"

enum content {
	CONTENT_NONE,
	CONTENT_WORKLOAD,
	CONTENT_POLICY,
	CONTENT_NODE,
	CONTENT_PROXY,
	CONTENT_SERVICE,
	CONTENT_SLICE
};
enum content content_of(enum kind kind);
/* Sets the member of the union that belongs to object->kind. */
void content_read(struct object *object, const json_t *pruned);

struct policy *policy_read(enum kind kind, const json_t *spec);
struct workload *workload_read(const json_t *spec);
struct workload *pod_read(const json_t *pod);
struct node *node_read(const json_t *node);
struct proxy *proxy_read(const json_t *spec);
struct service *service_read(const json_t *service);
void service_free(struct service *service);
struct endpoint_slice *slice_read(const json_t *slice);
void slice_free(struct endpoint_slice *slice);

/* For the functions above. The caller frees; "" when it is absent. */
char *text_read(const json_t *object, const char *field);
/* Adds an address unless it is there: Kubernetes lets a list say one twice. */
void ip_add(struct ip **list, size_t *count, const char *text);
/* NULL: the default, TCP. */
uint8_t protocol_parse(const char *text);

#endif
