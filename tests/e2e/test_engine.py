# SPDX-License-Identifier: Apache-2.0
"""Which engine hands over: chosen, changed while connections live, found by trial; and the table that one of them needs."""
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from datagrams import Receiver, Talker
from lab import BUILD, OUTSIDE4, OUTSIDE6
from objects import proxy
from scenes import eventually
from steering import Load, World, egress, to
from talk import TRANSPARENT, Client, Server, ask
from test_listeners import FOUR, contained

PORT = 15001
ELSEWHERE = {4: "203.0.113.9", 6: "2001:db8:113::9"}
OUTSIDE = {4: OUTSIDE4, 6: OUTSIDE6}


@pytest.fixture(scope="module")
def world():
    with World("a", engine="ebpf") as made:
        yield made


@pytest.fixture
def handed(world):
    world.begin(egress(to()))
    world.front()
    world.usable()
    yield world
    configure(world, "ebpf")
    world.end()


def engine_of(world):
    return world.running.api.status()["engine"]


def configure(world, name):
    """By SIGHUP; returns what the status says then."""
    if engine_of(world)["configured"] != name:
        world.running.config["datapath"]["engine"] = name
        world.running.write_config()
        world.running.signal(signal.SIGHUP)
        eventually(lambda: engine_of(world)["configured"] == name, 3)
    return engine_of(world)


def counted(world):
    page = world.running.api.metrics()
    return {name: page("penstock_intercepted_connections_total", proxy="gw", engine=name) for name in ("ebpf", "tproxy")}


def nft(world, *command, **options):
    return world.node.run("nft", *command, **options).stdout


# ---- changed while it runs ----

def test_a_change_of_engine_cuts_nothing(handed):
    """Connections of before go on, new ones do not notice, in both directions of the change."""
    world, clients = handed, []

    def attempt():
        who = ask(world.a, OUTSIDE4, timeout=5)
        return isinstance(who, dict) and who["server"] == "proxy" or who
    begun, load = counted(world), Load(attempt)
    try:
        for name in ("tproxy", "ebpf", "tproxy"):
            clients += [Client(world.a, ip, timeout=10) for ip in OUTSIDE.values()]
            assert all(client.hello()["server"] == "proxy" for client in clients[-2:])
            pouring = [threading.Thread(target=lambda one=client: wrong.append(one.pour(8, half_close=False)))
                       for client in clients[-2:]]
            wrong = []
            for thread in pouring:
                thread.start()
            said = configure(world, name)
            assert (said["active"], said["reason"], said["tried"]) == (name, "configured", [])
            before = counted(world)
            load.grown(20)
            grown = {engine: count - before[engine] for engine, count in counted(world).items()}
            assert grown[name] >= 15 and sum(grown.values()) == grown[name], grown
            for thread in pouring:
                thread.join(30)
            assert wrong == [None, None]
            assert [client.echo() for client in clients] == [True] * len(clients)
    finally:
        seen = load.end()
        for client in clients:
            client.close()
    assert [one for one in seen if one is not True] == [], f"of {len(seen)}"
    grown = {engine: count - begun[engine] for engine, count in counted(world).items()}
    assert sum(grown.values()) == len(seen) + 6, "each connection is counted once, and stays where it was counted"


def test_a_change_of_engine_loses_no_datagram(handed):
    """Of flows of before, and of new ones, one after another."""
    world, flows, lost = handed, [], []
    rule = {**to(), "protocols": [{"udp": {"destinationPort": {"number": 80}}}]}
    world.put(egress(to()), egress(rule, name="udp"), gw=proxy("gw", PORT, ["TCP", "UDP"]))
    with Receiver(world.node, PORT, "proxy") as front:
        eventually(lambda: world.proxy_status()["available"]["UDP"] == ["IPv4", "IPv6"])
        try:
            flows = [Talker(world.a, ip) for ip in OUTSIDE.values()]
            assert [flow.server() for flow in flows] == ["proxy", "proxy"]
            for name in ("tproxy", "ebpf", "tproxy", "ebpf"):
                changes = threading.Thread(target=configure, args=(world, name))
                changes.start()
                while changes.is_alive():
                    flows.append(Talker(world.a, OUTSIDE4))
                    lost += [flow for flow in (*flows[:2], flows[-1]) if not flow.echo(b"data", timeout=1)]
                assert engine_of(world)["active"] == name
            assert not lost and not front.wrong
        finally:
            for flow in flows:
                flow.close()


