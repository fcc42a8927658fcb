/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/options.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/addr.h"

#define CONNECT_TIMEOUT_S 10
#define DRAIN_S 10
#define UDP_TIMEOUT_S 60
#define THREADS_DEFAULT_MAX 8

#define TRY "Try: penstock-relay --help\n"
static const char usage[] =
	"usage: penstock-relay --listen [ADDRESS:]PORT … [--source client|node] [OPTION…]\n"
	"\n"
	"A transparent relay: takes TCP connections and UDP flows that penstockd hands over, carries each to its original\n"
	"destination, and prints one line for each that has ended.\n"
	"\n"
	"  --listen [ADDRESS:]PORT    where to listen; a port alone is 0.0.0.0 and ::; may be repeated,\n"
	"                             e.g. --listen 127.0.0.1:15001 --listen [::1]:15001\n"
	"  --source client|node       the address that servers see: the client's, or this node's (default). Where the\n"
	"                             client's is not possible it is the node's, and the line says why\n"
	"  --protocols tcp,udp        what to carry, one or both, default both; without CAP_NET_ADMIN or CAP_NET_RAW UDP "
	"is\n"
	"                             left out, and an error when asked for here\n"
	"  --threads N                default: one for each processor, at most 8\n"
	"  --connect-timeout SECONDS  how long connecting onward may take, default 10\n"
	"  --idle SECONDS             ends connections on which nothing has moved for so long, default 0: never\n"
	"  --udp-timeout SECONDS      ends UDP flows on which nothing has moved for so long, default 60; those without an\n"
	"                             answer after 30 seconds at most\n"
	"  --udp-flows N              how many there may be, default a quarter of the file limit, at most 65536; who has "
	"been\n"
	"                             idle for longest makes room\n"
	"  --drain SECONDS            how long what is open may go on after SIGTERM, default 10; a second SIGTERM ends it "
	"at\n"
	"                             once, UDP flows end when they are quiet for a second\n"
	"  --log text|json            shape of the lines, default text\n"
	"  --version                  print the version\n"
	"  --help                     print this text\n"
	"\n"
	"With CAP_NET_ADMIN the listeners are transparent by themselves; else penstockd adopts them, for TCP. SIGUSR1 "
	"prints\n"
	"totals.\n"
	"A connection costs under 1 KiB; while its reader is slow at most 64 KiB or one pipe of 256 KiB more in each\n"
	"direction, beside the kernel's own socket buffers; the search for a name at most 8 KiB until it ends.\n";

static int refuse(const char *what, const char *value)
{
	fprintf(stderr, "penstock-relay: %s%s%s\n" TRY, what, value ? ": " : "", value ? value : "");
	return 2;
}

static bool number(const char *text, unsigned low, unsigned high, unsigned *ret)
{
	char *end;
	errno = 0;
	unsigned long value = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || value < low || value > high)
		return false;
	*ret = (unsigned)value;
	return true;
}

static bool add_listen(struct options *options, const struct ip *ip, unsigned port, bool optional)
{
	if (options->listens == LISTEN_MAX)
		return false;
	struct listen *listen = &options->listen[options->listens++];
	*listen = (struct listen){.optional = optional};
	if (ip->family == 4) {
		listen->address.four.sin_family = AF_INET;
		listen->address.four.sin_addr.s_addr = ip_v4(ip);
	} else {
		listen->address.six.sin6_family = AF_INET6;
		memcpy(&listen->address.six.sin6_addr, ip->bytes, 16);
	}
	address_port_set(&listen->address, (uint16_t)port);
	return true;
}

/* PORT, ADDRESS:PORT, [ADDRESS]:PORT */
static bool parse_listen(const char *text, struct options *options)
{
	static const struct ip any6 = {.family = 6};
	const struct ip any4 = ip_from_v4(0);
	const char *colon = strrchr(text, ':');
	char host[ADDR_TEXT_MAX];
	struct ip ip;
	unsigned port;
	if (!number(colon ? colon + 1 : text, 1, 65535, &port))
		return false;
	if (!colon)
		return add_listen(options, &any4, port, false) && add_listen(options, &any6, port, true);
	size_t length = (size_t)(colon - text);
	bool brackets = length > 2 && text[0] == '[' && text[length - 1] == ']';
	if (length >= sizeof host)
		return false;
	memcpy(host, text + brackets, length - 2 * brackets);
	host[length - 2 * brackets] = 0;
	if (ip_parse(host, &ip) < 0 || (strchr(host, ':') != NULL) != brackets)
		return false;
	return add_listen(options, &ip, port, false);
}

