/* SPDX-License-Identifier: Apache-2.0 */
/* Which listeners a proxy may use, from what sock_diag and /proc would have told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "agent/datapath/datapath.h"
#include "agent/datapath/listeners.h"

#define TCP PROTOCOL_TCP
#define UDP PROTOCOL_UDP

/* As the socket's family has it: mapped addresses stay family 6. */
static struct ip bound_to(const char *text)
{
	uint8_t bytes[16];
	uint32_t word;
	if (inet_pton(AF_INET, text, &word) == 1)
		return ip_from_v4(word);
	assert_int_equal(inet_pton(AF_INET6, text, bytes), 1);
	return ip_from_v6(bytes);
}

static void addresses_that_connections_reach(void **state)
{
	static const struct {
		const char *address;
		bool reachable, v4, v6;
	} cases[] = {
		{"127.0.0.1", true, true, false},
		{"0.0.0.0", true, true, false},
		{"::1", true, false, true},
		{"::", true, true, true},
		{"::ffff:127.0.0.1", true, true, false},
		{"::ffff:0.0.0.0", true, true, false},
		{"127.0.0.2", false, false, false},
		{"10.0.0.1", false, false, false},
		{"::2", false, false, false},
		{"::ffff:10.0.0.1", false, false, false},
		{"::127.0.0.1", false, false, false},
		{"1::1", false, false, false},
		{"fe80::1", false, false, false},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char why[WHY_MAX] = "";
		struct heard heard = {.ip = bound_to(cases[i].address)};
		if (listener_reachable(&heard, why) != cases[i].reachable)
			fail_msg("%s: %s", cases[i].address, why);
		if (!cases[i].reachable)
			assert_non_null(strstr(why, "connections are offered to"));
		struct listener_status status = {.ip = heard.ip, .protocol = TCP, .state = LISTENER_ADOPTED};
		status.state = cases[i].reachable ? LISTENER_ADOPTED : LISTENER_IGNORED;
		if (listener_takes(&status, TCP, 4) != cases[i].v4 || listener_takes(&status, TCP, 6) != cases[i].v6)
			fail_msg("%s: families", cases[i].address);
	}
	struct listener_status only = {.ip = bound_to("::"), .protocol = TCP, .v6only = true, .state = LISTENER_READY};
	assert_true(listener_takes(&only, TCP, 6));
	assert_false(listener_takes(&only, TCP, 4));
	assert_false(listener_takes(&only, UDP, 6));

	char why[WHY_MAX];
	struct heard bound = {.ip = bound_to("127.0.0.1"), .device = 3};
	assert_false(listener_reachable(&bound, why));
	assert_non_null(strstr(why, "SO_BINDTODEVICE, ifindex 3"));
}

/* From these a UDP proxy answers: the original destination's address, with the proxy's port by chance. */
static void answers_are_no_listeners(void **state)
{
	static const struct {
		const char *address;
		uint8_t protocol;
		bool transparent, answers;
	} cases[] = {
		{"10.0.0.1", UDP, true, true},
		{"2001:db8::1", UDP, true, true},
		{"127.0.0.2", UDP, true, true},
		{"10.0.0.1", UDP, false, false},
		{"10.0.0.1", TCP, true, false},
		{"127.0.0.1", UDP, true, false},
		{"::1", UDP, true, false},
		{"0.0.0.0", UDP, true, false},
		{"::", UDP, true, false},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct heard heard = {
			.ip = bound_to(cases[i].address), .protocol = cases[i].protocol, .transparent = cases[i].transparent};
		if (listener_answers(&heard) != cases[i].answers)
			fail_msg("%s", cases[i].address);
	}
}

static void each_protocol_has_its_listeners(void **state)
{
	struct listener_status list[] = {
		{.proxy = "gw", .ip = bound_to("127.0.0.1"), .protocol = TCP, .state = LISTENER_ADOPTED},
		{.proxy = "gw", .ip = bound_to("::"), .protocol = UDP, .state = LISTENER_IGNORED},
		{.proxy = "other", .ip = bound_to("::"), .protocol = UDP, .state = LISTENER_READY},
	};
	struct proxy tcp = {.tcp = true}, udp = {.udp = true}, both = {.tcp = true, .udp = true};
	assert_int_equal(listeners_families(list, 3, "gw", TCP), LISTENERS_IPV4);
	assert_int_equal(listeners_families(list, 3, "gw", UDP), 0);
	assert_int_equal(listeners_families(list, 3, "other", UDP), LISTENERS_IPV4 | LISTENERS_IPV6);
	assert_true(listeners_serve(list, 3, "gw", &tcp));
	assert_false(listeners_serve(list, 3, "gw", &udp));
	assert_false(listeners_serve(list, 3, "gw", &both));
	assert_true(listener_hears(&list[1], UDP, 6));
	assert_false(listener_hears(&list[1], TCP, 6));
	list[1].state = LISTENER_READY;
	assert_true(listeners_serve(list, 3, "gw", &both));
	assert_false(listeners_serve(list, 3, "gw2", &both));
}

