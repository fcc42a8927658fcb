/* SPDX-License-Identifier: Apache-2.0 */
/* Which connections are handed to which proxy, in both directions, and which addresses say so. */
#include "tests/unit/compile_lab.h"

#define SERVER "10.0.0.1"
#define SERVER6 "fd00::1"
#define CLIENT "10.0.0.2"
#define CLIENT6 "fd00::2"
#define FAR "10.0.1.1"

/* Both local pods have both families. */
#define POD_BOTH(name, ns, labels, ip4, ip6)                                                               \
	"{'apiVersion':'v1','kind':'Pod','metadata':{'name':'" name "','namespace':'" ns "','labels':{" labels \
	"}},'spec':{'nodeName':'here','containers':[{'name':'c','ports':[{'name':'http','containerPort':8080}" \
	"]}]},'status':{'phase':'Running','podIPs':[{'ip':'" ip4 "'},{'ip':'" ip6 "'}]}}"
#define SUBJECT(app) "'subject':{'pods':{'namespaceSelector':{},'podSelector':{'matchLabels':{'app':'" app "'}}}}"
#define ANYBODY "[{'networks':['0.0.0.0/0','::/0']}]"
#define POLICY(name, priority, app, rules) \
	LAB_GLOBAL("InterceptPolicy", name, "'priority':" priority "," SUBJECT(app) "," rules)
#define OUT(proxy) "'egress':[{'action':'Intercept','proxy':'" proxy "','to':" ANYBODY "}]"
#define IN(proxy) "'ingress':[{'action':'Intercept','proxy':'" proxy "','from':" ANYBODY "}]"

static void lab_fill(struct lab *lab)
{
	lab_open(lab);
	lab_put(lab, LAB_NAMESPACE("s", "'team':'red'"));
	lab_put(lab, POD_BOTH("server", "s", "'app':'server'", SERVER, SERVER6));
	lab_put(lab, POD_BOTH("client", "s", "'app':'client'", CLIENT, CLIENT6));
	lab_put(lab, LAB_POD("far", "o", "'app':'far'", "there", FAR));
	lab_put(lab, LAB_GLOBAL("TransparentProxy", "gw", "'port':15001"));
	lab_put(lab, LAB_GLOBAL("TransparentProxy", "other", "'port':15002,'onUnavailable':'Bypass'"));
}

/* "proxy rule direction", "Deny" or "Allow". */
static const char *outcome(
	struct lab *lab, const char *source, const char *destination, uint8_t protocol, uint16_t port)
{
	static char text[256];
	struct judge_answer answer = lab_judge(lab, source, destination, protocol, port);
	if (answer.action != PS_ACTION_INTERCEPT)
		return answer.action == PS_ACTION_DENY ? "Deny" : "Allow";
	const struct ps_verdict *verdict = answer.direction == PS_EGRESS ? &answer.egress : &answer.ingress;
	const char *proxy = compiler_proxy_name(lab->c, verdict->proxy);
	snprintf(text, sizeof(text), "%s %s %s", proxy ? proxy : "?",
		lab_rule(lab, verdict->intercept_rule) + strlen("InterceptPolicy//"),
		answer.direction == PS_EGRESS ? "Egress" : "Ingress");
	return text;
}

static const struct ps_addr *entry(struct lab *lab, const char *text)
{
	struct ip ip;
	assert_int_equal(ip_parse(text, &ip), 0);
	struct ps_key_addr4 key4 = {.addr = ip_v4(&ip)};
	struct ps_key_addr6 key6 = {0};
	memcpy(key6.addr, ip.bytes, 16);
	return ip.family == 4 ? tables_get(compiler_tables(lab->c), TABLE_addr4, &key4)
						  : tables_get(compiler_tables(lab->c), TABLE_addr6, &key6);
}

static bool steered(struct lab *lab, const char *text)
{
	const struct ps_addr *found = entry(lab, text);
	return found && found->flags & PS_ADDR_STEERED;
}

/* ---- directions ---- */

