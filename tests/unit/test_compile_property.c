/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random sequences of changes. After each, three must say the same: the tables that were changed step by step, tables
 * compiled from nothing, and an evaluator that looks at every object for every packet. The tables must also have
 * equally many entries, and the kernel's side, brought up to date from what is pending alone, the same ones.
 *
 * PENSTOCK_SEED repeats a run; PENSTOCK_ROUNDS makes it longer.
 */
#include "tests/unit/compile_lab.h"

#include <time.h>
#include "agent/base/buffer.h"

#define ROUNDS 12
#define STEPS 25
#define QUESTIONS 120

/* ---- chance ---- */

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

static const char *const spaces[] = {"n0", "n1", "n2"};
static const char *const apps[] = {"a", "b", "c"};
static const char *const port_names[] = {"http", "dns", "admin"};
static const char *const protocols[] = {"TCP", "UDP", "SCTP"};
static const unsigned ports[] = {0, 53, 80, 81, 443, 8080, 65535};
static const char *const networks[] = {"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/28", "10.0.0.4/30",
	"10.0.0.5/32", "192.0.2.0/24", "::/0", "fd00::/16", "fd00::4/126", "2001:db8::/32",
	/* of one address: of a pod that comes and goes, or of nobody ever */
	"10.0.0.6/32", "10.0.0.12/32", "fd00::5/128", "fd00::c/128", "192.0.2.1/32", "2001:db8::1/128"};
static const char *const strangers[] = {"192.0.2.1", "8.8.8.8", "10.200.0.1", "2001:db8::1", "2a00::1"};

/* ---- random objects, as JSON ---- */

static void make_selector(struct buffer *b, const char *key, const char *const *values, unsigned count)
{
	static const char *const operators[] = {"In", "NotIn", "Exists", "DoesNotExist"};
	if (one_in(4)) {
		buffer_puts(b, "{}");
	} else if (one_in(2)) {
		buffer_printf(b, "{'matchLabels':{'%s':'%s'}}", key, values[chance(count)]);
	} else {
		unsigned operator= chance(4);
		buffer_printf(b, "{'matchExpressions':[{'key':'%s','operator':'%s'", key, operators[operator]);
		if (operator<2)
			buffer_printf(b, ",'values':['%s','%s']", values[chance(count)], values[chance(count)]);
		buffer_puts(b, "}]}");
	}
}

static void make_pod_selector(struct buffer *b)
{
	make_selector(b, "app", apps, 3);
}

static void make_space_selector(struct buffer *b)
{
	static const char *const teams[] = {"red", "blue"};
	if (one_in(3))
		make_selector(b, "kubernetes.io/metadata.name", spaces, 3);
	else
		make_selector(b, "team", teams, 2);
}

static void make_peer(struct buffer *b)
{
	unsigned kind = chance(4), family = chance(sizeof(networks) / sizeof(networks[0]));
	if (!kind) {
		buffer_printf(b, "{'ipBlock':{'cidr':'%s'", networks[family]);
		if (family == 0 || family == 1)
			buffer_printf(b, ",'except':['%s']", networks[2 + chance(4)]);
		else if (family == 7)
			buffer_printf(b, ",'except':['%s','%s']", networks[8 + chance(3)], networks[9]);
		buffer_puts(b, "}}");
		return;
	}
	buffer_puts(b, "{");
	if (kind != 1) {
		buffer_puts(b, "'namespaceSelector':");
		make_space_selector(b);
	}
	if (kind != 2) {
		buffer_puts(b, kind == 1 ? "'podSelector':" : ",'podSelector':");
		make_pod_selector(b);
	}
	buffer_puts(b, "}");
}

static void make_port(struct buffer *b)
{
	buffer_printf(b, "{'protocol':'%s'", PICK(protocols));
	unsigned kind = chance(4), at = 1 + chance(5);
	if (kind == 1)
		buffer_printf(b, ",'port':'%s'", PICK(port_names));
	else if (kind == 2)
		buffer_printf(b, ",'port':%u,'endPort':%u", ports[at], ports[at + 1]);
	else if (kind)
		buffer_printf(b, ",'port':%u", ports[at]);
	buffer_puts(b, "}");
}

