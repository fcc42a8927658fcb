# SPDX-License-Identifier: Apache-2.0
"""A node with an agent, kube-proxy and pods, and pods of another node behind the outside host.

Every pod serves: echo on port 8080, TCP and UDP (lab.prober), and TCP on port 8090, which says who it is (talk.Server).
"""
import ipaddress
import socket
import struct

import pytest

from kubeproxy import KubeProxy, endpoint_slice, service
from lab import NODE_NAME, OUTSIDE4, OUTSIDE6, UPLINK4, UPLINK6, Probe
from objects import allow_from, allow_to, node, pod, policy
from steering import World
from talk import Server, plain

ECHO, TALK = 8080, 8090  # target ports; the Services' own are 80 and 90
PORTS = [{"name": "web", "port": 80, "targetPort": "echo"},
         {"name": "web-udp", "port": 80, "protocol": "UDP", "targetPort": ECHO},
         {"name": "talk", "port": 90, "targetPort": TALK}]
TARGETS = [{"name": "web", "port": ECHO}, {"name": "web-udp", "port": ECHO, "protocol": "UDP"},
           {"name": "talk", "port": TALK}]
CONTAINER = [{"name": "echo", "port": ECHO}, {"name": "echo-udp", "port": ECHO, "protocol": "UDP"},
             {"name": "talk", "port": TALK}]
DNS_PORTS = [{"name": "dns", "port": 1053, "protocol": "UDP"}, {"name": "dns-tcp", "port": 1053}]
UPLINKS = [UPLINK4, UPLINK6]
REFUSED = {"ECONNREFUSED", "EHOSTUNREACH", "EACCES"}  # a RST, ICMP 3/13, ICMPv6 1/1


# ---- policies ----

def pods(*names):
    """Peers of a NetworkPolicy."""
    return [{"podSelector": {"matchLabels": {"name": name}}} for name in names]


def on(port):
    ports = port if isinstance(port, tuple) else (port,)
    return [{"protocol": protocol, "port": number} for protocol in ("TCP", "UDP") for number in ports]


def out(source, *names, port=ECHO, peers=()):
    """source may connect to these pods' port, and nowhere else."""
    return allow_to("s", f"{source}-out", {"name": source}, [*pods(*names), *peers], on(port))


def into(target, *names, port=ECHO, peers=()):
    if not names and not peers:
        return policy("s", f"{target}-in", {"name": target}, types=["Ingress"])
    return allow_from("s", f"{target}-in", {"name": target}, [*pods(*names), *peers], on(port))


def blocks(*ips):
    return [{"ipBlock": {"cidr": f"{ip}/{128 if ':' in ip else 32}"}} for ip in ips]


# ---- Services ----

def ways(exposed):
    """(addresses, port, protocols) by which a pod can ask; a node port is one a protocol."""
    return [*[(ips, port, ("TCP", "UDP")) for ips, port in exposed.all],
            (UPLINKS, exposed.node_port, ("TCP",)), (UPLINKS, exposed.node_port + 1, ("UDP",))]


class Remote:
    """A pod of node-2: addresses of the outside host."""

    def __init__(self, space, number):
        self.space, self.ips = space, [f"10.88.0.{number}", f"fd00:88::{number:x}"]
        self.ip4, self.ip6 = self.ips


class Exposed:
    """A Service and its slices, one a family; `backends` are names."""

    def __init__(self, cluster, name, backends, conditions=(), ports=PORTS, targets=TARGETS, namespace="s", key=None,
                 **spec):
        # Addresses of its own for each name (and key): what conntrack remembers of UDP outlives a test.
        number = cluster.numbers.setdefault((name, key), len(cluster.numbers) + 1)
        self.ips = [f"10.96.1.{number}", f"fd00:96::1:{number}"]
        self.external = [f"203.0.113.{number}", f"2001:db8:203::{number}"]
        self.balancer = [f"192.0.2.{number}", f"2001:db8:192::{number}"]
        self.node_port = 30000 + 10 * number
        self.name, self.backends, conditions = name, list(backends), dict(conditions)
        ports = [{**p, "nodePort": self.node_port + n} for n, p in enumerate(ports)]
        self.objects = [service(name, self.ips, ports, namespace, **{
            "type": "LoadBalancer", "externalIPs": self.external, "load_balancer": self.balancer, **spec})]
        for family in (4, 6):
            endpoints = [{"addresses": [cluster.address(b, family)], "nodeName": cluster.node_of(b),
                          **({"conditions": conditions[b]} if b in conditions else {})} for b in backends]
            self.objects.append(endpoint_slice(name, endpoints, targets, namespace, suffix=f"x7k2p{family}"))

    @property
    def all(self):
        """(addresses, offset of the port): every way in from a pod."""
        return [(self.ips, 80), (self.external, 80), (self.balancer, 80)]


