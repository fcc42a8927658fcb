/* SPDX-License-Identifier: Apache-2.0 */
/* Processes of the node: which cgroups are endpoints, and whose rules are theirs. */
#include "tests/unit/compile_lab.h"

#define FAR "203.0.113.9"
#define FAR6 "2001:db8::9"
#define POLICY(name, priority, cgroup, rules) \
	LAB_GLOBAL(                               \
		"InterceptPolicy", name, "'priority':" priority ",'subject':{'cgroup':'" cgroup "'},'egress':[" rules "]")
#define INTO(proxy, network, protocols) \
	"{'action':'Intercept','proxy':'" proxy "','to':[{'networks':['" network "']}]" protocols "}"
#define PAST(network) "{'action':'Bypass','to':[{'networks':['" network "']}]}"
#define EVERYWHERE "0.0.0.0/0','::/0"

static void lab_fill(struct lab *lab)
{
	lab_open(lab);
	lab_put(lab, LAB_POD("pod", "s", "'app':'a'", "here", "10.0.0.1"));
	lab_put(lab, LAB_GLOBAL("TransparentProxy", "gw", "'port':15001"));
	lab_put(lab, LAB_GLOBAL("TransparentProxy", "both", "'port':15002,'protocols':['TCP','UDP']"));
}

static const struct endpoint *cgroup(struct lab *lab, const char *path)
{
	const struct endpoint *endpoint;
	size_t at = 0;
	while ((endpoint = compiler_cgroup_next(lab->c, &at)))
		if (!strcmp(endpoint->cgroup, path))
			return endpoint;
	return NULL;
}

static size_t cgroups(struct lab *lab)
{
	size_t at = 0, count = 0;
	while (compiler_cgroup_next(lab->c, &at))
		count++;
	return count;
}

/* "proxy policy/index", "Bypass policy/index" or "Allow". */
static const char *outcome(struct lab *lab, const char *path, const char *destination, uint8_t protocol, uint16_t port)
{
	static char texts[4][256];
	static unsigned next;
	char *text = texts[next++ % 4];
	struct judge_query query = {.protocol = protocol, .port = port};
	struct ps_verdict verdict;
	const struct endpoint *endpoint = cgroup(lab, path);
	assert_non_null(endpoint);
	assert_int_equal(ip_parse(destination, &query.destination), 0);
	tables_judge_process(compiler_tables(lab->c), endpoint->id, &query, &verdict);
	assert_int_not_equal(verdict.action, PS_ACTION_DENY);
	if (!verdict.intercept_rule)
		return "Allow";
	snprintf(text, 256, "%s %s",
		verdict.action == PS_ACTION_INTERCEPT ? compiler_proxy_name(lab->c, verdict.proxy) : "Bypass",
		lab_rule(lab, verdict.intercept_rule) + strlen("InterceptPolicy//"));
	return text;
}

static void a_cgroup_and_what_is_below_it(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, POLICY("top", "10", "system.slice", INTO("gw", EVERYWHERE, "")));
	lab_put(&lab, POLICY("one", "5", "system.slice/foo.service", PAST("203.0.113.0/24")));
	lab_put(&lab, POLICY("other", "1", "system.slice/foo", PAST(EVERYWHERE)));
	lab_put(&lab, POLICY("near", "1", "system", PAST(EVERYWHERE)));
	assert_int_equal(cgroups(&lab), 4);
	assert_string_equal(outcome(&lab, "system.slice", FAR, TCP, 443), "gw top/0");
	assert_string_equal(outcome(&lab, "system.slice", FAR6, TCP, 443), "gw top/0");
	assert_string_equal(outcome(&lab, "system.slice", "10.0.0.1", TCP, 443), "gw top/0");
	assert_string_equal(outcome(&lab, "system.slice", FAR, UDP, 443), "Allow"); /* the proxy's protocols */
	assert_string_equal(outcome(&lab, "system.slice/foo.service", FAR, TCP, 443), "Bypass one/0");
	assert_string_equal(outcome(&lab, "system.slice/foo.service", "192.0.2.1", TCP, 443), "gw top/0");
	assert_string_equal(outcome(&lab, "system.slice/foo", FAR, TCP, 443), "Bypass other/0");
	assert_string_equal(outcome(&lab, "system", FAR, TCP, 443), "Bypass near/0");
	lab_close(&lab);
}

