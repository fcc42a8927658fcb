/* SPDX-License-Identifier: Apache-2.0 */
/* Small objects for the tests of the state: a Namespace whose label `v` tells versions apart. */
#ifndef PENSTOCK_TEST_STATE_OBJECTS_H
#define PENSTOCK_TEST_STATE_OBJECTS_H

#include <jansson.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>
#include "agent/base/mem.h"
#include "agent/model/decode.h"
#include "agent/state/snapshot.h"

static inline struct object *object_make(const char *text, const char *owner, uint64_t revision)
{
	struct errors errors = {0};
	struct object *object = NULL;
	json_t *json = json_loads(text, 0, NULL);
	assert_non_null(json);
	if (object_decode(json, "", &object, NULL, &errors) < 0)
		fail_msg("%s: %s %s", text, errors.list[0].path, errors.list[0].detail);
	json_decref(json);
	struct object *owned = object_with(object, owner, revision);
	object_put(object);
	return owned;
}

static inline struct object *namespace_make(const char *name, const char *version, const char *owner, uint64_t revision)
{
	auto_free char *text = str_format(
		"{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{\"name\":\"%s\",\"labels\":{\"v\":\"%s\"}}}", name,
		version);
	return object_make(text, owner, revision);
}

static inline struct object *policy_make(const char *namespace, const char *name, const char *owner, uint64_t revision)
{
	auto_free char *text = str_format(
		"{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"NetworkPolicy\",\"metadata\":"
		"{\"namespace\":\"%s\",\"name\":\"%s\"},\"spec\":{\"podSelector\":{},\"policyTypes\":[\"Ingress\"]}}",
		namespace, name);
	return object_make(text, owner, revision);
}

#endif
