/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services: their entries, by example; and after each of many random changes compared with what a look at every object
 * says, both as changed step by step and as compiled from nothing.
 *
 * PENSTOCK_SEED repeats a run; PENSTOCK_ROUNDS makes it longer.
 */
#include "tests/unit/compile_lab.h"

#include <errno.h>
#include <time.h>
#include "agent/base/buffer.h"

/* ---- the tables ---- */

static uint32_t class_of(struct compiler *c, const struct ip *ip)
{
	const struct tables *tables = compiler_tables(c);
	struct ps_key_addr4 exact4 = {0};
	struct ps_key_addr6 exact6 = {0};
	unsigned longest = ip->family == 4 ? 32 : 128;
	memcpy(&exact4.addr, ip->bytes + 12, 4);
	memcpy(exact6.addr, ip->bytes, 16);
	const struct ps_addr *exact =
		ip->family == 4 ? tables_get(tables, TABLE_addr4, &exact4) : tables_get(tables, TABLE_addr6, &exact6);
	if (exact)
		return exact->class_id;
	for (unsigned length = longest + 1; length-- > 0;) {
		struct ps_key_net6 key6 = {.prefix_length = 32 + length};
		memcpy(key6.addr, longest == 32 ? ip->bytes + 12 : ip->bytes, longest / 8);
		for (unsigned bit = length; bit < longest; bit++)
			key6.addr[bit / 8] &= (uint8_t) ~(0x80 >> bit % 8);
		struct ps_key_net4 key4 = {.prefix_length = key6.prefix_length};
		memcpy(&key4.addr, key6.addr, 4);
		const uint32_t *found =
			longest == 32 ? tables_get(tables, TABLE_net4, &key4) : tables_get(tables, TABLE_net6, &key6);
		if (found)
			return *found;
	}
	return PS_CLASS_NONE;
}

static uint32_t class_at(struct compiler *c, const char *text)
{
	struct ip ip;
	assert_int_equal(ip_parse(text, &ip), 0);
	return class_of(c, &ip);
}

/* `ip` NULL: of a node port. */
static const struct ps_service *entry_of(
	struct compiler *c, uint8_t family, const struct ip *ip, uint8_t protocol, uint16_t port)
{
	struct ps_key_service4 key4 = {.port = port, .protocol = protocol};
	struct ps_key_service6 key6 = {.port = port, .protocol = protocol};
	if (ip) {
		memcpy(&key4.addr, ip->bytes + 12, 4);
		memcpy(key6.addr, ip->bytes, 16);
	}
	return family == 4 ? tables_get(compiler_tables(c), TABLE_service4, &key4)
					   : tables_get(compiler_tables(c), TABLE_service6, &key6);
}

static const struct ps_service *entry(struct lab *lab, const char *text, uint8_t protocol, uint16_t port)
{
	struct ip ip;
	assert_int_equal(ip_parse(text, &ip), 0);
	return entry_of(lab->c, ip.family, &ip, protocol, port);
}

static size_t entries(struct compiler *c)
{
	return compiler_tables(c)->table[TABLE_service4].wanted.count +
		   compiler_tables(c)->table[TABLE_service6].wanted.count;
}

static void assert_kind(
	struct lab *lab, const struct ps_service *service, unsigned at, const char *backend, uint16_t port, uint16_t flags)
{
	assert_non_null(service);
	assert_in_range(at, 0, service->count - 1);
	assert_int_equal(service->backend[at].class_id, class_at(lab->c, backend));
	assert_int_equal(service->backend[at].port, port);
	assert_int_equal(service->backend[at].flags, flags);
}

/* ---- examples ---- */

#define SERVICE(name, spec) \
	"{'apiVersion':'v1','kind':'Service','metadata':{'name':'" name "','namespace':'s'},'spec':{" spec "}}"
#define SLICE(name, service, type, endpoints, ports)                                                \
	"{'apiVersion':'discovery.k8s.io/v1','kind':'EndpointSlice','metadata':{'name':'" name          \
	"','namespace':'s','labels':{'kubernetes.io/service-name':'" service "'}},'addressType':'" type \
	"','endpoints':[" endpoints "],'ports':[" ports "]}"
#define AT(ip) "{'addresses':['" ip "']}"
#define ENDING(ip) "{'addresses':['" ip "'],'conditions':{'ready':false,'serving':true,'terminating':true}}"
#define ENDING_NULL(ip) "{'addresses':['" ip "'],'conditions':{'ready':false,'terminating':true}}"
#define GONE(ip) "{'addresses':['" ip "'],'conditions':{'ready':false}}"
#define NODE(name, ip)                                                                            \
	"{'apiVersion':'v1','kind':'Node','metadata':{'name':'" name "'},'status':{'addresses':[{'ty" \
	"pe':'InternalIP','address':'" ip "'}]}}"
/* Tells apart what is labelled a, b and c. */
#define TELLS_APART                                                                                                  \
	LAB_POLICY("apart", "s",                                                                                         \
		"'podSelector':{},'ingress':[{'from':[{'podSelector':{'matchLabels':{'app':'a'}}},{'podSelector':{'matchLab" \
		"els':{'app':'b'}}}]}]")

