/* SPDX-License-Identifier: Apache-2.0 */
/* What policies mean, asked of the compiled tables. */
#include "tests/unit/compile_lab.h"

#define SERVER "10.0.0.1"
#define CLIENT "10.0.0.2"
#define FAR "10.0.1.1"

/* Two local pods in s, one on another node in o. */
static void lab_fill(struct lab *lab)
{
	lab_open(lab);
	lab_put(lab, LAB_NAMESPACE("s", "'team':'red'"));
	lab_put(lab, LAB_NAMESPACE("o", "'team':'blue'"));
	lab_put(lab, LAB_POD_PORTS("server", "s", "'app':'server'", "here", SERVER,
					 "{'name':'http','containerPort':8080},{'name':'dns','containerPort':53,'protocol':'UDP'}"));
	lab_put(lab, LAB_POD("client", "s", "'app':'client'", "here", CLIENT));
	lab_put(lab, LAB_POD_PORTS("far", "o", "'app':'client'", "there", FAR, "{'name':'http','containerPort':9090}"));
}

static struct ps_verdict ingress(struct lab *lab, const char *source, uint8_t protocol, uint16_t port)
{
	struct judge_answer answer = lab_judge(lab, source, SERVER, protocol, port);
	assert_true(answer.ingress_local);
	return answer.ingress;
}

static struct ps_verdict egress(struct lab *lab, const char *destination, uint8_t protocol, uint16_t port)
{
	struct judge_answer answer = lab_judge(lab, CLIENT, destination, protocol, port);
	assert_true(answer.egress_local);
	return answer.egress;
}

static void assert_verdict(
	struct lab *lab, struct ps_verdict verdict, enum ps_action action, enum ps_reason reason, const char *rule)
{
	assert_int_equal(verdict.action, action);
	assert_int_equal(verdict.reason, reason);
	assert_string_equal(lab_rule(lab, verdict.rule), rule);
}

static void nothing_selects_everything_is_allowed(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	assert_verdict(&lab, ingress(&lab, FAR, TCP, 80), PS_ACTION_ALLOW, PS_REASON_DEFAULT, "");
	assert_false(lab_judge(&lab, SERVER, FAR, TCP, 80).ingress_local);
	lab_close(&lab);
}

static void an_isolated_workload_is_closed_and_says_by_whom(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("z", "s", "'podSelector':{}"));
	lab_put(&lab, LAB_POLICY("a", "s", "'podSelector':{'matchLabels':{'app':'server'}},'ingress':[]"));
	assert_verdict(&lab, ingress(&lab, CLIENT, TCP, 80), PS_ACTION_DENY, PS_REASON_ISOLATED, "NetworkPolicy/s/a/-1");
	assert_verdict(&lab, ingress(&lab, "8.8.8.8", ICMP, 0), PS_ACTION_DENY, PS_REASON_ISOLATED, "NetworkPolicy/s/a/-1");
	assert_verdict(&lab, egress(&lab, "8.8.8.8", TCP, 80), PS_ACTION_ALLOW, PS_REASON_DEFAULT, "");
	lab_delete(&lab, "NetworkPolicy/s/a");
	assert_verdict(&lab, ingress(&lab, CLIENT, TCP, 80), PS_ACTION_DENY, PS_REASON_ISOLATED, "NetworkPolicy/s/z/-1");
	lab_delete(&lab, "NetworkPolicy/s/z");
	assert_verdict(&lab, ingress(&lab, CLIENT, TCP, 80), PS_ACTION_ALLOW, PS_REASON_DEFAULT, "");
	lab_close(&lab);
}

static void allowing_is_the_union_and_the_first_rule_gets_the_hit(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("b", "s", "'podSelector':{},'ingress':[{'ports':[{'port':80}]}]"));
	lab_put(
		&lab, LAB_POLICY("a", "s",
				  "'podSelector':{},'ingress':[{'from':[{'podSelector':{'matchLabels':{'app':'other'}}}]},"
				  "{'from':[{'podSelector':{'matchLabels':{'app':'client'}}}],'ports':[{'port':80},{'port':443}]}]"));
	assert_verdict(&lab, ingress(&lab, CLIENT, TCP, 80), PS_ACTION_ALLOW, PS_REASON_POLICY, "NetworkPolicy/s/a/1");
	assert_verdict(&lab, ingress(&lab, FAR, TCP, 80), PS_ACTION_ALLOW, PS_REASON_POLICY, "NetworkPolicy/s/b/0");
	assert_verdict(&lab, ingress(&lab, FAR, TCP, 443), PS_ACTION_DENY, PS_REASON_ISOLATED, "NetworkPolicy/s/a/-1");
	assert_verdict(&lab, ingress(&lab, CLIENT, UDP, 80), PS_ACTION_DENY, PS_REASON_ISOLATED, "NetworkPolicy/s/a/-1");
	lab_close(&lab);
}

