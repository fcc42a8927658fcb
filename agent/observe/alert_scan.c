/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/alert_scan.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include "agent/base/addr.h"
#include "agent/base/map.h"
#include "agent/base/mem.h"

#define WAYS 8
#define SETS (SCAN_SOURCES / WAYS)
#define MILLISECOND (SECOND / 1000)
/* Ports from here on are what clients get from their kernel (Linux' own default). */
#define EPHEMERAL 32768

/* The one who refused, and when: ms, wrapping. */
struct target {
	uint32_t hash, time;
};
struct source_key {
	uint8_t addr[2][16]; /* the second: of sort CLOSED only */
	uint32_t ifindex;    /* of one that hides behind other addresses; then there is no address */
	uint32_t family;
};
struct source {
	struct source_key key;
	bool used;
	uint32_t count, capacity;
	struct target *targets;
	int64_t seen;
	struct episode episode;
};
enum sort { SORT_KNOWN, SORT_STRANGERS, SORT_CLOSED, SORT_COUNT };
struct sources {
	struct source sources[SCAN_SOURCES]; /* SETS sets of WAYS */
	struct source rest;
	double tokens; /* how many may be told by name now */
	int64_t refilled;
};
struct scans {
	uint32_t threshold;
	uint64_t seed; /* nobody outside can aim at one set */
	struct alert_list *list;
	struct sources sorts[SORT_COUNT];
};

struct scans *scans_new(uint32_t threshold, struct alert_list *list)
{
	struct scans *scans = mem_alloc(sizeof(*scans));
	scans->threshold = threshold < SCAN_THRESHOLD_MAX ? threshold : SCAN_THRESHOLD_MAX;
	scans->list = list;
	if (getrandom(&scans->seed, sizeof(scans->seed), GRND_NONBLOCK) < 0)
		scans->seed = (uintptr_t)scans;
	for (int sort = 0; sort < SORT_COUNT; sort++)
		scans->sorts[sort].tokens = SCAN_TOLD_MAX;
	return scans;
}

void scans_free(struct scans *scans)
{
	for (int sort = 0; scans && sort < SORT_COUNT; sort++) {
		for (size_t at = 0; at < SCAN_SOURCES; at++)
			free(scans->sorts[sort].sources[at].targets);
		free(scans->sorts[sort].rest.targets);
	}
	free(scans);
}

size_t scans_memory(const struct scans *scans)
{
	size_t bytes = sizeof(*scans);
	for (int sort = 0; sort < SORT_COUNT; sort++) {
		for (size_t at = 0; at < SCAN_SOURCES; at++)
			bytes += scans->sorts[sort].sources[at].capacity * sizeof(struct target);
		bytes += scans->sorts[sort].rest.capacity * sizeof(struct target);
	}
	return bytes;
}

/* ---- distinct targets ---- */

/* It is heard of again: what it touched before the window would only wrap around. */
static void source_wakes(struct source *source, int64_t now)
{
	if (now - source->seen > SCAN_WINDOW)
		source->count = 0;
	source->seen = now;
}

/* Drops what is older than the window, notes this one; with `most` targets it takes the place of the oldest. */
static void source_note(struct source *source, struct target target, uint32_t most)
{
	struct target *found = NULL, *oldest = NULL;
	for (uint32_t at = 0; at < source->count;) {
		struct target *one = &source->targets[at];
		/* events of several CPUs may come a little out of order: a difference below zero is young */
		if ((int32_t)(target.time - one->time) > SCAN_WINDOW / MILLISECOND) {
			*one = source->targets[--source->count];
			continue;
		}
		if (one->hash == target.hash)
			found = one;
		if (!oldest || (int32_t)(one->time - oldest->time) < 0)
			oldest = one;
		at++;
	}
	if (!found && source->count < most) {
		if (source->count == source->capacity) {
			uint32_t capacity = source->capacity ? 2 * source->capacity : 4;
			source->capacity = capacity < most ? capacity : most;
			source->targets = mem_resize(source->targets, source->capacity, sizeof(*source->targets));
		}
		found = &source->targets[source->count++];
	}
	*(found ? found : oldest) = target;
}

/* How long ago the oldest of them was, ns. */
static int64_t source_age(const struct source *source, uint32_t now)
{
	int32_t age = 0;
	for (uint32_t at = 0; at < source->count; at++) {
		if ((int32_t)(now - source->targets[at].time) > age)
			age = (int32_t)(now - source->targets[at].time);
	}
	return age * MILLISECOND;
}

