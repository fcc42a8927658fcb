# SPDX-License-Identifier: Apache-2.0
"""
A small world written into the maps by hand: two workloads A and B of this node, a third interface that nobody claims,
an uplink, remote addresses. Rows and rules are few and have names.
"""

import ipaddress
import re
import struct
from pathlib import Path

import pytest

from kernel import Object

EGRESS, INGRESS = 0, 1
ABI = (Path(__file__).parents[2] / "bpf" / "abi.h").read_text()


def codes(macro):
    """The names of an X-macro list, in order."""
    body = re.search(rf"#define {macro}\(X\)((?:.*\\\n)*.*\n)", ABI).group(1)
    return re.findall(r"X\((\w+),", body)


VERDICTS, REASONS = codes("PS_VERDICTS"), codes("PS_REASONS")
ENTRIES = {name: count for name, count in re.findall(r"X\((\w+), (?:HASH|LPM|ARRAY),.*, (\w+)\)", ABI)}
ENTRIES = {name: 768 if count == "PS_PORT_BLOCKS" else int(count) for name, count in ENTRIES.items()}

ALLOW, DENY, INTERCEPT = 0, 1, 2
AUDIT, AUDIT_DENY, AUDIT_INTERCEPT, AUDIT_ISOLATED, AUDIT_STEERS = 1, 2, 4, 8, 16
LOCAL, STEERED, NODES, SOURCES, USED = 1, 2, 4, 2, 1
BACKEND_NODE, SERVICE_MORE, BACKENDS_MAX = 1, 1, 8
PENDING, TRANSLATED = 1, 2
CONTROL_STEERING, CONTROL_SERVICES, CONTROL_TPROXY, CONTROL_TABLE = 1, 2, 4, 8
PROXY_USED, PROXY_BYPASS = 1, 2
IFACE_DENY, IFACE_L3, IFACE_NETWORK = 1, 2, 4
NEW, REPLIED, ESTABLISHED, CLOSING = range(4)
ORIGIN_HIGH, NODE, INTERCEPTED, MIDSTREAM, REWRITTEN, LEG = 1, 2, 4, 32, 64, 128
TOLD, QUIET = 64, 128
MARK, MARK_MASK = 0x20000000, 0x60000000

# Rows: what they say, and the rule that says it.
(ROW_ALLOW, ROW_ISOLATED, ROW_DENY, ROW_INTERCEPT, ROW_AUDIT, ROW_INTERCEPT_BYPASS, ROW_AUDIT_INTERCEPT) = range(1, 8)
RULE_ALLOW, RULE_ISOLATED, RULE_DENY, RULE_INTERCEPT = 11, 12, 13, 14
PROXY, PROXY_BYPASSED = 1, 2
CLASS_A, CLASS_B, CLASS_NET = 1, 2, 3
PROFILE_A, PROFILE_B = 1, 2
A, B = 1, 2  # endpoints

# Where namespaces stand for A, B, somebody beyond the uplink, and this node.
A4, B4, FAR4, NODE4 = "10.0.0.1", "10.0.0.2", "203.0.113.9", "10.9.9.9"
A6, B6, FAR6, NODE6 = "fd00::1", "fd00::2", "2001:db8::9", "fd99::9"
OF = {"a": (A4, A6), "b": (B4, B6), "far": (FAR4, FAR6), "node": (NODE4, NODE6)}
PER_FAMILY = pytest.mark.parametrize("v", (0, 1), ids=("v4", "v6"))


class Conn:
    """An entry of ps_conn* or ps_new*."""

    def __init__(self, value, live):
        self.live = live
        value = value[16:] if live else value
        (egress, ingress, self.opened, self.seen, p0, p1, b0, b1, r0, r1, self.intercept_rule, i0, i1, self.handshake,
         self.state, self.flags, self.proxy, e, i, service, self.backend_port, self.entered) = struct.unpack_from(
             "=QQQQQQQQIIIIIIBBBBBBHI", value)
        self.service, self.told, self.quiet = service & 63, bool(service & TOLD), bool(service & QUIET)
        self.backend = value[96:112]
        self.round_trip, self.retransmits = struct.unpack_from("=II", value, 112)
        self.judged, self.packets, self.bytes = [egress, ingress], [p0, p1], [b0, b1]
        self.rule, self.ifindex, self.reason = [r0, r1], [i0, i1], [REASONS[e], REASONS[i]]


