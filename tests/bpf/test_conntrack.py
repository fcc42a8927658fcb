# SPDX-License-Identifier: Apache-2.0
"""Connections: states, replies, revisions, orientation, the two hooks of one packet, the node itself."""

import struct
import time

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether

from world import (A, B, CLASS_A, CLASS_B, CLOSING, EGRESS, ESTABLISHED, INGRESS, MIDSTREAM, NEW, NODE, ORIGIN_HIGH,
                   PROFILE_A, PROFILE_B, REPLIED, ROW_ALLOW, ROW_DENY, ROW_ISOLATED, RULE_ALLOW, RULE_DENY)

ADDRESS = {4: ("10.0.0.1", "10.0.0.2", "192.0.2.9", "192.0.2.1"), 6: ("fd00::1", "fd00::2", "2001:db8::9", "2001:db8::1")}
FAMILIES = pytest.mark.parametrize("family", ADDRESS)
OPENED, CLOSED, TABLE_FULL = 0, 1, 2
GENERATION = 32
ALLOWED, DENIED, NOT_LOCAL = 1, 2, 4


def frame(source, destination, payload):
    return Ether() / (IPv6 if ":" in source else IP)(src=source, dst=destination) / payload


class Talk:
    """Packets of one TCP or UDP connection from client to server."""

    def __init__(self, client, server, sport=40000, dport=80, udp=False):
        self.client, self.server, self.sport, self.dport, self.udp = client, server, sport, dport, udp

    def there(self, flags="A"):
        transport = UDP(sport=self.sport, dport=self.dport) / b"x" if self.udp else TCP(
            sport=self.sport, dport=self.dport, flags=flags)
        return frame(self.client, self.server, transport)

    def back(self, flags="A"):
        transport = UDP(sport=self.dport, dport=self.sport) / b"x" if self.udp else TCP(
            sport=self.dport, dport=self.sport, flags=flags)
        return frame(self.server, self.client, transport)


def through(world, packet, sender, receiver):
    """Both hooks; the result of the last one reached."""
    result = world.send(sender, packet)
    return world.deliver(receiver, packet, ingress=sender) if result[0] else result


def handshake(world, talk, client=A, server=B):
    assert through(world, talk.there("S"), client, server)[0]
    assert through(world, talk.back("SA"), server, client)[0]
    assert through(world, talk.there("A"), client, server)[0]


@FAMILIES
def test_states(world, family):
    a, b, *_ = ADDRESS[family]
    talk = Talk(a, b)
    opened = world.stat(OPENED)
    assert through(world, talk.there("S"), A, B) == (True, "FORWARDED", "POLICY")
    assert world.conn().state == NEW
    assert through(world, talk.there("S"), A, B) == (True, "FORWARDED", "ESTABLISHED")  # retransmitted
    assert world.conn().state == NEW
    assert through(world, talk.back("SA"), B, A) == (True, "FORWARDED", "ESTABLISHED")
    conn = world.conn()
    assert conn.state == REPLIED and not conn.live
    assert through(world, talk.there("A"), A, B) == (True, "FORWARDED", "ESTABLISHED")
    conn = world.conn()
    assert conn.state == ESTABLISHED and conn.live and conn.handshake > 0
    assert conn.packets == [3, 1], "counted once, though both hooks saw each"
    assert world.stat(OPENED) == opened + 1
    for _ in range(3):
        assert through(world, talk.back("PA"), B, A) == (True, "FORWARDED", "ESTABLISHED")
    assert world.conn().packets == [3, 4]
    through(world, talk.there("FA"), A, B)
    assert world.conn().state == ESTABLISHED, "half closed"
    through(world, talk.back("FA"), B, A)
    assert world.conn().state == CLOSING
    assert through(world, talk.there("A"), A, B)[0]
    assert world.hits(RULE_ALLOW) == 2, "judged once in each direction"


@FAMILIES
def test_originator_on_either_side_of_the_key(world, family):
    a, b, *_ = ADDRESS[family]
    talk = Talk(b, a)
    handshake(world, talk, B, A)
    conn = world.conn()
    assert conn.flags & ORIGIN_HIGH and conn.ifindex == [world.b, world.a] and conn.packets == [2, 1]