static void peers_are_found_by_namespace_and_pod(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("p", "s",
					  "'podSelector':{},'ingress':[{'from':[{'namespaceSelector':{'matchLabels':{'team':'blue'}},"
					  "'podSelector':{'matchLabels':{'app':'client'}}}]}]"));
	assert_int_equal(ingress(&lab, FAR, TCP, 1).action, PS_ACTION_ALLOW);
	assert_int_equal(ingress(&lab, CLIENT, TCP, 1).action, PS_ACTION_DENY);
	lab_put(&lab, LAB_NAMESPACE("o", "'team':'green'"));
	assert_int_equal(ingress(&lab, FAR, TCP, 1).action, PS_ACTION_DENY);
	lab_put(&lab, LAB_NAMESPACE("s", "'team':'blue'"));
	assert_int_equal(ingress(&lab, CLIENT, TCP, 1).action, PS_ACTION_ALLOW);
	lab_delete(&lab, "Namespace//s");
	assert_int_equal(ingress(&lab, CLIENT, TCP, 1).action, PS_ACTION_DENY);
	lab_close(&lab);
}

static void an_undescribed_namespace_has_its_name_as_label(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POD("x", "undescribed", "", "there", "10.9.9.9"));
	lab_put(&lab, LAB_POLICY("p", "s",
					  "'podSelector':{},'ingress':[{'from':[{'namespaceSelector':{'matchLabels':"
					  "{'kubernetes.io/metadata.name':'undescribed'}}}]}]"));
	assert_int_equal(ingress(&lab, "10.9.9.9", TCP, 1).action, PS_ACTION_ALLOW);
	assert_int_equal(ingress(&lab, FAR, TCP, 1).action, PS_ACTION_DENY);
	lab_close(&lab);
}

static void networks_except_and_contain_pods(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("p", "s",
					  "'podSelector':{},'ingress':[{'from':[{'ipBlock':{'cidr':'10.0.0.0/8','except':['10.0.1.0/24',"
					  "'10.2.0.0/15']}},{'ipBlock':{'cidr':'10.3.0.0/16'}},{'ipBlock':{'cidr':'2001:db8::/32'}}]}]"));
	assert_int_equal(ingress(&lab, CLIENT, TCP, 1).action, PS_ACTION_ALLOW);
	assert_int_equal(ingress(&lab, FAR, TCP, 1).action, PS_ACTION_DENY);
	assert_int_equal(ingress(&lab, "10.0.1.77", TCP, 1).action, PS_ACTION_DENY);
	assert_int_equal(ingress(&lab, "10.0.2.1", ICMP, 1).action, PS_ACTION_ALLOW);
	assert_int_equal(ingress(&lab, "10.2.0.1", TCP, 1).action, PS_ACTION_DENY);
	assert_int_equal(ingress(&lab, "10.3.0.1", TCP, 1).action, PS_ACTION_ALLOW);
	assert_int_equal(ingress(&lab, "11.0.0.1", TCP, 1).action, PS_ACTION_DENY);
	lab_put(&lab, LAB_POLICY("p", "s", "'podSelector':{},'ingress':[{'from':[{'ipBlock':{'cidr':'0.0.0.0/0'}}]}]"));
	assert_int_equal(ingress(&lab, FAR, TCP, 1).action, PS_ACTION_ALLOW);
	assert_int_equal(compiler_tables(lab.c)->table[TABLE_net4].wanted.count, 1);
	lab_delete(&lab, "NetworkPolicy/s/p");
	assert_int_equal(compiler_tables(lab.c)->table[TABLE_net4].wanted.count, 0);
	lab_close(&lab);
}

static void ranges_include_both_ends_and_a_protocol_alone_is_every_port(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("p", "s",
					  "'podSelector':{},'ingress':[{'ports':[{'port':100,'endPort':200},{'protocol':'UDP'},"
					  "{'port':65535}]}]"));
	assert_int_equal(ingress(&lab, FAR, TCP, 99).action, PS_ACTION_DENY);
	assert_int_equal(ingress(&lab, FAR, TCP, 100).action, PS_ACTION_ALLOW);
	assert_int_equal(ingress(&lab, FAR, TCP, 200).action, PS_ACTION_ALLOW);
	assert_int_equal(ingress(&lab, FAR, TCP, 201).action, PS_ACTION_DENY);
	assert_int_equal(ingress(&lab, FAR, TCP, 65535).action, PS_ACTION_ALLOW);
	assert_int_equal(ingress(&lab, FAR, UDP, 0).action, PS_ACTION_ALLOW);
	assert_int_equal(ingress(&lab, FAR, UDP, 65535).action, PS_ACTION_ALLOW);
	assert_int_equal(ingress(&lab, FAR, PROTOCOL_SCTP, 150).action, PS_ACTION_DENY);
	assert_int_equal(ingress(&lab, FAR, ICMP, 0).action, PS_ACTION_DENY);
	lab_close(&lab);
}

