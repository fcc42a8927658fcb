/* SPDX-License-Identifier: Apache-2.0 */
/* What the decoder makes of good objects. What it says to bad ones stands in tests/golden/decode. */
#include "model_json.h"

#include <stdlib.h>

static void assert_selector(const struct selector *selector, const char *text)
{
	assert_non_null(selector);
	auto_free char *got = selector_text(selector);
	assert_string_equal(got, text);
}

static void assert_port(const struct port_match *port, int protocol, int first, int last, const char *name)
{
	assert_int_equal(port->protocol, protocol);
	assert_int_equal(port->first, first);
	assert_int_equal(port->last, last);
	if (name)
		assert_string_equal(port->name, name);
	else
		assert_null(port->name);
}

static void assert_cidr(const struct cidr *cidr, const char *text)
{
	char got[ADDR_TEXT_MAX];
	cidr_format(cidr, got);
	assert_string_equal(got, text);
}

static void assert_ip(const struct ip *ip, const char *text)
{
	char got[ADDR_TEXT_MAX];
	ip_format(ip, got);
	assert_string_equal(got, text);
}

/* ---- NetworkPolicy ---- */

static void network_policy_peers(void **state)
{
	struct object *object = object_of(NETWORK_POLICY("{'podSelector':{'matchLabels':{'app':'db'}},'ingress':[{'from':["
													 "{'podSelector':{'matchLabels':{'a':'1'}}},"
													 "{'namespaceSelector':{}},"
													 "{'namespaceSelector':{'matchLabels':{'n':'1'}},'podSelector':{}},"
													 "{'ipBlock':{'cidr':'10.1.2.3/8','except':['10.1.0.0/16']}}]},"
													 "{},{'from':[]}]}"));
	const struct policy *policy = object->policy;
	assert_string_equal(object->namespace, "default");
	assert_null(policy->namespaces);
	assert_selector(policy->pods, "app in (db)");
	assert_int_equal(policy->rule_count[INGRESS], 3);
	const struct rule *rule = &policy->rules[INGRESS][0];
	assert_int_equal(rule->action, RULE_ALLOW);
	assert_false(rule->any_peer);
	assert_true(rule->any_port);
	assert_int_equal(rule->peer_count, 4);
	assert_int_equal(rule->peers[0].type, PEER_PODS);
	assert_null(rule->peers[0].namespaces); /* the policy's own */
	assert_selector(rule->peers[0].pods, "a in (1)");
	assert_int_equal(rule->peers[1].type, PEER_NAMESPACES);
	assert_selector(rule->peers[1].namespaces, "");
	assert_null(rule->peers[1].pods); /* all of them */
	assert_int_equal(rule->peers[2].type, PEER_PODS);
	assert_selector(rule->peers[2].namespaces, "n in (1)");
	assert_selector(rule->peers[2].pods, "");
	assert_int_equal(rule->peers[3].type, PEER_NETWORK);
	assert_cidr(&rule->peers[3].cidr, "10.0.0.0/8");
	assert_int_equal(rule->peers[3].except_count, 1);
	assert_cidr(&rule->peers[3].except[0], "10.1.0.0/16");
	for (int i = 1; i < 3; i++)
		assert_true(policy->rules[INGRESS][i].any_peer && policy->rules[INGRESS][i].any_port);
	object_put(object);
}

static void network_policy_ports(void **state)
{
	struct object *object = object_of(
		NETWORK_POLICY("{'ingress':[{'ports':[{'port':80},{'port':'http','protocol':'UDP'},{'port':1,'endPort':65535,"
					   "'protocol':'SCTP'},{'protocol':'UDP'},{'port':5,'endPort':5},{}]},{'ports':[]}]}"));
	const struct rule *rule = &object->policy->rules[INGRESS][0];
	assert_false(rule->any_port);
	assert_int_equal(rule->port_count, 6);
	assert_port(&rule->ports[0], PROTOCOL_TCP, 80, 80, NULL);
	assert_port(&rule->ports[1], PROTOCOL_UDP, 0, 0, "http");
	assert_port(&rule->ports[2], PROTOCOL_SCTP, 1, 65535, NULL);
	assert_port(&rule->ports[3], PROTOCOL_UDP, 0, 65535, NULL);
	assert_port(&rule->ports[4], PROTOCOL_TCP, 5, 5, NULL);
	assert_port(&rule->ports[5], PROTOCOL_TCP, 0, 65535, NULL);
	assert_true(object->policy->rules[INGRESS][1].any_port);
	object_put(object);
}

