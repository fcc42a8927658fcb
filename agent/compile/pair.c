/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/compile/pair.h"
#include <string.h>
#include "agent/base/mem.h"
#include "agent/compile/port.h"
#include "agent/compile/proxy.h"
#include "agent/compile/row.h"
#include "agent/compile/term.h"

/* ---- from rules to steps ---- */

struct evaluation {
	struct compiler *c;
	const struct profile_side *side;
	const struct words *words; /* terms of the case, then pairs of named ports */
	uint32_t term_count;
	struct side_rule *rules; /* that meet the peer, in the order in which they decide */
	size_t rule_count, rule_room;
	struct steps steps;
	const struct proxy_slot *proxy; /* of the rule under way, or NULL */
	int closed;                     /* stages up to this one are decided; -1 at first */
	bool passes;                    /* a step of the stage under way passes on */
};

#define STEPS_LOOK_BACK 256

/* An earlier step of the same stage and port decides before this one could. Looks back only so far: to leave one out
 * saves space, it changes no verdict. */
static bool step_is_late(const struct evaluation *e, const struct step *step)
{
	for (size_t i = e->steps.count; i-- > 0 && e->steps.count - i <= STEPS_LOOK_BACK;) {
		const struct step *before = &e->steps.list[i];
		if (before->stage != step->stage)
			return false;
		if (before->port == step->port && !((before->flags ^ step->flags) & STEP_AUDIT))
			return true;
	}
	return false;
}

static void step_add(struct evaluation *e, struct step step)
{
	if (step_is_late(e, &step)) {
		if (step.port != PORT_ANY)
			port_term_drop(e->c, step.port);
		return;
	}
	e->steps.list = list_room(e->steps.list, e->steps.count, &e->steps.room, sizeof(struct step));
	e->steps.list[e->steps.count++] = step;
}

static void step_add_range(struct evaluation *e, struct step step, uint8_t protocol, uint16_t first, uint16_t last)
{
	int proto = port_proto(protocol);
	if (proto < 0)
		return;
	step.port = port_term_take(e->c, proto, first, last);
	step_add(e, step);
}

/* Where the rule names no protocol it is about those of its proxy. One that it names it is about in any case: a proxy
 * that does not take it is one that is not available. */
static void step_add_taken(struct evaluation *e, struct step step, uint8_t protocol, uint16_t first, uint16_t last)
{
	if (!e->proxy || proxy_takes(e->proxy, protocol))
		step_add_range(e, step, protocol, first, last);
}

/* A name means the destination's own number: the workload's for ingress, the peer's for egress. */
static void step_add_named(struct evaluation *e, struct step step, const struct compiled_port *match)
{
	const struct profile *profile = e->side->profile;
	for (size_t i = 0; e->side->direction == INGRESS && i < profile->port_count; i++) {
		const struct group_port *port = &profile->ports[i];
		if (port->name == match->name && (!match->protocol || match->protocol == port->protocol))
			step_add_taken(e, step, port->protocol, port->port, port->port);
	}
	for (uint32_t i = e->term_count; match->term && i < e->words->count; i += 2) {
		uint8_t protocol = (uint8_t)(e->words->list[i + 1] >> 16);
		uint16_t port = (uint16_t)e->words->list[i + 1];
		if (e->words->list[i] == match->term->id && (!match->protocol || match->protocol == protocol))
			step_add_taken(e, step, protocol, port, port);
	}
}

static int rank_compare(const void *left, const void *right)
{
	const struct side_rule *a = left, *b = right;
	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	return (a->rule > b->rule) - (a->rule < b->rule);
}

static void rules_add(struct evaluation *e, const struct side_rule *rule)
{
	e->rules = list_room(e->rules, e->rule_count, &e->rule_room, sizeof(*rule));
	e->rules[e->rule_count++] = *rule;
}