static void a_port_name_is_the_destinations(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("in", "s",
					  "'podSelector':{'matchLabels':{'app':'server'}},'ingress':[{'ports':[{'port':'http'},"
					  "{'port':'dns'}]}]"));
	assert_int_equal(ingress(&lab, FAR, TCP, 8080).action, PS_ACTION_ALLOW);
	assert_int_equal(ingress(&lab, FAR, UDP, 8080).action, PS_ACTION_DENY);
	assert_int_equal(ingress(&lab, FAR, TCP, 53).action, PS_ACTION_DENY); /* the name is UDP's */
	lab_put(&lab, LAB_POLICY("out", "s",
					  "'podSelector':{'matchLabels':{'app':'client'}},'policyTypes':['Egress'],'egress':[{'ports':["
					  "{'port':'http'}]}]"));
	assert_int_equal(egress(&lab, SERVER, TCP, 8080).action, PS_ACTION_ALLOW);
	assert_int_equal(egress(&lab, SERVER, TCP, 9090).action, PS_ACTION_DENY);
	assert_int_equal(egress(&lab, FAR, TCP, 9090).action, PS_ACTION_ALLOW);
	assert_int_equal(egress(&lab, FAR, TCP, 8080).action, PS_ACTION_DENY);
	assert_int_equal(egress(&lab, "8.8.8.8", TCP, 8080).action, PS_ACTION_DENY);
	lab_put(&lab, LAB_POD_PORTS("far", "o", "'app':'client'", "there", FAR, "{'name':'http','containerPort':7}"));
	assert_int_equal(egress(&lab, FAR, TCP, 7).action, PS_ACTION_ALLOW);
	assert_int_equal(egress(&lab, FAR, TCP, 9090).action, PS_ACTION_DENY);
	lab_close(&lab);
}

static void an_updated_policy_keeps_its_rules_numbers(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("p", "s", "'podSelector':{},'ingress':[{'ports':[{'port':80}]}]"));
	uint32_t rule = ingress(&lab, FAR, TCP, 80).rule, isolation = ingress(&lab, FAR, TCP, 81).rule;
	lab_put(&lab, LAB_POLICY("p", "s", "'podSelector':{},'ingress':[{'ports':[{'port':81}]}]"));
	assert_int_equal(ingress(&lab, FAR, TCP, 81).rule, rule);
	assert_int_equal(ingress(&lab, FAR, TCP, 80).rule, isolation);
	lab_delete(&lab, "NetworkPolicy/s/p");
	assert_false(rulebook_find(lab.book, rule)->live);
	lab_close(&lab);
}

static void rules_live_while_they_select_a_local_workload(void **state)
{
	struct lab lab;
	size_t at = 0;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("p", "o", "'podSelector':{},'ingress':[{}]"));
	assert_null(rulebook_next(lab.book, &at));
	lab_put(&lab, LAB_POD("near", "o", "", "here", "10.0.0.3"));
	assert_non_null(rulebook_next(lab.book, &at));
	lab_close(&lab);
}

/* ---- ClusterNetworkPolicy ---- */

#define SUBJECT "'subject':{'namespaces':{}}"

