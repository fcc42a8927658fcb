/* SPDX-License-Identifier: Apache-2.0 */
/* Which interface an address is behind, from what netlink would have told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <net/if_arp.h>
#include <string.h>
#include "agent/datapath/discover.h"

static struct net net;

static int setup(void **state)
{
	net_init(&net);
	return 0;
}

static int teardown(void **state)
{
	net_clear(&net);
	return 0;
}

static void link_add(uint32_t ifindex, const char *name, const char *kind, uint32_t master, uint32_t lower)
{
	struct net_link link = {.ifindex = ifindex, .master = master, .lower = lower, .type = ARPHRD_ETHER, .up = true};
	strcpy(link.name, name);
	strcpy(link.kind, kind);
	if (strcmp(name, "lo") == 0)
		link.type = ARPHRD_LOOPBACK;
	if (strcmp(kind, "tun") == 0 && strncmp(name, "tun", 3) == 0)
		link.type = ARPHRD_NONE;
	net_link_put(&net, &link);
}

static struct ip address(const char *text)
{
	struct ip ip;
	assert_int_equal(ip_parse(text, &ip), 0);
	return ip;
}

static void route(const char *text, uint32_t ifindex, bool there)
{
	struct net_route route = {.table = 254, .ifindex = ifindex};
	if (strcmp(text, "default") == 0)
		route.ip = ip_from_v4(0);
	else {
		route.ip = address(text);
		route.length = route.ip.family == 4 ? 32 : 128;
	}
	net_route(&net, &route, there);
}

static void neighbour(const char *text, uint32_t ifindex, uint8_t mac, bool there)
{
	struct net_neighbour neighbour = {.ip = address(text), .ifindex = ifindex, .mac = {2, 0, 0, 0, 0, mac}};
	net_neighbour(&net, &neighbour, there);
}

static void station(uint32_t bridge, uint8_t mac, uint32_t port, bool there)
{
	struct net_station station = {.bridge = bridge, .port = port, .mac = {2, 0, 0, 0, 0, mac}};
	net_station(&net, &station, there);
}

static uint32_t find(const char *text)
{
	struct ip ip = address(text);
	return net_find(&net, &ip);
}

static void test_host_route(void **state)
{
	link_add(2, "v0", "veth", 0, 0);
	assert_int_equal(find("10.0.0.2"), 0);
	route("10.0.0.2", 2, true);
	route("fd00::2", 2, true);
	assert_int_equal(find("10.0.0.2"), 2);
	assert_int_equal(find("fd00::2"), 2);
	assert_int_equal(find("10.0.0.3"), 0);
	route("10.0.0.2", 2, false);
	assert_int_equal(find("10.0.0.2"), 0);
	assert_int_equal(find("fd00::2"), 2);
}

static void test_route_through_a_gateway_says_nothing(void **state)
{
	link_add(2, "v0", "veth", 0, 0);
	struct net_route remote = {.ip = address("10.0.0.2"), .length = 32, .ifindex = 2, .gateway = true};
	net_route(&net, &remote, true);
	assert_int_equal(find("10.0.0.2"), 0);
}

static void test_wider_routes_say_whom_to_ask(void **state)
{
	uint32_t found[4];
	struct ip inside = address("10.0.1.77"), outside = address("10.0.2.77"), inside6 = address("fd00::1:2");
	struct net_route wide = {.ip = address("10.0.0.0"), .length = 23, .ifindex = 2};
	struct net_route wide6 = {.ip = address("fd00::"), .length = 64, .ifindex = 2};
	struct net_route uplink = {.ip = address("10.0.0.0"), .length = 16, .ifindex = 3};
	link_add(2, "br0", "bridge", 0, 0);
	link_add(3, "eth0", "", 0, 0);
	route("default", 3, true);
	net_route(&net, &wide, true);
	net_route(&net, &wide6, true);
	net_route(&net, &uplink, true);
	assert_int_equal(find("10.0.1.77"), 0);
	assert_int_equal(net_suspects(&net, &inside, found, 4), 1);
	assert_int_equal(found[0], 2);
	assert_int_equal(net_suspects(&net, &inside6, found, 4), 1);
	assert_int_equal(net_suspects(&net, &outside, found, 4), 0);
	net_route(&net, &wide, false);
	assert_int_equal(net_suspects(&net, &inside, found, 4), 0);
	net_link_delete(&net, 2);
	assert_int_equal(net_suspects(&net, &inside6, found, 4), 0);
}

static void test_two_routes_to_one_address(void **state)
{
	link_add(2, "v0", "veth", 0, 0);
	link_add(3, "v1", "veth", 0, 0);
	struct net_route other = {.ip = address("10.0.0.2"), .length = 32, .ifindex = 2, .table = 7};
	route("10.0.0.2", 2, true);
	net_route(&net, &other, true);
	route("10.0.0.2", 3, true);
	route("10.0.0.2", 2, false);
	assert_int_equal(find("10.0.0.2"), 2); /* the one of table 7 is still there */
	net_route(&net, &other, false);
	assert_int_equal(find("10.0.0.2"), 3);
}