static void an_ingress_rule_takes_what_comes_to_its_subject(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, POLICY("in", "5", "server",
					  "'ingress':[{'action':'Intercept','proxy':'gw','from':[{'networks':['10.0.0.0/16','2001:db8::/32'"
					  "]}],'protocols':[{'tcp':{'destinationPort':{'range':{'start':80,'end':90}}}}]}]"));
	assert_string_equal(outcome(&lab, "10.0.9.9", SERVER, TCP, 80), "gw in/0 Ingress");
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 90), "gw in/0 Ingress");
	assert_string_equal(outcome(&lab, "2001:db8::7", SERVER6, TCP, 85), "gw in/0 Ingress");
	assert_string_equal(outcome(&lab, "10.0.9.9", SERVER, TCP, 91), "Allow");
	assert_string_equal(outcome(&lab, "10.0.9.9", SERVER, UDP, 80), "Allow");
	assert_string_equal(outcome(&lab, "10.1.9.9", SERVER, TCP, 80), "Allow");
	assert_string_equal(outcome(&lab, "2001:db9::7", SERVER6, TCP, 80), "Allow");
	assert_string_equal(outcome(&lab, SERVER, CLIENT, TCP, 80), "Allow"); /* it says nothing of egress */
	assert_string_equal(outcome(&lab, "10.0.9.9", FAR, TCP, 80), "Allow");
	lab_close(&lab);
}

static void egress_is_asked_before_ingress(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, POLICY("in", "1", "server", IN("gw")));
	lab_put(&lab, POLICY("out", "9", "client", OUT("other")));
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 80), "other out/0 Egress");
	assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 80), "gw in/0 Ingress");
	lab_put(&lab, POLICY("out", "9", "client", "'egress':[{'action':'Bypass','to':" ANYBODY "}]"));
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 80), "Allow");
	assert_string_equal(outcome(&lab, CLIENT6, SERVER6, TCP, 80), "Allow");
	lab_put(&lab, POLICY("out", "9", "client",
					  "'egress':[{'action':'Intercept','proxy':'other','to':" ANYBODY
					  ",'protocols':[{'tcp':{'destinationPort':{'number':443}}}]}]"));
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 80), "gw in/0 Ingress");
	assert_string_equal(outcome(&lab, CLIENT6, SERVER6, TCP, 443), "other out/0 Egress");
	lab_close(&lab);
}

static void what_policy_denies_in_either_direction_is_not_handed_over(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, POLICY("both", "1", "server", IN("gw") "," OUT("gw")));
	lab_put(&lab, POLICY("out", "1", "client", OUT("gw")));
	lab_put(
		&lab, LAB_POLICY("closed", "s", "'podSelector':{'matchLabels':{'app':'server'}},'policyTypes':['Ingress']"));
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 80), "Deny");
	assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 80), "Deny");
	assert_int_equal(lab_judge(&lab, CLIENT, SERVER, TCP, 80).egress.action, PS_ACTION_INTERCEPT);
	lab_put(&lab, LAB_POLICY("closed", "s", "'podSelector':{'matchLabels':{'app':'client'}},'policyTypes':['Egress']"));
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 80), "Deny");
	assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 80), "gw both/0 Ingress");
	lab_close(&lab);
}

/* ---- order ---- */

static void the_first_rule_by_priority_and_name_decides(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, POLICY("m", "5", "client", OUT("gw") "," IN("gw")));
	lab_put(&lab, POLICY("z", "4", "client", OUT("other") "," IN("other")));
	assert_string_equal(outcome(&lab, CLIENT, FAR, TCP, 80), "other z/0 Egress");
	assert_string_equal(outcome(&lab, FAR, CLIENT, TCP, 80), "other z/0 Ingress");
	lab_put(&lab, POLICY("z", "5", "client", OUT("other") "," IN("other")));
	assert_string_equal(outcome(&lab, CLIENT, FAR, TCP, 80), "gw m/0 Egress");
	assert_string_equal(outcome(&lab, FAR, CLIENT, TCP, 80), "gw m/0 Ingress");
	lab_put(&lab, POLICY("a", "5", "client",
					  "'ingress':[{'name':'no','action':'Bypass','from':[{'networks':['10.0.1.0/24']}]}]"));
	assert_string_equal(outcome(&lab, CLIENT, FAR, TCP, 80), "gw m/0 Egress");
	assert_string_equal(outcome(&lab, FAR, CLIENT, TCP, 80), "Allow");
	assert_string_equal(
		lab_rule(&lab, lab_judge(&lab, FAR, CLIENT, TCP, 80).ingress.intercept_rule), "InterceptPolicy//a/0");
	assert_string_equal(outcome(&lab, "10.0.2.1", CLIENT, TCP, 80), "gw m/0 Ingress");
	lab_close(&lab);
}