/* Each rule once, though it names several terms of the peer. */
static void rules_collect(struct evaluation *e)
{
	const struct profile_side *side = e->side;
	for (uint32_t i = 0; i < e->term_count; i++)
		for (size_t at = side_rule_first(side, e->words->list[i]);
			 at < side->rule_count && side->rules[at].term == e->words->list[i]; at++)
			rules_add(e, &side->rules[at]);
	bool sorted = !e->rule_count;
	for (size_t i = 0; i < side->always_count; i++)
		rules_add(e, &side->always[i]);
	e->c->work.rules += e->rule_count;
	if (sorted || e->rule_count < 2)
		return;
	qsort(e->rules, e->rule_count, sizeof(*e->rules), rank_compare);
	size_t kept = 1;
	for (size_t i = 1; i < e->rule_count; i++)
		if (e->rules[i].rule != e->rules[kept - 1].rule)
			e->rules[kept++] = e->rules[i];
	e->rule_count = kept;
}

static void rule_steps(struct evaluation *e, const struct compiled *compiled, const struct compiled_rule *rule)
{
	struct step step = {.rule = rule->id, .stage = (uint8_t)compiled->stage, .action = (uint8_t)rule->action};
	if (compiled->object->audit)
		step.flags |= STEP_AUDIT;
	e->proxy = rule->proxy;
	if (rule->proxy)
		step.proxy = (uint8_t)rule->proxy->number;
	if (!rule->any_port) {
		for (size_t i = 0; i < rule->port_count; i++) {
			const struct compiled_port *port = &rule->ports[i];
			if (port->name)
				step_add_named(e, step, port);
			else
				step_add_range(e, step, port->protocol, port->first, port->last);
		}
	} else if (rule->proxy) {
		step_add_taken(e, step, PROTOCOL_TCP, 0, UINT16_MAX);
		step_add_taken(e, step, PROTOCOL_UDP, 0, UINT16_MAX);
	} else {
		step_add(e, step);
		e->passes |= rule->action == RULE_PASS;
		if (step.flags & STEP_AUDIT)
			return;
		/* Nothing behind it in this stage is reached; without a way on (1 to 2, 3 to 4), no other policy stage either.
		 */
		e->closed = compiled->stage;
		if (!e->passes && compiled->stage < STAGE_INTERCEPT)
			e->closed = STAGE_BASELINE;
	}
	e->passes |= rule->action == RULE_PASS;
}

/* 2, behind the rules of all NetworkPolicies: selected workloads are closed but for what these allow. */
static void isolation_steps(struct evaluation *e)
{
	for (size_t i = 0; i < e->side->isolation_count && e->closed < STAGE_NETWORK_POLICY; i++) {
		const struct side_isolation *isolation = &e->side->isolation[i];
		struct step step = {
			.rule = isolation->rule, .stage = STAGE_NETWORK_POLICY, .action = RULE_DENY, .flags = STEP_ISOLATION};
		if (isolation->audit)
			step.flags |= STEP_AUDIT;
		step_add(e, step);
		if (!isolation->audit)
			e->closed = STAGE_BASELINE;
	}
}

static void evaluate(struct evaluation *e)
{
	int stage = -1;
	rules_collect(e);
	for (size_t i = 0; i < e->rule_count; i++) {
		const struct compiled *compiled = e->rules[i].compiled;
		if (compiled->stage > STAGE_NETWORK_POLICY && stage <= STAGE_NETWORK_POLICY)
			isolation_steps(e);
		if ((int)compiled->stage != stage)
			e->passes = false;
		stage = compiled->stage;
		if (e->closed < stage)
			rule_steps(e, compiled, e->rules[i].rule);
	}
	if (stage <= STAGE_NETWORK_POLICY)
		isolation_steps(e);
}

/* ---- cases ---- */

