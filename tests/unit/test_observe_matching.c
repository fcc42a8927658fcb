/* SPDX-License-Identifier: Apache-2.0 */
/* Which rules match, in which order, and which of them decides. */
#include "tests/unit/state_objects.h"

#include "agent/base/buffer.h"
#include "agent/observe/backends.h"
#include "agent/observe/matching.h"

#define CLUSTER(name, tier, priority, rules)                                                                 \
	"{\"apiVersion\":\"policy.networking.k8s.io/v1alpha2\",\"kind\":\"ClusterNetworkPolicy\",\"metadata\":{" \
	"\"name\":\"" name "\"},\"spec\":{\"tier\":\"" tier "\",\"priority\":" #priority                         \
	",\"subject\":{\"namespaces\":{}},\"egress\":[" rules "]}}"
#define RULE(action, to) "{\"action\":\"" action "\",\"to\":[" to "]}"
#define ALL "{\"networks\":[\"0.0.0.0/0\"]}"
#define POLICY(name, annotations, egress)                                                                             \
	"{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"NetworkPolicy\",\"metadata\":{\"namespace\":\"shop\","       \
	"\"name\":\"" name "\",\"annotations\":{" annotations "}},\"spec\":{\"podSelector\":{},\"policyTypes\":[\"Egress" \
	"\"],\"egress\":[" egress "]}}"
#define AUDIT "\"penstock.dev/mode\":\"audit\""
#define INTERCEPT(name, priority, action)                                                                   \
	"{\"apiVersion\":\"penstock.dev/v1alpha1\",\"kind\":\"InterceptPolicy\",\"metadata\":{\"name\":\"" name \
	"\"},\"spec\":{\"priority\":" #priority                                                                 \
	",\"subject\":{\"namespaces\":{}},\"egress\":[{\"name\":\"r\",\"action\":" action ",\"to\":[" ALL "]}]}}"
#define GW(protocols)                                                                                 \
	"{\"apiVersion\":\"penstock.dev/v1alpha1\",\"kind\":\"TransparentProxy\",\"metadata\":{\"name\":" \
	"\"gw\"},\"spec\":{\"port\":15001,\"protocols\":[" protocols "]}}"
#define NAMES(protocol) ",\"protocols\":[{" protocol "}]"
#define TO_GW "\"Intercept\",\"proxy\":\"gw\""
#define POD(name, ip, more, labels)                                                                                  \
	"{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"namespace\":\"shop\",\"name\":\"" name                  \
	"\",\"labels\":{" labels "}" more "},\"spec\":{\"nodeName\":\"here\",\"containers\":[{\"name\":\"c\",\"ports\":" \
	"[{\"name\":\"web\",\"containerPort\":8080}]}]},\"status\":{\"phase\":\"Running\",\"podIPs\":[{\"ip\":\"" ip     \
	"\"}]}}"
#define CHAT POD("chat", "10.0.0.2", "", "\"app\":\"chat\"")
#define API POD("api", "10.0.0.3", "", "\"app\":\"api\"")
#define NODE                                                                                                    \
	"{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"here\",\"labels\":{\"role\":\"gate\"}}," \
	"\"status\":{\"addresses\":[{\"type\":\"InternalIP\",\"address\":\"10.0.0.1\"}]}}"
#define WORKLOAD                                                                                            \
	"{\"apiVersion\":\"penstock.dev/v1alpha1\",\"kind\":\"Workload\",\"metadata\":{\"namespace\":\"shop\"," \
	"\"name\":\"bare\"},\"spec\":{\"ips\":[\"10.0.0.3\"]}}"

static struct snapshot *snapshot_of(const char *const *objects)
{
	struct snapshot *empty = snapshot_new("0123456789abcdef");
	struct draft *draft = draft_new(empty);
	for (; *objects; objects++)
		draft_put(draft, object_make(*objects, "local", 0));
	struct snapshot *made = draft_finish(draft, 1);
	snapshot_put(empty);
	return made;
}

static struct matching_end end_of(const struct snapshot *snapshot, const char *ip)
{
	struct matching_end end = {0};
	assert_int_equal(ip_parse(ip, &end.ip), 0);
	end.object = address_owner(snapshot, &end.ip);
	return end;
}