static void network_policy_types(void **state)
{
	static const struct {
		const char *spec;
		bool ingress, egress;
		int ingress_rules, egress_rules;
	} cases[] = {
		{NETWORK_POLICY("{}"), true, false, 0, 0},
		{NETWORK_POLICY("{'podSelector':{},'policyTypes':[],'egress':[]}"), true, false, 0, 0},
		{NETWORK_POLICY("{'policyTypes':null,'egress':[{}]}"), true, true, 0, 1},
		{NETWORK_POLICY("{'policyTypes':['Egress']}"), false, true, 0, 0},
		{NETWORK_POLICY("{'policyTypes':['Ingress'],'egress':[{}],'ingress':[{}]}"), true, false, 1, 0},
		{NETWORK_POLICY("{'policyTypes':['Egress','Ingress'],'egress':[{}],'ingress':[{}]}"), true, true, 1, 1},
		{NETWORK_POLICY("{'policyTypes':['Egress'],'ingress':[{}]}"), false, true, 0, 0},
		{NETWORK_POLICY("null"), true, false, 0, 0},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct object *object = object_of(cases[i].spec);
		assert_int_equal(object->policy->isolates[INGRESS], cases[i].ingress);
		assert_int_equal(object->policy->isolates[EGRESS], cases[i].egress);
		assert_int_equal(object->policy->rule_count[INGRESS], cases[i].ingress_rules);
		assert_int_equal(object->policy->rule_count[EGRESS], cases[i].egress_rules);
		assert_selector(object->policy->pods, "");
		object_put(object);
	}
}

/* ---- ClusterNetworkPolicy's shape ---- */

static void cluster_policy(void **state)
{
	struct object *object = object_of(CLUSTER_POLICY(
		"{'tier':'Baseline','priority':7,'subject':{'pods':{'podSelector':{'matchLabels':{'a':'1'}}}},"
		"'ingress':[{'action':'Deny','name':'no','from':[{'namespaces':{}},{'shiny':{}}]}],"
		"'egress':[{'action':'Accept','to':[{'networks':['10.0.0.0/8','fd00::/8']},{'nodes':{'matchLabels':{'k':'v'}}},"
		"{'domainNames':['*.a.b','a.b']},{'pods':{'namespaceSelector':{'matchLabels':{'n':'1'}},'podSelector':{}}}],"
		"'protocols':[{'tcp':{}},{'udp':{'destinationPort':{'number':53}}},"
		"{'sctp':{'destinationPort':{'range':{'start':1,'end':9}}}}]},"
		"{'action':'Pass','to':[{'namespaces':{}}],'protocols':[{'destinationNamedPort':'http'}]}]}"));
	const struct policy *policy = object->policy;
	assert_int_equal(policy->tier, 1);
	assert_int_equal(policy->priority, 7);
	assert_selector(policy->namespaces, ""); /* absent there means all, not its own */
	assert_selector(policy->pods, "a in (1)");
	const struct rule *deny = &policy->rules[INGRESS][0], *accept = &policy->rules[EGRESS][0];
	assert_string_equal(deny->name, "no");
	assert_int_equal(deny->action, RULE_DENY);
	assert_true(deny->any_port);
	assert_int_equal(deny->peers[0].type, PEER_NAMESPACES);
	assert_int_equal(deny->peers[1].type, PEER_UNKNOWN);
	assert_int_equal(accept->action, RULE_ALLOW);
	assert_string_equal(accept->name, "");
	assert_false(accept->any_port || accept->any_peer);
	assert_int_equal(accept->peer_count, 5);
	assert_cidr(&accept->peers[0].cidr, "10.0.0.0/8");
	assert_cidr(&accept->peers[1].cidr, "fd00::/8");
	assert_int_equal(accept->peers[2].type, PEER_NODES);
	assert_selector(accept->peers[2].nodes, "k in (v)");
	assert_int_equal(accept->peers[3].type, PEER_DOMAINS);
	assert_string_equal(accept->peers[3].domains[1], "a.b");
	assert_null(accept->peers[3].domains[2]);
	assert_int_equal(accept->peers[4].type, PEER_PODS);
	assert_selector(accept->peers[4].namespaces, "n in (1)");
	assert_port(&accept->ports[0], PROTOCOL_TCP, 0, 65535, NULL);
	assert_port(&accept->ports[1], PROTOCOL_UDP, 53, 53, NULL);
	assert_port(&accept->ports[2], PROTOCOL_SCTP, 1, 9, NULL);
	assert_int_equal(policy->rules[EGRESS][1].action, RULE_PASS);
	assert_port(&policy->rules[EGRESS][1].ports[0], PROTOCOL_ANY, 0, 0, "http");
	object_put(object);
}

