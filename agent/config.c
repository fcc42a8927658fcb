/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One table says which keys there are, of what type, in which field and with which default; reading, checking and
 * printing walk it. Positions come from libyaml's document nodes.
 */
#include "agent/config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>
#include <yaml.h>
#include "agent/base/buffer.h"
#include "agent/base/mem.h"
#include "agent/config_tcp.h"
#include "agent/config_value.h"

enum type {
	TYPE_TEXT,     /* char *, may be empty */
	TYPE_PATH,     /* char *, not empty */
	TYPE_SOCKET,   /* char *, fits into a sockaddr_un */
	TYPE_LISTEN,   /* char * */
	TYPE_ENGINE,   /* char *, one of choices */
	TYPE_BOOL,     /* bool */
	TYPE_CHOICE,   /* bool or an enum, the index in choices; `size` tells which */
	TYPE_NUMBER,   /* uint32_t within low..high */
	TYPE_MASK,     /* uint32_t */
	TYPE_SIZE,     /* uint64_t, bytes */
	TYPE_DURATION, /* uint32_t, milliseconds */
	TYPE_PATTERNS, /* char **, NULL-terminated */
	TYPE_ADDRESSES,
	TYPE_PORTS, /* management_ports and their count */
};

struct key {
	const char *path;
	enum type type;
	size_t offset, size;
	const char *fallback; /* lists: separated by spaces */
	const char *const *choices;
	uint64_t low, high;
};

static const char *const engines[] = {"auto", "ebpf", "tproxy", NULL};
static const char *const deny_withs[] = {"drop", "reject", NULL};
static const char *const unclaimeds[] = {"allow", "deny", NULL};
static const char *const levels[] = {"debug", "info", "warn", "error", NULL}; /* as enum log_level */
static const char *const formats[] = {"text", "json", NULL};                  /* as enum log_format */

#define KEY(name, kind, field, otherwise, ...)                                                       \
	{                                                                                                \
		.path = name, .type = kind, .fallback = otherwise, .offset = offsetof(struct config, field), \
		.size = sizeof(((struct config *)NULL)->field), __VA_ARGS__                                  \
	}
#define TABLE_MAX (1u << 26) /* entries of a kernel map */
#define RATE_MAX 1000000000  /* a second */
#define MAIN_RULE 32766      /* the priority of the rule that leads to the main table */