static void make_list(struct buffer *b, const char *name, void (*make)(struct buffer *b), unsigned most)
{
	buffer_printf(b, "'%s':[", name);
	for (unsigned i = chance(most + 1); i > 0; i--) {
		make(b);
		buffer_puts(b, i > 1 ? "," : "");
	}
	buffer_puts(b, "]");
}

static void make_rule_in(struct buffer *b)
{
	buffer_puts(b, "{");
	make_list(b, "from", make_peer, 2);
	buffer_puts(b, ",");
	make_list(b, "ports", make_port, 2);
	buffer_puts(b, "}");
}

static void make_rule_out(struct buffer *b)
{
	buffer_puts(b, "{");
	make_list(b, "to", make_peer, 2);
	buffer_puts(b, ",");
	make_list(b, "ports", make_port, 2);
	buffer_puts(b, "}");
}

static struct object *finish(struct buffer *b)
{
	auto_free char *text = buffer_take(b);
	return object_of(text);
}

static struct object *make_policy(unsigned number)
{
	static const char *const types[] = {"'Ingress'", "'Egress'", "'Ingress','Egress'"};
	struct buffer b = {0};
	buffer_printf(&b,
		"{'apiVersion':'networking.k8s.io/v1','kind':'NetworkPolicy','metadata':{'name':'p%u','namespace':'%s'},"
		"'spec':{'policyTypes':[%s],'podSelector':",
		number, spaces[number % 3], PICK(types));
	make_pod_selector(&b);
	buffer_puts(&b, ",");
	make_list(&b, "ingress", make_rule_in, 2);
	buffer_puts(&b, ",");
	make_list(&b, "egress", make_rule_out, 2);
	buffer_puts(&b, "}}");
	return finish(&b);
}

static struct object *make_pod(unsigned number)
{
	static const char *const phases[] = {"Running", "Running", "Running", "Succeeded"};
	struct buffer b = {0};
	buffer_printf(&b,
		"{'apiVersion':'v1','kind':'Pod','metadata':{'name':'w%u','namespace':'%s','creationTimestamp':"
		"'2026-01-0%uT00:00:00Z','labels':{",
		number, spaces[number % 3], 1 + chance(9));
	if (!one_in(4))
		buffer_printf(&b, "'app':'%s'", PICK(apps));
	buffer_printf(&b, "}},'spec':{'nodeName':'%s','containers':[{'name':'c','ports':[", number < 8 ? "here" : "there");
	if (one_in(2))
		buffer_printf(&b, "{'name':'%s','containerPort':%u,'protocol':'%s'}", PICK(port_names), ports[1 + chance(6)],
			PICK(protocols));
	/* Now and then two have the same address. */
	unsigned ip = one_in(10) ? chance(16) : number;
	buffer_printf(
		&b, "]}]},'status':{'phase':'%s','podIPs':[{'ip':'10.0.0.%u'},{'ip':'fd00::%x'}]}}", PICK(phases), ip, number);
	return finish(&b);
}

static struct object *make_namespace(unsigned number)
{
	static const char *const labels[] = {"", "'team':'red'", "'team':'blue'"};
	struct buffer b = {0};
	buffer_printf(&b, "{'apiVersion':'v1','kind':'Namespace','metadata':{'name':'%s','labels':{%s}}}",
		spaces[number % 3], PICK(labels));
	return finish(&b);
}

/* ---- interception ---- */

static const char *const proxies[] = {"p0", "p1", "p2"};
static const char *const transports[] = {"tcp", "udp"};

static void make_ours_peer(struct buffer *b)
{
	switch (chance(4)) {
	case 0:
		buffer_printf(b, "{'networks':['%s','%s']}", PICK(networks), PICK(networks));
		return;
	case 1:
		buffer_printf(b, one_in(3) ? "{'nodes':{}}" : "{'nodes':{'matchLabels':{'role':'gate'}}}");
		return;
	case 2:
		buffer_puts(b, "{'namespaces':");
		make_space_selector(b);
		break;
	default:
		buffer_puts(b, "{'pods':{'namespaceSelector':");
		make_space_selector(b);
		buffer_puts(b, ",'podSelector':");
		make_pod_selector(b);
		buffer_puts(b, "}");
	}
	buffer_puts(b, "}");
}