/* What of the class concerns this side. */
static void case_words(
	struct compiler *c, const struct profile_side *side, const struct class *class, struct words *ret, uint32_t *terms)
{
	ret->count = 0;
	c->work.case_terms += words_common(&side->terms, class->words, class->term_count, ret);
	*terms = ret->count;
	for (uint32_t i = class->term_count; i < class->word_count; i += 2) {
		if (!words_have(&side->terms, class->words[i]))
			continue;
		words_add(ret, class->words[i]);
		words_add(ret, class->words[i + 1]);
	}
}

static bool side_meets(const struct profile_side *side, const struct class *class)
{
	return words_meet(&side->terms, class->words, class->term_count);
}

struct case_key {
	const struct words *words;
	uint32_t term_count;
};

static bool case_same(const struct interned *item, const void *context)
{
	const struct peer_case *peer_case = OWNER_OF(item, struct peer_case, interned);
	const struct case_key *key = context;
	return peer_case->term_count == key->term_count && peer_case->word_count == key->words->count &&
		   (!key->words->count || !memcmp(peer_case->words, key->words->list, key->words->count * sizeof(uint32_t)));
}

static struct row *case_row(struct compiler *c, const struct profile_side *side, const struct case_key *key)
{
	struct evaluation e = {.c = c, .side = side, .words = key->words, .term_count = key->term_count, .closed = -1};
	evaluate(&e);
	c->work.rows++;
	struct row *row = row_take(c, &e.steps);
	free(e.rules);
	free(e.steps.list);
	return row;
}

static struct peer_case *case_find(const struct profile_side *side, const struct case_key *key, uint64_t hash)
{
	struct interned *found = intern_find(&side->cases, hash, case_same, key);
	return found ? OWNER_OF(found, struct peer_case, interned) : NULL;
}

static uint64_t case_hash(const struct case_key *key)
{
	return hash_bytes(key->words->list, key->words->count * sizeof(uint32_t), key->term_count);
}

static struct peer_case *case_take(struct compiler *c, struct profile_side *side, const struct case_key *key)
{
	uint64_t hash = case_hash(key);
	struct peer_case *peer_case = case_find(side, key, hash);
	if (!peer_case) {
		size_t size = key->words->count * sizeof(uint32_t);
		peer_case = mem_alloc(sizeof(*peer_case) + size);
		if (size)
			memcpy(peer_case->words, key->words->list, size);
		peer_case->term_count = key->term_count;
		peer_case->word_count = key->words->count;
		peer_case->row = case_row(c, side, key);
		intern_add(&side->cases, &peer_case->interned, hash);
	}
	peer_case->references++;
	return peer_case;
}

static void case_free(struct compiler *c, struct profile_side *side, struct peer_case *peer_case)
{
	intern_remove(&side->cases, &peer_case->interned);
	row_drop(c, peer_case->row);
	free(peer_case);
}

/* ---- pairs ---- */

#define PAIRS_KEPT 4096 /* lists longer than this, as of a full compile, are given back */

static void pairs_forget(struct pair **list, size_t *count, size_t *room)
{
	*count = 0;
	if (*room <= PAIRS_KEPT)
		return;
	free(*list);
	*list = NULL;
	*room = 0;
}

static void pair_add(struct compiler *c, struct profile_side *side, struct class *class, struct words *scratch)
{
	struct case_key key = {.words = scratch};
	case_words(c, side, class, scratch, &key.term_count);
	c->work.pairs++;
	if (c->pair_count == c->pair_room) {
		c->pair_room = c->pair_room ? c->pair_room * 2 : 64;
		c->pairs = mem_resize(c->pairs, c->pair_room, sizeof(*c->pairs));
	}
	c->pairs[c->pair_count++] = (struct pair){side, class, case_take(c, side, &key)};
}

