# SPDX-License-Identifier: Apache-2.0
"""Random clusters, policies and packets, drawn so that rules overlap, contradict and nearly match."""
import ipaddress
import random
from dataclasses import dataclass

import objects
from evaluator import Packet
from lab import NODE4, NODE6, NODE_NAME, OUTSIDE4, OUTSIDE6

NAMESPACES = ["n0", "n1", "n2", "n3"]  # n3 is described by no object
LABELS = {"app": ["a", "b", "c"], "tier": ["web", "db", ""], "x": ["1"]}
NAMESPACE_LABELS = {"team": ["red", "blue"], "env": ["prod", "dev"]}
NODE_LABELS = {"role": ["gate", "plain"]}
PORT_NAMES = ["http", "dns", "web", "metrics"]
PORTS = [1, 53, 80, 81, 443, 8079, 8080, 8081, 9000, 65535]
PROTOCOLS = ["TCP", "UDP", "SCTP"]
SERVICE_PORTS = [53, 80, 443, 8000]
OUTSIDE = ["203.0.113.9", "203.0.113.130", "192.0.2.77", "10.77.200.1", "8.8.8.8", OUTSIDE4, NODE4,
           "2001:db8:9::9", "2001:db8:9::8000", "fd00:77::1:1", "2a00::1", OUTSIDE6, NODE6]
BLOCKS4 = ["0.0.0.0/0", "10.77.0.0/16", "10.77.1.0/24", "10.77.1.0/28", "10.77.1.8/29", "10.77.1.4/30", "10.77.1.5/32",
           "203.0.113.0/24", "203.0.113.128/25", "203.0.113.9/32", "10.77.2.0/24", "8.0.0.0/7", "198.51.100.0/24"]
BLOCKS6 = ["::/0", "fd00:77::/64", "fd00:77::/112", "fd00:77::f0/124", "fd00:77::f4/126", "fd00:77::f5/128",
           "2001:db8::/32", "2001:db8:9::/64", "2001:db8:9::8000/113", "fd00:77::1:0/112"]


class Member:
    """A pod or workload that stays while its labels and ports are drawn anew for each round."""

    def __init__(self, namespace, name, ips, as_pod, interface=None):
        self.namespace, self.name, self.ips, self.as_pod = namespace, name, ips, as_pod
        self.interface = interface  # None: on another node
        self.ifindex = 0

    def object(self, rng):
        labels = {k: rng.choice(v) for k, v in LABELS.items() if rng.random() < 0.6}
        names = rng.sample(PORT_NAMES, rng.randint(0, 3))
        ports = [{"name": n, "port": rng.choice(PORTS), "protocol": rng.choice(PROTOCOLS[:2])} for n in names]
        if self.as_pod:
            return objects.pod(self.namespace, self.name, self.ips, NODE_NAME if self.interface else "node-2", labels,
                               ports)
        spec = {"interface": self.interface} if self.interface else {"node": "node-2"}
        return objects.workload(self.namespace, self.name, self.ips, labels, ports, **spec)


@dataclass(frozen=True)
class Flow:
    packet: Packet
    source: Member  # None: no member's address
    destination: Member
    sport: int
    midstream: bool  # the first packet seen of it is no SYN

    @property
    def reversed(self):
        """The connection that the packet would be an answer in."""
        return Packet(self.packet.destination, self.packet.source, self.packet.protocol, self.sport)

    @property
    def identity(self):
        """Equal for both directions; without ports there is one flow a pair of addresses."""
        ports = {"GRE": (0, 0), "ICMP": (self.sport, self.sport)}.get(self.packet.protocol,
                                                                      (self.sport, self.packet.port))
        return frozenset(zip((self.packet.source, self.packet.destination), ports)), self.packet.protocol


