/* SPDX-License-Identifier: Apache-2.0 */
/* The texts of single configuration values. Each returns 0, or -EINVAL with what is wrong in why, *ret untouched. */
#ifndef PENSTOCK_CONFIG_VALUE_H
#define PENSTOCK_CONFIG_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WHY_MAX 256

int value_bool(const char *text, bool *ret, char why[WHY_MAX]);
/* Decimal or 0x hexadecimal, within [low, high]. */
int value_number(const char *text, uint64_t low, uint64_t high, uint64_t *ret, char why[WHY_MAX]);
/* "512MiB": bytes, or a number with Ki, Mi, Gi (1024) or k, M, G (1000), each with or without a B. Above 0. */
int value_size(const char *text, uint64_t *ret, char why[WHY_MAX]);
/* "100ms", "1.5s", "1m" → milliseconds, up to an hour. */
int value_duration(const char *text, uint32_t *ret, char why[WHY_MAX]);
/* A mark mask: 32 bits, at least two of them set. */
int value_mask(const char *text, uint32_t *ret, char why[WHY_MAX]);
int value_port(const char *text, uint16_t *ret, char why[WHY_MAX]);
/* "" or "ADDRESS:PORT", IPv6 in brackets. */
int value_listen(const char *text, char why[WHY_MAX]);
/* A pattern of interface names, as fnmatch(3) reads them. */
int value_pattern(const char *text, char why[WHY_MAX]);
int value_address(const char *text, char why[WHY_MAX]);
/* One of choices (NULL-terminated); *ret is its index. */
int value_choice(const char *text, const char *const *choices, unsigned *ret, char why[WHY_MAX]);

#endif