/* :: takes IPv4 too, unless 0.0.0.0 is asked for besides. */
static void share_ports(struct options *options)
{
	for (unsigned i = 0; i < options->listens; i++) {
		for (unsigned at = 0; at < options->listens; at++) {
			const union address *other = &options->listen[at].address;
			if (other->any.sa_family == AF_INET && address_port(other) == address_port(&options->listen[i].address))
				options->listen[i].v6only = true;
		}
	}
}

static unsigned processors(void)
{
	cpu_set_t set;
	int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
	return count < 1 ? 1 : count < THREADS_DEFAULT_MAX ? (unsigned)count : THREADS_DEFAULT_MAX;
}

/* One of two words: sets *ret to whether it is the first. */
static bool choice(const char *text, const char *yes, const char *no, bool *ret)
{
	*ret = strcmp(text, yes) == 0;
	return *ret || strcmp(text, no) == 0;
}

/* A list of the two, each at most once. */
static bool parse_protocols(const char *text, struct options *options)
{
	options->tcp = options->udp = false;
	for (bool more = true; more; text += 4) {
		bool *one = strncmp(text, "tcp", 3) == 0 ? &options->tcp : &options->udp;
		if ((one == &options->udp && strncmp(text, "udp", 3) != 0) || *one || (text[3] && text[3] != ','))
			return false;
		*one = true;
		more = text[3];
	}
	options->udp_wanted = options->udp;
	return true;
}

static int parse_one(int option, struct options *options)
{
	switch (option) {
	case 'l':
		return parse_listen(optarg, options) ? -1 : refuse("--listen is not a port, or an address and a port", optarg);
	case 's':
		if (!choice(optarg, "client", "node", &options->keep_source))
			return refuse("--source is neither client nor node", optarg);
		return -1;
	case 'j':
		if (!choice(optarg, "json", "text", &options->json))
			return refuse("--log is neither text nor json", optarg);
		return -1;
	case 'n':
		return number(optarg, 1, THREADS_MAX, &options->threads) ? -1
																 : refuse("--threads is not between 1 and 64", optarg);
	case 't':
		if (!number(optarg, 1, 3600, &options->connect_timeout_s))
			return refuse("--connect-timeout is not between 1 and 3600 seconds", optarg);
		return -1;
	case 'i':
		if (!number(optarg, 0, 1u << 30, &options->idle_s))
			return refuse("--idle is not a number of seconds", optarg);
		return -1;
	case 'p':
		return parse_protocols(optarg, options) ? -1 : refuse("--protocols is not tcp, udp or tcp,udp", optarg);
	case 'u':
		if (!number(optarg, 1, 1u << 20, &options->udp_timeout_s))
			return refuse("--udp-timeout is not a number of seconds", optarg);
		return -1;
	case 'f':
		if (!number(optarg, 1, 1u << 24, &options->udp_flows))
			return refuse("--udp-flows is not a number of flows", optarg);
		return -1;
	case 'd':
		return number(optarg, 0, 3600, &options->drain_s) ? -1
														  : refuse("--drain is not between 0 and 3600 seconds", optarg);
	case 'h':
		fputs(usage, stdout);
		return 0;
	case 'v':
		puts("penstock-relay " PENSTOCK_VERSION " (" PENSTOCK_COMMIT ")");
		return 0;
	default: /* getopt has said what is wrong */
		fputs(TRY, stderr);
		return 2;
	}
}

int options_parse(int argc, char **argv, struct options *ret)
{
	static const struct option names[] = {{"listen", required_argument, NULL, 'l'},
		{"source", required_argument, NULL, 's'}, {"threads", required_argument, NULL, 'n'},
		{"connect-timeout", required_argument, NULL, 't'}, {"idle", required_argument, NULL, 'i'},
		{"drain", required_argument, NULL, 'd'}, {"log", required_argument, NULL, 'j'},
		{"protocols", required_argument, NULL, 'p'}, {"udp-timeout", required_argument, NULL, 'u'},
		{"udp-flows", required_argument, NULL, 'f'}, {"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'}, {0}};
	*ret = (struct options){.threads = processors(),
		.connect_timeout_s = CONNECT_TIMEOUT_S,
		.drain_s = DRAIN_S,
		.udp_timeout_s = UDP_TIMEOUT_S,
		.tcp = true,
		.udp = true};
	for (int option; (option = getopt_long(argc, argv, "", names, NULL)) != -1;) {
		int code = parse_one(option, ret);
		if (code >= 0)
			return code;
	}
	if (optind < argc)
		return refuse("what is this", argv[optind]);
	share_ports(ret);
	return ret->listens ? -1 : refuse("--listen PORT is needed", NULL);
}
