# SPDX-License-Identifier: Apache-2.0
"""What the agent is told of connections, through the ring."""

import ipaddress
import mmap
import re
import struct
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest

from test_conntrack import ADDRESS, FAMILIES, Talk, frame, handshake, through
from world import (A, B, CLASS_B, EGRESS, FAR4, INGRESS, PROFILE_A, PROFILE_B, PROXY, REASONS, ROW_ALLOW, ROW_AUDIT, ROW_DENY,
                   ROW_INTERCEPT, ROW_ISOLATED, RULE_ALLOW, RULE_DENY, RULE_INTERCEPT, RULE_ISOLATED, VERDICTS)

EVENTS = ["Opened", "Closed", "Refused"]
BEGUN, LOST, LOST_REFUSED, ANSWERED = 6, 7, 8, 9
RING = 4 << 20
HEADER, BUSY, DISCARDED = 8, 1 << 31, 1 << 30


class Event:
    def __init__(self, data):
        (self.time, self.opened, p0, p1, b0, b1, source, destination, backend, sport, dport, self.backend_port, self.protocol,
         self.family, self.rule, self.intercept_rule, self.generation, self.ifindex, self.handshake, self.round_trip,
         self.retransmits, self.process, command, event, verdict, reason, self.direction, self.proxy,
         self.flags) = struct.unpack("=QQQQQQ16s16s16sHHHBBIIIIIIII16sBBBBBB2x", data)
        self.packets, self.bytes = [p0, p1], [b0, b1]
        size = 4 if self.family == 4 else 16
        self.ends = [(str(ipaddress.ip_address(ip[:size])), port) for ip, port in ((source, sport), (destination, dport))]
        self.event, self.verdict, self.reason = EVENTS[event], VERDICTS[verdict], REASONS[reason]

    @property
    def what(self):
        return self.event, self.verdict, self.reason, self.direction, self.rule


class Ring:
    def __init__(self, fd):
        page = mmap.PAGESIZE
        self.consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self.producer = mmap.mmap(fd, page + 2 * RING, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)

    def read(self):
        """All events that there are."""
        at, = struct.unpack_from("=Q", self.consumer)
        end, = struct.unpack_from("=Q", self.producer)
        found = []
        while at < end:
            place = mmap.PAGESIZE + (at & (RING - 1))
            length, = struct.unpack_from("=I", self.producer, place)
            assert not length & BUSY
            if not length & DISCARDED:
                found.append(Event(self.producer[place + HEADER:place + HEADER + length]))
            at += HEADER + (length & 0x3fffffff) + 7 & ~7
        struct.pack_into("=Q", self.consumer, 0, at)
        return found

    def close(self):
        self.consumer.close()
        self.producer.close()


@pytest.fixture
def ring(world):
    ring = Ring(world.object.map("ps_event").fd)
    ring.read()
    yield ring
    ring.close()


def test_the_layout_is_the_headers():
    text = Path("bpf/abi.h").read_text(encoding="utf-8")
    assert int(re.search(r"PS_EVENT_RING \((\d+)u << 20\)", text)[1]) << 20 == RING
    names = re.findall(r"\tPS_STAT_(\w+),", text)
    assert [names.index(name) for name in ("BEGUN", "LOST", "LOST_REFUSED", "ANSWERED")] == \
        [BEGUN, LOST, LOST_REFUSED, ANSWERED]


@FAMILIES
def test_a_connection_is_opened_and_closed(world, ring, family):
    a, b, *_ = ADDRESS[family]
    talk = Talk(a, b)
    begun, answered = world.stat(BEGUN), world.stat(ANSWERED)
    through(world, talk.there("S"), A, B)
    through(world, talk.there("S"), A, B)
    through(world, talk.back("SA"), B, A)
    assert not ring.read()
    assert (world.stat(BEGUN) - begun, world.stat(ANSWERED) - answered) == (1, 0)
    through(world, talk.there("A"), A, B)
    opened, = ring.read()
    assert opened.what == ("Opened", "FORWARDED", "POLICY", EGRESS, RULE_ALLOW)
    assert opened.ends == [(a, 40000), (b, 80)] and (opened.family, opened.protocol) == (family, 6)
    assert opened.handshake and opened.opened < opened.time and opened.generation == world.generation
    assert world.stat(ANSWERED) - answered == 1
    through(world, talk.there("PA"), A, B)
    through(world, talk.back("FA"), B, A)
    assert not ring.read()
    through(world, talk.there("FA"), A, B)
    closed, = ring.read()
    assert closed.what == ("Closed", "FORWARDED", "POLICY", EGRESS, RULE_ALLOW) and closed.ends == opened.ends
    assert closed.packets == [5, 2] and closed.opened == opened.opened and closed.handshake == opened.handshake
    through(world, talk.back("A"), B, A)
    assert not ring.read()


@FAMILIES
def test_the_originator_stands_first(world, ring, family):
    a, b, *_ = ADDRESS[family]
    handshake(world, Talk(b, a, sport=50000, dport=22), B, A)
    opened, = ring.read()
    assert opened.ends == [(b, 50000), (a, 22)]


@FAMILIES
def test_an_attempt_that_the_other_end_refuses_is_closed(world, ring, family):
    a, b, *_ = ADDRESS[family]
    talk = Talk(a, b)
    answered = world.stat(ANSWERED)
    through(world, talk.there("S"), A, B)
    through(world, talk.back("RA"), B, A)
    closed, = ring.read()
    assert closed.event == "Closed" and closed.handshake == 0 and closed.packets == [1, 1]
    assert world.stat(ANSWERED) - answered == 1


