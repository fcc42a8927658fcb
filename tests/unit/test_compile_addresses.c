/* SPDX-License-Identifier: Apache-2.0 */
/* Whose an address is, what is an endpoint, and what the tables say about both. */
#include "tests/unit/compile_lab.h"

#define POD_AT(name, created, node, ip)                                                                                \
	"{'apiVersion':'v1','kind':'Pod','metadata':{'name':'" name "','namespace':'s','creationTimestamp':'2026-" created \
	"T00:00:00Z','labels':{'name':'" name "'}},'spec':{'nodeName':'" node "','containers':[{'name':"                   \
	"'c'}]},'status':{'phase':'Running','podIPs':[{'ip':'" ip "'}]}}"

static const struct ps_addr *addr(struct lab *lab, const char *text)
{
	struct ip ip;
	struct ps_key_addr4 key4 = {0};
	struct ps_key_addr6 key6 = {0};
	assert_int_equal(ip_parse(text, &ip), 0);
	if (ip.family == 4) {
		key4.addr = ip_v4(&ip);
		return tables_get(compiler_tables(lab->c), TABLE_addr4, &key4);
	}
	memcpy(key6.addr, ip.bytes, 16);
	return tables_get(compiler_tables(lab->c), TABLE_addr6, &key6);
}

static const struct endpoint *endpoint(struct lab *lab, const char *name)
{
	size_t at = 0;
	const struct endpoint *found;
	while ((found = compiler_endpoint_next(lab->c, &at)))
		if (!strcmp(found->name, name))
			return found;
	return NULL;
}

/* The name of the endpoint that has the address, "" when it has none. */
static const char *owner(struct lab *lab, const char *ip)
{
	const struct ps_addr *value = addr(lab, ip);
	const struct endpoint *found = value ? compiler_endpoint_find(lab->c, value->endpoint) : NULL;
	return found ? found->name : "";
}

static void this_nodes_pods_are_endpoints(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, POD_AT("near", "01-01", "here", "10.0.0.1"));
	lab_put(&lab, POD_AT("far", "01-01", "there", "10.0.0.2"));
	assert_non_null(endpoint(&lab, "near"));
	assert_null(endpoint(&lab, "far"));
	assert_int_equal(addr(&lab, "10.0.0.1")->flags, PS_ADDR_LOCAL);
	assert_int_equal(addr(&lab, "10.0.0.2")->endpoint, PS_ENDPOINT_NONE);
	lab_close(&lab);
}

static void hostnetwork_and_ended_pods_are_nobody(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab,
		"{'apiVersion':'v1','kind':'Pod','metadata':{'name':'host','namespace':'s'},'spec':{'nodeName':'here',"
		"'hostNetwork':true,'containers':[{'name':'c'}]},'status':{'phase':'Running','podIPs':[{'ip':"
		"'10.0.0.9'}]}}");
	assert_null(addr(&lab, "10.0.0.9"));
	assert_null(endpoint(&lab, "host"));
	lab_put(&lab, POD_AT("job", "01-01", "here", "10.0.0.1"));
	assert_non_null(addr(&lab, "10.0.0.1"));
	lab_put(&lab, "{'apiVersion':'v1','kind':'Pod','metadata':{'name':'job','namespace':'s'},'spec':{'nodeName':'here',"
				  "'containers':[{'name':'c'}]},'status':{'phase':'Succeeded','podIPs':[{'ip':'10.0.0.1'}]}}");
	assert_null(addr(&lab, "10.0.0.1"));
	assert_null(endpoint(&lab, "job"));
	assert_int_equal(compiler_tables(lab.c)->table[TABLE_endpoint].wanted.count, 0);
	lab_close(&lab);
}

