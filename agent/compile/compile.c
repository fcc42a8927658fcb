/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/compile.h"
#include "agent/base/mem.h"
#include "agent/compile/class.h"
#include "agent/compile/compiled.h"
#include "agent/compile/compiler.h"
#include "agent/compile/endpoint.h"
#include "agent/compile/host.h"
#include "agent/compile/network.h"
#include "agent/compile/pair.h"
#include "agent/compile/port.h"
#include "agent/compile/profile.h"
#include "agent/compile/proxy.h"
#include "agent/compile/row.h"
#include "agent/compile/service.h"
#include "agent/compile/space.h"
#include "agent/compile/term.h"

static void lists_init(struct compiler *c)
{
	struct link *heads[] = {&c->all_groups, &c->dirty_groups, &c->local_groups, &c->generic_terms, &c->node_terms,
		&c->fresh_terms, &c->ended_terms, &c->touched_prefixes, &c->ended_prefixes, &c->dirty_addresses,
		&c->dirty_endpoints, &c->dirty_crossings, &c->dirty_prefixes, &c->fresh_classes, &c->idle_classes,
		&c->global_compiled, &c->fresh_profiles, &c->idle_profiles, &c->renewed_profiles, &c->all_rows, &c->fresh_rows,
		&c->idle_rows, &c->all_port_terms, &c->ended_port_terms, &c->fresh_port_classes, &c->ended_port_classes,
		&c->dirty_services, &c->dirty_entries, &c->dirty_backends, &c->loose_backends};
	for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
		link_init(heads[i]);
}

struct compiler *compiler_new(const char *node_name, struct rulebook *book)
{
	struct compiler *c = mem_alloc(sizeof(*c));
	c->node_name = str_dup(node_name ? node_name : "");
	c->book = book;
	c->endpoint_next = c->proxy_next = 1;
	ids_take(&c->endpoint_ids); /* 0 means none */
	ids_take(&c->proxy_ids);
	tables_init(&c->tables);
	map_init(&c->addresses, 16, sizeof(struct address *));
	lists_init(c);
	ports_init(c);
	classes_init(c);
	profiles_init(c);
	rows_init(c);
	networks_init(c);
	services_init(c);
	return c;
}

static void change_apply(struct compiler *c, const struct object *old, const struct object *new)
{
	const struct object *either = new ? new : old;
	switch (either->kind) {
	case KIND_NAMESPACE:
		space_describe(c, either->name, new);
		break;
	case KIND_POD:
	case KIND_WORKLOAD:
	case KIND_NODE:
		node_addresses_update(c, old, new);
		holder_update(c, old, new);
		break;
	case KIND_SERVICE:
		service_update(c, either, new);
		break;
	case KIND_ENDPOINT_SLICE:
		slice_update(c, either, new);
		break;
	case KIND_NETWORK_POLICY:
	case KIND_CLUSTER_NETWORK_POLICY:
	case KIND_INTERCEPT_POLICY:
		compiled_update(c, old, new);
		break;
	case KIND_TRANSPARENT_PROXY:
		if (proxy_update(c, old, new))
			compiled_proxy_changed(c, either->name);
		break;
	default:
		break;
	}
}

static void groups_sweep(struct compiler *c)
{
	LINKS_EACH_SAFE(at, after, &c->dirty_groups)
	{
		struct group *group = OWNER_OF(at, struct group, dirty);
		link_remove(at);
		group->touched = 0;
		if (group->host)
			host_sweep(c, group->host);
		else if (link_alone(&group->holders))
			group_free(c, group);
	}
}

/* The order is that of compiler.h. */
static void settle(struct compiler *c)
{
	profiles_refresh(c);
	terms_refresh(c);
	networks_refresh(c);
	addresses_place(c);
	classes_refresh(c);
	classes_number(c);
	profiles_number(c);
	pairs_refresh(c);
	rows_retire(c);
	rows_number(c);
	rows_emit(c, ports_refresh(c));
	pairs_emit(c);
	profiles_emit(c);
	classes_emit(c);
	addresses_emit(c);
	services_emit(c);

	ports_sweep(c);
	rows_sweep(c);
	profiles_sweep(c);
	classes_sweep(c);
	networks_sweep(c);
	terms_sweep(c);
	groups_sweep(c);
}

void compiler_update(struct compiler *c, const struct change *changes, size_t count, struct errors *warnings)
{
	c->warnings = warnings;
	for (size_t i = 0; i < count; i++)
		change_apply(c, changes[i].old, changes[i].new);
	settle(c);
	c->warnings = NULL;
}

struct tables *compiler_tables(struct compiler *c)
{
	return &c->tables;
}

/* ---- the end: everything is taken away, so that nothing holds anything ---- */

/* The values, so that the names can change meanwhile. The caller frees. */
static void **names_list(const struct names *names, size_t *count)
{
	void **list = mem_array(names->count, sizeof(*list));
	size_t at = 0;
	const char *key;
	*count = 0;
	while (*count < names->count && names_next(names, &at, &key, &list[*count]))
		++*count;
	return list;
}

static void policies_withdraw(struct compiler *c)
{
	size_t count;
	auto_free struct compiled **list = (struct compiled **)names_list(&c->compiled, &count);
	for (size_t i = 0; i < count; i++) {
		auto_object struct object *object = object_get(list[i]->object);
		compiled_update(c, object, NULL);
	}
}

/* What is still there after the policies are gone is there by its object alone. */
static void descriptions_withdraw(struct compiler *c)
{
	size_t count;
	auto_free struct proxy_slot **proxies = (struct proxy_slot **)names_list(&c->proxies, &count);
	for (size_t i = 0; i < count; i++) {
		auto_object struct object *object = object_get(proxies[i]->object);
		proxy_update(c, object, NULL);
	}
	auto_free struct space **spaces = (struct space **)names_list(&c->spaces, &count);
	for (size_t i = 0; i < count; i++) {
		auto_free char *name = str_dup(spaces[i]->name);
		space_describe(c, name, NULL);
	}
}

void compiler_free(struct compiler *c)
{
	if (!c)
		return;
	tables_clear(&c->tables);
	services_free(c);
	holders_free(c);
	policies_withdraw(c);
	settle(c);
	descriptions_withdraw(c);
	ports_free(c);
	rows_free(c);
	profiles_free(c);
	networks_free(c);
	classes_free(c);
	tables_clear(&c->tables);
	intern_clear(&c->groups);
	map_clear(&c->addresses);
	names_clear(&c->spaces);
	names_clear(&c->port_names);
	names_clear(&c->terms);
	names_clear(&c->pod_anchors);
	names_clear(&c->space_anchors);
	names_clear(&c->compiled);
	names_clear(&c->proxies);
	names_clear(&c->hosts);
	ids_free(&c->term_ids);
	ids_free(&c->endpoint_ids);
	ids_free(&c->proxy_ids);
	slots_free(&c->term_by_id);
	slots_free(&c->endpoints);
	slots_free(&c->proxy_by_number);
	free(c->pairs);
	free(c->parted);
	free(c->node_name);
	free(c);
}
