/* SPDX-License-Identifier: Apache-2.0 */
/* penstockd: flags, and the order in which the rooms are opened and closed. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/config.h"
#include "agent/base/log.h"
#include "agent/base/mem.h"
#include "agent/feeds.h"
#include "agent/loop.h"
#include "agent/notify.h"
#include "agent/observe/explain.h"
#include "agent/reconcile.h"

#define DEFAULT_CONFIG "/etc/penstock/penstock.yaml"

#define TRY "Try: penstockd --help\n"
static const char usage[] =
	"Usage: penstockd [--config FILE] [--check | --uninstall | --version]\n"
	"\n"
	"The node agent: enforces the policy that is pushed to its HTTP API.\n"
	"\n"
	"  --config FILE   default " DEFAULT_CONFIG ", which may be missing\n"
	"  --check         print the configuration and what this kernel supports, and exit\n"
	"  --uninstall     remove every program, link, map, rule, route, nftables table and pin, verify that nothing "
	"remains, and exit\n"
	"  --version       print the version, and exit\n"
	"\n"
	"SIGTERM and SIGINT stop the process and leave the data path enforcing. SIGHUP reads the configuration again.\n"
	"It stays in the foreground and logs to standard error: under systemd, journalctl -u penstockd.\n";

enum job { JOB_RUN, JOB_CHECK, JOB_UNINSTALL };

struct agent {
	const char *config_file;
	bool config_given;
	struct config *config;
	struct datapath *datapath;
	struct store *store;
	struct board *board;
	struct metrics *metrics;
	struct feeds *feeds;
	struct reconciler *reconciler;
	struct server *server;
	char *damaged;
};

static struct server_tcp tcp_options(const struct config *c)
{
	return (struct server_tcp){
		.listen = c->api.tcp_listen,
		.certificate = c->api.tls_certificate,
		.key = c->api.tls_key,
		.client_ca = c->api.tls_client_ca,
		.token_file = c->api.token_file,
	};
}

/* The configuration and the files that it names; an error names the configuration's line. */
static int config_read(const struct agent *agent, bool warn, struct config **ret, struct error *e)
{
	int result = config_load(agent->config_file, agent->config_given, ret, e);
	if (result < 0)
		return result;
	struct server_tcp tcp = tcp_options(*ret);
	if ((result = server_tcp_check(&tcp, warn, e)) < 0) {
		config_blame(*ret, e);
		config_free(*ret);
		*ret = NULL;
	}
	return result;
}

static struct datapath_options datapath_options(const struct config *c)
{
	return (struct datapath_options){
		.pin_directory = c->datapath.pin_directory,
		.engine = engine_parse(c->datapath.engine),
		.mark_mask = c->datapath.mark_mask,
		.route_table = c->datapath.route_table,
		.rule_priority = c->datapath.rule_priority,
		.connections_max = c->datapath.connections_max,
		.deny_reject = c->datapath.deny_reject,
		.allow_local_host = c->datapath.allow_local_host,
		.unclaimed_deny = c->datapath.unclaimed_deny,
		.adopt_listeners = c->datapath.adopt_listeners,
		.workload_interfaces = c->datapath.workload_interfaces,
	};
}

/* ---- one-shot jobs ---- */

static void line_print(void *context, const char *line)
{
	fprintf(context, "%s\n", line);
}

static int job_check(const struct config *config, struct error *e)
{
	struct datapath_options options = datapath_options(config);
	auto_free char *text = config_print(config);
	printf("%s\n", text);
	return datapath_check(&options, line_print, stdout, e);
}

static int job_uninstall(const struct config *config, struct error *e)
{
	struct datapath_options options = datapath_options(config);
	int result = datapath_uninstall(&options, e);
	if (result == 0)
		printf("nothing of penstockd is left in %s or in this network namespace\n", options.pin_directory);
	return result;
}

/* ---- the agent ---- */

/* The engine that is asked for; "auto" is tried anew. One that cannot be had: the one that runs goes on. */
static void engine_reload(struct agent *agent, struct config *fresh)
{
	char **running = &agent->config->datapath.engine, **wanted = &fresh->datapath.engine;
	bool same = strcmp(*running, *wanted) == 0;
	if ((!same || strcmp(*wanted, "auto") == 0) && reconcile_engine(agent->reconciler, engine_parse(*wanted)) == 0 &&
		!same) {
		free(*running);
		*running = str_dup(*wanted);
	}
	free(*wanted);
	*wanted = str_dup(*running);
}

/* Only logging and the engine can change while running: everything else is bound to sockets, pins or programs, and says
 * so. */