class Tap:
    """First packets that an interface received: (protocol, source, source port, destination, port)."""

    def __init__(self, space, interface="eth0"):
        with space.entered():
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self.sock.bind((interface, 3))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.sock.setblocking(False)

    def read(self):
        found = []
        while True:
            try:
                packet, (_, ethertype, direction, *_) = self.sock.recvfrom(128)
            except BlockingIOError:
                return found
            if direction == socket.PACKET_OUTGOING or ethertype not in (0x0800, 0x86dd):
                continue
            v4 = ethertype == 0x0800
            protocol, start, size = (packet[9], 12, 4) if v4 else (packet[6], 8, 16)
            behind = 20 if v4 else 40
            if protocol not in (6, 17) or protocol == 6 and packet[behind + 13] & 0x12 != 2:
                continue
            source, destination = (str(ipaddress.ip_address(packet[at:at + size])) for at in (start, start + size))
            ports = struct.unpack_from("!HH", packet, behind)
            if ports[1] < 30000:  # else it is an answer
                found.append(("TCP" if protocol == 6 else "UDP", source, ports[0], destination, ports[1]))

    def close(self):
        self.sock.close()


class Cluster(World):
    """Pods a … e are this node's, r and q the other's; dns (here) and dns2 (there) are kube-dns."""
    HERE, THERE = "abcde", {"r": 2, "q": 3, "dns2": 53}

    def __init__(self, mode, bridge=False, netfilter=False, **config):
        """bridge: the pods are ports of one, as with flannel; netfilter: with br_netfilter on, as kubeadm wants it."""
        self.numbers, self.there, self.taps, self.talkers = {}, {}, {}, []
        super().__init__(*self.HERE, "dns", bridge=bridge, **config)
        for family in ("iptables", "ip6tables") if bridge else ():
            try:
                self.node.sysctl(f"net.bridge.bridge-nf-call-{family}", int(netfilter))
            except FileNotFoundError:
                if netfilter:
                    self.close()
                    pytest.skip("this kernel has no br_netfilter")
        self.kube = KubeProxy(self.node, mode, NODE_NAME, UPLINKS)
        if why := self.kube.lacking():
            self.close()
            pytest.skip(f"no kube-proxy in mode {mode} here: {why}")
        for name, number in self.THERE.items():
            remote = self.there[name] = Remote(self.outside, number)
            self.outside.ip(f"addr add {remote.ip4}/32 dev lo", f"addr add {remote.ip6}/128 dev lo nodad")
            for ip in remote.ips:
                self.serve(self.outside, name, ip)
        for name, made in self.pods.items():
            self.serve(made, name)
            self.taps[name] = Tap(made)
        self.taps["outside"] = Tap(self.outside)

    def serve(self, space, name, ip="::"):
        for protocol in ("TCP", "UDP"):
            self.prober.listen(space, ECHO, protocol, ip)
        self.talkers.append(Server(space, TALK, name, address=ip))

    # ---- objects ----

    @property
    def items(self):
        def made(name, ips, node_name):
            if name.startswith("dns"):
                return pod("kube-system", name, ips, node_name, {"k8s-app": "kube-dns"}, DNS_PORTS)
            return pod("s", name, ips, node_name, {"name": name}, CONTAINER)
        return [node(NODE_NAME, UPLINKS), node("node-2", [OUTSIDE4, OUTSIDE6]),
                *[made(name, one.ips, NODE_NAME) for name, one in self.pods.items()],
                *[made(name, one.ips, "node-2") for name, one in self.there.items()]]

    def address(self, name, family):
        if name in self.there:
            return self.there[name].ips[family == 6]
        if name == "node":
            return UPLINKS[family == 6]
        return super().address(name, family)

    def node_of(self, name):
        return "node-2" if name in self.there else NODE_NAME

    def expose(self, name, *backends, **options):
        return Exposed(self, name, backends, **options)

    def give(self, services, *policies, choose=()):
        """Exactly these Services and policies, to the agent and to kube-proxy. choose: the only backends that it picks."""
        objects = [o for one in services for o in (one.objects if isinstance(one, Exposed) else [one])]
        self.put(*objects, *policies)
        self.resync(objects, choose)

    def resync(self, objects=None, choose=()):
        self.kube.sync(objects, {self.address(name, family) for name in choose for family in (4, 6)})

    # ---- traffic ----

    def tries(self, source, ips, port=80, protocols=("TCP", "UDP"), expect=None, count=1, silence=0.4):
        """Attempts at once, each from a port of its own."""
        self.reached()
        return self.prober.probe([Probe(source, ip, port, protocol, expect=expect) for _ in range(count) for ip in ips
                                  for protocol in protocols], silence)

    def every_way(self, source, exposed, expect=None, silence=0.2):
        """One attempt by each address of a Service, all at once; from outside not by its cluster IP."""
        self.reached()
        found = [Probe(source, ip, port, protocol, expect=expect) for ips, port, protocols in ways(exposed)
                 if source is not self.outside or ips != exposed.ips for ip in ips for protocol in protocols]
        return self.prober.probe(found, silence)

    def who(self, probe):
        """The backend that answered, or what went wrong."""
        if not probe.server:
            return probe.result
        space, _, _, ip = probe.server
        return next((name for name, one in self.there.items() if ip in one.ips), None) or \
            next((name for name, one in self.pods.items() if one.name == space), "node")

    def answers(self, *args, **options):
        return {self.who(probe) for probe in self.tries(*args, **options)}

    def met(self, *args, **options):
        """The same, of every way."""
        return {self.who(probe) for probe in self.every_way(*args, **options)}

    def named(self, ip):
        for name, one in [*self.there.items(), *self.pods.items()]:
            if ip in one.ips:
                return name
        return "node" if ip in UPLINKS else ip

    def reached(self, without=()):
        """The pods that a first packet has reached since it was last asked, from whomever; but for those ports."""
        return {self.named(ip) for tap in self.taps.values() for *_, ip, port in tap.read() if port not in without}

    def chosen(self):
        """What kube-proxy decided: {(protocol, source, port, destination, port): backend}, from the node's conntrack."""
        found = {}
        with self.node.entered(), open("/proc/thread-self/net/nf_conntrack") as file:
            for line in file:
                fields = [field.split("=", 1) for field in line.split() if "=" in field]
                values = {key: [v for k, v in fields if k == key] for key in ("src", "dst", "sport", "dport")}
                if len(values["sport"]) < 2:
                    continue
                source, backend, destination, _ = (str(ipaddress.ip_address(ip)) for ip in values["src"] + values["dst"])
                asked = (source, int(values["sport"][0]), destination, int(values["dport"][0]))
                found[line.split()[2].upper(), *asked] = self.named(backend)
        return found

    def judged(self, probes, allowed, refusal=("deny",)):
        """Every attempt succeeded or failed as the backend says that kube-proxy chose for it; which were chosen. A RST ends
        an entry of the node's conntrack: then only that it was refused is known, and who was not reached."""
        chosen, reached, seen = self.chosen(), self.reached([TALK]), set()
        for probe in probes:
            backend = chosen.get((probe.protocol, *probe.local, probe.destination, probe.port))
            assert backend or probe.result == "ECONNREFUSED", f"{probe}: not in the node's conntrack: {chosen}"
            seen |= {backend} - {None}
            if backend in allowed:
                assert self.who(probe) == backend, f"{probe}: sent to {backend}, which is allowed"
            else:
                assert probe.result in refusal, f"{probe}: sent to {backend}, which is denied"
        assert reached == seen & set(allowed) - {"node"}, f"{reached} were reached of {seen}, allowed are {allowed}"
        return seen

    def close(self):
        for one in self.talkers:
            one.close()
        for tap in self.taps.values():
            tap.close()
        super().close()


def seen_as(probe):
    """The address that the server saw."""
    return plain(probe.peer[0])
