/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file, as in the README's reference. Unknown keys and bad values are errors: file:line: path: what
 * is wrong. */
#ifndef PENSTOCK_CONFIG_H
#define PENSTOCK_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/base/error.h"
#include "agent/base/log.h"
#include "agent/observe/alerts.h"

struct config {
	char *file;
	unsigned *lines; /* where each key stands, by its place in the table; 0: it does not */
	struct {
		char *name; /* resolved: never empty */
	} node;
	struct {
		char *unix_path;
		char *unix_group;
		char *tcp_listen;
		char *tls_certificate, *tls_key, *tls_client_ca, *token_file;
		uint64_t body_max; /* bytes */
	} api;
	struct {
		char *listen; /* "" = none */
	} metrics;
	struct {
		char *directory;
	} state;
	struct {
		char *engine; /* auto, ebpf, tproxy */
		char *pin_directory;
		uint32_t mark_mask;
		uint32_t route_table;
		uint32_t rule_priority;
		bool deny_reject;
		bool allow_local_host;
		char **workload_interfaces; /* fnmatch patterns, NULL-terminated */
		bool unclaimed_deny;
		bool adopt_listeners;
		uint32_t connections_max;
		uint32_t audit_period_ms;
		uint16_t *management_ports;
		size_t management_ports_count;
	} datapath;
	struct {
		char **resolvers; /* NULL-terminated */
		uint32_t hold_max_ms;
		uint32_t addresses_max;
	} names;
	struct {
		uint32_t keep;
	} flows;
	struct alert_thresholds alerts;
	struct {
		enum log_level level;
		enum log_format format;
	} log;
};

/* Defaults, then the file over them; a missing file is no error unless must_exist. Error detail is "file:line: path:
 * what". */
int config_load(const char *file, bool must_exist, struct config **ret, struct error *e);
/* As YAML that config_load reads back to the same values. The caller frees. */
char *config_print(const struct config *config);
/* An error whose path is a key: the path becomes part of the sentence, "file:line: path: what". */
void config_blame(const struct config *config, struct error *e);
void config_free(struct config *config);

#endif
