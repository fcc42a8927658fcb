# SPDX-License-Identifier: Apache-2.0
"""What users do, in a real Kubernetes of two nodes: manifests, policies of the API server, a gateway, updates, the way out; then the
chart. `make test-kube`. The tests build on each other, in this order."""
import base64
import concurrent.futures
import contextlib
import json
import pathlib
import subprocess
import time

import pytest
import yaml

import helm
from agents import NAMESPACE, ROOT, Agents, footprint, left, none_left, objects
from cluster import OUTSIDE, Cluster, Failed, wait

TALK = pathlib.Path(__file__).with_name("talk.py")
IMAGE = "docker.io/library/haproxy:2.6"  # build.sh makes it, with Python
CLOSED = 2  # seconds that are waited for an answer
NODE_PORT = 30080  # of the Service "near"; the next one is its UDP


def pod(name, node, app, *command):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": app, "pod": name}},
            "spec": {"nodeName": node, "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0,
                     "containers": [{"name": "it", "image": IMAGE, "imagePullPolicy": "Never", "command": ["python3", "/talk/talk.py", *command],
                                     "volumeMounts": [{"name": "talk", "mountPath": "/talk"}]}],
                     "volumes": [{"name": "talk", "configMap": {"name": "talk"}}]}}


def service(name, selector, node_port=None):
    """As a web server and as DNS: TCP and UDP."""
    ports = [{"name": "web", "port": 80, "targetPort": 8080}, {"name": "dns", "port": 53, "targetPort": 8080, "protocol": "UDP"}]
    of_nodes = {"type": "NodePort", "ports": [{**port, "nodePort": node_port + i} for i, port in enumerate(ports)]} if node_port else {}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"selector": selector, "ports": ports, **of_nodes}}


def ingress_of_web(*protocols):
    """A NetworkPolicy: only `client` reaches the servers, by these protocols."""
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
                     "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}],
                                  "ports": [{"port": 8080, "protocol": protocol} for protocol in protocols]}]}}


class Shop:
    """Pods that ask, and servers: `near` is on the node of those that ask but `away`, `far` on the other one."""

    def __init__(self, cluster):
        self.cluster = cluster
        cluster.apply([
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "talk", "namespace": "shop"}, "data": {"talk.py": TALK.read_text()}},
            service("near", {"pod": "near"}, NODE_PORT), service("far", {"pod": "far"}), service("web", {"app": "web"})])
        wait(lambda: cluster.kubectl("-n", "shop", "get", "serviceaccount", "default"), "the account of the namespace", 30)
        asking = ["serve", "nobody", "9"]
        cluster.apply([pod("near", "n1", "web", "serve", "near", "8080"), pod("far", "n2", "web", "serve", "far", "8080"),
                       pod("client", "n1", "client", *asking), pod("other", "n1", "other", *asking), pod("away", "n2", "other", *asking),
                       pod("chat", "n1", "chat", *asking)])
        wait(self.running, "the pods of the shop", 90, explain=lambda: cluster.explain("shop"))
        self.ip = {one["metadata"]["name"]: one["status"]["podIP"] for one in cluster.get("-n", "shop", "pods")}
        self.services = {one["metadata"]["name"]: one["spec"]["clusterIP"] for one in cluster.get("-n", "shop", "services")}
        self.direct = {name: f"{self.ip[name]}:8080" for name in ("near", "far")}
        self.by_service = {name: f"{self.services[name]}:80" for name in ("near", "far", "web")}
        node = cluster.nodes[0].address
        self.targets = {**self.direct, **{f"svc/{name}": self.by_service[name] for name in self.direct},
                        **{f"dns/{name}": f"udp/{self.services[name]}:53" for name in self.direct},
                        "node/near": f"{node}:{NODE_PORT}", "node/dns/near": f"udp/{node}:{NODE_PORT + 1}"}

    def running(self):
        pods = self.cluster.get("-n", "shop", "pods")
        return len(pods) == 6 and all(one["status"]["phase"] == "Running" and one["status"].get("podIP") for one in pods)

    def ask(self, who, *targets):
        """{target: answer, None without one}"""
        return json.loads(self.cluster.kubectl("-n", "shop", "exec", who, "--", "python3", "/talk/talk.py", "ask", str(CLOSED), *targets))

    def reached(self, who):
        """Which servers a pod reaches: "near", "far" directly, svc/… and by UDP dns/… through their Services, node/… at a node's port."""
        answers = self.ask(who, *self.targets.values())
        for name, target in self.targets.items():
            if answers[target]:
                server, address = answers[target].split()[:2]
                assert server == name.rpartition("/")[2], "another server"
                # kube-proxy hides who comes to a node's port behind the node.
                assert (address == self.ip[who]) != name.startswith("node/"), f"{name}: {who} is seen as {address}"
        return {name for name, target in self.targets.items() if answers[target]}

    def all_reached(self):
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            return dict(zip(PODS, pool.map(self.reached, PODS)))


