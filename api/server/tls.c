/* SPDX-License-Identifier: Apache-2.0 */
#include "api/server/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/x509.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "agent/base/log.h"
#include "agent/base/mem.h"

#define FILE_MAX (4u << 20)
#define CHAIN_MAX 16
#define ORGANIZATIONS_MAX 64
#define CERTIFICATE "api.tcp.tls.certificate"
#define KEY "api.tcp.tls.key"
#define CLIENT_CA "api.tcp.tls.clientCA"

struct tls {
	atomic_uint references;
	gnutls_certificate_credentials_t credentials;
	bool asks; /* clients for a certificate */
};

struct tls *tls_get(struct tls *tls)
{
	atomic_fetch_add(&tls->references, 1);
	return tls;
}

void tls_put(struct tls *tls)
{
	if (!tls || atomic_fetch_sub(&tls->references, 1) > 1)
		return;
	gnutls_certificate_free_credentials(tls->credentials);
	free(tls);
}

/* ---- loading ---- */

static int refuse(struct error *e, const char *key, const char *file, const char *what)
{
	return error_set(e, ERROR_INVALID, EINVAL, key, "%s: %s", file, what);
}

/* The whole file, with a zero behind it; the caller wipes and frees. */
static int file_read(const char *file, const char *key, gnutls_datum_t *ret, struct error *e)
{
	struct stat status;
	auto_close int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &status) < 0)
		return refuse(e, key, file, strerror(errno));
	if (!S_ISREG(status.st_mode) || status.st_size > FILE_MAX)
		return refuse(e, key, file, "is no file of PEM");
	unsigned char *text = mem_alloc((size_t)status.st_size + 1);
	size_t length = 0;
	for (ssize_t got = 1; got > 0 && length<(size_t)status.st_size; length += got> 0 ? (size_t)got : 0)
		got = read(fd, text + length, (size_t)status.st_size - length);
	*ret = (gnutls_datum_t){text, (unsigned)length};
	return 0;
}

static void file_wipe(gnutls_datum_t *text)
{
	if (text->data)
		explicit_bzero(text->data, text->size);
	free(text->data);
}

/* Whether it can be read at all, which the pair does not tell; a certificate out of date is told. */
static int certificate_check(const char *file, const gnutls_datum_t *text, bool warn, struct error *e)
{
	gnutls_x509_crt_t *list = NULL;
	unsigned count = 0;
	int result = gnutls_x509_crt_list_import2(&list, &count, text, GNUTLS_X509_FMT_PEM, 0);
	if (result < 0 || !count)
		return refuse(e, CERTIFICATE, file, result < 0 ? gnutls_strerror(result) : "there is no certificate in it");
	time_t now = time(NULL), begins = gnutls_x509_crt_get_activation_time(list[0]);
	if (warn && (now < begins || now > gnutls_x509_crt_get_expiration_time(list[0])))
		log_warn("api", "%s: the certificate %s", file, now < begins ? "is not valid yet" : "has expired");
	for (unsigned at = 0; at < count; at++)
		gnutls_x509_crt_deinit(list[at]);
	gnutls_free(list);
	return 0;
}

static int pair_load(struct tls *tls, const char *certificate, const char *key, bool warn, struct error *e)
{
	gnutls_datum_t certificate_text = {0}, key_text = {0};
	int result = file_read(certificate, CERTIFICATE, &certificate_text, e);
	if (!result)
		result = file_read(key, KEY, &key_text, e);
	if (!result)
		result = certificate_check(certificate, &certificate_text, warn, e);
	if (!result) {
		int code = gnutls_certificate_set_x509_key_mem2(
			tls->credentials, &certificate_text, &key_text, GNUTLS_X509_FMT_PEM, NULL, 0);
		if (code == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
			result = refuse(e, KEY, key, "is not the key of the certificate");
		else if (code < 0)
			result = refuse(e, KEY, key, gnutls_strerror(code));
	}
	file_wipe(&certificate_text);
	file_wipe(&key_text);
	return result;
}

static int client_ca_load(struct tls *tls, const char *file, struct error *e)
{
	gnutls_datum_t text = {0};
	int result = file_read(file, CLIENT_CA, &text, e);
	if (result < 0)
		return result;
	int count = gnutls_certificate_set_x509_trust_mem(tls->credentials, &text, GNUTLS_X509_FMT_PEM);
	file_wipe(&text);
	if (count <= 0)
		return refuse(e, CLIENT_CA, file, count ? gnutls_strerror(count) : "there is no certificate in it");
	tls->asks = true;
	return 0;
}

int tls_load(
	const char *certificate, const char *key, const char *client_ca, bool warn, struct tls **ret, struct error *e)
{
	struct tls *tls = mem_alloc(sizeof(*tls));
	atomic_init(&tls->references, 1);
	if (gnutls_certificate_allocate_credentials(&tls->credentials) < 0)
		abort();
	int result = pair_load(tls, certificate, key, warn, e);
	if (!result && *client_ca)
		result = client_ca_load(tls, client_ca, e);
	if (result < 0) {
		tls_put(tls);
		return result;
	}
	*ret = tls;
	return 0;
}

/* ---- a session ---- */

void tls_begin(struct tls *tls, gnutls_session_t session)
{
	gnutls_credentials_clear(session);
	gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, tls->credentials);
	/* Asked for, not demanded: who has none may have a token, or ask for /healthz. */
	gnutls_certificate_server_set_request(session, tls->asks ? GNUTLS_CERT_REQUEST : GNUTLS_CERT_IGNORE);
}

