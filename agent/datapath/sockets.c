/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs on sockets, at the root of cgroup v2: SO_ORIGINAL_DST, and for whom a proxy connects. Interception goes on
 * without them, so what cannot be attached is said and is no failure. Links are pinned as links/cgroup-HOOK.
 */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/datapath/private.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71 /* Linux 5.14 */
#endif
#define QUERY_MAX 64 /* what the kernel lets stand at one cgroup */

struct socket_hook_info {
	const char *program, *link;
	enum bpf_attach_type type;
};
static const struct socket_hook_info hooks[SOCKET_HOOKS] = {
	[SOCKET_GETSOCKOPT] = {"socket_getsockopt", "cgroup-getsockopt", BPF_CGROUP_GETSOCKOPT},
	[SOCKET_GETPEERNAME4] = {"socket_getpeername4", "cgroup-getpeername4", BPF_CGROUP_INET4_GETPEERNAME},
	[SOCKET_GETPEERNAME6] = {"socket_getpeername6", "cgroup-getpeername6", BPF_CGROUP_INET6_GETPEERNAME},
	[SOCKET_GETSOCKNAME4] = {"socket_getsockname4", "cgroup-getsockname4", BPF_CGROUP_INET4_GETSOCKNAME},
	[SOCKET_GETSOCKNAME6] = {"socket_getsockname6", "cgroup-getsockname6", BPF_CGROUP_INET6_GETSOCKNAME},
	[SOCKET_CONNECT4] = {"socket_connect4", "cgroup-connect4", BPF_CGROUP_INET4_CONNECT},
	[SOCKET_CONNECT6] = {"socket_connect6", "cgroup-connect6", BPF_CGROUP_INET6_CONNECT},
	[SOCKET_SENDMSG4] = {"socket_sendmsg4", "cgroup-sendmsg4", BPF_CGROUP_UDP4_SENDMSG},
	[SOCKET_SENDMSG6] = {"socket_sendmsg6", "cgroup-sendmsg6", BPF_CGROUP_UDP6_SENDMSG},
	[SOCKET_RECVMSG4] = {"socket_recvmsg4", "cgroup-recvmsg4", BPF_CGROUP_UDP4_RECVMSG},
	[SOCKET_RECVMSG6] = {"socket_recvmsg6", "cgroup-recvmsg6", BPF_CGROUP_UDP6_RECVMSG},
	[SOCKET_RECV] = {"socket_recv", "trace-sock_recv_length", BPF_TRACE_RAW_TP},
	[SOCKET_FORK] = {"socket_fork", "trace-sched_process_fork", BPF_TRACE_RAW_TP},
};

static const char *hook_name(enum socket_hook hook)
{
	return strchr(hooks[hook].link, '-') + 1;
}

static bool hook_traces(enum socket_hook hook)
{
	return hooks[hook].type == BPF_TRACE_RAW_TP;
}

/* ---- what the kernel has ---- */

/* 0: the kernel does not tell. */
static uint64_t own_namespace(void)
{
	auto_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	uint64_t cookie = 0;
	socklen_t length = sizeof(cookie);
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) < 0)
		return 0;
	return cookie;
}

static enum bpf_prog_type hook_type(enum socket_hook hook)
{
	return hook == SOCKET_GETSOCKOPT ? BPF_PROG_TYPE_CGROUP_SOCKOPT : BPF_PROG_TYPE_CGROUP_SOCK_ADDR;
}

static bool helper_known(enum bpf_prog_type type, enum bpf_func_id id)
{
	return libbpf_probe_bpf_helper(type, id, NULL) == 1;
}

static bool hook_known(enum socket_hook hook)
{
	const struct bpf_insn goes_on[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1}, {.code = BPF_JMP | BPF_EXIT}};
	DECLARE_LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = hooks[hook].type);
	auto_close int fd = bpf_prog_load(hook_type(hook), "ps_probe", "GPL", goes_on, 2, &options);
	return fd >= 0;
}

static bool trace_known(const struct btf *btf, enum socket_hook hook)
{
	char name[64];
	snprintf(name, sizeof(name), "btf_trace_%s", hook_name(hook));
	return btf && btf__find_by_name_kind(btf, name, BTF_KIND_TYPEDEF) > 0;
}

static void probe_hooks(const struct btf *kernel, struct sockets_support *ret)
{
	bool options = helper_known(BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_FUNC_get_netns_cookie);
	bool addresses = helper_known(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_get_netns_cookie);
	for (enum socket_hook hook = 0; hook < SOCKET_HOOKS; hook++) {
		if (hook_traces(hook))
			ret->known[hook] = trace_known(kernel, hook);
		else
			ret->known[hook] = (hook == SOCKET_GETSOCKOPT ? options : addresses) && hook_known(hook);
	}
}