/* contract.md section 1, in its order. */
static const struct key keys[] = {
	KEY("node.name", TYPE_TEXT, node.name, ""),
	KEY("api.unix", TYPE_SOCKET, api.unix_path, "/run/penstock/penstock.sock"),
	KEY("api.unixGroup", TYPE_PATH, api.unix_group, "root"),
	KEY("api.tcp.listen", TYPE_LISTEN, api.tcp_listen, ""),
	KEY("api.tcp.tls.certificate", TYPE_TEXT, api.tls_certificate, ""),
	KEY("api.tcp.tls.key", TYPE_TEXT, api.tls_key, ""),
	KEY("api.tcp.tls.clientCA", TYPE_TEXT, api.tls_client_ca, ""),
	KEY("api.tcp.tokenFile", TYPE_TEXT, api.token_file, ""),
	KEY("api.bodyMax", TYPE_SIZE, api.body_max, "512MiB"),
	KEY("metrics.listen", TYPE_LISTEN, metrics.listen, "127.0.0.1:7642"),
	KEY("state.directory", TYPE_PATH, state.directory, "/var/lib/penstock"),
	KEY("datapath.engine", TYPE_ENGINE, datapath.engine, "auto", .choices = engines),
	KEY("datapath.pinDirectory", TYPE_PATH, datapath.pin_directory, "/sys/fs/bpf/penstock"),
	KEY("datapath.markMask", TYPE_MASK, datapath.mark_mask, "0x60000000"),
	KEY("datapath.routeTable", TYPE_NUMBER, datapath.route_table, "7641", .low = 1, .high = UINT32_MAX),
	KEY("datapath.rulePriority", TYPE_NUMBER, datapath.rule_priority, "5", .low = 1, .high = MAIN_RULE - 1),
	KEY("datapath.denyWith", TYPE_CHOICE, datapath.deny_reject, "drop", .choices = deny_withs),
	KEY("datapath.allowLocalHost", TYPE_BOOL, datapath.allow_local_host, "true"),
	KEY("datapath.workloadInterfaces", TYPE_PATTERNS, datapath.workload_interfaces, ""),
	KEY("datapath.unclaimed", TYPE_CHOICE, datapath.unclaimed_deny, "allow", .choices = unclaimeds),
	KEY("datapath.adoptListeners", TYPE_BOOL, datapath.adopt_listeners, "true"),
	KEY("datapath.connectionsMax", TYPE_NUMBER, datapath.connections_max, "524288", .low = 1, .high = TABLE_MAX),
	KEY("datapath.auditPeriod", TYPE_DURATION, datapath.audit_period_ms, "30s", .low = 100),
	KEY("datapath.managementPorts", TYPE_PORTS, datapath.management_ports, "22 2379 2380 6443 10250"),
	KEY("names.resolvers", TYPE_ADDRESSES, names.resolvers, ""),
	KEY("names.holdMax", TYPE_DURATION, names.hold_max_ms, "100ms"),
	KEY("names.addressesMax", TYPE_NUMBER, names.addresses_max, "65536", .low = 1, .high = TABLE_MAX),
	KEY("flows.keep", TYPE_NUMBER, flows.keep, "65536", .low = 0, .high = TABLE_MAX),
	KEY("alerts.portScan", TYPE_NUMBER, alerts.port_scan, "100", .low = 0, .high = SCAN_THRESHOLD_MAX),
	KEY("alerts.synFlood", TYPE_NUMBER, alerts.syn_flood, "1000", .low = 0, .high = RATE_MAX),
	KEY("alerts.denySpike", TYPE_NUMBER, alerts.deny_spike, "100", .low = 0, .high = RATE_MAX),
	KEY("alerts.denyFactor", TYPE_NUMBER, alerts.deny_factor, "10", .low = 1, .high = 1000),
	KEY("alerts.tableNearlyFull", TYPE_NUMBER, alerts.table_full, "80", .low = 0, .high = 100),
	KEY("log.level", TYPE_CHOICE, log.level, "info", .choices = levels),
	KEY("log.format", TYPE_CHOICE, log.format, "text", .choices = formats),
};
#define KEYS (sizeof keys / sizeof keys[0])

static bool type_is_list(enum type type)
{
	return type == TYPE_PATTERNS || type == TYPE_ADDRESSES || type == TYPE_PORTS;
}

/* ---- one value into its field ---- */

static void set_text(void *field, const char *text)
{
	char **place = field;
	free(*place);
	*place = str_dup(text);
}

static int set_socket(void *field, const char *text, char why[WHY_MAX])
{
	if (strlen(text) >= sizeof((struct sockaddr_un *)NULL)->sun_path) {
		snprintf(why, WHY_MAX, "is longer than the %zu bytes of a unix socket's path",
			sizeof((struct sockaddr_un *)NULL)->sun_path - 1);
		return -EINVAL;
	}
	set_text(field, text);
	return 0;
}

static int set_choice(const struct key *key, void *field, const char *text, char why[WHY_MAX])
{
	unsigned index;
	if (value_choice(text, key->choices, &index, why) < 0)
		return -EINVAL;
	if (key->size == sizeof(bool))
		*(bool *)field = index;
	else
		*(unsigned *)field = index;
	return 0;
}

static int set_number(const struct key *key, uint32_t *field, const char *text, char why[WHY_MAX])
{
	uint64_t number;
	if (value_number(text, key->low, key->high, &number, why) < 0)
		return -EINVAL;
	*field = (uint32_t)number;
	return 0;
}

static int set_duration(const struct key *key, uint32_t *field, const char *text, char why[WHY_MAX])
{
	uint32_t ms;
	if (value_duration(text, &ms, why) < 0)
		return -EINVAL;
	if (ms < key->low) {
		snprintf(why, WHY_MAX, "%.60s is shorter than %ums", text, (unsigned int)key->low);
		return -EINVAL;
	}
	*field = ms;
	return 0;
}

