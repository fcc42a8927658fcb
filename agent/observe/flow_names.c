/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/flow_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "agent/base/map.h"
#include "agent/base/mem.h"
#include "agent/observe/matching.h"
#include "agent/observe/rule_list.h"
#include "agent/state/snapshot.h"

/* Addresses whose workload has gone are remembered for connections that it had, so many at most. */
#define FORMER_MAX 8192
#define NAME_MAX_BYTES 512

struct text {
	uint32_t references;
	char text[];
};

/* Rules change their names and their proxies under one number: flows keep what was so when they came. */
struct kept_rule {
	struct rule_item item; /* first: a flow points to it */
	uint32_t references;
};

/* Times are ns, CLOCK_MONOTONIC. */
struct former {
	struct text *name;
	uint64_t seen; /* last known to have the address */
	uint64_t gone; /* first known not to */
};

struct flow_names {
	const struct snapshot *snapshot; /* a reference; NULL before */
	uint64_t looked;                 /* when it was last known to hold */
	struct rule_list *rules, *rules_before;
	struct map owners;     /* address → object of the snapshot */
	struct map contended;  /* addresses that several objects had */
	struct map interfaces; /* ifindex → struct text, a reference each */
	struct map former;     /* address → struct former */
	struct names texts;    /* text → struct text */
	struct map kept;       /* rule id → struct kept_rule, the newest */
	struct map proxies;    /* rule id → struct text, the last that was known; a reference each */
};

struct flow_names *flow_names_new(void)
{
	struct flow_names *names = mem_alloc(sizeof(*names));
	map_init(&names->owners, 16, sizeof(struct object *));
	map_init(&names->contended, 16, 0);
	map_init(&names->interfaces, sizeof(uint32_t), sizeof(struct text *));
	map_init(&names->former, 16, sizeof(struct former));
	map_init(&names->kept, sizeof(uint32_t), sizeof(struct kept_rule *));
	map_init(&names->proxies, sizeof(uint32_t), sizeof(struct text *));
	return names;
}

/* ---- texts ---- */

static struct text *text_take(struct flow_names *names, const char *from)
{
	struct text *text = names_get(&names->texts, from);
	if (!text) {
		size_t size = strlen(from) + 1;
		text = mem_alloc(sizeof(*text) + size);
		memcpy(text->text, from, size);
		names_put(&names->texts, from, text);
	}
	text->references++;
	return text;
}

static struct text *text_of(const char *text)
{
	return (struct text *)(uintptr_t)(text - offsetof(struct text, text));
}

static void text_put(struct flow_names *names, struct text *text)
{
	if (--text->references)
		return;
	names_delete(&names->texts, text->text);
	free(text);
}

static void text_drop(struct flow_names *names, const char **text)
{
	if (*text)
		text_put(names, text_of(*text));
	*text = NULL;
}

static void text_keep(const char *text)
{
	if (text)
		text_of(text)->references++;
}

static struct text *workload_text(struct flow_names *names, const char *namespace, const char *name)
{
	char text[NAME_MAX_BYTES];
	snprintf(text, sizeof(text), "%s/%s", namespace, name);
	return text_take(names, text);
}

static struct text *object_text(struct flow_names *names, const struct object *object)
{
	return workload_text(names, object->namespace, object->name);
}

/* ---- whose address ---- */

static void *map_pointer(const struct map *map, const void *key)
{
	void *value = NULL;
	const void *place = map_get(map, key);
	if (place)
		memcpy(&value, place, sizeof(value));
	return value;
}

static void former_forget(struct flow_names *names, const uint8_t *address)
{
	struct former former;
	const void *place = map_get(&names->former, address);
	if (!place)
		return;
	memcpy(&former, place, sizeof(former));
	map_delete(&names->former, address);
	text_put(names, former.name);
}

static void formers_forget(struct flow_names *names)
{
	const void *key;
	void *value;
	for (size_t at = 0; map_next(&names->former, &at, &key, &value);) {
		struct former former;
		memcpy(&former, value, sizeof(former));
		text_put(names, former.name);
	}
	map_clear(&names->former);
}

static void former_note(struct flow_names *names, const uint8_t *address, const struct object *object, uint64_t now)
{
	/* So many at once are another cluster, not workloads that ended: nobody is asked about one by one. */
	if (names->former.count >= FORMER_MAX)
		formers_forget(names);
	former_forget(names, address);
	struct former former = {object_text(names, object), names->looked, now};
	map_put(&names->former, address, &former);
}

