/* SPDX-License-Identifier: Apache-2.0 */
/* Entries of Services, by example. */
#include "tests/unit/compile_services.h"

#include <errno.h>
#include "agent/base/buffer.h"

static uint32_t class_at(struct compiler *c, const char *text)
{
	struct ip ip;
	assert_int_equal(ip_parse(text, &ip), 0);
	return class_of(c, &ip);
}

static const struct ps_service *entry(struct lab *lab, const char *text, uint8_t protocol, uint16_t port)
{
	struct ip ip;
	assert_int_equal(ip_parse(text, &ip), 0);
	return entry_of(lab->c, ip.family, &ip, protocol, port);
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
	};
	return cmocka_run_group_tests_name("compile: Services", tests, NULL, NULL);
}