def test_it_is_the_engine_that_is_named_that_hands_over(handed):
    """Without the table nothing reaches the proxy with tproxy, and everything with ebpf."""
    world = handed
    world.running.signal(signal.SIGSTOP)  # it would mend it
    try:
        nft(world, "flush", "chain", "inet", "penstock", "handover")
        assert ask(world.a, OUTSIDE4)["server"] == "proxy"
    finally:
        world.running.signal(signal.SIGCONT)
    configure(world, "tproxy")
    eventually(lambda: "tproxy" in nft(world, "list", "table", "inet", "penstock"))
    assert ask(world.a, OUTSIDE4)["server"] == "proxy"
    world.running.signal(signal.SIGSTOP)
    try:
        nft(world, "flush", "chain", "inet", "penstock", "handover")
        assert ask(world.a, OUTSIDE4, timeout=0.5) in ("TimeoutError", "ConnectionRefusedError")
    finally:
        world.running.signal(signal.SIGCONT)
    eventually(lambda: "tproxy" in nft(world, "list", "table", "inet", "penstock"), 2)
    assert ask(world.a, OUTSIDE4)["server"] == "proxy"


def test_it_goes_on_without_an_agent(handed):
    world = handed
    configure(world, "tproxy")
    with Client(world.a, OUTSIDE4) as client:
        client.hello()
        world.running.kill9()
        assert client.echo() and ask(world.a, OUTSIDE6)["server"] == "proxy"
        world.running.start()
        assert client.echo() and ask(world.a, OUTSIDE6)["server"] == "proxy"
    assert engine_of(world)["active"] == "tproxy"


def test_the_table_is_never_absent_while_proxies_come_and_go(handed):
    """Connections without a pause while other proxies are added, moved and removed, and others damage what is theirs."""
    world = handed
    configure(world, "tproxy")
    before = world.running.log.count("somebody changed")

    def attempt():
        who = ask(world.a, OUTSIDE4, timeout=3)
        return isinstance(who, dict) and who["server"] == "proxy" or who
    load = Load(attempt)
    try:
        for turn in range(12):
            world.running.api.put_object(proxy("other", 16000 + turn))
            if turn % 3 == 2:
                world.running.api.delete_object("TransparentProxy", "", "other")
            nft(world, "-f", "-", input=f"add table inet somebody{turn % 2}\ndelete table inet somebody{turn % 2}\n")
        load.grown(20)
    finally:
        seen = load.end()
    assert [one for one in seen if one is not True] == [], f"of {len(seen)}"
    assert world.running.log.count("somebody changed") == before


def test_the_ports_of_the_table(handed):
    """One element a proxy and place, there when the write is answered, gone with the proxy."""
    world = handed

    def ports():
        text = nft(world, "list", "table", "inet", "penstock")
        return {port for port in (PORT, 15009, 15010) if text.count(f": {port}") == 2}
    world.running.api.put_object(proxy("other", 15009))
    assert ports() == {PORT, 15009}
    world.running.api.put_object(proxy("other", 15010))
    eventually(lambda: ports() == {PORT, 15010}, 1)
    world.running.api.put_object(proxy("same", 15010))
    world.running.api.delete_object("TransparentProxy", "", "other")
    time.sleep(0.1)
    assert ports() == {PORT, 15010}
    world.running.api.delete_object("TransparentProxy", "", "same")
    eventually(lambda: ports() == {PORT}, 1)


# ---- the table alone: packets that carry what the programs would have written ----

