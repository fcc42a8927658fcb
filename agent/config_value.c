/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/config_value.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/addr.h"

static int __attribute__((format(printf, 2, 3))) refuse(char why[WHY_MAX], const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(why, WHY_MAX, format, arguments);
	va_end(arguments);
	return -EINVAL;
}

/* Digits from *text on, moved behind them; false when there is none or they do not fit. */
static bool digits(const char **text, int base, uint64_t *ret)
{
	if (!isxdigit((unsigned char)**text))
		return false;
	char *end;
	errno = 0;
	*ret = strtoull(*text, &end, base);
	bool moved = end > *text;
	*text = end;
	return moved && !errno;
}

static bool number(const char *text, uint64_t *ret)
{
	int base = 10;
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
		base = 16;
		text += 2;
	}
	return digits(&text, base, ret) && !*text;
}

int value_bool(const char *text, bool *ret, char why[WHY_MAX])
{
	bool is_true = strcmp(text, "true") == 0;
	if (!is_true && strcmp(text, "false") != 0)
		return refuse(why, "\"%s\" is neither true nor false", text);
	*ret = is_true;
	return 0;
}

int value_number(const char *text, uint64_t low, uint64_t high, uint64_t *ret, char why[WHY_MAX])
{
	uint64_t value;
	if (!number(text, &value))
		return refuse(why, "\"%s\" is not a number", text);
	if (value < low || value > high)
		return refuse(why, "%s is not between %llu and %llu", text, (unsigned long long)low, (unsigned long long)high);
	*ret = value;
	return 0;
}

int value_size(const char *text, uint64_t *ret, char why[WHY_MAX])
{
	static const struct {
		const char *suffix;
		uint64_t bytes;
	} units[] = {{"", 1}, {"Ki", 1ull << 10}, {"Mi", 1ull << 20}, {"Gi", 1ull << 30}, {"k", 1000}, {"M", 1000000},
		{"G", 1000000000}};
	const char *at = text;
	uint64_t value, total;
	if (!digits(&at, 10, &value))
		return refuse(why, "\"%s\" is not a size, such as 512MiB", text);
	size_t length = strlen(at);
	if (length && at[length - 1] == 'B')
		length--;
	for (size_t unit = 0; unit < sizeof units / sizeof units[0]; unit++) {
		if (strlen(units[unit].suffix) != length || strncmp(units[unit].suffix, at, length) != 0)
			continue;
		if (!value || __builtin_mul_overflow(value, units[unit].bytes, &total) || total > INT64_MAX)
			return refuse(why, "%s is out of range", text);
		*ret = total;
		return 0;
	}
	return refuse(why, "\"%s\" is not a size, such as 512MiB", text);
}

int value_duration(const char *text, uint32_t *ret, char why[WHY_MAX])
{
	static const struct {
		const char *suffix;
		double ms;
	} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}};
	size_t length = strspn(text, "0123456789.");
	char *end;
	double value = strtod(text, &end);
	if (length && isdigit((unsigned char)text[0]) && end == text + length) {
		for (size_t unit = 0; unit < sizeof units / sizeof units[0]; unit++) {
			if (strcmp(end, units[unit].suffix) != 0)
				continue;
			double ms = value * units[unit].ms;
			if (ms > 3600000)
				return refuse(why, "%s is longer than an hour", text);
			*ret = (uint32_t)(ms + 0.5);
			return 0;
		}
	}
	return refuse(why, "\"%s\" is not a duration, such as 100ms or 1s", text);
}

int value_mask(const char *text, uint32_t *ret, char why[WHY_MAX])
{
	uint64_t value;
	if (!number(text, &value))
		return refuse(why, "\"%s\" is not a mask, such as 0x60000000", text);
	if (value > UINT32_MAX)
		return refuse(why, "%s has more than 32 bits", text);
	/* Three states (HOST, INTERCEPT, REROUTE) and none. */
	if (__builtin_popcountll(value) < 2)
		return refuse(why, "%s has fewer than the 2 bits that are needed", text);
	*ret = (uint32_t)value;
	return 0;
}

int value_port(const char *text, uint16_t *ret, char why[WHY_MAX])
{
	uint64_t value;
	if (strspn(text, "0123456789") != strlen(text) || !number(text, &value) || value == 0 || value > 65535)
		return refuse(why, "\"%s\" is not a port", text);
	*ret = (uint16_t)value;
	return 0;
}

int value_listen(const char *text, char why[WHY_MAX])
{
	char host[ADDR_TEXT_MAX], ignored[WHY_MAX];
	const char *colon = strrchr(text, ':');
	uint16_t port;
	struct ip ip;
	if (!*text)
		return 0;
	size_t length = colon ? (size_t)(colon - text) : 0;
	if (!colon || length >= sizeof host)
		return refuse(why, "\"%s\" is not ADDRESS:PORT", text);
	memcpy(host, text, length);
	host[length] = 0;
	bool brackets = length > 2 && host[0] == '[' && host[length - 1] == ']';
	if (brackets)
		host[length - 1] = 0;
	if (ip_parse(host + brackets, &ip) < 0 || brackets != (strchr(host, ':') != NULL))
		return refuse(why, "\"%s\" is not ADDRESS:PORT", text);
	if (value_port(colon + 1, &port, ignored) < 0)
		return refuse(why, "\"%s\" is not ADDRESS:PORT: \"%s\" is not a port", text, colon + 1);
	return 0;
}

int value_pattern(const char *text, char why[WHY_MAX])
{
	if (!*text)
		return refuse(why, "an empty pattern matches no interface");
	for (const char *at = text; *at; at++)
		if (*at == '/' || isspace((unsigned char)*at))
			return refuse(why, "\"%s\" is not a pattern of interface names, such as \"veth*\"", text);
	return 0;
}

int value_address(const char *text, char why[WHY_MAX])
{
	struct ip ip;
	if (ip_parse(text, &ip) < 0)
		return refuse(why, "\"%s\" is not an IP address", text);
	return 0;
}

int value_choice(const char *text, const char *const *choices, unsigned *ret, char why[WHY_MAX])
{
	char list[WHY_MAX / 2] = "";
	for (unsigned at = 0; choices[at]; at++) {
		if (strcmp(text, choices[at]) == 0) {
			*ret = at;
			return 0;
		}
		size_t length = strlen(list);
		snprintf(list + length, sizeof list - length, "%s%s", !at ? "" : choices[at + 1] ? ", " : " or ", choices[at]);
	}
	return refuse(why, "\"%s\" is not %s", text, list);
}
