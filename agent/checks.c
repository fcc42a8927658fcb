/* SPDX-License-Identifier: Apache-2.0 */
/* Of our own state here; of the node as datapath_findings tells it. */
#include "agent/checks.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"

#define NEARLY_FULL 80 /* per cent */
#define FULL 95
#define NAMED_MAX 20 /* of each kind of trouble */

struct checks {
	struct buffer *out;
	const struct status_facts *facts;
	bool first;
};

static void put(struct checks *c, enum finding_level level, const char *name, const char *what, const char *mend)
{
	static const char *const levels[] = {[FINDING_OK] = "ok", [FINDING_WARNING] = "warning", [FINDING_BAD] = "bad"};
	buffer_printf(c->out, "%s{\"name\":\"%s\",\"ok\":%s,\"level\":\"%s\",\"what\":", c->first ? "" : ",", name,
		level == FINDING_BAD ? "false" : "true", levels[level]);
	buffer_json_string(c->out, what);
	buffer_puts(c->out, ",\"mend\":");
	buffer_json_string(c->out, mend);
	buffer_puts(c->out, "}");
	c->first = false;
}

static void __attribute__((format(printf, 5, 6)))
say(struct checks *c, enum finding_level level, const char *name, const char *mend, const char *format, ...)
{
	char what[512];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	put(c, level, name, what, level == FINDING_OK ? "" : mend);
}

/* ---- state ---- */

static void check_agent(struct checks *c)
{
	const struct status_facts *facts = c->facts;
	if (facts->ready)
		say(c, FINDING_OK, "agent", "", "revision %" PRIu64 " is enforced", facts->snapshot->revision);
	else
		say(c, FINDING_BAD, "agent",
			facts->waiting_for_state
				? "Write the whole state: PUT /v1/state takes what `kubectl get … -A -o json` prints"
				: "The agent tries again each second; its log and lastError say more",
			"not ready: %s", facts->why_not_ready);
	if (facts->last_error && facts->last_error[0])
		say(c, FINDING_WARNING, "agent", "It stays here until the next start; the agent's log has what came before it",
			"the last error, at %s: %s", facts->last_error_time, facts->last_error);
	for (size_t i = 0; i < facts->snapshot->quarantined_count && i < NAMED_MAX; i++) {
		const struct quarantined *q = &facts->snapshot->quarantined[i];
		say(c, FINDING_BAD, "objects", "Mend the object and write it again: penstock status says what is wrong in it",
			"%s %s%s%s of owner %s is set aside%s", q->key.kind, q->key.namespace, *q->key.namespace ? "/" : "",
			q->key.name, q->owner, q->isolating ? ": its pods are isolated" : "");
	}
}

static void check_interfaces(struct checks *c)
{
	struct interface_status interface;
	size_t at = 0, attached = 0;
	while (datapath_interface_next(c->facts->datapath, &at, &interface)) {
		attached += !interface.error;
		if (interface.error)
			say(c, FINDING_BAD, "interfaces",
				"The agent tries again every 30 s: see whether somebody else's program or qdisc is in the way",
				"%s: %s", interface.name, interface.error);
	}
	say(c, FINDING_OK, "interfaces", "", "programs are attached to %zu", attached);
}

static void check_workloads(struct checks *c)
{
	const struct endpoint *endpoint;
	size_t at = 0, pending = 0, elsewhere = 0;
	while (c->facts->compiler && (endpoint = compiler_endpoint_next(c->facts->compiler, &at))) {
		const char *interface;
		struct ip ip;
		if (endpoint->bound && (interface = datapath_elsewhere(c->facts->datapath, endpoint, &ip)) &&
			elsewhere++ < NAMED_MAX) {
			char text[ADDR_TEXT_MAX];
			ip_format(&ip, text);
			say(c, FINDING_WARNING, "workloads", "Give that address a Workload of its own instead",
				"%s %s/%s: %s is behind a second interface, %s, where it is not enforced", kinds[endpoint->kind].kind,
				endpoint->namespace, endpoint->name, text, interface);
		}
		if (endpoint->bound || pending++ >= NAMED_MAX)
			continue;
		say(c, FINDING_BAD, "workloads",
			"It is attached when a route or neighbour leads to its address, or an interface of its spec.interface is "
			"there; if it ended, delete it",
			"%s %s/%s has no interface yet", kinds[endpoint->kind].kind, endpoint->namespace, endpoint->name);
	}
	if (pending > NAMED_MAX)
		say(c, FINDING_BAD, "workloads", "penstock status names them", "and %zu more have none", pending - NAMED_MAX);
	at = 0;
	while (c->facts->compiler && (endpoint = compiler_cgroup_next(c->facts->compiler, &at))) {
		const char *why = datapath_cgroup_fails(c->facts->datapath, endpoint);
		if (why)
			say(c, FINDING_BAD, "cgroups", "Its processes are not intercepted until that is so", "%s: %s",
				endpoint->cgroup, why);
		else if (!endpoint->bound)
			say(c, FINDING_WARNING, "cgroups", "Start what runs in it, or mend the path in the InterceptPolicy",
				"there is no cgroup %s", endpoint->cgroup);
	}
}