static void intercept_policy(void **state)
{
	struct object *object = object_of(OURS("InterceptPolicy",
		"{'priority':1000,'subject':{'namespaces':{'matchLabels':{'n':'1'}}},'egress':["
		"{'name':'r','action':'Intercept','proxy':'gw','to':[{'cidrSet':'bad'},{'networks':['0.0.0.0/0']}]},"
		"{'action':'Bypass','to':[{'namespaces':{}}],'protocols':[{'tcp':{'destinationPort':{'number':443}}}]}]}"));
	const struct policy *policy = object->policy;
	assert_int_equal(policy->priority, 1000);
	assert_selector(policy->namespaces, "n in (1)");
	assert_null(policy->pods);
	const struct rule *rule = &policy->rules[EGRESS][0];
	assert_int_equal(rule->action, RULE_INTERCEPT);
	assert_string_equal(rule->proxy, "gw");
	assert_true(rule->any_port);
	assert_int_equal(rule->peers[0].type, PEER_CIDR_SET);
	assert_string_equal(rule->peers[0].name, "bad");
	assert_int_equal(policy->rules[EGRESS][1].action, RULE_BYPASS);
	assert_null(policy->rules[EGRESS][1].proxy);
	assert_false(policy->isolates[EGRESS] || policy->isolates[INGRESS]);
	object_put(object);

	object = object_of(OURS("InterceptPolicy", "{'priority':1,'subject':{'cgroup':'system.slice'}}"));
	assert_string_equal(object->policy->cgroup, "system.slice");
	assert_null(object->policy->namespaces);
	object_put(object);
}

static void node_filter(void **state)
{
	struct object *object = object_of(OURS("NodeFilter",
		"{'priority':10,'interfaces':['eth0','eth1'],'ingress':[{'action':'Limit','from':[{'networks':['::/0']}],"
		"'limit':{'packetsPerSecond':10,'per':'Source'}},{'action':'Accept','from':[{'nodes':{}}]}]}"));
	assert_string_equal(object->policy->interfaces[1], "eth1");
	assert_null(object->policy->interfaces[2]);
	const struct rule *rule = &object->policy->rules[INGRESS][0];
	assert_int_equal(rule->action, RULE_LIMIT);
	assert_int_equal(rule->limit.packets_per_second, 10);
	assert_int_equal(rule->limit.burst, 10);
	assert_true(rule->limit.per_source);
	object_put(object);
}

/* ---- things ---- */

