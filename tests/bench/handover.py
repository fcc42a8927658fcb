# SPDX-License-Identifier: Apache-2.0
"""Connections of a pod handed to a proxy on its node: by penstock with everything on, and by hand-written nftables.

Each contender gets a lab of its own and a new one each round, so that no trace of another is in its path: conntrack
and the nft hooks exist only where the contender's own rules ask for them, penstock's programs only where penstock runs.
Nothing behind the node knows a way back to the pod, so what is answered was handed over.
"""
import contextlib
import json
import os
import socket
import statistics
import subprocess
import time

import kernel
from lab import BUILD, Lab
from objects import allow_to, intercept, proxy, workload
from proxies import PORT, HAProxy, Relay
from table import ROUNDS, best_run, figure, peer_blocks
from traffic import ACK, SYN, Flood, Stream, mac, tcp4

TOOL, UDP_TOOL = f"{BUILD}/tools/tcp_load", f"{BUILD}/tools/udp_sink"
SERVED = 80
CALLERS, SECONDS = 4, 0.7
RULES_EACH = 100  # as many in one InterceptPolicy


# ---- ways to hand over what the pod sends to SERVED of any of the networks ----

def by_penstock(engine):
    """Policy, tracking, counters, flows: all of it is always on."""
    def hand_over(lab, networks, protocol):
        agent = lab.agent(log={"level": "info"}, datapath={"connectionsMax": 65536, "engine": engine})
        port = {"protocol": protocol.upper(), "port": SERVED}
        rules = [{"action": "Intercept", "proxy": "gateway", "to": [{"networks": [f"{ip}/32"]}],
                  "protocols": [{protocol: {"destinationPort": {"number": SERVED}}}]} for ip in networks]
        pod = lab.pods["client"]
        agent.api.put_state([
            workload("bench", "client", pod.ips, {"app": "client"}, interface=pod.interface),
            allow_to("bench", "allow", {"app": "client"}, [{"ipBlock": {"cidr": f"{lab.outside.ip4}/32"}}], [port]),
            proxy("gateway", PORT, protocols=[protocol.upper()]),
            *[intercept(f"to-{at}", {"app": "client"}, rules[at:at + RULES_EACH], priority=at // RULES_EACH)
              for at in range(0, len(rules), RULES_EACH)]])
    return hand_over


OURS = {"penstock, ebpf": by_penstock("ebpf"), "penstock, tproxy": by_penstock("tproxy")}


def by_tproxy(lab, networks, protocol, first=""):
    """Policy routing as in the kernel's own documentation."""
    lab.node.ip("rule add fwmark 1 lookup 100", "route add local default dev lo table 100")
    nft_chain(lab, networks, protocol, "type filter hook prerouting priority mangle",
              f"tproxy ip to 127.0.0.1:{PORT} meta mark set 1 accept", first)


def by_tproxy_and_socket(lab, networks, protocol):
    """The list is walked once a connection: what has a socket is let past it."""
    by_tproxy(lab, networks, protocol, f"iifname {lab.pods['client'].interface} socket transparent 1 meta mark set 1 accept")


def by_redirect(lab, networks, protocol):
    nft_chain(lab, networks, protocol, "type nat hook prerouting priority dstnat", f"redirect to :{PORT}")


def by_nobody(lab, networks, protocol):
    """Forwarded: the server itself answers."""


def nft_chain(lab, networks, protocol, kind, does, first=""):
    interface = lab.pods["client"].interface
    rules = "\n".join(f"iifname {interface} ip daddr {ip} {protocol} dport {SERVED} {does}" for ip in networks)
    lab.node.run("nft", "-f", "-", input=f"table ip bench {{\n chain prerouting {{\n {kind};\n{first}\n{rules}\n }}\n}}\n")


# ---- who takes them ----

@contextlib.contextmanager
def served(space, port, *options):
    """Takes connections, answers their first bytes, discards the rest."""
    process = space.popen(TOOL, "serve", port, *options, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"listens\n", "nobody serves"
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def relayed_by(kind, lab):
    """A whole proxy on the node, and the server behind it; none: the server alone."""
    with served(lab.outside, SERVED):
        if kind == "penstock-relay":
            with Relay(lab, listen=f"0.0.0.0:{PORT}"):
                yield
        elif kind == "HAProxy":
            with HAProxy(lab, frontend=f"bind 0.0.0.0:{PORT} transparent", backend="server original 0.0.0.0:0"):
                yield
        else:
            yield


@contextlib.contextmanager
def way(hand_over, count=1, protocol="tcp"):
    """A lab in which connections to the outside host are handed over, the last of so many rules saying so."""
    with Lab(outside=True) as lab:
        lab.pod("client")
        if hand_over != by_nobody:
            lab.outside.ip("route add blackhole 10.77.0.0/16")
        # The node is the client of all that proxies ask for: no TIME_WAIT may stop it.
        lab.node.sysctl("net.ipv4.ip_local_port_range", "10000 65535")
        lab.node.sysctl("net.ipv4.tcp_tw_reuse", 1)
        lab.pods["client"].sysctl("net.ipv4.ip_local_port_range", "10000 65535")
        hand_over(lab, peer_blocks(count, lab.outside.ip4), protocol)
        yield lab


# ---- measuring ----

def busy():
    """Processor seconds that this machine has worked, interrupts and softirqs included: what was not idle, not waited
    and not stolen. Idle time is exact; the kernel only samples what the rest went to."""
    with open("/proc/stat") as file:
        idle, wait, _, _, stolen = map(int, file.readline().split()[4:9])
    return time.monotonic() * os.cpu_count() - (idle + wait + stolen) / os.sysconf("SC_CLK_TCK")


def calls(lab, callers, seconds=SECONDS):
    before = busy()
    got = json.loads(lab.pods["client"].run(TOOL, "connect", lab.outside.ip4, SERVED, callers, seconds).stdout)
    got["cpu"] = busy() - before
    if got["connections"] == 0 or got["failures"] * 1000 > got["connections"]:
        raise RuntimeError(f"not a measurement: {got}")
    return got


def connections_through(lab):
    """Many at once for the rate; one after the other for what each costs."""
    calls(lab, 1, 0.1)
    many, single = calls(lab, CALLERS), calls(lab, 1)
    return {"cps": many["connections"] / many["seconds"], "p50": single["p50"], "p99": single["p99"],
            "cpu": single["cpu"] / single["connections"] * 1e6}


def bulk_through(lab):
    got = json.loads(lab.pods["client"].run(TOOL, "bulk", lab.outside.ip4, SERVED, SECONDS).stdout)
    return {"bulk": got["bytes"] / got["seconds"] / 1e6}


def in_turns(contenders, measure):
    """{contender: {what: median}}; a contender's value in the argument is what measure() is called with."""
    rounds = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, hand_over in contenders.items():
            rounds[name].append(measure(hand_over))
    return {name: {what: statistics.median(one[what] for one in got) for what in got[0]} for name, got in rounds.items()}


# CPU is the whole machine's: the client's, the proxy's and the server's work is in it, as softirqs cannot be told apart.
SHOWN = {"cps": ("cps", "conn/s"), "p50": ("latency p50", "µs"), "p99": ("latency p99", "µs"),
         "cpu": ("machine-CPU", "µs/conn"), "bulk": ("bulk", "MB/s"), "pps": ("datagrams", "kpps")}
MORE_IS_BETTER = ("cps", "bulk", "pps")


def show(kind, where, medians, least):
    """Of both engines beside everybody else. least: {(engine, contender): how many times as good it is to be}."""
    for what, (row, unit) in SHOWN.items():
        row = f"{kind}-{row}, {where}"
        others = {name: values[what] for name, values in medians.items() if name not in OURS and what in values}
        for name, value in others.items():
            figure(row, name, value, unit)
        for engine in OURS:
            for name, value in others.items():
                goal = least.get((engine, name), least.get(name))
                sign = "≥" if what in MORE_IS_BETTER else "≤"
                figure(row, engine, medians[engine][what], unit, name, medians[engine][what] / value,
                       goal and f"{sign} {goal if what in MORE_IS_BETTER else 1 / goal:.1f}")


# ---- the hand-over alone: a proxy that accepts and answers ----

def intercepted():
    def measured(count):
        def measure(hand_over):
            with way(hand_over, count) as lab, served(lab.node, PORT, "transparent"):
                return connections_through(lab)
        return measure
    show("intercept", "1 rule", in_turns({**OURS, "TPROXY": by_tproxy, "REDIRECT": by_redirect}, measured(1)),
         {"TPROXY": 1, "REDIRECT": 1})
    # Whoever lets established connections past the list walks it once for each: no claim is made about that one.
    show("intercept", "1,000 rules",
         in_turns({**OURS, "TPROXY": by_tproxy, "TPROXY + socket match": by_tproxy_and_socket}, measured(1000)),
         {("penstock, ebpf", "TPROXY"): 2})


# ---- datagrams: a proxy that takes them; each flow has had an answer ----

def datagrams():
    def measured(count):
        def measure(hand_over):
            with way(hand_over, count, "udp") as lab:
                return {"pps": datagrams_through(lab) / 1e3}
        return measure
    for count in (1, 1000):
        show("intercept", f"{count:,} rule{'s' * (count > 1)}", in_turns({**OURS, "TPROXY": by_tproxy}, measured(count)),
             {"TPROXY": 1} if count == 1 else {("penstock, ebpf", "TPROXY"): 2})


def datagrams_through(lab):
    process = lab.node.popen(UDP_TOOL, PORT, stdout=subprocess.PIPE)
    stream = None
    try:
        assert process.stdout.readline() == b"listens\n", "nobody serves"
        stream = Flood(lab, lab.pods["client"], lab.outside.ip4, SERVED)
        stream.answered()
        stream.rate(0.2)
        return stream.rate(SECONDS)
    finally:
        if stream:
            stream.close()
        process.kill()
        process.wait()
        process.stdout.close()


# ---- through whole proxies, to a server outside ----

def relayed():
    for kind in ("penstock-relay", "HAProxy"):
        def measure(hand_over, kind=kind):
            with way(hand_over) as lab, relayed_by(kind if hand_over != by_nobody else None, lab):
                return {**connections_through(lab), **bulk_through(lab)}
        contenders = {**OURS, "TPROXY": by_tproxy, "REDIRECT": by_redirect}
        if kind == "penstock-relay":
            contenders["no proxy"] = by_nobody
        show("relay", kind, in_turns(contenders, measure), {"TPROXY": 1, "REDIRECT": 1})


# ---- what a proxy on the node costs traffic that has nothing to do with it ----

def some_proxy(lab, server):
    """An agent with a local pod that nothing is intercepted of, and perhaps a proxy for another one."""
    agent = lab.agent(log={"level": "info"})
    other = [{"action": "Intercept", "proxy": "gateway", "to": [{"networks": ["203.0.113.0/24"]}]}]
    items = [workload("bench", "server", server.ips, {"app": "server"}, interface=server.interface)]
    gateway = [proxy("gateway", PORT), intercept("other", {"app": "other"}, other)]
    return agent, items, gateway


def forwarded_rate(with_proxy):
    with Lab(outside=True) as lab:
        server = lab.pod("server")
        agent, items, gateway = some_proxy(lab, server)
        agent.api.put_state(items + (gateway if with_proxy else []))
        lab.outside.interface = "uplink"
        stream = Stream(lab, lab.outside, server)
        try:
            stream.answered()
            stream.rate(0.2)
            return stream.rate(SECONDS)
        finally:
            stream.close()


def established(client, server, port):
    """Both ends of a live connection."""
    with server.entered():
        listener = socket.create_server(("0.0.0.0", port))
    with client.entered():
        sock = socket.create_connection((server.ip4, port), timeout=5)
    peer = listener.accept()[0]
    for one, other in ((sock, peer), (peer, sock)):
        one.sendall(b"x")
        other.recv(1)
    listener.close()
    return sock, peer


def program_costs():
    """Nanoseconds a packet, by program and packet."""
    with Lab(outside=True) as lab:
        server = lab.pod("server")
        agent, items, gateway = some_proxy(lab, server)
        agent.api.put_state(items + gateway)
        sockets = established(lab.outside, server, 4000)
        sport = sockets[0].getsockname()[1]
        with lab.node.entered():
            uplink, inner = socket.if_nametoindex("uplink"), socket.if_nametoindex(server.interface)
            entering = mac(lab.node, "uplink") + mac(lab.outside, "eth0")
            leaving = mac(lab.outside, "eth0") + mac(lab.node, "uplink")
            runs = [("established, to_workload", "to_workload", inner, uplink,
                     tcp4(lab.outside.ip4, server.ip4, sport, 4000, entering, ACK)),
                    ("established, from_network", "from_network", uplink, uplink,
                     tcp4(lab.outside.ip4, server.ip4, sport, 4000, entering, ACK)),
                    ("new, from_network", "from_network", uplink, uplink,
                     tcp4(lab.outside.ip4, server.ip4, 1024, 4000, entering, SYN)),
                    ("elsewhere, from_network", "from_network", uplink, uplink,
                     tcp4(lab.outside.ip4, "203.0.113.7", 1024, 4000, entering, ACK)),
                    ("established, to_network", "to_network", uplink, inner,
                     tcp4(server.ip4, lab.outside.ip4, 4000, sport, leaving, ACK))]
            costs = {}
            for name, program, at, ingress, packet in runs:
                fd = kernel.obj_get(f"{agent.pins}/programs/{program}")
                costs[name] = best_run(fd, packet, at, ingress_ifindex=ingress)
                os.close(fd)
        for sock in sockets:
            sock.close()
        return costs


def unrelated():
    costs = program_costs()
    judged = costs["established, to_workload"]
    for name, value in costs.items():
        same = name == "established, to_workload"
        figure("to-network cost, a proxy exists", name, value, "ns/packet", None if same else "established, to_workload",
               None if same else value / judged)
    rates = in_turns({"no proxy": False, "a proxy exists": True}, lambda exists: {"kpps": forwarded_rate(exists) / 1e3})
    without, beside = (rates[name]["kpps"] for name in ("no proxy", "a proxy exists"))
    figure("to-network cost, uplink to a pod", "no proxy", without, "kpps")
    figure("to-network cost, uplink to a pod", "a proxy exists", beside, "kpps", "no proxy", beside / without)
