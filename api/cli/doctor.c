/* SPDX-License-Identifier: Apache-2.0 */
/* The status, read for what hinders. */
#include <stdio.h>
#include <string.h>
#include "agent/base/buffer.h"
#include "agent/base/mem.h"
#include "api/cli/cli.h"

#define NEARLY_FULL 0.8

struct findings {
	json_t *list; /* {check, ok, detail} */
	bool bad;
};

static void find(struct findings *f, bool ok, const char *check, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
static void find(struct findings *f, bool ok, const char *check, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	json_array_append_new(
		f->list, json_pack("{s:s, s:b, s:o}", "check", check, "ok", ok, "detail", json_vsprintf(format, arguments)));
	va_end(arguments);
	f->bad |= !ok;
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	return text ? text : "";
}

static bool true_of(const json_t *object, const char *key)
{
	return json_is_true(json_object_get(object, key));
}

static void check_agent(struct findings *f, const json_t *status)
{
	if (true_of(status, "ready"))
		find(f, true, "agent", "revision %lld is enforced",
			(long long)json_integer_value(json_object_get(status, "revision")));
	else
		find(f, false, "agent", "not ready: %s", text_of(status, "notReadyBecause"));
	size_t quarantined = json_array_size(json_object_get(status, "quarantined"));
	if (quarantined)
		find(f, false, "objects", "%zu set aside: penstock status names them", quarantined);
}

/* The engine is well if every trial of it passed, or none was made. */
static void check_engine(struct findings *f, const json_t *engine)
{
	const char *active = text_of(engine, "active");
	json_t *trial;
	size_t index, failed = 0;
	json_array_foreach(json_object_get(engine, "tried"), index, trial)
	{
		failed += strcmp(text_of(trial, "engine"), active) == 0 && !true_of(trial, "passed");
	}
	find(f, failed == 0, "engine", "%s (%s): %s", active, text_of(engine, "configured"), text_of(engine, "reason"));
	json_array_foreach(json_object_get(engine, "tried"), index, trial)
	{
		if (strcmp(text_of(trial, "engine"), active) == 0 && !true_of(trial, "passed"))
			find(f, false, "engine", "%s over %s: %s", text_of(trial, "protocol"), text_of(trial, "family"),
				text_of(trial, "detail"));
	}
}

static void check_handing_over(struct findings *f, const json_t *status)
{
	const json_t *table = json_object_get(json_object_get(status, "engine"), "table");
	const json_t *sockets = json_object_get(status, "originalDestination");
	if (true_of(table, "stands"))
		find(f, true, "table", "inet penstock of nftables stands");
	else
		find(f, false, "table", "inet penstock of nftables: %s", text_of(table, "reason"));
	if (true_of(sockets, "attached"))
		find(f, true, "sockets", "programs on sockets are attached: SO_ORIGINAL_DST is answered");
	else
		find(f, false, "sockets", "SO_ORIGINAL_DST is not answered: %s", text_of(sockets, "reason"));
}

static void check_proxies(struct findings *f, const json_t *proxies)
{
	json_t *proxy, *listener;
	size_t index, inner;
	json_array_foreach(proxies, index, proxy)
	{
		const char *name = text_of(proxy, "name");
		int port = (int)json_integer_value(json_object_get(proxy, "port"));
		if (true_of(proxy, "up"))
			find(f, true, "proxy", "%s: port %d is listened on", name, port);
		else
			find(f, false, "proxy", "%s: nobody usable listens on port %d for all of its protocols", name, port);
		json_array_foreach(json_object_get(proxy, "listeners"), inner, listener)
		{
			if (strcmp(text_of(listener, "state"), "Ignored") == 0 && !true_of(proxy, "up"))
				find(f, false, "proxy", "%s: a listener on %s is not used: %s", name, text_of(listener, "address"),
					text_of(listener, "why"));
		}
	}
}

static void check_hooks(struct findings *f, const json_t *status)
{
	json_t *element;
	size_t index, attached = 0;
	json_array_foreach(json_object_get(status, "hooks"), index, element)
	{
		if (json_object_get(element, "error"))
			find(f, false, "interfaces", "%s: %s", text_of(element, "interface"), text_of(element, "error"));
		else
			attached++;
	}
	find(f, true, "interfaces", "programs are attached to %zu", attached);
	json_array_foreach(json_object_get(status, "workloads"), index, element)
	{
		if (strcmp(text_of(element, "state"), "pending") == 0)
			find(f, false, "workloads", "%s %s/%s has no interface yet", text_of(element, "kind"),
				text_of(element, "namespace"), text_of(element, "name"));
	}
}

static void check_maps(struct findings *f, const json_t *maps)
{
	json_t *map;
	size_t index;
	bool full = false;
	json_array_foreach(maps, index, map)
	{
		long long entries = json_integer_value(json_object_get(map, "entries"));
		long long capacity = json_integer_value(json_object_get(map, "capacity"));
		if ((double)entries < NEARLY_FULL * (double)capacity)
			continue;
		full = true;
		find(f, false, "maps", "%s holds %lld of %lld entries", text_of(map, "map"), entries, capacity);
	}
	if (!full)
		find(f, true, "maps", "none is nearly full");
}

static void findings_print(const struct findings *f)
{
	json_t *one;
	size_t index;
	json_array_foreach(f->list, index, one)
	{
		printf("%s %-10s %s\n", true_of(one, "ok") ? "\xe2\x9c\x94" : "\xe2\x9c\x98", text_of(one, "check"),
			text_of(one, "detail"));
	}
}

int command_doctor(struct cli *cli)
{
	json_t *status = NULL;
	struct findings f = {0};
	if (cli->word_count)
		return cli_usage(cli, "what is %s?", cli->words[0]);
	int code = cli_call(cli, "GET", "/v1/status", NULL, NULL, "", &status);
	if (code)
		return code;
	f.list = json_array();
	check_agent(&f, status);
	check_hooks(&f, status);
	check_maps(&f, json_object_get(status, "maps"));
	check_engine(&f, json_object_get(status, "engine"));
	if (json_array_size(json_object_get(status, "proxies")))
		check_handing_over(&f, status);
	check_proxies(&f, json_object_get(status, "proxies"));
	if (cli->output == OUTPUT_TABLE)
		findings_print(&f);
	else
		cli_print(f.list, cli->output);
	json_decref(f.list);
	json_decref(status);
	return f.bad ? CODE_REFUSED : CODE_OK;
}