static void tiers_decide_in_their_order(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("np", "s", "'podSelector':{},'ingress':[{'ports':[{'port':80},{'port':90}]}]"));
	lab_put(&lab, LAB_CLUSTER_POLICY("admin", "'tier':'Admin','priority':10," SUBJECT ",'ingress':["
											  "{'action':'Pass','from':[{'namespaces':{'matchLabels':{'team':'red'}}}],"
											  "'protocols':[{'tcp':{'destinationPort':{'number':80}}}]},"
											  "{'action':'Deny','from':[{'namespaces':{}}],"
											  "'protocols':[{'tcp':{'destinationPort':{'number':80}}}]},"
											  "{'action':'Accept','from':[{'namespaces':{}}],"
											  "'protocols':[{'tcp':{'destinationPort':{'number':81}}}]}]"));
	assert_verdict(&lab, ingress(&lab, CLIENT, TCP, 80), PS_ACTION_ALLOW, PS_REASON_POLICY, "NetworkPolicy/s/np/0");
	assert_verdict(
		&lab, ingress(&lab, FAR, TCP, 80), PS_ACTION_DENY, PS_REASON_POLICY, "ClusterNetworkPolicy//admin/1");
	assert_verdict(
		&lab, ingress(&lab, FAR, TCP, 81), PS_ACTION_ALLOW, PS_REASON_POLICY, "ClusterNetworkPolicy//admin/2");
	assert_verdict(&lab, ingress(&lab, FAR, TCP, 90), PS_ACTION_ALLOW, PS_REASON_POLICY, "NetworkPolicy/s/np/0");
	assert_verdict(&lab, ingress(&lab, FAR, TCP, 91), PS_ACTION_DENY, PS_REASON_ISOLATED, "NetworkPolicy/s/np/-1");
	lab_put(&lab, LAB_CLUSTER_POLICY("first", "'tier':'Admin','priority':1," SUBJECT ",'ingress':["
											  "{'action':'Deny','from':[{'namespaces':{}}]}]"));
	assert_verdict(
		&lab, ingress(&lab, FAR, TCP, 81), PS_ACTION_DENY, PS_REASON_POLICY, "ClusterNetworkPolicy//first/0");
	assert_verdict(&lab, ingress(&lab, "8.8.8.8", TCP, 80), PS_ACTION_ALLOW, PS_REASON_POLICY, "NetworkPolicy/s/np/0");
	lab_close(&lab);
}

static void the_baseline_is_asked_when_nothing_isolates(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_CLUSTER_POLICY("base", "'tier':'Baseline','priority':10," SUBJECT ",'egress':["
											 "{'action':'Pass','to':[{'networks':['9.0.0.0/8']}]},"
											 "{'action':'Deny','to':[{'networks':['0.0.0.0/0']}]}]"));
	assert_verdict(
		&lab, egress(&lab, "8.8.8.8", TCP, 1), PS_ACTION_DENY, PS_REASON_POLICY, "ClusterNetworkPolicy//base/1");
	assert_verdict(&lab, egress(&lab, "9.8.8.8", TCP, 1), PS_ACTION_ALLOW, PS_REASON_DEFAULT, "");
	lab_put(&lab, LAB_POLICY("np", "s", "'podSelector':{},'policyTypes':['Egress'],'egress':[{}]"));
	assert_verdict(&lab, egress(&lab, "8.8.8.8", TCP, 1), PS_ACTION_ALLOW, PS_REASON_POLICY, "NetworkPolicy/s/np/0");
	lab_close(&lab);
}

static void an_admin_pass_without_ports_leads_past_its_tier(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_CLUSTER_POLICY("admin", "'tier':'Admin','priority':10," SUBJECT ",'egress':["
											  "{'action':'Pass','to':[{'networks':['9.0.0.0/8']}]},"
											  "{'action':'Deny','to':[{'networks':['0.0.0.0/0']}]}]"));
	lab_put(&lab, LAB_CLUSTER_POLICY("base", "'tier':'Baseline','priority':0," SUBJECT ",'egress':["
											 "{'action':'Deny','to':[{'networks':['9.9.0.0/16']}]}]"));
	assert_int_equal(egress(&lab, "9.1.1.1", TCP, 1).action, PS_ACTION_ALLOW);
	assert_verdict(
		&lab, egress(&lab, "9.9.1.1", TCP, 1), PS_ACTION_DENY, PS_REASON_POLICY, "ClusterNetworkPolicy//base/0");
	assert_verdict(
		&lab, egress(&lab, "1.1.1.1", TCP, 1), PS_ACTION_DENY, PS_REASON_POLICY, "ClusterNetworkPolicy//admin/1");
	lab_close(&lab);
}

static void priorities_then_names_then_places(void **state)
{
	struct lab lab;
	lab_fill(&lab);
#define EVERYONE(action) "{'action':'" action "','from':[{'namespaces':{}}]}"
	lab_put(
		&lab, LAB_CLUSTER_POLICY("b", "'tier':'Admin','priority':5," SUBJECT ",'ingress':[" EVERYONE("Accept") "]"));
	lab_put(&lab, LAB_CLUSTER_POLICY("c", "'tier':'Admin','priority':5," SUBJECT ",'ingress':[" EVERYONE("Deny") "]"));
	assert_verdict(&lab, ingress(&lab, FAR, TCP, 1), PS_ACTION_ALLOW, PS_REASON_POLICY, "ClusterNetworkPolicy//b/0");
	lab_put(&lab, LAB_CLUSTER_POLICY("a", "'tier':'Admin','priority':5," SUBJECT
										  ",'ingress':[" EVERYONE("Deny") "," EVERYONE("Accept") "]"));
	assert_verdict(&lab, ingress(&lab, FAR, TCP, 1), PS_ACTION_DENY, PS_REASON_POLICY, "ClusterNetworkPolicy//a/0");
	lab_put(&lab, LAB_CLUSTER_POLICY("z", "'tier':'Admin','priority':4," SUBJECT ",'ingress':[" EVERYONE("Pass") "]"));
	assert_verdict(&lab, ingress(&lab, FAR, TCP, 1), PS_ACTION_ALLOW, PS_REASON_DEFAULT, "");
	lab_put(&lab, LAB_CLUSTER_POLICY("z", "'tier':'Admin','priority':6," SUBJECT ",'ingress':[" EVERYONE("Pass") "]"));
	assert_verdict(&lab, ingress(&lab, FAR, TCP, 1), PS_ACTION_DENY, PS_REASON_POLICY, "ClusterNetworkPolicy//a/0");
	lab_close(&lab);
}

