/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/status.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/utsname.h>
#include "agent/base/buffer.h"
#include "agent/base/mem.h"
#include "agent/checks.h"

static void member_string(struct buffer *b, const char *name, const char *value)
{
	buffer_printf(b, ",\"%s\":", name);
	if (value)
		buffer_json_string(b, value);
	else
		buffer_puts(b, "null");
}

/* Opens the next object of an array. */
static void element(struct buffer *b, bool *first)
{
	buffer_puts(b, *first ? "{" : ",{");
	*first = false;
}

static void endpoint_name(struct buffer *b, const struct compiler *compiler, uint32_t id)
{
	const struct endpoint *endpoint = compiler && id ? compiler_endpoint_find(compiler, id) : NULL;
	buffer_puts(b, ",\"endpoint\":");
	if (!endpoint) {
		buffer_puts(b, "null");
		return;
	}
	struct buffer name = {0};
	buffer_printf(&name, "%s/%s", endpoint->namespace, endpoint->name);
	buffer_json_string(b, name.data);
	buffer_free(&name);
}

static void render_hooks(struct buffer *b, const struct status_facts *facts)
{
	struct interface_status interface;
	size_t at = 0;
	bool first = true;
	buffer_puts(b, ",\"hooks\":[");
	while (datapath_interface_next(facts->datapath, &at, &interface)) {
		element(b, &first);
		buffer_printf(b, "\"ifindex\":%u", interface.ifindex);
		member_string(b, "interface", interface.name);
		member_string(b, "hook", interface.hook);
		member_string(b, "role", interface.host ? "host" : interface.network ? "network" : "workload");
		endpoint_name(b, facts->compiler, interface.endpoint);
		if (interface.error)
			member_string(b, "error", interface.error);
		buffer_puts(b, "}");
	}
	buffer_puts(b, "]");
}

static void render_sockets(struct buffer *b, const struct status_facts *facts)
{
	const char *reason = datapath_sockets(facts->datapath);
	buffer_printf(b, ",\"originalDestination\":{\"attached\":%s", reason ? "false" : "true");
	if (reason)
		member_string(b, "reason", reason);
	buffer_puts(b, "}");
}

static void render_maps(struct buffer *b, const struct status_facts *facts)
{
	struct map_fill fill;
	size_t at = 0;
	bool first = true;
	buffer_puts(b, ",\"maps\":[");
	while (datapath_fill_next(facts->datapath, &at, &fill)) {
		element(b, &first);
		buffer_printf(b, "\"entries\":%" PRIu64 ",\"capacity\":%" PRIu64, fill.entries, fill.capacity);
		member_string(b, "map", fill.map);
		buffer_puts(b, "}");
	}
	buffer_puts(b, "]");
}

static void render_listener(struct buffer *b, const struct listener_status *l)
{
	static const char *const states[] = {
		[LISTENER_READY] = "Ready", [LISTENER_ADOPTED] = "Adopted", [LISTENER_IGNORED] = "Ignored"};
	char address[ADDR_TEXT_MAX];
	ip_format(&l->ip, address);
	buffer_printf(b, "\"port\":%u,\"uid\":%u", l->port, l->uid);
	member_string(b, "protocol", l->protocol == PROTOCOL_UDP ? "UDP" : "TCP");
	member_string(b, "address", address);
	member_string(b, "state", states[l->state]);
	if (l->pid)
		buffer_printf(b, ",\"pid\":%d", l->pid);
	if (l->executable[0])
		member_string(b, "executable", l->executable);
	if (l->why[0])
		member_string(b, "why", l->why);
	buffer_puts(b, "}");
}

static void render_listeners(struct buffer *b, const char *proxy, const struct listener_status *listeners, size_t count)
{
	bool first = true;
	buffer_puts(b, ",\"listeners\":[");
	for (size_t i = 0; i < count; i++) {
		if (strcmp(listeners[i].proxy, proxy) != 0)
			continue;
		element(b, &first);
		render_listener(b, &listeners[i]);
	}
	buffer_puts(b, "]");
}

