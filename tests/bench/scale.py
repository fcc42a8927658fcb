# SPDX-License-Identifier: Apache-2.0
"""The API and the agent with 10,000 pods, and more: how long a write takes, what a restart loses, how much memory is needed."""
import json
import os
import socket
import struct
import threading
import time

from lab import NODE_NAME, Lab
from objects import namespace, pod, policy
from table import figure
from talk import Client, Server

TOTAL_RETRANS = 100  # in struct tcp_info


def cluster(local, pods=10_000, policies=1_000, namespaces=100):
    """Pods in deployments of ten; each local one is of another deployment."""
    yield from (namespace(f"ns-{n}", {"team": f"team-{n % 7}"}) for n in range(namespaces))
    for i in range(pods):
        labels = {"app": f"app-{i // 10}", "tier": ("web", "api", "db")[i // 10 % 3], "pod-template-hash": f"{i // 10:x}"}
        ips = [f"10.{128 + (i >> 16)}.{i >> 8 & 255}.{i & 255}", f"fd00:99::{i >> 16:x}:{i & 65535:x}"]
        node = f"node-{2 + i // 110}"
        if i % 10 == 0 and i // 10 < len(local):
            ips, node = local[i // 10].ips, NODE_NAME
        yield pod(f"ns-{i // 10 % namespaces}", f"pod-{i}", ips, node, labels, ports=[{"name": "http", "port": 8080}])
    for i in range(policies):
        ingress = [{"from": [{"podSelector": {"matchLabels": {"tier": "web"}}},
                             {"namespaceSelector": {"matchLabels": {"team": f"team-{i % 7}"}}},
                             {"ipBlock": {"cidr": f"192.168.{i % 250}.0/24"}}],
                    "ports": [{"protocol": "TCP", "port": 8080 + i % 5}]}]
        egress = [{"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"tier": "db"}}}]},
                  {"ports": [{"protocol": "UDP", "port": 53}]}]
        yield policy(f"ns-{i % namespaces}", f"policy-{i}", {"app": f"app-{i % (pods // 10)}"}, types=["Ingress", "Egress"],
                     ingress=ingress, egress=egress)


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


# ---- a restart ----

class Talkers:
    """Connections from one pod to another that talk all the time, and new ones that keep coming."""

    def __init__(self, source, target, port, count=50):
        self.server = Server(target, port)
        self.make = lambda: Client(source, target.ip4, port)
        self.clients = [self.make() for _ in range(count)]
        for client in self.clients:
            client.hello()
        self.broken, self.begun, self.over = 0, 0, threading.Event()
        self.thread = threading.Thread(target=self._talk)
        self.thread.start()

    def _talk(self):
        while not self.over.is_set():
            for client in list(self.clients):
                if not client.echo():
                    self.clients.remove(client)
                    self.broken += 1
            try:
                with self.make() as fresh:
                    fresh.hello()
                self.begun += 1
            except OSError:
                self.broken += 1
            time.sleep(0.005)  # the agent is to have a processor

    def end(self):
        """(segments that were lost, connections that broke or could not begin)"""
        self.over.set()
        self.thread.join()
        lost = sum(struct.unpack_from("=I", c.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), TOTAL_RETRANS)[0]
                   for c in self.clients)
        for client in self.clients:
            client.close()
        self.server.close()
        if not self.begun:
            raise RuntimeError("not a measurement: no connection began meanwhile")
        return lost, self.broken


def restarted(agent, local):
    """Pod 9 may reach pod 2: that one is a db, and of the same team as the namespace of the other."""
    talkers = Talkers(local[9], local[2], 8082)
    try:
        agent.stop()
        begin = time.monotonic()
        agent.start()
        ready = time.monotonic() - begin
    finally:
        lost, broken = talkers.end()
    figure("restart, 10,000 pods", "time to ready", ready, "s", goal="≤ 0.5")
    figure("restart, 10,000 pods", "segments lost", lost, "", goal="≤ 0")
    figure("restart, 10,000 pods", "connections broken", broken, "", goal="≤ 0")


# ---- the rows ----

def large_cluster():
    with Lab() as lab:
        sync = disk_sync(lab.directory)
        local = [lab.pod(f"p{i}") for i in range(20)]
        agent = lab.agent(log={"level": "info"})
        figure("resident memory", "idle", resident(agent), "MiB", goal="≤ 16")
        items = list(cluster(local))
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
        restarted(agent, local)


def huge_cluster():
    with Lab() as lab:
        local = [lab.pod(f"p{i}") for i in range(20)]
        agent = lab.agent(log={"level": "info"})
        body = b'{"items": [' + b",".join(json.dumps(item).encode() for item in cluster(local, pods=100_000)) + b"]}"
        begin = time.monotonic()
        agent.api.expect("PUT", "/v1/state", body, timeout=300)
        figure("whole state, 100,000 pods", f"PUT of {len(body) / 1e6:.0f} MB → enforced", time.monotonic() - begin, "s", goal="≤ 5")
        figure("resident memory", "100,000 pods", resident(agent), "MiB")