static bool has_addresses(const struct object *object)
{
	return (object->kind == KIND_POD || object->kind == KIND_WORKLOAD) && !object->workload->host_network &&
		   !object->workload->ended;
}

static void owner_remove(struct flow_names *names, const struct object *object, uint64_t now)
{
	for (size_t i = 0; has_addresses(object) && i < object->workload->ip_count; i++) {
		const uint8_t *address = object->workload->ips[i].bytes;
		if (map_pointer(&names->owners, address) != object)
			continue;
		map_delete(&names->owners, address);
		former_note(names, address, object, now);
	}
}

/* The object that was there has changed, and is another now. */
static void former_same(struct flow_names *names, const uint8_t *address, const struct object *object)
{
	struct former former;
	const void *place = map_get(&names->former, address);
	if (!place)
		return;
	memcpy(&former, place, sizeof(former));
	struct text *name = object_text(names, object);
	if (former.name == name)
		former_forget(names, address);
	text_put(names, name);
}

static void owner_add(struct flow_names *names, const struct object *object)
{
	for (size_t i = 0; has_addresses(object) && i < object->workload->ip_count; i++) {
		const struct ip *ip = &object->workload->ips[i];
		const struct object *other = map_pointer(&names->owners, ip->bytes);
		former_same(names, ip->bytes, object);
		if (!other)
			map_put(&names->owners, ip->bytes, &object);
		else if (other != object)
			map_put(&names->contended, ip->bytes, NULL);
	}
}

static size_t owners_count(const struct snapshot *snapshot, enum kind kind, const struct ip *ip)
{
	size_t at, end, count = 0;
	for (snapshot_range(snapshot, kind, NULL, &at, &end); at < end; at++) {
		const struct object *object = snapshot->objects[at];
		for (size_t i = 0; has_addresses(object) && i < object->workload->ip_count; i++)
			count += ip_equal(&object->workload->ips[i], ip);
	}
	return count;
}

/* Several objects with one address are rare, and do not stay: then everybody is asked. */
static void contended_decide(struct flow_names *names, const struct snapshot *snapshot, const struct ip *ip)
{
	const struct object *owner = address_owner(snapshot, ip);
	if (owner && owner->kind != KIND_NODE)
		map_put(&names->owners, ip->bytes, &owner);
	else
		map_delete(&names->owners, ip->bytes);
	if (owners_count(snapshot, KIND_WORKLOAD, ip) + owners_count(snapshot, KIND_POD, ip) < 2)
		map_delete(&names->contended, ip->bytes);
}

/* Objects are shared between snapshots, and sorted in each: what differs is found by comparing pointers. */
struct walk {
	const struct snapshot *snapshot;
	size_t at, end;
};

static struct walk walk_kind(const struct snapshot *snapshot, enum kind kind)
{
	struct walk walk = {.snapshot = snapshot};
	if (snapshot)
		snapshot_range(snapshot, kind, NULL, &walk.at, &walk.end);
	return walk;
}

static const struct object *walk_object(const struct walk *walk)
{
	return walk->at < walk->end ? walk->snapshot->objects[walk->at] : NULL;
}

/* Each object of a kind that only one of the two has, or that each has in its own way. */
static void kind_differ(
	struct flow_names *names, const struct snapshot *next, enum kind kind, bool adding, uint64_t now)
{
	struct walk before = walk_kind(names->snapshot, kind), after = walk_kind(next, kind);
	for (;;) {
		const struct object *old = walk_object(&before), *new = walk_object(&after);
		if (!old && !new)
			return;
		int order = old == new ? 0 : !old ? 1 : !new ? -1 : object_compare(old, new);
		before.at += order <= 0;
		after.at += order >= 0;
		if (old == new)
			continue;
		if (!adding && order <= 0)
			owner_remove(names, old, now);
		if (adding && order >= 0)
			owner_add(names, new);
	}
}

static uint64_t clock_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static struct ip ip_of_key(const uint8_t key[16])
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	struct ip ip = {.family = memcmp(key, mapped, sizeof(mapped)) == 0 ? 4 : 6};
	memcpy(ip.bytes, key, sizeof(ip.bytes));
	return ip;
}