static void lab_fill(struct lab *lab)
{
	lab_open(lab);
	lab_put(lab, LAB_POD("a", "s", "'app':'a'", "here", "10.0.0.1"));
	lab_put(lab, LAB_POD("b", "s", "'app':'b'", "there", "10.0.0.2"));
	lab_put(lab, LAB_POD("b2", "s", "'app':'b'", "there", "10.0.0.3"));
	lab_put(lab, TELLS_APART);
	assert_int_not_equal(class_at(lab->c, "10.0.0.1"), class_at(lab->c, "10.0.0.2"));
}

static void equal_backends_are_one_kind(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, SERVICE("x", "'clusterIP':'10.96.0.1','ports':[{'port':80}]"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 0);
	assert_null(entry(&lab, "10.96.0.1", UDP, 80));
	assert_null(entry(&lab, "10.96.0.1", TCP, 8080));
	lab_put(&lab, SLICE("x-1", "x", "IPv4", AT("10.0.0.2") "," AT("10.0.0.3"), "{'port':8080}"));
	const struct ps_service *service = entry(&lab, "10.96.0.1", TCP, 80);
	assert_int_equal(service->count, 1);
	assert_kind(&lab, service, 0, "10.0.0.2", 8080, 0);
	lab_put(&lab, SLICE("x-2", "x", "IPv4", AT("10.0.0.1"), "{'port':8080},{'port':9,'protocol':'UDP'}"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 2);
	lab_put(&lab, SLICE("x-1", "y", "IPv4", AT("10.0.0.2"), "{'port':8080}")); /* another Service's */
	service = entry(&lab, "10.96.0.1", TCP, 80);
	assert_int_equal(service->count, 1);
	assert_kind(&lab, service, 0, "10.0.0.1", 8080, 0);
	lab_delete(&lab, "EndpointSlice/s/x-2");
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 0);
	lab_delete(&lab, "Service/s/x");
	assert_int_equal(entries(lab.c), 0);
	lab_close(&lab);
}

static void a_relabelled_pod_is_another_kind(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, SERVICE("x", "'clusterIP':'10.96.0.1','ports':[{'port':80}]"));
	lab_put(&lab, SLICE("x-1", "x", "IPv4", AT("10.0.0.2") "," AT("10.0.0.3"), "{'port':80}"));
	lab_put(&lab, LAB_POD("b2", "s", "'app':'a'", "there", "10.0.0.3"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 2);
	lab_delete(&lab, "NetworkPolicy/s/apart"); /* now nothing tells them apart */
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 1);
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 80), 0, "192.0.2.1", 80, 0);
	lab_put(&lab, TELLS_APART);
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 2);
	lab_delete(&lab, "Pod/s/b2");
	lab_delete(&lab, "Pod/s/b");
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 1);
	lab_close(&lab);
}

/* A backend that no object describes. */
static void networks_tell_strangers_apart(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, SERVICE("x", "'clusterIP':'10.96.0.1','ports':[{'port':80}]"));
	lab_put(&lab, SLICE("x-1", "x", "IPv4", AT("192.0.2.1") "," AT("192.0.2.129"), "{'port':80}"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 1);
	lab_put(
		&lab, LAB_POLICY("n", "s", "'podSelector':{},'ingress':[{'from':[{'ipBlock':{'cidr':'192.0.2.128/25'}}]}]"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 2);
	lab_put(&lab, LAB_POLICY("n", "s", "'podSelector':{},'ingress':[{'from':[{'ipBlock':{'cidr':'192.0.2.0/24'}}]}]"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 1);
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 80), 0, "192.0.2.7", 80, 0);
	assert_int_not_equal(class_at(lab.c, "192.0.2.7"), PS_CLASS_NONE);
	lab_put(&lab, LAB_POLICY("n", "s", "'podSelector':{},'ingress':[{'from':[{'ipBlock':{'cidr':'192.0.2.1/32'}}]}]"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 2);
	lab_delete(&lab, "NetworkPolicy/s/n");
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 1);
	lab_close(&lab);
}

static void ready_ones_else_those_that_still_serve(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, SERVICE("x", "'clusterIP':'10.96.0.1','ports':[{'port':80}]"));
	lab_put(&lab, SLICE("x-1", "x", "IPv4", AT("10.0.0.1") "," ENDING("10.0.0.2"), "{'port':80}"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 1);
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 80), 0, "10.0.0.1", 80, 0);
	lab_put(&lab, SLICE("x-1", "x", "IPv4", GONE("10.0.0.1") "," ENDING("10.0.0.2"), "{'port':80}"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 1);
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 80), 0, "10.0.0.2", 80, 0);
	lab_put(&lab, SLICE("x-1", "x", "IPv4", GONE("10.0.0.1") "," ENDING_NULL("10.0.0.2"), "{'port':80}"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 1);
	lab_put(&lab, SLICE("x-2", "x", "IPv4", AT("10.0.0.1"), "{'port':80}")); /* of all slices */
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 1);
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 80), 0, "10.0.0.1", 80, 0);
	lab_delete(&lab, "EndpointSlice/s/x-2");
	lab_put(&lab, SLICE("x-1", "x", "IPv4", GONE("10.0.0.1") "," GONE("10.0.0.2"), "{'port':80}"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 0);
	lab_close(&lab);
}