@FAMILIES
def test_datagrams_are_opened_by_the_first(world, ring, family):
    a, b, *_ = ADDRESS[family]
    talk = Talk(a, b, udp=True)
    through(world, talk.there(), A, B)
    opened, = ring.read()
    assert (opened.event, opened.protocol, opened.ends[1]) == ("Opened", 17, (b, 80))
    for _ in range(3):
        through(world, talk.back(), B, A)
        through(world, talk.there(), A, B)
    assert not ring.read()
    echo = ICMP(id=7) if family == 4 else ICMPv6EchoRequest(id=7)
    through(world, frame(a, b, echo), A, B)
    opened, = ring.read()
    assert (opened.event, opened.ends) == ("Opened", [(a, 7), (b, 7)])


@pytest.mark.parametrize("side", ["source's", "destination's"])
def test_a_refusal_names_its_rule(world, ring, side):
    a, b, *_ = ADDRESS[4]
    world.profile(PROFILE_A if side == "source's" else PROFILE_B, **{
        "egress" if side == "source's" else "ingress": ROW_ISOLATED})
    through(world, Talk(a, b).there("S"), A, B)
    refused, = ring.read()
    assert refused.what == ("Refused", "DROPPED", "ISOLATED", EGRESS if side == "source's" else INGRESS, RULE_ISOLATED)
    assert refused.ends == [(a, 40000), (b, 80)] and refused.opened == 0


def test_what_is_refused_later_is_told_as_the_connection(world, ring):
    """Also of a packet that goes back."""
    a, b, *_ = ADDRESS[4]
    talk = Talk(a, b)
    handshake(world, talk)
    ring.read()
    world.profile(PROFILE_B, ingress=ROW_DENY)
    world.flip()
    through(world, talk.back("PA"), B, A)
    refused, = ring.read()
    assert refused.what == ("Refused", "DROPPED", "POLICY", INGRESS, RULE_DENY) and refused.ends == [(a, 40000), (b, 80)]
    through(world, talk.back("PA"), B, A)
    again, = ring.read()
    assert again.what == refused.what and again.ends == refused.ends and again.generation == world.generation


def test_a_spoofed_packet_is_told_as_it_is(world, ring):
    world.send(A, frame("10.9.9.9", "10.0.0.2", UDP(sport=1, dport=2)))
    refused, = ring.read()
    assert refused.what == ("Refused", "DROPPED", "SPOOFED", EGRESS, 0) and refused.ends == [("10.9.9.9", 1), ("10.0.0.2", 2)]


def test_what_cannot_be_read_is_told_without_addresses(world, ring):
    world.send(A, bytes(frame("10.0.0.1", "10.0.0.2", UDP(sport=1, dport=2)))[:38])
    refused, = ring.read()
    assert refused.reason == "MALFORMED"


def test_nobody_listens(world, ring):
    world.profile(PROFILE_A, egress=ROW_INTERCEPT)
    world.proxy(PROXY, 9)
    world.flip()
    world.send(A, Talk("10.0.0.1", FAR4).there("S"))
    refused, = ring.read()
    assert (refused.event, refused.reason, refused.rule, refused.intercept_rule, refused.proxy) == \
        ("Refused", "NO_LISTENER", 0, RULE_INTERCEPT, PROXY)


def test_what_would_be_refused_is_told_at_once_and_once(world, ring):
    a, b, *_ = ADDRESS[4]
    world.profile(PROFILE_A, egress=ROW_AUDIT)
    talk = Talk(a, b)
    through(world, talk.there("S"), A, B)
    opened, = ring.read()
    assert opened.what == ("Opened", "AUDITED", "ISOLATED", EGRESS, RULE_ISOLATED)
    through(world, talk.back("SA"), B, A)
    through(world, talk.there("A"), A, B)
    assert not ring.read()
    through(world, talk.there("R"), A, B)
    closed, = ring.read()
    assert closed.what == ("Closed", "FORWARDED", "POLICY", EGRESS, RULE_ALLOW)


def test_the_rule_that_decided_is_named(world, ring):
    """Of a connection between two workloads: ingress's, when no rule is about its egress."""
    a, b, *_ = ADDRESS[4]
    world.profile(PROFILE_A, egress=0)
    world.peer_row(PROFILE_A, EGRESS, CLASS_B, 0)
    world.row(0, 0, "DEFAULT", 0)
    world.profile(PROFILE_B, ingress=ROW_ALLOW)
    handshake(world, Talk(a, b))
    opened, = ring.read()
    assert opened.what == ("Opened", "FORWARDED", "POLICY", INGRESS, RULE_ALLOW)


def test_a_flood_of_refusals_hides_no_connection(world, ring):
    a, b, *_ = ADDRESS[4]
    world.profile(PROFILE_A, egress=ROW_DENY)
    lost = world.stat(LOST_REFUSED)
    for _ in range(40):
        world.object.run("from_workload", bytes(Talk(a, b).there("S")), ifindex=world.a, ingress=world.a, repeat=1000)
    assert world.stat(LOST_REFUSED) > lost
    before = world.stat(LOST)
    world.profile(PROFILE_A, egress=ROW_ALLOW)
    world.flip()
    handshake(world, Talk(a, b))
    events = ring.read()
    assert [one.event for one in events].count("Opened") == 1 and world.stat(LOST) == before
    assert len(events) > 8000
