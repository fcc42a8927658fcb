/* SPDX-License-Identifier: Apache-2.0 */
#include "api/cli/command.h"

#include <string.h>
#include "api/cli/cli.h"

#define FORMATS "table json yaml"

const struct option_row option_rows[] = {
	{'f', 'f', "file", "PATH", "file, directory, or - for standard input; may be repeated", "FILE"},
	{'g', 0, "filename", "PATH", "the same as --file", "FILE"},
	{'o', 0, "owner", "NAME", "write as this owner, default \"local\"", NULL},
	{'F', 0, "force", NULL, "take over objects of other owners", NULL},
	{'d', 0, "dry-run", NULL, "do everything but the change", NULL},
	{'q', 0, "quarantine", NULL, "set invalid objects aside and apply the others", NULL},
	{'n', 'n', "namespace", "NAME", "of this namespace; where a NAME is looked for, default \"default\"", NULL},
	{'A', 'A', "all-namespaces", NULL, "of every namespace, as without -n", NULL},
	{'l', 'l', "selector", "LABELS", "only with these labels, such as app=web,tier!=db", NULL},
	{'O', 'o', "output", "FORMAT", "table, json or yaml", FORMATS},
	{'G', 'o', "output", "FORMAT", "table, wide (more columns), json, yaml, or name (KIND/NAMESPACE/NAME)",
		"table wide json yaml name"},
	{'p', 0, "port", "N", "the destination's port; TCP, UDP and SCTP need one", NULL},
	{'t', 0, "protocol", "NAME", "TCP, UDP, SCTP or ICMP, default TCP", "TCP UDP SCTP ICMP"},
	{'y', 0, "family", "NAME", "IPv4 or IPv6, default IPv4 when both ends have an address", "IPv4 IPv6"},
	{'w', 0, "flow", "FILE", "a record, as of penstock flows --tail 1 -o json; - is standard input", "FILE"},
	{'x', 'o', "output", "FORMAT", "table, wide (more columns), json or yaml", "table wide json yaml"},
	{'W', 0, "workload", "NAME", "only of this workload, NAMESPACE/NAME, at either end", NULL},
	{'N', 'n', "namespace", "NAME", "only of this namespace; without it --workload NAME is default/NAME", NULL},
	{'v', 0, "verdict", "NAME",
		"only Forwarded, Intercepted, Dropped, Rejected or Audited;\nRefused is Dropped or Rejected",
		"Forwarded Intercepted Dropped Rejected Audited Refused"},
	{'T', 0, "protocol", "NAME", "only of this protocol: TCP, UDP, SCTP, ICMP, ICMPv6", "TCP UDP SCTP ICMP ICMPv6"},
	{'P', 0, "port", "N", "only to this port", NULL},
	{'i', 0, "ip", "ADDRESS", "only of this address, at either end", NULL},
	{'e', 'f', "follow", NULL, "go on with what comes, until interrupted", NULL},
	{'a', 0, "tail", "N", "how many of what is kept, the last ones; 0: all", NULL},
	{'c', 0, "color", "WHEN", "auto (on a terminal, unless $NO_COLOR is set), always or never", "auto always never"},
	{'I', 0, "interval", "SECONDS", "how long a rate is measured, and between frames: default 1", NULL},
	{'1', 0, "once", NULL, "print one frame as text, after one interval", NULL},
	{'E', 'o', "output", "FILE",
		"the archive, - for standard output\ndefault penstock-NODE-TIME.tar.gz in this directory", "FILE"},
	{'S', 0, "server", "URL",
		"the agent: unix:///PATH, a path, or https://ADDRESS:PORT; default\n"
		"$PENSTOCK_SERVER, else $PENSTOCK_SOCKET, else\n" SOCKET_DEFAULT,
		NULL},
	{'s', 0, "socket", "PATH", "the agent's unix socket, the same as --server PATH", "FILE"},
	{'B', 0, "ca", "FILE", "who signed the agent's certificate; default: whom the system trusts", "FILE"},
	{'C', 0, "cert", "FILE", "the client certificate, with --key", "FILE"},
	{'K', 0, "key", "FILE", "its key", "FILE"},
	{'k', 0, "token-file", "FILE", "the token: the first word in it", "FILE"},
	{'h', 'h', "help", NULL, "print this text", NULL},
	{'V', 0, "version", NULL, "print the version of this program", NULL},
	{0},
};

#define WRITES "oFd"