static void which_addresses_and_ports(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, "{'apiVersion':'v1','kind':'Service','metadata':{'name':'x','namespace':'s'},'spec':{'clusterIP':"
				  "'10.96.0.1','clusterIPs':['10.96.0.1','fd00:96::1'],'externalIPs':['192.0.2.5','0.0.0.0'],"
				  "'ports':[{'name':'web','port':80,'nodePort':30080},{'name':'dns','port':53,'protocol':'UDP'}]},"
				  "'status':{'loadBalancer':{'ingress':[{'ip':'198.51.100.1'},{'ip':'198.51.100.2','ipMode':'Proxy'},"
				  "{'ip':'198.51.100.3','ipMode':'VIP'}]}}}");
	lab_put(&lab, SLICE("x-4", "x", "IPv4", AT("10.0.0.1"), "{'name':'web','port':8080},{'name':'dns','port':5353}"));
	static const char *const ips[] = {"10.96.0.1", "fd00:96::1", "192.0.2.5", "198.51.100.1", "198.51.100.3"};
	for (size_t i = 0; i < 5; i++) {
		assert_int_equal(entry(&lab, ips[i], TCP, 80)->count, i != 1);
		assert_int_equal(entry(&lab, ips[i], UDP, 53)->count, 0); /* the slice's is TCP */
	}
	assert_int_equal(entry(&lab, "0.0.0.0", TCP, 30080)->count, 1);
	assert_int_equal(entry(&lab, "::", TCP, 30080)->count, 0);
	assert_int_equal(entries(lab.c), 12);
	lab_put(&lab, SERVICE("x", "'clusterIP':'None','externalIPs':['192.0.2.5'],'ports':[{'port':80}]"));
	assert_int_equal(entries(lab.c), 0);
	lab_put(&lab, SERVICE("x", "'type':'ExternalName','externalIPs':['192.0.2.5'],'ports':[{'port':80}]"));
	assert_int_equal(entries(lab.c), 0);
	lab_put(&lab, SERVICE("x", "'type':'NodePort','clusterIP':'10.96.0.1','ports':[{'port':80,'nodePort':30080}]"));
	assert_non_null(entry(&lab, "0.0.0.0", TCP, 30080));
	assert_null(entry(&lab, "::", TCP, 30080)); /* it has no IPv6 */
	lab_put(
		&lab, SERVICE("x", "'clusterIP':'fd00:96::1','externalIPs':['192.0.2.5','2001:db8::5'],'ports':[{'port':80}]"));
	assert_null(entry(&lab, "192.0.2.5", TCP, 80)); /* nor this one IPv4 */
	assert_int_equal(entries(lab.c), 2);
	lab_put(&lab, SERVICE("x", "'externalIPs':['192.0.2.5'],'ports':[{'port':80,'nodePort':30080}]"));
	assert_int_equal(entries(lab.c), 0);
	lab_close(&lab);
}

static void two_services_share_an_address_and_port(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, SERVICE("x", "'clusterIP':'10.96.0.1','externalIPs':['192.0.2.5'],'ports':[{'port':80}]"));
	lab_put(&lab, SERVICE("y", "'clusterIP':'10.96.0.2','externalIPs':['192.0.2.5'],'ports':[{'port':80}]"));
	lab_put(&lab, SLICE("x-1", "x", "IPv4", AT("10.0.0.1"), "{'port':80}"));
	lab_put(&lab, SLICE("y-1", "y", "IPv4", AT("10.0.0.2"), "{'port':80}"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 80)->count, 1);
	assert_int_equal(entry(&lab, "10.96.0.2", TCP, 80)->count, 1);
	assert_int_equal(entry(&lab, "192.0.2.5", TCP, 80)->count, 2);
	lab_delete(&lab, "Service/s/x");
	assert_int_equal(entry(&lab, "192.0.2.5", TCP, 80)->count, 1);
	assert_kind(&lab, entry(&lab, "192.0.2.5", TCP, 80), 0, "10.0.0.2", 80, 0);
	assert_null(entry(&lab, "10.96.0.1", TCP, 80));
	lab_put(&lab, SERVICE("x", "'clusterIP':'10.96.0.1','externalIPs':['192.0.2.5'],'ports':[{'port':80}]"));
	/* its slice had stayed */
	assert_int_equal(entry(&lab, "192.0.2.5", TCP, 80)->count, 2);
	lab_close(&lab);
}

static void this_nodes_own_come_first(void **state)
{
	static const char *const host_pod =
		"{'apiVersion':'v1','kind':'Pod','metadata':{'name':'h','namespace':'s'},'spec':{'nodeName':'%s',"
		"'hostNetwork':true},'status':{'podIPs':[{'ip':'192.168.0.9'}]}}";
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, NODE("here", "192.168.0.1"));
	lab_put(&lab, NODE("there", "192.168.0.2"));
	lab_put(&lab, SERVICE("x", "'clusterIP':'10.96.0.1','ports':[{'port':443}]"));
	lab_put(
		&lab, SLICE("x-1", "x", "IPv4", AT("192.168.0.2") "," AT("10.0.0.1") "," AT("192.168.0.1"), "{'port':6443}"));
	const struct ps_service *service = entry(&lab, "10.96.0.1", TCP, 443);
	assert_int_equal(service->count, 3);
	assert_kind(&lab, service, 0, "192.168.0.1", 6443, PS_BACKEND_NODE);
	assert_int_equal(service->backend[1].flags | service->backend[2].flags, 0);
	lab_put(&lab, NODE("here", "192.168.0.7"));
	assert_int_equal(entry(&lab, "10.96.0.1", TCP, 443)->count, 2); /* as the other one's */
	lab_put(&lab, SLICE("x-1", "x", "IPv4", AT("192.168.0.9"), "{'port':6443}"));
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 443), 0, "192.168.0.9", 6443, 0);
	auto_free char *here = str_format(host_pod, "here"), *there = str_format(host_pod, "there");
	lab_put(&lab, here);
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 443), 0, "192.168.0.9", 6443, PS_BACKEND_NODE);
	lab_put(&lab, there);
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 443), 0, "192.168.0.9", 6443, 0);
	lab_close(&lab);
}

