# SPDX-License-Identifier: Apache-2.0
"""Allow and deny, both directions, both families, all transports: parse → judge → account."""

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit

from world import (A, B, ALLOW, AUDIT, CLASS_B, CLASS_NET, DENY, EGRESS, INGRESS, PROFILE_A, PROFILE_B, ROW_ALLOW,
                   ROW_AUDIT, ROW_AUDIT_INTERCEPT, ROW_DENY, ROW_ISOLATED, RULE_ALLOW, RULE_DENY, RULE_INTERCEPT,
                   RULE_ISOLATED, NEW)

A4, A6, B4, B6, FAR4, FAR6 = "10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2", "192.0.2.9", "2001:db8::9"

TRANSPORTS = {
    "tcp": lambda port: TCP(sport=40000, dport=port, flags="S"),
    "udp": lambda port: UDP(sport=40000, dport=port) / b"x",
    "sctp": lambda port: SCTP(sport=40000, dport=port) / SCTPChunkInit(),
}
FAMILIES = {4: (A4, B4, FAR4), 6: (A6, B6, FAR6)}


def frame(source, destination, payload):
    return Ether() / (IPv6 if ":" in source else IP)(src=source, dst=destination) / payload


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_allowed_both_ways(world, family, transport):
    a, b, _ = FAMILIES[family]
    packet = frame(a, b, TRANSPORTS[transport](80))
    assert world.send(A, packet) == (True, "FORWARDED", "POLICY")
    assert world.deliver(B, packet, ingress=A) == (True, "FORWARDED", "POLICY")
    conn = world.conn()
    assert not conn.live and conn.state == NEW and conn.packets == [1, 0]
    assert conn.rule == [RULE_ALLOW, RULE_ALLOW] and conn.ifindex == [world.a, world.b]
    assert world.hits(RULE_ALLOW) == 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_egress_denied(world, family, transport):
    a, b, _ = FAMILIES[family]
    world.profile(PROFILE_A, egress=ROW_ISOLATED)
    packet = frame(a, b, TRANSPORTS[transport](80))
    assert world.send(A, packet) == (False, "DROPPED", "ISOLATED")
    assert world.conns() == {}
    assert world.hits(RULE_ISOLATED) == 1
    # The last hook judges the source too, should the first have been of another revision.
    assert world.deliver(B, packet, ingress=A) == (False, "DROPPED", "ISOLATED")
    assert world.conns() == {} and world.hits(RULE_ISOLATED) == 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_ingress_denied(world, family, transport):
    a, b, far = FAMILIES[family]
    world.profile(PROFILE_B, ingress=ROW_DENY)
    packet = frame(a, b, TRANSPORTS[transport](80))
    assert world.send(A, packet) == (True, "FORWARDED", "POLICY")
    for times in (1, 2):
        assert world.deliver(B, packet, ingress=A) == (False, "DROPPED", "POLICY")
        assert world.hits(RULE_DENY) == times
    assert world.deliver(B, frame(far, b, TRANSPORTS[transport](80))) == (False, "DROPPED", "POLICY")


@pytest.mark.parametrize("family", FAMILIES)
def test_nobody_selects(world, family):
    """Profile 0: default allow, no rule."""
    a, b, far = FAMILIES[family]
    world.endpoint(A, 0, 1)
    assert world.send(A, frame(a, far, UDP(sport=1, dport=2))) == (True, "FORWARDED", "DEFAULT")
    assert world.hits(RULE_ALLOW) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_peer_row_before_default(world, family):
    a, b, far = FAMILIES[family]
    world.profile(PROFILE_A, egress=ROW_ISOLATED)
    world.peer_row(PROFILE_A, EGRESS, CLASS_B, ROW_ALLOW)
    assert world.send(A, frame(a, b, TCP(dport=80))) == (True, "FORWARDED", "POLICY")
    assert world.send(A, frame(a, far, TCP(dport=80))) == (False, "DROPPED", "ISOLATED")


@pytest.mark.parametrize("family", FAMILIES)
def test_longest_prefix(world, family):
    a, _, far = FAMILIES[family]
    world.profile(PROFILE_A, egress=ROW_ISOLATED)
    world.peer_row(PROFILE_A, EGRESS, CLASS_NET, ROW_ALLOW)
    world.net("192.0.2.0/24" if family == 4 else "2001:db8::/32", 9)
    world.net("192.0.2.8/29" if family == 4 else "2001:db8::/64", CLASS_NET)
    assert world.send(A, frame(a, far, TCP(dport=80)))[0]
    other = "192.0.2.200" if family == 4 else "2001:db8:1::1"
    assert world.send(A, frame(a, other, TCP(dport=80))) == (False, "DROPPED", "ISOLATED")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_port_of_its_protocol(world, transport):
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    world.port(transport.upper(), 8080, 5)
    world.cell(ROW_ISOLATED, 5, ALLOW)
    assert world.deliver(B, frame(FAR4, B4, TRANSPORTS[transport](8080)))[0]
    assert not world.deliver(B, frame(FAR4, B4, TRANSPORTS[transport](8081)))[0]
    for other in set(TRANSPORTS) - {transport}:
        assert not world.deliver(B, frame(FAR4, B4, TRANSPORTS[other](8080)))[0]


