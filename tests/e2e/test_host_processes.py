# SPDX-License-Identifier: Apache-2.0
"""Processes of the node itself, by cgroup: handed to a proxy like a workload's connections, and nobody else's."""
import contextlib
import json
import signal
import socket
import threading

import pytest

from lab import OUTSIDE4, OUTSIDE6, UPLINK4, UPLINK6
from netns import run
from objects import deny_all, intercept, proxy
from proxies import PORT, Relay
from puppet import Group, Puppet, cgroup_root
from steering import ENGINES, FAMILIES, OUTSIDE, SOON, World, to
from scenes import eventually
from talk import TRANSPARENT, Server, plain
from test_engine import configure

pytestmark = pytest.mark.skipif(cgroup_root() is None, reason="the machine's root of cgroup v2 is not mounted")
OWN = {4: UPLINK4, 6: UPLINK6}
THERE = {4: OUTSIDE4, 6: OUTSIDE6}


MASK = 0x60000000
ANY = [{"tcp": {}}, {"udp": {}}]
ORIGINAL = {socket.AF_INET: (socket.IPPROTO_IP, 20), socket.AF_INET6: (socket.IPPROTO_IPV6, 74)}


class Datagrams:
    """Answers each datagram with who took it, from whom, and where it went. A proxy's: from its original destination."""

    def __init__(self, space, port, name, proxy=False):
        self.name, self.proxy, self.space, self.sockets = name, proxy, space, []
        self.accepted, self.threads = [], []
        for family in (socket.AF_INET, socket.AF_INET6):
            sock = self._socket(family)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if proxy:
                sock.setsockopt(*ORIGINAL[family], 1)
            sock.bind(("", port) if family == socket.AF_INET else ("::", port))
            self.sockets.append(sock)
            self.threads.append(threading.Thread(target=self._serve, args=(sock,), daemon=True))
            self.threads[-1].start()

    def _socket(self, family):
        with self.space.entered():
            sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.proxy:
            sock.setsockopt(*TRANSPARENT[family], 1)
        return sock

    def _serve(self, sock):
        while True:
            try:
                data, ancillary, _, peer = sock.recvmsg(65536, 256)
            except OSError:
                return
            if not data:
                return
            said = {"who": self.name, "peer": [plain(peer[0]), peer[1]], "size": len(data)}
            if not self.proxy:
                sock.sendto(json.dumps(said).encode(), peer)
                continue
            raw = next(data for level, kind, data in ancillary if (level, kind) == ORIGINAL[sock.family])
            at, size = (4, 4) if sock.family == socket.AF_INET else (8, 16)
            said["local"] = [socket.inet_ntop(sock.family, raw[at:at + size]), int.from_bytes(raw[2:4], "big")]
            with self._socket(sock.family) as back:
                back.bind(tuple(said["local"]))
                back.sendto(json.dumps(said).encode(), peer)

    def close(self):
        for sock in self.sockets:
            with contextlib.suppress(OSError):  # not connected; but who waits in it wakes
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        for sock in self.sockets:
            sock.close()


def about(group, *rules, name="host", **more):
    return intercept(name, {"cgroup": getattr(group, "path", group)}, list(rules) or [to(*OUTSIDE)], **more)


class Node(World):
    """An agent, an outside host, and processes in and beside a cgroup."""

    def __init__(self, engine, **config):
        super().__init__("b", engine=engine, **config)
        self.group = Group(f"{self.prefix}/one")
        self.far = [Datagrams(self.outside, port, "outside") for port in (53, 54)]
        self.inside, self.beside = Puppet(self.node, self.group), Puppet(self.node)

    def close(self):
        for made in (*getattr(self, "far", []), *[getattr(self, name, None) for name in ("inside", "beside", "group")]):
            if made:
                made.close()
        super().close()


@pytest.fixture(scope="module", params=ENGINES)
def shared_node(request):
    with Node(request.param) as world:
        yield world


@pytest.fixture
def world(shared_node):
    shared_node.begin(about(shared_node.group))
    yield shared_node
    shared_node.end()


@FAMILIES
def test_a_process_of_the_cgroup(world, family):
    world.front()
    world.usable()
    said = world.inside.ask(THERE[family])
    assert said["server"] == "proxy"
    assert said["peer"] == said["own"] and said["own"][0] == OWN[family] and said["local"] == [THERE[family], 80]
    assert world.beside.ask(THERE[family])["server"] == "outside"
    assert world.inside.ask(THERE[family], 81) == "ConnectionRefusedError"
    assert world.handed() == 1 == world.grown("penstock_rule_hits_total", policy="host")