static void make_ours_rule(struct buffer *b, const char *peers)
{
	unsigned at = 1 + chance(5);
	buffer_printf(b, "{'%s':[", peers);
	make_ours_peer(b);
	if (one_in(2)) {
		buffer_puts(b, ",");
		make_ours_peer(b);
	}
	buffer_puts(b, "]");
	if (one_in(3))
		buffer_puts(b, ",'action':'Bypass'");
	else
		buffer_printf(b, ",'action':'Intercept','proxy':'%s'", PICK(proxies));
	if (one_in(2))
		buffer_printf(b,
			",'protocols':[{'%s':{'destinationPort':{'range':{'start':%u,'end':%u}}}},{'%s':{"
			"'destinationPort':{'number':%u}}}%s]",
			PICK(transports), ports[at], ports[at + 1], PICK(transports), PICK(ports) | 1,
			!strcmp(peers, "from") && one_in(3) ? ",{'destinationNamedPort':'http'}"
			: one_in(4)                         ? ",{'udp':{}}"
												: "");
	buffer_puts(b, "}");
}

static void make_ours_in(struct buffer *b)
{
	make_ours_rule(b, "from");
}

static void make_ours_out(struct buffer *b)
{
	make_ours_rule(b, "to");
}

static struct object *make_intercept(unsigned number)
{
	struct buffer b = {0};
	buffer_printf(&b,
		"{'apiVersion':'penstock.dev/v1alpha1','kind':'InterceptPolicy','metadata':{'name':'i%u'},'spec':"
		"{'priority':%u,'subject':",
		number, chance(3));
	if (one_in(3)) {
		buffer_puts(&b, "{'namespaces':");
		make_space_selector(&b);
	} else {
		buffer_puts(&b, "{'pods':{'namespaceSelector':");
		make_space_selector(&b);
		buffer_puts(&b, ",'podSelector':");
		make_pod_selector(&b);
		buffer_puts(&b, "}");
	}
	buffer_puts(&b, "},");
	make_list(&b, "ingress", make_ours_in, 2);
	buffer_puts(&b, ",");
	make_list(&b, "egress", make_ours_out, 2);
	buffer_puts(&b, "}}");
	return finish(&b);
}

static struct object *make_proxy(unsigned number)
{
	static const char *const taken[] = {"'TCP'", "'TCP'", "'UDP'", "'TCP','UDP'"};
	struct buffer b = {0};
	buffer_printf(&b,
		"{'apiVersion':'penstock.dev/v1alpha1','kind':'TransparentProxy','metadata':{'name':'%s'},'spec':{'port':%u,"
		"'protocols':[%s]}}",
		proxies[number], 15000 + chance(4), PICK(taken));
	return finish(&b);
}

/* The second one now and then claims what is a pod's. */
static struct object *make_node(unsigned number)
{
	struct buffer b = {0};
	buffer_printf(&b,
		"{'apiVersion':'v1','kind':'Node','metadata':{'name':'node%u','labels':{%s}},'status':{'addresses':"
		"[{'type':'InternalIP','address':'%s'},{'type':'InternalIP','address':'%s'}]}}",
		number, one_in(2) ? "'role':'gate'" : "", number ? "8.8.8.8" : "192.0.2.1",
		!number     ? "2001:db8::1"
		: one_in(2) ? "10.0.0.3"
					: "2a00::1");
	return finish(&b);
}

/* ---- the world: at most so many of each, present or not ---- */

enum { PODS = 16, POLICIES = 12, SPACES = 3, INTERCEPTS = 6, PROXIES = 3, NODES = 2 };
enum {
	FIRST_SPACE = PODS + POLICIES,
	FIRST_INTERCEPT = FIRST_SPACE + SPACES,
	FIRST_PROXY = FIRST_INTERCEPT + INTERCEPTS,
	FIRST_NODE = FIRST_PROXY + PROXIES,
	ALL = FIRST_NODE + NODES
};

struct world {
	struct object *objects[ALL];
};

static struct object *make_any(unsigned slot)
{
	if (slot < PODS)
		return make_pod(slot);
	if (slot < PODS + POLICIES)
		return make_policy(slot - PODS);
	if (slot < FIRST_INTERCEPT)
		return make_namespace(slot - FIRST_SPACE);
	if (slot < FIRST_PROXY)
		return make_intercept(slot - FIRST_INTERCEPT);
	return slot < FIRST_NODE ? make_proxy(slot - FIRST_PROXY) : make_node(slot - FIRST_NODE);
}

