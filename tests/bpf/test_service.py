# SPDX-License-Identifier: Apache-2.0
"""A connection to a Service's address at the first hook, before anybody's NAT: what all backends say, or pending."""

import contextlib
import ipaddress

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from space import ip
from world import (A, ALLOW, BACKEND_NODE, CLASS_B, DENY, EGRESS, INTERCEPT, NODES, PENDING, PROFILE_A, PROXY, ROW_ALLOW,
                   ROW_DENY, ROW_INTERCEPT, RULE_ALLOW, RULE_DENY, RULE_INTERCEPT, SERVICE_MORE, TRANSLATED)

SERVICE = {4: "10.96.0.10", 6: "fd00:96::10"}
NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
OWN = {4: "10.0.0.1", 6: "fd00::1"}
GOOD, BAD, PLAIN = 21, 22, 23  # classes of backends: with a row that allows, that denies, with none
TCP_, UDP_ = 6, 17
ROW_OWN = 40
FAMILIES = pytest.mark.parametrize("family", (4, 6))


@pytest.fixture
def seen(world_with):
    """Its programs believe that they could see what is chosen."""
    return prepared(world_with(constants={"nfct_offset": 8, "nfct_tuple_offset": 16, "nfct_reply_offset": 72}))


@pytest.fixture
def blind(world):
    return prepared(world)


def prepared(world):
    world.profile(PROFILE_A, egress=ROW_ALLOW)
    world.peer_row(PROFILE_A, EGRESS, GOOD, ROW_ALLOW)
    world.peer_row(PROFILE_A, EGRESS, BAD, ROW_DENY)
    return world


@contextlib.contextmanager
def routed(address):
    """Elsewhere: what has no route counts as the node's, and goes nowhere."""
    for options in (["link", "set", "bpf-x", "up"], ["link", "set", "bpf-u", "up"],
                    ["route", "add", f"{address}/{128 if ':' in address else 32}", "dev", "bpf-u"]):
        ip(*options)
    yield
    ip("link", "set", "bpf-u", "down")


def service(world, kinds, flags=0, port=53, protocol=UDP_):
    for family in SERVICE:
        world.service(SERVICE[family], port, protocol, kinds, flags)


def ask(world, family, destination=None, port=53, transport=UDP, **fields):
    header = (IPv6 if family == 6 else IP)(src=OWN[family], dst=destination or SERVICE[family])
    return world.send(A, Ether() / header / transport(sport=40000, dport=port, **fields))


@FAMILIES
def test_all_say_the_same(blind, family):
    service(blind, [(GOOD, 5353), (GOOD, 5354), (PLAIN, 5353)])
    assert ask(blind, family) == (True, "FORWARDED", "POLICY")
    assert blind.conn().service == 0 and blind.conn().rule[EGRESS] == RULE_ALLOW
    service(blind, [(BAD, 5353)], port=54)
    assert ask(blind, family, port=54) == (False, "DROPPED", "POLICY")
    assert blind.hits(RULE_DENY) == 1


@FAMILIES
def test_the_backends_class_and_port_count_not_the_services(blind, family):
    blind.profile(PROFILE_A, egress=ROW_DENY)
    blind.port("UDP", 5353, 7)
    blind.peer_row(PROFILE_A, EGRESS, GOOD, ROW_OWN)
    blind.row(ROW_OWN, DENY, "ISOLATED", 0)
    blind.cell(ROW_OWN, 7, ALLOW)
    service(blind, [(GOOD, 5353)])
    assert ask(blind, family)[0]
    service(blind, [(GOOD, 53)], port=54)
    assert ask(blind, family, port=54) == (False, "DROPPED", "ISOLATED")
    assert ask(blind, family, port=55) == (False, "DROPPED", "POLICY"), "no port of the Service"
    assert ask(blind, family, transport=TCP, flags="S") == (False, "DROPPED", "POLICY"), "another protocol"


@FAMILIES
@pytest.mark.parametrize("kinds,flags", [([(GOOD, 1), (BAD, 1)], 0), ([(BAD, 1), (GOOD, 1)], 0), ([(GOOD, 1)], SERVICE_MORE),
                                         ([(BAD, 1)], SERVICE_MORE), ([], 0)])
def test_who_differ_are_left_to_the_hook_where_it_leaves(seen, family, kinds, flags):
    service(seen, kinds, flags)
    assert ask(seen, family) == (True, "FORWARDED", "DEFAULT")
    assert seen.conn().service == PENDING and seen.conn().rule[EGRESS] == 0
    assert seen.hits(RULE_ALLOW) == seen.hits(RULE_DENY) == 0
    # The next packet too, also when it is judged anew.
    seen.flip()
    assert ask(seen, family)[0] and seen.conn().service == PENDING


@FAMILIES
@pytest.mark.parametrize("kinds,flags,passes", [([(GOOD, 1), (BAD, 1)], 0, False), ([(GOOD, 1)], SERVICE_MORE, False),
                                                ([(GOOD, 1)], 0, True), ([], 0, True)])
def test_who_cannot_see_what_is_chosen_lets_nothing_pass_that_may_be_denied(blind, family, kinds, flags, passes):
    service(blind, kinds, flags)
    assert ask(blind, family)[0] == passes