static void test_replaced_route(void **state)
{
	link_add(2, "v0", "veth", 0, 0);
	link_add(3, "v1", "veth", 0, 0);
	route("10.0.0.2", 2, true);
	route("default", 2, true);
	struct net_route new = {.ip = address("10.0.0.2"), .length = 32, .ifindex = 3, .table = 254};
	net_route_replaces(&net, &new);
	net_route(&net, &new, true);
	assert_int_equal(net.routes.count, 2);
	route("default", 2, false);
	assert_int_equal(find("10.0.0.2"), 3);
	new.gateway = true; /* now through somebody else */
	new.ifindex = 2;
	net_route_replaces(&net, &new);
	net_route(&net, &new, true);
	assert_int_equal(find("10.0.0.2"), 0);
	struct net_route uplink = {.ip = ip_from_v4(0), .ifindex = 3, .table = 254};
	route("default", 2, true);
	net_route_replaces(&net, &uplink);
	net_route(&net, &uplink, true);
	assert_true(net_eligible(&net, net_link(&net, 2)));
	assert_false(net_eligible(&net, net_link(&net, 3)));
}

static void test_told_twice_is_once(void **state)
{
	link_add(2, "v0", "veth", 0, 0);
	route("10.0.0.2", 2, true);
	net.changed = false;
	route("10.0.0.2", 2, true);
	assert_false(net.changed);
	route("10.0.0.2", 2, false);
	assert_true(net.changed);
	assert_int_equal(find("10.0.0.2"), 0);
	route("10.0.0.2", 2, false);
	assert_int_equal(net.by_route.count, 0);
}

static void test_never_these(void **state)
{
	static const struct {
		const char *name, *kind;
		bool eligible;
	} cases[] = {{"lo", "", false}, {"vxlan0", "vxlan", false}, {"gre1", "gre", false}, {"wg0", "wireguard", false},
		{"tunl0", "ipip", false}, {"tun0", "tun", false}, {"tap0", "tun", true}, {"br0", "bridge", false},
		{"v0", "veth", true}, {"nk0", "netkit", true}, {"eth1", "", true}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		link_add(10 + i, cases[i].name, cases[i].kind, 0, 0);
		route("10.0.0.2", 10 + i, true);
		assert_int_equal(net_eligible(&net, net_link(&net, 10 + i)), cases[i].eligible);
		assert_int_equal(find("10.0.0.2"), cases[i].eligible ? 10 + i : 0);
		route("10.0.0.2", 10 + i, false);
	}
}

