# SPDX-License-Identifier: Apache-2.0
"""Flow records beside what is known of the traffic, and beside what explain says of it: one lab, many cases."""
import contextlib
import socket

import pytest

from cluster import UPLINKS, Cluster, into
from kubeproxy import MODES
from lab import DENY, NODE4, OUTSIDE4, OUTSIDE6, Probe
from objects import allow_to, cluster_policy, namespace
from packets import ip, udp
from scenes import IN_B, eventually, member, serve
from steering import FAMILIES, World
from talk import Client, ask
from test_flows import named, of, probe, records, send, told

EVERYWHERE = [{"networks": ["0.0.0.0/0", "::/0"]}]
ONLY_A = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"name": "a"}}}}


@pytest.fixture(scope="module")
def world():
    """As test_flows.scene, but what is refused gets an answer."""
    with World("a", "b", "c", datapath={"denyWith": "reject"}) as made:
        serve(made, made.b, ports=(81,))
        made.prober.listen(made.b, 80, "UDP")
        made.rules = [namespace("s"), IN_B]
        made.put(*made.rules)
        yield made


def explained(world, source, destination, port, protocol="TCP", family=4):
    return world.running.api.expect("POST", "/v1/explain", {
        "source": source, "destination": destination, "protocol": protocol, "port": port, "family": f"IPv{family}"}).json


@FAMILIES
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_an_answered_refusal_is_rejected_by_the_rule_that_explain_names(world, family, protocol):
    answer = "ECONNREFUSED" if protocol == "TCP" else "EHOSTUNREACH" if family == 4 else "EACCES"
    port = probe(world, world.c, world.address("b", family), 80, protocol, answer)
    one, = told(world, port, "Refused")
    said = explained(world, {"workload": "s/c"}, {"workload": "s/b"}, 80, protocol, family)
    assert (one["verdict"], one["reason"], one["direction"]) == ("Rejected", "Isolated", "Ingress")
    assert one["rule"] == said["ingress"]["rule"] and said["verdict"] == "Deny"
    assert (one["family"], one["protocol"], one["revision"]) == (f"IPv{family}", protocol, said["revision"])
    assert one in records(world, verdict="Rejected", workload="s/c", protocol=protocol)


@pytest.mark.parametrize("tier, action", [("Admin", "Deny"), ("Baseline", "Deny"), ("Admin", "Accept")])
def test_rules_of_cluster_policies(world, tier, action):
    other = {"name": "elsewhere", "action": "Accept", "to": [{"networks": ["192.0.2.0/24"]}]}
    mine = {"name": "everywhere", "action": action, "to": EVERYWHERE}
    world.put(namespace("s"), cluster_policy("cnp", tier, 7, ONLY_A, egress=[other, mine]))
    passes = action == "Accept"
    port = probe(world, world.a, OUTSIDE4, 4711, expect="ECONNREFUSED")  # by the other end, or by the rule
    one, = told(world, port, "Closed" if passes else "Refused")
    said = explained(world, {"workload": "s/a"}, {"ip": OUTSIDE4}, 4711)
    assert (one["verdict"], one["reason"]) == ("Forwarded" if passes else "Rejected", "Policy")
    assert one["rule"] == said["egress"]["rule"] == \
        named("ClusterNetworkPolicy", "cnp", "Egress", 1, "everywhere", space="")
    world.put(*world.rules)


def test_of_two_rules_that_allow_the_senders_is_told(world):
    out = allow_to("s", "a-out", {"name": "a"}, [{"podSelector": {}}])
    world.put(*world.rules, out)
    for one in told(world, ask(world.a, world.b.ip4)["peer"][1], "Opened", "Closed"):
        assert (one["direction"], one["rule"]) == ("Egress", named("NetworkPolicy", "a-out", "Egress"))
    world.put(*world.rules)


@FAMILIES
def test_datagrams_are_counted_to_the_byte(world, family):
    """Both ways, headers included; and there is no handshake."""
    target = world.address("b", family)
    with world.a.entered(), socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((target, 80))
        for _ in range(3):
            sock.send(b"x" * 100)
            eventually(lambda: heard(world, sock) == 100, 5)
        one, = [c for c in records(world, "/v1/connections", protocol="UDP") if c["source"]["port"] == sock.getsockname()[1]]
    assert (one["packets"], one["bytes"]) == (6, 6 * (100 + 8 + (20 if family == 4 else 40)))
    assert "handshakeSeconds" not in one and one["durationSeconds"] > 0