/* ---- peers and subjects ---- */

static void peers_are_pods_namespaces_nodes_and_networks(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_NAMESPACE("o", "'team':'blue'"));
	lab_put(&lab,
		"{'apiVersion':'v1','kind':'Node','metadata':{'name':'n','labels':{'role':'gate'}},'status':{'addresses':"
		"[{'type':'InternalIP','address':'192.0.2.5'},{'type':'InternalIP','address':'2001:db8::5'}]}}");
	lab_put(
		&lab, POLICY("in", "5", "server",
				  "'ingress':[{'action':'Intercept','proxy':'gw','from':[{'nodes':{'matchLabels':{'role':'gate'}}}]},"
				  "{'action':'Intercept','proxy':'other','from':[{'namespaces':{'matchLabels':{'team':'blue'}}}]}],"
				  "'egress':[{'action':'Intercept','proxy':'gw','to':[{'nodes':{}}]},"
				  "{'action':'Intercept','proxy':'other','to':[{'pods':{'namespaceSelector':{},'podSelector':"
				  "{'matchLabels':{'app':'far'}}}}]}]"));
	assert_string_equal(outcome(&lab, "192.0.2.5", SERVER, TCP, 1), "gw in/0 Ingress");
	assert_string_equal(outcome(&lab, "2001:db8::5", SERVER6, TCP, 1), "gw in/0 Ingress");
	assert_string_equal(outcome(&lab, "192.0.2.6", SERVER, TCP, 1), "Allow");
	assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 1), "other in/1 Ingress");
	assert_string_equal(outcome(&lab, SERVER6, "2001:db8::5", TCP, 1), "gw in/0 Egress");
	assert_string_equal(outcome(&lab, SERVER, FAR, TCP, 1), "other in/1 Egress");
	assert_string_equal(outcome(&lab, SERVER, CLIENT, TCP, 1), "Allow");
	lab_put(&lab, "{'apiVersion':'v1','kind':'Node','metadata':{'name':'n'},'status':{'addresses':"
				  "[{'type':'InternalIP','address':'192.0.2.5'}]}}");
	assert_string_equal(outcome(&lab, "192.0.2.5", SERVER, TCP, 1), "Allow");
	lab_put(&lab, LAB_NAMESPACE("o", "'team':'red'"));
	assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 1), "Allow");
	lab_close(&lab);
}

static void a_port_name_is_the_destinations_in_both_directions(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, POLICY("p", "5", "server",
					  "'ingress':[{'action':'Intercept','proxy':'gw','from':[{'namespaces':{}}],"
					  "'protocols':[{'destinationNamedPort':'http'}]}],"
					  "'egress':[{'action':'Intercept','proxy':'other','to':[{'namespaces':{}}],"
					  "'protocols':[{'destinationNamedPort':'http'}]}]"));
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 8080), "gw p/0 Ingress");
	assert_string_equal(outcome(&lab, SERVER, CLIENT, TCP, 8080), "other p/0 Egress");
	assert_string_equal(outcome(&lab, SERVER, FAR, TCP, 8080), "Allow"); /* it has no such port */
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 8081), "Allow");
	lab_close(&lab);
}

/* The class of the Node's address and that of the network around it are both new, and one takes over the number: the
 * address needs an entry of its own although its number is what it was. */
