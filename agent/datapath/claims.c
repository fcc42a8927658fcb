/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who has which interface. An interface has one endpoint; when two want it,
 *   1. the one that names it wins over
 *   2. one that was found behind it now, and that over
 *   3. one that was found there before; between equals, the one that has it.
 */
#include <net/if_arp.h>
#include <string.h>
#include <time.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

struct pass {
	struct datapath *d;
	const struct compiler *compiler;
	struct map *moved;
	uint32_t *work; /* endpoint ids to look at */
	size_t count, capacity;
	bool released, conflict;
	int64_t now; /* seconds */
	size_t asked;
};

static struct claim *claim_of(struct datapath *d, uint32_t endpoint)
{
	if (endpoint >= d->claims_size) {
		size_t size = d->claims_size ? d->claims_size : 64;
		while (size <= endpoint)
			size *= 2;
		d->claims = mem_resize(d->claims, size, sizeof(*d->claims));
		memset(d->claims + d->claims_size, 0, (size - d->claims_size) * sizeof(*d->claims));
		d->claims_size = size;
	}
	return &d->claims[endpoint];
}

static void queue(struct pass *p, uint32_t endpoint)
{
	struct claim *claim = claim_of(p->d, endpoint);
	if (claim->queued)
		return;
	claim->queued = true;
	p->work = list_room(p->work, p->count, &p->capacity, sizeof(*p->work));
	p->work[p->count++] = endpoint;
}

/* ---- where an endpoint is ---- */

static const struct net_link *home_of(struct datapath *d, const struct ip *ip)
{
	const struct home *home = map_get(&d->homes, ip->bytes);
	const struct net_link *link = home ? net_link(&d->net, home->ifindex) : NULL;
	if (home && (!link || link->born != home->born)) {
		map_delete(&d->homes, ip->bytes);
		return NULL;
	}
	return link && net_eligible(&d->net, link) ? link : NULL;
}

/* An address leads to whoever has it: of two Pods with one address the older is nowhere. */
static const struct net_link *locate(struct datapath *d, const struct endpoint *endpoint, enum claim_rank *rank)
{
	const struct workload *workload = endpoint->workload;
	const struct net_link *link = NULL;
	if (workload->interface && workload->interface[0]) {
		*rank = CLAIM_NAMED;
		link = net_link_named(&d->net, workload->interface);
		return link && link->type != ARPHRD_LOOPBACK ? link : NULL;
	}
	*rank = CLAIM_FOUND;
	for (size_t i = 0; i < workload->ip_count && !link; i++)
		if (!endpoint_lost(endpoint, i))
			link = net_link(&d->net, net_find(&d->net, &workload->ips[i]));
	if (link)
		return link;
	*rank = CLAIM_HOME;
	for (size_t i = 0; i < workload->ip_count && !link; i++)
		if (!endpoint_lost(endpoint, i))
			link = home_of(d, &workload->ips[i]);
	return link;
}

static void remember(struct datapath *d, const struct endpoint *endpoint, const struct net_link *link)
{
	const struct workload *workload = endpoint->workload;
	struct home home = {.ifindex = link->ifindex, .born = link->born};
	for (size_t i = 0; i < workload->ip_count; i++)
		if (!endpoint_lost(endpoint, i))
			map_put(&d->homes, workload->ips[i].bytes, &home);
}

/* ---- taking and giving back ---- */

static void release(struct pass *p, uint32_t endpoint, struct claim *claim)
{
	struct attachment *attachment = claim->ifindex ? map_get(&p->d->attachments, &claim->ifindex) : NULL;
	if (attachment && attachment->endpoint == endpoint)
		attachment_claim(p->d, claim->ifindex, PS_ENDPOINT_NONE);
	if (claim->ifindex)
		p->released = true;
	claim->ifindex = 0;
	claim->born = 0;
	map_put(p->moved, &endpoint, NULL);
}

