/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/credentials.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "agent/base/log.h"

#define LOOK_SECONDS 1
#define TOKEN_FILE "api.tcp.tokenFile"

static const char *file_path(const struct credentials *credentials, enum credential_file which)
{
	const struct server_tcp *files = &credentials->files;
	switch (which) {
	case FILE_CERTIFICATE:
		return files->certificate;
	case FILE_KEY:
		return files->key;
	case FILE_CLIENT_CA:
		return files->client_ca;
	default:
		return files->token_file;
	}
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* Whether it is another file than the one last seen, or has other contents; remembers it. A Secret's files are links,
 * and change as a whole. */
static bool file_changed(struct credentials *credentials, enum credential_file which)
{
	struct stat now = {0}, *seen = &credentials->seen[which];
	const char *path = file_path(credentials, which);
	if (!*path)
		return false;
	if (stat(path, &now) < 0)
		now = (struct stat){0};
	bool same = now.st_dev == seen->st_dev && now.st_ino == seen->st_ino && now.st_size == seen->st_size &&
				now.st_mode == seen->st_mode && same_time(now.st_mtim, seen->st_mtim) &&
				same_time(now.st_ctim, seen->st_ctim);
	*seen = now;
	return !same;
}

/* ---- reading: with `loading` held ---- */

static int tls_read(struct credentials *credentials, struct error *e)
{
	const struct server_tcp *files = &credentials->files;
	struct tls *fresh, *old;
	if (!*files->certificate)
		return 0;
	int result = tls_load(files->certificate, files->key, files->client_ca, credentials->warn, &fresh, e);
	if (result < 0)
		return result;
	if (credentials->warn && credentials->seen[FILE_KEY].st_mode & S_IROTH)
		log_warn("api", "%s can be read by everybody (mode %04o): it is a secret, chmod 0600", files->key,
			credentials->seen[FILE_KEY].st_mode & 07777);
	pthread_mutex_lock(&credentials->lock);
	old = credentials->tls;
	credentials->tls = fresh;
	credentials->generation++;
	pthread_mutex_unlock(&credentials->lock);
	tls_put(old);
	return 0;
}

static int tokens_read(struct credentials *credentials, struct error *e)
{
	struct tokens *fresh, *old;
	if (!*credentials->files.token_file)
		return 0;
	int result = tokens_load(credentials->files.token_file, credentials->warn, &fresh, e);
	if (result < 0) {
		snprintf(e->path, sizeof(e->path), TOKEN_FILE);
		return result;
	}
	if (credentials->warn && !tokens_count(fresh))
		log_warn("api", "%s: there is no token in it", credentials->files.token_file);
	pthread_mutex_lock(&credentials->lock);
	old = credentials->tokens;
	credentials->tokens = fresh;
	pthread_mutex_unlock(&credentials->lock);
	tokens_free(old);
	return 0;
}

static void read_again(
	int (*read)(struct credentials *, struct error *), struct credentials *credentials, const char *what)
{
	struct error e = {0};
	if (read(credentials, &e) < 0)
		log_error("api", "%s: %s; what was read before stays in force", e.path, e.detail);
	else
		log_info("api", "read the %s of the TCP listener again", what);
}

static void look(struct credentials *credentials, bool all)
{
	pthread_mutex_lock(&credentials->loading);
	bool tls = file_changed(credentials, FILE_CERTIFICATE);
	tls |= file_changed(credentials, FILE_KEY);
	tls |= file_changed(credentials, FILE_CLIENT_CA);
	bool tokens = file_changed(credentials, FILE_TOKENS);
	if ((tls || all) && *credentials->files.certificate)
		read_again(tls_read, credentials, "certificates");
	if ((tokens || all) && *credentials->files.token_file)
		read_again(tokens_read, credentials, "tokens");
	pthread_mutex_unlock(&credentials->loading);
}

void credentials_reload(struct credentials *credentials)
{
	look(credentials, true);
}

/* ---- watching ---- */

static void *watch_run(void *argument)
{
	struct credentials *credentials = argument;
	pthread_mutex_lock(&credentials->lock);
	while (!credentials->stop) {
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += LOOK_SECONDS;
		if (pthread_cond_timedwait(&credentials->wake, &credentials->lock, &until) != ETIMEDOUT)
			continue;
		pthread_mutex_unlock(&credentials->lock);
		look(credentials, false);
		pthread_mutex_lock(&credentials->lock);
	}
	pthread_mutex_unlock(&credentials->lock);
	return NULL;
}

int credentials_watch(struct credentials *credentials)
{
	int result = pthread_create(&credentials->thread, NULL, watch_run, credentials);
	credentials->running = !result;
	return -result;
}

int credentials_open(struct credentials *credentials, const struct server_tcp *files, bool warn, struct error *e)
{
	pthread_condattr_t attributes;
	credentials->files = *files;
	credentials->warn = warn;
	pthread_mutex_init(&credentials->loading, NULL);
	pthread_mutex_init(&credentials->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&credentials->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	for (int which = 0; which < FILE_COUNT; which++)
		file_changed(credentials, which);
	int result = tls_read(credentials, e);
	if (!result)
		result = tokens_read(credentials, e);
	return result;
}

void credentials_close(struct credentials *credentials)
{
	if (!credentials->files.listen)
		return;
	if (credentials->running) {
		pthread_mutex_lock(&credentials->lock);
		credentials->stop = true;
		pthread_cond_signal(&credentials->wake);
		pthread_mutex_unlock(&credentials->lock);
		pthread_join(credentials->thread, NULL);
	}
	tls_put(credentials->tls);
	tokens_free(credentials->tokens);
	pthread_cond_destroy(&credentials->wake);
	pthread_mutex_destroy(&credentials->lock);
	pthread_mutex_destroy(&credentials->loading);
}

int server_tcp_check(const struct server_tcp *tcp, bool warn, struct error *e)
{
	struct credentials credentials = {0};
	if (!tcp->listen || !*tcp->listen)
		return 0;
	int result = credentials_open(&credentials, tcp, warn, e);
	credentials_close(&credentials);
	return result;
}

/* ---- asking ---- */

struct tls *credentials_tls(struct credentials *credentials, uint64_t *generation)
{
	pthread_mutex_lock(&credentials->lock);
	struct tls *tls = credentials->tls ? tls_get(credentials->tls) : NULL;
	*generation = credentials->generation;
	pthread_mutex_unlock(&credentials->lock);
	return tls;
}

bool credentials_token(struct credentials *credentials, const char *text, size_t length, struct identity *ret)
{
	pthread_mutex_lock(&credentials->lock);
	bool found = credentials->tokens && tokens_find(credentials->tokens, text, length, ret);
	pthread_mutex_unlock(&credentials->lock);
	return found;
}
