/* SPDX-License-Identifier: Apache-2.0 */
/* penstock: the command line, a client of the agent's API. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agent/base/mem.h"
#include "api/cli/cli.h"

#define SOCKET_DEFAULT "/run/penstock/penstock.sock"
#define COMMON "sh" /* options that every command takes */

#define HELP_COMMON                                                                                     \
	"  --socket PATH           the agent's socket, default $PENSTOCK_SOCKET, else " SOCKET_DEFAULT "\n" \
	"  -h, --help              print this text\n"
#define HELP_WRITE                                                       \
	"  --owner NAME            write as this owner, default \"local\"\n" \
	"  --force                 take over objects of other owners\n"      \
	"  --dry-run               do everything but the change\n"

static const struct command commands[] = {
	{"apply", "make objects as files say, in one transaction",
		"usage: penstock apply -f FILE|DIRECTORY|- [-f …] [options]\n\n"
		"Sends all objects of the files as one transaction: all of them are enforced when it returns, or none.\n"
		"Reads YAML streams and JSON, single objects and Lists; of a directory *.yaml, *.yml and *.json by name.\n\n"
		"  -f, --file PATH         file, directory, or - for standard input; may be repeated\n" HELP_WRITE
		"  --quarantine            set invalid objects aside and apply the others\n" HELP_COMMON,
		"foFdq", command_apply},
	{"get", "show objects",
		"usage: penstock get KIND[,KIND…] [NAME | NAMESPACE/NAME …] [options]\n\n"
		"Kinds by plural, singular or short name: namespaces (ns), nodes (no), pods (po), services (svc),\n"
		"endpointslices (eps), workloads (wl), networkpolicies (netpol), clusternetworkpolicies (cnp),\n"
		"transparentproxies (tproxy), interceptpolicies (icp), nodefilters (nf), cidrsets (cidrs), or all.\n\n"
		"  -n, --namespace NAME    only of this namespace; for a NAME the default is \"default\"\n"
		"  -l, --selector LABELS   only with these labels, such as app=web,tier!=db\n"
		"  -o, --output FORMAT     table, json or yaml\n" HELP_COMMON,
		"nlO", command_get},
	{"delete", "remove objects",
		"usage: penstock delete KIND NAME|NAMESPACE/NAME … [options]\n"
		"       penstock delete -f FILE|DIRECTORY|- [-f …] [options]\n\n"
		"With -f all objects of the files go in one transaction, and one that is not there is no error.\n\n"
		"  -f, --file PATH         file, directory, or - for standard input; may be repeated\n"
		"  -n, --namespace NAME    where NAME is, default \"default\"\n" HELP_WRITE HELP_COMMON,
		"fnoFd", command_delete},
	{"explain", "say what would become of a connection, and why",
		"usage: penstock explain SOURCE DESTINATION [--port N] [options]\n"
		"       penstock explain --flow FILE|- [options]\n\n"
		"Asks the kernel's live tables. SOURCE and DESTINATION are NAMESPACE/NAME of a Pod or Workload, a NAME, or an\n"
		"IP address, also a Service's. With --flow: what was decided then, and what would be today.\n\n"
		"  --flow FILE         a flow record, as JSON; - is standard input\n"
		"  --port N                the destination's port; TCP, UDP and SCTP need one\n"
		"  --protocol NAME         TCP, UDP, SCTP or ICMP, default TCP\n"
		"  --family NAME           IPv4 or IPv6, default IPv4 when both ends have an address\n"
		"  -n, --namespace NAME    where a NAME is, default \"default\"\n"
		"  -o, --output FORMAT     table, json or yaml\n" HELP_COMMON,
		"ptynOw", command_explain},
	{"status", "show what the agent does and how it is",
		"usage: penstock status [options]\n\n"
		"  -o, --output FORMAT     table, json or yaml\n" HELP_COMMON,
		"O", command_status},
	{"doctor", "say what hinders enforcement or interception",
		"usage: penstock doctor [options]\n\n"
		"A line each: \xe2\x9c\x94 it is well, \xe2\x9c\x98 it is not, and why. Exits with 1 if anything is not.\n"
		"What the agent tried of engines is what it says in its status; SIGHUP makes it try again.\n\n"
		"  -o, --output FORMAT     table, json or yaml\n" HELP_COMMON,
		"O", command_doctor},
	{"version", "print the versions of this program and of the agent",
		"usage: penstock version [options]\n\n" HELP_COMMON, "", command_version},
};
#define COMMANDS (sizeof commands / sizeof commands[0])

static const struct option options[] = {
	{"file", required_argument, NULL, 'f'},
	{"filename", required_argument, NULL, 'f'},
	{"owner", required_argument, NULL, 'o'},
	{"force", no_argument, NULL, 'F'},
	{"dry-run", no_argument, NULL, 'd'},
	{"quarantine", no_argument, NULL, 'q'},
	{"namespace", required_argument, NULL, 'n'},
	{"selector", required_argument, NULL, 'l'},
	{"output", required_argument, NULL, 'O'},
	{"port", required_argument, NULL, 'p'},
	{"protocol", required_argument, NULL, 't'},
	{"family", required_argument, NULL, 'y'},
	{"flow", required_argument, NULL, 'w'},
	{"socket", required_argument, NULL, 's'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'v'},
	{0},
};

