/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The objects of contract.md section 2, decoded. Immutable once made, shared by reference count between snapshots and
 * threads.
 */
#ifndef PENSTOCK_OBJECT_H
#define PENSTOCK_OBJECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/base/addr.h"

#define KUBE_NETWORKING "networking.k8s.io/v1"
#define KUBE_DISCOVERY "discovery.k8s.io/v1"
#define KUBE_POLICY "policy.networking.k8s.io/v1alpha2"
#define PENSTOCK_API "penstock.dev/v1alpha1"

/* enum, kind, apiVersion, plural, namespaced, strict (an unknown field is an error), enforced by this build */
#define KINDS(X)                                                                                                 \
	X(NAMESPACE, "Namespace", "v1", "namespaces", false, false, true)                                            \
	X(NODE, "Node", "v1", "nodes", false, false, true)                                                           \
	X(POD, "Pod", "v1", "pods", true, false, true)                                                               \
	X(SERVICE, "Service", "v1", "services", true, false, true)                                                   \
	X(ENDPOINT_SLICE, "EndpointSlice", KUBE_DISCOVERY, "endpointslices", true, false, true)                      \
	X(WORKLOAD, "Workload", PENSTOCK_API, "workloads", true, true, true)                                         \
	X(NETWORK_POLICY, "NetworkPolicy", KUBE_NETWORKING, "networkpolicies", true, false, true)                    \
	X(CLUSTER_NETWORK_POLICY, "ClusterNetworkPolicy", KUBE_POLICY, "clusternetworkpolicies", false, false, true) \
	X(TRANSPARENT_PROXY, "TransparentProxy", PENSTOCK_API, "transparentproxies", false, true, true)              \
	X(INTERCEPT_POLICY, "InterceptPolicy", PENSTOCK_API, "interceptpolicies", false, true, true)                 \
	X(NODE_FILTER, "NodeFilter", PENSTOCK_API, "nodefilters", false, true, false)                                \
	X(CIDR_SET, "CIDRSet", PENSTOCK_API, "cidrsets", false, true, false)

enum kind {
#define X(name, ...) KIND_##name,
	KINDS(X)
#undef X
		KIND_COUNT
};

struct kind_info {
	const char *kind, *api_version, *plural;
	bool namespaced, strict, enforced;
};
extern const struct kind_info kinds[KIND_COUNT];
int kind_by_name(const char *kind);     /* enum kind or -1 */
int kind_by_plural(const char *plural); /* enum kind or -1 */

/* ---- labels and selectors (Kubernetes label semantics) ---- */

struct label {
	char *key, *value;
};
struct labels { /* sorted by key, keys unique */
	struct label *list;
	size_t count;
};
const char *labels_get(const struct labels *labels, const char *key); /* or NULL */

enum selector_operator { SELECTOR_IN, SELECTOR_NOT_IN, SELECTOR_EXISTS, SELECTOR_DOES_NOT_EXIST };
struct requirement {
	char *key;
	enum selector_operator operator;
	char **values; /* sorted, unique */
	size_t value_count;
};
/* All must hold; matchLabels are IN with one value; none matches everything. Requirements are sorted, so that equal
 * selectors compare equal. */
struct selector {
	struct requirement *list;
	size_t count;
};
bool selector_matches(const struct selector *selector, const struct labels *labels);
/* A canonical text: equal text = same meaning as written. The caller frees. */
char *selector_text(const struct selector *selector);

/* ---- policy, one shape for every policy kind ---- */

enum protocol_code { PROTOCOL_ANY = 0, PROTOCOL_TCP = 6, PROTOCOL_UDP = 17, PROTOCOL_SCTP = 132 };

struct port_match {       /* one of: any port, a range, a name */
	uint8_t protocol;     /* PROTOCOL_ANY only together with a name (ClusterNetworkPolicy's destinationNamedPort) */
	uint16_t first, last; /* inclusive; 0..65535 is any port */
	char *name;           /* or NULL */
};

enum peer_type { PEER_PODS, PEER_NAMESPACES, PEER_NODES, PEER_NETWORK, PEER_CIDR_SET, PEER_DOMAINS, PEER_UNKNOWN };
struct peer {
	enum peer_type type;
	/* PEER_PODS, PEER_NAMESPACES: NULL namespaces = the policy's own namespace; NULL pods = every pod */
	struct selector *namespaces, *pods;
	struct selector *nodes; /* PEER_NODES */
	struct cidr cidr;       /* PEER_NETWORK */
	struct cidr *except;
	size_t except_count;
	char *name;     /* PEER_CIDR_SET */
	char **domains; /* PEER_DOMAINS, NULL-terminated */
};