/* Nobody has described the node, but it knows its own addresses. */
static void addresses_that_the_node_says_itself(void **state)
{
	static const uint8_t
		uplink[LOCAL_KEY_SIZE] = {[10] = 0xff, [11] = 0xff, [12] = 192, [13] = 168, [15] = 9, [16] = 2},
		bridge[LOCAL_KEY_SIZE] = {[10] = 0xff, [11] = 0xff, [12] = 192, [13] = 168, [15] = 9, [16] = 3};
	struct lab lab;
	struct map locals;
	lab_fill(&lab);
	map_init(&locals, LOCAL_KEY_SIZE, 0);
	lab_put(&lab, SERVICE("x", "'clusterIP':'10.96.0.1','ports':[{'port':443}]"));
	lab_put(&lab, SLICE("x-1", "x", "IPv4", AT("192.168.0.9"), "{'port':6443}"));
	assert_false(compiler_locals(lab.c, &locals));
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 443), 0, "192.168.0.9", 6443, 0);
	map_put(&locals, uplink, NULL);
	map_put(&locals, bridge, NULL);
	assert_true(compiler_locals(lab.c, &locals));
	assert_false(compiler_locals(lab.c, &locals));
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 443), 0, "192.168.0.9", 6443, PS_BACKEND_NODE);
	map_delete(&locals, uplink);
	assert_true(compiler_locals(lab.c, &locals)); /* it is on another interface too */
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 443), 0, "192.168.0.9", 6443, PS_BACKEND_NODE);
	map_delete(&locals, bridge);
	assert_true(compiler_locals(lab.c, &locals));
	assert_kind(&lab, entry(&lab, "10.96.0.1", TCP, 443), 0, "192.168.0.9", 6443, 0);
	map_clear(&locals);
	lab_close(&lab);
}

static void more_than_fit(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, NODE("here", "192.168.0.1"));
	lab_put(&lab, SERVICE("x", "'clusterIP':'10.96.0.1','ports':[{'port':80}]"));
	for (unsigned i = 0; i < PS_BACKENDS_MAX; i++) {
		auto_free char *text = str_format(SLICE("x-%u", "x", "IPv4", AT("10.0.0.1"), "{'port':%u}"), i, 90 - i);
		lab_put(&lab, text);
	}
	struct ps_service full = *entry(&lab, "10.96.0.1", TCP, 80);
	assert_int_equal(full.count, PS_BACKENDS_MAX);
	assert_int_equal(full.flags, 0);
	for (unsigned i = 0; i < PS_BACKENDS_MAX; i++)
		assert_int_equal(full.backend[i].port, 83 + i);
	lab_put(&lab, SLICE("y", "x", "IPv4", AT("192.168.0.1"), "{'port':80}"));
	const struct ps_service *service = entry(&lab, "10.96.0.1", TCP, 80);
	assert_int_equal(service->count, PS_BACKENDS_MAX);
	assert_int_equal(service->flags, PS_SERVICE_MORE);
	assert_kind(&lab, service, 0, "192.168.0.1", 80, PS_BACKEND_NODE);
	assert_memory_equal(&service->backend[1], full.backend, 7 * sizeof(full.backend[0]));
	lab_delete(&lab, "EndpointSlice/s/y");
	assert_memory_equal(entry(&lab, "10.96.0.1", TCP, 80), &full, sizeof(full));
	lab_close(&lab);
}

static void what_is_judged_is_the_backends(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("out", "s",
					  "'podSelector':{'matchLabels':{'app':'a'}},'policyTypes':['Egress'],'egress':[{'to':[{"
					  "'podSelector':{'matchLabels':{'app':'b'}}}],'ports':[{'port':8080}]}]"));
	lab_put(&lab, SERVICE("x", "'clusterIP':'10.96.0.1','ports':[{'port':80}]"));
	struct judge_answer answer = lab_judge(&lab, "10.0.0.1", "10.96.0.1", TCP, 80);
	assert_true(answer.service && answer.pending);
	lab_put(&lab, SLICE("x-1", "x", "IPv4", AT("10.0.0.2"), "{'port':8080}"));
	answer = lab_judge(&lab, "10.0.0.1", "10.96.0.1", TCP, 80);
	assert_true(answer.service && !answer.pending);
	assert_int_equal(answer.action, PS_ACTION_ALLOW);
	assert_string_equal(lab_rule(&lab, answer.egress.rule), "NetworkPolicy/s/out/0");
	lab_put(&lab, SLICE("x-2", "x", "IPv4", AT("192.0.2.1"), "{'port':8080}"));
	answer = lab_judge(&lab, "10.0.0.1", "10.96.0.1", TCP, 80);
	assert_true(answer.pending);
	lab_put(&lab, NODE("here", "192.0.2.1")); /* no hook behind it */
	answer = lab_judge(&lab, "10.0.0.1", "10.96.0.1", TCP, 80);
	assert_false(answer.pending);
	assert_int_equal(answer.action, PS_ACTION_DENY);
	lab_delete(&lab, "EndpointSlice/s/x-1");
	answer = lab_judge(&lab, "10.0.0.1", "10.96.0.1", TCP, 80);
	assert_int_equal(answer.action, PS_ACTION_DENY);
	assert_string_equal(lab_rule(&lab, answer.egress.rule), "NetworkPolicy/s/out/-1");
	assert_false(lab_judge(&lab, "10.0.0.1", "10.96.0.1", TCP, 81).service);
	lab_close(&lab);
}