static void the_younger_pod_has_the_address(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, POD_AT("old", "01-01", "here", "10.0.0.1"));
	assert_int_equal(lab.warnings.total, 0);
	lab_put(&lab, POD_AT("young", "02-01", "here", "10.0.0.1"));
	assert_int_equal(lab.warnings.total, 1);
	assert_string_equal(lab.warnings.list[0].detail,
		"10.0.0.1 is an address of Pod s/young and of Pod s/old: s/young has it (the younger)");
	assert_string_equal(owner(&lab, "10.0.0.1"), "young");
	lab_put(&lab, POD_AT("older", "01-01", "here", "10.0.0.1"));
	assert_string_equal(owner(&lab, "10.0.0.1"), "young");
	lab_delete(&lab, "Pod/s/young");
	assert_string_equal(owner(&lab, "10.0.0.1"), "old"); /* equally old: by name */
	lab_delete(&lab, "Pod/s/old");
	assert_string_equal(owner(&lab, "10.0.0.1"), "older");
	lab_delete(&lab, "Pod/s/older");
	assert_null(addr(&lab, "10.0.0.1"));
	lab_close(&lab);
}

static void a_workload_has_it_before_a_pod(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, POD_AT("pod", "02-01", "here", "10.0.0.1"));
	lab_put(&lab, LAB_OURS("Workload", "w", "'ips':['10.0.0.1','fd00::1']"));
	assert_string_equal(owner(&lab, "10.0.0.1"), "w");
	assert_int_equal(lab.warnings.total, 1);
	lab_delete(&lab, "Workload/s/w");
	assert_string_equal(owner(&lab, "10.0.0.1"), "pod");
	assert_null(addr(&lab, "fd00::1"));
	lab_close(&lab);
}

static void a_workload_of_another_node_is_remote(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, LAB_OURS("Workload", "near", "'ips':['10.0.0.1'],'node':'here'"));
	lab_put(&lab, LAB_OURS("Workload", "far", "'ips':['10.0.0.2'],'node':'there'"));
	assert_non_null(endpoint(&lab, "near"));
	assert_null(endpoint(&lab, "far"));
	uint32_t id = endpoint(&lab, "near")->id;
	lab_put(&lab, LAB_OURS("Workload", "near", "'ips':['10.0.0.3'],'ports':[{'name':'x','port':1}]"));
	assert_int_equal(endpoint(&lab, "near")->id, id);
	assert_null(addr(&lab, "10.0.0.1"));
	assert_int_equal(addr(&lab, "10.0.0.3")->endpoint, id);
	assert_int_equal(addr(&lab, "10.0.0.3")->flags, PS_ADDR_LOCAL); /* bound before, still is */
	lab_put(&lab, LAB_OURS("Workload", "near", "'ips':['10.0.0.3'],'node':'there'"));
	assert_null(endpoint(&lab, "near"));
	assert_int_equal(addr(&lab, "10.0.0.3")->flags, 0);
	lab_put(&lab, LAB_OURS("Workload", "near", "'ips':['10.0.0.3']"));
	assert_int_not_equal(endpoint(&lab, "near")->id, id); /* numbers come back late */
	lab_close(&lab);
}

static void binding_makes_addresses_local(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, LAB_OURS("Workload", "w", "'ips':['10.0.0.1','fd00::1']"));
	uint32_t id = endpoint(&lab, "w")->id;
	compiler_bind(lab.c, id, false);
	assert_int_equal(addr(&lab, "10.0.0.1")->flags, 0);
	assert_int_equal(addr(&lab, "fd00::1")->flags, 0);
	struct map *pending = &compiler_tables(lab.c)->table[TABLE_addr4].pending[0];
	map_clear(pending);
	compiler_bind(lab.c, id, false);
	assert_int_equal(pending->count, 0);
	compiler_bind(lab.c, id, true);
	assert_int_equal(pending->count, 1);
	assert_int_equal(addr(&lab, "fd00::1")->flags, PS_ADDR_LOCAL);
	compiler_bind(lab.c, 12345, true); /* nobody */
	lab_close(&lab);
}