static void agent_reload(void *context)
{
	struct agent *agent = context;
	struct config *fresh;
	struct error e = {0};
	server_reload(agent->server);
	if (config_load(agent->config_file, agent->config_given, &fresh, &e) < 0) {
		log_error("config", "SIGHUP: %s; the running configuration stays", e.detail);
		return;
	}
	log_configure(fresh->log.level, fresh->log.format);
	fresh->log.level = agent->config->log.level;
	fresh->log.format = agent->config->log.format;
	engine_reload(agent, fresh);
	datapath_look(agent->datapath);
	auto_free char *before = config_print(agent->config), *after = config_print(fresh);
	log_info("config", "SIGHUP: read %s%s", agent->config_file,
		strcmp(before, after) ? "; what changed besides log and engine needs a restart" : "");
	config_free(fresh);
}

/* ---- where metrics come from ---- */

static void agent_metrics(void *context, struct buffer *out)
{
	struct agent *agent = context;
	metrics_render(agent->metrics, out);
}

static int source_counts(void *context, struct datapath_counts *ret)
{
	return datapath_read_counts(((struct agent *)context)->datapath, ret);
}

static uint64_t source_rule_hits(void *context, uint32_t rule)
{
	return datapath_read_rule(((struct agent *)context)->datapath, rule);
}

static uint64_t source_proxy_connections(void *context, uint8_t proxy)
{
	return datapath_read_proxy(((struct agent *)context)->datapath, proxy);
}

static bool source_proxy_up(void *context, const char *name, const struct proxy *proxy)
{
	auto_free struct listener_status *list = NULL;
	size_t count = datapath_listeners(((struct agent *)context)->datapath, &list);
	return listeners_serve(list, count, name, proxy);
}

static bool source_map_fill(void *context, size_t *at, struct map_fill *ret)
{
	return datapath_fill_next(((struct agent *)context)->datapath, at, ret);
}

static bool source_drop(void *context, size_t *at, struct kernel_drop *ret)
{
	return datapath_drop_next(((struct agent *)context)->datapath, at, ret);
}

static uint64_t source_drift(void *context, enum drift what)
{
	return datapath_repairs(((struct agent *)context)->datapath, what);
}

static void source_api(void *context, void (*each_count)(void *, const struct api_count *),
	void (*each_latency)(void *, const struct api_latency *), void *argument)
{
	/* Set before the first request can be answered. */
	struct server *server = __atomic_load_n(&((struct agent *)context)->server, __ATOMIC_ACQUIRE);
	if (server)
		server_counts(server, each_count, each_latency, argument);
}

static const double *source_handshakes(void *context, struct handshakes *ret)
{
	return feeds_handshakes(((struct agent *)context)->feeds, ret);
}

static uint64_t source_alerts(void *context, unsigned int kind)
{
	return feeds_alerts(((struct agent *)context)->feeds, kind);
}

static uint64_t source_missed(void *context)
{
	return flows_missed(feeds_flows(((struct agent *)context)->feeds));
}

/* ---- what is seen ---- */

static void agent_feed_list(void *context, enum feed feed, const struct feed_filter *filter, struct buffer *out)
{
	feeds_list(((struct agent *)context)->feeds, feed, filter, out);
}

static struct text_source *agent_connections(void *context, const struct feed_filter *filter, size_t *held)
{
	return feeds_connections(((struct agent *)context)->feeds, filter, held);
}

static void agent_feed_follow(
	void *context, enum feed feed, const struct feed_filter *filter, uint64_t *after, size_t most, struct buffer *out)
{
	feeds_follow(((struct agent *)context)->feeds, feed, filter, after, most, out);
}

/* ---- explaining ---- */

static int source_ask(void *context, const struct explain_query *query, struct explain_answer *ret, struct error *e)
{
	return datapath_explain(((struct agent *)context)->datapath, query, ret, e);
}

static size_t source_listeners(void *context, struct listener_status **ret)
{
	return datapath_listeners(((struct agent *)context)->datapath, ret);
}

static void agent_status_asked(void *context)
{
	datapath_look_fresh(((struct agent *)context)->datapath);
}

static void agent_explain(void *context, const char *body, size_t length, struct buffer *out, struct errors *errors)
{
	struct agent *agent = context;
	const struct explain_source source = {
		.context = agent, .ask = source_ask, .listeners = source_listeners, .metrics = agent->metrics};
	explain_body(&source, body, length, out, errors);
}