static void snapshot_follow(struct flow_names *names, const struct snapshot *next, uint64_t changed)
{
	const void *key;
	void *none;
	uint64_t now = clock_now();
	if (next == names->snapshot) {
		names->looked = now;
		return;
	}
	if (changed > names->looked && changed < now)
		names->looked = changed;
	for (int adding = 0; adding < 2; adding++) {
		kind_differ(names, next, KIND_WORKLOAD, adding, now);
		kind_differ(names, next, KIND_POD, adding, now);
	}
	for (size_t at = 0; map_next(&names->contended, &at, &key, &none);) {
		struct ip ip = ip_of_key(key);
		contended_decide(names, next, &ip);
	}
	snapshot_put(names->snapshot);
	names->snapshot = snapshot_get(next);
	names->looked = now;
}

/* `opened`: when the connection began; one of a workload that has gone since is still its own. */
static const char *address_name(struct flow_names *names, const struct ip *ip, uint64_t opened)
{
	const struct object *object = map_pointer(&names->owners, ip->bytes);
	struct former former;
	const void *place = map_get(&names->former, ip->bytes);
	if (place)
		memcpy(&former, place, sizeof(former));
	if (place && opened < (object ? former.seen : former.gone)) {
		former.name->references++;
		return former.name->text;
	}
	return object ? object_text(names, object)->text : NULL;
}

/* ---- whose interface ---- */

static void interfaces_forget(struct flow_names *names, struct map *interfaces)
{
	const void *key;
	void *value;
	for (size_t at = 0; map_next(interfaces, &at, &key, &value);) {
		struct text *text;
		memcpy(&text, value, sizeof(text));
		text_put(names, text);
	}
	map_clear(interfaces);
}

void flow_names_interfaces(struct flow_names *names, const struct flow_interface *list, size_t count)
{
	struct map before = names->interfaces;
	map_init(&names->interfaces, sizeof(uint32_t), sizeof(struct text *));
	for (size_t i = 0; i < count; i++) {
		struct text *text = workload_text(names, list[i].namespace, list[i].name);
		map_put(&names->interfaces, &list[i].ifindex, &text);
	}
	interfaces_forget(names, &before);
}

static const char *interface_name(struct flow_names *names, uint32_t ifindex)
{
	struct text *text = map_pointer(&names->interfaces, &ifindex);
	if (!text)
		return NULL;
	text->references++;
	return text->text;
}

/* ---- rules ---- */

static void rules_follow(struct flow_names *names, struct rule_list *rules)
{
	if (rules == names->rules)
		return;
	rule_list_put(names->rules_before);
	names->rules_before = names->rules;
	names->rules = rule_list_get(rules);
}

static bool item_same(const struct rule_item *a, const struct rule_item *b)
{
	return strcmp(a->rule_name, b->rule_name) == 0;
}

static struct kept_rule *rule_keep(struct flow_names *names, const struct rule_item *item)
{
	struct kept_rule *kept = mem_alloc(sizeof(*kept));
	kept->item = *item;
	kept->item.labels = NULL;
	kept->item.namespace = str_dup(item->namespace);
	kept->item.name = str_dup(item->name);
	kept->item.rule_name = str_dup(item->rule_name);
	map_put(&names->kept, &item->id, &kept);
	return kept;
}

/* By what is live, what was before it, and what flows remember. */
static const struct rule_item *rule_take(struct flow_names *names, uint32_t id)
{
	if (id == PS_RULE_NONE)
		return NULL;
	struct kept_rule *kept = map_pointer(&names->kept, &id);
	const struct rule_item *item = rule_list_find(names->rules, id);
	if (!item && !kept)
		item = rule_list_find(names->rules_before, id);
	if (item && (!kept || !item_same(&kept->item, item)))
		kept = rule_keep(names, item);
	if (!kept)
		return NULL;
	kept->references++;
	return &kept->item;
}

static struct kept_rule *kept_of(const struct rule_item *item)
{
	return (struct kept_rule *)(uintptr_t)item;
}

static void rule_drop(struct flow_names *names, const struct rule_item **item)
{
	struct kept_rule *kept = kept_of(*item);
	*item = NULL;
	if (!kept || --kept->references)
		return;
	uint32_t id = kept->item.id;
	if (map_pointer(&names->kept, &id) == kept) {
		struct text *proxy = map_pointer(&names->proxies, &id);
		if (proxy)
			text_put(names, proxy);
		map_delete(&names->proxies, &id);
		map_delete(&names->kept, &id);
	}
	free(kept->item.namespace);
	free(kept->item.name);
	free(kept->item.rule_name);
	free(kept);
}