/* From chat's egress: "* one[0] Pass, two[1] Allow, …", with a star at what decides. */
static void expect(const char *const *objects, const char *peer, uint8_t protocol, uint16_t port, const char *wanted)
{
	struct snapshot *snapshot = snapshot_of(objects);
	struct matching question = {.snapshot = snapshot,
		.direction = EGRESS,
		.subject = end_of(snapshot, "10.0.0.2"),
		.peer = end_of(snapshot, peer),
		.protocol = protocol,
		.port = port};
	auto_free struct matched *list = NULL;
	struct buffer text = {0};
	size_t count = matching_rules(&question, &list);
	for (size_t i = 0; i < count; i++)
		buffer_printf(&text, "%s%s%s[%d] %s", i ? ", " : "", list[i].decides ? "* " : "", list[i].policy->name,
			list[i].index, matched_action(&list[i]));
	assert_string_equal(text.data ? text.data : "", wanted);
	buffer_free(&text);
	snapshot_put(snapshot);
}

#define EXPECT(peer, protocol, port, wanted, ...) \
	expect((const char *const[]){__VA_ARGS__, CHAT, API, NODE, NULL}, peer, protocol, port, wanted)

static void the_order_of_stages(void **state)
{
	EXPECT("10.0.0.9", 6, 80, "* last[0] Allow, last[-1] Deny, base[0] Deny, * a[0] Intercept, z[0] Bypass",
		INTERCEPT("z", 1, "\"Bypass\""), INTERCEPT("a", 1, TO_GW), CLUSTER("base", "Baseline", 1, RULE("Deny", ALL)),
		POLICY("last", "", "{}"));
	EXPECT("10.0.0.9", 6, 80, "* b[0] Accept, b[1] Deny, a[0] Deny", CLUSTER("a", "Admin", 7, RULE("Deny", ALL)),
		CLUSTER("b", "Admin", 3, RULE("Accept", ALL) "," RULE("Deny", ALL)));
}

static void pass_leads_past_its_tier(void **state)
{
	EXPECT("10.0.0.9", 6, 80, "* a[0] Pass, b[0] Deny, * base[0] Pass, other[0] Deny",
		CLUSTER("a", "Admin", 1, RULE("Pass", ALL)), CLUSTER("b", "Admin", 2, RULE("Deny", ALL)),
		CLUSTER("base", "Baseline", 1, RULE("Pass", ALL)), CLUSTER("other", "Baseline", 2, RULE("Deny", ALL)),
		POLICY("one", AUDIT, "{}"));
}

static void several_allow_or_isolate(void **state)
{
	EXPECT("10.0.0.9", 6, 80, "* a[0] Allow, b[0] Allow, b[1] Allow, a[-1] Deny, b[-1] Deny", POLICY("b", "", "{},{}"),
		POLICY("a", "", "{}"));
	EXPECT("10.0.0.9", 6, 80, "* a[-1] Deny, b[-1] Deny, i[0] Intercept", POLICY("b", "", ""), POLICY("a", "", ""),
		INTERCEPT("i", 1, TO_GW));
}

static void audit_has_no_part(void **state)
{
	EXPECT("10.0.0.9", 6, 80, "* b[0] Allow, b[-1] Deny", POLICY("a", AUDIT, ""), POLICY("b", "", "{}"));
}

#define EXCEPT "{\"to\":[{\"ipBlock\":{\"cidr\":\"10.0.0.0/24\",\"except\":[\"10.0.0.9/32\"]}}]}"
#define PODS "{\"to\":[{\"podSelector\":{\"matchLabels\":{\"app\":\"api\"}}}]}"
#define NAMED "{\"ports\":[{\"port\":\"web\"}]}"
#define RANGE "{\"ports\":[{\"port\":79,\"endPort\":81},{\"port\":53,\"protocol\":\"UDP\"}]}"

