# SPDX-License-Identifier: Apache-2.0
"""A node, its pods and an outside host as network namespaces, and an agent that runs in the node's.

    with Lab() as lab:
        a, b = lab.pod("a"), lab.pod("b")
        agent = lab.agent()
        agent.api.put_state([workload("shop", "a", a.ips, interface=a.interface), …])
        assert lab.prober.probe([Probe(a, b.ip4, 80, expect=ALLOW)])[0].ok

A pod's default route leads to a link-local gateway on the host side of its veth, and the node has a /32 and a /128 to
it: what Calico, Cilium and most clouds do. With bridge=True pods are ports of one bridge instead, as with kindnet's
and docker's.
"""
import atexit
import os
import shutil
import signal
import subprocess
import sys
import time

import yaml

from api import Api
from netns import BPFFS, Namespace, die_with_parent, mount_bpffs, run, sweep
from probe import ALLOW, DENY, Probe, Prober, have_sctp  # noqa: F401  (tests import them from here)

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("PENSTOCK_BUILD") or os.path.join(REPOSITORY, "build"))
GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::1"
NODE4, NODE6 = "10.77.0.1", "fd00:77::1"
UPLINK4, UPLINK6 = "198.51.100.1", "2001:db8:51::1"
OUTSIDE4, OUTSIDE6 = "198.51.100.9", "2001:db8:51::9"
NODE_NAME = "node-1"
SANITIZER = ("AddressSanitizer", "runtime error:", "LeakSanitizer", "ThreadSanitizer")


class Pod(Namespace):
    """interface is the host side of its veth, in the node's namespace; inside it is eth0."""

    def __init__(self, name, interface, ips):
        super().__init__(name)
        self.interface, self.ips = interface, list(ips)

    @property
    def ip4(self):
        return next((ip for ip in self.ips if ":" not in ip), None)

    @property
    def ip6(self):
        return next((ip for ip in self.ips if ":" in ip), None)


class Lab:
    count = 0
    live = []

    def __init__(self, bridge=False, outside=False):
        sweep()
        Lab.count += 1
        self.prefix = f"pt{os.getpid()}-{Lab.count}"
        self.directory = f"/tmp/{self.prefix}"
        os.makedirs(self.directory, mode=0o755)
        self.bridge = bridge
        self.pods, self.namespaces, self.agents, self.interfaces = {}, [], [], 0
        self.prober = Prober()
        Lab.live.append(self)
        self.node = self.namespace("node")
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self.node.sysctl(key, 1)
        # Probes by the hundred in one moment: the kernel must not limit its answers.
        self.node.sysctl("net.ipv4.icmp_ratelimit", 0)
        self.node.sysctl("net.ipv6.icmp.ratelimit", 0)
        lines = [f"addr add {NODE4}/32 dev lo", f"addr add {NODE6}/128 dev lo nodad"]
        if bridge:
            lines = ["link add br0 type bridge", f"addr add {NODE4}/16 dev br0", f"addr add {NODE6}/64 dev br0 nodad",
                     "link set br0 up"]
        self.node.ip(*lines)
        self.outside = self._make_outside() if outside else None

    def namespace(self, name):
        made = Namespace(f"{self.prefix}-{name}")
        self.namespaces.append(made)
        return made

    def pod(self, name, ips=None, attach=True):
        """A pod with these addresses, or the next free ones. attach=False: not yet wired to the node."""
        self.interfaces += 1
        if ips is None:
            ips = [f"10.77.{1 + self.interfaces // 250}.{1 + self.interfaces % 250}", f"fd00:77::f{self.interfaces:x}"]
        pod = Pod(f"{self.prefix}-{name.replace('/', '.')}", f"pv{self.interfaces}", ips)
        self.pods[name] = pod
        if attach:
            self.attach(pod)
        return pod

    def attach(self, pod):
        """Makes the veth and the routes: what a CNI plugin does."""
        if self.bridge:
            self.node.ip(f"link add {pod.interface} type veth peer name eth0 netns {pod.name}",
                         f"link set {pod.interface} master br0 up")
            pod.ip("link set eth0 up",
                   *[f"addr add {ip}/64 dev eth0 nodad" if ":" in ip else f"addr add {ip}/16 dev eth0" for ip in pod.ips],
                   f"route add default via {NODE4}", f"route add default via {NODE6}")
            return
        self.node.ip(f"link add {pod.interface} type veth peer name eth0 netns {pod.name}",
                     f"link set {pod.interface} addrgenmode none",
                     f"addr add {GATEWAY4}/32 dev {pod.interface} scope link",
                     f"addr add {GATEWAY6}/64 dev {pod.interface} nodad",
                     f"link set {pod.interface} up",
                     *[f"route add {ip}/128 dev {pod.interface} src {NODE6}" if ":" in ip else
                       f"route add {ip}/32 dev {pod.interface} src {NODE4}" for ip in pod.ips])
        pod.ip("link set eth0 up",
               *[f"addr add {ip}/128 dev eth0 nodad" if ":" in ip else f"addr add {ip}/32 dev eth0" for ip in pod.ips],
               f"route add {GATEWAY4} dev eth0", f"route add default via {GATEWAY4}",
               f"route add default via {GATEWAY6} dev eth0")

    def remove_pods(self, *names):
        gone = [self.pods.pop(name) for name in names]
        # A namespace is taken down in its own time; its interface and routes must be gone at once.
        self.node.ip(*[f"link del {pod.interface}" for pod in gone], check=False)
        for pod in gone:
            pod.close()

    def clear_pods(self):
        self.prober.close_listeners()
        if self.pods:
            self.remove_pods(*self.pods)

    def _make_outside(self):
        """A host beyond the node's uplink, which is the node's default route."""
        outside = self.namespace("outside")
        self.node.ip(f"link add uplink type veth peer name eth0 netns {outside.name}", "link set uplink up",
                     f"addr add {UPLINK4}/24 dev uplink", f"addr add {UPLINK6}/64 dev uplink nodad",
                     f"route add default via {OUTSIDE4}", f"route add default via {OUTSIDE6}")
        outside.ip("link set eth0 up", f"addr add {OUTSIDE4}/24 dev eth0", f"addr add {OUTSIDE6}/64 dev eth0 nodad",
                   f"route add default via {UPLINK4}", f"route add default via {UPLINK6}")
        outside.ip4, outside.ip6 = OUTSIDE4, OUTSIDE6
        return outside

    def agent(self, start=True, **config):
        agent = Agent(self, f"agent{len(self.agents) or ''}", config)
        self.agents.append(agent)
        if start:
            agent.start()
        return agent

    def close(self):
        if self not in Lab.live:
            return
        Lab.live.remove(self)
        complaints = []
        for agent in self.agents:
            complaints += agent.close()
        self.prober.close()
        for space in [*self.pods.values(), *self.namespaces]:
            space.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not complaints, "\n".join(complaints)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


