/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/base/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

struct ip ip_from_v4(uint32_t network_order)
{
	struct ip ip = {.family = 4};
	memcpy(ip.bytes, mapped, sizeof mapped);
	memcpy(ip.bytes + 12, &network_order, 4);
	return ip;
}

struct ip ip_from_v6(const uint8_t bytes[16])
{
	struct ip ip = {.family = 6};
	memcpy(ip.bytes, bytes, 16);
	return ip;
}

uint32_t ip_v4(const struct ip *ip)
{
	uint32_t word;
	memcpy(&word, ip->bytes + 12, 4);
	return word;
}

int ip_parse(const char *text, struct ip *ret)
{
	uint32_t word;
	uint8_t bytes[16];
	if (inet_pton(AF_INET, text, &word) == 1)
		*ret = ip_from_v4(word);
	else if (inet_pton(AF_INET6, text, bytes) == 1)
		*ret = ip_from_v6(bytes);
	else
		return -EINVAL;
	if (memcmp(ret->bytes, mapped, sizeof mapped) == 0)
		ret->family = 4;
	return 0;
}

void ip_format(const struct ip *ip, char text[ADDR_TEXT_MAX])
{
	if (ip->family == 4)
		inet_ntop(AF_INET, ip->bytes + 12, text, ADDR_TEXT_MAX);
	else
		inet_ntop(AF_INET6, ip->bytes, text, ADDR_TEXT_MAX);
}

static unsigned family_offset(uint8_t family)
{
	return family == 4 ? 96 : 0;
}

static void clear_host_bits(struct ip *ip, unsigned length)
{
	unsigned whole = length / 8;
	if (length % 8) {
		ip->bytes[whole] &= 0xff << (8 - length % 8);
		whole++;
	}
	memset(ip->bytes + whole, 0, 16 - whole);
}

/* 0..128 in plain decimal, or -1. */
static int length_parse(const char *text)
{
	int value = 0;
	if (!*text || strlen(text) > 3 || (text[0] == '0' && text[1]))
		return -1;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -1;
		value = value * 10 + *text - '0';
	}
	return value <= 128 ? value : -1;
}

int cidr_parse(const char *text, struct cidr *ret)
{
	char address[ADDR_TEXT_MAX];
	const char *slash = strchr(text, '/');
	if (!slash || slash - text >= ADDR_TEXT_MAX)
		return -EINVAL;
	memcpy(address, text, slash - text);
	address[slash - text] = 0;
	struct ip ip;
	int length = length_parse(slash + 1);
	if (length < 0 || ip_parse(address, &ip) < 0)
		return -EINVAL;
	if (strchr(address, ':')) {
		/* IPv4-mapped text is IPv4 as long as the whole mapping prefix is covered. */
		if (ip.family == 4 && length < 96)
			ip.family = 6;
		if (ip.family == 4)
			length -= 96;
	} else if (length > 32) {
		return -EINVAL;
	}
	clear_host_bits(&ip, family_offset(ip.family) + length);
	*ret = (struct cidr){.ip = ip, .length = length};
	return 0;
}

void cidr_format(const struct cidr *cidr, char text[ADDR_TEXT_MAX])
{
	ip_format(&cidr->ip, text);
	size_t length = strlen(text);
	snprintf(text + length, ADDR_TEXT_MAX - length, "/%u", cidr->length);
}

bool ip_equal(const struct ip *a, const struct ip *b)
{
	return a->family == b->family && memcmp(a->bytes, b->bytes, 16) == 0;
}

bool cidr_equal(const struct cidr *a, const struct cidr *b)
{
	return a->length == b->length && ip_equal(&a->ip, &b->ip);
}

bool cidr_contains_ip(const struct cidr *outer, const struct ip *ip)
{
	if (outer->ip.family != ip->family)
		return false;
	struct ip network = *ip;
	clear_host_bits(&network, family_offset(ip->family) + outer->length);
	return ip_equal(&network, &outer->ip);
}

bool cidr_contains(const struct cidr *outer, const struct cidr *inner)
{
	return outer->length <= inner->length && cidr_contains_ip(outer, &inner->ip);
}

int ip_compare(const struct ip *a, const struct ip *b)
{
	if (a->family != b->family)
		return a->family < b->family ? -1 : 1;
	return memcmp(a->bytes, b->bytes, 16);
}