static void peers_and_ports(void **state)
{
	EXPECT("10.0.0.8", 6, 8080, "* p[0] Allow, p[-1] Deny", POLICY("p", "", EXCEPT "," PODS "," NAMED "," RANGE));
	EXPECT("10.0.0.9", 6, 80, "* p[3] Allow, p[-1] Deny", POLICY("p", "", EXCEPT "," PODS "," NAMED "," RANGE));
	EXPECT("10.0.0.9", 17, 53, "* p[3] Allow, p[-1] Deny", POLICY("p", "", EXCEPT "," PODS "," NAMED "," RANGE));
	EXPECT("10.0.0.9", 6, 53, "* p[-1] Deny", POLICY("p", "", EXCEPT "," PODS "," NAMED "," RANGE));
	EXPECT("10.0.0.3", 6, 8080, "* p[0] Allow, p[1] Allow, p[2] Allow, p[-1] Deny",
		POLICY("p", "", EXCEPT "," PODS "," NAMED "," RANGE));
	EXPECT("10.0.0.3", 1, 0, "* p[0] Allow, p[1] Allow, p[-1] Deny", POLICY("p", "", EXCEPT "," PODS "," NAMED));
	EXPECT("10.0.0.1", 6, 80, "* n[0] Accept", CLUSTER("n", "Admin", 1, RULE("Accept", "{\"nodes\":{}}")));
	EXPECT("10.0.0.9", 6, 80, "", CLUSTER("n", "Admin", 1, RULE("Accept", "{\"nodes\":{}}")));
	/* A proxy takes TCP, also one that there is none of. */
	EXPECT("10.0.0.9", 17, 80, "", INTERCEPT("i", 1, TO_GW));
	EXPECT("10.0.0.9", 17, 80, "* i[0] Intercept", INTERCEPT("i", 1, TO_GW), GW("\"TCP\",\"UDP\""));
	EXPECT("10.0.0.9", 6, 80, "", INTERCEPT("i", 1, TO_GW), GW("\"UDP\""));
	/* What the rule names it is about, whatever the proxy takes. */
	EXPECT("10.0.0.9", 17, 80, "* i[0] Intercept", INTERCEPT("i", 1, TO_GW NAMES("\"udp\":{}")));
	EXPECT("10.0.0.9", 17, 80, "* i[0] Intercept", INTERCEPT("i", 1, TO_GW NAMES("\"udp\":{}")), GW("\"TCP\""));
	EXPECT("10.0.0.9", 6, 80, "", INTERCEPT("i", 1, TO_GW NAMES("\"udp\":{}")), GW("\"TCP\""));
}

static void an_unknown_peer_fails_closed(void **state)
{
	EXPECT("10.0.0.9", 6, 80, "* b[0] Deny", CLUSTER("a", "Admin", 1, RULE("Accept", "{\"later\":{}}")),
		CLUSTER("b", "Admin", 2, RULE("Pass", "{\"later\":{}}")));
}

static void whose_address(void **state)
{
	static const char *const objects[] = {
		POD("old", "10.0.0.3", ",\"creationTimestamp\":\"2026-01-01T00:00:00Z\"", ""), NODE, NULL};
	static const char *const younger[] = {POD("old", "10.0.0.3", ",\"creationTimestamp\":\"2026-01-01T00:00:00Z\"", ""),
		POD("new", "10.0.0.3", ",\"creationTimestamp\":\"2026-01-02T00:00:00Z\"", ""), NULL};
	static const char *const bare[] = {
		POD("new", "10.0.0.3", ",\"creationTimestamp\":\"2026-01-02T00:00:00Z\"", ""), WORKLOAD, NULL};
	static const struct {
		const char *const *objects;
		const char *ip, *owner;
	} cases[] = {{objects, "10.0.0.3", "old"}, {objects, "10.0.0.1", "here"}, {objects, "10.0.0.4", NULL},
		{younger, "10.0.0.3", "new"}, {bare, "10.0.0.3", "bare"}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct snapshot *snapshot = snapshot_of(cases[i].objects);
		struct matching_end end = end_of(snapshot, cases[i].ip);
		if (cases[i].owner)
			assert_string_equal(end.object->name, cases[i].owner);
		else
			assert_null(end.object);
		snapshot_put(snapshot);
	}
}

/* ---- Services ---- */

#define SERVICE(name, port, node_port)                                                                       \
	"{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"namespace\":\"shop\",\"name\":\"" name      \
	"\"},\"spec\":{\"clusterIP\":\"10.96.0.1\",\"clusterIPs\":[\"10.96.0.1\"],\"ports\":[{\"name\":\"web\"," \
	"\"port\":" #port ",\"nodePort\":" #node_port "}]}}"
