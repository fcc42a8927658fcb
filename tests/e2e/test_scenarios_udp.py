# SPDX-License-Identifier: Apache-2.0
"""What test_scenarios.py asks of TCP, asked of UDP, by the same numbers and with either engine."""
import json
import socket
import time

import pytest

from datagrams import HELLO, Receiver, Talker
from lab import NODE4, NODE6, OUTSIDE4, OUTSIDE6, UPLINK4
from objects import policy, proxy
from probe import OPTIONS, answering, family_of
from proxies import PORT, Relay
from scenes import eventually
from steering import FAMILIES, OUTSIDE, SOURCES, Load, egress, forget, host, ingress, select, unled

GATEWAY = proxy("gw", PORT, ["TCP", "UDP"])
BYPASS = proxy("gw", PORT, ["TCP", "UDP"], unavailable="Bypass")


def to(*networks, port=80, action="Intercept", side="to"):
    rule = {"name": "udp", "action": action, side: [{"networks": [host(ip) for ip in networks or ("0.0.0.0/0", "::/0")]}],
            "protocols": [{"udp": {"destinationPort": {"number": port}}}]}
    return {**rule, "proxy": "gw"} if action == "Intercept" else rule


def from_all(*networks):
    return to(*networks, side="from")


@pytest.fixture(scope="module")
def receivers(shared):
    spaces = {"outside": shared.outside, **shared.pods}
    made = {name: Receiver(space, name=name, transparent=False) for name, space in spaces.items()}
    yield made
    for one in made.values():
        one.close()


@pytest.fixture
def world(shared, receivers):
    """What a sends to UDP port 80 of the outside host is to go to the proxy gw on the node."""
    world, fronts = shared, []

    def put(*rules, gw=GATEWAY):
        shared.put(*rules, gw=gw)

    def front(port=PORT, address="::", **options):
        fronts.append(Receiver(world.node, port, options.pop("name", "proxy"), address, **options))
        return fronts[-1]
    world.flows, world.receive, world.receivers, world.straight = put, front, receivers, False
    world.begin()
    put(egress(to(*OUTSIDE)))
    before = {name: len(one.seen) for name, one in receivers.items()}

    def leaks():
        """Flows of this test's proxies whose datagrams a server has seen from the same client's port."""
        handed = {flow for one in fronts for flow in one.seen}
        return [flow for name, one in receivers.items() for flow in one.seen[before[name]:] if flow in handed]
    world.past = leaks
    yield world
    if not world.running.running():
        world.running.start()
    leaked = leaks()
    wrong = [what for one in [*fronts, *receivers.values()] for what in one.wrong]
    for one in fronts:
        one.close()
    world.end()
    assert world.straight or not leaked, f"a proxy's flows went on to the server: {leaked}"
    assert not wrong, wrong


def server_of(world, source, target, family=4, port=80, timeout=3.0, **options):
    """Who answers, in a word."""
    destination = world.address(target, family) if target in world.receivers else target
    with Talker(source, destination, port, timeout, **options) as talk:
        return talk.server()


def refused(world, source, target, family=4):
    before = world.no_listener()
    answer = server_of(world, source, target, family, timeout=0.3)
    return answer not in world.receivers and answer != "proxy" and world.no_listener() > before


# ---- 1 … 9: interception ----

@FAMILIES
def test_02_what_matches_goes_to_the_proxy_and_nothing_else(world, family):
    world.receive()
    with Talker(world.a, world.address("outside", family)) as flow:
        assert [flow.server() for _ in range(3)] == ["proxy"] * 3
    assert server_of(world, world.a, "b", family) == "b", "another address"
    assert server_of(world, world.b, "outside", family) == "outside", "another subject"
    assert world.handed() == 1, "a flow counts once"


@pytest.mark.parametrize("destination, port", [
    (OUTSIDE4, 4444), ("203.0.113.77", 53), ("203.0.113.77", 65535), ("240.0.0.1", 1), ("169.254.169.254", 80),
    (OUTSIDE6, 4444), ("2001:db8:ffff::77", 53), ("2001:db8:ffff::77", 65535), ("64:ff9b::1", 1), ("fd00:ec2::254", 80)])
