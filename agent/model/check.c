/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/model/check.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "agent/base/addr.h"

/* The C library's ctype follows the locale; names do not. */
static bool is_lower(char c)
{
	return c >= 'a' && c <= 'z';
}
static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}
static bool is_alnum(char c)
{
	return is_lower(c) || (c >= 'A' && c <= 'Z') || is_digit(c);
}

static bool dns_label(const char *text, size_t length)
{
	if (!length || length > 63 || text[0] == '-' || text[length - 1] == '-')
		return false;
	for (size_t i = 0; i < length; i++)
		if (!is_lower(text[i]) && !is_digit(text[i]) && text[i] != '-')
			return false;
	return true;
}

static bool dns_subdomain(const char *text, size_t length)
{
	if (!length || length > 253)
		return false;
	for (const char *end = text + length;;) {
		const char *dot = memchr(text, '.', (size_t)(end - text));
		const char *stop = dot ? dot : end;
		/* Kubernetes bounds the whole at 253 and leaves the parts unbounded. */
		if (stop == text || text[0] == '-' || stop[-1] == '-')
			return false;
		for (; text < stop; text++)
			if (!is_lower(*text) && !is_digit(*text) && *text != '-')
				return false;
		if (!dot)
			return true;
		text = dot + 1;
	}
}

const char *dns_label_wrong(const char *text)
{
	return dns_label(text, strlen(text))
			   ? NULL
			   : "must be a DNS label: lower-case letters, digits and inner '-', at most 63 characters";
}

const char *dns_subdomain_wrong(const char *text)
{
	return dns_subdomain(text, strlen(text))
			   ? NULL
			   : "must be a DNS subdomain: lower-case letters, digits, inner '-' and '.', at most 253 characters";
}

/* The name part of a label's key, and a label's value when that is not empty. */
static bool label_word(const char *text)
{
	size_t length = strlen(text);
	if (!length || length > 63 || !is_alnum(text[0]) || !is_alnum(text[length - 1]))
		return false;
	for (size_t i = 0; i < length; i++)
		if (!is_alnum(text[i]) && !strchr("-_.", text[i]))
			return false;
	return true;
}

const char *label_key_wrong(const char *text)
{
	const char *slash = strchr(text, '/');
	if (slash && !dns_subdomain(text, (size_t)(slash - text)))
		return "must be a label key: what stands before '/' must be a DNS subdomain";
	if (!label_word(slash ? slash + 1 : text))
		return "must be a label key: letters, digits, inner '-', '_' and '.', at most 63 characters, with an optional "
			   "prefix and '/'";
	return NULL;
}

const char *label_value_wrong(const char *text)
{
	if (*text && !label_word(text))
		return "must be a label value: empty, or letters, digits, inner '-', '_' and '.', at most 63 characters";
	return NULL;
}

const char *port_name_wrong(const char *text)
{
	size_t length = strlen(text), letters = 0;
	bool good = length && length <= 15 && text[0] != '-' && text[length - 1] != '-' && !strstr(text, "--");
	for (size_t i = 0; good && i < length; i++) {
		letters += is_lower(text[i]);
		good = is_lower(text[i]) || is_digit(text[i]) || text[i] == '-';
	}
	return good && letters ? NULL
						   : "is not a port name: 1 to 15 lower-case letters, digits and single inner '-', "
							 "with at least one letter";
}

const char *domain_name_wrong(const char *text)
{
	static const char wrong[] =
		"is not a domain name of two or more labels, which may begin with '*.' for one or more whole labels";
	if (strlen(text) > 255)
		return wrong;
	if (!strncmp(text, "*.", 2))
		text += 2;
	size_t labels = 0;
	for (; *text; labels++) {
		size_t length = strcspn(text, ".");
		if (!length || length > 63 || !is_alnum(text[0]) || !is_alnum(text[length - 1]))
			return wrong;
		for (size_t i = 0; i < length; i++)
			if (!is_alnum(text[i]) && text[i] != '-' && text[i] != '_')
				return wrong;
		text += length + (text[length] == '.');
	}
	return labels >= 2 ? NULL : wrong;
}

const char *ip_wrong(const char *text)
{
	struct ip ip;
	return ip_parse(text, &ip) ? "is not an IP address" : NULL;
}

const char *cidr_wrong(const char *text)
{
	struct cidr cidr;
	return cidr_parse(text, &cidr) ? "is not a network in CIDR notation" : NULL;
}

const char *interface_wrong(const char *text)
{
	static const char wrong[] = "is not the name of a network interface: 1 to 15 characters without '/', ':' or space";
	size_t length = strlen(text);
	if (!length || length > 15 || !strcmp(text, ".") || !strcmp(text, ".."))
		return wrong;
	for (const char *at = text; *at; at++)
		if (*at == '/' || *at == ':' || (unsigned char)*at <= ' ' || *at == 0x7f)
			return wrong;
	return NULL;
}

const char *rule_name_wrong(const char *text)
{
	size_t characters = 0;
	for (; *text; text++)
		characters += ((unsigned char)*text & 0xc0) != 0x80; /* not a continuation byte of UTF-8 */
	return characters > 100 ? "is longer than 100 characters" : NULL;
}

const char *cgroup_wrong(const char *text)
{
	static const char wrong[] = "is not a path below the cgroup root, like system.slice/foo.service";
	if (!*text || strlen(text) >= 4096)
		return wrong;
	text += *text == '/';
	for (; *text;) {
		size_t length = strcspn(text, "/");
		if (!length || (length <= 2 && !strncmp(text, "..", length)))
			return wrong;
		text += length + (text[length] == '/');
	}
	return NULL;
}