def test_same_address_on_both_sides_of_the_key(world):
    """A workload that is sent its own packets: the ports decide."""
    talk = Talk("10.0.0.1", "10.0.0.1", 5000, 80)
    world.send(A, talk.there("S"))
    world.send(A, Talk("10.0.0.1", "10.0.0.1", 80, 5000).there("S"))
    assert len(world.conns()) == 1


def test_reset_closes(world):
    talk = Talk("10.0.0.1", "10.0.0.2")
    handshake(world, talk)
    assert through(world, talk.back("R"), B, A)[0]
    assert world.conn().state == CLOSING


def test_closing_ends_by_timer(world):
    """Ten seconds after the packet that closes, which shortens the timer of two hours. (An update from user space would
    lose the timer: the seconds have to pass.)"""
    talk = Talk("10.0.0.1", "10.0.0.2")
    handshake(world, talk)
    closed = world.stat(CLOSED)
    through(world, talk.back("R"), B, A)
    time.sleep(9)
    assert world.conn().state == CLOSING
    until(lambda: not world.conns(), 3)
    assert world.stat(CLOSED) == closed + 1


def age(world, seconds):
    """Moves all entries into the past."""
    for name, size, at in (("ps_new4", 16, 0), ("ps_new6", 40, 0), ("ps_conn4", 16, 16), ("ps_conn6", 40, 16)):
        table = world.object.map(name)
        for key in table.keys():
            value = bytearray(table.get(key))
            seen, = struct.unpack_from("=Q", value, at + 24)
            struct.pack_into("=Q", value, at + 24, seen - seconds * 10**9)
            table.put(key, bytes(value))


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


def test_embryonic_entries_grow_old(world):
    talk = Talk("10.0.0.1", "192.0.2.9", udp=True)
    assert world.send(A, talk.there())[0]
    world.profile(PROFILE_A, ingress=ROW_ISOLATED)
    age(world, 50)
    assert world.deliver(A, talk.back()) == (True, "FORWARDED", "ESTABLISHED")
    age(world, 70)
    assert world.deliver(A, talk.back()) == (False, "DROPPED", "ISOLATED")


@FAMILIES
def test_syn_restarts_what_is_closing(world, family):
    a, b, *_ = ADDRESS[family]
    talk = Talk(a, b)
    handshake(world, talk)
    through(world, talk.there("R"), A, B)
    assert through(world, talk.there("S"), A, B) == (True, "FORWARDED", "POLICY")
    conn = world.conn()
    assert conn.state == NEW and not conn.live and conn.packets == [1, 0]
    # Judged as new: what is denied now does not come back.
    through(world, talk.there("R"), A, B)
    world.profile(PROFILE_A, egress=ROW_DENY)
    assert world.send(A, talk.there("S")) == (False, "DROPPED", "POLICY")


def test_closing_connection_opened_from_the_other_end(world):
    talk = Talk("10.0.0.1", "10.0.0.2")
    handshake(world, talk)
    through(world, talk.there("R"), A, B)
    assert through(world, Talk("10.0.0.2", "10.0.0.1", 80, 40000).there("S"), B, A)[0]
    assert world.conn().flags & ORIGIN_HIGH and world.conn().state == NEW


@FAMILIES
def test_udp_and_ping(world, family):
    a, b, *_ = ADDRESS[family]
    handshake(world, Talk(a, b, udp=True))
    assert world.conn().live
    world.reset()
    request, reply = (ICMP(type=8, id=7), ICMP(type=0, id=7)) if family == 4 else (
        ICMPv6EchoRequest(id=7), ICMPv6EchoReply(id=7))
    world.profile(PROFILE_B, egress=ROW_ISOLATED)
    assert world.send(B, frame(b, a, reply)) == (False, "DROPPED", "ISOLATED"), "nobody asked"
    assert through(world, frame(a, b, request), A, B)[0]
    assert through(world, frame(b, a, reply), B, A) == (True, "FORWARDED", "ESTABLISHED")
    assert world.send(B, frame(b, a, request)) == (False, "DROPPED", "ISOLATED"), "a request is no reply"
    assert through(world, frame(a, b, request), A, B)[0]
    assert world.conn().live