PODS = ("client", "other", "away")
EVERYONE = {"near", "far", "svc/near", "svc/far", "dns/near", "dns/far", "node/near", "node/dns/near"}
TCP = {name for name in EVERYONE if "dns" not in name}
NEAR = {name for name in EVERYONE if name.endswith("near")}


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as made:
        yield made


@pytest.fixture(scope="module")
def shop(cluster):
    made = Shop(cluster)
    for who in ("client", "other", "away", "chat"):
        wait(lambda who=who: made.reached(who) == EVERYONE, f"a network without an agent, from {who}", 30,
             explain=lambda who=who: str(made.reached(who)))
    return made


@pytest.fixture(scope="module")
def before(cluster, shop):
    """The nodes without an agent."""
    return {node.name: footprint(node) for node in cluster.nodes}


@pytest.fixture(scope="module")
def agents(cluster, before):
    made = Agents(cluster)
    cluster.kubectl("apply", "-k", ROOT / "deploy/kubernetes")
    made.ready()
    return made


# ---- the manifests ----

def declared(path="deploy/kubernetes/daemonset.yaml"):
    container, = yaml.safe_load((ROOT / path).read_text())["spec"]["template"]["spec"]["containers"]
    return set(container["securityContext"]["capabilities"]["add"])


def mask(names):
    numbers = {"NET_ADMIN": 12, "NET_RAW": 13, "SYS_PTRACE": 19, "DAC_READ_SEARCH": 2, "BPF": 39, "PERFMON": 38, "SYS_RESOURCE": 24}
    return sum(1 << numbers[name] for name in names)


def test_an_agent_is_ready_on_every_node(cluster, agents):
    print(cluster.kubectl("get", "nodes,pods", "-A", "-o", "wide"))
    for node in cluster.nodes:
        one = agents.pods()[node.name]
        state, = one["status"]["containerStatuses"]
        assert state["ready"] and state["restartCount"] == 0, cluster.explain(NAMESPACE)
        status = json.loads(agents.penstock(node.name, "status", "-o", "json"))
        assert status["node"] == node.name


def test_with_the_declared_capabilities_only(cluster, agents):
    for node in cluster.nodes:
        status = agents.process(node)
        for which in ("CapPrm", "CapEff", "CapBnd"):
            assert int(status[which], 16) == mask(declared()), (node.name, which, status[which])
        assert (int(status["NoNewPrivs"]), int(status["CapAmb"], 16)) == (1, 0)
        print(node.name, {key: value for key, value in status.items() if key.startswith("Cap")})


def test_a_policy_of_the_api_server_changes_what_pods_reach(cluster, agents, shop):
    agents.push()
    assert shop.all_reached() == dict.fromkeys(PODS, EVERYONE)
    for protocols, reached in ((["TCP"], TCP), (["UDP"], EVERYONE - TCP), (["TCP", "UDP"], EVERYONE)):
        policy = ingress_of_web(*protocols)
        cluster.apply([policy])
        agents.push()
        assert shop.all_reached() == {"client": reached, "other": set(), "away": set()}, protocols
    cluster.kubectl("-n", "shop", "delete", "networkpolicy", "web")
    agents.delete(json.dumps(policy))
    assert shop.all_reached() == dict.fromkeys(PODS, EVERYONE)