static void a_proxy_takes_all_of_it_or_nothing_passes(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_GLOBAL("TransparentProxy", "gw", "'port':15001"));
	lab_put(
		&lab, LAB_GLOBAL("InterceptPolicy", "i",
				  "'priority':5,'subject':{'pods':{'namespaceSelector':{},'podSelector':{'matchLabels':{'app':'a'}}}},"
				  "'egress':[{'action':'Intercept','proxy':'gw','to':[{'networks':['10.96.0.1/32','192.0.2.0/25']}]},"
				  "{'action':'Bypass','to':[{'networks':['192.0.2.129/32']}]}]"));
	lab_put(&lab, LAB_POLICY("out", "s",
					  "'podSelector':{'matchLabels':{'app':'a'}},'policyTypes':['Egress'],'egress':[{'to':[{"
					  "'podSelector':{'matchLabels':{'app':'b'}}},{'ipBlock':{'cidr':'192.0.2.0/24'}}]}]"));
	lab_put(&lab, SERVICE("x", "'clusterIP':'10.96.0.1','ports':[{'port':80}]"));
	lab_put(&lab, SERVICE("y", "'clusterIP':'10.96.0.2','ports':[{'port':80}]"));
	/* no backend: by its own address or not at all */
	struct judge_answer answer = lab_judge(&lab, "10.0.0.1", "10.96.0.1", TCP, 80);
	assert_int_equal(answer.action, PS_ACTION_INTERCEPT);
	assert_string_equal(lab_rule(&lab, answer.egress.intercept_rule), "InterceptPolicy//i/0");
	assert_true(lab_judge(&lab, "10.0.0.1", "10.96.0.2", TCP, 80).pending);
	/* all are allowed */
	lab_put(&lab, SLICE("x-1", "x", "IPv4", AT("10.0.0.2") "," AT("192.0.2.200"), "{'port':80}"));
	answer = lab_judge(&lab, "10.0.0.1", "10.96.0.1", TCP, 80);
	assert_int_equal(answer.action, PS_ACTION_INTERCEPT);
	assert_string_equal(lab_rule(&lab, answer.egress.rule), "NetworkPolicy/s/out/0");
	/* one of them is not */
	lab_put(&lab, SLICE("x-1", "x", "IPv4", AT("10.0.0.2") "," AT("8.8.8.8"), "{'port':80}"));
	answer = lab_judge(&lab, "10.0.0.1", "10.96.0.1", TCP, 80);
	assert_int_equal(answer.action, PS_ACTION_DENY);
	assert_false(answer.pending);
	assert_string_equal(lab_rule(&lab, answer.egress.rule), "NetworkPolicy/s/out/-1");
	/* by the backends: all to one proxy, or none */
	lab_put(&lab, SLICE("y-1", "y", "IPv4", AT("192.0.2.1") "," AT("192.0.2.2"), "{'port':80}"));
	assert_int_equal(lab_judge(&lab, "10.0.0.1", "10.96.0.2", TCP, 80).action, PS_ACTION_INTERCEPT);
	lab_put(&lab, SLICE("y-1", "y", "IPv4", AT("192.0.2.1") "," AT("192.0.2.200"), "{'port':80}"));
	answer = lab_judge(&lab, "10.0.0.1", "10.96.0.2", TCP, 80);
	assert_int_equal(answer.action, PS_ACTION_ALLOW);
	assert_int_equal(answer.egress.intercept_rule, PS_RULE_NONE);
	lab_put(&lab, SLICE("y-1", "y", "IPv4", AT("192.0.2.129") "," AT("192.0.2.200"), "{'port':80}"));
	answer = lab_judge(&lab, "10.0.0.1", "10.96.0.2", TCP, 80);
	assert_int_equal(answer.action, PS_ACTION_ALLOW);
	assert_int_equal(answer.egress.intercept_rule, PS_RULE_NONE);
	lab_put(&lab, SLICE("y-1", "y", "IPv4", AT("192.0.2.129"), "{'port':80}"));
	answer = lab_judge(&lab, "10.0.0.1", "10.96.0.2", TCP, 80);
	assert_string_equal(lab_rule(&lab, answer.egress.intercept_rule), "InterceptPolicy//i/1");
	lab_put(&lab, SLICE("y-1", "y", "IPv4", AT("192.0.2.1") "," AT("8.8.8.8"), "{'port':80}"));
	assert_int_equal(lab_judge(&lab, "10.0.0.1", "10.96.0.2", TCP, 80).action, PS_ACTION_DENY);
	lab_close(&lab);
}

