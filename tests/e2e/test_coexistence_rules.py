# SPDX-License-Identifier: Apache-2.0
"""Beside the rules of CNIs, VPNs and firewalls, with both engines: what is ours reaches the proxy, what is theirs keeps its
marks and goes where they send it."""
import socket

import pytest

from kubeproxy import KubeProxy, endpoint_slice, service
from lab import DENY, Probe
from objects import intercept, proxy
from others import TOOLS, Others
from proxies import PORT, Relay
from puppet import Group, Puppet, cgroup_root
from steering import ENGINES, FAMILIES, OUTSIDE, World, answered, egress, to
from talk import TRANSPARENT, Client, Server
from test_coexistence import MASK, everywhere, steered
from test_host_processes import Datagrams

INTERCEPT = MASK & -MASK
ALLOWED = f"meta mark & {MASK:#x} == {INTERCEPT:#x} accept"  # as the README says it


@pytest.fixture(scope="module", params=ENGINES)
def shared(request):
    with World("a", "b", engine=request.param) as world:
        yield world


BOTH = pytest.mark.parametrize("others", TOOLS, indirect=True)


@pytest.fixture
def others(request, world):
    steered(world)
    with Others(world.node, getattr(request, "param", TOOLS[0])) as made:
        yield made


# ---- marks of others ----

HIT = {"calico": ["-A FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT", "-i pv+ -j MARK", "-i pv+ -g cali-wl-to-host"],
       "cilium": ["--set-xmark 0x200/0xffffffff", "--set-xmark 0xc00/0xf00", "CILIUM_INPUT -m mark --mark 0x200/0xf00"],
       "tailscale": ["-A ts-forward -i uplink -j MARK", "-j MASQUERADE", "-A ts-forward -m mark --mark 0x40000/0xff0000"],
       "wg_quick": []}


@BOTH
@pytest.mark.parametrize("who", HIT)
def test_as_they_come(world, others, who):
    """What policy of theirs lets pass has their marks: else their FORWARD would drop it."""
    getattr(others, who)()
    assert everywhere(world) == world.handed()
    assert [rule for rule in HIT[who] if not others.hits(rule)] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_ports_of_a_bridge_beside_them(engine):
    """What was redirected to the bridge has lost its priority on the way: it gets it again."""
    with World("a", "b", bridge=True, engine=engine) as world:
        world.begin()
        steered(world)
        for who in ("wg_quick", "cilium"):
            with Others(world.node) as others:
                getattr(others, who)()
                before = world.handed()
                assert everywhere(world) == world.handed() - before, who
        world.end()


@pytest.mark.skipif(cgroup_root() is None, reason="the machine's root of cgroup v2 is not mounted")
@pytest.mark.parametrize("who", HIT)
def test_processes_of_the_node_beside_them(world, others, who):
    """What they send crosses OUTPUT, where others mark and remember marks, and then lo."""
    getattr(others, who)()
    rule = to(*OUTSIDE)
    rule["protocols"].append({"udp": {"destinationPort": {"number": 53}}})
    with Group(f"{world.prefix}/{who}") as group, Puppet(world.node, group) as inside, Puppet(world.node) as beside:
        world.put(intercept("host", {"cgroup": group.path}, [rule]), gw=proxy("gw", PORT, protocols=["TCP", "UDP"]))
        server = Datagrams(world.outside, 53, "outside")
        for source in ("client", "node"):
            with Relay(world, "--source", source):
                for ip in OUTSIDE:
                    for process in (inside, beside):
                        assert process.ask(ip)["server"] == "outside", (source, ip)
                        assert process.send(ip, 53)["from"] == [ip, 53], (source, ip)
        server.close()
        assert world.handed() == 8


VIPS = {4: "10.96.0.10", 6: "fd00:96::a"}