def test_egress_is_judged_by_the_backend_of_a_service(cluster, agents, shop):
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "other", "namespace": "shop"},
              "spec": {"podSelector": {"matchLabels": {"app": "other"}}, "policyTypes": ["Egress"],
                       "egress": [{"to": [{"podSelector": {"matchLabels": {"pod": "near"}}}]}]}}
    cluster.apply([policy])
    agents.push()
    assert shop.all_reached() == \
        {"client": EVERYONE, "other": NEAR, "away": NEAR}
    cluster.kubectl("-n", "shop", "delete", "networkpolicy", "other")
    agents.delete(json.dumps(policy))
    assert shop.reached("other") == EVERYONE


# ---- a gateway ----

@pytest.fixture(scope="module")
def gateway(cluster, agents, shop):
    """deploy/examples/llm-gateway, as it is; the provider is outside of the cluster."""
    copy = cluster.directory / "control/talk.py"
    copy.write_text(TALK.read_text())
    cluster.control.start("provider", "/usr/bin/python3", copy, "serve", "provider", "443")
    target = f"{OUTSIDE}:443"
    wait(lambda: shop.ask("chat", target)[target], "the provider", 20)
    cluster.kubectl("apply", "-f", ROOT / "deploy/examples/llm-gateway/haproxy.yaml")
    cluster.rolled_out("llm-gateway", "haproxy")
    agents.push()
    agents.apply((ROOT / "deploy/examples/llm-gateway/penstock.yaml").read_text())
    return target


def carried(cluster, node):
    """The lines of the node's HAProxy about connections."""
    name = cluster.kubectl("-n", "llm-gateway", "get", "pods", "-o", "name", f"--field-selector=spec.nodeName={node}").strip()
    return [line for line in cluster.kubectl("-n", "llm-gateway", "logs", name).splitlines() if " -> " in line]


def test_egress_goes_through_the_gateway_with_its_addresses(cluster, agents, shop, gateway):
    before = len(carried(cluster, "n1"))
    answer = shop.ask("chat", gateway)[gateway]
    assert answer and answer.split()[:2] == ["provider", shop.ip["chat"]]
    line, = wait(lambda: carried(cluster, "n1")[before:], "a line of HAProxy", 10)
    print(line)
    assert line.startswith(f"{shop.ip['chat']}:") and f" -> {gateway} " in line
    assert shop.ask("client", gateway)[gateway].split()[:2] == ["provider", shop.ip["client"]]
    assert len(carried(cluster, "n1")) == before + 1, "who is no subject goes past the gateway"


# ---- updates ----

@contextlib.contextmanager
def traffic(cluster, *flows):
    """flows: (pod, target). In the end each has been used all the time, and nothing was lost."""
    stop = f"/tmp/stop-{time.monotonic_ns()}"

    def flow(who, target):
        command = cluster.kubectl_command("-n", "shop", "exec", who, "--", "python3", "/talk/talk.py", "flow", target, stop)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    running = [(who, target, flow(who, target)) for who, target in flows]
    try:
        time.sleep(1)
        yield
        time.sleep(1)
        for who in {who for who, _ in flows}:
            cluster.kubectl("-n", "shop", "exec", who, "--", "touch", stop)
        for who, target, process in running:
            out, errors = process.communicate(timeout=30)
            assert process.returncode == 0, errors
            done = json.loads(out)
            assert not done["lost"] and done["lines"] > 50 and done["opened"] > 20, (who, target, done)
            print(f"{who} to {target}: {done['lines']} lines, {done['opened']} connections, none lost")
    finally:
        for _, _, process in running:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def flows(cluster, agents, shop, gateway):
    """Under a policy, directly and by Services, and through the gateway."""
    cluster.apply([ingress_of_web("TCP", "UDP")])
    agents.push()
    return [("client", shop.direct["far"]), ("client", shop.by_service["near"]), ("client", shop.by_service["far"]), ("chat", gateway)]