@atexit.register
def _close_all():
    for lab in list(Lab.live):
        try:
            lab.close()
        except Exception as error:  # the interpreter ends anyway: say it, and go on with the next
            print(error, file=sys.stderr)


def _merge(base, over):
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value
    return base


class Agent:
    """penstockd in the node's namespace, with paths of its own."""

    def __init__(self, lab, name, config):
        mount_bpffs()
        self.lab, self.name = lab, name
        self.directory = f"{lab.directory}/{name}"
        os.makedirs(self.directory)
        self.socket = f"{self.directory}/penstock.sock"
        self.pins = f"{BPFFS}/{lab.prefix}-{name}"
        self.log_path = f"{self.directory}/log"
        self.config_path = f"{self.directory}/penstock.yaml"
        self.config = _merge({
            "node": {"name": NODE_NAME},
            "api": {"unix": self.socket},
            "metrics": {"listen": ""},
            "state": {"directory": f"{self.directory}/state"},
            "datapath": {"pinDirectory": self.pins, "connectionsMax": 16384},
            "log": {"level": "debug"},
        }, config)
        self.pins = self.config["datapath"]["pinDirectory"]
        self.socket = self.config["api"]["unix"]
        self.write_config()
        self.process = None
        self.api = Api(self.socket)

    def write_config(self):
        with open(self.config_path, "w") as file:
            yaml.safe_dump(self.config, file)

    @property
    def binary(self):
        path = os.path.join(BUILD, "penstockd")
        assert os.path.exists(path), f"{path} is not built"
        return path

    @property
    def log(self):
        try:
            with open(self.log_path, errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def start(self, wait=True, timeout=20):
        with open(self.log_path, "a") as log:
            self.process = self.lab.node.popen(self.binary, "--config", self.config_path, stdout=log, stderr=log,
                                               stdin=subprocess.DEVNULL, cwd=self.directory)
        if wait:
            self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout=20):
        end = time.monotonic() + timeout
        last = "no answer"
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"penstockd ended with {self.process.returncode}:\n{self.log[-4000:]}")
            try:
                answer = self.api.request("GET", "/readyz", timeout=2)
                if answer.status == 200:
                    return
                last = repr(answer)
            except OSError as error:
                last = str(error)
            time.sleep(0.01)
        raise AssertionError(f"penstockd is not ready after {timeout} s ({last}):\n{self.log[-4000:]}")

    def running(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, timeout=20):
        """SIGTERM: the data path stays. Returns the exit code."""
        if not self.running():
            return self.process.returncode if self.process else None
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()
            raise AssertionError(f"penstockd did not end within {timeout} s of SIGTERM:\n{self.log[-4000:]}")

    def kill9(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def restart(self):
        self.stop()
        return self.start()

    def uninstall(self, check=True):
        return self.lab.node.run(self.binary, "--config", self.config_path, "--uninstall", check=check)

    def close(self):
        """Stops and uninstalls whatever state the test left; returns what is wrong with that."""
        complaints = []
        if self.running():
            try:
                self.stop()
            except AssertionError as error:
                complaints.append(str(error))
        if os.path.isdir(self.pins):
            done = self.uninstall(check=False)
            if done.returncode != 0:
                complaints.append(f"--uninstall: exit {done.returncode}: {done.stdout}{done.stderr}")
            shutil.rmtree(self.pins, ignore_errors=True)
        complaints += [line for line in self.log.splitlines() if any(word in line for word in SANITIZER)]
        return complaints