static void pod(void **state)
{
	struct object *object =
		object_of("{'apiVersion':'v1','kind':'Pod','metadata':{'name':'a','namespace':'n','labels':{'b':'2','a':'1'},"
				  "'creationTimestamp':'2024-05-31T12:00:00Z','annotations':{'kubernetes.io/egress-bandwidth':'10M',"
				  "'kubernetes.io/ingress-bandwidth':'1Mi'}},'spec':{'nodeName':'n1','containers':["
				  "{'ports':[{'containerPort':80,'name':'http'},{'containerPort':81}]}],'initContainers':["
				  "{'ports':[{'containerPort':1,'name':'gone'}]},"
				  "{'restartPolicy':'Always','ports':[{'containerPort':53,'name':'dns','protocol':'UDP'}]}]},"
				  "'status':{'phase':'Running','podIP':'10.0.0.9','podIPs':[{'ip':'10.0.0.1'},{'ip':'fd00::1'},{'ip':'"
				  "10.0.0.1'}]}}");
	const struct workload *w = object->workload;
	assert_int_equal(object->kind, KIND_POD);
	assert_int_equal(object->created, 1717156800);
	assert_int_equal(object->labels.count, 2);
	assert_string_equal(object->labels.list[0].key, "a");
	assert_string_equal(labels_get(&object->labels, "b"), "2");
	assert_null(labels_get(&object->labels, "c"));
	assert_int_equal(w->ip_count, 2);
	assert_ip(&w->ips[0], "10.0.0.1");
	assert_ip(&w->ips[1], "fd00::1");
	assert_string_equal(w->node, "n1");
	assert_string_equal(w->interface, "");
	assert_int_equal(w->port_count, 2);
	assert_string_equal(w->ports[0].name, "http");
	assert_int_equal(w->ports[0].protocol, PROTOCOL_TCP);
	assert_string_equal(w->ports[1].name, "dns");
	assert_int_equal(w->ports[1].port, 53);
	assert_int_equal(w->ports[1].protocol, PROTOCOL_UDP);
	assert_int_equal(w->bandwidth[EGRESS], 10000000);
	assert_int_equal(w->bandwidth[INGRESS], 1048576);
	assert_false(w->host_network || w->ended);
	object_put(object);
}

static void pod_states(void **state)
{
	static const struct {
		const char *text;
		bool ended, host;
		size_t ips;
	} cases[] = {
		{POD(""), false, false, 0},
		{POD(",'status':{'phase':'Succeeded','podIP':'10.0.0.1'}"), true, false, 1},
		{POD(",'status':{'phase':'Failed','podIPs':[]}"), true, false, 0},
		{POD(",'status':{'phase':'Pending'},'spec':{'hostNetwork':true}"), false, true, 0},
		{POD(",'status':{'phase':'Unknown','podIP':'','podIPs':null},'spec':{'hostNetwork':false}"), false, false, 0},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct object *object = object_of(cases[i].text);
		assert_int_equal(object->workload->ended, cases[i].ended);
		assert_int_equal(object->workload->host_network, cases[i].host);
		assert_int_equal(object->workload->ip_count, cases[i].ips);
		object_put(object);
	}
}

static void workload(void **state)
{
	struct object *object = object_of(OURS("Workload",
		"{'ips':['10.0.0.1','fd00::1'],'interface':'veth0','node':'n1','allowedSources':['10.5.0.1/16'],"
		"'ports':[{'name':'http','port':8080},{'port':1}]}"));
	const struct workload *w = object->workload;
	assert_string_equal(object->namespace, "default");
	assert_int_equal(w->ip_count, 2);
	assert_string_equal(w->interface, "veth0");
	assert_string_equal(w->node, "n1");
	assert_int_equal(w->source_count, 1);
	assert_cidr(&w->sources[0], "10.5.0.0/16");
	assert_int_equal(w->port_count, 1);
	assert_int_equal(w->ports[0].port, 8080);
	object_put(object);
}

static void node_and_proxy(void **state)
{
	struct object *object =
		object_of("{'apiVersion':'v1','kind':'Node','metadata':{'name':'n'},'status':{'addresses':["
				  "{'type':'InternalIP','address':'192.0.2.1'},{'type':'Hostname','address':'10.0.0.1'},"
				  "{'type':'ExternalIP','address':'2001:db8::1'}]}}");
	assert_string_equal(object->namespace, "");
	assert_int_equal(object->node->ip_count, 2);
	assert_ip(&object->node->ips[1], "2001:db8::1");
	object_put(object);

	object = object_of(OURS("TransparentProxy", "{'port':15001}"));
	assert_int_equal(object->proxy->port, 15001);
	assert_true(object->proxy->tcp);
	assert_false(object->proxy->udp || object->proxy->bypass);
	assert_int_equal(object->proxy->uid, -1);
	assert_string_equal(object->proxy->cgroup, "");
	object_put(object);

	object = object_of(OURS("TransparentProxy",
		"{'port':1,'protocols':['UDP'],'onUnavailable':'Bypass','process':{'uid':0,'executable':'/bin/x'}}"));
	assert_false(object->proxy->tcp);
	assert_true(object->proxy->udp && object->proxy->bypass);
	assert_int_equal(object->proxy->uid, 0);
	assert_string_equal(object->proxy->executable, "/bin/x");
	object_put(object);
}