static void pairs_of_class(struct compiler *c, struct class *class, struct words *scratch)
{
	uint64_t stamp = ++c->stamp;
	for (uint32_t i = 0; i < class->term_count; i++) {
		const struct term *term = slots_get(&c->term_by_id, class->words[i]);
		LINKS_EACH(at, &term->users)
		{
			struct profile_side *side = OWNER_OF(at, struct side_link, in_term)->side;
			if (side->stamp == stamp || side->profile->fresh || side->profile->ended)
				continue;
			side->stamp = stamp;
			pair_add(c, side, class, scratch);
		}
	}
}

static void pairs_of_side(struct compiler *c, struct profile_side *side, struct words *scratch)
{
	uint64_t stamp = ++c->stamp;
	struct case_key key = {.words = scratch};
	scratch->count = 0;
	side->base = case_take(c, side, &key);
	for (uint32_t i = 0; i < side->terms.count; i++) {
		const struct term *term = slots_get(&c->term_by_id, side->terms.list[i]);
		LINKS_EACH(at, &term->classes)
		{
			struct class *class = OWNER_OF(at, struct class_link, in_term)->class;
			if (class->stamp == stamp || class->ended)
				continue;
			class->stamp = stamp;
			pair_add(c, side, class, scratch);
		}
	}
}

static void case_leave(struct compiler *c, struct profile_side *side, const struct class *class, struct words *scratch)
{
	struct case_key key = {.words = scratch};
	case_words(c, side, class, scratch, &key.term_count);
	struct peer_case *peer_case = case_find(side, &key, case_hash(&key));
	if (peer_case && !--peer_case->references)
		case_free(c, side, peer_case);
}

void pairs_part(struct compiler *c, struct profile_side *side, const struct words *terms)
{
	uint64_t stamp = ++c->stamp;
	struct words scratch = {0};
	for (uint32_t i = 0; i < terms->count; i++) {
		const struct term *term = slots_get(&c->term_by_id, terms->list[i]);
		LINKS_EACH(at, &term->classes)
		{
			struct class *class = OWNER_OF(at, struct class_link, in_term)->class;
			if (class->stamp == stamp || !side_meets(side, class))
				continue;
			class->stamp = stamp;
			case_leave(c, side, class, &scratch);
			c->parted = list_room(c->parted, c->parted_count, &c->parted_room, sizeof(*c->parted));
			c->parted[c->parted_count++] = (struct pair){.side = side, .class = class};
		}
	}
	words_free(&scratch);
}

/* Fresh classes find the side themselves. */
static void pairs_of_changed(struct compiler *c, struct profile_side *side, struct words *scratch)
{
	uint64_t stamp = ++c->stamp;
	for (uint32_t i = 0; i < side->changed.count; i++) {
		const struct term *term = slots_get(&c->term_by_id, side->changed.list[i]);
		LINKS_EACH(at, &term->classes)
		{
			struct class *class = OWNER_OF(at, struct class_link, in_term)->class;
			if (class->stamp == stamp || class->ended || class->fresh || !side_meets(side, class))
				continue;
			class->stamp = stamp;
			pair_add(c, side, class, scratch);
		}
	}
}

/* A class that ended lets go the cases that it had with profiles that stay. */
static void class_unpair(struct compiler *c, struct class *class, struct words *scratch)
{
	uint64_t stamp = ++c->stamp;
	for (uint32_t i = 0; i < class->term_count; i++) {
		const struct term *term = slots_get(&c->term_by_id, class->words[i]);
		LINKS_EACH(at, &term->users)
		{
			struct profile_side *side = OWNER_OF(at, struct side_link, in_term)->side;
			if (side->stamp == stamp || side->profile->fresh || side->profile->ended)
				continue;
			side->stamp = stamp;
			if (!words_meet(&side->changed, class->words, class->term_count)) /* else it has parted */
				case_leave(c, side, class, scratch);
		}
	}
}

static void side_unpair(struct compiler *c, struct profile_side *side)
{
	size_t at = 0;
	struct interned *item;
	while ((item = intern_first(&side->cases, &at)))
		case_free(c, side, OWNER_OF(item, struct peer_case, interned));
}