class Datagrams:
    """A transparent UDP socket of the node that tells who sent what where."""

    def __init__(self, space, address, port):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with space.entered():
            self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.setsockopt(*TRANSPARENT[family], 1)
        if family == socket.AF_INET6:
            self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.sock.bind((address, port))
        self.sock.settimeout(1)

    def heard(self):
        try:
            return self.sock.recvfrom(64)[0]
        except TimeoutError:
            return None


@contextlib.contextmanager
def painted(world, priority):
    """What enters by the uplink gets INTERCEPT and this priority, behind our own programs. Yields how many of these
    packets have reached INPUT."""
    ours = "meta l4proto { tcp, udp } th dport 80"
    nft(world, "-f", "-", input=f"""
table netdev painted {{
    chain c {{
        type filter hook ingress device uplink priority 0;
        {ours} meta mark set meta mark | 0x20000000
        {ours} meta priority set {priority}
    }}
}}
table inet painted {{
    chain c {{
        type filter hook input priority 0;
        {ours} counter
    }}
}}
""")
    try:
        yield lambda: int(nft(world, "list", "table", "inet", "painted").split("packets ")[1].split()[0])
    finally:
        nft(world, "delete", "table", "netdev", "painted")
        nft(world, "delete", "table", "inet", "painted")


def send(world, ip, port=80):
    with world.outside.entered():
        sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.sendto(b"datagram", (ip, port))


PLACES = [("loopback", "7641", {4: "127.0.0.1", 6: "::1"}), ("wildcard", "7642", {4: "0.0.0.0", 6: "::"})]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("place,major,addresses", PLACES, ids=[place[0] for place in PLACES])
def test_what_the_table_takes(world, place, major, addresses, family):
    world.put()
    port = 15001
    assert nft(world, "list", "table", "inet", "penstock").count(f": {port}") == 2
    server = Server(world.node, port, "tcp", address=addresses[family], transparent=True)
    datagrams = Datagrams(world.node, addresses[family], port)
    other = next(addresses for name, _, addresses in PLACES if name != place)[family]
    try:
        with painted(world, f"{major}:{port:x}"):
            who = ask(world.outside, ELSEWHERE[family])
            assert who["server"] == "tcp" and who["local"] == [ELSEWHERE[family], 80], who
            send(world, ELSEWHERE[family])
            assert datagrams.heard() == b"datagram"
    finally:
        server.close()
        datagrams.sock.close()
    # Who is somewhere else is not found, and nothing goes on to anybody.
    server = Server(world.node, port, "tcp", address=other, transparent=True)
    datagrams = Datagrams(world.node, other, port)
    try:
        with painted(world, f"{major}:{port:x}") as arrived:
            found = ask(world.outside, ELSEWHERE[family], timeout=0.2)
            send(world, ELSEWHERE[family])
            datagrams.sock.settimeout(0.1)
            heard = datagrams.heard()
            # A wildcard listener is at 127.0.0.1 too.
            assert bool(arrived()) == isinstance(found, dict) == (heard == b"datagram") == (place == "loopback")
        with painted(world, f"{major}:{port + 1:x}") as arrived:
            assert ask(world.outside, ELSEWHERE[family], timeout=0.1) == "TimeoutError" and not arrived(), "no proxy's port"
        with painted(world, f"7643:{port:x}") as arrived:
            assert isinstance(ask(world.outside, ELSEWHERE[family], timeout=0.1), str) and arrived(), "no concern of ours"
    finally:
        server.close()
        datagrams.sock.close()


# ---- auto ----

CASES = [(protocol, family) for family in ("IPv4", "IPv6") for protocol in ("TCP", "UDP")]


@pytest.fixture(scope="module")
def auto():
    with World("a") as made:
        made.put(egress(to()))
        yield made


def tried_again(world):
    """SIGHUP; what the status says after another trial."""
    before = world.running.log.count("SIGHUP: read ")
    world.running.signal(signal.SIGHUP)
    eventually(lambda: world.running.log.count("SIGHUP: read ") > before, 5)
    return engine_of(world)


def details(said, engine):
    return {(one["protocol"], one["family"]): one["passed"] or one["detail"] for one in said["tried"]
            if one["engine"] == engine}


