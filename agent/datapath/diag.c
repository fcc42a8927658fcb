/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who listens, by sock_diag(7): one walk of the kernel's table of a protocol's sockets a family, however many ports. A
 * UDP socket listens while it is not connected: its state is then TCP_CLOSE.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/listeners.h"

#define ANSWER_MAX (1 << 16)

int diag_open(struct error *e)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	struct timeval patience = {.tv_sec = 2};
	if (fd < 0)
		return error_system(e, errno, "a sock_diag socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return fd;
}

/*
 * "One of these ports", as a program for the kernel's filter: a comparison and a jump a port. A jump to the very end
 * takes the socket, one beyond it does not.
 */
static void put_ports(struct nlmsghdr *message, const uint16_t *ports, size_t count)
{
	size_t ops = 3 * count;
	auto_free struct inet_diag_bc_op *code = mem_array(ops, sizeof(*code));
	for (size_t i = 0; i < count; i++) {
		struct inet_diag_bc_op *op = &code[3 * i];
		uint16_t left = (ops - 3 * i) * sizeof(*op);
		op[0] = (struct inet_diag_bc_op){INET_DIAG_BC_S_EQ, 2 * sizeof(*op), 3 * sizeof(*op)};
		if (i + 1 == count)
			op[0].no += sizeof(*op);
		op[1].no = ports[i];
		op[2] = (struct inet_diag_bc_op){INET_DIAG_BC_JMP, sizeof(*op), left - 2 * sizeof(*op)};
	}
	mnl_attr_put(message, INET_DIAG_REQ_BYTECODE, ops * sizeof(*code), code);
}

static void read_attributes(const struct nlmsghdr *message, struct heard *heard)
{
	const struct nlattr *attribute;
	mnl_attr_for_each(attribute, message, sizeof(struct inet_diag_msg))
	{
		size_t length = mnl_attr_get_payload_len(attribute);
		int type = mnl_attr_get_type(attribute);
		struct inet_diag_sockopt options;
		if (type == INET_DIAG_SKV6ONLY && length >= 1)
			heard->v6only = mnl_attr_get_u8(attribute);
		if (type == INET_DIAG_SOCKOPT && length >= sizeof(options)) {
			memcpy(&options, mnl_attr_get_payload(attribute), sizeof(options));
			heard->transparent = options.transparent;
			heard->told = true;
		}
	}
}

struct visit {
	uint8_t protocol;
	void (*each)(void *context, const struct heard *heard);
	void *context;
};

static uint8_t listening(uint8_t protocol)
{
	return protocol == IPPROTO_UDP ? TCP_CLOSE : TCP_LISTEN;
}

static int read_message(const struct nlmsghdr *message, void *context)
{
	const struct inet_diag_msg *m = mnl_nlmsg_get_payload(message);
	const struct visit *visit = context;
	if (mnl_nlmsg_get_payload_len(message) < sizeof(*m) || m->idiag_state != listening(visit->protocol))
		return MNL_CB_OK;
	struct heard heard = {
		.protocol = visit->protocol,
		.cookie = (uint64_t)m->id.idiag_cookie[1] << 32 | m->id.idiag_cookie[0],
		.inode = m->idiag_inode,
		.uid = m->idiag_uid,
		.device = m->id.idiag_if,
		.port = ntohs(m->id.idiag_sport),
	};
	uint8_t bytes[16];
	memcpy(bytes, m->id.idiag_src, sizeof(bytes));
	heard.ip = m->idiag_family == AF_INET6 ? ip_from_v6(bytes) : ip_from_v4(m->id.idiag_src[0]);
	read_attributes(message, &heard);
	visit->each(visit->context, &heard);
	return MNL_CB_OK;
}

static int dump_family(int fd, uint8_t family, const uint16_t *ports, size_t count, struct visit *visit)
{
	static uint32_t sequence;
	auto_free char *buffer = mem_alloc(ANSWER_MAX);
	struct nlmsghdr *message = mnl_nlmsg_put_header(buffer);
	message->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	message->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	uint32_t own = message->nlmsg_seq = __atomic_add_fetch(&sequence, 1, __ATOMIC_RELAXED);
	struct inet_diag_req_v2 *request = mnl_nlmsg_put_extra_header(message, sizeof(*request));
	request->sdiag_family = family;
	request->sdiag_protocol = visit->protocol;
	request->idiag_states = 1u << listening(visit->protocol);
	put_ports(message, ports, count);
	if (send(fd, message, message->nlmsg_len, 0) < 0)
		return -1;
	for (;;) {
		ssize_t length = recv(fd, buffer, ANSWER_MAX, 0);
		if (length < 0)
			return -1;
		if (((struct nlmsghdr *)buffer)->nlmsg_seq != own) /* of a dump that was given up */
			continue;
		int result = mnl_cb_run(buffer, length, own, 0, read_message, visit);
		if (result <= MNL_CB_STOP)
			return result < 0 ? -1 : 0;
	}
}

int diag_listeners(int fd, uint8_t protocol, const uint16_t *ports, size_t count,
	void (*each)(void *context, const struct heard *heard), void *context)
{
	struct visit visit = {protocol, each, context};
	if (!count)
		return 0;
	if (dump_family(fd, AF_INET, ports, count, &visit) < 0)
		return -1;
	/* A kernel without IPv6 has no handler for it. */
	return dump_family(fd, AF_INET6, ports, count, &visit) < 0 && errno != ENOENT ? -1 : 0;
}