static struct change world_change(struct world *world, unsigned slot)
{
	struct change change = {.old = world->objects[slot]};
	world->objects[slot] = change.old && one_in(3) ? NULL : make_any(slot);
	change.new = world->objects[slot];
	return change;
}

/* ---- the naive evaluator ---- */

static const struct object *world_namespace(const struct world *world, const char *name)
{
	for (unsigned i = FIRST_SPACE; i < FIRST_INTERCEPT; i++)
		if (world->objects[i] && !strcmp(world->objects[i]->name, name))
			return world->objects[i];
	return NULL;
}

static bool older(const struct object *a, const struct object *b)
{
	if (a->created != b->created)
		return a->created < b->created;
	int order = strcmp(a->namespace, b->namespace);
	return order ? order > 0 : strcmp(a->name, b->name) > 0;
}

static const struct object *world_pod(const struct world *world, const struct ip *ip)
{
	const struct object *best = NULL;
	for (unsigned i = 0; i < PODS; i++) {
		const struct object *pod = world->objects[i];
		for (size_t j = 0; pod && !pod->workload->ended && j < pod->workload->ip_count; j++)
			if (ip_equal(&pod->workload->ips[j], ip) && (!best || older(best, pod)))
				best = pod;
	}
	return best;
}

static const struct object *world_node(const struct world *world, const struct ip *ip)
{
	for (unsigned i = FIRST_NODE; i < ALL; i++) {
		const struct object *node = world->objects[i];
		for (size_t j = 0; node && j < node->node->ip_count; j++)
			if (ip_equal(&node->node->ips[j], ip))
				return node;
	}
	return NULL;
}

static bool space_fits(const struct world *world, const struct selector *selector, const char *name)
{
	const struct object *object = world_namespace(world, name);
	struct label list[8] = {{(char *)"kubernetes.io/metadata.name", (char *)name}};
	struct labels labels = {list, 1};
	for (size_t i = 0; object && i < object->labels.count; i++)
		list[labels.count++] = object->labels.list[i]; /* "team" sorts behind */
	return selector_matches(selector, &labels);
}

static bool peer_fits(const struct world *world, const struct peer *peer, const struct object *policy,
	const struct object *pod, const struct ip *ip)
{
	if (peer->type == PEER_NETWORK) {
		if (!cidr_contains_ip(&peer->cidr, ip))
			return false;
		for (size_t i = 0; i < peer->except_count; i++)
			if (cidr_contains_ip(&peer->except[i], ip))
				return false;
		return true;
	}
	if (peer->type == PEER_NODES) {
		const struct object *node = pod ? NULL : world_node(world, ip);
		return node && selector_matches(peer->nodes, &node->labels);
	}
	if (!pod)
		return false;
	if (peer->namespaces ? !space_fits(world, peer->namespaces, pod->namespace)
						 : strcmp(policy->namespace, pod->namespace) != 0)
		return false;
	return !peer->pods || selector_matches(peer->pods, &pod->labels);
}

static bool port_fits(const struct port_match *match, const struct object *destination, uint8_t protocol, uint16_t port)
{
	if (match->protocol != PROTOCOL_ANY && match->protocol != protocol)
		return false;
	if (!match->name)
		return match->first <= port && port <= match->last;
	for (size_t i = 0; destination && i < destination->workload->port_count; i++) {
		const struct named_port *named = &destination->workload->ports[i];
		if (!strcmp(named->name, match->name) && named->protocol == protocol && named->port == port)
			return true;
	}
	return false;
}

struct expected {
	bool local;
	enum ps_action action;
	const struct object *policy;
	int index;
	/* of the InterceptPolicy that decides, if one does */
	const struct object *interceptor;
	int intercept_index;
	bool hands;   /* it is no Bypass */
	bool steered; /* some ingress rule may hand over what comes to the subject */
};

static bool proxy_has(const struct world *world, const char *name, uint8_t protocol)
{
	for (unsigned i = FIRST_PROXY; i < FIRST_NODE; i++) {
		const struct object *proxy = world->objects[i];
		if (proxy && !strcmp(proxy->name, name))
			return protocol == PROTOCOL_TCP ? proxy->proxy->tcp : protocol == PROTOCOL_UDP && proxy->proxy->udp;
	}
	return protocol == PROTOCOL_TCP;
}

