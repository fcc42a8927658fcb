# SPDX-License-Identifier: Apache-2.0
"""Interfaces come and go, the agent comes and goes: what is enforced stays what was asked for."""
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from lab import ALLOW, BUILD, DENY, NODE4, NODE6, NODE_NAME, Lab, Probe
from netns import run
from objects import deny_all, namespace, pod, policy
from probe import family_of
from scenes import echoed, enforced, eventually, member, results, serve

# ---- interfaces ----

@pytest.mark.parametrize("how", ["named", "workload by route", "pod by route"])
def test_an_interface_that_appears_after_its_object(lab, how):
    agent = lab.agent()
    a, late = lab.pod("a"), lab.pod("late", attach=False)
    made = {"named": lambda: member("late", late, interface=late.interface),
            "workload by route": lambda: member("late", late),
            "pod by route": lambda: pod("s", "late", late.ips, NODE_NAME, {"name": "late"})}[how]()
    answer = agent.api.put_state([namespace("s"), made, deny_all("s")])
    assert any("late" in json.dumps(w) for w in answer["warnings"]), answer
    assert "late" in json.dumps(agent.api.status())
    serve(lab, late)
    lab.attach(late)
    took = eventually(lambda: results(lab, a, late, protocols=("TCP",)) == [DENY] * 2)
    assert took < 1.5, f"enforced only after {took:.2f} s"
    agent.api.put_state([namespace("s"), made])
    assert results(lab, a, late, expect=ALLOW) == [ALLOW] * 4


@pytest.mark.parametrize("how", ["named", "workload by route", "pod by route"])
@pytest.mark.parametrize("bridge", [False, True], ids=["routed", "bridged"])
def test_an_object_that_appears_after_its_interface(how, bridge):
    with Lab(bridge=bridge) as lab:
        a, b = lab.pod("a"), lab.pod("b")
        serve(lab, b)
        agent = lab.agent()
        assert results(lab, a, b, expect=ALLOW) == [ALLOW] * 4
        made = {"named": lambda: member("b", b, interface=b.interface),
                "workload by route": lambda: member("b", b),
                "pod by route": lambda: pod("s", "b", b.ips, NODE_NAME, {"name": "b"})}[how]()
        answer = agent.api.put_state([namespace("s"), made, deny_all("s")])
        assert not answer["warnings"], "nobody has spoken to it: it was not asked for, or its answer not waited for"
        assert results(lab, a, b) == [DENY] * 4
        assert results(lab, lab.node, b, expect=ALLOW) == [ALLOW] * 4, "the node may always reach its workloads"


def test_a_second_interface_is_warned_of(lab):
    """A workload has one: what enters or leaves by another is not enforced, and that is not silent."""
    agent = lab.agent()
    a, second = lab.pod("a"), lab.pod("second")
    made = member("a", a)
    assert not agent.api.put_state([namespace("s"), made])["warnings"]
    made["spec"]["ips"] = [*a.ips, second.ip4]
    for answer in (agent.api.put_state([namespace("s"), made], dryRun="true"), agent.api.put_state([namespace("s"), made])):
        assert [second.ip4 in w["detail"] and second.interface in w["detail"] for w in answer["warnings"]] == [True], answer
    eventually(lambda: any(second.interface in check["what"] for check in agent.api.status()["checks"]))


def test_a_bridge_port_is_found_when_its_address_speaks():
    with Lab(bridge=True) as lab:
        a, b = lab.pod("a"), lab.pod("b")
        serve(lab, b)
        agent = lab.agent()
        agent.api.put_state([namespace("s"), pod("s", "b", b.ips, NODE_NAME, {"name": "b"}), deny_all("s")])
        assert results(lab, lab.node, b, expect=ALLOW) == [ALLOW] * 4
        eventually(lambda: results(lab, a, b, protocols=("TCP",)) == [DENY] * 2)


def test_an_interface_that_goes_and_comes_back(pair):
    lab = pair
    assert enforced(lab)
    lab.node.ip(f"link del {lab.b.interface}")
    eventually(lambda: "pending" in json.dumps(lab.running.api.status()).lower())
    lab.attach(lab.b)
    eventually(lambda: enforced(lab))