@FAMILIES
def test_no_hook_follows_on_the_way_to_the_node_itself(seen, family):
    service(seen, [(BAD, 6443, BACKEND_NODE), (GOOD, 6443)])
    assert ask(seen, family) == (False, "DROPPED", "POLICY")
    service(seen, [(GOOD, 6443, BACKEND_NODE), (BAD, 6443)])
    assert ask(seen, family) == (True, "FORWARDED", "DEFAULT") and seen.conn().service == PENDING


@FAMILIES
def test_node_port(seen, family):
    seen.service(None, 30053, UDP_, [(BAD, 53)])
    with routed(NODE[family]):
        assert ask(seen, family, NODE[family], 30053)[0], "somebody else's"
    seen.object.map(f"ps_new{family}").clear()
    seen.addr(NODE[family], 0, flags=NODES)
    assert not ask(seen, family, NODE[family], 30053)[0]
    assert ask(seen, family, NODE[family], 30054)[0]


@FAMILIES
def test_handed_over_by_the_services_address_or_else_by_the_backends(blind, family):
    """Nobody listens: that it is refused for that reason shows that it would have been handed over."""
    def asked(**fields):
        for name in ("ps_new4", "ps_new6"):
            blind.object.map(name).clear()
        return ask(blind, family, port=80, transport=TCP, flags="S", **fields)

    own = 31
    service(blind, [(GOOD, 8080), (PLAIN, 8080)], port=80, protocol=TCP_)
    assert asked() == (True, "FORWARDED", "POLICY")
    blind.peer_row(PROFILE_A, EGRESS, GOOD, ROW_INTERCEPT)
    assert asked() == (True, "FORWARDED", "POLICY"), "only one of them"
    blind.peer_row(PROFILE_A, EGRESS, PLAIN, ROW_INTERCEPT)
    assert asked() == (False, "DROPPED", "NO_LISTENER"), "all of them"
    blind.addr(SERVICE[family], own)
    blind.peer_row(PROFILE_A, EGRESS, own, ROW_OWN)
    blind.row(ROW_OWN, ALLOW, "POLICY", RULE_ALLOW, intercept_rule=RULE_INTERCEPT)
    assert asked() == (True, "FORWARDED", "POLICY"), "Bypass by the Service's address"
    for class_id in (GOOD, PLAIN):
        blind.peer_row(PROFILE_A, EGRESS, class_id, ROW_ALLOW)
    for action in (INTERCEPT, DENY):
        blind.row(ROW_OWN, action, "POLICY", RULE_DENY, PROXY, RULE_INTERCEPT)
        assert asked() == (False, "DROPPED", "NO_LISTENER"), "policy is about the backends, interception about the address"
    service(blind, [], port=80, protocol=TCP_)
    assert asked() == (False, "DROPPED", "NO_LISTENER"), "nobody that policy denies"
    blind.peer_row(PROFILE_A, EGRESS, PLAIN, ROW_DENY)
    service(blind, [(PLAIN, 8080)], port=80, protocol=TCP_)
    assert asked() == (False, "DROPPED", "POLICY"), "never what policy denies"


@FAMILIES
def test_what_is_known_to_be_sent_to_one_backend_is_judged_by_that(seen, family):
    """Whatever the Service lists by now."""
    service(seen, [(GOOD, 1), (BAD, 1)])
    assert ask(seen, family)[0]
    chosen = {4: "10.0.0.2", 6: "fd00::2"}[family]  # class B
    key, = seen.object.map(f"ps_new{family}").keys()
    value = bytearray(seen.object.map(f"ps_new{family}").get(key))
    packed = ipaddress.ip_address(chosen).packed
    value[93:96] = bytes([TRANSLATED]) + (5353).to_bytes(2, "little")
    value[96:112] = packed + bytes(16 - len(packed))
    seen.object.map(f"ps_new{family}").put(key, bytes(value))
    assert seen.conn().service == TRANSLATED and seen.conn().backend_port == 5353
    seen.peer_row(PROFILE_A, EGRESS, CLASS_B, ROW_ALLOW)
    service(seen, [(BAD, 1)])
    seen.flip()
    assert ask(seen, family) == (True, "FORWARDED", "POLICY")
    assert seen.conn().service == TRANSLATED and seen.conn().rule[EGRESS] == RULE_ALLOW
    seen.port("UDP", 5353, 7)
    seen.cell(ROW_ALLOW, 7, DENY, rule=RULE_DENY)
    seen.flip()
    assert ask(seen, family) == (False, "DROPPED", "POLICY")


@FAMILIES
@pytest.mark.parametrize("by", ("address", "backends"))
def test_what_cannot_be_handed_over_does_not_go_past_the_proxy(seen, family, by):
    if by == "address":
        seen.addr(SERVICE[family], 31)
        seen.peer_row(PROFILE_A, EGRESS, 31, ROW_INTERCEPT)
    else:
        seen.peer_row(PROFILE_A, EGRESS, GOOD, ROW_INTERCEPT)
    for kinds, flags in ([(GOOD, 1), (BAD, 1)], 0), ([(BAD, 1), (GOOD, 1)], 0), ([(GOOD, 1)], SERVICE_MORE):
        service(seen, kinds, flags, 80, TCP_)
        assert ask(seen, family, port=80, transport=TCP, flags="S") == (False, "DROPPED", "POLICY")