@contextlib.contextmanager
def foreign(world, chain):
    nft(world, "-f", "-", input=f"table inet foreign {{\n chain c {{\n{chain}\n}}\n}}\n")
    try:
        yield
    finally:
        nft(world, "delete", "table", "inet", "foreign")


def surroundings(world):
    """What a trial may not change."""
    return [world.node.run(*command).stdout for command in (
        ("ip", "-o", "link"), ("ip", "-4", "route", "show", "table", "all"), ("ip", "-6", "route", "show", "table", "all"),
        ("ip", "-4", "rule"), ("ip", "-6", "rule"), ("nft", "list", "ruleset"), ("ip", "neigh", "show", "nud", "permanent"))]


def test_auto_takes_what_works(auto):
    before = surroundings(auto)
    said = tried_again(auto)
    assert (said["configured"], said["active"], said["reason"]) == ("auto", "ebpf", "tried, and it works")
    assert details(said, "ebpf") == dict.fromkeys(CASES, True) and not details(said, "tproxy")
    assert surroundings(auto) == before
    took = int(auto.running.log.rsplit("trial of engines: ", 1)[1].split(" in ")[1].split()[0])
    assert took < 1500, "some 50 ms on a machine that has nothing else to do"


def test_a_foreign_input_drop_is_told(auto):
    with foreign(auto, "type filter hook input priority 0; policy drop;"):
        said = tried_again(auto)
    where = "a rule of somebody's nftables or iptables at INPUT drops it"
    assert said["active"] == "ebpf" and where in said["reason"]
    for engine in ("ebpf", "tproxy"):
        assert all(where in detail for detail in details(said, engine).values()) and len(details(said, engine)) == 4
    assert tried_again(auto)["reason"] == "tried, and it works"


@pytest.mark.parametrize("chain,where", [
    ("type filter hook prerouting priority -10; policy drop;", "iptables at PREROUTING drops it"),
    ("type filter hook output priority 0; policy drop;", "iptables at OUTPUT or POSTROUTING drops the answer")])
def test_other_foreign_drops_are_told(auto, chain, where):
    with foreign(auto, chain):
        said = tried_again(auto)
    assert all(where in str(detail) for detail in details(said, "ebpf").values()), said


def test_a_source_that_is_not_believed_is_told(auto):
    rules = [("ip", "rule", verb, "pref", "1", "iif", "lo", "lookup", "77") for verb in ("add", "del")]
    for key in ("rp_filter", "src_valid_mark"):
        auto.node.sysctl(f"net.ipv4.conf.all.{key}", 1)
    assert tried_again(auto)["reason"] == "tried, and it works"
    auto.node.run("ip", "route", "add", "unreachable", "default", "table", "77")
    auto.node.run(*rules[0])
    try:
        said = tried_again(auto)
    finally:
        auto.node.run(*rules[1])
        auto.node.run("ip", "route", "flush", "table", "77")
        for key in ("rp_filter", "src_valid_mark"):
            auto.node.sysctl(f"net.ipv4.conf.all.{key}", 0)
    assert "its source is not believed (rp_filter, src_valid_mark)" in details(said, "ebpf")["TCP", "IPv4"]
    assert details(said, "ebpf")["TCP", "IPv6"] is True


def test_tproxy_where_ebpf_does_not_work(auto):
    """What is assigned by a program has no priority, what our table takes has one."""
    auto.front()
    auto.usable()
    with foreign(auto, 'type filter hook prerouting priority -200;\niifname { "penstock-try0", "pv1" } meta mark & '
                       "0x60000000 == 0x20000000 meta priority 0 ct state new drop"):
        said = tried_again(auto)
        assert said["active"] == "tproxy" and said["reason"].startswith("tproxy works: ebpf, TCP over IPv4: "), said
        assert details(said, "tproxy") == dict.fromkeys(CASES, True)
        assert False not in [one["passed"] for one in said["tried"] if one["engine"] == "tproxy"]
        assert ask(auto.a, OUTSIDE4)["server"] == "proxy"
    assert tried_again(auto)["active"] == "ebpf"