static void warn_conflict(struct pass *p, const struct endpoint *endpoint, const char *name, uint32_t owner)
{
	const struct endpoint *other = compiler_endpoint_find(p->compiler, owner);
	log_warn(ROOM, "%s/%s and %s/%s are both behind interface %s: only the latter is enforced there",
		endpoint->namespace, endpoint->name, other ? other->namespace : "?", other ? other->name : "?", name);
}

static void take(struct pass *p, const struct endpoint *endpoint, const struct net_link *link, enum claim_rank rank)
{
	struct datapath *d = p->d;
	struct claim *claim = claim_of(d, endpoint->id);
	uint32_t owner = attachment_get(d, link->ifindex)->endpoint;
	if (owner != PS_ENDPOINT_NONE && owner != endpoint->id) {
		struct claim *other = claim_of(d, owner);
		if (other->rank >= rank && other->ifindex == link->ifindex) {
			if (!claim->conflict)
				warn_conflict(p, endpoint, link->name, owner);
			claim->conflict = p->conflict = true;
			return;
		}
		release(p, owner, other);
		other->conflict = p->conflict = true; /* look again: it may be elsewhere */
	}
	claim->ifindex = link->ifindex;
	claim->born = link->born;
	claim->conflict = false;
	attachment_claim(d, link->ifindex, endpoint->id);
	map_put(p->moved, &endpoint->id, NULL);
}

/*
 * An idle workload on a bridge is in nobody's tables: the host may never have spoken to it. Asked for at most once a
 * second each, and so many at once.
 */
#define ASK_MAX 128
static void ask(struct pass *p, const struct endpoint *endpoint, struct claim *claim)
{
	const struct workload *workload = endpoint->workload;
	uint32_t devices[4];
	if (claim->asked == p->now || p->asked >= ASK_MAX)
		return;
	claim->asked = p->now;
	for (size_t i = 0; i < workload->ip_count; i++) {
		if (endpoint_lost(endpoint, i))
			continue;
		size_t count = net_suspects(&p->d->net, &workload->ips[i], devices, sizeof(devices) / sizeof(devices[0]));
		for (size_t device = 0; device < count; device++, p->asked++)
			neighbour_ask(&p->d->monitor, &workload->ips[i], devices[device]);
	}
}

static void look(struct pass *p, uint32_t id)
{
	struct claim *claim = claim_of(p->d, id);
	claim->queued = false;
	const struct endpoint *endpoint = compiler_endpoint_find(p->compiler, id);
	if (!endpoint)
		return;
	enum claim_rank rank;
	const struct net_link *link = locate(p->d, endpoint, &rank);
	if (!link && rank != CLAIM_NAMED)
		ask(p, endpoint, claim);
	if (link && rank == CLAIM_FOUND)
		remember(p->d, endpoint, link);
	if (!link || claim->ifindex != link->ifindex || claim->born != link->born) {
		if (claim->ifindex)
			release(p, id, claim);
		if (!link)
			claim->conflict = false;
	}
	claim->rank = rank;
	if (link && !claim->ifindex)
		take(p, endpoint, link, rank);
}

/* ---- the pass ---- */

static void walk(struct pass *p, bool relook)
{
	struct datapath *d = p->d;
	size_t at = 0, seen = 0;
	const struct endpoint *endpoint;
	while ((endpoint = compiler_endpoint_next(p->compiler, &at))) {
		struct claim *claim = claim_of(d, endpoint->id);
		if (claim->seen == 0)
			d->claims_used++;
		claim->seen = d->round;
		seen++;
		/* Objects are immutable, and the old one lives until the new one has been seen here: another object has another
		 * address. */
		if (relook || claim->conflict || claim->workload != endpoint->workload ||
			memcmp(claim->lost, endpoint->lost, sizeof(claim->lost)))
			queue(p, endpoint->id);
		claim->workload = endpoint->workload;
		memcpy(claim->lost, endpoint->lost, sizeof(claim->lost));
		if (endpoint->bound != (claim->told != 0))
			map_put(p->moved, &endpoint->id, NULL);
	}
	for (uint32_t id = 0; seen < d->claims_used && id < d->claims_size; id++) {
		struct claim *claim = &d->claims[id];
		if (claim->seen == 0 || claim->seen == d->round)
			continue;
		release(p, id, claim);
		*claim = (struct claim){0};
		d->claims_used--;
	}
}

