# SPDX-License-Identifier: Apache-2.0
"""The data path in surroundings that a plain node does not have: bridges whose frames netfilter sees, few capabilities,
other people's programs, interfaces that change."""
import os
import shutil
import socket
import struct
import subprocess
import threading

import pytest

from foreign import Programs
from lab import ALLOW, DENY, NODE4, NODE6, OUTSIDE4, UPLINK4, UPLINK6, Lab, Probe
from objects import intercept, policy, proxy
from scenes import IN_B, echoed, enforced, eventually, heard, member, results, serve
from test_intercept import PROXY_PORT, rule, tried

# ---- ports of a bridge ----

@pytest.fixture(params=[0, 1], ids=["br_netfilter off", "br_netfilter on"])
def bridged(request):
    with Lab(bridge=True, outside=True) as lab:
        for family in ("iptables", "ip6tables"):
            try:
                lab.node.sysctl(f"net.bridge.bridge-nf-call-{family}", request.param)
            except FileNotFoundError:
                if request.param:
                    pytest.skip("this kernel has no br_netfilter")
        lab.a, lab.b = lab.pod("a"), lab.pod("b")
        serve(lab, lab.b, lab.outside)
        lab.running = lab.agent()
        lab.items = [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
        to_b = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"name": "b"}}}}
        lab.running.api.put_state(lab.items + [
            proxy("gw", PROXY_PORT),
            intercept("llm", {"name": "a"}, [rule(to=[{"networks": [f"{OUTSIDE4}/32"]}, to_b])])])
        lab.listen = lambda: lab.prober.listen(lab.node, PROXY_PORT, ip="0.0.0.0", transparent=True)
        yield lab


def test_a_bridged_pod_is_intercepted(bridged):
    lab = bridged
    for destination in (OUTSIDE4, lab.b.ip4):
        assert tried(lab, lab.a, destination, expect=DENY).result == DENY, "nobody listens"
    lab.listen()
    for destination in (OUTSIDE4, lab.b.ip4):
        probe = tried(lab, lab.a, destination)
        assert probe.ok and probe.peer == (lab.a.ip4, probe.local[1], destination, 80)
    with lab.a.entered():
        client = socket.create_connection((lab.b.ip4, 80), timeout=2)
    assert echoed(lab, client, b"one")
    lab.node.ip("link set br0 address 02:00:00:00:00:77")
    lab.a.ip("neigh flush dev eth0")
    assert echoed(lab, client, b"two"), "the bridge has another address"
    lab.prober.close_listeners()
    serve(lab, lab.b)
    assert tried(lab, lab.a, lab.b.ip4, expect=DENY).result == DENY, "never past the proxy"


# ---- few privileges ----