/* As the API says: with it an Accept rule matches nothing, its other peers neither, and Deny and Pass deny all. */
static void a_rule_with_an_unknown_peer_fails_closed(void **state)
{
	static const struct {
		const char *policy;
		enum ps_action action;
		uint16_t port;
	} cases[] = {
#define UNKNOWN(action, port)                                                                       \
	LAB_CLUSTER_POLICY("u", "'tier':'Admin','priority':5," SUBJECT ",'ingress':[{'action':'" action \
							"','from':[{'namespaces':{}},{'later':{}}]" port "}]")
#define PORT_80 ",'protocols':[{'tcp':{'destinationPort':{'number':80}}}]"
		{UNKNOWN("Accept", ""), PS_ACTION_DENY, 80}, /* still isolated */
		{UNKNOWN("Accept", PORT_80), PS_ACTION_DENY, 80},
		{UNKNOWN("Deny", ""), PS_ACTION_DENY, 90},
		{UNKNOWN("Deny", PORT_80), PS_ACTION_DENY, 90},
		{UNKNOWN("Pass", ""), PS_ACTION_DENY, 90},
		{UNKNOWN("Pass", PORT_80), PS_ACTION_DENY, 90},
	};
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("np", "s", "'podSelector':{},'ingress':[{'ports':[{'port':90}]}]"));
	assert_int_equal(ingress(&lab, FAR, TCP, 90).action, PS_ACTION_ALLOW);
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		lab_put(&lab, cases[i].policy);
		assert_int_equal(ingress(&lab, FAR, TCP, cases[i].port).action, cases[i].action);
		bool accepts = i < 2;
		assert_int_equal(ingress(&lab, "8.8.8.8", TCP, 90).action, accepts ? PS_ACTION_ALLOW : PS_ACTION_DENY);
		assert_int_equal(ingress(&lab, "8.8.8.8", ICMP, 0).action, PS_ACTION_DENY);
	}
	lab_close(&lab);
}

static void domain_names_match_nothing(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(
		&lab, LAB_CLUSTER_POLICY("d", "'tier':'Baseline','priority':5," SUBJECT ",'egress':["
									  "{'action':'Accept','to':[{'domainNames':['a.b']},{'networks':['9.0.0.0/8']}]},"
									  "{'action':'Deny','to':[{'networks':['0.0.0.0/0']}]}]"));
	assert_int_equal(egress(&lab, "8.8.8.8", TCP, 1).action, PS_ACTION_DENY);
	assert_int_equal(egress(&lab, "9.8.8.8", TCP, 1).action, PS_ACTION_ALLOW);
	lab_close(&lab);
}

static void a_named_port_of_any_protocol(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POD_PORTS("far", "o", "'app':'client'", "there", FAR,
					  "{'name':'dns','containerPort':53,'protocol':'UDP'},{'name':'web','containerPort':80}"));
	lab_put(&lab, LAB_CLUSTER_POLICY("n", "'tier':'Admin','priority':5," SUBJECT ",'egress':[{'action':'Deny','to':[{"
										  "'namespaces':{}}],'protocols':[{'destinationNamedPort':'dns'}]}]"));
	assert_int_equal(egress(&lab, FAR, UDP, 53).action, PS_ACTION_DENY);
	assert_int_equal(egress(&lab, FAR, TCP, 53).action, PS_ACTION_ALLOW);
	assert_int_equal(egress(&lab, FAR, TCP, 80).action, PS_ACTION_ALLOW);
	lab_close(&lab);
}

static void node_peers_are_node_addresses(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, "{'apiVersion':'v1','kind':'Node','metadata':{'name':'n1','labels':{'zone':'a'}},'status':{"
				  "'addresses':[{'type':'InternalIP','address':'192.168.0.1'}]}}");
	lab_put(&lab, LAB_CLUSTER_POLICY("base", "'tier':'Baseline','priority':10," SUBJECT ",'egress':["
											 "{'action':'Deny','to':[{'nodes':{'matchLabels':{'zone':'a'}}}]}]"));
	assert_int_equal(egress(&lab, "192.168.0.1", TCP, 1).action, PS_ACTION_DENY);
	assert_int_equal(egress(&lab, "192.168.0.2", TCP, 1).action, PS_ACTION_ALLOW);
	lab_close(&lab);
}