void pairs_refresh(struct compiler *c)
{
	struct words scratch = {0};
	LINKS_EACH(at, &c->fresh_classes)
	pairs_of_class(c, OWNER_OF(at, struct class, waiting), &scratch);
	LINKS_EACH(at, &c->fresh_profiles)
	for (enum direction direction = 0; direction < DIRECTIONS; direction++)
		pairs_of_side(c, &OWNER_OF(at, struct profile, waiting)->sides[direction], &scratch);
	LINKS_EACH(at, &c->renewed_profiles)
	for (enum direction direction = 0; direction < DIRECTIONS; direction++)
		pairs_of_changed(c, &OWNER_OF(at, struct profile, waiting)->sides[direction], &scratch);
	LINKS_EACH(at, &c->idle_classes)
	class_unpair(c, OWNER_OF(at, struct class, waiting), &scratch);
	LINKS_EACH(at, &c->idle_profiles)
	for (enum direction direction = 0; direction < DIRECTIONS; direction++)
		side_unpair(c, &OWNER_OF(at, struct profile, waiting)->sides[direction]);
	LINKS_EACH_SAFE(at, after, &c->renewed_profiles)
	{
		for (enum direction direction = 0; direction < DIRECTIONS; direction++)
			words_free(&OWNER_OF(at, struct profile, waiting)->sides[direction].changed);
		link_remove(at);
	}
	words_free(&scratch);
}

/* ---- table peer_row ---- */

/* The entry of two things that were: gone, unless those who have their numbers now have written it anew. */
static void pair_erase(struct compiler *c, const struct profile_side *side, const struct class *class)
{
	const struct profile *profile = slots_get(&c->profile_by_id, side->profile->id);
	const struct class *now = slots_get(&c->class_by_id, class->id);
	if (profile && now && side_meets(&profile->sides[side->direction], now))
		return;
	struct ps_key_row key = {
		.profile = side->profile->id, .class_id = class->id, .direction = (uint32_t)side->direction};
	tables_delete(&c->tables, TABLE_peer_row, &key);
}

void pairs_emit(struct compiler *c)
{
	for (size_t i = 0; i < c->pair_count; i++) {
		const struct pair *pair = &c->pairs[i];
		struct ps_key_row key = {.profile = pair->side->profile->id,
			.class_id = pair->class->id,
			.direction = (uint32_t)pair->side->direction};
		if (pair->peer_case->row != pair->side->base->row)
			tables_put(&c->tables, TABLE_peer_row, &key, &pair->peer_case->row->id);
		else
			tables_delete(&c->tables, TABLE_peer_row, &key);
	}
	pairs_forget(&c->pairs, &c->pair_count, &c->pair_room);
	for (size_t i = 0; i < c->parted_count; i++)
		pair_erase(c, c->parted[i].side, c->parted[i].class);
	pairs_forget(&c->parted, &c->parted_count, &c->parted_room);
	LINKS_EACH(at, &c->idle_classes)
	{
		const struct class *class = OWNER_OF(at, struct class, waiting);
		for (uint32_t i = 0; i < class->term_count; i++) {
			const struct term *term = slots_get(&c->term_by_id, class->words[i]);
			LINKS_EACH(user, &term->users)
			pair_erase(c, OWNER_OF(user, struct side_link, in_term)->side, class);
		}
	}
	LINKS_EACH(at, &c->idle_profiles)
	{
		struct profile *profile = OWNER_OF(at, struct profile, waiting);
		for (enum direction direction = 0; direction < DIRECTIONS; direction++) {
			const struct profile_side *side = &profile->sides[direction];
			for (uint32_t i = 0; i < side->terms.count; i++) {
				const struct term *term = slots_get(&c->term_by_id, side->terms.list[i]);
				LINKS_EACH(link, &term->classes)
				pair_erase(c, side, OWNER_OF(link, struct class_link, in_term)->class);
			}
		}
	}
}