static void what_does_not_fit_is_refused(void **state)
{
	struct lab lab;
	struct error e = {0};
	unsigned room = (unsigned)table_infos[TABLE_service4].entries;
	lab_open(&lab);
	/* 250 addresses with 250 ports each */
	for (unsigned i = 0; i < 2; i++) {
		struct buffer b = {0};
		buffer_printf(&b,
			"{'apiVersion':'v1','kind':'Service','metadata':{'name':'x%u','namespace':'s'},'spec':{'clusterIPs':[", i);
		for (unsigned j = 0; j < 250; j++)
			buffer_printf(&b, "%s'192.0.%u.%u'", j ? "," : "", i, j);
		buffer_puts(&b, "],'ports':[");
		for (unsigned j = 1; j <= 250; j++)
			buffer_printf(&b, "%s{'name':'p%u','port':%u}", j > 1 ? "," : "", j, j);
		buffer_puts(&b, "]}}");
		auto_free char *text = buffer_take(&b);
		assert_int_equal(compiler_fits(lab.c, &e), 0);
		lab_put(&lab, text);
	}
	assert_int_equal(entries(lab.c), 125000);
	assert_int_equal(compiler_fits(lab.c, &e), -ENOSPC);
	auto_free char *wanted = str_format("table service4: 125000 entries are needed, there is room for %u", room);
	assert_string_equal(e.detail, wanted);
	lab_delete(&lab, "Service/s/x1");
	assert_int_equal(compiler_fits(lab.c, &e), 0);
	lab_close(&lab);
}

/* ---- chance ---- */

#define ROUNDS 20
#define STEPS 40

static uint64_t chance_state;

static unsigned chance(unsigned below)
{
	chance_state ^= chance_state << 13;
	chance_state ^= chance_state >> 7;
	chance_state ^= chance_state << 17;
	return (unsigned)(chance_state >> 11) % below;
}

static bool one_in(unsigned count)
{
	return !chance(count);
}

#define PICK(list) (list)[chance(sizeof(list) / sizeof((list)[0]))]

enum { PODS = 16, POLICIES = 6, NODES = 2, SERVICES = 5, SLICES = 8 };
enum {
	FIRST_POLICY = PODS,
	FIRST_NODE = FIRST_POLICY + POLICIES,
	FIRST_SERVICE = FIRST_NODE + NODES,
	FIRST_SLICE = FIRST_SERVICE + SERVICES,
	ALL = FIRST_SLICE + SLICES
};
struct world {
	struct object *objects[ALL];
};
static const char *const apps[] = {"a", "b", "c", "d", "e", "f"};
static const char *const port_names[] = {"web", "dns"};
static const char *const protocols[] = {"TCP", "UDP", "SCTP"};

static struct object *finish(struct buffer *b)
{
	auto_free char *text = buffer_take(b);
	return object_of(text);
}

static struct object *make_pod(unsigned number)
{
	static const char *const phases[] = {"Running", "Running", "Running", "Succeeded"};
	struct buffer b = {0};
	buffer_printf(&b,
		"{'apiVersion':'v1','kind':'Pod','metadata':{'name':'w%u','namespace':'s','labels':{'app':'%s'}},'spec':{"
		"'nodeName':'%s','hostNetwork':%s},'status':{'phase':'%s','podIPs':[{'ip':'10.0.0.%u'},{'ip':'fd00::%x'}]}}",
		number, PICK(apps), number < 6 ? "here" : "there", one_in(5) ? "true" : "false", PICK(phases),
		one_in(10) ? chance(16) : number, number);
	return finish(&b);
}

static struct object *make_policy(unsigned number)
{
	static const char *const networks[] = {
		"10.0.0.0/28", "10.0.0.8/29", "10.0.0.18/31", "10.0.0.17/32", "fd00::/124", "fd00::12/128", "192.168.0.0/16"};
	struct buffer b = {0};
	buffer_printf(&b,
		"{'apiVersion':'networking.k8s.io/v1','kind':'NetworkPolicy','metadata':{'name':'p%u','namespace':'s'},'spec':{"
		"'podSelector':{'matchLabels':{'app':'%s'}},'policyTypes':['Egress'],'egress':[{'to':[",
		number, PICK(apps));
	for (unsigned i = 1 + chance(3); i > 0; i--) {
		if (one_in(3))
			buffer_printf(&b, "{'ipBlock':{'cidr':'%s'}}", PICK(networks));
		else
			buffer_printf(&b, "{'podSelector':{'matchLabels':{'app':'%s'}}}", PICK(apps));
		buffer_puts(&b, i > 1 ? "," : "]}]}}");
	}
	return finish(&b);
}

static struct object *make_node(unsigned number)
{
	struct buffer b = {0};
	buffer_printf(&b,
		"{'apiVersion':'v1','kind':'Node','metadata':{'name':'%s'},'status':{'addresses':[{'type':'InternalIP',"
		"'address':'10.0.0.%u'},{'type':'InternalIP','address':'fd00::%x'}]}}",
		number ? "there" : "here", 16 + chance(4), 16 + chance(4));
	return finish(&b);
}

static struct object *make_service(unsigned number)
{
	static const char *const types[] = {"ClusterIP", "NodePort", "NodePort", "ExternalName"};
	struct buffer b = {0};
	buffer_printf(&b,
		"{'apiVersion':'v1','kind':'Service','metadata':{'name':'x%u','namespace':'s'},'spec':{'type':'%s'", number,
		PICK(types));
	if (one_in(6))
		buffer_puts(&b, ",'clusterIP':'None'");
	else if (!one_in(6))
		buffer_printf(&b, ",'clusterIP':'10.96.0.%u'", number);
	if (one_in(2))
		buffer_printf(&b, ",'externalIPs':['192.0.2.%u','2001:db8::%x']", chance(2), chance(2));
	buffer_puts(&b, ",'ports':[");
	for (unsigned i = 1 + chance(3); i > 0; i--) {
		buffer_printf(&b, "{'name':'%s','port':%u,'protocol':'%s'", PICK(port_names), 80 + chance(2), PICK(protocols));
		if (one_in(2))
			buffer_printf(&b, ",'nodePort':%u", 30000 + chance(2));
		buffer_puts(&b, i > 1 ? "}," : "}]}}");
	}
	return finish(&b);
}