static void further_sources_are_prefixes(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, LAB_OURS("Workload", "w", "'ips':['10.0.0.1'],'allowedSources':['192.168.0.0/16','fd01::/64']"));
	uint32_t id = endpoint(&lab, "w")->id;
	const struct ps_endpoint *value = tables_get(compiler_tables(lab.c), TABLE_endpoint, &id);
	assert_int_equal(value->flags, PS_ENDPOINT_USED | PS_ENDPOINT_SOURCES);
	struct ps_key_source four = {.prefix_length = 64 + 96 + 16, .endpoint = id};
	struct ps_key_source six = {.prefix_length = 64 + 64, .endpoint = id};
	memcpy(four.addr, "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\xa8\0\0", 16);
	memcpy(six.addr, "\xfd\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16);
	assert_non_null(tables_get(compiler_tables(lab.c), TABLE_source, &four));
	assert_non_null(tables_get(compiler_tables(lab.c), TABLE_source, &six));
	lab_put(&lab, LAB_OURS("Workload", "w", "'ips':['10.0.0.1'],'allowedSources':['fd01::/64']"));
	assert_null(tables_get(compiler_tables(lab.c), TABLE_source, &four));
	assert_non_null(tables_get(compiler_tables(lab.c), TABLE_source, &six));
	lab_put(&lab, LAB_OURS("Workload", "w", "'ips':['10.0.0.1']"));
	assert_int_equal(compiler_tables(lab.c)->table[TABLE_source].wanted.count, 0);
	assert_int_equal(
		((const struct ps_endpoint *)tables_get(compiler_tables(lab.c), TABLE_endpoint, &id))->flags, PS_ENDPOINT_USED);
	lab_close(&lab);
}

static void endpoints_know_profile_and_class(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, POD_AT("a", "01-01", "here", "10.0.0.1"));
	assert_false(endpoint(&lab, "a")->selected);
	lab_put(&lab, LAB_POLICY("p", "s", "'podSelector':{},'ingress':[{'from':[{'podSelector':{}}]}]"));
	uint32_t id = endpoint(&lab, "a")->id;
	const struct ps_endpoint *value = tables_get(compiler_tables(lab.c), TABLE_endpoint, &id);
	assert_int_not_equal(value->profile, PS_PROFILE_NONE);
	assert_int_not_equal(value->class_id, PS_CLASS_NONE);
	assert_int_equal(value->profile, addr(&lab, "10.0.0.1")->profile);
	assert_int_equal(value->class_id, addr(&lab, "10.0.0.1")->class_id);
	assert_true(endpoint(&lab, "a")->selected);
	lab_delete(&lab, "NetworkPolicy/s/p");
	value = tables_get(compiler_tables(lab.c), TABLE_endpoint, &id);
	assert_int_equal(value->profile, PS_PROFILE_NONE);
	assert_int_equal(value->class_id, PS_CLASS_NONE);
	lab_close(&lab);
}

#define POLICY_FOR(name, peers) LAB_POLICY(name, "s", "'podSelector':{},'ingress':[{'from':[" peers "]}]")
#define BLOCK(cidr) "{'ipBlock':{'cidr':'" cidr "'}}"

static size_t networks(struct lab *lab)
{
	return compiler_tables(lab->c)->table[TABLE_net4].wanted.count +
		   compiler_tables(lab->c)->table[TABLE_net6].wanted.count;
}

/* An entry that says a class, whether it is a Node's, and no more. */
static uint32_t network_class(struct lab *lab, const char *ip)
{
	const struct ps_addr *value = addr(lab, ip);
	assert_non_null(value);
	assert_int_equal(value->endpoint, PS_ENDPOINT_NONE);
	assert_int_equal(value->profile, PS_PROFILE_NONE);
	assert_int_equal(value->flags & ~PS_ADDR_NODE, 0);
	return value->class_id;
}