static void a_node_that_is_named_has_an_entry_whatever_its_classs_number(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, "{'apiVersion':'v1','kind':'Node','metadata':{'name':'n'},'status':{'addresses':"
				  "[{'type':'InternalIP','address':'192.0.2.5'}]}}");
	lab_put(&lab, LAB_POLICY("np", "s",
					  "'podSelector':{'matchLabels':{'app':'server'}},'policyTypes':['Egress'],'egress':[{'to':["
					  "{'ipBlock':{'cidr':'192.0.2.0/24','except':['192.0.2.128/25']}}]}]"));
	lab_put(&lab, POLICY("out", "5", "server", "'egress':[]"));
	assert_string_equal(outcome(&lab, SERVER, "192.0.2.5", TCP, 1), "Allow");
	struct object *news[] = {
		object_of(LAB_POLICY("np", "s",
			"'podSelector':{'matchLabels':{'app':'server'}},'policyTypes':['Egress'],'egress':[{'to':["
			"{'ipBlock':{'cidr':'192.0.2.0/24'}}]}]")),
		object_of(POLICY("out", "5", "server", "'egress':[{'action':'Intercept','proxy':'gw','to':[{'nodes':{}}]}]")),
	};
	struct object *olds[] = {
		names_get(&lab.objects, "NetworkPolicy/s/np"), names_get(&lab.objects, "InterceptPolicy//out")};
	struct change there[] = {{olds[0], news[0]}, {olds[1], news[1]}}, back[] = {{news[0], olds[0]}, {news[1], olds[1]}};
	for (int i = 0; i < 3; i++) {
		compiler_update(lab.c, there, 2, NULL);
		assert_string_equal(outcome(&lab, SERVER, "192.0.2.5", TCP, 1), "gw out/0 Egress");
		assert_string_equal(outcome(&lab, SERVER, "192.0.2.6", TCP, 1), "Allow");
		compiler_update(lab.c, back, 2, NULL);
		assert_string_equal(outcome(&lab, SERVER, "192.0.2.5", TCP, 1), "Allow");
		assert_int_equal(entry(&lab, "192.0.2.5")->flags, PS_ADDR_NODE);
	}
	for (int i = 0; i < 2; i++)
		object_put(news[i]);
	lab_close(&lab);
}

/* A Service's address is handed over by what rules say of itself, while policy judges its backends. */
static void a_refusal_says_which_rule_its_address_meets(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("np", "s", "'podSelector':{'matchLabels':{'app':'server'}},'policyTypes':['Egress']"));
	lab_put(
		&lab, POLICY("out", "5", "server",
				  "'egress':[{'action':'Bypass','to':[{'networks':['10.96.0.1/32']}]},{'action':'Intercept','proxy':"
				  "'gw','to':[{'networks':['10.96.0.0/16']}]}]"));
	struct ps_verdict verdict = lab_judge(&lab, SERVER, "10.96.0.10", TCP, 80).egress;
	assert_int_equal(verdict.action, PS_ACTION_DENY);
	assert_int_equal(verdict.reason, PS_REASON_ISOLATED);
	assert_string_equal(lab_rule(&lab, verdict.intercept_rule), "InterceptPolicy//out/1");
	assert_string_equal(compiler_proxy_name(lab.c, verdict.proxy), "gw");
	verdict = lab_judge(&lab, SERVER, "10.96.0.1", TCP, 80).egress;
	assert_int_equal(verdict.action, PS_ACTION_DENY);
	assert_string_equal(lab_rule(&lab, verdict.intercept_rule), "InterceptPolicy//out/0");
	assert_int_equal(verdict.proxy, PS_PROXY_NONE);
	verdict = lab_judge(&lab, SERVER, "10.97.0.1", TCP, 80).egress;
	assert_int_equal(verdict.intercept_rule, PS_RULE_NONE);
	assert_int_equal(verdict.proxy, PS_PROXY_NONE);
	verdict = lab_judge(&lab, SERVER, "10.96.0.10", UDP, 80).egress; /* not the proxy's */
	assert_int_equal(verdict.intercept_rule, PS_RULE_NONE);
	lab_close(&lab);
}

/* ---- proxies ---- */

static void without_protocols_they_are_the_proxys(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, POLICY("p", "5", "server", IN("gw")));
	assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 1), "gw p/0 Ingress");
	assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 65535), "gw p/0 Ingress");
	for (uint8_t protocol = 0; protocol < 255; protocol++)
		if (protocol != TCP)
			assert_string_equal(outcome(&lab, FAR, SERVER, protocol, 80), "Allow");
	lab_close(&lab);
}

#define GATEWAY(protocols) LAB_GLOBAL("TransparentProxy", "gw", "'port':15001,'protocols':[" protocols "]")
#define NAMING(protocols)                                                                                  \
	POLICY("p", "5", "server",                                                                             \
		"'ingress':[{'action':'Intercept','proxy':'gw','from':[{'namespaces':{}}],'protocols':[" protocols \
		"]}],'egress':[{'action':'Bypass','to':" ANYBODY ",'protocols':[{'udp':{'destinationPort':{'number':53}}}]}]")