static struct object *make_slice(unsigned number)
{
	static const char *const words[] = {"true", "true", "false", "null"};
	bool four = number % 2;
	struct buffer b = {0};
	buffer_printf(&b,
		"{'apiVersion':'discovery.k8s.io/v1','kind':'EndpointSlice','metadata':{'name':'y%u','namespace':'s','labels':"
		"{'kubernetes.io/service-name':'x%u'}},'addressType':'%s','endpoints':[",
		number, chance(SERVICES), four ? "IPv4" : "IPv6");
	for (unsigned i = 1 + chance(12); i > 0; i--) {
		buffer_printf(&b, four ? "{'addresses':['10.0.0.%u']" : "{'addresses':['fd00::%x']", chance(20));
		buffer_printf(&b, ",'conditions':{'ready':%s,'serving':%s,'terminating':%s}}%s", PICK(words), PICK(words),
			PICK(words), i > 1 ? "," : "],'ports':[");
	}
	for (unsigned i = 1 + chance(3); i > 0; i--)
		buffer_printf(&b, "{'name':'%s','port':%u,'protocol':'%s'}%s", PICK(port_names), 8080 + chance(3),
			PICK(protocols), i > 1 ? "," : "]}");
	return finish(&b);
}

static struct object *make_any(unsigned slot)
{
	if (slot < FIRST_POLICY)
		return make_pod(slot);
	if (slot < FIRST_NODE)
		return make_policy(slot - FIRST_POLICY);
	if (slot < FIRST_SERVICE)
		return make_node(slot - FIRST_NODE);
	return slot < FIRST_SLICE ? make_service(slot - FIRST_SERVICE) : make_slice(slot - FIRST_SLICE);
}

/* ---- a look at every object ---- */

static bool world_own(const struct world *world, const struct ip *ip)
{
	for (unsigned i = 0; i < FIRST_SERVICE; i++) {
		const struct object *object = world->objects[i];
		const struct workload *pod = object && object->kind == KIND_POD ? object->workload : NULL;
		const struct node *node = object && object->kind == KIND_NODE ? object->node : NULL;
		if (node && !strcmp(object->name, "here"))
			for (size_t j = 0; j < node->ip_count; j++)
				if (ip_equal(&node->ips[j], ip))
					return true;
		if (pod && pod->host_network && !pod->ended && !strcmp(pod->node, "here"))
			for (size_t j = 0; j < pod->ip_count; j++)
				if (ip_equal(&pod->ips[j], ip))
					return true;
	}
	return false;
}

struct kinds_found {
	struct ps_backend list[512];
	size_t count;
};

static bool collect(const struct world *world, struct compiler *c, const char *service, const struct service_port *port,
	uint8_t family, bool ending, struct kinds_found *ret)
{
	size_t before = ret->count;
	for (unsigned i = FIRST_SLICE; i < ALL; i++) {
		const struct endpoint_slice *slice = world->objects[i] ? world->objects[i]->slice : NULL;
		if (!slice || strcmp(slice->service, service) != 0)
			continue;
		for (size_t j = 0; j < slice->port_count; j++)
			for (size_t k = 0; k < slice->backend_count; k++) {
				const struct backend *backend = &slice->backends[k];
				if (strcmp(slice->ports[j].name, port->name) != 0 || slice->ports[j].protocol != port->protocol ||
					backend->ip.family != family ||
					!(ending ? backend->serving && backend->terminating : backend->ready))
					continue;
				assert_in_range(ret->count, 0, 511);
				ret->list[ret->count++] = (struct ps_backend){.class_id = class_of(c, &backend->ip),
					.port = slice->ports[j].port,
					.flags = world_own(world, &backend->ip) ? PS_BACKEND_NODE : 0};
			}
	}
	return ret->count > before;
}

static int kind_order(const void *left, const void *right)
{
	const struct ps_backend *a = left, *b = right;
	if (a->flags != b->flags)
		return a->flags > b->flags ? -1 : 1;
	if (a->class_id != b->class_id)
		return a->class_id < b->class_id ? -1 : 1;
	return (a->port > b->port) - (a->port < b->port);
}

static bool said_by(const struct service *service, uint8_t family, const struct ip *ip)
{
	for (size_t i = 0; i < service->ip_count; i++)
		if (ip ? ip_equal(&service->ips[i], ip) : service->ips[i].family == family)
			return true;
	return false;
}

