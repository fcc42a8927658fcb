/* SPDX-License-Identifier: Apache-2.0 */
/* A cluster for measuring the compiler: pods of deployments of ten, policies of the usual kinds. */
#ifndef PENSTOCK_TEST_COMPILE_CLUSTER_H
#define PENSTOCK_TEST_COMPILE_CLUSTER_H

#include <stdio.h>
#include <stdlib.h>
#include <jansson.h>

#include "agent/base/buffer.h"
#include "agent/base/mem.h"
#include "agent/compile/compile.h"
#include "agent/model/object.h"
#include "agent/model/read.h"

struct cluster_shape {
	unsigned namespaces, pods, policies, nodes; /* node 0 is ours: pods / nodes are local */
	bool unique;                                /* each pod has a label of its own, as a StatefulSet's do */
};
struct cluster {
	struct cluster_shape shape;
	struct object **namespaces, **pods, **policies;
};

/* Text with ' for ". */
static inline struct object *cluster_object(char *text)
{
	struct errors errors = {0};
	struct object *object;
	for (char *at = text; *at; at++)
		*at = *at == '\'' ? '"' : *at;
	json_t *json = json_loads(text, 0, NULL);
	if (!json || object_read(json, "", true, &object, &errors)) {
		fprintf(stderr, "%s: %s\n", text, errors.count ? errors.list[0].detail : "not JSON");
		abort();
	}
	json_decref(json);
	free(text);
	return object;
}

static inline struct object *cluster_namespace(unsigned number, const char *team)
{
	return cluster_object(str_format("{'apiVersion':'v1','kind':'Namespace','metadata':{'name':'n%u','labels':{'team':"
									 "'%s','stage':'s%u'}}}",
		number, team, number % 3));
}

/* `version` changes a label that some policies ask for. */
static inline struct object *cluster_pod(const struct cluster_shape *shape, unsigned number, unsigned version)
{
	unsigned namespace = number % shape->namespaces, deployment = number / shape->namespaces / 10;
	char own[64] = "";
	if (shape->unique)
		snprintf(own, sizeof(own), ",'pod':'p%u'", number);
	return cluster_object(str_format(
		"{'apiVersion':'v1','kind':'Pod','metadata':{'name':'p%u','namespace':'n%u','labels':{'app':'a%u','tier':'t%u',"
		"'track':'v%u','pod-template-hash':'h%u'%s}},'spec':{'nodeName':'node-%u','containers':[{'name':'c','ports':[{"
		"'name':'http','containerPort':8080},{'name':'metrics','containerPort':9090}]}]},'status':{'phase':'Running',"
		"'podIPs':[{'ip':'10.%u.%u.%u'},{'ip':'fd00:10::%x:%x'}]}}",
		number, namespace, deployment, deployment % 4, version, deployment, own, number % shape->nodes,
		128 + number / 65536, number / 256 % 256, number % 256, number / 65536 + 1, number % 65536));
}

/* `port` changes one rule. */
static inline struct object *cluster_policy(const struct cluster_shape *shape, unsigned number, unsigned port)
{
	unsigned namespace = number % shape->namespaces, at = number / shape->namespaces;
	return cluster_object(str_format(
		"{'apiVersion':'networking.k8s.io/v1','kind':'NetworkPolicy','metadata':{'name':'policy%u','namespace':'n%u'},"
		"'spec':{'podSelector':{'matchLabels':{'app':'a%u'}},'policyTypes':['Ingress','Egress'],'ingress':[{'from':[{"
		"'podSelector':{'matchLabels':{'app':'a%u'}}},{'namespaceSelector':{'matchLabels':{'team':'t%u'}}}],'ports':[{"
		"'port':'http'},{'port':%u}]},{'from':[{'namespaceSelector':{'matchLabels':{'kubernetes.io/metadata.name':'n0'}"
		"},'podSelector':{'matchLabels':{'app':'a%u'}}}],'ports':[{'port':'metrics'}]}],'egress':[{'to':[{"
		"'namespaceSelector':{},'podSelector':{'matchLabels':{'app':'a0','track':'v0'}}}],'ports':[{'port':53,"
		"'protocol':'UDP'},{'port':53}]},{'to':[{'ipBlock':{'cidr':'0.0.0.0/0','except':['10.0.0.0/8','169.254.0.0/16'"
		"]}},{'ipBlock':{'cidr':'203.0.%u.0/24'}}],'ports':[{'port':443}]},{'to':[{'podSelector':{'matchLabels':{'tier'"
		":'t%u'}}}],'ports':[{'port':'http'}]}]}}",
		number, namespace, at, (at + 1) % 10, number % 10, port, number % 10, number % 200, number % 4));
}

/* ---- Services ---- */

static inline struct object *cluster_service(const struct cluster_shape *shape, unsigned number)
{
	return cluster_object(str_format(
		"{'apiVersion':'v1','kind':'Service','metadata':{'name':'x%u','namespace':'n%u'},'spec':{'clusterIPs':['10.96."
		"%u.%u','fd00:96::%x'],'ports':[{'name':'http','port':80},{'name':'metrics','port':9090}]}}",
		number, number % shape->namespaces, number / 256, number % 256, number));
}

