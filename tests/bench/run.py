#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""make bench: each figure beside its incumbent's, in one run on the same traffic. Prints a table of all; writes build/bench.json and
the pictures build/bench-*.svg.

ROWS=name,name runs some of them, ROUNDS=7 more often. Machines are noisy: contenders take turns, and the median of the rounds is
what counts. tests/bench/markdown.py makes the README's table of it.
"""
import json
import os
import platform
import socket
import statistics
import sys
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "e2e")]
import handover  # noqa: E402
import kernel  # noqa: E402
import plot  # noqa: E402
import report  # noqa: E402
import scale  # noqa: E402
from lab import BUILD, Lab  # noqa: E402
from objects import policy, workload  # noqa: E402
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


ROWS = {"verdict": verdict_cost, "filter": filtered_packets, "intercept": handover.intercepted,
        "datagrams": handover.datagrams, "relay": handover.relayed, "network": handover.unrelated, "cluster": scale.large_cluster,
        "huge": scale.huge_cluster}


def main():
    wanted = [r for r in os.environ.get("ROWS", ",".join(ROWS)).split(",") if r]
    for row in wanted:
        if row not in ROWS:
            sys.exit(f"no row {row!r}: {', '.join(ROWS)}")
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    cpu = " ".join(cpu.replace("(R)", "").replace("Processor", "").split())
    machine = f"Linux {platform.release()}, {os.cpu_count()} × {cpu}"
    print(f"{machine}, median of {ROUNDS} rounds\n")
    left_out = {row: "not asked for (ROWS)" for row in ROWS if row not in wanted}
    for row in wanted:
        try:
            ROWS[row]()
        except Exception as error:  # the others are worth their time; this one is named in the table
            traceback.print_exc()
            left_out[row] = f"it failed: {error or type(error).__name__}".split("\n")[0]
    bench = {"machine": machine, "rounds": ROUNDS, "figures": figures, "left_out": left_out}
    path = os.path.join(BUILD, "bench.json")
    with open(path, "w") as file:
        json.dump(bench, file, indent=1)
    print(f"\n{machine}, median of {ROUNDS} rounds\n\n{report.text(bench)}\n\nwritten to {path}, and {len(plot.write(bench, BUILD))} "
          f"pictures beside it")
    sys.exit(any(row in wanted for row in left_out))


if __name__ == "__main__":
    main()
