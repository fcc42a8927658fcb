/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/datapath/trial.h"
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"
#include "bpf/trial.skel.h"

#define PATIENCE_MS 120     /* for one exchange, which takes a millisecond if it is answered */
#define PATIENCE_LEFT_MS 40 /* for those after one that was not */
#define TCX_INGRESS 46
#define ASKED '?'
#define SAID '!'

static const uint8_t protocols[] = {IPPROTO_TCP, IPPROTO_UDP};

struct trial {
	struct datapath *datapath;
	struct trial_link link;
	struct trial_bpf *program;
	int hook;           /* a TCX link; -1: none, or a filter that goes with the veth */
	int wire;           /* AF_PACKET at the far end */
	int listener[2][2]; /* by family (0: IPv4), protocol; -1: none */
	uint16_t port;      /* where they listen */
	uint16_t client;    /* the client's port, another for each exchange */
	bool failed;        /* one of them */
	int64_t patience;   /* ms, CLOCK_MONOTONIC: until then */
	struct frame heard; /* by the client, last */
};

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static bool readable(const struct trial *t, int fd)
{
	int64_t left = t->patience - now_ms();
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	return poll(&poll_fd, 1, left > 0 ? (int)left : 0) > 0;
}

/* ---- addresses of sockets ---- */

static socklen_t sockaddr_set(struct sockaddr_storage *ret, const struct ip *ip, uint16_t port)
{
	*ret = (struct sockaddr_storage){0};
	if (ip->family == 4) {
		*(struct sockaddr_in *)ret =
			(struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {ip_v4(ip)}};
		return sizeof(struct sockaddr_in);
	}
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(port);
	memcpy(&v6->sin6_addr, ip->bytes, 16);
	return sizeof(*v6);
}

static bool sockaddr_is(const struct sockaddr_storage *address, const struct ip *ip, uint16_t port)
{
	struct sockaddr_storage wanted;
	sockaddr_set(&wanted, ip, port);
	if (address->ss_family != wanted.ss_family)
		return false;
	if (ip->family == 4)
		return memcmp(address, &wanted, offsetof(struct sockaddr_in, sin_zero)) == 0;
	const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)address, *b = (const struct sockaddr_in6 *)&wanted;
	return a->sin6_port == b->sin6_port && memcmp(&a->sin6_addr, &b->sin6_addr, 16) == 0;
}

/* ---- listeners ---- */

static int transparent_socket(int family, uint8_t protocol, const struct ip *ip, uint16_t port)
{
	int one = 1, level = family ? IPPROTO_IPV6 : IPPROTO_IP;
	int fd = socket(family ? AF_INET6 : AF_INET,
		(protocol == IPPROTO_TCP ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_storage at;
	socklen_t length = sockaddr_set(&at, ip, port);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)); /* which Linux 6.6 is the first to assign to */
	if (protocol == IPPROTO_UDP)
		setsockopt(fd, level, family ? IPV6_RECVORIGDSTADDR : IP_RECVORIGDSTADDR, &one, sizeof(one));
	if (setsockopt(fd, level, family ? IPV6_TRANSPARENT : IP_TRANSPARENT, &one, sizeof(one)) < 0 ||
		bind(fd, (struct sockaddr *)&at, length) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int listeners_make(struct trial *t, struct error *e)
{
	struct sockaddr_storage at = {0};
	socklen_t length = sizeof(at);
	struct ip loopback[2];
	ip_parse("127.0.0.1", &loopback[0]);
	ip_parse("::1", &loopback[1]);
	for (int family = 0; family < 2; family++)
		for (int i = 0; i < 2; i++) {
			int fd = transparent_socket(family, protocols[i], &loopback[family], t->port);
			t->listener[family][i] = fd;
			if (fd < 0 && family == 0)
				return error_system(e, errno, "no listener for the trial");
			if (!t->port && getsockname(fd, (struct sockaddr *)&at, &length) == 0)
				t->port = ntohs(((struct sockaddr_in *)&at)->sin_port);
			if (fd >= 0 && protocols[i] == IPPROTO_TCP)
				listen(fd, 4);
		}
	return 0;
}

/* ---- the client ---- */

static int wire_open(struct trial *t, struct error *e)
{
	struct sockaddr_ll at = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)t->link.far};
	int one = 1;
	t->wire = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	setsockopt(t->wire, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)); /* the far end's is not active yet */
	if (t->wire < 0 || bind(t->wire, (struct sockaddr *)&at, sizeof(at)) < 0)
		return error_system(e, errno, "no packet socket for the trial");
	return 0;
}

