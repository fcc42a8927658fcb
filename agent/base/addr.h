/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses and networks. 16 bytes in network order; IPv4 is held as ::ffff:a.b.c.d with family 4. */
#ifndef PENSTOCK_ADDR_H
#define PENSTOCK_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ip {
	uint8_t bytes[16];
	uint8_t family; /* 4 or 6 */
};
/* length counts in the family's own bits: 0..32 or 0..128; host bits are zero. */
struct cidr {
	struct ip ip;
	uint8_t length;
};

#define ADDR_TEXT_MAX 64
/* Strict: no leading zeros in IPv4, no zone. IPv4-mapped IPv6 text becomes IPv4. 0 or -EINVAL. */
int ip_parse(const char *text, struct ip *ret);
void ip_format(const struct ip *ip, char text[ADDR_TEXT_MAX]);
/* "a.b.c.d/n"; host bits set are accepted and cleared, as the Kubernetes API does. 0 or -EINVAL. */
int cidr_parse(const char *text, struct cidr *ret);
void cidr_format(const struct cidr *cidr, char text[ADDR_TEXT_MAX]);
bool ip_equal(const struct ip *a, const struct ip *b);
bool cidr_equal(const struct cidr *a, const struct cidr *b);
bool cidr_contains_ip(const struct cidr *outer, const struct ip *ip);   /* families must match */
bool cidr_contains(const struct cidr *outer, const struct cidr *inner); /* also when equal */
int ip_compare(const struct ip *a, const struct ip *b);
/* The address as a 4-byte network-order word; family must be 4. */
uint32_t ip_v4(const struct ip *ip);
struct ip ip_from_v4(uint32_t network_order);
struct ip ip_from_v6(const uint8_t bytes[16]); /* stays family 6 */

#endif
