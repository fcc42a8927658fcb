/* SPDX-License-Identifier: Apache-2.0 */
/* Flows of an agent of our own: its state, events for it, and what it says of them. */
#ifndef PENSTOCK_TEST_FLOWS_WORLD_H
#define PENSTOCK_TEST_FLOWS_WORLD_H

#include "tests/unit/state_objects.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include "agent/compile/rulebook.h"
#include "agent/observe/flows.h"
#include "agent/observe/rule_list.h"

/* ---- an agent's state ---- */

struct world {
	struct metrics *metrics;
	struct rulebook *book;
	struct compiler *compiler;
	struct snapshot *snapshot;
	struct flows *flows;
};

static inline void world_publish(struct world *w)
{
	const struct metrics_facts facts = {w->snapshot, w->compiler, w->book, true, ENGINE_EBPF};
	metrics_publish(w->metrics, &facts);
}

static inline void world_start(struct world *w, uint32_t keep)
{
	w->metrics = metrics_new();
	w->book = rulebook_new(1);
	w->compiler = compiler_new("here", w->book);
	w->snapshot = snapshot_new("0123456789abcdef");
	w->flows = flows_new(keep, w->metrics);
}

static inline void world_stop(struct world *w)
{
	flows_free(w->flows);
	metrics_free(w->metrics);
	compiler_free(w->compiler);
	rulebook_free(w->book);
	snapshot_put(w->snapshot);
}

static inline void world_write(struct world *w, struct draft *draft)
{
	struct snapshot *next = draft_finish(draft, w->snapshot->revision + 1);
	snapshot_put(w->snapshot);
	w->snapshot = next;
	world_publish(w);
}

#define WORKLOAD                                                                                            \
	"{\"apiVersion\":\"penstock.dev/v1alpha1\",\"kind\":\"Workload\",\"metadata\":{\"namespace\":\"shop\"," \
	"\"name\":\"%s\",\"labels\":{\"v\":\"%s\"}},\"spec\":{\"ips\":[\"%s\"]}}"
#define POD                                                                                                      \
	"{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"namespace\":\"shop\",\"name\":\"%s\","              \
	"\"creationTimestamp\":\"%s\"},\"spec\":{\"nodeName\":\"there\"},\"status\":{\"phase\":\"%s\",\"podIPs\":[{" \
	"\"ip\":\"%s\"}]}}"
#define INTERCEPT                                                                                                \
	"{\"apiVersion\":\"penstock.dev/"                                                                            \
	"v1alpha1\",\"kind\":\"InterceptPolicy\",\"metadata\":{\"name\":\"llm\"},\"spec\":{"                         \
	"\"priority\":1,\"subject\":{\"pods\":{\"namespaceSelector\":{},\"podSelector\":{}}},\"egress\":[{\"name\":" \
	"\"openai\",\"action\":\"Intercept\",\"proxy\":\"%s\",\"to\":[{\"networks\":[\"0.0.0.0/0\"]}]}]}}"

static inline void workload_put(struct draft *draft, const char *name, const char *version, const char *ip)
{
	auto_free char *text = str_format(WORKLOAD, name, version, ip);
	draft_put(draft, object_make(text, "local", 0));
}

static inline void pod_put(
	struct draft *draft, const char *name, const char *created, const char *phase, const char *ip)
{
	auto_free char *text = str_format(POD, name, created, phase, ip);
	draft_put(draft, object_make(text, "local", 0));
}

static inline void intercept_put(struct draft *draft, const char *proxy)
{
	auto_free char *text = str_format(INTERCEPT, proxy);
	draft_put(draft, object_make(text, "local", 0));
}

/* ---- events ---- */

static inline uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static inline void address_set(uint8_t field[16], const char *text)
{
	struct ip ip;
	uint32_t word;
	assert_int_equal(ip_parse(text, &ip), 0);
	if (ip.family == 6) {
		memcpy(field, ip.bytes, 16);
		return;
	}
	word = ip_v4(&ip);
	memcpy(field, &word, sizeof(word));
}

static inline struct ps_event event_make(const char *source, const char *destination, uint8_t protocol, uint16_t port)
{
	struct ps_event event = {.time = now_ns(),
		.opened = now_ns(),
		.port = {40000, port},
		.protocol = protocol,
		.family = strchr(source, ':') ? 6 : 4,
		.reason = PS_REASON_DEFAULT};
	address_set(event.addr[0], source);
	address_set(event.addr[1], destination);
	return event;
}

static inline void add(struct world *w, const struct ps_event *event)
{
	flows_add(w->flows, event, NULL, NULL);
}

static inline void add_ports(struct world *w, uint16_t first, uint16_t last)
{
	for (uint32_t port = first; port <= last; port++) {
		struct ps_event event = event_make("10.0.0.1", "10.0.0.2", 6, (uint16_t)port);
		add(w, &event);
	}
}

/* ---- reading ---- */

static const struct feed_filter everything;

static inline json_t *list(struct world *w, const struct feed_filter *filter)
{
	struct buffer out = {0};
	buffer_puts(&out, "[");
	flows_list(w->flows, filter, &out);
	buffer_puts(&out, "]");
	json_t *json = json_loads(out.data, 0, NULL);
	if (!json)
		fail_msg("not JSON: %s", out.data);
	buffer_free(&out);
	return json;
}

static inline json_t *last(struct world *w)
{
	json_t *all = list(w, &everything), *one = json_incref(json_array_get(all, json_array_size(all) - 1));
	json_decref(all);
	return one;
}

static inline json_t *at(json_t *json, const char *path)
{
	auto_free char *copy = str_dup(path);
	char *rest = copy, *part;
	while ((part = strsep(&rest, "/")))
		json = json_object_get(json, part);
	return json;
}

static inline const char *text(json_t *json, const char *path)
{
	return json_string_value(at(json, path));
}

static inline size_t count(struct world *w, const struct feed_filter *filter)
{
	json_t *all = list(w, filter);
	size_t found = json_array_size(all);
	json_decref(all);
	return found;
}

#endif
