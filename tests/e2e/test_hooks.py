# SPDX-License-Identifier: Apache-2.0
"""Which interfaces have which programs: a workload's, or, from the first proxy on, those of the network."""
import json
import os
import socket
import threading
import time

import pytest

from kubeproxy import endpoint_slice, service
from lab import ALLOW, DENY, UPLINK4, Lab
from netns import run
from objects import intercept, policy, proxy
from scenes import eventually, member, results, serve
from test_lifecycle import Traffic, kernel_objects, retransmitted, surroundings

L3, NETWORK = 2, 4  # PS_IFACE_*
GATEWAY = proxy("gw", 15001)


@pytest.fixture(params=["tcx", "clsact"])
def hook(request, monkeypatch):
    monkeypatch.setenv("PENSTOCK_HOOK", request.param)
    return request.param


def roles(agent):
    """Interface → role, as /v1/status has it."""
    hooks = agent.api.status()["hooks"]
    assert [h for h in hooks if "error" in h] == []
    assert all(h["endpoint"] is None for h in hooks if h["role"] == "network")
    return {h["interface"]: h["role"] for h in hooks}


def rows(agent):
    """ps_iface: ifindex → (endpoint on side 0, on side 1, flags)."""
    word = lambda data: int.from_bytes(bytes.fromhex("".join(byte[2:] for byte in data)), "little")  # noqa: E731
    dump = json.loads(run("bpftool", "-j", "map", "dump", "pinned", f"{agent.pins}/maps/ps_iface").stdout)
    return {word(one["key"]): tuple(word(one["value"][at:at + 4]) for at in (0, 4, 8)) for one in dump}


def links(lab, agent, hook, name, sides=("ingress", "egress")):
    """Of each side: what stays (the link's id; of a filter that it is the only one), the program's name."""
    found = []
    for side in sides:
        if hook == "clsact":
            shown = json.loads(lab.node.run("tc", "-j", "filter", "show", "dev", name, side).stdout)
            filters = [one["options"] for one in shown if "options" in one]
            found.append((len(filters), filters[0]["bpf_name"].split(":")[0]))
            continue
        link = json.loads(run("bpftool", "-j", "link", "show", "pinned",
                              f"{agent.pins}/links/{lab.node.ifindex(name)}-{side}").stdout)
        found.append((link["id"], json.loads(run("bpftool", "-j", "prog", "show", "id", link["prog_id"]).stdout)["name"]))
    return [stays for stays, _ in found], [program for _, program in found]


def entered(lab, agent, hook, name):
    """Something of ours looks at what enters."""
    if hook == "clsact":
        return "from_" in lab.node.run("tc", "filter", "show", "dev", name, "ingress").stdout
    return os.path.exists(f"{agent.pins}/links/{lab.node.ifindex(name)}-ingress")


def test_the_uplink_from_the_first_proxy_on(lab_outside, hook):
    lab = lab_outside
    a, b, agent = lab.pod("a"), lab.pod("b"), lab.agent()
    agent.api.put_state([member("a", a)])
    assert roles(agent) == {a.interface: "workload"}
    assert lab.node.ifindex("uplink") not in rows(agent)
    agent.api.put_object(GATEWAY)
    want = {a.interface: "workload", b.interface: "network", "uplink": "network"}
    assert roles(agent) == want, "with the write's answer; lo is nobody's"
    assert rows(agent)[lab.node.ifindex("uplink")] == (0, 0, NETWORK)
    stays, programs = links(lab, agent, hook, "uplink")
    assert programs == ["from_network", "to_network"]
    assert links(lab, agent, hook, a.interface)[1] == ["from_workload", "to_workload"]
    agent.kill9()
    assert links(lab, agent, hook, "uplink")[1] == programs
    agent.start()
    assert roles(agent) == want and links(lab, agent, hook, "uplink") == (stays, programs)
    agent.api.put_state([])
    eventually(lambda: roles(agent) == dict.fromkeys(want, "network"))  # a proxy that is gone may have connections yet
    agent.restart()
    assert roles(agent) == dict.fromkeys(want, "network")
    assert links(lab, agent, hook, a.interface)[1] == programs


