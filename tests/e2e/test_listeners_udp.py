# SPDX-License-Identifier: Apache-2.0
"""UDP proxies: their sockets are found, chosen and made transparent; datagrams reach them, and their answers clients."""
import json
import select
import socket

import pytest

from lab import OUTSIDE4, OUTSIDE6, Lab
from objects import intercept, proxy
from scenes import eventually, member
from steering import ENGINES
from test_listeners import PORT, SOON, end, ended, listeners, start, status, up, usable  # noqa: F401
from test_openapi import schema_of, validate

SERVED = 443
TRANSPARENT = {4: (socket.IPPROTO_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}


@pytest.fixture(scope="module", params=ENGINES)
def shared_node(request):
    with Lab(outside=True) as lab:
        lab.a = lab.pod("a")
        lab.items = [member("a", lab.a, interface=lab.a.interface), gateway("UDP"), steered("UDP")]
        lab.running = lab.agent(datapath={"engine": request.param})
        lab.running.api.put_state(lab.items)
        yield lab


@pytest.fixture
def node(shared_node):
    """Nobody listens yet."""
    shared_node.running.api.put_state(shared_node.items)
    eventually(lambda: not listeners(shared_node))
    return shared_node


def gateway(*protocols, **more):
    return proxy("gw", PORT, protocols, **more)


def wanted(**process):
    return gateway("UDP", process=process)


def steered(*protocols):
    """What a sends to the outside host, whatever its port."""
    rule = {"name": "out", "action": "Intercept", "proxy": "gw",
            "to": [{"networks": [f"{OUTSIDE4}/32", f"{OUTSIDE6}/128"]}],
            "protocols": [{protocol.lower(): {}} for protocol in protocols]}
    if not protocols:
        del rule["protocols"]
    return intercept("llm", {"name": "a"}, [rule])


def sent(space, destination=OUTSIDE4, port=SERVED, data=b"hello", source=0):
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with space.entered():
        sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind(("::" if ":" in destination else "0.0.0.0", source))
    sock.sendto(data, (destination, port))
    return sock


def ask(lab, destination=OUTSIDE4, timeout=2.0, port=SERVED, source=0):
    """Who answered a datagram of pod a, or None."""
    with sent(lab.a, destination, port, source=source) as sock:
        sock.settimeout(timeout)
        try:
            answer, sender = sock.recvfrom(65536)
        except OSError:
            return None
        said = json.loads(answer)
        own = lab.a.ip6 if ":" in destination else lab.a.ip4
        assert sender[:2] == (destination, port), "from where it was sent to"
        assert [said["peer"], said["local"]] == [[own, sock.getsockname()[1]], [destination, port]], "both addresses are kept"
        assert bytes.fromhex(said["data"]) == b"hello"
        return said["pid"]


@pytest.mark.parametrize("address, families", [
    ("127.0.0.1", ["IPv4"]), ("::1", ["IPv6"]), ("0.0.0.0", ["IPv4"]), ("::", ["IPv4", "IPv6"])])
def test_a_socket_is_adopted(node, address, families):
    lab = node
    process = start(lab, address, "--udp")
    usable(lab)
    validate(lab.running.api.status(), schema_of("Status"))
    one, = listeners(lab)
    assert (one["protocol"], one["address"], one["port"], one["pid"]) == ("UDP", address, PORT, process.pid)
    assert status(lab)["up"] and up(lab) == 1
    assert status(lab)["families"] == families and status(lab)["available"] == {"UDP": families}
    for destination, family in ((OUTSIDE4, "IPv4"), (OUTSIDE6, "IPv6")):
        taken = ask(lab, destination, 2 if family in families else 0.3)
        assert taken == (process.pid if family in families else None), family
    end(process)
    eventually(lambda: not status(lab)["up"], SOON)
    assert listeners(lab) == [] and up(lab) == 0 and status(lab)["available"] == {"UDP": []}


def test_200_means_that_the_socket_is_usable(node):
    lab = node
    lab.running.api.delete_object("InterceptPolicy", "", "llm")
    lab.running.api.delete_object("TransparentProxy", "", "gw")
    process = start(lab, "::", "--udp")
    lab.running.api.put_state(lab.items)
    assert ask(lab) == ask(lab, OUTSIDE6) == process.pid
    assert [one["state"] for one in listeners(lab)] == ["Adopted"]


def test_a_transparent_socket_is_ready(node):
    lab = node
    process = start(lab, "::", "--udp", "--transparent")
    eventually(lambda: listeners(lab, "Ready"), SOON)
    assert ask(lab) == ask(lab, OUTSIDE6) == process.pid


def test_one_for_one_family_leaves_the_other_without(node):
    lab = node
    process = start(lab, "::", "--udp", "--v6only")
    usable(lab)
    assert status(lab)["families"] == ["IPv6"]
    before = lab.running.api.metrics()("penstock_packets_total", reason="NoListener")
    assert ask(lab, OUTSIDE6) == process.pid and ask(lab, timeout=0.3) is None
    assert lab.running.api.metrics()("penstock_packets_total", reason="NoListener") > before


def test_each_socket_of_a_reuseport_group_is_adopted(node):
    lab = node
    group = {start(lab, "127.0.0.1", "--udp", "--reuseport").pid for _ in range(3)}
    usable(lab, 3)
    takers = set()
    eventually(lambda: takers.add(ask(lab)) or takers == group, 10)


def test_a_connected_member_of_the_group_is_left_alone(node):
    """A proxy's socket of one flow, which shares the listeners' address."""
    lab = node
    with lab.node.entered():
        flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with flow:
        flow.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        flow.setsockopt(*TRANSPARENT[4], 1)
        flow.bind(("127.0.0.1", PORT))
        group = {start(lab, "127.0.0.1", "--udp", "--reuseport").pid for _ in range(2)}
        flow.connect(("127.0.0.1", 9))
        # Until it is connected it is a listener like any other.
        eventually(lambda: {one["pid"] for one in listeners(lab)} == group)
        usable(lab, 2)
        assert {ask(lab) for _ in range(20)} == group
        flow.setblocking(False)
        with pytest.raises(BlockingIOError):
            flow.recv(100)


def test_a_server_of_the_node_on_the_destinations_port(node):
    lab = node
    process = start(lab, "0.0.0.0", "--udp")
    usable(lab)
    with lab.node.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # without, no other socket has this port: not even
        server.bind(("0.0.0.0", SERVED))                              # one at somebody else's address
        server.setblocking(False)
        assert {ask(lab) for _ in range(4)} == {process.pid}
        with pytest.raises(BlockingIOError):
            server.recv(100)
        with sent(lab.a, "10.77.0.1"):  # no rule is about the node's own address
            eventually(lambda: readable(server), 2)


def readable(sock):
    return select.select([sock], [], [], 0)[0]


def test_one_port_two_proxies(node):
    """One takes TCP, the other UDP; each has conditions of its own."""
    lab = node
    streams = proxy("streams", PORT, process={"uid": 1338})
    lab.running.api.patch([gateway("UDP", process={"uid": 1337}), streams])
    process = start(lab, "127.0.0.1", "--udp", "--uid", "1337")
    other = start(lab, "127.0.0.1", "--uid", "1338")
    usable(lab)
    eventually(lambda: status(lab, "streams")["up"], SOON)
    assert [(one["protocol"], one["pid"]) for one in listeners(lab)] == [("UDP", process.pid)]
    assert [(one["protocol"], one["pid"]) for one in status(lab, "streams")["listeners"]] == [("TCP", other.pid)]
    assert ask(lab) == process.pid


def bound(lab, address, transparent=False, peer=None):
    with lab.node.entered():
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if transparent:
        sock.setsockopt(*TRANSPARENT[6 if ":" in address else 4], 1)
    sock.bind((address, PORT))
    if peer:
        sock.connect((peer, 9))
    return sock


def test_what_a_proxy_answers_with_is_no_listener(node):
    """A transparent socket bound to an original destination whose port is the proxy's own, or one that is connected."""
    lab = node
    others = [bound(lab, OUTSIDE4, True), bound(lab, OUTSIDE6, True), bound(lab, "127.0.0.1", peer="127.0.0.1"),
              bound(lab, "0.0.0.0", True, peer=lab.a.ip4)]
    stranger = bound(lab, "10.77.0.1")
    process = start(lab, "127.0.0.1", "--udp", "--reuseport")
    usable(lab)
    assert [one["pid"] for one in listeners(lab, "Adopted")] == [process.pid]
    ignored, = listeners(lab, "Ignored")
    assert ignored["address"] == "10.77.0.1" and "10.77.0.1: connections are offered to" in ignored["why"]
    assert ask(lab) == ask(lab, port=PORT + 1) == process.pid
    for one in [stranger, *others]:
        one.close()


def test_a_destination_with_the_proxys_port(node):
    process = start(node, "::", "--udp")
    usable(node)
    assert ask(node, port=PORT) == ask(node, OUTSIDE6, port=PORT) == process.pid


# ---- conditions ----


@pytest.mark.parametrize("wrong", [[], ["--transparent"]], ids=["plain", "transparent"])
def test_chosen_by_uid(node, wrong):
    lab = node
    lab.running.api.put_object(wanted(uid=1337))
    first = start(lab, "127.0.0.1", "--udp", "--reuseport", *wrong)
    eventually(lambda: listeners(lab, "Ignored"), SOON)
    assert "uid 0 is not 1337" in listeners(lab)[0]["why"] and not status(lab)["up"]
    before = lab.running.api.metrics()("penstock_packets_total", reason="NoListener")
    assert ask(lab, timeout=0.3) is None, "refused"
    assert lab.running.api.metrics()("penstock_packets_total", reason="NoListener") > before
    second = start(lab, "0.0.0.0", "--udp", "--reuseport", "--later-uid", "1337")
    usable(lab)
    assert len(listeners(lab)) == 2 and status(lab)["up"]
    assert {ask(lab) for _ in range(3)} == {second.pid}
    end(second)
    eventually(lambda: not status(lab)["up"], SOON)
    assert ask(lab, timeout=0.3) is None, "the wrong one again"
    end(first)


# ---- restarts ----


@pytest.mark.parametrize("process", [{}, {"uid": 1337}], ids=["any", "chosen"])
def test_a_proxy_is_back_within_a_second(node, process):
    lab = node
    lab.running.api.put_object(wanted(**process))
    for _ in range(4):
        running = start(lab, "127.0.0.1", "--udp", *(["--uid", "1337"] if process else []))
        eventually(lambda: ask(lab, timeout=0.1) == running.pid, 1)
        end(running)


@pytest.mark.parametrize("process", [{}, {"uid": 1337}], ids=["any", "chosen"])
def test_what_was_adopted_outlives_the_agent(node, process):
    lab = node
    lab.running.api.put_object(wanted(**process))
    running = start(lab, "127.0.0.1", "--udp", "--uid", "1337")
    usable(lab)
    for stop in (lab.running.stop, lab.running.kill9):
        stop()
        assert ask(lab) == running.pid
        lab.running.start()
        assert ask(lab) == running.pid
        one, = listeners(lab)
        assert one["state"] == "Adopted" and one["pid"] == running.pid


def test_a_flow_whose_proxy_is_gone_begins_anew(node):
    lab, ports = node, (20001, 20002)
    running = start(lab, "::", "--udp")
    usable(lab)
    for destination in (OUTSIDE4, OUTSIDE6):
        assert [ask(lab, destination, source=port) for port in ports] == [running.pid] * 2
    lab.running.api.delete_object("InterceptPolicy", "", "llm")
    lab.running.api.delete_object("TransparentProxy", "", "gw")
    with lab.outside.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server:
        server.bind((OUTSIDE4, SERVED))
        server.settimeout(2)
        with sent(lab.a, source=ports[0]):
            data, peer = server.recvfrom(100)
            assert (data, peer) == (b"hello", (lab.a.ip4, ports[0])), "nobody wants it any more"
            server.sendto(data, peer)
    lab.running.api.put_state(lab.items)
    usable(lab)
    for destination in (OUTSIDE4, OUTSIDE6):
        assert ask(lab, destination, source=ports[1]) == running.pid
    assert ask(lab, source=ports[0], timeout=0.2) is None, "what went past the proxy goes on so"


# ---- both protocols ----


def test_a_proxy_of_both_is_up_with_both(node):
    lab = node
    lab.running.api.patch([gateway("TCP", "UDP"), steered()])
    datagrams = start(lab, "::", "--udp")
    usable(lab)
    assert not status(lab)["up"] and up(lab) == 0 and status(lab)["families"] == []
    assert status(lab)["available"] == {"TCP": [], "UDP": ["IPv4", "IPv6"]}
    assert ask(lab) == datagrams.pid
    assert explained(lab, "UDP")["intercept"]["available"] and not explained(lab, "TCP")["intercept"]["available"]
    assert "nobody that could take it listens on TCP port 15001" in " ".join(explained(lab, "TCP")["steps"])
    streams = start(lab, "127.0.0.1")
    usable(lab, 2)
    assert status(lab)["up"] and up(lab) == 1 and status(lab)["families"] == ["IPv4"]
    assert [one["protocol"] for one in listeners(lab)] == ["TCP", "UDP"]
    end(datagrams)
    eventually(lambda: not status(lab)["up"], SOON)
    answer = explained(lab, "UDP")
    assert answer["verdict"] == "Intercept" and not answer["intercept"]["available"]
    assert "listens on UDP port 15001 over IPv4: it would be denied (NoListener)" in " ".join(answer["steps"])
    assert explained(lab, "TCP")["intercept"]["available"] and ask(lab, timeout=0.3) is None
    end(streams)


def explained(lab, protocol):
    return lab.running.api.expect("POST", "/v1/explain", {
        "source": {"workload": "s/a"}, "destination": {"ip": OUTSIDE4}, "protocol": protocol, "port": SERVED}).json


def test_bypass_goes_where_it_was_going(node):
    lab = node
    lab.running.api.patch([gateway("UDP", unavailable="Bypass")])
    with lab.outside.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server:
        server.bind((OUTSIDE4, SERVED))
        server.settimeout(2)
        with sent(lab.a) as client:
            data, peer = server.recvfrom(100)
            assert (data, peer) == (b"hello", (lab.a.ip4, client.getsockname()[1]))
        assert "it would go where it was going (Bypass)" in " ".join(explained(lab, "UDP")["steps"])
        process = start(lab, "0.0.0.0", "--udp")
        usable(lab)
        assert ask(lab) == process.pid


def test_a_rule_may_not_hand_over_what_the_proxy_does_not_take(node):
    lab = node
    answer = lab.running.api.request("PATCH", "/v1/state", {"apply": [gateway("TCP")]})
    assert answer.status == 422 and answer.json["errors"] == [
        {"pointer": "/apply/0/spec/protocols", "detail": 'InterceptPolicy "llm" hands it UDP, at /spec/egress/0/protocols/0/udp'}]
    answer = lab.running.api.request("PATCH", "/v1/state", {"apply": [steered("UDP", "TCP")]})
    assert answer.status == 422 and answer.json["errors"] == [
        {"pointer": "/apply/0/spec/egress/0/protocols/1/tcp", "detail": 'TransparentProxy "gw" takes UDP only'}]
    # Under quarantine it stands: nobody takes it, and it goes nowhere else.
    lab.running.api.patch([gateway("TCP")], invalid="quarantine")
    start(lab, "0.0.0.0", "--udp")
    start(lab, "0.0.0.0")
    usable(lab)
    assert explained(lab, "UDP")["verdict"] == "Intercept" and not explained(lab, "UDP")["intercept"]["available"]
    assert "over IPv4, which is not among the proxy's protocols" in " ".join(explained(lab, "UDP")["steps"])
    assert ask(lab, timeout=0.3) is None