static void datagrams_go_to_a_proxy_that_takes_them(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, POLICY("p", "5", "server", IN("gw")));
	lab_put(&lab, GATEWAY("'UDP'"));
	assert_string_equal(outcome(&lab, FAR, SERVER, UDP, 1), "gw p/0 Ingress");
	assert_string_equal(outcome(&lab, CLIENT6, SERVER6, UDP, 65535), "gw p/0 Ingress");
	assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 1), "Allow");
	lab_put(&lab, GATEWAY("'TCP','UDP'"));
	assert_string_equal(outcome(&lab, FAR, SERVER, UDP, 443), "gw p/0 Ingress");
	assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 443), "gw p/0 Ingress");
	for (uint8_t protocol = 0; protocol < 255; protocol++)
		if (protocol != TCP && protocol != UDP)
			assert_string_equal(outcome(&lab, FAR, SERVER, protocol, 80), "Allow");
	lab_put(&lab, GATEWAY("'TCP'"));
	assert_string_equal(outcome(&lab, FAR, SERVER, UDP, 443), "Allow");
	lab_close(&lab);
}

static void rules_name_ports_of_either_protocol(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, GATEWAY("'TCP','UDP'"));
	lab_put(&lab, NAMING("{'udp':{'destinationPort':{'number':443}}},{'udp':{'destinationPort':{'range':{'start':5000,"
						 "'end':5010}}}},{'tcp':{'destinationPort':{'number':80}}}"));
	assert_string_equal(outcome(&lab, CLIENT, SERVER, UDP, 443), "gw p/0 Ingress");
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 443), "Allow");
	assert_string_equal(outcome(&lab, CLIENT, SERVER, UDP, 5010), "gw p/0 Ingress");
	assert_string_equal(outcome(&lab, CLIENT, SERVER, UDP, 5011), "Allow");
	assert_string_equal(outcome(&lab, CLIENT, SERVER, UDP, 80), "Allow");
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 80), "gw p/0 Ingress");
	lab_put(&lab, NAMING("{'udp':{}}"));
	assert_string_equal(outcome(&lab, CLIENT, SERVER, UDP, 1), "gw p/0 Ingress");
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 80), "Allow");
	lab_put(&lab, POLICY("all", "6", "server", OUT("gw")));
	assert_string_equal(outcome(&lab, SERVER, FAR, UDP, 53), "Allow"); /* Bypass */
	assert_string_equal(outcome(&lab, SERVER, FAR, UDP, 54), "gw all/0 Egress");
	assert_string_equal(outcome(&lab, SERVER, FAR, TCP, 53), "gw all/0 Egress");
	lab_close(&lab);
}

/* Refused but under quarantine: then the kernel finds nobody that takes it. */
static void a_protocol_that_the_proxy_does_not_take_goes_nowhere_else(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, NAMING("{'udp':{'destinationPort':{'number':443}}},{'destinationNamedPort':'http'}"));
	assert_string_equal(outcome(&lab, CLIENT, SERVER, UDP, 443), "gw p/0 Ingress");
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 8080), "gw p/0 Ingress");
	lab_put(&lab, GATEWAY("'UDP'"));
	assert_string_equal(outcome(&lab, CLIENT, SERVER, UDP, 443), "gw p/0 Ingress");
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 8080), "Allow"); /* a name's are the proxy's */
	lab_delete(&lab, "TransparentProxy//gw");
	assert_string_equal(outcome(&lab, CLIENT, SERVER, UDP, 443), "gw p/0 Ingress");
	assert_string_equal(outcome(&lab, CLIENT, SERVER, TCP, 8080), "gw p/0 Ingress");
	lab_close(&lab);
}

