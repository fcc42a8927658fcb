/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <setjmp.h>
#include <cmocka.h>
#include "agent/base/mem.h"
#include "agent/config.h"

/* Loads text as the file "penstock.yaml" in a directory of its own, where the process stands. */
static int load_bytes(const char *text, size_t length, struct config **ret, struct error *e)
{
	FILE *file = fopen("penstock.yaml", "w");
	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, length, file), length);
	fclose(file);
	return config_load("penstock.yaml", true, ret, e);
}

static int load(const char *text, struct config **ret, struct error *e)
{
	return load_bytes(text, strlen(text), ret, e);
}

static struct config *loaded(const char *text)
{
	struct config *config = NULL;
	struct error e = {0};
	if (load(text, &config, &e) < 0)
		fail_msg("%s", e.detail);
	return config;
}

static void defaults(void **state)
{
	static const char *const texts[] = {"", "---\n", "# only a comment\n", "{}\n", "node:\nlog:\n"};
	setenv("NODE_NAME", "worker-7", 1);
	for (size_t at = 0; at < sizeof texts / sizeof texts[0]; at++) {
		struct config *c = loaded(texts[at]);
		assert_string_equal(c->node.name, "worker-7");
		assert_string_equal(c->api.unix_path, "/run/penstock/penstock.sock");
		assert_string_equal(c->api.unix_group, "root");
		assert_string_equal(c->api.tcp_listen, "");
		assert_string_equal(c->api.tls_certificate, "");
		assert_string_equal(c->api.tls_key, "");
		assert_string_equal(c->api.tls_client_ca, "");
		assert_string_equal(c->api.token_file, "");
		assert_int_equal(c->api.body_max, 512u << 20);
		assert_string_equal(c->metrics.listen, "127.0.0.1:7642");
		assert_string_equal(c->state.directory, "/var/lib/penstock");
		assert_string_equal(c->datapath.engine, "auto");
		assert_string_equal(c->datapath.pin_directory, "/sys/fs/bpf/penstock");
		assert_int_equal(c->datapath.mark_mask, 0x60000000);
		assert_int_equal(c->datapath.route_table, 7641);
		assert_int_equal(c->datapath.rule_priority, 5);
		assert_false(c->datapath.deny_reject);
		assert_true(c->datapath.allow_local_host);
		assert_non_null(c->datapath.workload_interfaces);
		assert_null(c->datapath.workload_interfaces[0]);
		assert_false(c->datapath.unclaimed_deny);
		assert_true(c->datapath.adopt_listeners);
		assert_int_equal(c->datapath.connections_max, 524288);
		assert_int_equal(c->datapath.audit_period_ms, 30000);
		static const uint16_t ports[] = {22, 2379, 2380, 6443, 10250};
		assert_int_equal(c->datapath.management_ports_count, 5);
		assert_memory_equal(c->datapath.management_ports, ports, sizeof ports);
		assert_null(c->names.resolvers[0]);
		assert_int_equal(c->names.hold_max_ms, 100);
		assert_int_equal(c->names.addresses_max, 65536);
		assert_int_equal(c->flows.keep, 65536);
		assert_int_equal(c->alerts.port_scan, 100);
		assert_int_equal(c->alerts.syn_flood, 1000);
		assert_int_equal(c->alerts.deny_spike, 100);
		assert_int_equal(c->alerts.deny_factor, 10);
		assert_int_equal(c->alerts.table_full, 80);
		assert_int_equal(c->log.level, LOG_LEVEL_INFO);
		assert_int_equal(c->log.format, LOG_TEXT);
		config_free(c);
	}
}