def test_03_addresses_and_ports_that_nobody_has(world, destination, port):
    world.flows(egress(to(destination, port=port)))
    world.receive()
    assert server_of(world, world.a, destination, port=port) == "proxy"


@pytest.mark.parametrize("listen", ["::", "wildcard", "loopback"])
@FAMILIES
def test_04_the_original_destination_is_told(world, family, listen):
    address = {"::": "::", "wildcard": "0.0.0.0", "loopback": "127.0.0.1"} if family == 4 else \
        {"::": "::", "wildcard": "::", "loopback": "::1"}
    front = world.receive(address=address[listen])
    with Talker(world.a, world.address("outside", family)) as flow:
        assert flow.server() == "proxy"
    assert front.seen == [(*flow.ends, *flow.destination)] and front.wrong == []


@pytest.mark.parametrize("target", ["outside", "b"])
@SOURCES
@FAMILIES
def test_05_whom_the_server_sees(world, family, source, target):
    world.flows(egress(to(*OUTSIDE, *world.b.ips)))
    Relay(world, "--source", source)
    with Talker(world.a, world.address(target, family)) as flow:
        who = flow.hello()
        assert who["server"] == target and (who["peer"][0] == flow.ends[0]) == (source == "client")
        assert flow.echo(b"x" * 1200) and flow.hello() == who
    assert world.handed() == 1


@FAMILIES
def test_06_the_answer_leaves_from_the_original_destination(world, family):
    """A client that is not connected sees from where; one that is takes nothing else, nor what the listener itself sends."""
    front, destination = world.receive(), world.address("outside", family)
    with Talker(world.a, destination) as flow:
        assert flow.server() == "proxy"
        flow.sock.connect((destination, 80))
        front.sock.sendto(b"from the wrong port", flow.ends if family == 6 else (f"::ffff:{flow.ends[0]}", flow.ends[1]))
        assert flow.server() == "proxy", "the next that it takes is the proxy's answer"
    with world.a.entered():
        loose = socket.socket(family_of(destination), socket.SOCK_DGRAM)
    with loose:
        loose.settimeout(3)
        loose.sendto(HELLO, (destination, 80))
        assert loose.recvfrom(4096)[1][:2] == (destination, 80)


@FAMILIES
def test_06_a_connected_socket_of_the_proxy_has_its_flow(world, family):
    front = world.receive()
    with Talker(world.a, world.address("outside", family)) as flow:
        assert flow.server() == "proxy"
        with answering(world.node, flow.destination) as own:
            own.connect(flow.ends)
            own.settimeout(3)
            flow.sock.send(b"second")
            assert own.recv(100) == b"second"
            own.send(b"answer")
            assert flow.sock.recv(100) == b"answer" and len(front.seen) == 1
            assert server_of(world, world.a, "outside", family) == "proxy", "another flow is the listener's"
        assert flow.server() == "proxy", "closed: the listener's again"
    assert world.handed() == 2


@FAMILIES
def test_07_answers_of_several_servers_keep_their_source(world, family):
    """One socket of the client's, several destinations."""
    far = ["203.0.113.71", "203.0.113.72", OUTSIDE4] if family == 4 else ["2001:db8:7::1", "2001:db8:7::2", OUTSIDE6]
    world.flows(egress(to(*far)))
    world.receive()
    with world.a.entered():
        loose = socket.socket(family_of(far[0]), socket.SOCK_DGRAM)
    with loose:
        loose.settimeout(3)
        for _ in range(3):
            for ip in far:
                loose.sendto(ip.encode(), (ip, 80))
        answers = [loose.recvfrom(4096) for _ in range(9)]
        assert sorted((data.decode(), peer[:2]) for data, peer in answers) == sorted((ip, (ip, 80)) for ip in far * 3)
    assert world.handed() == 3