def test_an_object_that_goes_takes_its_policy_along(pair):
    lab = pair
    assert results(lab, lab.b, lab.c, ports=(7,)) == ["ECONNREFUSED"] * 4, "nothing listens there"
    lab.running.api.delete_object("Workload", "s", "b")
    assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4


@pytest.mark.parametrize("unclaimed", ["allow", "deny"])
def test_interfaces_that_no_object_claims_yet(lab, unclaimed):
    agent = lab.agent(datapath={"workloadInterfaces": ["pv*"], "unclaimed": unclaimed})
    a, b = lab.pod("a"), lab.pod("b")
    serve(lab, b)
    want = ALLOW if unclaimed == "allow" else DENY
    eventually(lambda: results(lab, a, b) == [want] * 4)
    assert results(lab, lab.node, b, expect=ALLOW) == [ALLOW] * 4, "the node, ARP and ND pass"
    agent.api.put_state([member("a", a), member("b", b)])
    assert results(lab, a, b, expect=ALLOW) == [ALLOW] * 4


# ---- the process ----

def test_what_is_enforced_outlives_the_process(pair):
    lab, agent = pair, pair.running
    assert enforced(lab)
    state = agent.api.state()
    assert agent.stop() == 0
    assert enforced(lab), "after SIGTERM"
    agent.start()
    assert enforced(lab), "after the start"
    assert agent.api.state() == state
    agent.kill9()
    assert enforced(lab), "after kill -9"
    agent.start()
    assert enforced(lab) and agent.api.state() == state
    agent.api.put_object(policy("s", "b-in", {"name": "b"}, ingress=[{}]))
    assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4, "a write after the restart"
    assert agent.api.state()["revision"] > state["revision"]


def test_new_connections_are_tracked_while_no_agent_runs(pair):
    lab = pair
    lab.running.kill9()
    with lab.a.entered():
        client = socket.create_connection((lab.b.ip4, 80), timeout=2)
    client.settimeout(0.05)
    lab.running.start()
    assert echoed(lab, client, b"before and after")


class Traffic(threading.Thread):
    """Ping, datagrams and a TCP stream between two pods; every loss counts."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b, self.stopped = a, b, False
        self.sent, self.lost, self.echoed = 0, [], 0
        self.pings = [a.popen("ping", "-q", "-i", "0.01", ip, stdout=subprocess.PIPE, text=True) for ip in b.ips]
        self.servers, self.clients = [], []
        for port, kind in ((5001, socket.SOCK_DGRAM), (5002, socket.SOCK_STREAM)):
            with b.entered():
                sock = socket.socket(socket.AF_INET6, kind)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", port))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            for ip in b.ips:
                with a.entered():
                    client = socket.socket(family_of(ip), kind)
                client.connect((ip, port))
                client.settimeout(0.9)  # a segment that is lost is sent again after 0.2 s at the earliest: see below
                self.clients.append((client, sock if kind == socket.SOCK_DGRAM else sock.accept()[0]))
            self.servers.append(sock)

    def run(self):
        while not self.stopped:
            for client, server in self.clients:
                begun = time.monotonic()
                client.send(b"x" * 100)
                try:
                    server.settimeout(0.9)
                    data, peer = server.recvfrom(200)
                    if client.type == socket.SOCK_DGRAM:
                        server.sendto(data, peer)
                    else:
                        server.send(data)
                    client.recv(200)
                except TimeoutError:
                    self.lost.append((client.type, time.monotonic() - begun))
                self.sent += 1

    def finish(self):
        self.stopped = True
        self.join()
        lines = []
        for ping in self.pings:
            ping.send_signal(signal.SIGINT)
            lines.append(next(line for line in ping.communicate()[0].splitlines() if "packet loss" in line))
        return lines


def retransmitted(space):
    with space.entered(), open("/proc/thread-self/net/snmp") as file:
        lines = [line.split() for line in file if line.startswith("Tcp:")]
    return int(lines[1][lines[0].index("RetransSegs")])


def test_a_restart_under_load_loses_nothing(lab):
    a, b, c = lab.pod("a"), lab.pod("b"), lab.pod("c")
    serve(lab, b)
    agent = lab.agent()
    anything = policy("s", "b-in", {"name": "b"}, ingress=[{"from": [{"podSelector": {"matchLabels": {"name": "a"}}}]}])
    agent.api.put_state([member(n, p, interface=p.interface) for n, p in lab.pods.items()] + [anything])
    traffic = Traffic(a, b)
    traffic.start()
    try:
        for stop in (agent.stop, agent.kill9, agent.stop, agent.kill9):
            time.sleep(0.2)
            stop()
            assert results(lab, c, b) == [DENY] * 4
            agent.start()
            assert results(lab, c, b) == [DENY] * 4
    finally:
        pings = traffic.finish()
    assert traffic.lost == [], f"of {traffic.sent}"
    assert all(" 0% packet loss" in line for line in pings), pings
    assert retransmitted(a) == 0 and retransmitted(b) == 0
    assert traffic.sent > 1000


# ---- uninstall ----

def kernel_objects(agent):
    """(kind, id) of everything pinned."""
    found = set()
    for directory, _, names in os.walk(agent.pins):
        for name in names:
            for kind in ("prog", "map", "link"):
                shown = run("bpftool", "-j", kind, "show", "pinned", os.path.join(directory, name), check=False)
                if shown.returncode == 0:
                    found.add((kind, json.loads(shown.stdout)["id"]))
    return found


def surroundings(lab):
    """What of the node's namespace an agent might change."""
    return {command: lab.node.run(*command.split()).stdout for command in (
        "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "nft list ruleset",
        "tc qdisc show", "sysctl -a -r net.ipv[46].conf.(all|default|pv1|lo).(rp_filter|forwarding|accept_local|route_localnet|src_valid_mark)")}