static const char everything[] =
	"node: { name: \"n\\\"1\" }\n"
	"api:\n"
	"  unix: /tmp/p.sock\n"
	"  unixGroup: adm\n"
	"  tcp:\n"
	"    listen: ''\n"
	"    tls: { certificate: /c.pem, key: /k.pem, clientCA: /ca.pem }\n"
	"    tokenFile: /tokens\n"
	"  bodyMax: 1000001\n"
	"metrics: {listen: '[::1]:9000'}\n"
	"state:\n"
	"  directory: \"/var/lib/my penstock\"\n"
	"datapath:\n"
	"  engine: tproxy\n"
	"  pinDirectory: /sys/fs/bpf/x\n"
	"  markMask: 0x00000C00\n"
	"  routeTable: 77\n"
	"  rulePriority: 100\n"
	"  denyWith: reject\n"
	"  allowLocalHost: false\n"
	"  workloadInterfaces: [\"veth*\", cali*, '[ab]?']\n"
	"  unclaimed: deny\n"
	"  adoptListeners: false\n"
	"  connectionsMax: 1024\n"
	"  managementPorts: [22, 65535]\n"
	"names:\n"
	"  resolvers: [10.96.0.10, \"fd00::10\"]\n"
	"  holdMax: 1.5s\n"
	"  addressesMax: 7\n"
	"flows: { keep: 0 }\n"
	"alerts: { portScan: 4096, synFlood: 0, denySpike: 7, denyFactor: 1, tableNearlyFull: 100 }\n"
	"log: { level: warn, format: json }\n";

static void check_everything(const struct config *c)
{
	assert_string_equal(c->node.name, "n\"1");
	assert_string_equal(c->api.unix_path, "/tmp/p.sock");
	assert_string_equal(c->api.unix_group, "adm");
	assert_string_equal(c->api.tls_certificate, "/c.pem");
	assert_string_equal(c->api.tls_key, "/k.pem");
	assert_string_equal(c->api.tls_client_ca, "/ca.pem");
	assert_string_equal(c->api.token_file, "/tokens");
	assert_int_equal(c->api.body_max, 1000001);
	assert_string_equal(c->metrics.listen, "[::1]:9000");
	assert_string_equal(c->state.directory, "/var/lib/my penstock");
	assert_string_equal(c->datapath.engine, "tproxy");
	assert_string_equal(c->datapath.pin_directory, "/sys/fs/bpf/x");
	assert_int_equal(c->datapath.mark_mask, 0xc00);
	assert_int_equal(c->datapath.route_table, 77);
	assert_int_equal(c->datapath.rule_priority, 100);
	assert_true(c->datapath.deny_reject);
	assert_false(c->datapath.allow_local_host);
	assert_string_equal(c->datapath.workload_interfaces[0], "veth*");
	assert_string_equal(c->datapath.workload_interfaces[1], "cali*");
	assert_string_equal(c->datapath.workload_interfaces[2], "[ab]?");
	assert_null(c->datapath.workload_interfaces[3]);
	assert_true(c->datapath.unclaimed_deny);
	assert_false(c->datapath.adopt_listeners);
	assert_int_equal(c->datapath.connections_max, 1024);
	assert_int_equal(c->datapath.management_ports_count, 2);
	assert_int_equal(c->datapath.management_ports[1], 65535);
	assert_string_equal(c->names.resolvers[1], "fd00::10");
	assert_null(c->names.resolvers[2]);
	assert_int_equal(c->names.hold_max_ms, 1500);
	assert_int_equal(c->names.addresses_max, 7);
	assert_int_equal(c->flows.keep, 0);
	assert_int_equal(c->alerts.port_scan, 4096);
	assert_int_equal(c->alerts.syn_flood, 0);
	assert_int_equal(c->alerts.deny_spike, 7);
	assert_int_equal(c->alerts.deny_factor, 1);
	assert_int_equal(c->alerts.table_full, 100);
	assert_int_equal(c->log.level, LOG_LEVEL_WARN);
	assert_int_equal(c->log.format, LOG_JSON);
}

static void every_key(void **state)
{
	struct config *c = loaded(everything);
	check_everything(c);
	config_free(c);
}

static void what_is_printed_reads_back(void **state)
{
	struct config *first = loaded(everything);
	auto_free char *text = config_print(first);
	struct config *second = loaded(text);
	check_everything(second);
	auto_free char *again = config_print(second);
	assert_string_equal(again, text);
	config_free(first);
	config_free(second);
}

