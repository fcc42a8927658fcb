/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/tokens.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"

#define DIGEST 32
#define HASHED "sha256:"
#define BLANK " \t\r\n"
#define LINE_BYTES 4096
#define GUESSABLE 16 /* a token that is shorter is told */

struct token {
	unsigned char digest[DIGEST];
	struct identity identity;
	unsigned line;
};

struct tokens {
	bool warn;
	struct token *list;
	size_t count, capacity;
};

static int hex_digit(char c)
{
	const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c | 0x20 : c) : NULL;
	return at ? (int)(at - digits) : -1;
}

static bool digest_parse(const char *hex, unsigned char digest[DIGEST])
{
	if (strlen(hex) != 2 * DIGEST)
		return false;
	for (size_t at = 0; at < DIGEST; at++) {
		int high = hex_digit(hex[2 * at]), low = hex_digit(hex[2 * at + 1]);
		if (high < 0 || low < 0)
			return false;
		digest[at] = (unsigned char)(high << 4 | low);
	}
	return true;
}

static bool digest_make(const char *text, size_t length, unsigned char digest[DIGEST])
{
	return gnutls_hash_fast(GNUTLS_DIG_SHA256, text, length, digest) == 0;
}

/* ---- reading ---- */

static const char *digest_read(const char *word, struct token *token)
{
	if (strncmp(word, HASHED, strlen(HASHED)) == 0)
		return digest_parse(word + strlen(HASHED), token->digest) ? NULL : HASHED " takes 64 hexadecimal digits";
	return digest_make(word, strlen(word), token->digest) ? NULL : "SHA-256 cannot be computed";
}

/* NULL, or what is wrong with the line. */
static const char *token_read(char *words[3], struct token *token)
{
	const char *wrong = digest_read(words[0], token);
	if (wrong)
		return wrong;
	if (!strcmp(words[1], "admin"))
		token->identity.role = ROLE_ADMIN;
	else if (!strcmp(words[1], "viewer"))
		token->identity.role = ROLE_VIEWER;
	else
		return "the role must be admin or viewer";
	if (!owner_valid(words[2]))
		return "the name must be " OWNER_WANTED;
	snprintf(token->identity.name, sizeof(token->identity.name), "%s", words[2]);
	return NULL;
}

static int refuse(struct error *e, const char *file, unsigned line, const char *what)
{
	return error_set(e, ERROR_INVALID, EINVAL, NULL, "%s:%u: %s", file, line, what);
}

static int token_add(struct tokens *tokens, const char *file, const struct token *token, struct error *e)
{
	char what[64];
	for (size_t at = 0; at < tokens->count; at++) {
		if (memcmp(tokens->list[at].digest, token->digest, DIGEST))
			continue;
		snprintf(what, sizeof(what), "this token stands in line %u already", tokens->list[at].line);
		return refuse(e, file, token->line, what);
	}
	tokens->list = list_room(tokens->list, tokens->count, &tokens->capacity, sizeof(*tokens->list));
	tokens->list[tokens->count++] = *token;
	return 0;
}

static int line_read(struct tokens *tokens, const char *file, unsigned number, char *text, struct error *e)
{
	char *words[4] = {0}, *rest = NULL;
	struct token token = {.line = number};
	size_t count = 0;
	for (char *word = strtok_r(text, BLANK, &rest); word && count < 4; word = strtok_r(NULL, BLANK, &rest))
		words[count++] = word;
	if (!count || *words[0] == '#')
		return 0;
	if (count != 3)
		return refuse(e, file, number, "a line is TOKEN ROLE NAME, or " HASHED "HEX ROLE NAME");
	const char *wrong = token_read(words, &token);
	if (wrong)
		return refuse(e, file, number, wrong);
	if (tokens->warn && strncmp(words[0], HASHED, strlen(HASHED)) != 0 && strlen(words[0]) < GUESSABLE)
		log_warn("api", "%s:%u: the token of %s has fewer than %d characters and can be guessed (openssl rand -hex 32)",
			file, number, token.identity.name, GUESSABLE);
	return token_add(tokens, file, &token, e);
}

static int lines_read(struct tokens *tokens, const char *file, FILE *stream, struct error *e)
{
	char text[LINE_BYTES];
	int result = 0;
	unsigned number = 0;
	while (!result && fgets(text, sizeof(text), stream)) {
		number++;
		/* A line that is too long, or one with a zero byte, has no end. */
		if (!strchr(text, '\n') && !feof(stream))
			result = refuse(e, file, number, "the line is too long, or holds a zero byte");
		else
			result = line_read(tokens, file, number, text, e);
	}
	explicit_bzero(text, sizeof(text));
	if (!result && ferror(stream))
		return error_system(e, errno, "cannot read %s", file);
	return result;
}

int tokens_load(const char *file, bool warn, struct tokens **ret, struct error *e)
{
	struct stat status;
	auto_close int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without a writer would be waited for */
	FILE *stream = fd < 0 || fstat(fd, &status) < 0 ? NULL : fdopen(fd, "r");
	if (!stream)
		return error_system(e, errno, "cannot read %s", file);
	steal_fd(&fd);
	struct tokens *tokens = mem_alloc(sizeof(*tokens));
	tokens->warn = warn;
	char buffer[LINE_BYTES];
	int result;
	setvbuf(stream, buffer, _IOFBF, sizeof(buffer)); /* ours, so that it can be wiped */
	if (!S_ISREG(status.st_mode))
		result = error_set(e, ERROR_INVALID, EINVAL, NULL, "%s is no file", file);
	else if (status.st_mode & S_IROTH)
		result = error_set(e, ERROR_INVALID, EACCES, NULL,
			"%s can be read by everybody (mode %04o): tokens are secrets, chmod 0600", file, status.st_mode & 07777);
	else if (!status.st_size)
		result = error_set(e, ERROR_INVALID, EINVAL, NULL, "%s is empty", file);
	else
		result = lines_read(tokens, file, stream, e);
	fclose(stream);
	explicit_bzero(buffer, sizeof(buffer));
	if (result < 0) {
		tokens_free(tokens);
		return result;
	}
	*ret = tokens;
	return 0;
}

void tokens_free(struct tokens *tokens)
{
	if (!tokens)
		return;
	free(tokens->list);
	free(tokens);
}

size_t tokens_count(const struct tokens *tokens)
{
	return tokens->count;
}

/* ---- asking ---- */

bool tokens_find(const struct tokens *tokens, const char *text, size_t length, struct identity *ret)
{
	unsigned char digest[DIGEST];
	const struct token *found = NULL;
	if (!digest_make(text, length, digest))
		return false;
	for (size_t at = 0; at < tokens->count; at++) {
		bool same = gnutls_memcmp(tokens->list[at].digest, digest, DIGEST) == 0;
		found = same ? &tokens->list[at] : found;
	}
	if (found)
		*ret = found->identity;
	return found;
}