def test_the_uplinks_exit_from_the_first_service_on(lab_outside, hook):
    lab = lab_outside
    a, agent = lab.pod("a"), lab.agent()
    objects = [member("a", a), service("web", ["10.96.0.10"], [{"port": 80}]), endpoint_slice("web", [a.ip4], [{"port": 80}])]
    agent.api.put_state(objects[:1])
    assert roles(agent) == {a.interface: "workload"}
    agent.api.put_state(objects)
    want = {a.interface: "workload", "uplink": "network"}
    assert roles(agent) == want, "with the write's answer"
    exits = links(lab, agent, hook, "uplink", ("egress",))
    assert exits[1] == ["to_network"] and not entered(lab, agent, hook, "uplink")
    agent.kill9()
    agent.start()
    assert roles(agent) == want and links(lab, agent, hook, "uplink", ("egress",)) == exits
    agent.api.put_state(objects[:1])
    agent.restart()
    assert roles(agent) == want, "a connection to a Service that is gone may be there yet"
    agent.api.put_object(GATEWAY)
    stays, programs = links(lab, agent, hook, "uplink")
    assert programs == ["from_network", "to_network"] and stays[1:] == exits[0], "what was there stayed"


def test_a_bridge_stands_for_its_ports():
    with Lab(bridge=True) as lab:
        a, b, agent = lab.pod("a"), lab.pod("b"), lab.agent()
        agent.api.put_state([member("a", a, interface=a.interface), GATEWAY])
        assert roles(agent) == {"br0": "network", a.interface: "workload"}
        lab.node.ip(f"link set {b.interface} nomaster")
        eventually(lambda: roles(agent).get(b.interface) == "network")
        lab.node.ip(f"link set {b.interface} master br0")
        eventually(lambda: b.interface not in roles(agent))
        agent.api.put_state([GATEWAY])
        eventually(lambda: roles(agent) == {"br0": "network"})


def test_interfaces_that_come_later(lab, hook):
    agent = lab.agent()
    agent.api.put_state([GATEWAY])
    lab.node.ip("tuntap add tun0 mode tun", "link add one type veth peer name two", "link set one up")
    eventually(lambda: roles(agent) == {"one": "network"})  # what is down has none
    lab.node.ip("link set tun0 up", "link set two up", "link add link one name above type macvlan", "link set above up",
                "link add vx type vxlan id 7 dstport 4789 dev one", "link set vx up")
    eventually(lambda: roles(agent) == dict.fromkeys(("one", "two", "tun0", "above", "vx"), "network"))
    flags = {name: rows(agent)[lab.node.ifindex(name)][2] for name in ("tun0", "one", "vx")}
    assert flags == {"tun0": NETWORK | L3, "one": NETWORK, "vx": NETWORK}
    kept = links(lab, agent, hook, "one")
    lab.node.ip("link set one down", "link set one name three", "link set three up")
    lab.node.ip("link del above", "link del tun0")
    eventually(lambda: set(roles(agent)) == {"three", "two", "vx"})
    assert links(lab, agent, hook, "three") == kept, "it may come up before anybody is told: the programs stay"
    away = lab.namespace("away")
    lab.node.ip(f"link set two netns {away.name}", "link del vx")
    eventually(lambda: "two" not in roles(agent) and "vx" not in roles(agent))
    assert set(rows(agent)) == {lab.node.ifindex("three")}
    pinned = {name.split("-")[0] for name in os.listdir(f"{agent.pins}/links")}
    assert {name for name in pinned if name.isdigit()} == {str(lab.node.ifindex("three"))}


def test_a_veth_changes_its_role_and_loses_nothing(lab, hook):
    a, b, c = lab.pod("a"), lab.pod("b"), lab.pod("c")
    serve(lab, b)
    agent = lab.agent()
    agent.api.put_state([GATEWAY])
    kept = {pod: links(lab, agent, hook, pod.interface) for pod in (a, b)}
    assert all(programs == ["from_network", "to_network"] for _, programs in kept.values())
    members = [member(name, pod, interface=pod.interface) for name, pod in lab.pods.items()]
    # Both ways: the first datagram that is judged may be an answer, and then looks like a beginning.
    closed = policy("s", "not-c", ingress=[{"from": [{"podSelector": {"matchLabels": {"name": name}}} for name in "ab"]}])
    traffic = Traffic(a, b)
    traffic.start()
    try:
        for _ in range(4):
            agent.api.put_state([GATEWAY, *members, closed])
            assert results(lab, c, b) == [DENY] * 4, "judged from the answer on"
            assert links(lab, agent, hook, b.interface) == (kept[b][0], ["from_workload", "to_workload"])
            assert rows(agent)[lab.node.ifindex(b.interface)][2] == 0
            agent.kill9()
            agent.start()
            assert links(lab, agent, hook, b.interface) == (kept[b][0], ["from_workload", "to_workload"])
            agent.api.put_state([GATEWAY])
            assert results(lab, c, b, expect=ALLOW) == [ALLOW] * 4
            eventually(lambda: links(lab, agent, hook, b.interface) == kept[b])
            agent.restart()
        time.sleep(0.1)
    finally:
        pings = traffic.finish()
    assert traffic.lost == [], f"of {traffic.sent}"
    assert all(" 0% packet loss" in line for line in pings), pings
    assert retransmitted(a) == 0 and retransmitted(b) == 0
    assert links(lab, agent, hook, a.interface) == kept[a]