@FAMILIES
def test_07_an_error_does_not_end_a_flow(world, family):
    """The client refuses an answer for a moment; then its socket is there again."""
    front, own = world.receive(), world.address("a", family)
    with Talker(world.a, world.address("outside", family), bind=(own, 20701)) as flow:
        assert flow.server() == "proxy"
    for _ in range(3):
        front.answer(b"to nobody", (own, 20701), (world.address("outside", family), 80))
    with Talker(world.a, world.address("outside", family), bind=(own, 20701)) as flow:
        assert flow.server() == "proxy"
    assert world.handed() == 1


@FAMILIES
def test_07_no_answer_is_lost_in_a_burst(world, family):
    world.receive()
    with Talker(world.a, world.address("outside", family)) as flow:
        sent = {number.to_bytes(4, "big") + b"x" * 1000 for number in range(400)}
        for data in sent:
            flow.sock.send(data)
        assert {flow.sock.recv(4096) for _ in sent} == sent


@FAMILIES
def test_08_the_node_itself_is_not_asked(world, family):
    world.receive()
    world.flows(egress(to()), ingress(from_all()))
    assert server_of(world, world.node, "outside", family) == "outside"
    assert server_of(world, world.node, "b", family) == "b"
    assert world.handed() == 0


def test_09_ipv4_to_a_listener_of_mapped_addresses(world):
    world.receive(address="::ffff:127.0.0.1")
    assert server_of(world, world.a, "outside", 4) == "proxy"
    assert refused(world, world.a, "outside", 6)


# ---- 10 … 14: choosing the socket ----

@FAMILIES
def test_11_a_group_shares_the_work(world, family):
    """Each flow has one socket of the group, all flows together have several."""
    fronts = [world.receive(reuseport=True, name=str(number)) for number in range(3)]
    takers = []
    for _ in range(40):
        with Talker(world.a, world.address("outside", family)) as flow:
            one, = {flow.server() for _ in range(3)}
            takers.append(one)
    assert set(takers) == {"0", "1", "2"} and sum(len(front.seen) for front in fronts) == 120
    assert world.handed() == 40


@FAMILIES
def test_11_who_selects_within_the_group(world, family):
    """A filter of the proxy's own (SO_ATTACH_REUSEPORT_CBPF): all flows are the second's. The kernel's own TPROXY does not
    ask filters about datagrams (its lookup has none): there each flow has one of the group, as without a filter."""
    fronts = [world.receive(reuseport=True, name=str(number)) for number in range(3)]
    select(fronts[0].sock, 1)
    takers = []
    for _ in range(12):
        with Talker(world.a, world.address("outside", family)) as flow:
            one, = {flow.server() for _ in range(3)}
            takers.append(one)
    assert set(takers) == {"1"} if world.engine == "ebpf" else set(takers) <= {"0", "1", "2"}
    assert sum(len(front.seen) for front in fronts) == 36


@FAMILIES
def test_11_a_group_that_holds_a_connected_socket(world, family):
    """It is connected to somebody else: everybody else's datagrams are the listener's."""
    address = "127.0.0.1" if family == 4 else "::1"
    front = world.receive(address=address, reuseport=True)
    with world.node.entered():
        connected = socket.socket(family_of(address), socket.SOCK_DGRAM)
    with connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        connected.setsockopt(*OPTIONS[connected.family][:2], 1)
        connected.bind((address, PORT))
        connected.connect((address, 9))
        for _ in range(20):
            assert server_of(world, world.a, "outside", family) == "proxy"
    assert len(front.seen) == 20


@FAMILIES
def test_12_a_connected_socket_is_no_listener(world, family):
    address = "127.0.0.1" if family == 4 else "::1"
    with world.node.entered():
        connected = socket.socket(family_of(address), socket.SOCK_DGRAM)
    with connected:
        connected.setsockopt(*OPTIONS[connected.family][:2], 1)
        connected.bind((address, PORT))
        connected.connect((address, 9))
        assert refused(world, world.a, "outside", family)
        connected.setblocking(False)
        with pytest.raises(BlockingIOError):
            connected.recv(10)