def test_ports_at_both_ends_of_a_block(world):
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    for port in (0, 255, 256, 65535):
        world.port("TCP", port, 5)
        world.cell(ROW_ISOLATED, 5, ALLOW)
        assert world.deliver(B, frame(FAR4, B4, TCP(sport=7, dport=port, flags="S")))[0], port
    for port in (1, 254, 257, 511, 512, 65534):
        assert not world.deliver(B, frame(FAR4, B4, TCP(sport=7, dport=port, flags="S")))[0], port


def test_ping_follows_rules_without_ports(world):
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    world.port("TCP", 80, 5)
    world.cell(ROW_ISOLATED, 5, ALLOW)
    for packet in (frame(FAR4, B4, ICMP(id=5)), frame(FAR6, B6, ICMPv6EchoRequest(id=5))):
        assert world.deliver(B, packet) == (False, "DROPPED", "ISOLATED")
    world.profile(PROFILE_B, ingress=ROW_ALLOW)
    for packet in (frame(FAR4, B4, ICMP(id=5)), frame(FAR6, B6, ICMPv6EchoRequest(id=5))):
        assert world.deliver(B, packet) == (True, "FORWARDED", "POLICY")


def test_other_protocols(world):
    gre = Ether() / IP(src=A4, dst=FAR4, proto=47) / (b"\0" * 20)
    assert world.send(A, gre) == (True, "FORWARDED", "POLICY")
    world.reset()
    world.profile(PROFILE_A, egress=ROW_ISOLATED)
    assert world.send(A, gre) == (False, "DROPPED", "ISOLATED")


def test_only_the_live_side_counts(world):
    world.profile(PROFILE_A, egress=ROW_DENY, side=1 - world.side)
    assert world.send(A, frame(A4, FAR4, TCP(sport=1, dport=80)))[0]
    world.flip()
    assert not world.send(A, frame(A4, FAR4, TCP(sport=2, dport=80)))[0]


def test_audit_passes_and_is_counted(world):
    world.profile(PROFILE_A, egress=ROW_AUDIT)
    assert world.send(A, frame(A4, FAR4, TCP(sport=1, dport=80))) == (True, "AUDITED", "ISOLATED")
    assert world.hits(RULE_ISOLATED) == world.hits(RULE_ALLOW) == 1  # what would have decided, and what did


def test_audit_of_the_last_hook(world):
    world.profile(PROFILE_B, ingress=ROW_AUDIT)
    assert world.deliver(B, frame(FAR4, B4, TCP(sport=1, dport=80))) == (True, "AUDITED", "ISOLATED")
    assert world.hits(RULE_ISOLATED) == 1


def test_a_refusal_is_a_refusal_whatever_audit_says(world):
    world.row(ROW_AUDIT, DENY, "POLICY", RULE_DENY, flags=AUDIT, audit_rule=RULE_ALLOW)
    world.profile(PROFILE_A, egress=ROW_AUDIT)
    assert world.send(A, frame(A4, FAR4, TCP(sport=1, dport=80))) == (False, "DROPPED", "POLICY")
    assert world.hits(RULE_DENY) == world.hits(RULE_ALLOW) == 1


def test_audited_interception_is_about_connections_that_begin(world):
    world.profile(PROFILE_A, egress=ROW_AUDIT_INTERCEPT)
    assert world.send(A, frame(A4, FAR4, TCP(sport=1, dport=80, flags="S"))) == (True, "AUDITED", "INTERCEPT")
    assert world.hits(RULE_INTERCEPT) == 1
    assert world.send(A, frame(A4, FAR4, TCP(sport=2, dport=80, flags="A"))) == (True, "FORWARDED", "DEFAULT")
    assert world.hits(RULE_INTERCEPT) == 1


def test_bytes_are_layer_3(world):
    packet = frame(A4, FAR4, UDP(sport=1, dport=2) / (b"x" * 100))
    world.send(A, bytes(packet) + bytes(30))  # padding is no part of it
    assert world.conn().bytes == [128, 0]


def test_denied_protocol_unknown_to_ethernet(world):
    """No IP at all: judged as an address that nobody describes."""
    strange = Ether(type=0x88CC) / (b"\0" * 40)
    assert world.send(A, strange) == (True, "FORWARDED", "POLICY")
    world.profile(PROFILE_A, egress=ROW_ISOLATED)
    assert world.send(A, strange) == (False, "DROPPED", "ISOLATED")
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    assert world.deliver(B, strange, ingress=A) == (False, "DROPPED", "ISOLATED")
    assert world.conns() == {}


def test_direction_of_rows(world):
    """An ingress row says nothing about egress."""
    world.profile(PROFILE_A, egress=ROW_ALLOW, ingress=ROW_DENY)
    world.peer_row(PROFILE_A, INGRESS, CLASS_B, ROW_ALLOW)
    assert world.send(A, frame(A4, FAR4, TCP(dport=80)))[0]
    assert world.deliver(A, frame(B4, A4, TCP(dport=80)), ingress=B)[0]
    assert not world.deliver(A, frame(FAR4, A4, TCP(dport=80)))[0]


def test_denied_cell_in_an_allowing_row(world):
    world.port("TCP", 25, 6)
    world.cell(ROW_ALLOW, 6, DENY, rule=RULE_DENY)
    assert world.send(A, frame(A4, FAR4, TCP(sport=1, dport=25))) == (False, "DROPPED", "POLICY")
    assert world.hits(RULE_DENY) == 1 and world.hits(RULE_ALLOW) == 0
