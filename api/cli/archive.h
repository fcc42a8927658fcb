/* SPDX-License-Identifier: Apache-2.0 */
/* A tar archive (POSIX ustar), compressed by gzip. */
#ifndef PENSTOCK_CLI_ARCHIVE_H
#define PENSTOCK_CLI_ARCHIVE_H

#include <stddef.h>
#include <time.h>

struct archive;
/* Takes the file descriptor. NULL: no memory. */
struct archive *archive_new(int fd, time_t now);
/* A regular file; the name at most 99 bytes. 0 or a negative errno; after a failure all fail. */
int archive_add(struct archive *archive, const char *name, const void *data, size_t length);
/* Ends and frees it. 0, or what failed first. */
int archive_close(struct archive *archive);

#endif
