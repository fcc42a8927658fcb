/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/config_tcp.h"

#include <errno.h>
#include <string.h>
#include "agent/base/addr.h"

#define LISTEN "api.tcp.listen"

/* "127.0.0.1:7641", "[::1]:7641": what value_listen takes. */
static bool is_loopback(const char *listen)
{
	static const struct ip one = {.bytes = {[15] = 1}, .family = 6};
	char host[ADDR_TEXT_MAX];
	const char *colon = strrchr(listen, ':');
	bool brackets = *listen == '[';
	size_t length = colon ? (size_t)(colon - listen) - 2 * brackets : sizeof host;
	struct ip ip;
	if (length >= sizeof host)
		return false;
	memcpy(host, listen + brackets, length);
	host[length] = 0;
	if (ip_parse(host, &ip) < 0)
		return false;
	return ip.family == 4 ? ip.bytes[12] == 127 : ip_equal(&ip, &one);
}

static int refuse(struct error *e, const char *key, const char *what)
{
	return error_set(e, ERROR_INVALID, EINVAL, key, "%s", what);
}

static int beyond_loopback_check(const struct config *config, struct error *e)
{
	if (!*config->api.tls_certificate && *config->api.token_file)
		return refuse(e, LISTEN,
			"is not a loopback address, and without TLS tokens could be read on the way: set "
			"api.tcp.tls.certificate and api.tcp.tls.key");
	if (!*config->api.tls_certificate)
		return refuse(e, LISTEN,
			"is not a loopback address: it needs TLS (api.tcp.tls.certificate, api.tcp.tls.key), "
			"and client certificates (api.tcp.tls.clientCA) or tokens (api.tcp.tokenFile)");
	if (!*config->api.tls_client_ca && !*config->api.token_file)
		return refuse(e, LISTEN,
			"is not a loopback address: it needs client certificates (api.tcp.tls.clientCA) or "
			"tokens (api.tcp.tokenFile)");
	return 0;
}

int config_tcp_check(const struct config *config, struct error *e)
{
	bool certificate = *config->api.tls_certificate, key = *config->api.tls_key;
	if (!*config->api.tcp_listen)
		return 0;
	if (certificate != key)
		return refuse(e, certificate ? "api.tcp.tls.certificate" : "api.tcp.tls.key",
			certificate ? "has no api.tcp.tls.key" : "has no api.tcp.tls.certificate");
	if (*config->api.tls_client_ca && !certificate)
		return refuse(e, "api.tcp.tls.clientCA", "means nothing without api.tcp.tls.certificate and api.tcp.tls.key");
	return is_loopback(config->api.tcp_listen) ? 0 : beyond_loopback_check(config, e);
}