def test_uninstall_leaves_nothing(lab):
    a, b = lab.pod("a"), lab.pod("b")
    serve(lab, b)
    results(lab, a, b)
    before = surroundings(lab)
    agent = lab.agent()
    agent.api.put_state([member("a", a), member("b", b), deny_all("s")])
    assert results(lab, a, b) == [DENY] * 4
    pinned = kernel_objects(agent)
    assert {kind for kind, _ in pinned} >= {"prog", "map"}, pinned
    agent.stop()
    agent.uninstall()
    assert not os.path.exists(agent.pins)
    assert results(lab, a, b, expect=ALLOW) == [ALLOW] * 4
    after = surroundings(lab)
    assert {k: v for k, v in after.items() if before[k] != v} == {}

    def gone():
        return not [o for o in pinned if run("bpftool", o[0], "show", "id", o[1], check=False).returncode == 0]
    eventually(gone)
    agent.uninstall()  # once more: nothing to do is no error


def test_uninstall_is_refused_while_an_agent_runs(pair):
    done = pair.running.uninstall(check=False)
    assert done.returncode != 0 and done.stderr.strip(), done
    assert enforced(pair)


def test_a_second_agent_on_the_same_paths_is_refused(pair):
    second = subprocess.run(pair.node.command(os.path.join(BUILD, "penstockd"), "--config", pair.running.config_path),
                            capture_output=True, text=True, timeout=20)
    assert second.returncode != 0
    assert "another" in (second.stderr + second.stdout).lower(), second
    assert pair.running.running() and enforced(pair)
    pair.running.api.put_state(pair.items)


def test_check_and_version(pair):
    for flag in ("--check", "--version"):
        done = pair.node.run(pair.running.binary, "--config", pair.running.config_path, flag)
        assert done.stdout.strip()


def test_the_node_reaches_its_pods_whatever_policy_says(pair):
    lab = pair
    lab.running.api.put_state(lab.items + [deny_all("s")])
    assert results(lab, lab.node, lab.b, expect=ALLOW) == [ALLOW] * 4
    lab.node.run("ping", "-c1", "-W1", lab.b.ip4)
    lab.node.run("ping", "-c1", "-W1", lab.b.ip6)
    # The other way round, egress to the node's own addresses is judged like any other.
    lab.prober.listen(lab.node, 80)
    probes = lab.prober.probe([Probe(lab.b, ip, 80, expect=DENY) for ip in (NODE4, NODE6)])
    assert [str(p) for p in probes if not p.ok] == []


def test_allow_local_host_can_be_switched_off(lab):
    b = lab.pod("b")
    serve(lab, b)
    agent = lab.agent(datapath={"allowLocalHost": False})
    agent.api.put_state([member("b", b), deny_all("s")])
    assert results(lab, lab.node, b) == [DENY] * 4