def test_an_agent_that_is_deleted_loses_no_connection(cluster, agents, shop, flows):
    old = agents.pods()["n1"]["metadata"]["name"]
    with traffic(cluster, *flows):
        cluster.kubectl("-n", NAMESPACE, "delete", "pod", old)
        assert shop.reached("other") == set(), "without its agent a node goes on enforcing"
        wait(lambda: agents.pods().get("n1", {"metadata": {"name": old}})["metadata"]["name"] != old, "another agent", 30)
        agents.ready()
    assert shop.reached("other") == set() and shop.reached("client") == EVERYONE


def test_an_update_loses_no_connection(cluster, agents, shop, flows):
    old = {one["metadata"]["uid"] for one in agents.pods().values()}
    with traffic(cluster, *flows):
        cluster.kubectl("-n", NAMESPACE, "rollout", "restart", "daemonset/penstock")
        new = {one["metadata"]["uid"] for one in agents.ready().values()}
    assert not old & new
    assert shop.reached("other") == set() and shop.reached("client") == EVERYONE


def test_without_the_gateway_nothing_goes_past_it(cluster, shop, gateway):
    cluster.kubectl("delete", "-f", ROOT / "deploy/examples/llm-gateway/haproxy.yaml", "--wait=false")
    wait(lambda: not cluster.get("-n", "llm-gateway", "pods", "--field-selector=spec.nodeName=n1"), "the end of the gateway", 25)
    assert shop.ask("chat", gateway)[gateway] is None
    assert shop.ask("client", gateway)[gateway]


# ---- the way out ----

def test_uninstalling_manifests_leave_nothing(cluster, agents, shop, before):
    found = {node.name: objects(node) for node in cluster.nodes}
    for node in cluster.nodes:
        there = left(node, before[node.name])
        print(node.name, len(found[node.name]), "BPF objects;", {what: len(lines) for what, lines in there.items()})
        assert {"pins", "files", "rules", "routes", "tables"} <= set(there), "what an agent leaves is not seen while it is there"
    cluster.kubectl("apply", "-k", ROOT / "deploy/uninstall")
    cluster.rolled_out(NAMESPACE, "penstock")
    for node in cluster.nodes:
        none_left(node, before[node.name], found[node.name])
    cluster.kubectl("delete", "-k", ROOT / "deploy/kubernetes", "--wait", timeout=120)
    for node in cluster.nodes:
        none_left(node, before[node.name], found[node.name])
    assert shop.all_reached() == dict.fromkeys(PODS, EVERYONE)


# ---- the chart ----

BPFFS = "/sys/fs/bpf"
MONITORING = "monitoring.coreos.com"


def operators_kind(kind):
    """As Prometheus' operator brings it, without a schema."""
    plural = f"{kind.lower()}s"
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"{plural}.{MONITORING}"},
            "spec": {"group": MONITORING, "scope": "Namespaced", "names": {"kind": kind, "plural": plural}, "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]}}


def has_bpffs(node):
    return any(line.split()[4] == BPFFS and " - bpf " in line for line in node.run("cat", "/proc/1/mountinfo").stdout.splitlines())


@pytest.fixture(scope="module")
def chart(cluster, shop, before):
    """The second node has no bpffs, neither of its own nor, below it, this machine's."""
    cluster.kubectl("delete", "-k", ROOT / "deploy/kubernetes", "--ignore-not-found", "--wait", timeout=120)
    made = helm.made(cluster)
    print(f"the chart goes in by {made.name}")
    cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
                   *map(operators_kind, ("PodMonitor", "ServiceMonitor", "PrometheusRule"))])
    while has_bpffs(cluster.nodes[1]):
        cluster.nodes[1].run("umount", BPFFS)
    return made