def test_audit_mode(world):
    policy = about(world.group)
    policy["metadata"]["annotations"] = {"penstock.dev/mode": "audit"}
    world.put(policy)
    world.front()
    world.usable()
    assert world.inside.ask(OUTSIDE4)["server"] == "outside"
    assert world.handed() == 0 and world.grown("penstock_rule_hits_total", policy="host") == 1


@FAMILIES
def test_datagrams_of_a_process(world, family):
    world.put(about(world.group, {**to(*OUTSIDE), "protocols": ANY}), gw=proxy("gw", PORT, ("TCP", "UDP")))
    world.fronts.append(Datagrams(world.node, PORT, "proxy", proxy=True))
    said = world.inside.send(THERE[family], 53, keep="flow")
    assert said["local"] == [THERE[family], 53] and said["from"] == said["local"] and said["who"] == "proxy"
    assert said["peer"] == said["own"] and said["own"][0] == OWN[family]
    assert world.inside.again("flow", size=30000)["who"] == "proxy"
    assert world.inside.again("flow", end=True)
    assert world.beside.send(THERE[family], 53)["who"] == "outside"
    assert world.handed() == 1


def test_a_socket_of_both_families(world):
    world.front()
    world.usable()
    said = world.inside.ask(OUTSIDE4, mapped=True)
    assert said["server"] == "proxy" and said["peer"][0] == UPLINK4 and said["local"] == [OUTSIDE4, 80]


def test_datagrams_of_a_socket_of_both_families(world):
    world.put(about(world.group, {**to(*OUTSIDE), "protocols": ANY}), gw=proxy("gw", PORT, ("TCP", "UDP")))
    world.fronts.append(Datagrams(world.node, PORT, "proxy", proxy=True))
    for connected in (True, False):
        said = world.inside.send(OUTSIDE4, 53, mapped=True, connected=connected)
        assert said["who"] == "proxy" and said["local"] == [OUTSIDE4, 53]


def test_its_own_mark_stays(world):
    world.front()
    world.usable()
    said = world.inside.ask(OUTSIDE4, mark=0x1234)
    assert said["server"] == "proxy" and said["mark"] & ~MASK == 0x1234
    said = world.inside.ask(OUTSIDE4, port=81, mark=0x1234, timeout=1)
    assert said == "ConnectionRefusedError"


@pytest.mark.parametrize("engine", ENGINES)
def test_bits_of_the_mask_need_not_lie_side_by_side(engine):
    """And the bit between them is somebody's: the process has set it."""
    with Node(engine, datapath={"markMask": "0x50000000"}) as world:
        world.begin(about(world.group))
        world.front()
        world.usable()
        said = world.inside.ask(OUTSIDE4, mark=0x20000000)
        assert said["server"] == "proxy" and said["local"] == [OUTSIDE4, 80]
        assert said["mark"] & ~0x50000000 == 0x20000000
        assert world.beside.ask(OUTSIDE4, mark=0x20000000)["server"] == "outside"
        world.end()


def test_cgroups_below_with_rules_of_their_own(world):
    world.front()
    world.usable()
    with Group(world.group.path + "/below") as below, Group(world.group.path + "/other") as other, \
            Puppet(world.node, below) as puppet, Puppet(world.node, other) as sibling:
        assert puppet.ask(OUTSIDE4)["server"] == "proxy"
        world.put(about(world.group), about(below, to(OUTSIDE4, action="Bypass"), name="first", priority=1))
        assert puppet.ask(OUTSIDE4)["server"] == "outside"
        assert puppet.ask(OUTSIDE6)["server"] == "proxy"
        assert sibling.ask(OUTSIDE4)["server"] == "proxy"
        assert world.inside.ask(OUTSIDE4)["server"] == "proxy"
        world.put(about(below))
        assert puppet.ask(OUTSIDE4)["server"] == "proxy"
        assert world.inside.ask(OUTSIDE4)["server"] == "outside"


def state_of(world, path):
    return next(one["state"] for one in world.running.api.status()["cgroups"] if one["cgroup"] == path)


def test_a_cgroup_that_comes_goes_and_comes_again(world):
    world.front()
    world.usable()
    path = f"{world.prefix}/late/deeper.service"
    answer = world.running.api.put_object(about(path, name="late"))
    assert any(path in warning["detail"] for warning in answer["warnings"])
    assert state_of(world, path) == "pending"
    for _ in range(2):
        with Group(path) as group:
            eventually(lambda: state_of(world, path) == "found", SOON)
            with Puppet(world.node, group) as puppet:
                assert puppet.ask(OUTSIDE4)["server"] == "proxy"
        eventually(lambda: state_of(world, path) == "pending", SOON)