static void render_families(struct buffer *b, const char *name, unsigned families)
{
	buffer_printf(b, "\"%s\":[%s%s%s]", name, families & LISTENERS_IPV4 ? "\"IPv4\"" : "",
		families == (LISTENERS_IPV4 | LISTENERS_IPV6) ? "," : "", families & LISTENERS_IPV6 ? "\"IPv6\"" : "");
}

/* `families`: those in which all of the proxy's protocols are taken. */
static void render_available(
	struct buffer *b, const struct object *o, const struct listener_status *listeners, size_t count)
{
	unsigned tcp = listeners_families(listeners, count, o->name, PROTOCOL_TCP);
	unsigned udp = listeners_families(listeners, count, o->name, PROTOCOL_UDP);
	unsigned all = o->proxy->tcp && o->proxy->udp ? tcp & udp : o->proxy->udp ? udp : tcp;
	buffer_printf(b, ",\"up\":%s,", listeners_serve(listeners, count, o->name, o->proxy) ? "true" : "false");
	render_families(b, "families", all);
	buffer_puts(b, ",\"available\":{");
	if (o->proxy->tcp)
		render_families(b, "TCP", tcp);
	if (o->proxy->tcp && o->proxy->udp)
		buffer_puts(b, ",");
	if (o->proxy->udp)
		render_families(b, "UDP", udp);
	buffer_puts(b, "}");
}

static void render_proxies(struct buffer *b, const struct datapath *datapath, const struct snapshot *snapshot)
{
	size_t at, end;
	bool first = true;
	auto_free struct listener_status *listeners = NULL;
	size_t listener_count = datapath_listeners(datapath, &listeners);
	buffer_puts(b, ",\"proxies\":[");
	for (snapshot_range(snapshot, KIND_TRANSPARENT_PROXY, NULL, &at, &end); at < end; at++) {
		const struct object *o = snapshot->objects[at];
		element(b, &first);
		buffer_printf(b, "\"port\":%u", o->proxy->port);
		member_string(b, "name", o->name);
		member_string(b, "onUnavailable", o->proxy->bypass ? "Bypass" : "Deny");
		buffer_printf(b, ",\"protocols\":[%s%s%s]", o->proxy->tcp ? "\"TCP\"" : "",
			o->proxy->tcp && o->proxy->udp ? "," : "", o->proxy->udp ? "\"UDP\"" : "");
		render_listeners(b, o->name, listeners, listener_count);
		render_available(b, o, listeners, listener_count);
		buffer_puts(b, "}");
	}
	buffer_puts(b, "]");
}

static const char *interface_of(const struct datapath *datapath, uint32_t endpoint)
{
	struct interface_status interface;
	size_t at = 0;
	while (datapath_interface_next(datapath, &at, &interface))
		if (interface.endpoint == endpoint)
			return interface.name;
	return NULL;
}

static void render_workloads(struct buffer *b, const struct status_facts *facts)
{
	const struct endpoint *endpoint;
	size_t at = 0;
	bool first = true;
	buffer_puts(b, ",\"workloads\":[");
	while (facts->compiler && (endpoint = compiler_endpoint_next(facts->compiler, &at))) {
		element(b, &first);
		buffer_printf(b, "\"state\":\"%s\"", endpoint->bound ? "attached" : "pending");
		member_string(b, "kind", kinds[endpoint->kind].kind);
		member_string(b, "namespace", endpoint->namespace);
		member_string(b, "name", endpoint->name);
		const char *interface = endpoint->bound ? interface_of(facts->datapath, endpoint->id) : NULL;
		if (interface)
			member_string(b, "interface", interface);
		buffer_puts(b, "}");
	}
	buffer_puts(b, "]");
}

