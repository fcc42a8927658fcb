/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What our table of nftables says. It depends on the ports of proxies alone: which connection goes to whom was decided
 * before, and stands in the packet's mark and priority (PS_HANDOVER_* in abi.h). So rules and flips never touch it.
 *
 *   handover     what the mark leads here and its priority gives to a port of a proxy: to the transparent socket that
 *                has its very addresses, else to who listens on loopback, or on the wildcard. Nobody takes it: dropped.
 *                Behind the rules of others (mangle): some wipe whole marks, as wg-quick does of UDP. Without its mark
 *                a packet would be forwarded, so it gets it again. Port 0: the mark is all it needs.
 *   intercepted  An intercepted packet crosses PREROUTING like any other: kube-proxy would rewrite the address of a
 *                Service, and the socket would not be found. So it is mapped to where it goes anyway, one priority
 *                before kube-proxy's: a connection's first mapping is the only one.
 *   resting      Behind kube-proxy's: a proxy's TIME_WAIT has the addresses and ports that a packet has now. Nobody has
 *                seen those before, and the stack would find the socket and drop what it is to forward and has one. So
 *                it goes there: the answer makes the client reset it, and begin again.
 *   processes    what a process of this node sends and a proxy is to have (HOST) is routed anew, to lo (REROUTE),
 *                unless it goes to this node itself. A datagram has the mark that its socket had before a program saw
 *                where it goes: the socket's says what became of it. (Without a socket, skuid does not match.)
 *   rerouted     the same as intercepted, for that; sources: and for its source.
 *
 * Plain commands: JSON would say the same with more words. What is read back is JSON, because nft 1.0.6 prints a
 * `tproxy` without its port.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/buffer.h"
#include "agent/datapath/private.h"

/* Nobody can listen there, so who listens on the wildcard is found: RFC 5737's and RFC 6666's. `tproxy to :PORT` would
 * ask for the first address of the interface. */
#define NOWHERE4 "192.0.2.0"
#define NOWHERE6 "[100::]"

bool ports_has(const struct port_set *set, uint16_t port)
{
	return set->word[port / 64] >> (port % 64) & 1;
}

void ports_add(struct port_set *set, uint16_t port)
{
	set->word[port / 64] |= 1ull << (port % 64);
}

void ports_remove(struct port_set *set, uint16_t port)
{
	set->word[port / 64] &= ~(1ull << (port % 64));
}

bool ports_differ(const struct port_set *a, const struct port_set *b)
{
	return memcmp(a, b, sizeof(*a)) != 0;
}

void ports_union(struct port_set *set, const struct port_set *more)
{
	for (size_t i = 0; i < sizeof(set->word) / sizeof(set->word[0]); i++)
		set->word[i] |= more->word[i];
}

/* "7641:3a99 : 15001, …" of those in `set` that are not in `without`; how many. */
static size_t elements_print(
	struct buffer *b, uint32_t handover, const struct port_set *set, const struct port_set *without)
{
	size_t count = 0;
	for (uint32_t port = 1; port <= PS_HANDOVER_PORT; port++)
		if (ports_has(set, port) && !(without && ports_has(without, port)))
			buffer_printf(b, "%s%x:%x : %u", count++ ? ", " : "", handover >> 16, port, port);
	return count;
}

static void map_print(struct buffer *b, const char *name, uint32_t handover, const struct port_set *ports)
{
	struct buffer elements = {0};
	buffer_printf(b, "	map %s {\n		type classid : inet_service\n", name);
	if (elements_print(&elements, handover, ports, NULL))
		buffer_printf(b, "		elements = { %s }\n", elements.data);
	buffer_puts(b, "	}\n");
	buffer_free(&elements);
}

static void handover_print(struct buffer *b, uint32_t mask, const struct port_set *ports)
{
	uint32_t intercept = mark_intercept(mask);
	static const char *const families[] = {"ip", "ip6"};
	static const char *const places[][2] = {{"127.0.0.1", "[::1]"}, {NOWHERE4, NOWHERE6}};
	static const char *const maps[] = {"loopback", "wildcard"};
	map_print(b, maps[0], PS_HANDOVER_LOOPBACK, ports);
	map_print(b, maps[1], PS_HANDOVER_WILDCARD, ports);
	/* INTERCEPT and REROUTE both have the lowest bit. */
	buffer_printf(b,
		"	chain handover {\n"
		"		type filter hook prerouting priority mangle + 1; policy accept;\n"
		"		meta priority != %x:0-%x:%x accept\n"
		"		meta mark & %#x == 0 meta mark set meta mark & %#x | %#x\n"
		"		meta priority %x:0 accept\n",
		PS_HANDOVER_LOOPBACK >> 16, PS_HANDOVER_WILDCARD >> 16, PS_HANDOVER_PORT, intercept, ~mask, intercept,
		PS_HANDOVER_LOOPBACK >> 16);
	for (int map = 0; map < 2; map++)
		for (int family = 0; family < 2; family++)
			buffer_printf(b, "		meta l4proto { tcp, udp } tproxy %s to %s:meta priority map @%s accept\n",
				families[family], places[map][family], maps[map]);
	buffer_puts(b, "		drop\n	}\n");
}