size_t claims_update(struct datapath *d, const struct compiler *compiler, bool relook, struct map *moved)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	struct pass p = {.d = d, .compiler = compiler, .moved = moved, .now = now.tv_sec};
	if (++d->round == 0) /* 0 is "never seen" */
		d->round = 1;
	walk(&p, relook);
	for (size_t i = 0; i < p.count; i++)
		look(&p, p.work[i]);
	/* What was released may be what another waits for; once more is enough for all but chains, which the next pass
	 * ends. */
	if (p.released && p.conflict) {
		p.count = 0;
		walk(&p, false);
		for (size_t i = 0; i < p.count; i++)
			look(&p, p.work[i]);
	}
	free(p.work);
	return p.asked;
}

bool datapath_locates(struct datapath *datapath, const struct endpoint *endpoint)
{
	enum claim_rank rank;
	return locate(datapath, endpoint, &rank);
}

const char *datapath_elsewhere(struct datapath *datapath, const struct endpoint *endpoint, struct ip *ip)
{
	const struct workload *workload = endpoint->workload;
	enum claim_rank rank;
	const struct net_link *own = locate(datapath, endpoint, &rank);
	for (size_t i = 0; own && i < workload->ip_count; i++) {
		uint32_t found = endpoint_lost(endpoint, i) ? 0 : net_find(&datapath->net, &workload->ips[i]);
		if (!found || found == own->ifindex)
			continue;
		*ip = workload->ips[i];
		return net_link(&datapath->net, found)->name;
	}
	return NULL;
}

/* ---- after a restart ---- */

struct live_addresses {
	struct datapath *d;
	struct map by_endpoint; /* the earlier agent's endpoint id → struct home */
};

static int note_home(struct live_addresses *live, uint32_t side, const struct ps_addr *addr, const struct ip *ip)
{
	const struct home *home = side == side_live(live->d) ? map_get(&live->by_endpoint, &addr->endpoint) : NULL;
	if (home && addr->endpoint != PS_ENDPOINT_NONE)
		map_put(&live->d->homes, ip->bytes, home);
	return 0;
}

static int note_home4(void *context, const void *key, const void *value)
{
	const struct ps_key_addr4 *addr = key;
	struct ip ip = ip_from_v4(addr->addr);
	return note_home(context, addr->side, value, &ip);
}

static int note_home6(void *context, const void *key, const void *value)
{
	const struct ps_key_addr6 *addr = key;
	struct ip ip = ip_from_v6(addr->addr);
	return note_home(context, addr->side, value, &ip);
}

void claims_take_over(struct datapath *d)
{
	struct live_addresses live = {.d = d};
	map_init(&live.by_endpoint, sizeof(uint32_t), sizeof(struct home));
	size_t at = 0;
	const void *key;
	void *value;
	while (map_next(&d->attachments, &at, &key, &value)) {
		const struct attachment *attachment = value;
		const struct net_link *link = net_link(&d->net, *(const uint32_t *)key);
		uint32_t endpoint = attachment->kernel.endpoint[side_live(d)];
		if (link && endpoint != PS_ENDPOINT_NONE)
			map_put(&live.by_endpoint, &endpoint, &(struct home){.ifindex = link->ifindex, .born = link->born});
	}
	if (live.by_endpoint.count && d->generation) {
		read_entries(
			d->loaded.table[TABLE_addr4], sizeof(struct ps_key_addr4), sizeof(struct ps_addr), true, note_home4, &live);
		read_entries(
			d->loaded.table[TABLE_addr6], sizeof(struct ps_key_addr6), sizeof(struct ps_addr), true, note_home6, &live);
	}
	map_clear(&live.by_endpoint);
}