static bool rule_fits(const struct world *world, const struct rule *rule, const struct object *policy,
	const struct object *peer, const struct ip *peer_ip, const struct object *destination,
	const struct judge_query *query)
{
	bool met = rule->any_peer, open = rule->any_port;
	for (size_t i = 0; i < rule->peer_count && !met; i++)
		met = peer_fits(world, &rule->peers[i], policy, peer, peer_ip);
	/* Without a protocol it is about those of its proxy. */
	bool taken = rule->action != RULE_INTERCEPT || proxy_has(world, rule->proxy, query->protocol);
	open = open && taken;
	for (size_t i = 0; i < rule->port_count && !open; i++)
		open = port_fits(&rule->ports[i], destination, query->protocol, query->port) &&
			   (taken || rule->ports[i].protocol != PROTOCOL_ANY);
	return met && open;
}

static int policy_order(const struct object *a, const struct object *b)
{
	int order = strcmp(a->namespace, b->namespace);
	return order ? order : strcmp(a->name, b->name);
}

static bool intercept_before(const struct object *a, const struct object *b)
{
	if (a->policy->priority != b->policy->priority)
		return a->policy->priority < b->policy->priority;
	return strcmp(a->name, b->name) < 0;
}

/* What InterceptPolicies say; of a connection that policy refuses, which rule it would meet. */
static void expect_interception(const struct world *world, enum direction direction, const struct judge_query *query,
	const struct object *subject, const struct object *peer, struct expected *ret)
{
	const struct ip *other = direction == EGRESS ? &query->destination : &query->source;
	const struct object *destination = direction == EGRESS ? peer : subject;
	for (unsigned i = FIRST_INTERCEPT; i < FIRST_PROXY; i++) {
		const struct object *policy = world->objects[i];
		if (!policy || !space_fits(world, policy->policy->namespaces, subject->namespace) ||
			(policy->policy->pods && !selector_matches(policy->policy->pods, &subject->labels)))
			continue;
		for (size_t j = 0; j < policy->policy->rule_count[direction]; j++) {
			const struct rule *rule = &policy->policy->rules[direction][j];
			bool hands = rule->action == RULE_INTERCEPT;
			ret->steered |= direction == INGRESS && hands;
			if ((ret->interceptor && !intercept_before(policy, ret->interceptor)) ||
				!rule_fits(world, rule, policy, peer, other, destination, query))
				continue;
			ret->interceptor = policy;
			ret->intercept_index = (int)j;
		}
	}
	ret->hands =
		ret->interceptor && ret->interceptor->policy->rules[direction][ret->intercept_index].action == RULE_INTERCEPT;
	if (ret->action == PS_ACTION_ALLOW && ret->hands)
		ret->action = PS_ACTION_INTERCEPT;
}

static struct expected expect(const struct world *world, enum direction direction, const struct judge_query *query)
{
	const struct ip *own = direction == EGRESS ? &query->source : &query->destination;
	const struct ip *other = direction == EGRESS ? &query->destination : &query->source;
	const struct object *subject = world_pod(world, own), *peer = world_pod(world, other);
	const struct object *destination = direction == EGRESS ? peer : subject;
	const struct object *isolation = NULL;
	struct expected best = {.local = subject && !strcmp(subject->workload->node, "here")};
	for (unsigned i = PODS; best.local && i < PODS + POLICIES; i++) {
		const struct object *policy = world->objects[i];
		if (!policy || !policy->policy->isolates[direction] || strcmp(policy->namespace, subject->namespace) ||
			(policy->policy->pods && !selector_matches(policy->policy->pods, &subject->labels)))
			continue;
		if (!isolation || policy_order(policy, isolation) < 0)
			isolation = policy;
		for (size_t j = 0; j < policy->policy->rule_count[direction]; j++) {
			if (!rule_fits(world, &policy->policy->rules[direction][j], policy, peer, other, destination, query))
				continue;
			if (!best.policy || policy_order(policy, best.policy) < 0) {
				best.policy = policy;
				best.index = (int)j;
			}
			break;
		}
	}
	if (isolation && !best.policy)
		best = (struct expected){.local = true, .action = PS_ACTION_DENY, .policy = isolation, .index = -1};
	if (best.local)
		expect_interception(world, direction, query, subject, peer, &best);
	return best;
}