const char *cgroup_subject_wrong(const char *text)
{
	if (*text == '/' || (*text && text[strlen(text) - 1] == '/'))
		return "begins or ends with a slash: it is a path below the cgroup root, like system.slice/foo.service";
	return cgroup_wrong(text);
}

const char *executable_wrong(const char *text)
{
	return text[0] == '/' && strlen(text) < 4096 ? NULL : "is not an absolute path";
}

/* ---- RFC 3339 ---- */

static bool digits(const char **text, int count, int *ret)
{
	*ret = 0;
	for (; count; count--, (*text)++) {
		if (!is_digit(**text))
			return false;
		*ret = *ret * 10 + (**text - '0');
	}
	return true;
}

static bool letter(const char **text, const char *any)
{
	if (!**text || !strchr(any, **text))
		return false;
	(*text)++;
	return true;
}

static bool zone(const char **text, int *seconds)
{
	int hours, minutes, sign = **text == '-' ? -1 : 1;
	*seconds = 0;
	if (letter(text, "Zz"))
		return true;
	if (!letter(text, "+-") || !digits(text, 2, &hours) || !letter(text, ":") || !digits(text, 2, &minutes) ||
		hours > 23 || minutes > 59)
		return false;
	*seconds = sign * (hours * 3600 + minutes * 60);
	return true;
}

int timestamp_parse(const char *text, int64_t *ret)
{
	struct tm tm = {0};
	int year, month, offset;
	if (!digits(&text, 4, &year) || !letter(&text, "-") || !digits(&text, 2, &month) || !letter(&text, "-") ||
		!digits(&text, 2, &tm.tm_mday) || !letter(&text, "Tt") || !digits(&text, 2, &tm.tm_hour) ||
		!letter(&text, ":") || !digits(&text, 2, &tm.tm_min) || !letter(&text, ":") || !digits(&text, 2, &tm.tm_sec))
		return -EINVAL;
	if (letter(&text, ".")) {
		if (!is_digit(*text))
			return -EINVAL;
		while (is_digit(*text))
			text++;
	}
	if (!zone(&text, &offset) || *text || tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 60)
		return -EINVAL;
	int day = tm.tm_mday;
	tm.tm_year = year - 1900;
	tm.tm_mon = month - 1;
	time_t seconds = timegm(&tm);
	/* timegm() carries an impossible date into the next month: then it is not the same day any more. */
	struct tm back;
	if (month < 1 || month > 12 || tm.tm_sec == 60)
		return -EINVAL;
	if (!gmtime_r(&seconds, &back) || back.tm_mday != day || day < 1)
		return -EINVAL;
	*ret = (int64_t)seconds - offset;
	return 0;
}

const char *timestamp_wrong(const char *text)
{
	int64_t seconds;
	return timestamp_parse(text, &seconds) ? "is not a time in RFC 3339's form, like 2024-05-31T12:00:00Z" : NULL;
}

/* ---- quantities ---- */

/* The factor of a suffix as decimal and binary exponent. */
static bool suffix_scale(const char *suffix, int *ten, int *two)
{
	static const char decimal[] = "num kMGTPE", binary[] = "KMGTPE";
	*ten = *two = 0;
	if (!*suffix)
		return true;
	if ((*suffix == 'e' || *suffix == 'E') && suffix[1] && suffix[1] != 'i') {
		int sign = suffix[1] == '-' ? -1 : 1, value = 0;
		const char *at = suffix + 1 + (suffix[1] == '-' || suffix[1] == '+');
		if (!is_digit(*at))
			return false;
		for (; is_digit(*at); at++)
			value = value > 100 ? value : value * 10 + (*at - '0');
		*ten = sign * value;
		return !*at;
	}
	if (suffix[1] == 'i' && !suffix[2] && strchr(binary, *suffix)) {
		*two = 10 * (int)(strchr(binary, *suffix) - binary + 1);
		return true;
	}
	if (suffix[1] || *suffix == ' ' || !strchr(decimal, *suffix))
		return false;
	*ten = 3 * ((int)(strchr(decimal, *suffix) - decimal) - 3);
	return true;
}

int quantity_parse(const char *text, uint64_t *ret)
{
	long double value = 0;
	int ten, two, seen = 0, fraction = 0;
	bool point = false, zero = true;
	if (*text == '-')
		return -EINVAL;
	text += *text == '+';
	for (; is_digit(*text) || (*text == '.' && !point); text++) {
		if (*text == '.') {
			point = true;
			continue;
		}
		value = value * 10 + (*text - '0');
		zero = zero && *text == '0';
		fraction += point;
		if (++seen > 64)
			return -EINVAL;
	}
	if (!seen || !suffix_scale(text, &ten, &two))
		return -EINVAL;
	for (ten -= fraction; ten > 0 && !zero; ten--)
		value *= 10;
	/* One division by an exact power keeps 0.3k at 300 where repeated division would round up to 301. */
	long double divisor = 1;
	for (; ten < 0 && divisor < 1e30L; ten++)
		divisor *= 10;
	for (; two > 0; two--)
		value *= 2;
	value /= divisor;
	if (value >= 0x1p63L)
		return -EINVAL;
	uint64_t whole = (uint64_t)value;
	*ret = whole + ((long double)whole < value);
	return 0;
}

const char *bandwidth_wrong(const char *text)
{
	uint64_t bits;
	return quantity_parse(text, &bits) || bits < 1000 || bits > 1000000000000000
			   ? "is not a bandwidth: a quantity of bits per second from 1k to 1P, like 10M"
			   : NULL;
}
