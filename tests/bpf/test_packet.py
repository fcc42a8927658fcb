# SPDX-License-Identifier: Apache-2.0
"""What packets look like: cut short at every byte, tags, extension headers, fragments, ICMP errors, what is unjudged."""

import struct

import pytest
from scapy.layers.dhcp6 import DHCP6_Solicit
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6MLQuery, ICMPv6MLReport2, ICMPv6ND_NA,
                                ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_RS, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrDestOpt,
                                IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit

from world import (A, B, CLASS_B, EGRESS, IFACE_DENY, IFACE_L3, PROFILE_A, PROFILE_B, ROW_ALLOW, ROW_DENY,
                   ROW_ISOLATED, SOURCES, USED)

A4, A6, B4, B6, FAR4, FAR6, NODE4 = ("10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2", "192.0.2.9", "2001:db8::9",
                                     "192.0.2.1")
PASSED = (True, "FORWARDED", "POLICY")
KNOWN = (True, "FORWARDED", "ESTABLISHED")
MALFORMED = (False, "DROPPED", "MALFORMED")
UNJUDGED = (True, "FORWARDED", "UNJUDGED")
ISOLATED = (False, "DROPPED", "ISOLATED")


def ip4(payload, **fields):
    return Ether() / IP(src=A4, dst=B4, **fields) / payload


def ip6(payload, **fields):
    return Ether() / IPv6(src=A6, dst=B6, **fields) / payload


SYN = TCP(sport=40000, dport=80, flags="S", options=[("MSS", 1460), ("NOP", None), ("WScale", 7)])

SHAPES = {
    "tcp": ip4(SYN),
    "udp": ip4(UDP(sport=1, dport=2) / b"data"),
    "sctp": ip4(SCTP(sport=1, dport=2) / SCTPChunkInit()),
    "ping": ip4(ICMP(id=3) / b"data"),
    "options": ip4(SYN, options=[IPOption_NOP()] * 4),
    "vlan": Ether() / Dot1Q(vlan=5) / IP(src=A4, dst=B4) / SYN,
    "qinq": Ether() / Dot1AD(vlan=5) / Dot1Q(vlan=6) / IP(src=A4, dst=B4) / SYN,
    "error": ip4(ICMP(type=3, code=4) / IP(src=B4, dst=A4) / UDP(sport=1, dport=2)),
    "tcp6": ip6(SYN),
    "udp6": ip6(UDP(sport=1, dport=2) / b"data"),
    "ping6": ip6(ICMPv6EchoRequest(id=3, data=b"data")),
    "vlan6": Ether() / Dot1Q(vlan=5) / IPv6(src=A6, dst=B6) / SYN,
    "hop6": ip6(IPv6ExtHdrHopByHop() / SYN),
    "destination6": ip6(IPv6ExtHdrDestOpt() / SYN),
    "routing6": ip6(IPv6ExtHdrRouting(type=4, segleft=0) / SYN),
    "ah6": ip6(AH(nh=6, payloadlen=4, icv=b"x" * 12, padding=b"") / SYN),
    "chain6": ip6(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(type=4, segleft=0) /
                  AH(nh=60, payloadlen=4, icv=b"x" * 12, padding=b"") / IPv6ExtHdrDestOpt() / SYN),
    "error6": ip6(ICMPv6PacketTooBig() / IPv6(src=B6, dst=A6) / UDP(sport=1, dport=2)),
}
shapes = pytest.mark.parametrize("shape", SHAPES)


@shapes
def test_whole(world, shape):
    assert world.send(A, SHAPES[shape]) == PASSED
    if not shape.startswith("error"):
        (protocol, low, high), = world.conns()
        ports = {"tcp": (40000, 80), "udp": (1, 2), "sct": (1, 2), "pin": (3, 3)}.get(shape[:3], (40000, 80))
        assert (low[1], high[1]) == ports
        assert protocol == {"udp": 17, "sct": 132}.get(shape[:3], (58 if "6" in shape else 1) if "ping" in shape else 6)