def test_replies_pass_where_new_ones_do_not(world):
    world.profile(PROFILE_A, ingress=ROW_ISOLATED)
    world.profile(PROFILE_B, egress=ROW_ISOLATED)
    talk = Talk("10.0.0.1", "10.0.0.2")
    handshake(world, talk)
    assert world.send(B, Talk("10.0.0.2", "10.0.0.1", 1, 2).there("S")) == (False, "DROPPED", "ISOLATED")
    assert world.deliver(A, Talk("192.0.2.9", "10.0.0.1").there("S")) == (False, "DROPPED", "ISOLATED")


def test_remote_end(world):
    """Egress alone is judged when the destination is not local; its reply is counted at the last hook."""
    talk = Talk("10.0.0.1", "192.0.2.9")
    world.profile(PROFILE_A, ingress=ROW_ISOLATED)
    assert world.send(A, talk.there("S"))[0]
    conn = world.conn()
    assert conn.judged == [world.generation << GENERATION | ALLOWED, world.generation << GENERATION | ALLOWED | NOT_LOCAL]
    assert world.deliver(A, talk.back("SA")) == (True, "FORWARDED", "ESTABLISHED")
    assert world.send(A, talk.there("A"))[0]
    conn = world.conn()
    assert conn.live and conn.packets == [2, 1] and conn.ifindex == [world.a, 0]


# ---- revisions ----

@FAMILIES
def test_flip_judges_anew(world, family):
    a, b, *_ = ADDRESS[family]
    talk = Talk(a, b)
    handshake(world, talk)
    world.profile(PROFILE_B, ingress=ROW_DENY, side=1 - world.side)
    assert through(world, talk.there(), A, B) == (True, "FORWARDED", "ESTABLISHED"), "the idle side is not live"
    world.flip()
    assert through(world, talk.there(), A, B) == (False, "DROPPED", "POLICY")
    assert world.send(B, talk.back()) == (False, "DROPPED", "POLICY"), "the responder's ingress matters to its replies"
    hits = world.hits(RULE_DENY)
    assert world.send(B, talk.back()) == (False, "DROPPED", "POLICY") and world.hits(RULE_DENY) == hits + 1
    world.profile(PROFILE_B, ingress=ROW_ALLOW, side=1 - world.side)
    world.flip()
    assert through(world, talk.back(), B, A) == (True, "FORWARDED", "POLICY")
    assert through(world, talk.there(), A, B) == (True, "FORWARDED", "ESTABLISHED")
    assert world.conn().live and world.conn().state == ESTABLISHED


def test_flip_with_the_same_verdict_goes_on(world):
    talk = Talk("10.0.0.1", "10.0.0.2")
    handshake(world, talk)
    hits = world.hits(RULE_ALLOW)
    world.flip()
    assert world.send(A, talk.there()) == (True, "FORWARDED", "POLICY")
    assert world.hits(RULE_ALLOW) == hits + 1
    assert world.deliver(B, talk.there(), ingress=A) == (True, "FORWARDED", "POLICY")
    assert world.hits(RULE_ALLOW) == hits + 2
    assert through(world, talk.there(), A, B) == (True, "FORWARDED", "ESTABLISHED")


def test_last_hook_takes_no_egress_verdict_of_another_revision(world):
    """Old allows egress and denies ingress, new the reverse: neither passes, even when the flip is between the hooks."""
    talk = Talk("10.0.0.1", "10.0.0.2")
    world.profile(PROFILE_B, ingress=ROW_ISOLATED, side=world.side)
    world.profile(PROFILE_A, egress=ROW_DENY, side=1 - world.side)
    assert world.send(A, talk.there("S"))[0]
    world.flip()
    assert world.deliver(B, talk.there("S"), ingress=A) == (False, "DROPPED", "POLICY")
    conn = world.conn()
    assert conn.judged[EGRESS] == world.generation << GENERATION | DENIED
    assert world.send(A, talk.there("S")) == (False, "DROPPED", "POLICY")
    world.flip()
    assert world.send(A, talk.there("S"))[0]
    assert world.deliver(B, talk.there("S"), ingress=A) == (False, "DROPPED", "ISOLATED")


def test_both_revisions_allow_and_nothing_is_lost_between_the_hooks(world):
    talk = Talk("10.0.0.1", "10.0.0.2")
    for flags, packet, sender, receiver in (("S", talk.there, A, B), ("SA", talk.back, B, A), ("A", talk.there, A, B)):
        assert world.send(sender, packet(flags))[0]
        world.flip()
        assert world.deliver(receiver, packet(flags), ingress=sender)[0]
    assert world.conn().live


