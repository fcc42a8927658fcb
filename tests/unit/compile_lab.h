/* SPDX-License-Identifier: Apache-2.0 */
/* A compiler to which objects are told one after the other, and questions to its tables. Text with ' for ". */
#ifndef PENSTOCK_TEST_COMPILE_LAB_H
#define PENSTOCK_TEST_COMPILE_LAB_H

#include "tests/unit/model_json.h"

#include "agent/base/map.h"
#include "agent/compile/compiler.h"

struct lab {
	struct rulebook *book;
	struct compiler *c;
	struct names objects; /* "Kind/ns/name" */
	struct errors warnings;
};

static inline void lab_open(struct lab *lab)
{
	*lab = (struct lab){.book = rulebook_new(1)};
	lab->c = compiler_new("here", lab->book);
}

static inline void lab_close(struct lab *lab)
{
	size_t at = 0;
	const char *key;
	void *object;
	compiler_free(lab->c);
	rulebook_free(lab->book);
	while (names_next(&lab->objects, &at, &key, &object))
		object_put(object);
	names_clear(&lab->objects);
	errors_clear(&lab->warnings);
}

/* Every endpoint has its interface. */
static inline void lab_bind(struct lab *lab)
{
	size_t at = 0;
	const struct endpoint *endpoint;
	while ((endpoint = compiler_endpoint_next(lab->c, &at)))
		compiler_bind(lab->c, endpoint->id, true);
}

static inline void lab_put_object(struct lab *lab, struct object *object)
{
	auto_free char *key = str_format("%s/%s/%s", kinds[object->kind].kind, object->namespace, object->name);
	struct object *old = names_get(&lab->objects, key);
	struct change change = {old, object};
	names_put(&lab->objects, key, object);
	compiler_update(lab->c, &change, 1, &lab->warnings);
	if (old)
		object_put(old);
	lab_bind(lab);
}

static inline void lab_put(struct lab *lab, const char *text)
{
	lab_put_object(lab, object_of(text));
}

static inline void lab_delete(struct lab *lab, const char *key)
{
	struct object *old = names_delete(&lab->objects, key);
	assert_non_null(old);
	struct change change = {old, NULL};
	compiler_update(lab->c, &change, 1, &lab->warnings);
	object_put(old);
	lab_bind(lab);
}

static inline struct judge_answer lab_judge(
	struct lab *lab, const char *source, const char *destination, uint8_t protocol, uint16_t port)
{
	struct judge_query query = {.protocol = protocol, .port = port};
	struct judge_answer answer;
	assert_int_equal(ip_parse(source, &query.source), 0);
	assert_int_equal(ip_parse(destination, &query.destination), 0);
	tables_judge(compiler_tables(lab->c), &query, &answer);
	return answer;
}

/* "Kind/ns/name/index" of a rule, "" for none. The last few answers stay valid. */
static inline const char *lab_rule(const struct lab *lab, uint32_t id)
{
	static char texts[4][512];
	static unsigned next;
	char *text = texts[next++ % 4];
	const struct rule_identity *rule = rulebook_find(lab->book, id);
	text[0] = 0;
	if (rule)
		snprintf(text, 512, "%s/%s/%s/%d", kinds[rule->kind].kind, rule->namespace, rule->name, rule->index);
	return text;
}

#define TCP PROTOCOL_TCP
#define UDP PROTOCOL_UDP
#define ICMP 1

/* Pod at an address on this node ("here") or another one; `more` continues the labels. */
#define LAB_POD(name, ns, labels, node, ip)                                                                \
	"{'apiVersion':'v1','kind':'Pod','metadata':{'name':'" name "','namespace':'" ns "','labels':{" labels \
	"}},'spec':{'nodeName':'" node "','containers':[{'name':'c'}]},'status':{'phase':'Running'"            \
	",'podIPs':[{'ip':'" ip "'}]}}"
#define LAB_POD_PORTS(name, ns, labels, node, ip, ports)                                                   \
	"{'apiVersion':'v1','kind':'Pod','metadata':{'name':'" name "','namespace':'" ns "','labels':{" labels \
	"}},'spec':{'nodeName':'" node "','containers':[{'name':'c','ports':[" ports "]}]},'status':{'phas"    \
	"e':'Running','podIPs':[{'ip':'" ip "'}]}}"
#define LAB_POLICY(name, ns, spec)                                                                                   \
	"{'apiVersion':'networking.k8s.io/v1','kind':'NetworkPolicy','metadata':{'name':'" name "','namespace':'" ns "'" \
	"},'spec':{" spec "}}"
#define LAB_NAMESPACE(name, labels) \
	"{'apiVersion':'v1','kind':'Namespace','metadata':{'name':'" name "','labels':{" labels "}}}"
#define LAB_CLUSTER_POLICY(name, spec)                                                                              \
	"{'apiVersion':'policy.networking.k8s.io/v1alpha2','kind':'ClusterNetworkPolicy','metadata':{'name':'" name "'" \
	"},'spec':{" spec "}}"
#define LAB_OURS(kind, name, spec)                                                                           \
	"{'apiVersion':'penstock.dev/v1alpha1','kind':'" kind "','metadata':{'name':'" name "','namespace':'s'}" \
	",'spec':{" spec "}}"
#define LAB_GLOBAL(kind, name, spec) \
	"{'apiVersion':'penstock.dev/v1alpha1','kind':'" kind "','metadata':{'name':'" name "'},'spec':{" spec "}}"

#endif