class GroupRelay(Relay):
    """The relay as a process of that cgroup."""

    def __init__(self, lab, group, *options):
        self.group = group
        super().__init__(lab, *options)

    def command(self):
        return ["sh", "-c", f'echo $$ > {self.group.directory}/cgroup.procs; exec "$@"', "sh", *super().command()]


@pytest.mark.parametrize("spoof", [False, True], ids=["own", "client"])
def test_a_proxy_in_the_same_cgroup(world, spoof):
    """What it opens goes out, for whomever: there is no loop."""
    with GroupRelay(world, world.group, "--source", "client" if spoof else "node") as relay:
        eventually(lambda: "IPv4" in world.proxy_status()["families"], SOON)
        goes_past_it(world, relay)


def goes_past_it(world, relay):
    said = world.inside.ask(OUTSIDE4)
    assert said["server"] == "outside" and relay.seen(1)[0][2:] == (OUTSIDE4, 80)
    assert world.handed() == 1


def test_nobody_listens(world):
    world.quiet()
    assert world.inside.ask(OUTSIDE4, timeout=0.3) == "TimeoutError"
    assert world.inside.ask(OUTSIDE6, timeout=0.3) == "TimeoutError"
    assert world.no_listener() >= 2
    world.put(about(world.group), gw=proxy("gw", PORT, unavailable="Bypass"))
    assert world.inside.ask(OUTSIDE4)["server"] == "outside"
    assert world.inside.ask(OUTSIDE6)["server"] == "outside"
    world.front()
    eventually(lambda: world.inside.ask(OUTSIDE4)["server"] == "proxy", SOON)


def test_its_own_node_is_none_of_a_proxys_business(world):
    world.put(about(world.group, to(port=8080)))
    world.front()
    world.usable()
    server = Server(world.node, 8080, "node")
    try:
        for ip in ("127.0.0.1", "::1", UPLINK4, UPLINK6):
            assert world.inside.ask(ip, 8080)["server"] == "node", ip
    finally:
        server.close()


def test_what_is_open_stays_where_it_is(world):
    world.put()
    world.front()
    world.usable()
    assert world.inside.ask(OUTSIDE4, keep="direct")["server"] == "outside"
    world.put(about(world.group))
    assert world.inside.ask(OUTSIDE4, keep="taken")["server"] == "proxy"
    assert world.inside.again("direct") and world.inside.again("taken")
    world.put()
    assert world.inside.ask(OUTSIDE4)["server"] == "outside"
    assert world.inside.again("direct") and world.inside.again("taken")
    world.inside.again("direct", end=True)
    world.inside.again("taken", end=True)


def test_an_agent_that_starts_again(world):
    world.front()
    world.usable()
    assert world.inside.ask(OUTSIDE4, keep="taken")["server"] == "proxy"
    world.running.stop()
    assert world.inside.ask(OUTSIDE4)["server"] == "proxy"
    world.running.start()
    assert world.inside.again("taken") and world.inside.ask(OUTSIDE4)["server"] == "proxy"
    world.inside.again("taken", end=True)
    assert state_of(world, world.group.path) == "found"


def test_a_workload_of_the_node(world):
    """What the node's own process may reach, it may reach through a proxy as well."""
    closed = deny_all("s", types=["Ingress"])
    b = world.pods["b"]
    with GroupRelay(world, world.group) as relay:
        for policies in ([], [closed]):
            for ip in b.ips:
                world.put(*policies)
                assert world.inside.ask(ip)["server"] == "b", (ip, policies)
                world.put(about(world.group, to(*b.ips)), *policies)
                eventually(lambda: {"IPv4", "IPv6"} <= set(world.proxy_status()["families"]), SOON)
                assert world.inside.ask(ip)["server"] == "b", (ip, policies)
        assert len(relay.seen(4)) == 4


@FAMILIES
def test_datagrams_that_nobody_takes(world, family):
    rule = {**to(*OUTSIDE), "protocols": ANY}
    world.put(about(world.group, rule), gw=proxy("gw", PORT, ("TCP", "UDP")))
    assert world.inside.send(THERE[family], 53, timeout=0.3) == "TimeoutError"
    assert world.no_listener() >= 1
    world.put(about(world.group, rule), gw=proxy("gw", PORT, ("TCP", "UDP"), unavailable="Bypass"))
    assert world.inside.send(THERE[family], 53)["who"] == "outside"