static void cgroups_by_their_components(void **state)
{
	static const struct {
		const char *cgroup, *top;
		bool below;
	} cases[] = {
		{"/system.slice/x.service", "system.slice/x.service", true},
		{"/system.slice/x.service", "/system.slice/x.service/", true},
		{"/system.slice/x.service/worker", "system.slice/x.service", true},
		{"/system.slice/x.service2", "system.slice/x.service", false},
		{"/system.slice", "system.slice/x.service", false},
		{"/a/system.slice/x.service", "system.slice/x.service", false},
		{"/", "/", true},
		{"/a", "/", true},
		{"/", "a", false},
		{"", "a", false},
		{"/../a", "a", false},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (cgroup_below(cases[i].cgroup, cases[i].top) != cases[i].below)
			fail_msg("%s below %s", cases[i].cgroup, cases[i].top);
}

static void cgroups_as_a_container_sees_them(void **state)
{
	static const struct {
		const char *base, *shown, *absolute;
	} cases[] = {
		{"", "/a/b", "/a/b"},
		{"", "/", "/"},
		{"", "/../a", "/../a"},
		{"/kube/pod1/c1", "/", "/kube/pod1/c1"},
		{"/kube/pod1/c1", "/worker", "/kube/pod1/c1/worker"},
		{"/kube/pod1/c1", "/../c2", "/kube/pod1/c2"},
		{"/kube/pod1/c1", "/../../pod2/c1", "/kube/pod2/c1"},
		{"/kube/pod1/c1", "/../../../system.slice/x.service", "/system.slice/x.service"},
		{"/kube/pod1/c1", "/../../..", ""},
		{"/kube", "/../../a", "/../a"},
		{"/kube", "/..a", "/kube/..a"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *absolute = cgroup_absolute(cases[i].base, cases[i].shown);
		assert_string_equal(absolute, cases[i].absolute);
		free(absolute);
	}
}

static bool chosen(struct proxy proxy, struct holder holder, uint32_t socket_uid, const char *because)
{
	char why[WHY_MAX] = "";
	struct heard heard = {.uid = socket_uid};
	proxy.cgroup = proxy.cgroup ? proxy.cgroup : "";
	proxy.executable = proxy.executable ? proxy.executable : "";
	holder.cgroup = holder.cgroup ? holder.cgroup : "";
	holder.executable = holder.executable ? holder.executable : "";
	bool result = holder_chosen(&proxy, &heard, &holder, why);
	assert_string_equal(why, because);
	return result;
}

static void all_conditions_have_to_hold(void **state)
{
	struct proxy any = {.uid = -1}, user = {.uid = 1337};
	struct proxy all = {.uid = 0, .cgroup = "a", .executable = "/bin/x"};
	struct holder x = {.uid = 0, .cgroup = "/a/b", .executable = "/bin/x"};
	assert_true(chosen(any, x, 5, ""));
	assert_true(chosen(all, x, 5, ""));
	assert_false(chosen(user, x, 0, "uid 0 is not 1337"));
	assert_true(chosen(user, x, 1337, "")); /* that user made the socket */
	x.uid = 1337;
	assert_true(chosen(user, x, 0, ""));
	assert_false(chosen(all, x, 5, "uid 1337 is not 0"));
	x.uid = 0;
	x.cgroup = "/ab";
	assert_false(chosen(all, x, 5, "cgroup /ab is not below a"));
	x.cgroup = "/a";
	x.executable = "/bin/y";
	assert_false(chosen(all, x, 5, "executable /bin/y is not /bin/x"));
	x.executable = "";
	assert_false(chosen(all, x, 5, "executable (unknown) is not /bin/x"));
}

static void an_executable_is_a_file(void **state)
{
	struct stat file;
	assert_int_equal(stat("/proc/self/exe", &file), 0);
	struct proxy proxy = {.uid = -1, .executable = "/proc/self/exe"};
	struct holder holder = {.executable = "/elsewhere", .device = file.st_dev, .inode = file.st_ino};
	assert_true(chosen(proxy, holder, 0, ""));
	holder.inode++;
	assert_false(chosen(proxy, holder, 0, "executable /elsewhere is not /proc/self/exe"));
	proxy.executable = "/nowhere";
	holder.inode = 0; /* not known: no file at all is not the same as another */
	assert_false(chosen(proxy, holder, 0, "executable /elsewhere is not /nowhere"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_that_connections_reach),
		cmocka_unit_test(answers_are_no_listeners),
		cmocka_unit_test(each_protocol_has_its_listeners),
		cmocka_unit_test(cgroups_by_their_components),
		cmocka_unit_test(cgroups_as_a_container_sees_them),
		cmocka_unit_test(all_conditions_have_to_hold),
		cmocka_unit_test(an_executable_is_a_file),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