static int agent_open(struct agent *agent, struct error *e)
{
	const struct config *c = agent->config;
	struct datapath_options options = datapath_options(c);
	int result = datapath_open(&options, &agent->datapath, e);
	if (result == 0)
		result = store_open(c->state.directory, &agent->store, &agent->damaged, e);
	if (result < 0)
		return result;
	if (agent->damaged)
		log_error("state", "%s", agent->damaged);
	agent->board = board_new();
	agent->metrics = metrics_new();
	agent->feeds = feeds_new(c, agent->datapath, agent->metrics);
	struct metrics_source source = {
		.context = agent,
		.counts = source_counts,
		.rule_hits = source_rule_hits,
		.map_fill = source_map_fill,
		.drop = source_drop,
		.api = source_api,
		.proxy_connections = source_proxy_connections,
		.proxy_up = source_proxy_up,
		.drift = source_drift,
		.handshakes = source_handshakes,
		.alerts = source_alerts,
		.missed = source_missed,
	};
	metrics_source(agent->metrics, &source);

	struct reconcile_rooms rooms = {
		.config = c,
		.datapath = agent->datapath,
		.store = agent->store,
		.board = agent->board,
		.metrics = agent->metrics,
		.flows = feeds_flows(agent->feeds),
		.damaged = agent->damaged,
	};
	result = reconcile_new(&rooms, &agent->reconciler, e);
	if (result < 0)
		return result;
	reconcile_start(agent->reconciler);

	struct server_options server = {
		.unix_path = c->api.unix_path,
		.unix_group = c->api.unix_group,
		.metrics_listen = c->metrics.listen,
		.tcp = tcp_options(c),
		.body_max = c->api.body_max,
		.board = agent->board,
		.status_asked = agent_status_asked,
		.metrics = agent_metrics,
		.explain = agent_explain,
		.feed_list = agent_feed_list,
		.connections = agent_connections,
		.feed_follow = agent_feed_follow,
		.context = agent,
	};
	struct server *started = NULL;
	result = server_start(&server, &started, e);
	if (result < 0)
		config_blame(c, e);
	__atomic_store_n(&agent->server, started, __ATOMIC_RELEASE);
	if (result == 0)
		result = feeds_start(agent->feeds, started, e);
	return result;
}

static void agent_close(struct agent *agent)
{
	feeds_stop(agent->feeds);
	if (agent->server)
		server_stop(agent->server);
	reconcile_free(agent->reconciler);
	feeds_free(agent->feeds);
	if (agent->metrics)
		metrics_free(agent->metrics);
	if (agent->board)
		board_free(agent->board);
	if (agent->store)
		store_close(agent->store);
	if (agent->datapath)
		datapath_close(agent->datapath);
	free(agent->damaged);
}

static int job_run(struct agent *agent, struct error *e)
{
	loop_signals_block();
	int result = agent_open(agent, e);
	if (result == 0) {
		struct loop loop = {agent->reconciler, agent->server, agent->datapath, agent->config->datapath.audit_period_ms,
			agent_reload, agent};
		log_info("main", "penstockd " PENSTOCK_VERSION " on node %s, API at %s", agent->config->node.name,
			agent->config->api.unix_path);
		reconcile_settle(agent->reconciler);
		notify_ready();
		result = loop_run(&loop, e);
	}
	agent_close(agent);
	return result;
}

static int flags_read(int argc, char **argv, struct agent *agent, enum job *job)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},
		{"check", no_argument, NULL, 'k'},
		{"uninstall", no_argument, NULL, 'u'},
		{"version", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int option;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			agent->config_file = optarg;
			agent->config_given = true;
			break;
		case 'k':
			*job = JOB_CHECK;
			break;
		case 'u':
			*job = JOB_UNINSTALL;
			break;
		case 'v':
			printf("penstockd " PENSTOCK_VERSION " (" PENSTOCK_COMMIT ")\n");
			exit(0);
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs(TRY, stderr);
			return -EINVAL;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "penstockd: unexpected argument \"%s\"\n" TRY, argv[optind]);
		return -EINVAL;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct agent agent = {.config_file = DEFAULT_CONFIG};
	enum job job = JOB_RUN;
	struct error e = {0};
	if (flags_read(argc, argv, &agent, &job) < 0)
		return 2;
	int result = job == JOB_UNINSTALL ? config_load(agent.config_file, agent.config_given, &agent.config, &e)
									  : config_read(&agent, job == JOB_CHECK, &agent.config, &e);
	if (result < 0) {
		fprintf(stderr, "penstockd: %s\n", e.detail);
		return 2;
	}
	log_configure(agent.config->log.level, agent.config->log.format);

	if (job == JOB_CHECK)
		result = job_check(agent.config, &e);
	else if (job == JOB_UNINSTALL)
		result = job_uninstall(agent.config, &e);
	else
		result = job_run(&agent, &e);
	if (result < 0 && job == JOB_RUN)
		log_error("main", "%s", e.detail);
	else if (result < 0)
		fprintf(stderr, "penstockd: %s\n", e.detail);
	config_free(agent.config);
	return result < 0 ? 1 : 0;
}
