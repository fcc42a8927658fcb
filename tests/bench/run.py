#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""make bench: each figure beside its incumbent's, in one run on the same traffic. Prints a table, writes build/bench.json.

ROWS=name,name runs some of them, ROUNDS=7 more often. Machines are noisy: contenders take turns, and the median of the rounds is
what counts. tests/bench/markdown.py makes the README's table of it.
"""
import json
import os
import platform
import socket
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "e2e")]
import handover  # noqa: E402
import kernel  # noqa: E402
from lab import BUILD, NODE_NAME, Lab  # noqa: E402
from objects import namespace, pod, policy, workload  # noqa: E402
from table import ROUNDS, best_run, figure, figures, peer_blocks  # noqa: E402
from traffic import Stream, mac, udp4  # noqa: E402

RULES = (1, 10, 100, 1000, 10_000, 100_000)


def allow_blocks(server_labels, blocks, port):
    """Policies of 1,000 rules each: no API server takes larger objects."""
    return [policy("bench", f"allow-{at}", server_labels, types=["Ingress"], ingress=[
        {"from": [{"ipBlock": {"cidr": f"{ip}/32"}}], "ports": [{"protocol": "UDP", "port": port}]}
        for ip in blocks[at:at + 1000]]) for at in range(0, len(blocks), 1000)]


# ---- verdict cost by number of rules, inside the kernel ----

def verdict_cost():
    with Lab() as lab:
        client, server = lab.pod("client"), lab.pod("server")
        agent = lab.agent()
        base = {}
        for count in RULES:
            items = [workload("bench", "client", client.ips, {"app": "client"}, interface=client.interface),
                     workload("bench", "server", server.ips, {"app": "server"}, interface=server.interface),
                     *allow_blocks({"app": "server"}, peer_blocks(count, client.ip4), 4000)]
            agent.api.expect("PUT", "/v1/state", {"items": items}, timeout=120)
            with lab.node.entered():
                to_workload = kernel.obj_get(f"{agent.pins}/programs/to_workload")
                inner, outer = (socket.if_nametoindex(p.interface) for p in (client, server))
                ethernet = mac(server, "eth0") + mac(lab.node, server.interface)
                allowed = udp4(client.ip4, server.ip4, 1024, 4000, ethernet)
                # Refused packets leave no entry: every run of the program judges anew, through every table.
                refused = udp4(client.ip4, server.ip4, 1024, 4001, ethernet)
                cost = {"established": best_run(to_workload, allowed, outer, ingress_ifindex=inner),
                        "new": best_run(to_workload, refused, outer, ingress_ifindex=inner)}
                os.close(to_workload)
            for kind, value in cost.items():
                base.setdefault(kind, value)
                figure(f"verdict, {kind} connection", f"{count:,} rules", value, "ns/packet", "1 rule", value / base[kind],
                       "≤ 1.15")


# ---- packets per second through a filtered veth ----

def nft_list(lab, blocks, server, port, stateful):
    rules = "\n".join(f"ip saddr {ip} ip daddr {server.ip4} udp dport {port} accept" for ip in blocks)
    first = "ct state established,related accept" if stateful else ""
    # What comes back from the server is let through before, as a stateful list would.
    first = first or f"ip saddr {server.ip4} accept"
    lab.node.run("nft", "-f", "-", input=f"table inet bench {{\n chain forward {{\n type filter hook forward priority 0; policy drop;\n"
                 f"{first}\n{rules}\n }}\n}}\n")


def iptables_list(lab, blocks, server, port, stateful):
    first = "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n" if stateful else ""
    first = first or f"-A FORWARD -s {server.ip4} -j ACCEPT\n"
    rules = "".join(f"-A FORWARD -s {ip} -d {server.ip4} -p udp --dport {port} -j ACCEPT\n" for ip in blocks)
    lab.node.run("iptables-restore", input=f"*filter\n:FORWARD DROP\n{first}{rules}COMMIT\n")


def rate_with(count, contender):
    """One lab a contender: no trace of another one is in the path."""
    with Lab() as lab:
        client, server = lab.pod("client"), lab.pod("server")
        blocks = peer_blocks(count, client.ip4)
        if contender == "penstock":
            agent = lab.agent()
            agent.api.put_state([
                workload("bench", "client", client.ips, {"app": "client"}, interface=client.interface),
                workload("bench", "server", server.ips, {"app": "server"}, interface=server.interface),
                *allow_blocks({"app": "server"}, blocks, 4000)])
        elif contender.startswith("nftables"):
            nft_list(lab, blocks, server, 4000, "conntrack" in contender)
        elif contender.startswith("iptables"):
            iptables_list(lab, blocks, server, 4000, "conntrack" in contender)
        stream = Stream(lab, client, server)
        try:
            stream.answered()
            stream.rate(0.2)
            return stream.rate(0.7)
        finally:
            stream.close()


def goal_of(contender, count):
    """A list has to be walked; behind `ct state established` it is not, whatever its length."""
    if contender in ("penstock", "no filter") or (count > 1 and "conntrack" in contender):
        return None
    return "≥ 1.1" if count == 1 else "≥ 5"


def filtered_packets():
    contenders = ("no filter", "penstock", "nftables", "nftables + conntrack", "iptables", "iptables + conntrack")
    for count in (1, 1000):
        rates = {c: [] for c in contenders}
        for _ in range(ROUNDS):
            for contender in contenders:
                rates[contender].append(rate_with(count, contender))
        own = statistics.median(rates["penstock"])
        for contender in contenders:
            value = statistics.median(rates[contender])
            figure(f"filtered veth, {count:,} rules", contender, value / 1e3, "kpps", None if contender == "penstock" else contender,
                   None if contender == "penstock" else own / value, goal_of(contender, count))


# ---- the API and the agent at 10,000 pods ----

def cluster(local, pods=10_000, policies=1_000, namespaces=100):
    """Pods in deployments of ten; each local one is of another deployment."""
    items = [namespace(f"ns-{n}", {"team": f"team-{n % 7}"}) for n in range(namespaces)]
    for i in range(pods):
        labels = {"app": f"app-{i // 10}", "tier": ("web", "api", "db")[i // 10 % 3], "pod-template-hash": f"{i // 10:x}"}
        ips = [f"10.{128 + (i >> 16)}.{i >> 8 & 255}.{i & 255}", f"fd00:99::{i + 1:x}"]
        node = f"node-{2 + i // 110}"
        if i % 10 == 0 and i // 10 < len(local):
            ips, node = local[i // 10].ips, NODE_NAME
        items.append(pod(f"ns-{i // 10 % namespaces}", f"pod-{i}", ips, node, labels, ports=[{"name": "http", "port": 8080}]))
    for i in range(policies):
        items.append(policy(f"ns-{i % namespaces}", f"policy-{i}", {"app": f"app-{i % (pods // 10)}"}, types=["Ingress", "Egress"],
                            ingress=[{"from": [{"podSelector": {"matchLabels": {"tier": "web"}}},
                                               {"namespaceSelector": {"matchLabels": {"team": f"team-{i % 7}"}}},
                                               {"ipBlock": {"cidr": f"192.168.{i % 250}.0/24"}}],
                                      "ports": [{"protocol": "TCP", "port": 8080 + i % 5}]}],
                            egress=[{"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": "db"}}}]},
                                    {"ports": [{"protocol": "UDP", "port": 53}]}]))
    return items


def resident(agent):
    for line in open(f"/proc/{agent.process.pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p))]


def disk_sync(directory, count=200):
    """What durability alone costs here: one page written and synced, as often as a PUT is sent."""
    times = []
    with open(os.path.join(directory, "sync"), "wb") as file:
        for _ in range(count):
            begin = time.monotonic()
            file.write(b"x" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
            times.append((time.monotonic() - begin) * 1e3)
            time.sleep(0.02)
    return times


def large_cluster():
    with Lab() as lab:
        sync = disk_sync(lab.directory)
        local = [lab.pod(f"p{i}") for i in range(20)]
        agent = lab.agent(log={"level": "info"})
        figure("resident memory", "idle", resident(agent), "MiB", goal="≤ 16")
        items = cluster(local)
        begin = time.monotonic()
        agent.api.put_state([i for i in items if i["kind"] == "Pod" and i["spec"]["nodeName"] == NODE_NAME])
        figure("first PUT, 20 local pods", "programs attached", time.monotonic() - begin, "s")
        body = json.dumps({"items": items}).encode()
        begin = time.monotonic()
        agent.api.expect("PUT", "/v1/state", body, timeout=120)
        figure("whole state, 10,000 pods", f"PUT of {len(body) / 1e6:.0f} MB → enforced", time.monotonic() - begin, "s", goal="≤ 0.5")
        figure("resident memory", "10,000 pods", resident(agent), "MiB", goal="≤ 64")

        subject = next(i for i in items if i["kind"] == "Pod" and i["metadata"]["name"] == "pod-5000")
        rule = next(i for i in items if i["metadata"]["name"] == "policy-500")
        for name, changed in (("one Pod", subject), ("one NetworkPolicy", rule)):
            times = []
            for turn in range(200):
                if name == "one Pod":
                    changed["metadata"]["labels"]["tier"] = ("web", "db")[turn % 2]
                else:
                    changed["spec"]["ingress"][0]["ports"][0]["port"] = 9000 + turn % 2
                begin = time.monotonic()
                agent.api.put_object(changed)
                times.append((time.monotonic() - begin) * 1e3)
                time.sleep(0.02)
            for what, p, goal in (("p50", 0.5, None), ("p99", 0.99, "≤ 5")):
                value, alone = percentile(times, p), percentile(sync, p)
                figure("PUT → enforced at 10,000 pods", f"{name}, {what}", value, "ms", f"one fdatasync, {what}", value / alone, goal)


ROWS = {"verdict": verdict_cost, "filter": filtered_packets, "intercept": handover.intercepted,
        "datagrams": handover.datagrams, "relay": handover.relayed, "network": handover.unrelated, "cluster": large_cluster}


def main():
    wanted = [r for r in os.environ.get("ROWS", ",".join(ROWS)).split(",") if r]
    for row in wanted:
        if row not in ROWS:
            sys.exit(f"no row {row!r}: {', '.join(ROWS)}")
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    machine = f"Linux {platform.release()}, {os.cpu_count()} × {cpu}"
    print(f"{machine}, median of {ROUNDS} rounds\n")
    for row in wanted:
        ROWS[row]()
    path = os.path.join(BUILD, "bench.json")
    with open(path, "w") as file:
        json.dump({"machine": machine, "rounds": ROUNDS, "figures": figures}, file, indent=1)
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