/* Refused but under quarantine: a number without an entry, which the kernel takes for nobody listens, with Deny. */
static void an_absent_proxy_is_one_that_nobody_has(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, POLICY("p", "5", "server", IN("lost")));
	struct judge_answer answer = lab_judge(&lab, FAR, SERVER, TCP, 80);
	uint32_t number = answer.ingress.proxy;
	assert_int_equal(answer.action, PS_ACTION_INTERCEPT);
	assert_int_not_equal(number, PS_PROXY_NONE);
	assert_null(tables_get(compiler_tables(lab.c), TABLE_proxy, &number));
	lab_put(&lab, LAB_GLOBAL("TransparentProxy", "lost", "'port':15003,'onUnavailable':'Bypass'"));
	const struct ps_proxy *proxy = tables_get(compiler_tables(lab.c), TABLE_proxy, &number);
	assert_non_null(proxy);
	assert_int_equal(proxy->flags, PS_PROXY_USED | PS_PROXY_BYPASS);
	assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 80), "lost p/0 Ingress");
	lab_delete(&lab, "TransparentProxy//lost");
	assert_null(tables_get(compiler_tables(lab.c), TABLE_proxy, &number));
	assert_int_equal(lab_judge(&lab, FAR, SERVER, TCP, 80).ingress.proxy, number);
	lab_close(&lab);
}

/* ---- what addresses say ---- */

static void steered_are_addresses_that_an_ingress_rule_hands_over(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	assert_false(steered(&lab, SERVER));
	lab_put(&lab, POLICY("out", "5", "server", OUT("gw")));
	lab_put(&lab, POLICY("by", "5", "server", "'ingress':[{'action':'Bypass','from':" ANYBODY "}]"));
	assert_false(steered(&lab, SERVER));
	lab_put(&lab, POLICY("in", "6", "server", IN("gw")));
	assert_true(steered(&lab, SERVER) && steered(&lab, SERVER6));
	assert_false(steered(&lab, CLIENT) || steered(&lab, FAR));
	lab_put(&lab, POLICY("in", "6", "client", IN("gw"))); /* another subject */
	assert_false(steered(&lab, SERVER) || steered(&lab, SERVER6));
	assert_true(steered(&lab, CLIENT) && steered(&lab, CLIENT6));
	lab_delete(&lab, "InterceptPolicy//in");
	assert_false(steered(&lab, CLIENT));
	lab_close(&lab);
}

/* The policy's rules name peers only: the profile goes on under its number. */
static void a_profile_that_goes_on_tells_its_addresses(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_POLICY("np", "s",
					  "'podSelector':{'matchLabels':{'app':'server'}},'ingress':[{'from':[{'podSelector':{}},"
					  "{'ipBlock':{'cidr':'10.0.0.0/8'}}]}]"));
	uint32_t profile = entry(&lab, SERVER)->profile;
	assert_int_not_equal(profile, PS_PROFILE_NONE);
	for (int i = 0; i < 2; i++) {
		lab_put(&lab, POLICY("in", "6", "server", IN("gw")));
		assert_int_equal(entry(&lab, SERVER)->profile, profile);
		assert_true(steered(&lab, SERVER) && steered(&lab, SERVER6));
		assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 80), "gw in/0 Ingress");
		lab_put(&lab, POLICY("in", "6", "server", "'ingress':[{'action':'Bypass','from':" ANYBODY "}]"));
		assert_int_equal(entry(&lab, SERVER)->profile, profile);
		assert_false(steered(&lab, SERVER) || steered(&lab, SERVER6));
		assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 80), "Allow");
	}
	lab_put(&lab, POLICY("in", "6", "server", IN("gw")));
	lab_delete(&lab, "InterceptPolicy//in");
	assert_int_equal(entry(&lab, SERVER)->profile, profile);
	assert_false(steered(&lab, SERVER));
	lab_close(&lab);
}

static void labels_and_namespaces_decide_who_is_steered(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_GLOBAL("InterceptPolicy", "red",
					  "'priority':1,'subject':{'namespaces':{'matchLabels':{'team':'red'}}}," IN("gw")));
	assert_true(steered(&lab, SERVER) && steered(&lab, CLIENT6));
	lab_put(&lab, LAB_NAMESPACE("s", "'team':'blue'"));
	assert_false(steered(&lab, SERVER) || steered(&lab, CLIENT6));
	lab_put(&lab, LAB_NAMESPACE("s", "'team':'red'"));
	assert_true(steered(&lab, SERVER));
	lab_delete(&lab, "InterceptPolicy//red");
	lab_put(&lab, POLICY("in", "6", "server", IN("gw")));
	lab_put(&lab, POD_BOTH("server", "s", "'app':'former'", SERVER, SERVER6));
	assert_false(steered(&lab, SERVER));
	lab_put(&lab, POD_BOTH("server", "s", "'app':'server'", SERVER, "fd00::11"));
	assert_true(steered(&lab, SERVER) && steered(&lab, "fd00::11"));
	assert_false(steered(&lab, SERVER6));
	lab_close(&lab);
}