class Tcp:
    """The agents' API over the network, with what the chart made for callers."""

    def __init__(self, cluster):
        self.cluster, self.authority = cluster, cluster.directory / "control/ca.crt"
        secret = json.loads(cluster.kubectl("-n", NAMESPACE, "get", "secret", "penstock-client", "-o", "json"))["data"]
        self.authority.write_bytes(base64.b64decode(secret["ca.crt"]))
        self.token = base64.b64decode(secret["token"]).decode()

    def put(self, node, state):
        done = self.cluster.control.run(
            "curl", "-sS", "--fail-with-body", "--cacert", self.authority, "-H", f"Authorization: Bearer {self.token}", "-H",
            "Content-Type: application/json", "-X", "PUT", "--data-binary", "@-", f"https://{node.address}:7641/v1/state", input=state)
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def tcp(cluster, chart, shop):
    values = {"enabled": True, "tls": {"generate": True, "addresses": [node.address for node in cluster.nodes]}, "tokens": {"generate": True}}
    chart.install({"api": {"tcp": values}, "adoptListeners": False, "bpffs": {"mount": True}})
    Agents(cluster).ready()
    return Tcp(cluster)


def test_the_chart_and_its_api_over_tcp(cluster, chart, tcp, shop):
    agents = Agents(cluster)
    for node in cluster.nodes:
        status = agents.process(node)
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == mask(declared() - {"SYS_PTRACE", "DAC_READ_SEARCH"})
        assert has_bpffs(node), "bpffs.mount"
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "closed", "namespace": "shop"},
              "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}}
    cluster.kubectl("-n", "shop", "delete", "networkpolicy", "--all")
    cluster.apply([policy])
    for node in cluster.nodes:
        assert tcp.put(node, agents.state())["revision"] >= 1
    assert shop.reached("client") == set()
    cluster.kubectl("-n", "shop", "delete", "networkpolicy", "closed")
    for node in cluster.nodes:  # a whole state: what is gone in the cluster goes
        tcp.put(node, agents.state())
    assert shop.reached("client") == EVERYONE
    assert "Phase: Succeeded" in " ".join(chart.test().split())