static void check_maps(struct checks *c)
{
	struct map_fill fill;
	size_t at = 0;
	bool full = false;
	while (datapath_fill_next(c->facts->datapath, &at, &fill)) {
		if (fill.entries * 100 < fill.capacity * NEARLY_FULL)
			continue;
		full = true;
		say(c, fill.entries * 100 < fill.capacity * FULL ? FINDING_WARNING : FINDING_BAD, "maps",
			strncmp(fill.map, "ps_conn", 7) == 0
				? "Raise datapath.connectionsMax and restart penstockd, or find who opens so many: penstock connections"
				: "Writes that do not fit are refused with 507: have fewer objects on this node",
			"%s holds %" PRIu64 " of %" PRIu64 " entries", fill.map, fill.entries, fill.capacity);
	}
	if (!full)
		say(c, FINDING_OK, "maps", "", "none is nearly full");
}

/* ---- interception ---- */

static void check_engine(struct checks *c)
{
	const struct engine_status *engine = datapath_engine(c->facts->datapath);
	size_t failed = 0;
	for (size_t i = 0; i < engine->trial_count; i++)
		failed += engine->trials[i].engine == engine->active && !engine->trials[i].passed;
	say(c, failed ? FINDING_BAD : FINDING_OK, "engine",
		"Mend what the lines below name, then send the agent SIGHUP: it tries again", "%s (%s): %s",
		engine_name(engine->active), datapath_engine_configured(c->facts->datapath), engine->reason);
	for (size_t i = 0; i < engine->trial_count; i++) {
		const struct engine_trial *trial = &engine->trials[i];
		if (trial->engine == engine->active && !trial->passed)
			say(c, FINDING_BAD, "engine", "", "%s over %s: %s", trial->protocol == IPPROTO_UDP ? "UDP" : "TCP",
				trial->family == 6 ? "IPv6" : "IPv4", trial->detail);
	}
}

static void check_handing_over(struct checks *c)
{
	const char *table = datapath_table(c->facts->datapath), *sockets = datapath_sockets(c->facts->datapath);
	if (table)
		say(c, FINDING_BAD, "table",
			"Load nf_tables and nft_tproxy (modprobe), or see who removes the table; the agent makes it again by "
			"itself",
			"inet penstock of nftables: %s", table);
	else
		say(c, FINDING_OK, "table", "", "inet penstock of nftables stands");
	if (sockets)
		say(c, FINDING_BAD, "sockets",
			"Mount cgroup v2 where the agent sees it (in a container: the host's /sys/fs/cgroup); proxies that ask "
			"getsockname work without",
			"SO_ORIGINAL_DST is not answered: %s", sockets);
	else
		say(c, FINDING_OK, "sockets", "", "programs on sockets are attached: SO_ORIGINAL_DST is answered");
}

static void check_proxy(struct checks *c, const struct object *o, const struct listener_status *list, size_t count)
{
	if (listeners_serve(list, count, o->name, o->proxy)) {
		say(c, FINDING_OK, "proxy", "", "%s: port %u is listened on", o->name, o->proxy->port);
		return;
	}
	say(c, FINDING_BAD, "proxy",
		o->proxy->bypass ? "Start it on this node, on 127.0.0.1, ::1 or a wildcard address; meanwhile connections go "
						   "where they were going"
						 : "Start it on this node, on 127.0.0.1, ::1 or a wildcard address; meanwhile its connections "
						   "are refused",
		"%s: nobody usable listens on port %u for all of its protocols", o->name, o->proxy->port);
	for (size_t i = 0; i < count; i++) {
		char address[ADDR_TEXT_MAX];
		if (strcmp(list[i].proxy, o->name) != 0 || list[i].state != LISTENER_IGNORED)
			continue;
		ip_format(&list[i].ip, address);
		say(c, FINDING_BAD, "proxy",
			"Stop who shadows the port, or mend spec.process of the TransparentProxy: it says whom to take",
			"%s: a listener on %s is not used: %s", o->name, address, list[i].why);
	}
}

static void check_interception(struct checks *c)
{
	size_t at, end;
	auto_free struct listener_status *list = NULL;
	size_t count = datapath_listeners(c->facts->datapath, &list);
	check_engine(c);
	snapshot_range(c->facts->snapshot, KIND_TRANSPARENT_PROXY, NULL, &at, &end);
	if (at < end)
		check_handing_over(c);
	for (; at < end; at++)
		check_proxy(c, c->facts->snapshot->objects[at], list, count);
}

/* ---- all ---- */

void checks_render(struct buffer *b, const struct status_facts *facts)
{
	struct checks c = {.out = b, .facts = facts, .first = true};
	auto_free struct finding *findings = NULL;
	size_t count = datapath_findings(facts->datapath, &findings);
	buffer_puts(b, "[");
	check_agent(&c);
	check_interfaces(&c);
	check_workloads(&c);
	check_maps(&c);
	check_interception(&c);
	for (size_t i = 0; i < count; i++)
		put(&c, findings[i].level, findings[i].name, findings[i].what, findings[i].mend);
	buffer_puts(b, "]");
}
