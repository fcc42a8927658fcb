/* SPDX-License-Identifier: Apache-2.0 */
/* kubectl's -l syntax: k=v, k==v, k!=v, k in (a,b), k notin (a,b), k, !k; all of them, separated by commas. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/base/mem.h"
#include "agent/model/check.h"
#include "agent/model/decode.h"
#include "agent/model/selector.h"

#define WORD_MAX 384 /* more than the longest key: 253 + 1 + 63 */

struct cursor {
	const char *text, *at;
	struct error *e;
};

static int syntax(struct cursor *c, const char *what)
{
	return error_set(
		c->e, ERROR_INVALID, EINVAL, "", "labelSelector, character %zu: %s", (size_t)(c->at - c->text) + 1, what);
}

static void spaces(struct cursor *c)
{
	c->at += strspn(c->at, " \t\r\n");
}

static bool accept(struct cursor *c, const char *token)
{
	spaces(c);
	if (strncmp(c->at, token, strlen(token)))
		return false;
	c->at += strlen(token);
	return true;
}

/* Up to a separator; may be empty. */
static int word(struct cursor *c, char ret[WORD_MAX])
{
	spaces(c);
	size_t length = strcspn(c->at, " \t\r\n,=!()<>");
	if (length >= WORD_MAX)
		return syntax(c, "too long");
	memcpy(ret, c->at, length);
	ret[length] = 0;
	c->at += length;
	return 0;
}

static int key_read(struct cursor *c, char key[WORD_MAX])
{
	spaces(c);
	const char *start = c->at, *why = NULL;
	int status = word(c, key);
	if (status)
		return status;
	if (*key && !(why = label_key_wrong(key)))
		return 0;
	c->at = start;
	return syntax(c, *key ? why : "a label key is wanted here");
}

static int value_read(struct cursor *c, struct requirement *requirement)
{
	char value[WORD_MAX];
	spaces(c);
	const char *start = c->at;
	int status = word(c, value);
	if (status)
		return status;
	const char *why = label_value_wrong(value);
	if (why) {
		c->at = start;
		return syntax(c, why);
	}
	requirement_value(requirement, value);
	return 0;
}

static int values_read(struct cursor *c, struct requirement *requirement)
{
	if (!accept(c, "("))
		return syntax(c, "'(' is wanted here");
	do {
		int status = value_read(c, requirement);
		if (status)
			return status;
	} while (accept(c, ","));
	return accept(c, ")") ? 0 : syntax(c, "',' or ')' is wanted here");
}

static int requirement_read(struct cursor *c, struct selector *selector)
{
	char key[WORD_MAX], operator[WORD_MAX];
	int status;
	if (accept(c, "!")) {
		if ((status = key_read(c, key)))
			return status;
		selector_add(selector, key, SELECTOR_DOES_NOT_EXIST);
		return 0;
	}
	if ((status = key_read(c, key)))
		return status;
	if (accept(c, "!="))
		return value_read(c, selector_add(selector, key, SELECTOR_NOT_IN));
	if (accept(c, "==") || accept(c, "="))
		return value_read(c, selector_add(selector, key, SELECTOR_IN));
	spaces(c);
	const char *start = c->at;
	if ((status = word(c, operator)))
		return status;
	if (!strcmp(operator, "in"))
		return values_read(c, selector_add(selector, key, SELECTOR_IN));
	if (!strcmp(operator, "notin"))
		return values_read(c, selector_add(selector, key, SELECTOR_NOT_IN));
	c->at = start;
	if (*operator)
		return syntax(c, "one of =, ==, !=, in, notin or ',' is wanted here");
	selector_add(selector, key, SELECTOR_EXISTS);
	return 0;
}

int selector_parse(const char *text, struct selector **ret, struct error *e)
{
	struct cursor c = {text, text, e};
	struct selector *selector = selector_new();
	int status = 0;
	spaces(&c);
	while (*c.at && !status) {
		status = requirement_read(&c, selector);
		spaces(&c);
		if (status || !*c.at)
			break;
		if (!accept(&c, ","))
			status = syntax(&c, "',' is wanted here");
		else if (spaces(&c), !*c.at)
			status = syntax(&c, "a label key is wanted here");
	}
	if (status) {
		selector_free(selector);
		return status;
	}
	selector_finish(selector);
	*ret = selector;
	return 0;
}