static void client_send(struct trial *t, int family, uint8_t protocol, uint8_t flags, uint32_t sequence, char text)
{
	uint8_t buffer[FRAME_MAX];
	const struct frame frame = {.protocol = protocol,
		.source = t->link.client[family],
		.destination = t->link.service[family],
		.source_port = t->client,
		.destination_port = TRIAL_PORT,
		.sequence = sequence,
		.acknowledged = t->heard.sequence + 1,
		.flags = flags,
		.text = text};
	size_t length = frame_write(&frame, buffer);
	if (send(t->wire, buffer, length, 0) < 0)
		log_debug(ROOM, "the trial's frame is not sent: %s", strerror(errno));
}

/* What comes back from where the client has dialled: with this flag, or this text. */
static bool client_hears(struct trial *t, int family, uint8_t protocol, uint8_t flag, char text)
{
	while (readable(t, t->wire)) {
		uint8_t buffer[2048];
		ssize_t length = recv(t->wire, buffer, sizeof(buffer), 0);
		struct frame *f = &t->heard, heard;
		if (length <= 0 || !frame_read(buffer, (size_t)length, &heard) || heard.protocol != protocol ||
			!ip_equal(&heard.source, &t->link.service[family]) ||
			!ip_equal(&heard.destination, &t->link.client[family]) || heard.source_port != TRIAL_PORT ||
			heard.destination_port != t->client)
			continue;
		*f = heard;
		if (heard.flags & FRAME_RST)
			return false;
		if (flag ? (heard.flags & flag) != 0 : heard.text == text)
			return true;
	}
	return false;
}

/* ---- an exchange: NULL, or what was wrong ---- */

static const char *tcp_talk(struct trial *t, int family, int connection)
{
	struct sockaddr_storage peer, local;
	socklen_t peer_length = sizeof(peer), local_length = sizeof(local);
	char text = 0;
	if (getpeername(connection, (struct sockaddr *)&peer, &peer_length) < 0 ||
		!sockaddr_is(&peer, &t->link.client[family], t->client))
		return "the client's address is not kept";
	if (getsockname(connection, (struct sockaddr *)&local, &local_length) < 0 ||
		!sockaddr_is(&local, &t->link.service[family], TRIAL_PORT))
		return "the destination's address is not kept";
	if (!readable(t, connection) || recv(connection, &text, 1, 0) != 1 || text != ASKED)
		return "an established connection gets no data";
	text = SAID;
	if (send(connection, &text, 1, MSG_NOSIGNAL) != 1 || !client_hears(t, family, IPPROTO_TCP, 0, SAID))
		return "no answer of an established connection comes back";
	return NULL;
}

