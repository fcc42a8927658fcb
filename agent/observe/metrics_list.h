/* SPDX-License-Identifier: Apache-2.0 */
/* Every metric, once: the exposition, its test and the reference table (api/metrics.md) come from this list. */
#ifndef PENSTOCK_METRICS_LIST_H
#define PENSTOCK_METRICS_LIST_H

/* enum, name, type, labels, help. Names and labels are a contract: dashboards and alerts are built on them. */
#define METRICS(X)                                                                                                     \
	X(BUILD_INFO, "penstock_build_info", "gauge", "version, commit, kernel",                                           \
		"Always 1: the build of the agent and the kernel it runs on.")                                                 \
	X(REVISION, "penstock_revision", "gauge", "stage",                                                                 \
		"Revision that is wanted (persisted) and enforced (live in the kernel and read back).")                        \
	X(OBJECTS, "penstock_objects", "gauge", "kind", "Objects of the wanted state.")                                    \
	X(WORKLOADS, "penstock_workloads", "gauge", "state",                                                               \
		"Pods and Workloads: attached to an interface of this node, pending until theirs appears, or remote.")         \
	X(QUARANTINED, "penstock_quarantined", "gauge", "kind",                                                            \
		"Objects that could not be used and were set aside (?invalid=quarantine).")                                    \
	X(LAST_WRITE, "penstock_last_write_timestamp_seconds", "gauge", "owner",                                           \
		"When this owner last wrote, in seconds since 1970.")                                                          \
	X(PACKETS, "penstock_packets_total", "counter", "direction, verdict, reason",                                      \
		"Packets that workload interfaces carried, by what was done with them and why.")                               \
	X(BYTES, "penstock_bytes_total", "counter", "direction, verdict, reason", "Layer-3 bytes of these packets.")       \
	X(RULE_HITS, "penstock_rule_hits_total", "counter", "kind, policy_namespace, policy, direction, rule",             \
		"Connections that this rule decided. rule is its name, its index, or isolation; rules of one name are "        \
		"summed.")                                                                                                     \
	X(INTERCEPTED, "penstock_intercepted_connections_total", "counter", "proxy, engine",                               \
		"Connections handed to this proxy, by the engine that did it.")                                                \
	X(PROXY_UP, "penstock_proxy_up", "gauge", "proxy",                                                                 \
		"1 while each of the proxy's protocols has a listener that its connections can be handed to, of either "       \
		"family.")                                                                                                     \
	X(ONWARD, "penstock_onward_connections_total", "counter", "source",                                                \
		"Connections that proxies began for a client, from the client's own address, or from the node's: as programs " \
		"on "                                                                                                          \
		"sockets see it (originalDestination in /v1/status).")                                                         \
	X(CONNECTIONS, "penstock_connections", "gauge", "",                                                                \
		"Connections in the tracking tables: established, and for 10 s after its end.")                                \
	X(HANDSHAKE, "penstock_handshake_duration_seconds", "histogram", "",                                               \
		"Time from the SYN of a connection that workloads opened or accepted to the end of its handshake.")            \
	X(KERNEL_DROPS, "penstock_kernel_drops_total", "counter", "reason",                                                \
		"Packets that the kernel dropped in this network namespace, by its own reason; absent until one is. "          \
		"TC_INGRESS and TC_EGRESS are what programs refused, ours too.")                                               \
	X(EVENTS_LOST, "penstock_events_lost_total", "counter", "stream",                                                  \
		"Events that found no room: flows are missing. stream is connections (opened, closed) or refusals; "           \
		"followers: "                                                                                                  \
		"flows that a slow reader of ?follow=true has not had.")                                                       \
	X(ALERTS, "penstock_alerts_total", "counter", "alert", "How often each alert was raised.")                         \
	X(MAP_ENTRIES, "penstock_map_entries", "gauge", "map", "Entries in a kernel map.")                                 \
	X(MAP_CAPACITY, "penstock_map_capacity", "gauge", "map", "Entries that a kernel map has room for.")                \
	X(APPLY_DURATION, "penstock_apply_duration_seconds", "histogram", "stage",                                         \
		"Time that each stage of an apply took.")                                                                      \
	X(APPLY_FAILURES, "penstock_apply_failures_total", "counter", "stage", "Applies that failed in this stage.")       \
	X(DRIFT, "penstock_drift_repairs_total", "counter", "what",                                                        \
		"What somebody else had changed or removed in the kernel, and the agent put back.")                            \
	X(API_REQUESTS, "penstock_api_requests_total", "counter", "method, route, code", "Answered API requests.")         \
	X(API_DURATION, "penstock_api_request_duration_seconds", "histogram", "route",                                     \
		"Time from an API request's first byte to its answer.")                                                        \
	X(PROCESS_CPU, "process_cpu_seconds_total", "counter", "", "User and system CPU time spent.")                      \
	X(PROCESS_RESIDENT, "process_resident_memory_bytes", "gauge", "", "Resident memory.")                              \
	X(PROCESS_VIRTUAL, "process_virtual_memory_bytes", "gauge", "", "Virtual memory.")                                 \
	X(PROCESS_VIRTUAL_MAX, "process_virtual_memory_max_bytes", "gauge", "", "Limit of virtual memory, or -1.")         \
	X(PROCESS_THREADS, "process_threads", "gauge", "", "Threads.")                                                     \
	X(PROCESS_OPEN_FDS, "process_open_fds", "gauge", "", "Open file descriptors.")                                     \
	X(PROCESS_MAX_FDS, "process_max_fds", "gauge", "", "Limit of open file descriptors.")                              \
	X(PROCESS_START, "process_start_time_seconds", "gauge", "", "When the process started, in seconds since 1970.")

enum metric {
#define X(name, ...) METRIC_##name,
	METRICS(X)
#undef X
		METRIC_COUNT
};

#endif
