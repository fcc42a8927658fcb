/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A proxy of datagrams for measurements, IPv4: udp_sink PORT
 *
 * Reads all that is handed to the port. What begins with a question mark gets one byte back, from the address that it
 * was sent to. Says "listens" when it does; the kernel counts what was read.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64
#define BUFFER (64 << 20)

static void die(const char *what)
{
	fprintf(stderr, "udp_sink: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int socket_open(const struct sockaddr_in *at)
{
	int one = 1, fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
		setsockopt(fd, SOL_IP, IP_TRANSPARENT, &one, sizeof one) < 0 ||
		setsockopt(fd, SOL_IP, IP_RECVORIGDSTADDR, &one, sizeof one) < 0)
		die("socket");
	if (bind(fd, (const struct sockaddr *)at, sizeof *at) < 0)
		die("bind");
	return fd;
}

static void answer(struct msghdr *message)
{
	const struct cmsghdr *about = CMSG_FIRSTHDR(message);
	if (!about || about->cmsg_type != IP_RECVORIGDSTADDR)
		return;
	int fd = socket_open((const struct sockaddr_in *)CMSG_DATA(about));
	if (sendto(fd, "!", 1, 0, message->msg_name, message->msg_namelen) < 0)
		die("sendto");
	close(fd);
}

int main(int argc, char **argv)
{
	static char bytes[BATCH][2048], control[BATCH][64];
	static struct sockaddr_in from[BATCH];
	static struct iovec pieces[BATCH];
	static struct mmsghdr batch[BATCH];
	const struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argc > 1 ? argv[1] : "0"))};
	int fd = socket_open(&at), size = BUFFER;
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	puts("listens");
	fflush(stdout);
	for (;;) {
		for (int i = 0; i < BATCH; i++) {
			pieces[i] = (struct iovec){.iov_base = bytes[i], .iov_len = sizeof bytes[i]};
			batch[i].msg_hdr = (struct msghdr){.msg_name = &from[i],
				.msg_namelen = sizeof from[i],
				.msg_iov = &pieces[i],
				.msg_iovlen = 1,
				.msg_control = control[i],
				.msg_controllen = sizeof control[i]};
		}
		int count = recvmmsg(fd, batch, BATCH, MSG_WAITFORONE, NULL);
		if (count < 0 && errno != EINTR)
			die("recvmmsg");
		for (int i = 0; i < count; i++)
			if (bytes[i][0] == '?')
				answer(&batch[i].msg_hdr);
	}
}
