/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services: which kinds of backends a connection to their addresses and ports may be sent to. A kind is what policy can
 * tell apart: the backend's class and the port there. Tables service4, service6.
 *
 * Service (its object, and the slices that name it) → entries, which several Services may share.
 * Backend's address → slices → Service: another class of one address renews the entries of these Services alone.
 */
#ifndef PENSTOCK_COMPILE_SERVICE_H
#define PENSTOCK_COMPILE_SERVICE_H

#include "agent/base/addr.h"
#include "agent/compile/compiler.h"

void services_init(struct compiler *c);
/* The Service, the slice of this object's name is `new` now; NULL: there is none. */
void service_update(struct compiler *c, const struct object *either, const struct object *new);
void slice_update(struct compiler *c, const struct object *either, const struct object *new);
/* A Node or Pod changed: it may say which addresses this node has. */
void node_addresses_update(struct compiler *c, const struct object *old, const struct object *new);
/* The class of this address may have another number. */
void backend_touch(struct compiler *c, const uint8_t ip[16]);
/* Writes the entries that changed; when classes have their numbers and addresses their entries. */
void services_emit(struct compiler *c);
/* Without a word to the tables. */
void services_free(struct compiler *c);

#endif