def heard(world, sock):
    world.prober._turn(0.01)
    try:
        return len(sock.recv(200, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return 0


@FAMILIES
def test_echoes_are_one_connection(world, family):
    target = world.address("c", family)
    world.a.run("ping", "-c", "3", "-i", "0.05", target)
    protocol = "ICMP" if family == 4 else "ICMPv6"
    one, = [c for c in records(world, "/v1/connections", protocol=protocol) if c["destination"]["ip"] == target]
    assert (one["packets"], one["bytes"]) == (6, 6 * (64 + (20 if family == 4 else 40)))
    assert "handshakeSeconds" not in one
    opened, = records(world, protocol=protocol, ip=target)
    assert (opened["event"], opened["source"]["port"]) == ("Opened", opened["destination"]["port"])


def test_what_a_stream_carried(world):
    """As the client's kernel counted it; writes are small, for a packet here may be many on a wire (GSO)."""
    with Client(world.a, world.b.ip6) as client:
        client.hello()
        for _ in range(20):
            client.echo(b"x" * 1000)
        port = client.ends[1]
        one, = [c for c in records(world, "/v1/connections", protocol="TCP") if c["source"]["port"] == port]
        info = client.sock.getsockopt(socket.IPPROTO_TCP, 11, 256)  # TCP_INFO
        sent, received = (int.from_bytes(info[at:at + 4], "little") for at in (136, 140))
    assert one["packets"] == sent + received
    closed = told(world, port, "Opened", "Closed")[1]
    assert closed["packets"] >= one["packets"] + 2 and 0 < closed["bytes"] - one["bytes"] <= 4 * 72
    assert 40 * 1000 + one["packets"] * 60 < one["bytes"] < 40 * 1000 + one["packets"] * 80 + 500


def test_who_opens_from_outside(world):
    for family, source in ((4, OUTSIDE4), (6, OUTSIDE6)):
        port = ask(world.outside, world.address("c", family))["peer"][1]
        for one in told(world, port, "Opened", "Closed"):
            assert (one["direction"], one["reason"], one["rule"]) == ("Ingress", "Default", None)
            assert one["source"] == {"ip": source, "port": port, "workload": None}
            assert one["destination"]["workload"] == "s/c"


def test_to_the_node_itself(world):
    world.prober.listen(world.node, 8000)
    port = probe(world, world.a, NODE4, 8000)
    for one in told(world, port, "Opened", "Closed"):
        assert (one["direction"], one["destination"]["ip"], one["destination"]["workload"]) == ("Egress", NODE4, None)


def test_a_spoofed_source_is_of_who_sent_it(world):
    """What a sends in the name of c says nothing of c."""
    send(world.a, ip(world.c.ip4, OUTSIDE4, "UDP", udp(40001, 53)))
    one, = told(world, 40001, "Refused")
    assert (one["verdict"], one["reason"], one["direction"]) == ("Dropped", "Spoofed", "Egress")
    assert one["source"] == {"ip": world.c.ip4, "port": 40001, "workload": "s/a"}
    assert of(world, 40001, workload="s/a") and not of(world, 40001, workload="s/c")


def test_what_cannot_be_read(world):
    send(world.a, ip(world.a.ip6, OUTSIDE6, "TCP", b"\1\2\3"))
    eventually(lambda: any(one["reason"] == "Malformed" for one in records(world, ip=OUTSIDE6)), 5)
    one = [one for one in records(world, ip=OUTSIDE6) if one["reason"] == "Malformed"][0]
    assert (one["event"], one["verdict"], one["family"], one["protocol"], one["rule"]) == \
        ("Refused", "Dropped", "IPv6", "TCP", None)


def test_a_connection_keeps_its_owners_name(world):
    """Who opened it had another name then."""
    client = Client(world.c, OUTSIDE6)
    client.hello()
    renamed = [one for one in world.items if one["metadata"]["name"] != "c"] + \
        [member("later", world.c, interface=world.c.interface)]
    world.running.api.put_state([*renamed, *world.rules])
    client.close()
    assert {one["source"]["workload"] for one in told(world, client.ends[1], "Opened", "Closed")} == {"s/c"}
    assert told(world, ask(world.c, OUTSIDE6)["peer"][1], "Opened", "Closed")[0]["source"]["workload"] == "s/later"
    world.put(*world.rules)


def test_a_policy_may_refuse_and_allow_again(world):
    """One Opened and one Closed, however often it is refused in between."""
    with Client(world.a, OUTSIDE4) as client:
        client.hello()
        before = told(world, client.ends[1], "Opened")[0]["revision"]
        world.put(*world.rules, cluster_policy("audit", "Admin", 1, ONLY_A, egress=[
            {"name": "seen", "action": "Accept", "to": EVERYWHERE}]))
        assert client.echo()
    opened, closed = told(world, client.ends[1], "Opened", "Closed")
    assert (opened["reason"], opened["rule"], opened["revision"]) == ("Default", None, before)
    assert (closed["reason"], closed["rule"]["name"], closed["revision"]) == ("Policy", "audit", before + 1)
    world.put(*world.rules)


def test_metrics_rise_by_what_happened(world):
    before = world.running.api.metrics()
    for _ in range(3):
        ask(world.a, world.b.ip4)
        probe(world, world.c, world.b.ip4, 80, expect="ECONNREFUSED")
        last = probe(world, world.c, world.b.ip6, 80, "UDP", "EACCES")
    told(world, last, "Refused")
    now = world.running.api.metrics()

    def grown(name, **labels):
        return now(name, **labels) - before(name, **labels)
    assert grown("penstock_packets_total", direction="Ingress", verdict="Rejected", reason="Isolated") == 6
    assert grown("penstock_bytes_total", verdict="Rejected") == 3 * 60 + 3 * (40 + 8 + 16)
    hits = {"kind": "NetworkPolicy", "policy_namespace": "s", "policy": "b-in", "direction": "Ingress"}
    assert grown("penstock_rule_hits_total", rule="0", **hits) == 3
    assert grown("penstock_rule_hits_total", rule="isolation", **hits) == 6
    assert grown("penstock_handshake_duration_seconds_count") == 3
    assert grown("penstock_events_lost_total") == 0


def test_every_record_of_this_file_can_be_explained(world):
    for one in records(world, limit=150):
        answer = world.running.api.request("POST", "/v1/explain", {"flow": one})
        assert answer.status == 200 and answer.json["past"]["verdict"] == one["verdict"], (one, answer)


def test_a_full_table_is_told():
    """What it has no room for passes, and is opened and closed like the others."""
    with contextlib.ExitStack() as stack, World("a", "b", datapath={"connectionsMax": 1024}) as small:
        small.put(namespace("s"))
        for _ in range(1024):
            stack.enter_context(Client(small.a, small.b.ip4))
        with Client(small.a, small.b.ip4) as last:
            last.hello()
            opened, = told(small, last.ends[1], "Opened")
        closed = told(small, last.ends[1], "Opened", "Closed")[1]
    assert (opened["verdict"], opened["reason"]) == ("Forwarded", "TableFull")
    assert closed["handshakeSeconds"] == opened["handshakeSeconds"] > 0


@pytest.fixture(scope="module")
def cluster():
    with Cluster(MODES[0]) as made:
        made.web = made.expose("web", "b")
        made.give([made.web], into("b", "a"))
        yield made


@FAMILIES
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_the_rule_that_let_it_into_a_service(cluster, family, protocol):
    """Its backend's ingress decided: the address that the client knows is no workload's."""
    target = cluster.web.ips[family == 6]
    port = probe(cluster, cluster.a, target, 80, protocol)
    found = told(cluster, port, *(["Opened", "Closed"] if protocol == "TCP" else ["Opened"]))
    rule = named("NetworkPolicy", "b-in", "Ingress")
    for one in found:
        assert (one["verdict"], one["reason"], one["direction"], one["rule"]) == ("Forwarded", "Policy", "Ingress", rule)
        assert one["destination"]["ip"] == target
        assert one["backend"] == {"ip": cluster.address("b", family), "port": 8080, "workload": "s/b"}
    said = explained(cluster, {"workload": "s/a"}, {"ip": target}, 80, protocol, family)
    assert said["ingress"]["rule"] == rule
    held = [c for c in records(cluster, "/v1/connections") if c["source"]["port"] == port]
    assert [c["rule"] for c in held] == ([] if protocol == "TCP" else [rule])


def test_a_service_that_policy_refuses(cluster):
    port = probe(cluster, cluster.c, cluster.web.ips[0], 80, expect=DENY)
    eventually(lambda: of(cluster, port), 5)
    found = of(cluster, port)
    assert {one["event"] for one in found} == {"Refused"}
    assert (found[0]["destination"]["workload"], found[0]["destination"]["port"]) == ("s/b", 8080)


@FAMILIES
def test_masquerade_hides_nobody(cluster, family):
    """By a node port: the source is who came, not this node."""
    outside = OUTSIDE4 if family == 4 else OUTSIDE6
    done, = cluster.prober.probe([Probe(cluster.outside, UPLINKS[family == 6], cluster.web.node_port, expect=DENY)])
    assert done.ok, done

    def mine():
        return records(cluster, ip=outside, port=8080, verdict="Dropped")
    eventually(mine, 5)
    one = mine()[-1]
    assert (one["event"], one["reason"], one["destination"]["workload"]) == ("Refused", "Isolated", "s/b")
    assert (one["source"]["ip"], one["source"]["workload"]) == (outside, None)
    said = cluster.running.api.expect("POST", "/v1/explain", {"flow": one}).json
    assert (said["verdict"], said["ingress"]["rule"]) == ("Deny", one["rule"])