#define SLICE(name, service, endpoints)                                                                          \
	"{\"apiVersion\":\"discovery.k8s.io/v1\",\"kind\":\"EndpointSlice\",\"addressType\":\"IPv4\",\"metadata\":{" \
	"\"namespace\":\"shop\",\"name\":\"" name "\",\"labels\":{\"kubernetes.io/service-name\":\"" service "\"}}," \
	"\"ports\":[{\"name\":\"web\",\"port\":8080},{\"name\":\"other\",\"port\":1}],\"endpoints\":[" endpoints "]}"
#define READY(ip) "{\"addresses\":[\"" ip "\"]}"
#define ENDING(ip) "{\"addresses\":[\"" ip "\"],\"conditions\":{\"ready\":false,\"serving\":true,\"terminating\":true}}"
#define GONE(ip) "{\"addresses\":[\"" ip "\"],\"conditions\":{\"ready\":false,\"serving\":false,\"terminating\":true}}"

static void expect_backends(const char *const *objects, const char *address, uint16_t port, const char *wanted)
{
	struct snapshot *snapshot = snapshot_of(objects);
	struct backends backends;
	struct buffer text = {0};
	struct ip ip;
	char one[ADDR_TEXT_MAX];
	assert_int_equal(ip_parse(address, &ip), 0);
	backends_find(snapshot, &ip, 6, port, &backends);
	buffer_printf(&text, "%zu%s:", backends.use_count, backends.node_port && backends.use_count ? " node" : "");
	for (size_t i = 0; i < backends.count; i++) {
		const struct backends_use *use = backends.targets[i].context;
		ip_format(&backends.targets[i].ip, one);
		buffer_printf(&text, " %s %s:%u%s%s%s", use->service->name, one, backends.targets[i].port,
			use->terminating ? "!" : "", backends.owners[i] ? "=" : "",
			backends.owners[i] ? backends.owners[i]->name : "");
	}
	assert_string_equal(text.data, wanted);
	buffer_free(&text);
	backends_clear(&backends);
	snapshot_put(snapshot);
}

#define BACKENDS(address, port, wanted, ...) \
	expect_backends((const char *const[]){__VA_ARGS__, NULL}, address, port, wanted)

static void backends_of_a_service(void **state)
{
	BACKENDS("10.96.0.1", 80, "1: web 10.0.0.2:8080 web 10.0.0.3:8080", SERVICE("web", 80, 30080),
		SLICE("a", "web", READY("10.0.0.3") "," ENDING("10.0.0.4")),
		SLICE("b", "web", READY("10.0.0.2") "," READY("10.0.0.3")), SLICE("c", "other", READY("10.0.0.9")));
	BACKENDS("198.51.100.1", 30080, "1 node: web 10.0.0.3:8080", SERVICE("web", 80, 30080),
		SLICE("a", "web", READY("10.0.0.3")));
	BACKENDS("10.96.0.1", 80, "1: web 10.0.0.1:8080 web 10.0.0.2:8080=chat web 10.0.0.3:8080=bare",
		SERVICE("web", 80, 30080), NODE, CHAT, API, WORKLOAD,
		SLICE("a", "web", READY("10.0.0.3") "," READY("10.0.0.2") "," READY("10.0.0.1")));
	BACKENDS("10.96.0.1", 81, "0:", SERVICE("web", 80, 30080), SLICE("a", "web", READY("10.0.0.3")));
	BACKENDS("10.96.0.1", 80, "1: web 10.0.0.4:8080!", SERVICE("web", 80, 30080),
		SLICE("a", "web", ENDING("10.0.0.4") "," GONE("10.0.0.5")));
	BACKENDS("10.96.0.1", 80, "1:", SERVICE("web", 80, 30080), SLICE("a", "web", GONE("10.0.0.5")));
	BACKENDS("10.96.0.1", 80, "2: more 10.0.0.2:8080! web 10.0.0.3:8080", SERVICE("web", 80, 30080),
		SERVICE("more", 80, 30081), SLICE("a", "web", READY("10.0.0.3") "," ENDING("10.0.0.4")),
		SLICE("b", "more", ENDING("10.0.0.2")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_order_of_stages),
		cmocka_unit_test(pass_leads_past_its_tier),
		cmocka_unit_test(several_allow_or_isolate),
		cmocka_unit_test(audit_has_no_part),
		cmocka_unit_test(peers_and_ports),
		cmocka_unit_test(an_unknown_peer_fails_closed),
		cmocka_unit_test(whose_address),
		cmocka_unit_test(backends_of_a_service),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
