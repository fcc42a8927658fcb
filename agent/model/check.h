/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What single strings must look like. A *_wrong function says what is wrong, as the end of a sentence that begins with
 * the value ("must be …"), or NULL when nothing is. Rules: k8s.io/apimachinery/pkg/util/validation unless said
 * otherwise.
 */
#ifndef PENSTOCK_CHECK_H
#define PENSTOCK_CHECK_H

#include <stdint.h>

const char *dns_label_wrong(const char *text);     /* RFC 1123 */
const char *dns_subdomain_wrong(const char *text); /* RFC 1123 */
const char *label_key_wrong(const char *text);
const char *label_value_wrong(const char *text);
const char *port_name_wrong(const char *text);   /* IANA service name, RFC 6335 */
const char *domain_name_wrong(const char *text); /* DomainName of network-policy-api: "*." may come first */
const char *ip_wrong(const char *text);
const char *cidr_wrong(const char *text);
const char *interface_wrong(const char *text);      /* as dev_valid_name() in net/core/dev.c */
const char *rule_name_wrong(const char *text);      /* at most 100 characters */
const char *cgroup_wrong(const char *text);         /* a path below the cgroup root */
const char *cgroup_subject_wrong(const char *text); /* and spelt in one way only */
const char *executable_wrong(const char *text);
const char *timestamp_wrong(const char *text); /* RFC 3339 */
const char *bandwidth_wrong(const char *text); /* a quantity of 1k to 1P, as the CNI bandwidth plugin's callers check */

/* Seconds since 1970. 0 or -EINVAL. */
int timestamp_parse(const char *text, int64_t *ret);
/* A Kubernetes quantity ("10M", "1.5Gi", "2e6"), rounded up to a whole number. 0, or -EINVAL when it is none, is
 * negative or is beyond 2^63. */
int quantity_parse(const char *text, uint64_t *ret);

#endif