static void the_print_of_the_defaults(void **state)
{
	setenv("NODE_NAME", "worker-7", 1);
	struct config *c = loaded("");
	auto_free char *text = config_print(c);
	config_free(c);
	assert_string_equal(text, "node:\n"
							  "  name: \"worker-7\"\n"
							  "api:\n"
							  "  unix: \"/run/penstock/penstock.sock\"\n"
							  "  unixGroup: \"root\"\n"
							  "  tcp:\n"
							  "    listen: \"\"\n"
							  "    tls:\n"
							  "      certificate: \"\"\n"
							  "      key: \"\"\n"
							  "      clientCA: \"\"\n"
							  "    tokenFile: \"\"\n"
							  "  bodyMax: 512MiB\n"
							  "metrics:\n"
							  "  listen: \"127.0.0.1:7642\"\n"
							  "state:\n"
							  "  directory: \"/var/lib/penstock\"\n"
							  "datapath:\n"
							  "  engine: \"auto\"\n"
							  "  pinDirectory: \"/sys/fs/bpf/penstock\"\n"
							  "  markMask: 0x60000000\n"
							  "  routeTable: 7641\n"
							  "  rulePriority: 5\n"
							  "  denyWith: drop\n"
							  "  allowLocalHost: true\n"
							  "  workloadInterfaces: []\n"
							  "  unclaimed: allow\n"
							  "  adoptListeners: true\n"
							  "  connectionsMax: 524288\n"
							  "  auditPeriod: 30s\n"
							  "  managementPorts: [22, 2379, 2380, 6443, 10250]\n"
							  "names:\n"
							  "  resolvers: []\n"
							  "  holdMax: 100ms\n"
							  "  addressesMax: 65536\n"
							  "flows:\n"
							  "  keep: 65536\n"
							  "alerts:\n"
							  "  portScan: 100\n"
							  "  synFlood: 1000\n"
							  "  denySpike: 100\n"
							  "  denyFactor: 10\n"
							  "  tableNearlyFull: 80\n"
							  "log:\n"
							  "  level: info\n"
							  "  format: text\n");
}

static void values(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} sizes[] = {{"1", 1}, {"4096B", 4096}, {"64KiB", 65536}, {"64Ki", 65536}, {"2MiB", 2 << 20}, {"1GiB", 1 << 30},
		{"3kB", 3000}, {"3M", 3000000}, {"2GB", 2000000000}};
	for (size_t at = 0; at < sizeof sizes / sizeof sizes[0]; at++) {
		auto_free char *text = str_format("api: {bodyMax: %s}", sizes[at].text);
		struct config *c = loaded(text);
		assert_int_equal(c->api.body_max, sizes[at].bytes);
		config_free(c);
	}
	static const struct {
		const char *text;
		uint32_t ms;
	} durations[] = {{"0ms", 0}, {"100ms", 100}, {"1s", 1000}, {"0.25s", 250}, {"2m", 120000}};
	for (size_t at = 0; at < sizeof durations / sizeof durations[0]; at++) {
		auto_free char *text = str_format("names: {holdMax: %s}", durations[at].text);
		struct config *c = loaded(text);
		assert_int_equal(c->names.hold_max_ms, durations[at].ms);
		config_free(c);
	}
	struct config *c = loaded("datapath: {markMask: 3221225472, engine: auto}\nmetrics: {listen: ''}\n");
	assert_int_equal(c->datapath.mark_mask, 0xc0000000);
	assert_string_equal(c->metrics.listen, "");
	config_free(c);
}