static void identity_print(struct buffer *b, const char *name, const char *hook, uint32_t mask, uint32_t state)
{
	buffer_printf(b,
		"	chain %s {\n"
		"		type nat hook %s priority -101;\n"
		"		meta mark & %#x == %#x dnat ip to ip daddr\n"
		"		meta mark & %#x == %#x dnat ip6 to ip6 daddr\n"
		"	}\n",
		name, hook, mask, state, mask, state);
}

/* Who masquerades all that leaves does not mean lo. */
static void source_print(struct buffer *b, uint32_t mask, uint32_t state)
{
	buffer_printf(b,
		"	chain sources {\n"
		"		type nat hook postrouting priority 99;\n"
		"		meta mark & %#x == %#x snat ip to ip saddr\n"
		"		meta mark & %#x == %#x snat ip6 to ip6 saddr\n"
		"	}\n",
		mask, state, mask, state);
}

/* A listener on the wildcard has nobody's addresses. */
static void resting_print(struct buffer *b, uint32_t mask)
{
	uint32_t intercept = mark_intercept(mask);
	buffer_printf(b,
		"	chain resting {\n"
		"		type filter hook prerouting priority -99; policy accept;\n"
		"		meta l4proto != tcp accept\n"
		"		tcp flags & (syn | rst) == 0 accept\n"
		"		ct status & dnat == 0 accept\n"
		"		socket wildcard 1 accept\n"
		"		meta mark & %#x == 0 socket transparent 1 meta mark set meta mark | %#x\n"
		"	}\n",
		mask, intercept);
}

void handover_table(struct buffer *b, uint32_t mask, const struct table_wanted *wanted)
{
	uint32_t intercept = mark_intercept(mask), answer = mark_answer(mask), reroute = intercept | answer;
	buffer_puts(b, "table inet " OUR_TABLE " {\n");
	if (wanted->handover)
		handover_print(b, mask, &wanted->ports);
	if (wanted->nat) {
		identity_print(b, "intercepted", "prerouting", mask, intercept);
		if (!wanted->plain)
			resting_print(b, mask);
	}
	if (wanted->host)
		buffer_printf(b,
			"	chain processes {\n"
			"		type route hook output priority mangle; policy accept;\n"
			"		meta l4proto udp meta skuid != %u socket mark & %#x == %#x fib daddr type unicast "
			"meta mark set meta mark & %#x | %#x accept\n"
			"		meta l4proto udp meta mark & %#x == %#x meta mark set meta mark & %#x accept\n"
			"		meta mark & %#x == %#x fib daddr type unicast meta mark set meta mark | %#x accept\n"
			"		meta mark & %#x == %#x fib daddr type local meta mark set meta mark & %#x\n"
			"	}\n",
			UINT32_MAX, mask, answer, ~mask, reroute, mask, answer, ~mask, mask, answer, intercept, mask, answer,
			~mask);
	if (wanted->host && wanted->nat) {
		identity_print(b, "rerouted", "output", mask, reroute);
		source_print(b, mask, reroute);
	}
	buffer_puts(b, "}\n");
}

static void elements_change(
	struct buffer *b, const char *verb, const struct port_set *set, const struct port_set *without)
{
	struct buffer loopback = {0}, wildcard = {0};
	if (elements_print(&loopback, PS_HANDOVER_LOOPBACK, set, without) &&
		elements_print(&wildcard, PS_HANDOVER_WILDCARD, set, without))
		buffer_printf(b,
			"%s element inet " OUR_TABLE " loopback { %s }\n"
			"%s element inet " OUR_TABLE " wildcard { %s }\n",
			verb, loopback.data, verb, wildcard.data);
	buffer_free(&loopback);
	buffer_free(&wildcard);
}

void handover_ports(struct buffer *b, const struct port_set *from, const struct port_set *to)
{
	elements_change(b, "add", to, from);
	elements_change(b, "delete", from, to);
}
