# SPDX-License-Identifier: Apache-2.0
"""The files of deploy/examples do what their comments say: pushed by the command line, as they are."""
import os
import subprocess

import pytest
import yaml

from lab import ALLOW, BUILD, DENY, OUTSIDE4, OUTSIDE6, REPOSITORY, UPLINK4, Lab, Probe
from objects import namespace, workload
from proxies import Proxy, Relay, close_all, lacking
from puppet import Group, Puppet, cgroup_root
from scenes import eventually
from talk import Server, ask

EXAMPLES = os.path.join(REPOSITORY, "deploy/examples")


def documents(path):
    with open(f"{EXAMPLES}/{path}") as file:
        return list(yaml.safe_load_all(file))


class Gateway(Proxy):
    """HAProxy with the configuration of the example's ConfigMap."""

    def __init__(self, lab):
        super().__init__(lab, "gateway")
        config, = [one for one in documents("llm-gateway/haproxy.yaml") if one["kind"] == "ConfigMap"]
        self.write("haproxy.cfg", config["data"]["haproxy.cfg"])
        self.start()

    def command(self):
        return ["haproxy", "-db", "-f", f"{self.directory}/haproxy.cfg"]


class Cluster(Lab):
    """chat, api and batch in the namespace shop, a resolver in kube-system, and somebody outside."""

    def __init__(self):
        super().__init__(outside=True)
        self.objects = [namespace("shop"), namespace("kube-system")]
        for name in ("chat", "api", "batch"):
            self._member("shop", name, {"app": name})
        self._member("kube-system", "dns", {"k8s-app": "kube-dns"})
        self.provider = [Server(self.outside, port, name="provider") for port in (443, 8443)]
        self.running = self.agent()

    def _member(self, space, name, labels):
        made = self.pod(name)
        setattr(self, name, made)
        self.objects.append(workload(space, name, made.ips, labels, interface=made.interface))

    def apply(self, *paths):
        """Exactly these files, by the command line, and what the cluster consists of."""
        self.running.api.put_state(self.objects)
        for path in paths:
            done = subprocess.run([f"{BUILD}/penstock", "apply", "-f", f"{EXAMPLES}/{path}"], capture_output=True, text=True, timeout=30,
                                  env={**os.environ, "PENSTOCK_SOCKET": self.running.socket})
            assert done.returncode == 0, done.stderr

    def listens(self, name):
        return any(one["name"] == name and one["up"] for one in self.running.api.status()["proxies"])


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as made:
        yield made
        for server in made.provider:
            server.close()
        close_all(made)


@pytest.mark.skipif(lacking("haproxy") is not None, reason=lacking("haproxy") or "")
def test_llm_gateway(cluster):
    cluster.apply("llm-gateway/penstock.yaml")
    # No gateway, no call: for chat alone, and at that port alone.
    assert not isinstance(ask(cluster.chat, OUTSIDE4, 443, timeout=0.3), dict)
    assert ask(cluster.batch, OUTSIDE4, 443)["server"] == ask(cluster.chat, OUTSIDE4, 8443)["server"] == "provider"
    with Gateway(cluster) as gateway:
        eventually(lambda: cluster.listens("llm-gateway"))
        for destination, source in ((OUTSIDE4, cluster.chat.ip4), (OUTSIDE6, cluster.chat.ip6)):
            said = ask(cluster.chat, destination, 443)
            assert said["server"] == "provider" and said["peer"][0] == source and said["local"] == [destination, 443]
        told = gateway.lines(r"(\S+):\d+ -> (\S+):443 name", 2)
        assert [tuple(end.removeprefix("::ffff:") for end in line) for line in told] == \
            [(cluster.chat.ip4, OUTSIDE4), (cluster.chat.ip6, OUTSIDE6)]
        assert ask(cluster.batch, OUTSIDE4, 443)["server"] == "provider" and len(gateway.lines("->", 2)) == 2
    assert not isinstance(ask(cluster.chat, OUTSIDE4, 443, timeout=0.3), dict)


def test_default_deny(cluster):
    for server, port, protocol in ((cluster.api, 8080, "TCP"), (cluster.dns, 53, "UDP"), (cluster.dns, 53, "TCP"),
                                   (cluster.dns, 8080, "TCP"), (cluster.batch, 8080, "TCP")):
        cluster.prober.listen(server, port, protocol)
    cluster.apply("default-deny/policies.yaml")
    expected = [(cluster.chat, cluster.api, 8080, "TCP", ALLOW), (cluster.batch, cluster.api, 8080, "TCP", DENY),
                (cluster.chat, cluster.batch, 8080, "TCP", DENY), (cluster.chat, cluster.dns, 8080, "TCP", DENY),
                (cluster.dns, cluster.api, 8080, "TCP", DENY)]
    expected += [(source, cluster.dns, 53, protocol, ALLOW) for source in (cluster.chat, cluster.api, cluster.batch)
                 for protocol in ("UDP", "TCP")]
    probes = [Probe(source, ip, port, protocol, expect=expect) for source, target, port, protocol, expect in expected for ip in target.ips]
    assert not [str(probe) for probe in cluster.prober.probe(probes) if not probe.ok]
    assert not isinstance(ask(cluster.chat, OUTSIDE4, 443, timeout=0.3), dict)
    cluster.prober.close_listeners()


@pytest.mark.skipif(cgroup_root() is None, reason="the machine's root of cgroup v2 is not mounted")
def test_host_process(cluster):
    cluster.apply("host-process/penstock.yaml")
    policy, = [one for one in documents("host-process/penstock.yaml") if one["kind"] == "InterceptPolicy"]
    with Group(policy["spec"]["subject"]["cgroup"]) as group, Puppet(cluster.node, group) as backup, Puppet(cluster.node) as other:
        assert backup.ask(OUTSIDE4, 443)["server"] == "provider"  # Bypass: nobody listens yet
        with Relay(cluster, port=15002) as relay:
            eventually(lambda: cluster.listens("relay"))
            said = backup.ask(OUTSIDE4, 443)
            assert said["server"] == "provider" and said["peer"][0] == UPLINK4 and said["local"] == [OUTSIDE4, 443]
            assert backup.ask(OUTSIDE4, 8443)["server"] == other.ask(OUTSIDE4, 443)["server"] == "provider"
            eventually(lambda: f"{OUTSIDE4}:443" in relay.log + relay.errors)
            assert cluster.running.api.metrics()("penstock_intercepted_connections_total", proxy="relay") == 1


def test_every_example_is_run():
    """A file that is added here has its test."""
    with open(__file__) as file:
        tests = file.read()
    for folder, _, files in os.walk(EXAMPLES):
        for name in files:
            path = os.path.relpath(os.path.join(folder, name), EXAMPLES)
            assert name == "README.md" or f'"{path}"' in tests, path