static const struct {
	const char *text, *message;
} bad[] = {
	/* keys */
	{"datapth:\n  engine: auto\n", "penstock.yaml:1: datapth: there is no such key"},
	{"log:\n  level: info\n  colour: red\n", "penstock.yaml:3: log.colour: there is no such key"},
	{"api:\n  tcp:\n    tls:\n      ca: x\n", "penstock.yaml:4: api.tcp.tls.ca: there is no such key"},
	{"node:\n  name: a\nlog: {}\nnode:\n  name: b\n", "penstock.yaml:4: node: is set twice, the first time in line 1"},
	{"node:\n  name: a\n  name: a\n", "penstock.yaml:3: node.name: is set twice, the first time in line 2"},
	{"node: {[a]: b}\n", "penstock.yaml:1: node: has a key that is a list"},
	{"node.name: a\n", "penstock.yaml:1: node.name: there is no such key"},
	{"logs: {}\n", "penstock.yaml:1: logs: there is no such key"},
	/* shapes */
	{"- node\n", "penstock.yaml:1: is a list, a mapping is expected"},
	{"node\n", "penstock.yaml:1: is a scalar, a mapping is expected"},
	{"node: worker\n", "penstock.yaml:1: node: is a scalar, a mapping is expected"},
	{"node:\n  name: [a]\n", "penstock.yaml:2: node.name: is a list, a single value is expected"},
	{"node:\n  name:\n", "penstock.yaml:2: node.name: has no value"},
	{"node:\n  name: null\n", "penstock.yaml:2: node.name: has no value"},
	{"names:\n  resolvers: 10.0.0.1\n", "penstock.yaml:2: names.resolvers: is a scalar, a list is expected"},
	{"log: {}\n---\nlog: {}\n", "penstock.yaml:3: a second document: one is expected"},
	{"node:\n  name: \"a\\0b\"\n", "penstock.yaml:2: node.name: contains a zero byte"},
	/* YAML itself */
	{"log:\n  level: [info\n", "penstock.yaml:3: did not find expected ',' or ']' while parsing a flow sequence"},
	{"log:\n\tlevel: info\n", "penstock.yaml:2: a word cannot begin like that (a tab indents nothing: use spaces)"},
	{"a: *b\n", "penstock.yaml:1: found undefined alias"},
	{"log:\n  level: \xff\n", "penstock.yaml:2: invalid leading UTF-8 octet"},
	/* values */
	{"api:\n  unix: \"\"\n", "penstock.yaml:2: api.unix: must not be empty"},
	{"api:\n  unix: "
	 "/1234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890/p.sock\n",
		"penstock.yaml:2: api.unix: is longer than the 107 bytes of a unix socket's path"},
	{"api:\n  bodyMax: 512MiBs\n", "penstock.yaml:2: api.bodyMax: \"512MiBs\" is not a size, such as 512MiB"},
	{"api:\n  bodyMax: -1\n", "penstock.yaml:2: api.bodyMax: \"-1\" is not a size, such as 512MiB"},
	{"api:\n  bodyMax: 0\n", "penstock.yaml:2: api.bodyMax: 0 is out of range"},
	{"api:\n  bodyMax: 9999999999GiB\n", "penstock.yaml:2: api.bodyMax: 9999999999GiB is out of range"},
	{"metrics:\n  listen: 7642\n", "penstock.yaml:2: metrics.listen: \"7642\" is not ADDRESS:PORT"},
	{"metrics:\n  listen: 127.0.0.1:0\n",
		"penstock.yaml:2: metrics.listen: \"127.0.0.1:0\" is not ADDRESS:PORT: \"0\" is not a port"},
	{"metrics:\n  listen: 127.0.0.1:70000\n",
		"penstock.yaml:2: metrics.listen: \"127.0.0.1:70000\" is not ADDRESS:PORT: \"70000\" is not a port"},
	{"metrics:\n  listen: ::1:80\n", "penstock.yaml:2: metrics.listen: \"::1:80\" is not ADDRESS:PORT"},
	{"metrics:\n  listen: '[10.0.0.1]:80'\n", "penstock.yaml:2: metrics.listen: \"[10.0.0.1]:80\" is not ADDRESS:PORT"},
	{"metrics:\n  listen: localhost:80\n", "penstock.yaml:2: metrics.listen: \"localhost:80\" is not ADDRESS:PORT"},
	{"state:\n  directory: ''\n", "penstock.yaml:2: state.directory: must not be empty"},
	{"datapath:\n  engine: xdp\n", "penstock.yaml:2: datapath.engine: \"xdp\" is not auto, ebpf or tproxy"},
	{"datapath:\n  markMask: 0x1g\n", "penstock.yaml:2: datapath.markMask: \"0x1g\" is not a mask, such as 0x60000000"},
	{"datapath:\n  markMask: 0x\n", "penstock.yaml:2: datapath.markMask: \"0x\" is not a mask, such as 0x60000000"},
	{"datapath:\n  markMask: 0x100000000\n", "penstock.yaml:2: datapath.markMask: 0x100000000 has more than 32 bits"},
	{"datapath:\n  markMask: 0x40000000\n",
		"penstock.yaml:2: datapath.markMask: 0x40000000 has fewer than the 2 bits that are needed"},
	{"datapath:\n  markMask: 0\n", "penstock.yaml:2: datapath.markMask: 0 has fewer than the 2 bits that are needed"},
	{"datapath:\n  routeTable: main\n", "penstock.yaml:2: datapath.routeTable: \"main\" is not a number"},
	{"datapath:\n  routeTable: 254\n", "penstock.yaml:2: datapath.routeTable: 254 is one of the kernel's own tables"},
	{"datapath:\n  routeTable: 0\n", "penstock.yaml:2: datapath.routeTable: 0 is not between 1 and 4294967295"},
	{"datapath:\n  rulePriority: 32766\n", "penstock.yaml:2: datapath.rulePriority: 32766 is not between 1 and 32765"},
	{"datapath:\n  denyWith: refuse\n", "penstock.yaml:2: datapath.denyWith: \"refuse\" is not drop or reject"},
	{"datapath:\n  allowLocalHost: yes\n",
		"penstock.yaml:2: datapath.allowLocalHost: \"yes\" is neither true nor false"},
	{"datapath:\n  workloadInterfaces: [veth*, '']\n",
		"penstock.yaml:2: datapath.workloadInterfaces[1]: an empty pattern matches no interface"},
	{"datapath:\n  workloadInterfaces:\n  - veth*\n  - a/b\n",
		"penstock.yaml:4: datapath.workloadInterfaces[1]: \"a/b\" is not a pattern of interface names, such as "
		"\"veth*\""},
	{"datapath:\n  unclaimed: drop\n", "penstock.yaml:2: datapath.unclaimed: \"drop\" is not allow or deny"},
	{"datapath:\n  connectionsMax: 0\n", "penstock.yaml:2: datapath.connectionsMax: 0 is not between 1 and 67108864"},
	{"datapath:\n  connectionsMax: 99999999999999999999\n",
		"penstock.yaml:2: datapath.connectionsMax: \"99999999999999999999\" is not a number"},
	{"datapath:\n  managementPorts: [22, 0]\n", "penstock.yaml:2: datapath.managementPorts[1]: \"0\" is not a port"},
	{"datapath:\n  managementPorts:\n    - 22\n    - 70000\n",
		"penstock.yaml:4: datapath.managementPorts[1]: \"70000\" is not a port"},
	{"datapath:\n  managementPorts: [0x16]\n", "penstock.yaml:2: datapath.managementPorts[0]: \"0x16\" is not a port"},
	{"names:\n  resolvers: [10.0.0.1, dns.example]\n",
		"penstock.yaml:2: names.resolvers[1]: \"dns.example\" is not an IP address"},
	{"names:\n  resolvers: [~]\n", "penstock.yaml:2: names.resolvers[0]: has no value"},
	{"names:\n  holdMax: 100\n", "penstock.yaml:2: names.holdMax: \"100\" is not a duration, such as 100ms or 1s"},
	{"names:\n  holdMax: 1.2.3s\n",
		"penstock.yaml:2: names.holdMax: \"1.2.3s\" is not a duration, such as 100ms or 1s"},
	{"datapath:\n  auditPeriod: 99ms\n", "penstock.yaml:2: datapath.auditPeriod: 99ms is shorter than 100ms"},
	{"names:\n  holdMax: 90m\n", "penstock.yaml:2: names.holdMax: 90m is longer than an hour"},
	{"alerts:\n  portScan: 4097\n", "penstock.yaml:2: alerts.portScan: 4097 is not between 0 and 4096"},
	{"alerts:\n  denyFactor: 0\n", "penstock.yaml:2: alerts.denyFactor: 0 is not between 1 and 1000"},
	{"alerts:\n  tableNearlyFull: 80%\n", "penstock.yaml:2: alerts.tableNearlyFull: \"80%\" is not a number"},
	{"alerts:\n  tableNearlyFull: 101\n", "penstock.yaml:2: alerts.tableNearlyFull: 101 is not between 0 and 100"},
	{"alerts:\n  proxyDown: 1\n", "penstock.yaml:2: alerts.proxyDown: there is no such key"},
	{"log:\n  level: loud\n", "penstock.yaml:2: log.level: \"loud\" is not debug, info, warn or error"},
	{"log:\n  format: xml\n", "penstock.yaml:2: log.format: \"xml\" is not text or json"},
	/* an open listener where TLS was meant */
	{"api:\n  tcp:\n    listen: 0.0.0.0:7641\n",
		"penstock.yaml:3: api.tcp.listen: is not a loopback address: it needs TLS (api.tcp.tls.certificate, "
		"api.tcp.tls.key), and client certificates (api.tcp.tls.clientCA) or tokens (api.tcp.tokenFile)"},
	{"api:\n  tcp:\n    listen: '[::]:7641'\n    tokenFile: /tokens\n",
		"penstock.yaml:3: api.tcp.listen: is not a loopback address, and without TLS tokens could be read on the way: "
		"set api.tcp.tls.certificate and api.tcp.tls.key"},
	{"api:\n  tcp:\n    listen: '192.0.2.1:7641'\n    tls: {certificate: /c, key: /k}\n",
		"penstock.yaml:3: api.tcp.listen: is not a loopback address: it needs client certificates "
		"(api.tcp.tls.clientCA) or tokens (api.tcp.tokenFile)"},
	{"api:\n  tcp:\n    listen: '127.0.0.1:7641'\n    tls:\n      certificate: /c\n",
		"penstock.yaml:5: api.tcp.tls.certificate: has no api.tcp.tls.key"},
	{"api:\n  tcp:\n    listen: '127.0.0.1:7641'\n    tls:\n      key: /k\n",
		"penstock.yaml:5: api.tcp.tls.key: has no api.tcp.tls.certificate"},
	{"api:\n  tcp:\n    listen: '127.0.0.1:7641'\n    tls: {clientCA: /c}\n",
		"penstock.yaml:4: api.tcp.tls.clientCA: means nothing without api.tcp.tls.certificate and api.tcp.tls.key"},
};