/* ---- interception ---- */

#define CHAT "'subject':{'pods':{'namespaceSelector':{},'podSelector':{'matchLabels':{'app':'client'}}}}"

static void what_is_allowed_is_handed_over(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_GLOBAL("TransparentProxy", "gw", "'port':15001"));
	lab_put(&lab, LAB_GLOBAL("InterceptPolicy", "i",
					  "'priority':5," CHAT ",'egress':["
					  "{'name':'not','action':'Bypass','to':[{'networks':['9.9.0.0/16']}]},"
					  "{'name':'all','action':'Intercept','proxy':'gw','to':[{'networks':"
					  "['0.0.0.0/0']}]}]"));
	struct ps_verdict verdict = egress(&lab, "8.8.8.8", TCP, 443);
	assert_verdict(&lab, verdict, PS_ACTION_INTERCEPT, PS_REASON_DEFAULT, "");
	assert_string_equal(lab_rule(&lab, verdict.intercept_rule), "InterceptPolicy//i/1");
	assert_string_equal(compiler_proxy_name(lab.c, verdict.proxy), "gw");
	assert_int_equal(egress(&lab, "9.9.8.8", TCP, 443).action, PS_ACTION_ALLOW);
	assert_int_equal(egress(&lab, "8.8.8.8", UDP, 443).action, PS_ACTION_ALLOW);
	assert_int_equal(egress(&lab, "8.8.8.8", ICMP, 0).action, PS_ACTION_ALLOW);
	lab_put(
		&lab, LAB_POLICY("np", "s", "'podSelector':{},'policyTypes':['Egress'],'egress':[{'ports':[{'port':80}]}]"));
	assert_int_equal(egress(&lab, "8.8.8.8", TCP, 443).action, PS_ACTION_DENY);
	verdict = egress(&lab, "8.8.8.8", TCP, 80);
	assert_verdict(&lab, verdict, PS_ACTION_INTERCEPT, PS_REASON_POLICY, "NetworkPolicy/s/np/0");
	lab_put(&lab, LAB_GLOBAL("InterceptPolicy", "h",
					  "'priority':5," CHAT ",'egress':["
					  "{'name':'x','action':'Bypass','to':[{'networks':['8.0.0.0/8']}]}]"));
	assert_int_equal(egress(&lab, "8.8.8.8", TCP, 80).action, PS_ACTION_ALLOW);
	lab_close(&lab);
}

static void a_proxys_protocols_are_the_rules(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_GLOBAL("InterceptPolicy", "i",
					  "'priority':5," CHAT ",'egress':["
					  "{'action':'Intercept','proxy':'gw','to':[{'networks':['0.0.0.0/0']}]}]"));
	struct ps_verdict verdict = egress(&lab, "8.8.8.8", TCP, 443);
	uint32_t number = verdict.proxy;
	assert_int_equal(verdict.action, PS_ACTION_INTERCEPT); /* to nobody: absent */
	assert_null(tables_get(compiler_tables(lab.c), TABLE_proxy, &number));
	lab_put(&lab, LAB_GLOBAL("TransparentProxy", "gw", "'port':15001,'protocols':['UDP'],'onUnavailable':'Bypass'"));
	const struct ps_proxy *proxy = tables_get(compiler_tables(lab.c), TABLE_proxy, &number);
	assert_non_null(proxy);
	assert_int_equal(proxy->port, 15001);
	assert_int_equal(proxy->flags, PS_PROXY_USED | PS_PROXY_BYPASS);
	assert_int_equal(egress(&lab, "8.8.8.8", TCP, 443).action, PS_ACTION_ALLOW);
	assert_int_equal(egress(&lab, "8.8.8.8", UDP, 443).action, PS_ACTION_INTERCEPT);
	lab_delete(&lab, "InterceptPolicy//i");
	assert_string_equal(compiler_proxy_name(lab.c, (uint8_t)number), "gw");
	lab_delete(&lab, "TransparentProxy//gw");
	assert_null(compiler_proxy_name(lab.c, (uint8_t)number));
	lab_close(&lab);
}

/* ---- audit ---- */

#define AUDITED(name, ns, spec)                                                                                       \
	"{'apiVersion':'networking.k8s.io/v1','kind':'NetworkPolicy','metadata':{'name':'" name "','namespace':'" ns "'," \
	"'annotations':{'penstock.dev/mode':'audit'}},'spec':{" spec "}}"