/* ---- which sources are remembered ---- */

/* The least of a set goes first: unused, idle, few targets, seen long ago; one whose alert lasts goes last. */
static uint64_t source_worth(const struct scans *scans, const struct source *source, int64_t now)
{
	if (!source->used)
		return 0;
	if (episode_lasts(&source->episode, now))
		return (uint64_t)scans->threshold + 2;
	return now - source->seen > SCAN_WINDOW ? 1 : 1 + source->count;
}

/* ---- alerts ---- */

static bool sources_may_tell(struct sources *sources, int64_t now)
{
	if (now > sources->refilled)
		sources->tokens += (double)(now - sources->refilled) * SCAN_TOLD_MAX / (60. * SECOND);
	sources->refilled = now;
	if (sources->tokens > SCAN_TOLD_MAX)
		sources->tokens = SCAN_TOLD_MAX;
	if (sources->tokens < 1)
		return false;
	sources->tokens--;
	return true;
}

static void address_format(const struct flow *flow, int end, char text[ADDR_TEXT_MAX])
{
	uint32_t v4;
	memcpy(&v4, flow->event.addr[end], sizeof(v4));
	struct ip ip = flow->event.family == 4 ? ip_from_v4(v4) : ip_from_v6(flow->event.addr[end]);
	ip_format(&ip, text);
}

static void target_format(const struct flow *flow, char text[ADDR_TEXT_MAX + 16])
{
	uint8_t protocol = flow->event.protocol;
	address_format(flow, 1, text);
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP)
		sprintf(text + strlen(text), " port %u", flow->event.port[1]);
}

static void tell_source(struct scans *scans, enum sort sort, const struct flow *flow, const struct alert *alert)
{
	char source[ADDR_TEXT_MAX], target[ADDR_TEXT_MAX + 16];
	const char *workload = alert->workload ? alert->workload : "", *at = alert->workload ? " at " : "";
	unsigned count = (unsigned)alert->value, seconds = SCAN_WINDOW / SECOND;
	address_format(flow, 0, source);
	target_format(flow, target);
	if (sort == SORT_CLOSED)
		alert_list_raise(scans->list, alert,
			"%s%s%s tried %u distinct ports of one address in %u s where nobody listens, at last %s: find out what "
			"runs "
			"there, and let a policy deny what it does not need.",
			workload, at, source, count, seconds, target);
	else if (flow->event.reason == PS_REASON_SPOOFED)
		alert_list_raise(scans->list, alert,
			"%s behind interface %u sends with addresses that are not its own and was refused at %u distinct ports or "
			"addresses in %u s, at last %s: find out what runs there.",
			alert->workload ? alert->workload : "Somebody", flow->event.ifindex, count, seconds, target);
	else
		alert_list_raise(scans->list, alert,
			"%s%s%s was refused at %u distinct ports or addresses in %u s, at last %s: find out what runs there; "
			"`penstock flows --ip %s` lists its attempts.",
			workload, at, source, count, seconds, target, source);
}

static void tell_rest(struct scans *scans, const struct alert *alert)
{
	alert_list_raise(scans->list, alert,
		"More sources than can be told apart were refused, together at %u or more distinct ports or addresses in %u s: "
		"their addresses may be made up; `penstock flows --verdict Dropped` lists attempts, filter them before the "
		"node.",
		(unsigned)alert->value, (unsigned)(SCAN_WINDOW / SECOND));
}

/* Enough targets: says so, unless that has been said. */
static void source_judge(struct scans *scans, enum sort sort, struct source *source, const struct flow *flow)
{
	struct sources *sources = &scans->sorts[sort];
	if (source->count <= scans->threshold || !episode_begins(&source->episode, flow->time, SCAN_QUIET))
		return;
	struct alert alert = {.kind = ALERT_PORT_SCAN,
		.time = flow->time,
		.since = flow->time - source_age(source, (uint32_t)(flow->time / MILLISECOND)),
		.value = source->count,
		.threshold = scans->threshold};
	if (source != &sources->rest && sources_may_tell(sources, flow->time)) {
		alert.workload = flow->workload[0];
		tell_source(scans, sort, flow, &alert);
	} else if (source == &sources->rest || episode_begins(&sources->rest.episode, flow->time, SCAN_QUIET)) {
		tell_rest(scans, &alert);
	}
}

/* ---- a flow ---- */

