/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A SO_REUSEPORT group in which somebody is who is not chosen. The kernel shares among all of it, whichever socket was
 * assigned: a program of the group's own (BPF_PROG_TYPE_SK_REUSEPORT) keeps it to those that are chosen.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/listeners.h"

#ifndef SO_DETACH_REUSEPORT_BPF
#define SO_DETACH_REUSEPORT_BPF 68
#endif

/* Enough for the threads of a proxy. */
#define GROUP_SOCKETS 1024

/* One of `count`, by the hash of the packet's addresses; nobody when that one is gone: the next look sees it. */
static int program_load(int sockets, size_t count)
{
	const struct bpf_insn code[] = {
		{.code = BPF_LDX | BPF_W | BPF_MEM, .dst_reg = 7, .src_reg = 1, .off = offsetof(struct sk_reuseport_md, hash)},
		{.code = BPF_ALU | BPF_MOD | BPF_K, .dst_reg = 7, .imm = (int)count},
		{.code = BPF_STX | BPF_W | BPF_MEM, .dst_reg = 10, .src_reg = 7, .off = -4},
		{.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 2, .src_reg = BPF_PSEUDO_MAP_FD, .imm = sockets},
		{0},
		{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 3, .src_reg = 10},
		{.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 3, .imm = -4},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 4, .imm = 0},
		{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_sk_select_reuseport},
		{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 1, .src_reg = 0},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = SK_PASS},
		{.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = 1, .imm = 0, .off = 1},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = SK_DROP},
		{.code = BPF_JMP | BPF_EXIT},
	};
	return bpf_prog_load(BPF_PROG_TYPE_SK_REUSEPORT, "penstock_group", "GPL", code, sizeof(code) / sizeof(*code), NULL);
}

int group_sockets(void)
{
	return bpf_map_create(
		BPF_MAP_TYPE_REUSEPORT_SOCKARRAY, "penstock_group", sizeof(uint32_t), sizeof(uint64_t), GROUP_SOCKETS, NULL);
}

/* A socket is in one array at a time: in that of an agent before us, until its program is let go. */
static int sockets_put(int sockets, const int *fds, size_t count)
{
	for (uint32_t i = 0; i < GROUP_SOCKETS; i++)
		bpf_map_delete_elem(sockets, &i);
	for (uint32_t i = 0; i < count; i++) {
		uint64_t fd = (uint64_t)fds[i];
		if (bpf_map_update_elem(sockets, &i, &fd, BPF_ANY) < 0)
			return -errno;
	}
	return 0;
}

int group_guard(int sockets, const int *fds, size_t count, char why[WHY_MAX])
{
	int result = count > GROUP_SOCKETS ? -E2BIG : sockets_put(sockets, fds, count);
	auto_close int program = result < 0 ? -1 : program_load(sockets, count);
	if (result == 0 &&
		(program < 0 || setsockopt(fds[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &program, sizeof(program)) < 0))
		result = -errno;
	if (result < 0) {
		group_release(fds[0]);
		snprintf(why, WHY_MAX, "%s", strerror(-result));
	}
	return result;
}

void group_release(int fd)
{
	int none = 0;
	setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &none, sizeof(none)); /* most have none */
}