static void both_protocols_and_ports(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, POLICY("p", "10", "a/b",
					  INTO("both", "203.0.113.0/24", "") "," INTO(
						  "gw", EVERYWHERE, ",'protocols':[{'tcp':{'destinationPort':{'number':443}}}]")));
	assert_string_equal(outcome(&lab, "a/b", FAR, TCP, 80), "both p/0");
	assert_string_equal(outcome(&lab, "a/b", FAR, UDP, 53), "both p/0");
	assert_string_equal(outcome(&lab, "a/b", "192.0.2.1", TCP, 443), "gw p/1");
	assert_string_equal(outcome(&lab, "a/b", "192.0.2.1", TCP, 80), "Allow");
	assert_string_equal(outcome(&lab, "a/b", "192.0.2.1", UDP, 443), "Allow");
	lab_close(&lab);
}

static void policies_about_workloads_are_not_theirs(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, LAB_CLUSTER_POLICY("deny", "'tier':'Admin','priority':1,'subject':{'namespaces':{}},"
											 "'egress':[{'action':'Deny','to':[{'networks':['0.0.0.0/0']}]}]"));
	lab_put(&lab, LAB_GLOBAL("InterceptPolicy", "pods",
					  "'priority':1,'subject':{'namespaces':{}},'egress':[" INTO("gw", EVERYWHERE, "") "]"));
	lab_put(&lab, POLICY("p", "10", "a", INTO("both", "198.51.100.0/24", "")));
	assert_string_equal(outcome(&lab, "a", FAR, TCP, 80), "Allow");
	assert_string_equal(outcome(&lab, "a", "198.51.100.1", TCP, 80), "both p/0");
	/* Nor are theirs the workloads'. */
	assert_int_equal(lab_judge(&lab, "10.0.0.1", "198.51.100.1", TCP, 80).action, PS_ACTION_DENY);
	lab_delete(&lab, "ClusterNetworkPolicy//deny");
	lab_delete(&lab, "InterceptPolicy//pods");
	assert_int_equal(lab_judge(&lab, "10.0.0.1", "198.51.100.1", TCP, 80).action, PS_ACTION_ALLOW);
	lab_close(&lab);
}

static void they_come_and_go_with_their_policies(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	size_t rows = compiler_tables(lab.c)->table[TABLE_row].wanted.count;
	lab_put(&lab, POLICY("p", "10", "a/b", INTO("gw", EVERYWHERE, "")));
	uint32_t id = cgroup(&lab, "a/b")->id;
	lab_put(&lab, POLICY("q", "5", "a/b", PAST(FAR "/32")));
	assert_int_equal(cgroup(&lab, "a/b")->id, id);
	assert_string_equal(outcome(&lab, "a/b", FAR, TCP, 80), "Bypass q/0");
	lab_delete(&lab, "InterceptPolicy//p");
	assert_int_equal(cgroup(&lab, "a/b")->id, id);
	assert_string_equal(outcome(&lab, "a/b", "192.0.2.1", TCP, 80), "Allow");
	lab_put(&lab, POLICY("q", "5", "a", PAST(FAR "/32")));
	assert_null(cgroup(&lab, "a/b"));
	assert_null(tables_get(compiler_tables(lab.c), TABLE_endpoint, &id));
	assert_string_equal(outcome(&lab, "a", FAR, TCP, 80), "Bypass q/0");
	lab_delete(&lab, "InterceptPolicy//q");
	assert_int_equal(cgroups(&lab), 0);
	assert_int_equal(compiler_tables(lab.c)->table[TABLE_profile].wanted.count, 0);
	assert_int_equal(compiler_tables(lab.c)->table[TABLE_row].wanted.count, rows);
	lab_close(&lab);
}

static void the_proxy_changes(void **state)
{
	struct lab lab;
	lab_fill(&lab);
	lab_put(&lab, POLICY("p", "10", "a", INTO("gw", EVERYWHERE, "")));
	assert_string_equal(outcome(&lab, "a", FAR, UDP, 53), "Allow");
	lab_put(&lab, LAB_GLOBAL("TransparentProxy", "gw", "'port':15001,'protocols':['TCP','UDP']"));
	assert_string_equal(outcome(&lab, "a", FAR, UDP, 53), "gw p/0");
	lab_close(&lab);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_cgroup_and_what_is_below_it),
		cmocka_unit_test(both_protocols_and_ports),
		cmocka_unit_test(policies_about_workloads_are_not_theirs),
		cmocka_unit_test(they_come_and_go_with_their_policies),
		cmocka_unit_test(the_proxy_changes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