#define AUDITED_GLOBAL(kind, name, spec)                                                \
	"{'apiVersion':'penstock.dev/v1alpha1','kind':'" kind "','metadata':{'name':'" name \
	"','annotations':{'penstock.dev/mode':'audit'}},'spec':{" spec "}}"
#define AUDITED_CLUSTER(name, spec)                                                                             \
	"{'apiVersion':'policy.networking.k8s.io/v1alpha2','kind':'ClusterNetworkPolicy','metadata':{'name':'" name \
	"','annotations':{'penstock.dev/mode':'audit'}},'spec':{" spec "}}"
#define REFUSED (PS_VERDICT_AUDIT | PS_VERDICT_AUDIT_DENY)

static void assert_audit(
	struct lab *lab, struct ps_verdict verdict, enum ps_action action, unsigned flags, const char *rule)
{
	assert_int_equal(verdict.action, action);
	assert_int_equal(verdict.flags, flags);
	assert_string_equal(lab_rule(lab, verdict.audit_rule), rule);
}

static void an_audited_policy_refuses_nothing_and_allows_nothing(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, AUDITED("a", "s", "'podSelector':{},'ingress':[{'ports':[{'port':80}]}]"));
	assert_audit(&lab, ingress(&lab, FAR, TCP, 443), PS_ACTION_ALLOW, REFUSED | PS_VERDICT_AUDIT_ISOLATED,
		"NetworkPolicy/s/a/-1");
	assert_audit(&lab, ingress(&lab, FAR, TCP, 80), PS_ACTION_ALLOW, 0, "NetworkPolicy/s/a/0");
	assert_verdict(&lab, ingress(&lab, FAR, TCP, 443), PS_ACTION_ALLOW, PS_REASON_DEFAULT, "");
	lab_put(&lab, LAB_POLICY("b", "s", "'podSelector':{},'ingress':[{'ports':[{'port':443}]}]"));
	struct ps_verdict verdict = ingress(&lab, FAR, TCP, 80); /* only the audited one allows it */
	assert_verdict(&lab, verdict, PS_ACTION_DENY, PS_REASON_ISOLATED, "NetworkPolicy/s/b/-1");
	assert_audit(&lab, verdict, PS_ACTION_DENY, PS_VERDICT_AUDIT, "NetworkPolicy/s/a/0");
	assert_audit(&lab, ingress(&lab, FAR, TCP, 443), PS_ACTION_ALLOW, 0, "");
	verdict = ingress(&lab, FAR, TCP, 1); /* both isolate: the first by name would say so */
	assert_verdict(&lab, verdict, PS_ACTION_DENY, PS_REASON_ISOLATED, "NetworkPolicy/s/b/-1");
	assert_audit(&lab, verdict, PS_ACTION_DENY, 0, "NetworkPolicy/s/a/-1");
	lab_close(&lab);
}

static void an_audited_pass_is_told_by_what_it_would_change(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, AUDITED_CLUSTER("pass", "'tier':'Admin','priority':1," SUBJECT ",'ingress':[" EVERYONE("Pass") "]"));
	assert_audit(&lab, ingress(&lab, FAR, TCP, 1), PS_ACTION_ALLOW, 0, "ClusterNetworkPolicy//pass/0");
	lab_put(
		&lab, LAB_CLUSTER_POLICY("deny", "'tier':'Admin','priority':2," SUBJECT ",'ingress':[" EVERYONE("Deny") "]"));
	struct ps_verdict verdict = ingress(&lab, FAR, TCP, 1);
	assert_verdict(&lab, verdict, PS_ACTION_DENY, PS_REASON_POLICY, "ClusterNetworkPolicy//deny/0");
	assert_audit(&lab, verdict, PS_ACTION_DENY, PS_VERDICT_AUDIT, "ClusterNetworkPolicy//pass/0");
	lab_put(
		&lab, LAB_CLUSTER_POLICY("deny", "'tier':'Admin','priority':0," SUBJECT ",'ingress':[" EVERYONE("Deny") "]"));
	assert_audit(&lab, ingress(&lab, FAR, TCP, 1), PS_ACTION_DENY, 0, "");
	lab_close(&lab);
}

static void several_audited_policies_are_audited_together(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, AUDITED_CLUSTER("deny", "'tier':'Admin','priority':2," SUBJECT ",'ingress':[" EVERYONE("Deny") "]"));
	assert_audit(&lab, ingress(&lab, FAR, TCP, 1), PS_ACTION_ALLOW, REFUSED, "ClusterNetworkPolicy//deny/0");
	lab_put(
		&lab, AUDITED_CLUSTER("first", "'tier':'Admin','priority':1," SUBJECT ",'ingress':[" EVERYONE("Accept") "]"));
	assert_audit(&lab, ingress(&lab, FAR, TCP, 1), PS_ACTION_ALLOW, 0, "ClusterNetworkPolicy//first/0");
	lab_close(&lab);
}

