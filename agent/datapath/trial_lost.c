/* SPDX-License-Identifier: Apache-2.0 */
/* Where a packet of the trial is lost: counters of nftables before everybody's rules at a hook, and behind them. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/buffer.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"
#include "agent/datapath/trial.h"

/* In the order of the way. Ours stands behind mangle, at -149. */
enum place { ENTERED, BEFORE_OURS, BEHIND_OURS, ROUTED, DELIVERED, AT_INPUT, ANSWERED, LEFT, PLACES };
static const struct {
	const char *name, *hook, *match;
	int priority;
} places[PLACES] = {
	[ENTERED] = {"entered", "prerouting", "iifname \"" TRIAL_NEAR "\" meta l4proto { tcp, udp } th dport", INT_MIN + 1},
	[BEFORE_OURS] = {"before", "prerouting", "iifname \"" TRIAL_NEAR "\" meta l4proto { tcp, udp } th dport", -150},
	[BEHIND_OURS] = {"behind", "prerouting", "iifname \"" TRIAL_NEAR "\" meta l4proto { tcp, udp } th dport", -148},
	[ROUTED] = {"routed", "prerouting", "iifname \"" TRIAL_NEAR "\" meta l4proto { tcp, udp } th dport", INT_MAX},
	[DELIVERED] = {"delivered", "input", "iifname \"" TRIAL_NEAR "\" meta l4proto { tcp, udp } th dport", INT_MIN + 1},
	[AT_INPUT] = {"input", "input", "iifname \"" TRIAL_NEAR "\" meta l4proto { tcp, udp } th dport", INT_MAX},
	[ANSWERED] = {"answered", "output", "oifname \"" TRIAL_NEAR "\" meta l4proto { tcp, udp } th sport", INT_MIN + 1},
	[LEFT] = {"left", "postrouting", "oifname \"" TRIAL_NEAR "\" meta l4proto { tcp, udp } th sport", INT_MAX},
};

static uint64_t invalid_before; /* the applying thread's */

/* IPReversePathFilter of this network namespace: packets whose source was not believed. */
static uint64_t invalid_sources(void)
{
	char *names = NULL, *values = NULL, *name_at, *value_at;
	size_t names_size = 0, values_size = 0;
	uint64_t found = 0;
	FILE *file = fopen("/proc/net/netstat", "re");
	while (file && getline(&names, &names_size, file) > 0 && getline(&values, &values_size, file) > 0) {
		char *name = strtok_r(names, " \n", &name_at), *value = strtok_r(values, " \n", &value_at);
		for (; name && value; name = strtok_r(NULL, " \n", &name_at), value = strtok_r(NULL, " \n", &value_at))
			if (strcmp(name, "IPReversePathFilter") == 0)
				found = strtoull(value, NULL, 10);
	}
	if (file)
		fclose(file);
	free(names);
	free(values);
	return found;
}

int lost_watch(struct error *e)
{
	struct buffer b = {0};
	buffer_puts(&b, "add table inet " TRY_TABLE "\ndelete table inet " TRY_TABLE "\ntable inet " TRY_TABLE " {\n");
	for (int i = 0; i < PLACES; i++)
		buffer_printf(&b, "	counter %s {\n	}\n", places[i].name);
	for (int i = 0; i < PLACES; i++)
		buffer_printf(&b,
			"	chain at_%s {\n		type filter hook %s priority %d;\n		%s %d counter name \"%s\"\n	}\n",
			places[i].name, places[i].hook, places[i].priority, places[i].match, TRIAL_PORT, places[i].name);
	buffer_puts(&b, "}\n");
	int result = nft_run(NFT_DO, b.data, NULL, e);
	buffer_free(&b);
	invalid_before = invalid_sources();
	return result;
}

void lost_unwatch(void)
{
	struct error e = {0};
	nft_run(NFT_DO, "add table inet " TRY_TABLE "\ndelete table inet " TRY_TABLE, NULL, &e);
}

static bool seen(const char *list, enum place place)
{
	auto_free char *name = str_format("\"name\": \"%s\"", places[place].name);
	const char *at = strstr(list, name);
	at = at ? strstr(at, "\"packets\": ") : NULL;
	return at && strtoull(at + strlen("\"packets\": "), NULL, 10) > 0;
}

void lost_tell(enum engine engine, int family, char *ret, size_t size)
{
	static const char *const lost[PLACES] = {
		[ENTERED] = "the packet did not get as far as netfilter",
		[BEFORE_OURS] = "a rule of somebody's nftables or iptables at PREROUTING drops it",
		[BEHIND_OURS] = "our table of nftables, or a rule at the same place, drops it",
		[ROUTED] = "a rule of somebody's nftables or iptables at PREROUTING drops it",
		[DELIVERED] = "it is not delivered on this node: another rule of policy routing comes first",
		[AT_INPUT] = "a rule of somebody's nftables or iptables at INPUT drops it",
		[ANSWERED] = "it is delivered, and no answer leaves: no socket has it, or another route takes it",
		[LEFT] = "a rule of somebody's nftables or iptables at OUTPUT or POSTROUTING drops the answer",
	};
	struct error e = {0};
	auto_free char *list = NULL;
	if (nft_run(NFT_LIST, "list counters table inet " TRY_TABLE, &list, &e) < 0)
		return;
	int place = ENTERED;
	while (place < PLACES && seen(list, place))
		place++;
	const char *why = place < PLACES ? lost[place] : "the answer leaves, and does not arrive";
	if (place == BEHIND_OURS && engine == ENGINE_EBPF)
		why = lost[ROUTED];
	if (place == DELIVERED && family == 4 && invalid_sources() > invalid_before)
		why = "its source is not believed (rp_filter, src_valid_mark)";
	snprintf(ret, size, "%s", why);
}