def test_what_goes_to_all(world):
    """Broadcast is nobody's: the rule wants its address, and nothing could hand it over."""
    rule = {**to("198.51.100.0/24"), "protocols": ANY}
    world.put(about(world.group, rule), gw=proxy("gw", PORT, ("TCP", "UDP")))
    said = world.inside.send("198.51.100.255", 53, connected=False)
    assert said["who"] == "outside" and said["from"] == [OUTSIDE4, 53]


def test_datagrams_whose_proxy_goes_and_comes(world):
    rule = {**to(*OUTSIDE), "protocols": ANY}
    world.put(about(world.group, rule), gw=proxy("gw", PORT, ("TCP", "UDP"), unavailable="Bypass"))
    front = Datagrams(world.node, PORT, "proxy", proxy=True)
    assert world.inside.send(OUTSIDE4, 53, keep="flow")["who"] == "proxy"
    front.close()
    assert world.inside.again("flow")["who"] == "outside"  # it goes on from lo: the node forwards
    world.fronts.append(Datagrams(world.node, PORT, "proxy", proxy=True))
    eventually(lambda: world.inside.again("flow")["who"] == "proxy", SOON)
    world.inside.again("flow", end=True)


@FAMILIES
def test_a_socket_that_does_not_connect(world, family):
    """Each datagram goes its own way, from the first on."""
    rule = {"name": "intercept", "action": "Intercept", "to": [{"networks": ["0.0.0.0/0", "::/0"]}], "proxy": "gw",
            "protocols": [{"udp": {"destinationPort": {"number": 53}}}]}
    world.put(about(world.group, rule), gw=proxy("gw", PORT, ("TCP", "UDP")))
    world.fronts.append(Datagrams(world.node, PORT, "proxy", proxy=True))
    near = Datagrams(world.node, 5353, "node")
    ip, more = THERE[family], {"connected": False, "keep": "open"}
    try:
        said = world.inside.send(ip, 53, **more)
        assert said["who"] == "proxy" and said["from"] == said["local"] == [ip, 53]
        for port, who in ((54, "outside"), (53, "proxy"), (53, "proxy"), (54, "outside"), (54, "outside"), (53, "proxy")):
            said = world.inside.again(**more, ip=ip, port=port)
            assert said["who"] == who and said["from"] == [ip, port] and said["peer"] == [OWN[family], said["own"][1]]
        assert world.inside.again(**more, ip=OWN[family], port=5353)["who"] == "node"
        assert world.beside.send(ip, 53, connected=False)["who"] == "outside"
        assert world.inside.again("open", end=True)
    finally:
        near.close()




def test_bulk(world):
    world.front()
    world.usable()
    for ip in OUTSIDE:
        assert world.inside.does(what="pour", ip=ip, port=80, megabytes=16, timeout=20) is None


def test_datagrams_through_the_relay(world):
    """In the same cgroup, as a flow's sockets are."""
    world.put(about(world.group, {**to(*OUTSIDE), "protocols": ANY}), gw=proxy("gw", PORT, ("TCP", "UDP")))
    with GroupRelay(world, world.group):
        eventually(lambda: len(world.proxy_status()["available"].get("UDP", [])) == 2, SOON)
        for ip in OUTSIDE:
            for connected in (True, False):
                said = world.inside.send(ip, 53, connected=connected)
                assert said["who"] == "outside" and said["from"] == [ip, 53] and said["peer"] != said["own"]


@FAMILIES
def test_a_node_that_masquerades_all(world, family):
    """What goes over lo keeps its source."""
    world.node.run("nft", "-f", "-", input="table inet lab {\n\tchain every {\n\t\ttype nat hook postrouting priority srcnat;\n"
                   "\t\tmasquerade\n\t}\n}\n")
    try:
        world.put(about(world.group, {**to(*OUTSIDE), "protocols": ANY}), gw=proxy("gw", PORT, ("TCP", "UDP")))
        world.fronts.append(Datagrams(world.node, PORT, "proxy", proxy=True))
        world.front()
        world.usable()
        for said in (world.inside.ask(THERE[family]), world.inside.send(THERE[family], 53)):
            assert said["peer"] == said["own"] and said["own"][0] == OWN[family]
    finally:
        world.node.run("nft", "delete", "table", "inet", "lab")


KERNEL = {"net.ipv4.conf.all.rp_filter": 1, "net.ipv4.conf.all.src_valid_mark": 1, "net.ipv4.tcp_fwmark_accept": 1,
          "net.ipv4.fwmark_reflect": 1, "net.ipv4.ip_forward": 0, "net.ipv6.conf.all.forwarding": 0}