static int set_scalar(const struct key *key, struct config *config, const char *text, char why[WHY_MAX])
{
	void *field = (char *)config + key->offset;
	unsigned ignored;
	switch (key->type) {
	case TYPE_SOCKET:
	case TYPE_PATH:
		if (!*text) {
			snprintf(why, WHY_MAX, "must not be empty");
			return -EINVAL;
		}
		return key->type == TYPE_SOCKET ? set_socket(field, text, why) : (set_text(field, text), 0);
	case TYPE_TEXT:
		set_text(field, text);
		return 0;
	case TYPE_LISTEN:
		if (value_listen(text, why) < 0)
			return -EINVAL;
		set_text(field, text);
		return 0;
	case TYPE_ENGINE:
		if (value_choice(text, key->choices, &ignored, why) < 0)
			return -EINVAL;
		set_text(field, text);
		return 0;
	case TYPE_BOOL:
		return value_bool(text, field, why);
	case TYPE_CHOICE:
		return set_choice(key, field, text, why);
	case TYPE_NUMBER:
		return set_number(key, field, text, why);
	case TYPE_MASK:
		return value_mask(text, field, why);
	case TYPE_SIZE:
		return value_size(text, field, why);
	case TYPE_DURATION:
		return set_duration(key, field, text, why);
	default:
		return -EINVAL; /* lists come to add_element */
	}
}

static void list_free(char **list)
{
	for (size_t at = 0; list && list[at]; at++)
		free(list[at]);
	free(list);
}

static void list_begin(const struct key *key, struct config *config)
{
	if (key->type == TYPE_PORTS) {
		config->datapath.management_ports_count = 0;
		return;
	}
	char ***list = (void *)((char *)config + key->offset);
	list_free(*list);
	*list = mem_alloc(sizeof **list);
}

static int list_add(const struct key *key, struct config *config, const char *text, char why[WHY_MAX])
{
	if (key->type == TYPE_PORTS) {
		uint16_t port, **ports = &config->datapath.management_ports;
		size_t *count = &config->datapath.management_ports_count;
		if (value_port(text, &port, why) < 0)
			return -EINVAL;
		*ports = mem_resize(*ports, *count + 1, sizeof **ports);
		(*ports)[(*count)++] = port;
		return 0;
	}
	if ((key->type == TYPE_ADDRESSES ? value_address(text, why) : value_pattern(text, why)) < 0)
		return -EINVAL;
	char ***list = (void *)((char *)config + key->offset);
	size_t count = 0;
	while ((*list)[count])
		count++;
	*list = mem_resize(*list, count + 2, sizeof **list);
	(*list)[count] = str_dup(text);
	(*list)[count + 1] = NULL;
	return 0;
}