static void audited_interception_hands_nothing_over(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_GLOBAL("TransparentProxy", "gw", "'port':15001"));
	lab_put(&lab,
		AUDITED_GLOBAL("InterceptPolicy", "i",
			"'priority':5," CHAT ",'egress':[{'action':'Intercept','proxy':'gw','to':[{'networks':['0.0.0.0/0']}]}]"));
	struct ps_verdict verdict = egress(&lab, "8.8.8.8", TCP, 443);
	assert_audit(&lab, verdict, PS_ACTION_ALLOW,
		PS_VERDICT_AUDIT | PS_VERDICT_AUDIT_INTERCEPT | PS_VERDICT_AUDIT_STEERS, "InterceptPolicy//i/0");
	assert_int_equal(verdict.intercept_rule, PS_RULE_NONE); /* the other direction's rules are asked */
	assert_int_equal(verdict.proxy, PS_PROXY_NONE);
	lab_put(&lab, LAB_GLOBAL("InterceptPolicy", "j",
					  "'priority':9," CHAT ",'egress':[{'action':'Bypass','to':[{'networks':['8.0.0.0/8']}]}]"));
	verdict = egress(&lab, "8.8.8.8", TCP, 443);
	assert_audit(&lab, verdict, PS_ACTION_ALLOW,
		PS_VERDICT_AUDIT | PS_VERDICT_AUDIT_INTERCEPT | PS_VERDICT_AUDIT_STEERS, "InterceptPolicy//i/0");
	assert_string_equal(lab_rule(&lab, verdict.intercept_rule), "InterceptPolicy//j/0");
	/* a refusal that is audited as well comes before it, and takes nothing from what is enforced */
	lab_put(&lab, AUDITED("np", "s", "'podSelector':{},'policyTypes':['Egress']"));
	verdict = egress(&lab, "8.8.8.8", TCP, 443);
	assert_audit(&lab, verdict, PS_ACTION_ALLOW, REFUSED | PS_VERDICT_AUDIT_ISOLATED, "NetworkPolicy/s/np/-1");
	assert_string_equal(lab_rule(&lab, verdict.intercept_rule), "InterceptPolicy//j/0");
	lab_put(&lab,
		LAB_GLOBAL("InterceptPolicy", "j",
			"'priority':9," CHAT ",'egress':[{'action':'Intercept','proxy':'gw','to':[{'networks':['8.0.0.0/8']}]}]"));
	assert_audit(&lab, egress(&lab, "8.8.8.8", TCP, 443), PS_ACTION_INTERCEPT, REFUSED | PS_VERDICT_AUDIT_ISOLATED,
		"NetworkPolicy/s/np/-1");
	lab_close(&lab);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_selects_everything_is_allowed),
		cmocka_unit_test(an_isolated_workload_is_closed_and_says_by_whom),
		cmocka_unit_test(allowing_is_the_union_and_the_first_rule_gets_the_hit),
		cmocka_unit_test(peers_are_found_by_namespace_and_pod),
		cmocka_unit_test(an_undescribed_namespace_has_its_name_as_label),
		cmocka_unit_test(networks_except_and_contain_pods),
		cmocka_unit_test(ranges_include_both_ends_and_a_protocol_alone_is_every_port),
		cmocka_unit_test(a_port_name_is_the_destinations),
		cmocka_unit_test(an_updated_policy_keeps_its_rules_numbers),
		cmocka_unit_test(rules_live_while_they_select_a_local_workload),
		cmocka_unit_test(tiers_decide_in_their_order),
		cmocka_unit_test(the_baseline_is_asked_when_nothing_isolates),
		cmocka_unit_test(an_admin_pass_without_ports_leads_past_its_tier),
		cmocka_unit_test(node_peers_are_node_addresses),
		cmocka_unit_test(what_is_allowed_is_handed_over),
		cmocka_unit_test(a_proxys_protocols_are_the_rules),
		cmocka_unit_test(priorities_then_names_then_places),
		cmocka_unit_test(a_rule_with_an_unknown_peer_fails_closed),
		cmocka_unit_test(domain_names_match_nothing),
		cmocka_unit_test(a_named_port_of_any_protocol),
		cmocka_unit_test(an_audited_policy_refuses_nothing_and_allows_nothing),
		cmocka_unit_test(an_audited_pass_is_told_by_what_it_would_change),
		cmocka_unit_test(several_audited_policies_are_audited_together),
		cmocka_unit_test(audited_interception_hands_nothing_over),
	};
	return cmocka_run_group_tests_name("compile: rules", tests, NULL, NULL);
}