/* ---- comparison ---- */

static void assert_expected(
	const struct rulebook *book, const struct expected *expected, bool local, const struct ps_verdict *verdict)
{
	assert_int_equal(expected->local, local);
	if (!local)
		return;
	assert_int_equal(expected->action, verdict->action);
	const struct rule_identity *taker = rulebook_find(book, verdict->intercept_rule);
	assert_int_equal(!taker, !expected->interceptor);
	if (taker) {
		assert_string_equal(taker->name, expected->interceptor->name);
		assert_int_equal(taker->index, expected->intercept_index);
		assert_int_equal(verdict->proxy != PS_PROXY_NONE, expected->hands);
		assert_true(taker->live);
	}
	const struct rule_identity *rule = rulebook_find(book, verdict->rule);
	assert_int_equal(!rule, !expected->policy);
	if (!rule)
		return;
	assert_string_equal(rule->name, expected->policy->name);
	assert_string_equal(rule->namespace, expected->policy->namespace);
	assert_int_equal(rule->index, expected->index);
	assert_true(rule->live);
}

/* Egress rules first; ingress rules when none of those matched. */
static void assert_outcome(
	const struct expected *out, const struct expected *in, const struct tables *tables, const struct judge_query *query)
{
	struct judge_answer answer;
	enum ps_action action = PS_ACTION_ALLOW;
	enum ps_direction direction = PS_EGRESS;
	tables_judge(tables, query, &answer);
	if (out->action == PS_ACTION_DENY || in->action == PS_ACTION_DENY) {
		action = PS_ACTION_DENY;
	} else if (out->interceptor || in->interceptor) {
		direction = out->interceptor ? PS_EGRESS : PS_INGRESS;
		action = out->interceptor ? out->action : in->action;
	}
	assert_int_equal(answer.action, action);
	if (action == PS_ACTION_INTERCEPT)
		assert_int_equal(answer.direction, direction);
}

static const struct ps_addr *table_address(const struct tables *tables, const struct ip *ip)
{
	struct ps_key_addr4 key4 = {0};
	struct ps_key_addr6 key6 = {0};
	memcpy(key6.addr, ip->bytes, 16);
	if (ip->family == 6)
		return tables_get(tables, TABLE_addr6, &key6);
	key4.addr = ip_v4(ip);
	return tables_get(tables, TABLE_addr4, &key4);
}

static void assert_steered(const struct tables *tables, const struct ip *ip, bool steered)
{
	const struct ps_addr *found = table_address(tables, ip);
	assert_int_equal(found && found->flags & PS_ADDR_STEERED, steered);
}

static void question(struct judge_query *ret)
{
	struct ip *ends[] = {&ret->source, &ret->destination};
	*ret = (struct judge_query){.port = (uint16_t)PICK(ports)};
	ret->protocol = one_in(8) ? ICMP : PICK(((uint8_t[]){PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_SCTP}));
	for (int i = 0; i < 2; i++) {
		char text[32];
		snprintf(text, sizeof(text), chance(2) ? "10.0.0.%u" : "fd00::%x", chance(PODS));
		assert_int_equal(ip_parse(one_in(5) ? PICK(strangers) : text, ends[i]), 0);
	}
}

static void bind_all(struct compiler *c)
{
	size_t at = 0;
	const struct endpoint *endpoint;
	while ((endpoint = compiler_endpoint_next(c, &at)))
		compiler_bind(c, endpoint->id, true);
}

/* Brings one side up to date as the datapath does: only what is pending. */
static void kernel_follow(struct tables *tables, struct map kernel[TABLE_COUNT], int side)
{
	for (int id = 0; id < TABLE_COUNT; id++) {
		struct table *table = &tables->table[id];
		size_t at = 0;
		const void *key;
		void *value;
		while (map_next(&table->pending[side], &at, &key, &value)) {
			const void *wanted = map_get(&table->wanted, key);
			if (wanted)
				map_put(&kernel[id], key, wanted);
			else
				map_delete(&kernel[id], key);
		}
		map_clear(&table->pending[side]);
		assert_int_equal(kernel[id].count, table->wanted.count);
		for (at = 0; map_next(&table->wanted, &at, &key, &value);) {
			const void *there = map_get(&kernel[id], key);
			assert_non_null(there);
			assert_memory_equal(there, value, table_infos[id].value_size);
		}
	}
}

