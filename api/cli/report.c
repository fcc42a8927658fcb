/* SPDX-License-Identifier: Apache-2.0 */
/* How answers are told: refusals, warnings, and where in which file they point to. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "agent/base/mem.h"
#include "api/cli/cli.h"
#include "api/cli/style.h"
#include "api/client/yaml_json.h"

int cli_usage(const struct cli *cli, const char *format, ...)
{
	va_list arguments;
	fputs("penstock: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, "\nTry: penstock%s%s --help\n", cli->command ? " " : "", cli->command ? cli->command->name : "");
	return CODE_USAGE;
}

int cli_error(const struct error *e)
{
	fprintf(stderr, "penstock: %s\n", e->detail);
	if (e->kind == ERROR_BUSY) /* nobody answered */
		fputs(strstr(e->detail, strerror(EACCES))
				  ? "Try: as root, or as a member of the socket's group (api.unixGroup)\n"
				  : "Try: is penstockd running here? Its log says why not\n",
			stderr);
	return e->kind == ERROR_BUSY || e->kind == ERROR_SYSTEM ? CODE_UNREACHABLE : CODE_USAGE;
}

static const char *text_of(const json_t *json, const char *member)
{
	const char *text = json_string_value(json_object_get(json, member));
	return text ? text : "";
}

/* "/apply/3/spec/port" → object 3 and "/spec/port"; NULL when the pointer leads elsewhere. */
static const struct manifest_object *find_object(
	const struct manifests *manifests, const char *array, const char *pointer, const char **rest)
{
	size_t length = strlen(array), index;
	int end = 0;
	if (!manifests || pointer[0] != '/' || strncmp(pointer + 1, array, length) != 0)
		return NULL;
	if (sscanf(pointer + 1 + length, "/%zu%n", &index, &end) != 1 || index >= manifests->object_count)
		return NULL;
	*rest = pointer + 1 + length + end;
	return &manifests->objects[index];
}

/* Where it is, as the user wrote it, and what is wrong; excerpt: with the line that it is about. */
static void tell(
	const json_t *error, const struct manifests *manifests, const char *array, const char *indent, bool excerpt)
{
	const char *pointer = text_of(error, "pointer"), *rest = pointer;
	const struct manifest_object *object = find_object(manifests, array, pointer, &rest);
	struct buffer line = {0};
	buffer_puts(&line, indent);
	if (object) {
		manifest_place(object, rest, &line);
		buffer_puts(&line, ": ");
	}
	text_clean(&line, rest);
	buffer_puts(&line, *rest ? ": " : "");
	text_clean(&line, text_of(error, "detail"));
	buffer_puts(&line, "\n");
	if (object && excerpt)
		manifest_excerpt(object, rest, indent, &line);
	fputs(line.data, stderr);
	buffer_free(&line);
}

static void tell_refusal(long status, const char *why)
{
	struct buffer line = {0};
	text_clean(&line, why);
	fprintf(stderr, "penstock: refused (%ld): %s\n", status, line.data ? line.data : "");
	buffer_free(&line);
}

static int refused(const struct answer *answer, const struct manifests *manifests, const char *array)
{
	json_t *problem = json_loadb(answer->body, answer->length, 0, NULL), *error;
	const json_t *errors = json_object_get(problem, "errors");
	const char *title = text_of(problem, "title"), *detail = text_of(problem, "detail");
	size_t index;
	if (!json_is_object(problem)) {
		fprintf(stderr, "penstock: refused with HTTP status %ld\n", answer->status);
	} else if (json_array_size(errors) == 1 && !*text_of(json_array_get(errors, 0), "pointer")) {
		tell_refusal(answer->status, text_of(json_array_get(errors, 0), "detail"));
	} else if (!json_array_size(errors)) {
		tell_refusal(answer->status, *detail ? detail : title);
	} else {
		tell_refusal(answer->status, title);
		json_array_foreach(errors, index, error) tell(error, manifests, array, "  ", true);
		/* detail tells of those that are not listed */
		if (strstr(detail, "are listed"))
			fprintf(stderr, "  %s\n", strrchr(detail, '(') ? strrchr(detail, '(') : detail);
	}
	if (answer->status == 409 && strstr(answer->body, "force=true"))
		fputs("Try: --force takes over what is another owner's; --owner NAME writes as that owner\n", stderr);
	json_decref(problem);
	return CODE_REFUSED;
}

int cli_refused(const struct answer *answer)
{
	return refused(answer, NULL, "");
}

int cli_call(struct cli *cli, const char *method, const char *path, const char *body, const struct manifests *manifests,
	const char *array, json_t **ret)
{
	struct answer answer;
	struct error e;
	json_error_t wrong;
	if (client_call(cli->client, method, path, body, body ? strlen(body) : 0, &answer, &e) < 0)
		return cli_error(&e);
	int code = CODE_OK;
	if (answer.status < 200 || answer.status > 299) {
		code = refused(&answer, manifests, array);
		answer_clear(&answer);
		return code;
	}
	*ret = json_loadb(answer.body, answer.length, 0, &wrong);
	if (!json_is_object(*ret)) {
		fprintf(stderr, "penstock: the agent's answer is not JSON: %s\n", *ret ? "no object" : wrong.text);
		code = CODE_UNREACHABLE;
		json_decref(*ret);
		*ret = NULL;
	}
	answer_clear(&answer);
	return code;
}

void cli_remarks(const json_t *answer, const struct manifests *manifests, const char *array)
{
	json_t *element, *error;
	size_t index, at;
	json_array_foreach(json_object_get(answer, "warnings"), index, element)
	{
		/* objects with a pointer, or plain sentences */
		if (json_is_string(element))
			fprintf(stderr, "warning: %s\n", json_string_value(element));
		else
			tell(element, manifests, array, "warning: ", false);
	}
	json_array_foreach(json_object_get(answer, "quarantined"), index, element)
	{
		const char *namespace = text_of(element, "namespace");
		fprintf(stderr, "quarantined: %s %s%s%s\n", text_of(element, "kind"), namespace, *namespace ? "/" : "",
			text_of(element, "name"));
		json_array_foreach(json_object_get(element, "errors"), at, error) tell(error, manifests, array, "  ", true);
	}
}

void cli_print(const json_t *json, enum output output)
{
	struct buffer text = {0};
	if (output == OUTPUT_YAML) {
		json_to_yaml(json, &text);
	} else {
		auto_free char *dump = json_dumps(json, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
		buffer_printf(&text, "%s\n", dump);
	}
	fputs(text.data, stdout);
	buffer_free(&text);
}
