/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/relay/sniff.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

/* ---- names ---- */

static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool name_character(char c, bool literal)
{
	if (literal)
		return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') || c == ':' || c == '.';
	return is_letter(c) || is_digit(c) || c == '.' || c == '-' || c == '_';
}

static enum sniff take_name(const char *text, size_t length, char name[SNIFF_NAME_MAX])
{
	bool literal = length > 2 && text[0] == '[' && text[length - 1] == ']';
	if (length == 0 || length >= SNIFF_NAME_MAX)
		return SNIFF_NONE;
	for (size_t at = literal; at < length - literal; at++)
		if (!name_character(text[at], literal))
			return SNIFF_NONE;
	for (size_t at = 0; at < length; at++)
		name[at] = (char)(text[at] >= 'A' && text[at] <= 'Z' ? text[at] + ('a' - 'A') : text[at]);
	name[length] = 0;
	return SNIFF_NAME;
}

/* ---- TLS ---- */

/* A part of the message: `left` bytes of it by what was declared, of which `here` have come. */
struct part {
	const uint8_t *at;
	size_t left, here;
	bool wrong, cut; /* more was asked for than declared; than has come; never both */
};

static const uint8_t *take(struct part *part, size_t length)
{
	if (part->wrong || part->cut)
		return NULL; /* what comes first counts */
	part->wrong = length > part->left;
	part->cut = !part->wrong && length > part->here;
	if (part->wrong || part->cut)
		return NULL;
	const uint8_t *at = part->at;
	part->at += length;
	part->left -= length;
	part->here -= length;
	return at;
}

static size_t number(struct part *part, unsigned bytes)
{
	const uint8_t *at = take(part, bytes);
	size_t value = 0;
	for (unsigned i = 0; at && i < bytes; i++)
		value = value << 8 | at[i];
	return value;
}

/* A part of `length` bytes, whether all of it has come or not. */
static struct part inner(const struct part *part, size_t length)
{
	struct part in = {.at = part->at, .left = length, .here = length < part->here ? length : part->here};
	in.cut = part->cut;
	in.wrong = part->wrong || (!part->cut && length > part->left);
	return in;
}

/* Over a part with its length before it. */
static void skip(struct part *part, unsigned bytes)
{
	size_t length = number(part, bytes);
	take(part, length);
}

static enum sniff unfinished(const struct part *part)
{
	return part->cut ? SNIFF_MORE : SNIFF_NONE;
}

/* RFC 6066, section 3: a list of names, of which one may be a host name, type 0. */
static enum sniff server_name(struct part *extension, char name[SNIFF_NAME_MAX])
{
	size_t length = number(extension, 2);
	struct part list = inner(extension, length);
	while (list.left && !list.wrong && !list.cut) {
		size_t type = number(&list, 1), size = number(&list, 2);
		const uint8_t *text = take(&list, size);
		if (text && type == 0)
			return take_name((const char *)text, size, name);
	}
	return unfinished(&list);
}

/* RFC 8446, section 4.1.2 */
static enum sniff client_hello(struct part *hello, char name[SNIFF_NAME_MAX])
{
	take(hello, 2 + 32); /* version, random */
	skip(hello, 1);      /* session */
	skip(hello, 2);      /* cipher suites */
	skip(hello, 1);      /* compression */
	size_t length = number(hello, 2);
	struct part extensions = inner(hello, length);
	while (extensions.left && !extensions.wrong && !extensions.cut) {
		size_t type = number(&extensions, 2), size = number(&extensions, 2);
		if (type == 0 && !extensions.cut) {
			struct part extension = inner(&extensions, size);
			return server_name(&extension, name);
		}
		take(&extensions, size);
	}
	return unfinished(&extensions);
}

/*
 * Takes the headers out of the records that the handshake message is cut into; returns the message's bytes. *complete:
 * what follows is no handshake record, so no more of it comes.
 */