static const char *tcp_try(struct trial *t, int family)
{
	const uint32_t begin = 1000;
	client_send(t, family, IPPROTO_TCP, FRAME_SYN, begin, 0);
	if (!client_hears(t, family, IPPROTO_TCP, FRAME_SYN, 0))
		return "nobody answers a SYN";
	client_send(t, family, IPPROTO_TCP, FRAME_ACK | FRAME_PUSH, begin + 1, ASKED);
	if (!readable(t, t->listener[family][0]))
		return "the connection is not accepted";
	auto_close int connection = accept4(t->listener[family][0], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (connection < 0)
		return "the connection is not accepted";
	const char *wrong = tcp_talk(t, family, connection);
	client_send(t, family, IPPROTO_TCP, FRAME_RST, begin + 2, 0); /* so that nothing rests */
	return wrong;
}

static bool udp_receive(int fd, char *text, struct sockaddr_storage *from, struct sockaddr_storage *to)
{
	union {
		struct cmsghdr header;
		char room[256];
	} control;
	struct iovec part = {text, 1};
	struct msghdr message = {.msg_name = from,
		.msg_namelen = sizeof(*from),
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control)};
	*to = (struct sockaddr_storage){0};
	if (recvmsg(fd, &message, 0) != 1)
		return false;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
		if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_ORIGDSTADDR) ||
			(c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_ORIGDSTADDR))
			memcpy(to, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	return true;
}

static const char *udp_try(struct trial *t, int family)
{
	struct sockaddr_storage from, to;
	char text = 0;
	client_send(t, family, IPPROTO_UDP, 0, 0, ASKED);
	if (!readable(t, t->listener[family][1]) || !udp_receive(t->listener[family][1], &text, &from, &to) ||
		text != ASKED)
		return "a datagram does not arrive";
	if (!sockaddr_is(&from, &t->link.client[family], t->client))
		return "the client's address is not kept";
	if (!sockaddr_is(&to, &t->link.service[family], TRIAL_PORT))
		return "the destination's address is not kept";
	auto_close int answer = transparent_socket(family, IPPROTO_UDP, &t->link.service[family], TRIAL_PORT);
	text = SAID;
	socklen_t length = sockaddr_set(&to, &t->link.client[family], t->client);
	if (answer < 0 || sendto(answer, &text, 1, 0, (struct sockaddr *)&to, length) != 1 ||
		!client_hears(t, family, IPPROTO_UDP, 0, SAID))
		return "no answer to a datagram comes back";
	return NULL;
}

static const char *exchange(struct trial *t, int family, uint8_t protocol)
{
	t->patience = now_ms() + (t->failed ? PATIENCE_LEFT_MS : PATIENCE_MS);
	t->client++;
	t->heard = (struct frame){0};
	t->program->bss->refused = 0;
	t->program->bss->nobody = 0;
	return protocol == IPPROTO_TCP ? tcp_try(t, family) : udp_try(t, family);
}

/* ---- all of them ---- */

static void refusal_tell(int refused, char *ret, size_t size)
{
	if (refused == -ESOCKTNOSUPPORT)
		snprintf(ret, size, "this kernel assigns nothing to a listener with SO_REUSEPORT (Linux 6.6 does)");
	else
		snprintf(ret, size, "bpf_sk_assign refuses the socket: %s", strerrordesc_np(-refused));
}

/* Once more, and look where it goes. */
static void failure_explain(struct trial *t, struct engine_trial *trial, const char *wrong)
{
	struct error e = {0};
	char where[128] = "";
	int family = trial->family == 6;
	if (lost_watch(&e) == 0) {
		const char *again = exchange(t, family, trial->protocol);
		if (!again) {
			trial->passed = true;
			snprintf(trial->detail, sizeof(trial->detail), "the second time");
		} else if (t->program->bss->refused) {
			refusal_tell(t->program->bss->refused, where, sizeof(where));
		} else if (t->program->bss->nobody) {
			snprintf(where, sizeof(where), "the program finds no listener");
		} else {
			lost_tell(trial->engine, trial->family, where, sizeof(where));
		}
	}
	lost_unwatch();
	t->failed |= !trial->passed;
	if (!trial->passed)
		snprintf(trial->detail, sizeof(trial->detail), "%s%s%s", wrong, where[0] ? ": " : "", where);
}