@FAMILIES
def test_13_flows_that_a_new_agent_does_not_know(world, family):
    """What a sends begins anew, and the rules are asked; an answer is no request, whoever knows of the question."""
    world.receive()
    world.straight = True
    own = world.address("a", family)
    with Talker(world.a, world.address("outside", family), bind=(own, 20713)) as flow:
        assert flow.server() == "proxy"
        forget(world)
        assert flow.server() == "outside", "nobody intercepts"
        world.running.start()
        assert flow.server() == "proxy"
    with Talker(world.outside, own) as question:
        assert question.server() == "a"
        world.flows(egress(to(*OUTSIDE, port=question.ends[1])))
        assert question.server() == "a", "the answer goes where a rule would hand over what a begins"


@FAMILIES
def test_14_somebody_on_the_node_has_the_destinations_port(world, family):
    """As with a resolver on port 53."""
    world.receive()
    address = NODE4 if family == 4 else NODE6
    with Receiver(world.node, 80, "wildcard", "0.0.0.0" if family == 4 else "::", transparent=False) as wildcard, \
            Receiver(world.node, 80, "node", address, transparent=False):
        assert server_of(world, world.a, "outside", family) == "proxy"
        assert server_of(world, world.a, address) == "node", "a local service stays one"
        assert server_of(world, world.b, "outside", family) == "outside"
        world.flows(egress(to()))
        assert server_of(world, world.a, address) == "proxy", "when a rule says so"
        assert wildcard.seen == []


# ---- 15 … 20: loops, routing ----

@SOURCES
@pytest.mark.parametrize("captured", ["egress", "ingress", "both"])
@FAMILIES
def test_15_17_what_a_proxy_opens_is_not_captured_again(world, family, captured, source):
    world.flows(*[egress(to(*world.b.ips))] * (captured != "ingress"), *[ingress(from_all())] * (captured != "egress"))
    Relay(world, "--source", source)
    with Talker(world.a, world.address("b", family)) as flow:
        who = flow.hello()
        assert who["server"] == "b" and (who["peer"][0] == flow.ends[0]) == (source == "client")
        assert flow.echo(b"x" * 1200)
    assert world.handed() == 1


@SOURCES
@FAMILIES
def test_17_client_outside(world, family, source):
    world.flows(ingress(from_all()))
    Relay(world, "--source", source)
    with Talker(world.outside, world.address("b", family)) as flow:
        who = flow.hello()
        assert who["server"] == "b" and (who["peer"][0] == flow.ends[0]) == (source == "client") and flow.echo()
    assert world.handed() == 1


@FAMILIES
def test_17_a_proxy_that_was_deleted_meanwhile(world, family):
    """The flow from outside goes where it was going; under the TransparentProxy that comes then, another goes to the proxy."""
    world.flows(ingress(from_all()))
    Relay(world, "--source", "node")
    destination = world.address("b", family)
    with Talker(world.outside, destination) as direct, Talker(world.outside, destination) as again:
        assert direct.hello()["peer"][0] != direct.ends[0] and again.hello()["peer"][0] != again.ends[0]
        world.flows()
        world.running.api.delete_object("TransparentProxy", "", "gw")
        assert direct.hello()["peer"] == list(direct.ends)
        world.flows(ingress(from_all()))
        assert again.hello()["peer"][0] != again.ends[0]
        assert direct.hello()["peer"] == list(direct.ends)


@FAMILIES
def test_16_nobody_gets_a_loop_from_the_proxys_own_port(world, family):
    world.flows(egress(to(port=PORT), to()))
    Relay(world, "--source", "node")
    own = NODE4 if family == 4 else NODE6
    for client in (world.a, world.b):
        assert server_of(world, client, own, port=PORT, timeout=0.3) not in ("proxy", *world.receivers)
    assert world.handed() <= 1, "no recursion"
    assert server_of(world, world.a, "outside", family) == "outside"


