/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/archive.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include "agent/base/mem.h"

#define BLOCK 512
#define WRITE_MAX (1u << 30)

struct archive {
	gzFile file;
	long long now;
	int result;
};

/* POSIX.1-1988 ustar; numbers are octal text. */
struct header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100], magic[6], version[2];
	char user[32], group[32], major[8], minor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a header is a block");

struct archive *archive_new(int fd, time_t now)
{
	struct archive *archive = mem_alloc(sizeof *archive);
	archive->now = now;
	archive->file = gzdopen(fd, "wb");
	if (archive->file)
		return archive;
	close(fd);
	free(archive);
	return NULL;
}

static void put(struct archive *archive, const void *data, size_t length)
{
	const char *at = data;
	while (length && archive->result == 0) {
		unsigned piece = length < WRITE_MAX ? (unsigned)length : WRITE_MAX;
		errno = 0;
		if (gzwrite(archive->file, at, piece) != (int)piece)
			archive->result = errno ? -errno : -EIO;
		at += piece;
		length -= piece;
	}
}

int archive_add(struct archive *archive, const char *name, const void *data, size_t length)
{
	static const char zeros[BLOCK];
	struct header header = {.type = '0', .magic = "ustar", .version = {'0', '0'}};
	unsigned sum = 0;
	snprintf(header.name, sizeof header.name, "%s", name);
	snprintf(header.mode, sizeof header.mode, "%07o", 0644);
	snprintf(header.uid, sizeof header.uid, "%07o", 0);
	snprintf(header.gid, sizeof header.gid, "%07o", 0);
	snprintf(header.size, sizeof header.size, "%011llo", (unsigned long long)length & 077777777777ull);
	snprintf(header.mtime, sizeof header.mtime, "%011llo", (unsigned long long)archive->now & 077777777777ull);
	memset(header.checksum, ' ', sizeof header.checksum);
	for (size_t at = 0; at < sizeof header; at++)
		sum += ((const unsigned char *)&header)[at];
	snprintf(header.checksum, sizeof header.checksum, "%06o", sum & 0777777);
	put(archive, &header, sizeof header);
	put(archive, data, length);
	put(archive, zeros, (BLOCK - length % BLOCK) % BLOCK);
	return archive->result;
}

int archive_close(struct archive *archive)
{
	static const char end[2 * BLOCK];
	put(archive, end, sizeof end);
	errno = 0;
	int closed = gzclose(archive->file), result = archive->result;
	if (result == 0 && closed != Z_OK)
		result = errno ? -errno : -EIO;
	free(archive);
	return result;
}