class World:
    ip = {A: (A4, A6), B: (B4, B6)}

    def __init__(self, interfaces, **options):
        self.object = Object(**options)
        self.a, self.b, self.unclaimed, self.uplink = interfaces
        self.generation = 0
        self.reset()

    def reset(self):
        """Everything as at first: A and B claimed and local, profiles that allow, no connections."""
        for name in ("ps_conn4", "ps_conn6", "ps_new4", "ps_new6", "ps_fragment", "ps_iface", "ps_rule_hits",
                     "ps_addr4", "ps_addr6", "ps_net4", "ps_net6", "ps_source", "ps_peer_row", "ps_cell", "ps_listener",
                     "ps_leg", "ps_held", "ps_service4", "ps_service6"):
            self.object.map(name).clear()
        for rule in (RULE_ALLOW, RULE_ISOLATED, RULE_DENY, RULE_INTERCEPT):
            self.object.map("ps_rule_hits").put(struct.pack("=I", rule), bytes(8))
        self.iface(self.a, A)
        self.iface(self.b, B)
        for endpoint, profile, class_id in ((A, PROFILE_A, CLASS_A), (B, PROFILE_B, CLASS_B)):
            self.endpoint(endpoint, profile, class_id)
            for address in self.ip[endpoint]:
                self.addr(address, class_id, endpoint, profile, LOCAL)
        self.row(ROW_ALLOW, ALLOW, "POLICY", RULE_ALLOW)
        self.row(ROW_ISOLATED, DENY, "ISOLATED", RULE_ISOLATED)
        self.row(ROW_DENY, DENY, "POLICY", RULE_DENY)
        self.row(ROW_INTERCEPT, INTERCEPT, "POLICY", RULE_ALLOW, PROXY, RULE_INTERCEPT)
        self.row(ROW_INTERCEPT_BYPASS, INTERCEPT, "POLICY", RULE_ALLOW, PROXY_BYPASSED, RULE_INTERCEPT)
        self.row(ROW_AUDIT, ALLOW, "POLICY", RULE_ALLOW, flags=AUDIT | AUDIT_DENY | AUDIT_ISOLATED, audit_rule=RULE_ISOLATED)
        self.row(ROW_AUDIT_INTERCEPT, ALLOW, "DEFAULT", 0, flags=AUDIT | AUDIT_INTERCEPT | AUDIT_STEERS,
                 audit_rule=RULE_INTERCEPT)
        for profile in (PROFILE_A, PROFILE_B):
            self.profile(profile)
        for block in range(768):
            self.array("port", block, bytes(512))
        self.proxy(PROXY, 0)
        self.proxy(PROXY_BYPASSED, 0, PROXY_BYPASS)

    # ---- tables; side None: both ----

    def sides(self, side):
        return (0, 1) if side is None else (side,)

    def array(self, name, index, value, side=None):
        for s in self.sides(side):
            self.object.map("ps_" + name).put(struct.pack("=I", index + s * ENTRIES[name]), value)

    def iface(self, ifindex, endpoint, flags=0):
        self.object.map("ps_iface").put(
            struct.pack("=I", ifindex), struct.pack("=IIII", endpoint, endpoint, flags, 0))

    def endpoint(self, endpoint, profile, class_id, flags=USED, side=None):
        self.array("endpoint", endpoint, struct.pack("=IIII", profile, class_id, flags, 0), side)

    def addr(self, address, class_id, endpoint=0, profile=0, flags=0, side=None):
        packed = ipaddress.ip_address(address).packed
        for s in self.sides(side):
            self.object.map(f"ps_addr{4 if len(packed) == 4 else 6}").put(
                struct.pack("=I", s) + packed, struct.pack("=IIII", class_id, endpoint, profile, flags))

    def net(self, network, class_id, side=None):
        network = ipaddress.ip_network(network)
        for s in self.sides(side):
            self.object.map(f"ps_net{network.version}").put(
                struct.pack("=II", 32 + network.prefixlen, s) + network.network_address.packed,
                struct.pack("=I", class_id))

    def source(self, endpoint, network, side=None):
        network = ipaddress.ip_network(network)
        packed, length = network.network_address.packed, network.prefixlen
        if network.version == 4:
            packed, length = bytes(10) + b"\xff\xff" + packed, length + 96
        for s in self.sides(side):
            self.object.map("ps_source").put(
                struct.pack("=III", 64 + length, s, endpoint) + packed, struct.pack("=I", 1))

    def row(self, row, action, reason, rule, proxy=0, intercept_rule=0, flags=0, audit_rule=0, side=None):
        self.array("row", row, self.verdict(action, reason, rule, proxy, intercept_rule, flags, audit_rule), side)

    def verdict(self, action, reason, rule, proxy=0, intercept_rule=0, flags=0, audit_rule=0):
        return struct.pack("=BBBBIII", action, REASONS.index(reason), flags, proxy, rule, intercept_rule, audit_rule)

    def profile(self, profile, egress=ROW_ALLOW, ingress=ROW_ALLOW, side=None):
        self.array("profile", profile, struct.pack("=II", egress, ingress), side)

    def peer_row(self, profile, direction, class_id, row, side=None):
        for s in self.sides(side):
            self.object.map("ps_peer_row").put(
                struct.pack("=IIII", s, profile, class_id, direction), struct.pack("=I", row))

    def port(self, protocol, port, port_class):
        value = bytearray(512)
        struct.pack_into("=H", value, 2 * (port & 255), port_class)
        self.array("port", {"TCP": 0, "UDP": 1, "SCTP": 2}[protocol] * 256 + (port >> 8), bytes(value))

    def cell(self, row, port_class, action, reason="POLICY", rule=RULE_ALLOW, side=None):
        for s in self.sides(side):
            self.object.map("ps_cell").put(
                struct.pack("=III", s, row, port_class), self.verdict(action, reason, rule))

    def proxy(self, number, port, flags=0, chosen=0):
        self.array("proxy", number, struct.pack("=HBBI", port, PROXY_USED | flags, 0, chosen))

    def service(self, address, port, protocol, kinds, flags=0, side=None):
        """kinds: [(class, port[, BACKEND_NODE])]; address None: every node's, of both families."""
        packed = [bytes(4), bytes(16)] if address is None else [ipaddress.ip_address(address).packed]
        kinds = [(*kind, 0)[:3] for kind in kinds] + [(0, 0, 0)] * (BACKENDS_MAX - len(kinds))
        value = struct.pack("=II", sum(map(any, kinds)), flags) + b"".join(struct.pack("=IHH", *kind) for kind in kinds)
        for s in self.sides(side):
            for one in packed:
                self.object.map(f"ps_service{4 if len(one) == 4 else 6}").put(
                    struct.pack("=I", s) + one + struct.pack("=HBx", port, protocol), value)

    def flip(self, control=CONTROL_STEERING | CONTROL_SERVICES):
        self.generation += 1
        self.object.map("ps_control").put(struct.pack("=I", 0), struct.pack("=II", self.generation, control))

    @property
    def side(self):
        return self.generation & 1

    # ---- packets ----

    def send(self, who, frame, **options):
        """What a workload sends, at the first hook: (passed, verdict, reason)."""
        ifindex = {A: self.a, B: self.b}.get(who, who)
        return self._run("from_workload", frame, EGRESS, ifindex=ifindex, ingress=ifindex, **options)

    def deliver(self, who, frame, ingress=None, **options):
        """What a workload is about to receive, at the last hook. ingress: where it entered; 0: this node sent it."""
        ifindex = {A: self.a, B: self.b}.get(who, who)
        ingress = self.uplink if ingress is None else {A: self.a, B: self.b}.get(ingress, ingress)
        return self._run("to_workload", frame, INGRESS, ifindex=ifindex, ingress=ingress, **options)

    def _run(self, program, frame, direction, **options):
        before = self.counts(direction)
        frame = bytes(frame)
        self.result = self.object.run(program, frame, **options)
        changed = [(key, value[0] - before.get(key, (0, 0))[0]) for key, value in self.counts(direction).items()
                   if value != before.get(key)]
        assert len(changed) == 1 and changed[0][1] == 1, f"counted {changed}, not once"
        verdict, reason = changed[0][0]
        passed = self.result.action == -1
        assert passed or self.result.action == 2
        assert passed == (verdict in ("FORWARDED", "INTERCEPTED", "AUDITED")), (self.result.action, verdict)
        return passed, verdict, reason

    def counts(self, direction):
        """(verdict, reason) → (packets, bytes), of what was counted."""
        found = {}
        for v, verdict in enumerate(VERDICTS):
            for r, reason in enumerate(REASONS):
                value = self.object.map("ps_count").get(
                    struct.pack("=I", (direction * len(VERDICTS) + v) * 32 + r))
                cpus = struct.unpack(f"={len(value) // 8}Q", value)
                if sum(cpus):
                    found[verdict, reason] = (sum(cpus[::2]), sum(cpus[1::2]))
        return found

    def hits(self, rule):
        value = self.object.map("ps_rule_hits").get(struct.pack("=I", rule))
        return sum(struct.unpack(f"={len(value) // 8}Q", value))

    def stat(self, index):
        value = self.object.map("ps_stat").get(struct.pack("=I", index))
        return sum(struct.unpack(f"={len(value) // 8}Q", value))

    def conns(self):
        """All connections: (protocol, low, high) → Conn, ends as (address, port)."""
        found = {}
        for family, size in ((4, 4), (6, 16)):
            for name, live in ((f"ps_new{family}", False), (f"ps_conn{family}", True)):
                for key in self.object.map(name).keys():
                    low, high = (str(ipaddress.ip_address(key[i * size:(i + 1) * size])) for i in (0, 1))
                    ports = struct.unpack_from("=HH", key, 2 * size)
                    value = self.object.map(name).get(key)
                    if value is not None:
                        found[key[2 * size + 4], (low, ports[0]), (high, ports[1])] = Conn(value, live)
        return found

    def conn(self):
        """The one connection there is."""
        found = list(self.conns().values())
        assert len(found) == 1, f"{len(found)} connections"
        return found[0]