static void test_uplinks(void **state)
{
	link_add(2, "eth0", "", 0, 0);
	link_add(3, "eth0.7", "vlan", 0, 2);
	link_add(4, "bond0", "bond", 0, 0);
	link_add(5, "eth1", "", 4, 0);
	link_add(6, "br0", "bridge", 0, 0);
	link_add(7, "eth2", "", 6, 0);
	link_add(8, "v0", "veth", 6, 2); /* its peer, elsewhere, happens to be number 2 */
	link_add(9, "v1", "veth", 0, 2);
	for (uint32_t i = 2; i <= 9; i++)
		assert_int_equal(net_eligible(&net, net_link(&net, i)), i != 6);
	route("default", 3, true);
	assert_false(net_eligible(&net, net_link(&net, 3)));
	assert_false(net_eligible(&net, net_link(&net, 2))); /* it carries the VLAN */
	assert_true(net_eligible(&net, net_link(&net, 9)));
	route("default", 3, false);
	route("default", 4, true);
	assert_true(net_eligible(&net, net_link(&net, 2)));
	assert_false(net_eligible(&net, net_link(&net, 5)));
	route("default", 4, false);
	route("default", 6, true);
	assert_false(net_eligible(&net, net_link(&net, 7))); /* to the wire */
	assert_true(net_eligible(&net, net_link(&net, 8)));  /* to a workload */
	assert_true(map_get(&net.touched, &(uint32_t){7}) != NULL);
}

static void test_neighbour(void **state)
{
	link_add(2, "v0", "veth", 0, 0);
	neighbour("10.0.0.2", 2, 5, true);
	assert_int_equal(find("10.0.0.2"), 2);
	net.changed = false;
	neighbour("10.0.0.2", 2, 5, true);
	assert_false(net.changed);
	neighbour("10.0.0.2", 2, 0, false);
	assert_int_equal(find("10.0.0.2"), 0);
}

static void test_route_before_neighbour(void **state)
{
	link_add(2, "v0", "veth", 0, 0);
	link_add(3, "v1", "veth", 0, 0);
	neighbour("10.0.0.2", 2, 5, true);
	route("10.0.0.2", 3, true);
	assert_int_equal(find("10.0.0.2"), 3);
}

static void test_bridge(void **state)
{
	link_add(2, "br0", "bridge", 0, 0);
	link_add(3, "v0", "veth", 2, 0);
	link_add(4, "v1", "veth", 2, 0);
	link_add(5, "br0.7", "vlan", 0, 2);
	link_add(6, "vxlan0", "vxlan", 2, 0);
	neighbour("10.0.0.2", 2, 5, true);
	assert_int_equal(find("10.0.0.2"), 0);
	station(2, 5, 3, true);
	assert_int_equal(find("10.0.0.2"), 3);
	station(2, 5, 4, true); /* moves: told as new, then gone from the old port */
	station(2, 5, 3, false);
	assert_int_equal(find("10.0.0.2"), 4);
	station(2, 5, 4, false);
	assert_int_equal(find("10.0.0.2"), 0);
	neighbour("10.0.7.2", 5, 6, true);
	station(2, 6, 3, true);
	assert_int_equal(find("10.0.7.2"), 3); /* behind a VLAN on the bridge */
	station(2, 5, 6, true);
	assert_int_equal(find("10.0.0.2"), 0); /* on another node */
}

static void test_gone_and_back(void **state)
{
	link_add(2, "v0", "veth", 0, 0);
	route("10.0.0.2", 2, true);
	neighbour("10.0.0.3", 2, 5, true);
	uint32_t born = net_link(&net, 2)->born;
	net_link_delete(&net, 2);
	assert_null(net_link_named(&net, "v0"));
	link_add(2, "v9", "veth", 0, 0);
	assert_int_not_equal(net_link(&net, 2)->born, born);
	assert_int_equal(find("10.0.0.2"), 0); /* nothing of the old one speaks for the new one */
	assert_int_equal(find("10.0.0.3"), 0);
	assert_int_equal(net_link_named(&net, "v9")->ifindex, 2);
}

static void test_down_takes_routes_along(void **state)
{
	link_add(2, "v0", "veth", 0, 0);
	route("10.0.0.2", 2, true);
	route("default", 2, true);
	struct net_link down = *net_link(&net, 2);
	down.up = false;
	net_link_put(&net, &down);
	assert_int_equal(net.routes.count, 0);
	assert_int_equal(net.defaults.count, 0);
}