void sockets_probe(const struct btf *kernel, struct sockets_support *ret)
{
	size_t length = 0;
	memset(ret, 0, sizeof(*ret));
	ret->netns_cookie = own_namespace();
	if (!ret->netns_cookie) {
		snprintf(ret->missing, sizeof(ret->missing), "network namespaces cannot be told apart (SO_NETNS_COOKIE, 5.14)");
		return;
	}
	ret->thread = helper_known(BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_FUNC_get_current_pid_tgid);
	ret->task = helper_known(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_get_current_task) &&
				helper_known(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_probe_read_kernel);
	probe_hooks(kernel, ret);
	ret->traces = ret->known[SOCKET_RECV] && ret->known[SOCKET_FORK];
	for (enum socket_hook hook = 0; hook < SOCKET_HOOKS; hook++)
		if (!ret->known[hook] && !hook_traces(hook) && length < sizeof(ret->missing))
			length += snprintf(ret->missing + length, sizeof(ret->missing) - length, "%s%s",
				length ? ", " : "this kernel lacks cgroup/", hook_name(hook));
}

void sockets_prepare(struct bpf_object *object, const struct sockets_support *support)
{
	for (enum socket_hook hook = 0; hook < SOCKET_HOOKS; hook++)
		if (!support->known[hook])
			bpf_program__set_autoload(bpf_object__find_program_by_name(object, hooks[hook].program), false);
}

void sockets_find(struct loaded *loaded)
{
	for (enum socket_hook hook = 0; hook < SOCKET_HOOKS; hook++)
		loaded->socket[hook] = program_descriptor(loaded, hooks[hook].program);
}

/* ---- the root of cgroup v2 ---- */