/* What the source still has in the window is the rest's from now on. */
static void source_push_out(struct scans *scans, enum sort sort, struct source *source, const struct flow *flow)
{
	struct source *rest = &scans->sorts[sort].rest;
	uint32_t now = (uint32_t)(flow->time / MILLISECOND);
	source_wakes(rest, flow->time);
	for (uint32_t at = 0; at < source->count; at++) {
		if ((int32_t)(now - source->targets[at].time) <= SCAN_WINDOW / MILLISECOND)
			source_note(rest, source->targets[at], scans->threshold + 1);
	}
	source_judge(scans, sort, rest, flow);
}

static struct source *source_find(
	struct scans *scans, enum sort sort, const struct source_key *key, const struct flow *flow)
{
	struct source *set = &scans->sorts[sort].sources[hash_bytes(key, sizeof(*key), scans->seed) % SETS * WAYS];
	struct source *victim = NULL;
	uint64_t worth = UINT64_MAX;
	for (size_t at = 0; at < WAYS; at++) {
		if (set[at].used && memcmp(&set[at].key, key, sizeof(*key)) == 0)
			return &set[at];
		uint64_t its = source_worth(scans, &set[at], flow->time);
		if (its < worth || (its == worth && set[at].seen < victim->seen)) {
			worth = its;
			victim = &set[at];
		}
	}
	if (worth > 1 && sort != SORT_CLOSED) /* else it was idle, or pairs of addresses would make up one that scans */
		source_push_out(scans, sort, victim, flow);
	*victim = (struct source){
		.key = *key, .used = true, .seen = flow->time, .targets = victim->targets, .capacity = victim->capacity};
	return victim;
}

/* Policy, or somebody who is not who he says: not that a proxy is away or a table full. */
static bool flow_refused(const struct ps_event *event)
{
	switch (event->reason) {
	case PS_REASON_NO_LISTENER:
	case PS_REASON_LIMIT:
	case PS_REASON_TABLE_FULL:
	case PS_REASON_FRAGMENT:
	case PS_REASON_RELATED:
		return false;
	default:
		return event->event == PS_EVENT_REFUSED && event->family;
	}
}

/* A SYN that was answered with RST: one small packet each way. The node's own probes of containers that start are none
 * of this. */
static bool flow_closed(const struct ps_event *event)
{
	return event->event == PS_EVENT_CLOSED && event->protocol == IPPROTO_TCP && !event->handshake &&
		   event->packets[0] == 1 && event->packets[1] == 1 && !(event->flags & (PS_EVENT_NODE | PS_EVENT_LEG));
}

static struct target flow_target(const struct scans *scans, const struct flow *flow)
{
	const struct ps_event *event = &flow->event;
	struct {
		uint8_t addr[16];
		uint16_t port;
		uint8_t protocol, family;
	} target = {.protocol = event->protocol, .family = event->family};
	memcpy(target.addr, event->addr[1], sizeof(target.addr));
	/* From a server's port to a client's: perhaps answers of a connection that a new policy denies. All of them to one
	 * client are one target. ICMP's identifiers are no ports. */
	bool answer = event->port[0] < EPHEMERAL && event->port[1] >= EPHEMERAL;
	if (event->protocol != IPPROTO_ICMP && event->protocol != IPPROTO_ICMPV6 && !answer)
		target.port = event->port[1];
	return (struct target){.hash = (uint32_t)hash_bytes(&target, sizeof(target), scans->seed),
		.time = (uint32_t)(flow->time / MILLISECOND)};
}

void scans_flow(struct scans *scans, const struct flow *flow)
{
	const struct ps_event *event = &flow->event;
	struct source_key key = {.family = event->family};
	enum sort sort = flow->workload[0] ? SORT_KNOWN : SORT_STRANGERS;
	bool closed = flow_closed(event);
	if (!scans->threshold || (!closed && !flow_refused(event)))
		return;
	memcpy(key.addr[0], event->addr[0], sizeof(key.addr[0]));
	if (closed) {
		sort = SORT_CLOSED;
		memcpy(key.addr[1], event->addr[1], sizeof(key.addr[1]));
	} else if (event->reason == PS_REASON_SPOOFED) {
		sort = SORT_KNOWN;
		key = (struct source_key){.ifindex = event->ifindex};
	}
	struct source *source = source_find(scans, sort, &key, flow);
	source_wakes(source, flow->time);
	source_note(source, flow_target(scans, flow), scans->threshold + 1);
	source_judge(scans, sort, source, flow);
}