static const char *rule_proxy(const struct flow_names *names, const struct rule_item *rule)
{
	const struct object *object = rule->kind == KIND_INTERCEPT_POLICY && names->snapshot
									  ? snapshot_find(names->snapshot, rule->kind, rule->namespace, rule->name)
									  : NULL;
	if (!object || rule->index < 0 || (size_t)rule->index >= object->policy->rule_count[rule->direction])
		return NULL;
	return object->policy->rules[rule->direction][rule->index].proxy;
}

/* The proxy that the rule names; of a rule that has gone, the last that was known. */
static const char *proxy_take(struct flow_names *names, const struct rule_item *rule)
{
	const char *name = rule_proxy(names, rule);
	struct text *known = map_pointer(&names->proxies, &rule->id);
	if (name && (!known || strcmp(known->text, name) != 0)) {
		if (known)
			text_put(names, known);
		known = text_take(names, name);
		map_put(&names->proxies, &rule->id, &known);
	}
	if (!known)
		return NULL;
	known->references++;
	return known->text;
}

/* ---- flows ---- */

static struct ip ip_of(const uint8_t bytes[16], uint8_t family)
{
	uint32_t word;
	memcpy(&word, bytes, sizeof(word));
	return family == 6 ? ip_from_v6(bytes) : ip_from_v4(word);
}

struct ip flow_ip(const struct ps_event *event, int end)
{
	return ip_of(event->addr[end], event->family);
}

struct ip flow_backend_ip(const struct ps_event *event)
{
	return ip_of(event->backend, event->family);
}

static bool handed_over(const struct ps_event *event)
{
	return event->verdict == PS_VERDICT_INTERCEPTED || event->reason == PS_REASON_NO_LISTENER;
}

uint32_t flow_rule(const struct ps_event *event)
{
	return handed_over(event) ? event->intercept_rule : event->rule;
}

void flow_names_update(
	struct flow_names *names, const struct snapshot *snapshot, struct rule_list *rules, uint64_t changed)
{
	if (!snapshot)
		return;
	snapshot_follow(names, snapshot, changed);
	rules_follow(names, rules);
}

uint64_t flow_names_revision(const struct flow_names *names)
{
	return names->snapshot ? names->snapshot->revision : 0;
}

void flow_names_give(struct flow_names *names, struct flow *flow)
{
	const struct ps_event *event = &flow->event;
	uint64_t opened = event->opened ? event->opened : event->time;
	for (int end = 0; end < 2; end++) {
		struct ip ip = flow_ip(event, end);
		flow->workload[end] = event->family ? address_name(names, &ip, opened) : NULL;
	}
	if (event->reason == PS_REASON_SPOOFED) { /* the address is somebody else's */
		text_drop(names, &flow->workload[0]);
		flow->workload[0] = interface_name(names, event->ifindex);
	}
	struct ip backend = flow_backend_ip(event);
	flow->backend = event->flags & PS_EVENT_BACKEND ? address_name(names, &backend, opened) : NULL;
	flow->rule = rule_take(names, flow_rule(event));
	flow->proxy = flow->rule && handed_over(event) ? proxy_take(names, flow->rule) : NULL;
}

void flow_names_keep(struct flow *flow)
{
	text_keep(flow->workload[0]);
	text_keep(flow->workload[1]);
	text_keep(flow->backend);
	text_keep(flow->proxy);
	if (flow->rule)
		kept_of(flow->rule)->references++;
}

void flow_names_drop(struct flow_names *names, struct flow *flow)
{
	text_drop(names, &flow->workload[0]);
	text_drop(names, &flow->workload[1]);
	text_drop(names, &flow->backend);
	text_drop(names, &flow->proxy);
	rule_drop(names, &flow->rule);
}

void flow_names_free(struct flow_names *names)
{
	if (!names)
		return;
	formers_forget(names);
	interfaces_forget(names, &names->interfaces);
	snapshot_put(names->snapshot);
	rule_list_put(names->rules);
	rule_list_put(names->rules_before);
	map_clear(&names->owners);
	map_clear(&names->contended);
	map_clear(&names->kept);
	map_clear(&names->proxies);
	names_clear(&names->texts);
	free(names);
}
