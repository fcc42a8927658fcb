/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The datapath room by hand, a command a line on standard input, an answer a line ("ok …" or "error KIND DETAIL"): for
 * tests/e2e/test_datapath.py. Its compiler is a list of endpoints, its tables are what the commands put there.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/datapath.h"

/* ---- a compiler of endpoints only ---- */

#define ENDPOINTS_MAX 16384
struct compiler {
	struct endpoint list[ENDPOINTS_MAX]; /* by id */
};
struct rulebook {
	struct rule_identity list[64];
	size_t count;
};

const struct endpoint *compiler_endpoint_next(const struct compiler *c, size_t *at)
{
	for (; *at < ENDPOINTS_MAX; ++*at)
		if (c->list[*at].workload)
			return &c->list[(*at)++];
	return NULL;
}

const struct endpoint *compiler_cgroup_next(const struct compiler *c, size_t *at)
{
	return NULL;
}

const struct endpoint *compiler_endpoint_find(const struct compiler *c, uint32_t id)
{
	return id < ENDPOINTS_MAX && c->list[id].workload ? &c->list[id] : NULL;
}

const struct rule_identity *rulebook_next(const struct rulebook *book, size_t *at)
{
	return *at < book->count ? &book->list[(*at)++] : NULL;
}

static struct compiler compiler;
static struct rulebook book;
static struct tables tables;
static struct datapath *datapath;
static char *patterns[16];
static struct datapath_options options = {.mark_mask = 0x60000000,
	.route_table = 7641,
	.rule_priority = 5,
	.connections_max = 1024,
	.allow_local_host = true,
	.workload_interfaces = patterns};