@FAMILIES
def test_18_the_checker_sees_what_goes_past_a_proxy(world, family):
    """What is asked of every test, of a flow whose proxy went, and was not needed."""
    world.flows(egress(to(*OUTSIDE)), gw=BYPASS)
    front = world.receive()
    with Talker(world.a, world.address("outside", family)) as flow:
        assert flow.server() == "proxy" and world.past() == []
        front.close()
        assert flow.server() == "outside" and world.past() == [(*flow.ends, *flow.destination)]
    world.straight = True


@SOURCES
@FAMILIES
def test_19_without_forwarding(world, bent, family, source):
    bent("net.ipv4.ip_forward", 0)
    bent("net.ipv6.conf.all.forwarding", 0)
    assert server_of(world, world.b, "outside", family, timeout=0.3) != "outside", "there is none indeed"
    Relay(world, "--source", source)
    with Talker(world.a, world.address("outside", family)) as flow:
        assert flow.server() == "outside" and flow.echo(b"x" * 1200)
    assert world.handed() == 1


@pytest.mark.parametrize("what", ["rules", "routes"])
@FAMILIES
def test_19_rules_and_routes_that_are_gone(world, family, what):
    world.receive()
    with Talker(world.a, world.address("outside", family)) as flow:
        assert flow.server() == "proxy"
        served = len(world.receivers["outside"].seen)
        with unled(world, family, what):
            assert not flow.echo(timeout=0.2)
            assert server_of(world, world.a, "outside", family, timeout=0.2) not in ("proxy", "outside")
            assert len(world.receivers["outside"].seen) == served
        eventually(lambda: flow.echo(timeout=0.3) or flow.echo(timeout=0.3))
        flow.sock.settimeout(3)
        assert server_of(world, world.a, "outside", family) == "proxy"


@pytest.mark.parametrize("valid_mark", [0, 1], ids=["", "src_valid_mark"])
@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_20_reverse_path_filters(world, bent, rp_filter, valid_mark):
    for interface in ("all", "default", "uplink", world.a.interface, world.b.interface):
        bent(f"net.ipv4.conf.{interface}.rp_filter", rp_filter)
        bent(f"net.ipv4.conf.{interface}.src_valid_mark", valid_mark)
    world.flows(egress(to(*OUTSIDE, *world.b.ips)), ingress(from_all(*OUTSIDE)))
    for source in ("client", "node"):
        with Relay(world, "--source", source):
            for client, target in ((world.a, "outside"), (world.a, "b"), (world.outside, "b")):
                assert server_of(world, client, target) == target, (source, client.name, target)
    assert world.handed() == 6


def strays(space, family):
    """Datagrams that came to it and that nobody was there for."""
    with space.entered(), open("/proc/thread-self/net/" + ("snmp" if family == 4 else "snmp6")) as file:
        rows = [line.split() for line in file]
    if family == 6:
        return int(dict(rows)["Udp6NoPorts"])
    names, values = [row for row in rows if row[0] == "Udp:"]
    return int(values[names.index("NoPorts")])


@pytest.mark.parametrize("target", ["outside", "b"])
@FAMILIES
def test_21_replies_to_the_proxys_socket_stay_with_it(world, family, target):
    """The server answers to the client's address: the pod sees none of it but what the proxy sends on."""
    world.flows(egress(to(*OUTSIDE, *world.b.ips)))
    Relay(world, "--source", "client")
    before = strays(world.a, family)
    for _ in range(20):
        assert server_of(world, world.a, target, family) == target
    assert world.handed() == 20 and strays(world.a, family) == before


# ---- 22 … 30: failure, restart, churn ----

@FAMILIES
def test_22_nobody_listens(world, family):
    served = len(world.receivers["outside"].seen)
    assert refused(world, world.a, "outside", family) and len(world.receivers["outside"].seen) == served
    with Talker(world.a, world.address("outside", family)) as flow:
        with world.receive():
            assert flow.server() == "proxy"
        eventually(lambda: not flow.echo(timeout=0.2))
        before = world.no_listener()
        assert not flow.echo(timeout=0.3) and world.no_listener() > before, "it does not go past it"
        with world.receive():
            flow.sock.settimeout(3)
            assert flow.server() == "proxy", "a flow goes to who listens now"
    world.straight = True
    world.flows(egress(to(*OUTSIDE)), gw=BYPASS)
    assert server_of(world, world.a, "outside", family) == "outside"
    world.receive()
    assert server_of(world, world.a, "outside", family) == "proxy"


