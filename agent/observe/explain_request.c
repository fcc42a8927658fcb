/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/observe/explain_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "agent/model/body.h"
#include "agent/observe/matching.h"

#define POINTER_MAX 256

const char *const explain_end_names[EXPLAIN_ENDS] = {"source", "destination"};

static const struct {
	const char *name;
	uint8_t number[2]; /* IPv4, IPv6 */
	bool ports;
} protocols[] = {{"TCP", {6, 6}, true}, {"UDP", {17, 17}, true}, {"SCTP", {132, 132}, true}, {"ICMP", {1, 58}, false},
	{"ICMPv6", {58, 58}, false}};
#define PROTOCOLS (sizeof(protocols) / sizeof(protocols[0]))
#define PROTOCOLS_ASKED (PROTOCOLS - 1) /* the last is only a record's */

uint8_t explain_protocol_number(const char *protocol, uint8_t family)
{
	for (size_t i = 0; i < PROTOCOLS; i++)
		if (strcmp(protocols[i].name, protocol) == 0)
			return protocols[i].number[family == 6];
	return (uint8_t)strtoul(protocol, NULL, 10);
}

/* ---- reading ---- */

/* A member that is null is one that is absent. */
static const json_t *member(const json_t *json, const char *name)
{
	const json_t *value = json_object_get(json, name);
	return json_is_null(value) ? NULL : value;
}

static void unknown_check(const json_t *json, const char *pointer, const char *const *known, struct errors *errors)
{
	const char *name;
	json_t *value;
	/* jansson's iterator wants what is not const, and changes nothing. */
	json_object_foreach((json_t *)(uintptr_t)json, name, value)
	{
		char path[POINTER_MAX];
		bool found = false;
		for (size_t i = 0; known[i] && !found; i++)
			found = strcmp(known[i], name) == 0;
		if (found)
			continue;
		size_t length = (size_t)snprintf(path, sizeof(path), "%s", pointer);
		pointer_add(path, length, sizeof(path), name);
		errors_add(errors, ERROR_INVALID, path, "unknown field");
	}
}

/* "shop/cart"; both parts there, no third. */
static void workload_read(const char *text, const char *pointer, struct explain_end *ret, struct errors *errors)
{
	const char *slash = strchr(text, '/');
	if (!slash || slash == text || !slash[1] || strchr(slash + 1, '/')) {
		errors_add(errors, ERROR_INVALID, pointer, "\"%.100s\" is not NAMESPACE/NAME", text);
		return;
	}
	ret->namespace = str_format("%.*s", (int)(slash - text), text);
	ret->name = str_dup(slash + 1);
	ret->given = true;
}

static void ip_read(const char *text, const char *pointer, struct explain_end *ret, struct errors *errors)
{
	ret->given = ip_parse(text, &ret->ip) == 0;
	if (!ret->given)
		errors_add(errors, ERROR_INVALID, pointer, "\"%.100s\" is not an IP address", text);
}

static void end_read(const json_t *body, enum explain_end_name end, struct explain_end *ret, struct errors *errors)
{
	static const char *const known[] = {"workload", "ip", NULL};
	char pointer[POINTER_MAX], field[2 * POINTER_MAX];
	const json_t *json = member(body, explain_end_names[end]);
	snprintf(pointer, sizeof(pointer), "/%s", explain_end_names[end]);
	if (!json_is_object(json)) {
		errors_add(errors, ERROR_INVALID, pointer, json ? "an object is wanted here" : "required");
		return;
	}
	unknown_check(json, pointer, known, errors);
	const json_t *workload = member(json, "workload"), *ip = member(json, "ip"), *value = workload ? workload : ip;
	if (!workload == !ip) {
		errors_add(errors, ERROR_INVALID, pointer, "exactly one of workload and ip is wanted");
		return;
	}
	snprintf(field, sizeof(field), "%s/%s", pointer, workload ? "workload" : "ip");
	if (!json_is_string(value))
		errors_add(errors, ERROR_INVALID, field, "a string is wanted here");
	else if (workload)
		workload_read(json_string_value(value), field, ret, errors);
	else
		ip_read(json_string_value(value), field, ret, errors);
}

/* The protocol's place in the table; PROTOCOLS after an error. */
static size_t protocol_read(const json_t *body, const char *pointer, size_t count, struct errors *errors)
{
	const json_t *json = member(body, "protocol");
	const char *name = json ? json_string_value(json) : "TCP";
	for (size_t i = 0; name && i < count; i++)
		if (strcmp(protocols[i].name, name) == 0)
			return i;
	errors_add(errors, ERROR_INVALID, pointer, "one of TCP, UDP, SCTP and ICMP is wanted");
	return PROTOCOLS;
}