class Generator:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.sport = 1024
        self.handed_over = ("tcp",)  # what rules of interception name

    def cluster(self, members):
        rng = self.rng
        items = [objects.namespace(n, {k: rng.choice(v) for k, v in NAMESPACE_LABELS.items() if rng.random() < 0.7})
                 for n in NAMESPACES[:3]]
        return items + [m.object(rng) for m in members]

    # ---- policy ----

    def selector(self, keys):
        rng, selector = self.rng, {}
        if rng.random() < 0.25:
            return {}
        if rng.random() < 0.5:
            selector["matchLabels"] = {k: rng.choice(v) for k, v in keys.items() if rng.random() < 0.5}
        elif rng.random() < 0.1:
            selector["matchLabels"] = None
        if rng.random() < 0.6:
            selector["matchExpressions"] = [self.expression(keys) for _ in range(rng.randint(1, 2))]
        return selector

    def expression(self, keys):
        rng = self.rng
        key = rng.choice([*keys, "absent"])
        operator = rng.choice(["In", "NotIn", "Exists", "DoesNotExist"])
        made = {"key": key, "operator": operator}
        if operator in ("In", "NotIn"):
            values = [*keys.get(key, []), "other"]
            made["values"] = rng.sample(values, min(len(values), rng.randint(1, 2)))
        return made

    def namespace_selector(self):
        if self.rng.random() < 0.3:
            return {"matchLabels": {"kubernetes.io/metadata.name": self.rng.choice(NAMESPACES)}}
        return self.selector(NAMESPACE_LABELS)

    def block(self):
        rng = self.rng
        blocks = BLOCKS4 if rng.random() < 0.5 else BLOCKS6
        at = rng.randrange(len(blocks))
        cidr = blocks[at]
        block = {"cidr": cidr}
        inside = [b for b in blocks if b != cidr and _within(b, cidr)]
        if inside and rng.random() < 0.6:
            block["except"] = rng.sample(inside, min(len(inside), rng.randint(1, 3)))
        elif rng.random() < 0.1:
            block["except"] = []
        return {"ipBlock": block}

    def peer(self):
        draw = self.rng.random()
        if draw < 0.35:
            return self.block()
        if draw < 0.6:
            return {"podSelector": self.selector(LABELS)}
        if draw < 0.8:
            return {"namespaceSelector": self.namespace_selector()}
        return {"podSelector": self.selector(LABELS), "namespaceSelector": self.namespace_selector()}

    def port(self):
        rng = self.rng
        port = {}
        if rng.random() < 0.75:
            port["protocol"] = rng.choice(PROTOCOLS)
        draw = rng.random()
        if draw < 0.35:
            port["port"] = rng.choice(PORTS)
        elif draw < 0.6:
            low, high = sorted(rng.sample(PORTS, 2))
            port["port"], port["endPort"] = low, high if rng.random() < 0.8 else low
        elif draw < 0.85:
            port["port"] = rng.choice(PORT_NAMES + ["nosuch"])
        return port

    def rule(self, side):
        rng, rule = self.rng, {}
        if rng.random() < 0.85:
            rule[side] = [self.peer() for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]
        if rng.random() < 0.7:
            rule["ports"] = [self.port() for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        return rule

    def policy(self, number):
        rng = self.rng
        spec = {"podSelector": self.selector(LABELS)}
        types = rng.choice([None, [], ["Ingress"], ["Egress"], ["Ingress", "Egress"]])
        if types is not None:
            spec["policyTypes"] = types
        for field, side in (("ingress", "from"), ("egress", "to")):
            if rng.random() < 0.7:
                spec[field] = [self.rule(side) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        return self.maybe_audited({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                                   "metadata": {"namespace": rng.choice(NAMESPACES), "name": f"p{number}"}, "spec": spec})

    def maybe_audited(self, policy, often=0.15):
        return objects.audited(policy) if self.rng.random() < often else policy

    # ---- tiers ----

    def cluster_policies(self):
        return [self.cluster_policy(number) for number in range(self.rng.choice([0, 0, 1, 2, 3, 5]))]

    def subject(self):
        if self.rng.random() < 0.5:
            return {"namespaces": self.namespace_selector()}
        return {"pods": {"namespaceSelector": self.namespace_selector(), "podSelector": self.selector(LABELS)}}

    def cluster_policy(self, number):
        rng = self.rng
        rules = {side: [self.cluster_rule(index, side) for index in range(rng.randint(0, 3))]
                 for side in ("egress", "ingress") if rng.random() < 0.7}
        return self.maybe_audited(objects.cluster_policy(f"c{number}", rng.choice(["Admin", "Baseline"]),
                                                         rng.choice([0, 10, 10, 1000]), self.subject(), **rules))

    def cluster_rule(self, index, side):
        rng = self.rng
        action = rng.choice(["Accept", "Deny", "Pass"])
        peers = [self.tier_peer(action, side) for _ in range(rng.choice([1, 1, 2, 3]))]
        rule = {"name": f"r{index}", "action": action, "from" if side == "ingress" else "to": peers}
        if rng.random() < 0.6:
            named = not any({"networks", "nodes", "domainNames"} & set(peer) for peer in peers)
            rule["protocols"] = [self.protocol(named, ("tcp", "tcp", "udp", "sctp")) for _ in range(rng.randint(1, 3))]
        return rule

    def tier_peer(self, action, side):
        """One that the direction has; now and then one of a version to come."""
        draw = self.rng.random()
        if draw < 0.05:
            return self.rng.choice([{}, {"later": {"name": "x"}}])
        if draw < 0.1 and side == "egress" and action == "Accept":
            return {"domainNames": ["*.example.com"]}
        peer = self.cluster_peer()
        while side == "ingress" and {"networks", "nodes"} & set(peer):
            peer = self.cluster_peer()
        return peer

    # ---- interception ----

    def nodes(self):
        """This node, and another one at addresses beyond the uplink."""
        rng = self.rng
        places = ((NODE_NAME, [NODE4, NODE6]), ("node-2", ["203.0.113.9", "2001:db8:9::9"]))
        return [objects.node(name, ips, {k: rng.choice(v) for k, v in NODE_LABELS.items() if rng.random() < 0.6})
                for name, ips in places if rng.random() < 0.8]

    def interception(self):
        """Proxies, and policies that name them; "gw-lost" is described by no object."""
        items = [objects.proxy("gw-deny", 15001), objects.proxy("gw-bypass", 15002, unavailable="Bypass")]
        return items + self.nodes() + [self.intercept(number) for number in range(self.rng.randint(0, 5))]

    def intercept(self, number, proxies=("gw-deny", "gw-bypass", "gw-deny", "gw-bypass", "gw-lost")):
        rng = self.rng
        sides = rng.choice([("egress",), ("ingress",), ("egress", "ingress")])
        rules = {side: [self.intercept_rule(index, side, proxies) for index in range(rng.randint(1, 3))]
                 for side in sides}
        subject = {"pods": {"namespaceSelector": self.namespace_selector(), "podSelector": self.selector(LABELS)}} \
            if rng.random() < 0.7 else {"namespaces": self.namespace_selector()}
        return self.maybe_audited(objects.intercept(f"i{number}", subject, rules.get("egress", []),
                                                    rng.choice([0, 10, 10, 1000]), rules.get("ingress")), 0.25)

    def intercept_rule(self, index, side, proxies):
        rng = self.rng
        peers = [self.cluster_peer() for _ in range(rng.randint(1, 2))]
        rule = {"name": f"r{index}", "action": rng.choice(["Intercept", "Intercept", "Bypass"]),
                "from" if side == "ingress" else "to": peers}
        if rule["action"] == "Intercept":
            rule["proxy"] = rng.choice(proxies)
        if rng.random() < 0.6:
            named = side == "ingress" or not any("networks" in peer or "nodes" in peer for peer in peers)
            rule["protocols"] = [self.protocol(named, self.handed_over) for _ in range(rng.randint(1, 2))]
        return rule

    def cluster_peer(self):
        draw = self.rng.random()
        if draw < 0.5:
            return {"networks": self.rng.sample(BLOCKS4 + BLOCKS6, self.rng.randint(1, 3))}
        if draw < 0.6:
            return {"nodes": self.selector(NODE_LABELS)}
        if draw < 0.8:
            return {"pods": {"namespaceSelector": self.namespace_selector(), "podSelector": self.selector(LABELS)}}
        return {"namespaces": self.namespace_selector()}

    def protocol(self, named=False, transports=("tcp",)):
        rng = self.rng
        draw = rng.random()
        transport = rng.choice(transports)
        if named and draw < 0.3:
            return {"destinationNamedPort": rng.choice(PORT_NAMES)}
        if draw < 0.4:
            return {transport: {}}
        if draw < 0.75:
            return {transport: {"destinationPort": {"number": rng.choice(PORTS)}}}
        low, high = sorted(rng.sample(PORTS, 2))
        return {transport: {"destinationPort": {"range": {"start": low, "end": high}}}}

    # ---- packets ----

    def packet(self, members):
        """Flow(packet, its ends' members, its source port, midstream). At least one end is a member."""
        rng = self.rng
        self.sport = 1024 + (self.sport - 1023) % 64000
        version = rng.choice([4, 6])
        addresses = [(m, next(ip for ip in m.ips if (":" in ip) == (version == 6))) for m in members]
        outside = [(None, ip) for ip in OUTSIDE if (":" in ip) == (version == 6)]
        source = rng.choice(addresses)
        others = addresses if rng.random() < 0.7 else outside
        other = rng.choice([end for end in others if end != source])
        if rng.random() < 0.3:
            source, other = other, source
        draw = rng.random()
        protocol = rng.choice(PROTOCOLS) if draw < 0.92 else "ICMP" if draw < 0.97 else "GRE"
        port = (rng.choice(PORTS) if rng.random() < 0.9 else rng.randint(1, 65535)) if protocol in PROTOCOLS else 0
        midstream = protocol == "TCP" and rng.random() < 0.15
        sport = rng.choice(PORTS) if midstream else self.sport
        return Flow(Packet(source[1], other[1], protocol, port), source[0], other[0], sport, midstream)

    # ---- Services ----

    def services(self, members, others=(), count=None):
        """Services and their slices. members, others: who may be a backend; others are addresses of no member."""
        rng, items = self.rng, []
        ends = [ip for member in members for ip in member.ips] + list(others)
        for number in range(rng.randint(2, 6) if count is None else count):
            service = self.service(number)
            items += [service, *self.slices(service, ends)]
        return items

    def service(self, number):
        """Its addresses and node ports are its own; which of them it has varies."""
        rng = self.rng
        ips = [f"10.96.0.{number + 1}", f"fd00:96::{number + 1:x}"]
        draw = rng.random()
        cluster_ips = ips if draw < 0.75 else ips[:1] if draw < 0.83 else ips[1:] if draw < 0.91 else ["None"]
        ports = []
        for at, (name, protocol) in enumerate(rng.sample([(n, p) for n in PORT_NAMES for p in PROTOCOLS], rng.randint(1, 3))):
            port = {"name": name, "protocol": protocol, "port": rng.choice(SERVICE_PORTS), "targetPort": rng.choice(PORTS + [name])}
            if any((port["protocol"], port["port"]) == (p["protocol"], p["port"]) for p in ports):
                continue
            if rng.random() < 0.5 and cluster_ips != ["None"]:
                port["nodePort"] = 30000 + 10 * number + at
            ports.append(port)
        if len({port["name"] for port in ports}) < len(ports):
            ports = ports[:1]
        if len(ports) == 1 and rng.random() < 0.5:
            del ports[0]["name"]
        if rng.random() < 0.3:
            ports = [{k: v for k, v in port.items() if (k, v) != ("protocol", "TCP")} for port in ports]
        spec = {"type": "LoadBalancer", "clusterIP": cluster_ips[0], "clusterIPs": cluster_ips, "ports": ports}
        if rng.random() < 0.4:
            spec["externalIPs"] = [f"203.0.113.{40 + number}", f"2001:db8:9::e{number:x}"][:rng.randint(1, 2)]
        if rng.random() < 0.05:
            spec |= {"type": "ExternalName", "externalName": "example.com"}
        status = {"loadBalancer": {}}
        if rng.random() < 0.4:
            status["loadBalancer"]["ingress"] = [
                {"ip": ip, **({"ipMode": rng.choice(["VIP", "Proxy"])} if rng.random() < 0.5 else {})}
                for ip in (f"198.51.100.{140 + number}", f"2001:db8:51::b{number:x}")] + [{"hostname": "lb.example.com"}]
        return {"apiVersion": "v1", "kind": "Service", "spec": spec, "status": status,
                "metadata": {"namespace": rng.choice(NAMESPACES), "name": f"s{number}", "labels": {}}}

    def slices(self, service, ends):
        """A few a family, not all of whose ports are the Service's; "number" may differ from slice to slice."""
        rng, made = self.rng, []
        few = rng.random() < 0.5  # so that backends are often of one kind
        for family in ("IPv4", "IPv6"):
            mine = [ip for ip in ends if (":" in ip) == (family == "IPv6")]
            pool = rng.sample(mine, min(len(mine), rng.randint(1, 2))) if few else mine
            for at in range(rng.choice([0, 1, 1, 1, 2, 3])):
                endpoints = [self.endpoint(pool) for _ in range(rng.choice([0, 1, 1, 2, 3, 3, 12 if not few else 2]))]
                ports = [{**{k: port[k] for k in ("name", "protocol") if k in port}, "port": rng.choice(PORTS)}
                         for port in service["spec"]["ports"] if rng.random() < 0.9]
                if rng.random() < 0.1:
                    ports.append({"name": "other", "protocol": rng.choice(PROTOCOLS), "port": rng.choice(PORTS)})
                made.append({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                             "metadata": {"namespace": service["metadata"]["namespace"],
                                          "name": f"{service['metadata']['name']}-{family.lower()}-{at}",
                                          "labels": {"kubernetes.io/service-name": service["metadata"]["name"]}},
                             "endpoints": endpoints, "ports": ports})
        if made and rng.random() < 0.1:
            rng.choice(made)["metadata"]["labels"] = rng.choice([{}, {"kubernetes.io/service-name": "nobody"}])
        return made

    def endpoint(self, ips):
        rng = self.rng
        conditions = {"ready": rng.choice([True, True, True, True, True, True, None, False, False])}
        if rng.random() < 0.6:
            conditions["serving"] = conditions["ready"] if rng.random() < 0.6 else rng.choice([True, False, None])
        if rng.random() < 0.6 or conditions["ready"] is False:
            conditions["terminating"] = conditions["ready"] is False and rng.random() < 0.7
        made = {"addresses": rng.sample(ips, min(len(ips), 2 if rng.random() < 0.05 else 1)), "nodeName": NODE_NAME}
        return made if rng.random() < 0.1 else {**made, "conditions": conditions}

    def churn(self, items, members, others=()):
        """The Services and slices of `items`, some of them changed, gone, or come."""
        rng = self.rng
        ends = [ip for member in members for ip in member.ips] + list(others)
        kept = [item for item in items if item["kind"] not in ("Service", "EndpointSlice") or rng.random() < 0.9]
        made = []
        for item in kept:
            if item["kind"] == "EndpointSlice" and rng.random() < 0.4:
                mine = [ip for ip in ends if (":" in ip) == (item["addressType"] == "IPv6")]
                item = {**item, "endpoints": [self.endpoint(mine) for _ in range(rng.randint(0, 3))]}
            elif item["kind"] == "Service" and rng.random() < 0.1:
                item = {**self.service(int(item["metadata"]["name"][1:])), "metadata": item["metadata"]}
            made.append(item)
        return made

    def service_packet(self, items, sources, node_ips):
        """From a member to an address of a Service that there is, or nearly."""
        rng = self.rng
        self.sport = 1024 + (self.sport - 1023) % 64000
        service = rng.choice([item for item in items if item["kind"] == "Service"])
        port = rng.choice(service["spec"]["ports"])
        if "nodePort" in port and rng.random() < 0.3:
            destination, number = rng.choice(list(node_ips)), port["nodePort"]
        else:
            spec, balancers = service["spec"], service["status"]["loadBalancer"].get("ingress") or []
            found = [ip for ip in spec["clusterIPs"] if ip != "None"] * 3 + spec.get("externalIPs", []) + \
                [entry["ip"] for entry in balancers if "ip" in entry]
            destination, number = rng.choice(found or list(node_ips)), port["port"]
        if rng.random() < 0.05:
            number = rng.choice(SERVICE_PORTS + [port.get("nodePort", 30000)])
        source = rng.choice(sources)
        protocol = port.get("protocol", "TCP") if rng.random() < 0.95 else rng.choice(PROTOCOLS)
        ip = next(ip for ip in source.ips if (":" in ip) == (":" in destination))
        return Flow(Packet(ip, destination, protocol, number), source, None, self.sport, False)


def _within(inner, outer):
    return ipaddress.ip_network(inner).subnet_of(ipaddress.ip_network(outer))