def test_four_capabilities_are_enough(lab_outside):
    """As another user, whose are the files and the pins: start, enforce, intercept, restart, uninstall."""
    lab, uid = lab_outside, 4242
    lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
    serve(lab, lab.b, lab.outside)
    agent = lab.agent(start=False, api={"unixGroup": str(uid)})
    for path in (agent.directory, agent.config["state"]["directory"], agent.pins):
        os.makedirs(path, exist_ok=True)
        os.chown(path, uid, uid)
    binary = shutil.copy(agent.binary, lab.directory)  # the build may be out of another user's reach
    capabilities = "-all,+net_admin,+net_raw,+bpf,+perfmon"
    limited = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--inh-caps", capabilities,
               "--ambient-caps", capabilities, "--bounding-set", capabilities, binary, "--config", agent.config_path]

    def start():
        with open(agent.log_path, "a") as log:
            agent.process = lab.node.popen(*limited, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        agent.wait_ready()
    start()
    agent.api.put_state([member(n, p, interface=p.interface) for n, p in lab.pods.items()] +
                        [IN_B, proxy("gw", PROXY_PORT), intercept("llm", {"name": "a"}, [rule()])])
    lab.prober.listen(lab.node, PROXY_PORT, ip="0.0.0.0", transparent=True)
    for stop in (agent.stop, agent.kill9):
        assert enforced(lab)
        assert tried(lab, lab.a).peer[2:] == (OUTSIDE4, 80)
        stop()
        start()
    assert not [line for line in agent.log.splitlines() if " WARN" in line or " ERROR" in line]
    agent.stop()
    lab.node.run(*limited, "--uninstall")
    assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4 and not os.path.exists(agent.pins)
    assert "76" not in lab.node.run("ip", "-d", "rule").stdout.split()


# ---- interfaces that change ----


@pytest.fixture
def moving(lab):
    """Found by their routes; what nobody claims is denied."""
    lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
    serve(lab, lab.b)
    lab.running = lab.agent(datapath={"workloadInterfaces": ["pv*"], "unclaimed": "deny"})
    lab.running.api.put_state([member(n, p) for n, p in lab.pods.items()] + [IN_B])
    eventually(lambda: enforced(lab))
    return lab


def test_an_address_that_moves_to_another_interface(moving):
    lab = moving
    old = lab.a
    with old.entered():
        client = socket.create_connection((lab.b.ip4, 80), timeout=2)
    assert echoed(lab, client, b"one")
    lab.node.ip(*[f"route del {ip}/{128 if ':' in ip else 32} dev {old.interface}" for ip in old.ips])
    lab.a = lab.pod("another", ips=old.ips)
    assert eventually(lambda: results(lab, lab.a, lab.b) == [ALLOW] * 4) < 2
    assert not echoed(lab, client, b"two", 0.4), "the old interface has lost the address, and its connection"
    assert results(lab, old, lab.b, protocols=("UDP",)) == [DENY] * 2
    with lab.a.entered():
        probe, = lab.prober.probe([Probe(lab.a, lab.b.ip4, 80, bind=client.getsockname(), expect=ALLOW)])
    assert probe.ok, "from the very port of the old connection"
    assert enforced(lab)


def test_an_interface_that_leaves_for_another_namespace_and_comes_back(moving):
    lab, name = moving, moving.b.interface
    away = lab.namespace("away")
    lab.node.ip(f"link set {name} netns {away.name}")
    eventually(lambda: "pending" in str(lab.running.api.status()["workloads"]))
    away.ip(f"link set {name} netns {lab.node.name}")
    lab.node.ip(f"link set {name} up", f"addr add 169.254.1.1/32 dev {name} scope link",
                f"addr add fe80::1/64 dev {name} nodad", f"route add {lab.b.ip4}/32 dev {name} src {NODE4}",
                f"route add {lab.b.ip6}/128 dev {name} src {NODE6}")
    eventually(lambda: enforced(lab), 5)
    lab.node.ip(f"link set {name} name renamed0")
    assert enforced(lab), "by another name"
    lab.running.restart()
    assert enforced(lab)


# ---- the node translates addresses ----


def test_translation_to_a_pod(lab_outside):
    """As a host port and kube-proxy do it: the backend's ingress is asked, replies pass, the pod may be its own client."""
    lab = lab_outside
    lab.a, lab.b = lab.pod("a"), lab.pod("b")
    serve(lab, lab.b)
    service4, service6 = "10.96.0.10", "fd00:96::10"
    to4, to6 = f"tcp dport 80 dnat ip to {lab.b.ip4}:80", f"tcp dport 80 dnat ip6 to [{lab.b.ip6}]:80"
    lab.node.run("nft", "-f", "-", input=f"""table inet lab {{
chain pre {{
type nat hook prerouting priority -100;
ip daddr {{ {UPLINK4}, {service4} }} {to4}
ip6 daddr {{ {UPLINK6}, {service6} }} {to6}
}}
chain out {{
type nat hook output priority -100;
ip daddr {service4} {to4}
ip6 daddr {service6} {to6}
}}
chain post {{
type nat hook postrouting priority 100;
ip saddr {lab.b.ip4} ip daddr {lab.b.ip4} masquerade
ip6 saddr {lab.b.ip6} ip6 daddr {lab.b.ip6} masquerade
}}
}}
""")
    lab.running = lab.agent()
    items = [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
    clients = {"outside": (lab.outside, UPLINK4, UPLINK6), "node": (lab.node, service4, service6),
               "a": (lab.a, service4, service6), "b": (lab.b, service4, service6)}

    def passing():
        probes = [Probe(source, ip, 80, label=name) for name, (source, *ips) in clients.items() for ip in ips]
        return {p.label for p in lab.prober.probe(probes) if p.result == ALLOW}, {p.result for p in probes}
    lab.running.api.put_state(items)
    assert passing() == ({"outside", "node", "a", "b"}, {ALLOW})
    with lab.node.entered():
        probe = socket.create_connection((service4, 80), timeout=2)
    with lab.b.entered():
        itself = socket.create_connection((service4, 80), timeout=2)
    lab.running.api.put_state(items + [policy("s", "b-in", {"name": "b"}, types=["Ingress"])])
    assert passing() == ({"node"}, {ALLOW, DENY})
    assert echoed(lab, probe, b"kubelet") and not echoed(lab, itself, b"one", 0.4)
    lab.running.api.put_state(items + [policy("s", "b-in", {"name": "b"}, ingress=[
        {"from": [{"podSelector": {}}], "ports": [{"port": 80}]}])])
    assert passing() == ({"node", "a", "b"}, {ALLOW, DENY})
    assert heard(lab, itself, b"one", 4), "TCP sends it again, and it passes"


# ---- other people's programs ----

def test_foreign_programs_go_on_running(lab):
    lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
    serve(lab, lab.b)
    name, sides = lab.b.interface, ("ingress", "egress")
    with Programs(lab) as programs:
        seen = [programs.load("watch") for _ in range(4)]
        programs.tc(seen[0], name, *sides, priority=1)
        tcx = programs.tcx(seen[1], name, *sides)
        lab.running = lab.agent()
        lab.running.api.put_state([member(n, p, interface=p.interface) for n, p in lab.pods.items()] + [IN_B])
        programs.tc(seen[2], name, *sides, priority=50)
        programs.tcx(seen[3], name, *sides)

        def all_run():
            before = [program.seen for program in seen]
            assert results(lab, lab.a, lab.b, expect=ALLOW) == [ALLOW] * 4
            return all(program.seen >= was + 8 for program, was in list(zip(seen, before))[::1 if tcx else 2])
        for change in (lambda: None, lab.running.restart, lambda: (lab.running.kill9(), lab.running.start())):
            change()
            assert enforced(lab) and all_run()
        lab.running.stop()
        lab.running.uninstall()
        assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4 and all_run()


# ---- bulk ----


def test_packets_of_every_size_arrive_as_they_were_sent(lab):
    """Super-packets beyond 64 KiB, then small ones without any offload."""
    lab.a, lab.b = lab.pod("a"), lab.pod("b")
    ends = [(pod, "eth0") for pod in (lab.a, lab.b)] + [(lab.node, pod.interface) for pod in (lab.a, lab.b)]
    for space, name in ends:
        packets_beyond_64k(space, name)
    lab.running = lab.agent()
    lab.running.api.put_state([member(n, p, interface=p.interface) for n, p in lab.pods.items()] +
                              [policy("s", "any", ingress=[{}], egress=[{}])])
    data = os.urandom(1 << 16) * 512
    for ip in lab.b.ips:
        carried(lab, ip, data)
    for space, name in ends:
        space.run("ethtool", "-K", name, "tx", "off", "tso", "off", "gso", "off", "gro", "off")
    lab.a.ip("link set eth0 mtu 1400")
    for ip in lab.b.ips:
        carried(lab, ip, data[:1 << 22])
    assert lab.running.api.metrics()("penstock_packets_total", reason="Malformed") == 0


def packets_beyond_64k(space, name):
    """IFLA_GSO_IPV4_MAX_SIZE, IFLA_GRO_IPV4_MAX_SIZE, which iproute2 has had since 6.3. The kernel forwards none in IPv6."""
    with space.entered():
        netlink, index = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE), socket.if_nametoindex(name)
    body = struct.pack("=BBHiII", 0, 0, 0, index, 0, 0) + b"".join(struct.pack("=HHI", 8, kind, 196608) for kind in (63, 64))
    netlink.send(struct.pack("=IHHII", 16 + len(body), 19, 5, 1, 0) + body)  # RTM_SETLINK, with acknowledgement
    netlink.recv(4096)  # refused before Linux 6.3: then none are larger
    netlink.close()


def carried(lab, ip, data):
    """There and back."""
    with lab.b.entered():
        listener = socket.create_server((ip, 5000), family=socket.AF_INET6 if ":" in ip else socket.AF_INET)
    with lab.a.entered():
        client = socket.create_connection((ip, 5000), timeout=5)
    server, _ = listener.accept()
    listener.close()
    server.settimeout(5)
    for sender, receiver in ((client, server), (server, client)):
        thread = threading.Thread(target=sender.sendall, args=(data,))
        thread.start()
        got = bytearray(len(data))
        at = 0
        while at < len(got):
            count = receiver.recv_into(memoryview(got)[at:])
            assert count, "ended early"
            at += count
        thread.join()
        assert got == data
    client.close()
    server.close()


# ---- many at once ----

def test_connections_that_ended_leave_the_table():
    """In a burst the kernel has no memory for many of the timers: those entries are the agent's to end."""
    with Lab() as lab:
        a, b = lab.pod("a"), lab.pod("b")
        agent = lab.agent()
        agent.api.put_state([member(n, p, interface=p.interface) for n, p in lab.pods.items()])
        with b.entered():
            listener = socket.create_server(("", 80), backlog=1024)
        ends = []
        with a.entered():
            for _ in range(450):
                ends += [socket.create_connection((b.ip4, 80)), listener.accept()[0]]
        tracked = lambda: agent.api.metrics()("penstock_connections")  # noqa: E731
        assert tracked() == 450
        for end in [*ends, listener]:
            end.close()
        eventually(lambda: tracked() == 0, 16)
        agent.restart()
        assert tracked() == 0