static void every_mistake_has_its_line(void **state)
{
	for (size_t at = 0; at < sizeof bad / sizeof bad[0]; at++) {
		struct config *untouched = (void *)state, *config = untouched;
		struct error e = {0};
		if (load(bad[at].text, &config, &e) != -EINVAL)
			fail_msg("accepted: %s", bad[at].text);
		assert_string_equal(e.detail, bad[at].message);
		assert_ptr_equal(config, untouched);
	}
}

static void files_that_cannot_be_read(void **state)
{
	struct config *config = NULL;
	struct error e = {0};
	assert_int_equal(config_load("absent.yaml", true, &config, &e), -ENOENT);
	assert_string_equal(e.detail, "absent.yaml: No such file or directory");
	assert_int_equal(config_load("absent.yaml", false, &config, &e), 0);
	config_free(config);
	config = NULL;
	assert_int_equal(config_load(".", false, &config, &e), -EISDIR);
	assert_string_equal(e.detail, ".: Is a directory");
	assert_null(config);
}

static void the_node_has_a_name(void **state)
{
	char host[256];
	gethostname(host, sizeof host);
	setenv("NODE_NAME", "", 1);
	struct config *c = loaded("");
	assert_string_equal(c->node.name, host);
	config_free(c);
	unsetenv("NODE_NAME");
	c = loaded("node: {name: ''}");
	assert_string_equal(c->node.name, host);
	config_free(c);
	setenv("NODE_NAME", "from-env", 1);
	c = loaded("node: {name: mine}");
	assert_string_equal(c->node.name, "mine");
	config_free(c);
}

static char directory[] = "/tmp/penstock-config-XXXXXX";
static int enter_directory(void **state)
{
	return mkdtemp(directory) ? chdir(directory) : -1;
}
static int leave_directory(void **state)
{
	unlink("penstock.yaml");
	return chdir("/") < 0 || rmdir(directory) < 0 ? -1 : 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(every_key),
		cmocka_unit_test(what_is_printed_reads_back),
		cmocka_unit_test(the_print_of_the_defaults),
		cmocka_unit_test(values),
		cmocka_unit_test(every_mistake_has_its_line),
		cmocka_unit_test(files_that_cannot_be_read),
		cmocka_unit_test(the_node_has_a_name),
	};
	return cmocka_run_group_tests_name("config", tests, enter_directory, leave_directory);
}