def test_without_ipv6_it_is_not_tried(auto):
    auto.node.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
    try:
        said = tried_again(auto)
    finally:
        auto.node.sysctl("net.ipv6.conf.default.disable_ipv6", 0)
    assert details(said, "ebpf") == {case: True for case in CASES if case[1] == "IPv4"} and said["active"] == "ebpf"


def test_addresses_of_the_node_are_not_touched(auto):
    mine = ["192.0.2.249/32", "192.0.2.246/32", "2001:db8:7641::250/128"]
    auto.node.ip(*[f"addr add {address} dev lo" for address in mine], "route add 192.0.2.241/32 dev uplink metric 2147483647")
    try:
        before = surroundings(auto)
        said = tried_again(auto)
        assert details(said, "ebpf") == dict.fromkeys(CASES, True) and surroundings(auto) == before
    finally:
        auto.node.ip(*[f"addr del {address} dev lo" for address in mine], "route del 192.0.2.241/32")


def test_what_a_killed_agent_left_goes(auto):
    def leave():
        auto.node.ip("link add penstock-try0 type veth peer name penstock-try1", "link set penstock-try1 up",
                     "link set penstock-try0 up")
        nft(auto, "add", "table", "inet", "penstock-try")

    def left():
        return "penstock-try" in auto.node.run("ip", "-o", "link").stdout + nft(auto, "list", "tables")
    before = surroundings(auto)[0]
    leave()
    time.sleep(0.1)
    assert not [hook for hook in auto.running.api.status()["hooks"] if hook["interface"].startswith("penstock-try")]
    tried_again(auto)
    assert not left()
    leave()
    auto.running.restart()
    assert not left() and surroundings(auto)[0] == before
    assert engine_of(auto)["reason"] == "tried, and it works", "it was steering before"
    auto.running.stop()
    leave()
    auto.running.uninstall()
    assert not left()


def test_what_an_agent_may_is_enough(lab):
    """No CAP_SYS_ADMIN, no new namespace, /proc/sys read-only."""
    lab.running = contained(lab, FOUR)
    lab.running.api.put_state([proxy("gw", PORT)])
    assert details(engine_of(lab), "ebpf") == dict.fromkeys(CASES, True)
    lab.running.stop()


def test_without_tcx(lab, monkeypatch):
    monkeypatch.setenv("PENSTOCK_HOOK", "clsact")
    lab.running = lab.agent()
    lab.running.api.put_object(proxy("gw", PORT))
    assert details(engine_of(lab), "ebpf") == dict.fromkeys(CASES, True)


def test_nothing_is_tried_before_a_proxy_is_wanted(lab):
    lab.running = lab.agent()
    assert engine_of(lab) == {"configured": "auto", "active": "ebpf", "tried": [],
                              "reason": "no proxy was wanted yet, so none was tried",
                              "table": {"stands": False, "reason": "no proxy was wanted yet"}}
    assert lab.node.run("nft", "list", "tables").stdout == ""


# ---- an engine that cannot be had ----

@pytest.fixture
def without_tproxy(lab):
    """As on a kernel without nft_tproxy: the tables in question are a living process's own."""
    owner = lab.node.popen("nft", "-i", stdin=subprocess.PIPE, text=True)
    for name in ("penstock-try", "penstock"):
        owner.stdin.write(f"add table inet {name} {{ flags owner; }}\n")
    owner.stdin.flush()
    eventually(lambda: nft(lab, "list", "ruleset").count("flags owner") == 2)
    yield lab
    owner.stdin.close()
    owner.wait()