static void assert_ips(const struct ip *ips, size_t count, const char *wanted)
{
	char all[512] = "", text[ADDR_TEXT_MAX];
	for (size_t i = 0; i < count; i++) {
		ip_format(&ips[i], text);
		snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", i ? " " : "", text);
	}
	assert_string_equal(all, wanted);
}

#define SERVICE(rest) "{'apiVersion':'v1','kind':'Service','metadata':{'name':'a','namespace':'s'}," rest "}"

static void service_addresses(void **state)
{
	static const struct {
		const char *text, *ips;
	} cases[] = {
		{SERVICE("'spec':{'clusterIP':'10.96.0.1'}"), "10.96.0.1"},
		{SERVICE("'spec':{'clusterIP':'10.96.0.1','clusterIPs':['10.96.0.1','fd00::1']}"), "10.96.0.1 fd00::1"},
		{SERVICE("'spec':{'clusterIP':'','externalIPs':['192.0.2.1']}"), ""},
		{SERVICE("'spec':{'clusterIP':'10.96.0.1','externalIPs':['192.0.2.1','2001:db8::1','10.96.0.1',"
				 "'::ffff:192.0.2.2']}"),
			"10.96.0.1 192.0.2.1 192.0.2.2"},
		{SERVICE("'spec':{'clusterIP':'fd00::1','externalIPs':['192.0.2.1']}"), "fd00::1"},
		{SERVICE("'spec':{'clusterIP':'10.96.0.1'},'status':{'loadBalancer':{'ingress':[{'ip':'192.0.2.1'},{'ip':"
				 "'192.0.2.2','ipMode':'Proxy'},{'ip':'192.0.2.3','ipMode':'VIP'},{'hostname':'x'},{'ip':''}]}}"),
			"10.96.0.1 192.0.2.1 192.0.2.3"},
		{SERVICE("'spec':{'clusterIP':'None','clusterIPs':['None'],'externalIPs':['192.0.2.1']}"), ""},
		{SERVICE("'spec':{'type':'ExternalName','clusterIP':'10.96.0.1'}"), ""},
		{SERVICE("'spec':{}"), ""},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct object *object = object_of(cases[i].text);
		assert_ips(object->service->ips, object->service->ip_count, cases[i].ips);
		object_put(object);
	}
}

static void service_ports(void **state)
{
	struct object *object = object_of(SERVICE("'spec':{'clusterIP':'10.96.0.1','ports':[{'port':80},{'name':'dns',"
											  "'port':53,'protocol':'UDP','nodePort':30053,'targetPort':'x'}]}"));
	const struct service *service = object->service;
	assert_int_equal(service->port_count, 2);
	assert_string_equal(service->ports[0].name, "");
	assert_int_equal(service->ports[0].port, 80);
	assert_int_equal(service->ports[0].node_port, 0);
	assert_int_equal(service->ports[0].protocol, PROTOCOL_TCP);
	assert_string_equal(service->ports[1].name, "dns");
	assert_int_equal(service->ports[1].port, 53);
	assert_int_equal(service->ports[1].node_port, 30053);
	assert_int_equal(service->ports[1].protocol, PROTOCOL_UDP);
	object_put(object);
}

#define SLICE(type, rest)                                                                                \
	"{'apiVersion':'discovery.k8s.io/v1','kind':'EndpointSlice','metadata':{'name':'a','namespace':'s'," \
	"'labels':{'kubernetes.io/service-name':'web'}},'addressType':'" type "'," rest "}"