def test_reply_at_the_last_hook_needs_both_words(world):
    """After a flip the originator's last hook judges the responder's ingress too."""
    talk = Talk("10.0.0.1", "10.0.0.2")
    handshake(world, talk)
    world.profile(PROFILE_B, ingress=ROW_DENY, side=1 - world.side)
    assert world.send(B, talk.back())[0]
    world.flip()
    assert world.deliver(A, talk.back(), ingress=B) == (False, "DROPPED", "POLICY")


# ---- orientation ----

@pytest.mark.parametrize("udp", (False, True))
def test_refused_attempt_does_not_stop_the_other_end(world, udp):
    """A may not open to B, B may open to A, with the same ports."""
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    talk = Talk("10.0.0.1", "10.0.0.2", 5000, 6000, udp)
    assert not through(world, talk.there("S"), A, B)[0]
    back = Talk("10.0.0.2", "10.0.0.1", 6000, 5000, udp)
    assert through(world, back.there("S"), B, A) == (True, "FORWARDED", "POLICY")
    assert world.conn().flags & ORIGIN_HIGH
    assert through(world, back.back("SA"), A, B)[0], "now it is a reply"


def test_answer_to_a_refused_attempt_is_refused(world):
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    talk = Talk("10.0.0.1", "10.0.0.2", 5000, 6000)
    assert not through(world, talk.there("S"), A, B)[0]
    assert world.send(B, talk.back("SA")) == (False, "DROPPED", "ISOLATED")


def test_syn_of_the_responder_is_judged(world):
    """An allowed connection is no licence to open one the other way."""
    world.profile(PROFILE_A, ingress=ROW_ISOLATED)
    talk = Talk("10.0.0.1", "10.0.0.2")
    handshake(world, talk)
    assert through(world, talk.back("S"), B, A) == (False, "DROPPED", "ISOLATED")
    assert through(world, talk.there("PA"), A, B)[0], "and it is not disturbed by the attempt"
    world.reset()
    assert world.send(A, talk.there("S"))[0]
    assert world.conn().state == NEW


def test_simultaneous_open(world):
    talk = Talk("10.0.0.1", "10.0.0.2")
    assert through(world, talk.there("S"), A, B)[0]
    assert through(world, talk.back("S"), B, A)[0]
    assert through(world, talk.there("SA"), A, B)[0]
    assert through(world, talk.back("SA"), B, A)[0]
    assert through(world, talk.there("A"), A, B)[0]
    assert world.conn().live


# ---- midstream ----

@FAMILIES
def test_midstream_passes_in_its_own_orientation(world, family):
    a, b, *_ = ADDRESS[family]
    talk = Talk(a, b)
    world.profile(PROFILE_A, ingress=ROW_ISOLATED)
    world.profile(PROFILE_B, egress=ROW_ISOLATED)
    assert through(world, talk.there("A"), A, B) == (True, "FORWARDED", "POLICY")
    conn = world.conn()
    assert conn.flags & MIDSTREAM and not conn.flags & ORIGIN_HIGH
    assert through(world, talk.back("A"), B, A)[0]
    assert through(world, talk.there("A"), A, B)[0]
    assert world.conn().live and world.conn().handshake == 0


@FAMILIES
def test_midstream_passes_in_the_other_orientation(world, family):
    """The agent was just installed: the first packet it sees is the server's."""
    a, b, *_ = ADDRESS[family]
    talk = Talk(a, b)
    world.profile(PROFILE_A, ingress=ROW_ISOLATED)
    world.profile(PROFILE_B, egress=ROW_ISOLATED)
    assert through(world, talk.back("A"), B, A) == (True, "FORWARDED", "POLICY")
    conn = world.conn()
    assert conn.flags & MIDSTREAM and not conn.flags & ORIGIN_HIGH and conn.packets == [0, 1]
    assert through(world, talk.there("A"), A, B)[0]


