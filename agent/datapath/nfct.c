/* SPDX-License-Identifier: Apache-2.0 */
/* Where the kernel's own connection tracking is found from a packet: offsets out of the kernel's BTF, which is read
 * from files. libbpf's CO-RE would list all BTF objects for a type of a module, which needs CAP_SYS_ADMIN. */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/nfct.h"
#include "agent/datapath/private.h"

#define NOT_FOUND (-1)

/* ---- BTF ---- */

/* The byte where a member begins, also one of an unnamed struct or union inside; *ret is its type. */
static int member_find(const struct btf *btf, int type, const char *name, int *ret)
{
	type = type < 0 ? NOT_FOUND : btf__resolve_type(btf, (uint32_t)type);
	const struct btf_type *t = type < 0 ? NULL : btf__type_by_id(btf, (uint32_t)type);
	if (!t || !btf_is_composite(t))
		return NOT_FOUND;
	for (uint32_t i = 0; i < btf_vlen(t); i++) {
		const struct btf_member *member = btf_members(t) + i;
		const char *have = btf__name_by_offset(btf, member->name_off);
		int at = (int)(btf_member_bit_offset(t, i) / 8), inner = NOT_FOUND;
		if (have && strcmp(have, name) == 0) {
			*ret = (int)member->type;
			return btf_member_bitfield_size(t, i) ? NOT_FOUND : at;
		}
		if (!have || !*have)
			inner = member_find(btf, (int)member->type, name, ret);
		if (inner != NOT_FOUND)
			return at + inner;
	}
	return NOT_FOUND;
}

static int struct_find(const struct btf *btf, const char *name)
{
	return btf__find_by_name_kind(btf, name, BTF_KIND_STRUCT);
}

static int field_offset(const struct btf *btf, const char *type, const char *name)
{
	int unused;
	return member_find(btf, struct_find(btf, type), name, &unused);
}

/* A member that begins at this byte of the type and has this size. */
static bool member_lies(const struct btf *btf, int type, const char *name, int at, int size)
{
	int member;
	return member_find(btf, type, name, &member) == at && btf__resolve_size(btf, (uint32_t)member) == size;
}

/* Of the original tuple in struct nf_conn, if its source lies in it as programs read it (bpf/nfct.h). */
static int tuple_offset(const struct btf *btf)
{
	int hashes = field_offset(btf, "nf_conn", "tuplehash");
	int tuple = field_offset(btf, "nf_conntrack_tuple_hash", "tuple");
	if (hashes < 0 || tuple < 0 || field_offset(btf, "nf_conntrack_tuple", "src") != 0)
		return NOT_FOUND;
	if (field_offset(btf, "nf_conntrack_man", "u3") != 0 || field_offset(btf, "nf_conntrack_man", "l3num") != 18)
		return NOT_FOUND;
	return hashes + tuple;
}

/* Both ends of a tuple lie as programs read them. */
static bool tuple_whole(const struct btf *btf)
{
	int tuple = struct_find(btf, "nf_conntrack_tuple"), source, destination;
	if (tuple < 0 || btf__resolve_size(btf, (uint32_t)tuple) != 40)
		return false;
	if (member_find(btf, tuple, "src", &source) != 0 || member_find(btf, tuple, "dst", &destination) != 20)
		return false;
	return member_lies(btf, source, "u3", 0, 16) && member_lies(btf, source, "u", 16, 2) &&
		   member_lies(btf, source, "l3num", 18, 2) && member_lies(btf, destination, "u3", 0, 16) &&
		   member_lies(btf, destination, "u", 16, 2) && member_lies(btf, destination, "protonum", 18, 1) &&
		   member_lies(btf, destination, "dir", 19, 1);
}

/* Of the reply tuple, which is the second of an array; 0: not known. */
static uint32_t reply_offset(const struct btf *btf, int original)
{
	int hashes, hash = struct_find(btf, "nf_conntrack_tuple_hash");
	if (original < 0 || hash < 0 || !tuple_whole(btf))
		return 0;
	member_find(btf, struct_find(btf, "nf_conn"), "tuplehash", &hashes);
	int64_t size = btf__resolve_size(btf, (uint32_t)hash), both = btf__resolve_size(btf, (uint32_t)hashes);
	return size > 0 && both == 2 * size ? (uint32_t)(original + size) : 0;
}

/* ---- the helper ---- */

/* Lockdown and kernels before 5.9 refuse it to tc programs. libbpf's own probe does not know how newer kernels say so.
 */
static bool have_probe_read(void)
{
	const struct bpf_insn program[] = {
		{.code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = BPF_REG_10, .off = -8},
		{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_3, .src_reg = BPF_REG_1},
		{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = BPF_REG_1, .src_reg = BPF_REG_10},
		{.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = BPF_REG_1, .imm = -8},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_2, .imm = 8},
		{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_probe_read_kernel},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	auto_close int fd =
		bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "ps_probe", "GPL", program, sizeof(program) / sizeof(*program), NULL);
	return fd >= 0;
}

/* ---- both ---- */

bool nfct_find(struct btf *kernel, struct nfct_offsets *ret)
{
	struct btf *module = NULL;
	int skb = kernel ? field_offset(kernel, "sk_buff", "_nfct") : NOT_FOUND, tuple = NOT_FOUND;
	bool readable = have_probe_read();
	uint32_t reply = 0;
	if (skb > 0) {
		tuple = tuple_offset(kernel);
		reply = reply_offset(kernel, tuple);
	}
	if (skb > 0 && tuple < 0 && access("/sys/kernel/btf/nf_conntrack", R_OK) == 0) {
		module = btf__load_module_btf("nf_conntrack", kernel);
		tuple = module ? tuple_offset(module) : NOT_FOUND;
		reply = module ? reply_offset(module, tuple) : 0;
	}
	btf__free(module);
	if (skb <= 0 || tuple < 0 || !readable) {
		log_info(ROOM, "what this node masquerades from outside is judged by the address it is given here: %s",
			!readable  ? "this kernel lets no tc program read kernel memory"
			: skb <= 0 ? "this kernel has no connection tracking of its own"
					   : "nf_conntrack is not loaded, or its layout is not known");
		return false;
	}
	if (!reply)
		log_info(ROOM,
			"a Service whose backends policy judges differently is denied: the layout of nf_conntrack's tuples "
			"is not known");
	*ret = (struct nfct_offsets){.skb = (uint32_t)skb, .tuple = (uint32_t)tuple, .reply = reply};
	return true;
}