static bool engine_passes(struct trial *t, enum engine engine, struct engine_status *status)
{
	bool passed = true;
	t->program->bss->by_table = engine == ENGINE_TPROXY;
	for (int family = 0; family < (t->link.ipv6 && t->listener[1][0] >= 0 && t->listener[1][1] >= 0 ? 2 : 1); family++)
		for (int i = 0; i < 2; i++) {
			struct engine_trial *trial = &status->trials[status->trial_count++];
			*trial = (struct engine_trial){.engine = engine, .protocol = protocols[i], .family = family ? 6 : 4};
			const char *wrong = exchange(t, family, protocols[i]);
			trial->passed = !wrong;
			if (wrong)
				failure_explain(t, trial, wrong);
			else
				snprintf(trial->detail, sizeof(trial->detail), "both addresses kept, and the answer came back");
			passed &= trial->passed;
		}
	return passed;
}

static int program_load(struct trial *t, struct error *e)
{
	uint32_t mask = t->datapath->options.mark_mask;
	t->program = trial_bpf__open();
	if (!t->program)
		return error_system(e, errno, "the trial's program cannot be opened");
	t->program->rodata->mark_mask = mask;
	t->program->rodata->mark_intercept = mark_intercept(mask);
	t->program->rodata->port_service = TRIAL_PORT;
	t->program->rodata->port_proxy = t->port;
	int result = trial_bpf__load(t->program);
	return result < 0 ? error_system(e, -result, "the trial's program cannot be loaded") : 0;
}

static int program_attach(struct trial *t, struct error *e)
{
	int program = bpf_program__fd(t->program->progs.trial), result = 0;
	if (t->datapath->hook == HOOK_TCX) {
		t->hook = bpf_link_create(program, (int)t->link.near, (enum bpf_attach_type)TCX_INGRESS, NULL);
		result = t->hook < 0 ? t->hook : 0;
	} else {
		DECLARE_LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)t->link.near, .attach_point = BPF_TC_INGRESS);
		DECLARE_LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program);
		result = bpf_tc_hook_create(&hook);
		if (result == 0)
			result = bpf_tc_attach(&hook, &options);
	}
	return result < 0 ? error_system(e, -result, "the trial's program cannot be attached") : 0;
}

static int trial_open(struct trial *t, struct error *e)
{
	int result = trial_link_make(&t->link, e);
	if (result == 0)
		result = listeners_make(t, e);
	if (result == 0)
		result = wire_open(t, e);
	if (result == 0)
		result = program_load(t, e);
	return result == 0 ? program_attach(t, e) : result;
}

void trial_clean(void)
{
	trial_link_remove();
	if (nftables_tries())
		lost_unwatch();
}

static void trial_close(struct trial *t)
{
	trial_clean();
	if (t->hook >= 0)
		close(t->hook);
	if (t->program)
		trial_bpf__destroy(t->program);
	if (t->wire >= 0)
		close(t->wire);
	for (int i = 0; i < 4; i++)
		if (t->listener[i / 2][i % 2] >= 0)
			close(t->listener[i / 2][i % 2]);
}

int trial_run(struct datapath *d, struct engine_status *status, struct error *e)
{
	struct trial t = {.datapath = d, .hook = -1, .wire = -1, .listener = {{-1, -1}, {-1, -1}}};
	int64_t began = now_ms();
	bool passed = false;
	getrandom(&t.client, sizeof(t.client), 0);
	t.client = 20000 + t.client % 20000;
	status->trial_count = 0;
	int result = trial_open(&t, e);
	if (result == 0 && datapath_assigns())
		passed = engine_passes(&t, ENGINE_EBPF, status);
	if (result == 0 && !passed && nftables_hands_over(d)) {
		bool added = nftables_port(d, t.port, true);
		engine_passes(&t, ENGINE_TPROXY, status);
		if (added)
			nftables_port(d, t.port, false);
	}
	trial_close(&t);
	log_debug(ROOM, "trial of engines: %zu exchanges in %ld ms", status->trial_count, (long)(now_ms() - began));
	return result;
}