static double now_ms(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

/* ---- commands ---- */

static void note_bound(void *context, uint32_t endpoint, bool bound)
{
	compiler.list[endpoint].bound = bound;
	printf(" %u=%d", endpoint, bound);
}

static void endpoint_put(uint32_t id, char *ips, const char *interface)
{
	struct workload *workload = mem_alloc(sizeof(*workload));
	char *rest = ips;
	workload->interface = str_dup(interface ? interface : "");
	for (char *text; (text = strsep(&rest, ","));) {
		struct ip ip;
		if (ip_parse(text, &ip) < 0)
			continue;
		workload->ips = mem_resize(workload->ips, workload->ip_count + 1, sizeof(ip));
		workload->ips[workload->ip_count++] = ip;
	}
	bool bound = compiler.list[id].bound;
	compiler.list[id] = (struct endpoint){
		.id = id, .namespace = "test", .name = "endpoint", .kind = KIND_WORKLOAD, .workload = workload, .bound = bound};
}

/* addr4 10.128.0.0 + i → class; a hash, an array and an LPM trie at once */
static void fill(uint32_t from, uint32_t count, uint32_t class)
{
	for (uint32_t i = from; i < from + count; i++) {
		struct ps_key_addr4 key = {.addr = __builtin_bswap32(0x0a800000 + i)};
		struct ps_addr value = {.class_id = class};
		tables_put(&tables, TABLE_addr4, &key, &value);
		if (i < 1000) {
			struct ps_key_net4 net = {.prefix_length = 64, .addr = key.addr};
			struct ps_verdict verdict = {.rule = class};
			tables_put(&tables, TABLE_net4, &net, &class);
			tables_put(&tables, TABLE_row, &i, &verdict);
		}
	}
}

/* The address belongs to the endpoint. */
static void address_put(const char *text, uint32_t endpoint)
{
	struct ip ip;
	if (ip_parse(text, &ip) < 0 || ip.family != 4)
		return;
	struct ps_key_addr4 key = {.addr = ip_v4(&ip)};
	struct ps_addr value = {.endpoint = endpoint};
	tables_put(&tables, TABLE_addr4, &key, &value);
}

static struct ps_key_service6 service_key6(const struct ip *ip)
{
	struct ps_key_service6 key = {.port = 80, .protocol = 6};
	memcpy(key.addr, ip->bytes, sizeof(key.addr));
	return key;
}

/* Port 80 of the address is a Service's. */
static void service_put(const char *text)
{
	struct ps_service service = {.count = 0};
	struct ip ip;
	if (ip_parse(text, &ip) < 0)
		return;
	struct ps_key_service4 key4 = {.addr = ip_v4(&ip), .port = 80, .protocol = 6};
	struct ps_key_service6 key6 = service_key6(&ip);
	tables_put(
		&tables, ip.family == 4 ? TABLE_service4 : TABLE_service6, ip.family == 4 ? (void *)&key4 : &key6, &service);
}

static void service_delete(const char *text)
{
	struct ip ip;
	if (ip_parse(text, &ip) < 0)
		return;
	struct ps_key_service4 key4 = {.addr = ip_v4(&ip), .port = 80, .protocol = 6};
	struct ps_key_service6 key6 = service_key6(&ip);
	tables_delete(&tables, ip.family == 4 ? TABLE_service4 : TABLE_service6, ip.family == 4 ? (void *)&key4 : &key6);
}

static void fill_none(uint32_t from, uint32_t count)
{
	for (uint32_t i = from; i < from + count; i++) {
		struct ps_key_addr4 key = {.addr = __builtin_bswap32(0x0a800000 + i)};
		struct ps_key_net4 net = {.prefix_length = 64, .addr = key.addr};
		tables_delete(&tables, TABLE_addr4, &key);
		tables_delete(&tables, TABLE_net4, &net);
		tables_delete(&tables, TABLE_row, &i);
	}
}

/* A new compiler with the same content, as after a failed apply. */
static void rebuild(void)
{
	struct tables old = tables;
	tables_init(&tables);
	for (int id = 0; id < TABLE_COUNT; id++) {
		size_t at = 0;
		const void *key;
		void *value;
		while (map_next(&old.table[id].wanted, &at, &key, &value))
			tables_put(&tables, id, key, value);
	}
	tables_clear(&old);
	for (uint32_t id = 0; id < ENDPOINTS_MAX; id++)
		compiler.list[id].bound = false;
}

static void print_line(void *context, const char *line)
{
	printf("%s\n", line);
}

static int wait_news(int ms, struct error *e)
{
	struct pollfd poll_fd = {.fd = datapath_netlink_fd(datapath), .events = POLLIN};
	double end = now_ms() + ms;
	printf("ok");
	for (double left = ms; left > 0; left = end - now_ms()) {
		if (poll(&poll_fd, 1, left) <= 0)
			continue;
		int result = datapath_interfaces(datapath, &compiler, false, note_bound, NULL, e);
		if (result < 0)
			return result;
	}
	return 0;
}

static void print_status(void)
{
	printf("ok revision=%lu hook=%s", (unsigned long)datapath_live_revision(datapath), datapath_hook(datapath));
	size_t at = 0;
	struct interface_status status;
	while (datapath_interface_next(datapath, &at, &status))
		printf(" %s:%u:%s%s", status.name, status.endpoint, status.network ? "network" : "",
			status.error ? status.error : "");
}

static void print_fill(void)
{
	size_t at = 0;
	struct map_fill fill;
	printf("ok");
	while (datapath_fill_next(datapath, &at, &fill))
		printf(" %s=%lu/%lu", fill.map, (unsigned long)fill.entries, (unsigned long)fill.capacity);
}

static void print_counts(void)
{
	struct datapath_counts *counts = mem_alloc(sizeof(*counts));
	uint64_t packets = 0;
	datapath_read_counts(datapath, counts);
	for (int i = 0; i < PS_COUNT_MAX; i++)
		packets += counts->counts[i].packets;
	printf("ok packets=%lu", (unsigned long)packets);
	free(counts);
}

/* A whole round, mending what is found. */
static int audit(struct error *e)
{
	double longest = 0, all = 0;
	int pieces = 0, result = 0;
	bool more = true, repair, repaired = false;
	while (more && result == 0) {
		double began = now_ms();
		more = datapath_audit(datapath, &tables, &repair);
		double took = now_ms() - began;
		longest = took > longest ? took : longest;
		all += took;
		pieces++;
		if (!repair)
			continue;
		repaired = true;
		result = datapath_stage(datapath, &tables, e);
		if (result == 0)
			result = datapath_flip(datapath, datapath_live_revision(datapath), e);
		if (result == 0)
			result = datapath_settle(datapath, &tables, e);
	}
	printf("ok pieces=%d repaired=%d map=%lu longest=%.2f all=%.1f", pieces, repaired,
		(unsigned long)datapath_repairs(datapath, DRIFT_MAP), longest, all);
	return result;
}

static int run(char *line, struct error *e)
{
	char *word[6] = {0}, *rest = line;
	for (int i = 0; i < 6 && (word[i] = strsep(&rest, " "));)
		i += word[i][0] != '\0';
	const char *verb = word[0] ? word[0] : "";
	if (strcmp(verb, "open") == 0)
		return datapath_open(&options, &datapath, e);
	if (strcmp(verb, "uninstall") == 0)
		return datapath_uninstall(&options, e);
	if (strcmp(verb, "check") == 0)
		return datapath_check(&options, print_line, NULL, e);
	if (strcmp(verb, "connections") == 0)
		return options.connections_max = atoi(word[1]), 0;
	if (strcmp(verb, "deny") == 0)
		return options.unclaimed_deny = true, 0;
	if (strcmp(verb, "pattern") == 0)
		return patterns[0] = str_dup(word[1]), 0;
	if (strcmp(verb, "close") == 0)
		return datapath_close(datapath), 0;
	if (strcmp(verb, "endpoint") == 0)
		return endpoint_put(atoi(word[1]), word[2], word[3]), 0;
	if (strcmp(verb, "unendpoint") == 0)
		return memset(&compiler.list[atoi(word[1])], 0, sizeof(struct endpoint)), 0;
	if (strcmp(verb, "fill") == 0)
		return fill(atoi(word[1]), atoi(word[2]), atoi(word[3])), 0;
	if (strcmp(verb, "fillnone") == 0)
		return fill_none(atoi(word[1]), atoi(word[2])), 0;
	if (strcmp(verb, "address") == 0)
		return address_put(word[1], atoi(word[2])), 0;
	if (strcmp(verb, "proxy") == 0) {
		struct ps_proxy proxy = {.port = 15001, .flags = PS_PROXY_USED};
		tables_put(&tables, TABLE_proxy, &(uint32_t){atoi(word[1])}, &proxy);
		return 0;
	}
	if (strcmp(verb, "service") == 0)
		return service_put(word[1]), 0;
	if (strcmp(verb, "noservice") == 0)
		return service_delete(word[1]), 0;
	if (strcmp(verb, "rebuild") == 0)
		return rebuild(), datapath_resync(datapath), 0;
	if (strcmp(verb, "rule") == 0) {
		book.list[book.count++] = (struct rule_identity){.id = atoi(word[1]), .live = true};
		return datapath_rules(datapath, &book, e);
	}
	if (strcmp(verb, "stage") == 0)
		return datapath_stage(datapath, &tables, e);
	if (strcmp(verb, "flip") == 0)
		return datapath_flip(datapath, atoi(word[1]), e);
	if (strcmp(verb, "audit") == 0)
		return audit(e);
	if (strcmp(verb, "settle") == 0)
		return datapath_settle(datapath, &tables, e);
	if (strcmp(verb, "interfaces") == 0) {
		printf("ok");
		return datapath_interfaces(datapath, &compiler, word[1] && strcmp(word[1], "all") == 0, note_bound, NULL, e);
	}
	if (strcmp(verb, "wait") == 0)
		return wait_news(atoi(word[1]), e);
	if (strcmp(verb, "status") == 0)
		return print_status(), 0;
	if (strcmp(verb, "fills") == 0)
		return print_fill(), 0;
	if (strcmp(verb, "counts") == 0)
		return print_counts(), 0;
	return error_set(e, ERROR_INVALID, EINVAL, NULL, "what is %s?", verb);
}

int main(int argc, char **argv)
{
	static char *line; /* a room that ends the process would leave it behind */
	static size_t size;
	if (argc != 2) {
		fprintf(stderr, "usage: datapath PIN-DIRECTORY < commands\n");
		return 2;
	}
	options.pin_directory = argv[1];
	tables_init(&tables);
	log_configure(LOG_LEVEL_DEBUG, LOG_TEXT);
	while (getline(&line, &size, stdin) > 0) {
		struct error e = {0};
		line[strcspn(line, "\n")] = '\0';
		double began = now_ms();
		int result = run(line, &e);
		if (result < 0)
			printf(" error %d %s", e.kind, e.detail);
		printf(" (%.3f ms)\n", now_ms() - began);
		fflush(stdout);
	}
	free(line);
	return 0;
}