@pytest.fixture(scope="module")
def upgraded(cluster, chart, tcp, shop):
    """`helm upgrade --reuse-values` under traffic. (DaemonSet, agents) before and after."""
    if not isinstance(chart, helm.Helm):
        pytest.skip("an upgrade keeps what was made at the install, which only Helm does; npm has it for amd64")
    agents = Agents(cluster)

    def now():
        daemonset = json.loads(cluster.kubectl("-n", NAMESPACE, "get", "daemonset", "penstock", "-o", "json"))
        return daemonset, {one["metadata"]["uid"] for one in agents.ready().values()}

    cluster.apply([ingress_of_web("TCP", "UDP")])
    for node in cluster.nodes:
        tcp.put(node, agents.state())
    before = now()
    with traffic(cluster, ("client", shop.direct["far"]), ("client", shop.by_service["near"]), ("client", shop.by_service["far"])):
        assert chart.upgrade({"config": {"datapath": {"denyWith": "reject"}}, "metrics": {"address": "0.0.0.0"}, "monitoring": {
            "podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}}) == 2
        after = now()
    return before, after


def test_an_upgrade_loses_no_connection(cluster, upgraded, tcp, shop):
    (old, old_pods), (new, new_pods) = upgraded
    template = [one["spec"]["template"]["metadata"]["annotations"] for one in (old, new)]
    assert template[0]["checksum/config"] != template[1]["checksum/config"], "another configuration"
    assert not old_pods & new_pods, "which every agent has read"
    assert shop.reached("other") == set() and shop.reached("client") == EVERYONE
    agents = Agents(cluster)
    for node in cluster.nodes:
        config = yaml.safe_load(cluster.kubectl("-n", NAMESPACE, "exec", agents.pods()[node.name]["metadata"]["name"], "--", "cat",
                                                "/etc/penstock/penstock.yaml"))
        assert config["datapath"] == {"adoptListeners": False, "denyWith": "reject"}, "the values of before stay"
        assert tcp.put(node, agents.state())["revision"] >= 1, "with the certificate and the token of before"


def metrics(cluster, address, port, path):
    return cluster.control.run("curl", "-sS", "--fail-with-body", f"http://{address}:{port}{path}").stdout


def test_what_the_monitors_name_is_scraped(cluster, chart, upgraded):
    """From another machine, as the operator would configure Prometheus by what is in the API server."""
    def one(kind, name="penstock"):
        return json.loads(cluster.kubectl("-n", NAMESPACE, "get", kind, name, "-o", "json"))

    def selected(kind, spec):
        labels = ",".join(f"{key}={value}" for key, value in spec["selector"]["matchLabels"].items())
        return cluster.get("-n", NAMESPACE, kind, "-l", labels)

    nodes = {node.address for node in cluster.nodes}
    monitor = one("podmonitor")["spec"]
    endpoint, = monitor["podMetricsEndpoints"]
    pods = {(pod["status"]["podIP"], port["containerPort"]) for pod in selected("pods", monitor)
            for container in pod["spec"]["containers"] for port in container["ports"] if port["name"] == endpoint["port"]}
    chart.upgrade({"monitoring": {"podMonitor": {"enabled": False}, "serviceMonitor": {"enabled": True}}})  # both are refused
    monitor = one("servicemonitor")["spec"]
    other, = monitor["endpoints"]

    def services():
        return {(address["ip"], port["port"]) for service in selected("services", monitor)
                for subset in one("endpoints", service["metadata"]["name"]).get("subsets", []) for port in subset["ports"]
                if port["name"] == other["port"] for address in subset.get("addresses", [])}

    assert {address for address, _ in pods} == nodes
    wait(lambda: services() == pods, "the endpoints of the monitored Service", 20, explain=lambda: str(services()))
    for address, port in pods:
        text = metrics(cluster, address, port, endpoint["path"])
        assert "\npenstock_build_info{" in text
    assert endpoint["path"] == other["path"]
    assert {group["name"] for group in one("prometheusrule")["spec"]["groups"]}


def test_the_chart_cleans_its_nodes(cluster, chart, tcp, shop, before):
    """As NOTES say it; the bpffs that it mounted goes too, that of the node stays."""
    found = {node.name: objects(node) for node in cluster.nodes}
    chart.upgrade({"uninstall": {"enabled": True}})
    cluster.rolled_out(NAMESPACE, "penstock")
    for node in cluster.nodes:
        none_left(node, before[node.name], found[node.name])
    assert [has_bpffs(node) for node in cluster.nodes] == [True, False]
    chart.uninstall()
    for node in cluster.nodes:
        none_left(node, before[node.name], found[node.name])
    assert shop.reached("other") == EVERYONE


def test_a_release_that_was_removed_first(cluster, chart, shop, before):
    """That freezes the last policy: the uninstalling release mends it."""
    chart.install({"bpffs": {"mount": True}})
    agents = Agents(cluster)
    agents.ready()
    agents.push()
    found = {node.name: objects(node) for node in cluster.nodes}
    chart.uninstall()
    wait(lambda: not cluster.get("-n", NAMESPACE, "pods"), "the end of the agents", 60)
    assert all(objects(node) for node in cluster.nodes), "what is enforced outlives the DaemonSet"
    assert shop.reached("other") == set()
    chart.install({"uninstall": {"enabled": True}, "bpffs": {"mount": True}})
    cluster.rolled_out(NAMESPACE, "penstock")
    for node in cluster.nodes:
        none_left(node, before[node.name], found[node.name])
    assert [has_bpffs(node) for node in cluster.nodes] == [True, False]
    chart.uninstall()
    with pytest.raises(Failed):
        cluster.kubectl("-n", NAMESPACE, "get", "daemonset", "penstock")
    for node in cluster.nodes:
        none_left(node, before[node.name], found[node.name])