@pytest.mark.parametrize("key", KERNEL)
def test_whatever_the_node_checks(world, key):
    before = world.node.sysctl(key)
    world.put(about(world.group, {**to(*OUTSIDE), "protocols": ANY}), gw=proxy("gw", PORT, ("TCP", "UDP")))
    world.node.sysctl(key, KERNEL[key])
    try:
        world.fronts.append(Datagrams(world.node, PORT, "proxy", proxy=True))
        world.front()
        world.usable()
        for ip in OUTSIDE:
            assert world.inside.ask(ip)["server"] == "proxy"
            assert world.inside.send(ip, 53)["who"] == "proxy" == world.inside.send(ip, 53, connected=False)["who"]
    finally:
        world.node.sysctl(key, before)
        # Forwarding that was switched off has taken the default route of IPv6 along.
        world.node.ip(f"route replace default via {OUTSIDE6}")


def exempt(world):
    """Processes that the agent found with a listener, and itself, as programs see it."""
    done = run("bpftool", "-j", "map", "dump", "pinned", f"{world.running.pins}/maps/ps_exempt")
    entries = [[int.from_bytes(bytes(int(byte, 16) for byte in entry[part]), "little") for part in ("key", "value")]
               for entry in json.loads(done.stdout)]
    return {process for process, why in entries if why == 1}


def test_a_process_with_a_listener_and_its_children(world):
    """Nothing that it opens is intercepted, nor what a child opens, until that executes something else."""
    with Puppet(world.node, world.group) as puppet:
        process = puppet.process.pid
        assert puppet.does(what="listen", port=PORT)
        eventually(lambda: process in exempt(world), 5)
        assert puppet.ask(OUTSIDE4)["server"] == "outside"
        assert puppet.does(what="child", does="ask", ip=OUTSIDE4, port=80)["server"] == "outside"
        assert puppet.does(what="child", does="ask", ip=OUTSIDE4, port=80, executed=True, timeout=0.3) == "TimeoutError"
        assert world.inside.ask(OUTSIDE4, timeout=0.3) == "TimeoutError"  # it accepts nobody
        assert world.running.process.pid in exempt(world)
    eventually(lambda: process not in exempt(world), 5)


def test_without_the_table_nothing_goes_past_the_proxy(world):
    world.front()
    world.usable()
    world.running.signal(signal.SIGSTOP)
    try:
        world.node.run("nft", "delete", "table", "inet", "penstock")
        for ip in OUTSIDE:
            assert world.inside.ask(ip, timeout=0.3) == "TimeoutError"
            assert world.beside.ask(ip)["server"] == "outside"
    finally:
        world.running.signal(signal.SIGCONT)
    eventually(lambda: isinstance(world.inside.ask(OUTSIDE4, timeout=0.3), dict), 5)
    assert world.inside.ask(OUTSIDE6)["server"] == "proxy"


def test_another_engine(world):
    """What is open goes on, and what begins is handed over the other way."""
    other = {"ebpf": "tproxy", "tproxy": "ebpf"}[world.engine]
    world.put(about(world.group, {**to(*OUTSIDE), "protocols": ANY}), gw=proxy("gw", PORT, ("TCP", "UDP")))
    world.front()
    world.fronts.append(Datagrams(world.node, PORT, "proxy", proxy=True))
    world.usable()
    for ip in OUTSIDE:
        assert world.inside.ask(ip, keep="tcp" + ip)["server"] == "proxy"
        assert world.inside.send(ip, 53, keep="udp" + ip)["who"] == "proxy"
    for engine in (other, world.engine):
        assert configure(world, engine)["active"] == engine
        for ip in OUTSIDE:
            assert world.inside.again("tcp" + ip) and world.inside.again("udp" + ip)["who"] == "proxy"
            assert world.inside.ask(ip)["server"] == "proxy" == world.inside.send(ip, 53)["who"]
    for kept in ("tcp", "udp"):
        for ip in OUTSIDE:
            world.inside.again(kept + ip, end=True)


@pytest.fixture(scope="module")
def rejecting():
    with Node("ebpf", datapath={"denyWith": "reject"}) as world:
        yield world


@FAMILIES
def test_a_refusal_that_is_answered(rejecting, family):
    rejecting.begin()
    rejecting.put(about(rejecting.group, {**to(*OUTSIDE), "protocols": ANY}), gw=proxy("gw", PORT, ("TCP", "UDP")))
    assert rejecting.inside.ask(THERE[family]) == "ConnectionRefusedError"
    assert rejecting.inside.send(THERE[family], 53) in ("OSError", "PermissionError", "ConnectionRefusedError")
    assert rejecting.grown("penstock_packets_total", verdict="Rejected", reason="NoListener") == 2
    rejecting.end()