@shapes
def test_cut_at_every_byte(world, shape):
    """A packet that is shorter than it says is malformed, wherever it was cut."""
    whole = bytes(SHAPES[shape])
    # Without a tag a test run itself refuses what is shorter than the IP header.
    first = 15 if SHAPES[shape].type in (0x8100, 0x88A8) else 54 if SHAPES[shape].type == 0x86DD else 34
    for length in range(first, len(whole)):
        assert world.send(A, whole[:length]) == MALFORMED, length
    assert world.conns() == {}


@shapes
def test_cut_and_owned_up(world, shape):
    """Cut, but the lengths say so: malformed until the last header is whole."""
    whole = SHAPES[shape]
    network = whole.getlayer(IP if IP in whole else IPv6)
    start = len(whole) - len(network)
    verdicts = []
    for length in range(start + (20 if IP in whole else 40), len(whole) + 1):
        cut = bytearray(bytes(whole)[:length])
        if IP in whole:
            struct.pack_into("!H", cut, start + 2, length - start)
        else:
            struct.pack_into("!H", cut, start + 4, length - start - 40)
        result = world.send(A, cut)
        assert result in (MALFORMED, PASSED, KNOWN), length
        verdicts.append(result == MALFORMED)
    assert verdicts[0] and not verdicts[-1]
    assert verdicts == sorted(verdicts, reverse=True), "once whole, more makes it no worse"


@pytest.mark.parametrize("offset, value", [
    (14, 0x55), (14, 0x44), (14, 0x40), (14, 0x4F),  # version, header lengths
    (17, 0), (17, 19), (16, 0xFF),                   # total length
    (46, 0x40), (46, 0xF0),                          # TCP header length
])
def test_contradictions_ipv4(world, offset, value):
    packet = bytearray(bytes(ip4(TCP(sport=1, dport=2, flags="S"))))
    assert world.send(A, packet) == PASSED
    packet[offset] = value
    assert world.send(A, packet) == MALFORMED


@pytest.mark.parametrize("length", (0, 7, 13))
def test_udp_length(world, length):
    """Shorter than its header, or longer than the packet; shorter than the packet is allowed."""
    assert world.send(A, ip4(UDP(sport=1, dport=2, len=length) / b"data")) == MALFORMED
    assert world.send(A, ip4(UDP(sport=1, dport=2, len=9) / b"data")) == PASSED


def test_version_and_payload_ipv6(world):
    packet = bytearray(bytes(ip6(SYN)))
    packet[14] = 0x40
    assert world.send(A, packet) == MALFORMED
    packet[14] = 0x60
    packet[18:20] = b"\xff\xff"
    assert world.send(A, packet) == MALFORMED
    packet[18:20] = b"\0\0"
    assert world.send(A, packet) == MALFORMED, "nothing there, it says"


def test_super_packet(world):
    """GSO: the length is of the whole, or 0 when it does not fit into 16 bits."""
    packet = bytearray(bytes(ip4(TCP(sport=1, dport=2, flags="S") / (b"x" * 3000))))
    assert world.send(A, packet, gso_size=1000) == PASSED
    packet[16:18] = b"\0\0"
    assert world.send(A, packet, gso_size=1000) == KNOWN
    assert world.send(A, packet) == MALFORMED


def test_too_many_tags(world):
    assert world.send(A, Ether() / Dot1AD() / Dot1Q() / Dot1Q() / IP(src=A4, dst=B4) / SYN) == MALFORMED


def test_too_many_extension_headers(world):
    def chain(count):
        packet = IPv6(src=A6, dst=B6)
        for _ in range(count):
            packet = packet / IPv6ExtHdrDestOpt()
        return Ether() / packet / SYN

    assert world.send(A, chain(7)) == PASSED
    assert world.send(A, chain(9)) == MALFORMED


def test_misplaced_hop_by_hop(world):
    assert world.send(A, ip6(IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / SYN)) == MALFORMED


def test_same_connection_with_and_without_decoration(world):
    """What the tag or the extension header hides is the same packet."""
    assert world.send(A, SHAPES["tcp6"]) == PASSED
    for shape in ("hop6", "destination6", "routing6", "ah6", "chain6", "vlan6"):
        assert world.send(A, SHAPES[shape]) == KNOWN, shape