static void a_network_of_one_address_is_an_address(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, POD_AT("a", "01-01", "here", "10.0.0.1"));
	lab_put(&lab, POLICY_FOR("p", BLOCK("192.0.2.1/32") "," BLOCK("2001:db8::1/128") "," BLOCK("192.0.2.4/31")));
	assert_int_equal(networks(&lab), 1);
	assert_int_not_equal(network_class(&lab, "192.0.2.1"), PS_CLASS_NONE);
	assert_int_not_equal(network_class(&lab, "2001:db8::1"), PS_CLASS_NONE);
	assert_int_equal(lab_judge(&lab, "192.0.2.1", "10.0.0.1", TCP, 1).ingress.action, PS_ACTION_ALLOW);
	assert_int_equal(lab_judge(&lab, "2001:db8::1", "10.0.0.1", TCP, 1).ingress.action, PS_ACTION_ALLOW);
	assert_int_equal(lab_judge(&lab, "192.0.2.2", "10.0.0.1", TCP, 1).ingress.action, PS_ACTION_DENY);
	lab_put(&lab, POLICY_FOR("p", "{'ipBlock':{'cidr':'192.0.2.0/24','except':['192.0.2.1/32']}}"));
	assert_int_equal(network_class(&lab, "192.0.2.1"), PS_CLASS_NONE); /* not what the network around it is */
	assert_null(addr(&lab, "2001:db8::1"));
	assert_int_equal(lab_judge(&lab, "192.0.2.1", "10.0.0.1", TCP, 1).ingress.action, PS_ACTION_DENY);
	assert_int_equal(lab_judge(&lab, "192.0.2.2", "10.0.0.1", TCP, 1).ingress.action, PS_ACTION_ALLOW);
	lab_delete(&lab, "NetworkPolicy/s/p");
	assert_null(addr(&lab, "192.0.2.1"));
	lab_close(&lab);
}

static void a_workload_takes_the_address_of_a_network_and_gives_it_back(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, POD_AT("a", "01-01", "here", "10.0.0.1"));
	lab_put(&lab, POLICY_FOR("p", BLOCK("10.0.0.2/32")));
	uint32_t alone = network_class(&lab, "10.0.0.2");
	lab_put(&lab, POD_AT("b", "01-01", "here", "10.0.0.2"));
	assert_string_equal(owner(&lab, "10.0.0.2"), "b");
	assert_int_equal(addr(&lab, "10.0.0.2")->flags, PS_ADDR_LOCAL);
	lab_put(&lab, POLICY_FOR("q", BLOCK("10.0.0.2/32"))); /* the network changes under the workload */
	lab_put(&lab, POLICY_FOR("p", "{'podSelector':{'matchLabels':{'name':'b'}}}"));
	assert_string_equal(owner(&lab, "10.0.0.2"), "b");
	lab_delete(&lab, "NetworkPolicy/s/q"); /* and ends */
	assert_string_equal(owner(&lab, "10.0.0.2"), "b");
	lab_put(&lab, POLICY_FOR("p", BLOCK("10.0.0.2/32")));
	assert_string_equal(owner(&lab, "10.0.0.2"), "b");
	lab_delete(&lab, "Pod/s/b");
	assert_int_equal(network_class(&lab, "10.0.0.2"), alone);
	lab_delete(&lab, "NetworkPolicy/s/p");
	assert_null(addr(&lab, "10.0.0.2"));
	lab_close(&lab);
}

#define NODE_AT(labels, ip)                                                                                      \
	"{'apiVersion':'v1','kind':'Node','metadata':{'name':'n','labels':{" labels "}},'status':{'addresses':[{'ty" \
	"pe':'InternalIP','address':'" ip "'}]}}"

/* A Node that nothing selects has no entry of its own: then its network's stands. */
static void a_node_shares_the_address_of_a_network(void **state)
{
	static const char *const rule =
		LAB_CLUSTER_POLICY("c", "'tier':'Admin','priority':1,'subject':{'namespaces':{}},'egress':[{'action':'Accept','"
								"to':[{'nodes':{'matchLabels':{'role':'db'}}}]}]");
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, POD_AT("a", "01-01", "here", "10.0.0.1"));
	lab_put(&lab, POLICY_FOR("p", BLOCK("10.9.0.1/32")));
	uint32_t alone = network_class(&lab, "10.9.0.1");
	lab_put(&lab, NODE_AT("'role':'db'", "10.9.0.1"));
	assert_int_equal(network_class(&lab, "10.9.0.1"), alone);
	lab_put(&lab, rule);
	assert_int_not_equal(network_class(&lab, "10.9.0.1"), alone);
	lab_put(&lab, NODE_AT("'role':'web'", "10.9.0.1"));
	assert_int_equal(network_class(&lab, "10.9.0.1"), alone);
	lab_put(&lab, NODE_AT("'role':'db'", "10.9.0.1"));
	lab_delete(&lab, "NetworkPolicy/s/p");
	assert_int_not_equal(network_class(&lab, "10.9.0.1"), PS_CLASS_NONE);
	lab_put(&lab, POLICY_FOR("p", BLOCK("10.9.0.1/32")));
	lab_delete(&lab, "Node//n");
	assert_int_equal(lab_judge(&lab, "10.9.0.1", "10.0.0.1", TCP, 1).ingress.action, PS_ACTION_ALLOW);
	lab_delete(&lab, "NetworkPolicy/s/p");
	assert_null(addr(&lab, "10.9.0.1"));
	lab_close(&lab);
}

