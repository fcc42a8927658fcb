/* SPDX-License-Identifier: Apache-2.0 */
/* Proxies' listeners, for the files that look after them: heard of (diag.c), looked up (process.c), judged
 * (conditions.c), made usable (listeners.c). */
#ifndef PENSTOCK_LISTENERS_H
#define PENSTOCK_LISTENERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "agent/base/addr.h"
#include "agent/base/error.h"
#include "agent/model/object.h"

#define WHY_MAX 256
#define EXECUTABLE_MAX 256 /* what is kept of a name */

/* ---- sock_diag (diag.c) ---- */

/* A socket of this network namespace that listens: TCP, or UDP that is bound and not connected. */
struct heard {
	uint64_t cookie;
	uint32_t inode;
	uint32_t uid;    /* of its owner */
	uint32_t device; /* SO_BINDTODEVICE, or 0 */
	struct ip ip;
	uint16_t port;
	uint8_t protocol; /* IPPROTO_TCP, IPPROTO_UDP */
	bool v6only;
	bool transparent, told; /* not told: by kernels before 5.10 */
};
int diag_open(struct error *e); /* a descriptor */
/* Calls for each socket that listens on one of the ports. -1: not all were seen. */
int diag_listeners(int fd, uint8_t protocol, const uint16_t *ports, size_t count,
	void (*each)(void *context, const struct heard *heard), void *context);

/* ---- /proc (process.c) ---- */

/* A process that holds a socket. */
struct holder {
	int32_t pid;
	int fd;       /* its number there */
	uint32_t uid; /* effective */
	char *cgroup; /* cgroup v2, from the machine's root; "" when not known */
	/* As the process's mount namespace names it, without " (deleted)"; "" when not known. */
	char *executable;
	dev_t device; /* of the executable; both 0 when not known */
	ino_t inode;
};
struct search {
	size_t processes; /* seen */
	size_t closed;    /* of these may not be looked into */
};
/* Calls for each holder of a socket; `each` returns true when it needs no more of this one. Processes of this network
 * namespace first. base: cgroup_base(). */
void process_search(const uint32_t *inodes, size_t count, const char *base,
	bool (*each)(void *context, size_t which, const struct holder *holder), void *context, struct search *ret);
/* The socket that the holder has, if it is the one with this inode: a descriptor of our own. */
int process_socket(const struct holder *holder, uint32_t inode, char why[WHY_MAX]);
/* Sets IP_TRANSPARENT on the socket that the holder has, if it is the one with this inode. */
int process_adopt(const struct holder *holder, uint32_t inode, char why[WHY_MAX]);
/* Whether that can be done for another's process at all. */
bool process_adopts(char without[WHY_MAX]);
/* Why nobody was found to hold a socket. */
void process_unseen(const struct search *search, char why[WHY_MAX]);
bool process_alive(int32_t pid);
/* It still has this user, and executes this (as far as EXECUTABLE_MAX goes). */
bool process_same(int32_t pid, uint32_t uid, const char *executable);
/* Where the agent's cgroup namespace begins, as the machine has it: "" is the root, or not known. cgroup.c */
char *cgroup_base(void);

/* ---- SO_REUSEPORT (reuseport.c) ---- */

/* An array of sockets for one group: a descriptor, or -1. */
int group_sockets(void);
/* From now on only these sockets of their group get what is sent to its address. */
int group_guard(int sockets, const int *fds, size_t count, char why[WHY_MAX]);
/* All of the group that this one is of do. */
void group_release(int fd);

/* ---- pure (conditions.c) ---- */

/* They share an address: where both listen, they are of one SO_REUSEPORT group. */
bool heard_together(const struct heard *a, const struct heard *b);

/* The address from which a UDP proxy answers, not one where it waits: the original destination's, whose port may be the
 * proxy's own. */
bool listener_answers(const struct heard *heard);
/* Connections are offered to 127.0.0.1, ::1 and the wildcards only. */
bool listener_reachable(const struct heard *heard, char why[WHY_MAX]);
/* A cgroup as /proc shows it to a process whose cgroup namespace begins at `base`, from the machine's root. */
char *cgroup_absolute(const char *base, const char *shown);
/* Whether a cgroup is this one or lies below it; a leading slash makes no difference. */
bool cgroup_below(const char *cgroup, const char *top);
/* All conditions of a proxy hold for this process. The uid: of the process, or of the socket, which is that of the
 * process that made it. */
bool holder_chosen(
	const struct proxy *proxy, const struct heard *heard, const struct holder *holder, char why[WHY_MAX]);

#endif