static void chain_free(gnutls_x509_crt_t *chain, unsigned count)
{
	while (count)
		gnutls_x509_crt_deinit(chain[--count]);
}

/* How many of the peer's certificates there are; 0 when one cannot be read. */
static unsigned chain_read(const gnutls_datum_t *raw, unsigned count, gnutls_x509_crt_t chain[CHAIN_MAX])
{
	for (unsigned at = 0; at < count; at++) {
		gnutls_x509_crt_init(&chain[at]);
		if (gnutls_x509_crt_import(chain[at], &raw[at], GNUTLS_X509_FMT_DER) < 0) {
			chain_free(chain, at + 1);
			return 0;
		}
	}
	return count;
}

static bool chain_trusted(struct tls *tls, gnutls_x509_crt_t *chain, unsigned count, char why[TLS_WHY_MAX])
{
	gnutls_typed_vdata_st purpose = {
		GNUTLS_DT_KEY_PURPOSE_OID, (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT, 0};
	gnutls_x509_trust_list_t list;
	gnutls_datum_t text = {0};
	unsigned status = GNUTLS_CERT_INVALID;
	gnutls_certificate_get_trust_list(tls->credentials, &list);
	int result = gnutls_x509_trust_list_verify_crt2(list, chain, count, &purpose, 1, 0, &status, NULL);
	if (result == 0 && status == 0)
		return true;
	gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0);
	snprintf(why, TLS_WHY_MAX, "%s", result < 0 || !text.data ? gnutls_strerror(result) : (char *)text.data);
	why[strcspn(why, "\n")] = 0;
	gnutls_free(text.data);
	return false;
}

/* GnuTLS escapes a part as if a whole name were around it (RFC 4514): team\+prod. False when there is what only
 * stands as hexadecimal digits: control characters. */
static bool part_unescape(char *text)
{
	char *to = text;
	for (; *text; text++) {
		if (*text == '\\' && (!*++text || !strchr(" \"#+,;<=>\\", *text)))
			return false;
		*to++ = *text;
	}
	*to = 0;
	return true;
}

/* The name's part number `at`; false when there are no more, or none that is a text. */
static bool name_part(gnutls_x509_crt_t certificate, const char *oid, unsigned at, char *text, size_t size, bool *there)
{
	size_t length = size;
	int result = gnutls_x509_crt_get_dn_by_oid(certificate, oid, at, 0, text, &length);
	*there = result != GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE;
	return result == 0 && strlen(text) == length && part_unescape(text);
}

static enum role role_read(gnutls_x509_crt_t certificate)
{
	enum role role = ROLE_NONE;
	char text[256];
	bool there = true;
	for (unsigned at = 0; there && at < ORGANIZATIONS_MAX; at++) {
		if (!name_part(certificate, GNUTLS_OID_X520_ORGANIZATION_NAME, at, text, sizeof(text), &there))
			continue;
		if (!strcmp(text, "penstock:admin"))
			role = ROLE_ADMIN;
		else if (!strcmp(text, "penstock:viewer") && role == ROLE_NONE)
			role = ROLE_VIEWER;
	}
	return role;
}

static bool name_read(gnutls_x509_crt_t certificate, char *name, size_t size)
{
	char second[8];
	bool there;
	if (!name_part(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, name, size, &there) || !owner_valid(name))
		return false;
	name_part(certificate, GNUTLS_OID_X520_COMMON_NAME, 1, second, sizeof(second), &there);
	return !there; /* of two names, which is it? */
}

enum tls_peer tls_peer(struct tls *tls, gnutls_session_t session, struct identity *ret, char why[TLS_WHY_MAX])
{
	gnutls_x509_crt_t chain[CHAIN_MAX];
	unsigned count = 0;
	const gnutls_datum_t *raw = tls->asks ? gnutls_certificate_get_peers(session, &count) : NULL;
	*why = 0;
	if (!raw || !count)
		return TLS_PEER_NONE;
	count = count > CHAIN_MAX ? 0 : chain_read(raw, count, chain);
	enum tls_peer peer = TLS_PEER_NOBODY;
	if (!count) {
		peer = TLS_PEER_UNTRUSTED;
		snprintf(why, TLS_WHY_MAX, "it cannot be read");
	} else if (!chain_trusted(tls, chain, count, why)) {
		peer = TLS_PEER_UNTRUSTED;
	} else if ((ret->role = role_read(chain[0])) == ROLE_NONE) {
		snprintf(why, TLS_WHY_MAX, "its Organization is neither penstock:admin nor penstock:viewer");
	} else if (!name_read(chain[0], ret->name, sizeof(ret->name))) {
		snprintf(why, TLS_WHY_MAX, "its Common Name must be one, and " OWNER_WANTED);
	} else {
		peer = TLS_PEER_KNOWN;
	}
	chain_free(chain, count);
	return peer;
}
