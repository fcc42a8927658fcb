/* SPDX-License-Identifier: Apache-2.0 */
/* Entity tags (RFC 9110 section 8.8.3): "EPOCH-REVISION". */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "api/server/request.h"

void etag_format(char text[ETAG_TEXT_MAX], const char *epoch, uint64_t revision)
{
	snprintf(text, ETAG_TEXT_MAX, "\"%s-%" PRIu64 "\"", epoch, revision);
}

bool etag_listed(const char *header, const char *etag, bool weak)
{
	size_t length = strlen(etag);
	for (const char *at = header; *at;) {
		at += strspn(at, " \t,");
		if (*at == '*')
			return true;
		if (weak && !strncmp(at, "W/", 2))
			at += 2;
		if (!strncmp(at, etag, length))
			return true;
		if (*at == '"')
			at = strchrnul(at + 1, '"');
		at = strchrnul(at, ',');
	}
	return false;
}