static uint16_t port_read(const json_t *body, size_t protocol, struct errors *errors)
{
	const json_t *json = member(body, "port");
	json_int_t port = json_integer_value(json);
	if (!json && protocol < PROTOCOLS && protocols[protocol].ports)
		errors_add(errors, ERROR_INVALID, "/port", "required with %s", protocols[protocol].name);
	else if (json && !json_is_integer(json))
		errors_add(errors, ERROR_INVALID, "/port", "a number is wanted here");
	else if (json && (port < 1 || port > 65535))
		errors_add(errors, ERROR_INVALID, "/port", "%lld is not a port", (long long)port);
	else if (json && protocol < PROTOCOLS && !protocols[protocol].ports)
		errors_add(errors, ERROR_INVALID, "/port", "%s has no ports", protocols[protocol].name);
	else
		return (uint16_t)port;
	return 0;
}

static uint8_t family_read(const json_t *body, struct errors *errors)
{
	const json_t *json = member(body, "family");
	const char *name = json_string_value(json);
	if (!json)
		return 0;
	if (name && strcmp(name, "IPv4") == 0)
		return 4;
	if (name && strcmp(name, "IPv6") == 0)
		return 6;
	errors_add(errors, ERROR_INVALID, "/family", "IPv4 or IPv6 is wanted");
	return 0;
}

/* ---- a flow record ---- */

static void flow_end_read(const json_t *flow, enum explain_end_name end, struct explain_end *ret, struct errors *errors)
{
	char pointer[POINTER_MAX], field[2 * POINTER_MAX];
	const json_t *json = member(flow, explain_end_names[end]), *ip = member(json, "ip");
	snprintf(pointer, sizeof(pointer), "/flow/%s", explain_end_names[end]);
	snprintf(field, sizeof(field), "%s/ip", pointer);
	if (!json_is_object(json))
		errors_add(errors, ERROR_INVALID, pointer, json ? "an object is wanted here" : "required");
	else if (!json_is_string(ip))
		errors_add(errors, ERROR_INVALID, field, ip ? "a string is wanted here" : "required");
	else
		ip_read(json_string_value(ip), field, ret, errors);
}

/* 0: the record does not say. */
static uint16_t flow_port_read(const json_t *flow, enum explain_end_name end, struct errors *errors)
{
	char pointer[POINTER_MAX];
	const json_t *port = member(member(flow, explain_end_names[end]), "port");
	json_int_t value = json_integer_value(port);
	snprintf(pointer, sizeof(pointer), "/flow/%s/port", explain_end_names[end]);
	if (port && !json_is_integer(port))
		errors_add(errors, ERROR_INVALID, pointer, "a number is wanted here");
	else if (value < 0 || value > 65535)
		errors_add(errors, ERROR_INVALID, pointer, "%lld is not a port", (long long)value);
	else
		return (uint16_t)value;
	return 0;
}

/* What has no name is its number in a record. */
static bool protocol_numbered(const json_t *flow, char ret[4])
{
	const char *text = json_string_value(member(flow, "protocol"));
	size_t digits = text ? strspn(text, "0123456789") : 0;
	if (!digits || digits > 3 || text[digits] || strtoul(text, NULL, 10) > 255)
		return false;
	memcpy(ret, text, digits + 1);
	return true;
}

/* As /v1/flows says it, whatever else it says. */
static void flow_read(const json_t *body, struct explain_request *ret, struct errors *errors)
{
	static const char *const known[] = {"flow", NULL};
	const json_t *flow = member(body, "flow");
	unknown_check(body, "", known, errors);
	if (!json_is_object(flow)) {
		errors_add(errors, ERROR_INVALID, "/flow", "a flow record is wanted here");
		return;
	}
	for (int end = 0; end < EXPLAIN_ENDS; end++)
		flow_end_read(flow, end, &ret->ends[end], errors);
	if (ret->ends[0].given && ret->ends[1].given && ret->ends[0].ip.family != ret->ends[1].ip.family) {
		errors_add(errors, ERROR_INVALID, "/flow/destination/ip", "not an IPv%d address", ret->ends[0].ip.family);
		ret->ends[1].given = false;
	}
	if (!member(flow, "protocol"))
		errors_add(errors, ERROR_INVALID, "/flow/protocol", "required");
	bool numbered = protocol_numbered(flow, ret->number);
	size_t protocol =
		member(flow, "protocol") && !numbered ? protocol_read(flow, "/flow/protocol", PROTOCOLS, errors) : PROTOCOLS;
	bool ports = protocol < PROTOCOLS && protocols[protocol].ports;
	flow_port_read(flow, EXPLAIN_SOURCE, errors);
	uint16_t port = flow_port_read(flow, EXPLAIN_DESTINATION, errors);
	ret->protocol = numbered ? ret->number : protocol < PROTOCOLS ? protocols[protocol].name : NULL;
	ret->port = ports ? port : 0; /* of an echo it is the identifier */
	ret->of_past = true;
	past_read(flow, &ret->past, errors);
	ret->past.portless = ports && !port;
}

