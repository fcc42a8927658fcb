/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services under random changes. After each, the entries are compared with what a look at every object says, both as
 * changed step by step and as compiled from nothing.
 *
 * PENSTOCK_SEED repeats a run; PENSTOCK_ROUNDS makes it longer.
 */
#include "tests/unit/compile_services.h"

#include <time.h>
#include "agent/base/buffer.h"

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
		cmocka_unit_test(changes_and_a_fresh_compile_are_what_the_objects_say),
	};
	return cmocka_run_group_tests_name("compile: Services, property", tests, NULL, NULL);
}