/* The flag is the profile's: it is there before the interface is, and LOCAL says whether that counts. */
static void the_flag_does_not_wait_for_the_interface(void **state)
{
	struct lab lab;
	size_t at = 0;
	const struct endpoint *endpoint;
	lab_fill(&lab);
	lab_put(&lab, POLICY("in", "6", "server", IN("gw")));
	while ((endpoint = compiler_endpoint_next(lab.c, &at)))
		compiler_bind(lab.c, endpoint->id, false);
	assert_int_equal(entry(&lab, SERVER)->flags, PS_ADDR_STEERED);
	assert_string_equal(outcome(&lab, FAR, SERVER, TCP, 80), "Allow");
	lab_bind(&lab);
	assert_int_equal(entry(&lab, SERVER)->flags, PS_ADDR_STEERED | PS_ADDR_LOCAL);
	lab_close(&lab);
}

/* ---- how much is done ---- */

static void a_policy_touches_only_what_it_selects(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	for (int i = 0; i < 100; i++) {
		auto_free char *pod = str_format(
			"{'apiVersion':'v1','kind':'Pod','metadata':{'name':'m%d','namespace':'s','labels':{'app':'m'}},'spec':"
			"{'nodeName':'here','containers':[{'name':'c'}]},'status':{'phase':'Running','podIPs':[{'ip':"
			"'10.3.0.%d'}]}}",
			i, i + 1);
		lab_put(&lab, pod);
	}
	lab_put(&lab, LAB_POLICY("np", "s", "'podSelector':{},'ingress':[{'from':[{'podSelector':{}}]}]"));
	struct work before = lab.c->work;
	lab_put(&lab, POLICY("in", "6", "server",
					  "'ingress':[{'action':'Intercept','proxy':'gw','from':[{'networks':['192.0.2.0/24']}]}]"));
	assert_int_equal(lab.c->work.profiles - before.profiles, 1);
	assert_in_range(lab.c->work.addresses - before.addresses, 2, 2);
	assert_in_range(lab.c->work.rows - before.rows, 1, 8);
	assert_true(steered(&lab, SERVER));
	assert_false(steered(&lab, "10.3.0.1"));
	before = lab.c->work;
	lab_delete(&lab, "InterceptPolicy//in");
	assert_int_equal(lab.c->work.profiles - before.profiles, 1);
	assert_int_equal(lab.c->work.addresses - before.addresses, 2);
	lab_close(&lab);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_ingress_rule_takes_what_comes_to_its_subject),
		cmocka_unit_test(egress_is_asked_before_ingress),
		cmocka_unit_test(what_policy_denies_in_either_direction_is_not_handed_over),
		cmocka_unit_test(the_first_rule_by_priority_and_name_decides),
		cmocka_unit_test(peers_are_pods_namespaces_nodes_and_networks),
		cmocka_unit_test(a_node_that_is_named_has_an_entry_whatever_its_classs_number),
		cmocka_unit_test(a_port_name_is_the_destinations_in_both_directions),
		cmocka_unit_test(a_refusal_says_which_rule_its_address_meets),
		cmocka_unit_test(without_protocols_they_are_the_proxys),
		cmocka_unit_test(datagrams_go_to_a_proxy_that_takes_them),
		cmocka_unit_test(rules_name_ports_of_either_protocol),
		cmocka_unit_test(a_protocol_that_the_proxy_does_not_take_goes_nowhere_else),
		cmocka_unit_test(an_absent_proxy_is_one_that_nobody_has),
		cmocka_unit_test(steered_are_addresses_that_an_ingress_rule_hands_over),
		cmocka_unit_test(a_profile_that_goes_on_tells_its_addresses),
		cmocka_unit_test(labels_and_namespaces_decide_who_is_steered),
		cmocka_unit_test(the_flag_does_not_wait_for_the_interface),
		cmocka_unit_test(a_policy_touches_only_what_it_selects),
	};
	return cmocka_run_group_tests_name("compile: interception", tests, NULL, NULL);
}