static void render_cgroups(struct buffer *b, const struct status_facts *facts)
{
	const struct endpoint *endpoint;
	size_t at = 0;
	bool first = true;
	buffer_puts(b, ",\"cgroups\":[");
	while (facts->compiler && (endpoint = compiler_cgroup_next(facts->compiler, &at))) {
		element(b, &first);
		buffer_printf(b, "\"state\":\"%s\"", endpoint->bound ? "found" : "pending");
		member_string(b, "cgroup", endpoint->cgroup);
		const char *why = datapath_cgroup_fails(facts->datapath, endpoint);
		if (why)
			member_string(b, "error", why);
		buffer_puts(b, "}");
	}
	buffer_puts(b, "]");
}

static void render_quarantined(struct buffer *b, const struct snapshot *snapshot)
{
	bool first = true;
	buffer_puts(b, ",\"quarantined\":[");
	for (size_t i = 0; i < snapshot->quarantined_count; i++) {
		const struct quarantined *q = &snapshot->quarantined[i];
		element(b, &first);
		buffer_printf(b, "\"errors\":%s", q->errors);
		member_string(b, "kind", q->key.kind);
		member_string(b, "namespace", q->key.namespace);
		member_string(b, "name", q->key.name);
		member_string(b, "owner", q->owner);
		buffer_puts(b, "}");
	}
	buffer_puts(b, "]");
}

static void render_trial(struct buffer *b, const struct engine_trial *trial)
{
	buffer_printf(b, "\"passed\":%s", trial->passed ? "true" : "false");
	member_string(b, "engine", engine_name(trial->engine));
	member_string(b, "protocol", trial->protocol == IPPROTO_UDP ? "UDP" : "TCP");
	member_string(b, "family", trial->family == 6 ? "IPv6" : "IPv4");
	member_string(b, "detail", trial->detail);
	buffer_puts(b, "}");
}

static void render_engine(struct buffer *b, const struct status_facts *facts)
{
	const struct engine_status *engine = datapath_engine(facts->datapath);
	bool first = true;
	buffer_printf(b, ",\"engine\":{\"active\":\"%s\"", engine_name(engine->active));
	member_string(b, "configured", datapath_engine_configured(facts->datapath));
	member_string(b, "reason", engine->reason);
	buffer_puts(b, ",\"tried\":[");
	for (size_t i = 0; i < engine->trial_count; i++) {
		element(b, &first);
		render_trial(b, &engine->trials[i]);
	}
	const char *why = datapath_table(facts->datapath);
	buffer_printf(b, "],\"table\":{\"stands\":%s", why ? "false" : "true");
	if (why)
		member_string(b, "reason", why);
	buffer_puts(b, "}}");
}

char *status_render(const struct status_facts *facts)
{
	struct buffer b = {0};
	struct utsname kernel;
	uname(&kernel);

	buffer_printf(
		&b, "{\"revision\":%" PRIu64 ",\"ready\":%s", facts->snapshot->revision, facts->ready ? "true" : "false");
	if (!facts->ready)
		member_string(&b, "notReadyBecause", facts->why_not_ready);
	member_string(&b, "epoch", facts->snapshot->epoch);
	member_string(&b, "node", facts->config->node.name);
	member_string(&b, "version", PENSTOCK_VERSION);
	member_string(&b, "kernel", kernel.release);
	render_engine(&b, facts);
	render_sockets(&b, facts);
	render_hooks(&b, facts);
	render_maps(&b, facts);
	render_proxies(&b, facts->datapath, facts->snapshot);
	render_workloads(&b, facts);
	render_cgroups(&b, facts);
	render_quarantined(&b, facts->snapshot);
	auto_free char *configuration = config_print(facts->config);
	member_string(&b, "configuration", configuration);
	buffer_puts(&b, ",\"checks\":");
	checks_render(&b, facts);
	buffer_puts(&b, ",\"lastError\":");
	if (facts->last_error && facts->last_error[0]) {
		buffer_printf(&b, "{\"time\":\"%s\"", facts->last_error_time);
		member_string(&b, "detail", facts->last_error);
		buffer_puts(&b, "}");
	} else {
		buffer_puts(&b, "null");
	}
	buffer_puts(&b, "}");
	return buffer_take(&b);
}
