# SPDX-License-Identifier: Apache-2.0
"""The agents of a cluster as whoever has kubectl sees them, and what they leave in their nodes' kernels."""
import concurrent.futures
import json
import pathlib

from cluster import Failed, run, wait

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMESPACE, LABEL = "penstock-system", "app.kubernetes.io/name=penstock"
# As deploy/README.md says it.
EVERYTHING = "ns,nodes,pods,svc,endpointslices,netpol"


class Agents:
    def __init__(self, cluster):
        self.cluster = cluster

    def pods(self):
        """The running ones, by node."""
        return {pod["spec"]["nodeName"]: pod for pod in self.cluster.get("-n", NAMESPACE, "pods", "-l", LABEL)
                if "deletionTimestamp" not in pod["metadata"] and pod["spec"].get("nodeName")}

    def ready(self, seconds=120):
        self.cluster.rolled_out(NAMESPACE, "penstock", seconds)
        made = self.pods()
        assert set(made) == {node.name for node in self.cluster.nodes}, self.cluster.explain(NAMESPACE)
        return made

    def penstock(self, node, *command, **more):
        """The command line in a node's agent."""
        name = self.pods()[node]["metadata"]["name"]
        return self.cluster.kubectl("-n", NAMESPACE, "exec", "-i", name, "--", "penstock", *command, **more)

    def state(self):
        """What the API server has, as kubectl prints it; Kubernetes 1.20 has EndpointSlices as v1beta1."""
        return self.cluster.kubectl("get", EVERYTHING, "-A", "-o", "json")

    def push(self):
        self.apply(self.state())

    def apply(self, text):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda node: self.penstock(node.name, "apply", "-f", "-", input=text), self.cluster.nodes))

    def delete(self, text):
        for node in self.cluster.nodes:
            self.penstock(node.name, "delete", "-f", "-", input=text)

    def process(self, node):
        """Its /proc/PID/status, by the runtime: there is one penstockd in a node."""
        numbers = node.run("pgrep", "-x", "penstockd").stdout.split()
        if len(numbers) != 1:
            raise Failed(f"{len(numbers)} agents in {node.name}")
        text = node.run("cat", f"/proc/{numbers[0]}/status").stdout
        return dict(line.split(":\t", 1) for line in text.splitlines())


# ---- what is in a node ----

def objects(node):
    """BPF objects that are pinned in the node: {(kind, id)}."""
    found = set()
    for kind in ("prog", "map", "link"):
        for each in json.loads(node.run("bpftool", "-f", "-j", kind, "show").stdout or "[]"):
            if any(path.startswith("/sys/fs/bpf/") for path in each.get("pinned", [])):
                found.add((kind, each["id"]))
    return found


def alive(found):
    """Those that the kernel still has."""
    return {(kind, number) for kind, number in found if run("bpftool", kind, "show", "id", number, check=False).returncode == 0}


def footprint(node):
    """What an agent could leave: everything in the node that a process does not take with it. Attached programs are links, which
    objects() has; Debian's bpftool does not list them by interface."""
    def lines(*command):
        return set(node.run(*command).stdout.splitlines())

    mounts = {line.split()[4] for line in lines("cat", "/proc/1/mountinfo")}
    ours = (str(node.directory), "/run/containerd", "/run/netns", "/var/lib/kubelet")
    return {
        "rules": lines("ip", "rule") | lines("ip", "-6", "rule"),
        "routes": lines("ip", "route", "show", "table", "all") |
        {line for line in lines("ip", "-6", "route", "show", "table", "all") if "dev lo" in line},
        "tables": lines("nft", "list", "tables"),
        "qdiscs": {line for line in lines("tc", "qdisc", "show") if "clsact" in line or "ingress" in line},
        "settings": lines("sysctl", "-a", "--pattern", r"^net\.ipv[46]\.conf\.(all|default|lo|eth0|cni0)\."),
        "mounts": {mount for mount in mounts if not mount.startswith(ours)},
        "pins": lines("find", "/sys/fs/bpf", "-mindepth", "1"),
        "files": lines("sh", "-c", "find /var/lib/penstock /run/penstock -mindepth 1 2>/dev/null || true"),
    }


def left(node, before):
    """What is more than before, or other."""
    after = footprint(node)
    return {what: sorted(after[what] - before[what]) for what in after if after[what] - before[what]}


def none_left(node, before, found):
    def clean():
        more = left(node, before)
        if more:
            raise Failed(f"{node.name}: {json.dumps(more, indent=1)}")
        still = alive(found)
        if still:
            raise Failed(f"{node.name}: the kernel still has {sorted(still)}")
        return True

    assert {kind for kind, _ in found} == {"prog", "map", "link"}, f"what was seen while the agent ran: {found}"
    wait(clean, "a clean node", 10)