/* Networks of one address are with the addresses. */
static void single_addresses_check(const struct tables *tables)
{
	const void *key;
	void *value;
	for (size_t at = 0; map_next(&tables->table[TABLE_net4].wanted, &at, &key, &value);)
		assert_in_range(((const struct ps_key_net4 *)key)->prefix_length, 32, 63);
	for (size_t at = 0; map_next(&tables->table[TABLE_net6].wanted, &at, &key, &value);)
		assert_in_range(((const struct ps_key_net6 *)key)->prefix_length, 32, 159);
}

static void world_check(const struct world *world, struct compiler *c, const struct rulebook *book)
{
	struct rulebook *fresh_book = rulebook_new(1);
	struct compiler *fresh = compiler_new("here", fresh_book);
	struct change changes[ALL];
	size_t count = 0;
	for (unsigned i = 0; i < ALL; i++)
		if (world->objects[ALL - 1 - i])
			changes[count++] = (struct change){NULL, world->objects[ALL - 1 - i]};
	compiler_update(fresh, changes, count, NULL);
	bind_all(fresh);
	for (int id = 0; id < TABLE_COUNT; id++)
		assert_int_equal(compiler_tables(fresh)->table[id].wanted.count, compiler_tables(c)->table[id].wanted.count);
	single_addresses_check(compiler_tables(c));
	assert_int_equal(fresh->classes.count, c->classes.count);
	assert_int_equal(fresh->rows.count, c->rows.count);
	for (int i = 0; i < QUESTIONS; i++) {
		struct judge_query query;
		struct judge_answer answer;
		question(&query);
		struct expected out = expect(world, EGRESS, &query), in = expect(world, INGRESS, &query);
		tables_judge(compiler_tables(c), &query, &answer);
		assert_expected(book, &out, answer.egress_local, &answer.egress);
		assert_expected(book, &in, answer.ingress_local, &answer.ingress);
		tables_judge(compiler_tables(fresh), &query, &answer);
		assert_expected(fresh_book, &out, answer.egress_local, &answer.egress);
		assert_expected(fresh_book, &in, answer.ingress_local, &answer.ingress);
		assert_outcome(&out, &in, compiler_tables(c), &query);
		assert_outcome(&out, &in, compiler_tables(fresh), &query);
		assert_steered(compiler_tables(c), &query.destination, in.steered);
		assert_steered(compiler_tables(fresh), &query.destination, in.steered);
	}
	compiler_free(fresh);
	rulebook_free(fresh_book);
}

static void run_round(void)
{
	struct world world = {0};
	struct map kernel[2][TABLE_COUNT];
	struct rulebook *book = rulebook_new(1);
	struct compiler *c = compiler_new("here", book);
	for (int side = 0; side < 2; side++)
		for (int id = 0; id < TABLE_COUNT; id++)
			map_init(&kernel[side][id], table_infos[id].key_size, table_infos[id].value_size);
	for (int step = 0; step < STEPS; step++) {
		struct change changes[ALL];
		bool used[ALL] = {0};
		size_t count = 0;
		for (unsigned i = step ? 1 + chance(4) : ALL; i > 0; i--) {
			unsigned slot = chance(ALL);
			if (used[slot])
				continue;
			used[slot] = true;
			changes[count++] = world_change(&world, slot);
		}
		compiler_update(c, changes, count, NULL);
		for (size_t i = 0; i < count; i++)
			object_put(changes[i].old);
		bind_all(c);
		world_check(&world, c, book);
		if (one_in(2))
			kernel_follow(compiler_tables(c), kernel[step % 2], step % 2);
	}
	for (int side = 0; side < 2; side++)
		for (int id = 0; id < TABLE_COUNT; id++)
			map_clear(&kernel[side][id]);
	compiler_free(c);
	rulebook_free(book);
	for (unsigned i = 0; i < ALL; i++)
		object_put(world.objects[i]);
}

static void changes_and_a_fresh_compile_agree_with_the_evaluator(void **state)
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
		cmocka_unit_test(changes_and_a_fresh_compile_agree_with_the_evaluator),
	};
	return cmocka_run_group_tests_name("compile: property", tests, NULL, NULL);
}