def test_midstream_turns_at_the_last_hook(world):
    """B's own egress is allowed, so the first hook takes B for the originator; A's ingress shows that it was not."""
    talk = Talk("10.0.0.1", "10.0.0.2")
    world.profile(PROFILE_A, ingress=ROW_ISOLATED)
    assert world.send(B, talk.back("A"))[0]
    assert world.conn().flags & ORIGIN_HIGH
    assert world.deliver(A, talk.back("A"), ingress=B) == (True, "FORWARDED", "POLICY")
    conn = world.conn()
    assert not conn.flags & ORIGIN_HIGH and conn.packets == [0, 1] and conn.ifindex == [world.a, world.b]
    assert through(world, talk.there("A"), A, B)[0]
    assert through(world, talk.back("A"), B, A)[0]


def test_midstream_denied_in_both(world):
    talk = Talk("10.0.0.1", "10.0.0.2")
    world.profile(PROFILE_A, egress=ROW_DENY, ingress=ROW_ISOLATED)
    world.profile(PROFILE_B, egress=ROW_ISOLATED, ingress=ROW_ISOLATED)
    assert world.send(A, talk.there("A")) == (False, "DROPPED", "POLICY"), "refused as what it looked like"
    assert world.send(B, talk.back("A")) == (False, "DROPPED", "ISOLATED")
    assert world.conns() == {}


def test_midstream_at_the_last_hook_alone(world):
    talk = Talk("192.0.2.9", "10.0.0.2")
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    assert world.deliver(B, talk.there("S")) == (False, "DROPPED", "ISOLATED"), "a SYN is new"
    assert world.deliver(B, talk.there("A")) == (True, "FORWARDED", "POLICY"), "B may have opened it"
    assert world.conn().flags & ORIGIN_HIGH == 0
    world.reset()
    world.profile(PROFILE_B, ingress=ROW_ISOLATED, egress=ROW_ISOLATED)
    assert world.deliver(B, talk.there("A")) == (False, "DROPPED", "ISOLATED")


# ---- the table ----

@FAMILIES
@pytest.mark.parametrize("udp", (False, True))
def test_table_full(world_with, family, udp):
    """What does not fit goes on, evictable, and says so; it is promoted as soon as there is room."""
    a, b, *_ = ADDRESS[family]
    table = f"ps_conn{family}"
    world = world_with(entries={table: 2})
    full = world.stat(TABLE_FULL)
    for port in (1, 2):
        handshake(world, Talk(a, b, port, udp=udp))
    talk = Talk(a, b, 3, udp=udp)
    through(world, talk.there("S"), A, B)
    through(world, talk.back("SA"), B, A)
    assert world.send(A, talk.there("A")) == (True, "FORWARDED", "TABLE_FULL")
    assert world.stat(TABLE_FULL) == full + 1
    assert world.deliver(B, talk.there("A"), ingress=A)[0]
    assert world.stat(TABLE_FULL) == full + 2, "each packet that would complete it tries"
    states = [conn.state for conn in world.conns().values()]
    assert sorted(states) == [REPLIED, ESTABLISHED, ESTABLISHED]
    assert through(world, talk.back("A"), B, A) == (True, "FORWARDED", "ESTABLISHED")
    world.profile(PROFILE_B, ingress=ROW_DENY, side=1 - world.side)
    world.flip()
    assert through(world, talk.there("A"), A, B) == (False, "DROPPED", "POLICY"), "and policy goes on"
    world.profile(PROFILE_B, side=1 - world.side)
    world.flip()
    key = world.object.map(table).keys()[0]
    world.object.map(table).delete(key)
    assert world.send(A, talk.there("A"))[0]
    assert len(world.object.map(table).keys()) == 2


def test_flood_of_embryonic_evicts_no_established(world):
    talk = Talk("10.0.0.1", "10.0.0.2")
    handshake(world, talk)
    syn = bytearray(bytes(Talk("10.0.0.1", "192.0.2.9").there("S")))
    for port in range(3000):
        struct.pack_into("!H", syn, 34, port)
        world.object.run("from_workload", syn, world.a, world.a)
    assert len(world.object.map("ps_new4").keys()) <= 1024
    assert through(world, talk.there("A"), A, B) == (True, "FORWARDED", "ESTABLISHED")