def test_a_connection_that_a_proxy_has_outlives_the_change(lab, hook):
    """By an ingress rule, from a client behind a veth that somebody claims and gives up."""
    b, c, agent = lab.pod("b"), lab.pod("c"), lab.agent()
    every = {"name": "all", "action": "Intercept", "proxy": "gw", "from": [{"networks": ["0.0.0.0/0"]}]}
    base = [GATEWAY, member("b", b, interface=b.interface), intercept("in", {"name": "b"}, [], ingress=[every])]
    agent.api.put_state(base)
    assert roles(agent) == {b.interface: "workload", c.interface: "network"}
    with lab.node.entered():
        listener = socket.create_server(("0.0.0.0", 15001))
    # As the proxy does itself where nobody adopts its socket.
    listener.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    with c.entered():
        client = socket.create_connection((b.ip4, 80), timeout=3)
    server, _ = listener.accept()
    assert server.getsockname() == (b.ip4, 80)
    stopped, exchanges = threading.Event(), []

    def exchange():
        client.settimeout(3)
        server.settimeout(3)
        while not stopped.is_set():
            client.sendall(b"question")
            server.sendall(server.recv(100))
            exchanges.append(client.recv(100))
    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(8):
            agent.api.put_state([*base, member("c", c, interface=c.interface)])
            assert roles(agent)[c.interface] == "workload"
            agent.api.put_state(base)
            eventually(lambda: roles(agent)[c.interface] == "network")
        alive = thread.is_alive()
    finally:
        stopped.set()
        thread.join()
    assert alive and len(exchanges) > 100
    assert retransmitted(c) == 0 and retransmitted(lab.node) == 0
    for sock in (client, server, listener):
        sock.close()


def test_patterns_are_workloads_before_anybody_claims_them(lab_outside):
    lab = lab_outside
    a, agent = lab.pod("a"), lab.agent(datapath={"workloadInterfaces": ["pv*", "uplink"], "unclaimed": "deny"})
    agent.api.put_state([GATEWAY])
    assert roles(agent) == {a.interface: "workload", "uplink": "network"}, "a default route is no workload's"
    assert agent.api.metrics()("penstock_packets_total", reason="Unclaimed") == 0
    lab.node.run("ping", "-c1", "-W1", lab.outside.ip4)
    lab.outside.run("ping", "-c1", "-W1", UPLINK4)
    assert agent.api.metrics()("penstock_packets_total", reason="Unclaimed") == 0, "the network's are not unclaimed"


def test_a_lost_hook_comes_back(lab_outside):
    lab = lab_outside
    agent = lab.agent()
    agent.api.put_state([GATEWAY])
    index = lab.node.ifindex("uplink")
    pin = f"{agent.pins}/links/{index}-ingress"
    os.unlink(pin)
    eventually(lambda: os.path.exists(pin))
    assert links(lab, agent, "tcx", "uplink")[1] == ["from_network", "to_network"]
    assert roles(agent) == {"uplink": "network"}


def test_uninstall_leaves_nothing(lab_outside, hook):
    lab = lab_outside
    a = lab.pod("a")
    lab.node.ip("tuntap add tun0 mode tun", "link set tun0 up", "link add br0 type bridge", "link set br0 up")
    names = [a.interface, "uplink", "tun0", "br0"]
    lab.node.run("tc", "qdisc", "add", "dev", "uplink", "clsact")
    lab.node.run("tc", "filter", "add", "dev", "uplink", "ingress", "prio", 7, "bpf", "da", "bytecode", "1,6 0 0 4294967295")
    lab.node.run("ping", "-c1", "-W1", lab.outside.ip4)
    time.sleep(0.1)
    filters = lambda: [lab.node.run("tc", "filter", "show", "dev", name, side, check=False).stdout  # noqa: E731
                       for name in names for side in ("ingress", "egress")]
    before = surroundings(lab), filters()
    agent = lab.agent()
    agent.api.put_state([member("a", a), GATEWAY])
    assert set(roles(agent)) == set(names)
    pinned = kernel_objects(agent)
    agent.stop()
    agent.uninstall()
    assert not os.path.exists(agent.pins)
    after = surroundings(lab), filters()
    assert {k: v for k, v in after[0].items() if before[0][k] != v} == {} and after[1] == before[1]

    def left():  # a program lives as long as it is attached anywhere
        return [one for one in pinned if run("bpftool", one[0], "show", "id", one[1], check=False).returncode == 0]
    eventually(lambda: not left())