/* `ip` NULL: of a node port. */
static void entry_check(const struct world *world, struct compiler *c, uint8_t family, const struct ip *ip,
	uint8_t protocol, uint16_t number)
{
	struct kinds_found found = {0};
	for (unsigned i = FIRST_SERVICE; i < FIRST_SLICE; i++) {
		const struct object *object = world->objects[i];
		for (size_t j = 0; object && j < object->service->port_count; j++) {
			const struct service_port *port = &object->service->ports[j];
			if (port->protocol != protocol || (ip ? port->port : port->node_port) != number ||
				!said_by(object->service, family, ip))
				continue;
			if (!collect(world, c, object->name, port, family, false, &found))
				collect(world, c, object->name, port, family, true, &found);
		}
	}
	struct ps_service wanted = {0};
	qsort(found.list, found.count, sizeof(found.list[0]), kind_order);
	for (size_t i = 0; i < found.count; i++) {
		if (i && !kind_order(&found.list[i - 1], &found.list[i]))
			continue;
		if (wanted.count < PS_BACKENDS_MAX)
			wanted.backend[wanted.count++] = found.list[i];
		else
			wanted.flags = PS_SERVICE_MORE;
	}
	const struct ps_service *there = entry_of(c, family, ip, protocol, number);
	assert_non_null(there);
	assert_memory_equal(there, &wanted, sizeof(wanted));
}

static void key_note(struct map *keys, uint8_t family, const struct ip *ip, uint8_t protocol, uint16_t port)
{
	uint8_t key[20] = {0};
	if (ip)
		memcpy(key, ip->bytes, 16);
	key[16] = family;
	key[17] = protocol;
	memcpy(key + 18, &port, 2);
	map_put(keys, key, NULL);
}

static void services_check(const struct world *world, struct compiler *c)
{
	struct map keys;
	map_init(&keys, 20, 0);
	for (unsigned i = FIRST_SERVICE; i < FIRST_SLICE; i++) {
		const struct service *service = world->objects[i] ? world->objects[i]->service : NULL;
		for (size_t j = 0; service && j < service->port_count; j++) {
			const struct service_port *port = &service->ports[j];
			for (size_t k = 0; k < service->ip_count; k++) {
				const struct ip *ip = &service->ips[k];
				entry_check(world, c, ip->family, ip, port->protocol, port->port);
				key_note(&keys, ip->family, ip, port->protocol, port->port);
			}
			for (uint8_t family = 4; port->node_port && family <= 6; family += 2) {
				if (!said_by(service, family, NULL))
					continue;
				entry_check(world, c, family, NULL, port->protocol, port->node_port);
				key_note(&keys, family, NULL, port->protocol, port->node_port);
			}
		}
	}
	assert_int_equal(entries(c), keys.count);
	map_clear(&keys);
}

static void fresh_check(const struct world *world)
{
	struct rulebook *book = rulebook_new(1);
	struct compiler *c = compiler_new("here", book);
	struct change changes[ALL];
	size_t count = 0;
	for (unsigned i = 0; i < ALL; i++)
		if (world->objects[ALL - 1 - i])
			changes[count++] = (struct change){NULL, world->objects[ALL - 1 - i]};
	compiler_update(c, changes, count, NULL);
	services_check(world, c);
	compiler_free(c);
	rulebook_free(book);
}

static void run_round(void)
{
	struct world world = {0};
	struct rulebook *book = rulebook_new(1);
	struct compiler *c = compiler_new("here", book);
	for (int step = 0; step < STEPS; step++) {
		struct change changes[ALL];
		bool used[ALL] = {0};
		size_t count = 0;
		for (unsigned i = step ? 1 + chance(3) : ALL; i > 0; i--) {
			unsigned slot = chance(ALL);
			if (used[slot])
				continue;
			used[slot] = true;
			changes[count].old = world.objects[slot];
			world.objects[slot] = world.objects[slot] && one_in(4) ? NULL : make_any(slot);
			changes[count++].new = world.objects[slot];
		}
		compiler_update(c, changes, count, NULL);
		for (size_t i = 0; i < count; i++)
			object_put(changes[i].old);
		services_check(&world, c);
		fresh_check(&world);
	}
	compiler_free(c);
	rulebook_free(book);
	for (unsigned i = 0; i < ALL; i++)
		object_put(world.objects[i]);
}

static void changes_and_a_fresh_compile_are_what_the_objects_say(void **state)
{
	const char *text = getenv("PENSTOCK_SEED"), *rounds = getenv("PENSTOCK_ROUNDS");
	uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
	for (int i = 0; i < (rounds ? atoi(rounds) : ROUNDS); i++) {
		chance_state = (seed + (uint64_t)i) * 0x9e3779b97f4a7c15ull | 1;
		printf("PENSTOCK_SEED=%llu PENSTOCK_ROUNDS=1\n", (unsigned long long)seed + (unsigned)i);
		run_round();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_backends_are_one_kind),
		cmocka_unit_test(a_relabelled_pod_is_another_kind),
		cmocka_unit_test(networks_tell_strangers_apart),
		cmocka_unit_test(ready_ones_else_those_that_still_serve),
		cmocka_unit_test(which_addresses_and_ports),
		cmocka_unit_test(two_services_share_an_address_and_port),
		cmocka_unit_test(this_nodes_own_come_first),
		cmocka_unit_test(addresses_that_the_node_says_itself),
		cmocka_unit_test(more_than_fit),
		cmocka_unit_test(what_is_judged_is_the_backends),
		cmocka_unit_test(a_proxy_takes_all_of_it_or_nothing_passes),
		cmocka_unit_test(what_does_not_fit_is_refused),
		cmocka_unit_test(changes_and_a_fresh_compile_are_what_the_objects_say),
	};
	return cmocka_run_group_tests_name("compile: Services", tests, NULL, NULL);
}