enum rule_action { RULE_ALLOW, RULE_DENY, RULE_PASS, RULE_INTERCEPT, RULE_BYPASS, RULE_LIMIT };
struct rule {
	char *name; /* "" when it has none */
	enum rule_action action;
	bool any_peer; /* peers absent or empty where that means everyone */
	struct peer *peers;
	size_t peer_count;
	bool any_port;
	struct port_match *ports;
	size_t port_count;
	char *proxy; /* RULE_INTERCEPT */
	struct {
		uint32_t packets_per_second, burst;
		bool per_source;
	} limit; /* RULE_LIMIT */
};

enum direction { EGRESS, INGRESS, DIRECTIONS }; /* as PS_EGRESS, PS_INGRESS */

struct policy {
	/* subject: NULL namespaces = the policy's own; NULL pods = every pod */
	struct selector *namespaces, *pods;
	char *cgroup;      /* InterceptPolicy on host processes, or NULL */
	char **interfaces; /* NodeFilter, NULL-terminated, or NULL */
	int tier;          /* ClusterNetworkPolicy: 0 Admin, 1 Baseline */
	int priority;
	bool isolates[DIRECTIONS]; /* NetworkPolicy: policyTypes after defaulting */
	struct rule *rules[DIRECTIONS];
	size_t rule_count[DIRECTIONS];
};

/* ---- things with addresses ---- */

struct named_port {
	char *name;
	uint16_t port;
	uint8_t protocol;
};
struct workload { /* Pod and Workload */
	struct ip *ips;
	size_t ip_count;
	char *node;      /* "" = not said */
	char *interface; /* "" = to be found */
	struct cidr *sources;
	size_t source_count;
	struct named_port *ports;
	size_t port_count;
	bool host_network, ended;
	uint64_t bandwidth[DIRECTIONS]; /* bit/s, 0 = none */
};
struct node {
	struct ip *ips;
	size_t ip_count;
};
struct service_port {
	char *name;               /* "" = none */
	uint16_t port, node_port; /* 0 = none */
	uint8_t protocol;
};
/* Without addresses: no cluster IP, or ExternalName. */
struct service {
	struct ip *ips; /* cluster IPs; of their families external IPs, load balancers' (not of ipMode Proxy) */
	size_t ip_count;
	struct service_port *ports;
	size_t port_count;
};
struct backend {
	struct ip ip;
	bool ready, serving, terminating; /* after defaulting */
};
struct endpoint_slice {
	char *service;            /* label kubernetes.io/service-name; "" = of none */
	struct named_port *ports; /* without those that say no port */
	size_t port_count;
	struct backend *backends; /* each endpoint's first address; none of addressType FQDN */
	size_t backend_count;
};
struct proxy {
	uint16_t port;
	bool tcp, udp;
	bool bypass;               /* onUnavailable */
	int64_t uid;               /* -1 = any */
	char *cgroup, *executable; /* "" = any */
};
/* 0: any listener of the port will do; else a word that equal conditions share (ps_proxy.chosen). */
uint32_t proxy_chosen(const struct proxy *proxy);

struct object {
	enum kind kind;
	char *namespace; /* "" when cluster-scoped */
	char *name;
	struct labels labels;
	bool audit;
	int64_t created; /* creationTimestamp, seconds since 1970; 0 = none */
	char *owner;
	uint64_t revision; /* that last changed it */
	char *json; /* canonical: the fields that are read plus uid, resourceVersion, creationTimestamp; keys sorted; no
				   owner annotation */
	union {
		struct workload *workload;
		struct policy *policy;
		struct node *node;
		struct proxy *proxy;
		struct service *service;
		struct endpoint_slice *slice;
	};
	/* private */
	const struct object *content; /* whose everything but the owner this is; NULL: its own */
	int references;
};

/* Reference counts are atomic. */
struct object *object_get(const struct object *object); /* one reference more; the object itself stays immutable */
void object_put(const struct object *object);
#define auto_object __attribute__((cleanup(object_cleanup)))
void object_cleanup(struct object **object);
/* Order of snapshots: kind, namespace, name. */
int object_compare(const struct object *a, const struct object *b);
/* A copy under another owner or revision (json shared in content). */
struct object *object_with(const struct object *object, const char *owner, uint64_t revision);

#endif