@pytest.mark.parametrize("way", ["restart", "kill -9"])
def test_23_24_flows_while_the_agent_restarts(world, way):
    """New ones and one that goes on: all of it gets to the proxy, and at once."""
    world.receive()
    with Talker(world.a, OUTSIDE4, timeout=1.0) as flow:
        assert flow.server() == "proxy"
        # Entries of flows outlive them: no more than some hundreds, else ports come again.
        load = Load(lambda: time.sleep(0.01) or server_of(world, world.a, "outside", 6, timeout=1.0))
        load.grown()
        if way == "restart":
            world.running.stop()
        else:
            world.running.kill9()
        load.grown()
        assert flow.server() == "proxy"
        world.running.start()
        load.grown()
        assert flow.server() == "proxy"
        assert set(load.end()) == {"proxy"}


def test_25_a_workload_that_comes_while_the_agent_is_down(alone):
    world = alone
    late = world.pod("late", attach=False)
    world.put(egress(to(*OUTSIDE), pod="late"), gw=GATEWAY)
    with Receiver(world.node, PORT, "proxy"):
        world.running.kill9()
        world.attach(late)
        world.running.start()
        for ip in OUTSIDE:
            with Talker(late, ip) as flow:
                assert flow.server() == "proxy"


def test_26_a_workload_that_goes(alone):
    """Nothing of its flow gets to the server; who has its address next begins anew."""
    world = alone
    world.put(egress(to(*OUTSIDE)), gw=GATEWAY)
    flows = []
    with Receiver(world.node, PORT, "proxy"), Receiver(world.outside, 80, "outside", transparent=False) as server:
        for ip in OUTSIDE:
            flows.append(Talker(world.a, ip, timeout=0.3, bind=("", 20726)))
            assert flows[-1].server() == "proxy"
        world.running.api.delete_object("Workload", "s", "a")
        for flow in flows:
            flow.echo()
        assert server.seen == [], "it may stay with the proxy, or fail"
        world.wires.pop("a").close()
        world.node.ip(f"link del {world.a.interface}")
        for flow in flows:
            flow.close()
        gone = world.pods.pop("a")
        heir = world.pod("heir", gone.ips)
        world.put(egress(to(*OUTSIDE), pod="heir"), gw=GATEWAY)
        for ip in OUTSIDE:
            with Talker(heir, ip, bind=("", 20726)) as flow:
                assert flow.server() == "proxy"


@pytest.mark.parametrize("target", ["outside", "b"])
@FAMILIES
def test_27_rules_are_for_flows_that_begin_later(world, family, target):
    world.flows()
    world.receive()
    destination, rules = world.address(target, family), [egress(to(*OUTSIDE, *world.b.ips))]
    with Talker(world.a, destination) as straight:
        assert straight.server() == target
        world.flows(*rules)
        assert straight.server() == target
        with Talker(world.a, destination) as handed:
            assert handed.server() == "proxy"
            world.flows()
            assert straight.server() == target and handed.server() == "proxy"
            assert server_of(world, world.a, target, family) == target
            world.flows(policy("s", "no", {"name": "a"}, types=["Egress"]))
            assert not straight.echo(timeout=0.2) and not handed.echo(timeout=0.2), "policy comes first"


@FAMILIES
def test_28_receivers_that_take_over_from_each_other(world, family):
    """Each new one stands beside the old one before that goes: somebody always answers."""
    front = world.receive(reuseport=True)
    with Talker(world.a, world.address("outside", family), timeout=0.9) as flow:
        for _ in range(15):
            newer = world.receive(reuseport=True)
            front.close()
            assert flow.server() == "proxy" and server_of(world, world.a, "outside", family, timeout=0.9) == "proxy"
            front = newer