/* "\040" is a space. */
static void unescape(char *text)
{
	char *to = text;
	for (const char *from = text; *from; to++) {
		unsigned int code;
		if (from[0] == '\\' && sscanf(from + 1, "%3o", &code) == 1) {
			*to = (char)code;
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

/*
 * A container has its own part of the hierarchy mounted as "/", and the machine's, if it was given that, as "/../…":
 * the highest wins. Of equals the first. 0: a part that does not hold everybody.
 */
static int root_rank(const char *root)
{
	int rank = 1;
	if (strcmp(root, "/") == 0)
		return rank;
	for (; strncmp(root, "/..", 3) == 0; root += 3)
		rank++;
	return *root ? 0 : rank;
}

int sockets_cgroup(char path[PIN_PATH_MAX])
{
	FILE *file = fopen("/proc/self/mountinfo", "re");
	auto_free char *line = NULL;
	size_t size = 0;
	int best = 0;
	while (file && getline(&line, &size, file) > 0) {
		char root[PIN_PATH_MAX], point[PIN_PATH_MAX];
		const char *type = strstr(line, " - ");
		if (!type || strncmp(type + 3, "cgroup2 ", 8) != 0 || sscanf(line, "%*s %*s %*s %511s %511s", root, point) != 2)
			continue;
		int rank = root_rank(root);
		if (rank <= best)
			continue;
		best = rank;
		unescape(point);
		snprintf(path, PIN_PATH_MAX, "%s", point);
	}
	if (file)
		fclose(file);
	return best ? 0 : -ENOENT;
}

/* ---- links ---- */

/* The hierarchy's id of the cgroup that a link stands at, 0 when it was detached or stands at none; and its program's.
 */
static int link_read(int fd, uint64_t *cgroup, uint32_t *program)
{
	struct bpf_link_info info = {0};
	uint32_t length = sizeof(info);
	int result = bpf_obj_get_info_by_fd(fd, &info, &length);
	if (result < 0)
		return result;
	*cgroup = info.type == BPF_LINK_TYPE_CGROUP ? info.cgroup.cgroup_id : 0;
	*program = info.prog_id;
	return 0;
}

static int link_make(const struct datapath *d, enum socket_hook hook, int cgroup, struct error *e)
{
	auto_close int fd = bpf_link_create(d->loaded.socket[hook], cgroup, hooks[hook].type, NULL);
	if (fd < 0)
		return error_system(e, -fd, "%s cannot be attached", hooks[hook].program);
	return pins_replace(&d->pins, fd, "links", hooks[hook].link, e);
}

/* A pinned link gets our program in one step. */
static int link_keep(const struct datapath *d, enum socket_hook hook, int cgroup, struct error *e)
{
	char path[PIN_PATH_MAX];
	struct stat there;
	uint64_t stands_at = 0;
	uint32_t program = 0;
	auto_close int fd = bpf_obj_get(pins_path(&d->pins, path, "links", hooks[hook].link));
	if (fd >= 0 && link_read(fd, &stands_at, &program) == 0 && fstat(cgroup, &there) == 0 &&
		stands_at == there.st_ino && bpf_link_update(fd, d->loaded.socket[hook], NULL) == 0)
		return 0;
	return link_make(d, hook, cgroup, e);
}

/* The others can do without. */
static void attach_trace(struct datapath *d, enum socket_hook hook)
{
	struct error e = {0};
	if (trace_keep(&d->pins, d->loaded.socket[hook], hooks[hook].link, &e) >= 0)
		return;
	log_warn(ROOM, "threads that serve several clients are not told apart: %s", e.detail);
	d->loaded.socket[hook] = -1;
}

static int attach_all(struct datapath *d, struct error *e)
{
	char path[PIN_PATH_MAX];
	if (sockets_cgroup(path) < 0)
		return error_set(e, ERROR_SYSTEM, ENOENT, NULL, "cgroup v2 is not mounted");
	auto_close int cgroup = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cgroup < 0)
		return error_system(e, errno, "%s cannot be opened", path);
	for (enum socket_hook hook = 0; hook < SOCKET_HOOKS; hook++) {
		if (d->loaded.socket[hook] < 0)
			continue;
		int result = 0;
		if (hook_traces(hook))
			attach_trace(d, hook);
		else
			result = link_keep(d, hook, cgroup, e);
		if (result < 0)
			return result;
	}
	return 0;
}

static unsigned int count_pins(const struct datapath *d)
{
	char path[PIN_PATH_MAX];
	unsigned int count = 0;
	for (enum socket_hook hook = 0; hook < SOCKET_HOOKS; hook++)
		count += access(pins_path(&d->pins, path, "links", hooks[hook].link), F_OK) == 0;
	return count;
}

static unsigned int count_programs(const struct datapath *d)
{
	unsigned int count = 0;
	for (enum socket_hook hook = 0; hook < SOCKET_HOOKS; hook++)
		count += d->loaded.socket[hook] >= 0;
	return count;
}

/* How many that once stood do not any more: the pin is gone, or the link detached. */
static unsigned int count_lost(const struct datapath *d)
{
	char path[PIN_PATH_MAX];
	unsigned int count = 0;
	for (enum socket_hook hook = 0; hook < SOCKET_HOOKS; hook++) {
		uint64_t stands_at = 0;
		uint32_t program;
		if (d->loaded.socket[hook] < 0)
			continue;
		auto_close int fd = bpf_obj_get(pins_path(&d->pins, path, "links", hooks[hook].link));
		count += fd < 0 || link_read(fd, &stands_at, &program) < 0 || (!hook_traces(hook) && !stands_at);
	}
	return count;
}

void sockets_set(struct datapath *d, bool again)
{
	struct sockets *s = &d->sockets;
	unsigned int lost = 0;
	if (s->tried && s->failed && !again)
		return;
	if (s->tried && !s->failed) {
		if (again || count_pins(d) < count_programs(d))
			lost = count_lost(d);
		if (!lost)
			return;
		log_warn(ROOM, "%u programs on sockets were detached: they are attached again", lost);
	}
	struct error e = {0};
	s->failed = attach_all(d, &e) < 0;
	drift_note(d, DRIFT_LINK, s->failed ? 0 : lost);
	snprintf(s->why, sizeof(s->why), "%s", s->failed ? e.detail : d->loaded.sockets.missing);
	if (s->why[0] && !s->tried)
		log_warn(ROOM, "SO_ORIGINAL_DST and clients of proxies' onward connections: %s", s->why);
	s->tried = true;
}

void sockets_take_over(struct datapath *d)
{
	if (d->steering || count_pins(d))
		sockets_set(d, true);
}

const char *datapath_sockets(const struct datapath *datapath)
{
	const struct sockets *s = &datapath->sockets;
	if (!s->tried)
		return "no TransparentProxy yet";
	return s->why[0] ? s->why : NULL;
}

/* ---- uninstall ---- */

static bool still_there(int cgroup, enum socket_hook hook, uint32_t program)
{
	uint32_t ids[QUERY_MAX], count = QUERY_MAX, flags;
	if (bpf_prog_query(cgroup, hooks[hook].type, 0, &flags, ids, &count) < 0)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (ids[i] == program)
			return true;
	return false;
}

int sockets_remove(const struct pins *pins, struct error *e)
{
	char path[PIN_PATH_MAX];
	auto_close int cgroup = sockets_cgroup(path) < 0 ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (enum socket_hook hook = 0; hook < SOCKET_HOOKS; hook++) {
		auto_close int fd = bpf_obj_get(pins_path(pins, path, "links", hooks[hook].link));
		uint64_t stands_at;
		uint32_t program;
		if (fd < 0 || link_read(fd, &stands_at, &program) < 0)
			continue;
		if (!hook_traces(hook))
			bpf_link_detach(fd); /* when its pin goes, a link is released only after a grace period */
		unlink(path);
		if (cgroup >= 0 && !hook_traces(hook) && still_there(cgroup, hook, program))
			return error_set(e, ERROR_SYSTEM, EBUSY, NULL, "%s is still attached", hooks[hook].program);
	}
	return 0;
}