@pytest.mark.parametrize("who", ["calico", "cilium"])
def test_services_beside_them(alone, who):
    """kube-proxy's NAT comes behind their marks: what is intercepted keeps the Service's address."""
    world = alone
    kube = KubeProxy(world.node, "iptables")
    if why := kube.lacking():
        pytest.skip(f"kube-proxy's iptables mode cannot be had here: {why}")
    objects = [service("web", list(VIPS.values()), [{"port": 80}]), *[endpoint_slice("web", [ip], [{"port": 80}]) for ip in world.b.ips]]
    kube.sync(objects)
    with Others(world.node) as others:
        getattr(others, who)()
        world.put(*objects, egress(to(*VIPS.values())))
        for source in ("client", "node"):
            with Relay(world, "--source", source) as relay:
                for vip in VIPS.values():
                    with Client(world.a, vip) as talk:
                        assert talk.hello()["server"] == "b" and talk.echo(b"x" * 30000)
                assert sorted(one[2] for one in relay.seen(2)) == sorted(VIPS.values())
        assert world.handed() == 4


@FAMILIES
def test_a_proxy_that_marks_its_own_connections(world, others, family):
    """As Tailscale's daemon does; the mark is remembered with the connection, and answers come with it, beside ours."""
    others.tailscale()
    others.nft("inet foreign { counter there { }\ncounter back { }\n"
               "chain out { type filter hook postrouting priority 0; oifname uplink meta mark & 0xff0000 == 0x80000 counter name there; }\n"
               "chain in { type filter hook prerouting priority -100; iifname uplink "
               f"meta mark & {MASK | 0xff0000:#x} == {INTERCEPT | 0x80000:#x} counter name back; }}\n}}")
    with world.node.entered():
        leg = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
    with leg:
        leg.setsockopt(*TRANSPARENT[leg.family], 1)
        leg.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x80000)
        leg.bind((world.address("a", family), 0))
        leg.settimeout(3)
        leg.connect((world.address("outside", family), 80))
        leg.sendall(b"hello\n")
        assert leg.recv(4096)
    for name in ("there", "back"):
        assert "packets 0 " not in world.node.run("nft", "list", "counter", "inet", "foreign", name).stdout, name


@BOTH
@pytest.mark.parametrize("does", ["raw -j MARK --set-xmark 0x1/0xffffffff", "mangle -j CONNMARK --restore-mark"])
def test_who_wipes_whole_marks(world, others, does):
    """Ours too. It is made anew behind them."""
    table, does = does.split(" ", 1)
    others.tables(f"*{table}\n-A PREROUTING {does}\nCOMMIT\n")
    assert everywhere(world) == world.handed() and others.hits(does)


def test_who_wipes_whole_marks_late(world, others):
    """Nothing reaches a proxy then; but nothing goes past it either."""
    others.nft(f"inet foreign {{ chain c {{ type filter hook prerouting priority -50; iifname {world.a.interface} meta mark set 1; }}\n}}")
    world.front()
    for family in (4, 6):
        assert answered(world, world.a, "outside", family, timeout=0.3) == "TimeoutError"
    probes = world.prober.probe([Probe(world.a, ip, 80, "UDP", expect=DENY) for ip in OUTSIDE])
    assert [str(probe) for probe in probes if not probe.ok] == []


# ---- policy routing of others ----

def test_rules_before_and_behind_ours(world, others):
    """Before: of the table of local addresses, of marks of theirs, of sources. Behind: all that is not marked to a tunnel."""
    others.rules("pref 1 fwmark 0x1000/0xf000 lookup 99", "pref 2 lookup 98", "pref 6 lookup main suppress_prefixlength 0", "pref 7 lookup 97")
    others.routes([f"default via {ip} dev uplink table 97" for ip in OUTSIDE], ["unreachable default table 99"] * 2)
    assert everywhere(world) == world.handed()


def test_reverse_paths_by_nftables(world, others):
    """As firewalld asks for them: with the mark, and without; also of what has no route back."""
    others.nft("inet foreign { counter dropped { }\nchain c { type filter hook prerouting priority raw + 10;\n"
               "fib saddr . mark . iif oif missing counter name dropped drop\nfib saddr . iif oif missing counter name dropped drop\n}\n}")
    assert everywhere(world) == world.handed()
    assert "packets 0 " in world.node.run("nft", "list", "counter", "inet", "foreign", "dropped").stdout


def test_who_tracks_nothing(world, others):
    others.tables("*raw\n-A PREROUTING -j CT --notrack\n-A OUTPUT -j CT --notrack\nCOMMIT\n")
    assert everywhere(world) == world.handed()