static void set_defaults(struct config *config)
{
	char why[WHY_MAX];
	for (size_t at = 0; at < KEYS; at++) {
		int result = 0;
		if (type_is_list(keys[at].type)) {
			auto_free char *words = str_dup(keys[at].fallback);
			list_begin(&keys[at], config);
			for (char *rest = NULL, *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
				result |= list_add(&keys[at], config, word, why);
		} else {
			result = set_scalar(&keys[at], config, keys[at].fallback, why);
		}
		if (result)
			abort(); /* the table above is wrong */
	}
}

/* ---- the document ---- */

struct reading {
	const char *file;
	yaml_document_t *document;
	struct config *config;
	struct error *error;
};

static int __attribute__((format(printf, 4, 5)))
refuse(const struct reading *reading, const yaml_node_t *node, const char *path, const char *format, ...)
{
	char what[512];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(what, sizeof what, format, arguments);
	va_end(arguments);
	return error_set(reading->error, ERROR_INVALID, EINVAL, NULL, "%s:%zu: %s%s%s", reading->file,
		node->start_mark.line + 1, path, *path ? ": " : "", what);
}

static const char *node_type(const yaml_node_t *node)
{
	return node->type == YAML_SEQUENCE_NODE ? "a list" : node->type == YAML_MAPPING_NODE ? "a mapping" : "a scalar";
}

static bool scalar_is_null(const yaml_node_t *node)
{
	const char *text = (const char *)node->data.scalar.value;
	return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
		   (!*text || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0);
}

/* The text of a scalar that is not null and holds no NUL. */
static int scalar_text(const struct reading *reading, const yaml_node_t *node, const char *path, const char **ret)
{
	if (node->type != YAML_SCALAR_NODE)
		return refuse(reading, node, path, "is %s, a single value is expected", node_type(node));
	if (scalar_is_null(node))
		return refuse(reading, node, path, "has no value");
	*ret = (const char *)node->data.scalar.value;
	if (strlen(*ret) != node->data.scalar.length)
		return refuse(reading, node, path, "contains a zero byte");
	return 0;
}

static int check_value(const struct reading *reading, const yaml_node_t *node, const struct key *key)
{
	const struct config *config = reading->config;
	/* The kernel's own tables: default, main, local. */
	uint32_t table = config->datapath.route_table;
	if (strcmp(key->path, "datapath.routeTable") == 0 && table >= 253 && table <= 255)
		return refuse(reading, node, key->path, "%u is one of the kernel's own tables", table);
	return 0;
}

static int read_value(const struct reading *reading, const struct key *key, const yaml_node_t *node)
{
	char why[WHY_MAX];
	const char *text;
	reading->config->lines[key - keys] = (unsigned)node->start_mark.line + 1;
	if (!type_is_list(key->type)) {
		if (scalar_text(reading, node, key->path, &text) < 0)
			return -EINVAL;
		if (set_scalar(key, reading->config, text, why) < 0)
			return refuse(reading, node, key->path, "%s", why);
		return check_value(reading, node, key);
	}
	if (node->type != YAML_SEQUENCE_NODE)
		return refuse(reading, node, key->path, "is %s, a list is expected", node_type(node));
	list_begin(key, reading->config);
	for (const yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top; item++) {
		const yaml_node_t *element = yaml_document_get_node(reading->document, *item);
		char path[128];
		snprintf(path, sizeof path, "%s[%td]", key->path, item - node->data.sequence.items.start);
		if (scalar_text(reading, element, path, &text) < 0)
			return -EINVAL;
		if (list_add(key, reading->config, text, why) < 0)
			return refuse(reading, element, path, "%s", why);
	}
	return 0;
}

/* The key of that path; or NULL, and whether it is the beginning of one. */
static const struct key *key_find(const char *path, bool *section)
{
	size_t length = strlen(path);
	*section = false;
	for (size_t at = 0; at < KEYS; at++) {
		if (strncmp(keys[at].path, path, length) != 0)
			continue;
		if (!keys[at].path[length])
			return &keys[at];
		*section |= keys[at].path[length] == '.';
	}
	return NULL;
}

static int check_twice(
	const struct reading *reading, const yaml_node_t *mapping, const yaml_node_pair_t *pair, const char *path)
{
	const yaml_node_t *key = yaml_document_get_node(reading->document, pair->key);
	for (const yaml_node_pair_t *at = mapping->data.mapping.pairs.start; at < pair; at++) {
		const yaml_node_t *before = yaml_document_get_node(reading->document, at->key);
		if (strcmp((char *)before->data.scalar.value, (char *)key->data.scalar.value) == 0)
			return refuse(reading, key, path, "is set twice, the first time in line %zu", before->start_mark.line + 1);
	}
	return 0;
}

/* Recursion is bounded by the depth of the table's paths. */
static int read_mapping(const struct reading *reading, const yaml_node_t *mapping, const char *prefix)
{
	if (scalar_is_null(mapping))
		return 0; /* a section whose keys are all commented out */
	if (mapping->type != YAML_MAPPING_NODE)
		return refuse(reading, mapping, prefix, "is %s, a mapping is expected", node_type(mapping));
	for (const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start; pair < mapping->data.mapping.pairs.top;
		 pair++) {
		const yaml_node_t *name = yaml_document_get_node(reading->document, pair->key);
		const yaml_node_t *value = yaml_document_get_node(reading->document, pair->value);
		if (name->type != YAML_SCALAR_NODE)
			return refuse(reading, name, prefix, "has a key that is %s", node_type(name));
		char path[128];
		bool section;
		snprintf(path, sizeof path, "%s%s%.64s", prefix, *prefix ? "." : "", (char *)name->data.scalar.value);
		const struct key *key = key_find(path, &section);
		/* "node.name" written as one key is not the name in node */
		if ((!key && !section) || strchr((char *)name->data.scalar.value, '.'))
			return refuse(reading, name, path, "there is no such key");
		if (check_twice(reading, mapping, pair, path) < 0)
			return -EINVAL;
		if ((key ? read_value(reading, key, value) : read_mapping(reading, value, path)) < 0)
			return -EINVAL;
	}
	return 0;
}

/* ---- the file ---- */

/* libyaml reads ahead: for bytes that are no UTF-8 it knows the offset, not the line. */
static size_t line_at(FILE *stream, size_t offset)
{
	size_t line = 0;
	rewind(stream);
	for (int byte; offset-- && (byte = getc(stream)) != EOF;)
		line += byte == '\n';
	return line;
}

static int refuse_syntax(const char *file, FILE *stream, const yaml_parser_t *parser, struct error *e)
{
	size_t line = parser->problem_mark.line;
	if (ferror(stream))
		return error_system(e, errno, "%s", file);
	if (parser->error == YAML_READER_ERROR)
		line = line_at(stream, parser->problem_offset);
	if (strstr(parser->problem, "cannot start any token")) /* mostly it is a tab */
		return error_set(e, ERROR_SYNTAX, EINVAL, NULL,
			"%s:%zu: a word cannot begin like that (a tab indents nothing: use spaces)", file, line + 1);
	return error_set(e, ERROR_SYNTAX, EINVAL, NULL, "%s:%zu: %s%s%s", file, line + 1, parser->problem,
		parser->context ? " " : "", parser->context ? parser->context : "");
}

static int read_documents(const char *file, FILE *stream, yaml_parser_t *parser, struct config *config, struct error *e)
{
	for (int count = 0;; count++) {
		yaml_document_t document;
		if (!yaml_parser_load(parser, &document))
			return refuse_syntax(file, stream, parser, e);
		const yaml_node_t *root = yaml_document_get_root_node(&document);
		struct reading reading = {file, &document, config, e};
		int result = 0;
		if (root && count)
			result = refuse(&reading, root, "", "a second document: one is expected");
		else if (root)
			result = read_mapping(&reading, root, "");
		yaml_document_delete(&document);
		if (!root || result < 0)
			return result;
	}
}

static int read_file(const char *file, bool must_exist, struct config *config, struct error *e)
{
	FILE *stream = fopen(file, "re");
	if (!stream && errno == ENOENT && !must_exist)
		return 0;
	if (!stream)
		return error_system(e, errno, "%s", file);
	yaml_parser_t parser;
	if (!yaml_parser_initialize(&parser))
		abort();
	yaml_parser_set_input_file(&parser, stream);
	int result = read_documents(file, stream, &parser, config, e);
	yaml_parser_delete(&parser);
	fclose(stream);
	return result;
}

static void resolve_node_name(struct config *config)
{
	const char *environment = getenv("NODE_NAME");
	char host[256] = "";
	if (*config->node.name)
		return;
	if (!environment || !*environment) {
		gethostname(host, sizeof host - 1);
		environment = *host ? host : "localhost";
	}
	set_text(&config->node.name, environment);
}

int config_load(const char *file, bool must_exist, struct config **ret, struct error *e)
{
	struct config *config = mem_alloc(sizeof *config);
	config->file = str_dup(file);
	config->lines = mem_array(KEYS, sizeof *config->lines);
	set_defaults(config);
	int result = read_file(file, must_exist, config, e);
	if (result == 0 && (result = config_tcp_check(config, e)) < 0)
		config_blame(config, e);
	if (result < 0) {
		config_free(config);
		return result;
	}
	resolve_node_name(config);
	*ret = config;
	return 0;
}

void config_blame(const struct config *config, struct error *e)
{
	bool section;
	const struct key *key = *e->path ? key_find(e->path, &section) : NULL;
	if (!key)
		return;
	unsigned line = config->lines[key - keys];
	auto_free char *what = str_dup(e->detail);
	if (line)
		snprintf(e->detail, sizeof e->detail, "%s:%u: %s: %s", config->file, line, key->path, what);
	else
		snprintf(e->detail, sizeof e->detail, "%s: %s: %s", config->file, key->path, what);
	*e->path = 0;
}

void config_free(struct config *config)
{
	if (!config)
		return;
	for (size_t at = 0; at < KEYS; at++) {
		void **field = (void *)((char *)config + keys[at].offset);
		if (keys[at].type <= TYPE_ENGINE || keys[at].type == TYPE_PORTS)
			free(*field);
		else if (type_is_list(keys[at].type))
			list_free(*(char ***)field);
	}
	free(config->file);
	free(config->lines);
	free(config);
}

/* ---- printing ---- */

static void print_list(struct buffer *out, const struct key *key, const struct config *config)
{
	buffer_puts(out, "[");
	if (key->type == TYPE_PORTS) {
		for (size_t at = 0; at < config->datapath.management_ports_count; at++)
			buffer_printf(out, "%s%u", at ? ", " : "", config->datapath.management_ports[at]);
	} else {
		char *const *list = *(char *const *const *)((const char *)config + key->offset);
		for (size_t at = 0; list[at]; at++) {
			buffer_puts(out, at ? ", " : "");
			buffer_json_string(out, list[at]);
		}
	}
	buffer_puts(out, "]");
}

static void print_value(struct buffer *out, const struct key *key, const struct config *config)
{
	const void *field = (const char *)config + key->offset;
	switch (key->type) {
	case TYPE_BOOL:
		buffer_puts(out, *(const bool *)field ? "true" : "false");
		break;
	case TYPE_CHOICE:
		buffer_puts(out, key->choices[key->size == sizeof(bool) ? *(const bool *)field : *(const unsigned *)field]);
		break;
	case TYPE_NUMBER:
		buffer_printf(out, "%u", *(const uint32_t *)field);
		break;
	case TYPE_MASK:
		buffer_printf(out, "0x%08x", *(const uint32_t *)field);
		break;
	case TYPE_SIZE: {
		uint64_t bytes = *(const uint64_t *)field;
		if (bytes % (1u << 20) == 0)
			buffer_printf(out, "%lluMiB", (unsigned long long)bytes >> 20);
		else
			buffer_printf(out, "%llu", (unsigned long long)bytes);
		break;
	}
	case TYPE_DURATION: {
		uint32_t duration = *(const uint32_t *)field;
		if (duration && duration % 1000 == 0)
			buffer_printf(out, "%us", duration / 1000);
		else
			buffer_printf(out, "%ums", duration);
		break;
	}
	case TYPE_PATTERNS:
	case TYPE_ADDRESSES:
	case TYPE_PORTS:
		print_list(out, key, config);
		break;
	default:
		buffer_json_string(out, *(char *const *)field);
	}
}

/* Opens the sections of path that the one before does not share; returns the last name. */
static const char *print_sections(struct buffer *out, const char *path, const char *before, int *depth)
{
	*depth = 0;
	bool shared = true;
	for (const char *dot; (dot = strchr(path, '.')); path = dot + 1, ++*depth) {
		size_t length = dot + 1 - path;
		shared = shared && strncmp(path, before, length) == 0;
		if (shared)
			before += length;
		else
			buffer_printf(out, "%*s%.*s:\n", 2 * *depth, "", (int)length - 1, path);
	}
	return path;
}

char *config_print(const struct config *config)
{
	struct buffer out = {0};
	const char *before = "";
	for (size_t at = 0; at < KEYS; at++) {
		int depth;
		const char *name = print_sections(&out, keys[at].path, before, &depth);
		buffer_printf(&out, "%*s%s: ", 2 * depth, "", name);
		print_value(&out, &keys[at], config);
		buffer_puts(&out, "\n");
		before = keys[at].path;
	}
	return buffer_take(&out);
}