def test_tproxy_is_refused_where_it_cannot_be_had(without_tproxy):
    lab = without_tproxy
    agent = lab.agent(start=False, datapath={"engine": "tproxy"})
    agent.start(wait=False)
    assert agent.process.wait(10) != 0
    assert "engine tproxy cannot be had on this kernel (nft_tproxy): nftables: " in agent.log.splitlines()[-1]
    checked = lab.node.run(agent.binary, "--config", agent.config_path, "--check").stdout
    assert "tproxy of nftables (4.19): no, no interception by engine tproxy (nftables: " in checked

    agent.config["datapath"]["engine"] = "ebpf"
    agent.write_config()
    agent.start()
    agent.api.put_object(proxy("gw", PORT))
    lab.running = agent
    said = engine_of(lab)
    assert (said["active"], said["reason"], said["table"]["stands"]) == ("ebpf", "configured", False)
    assert said["table"]["reason"].startswith("this kernel hands over nothing by nftables (nft_tproxy): ")
    assert any("inet penstock of nftables: this kernel" in line for line in doctor(lab, code=1)[1])

    agent.config["datapath"]["engine"] = "tproxy"
    agent.write_config()
    agent.signal(signal.SIGHUP)
    eventually(lambda: agent.api.status()["lastError"], 3)
    assert "engine tproxy cannot be had" in str(agent.api.status()["lastError"])
    assert {**engine_of(lab), "table": None} == {**said, "table": None}, "the running one goes on"
    agent.config["datapath"]["engine"] = "auto"
    agent.write_config()
    assert details(tried_again(lab), "ebpf") == dict.fromkeys(CASES, True)
    agent.stop()


def test_check_and_uninstall(lab):
    lab.running = lab.agent(datapath={"engine": "tproxy"})
    said = lab.node.run(lab.running.binary, "--config", lab.running.config_path, "--check").stdout.splitlines()
    assert "tproxy of nftables (4.19): yes" in said
    assert "table inet penstock of nftables: no, it comes with the first proxy" in said
    lab.running.api.put_object(proxy("gw", PORT))
    assert "table inet penstock" in nft(lab, "list", "tables")
    lab.running.stop()
    lab.running.uninstall()
    assert nft(lab, "list", "ruleset") == "" and "proto 76" not in lab.node.run("ip", "rule").stdout


# ---- penstock doctor ----

def doctor(lab, code=0):
    """Its lines, by mark."""
    done = lab.node.run(os.path.join(BUILD, "penstock"), "doctor", "--socket", lab.running.socket, check=False)
    assert done.returncode == code, done
    marks = {"✔": [], "✘": [], "!": []}
    for line in done.stdout.splitlines()[:-1]:
        if line[0] != " ":  # how to mend it
            marks[line[0]].append(" ".join(line[1:].split()))
    return marks["✔"], marks["✘"]


def test_the_doctor_says_what_hinders(lab):
    lab.running = lab.agent()
    well, ill = doctor(lab)
    assert well[0] == "agent revision 0 is enforced" and ill == []
    assert "engine ebpf (auto): no proxy was wanted yet, so none was tried" in well

    lab.running.api.put_object(proxy("gw", PORT))
    well, ill = doctor(lab, code=1)
    assert ill == [f"proxy gw: nobody usable listens on port {PORT} for all of its protocols"]
    assert {"engine ebpf (auto): tried, and it works", "table inet penstock of nftables stands"} <= set(well)

    server = Server(lab.node, PORT, transparent=True)
    try:
        assert eventually(lambda: any("is listened on" in line for line in doctor_any(lab)), 2)
        assert doctor(lab)[1] == []
        with foreign(lab, "type filter hook input priority 0; policy drop;"):
            tried_again(lab)
        well, ill = doctor(lab, code=1)
        where = "a rule of somebody's nftables or iptables at INPUT drops it"
        assert len(ill) == 5 and f"engine UDP over IPv6: a datagram does not arrive: {where}" in ill
        lines = json.loads(lab.node.run(os.path.join(BUILD, "penstock"), "doctor", "-o", "json", "--socket",
                                        lab.running.socket, check=False).stdout)
        assert [line["name"] for line in lines if not line["ok"]] == ["engine"] * 5
    finally:
        server.close()


def doctor_any(lab):
    return lab.node.run(os.path.join(BUILD, "penstock"), "doctor", "--socket", lab.running.socket,
                        check=False).stdout.splitlines()