static size_t join_records(const uint8_t *data, size_t length, uint8_t message[SNIFF_BYTES_MAX], bool *complete)
{
	size_t filled = 0;
	while (length >= 5) {
		size_t size = (size_t)data[3] << 8 | data[4];
		*complete = data[0] != 22 || data[1] != 3 || size == 0 || size > 16384;
		if (*complete)
			return filled;
		size_t here = size < length - 5 ? size : length - 5;
		memcpy(message + filled, data + 5, here);
		filled += here;
		data += 5 + here;
		length -= 5 + here;
	}
	*complete = (length > 0 && data[0] != 22) || (length > 1 && data[1] != 3);
	return filled;
}

static enum sniff sniff_tls(const uint8_t *data, size_t length, char name[SNIFF_NAME_MAX])
{
	uint8_t message[SNIFF_BYTES_MAX];
	bool complete = false;
	size_t filled = join_records(data, length, message, &complete);
	if (filled && message[0] != 1) /* a ClientHello */
		return SNIFF_NONE;
	struct part all = {.at = message, .left = SIZE_MAX, .here = filled};
	take(&all, 1);
	size_t size = number(&all, 3);
	struct part hello = inner(&all, size);
	enum sniff known = client_hello(&hello, name);
	return known == SNIFF_MORE && complete ? SNIFF_NONE : known;
}

/* ---- HTTP ---- */

#define METHOD_MAX 24

/* "host:port" or "[address]:port" */
static enum sniff host_value(const char *text, size_t length, char name[SNIFF_NAME_MAX])
{
	while (length && (*text == ' ' || *text == '\t')) {
		text++;
		length--;
	}
	while (length && (text[length - 1] == ' ' || text[length - 1] == '\t'))
		length--;
	size_t digits = 0;
	while (digits < length && is_digit(text[length - 1 - digits]))
		digits++;
	if (digits < length && text[length - 1 - digits] == ':')
		length -= digits + 1;
	return take_name(text, length, name);
}

/* METHOD SP target SP HTTP/1.x */
static enum sniff request_line(const char *line, size_t length, bool complete)
{
	static const char version[] = "HTTP/1.";
	size_t method = 0;
	while (method < length && (is_letter(line[method]) || line[method] == '-'))
		method++;
	if (method > METHOD_MAX || (method < length && (method == 0 || line[method] != ' ')))
		return SNIFF_NONE;
	if (!complete)
		return SNIFF_MORE;
	size_t tail = sizeof version; /* with the minor version in the NUL's place */
	if (length < method + 2 + tail || memcmp(line + length - tail, version, tail - 1) != 0)
		return SNIFF_NONE;
	return SNIFF_NAME;
}

static enum sniff sniff_http(const char *data, size_t length, char name[SNIFF_NAME_MAX])
{
	for (bool first = true;; first = false) {
		const char *end = memchr(data, '\n', length);
		size_t size = end ? (size_t)(end - data) : length;
		size_t text = end && size && data[size - 1] == '\r' ? size - 1 : size;
		if (first) {
			enum sniff known = request_line(data, text, end);
			if (known != SNIFF_NAME)
				return known;
		} else if (!end) {
			return SNIFF_MORE;
		} else if (text == 0) {
			return SNIFF_NONE; /* the header ends */
		} else if (text > 5 && strncasecmp(data, "host:", 5) == 0) {
			return host_value(data + 5, text - 5, name);
		}
		data += size + 1;
		length -= size + 1;
	}
}

/* ---- both ---- */

enum sniff sniff(const void *data, size_t length, char name[SNIFF_NAME_MAX])
{
	bool whole = length < SNIFF_BYTES_MAX;
	if (!whole)
		length = SNIFF_BYTES_MAX;
	if (length == 0)
		return SNIFF_MORE;
	enum sniff known = *(const uint8_t *)data == 22 ? sniff_tls(data, length, name) : sniff_http(data, length, name);
	return known == SNIFF_MORE && !whole ? SNIFF_NONE : known;
}