void explain_request_read(const char *body, size_t length, struct explain_request *ret, struct errors *errors)
{
	static const char *const known[] = {"source", "destination", "protocol", "port", "family", NULL};
	struct body_item item = {body, length};
	struct error e = {0};
	json_t *json = NULL;
	*ret = (struct explain_request){0};
	if (body_check(body, length, &e) < 0 || body_item_parse(&item, "", &json, &e) < 0) {
		errors_add_error(errors, &e);
		return;
	}
	if (!json_is_object(json)) {
		errors_add(errors, ERROR_INVALID, "", "an object is wanted here");
	} else if (json_object_get(json, "flow")) {
		flow_read(json, ret, errors);
	} else {
		unknown_check(json, "", known, errors);
		for (int end = 0; end < EXPLAIN_ENDS; end++)
			end_read(json, end, &ret->ends[end], errors);
		size_t protocol = protocol_read(json, "/protocol", PROTOCOLS_ASKED, errors);
		ret->protocol = protocol < PROTOCOLS ? protocols[protocol].name : NULL;
		ret->port = port_read(json, protocol, errors);
		ret->family = family_read(json, errors);
	}
	json_decref(json);
}

void explain_request_clear(struct explain_request *request)
{
	for (int end = 0; end < EXPLAIN_ENDS; end++) {
		free(request->ends[end].namespace);
		free(request->ends[end].name);
	}
	past_clear(&request->past);
	*request = (struct explain_request){0};
}

/* ---- resolving ---- */

static const struct object *workload_find(
	const struct explain_end *end, const char *pointer, const struct snapshot *snapshot, struct errors *errors)
{
	const struct object *found = snapshot_find(snapshot, KIND_WORKLOAD, end->namespace, end->name);
	if (!found)
		found = snapshot_find(snapshot, KIND_POD, end->namespace, end->name);
	if (!found)
		errors_add(errors, ERROR_INVALID, pointer, "there is no Workload or Pod %s/%s", end->namespace, end->name);
	else if (found->workload->ended)
		errors_add(errors, ERROR_INVALID, pointer, "%s/%s has ended", end->namespace, end->name);
	else
		return found;
	return NULL;
}

static const struct ip *workload_ip(const struct object *object, uint8_t family)
{
	for (size_t i = 0; i < object->workload->ip_count; i++)
		if (object->workload->ips[i].family == family)
			return &object->workload->ips[i];
	return NULL;
}

static bool end_has(const struct explain_end *end, const struct object *object, uint8_t family)
{
	return object ? workload_ip(object, family) != NULL : end->ip.family == family;
}

/* The family that was asked for, else IPv4 if both ends have it, else IPv6. */
static uint8_t family_choose(const struct explain_request *request, const struct object *const objects[EXPLAIN_ENDS])
{
	const struct explain_end *ends = request->ends;
	if (request->family)
		return request->family;
	for (uint8_t family = 4; family <= 6; family += 2)
		if (end_has(&ends[0], objects[0], family) && end_has(&ends[1], objects[1], family))
			return family;
	/* Somebody has not what the other has; an address says more clearly what was meant. */
	return !objects[1] ? ends[1].ip.family : !objects[0] ? ends[0].ip.family : workload_ip(objects[0], 4) ? 4 : 6;
}

void explain_request_resolve(const struct explain_request *request, const struct snapshot *snapshot,
	struct explain_subject ret[EXPLAIN_ENDS], struct errors *errors)
{
	const struct object *objects[EXPLAIN_ENDS] = {NULL};
	char pointer[EXPLAIN_ENDS][64];
	bool usable = true;
	for (int i = 0; i < EXPLAIN_ENDS; i++) {
		const struct explain_end *end = &request->ends[i];
		snprintf(pointer[i], sizeof(pointer[i]), "/%s/%s", explain_end_names[i], end->name ? "workload" : "ip");
		if (end->given && end->name)
			objects[i] = workload_find(end, pointer[i], snapshot, errors);
		usable = usable && end->given && (objects[i] || !end->name);
	}
	if (!usable)
		return;
	uint8_t family = family_choose(request, objects);
	for (int i = 0; i < EXPLAIN_ENDS; i++) {
		const struct explain_end *end = &request->ends[i];
		if (!end_has(end, objects[i], family)) {
			const char *why = request->family ? "" : ", and the other end has no other";
			if (objects[i])
				errors_add(errors, ERROR_INVALID, pointer[i], "%s/%s has no IPv%d address%s", end->namespace, end->name,
					family, why);
			else
				errors_add(errors, ERROR_INVALID, pointer[i], "not an IPv%d address%s", family, why);
			continue;
		}
		ret[i].ip = objects[i] ? *workload_ip(objects[i], family) : end->ip;
		ret[i].object = objects[i] ? objects[i] : address_owner(snapshot, &end->ip);
	}
}