@pytest.mark.parametrize("shape", ("chain6", "hop6", "ah6", "qinq", "options"))
def test_policy_sees_through_decoration(world, shape):
    world.profile(PROFILE_A, egress=ROW_ISOLATED)
    world.port("TCP", 81, 5)
    world.cell(ROW_ISOLATED, 5, 0)
    assert world.send(A, SHAPES[shape]) == ISOLATED


# ---- fragments ----

def fragments4(payload, size=64, ident=77):
    whole = bytes(IP(src=A4, dst=B4) / payload)[20:]
    parts = [whole[i:i + size] for i in range(0, len(whole), size)]
    return [Ether() / IP(src=A4, dst=B4, id=ident, proto=payload.overload_fields.get(IP, {}).get("proto", 17),
                         flags="MF" if i < len(parts) - 1 else 0, frag=i * size // 8) / part
            for i, part in enumerate(parts)]


def fragments6(payload, size=64, ident=77, before=None):
    whole = bytes(IPv6(src=A6, dst=B6) / (before / payload if before else payload))[40:]
    first = 60 if before else 17
    parts = [whole[i:i + size] for i in range(0, len(whole), size)]
    return [Ether() / IPv6(src=A6, dst=B6) / IPv6ExtHdrFragment(nh=first, id=ident, offset=i * size // 8,
                                                              m=i < len(parts) - 1) / part
            for i, part in enumerate(parts)]


DATAGRAM = UDP(sport=1000, dport=53) / (b"x" * 150)


@pytest.mark.parametrize("make", (fragments4, fragments6))
def test_fragments_follow_their_first(world, make):
    first, second, third = make(DATAGRAM)
    assert world.send(A, second) == (False, "DROPPED", "FRAGMENT")
    assert world.send(A, first) == PASSED
    assert world.send(A, third) == KNOWN and world.send(A, second) == KNOWN, "in any order"
    assert world.deliver(B, second, ingress=A) == (False, "DROPPED", "FRAGMENT"), "each hook by itself"
    assert world.deliver(B, first, ingress=A) == PASSED
    assert world.deliver(B, second, ingress=A) == KNOWN
    assert world.send(A, make(DATAGRAM, ident=78)[1]) == (False, "DROPPED", "FRAGMENT")
    conn = world.conn()
    assert conn.packets == [3, 0]


@pytest.mark.parametrize("make", (fragments4, fragments6))
def test_fragments_of_what_is_denied(world, make):
    world.profile(PROFILE_A, egress=ROW_ISOLATED)
    first, second, _ = make(DATAGRAM)
    assert world.send(A, first) == ISOLATED
    assert world.send(A, second) == (False, "DROPPED", "FRAGMENT")


def test_fragments_with_headers_before_the_ports(world):
    first, second, _ = fragments6(DATAGRAM, before=IPv6ExtHdrDestOpt())
    assert world.send(A, first) == PASSED
    (protocol, low, high), = world.conns()
    assert (protocol, low[1], high[1]) == (17, 1000, 53)
    assert world.send(A, second) == KNOWN


def test_fragments_when_policy_changes(world):
    first, second, third = fragments4(DATAGRAM)
    assert world.send(A, first) == PASSED
    world.profile(PROFILE_A, egress=ROW_ISOLATED, side=1 - world.side)
    world.flip()
    assert world.send(A, second) == ISOLATED


def test_tiny_fragments(world):
    """A TCP header must be whole up to its flags, and nothing may be written over it later (RFC 1858, 3128)."""
    tcp = bytes(TCP(sport=1, dport=2, flags="S"))
    assert world.send(A, Ether() / IP(src=A4, dst=B4, proto=6, flags="MF") / tcp[:8]) == MALFORMED
    assert world.send(A, Ether() / IP(src=A4, dst=B4, proto=6, flags="MF") / tcp[:16]) == PASSED
    assert world.send(A, Ether() / IP(src=A4, dst=B4, proto=6, frag=1) / tcp[8:]) == MALFORMED
    assert world.send(A, Ether() / IP(src=A4, dst=B4, proto=6, frag=2) / tcp[16:]) == KNOWN


def test_fragment_of_a_fragment(world):
    assert world.send(A, Ether() / IPv6(src=A6, dst=B6) / IPv6ExtHdrFragment(nh=44, m=1, id=1) /
                      IPv6ExtHdrFragment(nh=17, m=1, id=2) / UDP(sport=1, dport=2) / (b"x" * 16)) == MALFORMED


def test_atomic_fragment(world):
    """A fragment header, but nothing was cut (RFC 6946)."""
    assert world.send(A, ip6(IPv6ExtHdrFragment(nh=6, id=1) / SYN)) == PASSED
    assert world.object.map("ps_fragment").keys() == []


# ---- ICMP errors ----

ERRORS = {
    4: (lambda inner, **f: Ether() / IP(src=f.get("src", FAR4), dst=f.get("dst", A4)) / ICMP(type=3, code=1) / inner,
        lambda payload, src=A4, dst=B4: IP(src=src, dst=dst) / payload, (A4, B4, FAR4)),
    6: (lambda inner, **f: Ether() / IPv6(src=f.get("src", FAR6), dst=f.get("dst", A6)) / ICMPv6DestUnreach() / inner,
        lambda payload, src=A6, dst=B6: IPv6(src=src, dst=dst) / payload, (A6, B6, FAR6)),
}
families = pytest.mark.parametrize("family", ERRORS)
RELATED = (True, "FORWARDED", "RELATED")
PAYLOADS = {"tcp": TCP(sport=40000, dport=80, flags="S"), "udp": UDP(sport=40000, dport=80)}


def isolate(world):
    world.profile(PROFILE_A, egress=ROW_ISOLATED, ingress=ROW_ISOLATED)
    world.peer_row(PROFILE_A, EGRESS, CLASS_B, ROW_ALLOW)
    world.profile(PROFILE_B, egress=ROW_ISOLATED)


@families
@pytest.mark.parametrize("payload", PAYLOADS)
def test_error_from_a_router(world, family, payload):
    error, packet, (a, b, far) = ERRORS[family]
    isolate(world)
    assert world.deliver(A, error(packet(PAYLOADS[payload]))) == ISOLATED, "about nothing"
    assert world.send(A, Ether() / packet(PAYLOADS[payload])) == PASSED
    assert world.deliver(A, error(packet(PAYLOADS[payload]))) == RELATED
    conn = world.conn()
    assert conn.state == 0 and conn.packets == [1, 0], "moves nothing"
    assert world.deliver(A, error(packet(PAYLOADS[payload], src=far))) == ISOLATED, "not to its sender"
    other = PAYLOADS[payload].copy()
    other.dport = 81
    assert world.deliver(A, error(packet(other))) == ISOLATED


@families
def test_error_from_the_responder(world, family):
    error, packet, (a, b, far) = ERRORS[family]
    isolate(world)
    assert world.send(A, Ether() / packet(PAYLOADS["udp"])) == PASSED
    assert world.deliver(B, Ether() / packet(PAYLOADS["udp"]), ingress=A) == PASSED
    reply = error(packet(PAYLOADS["udp"]), src=b)
    assert world.send(B, reply) == RELATED
    assert world.deliver(A, reply, ingress=B) == RELATED


@families
def test_error_from_the_originator(world, family):
    """About a reply: port unreachable, too big."""
    error, packet, (a, b, far) = ERRORS[family]
    isolate(world)
    world.profile(PROFILE_B, egress=ROW_ISOLATED, ingress=ROW_ALLOW)
    assert world.send(A, Ether() / packet(PAYLOADS["udp"])) == PASSED
    assert world.deliver(B, Ether() / packet(PAYLOADS["udp"]), ingress=A) == PASSED
    inner = packet(UDP(sport=80, dport=40000), src=b, dst=a)
    assert world.send(B, Ether() / inner) == KNOWN
    world.peer_row(PROFILE_A, EGRESS, CLASS_B, ROW_ISOLATED)
    assert world.send(A, error(inner, src=a, dst=b)) == RELATED
    assert world.deliver(B, error(inner, src=a, dst=b), ingress=A) == RELATED


@families
def test_error_about_somebody_elses_connection(world, family):
    error, packet, (a, b, far) = ERRORS[family]
    isolate(world)
    world.endpoint(B, PROFILE_A, 2)
    assert world.send(A, Ether() / packet(PAYLOADS["udp"], dst=b)) == PASSED
    world.addr("10.0.0.3", 7, 3, PROFILE_B, 1)
    world.addr("fd00::3", 7, 3, PROFILE_B, 1)
    world.endpoint(3, PROFILE_B, 7)
    world.iface(world.unclaimed, 3)
    third = "10.0.0.3" if family == 4 else "fd00::3"
    assert world.send(world.unclaimed, error(packet(PAYLOADS["udp"]), src=third)) == ISOLATED


@families
def test_error_after_a_flip(world, family):
    error, packet, (a, b, far) = ERRORS[family]
    isolate(world)
    assert world.send(A, Ether() / packet(PAYLOADS["udp"])) == PASSED
    world.flip()
    assert world.deliver(A, error(packet(PAYLOADS["udp"]))) == RELATED
    world.peer_row(PROFILE_A, EGRESS, CLASS_B, ROW_DENY, side=1 - world.side)
    world.flip()
    assert world.deliver(A, error(packet(PAYLOADS["udp"]))) == ISOLATED


def test_error_about_a_ping(world):
    isolate(world)
    ping = IP(src=A4, dst=B4) / ICMP(id=9)
    assert world.send(A, Ether() / ping) == PASSED
    assert world.deliver(A, Ether() / IP(src=FAR4, dst=A4) / ICMP(type=11) / ping) == RELATED


def test_error_about_a_later_fragment(world):
    isolate(world)
    assert world.send(A, Ether() / IP(src=A4, dst=B4) / PAYLOADS["udp"]) == PASSED
    inner = IP(src=A4, dst=B4, frag=8) / PAYLOADS["udp"]
    assert world.deliver(A, Ether() / IP(src=FAR4, dst=A4) / ICMP(type=3) / inner) == ISOLATED


def test_error_passes_where_policy_allows_it(world):
    error, packet, _ = ERRORS[4]
    assert world.deliver(A, error(packet(PAYLOADS["udp"]))) == PASSED
    assert world.conns() == {}, "and makes no connection"


# ---- unjudged ----

@pytest.mark.parametrize("packet", [
    Ether() / ARP(psrc=A4, pdst=B4),
    Ether() / Dot1Q() / ARP(psrc=A4, pdst=B4),
    Ether() / IPv6(src="::", dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=A6),
    Ether() / IPv6(src=A6, dst=B6, hlim=255) / ICMPv6ND_NA(tgt=A6),
    Ether() / IPv6(src="fe80::1", dst="ff02::2", hlim=255) / ICMPv6ND_RS(),
    Ether() / IPv6(src="fe80::1", dst="ff02::1", hlim=255) / ICMPv6ND_RA(),
    Ether() / IPv6(src="fe80::1", dst="ff02::1", hlim=1) / IPv6ExtHdrHopByHop() / ICMPv6MLQuery(),
    Ether() / IPv6(src="::", dst="ff02::16", hlim=1) / IPv6ExtHdrHopByHop() / ICMPv6MLReport2(),
    Ether() / IP(src=A4, dst="224.0.0.22", proto=2, ttl=1) / (b"\x22" + bytes(15)),
], ids=lambda packet: packet.lastlayer().name)
def test_unjudged(world, packet):
    world.profile(PROFILE_A, egress=ROW_ISOLATED, ingress=ROW_ISOLATED)
    assert world.send(A, packet) == UNJUDGED
    assert world.deliver(A, packet) == UNJUDGED
    assert world.conns() == {}


def test_forwarded_neighbour_discovery_is_judged(world):
    world.profile(PROFILE_A, egress=ROW_ISOLATED)
    assert world.send(A, Ether() / IPv6(src=A6, dst=B6, hlim=254) / ICMPv6ND_NA(tgt=A6)) == ISOLATED


def test_dhcp_of_the_workload(world):
    """It is the client; what it would serve is judged."""
    world.profile(PROFILE_A, egress=ROW_ISOLATED, ingress=ROW_ISOLATED)
    ask4 = Ether() / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / (b"\0" * 240)
    answer4 = Ether() / IP(src=NODE4, dst=A4) / UDP(sport=67, dport=68) / (b"\0" * 240)
    ask6 = Ether() / IPv6(src="fe80::1", dst="ff02::1:2") / UDP(sport=546, dport=547) / DHCP6_Solicit()
    answer6 = Ether() / IPv6(src="fe80::2", dst="fe80::1") / UDP(sport=547, dport=546) / DHCP6_Solicit()
    for ask, answer in ((ask4, answer4), (ask6, answer6)):
        assert world.send(A, ask) == UNJUDGED
        assert world.deliver(A, answer) == UNJUDGED
        assert world.deliver(A, ask) == ISOLATED
        assert world.send(A, answer)[0] is False
    assert world.send(A, Ether() / IP(src=A4, dst=NODE4) / UDP(sport=68, dport=67) / b"x") == UNJUDGED, "renewal"
    assert world.send(A, Ether() / IP(src=A4, dst=NODE4) / UDP(sport=69, dport=67) / b"x") == ISOLATED


# ---- sources ----

SPOOFED = (False, "DROPPED", "SPOOFED")


@pytest.mark.parametrize("source, destination", ((B4, FAR4), (B6, FAR6), (FAR4, B4), (FAR6, B6), ("0.0.0.0", FAR4),
                                                 ("::", FAR6), ("169.254.0.1", B4), ("127.0.0.1", B4)))
def test_spoofed(world, source, destination):
    network = (IPv6 if ":" in source else IP)(src=source, dst=destination)
    for payload in (TCP(dport=80), UDP(dport=80), ICMP() if ":" not in source else ICMPv6EchoRequest()):
        assert world.send(A, Ether() / network / payload) == SPOOFED
    assert world.conns() == {}


def test_link_local_source(world):
    assert world.send(A, Ether() / IPv6(src="fe80::1", dst=B6) / TCP(sport=1, dport=80)) == PASSED
    assert world.send(A, Ether() / IPv6(src="febf::1", dst=B6) / TCP(sport=1, dport=80)) == PASSED
    assert world.send(A, Ether() / IPv6(src="fec0::1", dst=B6) / TCP(sport=1, dport=80)) == SPOOFED


@pytest.mark.parametrize("source, network, beside", (("10.9.1.2", "10.9.0.0/16", "10.10.1.2"),
                                                     ("fd09::5", "fd09::/64", "fd09:1::5")))
def test_allowed_sources(world, source, network, beside):
    def packet(src):
        return Ether() / (IPv6 if ":" in src else IP)(src=src, dst=FAR6 if ":" in src else FAR4) / TCP(dport=80)

    assert world.send(A, packet(source)) == SPOOFED
    world.source(A, network)
    assert world.send(A, packet(source)) == SPOOFED, "the flag says whether to look"
    world.endpoint(A, PROFILE_A, 1, USED | SOURCES)
    assert world.send(A, packet(source)) == PASSED
    assert world.send(A, packet(beside)) == SPOOFED
    world.endpoint(B, PROFILE_B, 2, USED | SOURCES)
    assert world.send(B, packet(source)) == SPOOFED, "of A, not of B"


def test_spoofing_into_an_established_connection(world):
    from test_conntrack import Talk, handshake
    talk = Talk(A4, B4)
    handshake(world, talk)
    assert world.send(world.unclaimed, talk.there("A")) == (True, "FORWARDED", "UNCLAIMED")
    world.iface(world.unclaimed, 3)
    world.endpoint(3, PROFILE_A, 3)
    assert world.send(world.unclaimed, talk.there("A")) == SPOOFED
    assert world.send(B, talk.there("A")) == SPOOFED
    assert world.send(A, talk.there("A")) == KNOWN


def test_address_that_moves_is_proved_anew(world):
    from test_conntrack import Talk
    talk = Talk(A4, FAR4)
    assert world.send(A, talk.there("S"))[0]
    world.addr(A4, 2, B, PROFILE_B, 1, side=1 - world.side)
    world.flip()
    assert world.send(A, talk.there("A")) == SPOOFED


# ---- interfaces ----

def test_unclaimed_and_allowed(world):
    """Untouched, even what could not be read."""
    for packet in (SHAPES["tcp"], Ether() / (b"\x45" * 10), SHAPES["udp6"]):
        assert world.send(world.unclaimed, packet, mark=0x60000001) == (True, "FORWARDED", "UNCLAIMED")
        assert world.result.mark == 0x60000001
        assert world.deliver(world.unclaimed, packet) == (True, "FORWARDED", "UNCLAIMED")
    assert world.conns() == {}


@pytest.mark.parametrize("row", (True, False))
def test_unclaimed_and_denied(world_with, row):
    """By its row, or before it has one."""
    world = world_with(constants={"unclaimed_deny": 0 if row else 1})
    if row:
        world.iface(world.unclaimed, 0, IFACE_DENY)
    refused = (False, "DROPPED", "UNCLAIMED")
    for shape in ("tcp", "udp", "ping", "tcp6", "ping6"):
        assert world.send(world.unclaimed, SHAPES[shape]) == refused
        assert world.deliver(world.unclaimed, SHAPES[shape]) == refused
    assert world.send(world.unclaimed, Ether() / ARP()) == UNJUDGED
    assert world.send(world.unclaimed, Ether() / IPv6(src="::", dst="ff02::1", hlim=255) / ICMPv6ND_NS()) == UNJUDGED
    assert world.send(world.unclaimed, Ether() / IP(src="0.0.0.0") / UDP(sport=68, dport=67) / b"x") == UNJUDGED
    # The node itself, and answers to it.
    probe = Ether() / IP(src=NODE4, dst="10.0.0.7") / TCP(sport=1000, dport=80, flags="S")
    answer = Ether() / IP(src="10.0.0.7", dst=NODE4) / TCP(sport=80, dport=1000, flags="SA")
    assert world.send(world.unclaimed, answer) == refused
    assert world.deliver(world.unclaimed, probe, ingress=0) == (True, "FORWARDED", "NODE")
    assert world.send(world.unclaimed, answer) == KNOWN
    answer[TCP].flags = "S"
    assert world.send(world.unclaimed, answer) == refused


def test_interface_without_link_layer(world):
    """Raw IP; and an entry made there proves nothing for a frame that looks as if there were an Ethernet header."""
    from test_conntrack import Talk
    world.iface(world.a, A, IFACE_L3)
    talk = Talk(A4, FAR4, udp=True)
    for step, expected in ((talk.there, PASSED), (talk.there, KNOWN)):
        assert world.send(A, bytes(step())[14:]) == expected
    assert world.deliver(A, bytes(talk.back())[14:]) == KNOWN
    assert world.send(A, bytes(talk.there())[14:]) == KNOWN
    conn = world.conn()
    assert conn.live and conn.ifindex[0] == world.a | 0x80000000
    # What follows fourteen bytes that are no IP packet is nobody's business but the judge's.
    world.profile(PROFILE_A, egress=ROW_ISOLATED)
    assert world.send(A, talk.there()) == ISOLATED


def test_marks(world):
    """Only the bits of the mask are ours, and a workload cannot set them."""
    world.send(A, SHAPES["tcp"], mark=0x60000123)
    assert world.result.mark == 0x123
    world.send(A, SHAPES["tcp"], mark=0x60000123)
    assert world.result.mark == 0x123
    world.send(A, Ether() / ARP(), mark=0x60000123)
    assert world.result.mark == 0x123
    world.deliver(B, SHAPES["tcp"], ingress=A, mark=0x20000123)
    assert world.result.mark == 0x20000123