def test_without_timers(world_with):
    """Linux before 5.15: the agent expires entries."""
    world = world_with(constants={"have_timer": 0})
    talk = Talk("10.0.0.1", "10.0.0.2")
    handshake(world, talk)
    through(world, talk.there("R"), A, B)
    key, = world.object.map("ps_conn4").keys()
    assert world.object.map("ps_conn4").get(key)[:16] == bytes(16)
    assert world.conn().state == CLOSING


# ---- the node itself, and who the source was ----

@FAMILIES
def test_node_always_reaches_its_workloads(world, family):
    _, b, _, node = ADDRESS[family]
    world.profile(PROFILE_B, ingress=ROW_ISOLATED, egress=ROW_ISOLATED)
    talk = Talk(node, b)
    assert world.deliver(B, talk.there("S"), ingress=0) == (True, "FORWARDED", "NODE")
    assert world.conn().flags & NODE
    assert world.send(B, talk.back("SA")) == (True, "FORWARDED", "ESTABLISHED")
    assert world.deliver(B, talk.there("A"), ingress=0)[0]
    assert world.conn().live
    world.flip()
    assert world.send(B, talk.back("A")) == (True, "FORWARDED", "NODE"), "and stays so"
    assert world.deliver(B, talk.there("A"), ingress=0)[0]


@FAMILIES
def test_from_outside_with_the_nodes_address(world, family):
    _, b, _, node = ADDRESS[family]
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    talk = Talk(node, b)
    assert world.deliver(B, talk.there("S")) == (False, "DROPPED", "ISOLATED")
    assert world.deliver(B, talk.there("S"), ingress=0)[0]
    world.send(B, talk.back("SA"))
    world.deliver(B, talk.there("A"), ingress=0)
    assert world.deliver(B, talk.there("A")) == (False, "DROPPED", "ISOLATED"), "not the node's connection"
    assert world.deliver(B, talk.there("A"), ingress=0)[0]


def test_node_is_judged_when_so_configured(world_with):
    world = world_with(constants={"allow_local_host": 0})
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    assert world.deliver(B, Talk("192.0.2.1", "10.0.0.2").there("S"), ingress=0) == (False, "DROPPED", "ISOLATED")


def test_workloads_address_from_a_local_socket_is_not_the_node(world):
    """A proxy's onward leg from the client's address: judged as the client."""
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    assert world.deliver(B, Talk("10.0.0.1", "10.0.0.2").there("S"), ingress=0) == (False, "DROPPED", "ISOLATED")
    world.peer_row(PROFILE_B, INGRESS, CLASS_A, ROW_ALLOW)
    assert world.deliver(B, Talk("10.0.0.1", "10.0.0.2").there("S"), ingress=0) == (True, "FORWARDED", "POLICY")


def test_masqueraded_source_is_judged_as_who_it_was(world):
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    talk = Talk("192.0.2.1", "10.0.0.2")
    assert world.deliver(B, talk.there("S"), ingress=A) == (False, "DROPPED", "ISOLATED")
    world.peer_row(PROFILE_B, INGRESS, CLASS_A, ROW_ALLOW)
    assert world.deliver(B, talk.there("S"), ingress=A) == (True, "FORWARDED", "POLICY")
    conn = world.conn()
    assert conn.entered == world.a and conn.ifindex == [0, world.b] and conn.packets == [1, 0]
    world.flip()
    assert world.send(B, talk.back("SA")) == (True, "FORWARDED", "POLICY"), "the reply is judged alike"
    world.reset()
    world.profile(PROFILE_A, egress=ROW_DENY)
    assert world.deliver(B, talk.there("S"), ingress=A) == (False, "DROPPED", "POLICY"), "its egress too"


def test_masqueraded_port_that_is_given_to_another_workload(world):
    """While the entry lives: what was said of the one is not said of the other."""
    world.iface(world.unclaimed, 3)
    world.endpoint(3, PROFILE_A, 3)
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    world.peer_row(PROFILE_B, INGRESS, CLASS_A, ROW_ALLOW)
    talk = Talk("192.0.2.1", "10.0.0.2", udp=True)
    for packet in (talk.there(), talk.there()):
        assert world.deliver(B, packet, ingress=A)[0]
    assert world.send(B, talk.back())[0]
    for _ in range(2):
        assert world.deliver(B, talk.there(), ingress=world.unclaimed) == (False, "DROPPED", "ISOLATED")
    assert world.send(B, talk.back()) == (False, "DROPPED", "ISOLATED"), "nor is it answered"
    assert world.deliver(B, talk.there(), ingress=A) == (True, "FORWARDED", "POLICY")
    assert world.deliver(B, talk.there(), ingress=A) == (True, "FORWARDED", "ESTABLISHED")