const struct command commands[] = {
	{"apply", "make objects as files say, in one transaction", "-f FILE|DIRECTORY|- [-f …] [options]",
		"Sends all objects of the files as one transaction: all are enforced when it returns, or none.\n"
		"Reads YAML streams and JSON, single objects and Lists; of a directory *.yaml, *.yml and *.json\n"
		"in the order of their names. What is refused is told with file, line and column.",
		NULL, "fg" WRITES "q", command_apply},
	{"diff", "show what apply would change", "-f FILE|DIRECTORY|- [-f …] [options]",
		"Asks the agent, which checks the objects and changes nothing. Of each object: created, changed or\n"
		"unchanged, and a unified diff of what the agent returns now and would then. Exits with 0 when\n"
		"nothing would change, with 1 when something would, and with more when that cannot be said.",
		NULL, "fgoFqc", command_diff},
	{"get", "show objects", "KIND[,KIND…] [NAME | NAMESPACE/NAME …] [options]",
		"Kinds by plural, singular or short name: namespaces (ns), nodes (no), pods (po), services (svc),\n"
		"endpointslices (eps), workloads (wl), networkpolicies (netpol), clusternetworkpolicies (cnp),\n"
		"transparentproxies (tproxy), interceptpolicies (icp), nodefilters (nf), cidrsets (cidrs), or all.",
		"KIND NAME", "nAlG", command_get},
	{"delete", "remove objects",
		"KIND NAME|NAMESPACE/NAME … [options]\n"
		"-f FILE|DIRECTORY|- [-f …] [options]",
		"With -f all objects of the files go in one transaction, and one that is not there is no error.", "KIND NAME",
		"fgn" WRITES, command_delete},
	{"explain", "say what would become of a connection, and why",
		"SOURCE DESTINATION [--port N] [options]\n"
		"--flow FILE|- [options]",
		"Asks the kernel's live tables. SOURCE and DESTINATION are NAMESPACE/NAME of a Pod or Workload, a\n"
		"NAME, or an IP address, also a Service's. With --flow: what was decided then, and what would be\n"
		"today.",
		"WORKLOAD", "wptynO", command_explain},
	{"flows", "show connections that came, went and were refused", "[filters] [-f] [--tail N] [options]",
		"The last 50, newest last; with --follow the last 10, then each as it comes, until it is interrupted.\n"
		"With -o json --follow gives a record a line.",
		NULL, "NWvTPieacx", command_flows},
	{"connections", "show the connections that there are now", "[filters] [options]", NULL, NULL, "NWvTPiacx",
		command_connections},
	{"alerts", "show what looked wrong", "[filters] [-f] [--tail N] [options]",
		"Port scans, floods, sudden refusals, proxies that are gone, tables that are nearly full. The last\n"
		"50, newest last; with --follow the last 10, then each as it comes.",
		NULL, "NWeacx", command_alerts},
	{"top", "watch what goes on, live", "[--interval SECONDS] [--once] [options]",
		"Packets, bytes, connections and verdicts a second, the rules and workloads with the most of them,\n"
		"proxies, and the alerts of the last five minutes. q ends it. Where the output is no terminal: one\n"
		"frame as text.",
		NULL, "I1c", command_top},
	{"status", "show what the agent does and how it is", "[options]", NULL, NULL, "cx", command_status},
	{"doctor", "say what hinders enforcement or interception, and how to mend it", "[options]",
		"A line each: \xe2\x9c\x94 it is well, ! look at it, \xe2\x9c\x98 it is not well; below it what mends it. "
		"Exits with 1 if\n"
		"anything is not well. The agent looks at its node every few seconds; which engine works it tries\n"
		"when the first proxy is wanted, at a start after that, and at every SIGHUP.",
		NULL, "Oc", command_doctor},
	{"export", "write one archive for a bug report", "[-o FILE.tar.gz]",
		"Version, status, every object, owners, metrics, the last 1000 flows, connections, alerts and what\n"
		"the doctor says, with a MANIFEST: what the agent tells over its API. There are no secrets in it,\n"
		"but names and addresses of workloads and of whom they talk to.",
		NULL, "E", command_export},
	{"completion", "print what completes command lines in a shell", "bash|zsh|fish",
		"bash:  source <(penstock completion bash)\n"
		"zsh:   source <(penstock completion zsh)\n"
		"fish:  penstock completion fish | source",
		"bash zsh fish", "", command_completion},
	{"version", "print the versions of this program and of the agent", "[options]", NULL, NULL, "", command_version},
	{0},
};

const struct exit_row exit_rows[] = {
	{"0", "done"},
	{"1", "refused by the agent; diff: something would change; doctor: something is not well"},
	{"2", "wrong usage or input; diff: also refused by the agent"},
	{"3", "the agent cannot be reached"},
	{0},
};

const struct exit_row environment_rows[] = {
	{"PENSTOCK_SERVER", "the agent, as --server says it"},
	{"PENSTOCK_SOCKET", "the path of the agent's socket, where PENSTOCK_SERVER is not set"},
	{"PENSTOCK_CA", "as --ca"},
	{"PENSTOCK_CERT", "as --cert"},
	{"PENSTOCK_KEY", "as --key"},
	{"PENSTOCK_TOKEN_FILE", "as --token-file"},
	{0},
};

const struct command *command_find(const char *name)
{
	for (const struct command *command = commands; command->name; command++)
		if (strcmp(command->name, name) == 0)
			return command;
	return NULL;
}

const struct option_row *option_by_key(char key)
{
	const struct option_row *row = option_rows;
	while (row->key && row->key != key)
		row++;
	return row;
}
