/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workaround for libmicrohttpd 0.9.75: it drops a connection on EPOLLHUP without handling what is still unread. On a
 * unix socket EPOLLHUP comes as soon as the peer closes, so a client that sends its request and hangs up at once would
 * lose its write (TCP is not concerned: there a close is a plain end of stream). This epoll_wait takes the place of
 * libc's for libmicrohttpd; in its threads it withholds EPOLLHUP while there is something to read: data first, then the
 * end of the stream, upon which the connection is closed all the same.
 */
#include "api/server/connection.h"

#include <stddef.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

static __thread bool read_first;

void hangups_read_first(void)
{
	read_first = true;
}

int epoll_wait(int epoll, struct epoll_event *events, int max, int timeout)
{
	int count = (int)syscall(SYS_epoll_pwait, epoll, events, max, timeout, NULL, 0);
	for (int at = 0; read_first && at < count; at++)
		if (events[at].events & EPOLLIN)
			events[at].events &= ~(uint32_t)EPOLLHUP;
	return count;
}
