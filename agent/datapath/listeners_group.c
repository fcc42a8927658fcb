/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of SO_REUSEPORT in which not all are chosen: those who are get what is sent to the address, or nobody does. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "agent/base/mem.h"
#include "agent/datapath/listeners_look.h"

/* A SO_REUSEPORT group that only the chosen of a proxy share, although there are others. */
struct guard {
	struct heard at;
	int sockets;      /* group_sockets() */
	size_t count;     /* of those that are in it … */
	uint64_t cookies; /* … and who they are */
	bool wanted;      /* by the present look */
};

static int listener_socket(struct listener *l, char why[WHY_MAX])
{
	struct holder holder = {.pid = l->pid, .fd = l->fd};
	int fd = l->pid ? process_socket(&holder, l->heard.inode, why) : -1;
	if (fd < 0)
		l->tries = 0; /* looked for anew */
	return fd;
}

static struct guard *guard_find(struct listeners *ls, const struct heard *at)
{
	for (size_t i = 0; i < ls->guard_count; i++)
		if (heard_together(&ls->guards[i].at, at))
			return &ls->guards[i];
	return NULL;
}

/* Another proxy has chosen it: a group can be kept to those of one only. */
static bool chosen_elsewhere(const struct listeners *ls, const struct listener *l)
{
	for (size_t i = 0; i < ls->count; i++)
		if (ls->list[i].heard.cookie == l->heard.cookie && ls->list[i].proxy != l->proxy && ls->list[i].matches)
			return true;
	return false;
}

static bool of_group(const struct listener *first, const struct listener *l)
{
	return l->proxy == first->proxy && heard_together(&l->heard, &first->heard);
}

static bool listener_good(const struct listener *l)
{
	char why[WHY_MAX];
	return l->matches && l->heard.transparent && listener_reachable(&l->heard, why);
}

static struct guard *guard_make(struct listeners *ls, const struct heard *at)
{
	int sockets = group_sockets();
	if (sockets < 0)
		return NULL;
	ls->guards = list_room(ls->guards, ls->guard_count, &ls->guard_capacity, sizeof(*ls->guards));
	struct guard *guard = &ls->guards[ls->guard_count++];
	*guard = (struct guard){.at = *at, .sockets = sockets};
	return guard;
}

static bool guard_renew(struct listeners *ls, struct guard *guard, const struct listener *first, char why[WHY_MAX])
{
	auto_free int *fds = mem_array(ls->count, sizeof(*fds));
	size_t count = 0;
	for (size_t i = 0; i < ls->count; i++) {
		struct listener *l = &ls->list[i];
		int fd = of_group(first, l) && listener_good(l) ? listener_socket(l, why) : -1;
		if (fd >= 0)
			fds[count++] = fd;
	}
	guard->count = count && group_guard(guard->sockets, fds, count, why) == 0 ? count : 0;
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
	return guard->count;
}

/* Keeps the group of `first` to those that are chosen. */
static bool group_keep(struct listeners *ls, const struct listener *first, char why[WHY_MAX])
{
	struct guard *guard = guard_find(ls, &first->heard);
	uint64_t cookies = 0;
	size_t count = 0;
	if (!guard && !(guard = guard_make(ls, &first->heard))) {
		snprintf(why, WHY_MAX, "%s", strerror(errno));
		return false;
	}
	for (size_t i = 0; i < ls->count; i++) {
		if (!of_group(first, &ls->list[i]) || !listener_good(&ls->list[i]))
			continue;
		count++;
		cookies ^= ls->list[i].heard.cookie * 0x9e3779b97f4a7c15u;
	}
	guard->wanted = true;
	if (guard->count == count && guard->cookies == cookies)
		return true;
	guard->cookies = cookies;
	return guard_renew(ls, guard, first, why);
}

/* The chosen of one group; `first` is one. */
static void group_look(struct listeners *ls, struct listener *first, int64_t now)
{
	uint32_t chosen = ls->wanted[first->proxy].chosen;
	/* The table of nftables looks UDP sockets up as the programs do, without the group's program. */
	bool asked = first->heard.protocol == IPPROTO_TCP || datapath_engine_active(ls->datapath) == ENGINE_EBPF;
	bool alone = true, kept = true;
	char why[WHY_MAX] = "";
	for (size_t i = 0; i < ls->count; i++) {
		const struct listener *l = &ls->list[i];
		if (!of_group(first, l) || listener_good(l))
			continue;
		alone = false;
		kept = kept && !chosen_elsewhere(ls, l);
	}
	kept = alone || (kept && group_keep(ls, first, why));
	for (size_t i = 0; i < ls->count; i++) {
		struct listener *l = &ls->list[i];
		if (!of_group(first, l))
			continue;
		l->shared = listener_good(l) && !kept;
		if (l->shared)
			snprintf(l->why, sizeof(l->why), "%s", *why ? why : "another proxy has chosen that one");
		if (!listener_good(l) && kept && asked)
			listener_row_want(ls, l, chosen, PS_LISTENER_BESIDE, now);
		else if (!listener_good(l) || !kept)
			listener_row_drop(ls, l, chosen);
	}
}

/* One socket of those that are there is enough to end it. First nobody is handed over to who is not chosen. */
static void guard_end(struct listeners *ls, const struct guard *guard)
{
	int fd = -1;
	char why[WHY_MAX];
	for (size_t i = 0; i < ls->count; i++) {
		uint32_t chosen = ls->wanted[ls->list[i].proxy].chosen;
		if (chosen && heard_together(&guard->at, &ls->list[i].heard) && !listener_good(&ls->list[i]))
			listener_row_drop(ls, &ls->list[i], chosen);
	}
	for (size_t i = 0; fd < 0 && i < ls->count; i++)
		if (heard_together(&guard->at, &ls->list[i].heard))
			fd = listener_socket(&ls->list[i], why);
	if (fd >= 0) {
		group_release(fd);
		close(fd);
	}
	close(guard->sockets);
}

/* Those that nobody wants any more. */
static void guards_end(struct listeners *ls)
{
	size_t left = 0;
	for (size_t i = 0; i < ls->guard_count; i++) {
		if (ls->guards[i].wanted)
			ls->guards[left++] = ls->guards[i];
		else
			guard_end(ls, &ls->guards[i]);
	}
	ls->guard_count = left;
}

void groups_look(struct listeners *ls, int64_t now)
{
	for (size_t i = 0; i < ls->guard_count; i++)
		ls->guards[i].wanted = false;
	for (size_t i = 0; i < ls->count; i++) {
		struct listener *l = &ls->list[i];
		bool first = ls->wanted[l->proxy].chosen && listener_good(l);
		for (size_t j = 0; first && j < i; j++)
			first = !of_group(l, &ls->list[j]) || !listener_good(&ls->list[j]);
		if (first)
			group_look(ls, l, now);
	}
	guards_end(ls);
}

void groups_end(struct listeners *ls)
{
	for (size_t i = 0; i < ls->guard_count; i++)
		ls->guards[i].wanted = false;
	guards_end(ls);
}

void groups_close(struct listeners *ls)
{
	for (size_t i = 0; i < ls->guard_count; i++)
		close(ls->guards[i].sockets);
	free(ls->guards);
}
