/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The name that a client asks for, from its first bytes: the server name of a TLS ClientHello (RFC 8446, RFC 6066) or
 * the Host of an HTTP/1 request (RFC 9112). Pure: looks at bytes, keeps nothing.
 */
#ifndef PENSTOCK_RELAY_SNIFF_H
#define PENSTOCK_RELAY_SNIFF_H

#include <stddef.h>

#define SNIFF_NAME_MAX 256
/* Names that come later than this many bytes into the connection are not looked for. */
#define SNIFF_BYTES_MAX 8192

enum sniff {
	SNIFF_MORE, /* nothing against it so far, but it is not complete */
	SNIFF_NONE, /* there is no name, and more bytes would not change that */
	SNIFF_NAME,
};
/*
 * name: lower case, letters, digits, dots, hyphens and underscores only, or an IPv6 address in brackets; a port is cut
 * off. Whatever has other characters is no name. Untouched unless SNIFF_NAME.
 */
enum sniff sniff(const void *data, size_t length, char name[SNIFF_NAME_MAX]);

#endif