@BOTH
def test_another_transparent_proxy(world, others):
    """Somebody else's, for pods of theirs, by TPROXY and a rule of their own."""
    others.rules("pref 20 fwmark 0x200/0xf00 lookup 2004")
    others.routes(["local default dev lo table 2004"] * 2)
    for family, here in ((4, "127.0.0.1"), (6, "::1")):
        others.tables("*mangle\n-A PREROUTING -m socket --transparent -m mark --mark 0x0/0xffffffff -j MARK --set-xmark 0x200/0xffffffff\n"
                      f"-A PREROUTING -i {world.b.interface} -p tcp --dport 80 -j TPROXY --on-ip {here} --on-port 333 "
                      "--tproxy-mark 0x200/0xffffffff\nCOMMIT\n", [family])
    theirs = Server(world.node, 333, "theirs", transparent=True)
    try:
        for source in ("client", "node"):
            with Relay(world, "--source", source):
                for family in (4, 6):
                    for client, target, answers in ((world.a, "outside", "outside"), (world.outside, "b", "b"), (world.a, "b", "b"),
                                                    (world.b, "outside", "theirs")):
                        with Client(client, world.address(target, family)) as talk:
                            assert talk.hello()["server"] == answers and talk.pour(1) is None
    finally:
        theirs.close()
    assert world.handed() == 12


def test_a_tunnel_that_takes_all_before_ours(world, others):
    """Nothing reaches a proxy, nor goes past it into the tunnel. With a lower rulePriority it does."""
    others.rules(f"pref 3 iif {world.a.interface} lookup 97")
    others.routes([f"default via {ip} dev uplink table 97" for ip in OUTSIDE])
    world.front()
    assert answered(world, world.a, "outside", timeout=0.3) == "TimeoutError"
    world.running.config["datapath"]["rulePriority"] = 2
    world.running.write_config()
    world.running.restart()
    try:
        for family in (4, 6):
            assert answered(world, world.a, "outside", family) == "proxy"
    finally:
        del world.running.config["datapath"]["rulePriority"]
        world.running.write_config()
        world.running.restart()


# ---- firewalls ----

def test_nothing_may_be_forwarded(world, others):
    """By all three at once; what a proxy has is not forwarded."""
    for tool in TOOLS:
        others.tables("*filter\n:FORWARD DROP\nCOMMIT\n", tool=tool)
    others.nft("inet foreign { chain c { type filter hook forward priority 0; policy drop; }\n}")
    for source in ("client", "node"):
        with Relay(world, "--source", source):
            for family in (4, 6):
                assert answered(world, world.b, "outside", family, timeout=0.1) == "TimeoutError"
                for client, target in ((world.a, "outside"), (world.a, "b"), (world.outside, "b")):
                    with Client(client, world.address(target, family)) as talk:
                        assert talk.hello()["server"] == target and talk.pour(1) is None


@pytest.mark.parametrize("by", ["nftables", "iptables", "calico"])
def test_a_firewall_for_what_comes_in(world, others, by):
    """It drops what goes to a proxy too, until it lets our mark in: the README's words."""
    mark = f"-m mark --mark {INTERCEPT:#x}/{MASK:#x} -j ACCEPT"
    world.front()
    if by == "nftables":
        others.nft("inet foreign { chain c { type filter hook input priority 0; policy drop; iifname lo accept\n"
                   "ct state established,related accept\nmeta l4proto { icmp, ipv6-icmp } accept\n}\n}")
    elif by == "iptables":
        others.tables("*filter\n:INPUT DROP\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p icmp -j ACCEPT\n-A INPUT -p ipv6-icmp -j ACCEPT\n"
                      "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\nCOMMIT\n")
    else:
        others.calico(to_host="DROP")
    assert answered(world, world.a, "outside", timeout=0.3) == "TimeoutError"
    if by == "nftables":
        world.node.run("nft", "insert", "rule", "inet", "foreign", "c", *ALLOWED.split())
    else:
        others.tables(f"*filter\n-I INPUT {mark}\nCOMMIT\n")
    world.fronts.pop().close()
    assert everywhere(world) + 1 == world.handed()