static void print_help(FILE *out)
{
	fputs("usage: penstock COMMAND [options]\n\n", out);
	for (size_t at = 0; at < COMMANDS; at++)
		fprintf(out, "  %-9s %s\n", commands[at].name, commands[at].summary);
	fputs("\n" HELP_COMMON "  --version               print the version of this program\n\n"
		  "penstock COMMAND --help says more. Exit codes: 0 done, 1 refused by the agent (doctor: something\n"
		  "is not well), 2 wrong usage or input, 3 the agent cannot be reached.\n",
		out);
}

static int set_output(struct cli *cli, const char *text)
{
	static const char *const names[] = {"table", "json", "yaml"};
	for (int at = 0; at < 3; at++) {
		if (strcmp(text, names[at]) == 0) {
			cli->output = at;
			return 0;
		}
	}
	return cli_usage(cli, "the output is table, json or yaml, not %s", text);
}

static void add_file(struct cli *cli, const char *file)
{
	size_t count = 0;
	while (cli->files[count])
		count++;
	cli->files = mem_resize(cli->files, count + 2, sizeof *cli->files);
	cli->files[count] = file;
	cli->files[count + 1] = NULL;
}

/* -1: go on. Otherwise the exit code. */
static int set_option(struct cli *cli, int option)
{
	switch (option) {
	case 'f':
		add_file(cli, optarg);
		break;
	case 'o':
		cli->owner = optarg;
		break;
	case 'F':
		cli->force = true;
		break;
	case 'd':
		cli->dry_run = true;
		break;
	case 'q':
		cli->quarantine = true;
		break;
	case 'n':
		cli->namespace = optarg;
		break;
	case 'l':
		cli->selector = optarg;
		break;
	case 'O':
		return set_output(cli, optarg) ? CODE_USAGE : -1;
	case 'p':
		cli->port = optarg;
		break;
	case 't':
		cli->protocol = optarg;
		break;
	case 'y':
		cli->family = optarg;
		break;
	case 'w':
		cli->flow = optarg;
		break;
	case 's':
		cli->socket = optarg;
		break;
	case 'v':
		puts("penstock " PENSTOCK_VERSION " (" PENSTOCK_COMMIT ")");
		return CODE_OK;
	case 'h':
		if (cli->command)
			fputs(cli->command->usage, stdout);
		else
			print_help(stdout);
		return CODE_OK;
	}
	return -1;
}

/* -1: go on. The letters are those of getopt's table, where "o" is --owner; the short -o is --output. */
static int parse(struct cli *cli, int argc, char **argv, const char *letters, const char *shorts)
{
	opterr = 0;
	for (;;) {
		int index = -1, option = getopt_long(argc, argv, shorts, options, &index);
		if (option == -1)
			return -1;
		const char *given = argv[optind - 1];
		if (option == ':')
			return cli_usage(cli, "%s needs a value", given);
		if (option == 'o' && index < 0)
			option = 'O';
		if (option == '?')
			return cli_usage(cli, "there is no option %s", given);
		if (!strchr(letters, option))
			return cli_usage(cli, "%s takes no option %s%s", cli->command ? cli->command->name : "penstock itself",
				index < 0 ? "-" : "--", index < 0 ? (char[]){option == 'O' ? 'o' : option, 0} : options[index].name);
		int code = set_option(cli, option);
		if (code >= 0)
			return code;
	}
}

static int run(struct cli *cli, int argc, char **argv)
{
	int code = parse(cli, argc, argv, COMMON "v", "+:h");
	if (code >= 0)
		return code;
	if (optind == argc) {
		print_help(stderr);
		return CODE_USAGE;
	}
	const char *name = argv[optind];
	for (size_t at = 0; at < COMMANDS; at++)
		if (strcmp(commands[at].name, name) == 0)
			cli->command = &commands[at];
	if (!cli->command)
		return cli_usage(cli, "there is no command %s", name);
	auto_free char *letters = str_format(COMMON "%s", cli->command->options);
	argc -= optind;
	argv += optind;
	optind = 0; /* glibc: from the start again */
	code = parse(cli, argc, argv, letters, ":f:n:l:o:h");
	if (code >= 0)
		return code;
	cli->words = argv + optind;
	cli->word_count = argc - optind;
	cli->client = client_new(cli->socket);
	code = cli->command->run(cli);
	client_free(cli->client);
	return code;
}

int main(int argc, char **argv)
{
	const char *environment = getenv("PENSTOCK_SOCKET");
	struct cli cli = {.socket = environment && *environment ? environment : SOCKET_DEFAULT};
	cli.files = mem_alloc(sizeof *cli.files);
	int code = run(&cli, argc, argv);
	free(cli.files);
	/* A full disk behind `get > file` must not look like success. */
	if (fflush(stdout) != 0 && code == CODE_OK) {
		perror("penstock: standard output");
		code = CODE_USAGE;
	}
	return code;
}