/* ready, serving, terminating as in "rst", a dash for what is not. */
static void slice_conditions(void **state)
{
	static const struct {
		const char *conditions, *wanted;
	} cases[] = {
		{"", "rs-"},
		{",'conditions':null", "rs-"},
		{",'conditions':{}", "rs-"},
		{",'conditions':{'ready':null,'serving':null,'terminating':null}", "rs-"},
		{",'conditions':{'ready':false}", "-s-"},
		{",'conditions':{'ready':false,'serving':false}", "---"},
		{",'conditions':{'ready':false,'serving':true,'terminating':true}", "-st"},
		{",'conditions':{'ready':true,'serving':false,'terminating':true}", "r-t"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		auto_free char *text =
			str_format(SLICE("IPv4", "'endpoints':[{'addresses':['10.0.0.1','10.0.0.2']%s}]"), cases[i].conditions);
		struct object *object = object_of(text);
		assert_int_equal(object->slice->backend_count, 1); /* its first address */
		const struct backend *backend = &object->slice->backends[0];
		char got[4] = {backend->ready ? 'r' : '-', backend->serving ? 's' : '-', backend->terminating ? 't' : '-'};
		assert_string_equal(got, cases[i].wanted);
		assert_ips(&backend->ip, 1, "10.0.0.1");
		object_put(object);
	}
}

static void slice_of_a_service(void **state)
{
	struct object *object = object_of(SLICE("IPv6",
		"'endpoints':[{'addresses':['fd00::1']}],'ports':[{'name':'dns','port':53,'protocol':'UDP'},{'name':"
		"'any','port':null},{'port':80}]"));
	const struct endpoint_slice *slice = object->slice;
	assert_string_equal(slice->service, "web");
	assert_int_equal(slice->port_count, 2);
	assert_string_equal(slice->ports[0].name, "dns");
	assert_int_equal(slice->ports[0].port, 53);
	assert_int_equal(slice->ports[0].protocol, PROTOCOL_UDP);
	assert_string_equal(slice->ports[1].name, "");
	assert_int_equal(slice->ports[1].port, 80);
	assert_int_equal(slice->ports[1].protocol, PROTOCOL_TCP);
	object_put(object);
	object = object_of(SLICE("FQDN", "'endpoints':[{'addresses':['10.0.0.1']}]"));
	assert_int_equal(object->slice->backend_count, 0);
	object_put(object);
	object = object_of("{'apiVersion':'discovery.k8s.io/v1','kind':'EndpointSlice','metadata':{'name':'a'},"
					   "'addressType':'IPv4','endpoints':null,'ports':null}");
	assert_string_equal(object->slice->service, "");
	object_put(object);
}

static void slice_of_an_older_kubernetes(void **state)
{
	static const struct {
		const char *endpoint, *node;
	} cases[] = {
		{"'topology':{'kubernetes.io/hostname':'n1','topology.kubernetes.io/zone':'z'}", "n1"},
		{"'nodeName':'n2','topology':{'kubernetes.io/hostname':'n1'}", "n2"},
		{"'topology':{'topology.kubernetes.io/zone':'z'}", NULL},
		{"'topology':null", NULL},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		auto_free char *text = str_format(
			"{'apiVersion':'discovery.k8s.io/v1beta1','kind':'EndpointSlice','metadata':{'name':'a','namespace':'s'},"
			"'addressType':'IPv4','endpoints':[{'addresses':['10.0.0.1'],%s}]}",
			cases[i].endpoint);
		auto_free char *node = cases[i].node ? str_format(",'nodeName':'%s'", cases[i].node) : str_dup("");
		auto_free char *now =
			str_format("{'addressType':'IPv4','apiVersion':'discovery.k8s.io/v1','endpoints':[{'addresses':"
					   "['10.0.0.1']%s}],'kind':'EndpointSlice','metadata':{'name':'a','namespace':'s'}}",
				node);
		struct object *older = object_of(text), *wanted = object_of(now);
		assert_string_equal(older->json, wanted->json); /* nobody behind the decoder knows of it */
		assert_int_equal(older->slice->backend_count, 1);
		object_put(older);
		object_put(wanted);
	}
}

static void namespace_label(void **state)
{
	struct object *object = object_of("{'apiVersion':'v1','kind':'Namespace','metadata':{'name':'shop'}}");
	assert_string_equal(labels_get(&object->labels, "kubernetes.io/metadata.name"), "shop");
	object_put(object);
}

/* ---- errors ---- */

static void pointers_have_the_prefix(void **state)
{
	json_t *json = json_of(NETWORK_POLICY("{'ingress':[{'ports':[{'port':70000}]}]}"));
	struct errors errors = {0};
	struct object *object = NULL, *partial = NULL;
	assert_int_not_equal(object_decode(json, "/items/3", &object, &partial, &errors), 0);
	assert_null(object);
	assert_int_equal(errors.total, 1);
	assert_int_equal(errors.list[0].kind, ERROR_INVALID);
	assert_string_equal(errors.list[0].path, "/items/3/spec/ingress/0/ports/0/port");
	assert_string_equal(errors.list[0].detail, "70000 is not a port");
	assert_non_null(partial);
	object_put(partial);
	errors_clear(&errors);
	json_decref(json);
}

/* Foreign text in paths and messages is cut between characters, never within one. */
static void long_names_are_cut(void **state)
{
	char key[401], text[1000];
	for (size_t i = 0; i < 400; i += 2)
		memcpy(key + i, "\xc3\xa9", 2);
	key[400] = 0;
	snprintf(
		text, sizeof(text), "{'apiVersion':'v1','kind':'Pod','metadata':{'name':'%s','labels':{'%s':'x'}}}", key, key);
	json_t *json = json_of(text);
	struct errors errors = {0};
	struct object *object = NULL;
	assert_int_not_equal(object_decode(json, "/items/0", &object, NULL, &errors), 0);
	assert_int_equal(errors.total, 2);
	for (size_t i = 0; i < errors.count; i++) {
		json_t *path = json_string(errors.list[i].path), *detail = json_string(errors.list[i].detail);
		assert_true(path && detail); /* NULL when it is not UTF-8 */
		json_decref(path);
		json_decref(detail);
	}
	assert_string_equal(errors.list[0].path, "/items/0/metadata/labels");
	errors_clear(&errors);
	json_decref(json);
}

static void errors_are_counted(void **state)
{
	json_t *json = json_of(NETWORK_POLICY("{'ingress':[{'ports':[]}]}"));
	json_t *ports =
		json_object_get(json_array_get(json_object_get(json_object_get(json, "spec"), "ingress"), 0), "ports");
	for (int i = 0; i < 60; i++)
		json_array_append_new(ports, json_pack("{s:i}", "port", 0));
	struct errors errors = {0};
	struct object *object = NULL;
	object_decode(json, "", &object, NULL, &errors);
	assert_int_equal(errors.total, 60);
	assert_int_equal(errors.count, ERRORS_MAX);
	errors_clear(&errors);
	json_decref(json);
}

/* Quadratic looks for doubles would take minutes here. */
static void long_lists_are_cheap(void **state)
{
	static const char *const shapes[] = {OURS("Workload", "{'ips':[]}"),
		OURS("Workload", "{'ips':['10.0.0.1'],'ports':[]}"), POD(",'status':{'podIPs':[]}")};
	static const char *const paths[][2] = {{"spec", "ips"}, {"spec", "ports"}, {"status", "podIPs"}};
	for (size_t shape = 0; shape < sizeof(shapes) / sizeof(*shapes); shape++) {
		json_t *json = json_of(shapes[shape]);
		json_t *list = json_object_get(json_object_get(json, paths[shape][0]), paths[shape][1]);
		for (int i = 0; i < 100000; i++) {
			char text[32];
			snprintf(text, sizeof(text), "10.%d.%d.%d", i >> 16, i >> 8 & 255, i & 255);
			json_array_append_new(list, shape == 0   ? json_string(text)
										: shape == 1 ? json_pack("{s:s,s:i}", "name", "http", "port", 1)
													 : json_pack("{s:s}", "ip", text));
		}
		struct errors errors = {0};
		struct object *object = NULL;
		assert_int_not_equal(object_decode(json, "", &object, NULL, &errors), 0);
		assert_int_equal(errors.total, 1);
		errors_clear(&errors);
		json_decref(json);
	}
}

static void partial_isolates(void **state)
{
	static const struct {
		const char *text;
		int ingress, egress; /* -1: no partial */
	} cases[] = {
		{NETWORK_POLICY("{'podSelector':{'matchLabels':{'a':'1'}},'ingress':[{'ports':[{'port':0}]}]}"), 1, 0},
		{NETWORK_POLICY("{'podSelector':{'matchLabels':{'a':'1'}},'egress':[{'ports':[{'port':0}]}]}"), 1, 1},
		{NETWORK_POLICY("{'podSelector':{'matchLabels':{'a':'1'}},'egress':5}"), 1, 1},
		{NETWORK_POLICY("{'podSelector':{'matchLabels':{'a':'1'}},'policyTypes':['Egress'],'egress':5}"), 0, 1},
		{NETWORK_POLICY("{'podSelector':{'matchLabels':{'a':'1'}},'policyTypes':['egress']}"), 1, 1},
		{NETWORK_POLICY("{'podSelector':{'matchLabels':{'a':1}}}"), -1, 0},
		{NETWORK_POLICY("[]"), -1, 0},
		{OURS("Workload", "{}"), -1, 0},
		{"{'kind':'NetworkPolicy'}", -1, 0},
		{"{'apiVersion':'networking.k8s.io/v1','kind':'NetworkPolicy','metadata':{'name':'p','namespace':5},'spec':{}}",
			-1, 0},
		{"5", -1, 0},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		json_t *json = json_of(cases[i].text);
		struct errors errors = {0};
		struct object *object = NULL, *partial = (struct object *)&errors;
		assert_int_not_equal(object_decode(json, "", &object, &partial, &errors), 0);
		if (!partial != (cases[i].ingress < 0))
			fail_msg("%s: %s", cases[i].text, partial ? "a partial" : "no partial");
		if (partial) {
			assert_int_equal(partial->policy->isolates[INGRESS], cases[i].ingress);
			assert_int_equal(partial->policy->isolates[EGRESS], cases[i].egress);
			assert_int_equal(partial->policy->rule_count[INGRESS] + partial->policy->rule_count[EGRESS], 0);
			assert_selector(partial->policy->pods, "a in (1)");
			assert_string_equal(partial->name, "p");
			assert_string_equal(partial->namespace, "default");
			object_put(partial);
		}
		errors_clear(&errors);
		json_decref(json);
	}
}

/* ---- Kubernetes' own policies ---- */

static size_t policies_decode(const json_t *json)
{
	const char *kind = json_string_value(json_object_get(json, "kind"));
	if (kind && !strcmp(kind, "NetworkPolicy")) {
		struct errors errors = {0};
		struct object *object = NULL;
		if (object_decode(json, "", &object, NULL, &errors))
			fail_msg("%s: %s", errors.list[0].path, errors.list[0].detail);
		object_put(object);
		return 1;
	}
	size_t found = 0, index;
	const char *key;
	json_t *child;
	json_object_foreach((json_t *)json, key, child)
	{
		found += policies_decode(child);
	}
	json_array_foreach(json, index, child)
	{
		found += policies_decode(child);
	}
	return found;
}

static void conformance(void **state)
{
	const char *directory = getenv("PENSTOCK_CONFORMANCE");
	if (!directory) {
		print_message("PENSTOCK_CONFORMANCE does not name the directory of netpol_e2e.json\n");
		skip();
	}
	auto_free char *path = str_format("%s/netpol_e2e.json", directory);
	json_t *json = json_load_file(path, 0, NULL);
	if (!json) /* it may name the file itself */
		json = json_load_file(directory, 0, NULL);
	assert_non_null(json);
	assert_true(policies_decode(json) >= 51);
	json_decref(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(network_policy_peers), cmocka_unit_test(network_policy_ports),
		cmocka_unit_test(network_policy_types), cmocka_unit_test(cluster_policy), cmocka_unit_test(intercept_policy),
		cmocka_unit_test(node_filter), cmocka_unit_test(pod), cmocka_unit_test(pod_states), cmocka_unit_test(workload),
		cmocka_unit_test(node_and_proxy), cmocka_unit_test(service_addresses), cmocka_unit_test(service_ports),
		cmocka_unit_test(slice_conditions), cmocka_unit_test(slice_of_a_service),
		cmocka_unit_test(slice_of_an_older_kubernetes), cmocka_unit_test(namespace_label),
		cmocka_unit_test(pointers_have_the_prefix), cmocka_unit_test(long_names_are_cut),
		cmocka_unit_test(errors_are_counted), cmocka_unit_test(partial_isolates),
		cmocka_unit_test(long_lists_are_cheap), cmocka_unit_test(conformance)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
