/* SPDX-License-Identifier: Apache-2.0 */
/* What the tables say of Services, and of whom. */
#ifndef PENSTOCK_TEST_COMPILE_SERVICES_H
#define PENSTOCK_TEST_COMPILE_SERVICES_H

#include "tests/unit/compile_lab.h"

/* The number of an address' class, as the kernel finds it. */
static inline uint32_t class_of(struct compiler *c, const struct ip *ip)
{
	const struct tables *tables = compiler_tables(c);
	struct ps_key_addr4 exact4 = {0};
	struct ps_key_addr6 exact6 = {0};
	unsigned longest = ip->family == 4 ? 32 : 128;
	memcpy(&exact4.addr, ip->bytes + 12, 4);
	memcpy(exact6.addr, ip->bytes, 16);
	const struct ps_addr *exact =
		ip->family == 4 ? tables_get(tables, TABLE_addr4, &exact4) : tables_get(tables, TABLE_addr6, &exact6);
	if (exact)
		return exact->class_id;
	for (unsigned length = longest + 1; length-- > 0;) {
		struct ps_key_net6 key6 = {.prefix_length = 32 + length};
		memcpy(key6.addr, longest == 32 ? ip->bytes + 12 : ip->bytes, longest / 8);
		for (unsigned bit = length; bit < longest; bit++)
			key6.addr[bit / 8] &= (uint8_t) ~(0x80 >> bit % 8);
		struct ps_key_net4 key4 = {.prefix_length = key6.prefix_length};
		memcpy(&key4.addr, key6.addr, 4);
		const uint32_t *found =
			longest == 32 ? tables_get(tables, TABLE_net4, &key4) : tables_get(tables, TABLE_net6, &key6);
		if (found)
			return *found;
	}
	return PS_CLASS_NONE;
}

/* `ip` NULL: of a node port. */
static inline const struct ps_service *entry_of(
	struct compiler *c, uint8_t family, const struct ip *ip, uint8_t protocol, uint16_t port)
{
	struct ps_key_service4 key4 = {.port = port, .protocol = protocol};
	struct ps_key_service6 key6 = {.port = port, .protocol = protocol};
	if (ip) {
		memcpy(&key4.addr, ip->bytes + 12, 4);
		memcpy(key6.addr, ip->bytes, 16);
	}
	return family == 4 ? tables_get(compiler_tables(c), TABLE_service4, &key4)
					   : tables_get(compiler_tables(c), TABLE_service6, &key6);
}

static inline size_t entries(struct compiler *c)
{
	return compiler_tables(c)->table[TABLE_service4].wanted.count +
		   compiler_tables(c)->table[TABLE_service6].wanted.count;
}

#endif