@pytest.mark.parametrize("ingress", (0, None), ids=("node", "outside"))
def test_error_about_a_masqueraded_connection(world, ingress):
    """Who complains is not who opened it."""
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    world.peer_row(PROFILE_B, INGRESS, CLASS_A, ROW_ALLOW)
    talk = Talk("192.0.2.1", "10.0.0.2", udp=True)
    assert world.deliver(B, talk.there(), ingress=A)[0]
    world.flip()
    error = frame("192.0.2.7", "10.0.0.2", ICMP(type=3, code=1) / talk.back()[IP])
    assert world.deliver(B, error, ingress=ingress) == (True, "FORWARDED", "RELATED")
    conn = world.conn()
    assert conn.entered == world.a and not conn.flags & NODE
    world.flip()
    assert world.send(B, talk.back()) == (True, "FORWARDED", "POLICY")


def test_masquerade_is_no_licence_to_spoof(world):
    """The entry of A's masqueraded connection does not let A send from the node's address."""
    talk = Talk("192.0.2.1", "10.0.0.2")
    assert world.deliver(B, talk.there("S"), ingress=A)[0]
    assert world.send(A, talk.there("A")) == (False, "DROPPED", "SPOOFED")


def test_local_source_that_no_interface_shows(world):
    """Through a bridge or a tunnel: the address tells."""
    world.profile(PROFILE_A, egress=ROW_DENY)
    assert world.deliver(B, Talk("10.0.0.1", "10.0.0.2").there("S")) == (False, "DROPPED", "POLICY")
    world.reset()
    assert world.deliver(B, Talk("10.0.0.1", "10.0.0.2").there("S"))[0]
    assert world.conn().judged == [world.generation << GENERATION | ALLOWED] * 2


def test_workload_that_becomes_local(world):
    """'Not local' was said elsewhere: it does not count at the workload's own hook."""
    world.addr("10.0.0.2", CLASS_B)
    talk = Talk("10.0.0.1", "10.0.0.2")
    assert world.send(A, talk.there("S"))[0]
    assert world.conn().judged[INGRESS] & NOT_LOCAL
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    assert world.deliver(B, talk.there("S"), ingress=A) == (False, "DROPPED", "ISOLATED")


# ---- packets for somebody else ----

def test_multicast_is_judged_for_each_receiver(world):
    """One sender, many receivers: none's verdict is another's."""
    packet = frame("10.0.0.1", "239.1.1.1", UDP(sport=1, dport=2))
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    world.iface(world.unclaimed, 3)
    world.endpoint(3, PROFILE_A, 3)
    for _ in range(2):
        assert world.send(A, packet)[0]
        assert world.deliver(world.unclaimed, packet, ingress=A) == (True, "FORWARDED", "POLICY")
        assert world.deliver(B, packet, ingress=A) == (False, "DROPPED", "ISOLATED")
    assert world.conn().ifindex == [world.a, 0]


@FAMILIES
def test_flooded_packet_teaches_nothing(world, family):
    """A bridge floods B's packet to a third port: that one does not become B."""
    a, b, *_ = ADDRESS[family]
    talk = Talk(a, b)
    world.iface(world.unclaimed, 3)
    world.endpoint(3, PROFILE_A, 3)
    for step in range(2):
        assert world.deliver(world.unclaimed, talk.there("S"), ingress=A)[0]
        assert len(world.conns()) == step
        assert world.send(world.unclaimed, talk.back("SA")) == (False, "DROPPED", "SPOOFED")
        assert world.send(A, talk.there("S"))[0]
    assert through(world, talk.there("S"), A, B)[0]
    assert world.deliver(world.unclaimed, talk.there("S"), ingress=A)[0]
    assert world.conn().ifindex == [world.a, world.b]
    world.endpoint(3, PROFILE_B, 3)
    world.profile(PROFILE_B, ingress=ROW_ISOLATED)
    assert world.deliver(world.unclaimed, talk.there("S"), ingress=A) == (False, "DROPPED", "ISOLATED")