/* `each` pods of one namespace, one after the other; `less` of them have gone. */
static inline struct object *cluster_slice(
	const struct cluster_shape *shape, unsigned number, unsigned each, unsigned less)
{
	struct buffer b = {0};
	unsigned namespace = number % shape->namespaces, first = number / shape->namespaces * each;
	buffer_printf(&b,
		"{'apiVersion':'discovery.k8s.io/v1','kind':'EndpointSlice','metadata':{'name':'x%u-4','namespace':'n%u',"
		"'labels':{'kubernetes.io/service-name':'x%u'}},'addressType':'IPv4','endpoints':[",
		number, namespace, number);
	for (unsigned i = less; i < each; i++) {
		unsigned pod = ((first + i) * shape->namespaces + namespace) % shape->pods;
		buffer_printf(
			&b, "%s{'addresses':['10.%u.%u.%u']}", i > less ? "," : "", 128 + pod / 65536, pod / 256 % 256, pod % 256);
	}
	buffer_puts(&b, "],'ports':[{'name':'http','port':8080},{'name':'metrics','port':9090}]}");
	return cluster_object(buffer_take(&b));
}

/* ---- many networks for one workload ---- */

static inline struct object *cluster_blocks_subject(void)
{
	return cluster_object(
		str_format("{'apiVersion':'penstock.dev/v1alpha1','kind':'Workload','metadata':{'name':'server','namespace':"
				   "'bench','labels':{'app':'server'}},'spec':{'ips':['10.1.0.1']}}"));
}

/* Policy `number`: `each` rules with one network of that length each; the first `moved` have others instead,
 * in 10.0.0.0/8. */
static inline struct object *cluster_blocks(unsigned number, unsigned each, unsigned length, unsigned moved)
{
	struct buffer b = {0};
	buffer_printf(&b,
		"{'apiVersion':'networking.k8s.io/v1','kind':'NetworkPolicy','metadata':{'name':'allow-%u','namespace':'bench'"
		"},'spec':{'podSelector':{'matchLabels':{'app':'server'}},'policyTypes':['Ingress'],'ingress':[",
		number);
	for (unsigned i = 0; i < each; i++) {
		unsigned address =
			((i < moved ? 0x0a000000u >> (32 - length) : 0x10000000u >> (32 - length)) + number * each + i)
			<< (32 - length);
		buffer_printf(&b, "%s{'from':[{'ipBlock':{'cidr':'%u.%u.%u.%u/%u'}}],'ports':[{'protocol':'UDP','port':4000}]}",
			i ? "," : "", address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255, length);
	}
	buffer_puts(&b, "]}}");
	return cluster_object(buffer_take(&b));
}

static inline struct cluster cluster_make(struct cluster_shape shape)
{
	struct cluster cluster = {.shape = shape};
	cluster.namespaces = mem_array(shape.namespaces, sizeof(struct object *));
	cluster.pods = mem_array(shape.pods, sizeof(struct object *));
	cluster.policies = mem_array(shape.policies, sizeof(struct object *));
	for (unsigned i = 0; i < shape.namespaces; i++) {
		char team[16];
		snprintf(team, sizeof(team), "t%u", i % 10);
		cluster.namespaces[i] = cluster_namespace(i, team);
	}
	for (unsigned i = 0; i < shape.pods; i++)
		cluster.pods[i] = cluster_pod(&shape, i, 0);
	for (unsigned i = 0; i < shape.policies; i++)
		cluster.policies[i] = cluster_policy(&shape, i, 8000 + i % 50);
	return cluster;
}

static inline void cluster_free(struct cluster *cluster)
{
	for (unsigned i = 0; i < cluster->shape.namespaces; i++)
		object_put(cluster->namespaces[i]);
	for (unsigned i = 0; i < cluster->shape.pods; i++)
		object_put(cluster->pods[i]);
	for (unsigned i = 0; i < cluster->shape.policies; i++)
		object_put(cluster->policies[i]);
	free(cluster->namespaces);
	free(cluster->pods);
	free(cluster->policies);
}

static inline void cluster_compile(const struct cluster *cluster, struct compiler *c)
{
	size_t count = 0;
	const struct cluster_shape *shape = &cluster->shape;
	struct change *changes = mem_array(shape->namespaces + shape->pods + shape->policies, sizeof(*changes));
	for (unsigned i = 0; i < shape->namespaces; i++)
		changes[count++].new = cluster->namespaces[i];
	for (unsigned i = 0; i < shape->pods; i++)
		changes[count++].new = cluster->pods[i];
	for (unsigned i = 0; i < shape->policies; i++)
		changes[count++].new = cluster->policies[i];
	compiler_update(c, changes, count, NULL);
	free(changes);
}

/* Takes the reference on `new`, which replaces *place. */
static inline void cluster_change(struct compiler *c, struct object **place, struct object *new)
{
	struct change change = {*place, new};
	compiler_update(c, &change, 1, NULL);
	object_put(*place);
	*place = new;
}

#endif