@FAMILIES
def test_30_one_tuple_directly_and_through_the_proxy(world, family):
    """What was direct stays so while there is an entry; a new agent asks the rules anew."""
    own, destination = world.address("a", family), world.address("outside", family)
    world.straight = True
    world.receive()
    for rules, server in (([], "outside"), ([egress(to(*OUTSIDE))], "proxy"), ([], "outside")):
        forget(world)
        world.running.start()
        world.flows(*rules)
        with Talker(world.a, destination, bind=(own, 20730)) as flow:
            assert flow.server() == server and flow.server() == server


# ---- 31 … 33: shapes of packets ----

@pytest.mark.parametrize("size", [1473, 4000, 60000])
@FAMILIES
def test_31_fragments(world, family, size):
    """Both ways: what the link cuts, the stack puts together, and the proxy gets the whole."""
    world.receive()
    with Talker(world.a, world.address("outside", family)) as flow:
        assert flow.server() == "proxy"
        for number in range(3):
            assert flow.echo(bytes([number]) * size)
        assert flow.server() == "proxy"
    assert world.handed() == 1
    with Talker(world.a, world.address("outside", family)) as flow:
        assert flow.echo(b"x" * size), "the flow begins with fragments"


def fragments(family, source, sport, destination, data, number):
    from scapy.layers.inet import IP, UDP, fragment
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
    if family == 4:
        packet = IP(src=source, dst=destination, id=number) / UDP(sport=sport, dport=80) / data
        return [bytes(part) for part in fragment(packet, 1400)]
    packet = IPv6(src=source, dst=destination) / IPv6ExtHdrFragment(id=number) / UDP(sport=sport, dport=80) / data
    return [bytes(part) for part in fragment6(packet, 1450)]


@FAMILIES
def test_31_fragments_out_of_order(world, family):
    """One that begins with its end may be lost: fragments follow their first. The flow goes on."""
    world.receive()
    own, destination, data = world.address("a", family), world.address("outside", family), b"y" * 4000
    gateway = json.loads(world.node.run("ip", "-j", "link", "show", world.a.interface).stdout)[0]["address"].replace(":", "")
    served = len(world.receivers["outside"].seen)
    with Talker(world.a, destination, bind=(own, 20731)) as flow:
        with world.a.entered():
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        with wire:
            for number, order in enumerate([(0, 1, 2), (0, 2, 1), (2, 1, 0)]):
                parts = fragments(family, own, 20731, destination, data, 7131 + number)
                assert len(parts) == 3
                for at in order:
                    wire.sendto(parts[at], ("eth0", 0x0800 if family == 4 else 0x86dd, 0, 1, bytes.fromhex(gateway)))
                if order[0] == 0:
                    assert flow.sock.recv(65536) == data, order
            flow.sock.send(b"after it")
            assert flow.sock.recv(65536) in (data, b"after it")
    assert len(world.receivers["outside"].seen) == served and world.handed() == 1


@pytest.mark.parametrize("segment", [1200, 1400])
@FAMILIES
def test_32_segments_that_the_kernel_cuts(world, family, segment):
    """UDP_SEGMENT: one write, many datagrams."""
    world.receive()
    with Talker(world.a, world.address("outside", family)) as flow:
        parts = [bytes([number]) * segment for number in range(20)]
        flow.sock.sendmsg([b"".join(parts)], [(socket.IPPROTO_UDP, 103, segment.to_bytes(2, "little"))])
        assert sorted(flow.sock.recv(4096) for _ in parts) == parts
    assert world.handed() == 1


@pytest.mark.parametrize("tos", [0xb8, 0xff])
@FAMILIES
def test_33_marked_traffic(world, family, tos):
    world.receive()
    with Talker(world.a, world.address("outside", family)) as flow:
        level, option = (socket.IPPROTO_IP, socket.IP_TOS) if family == 4 else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
        flow.sock.setsockopt(level, option, tos)
        assert flow.server() == "proxy"