static void test_renamed(void **state)
{
	link_add(2, "v0", "veth", 0, 0);
	uint32_t born = net_link(&net, 2)->born;
	link_add(2, "cali1", "veth", 0, 0);
	assert_null(net_link_named(&net, "v0"));
	assert_int_equal(net_link_named(&net, "cali1")->born, born);
	assert_null(net_link_named(&net, "a-name-that-is-too-long"));
}

static void test_forget_keeps_births(void **state)
{
	link_add(2, "v0", "veth", 0, 0);
	route("10.0.0.2", 2, true);
	uint32_t born = net_link(&net, 2)->born;
	map_clear(&net.touched);
	net_forget(&net);
	assert_int_equal(find("10.0.0.2"), 0);
	assert_non_null(map_get(&net.touched, &(uint32_t){2}));
	link_add(2, "v0", "veth", 0, 0);
	assert_int_equal(net_link(&net, 2)->born, born);
}

static void test_the_nodes_own_addresses(void **state)
{
	struct ip ip;
	ip_parse("192.168.0.9", &ip);
	net_local(&net, &ip, 2, true);
	net_local(&net, &ip, 2, true);
	net_local(&net, &ip, 3, true);
	assert_int_equal(net.locals.count, 2);
	net_local(&net, &ip, 2, false);
	assert_int_equal(net.locals.count, 1);
	net_forget(&net);
	assert_int_equal(net.locals.count, 0);
}

static void test_what_the_network_passes(void **state)
{
	static const struct {
		const char *name, *kind;
		uint32_t ifindex, master, lower;
		bool network;
	} links[] = {{"lo", "", 1, 0, 0, false}, {"eth0", "", 2, 0, 0, true}, {"vlan7", "vlan", 3, 0, 2, true},
		{"br0", "bridge", 4, 0, 0, true}, {"port", "veth", 5, 4, 0, false}, {"bond0", "bond", 6, 0, 0, true},
		{"slave", "", 7, 6, 0, false}, {"vxlan0", "vxlan", 8, 0, 0, true}, {"tun0", "tun", 9, 0, 0, true},
		{"veth0", "veth", 10, 0, 0, true}, {"red", "vrf", 11, 0, 0, false}, {"in-red", "veth", 12, 11, 0, true},
		{"ifb0", "ifb", 13, 0, 0, false}, {"of-nobody", "veth", 14, 99, 0, false}};
	size_t count = sizeof(links) / sizeof(links[0]);
	for (size_t i = 0; i < count; i++)
		link_add(links[i].ifindex, links[i].name, links[i].kind, links[i].master, links[i].lower);
	route("default", 2, true); /* an uplink is one, though no workload is looked for behind it */
	for (size_t i = 0; i < count; i++)
		if (net_link_network(&net, net_link(&net, links[i].ifindex)) != links[i].network)
			fail_msg("%s", links[i].name);
	struct net_link can = {.ifindex = 20, .name = "can0", .kind = "vcan", .type = ARPHRD_CAN, .up = true};
	assert_false(net_link_network(&net, &can));
	link_add(5, "port", "veth", 0, 0); /* taken out of the bridge */
	assert_true(net_link_network(&net, net_link(&net, 5)));
	assert_true(net_link_l3(net_link(&net, 9)));
	assert_false(net_link_l3(net_link(&net, 8)));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {TEST(test_host_route), TEST(test_route_through_a_gateway_says_nothing),
		TEST(test_wider_routes_say_whom_to_ask), TEST(test_two_routes_to_one_address), TEST(test_replaced_route),
		TEST(test_told_twice_is_once), TEST(test_never_these), TEST(test_uplinks), TEST(test_neighbour),
		TEST(test_route_before_neighbour), TEST(test_bridge), TEST(test_gone_and_back),
		TEST(test_down_takes_routes_along), TEST(test_renamed), TEST(test_forget_keeps_births),
		TEST(test_the_nodes_own_addresses), TEST(test_what_the_network_passes)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
