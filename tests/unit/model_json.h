/* SPDX-License-Identifier: Apache-2.0 */
/* Objects for tests, as text with ' for ". */
#ifndef PENSTOCK_TEST_MODEL_JSON_H
#define PENSTOCK_TEST_MODEL_JSON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "agent/base/mem.h"
#include "agent/model/decode.h"
#include "agent/model/object.h"
#include "agent/model/read.h"

static inline json_t *json_of(const char *text)
{
	auto_free char *copy = str_dup(text);
	for (char *at = copy; *at; at++)
		*at = *at == '\'' ? '"' : *at;
	json_error_t error;
	json_t *json = json_loads(copy, JSON_DECODE_ANY, &error);
	if (!json)
		fail_msg("the test's JSON is broken: %s: %s", error.text, text);
	return json;
}

/* The object, which must be good; also when this build does not enforce it. */
static inline struct object *object_of(const char *text)
{
	json_t *json = json_of(text);
	struct errors errors = {0};
	struct object *object = NULL;
	if (object_read(json, "", true, &object, &errors))
		fail_msg("%s: %s: %s", text, errors.list[0].path, errors.list[0].detail);
	assert_int_equal(errors.total, 0);
	json_decref(json);
	return object;
}

#define NETWORK_POLICY(spec) \
	"{'apiVersion':'networking.k8s.io/v1','kind':'NetworkPolicy','metadata':{'name':'p'},'spec':" spec "}"
#define CLUSTER_POLICY(spec)                   \
	"{'apiVersion':'policy.networking.k8s.io/" \
	"v1alpha2','kind':'ClusterNetworkPolicy','metadata':{'name':'p'},'spec':" spec "}"
#define OURS(kind, spec) \
	"{'apiVersion':'penstock.dev/v1alpha1','kind':'" kind "','metadata':{'name':'x'},'spec':" spec "}"
#define POD(rest) "{'apiVersion':'v1','kind':'Pod','metadata':{'name':'a','namespace':'n'}" rest "}"

#endif