static void assert_node(struct lab *lab, const char *ip, bool node)
{
	assert_non_null(addr(lab, ip));
	assert_int_equal(!!(addr(lab, ip)->flags & PS_ADDR_NODE), node);
}

static void a_nodes_address_says_so_whoever_has_it(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, NODE_AT("", "10.9.0.1"));
	assert_node(&lab, "10.9.0.1", true);
	lab_put(&lab, POD_AT("a", "01-01", "here", "10.9.0.1"));
	assert_node(&lab, "10.9.0.1", true);
	assert_true(addr(&lab, "10.9.0.1")->flags & PS_ADDR_LOCAL);
	lab_put(&lab, NODE_AT("", "10.9.0.2"));
	assert_node(&lab, "10.9.0.1", false);
	assert_node(&lab, "10.9.0.2", true);
	lab_put(&lab, NODE_AT("", "10.9.0.1"));
	assert_node(&lab, "10.9.0.1", true);
	lab_delete(&lab, "Node//n");
	assert_node(&lab, "10.9.0.1", false);
	lab_delete(&lab, "Pod/s/a");
	assert_null(addr(&lab, "10.9.0.1"));
	assert_null(addr(&lab, "10.9.0.2"));
	lab_close(&lab);
}

static void everything_gone_leaves_row_0(void **state)
{
	struct lab lab;
	lab_open(&lab);
	lab_put(&lab, POD_AT("a", "01-01", "here", "10.0.0.1"));
	lab_put(&lab, POD_AT("b", "01-01", "there", "10.0.0.2"));
	lab_put(&lab, LAB_POLICY("p", "s",
					  "'podSelector':{},'ingress':[{'from':[{'podSelector':{'matchLabels':{'name':'b'}}},{'ipBlock':"
					  "{'cidr':'10.0.0.0/8','except':['10.1.0.0/16']}}],'ports':[{'port':80},{'port':'x'}]}]"));
	lab_delete(&lab, "Pod/s/a");
	lab_delete(&lab, "Pod/s/b");
	lab_delete(&lab, "NetworkPolicy/s/p");
	for (int id = 0; id < TABLE_COUNT; id++)
		assert_int_equal(compiler_tables(lab.c)->table[id].wanted.count, id == TABLE_row);
	lab_close(&lab);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(this_nodes_pods_are_endpoints),
		cmocka_unit_test(hostnetwork_and_ended_pods_are_nobody),
		cmocka_unit_test(the_younger_pod_has_the_address),
		cmocka_unit_test(a_workload_has_it_before_a_pod),
		cmocka_unit_test(a_workload_of_another_node_is_remote),
		cmocka_unit_test(binding_makes_addresses_local),
		cmocka_unit_test(further_sources_are_prefixes),
		cmocka_unit_test(endpoints_know_profile_and_class),
		cmocka_unit_test(a_network_of_one_address_is_an_address),
		cmocka_unit_test(a_workload_takes_the_address_of_a_network_and_gives_it_back),
		cmocka_unit_test(a_node_shares_the_address_of_a_network),
		cmocka_unit_test(a_nodes_address_says_so_whoever_has_it),
		cmocka_unit_test(everything_gone_leaves_row_0),
	};
	return cmocka_run_group_tests_name("compile: addresses", tests, NULL, NULL);
}
