# SPDX-License-Identifier: Apache-2.0
"""What /v1/flows and /v1/connections say about real traffic: every record is of the described shape, and is taken by
explain as it is."""
import contextlib
import json
import os
import re
import socket
import subprocess
import time
from datetime import datetime

import pytest

from api import UnixConnection
from cluster import Cluster, into
from kubeproxy import MODES
from lab import ALLOW, BUILD, DENY, NODE4, OUTSIDE4, OUTSIDE6, Probe
from netns import run
from objects import allow_from, audited, deny_all, namespace
from packets import ethernet, icmp, ip
from proxies import Relay
from scenes import echoed, eventually, serve
from steering import ENGINES, FAMILIES, World, egress, to
from talk import Client, ask
from test_openapi import schema_of, validate

WITHIN = 5  # seconds; it is tens of milliseconds on an idle machine
ANYBODY = [{"ipBlock": {"cidr": cidr}} for cidr in ("0.0.0.0/0", "::/0")]
IN_B = allow_from("s", "b-in", {"name": "b"}, [{"podSelector": {"matchLabels": {"name": "a"}}}],
                  [{"protocol": p, "port": 80} for p in ("TCP", "UDP")])
SEEN, TIMER = 24, 16  # struct ps_conn, struct ps_conn_live
MOMENT = re.compile(r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")


def records(world, path="/v1/flows", **query):
    """Each is of the shape that api/openapi.yaml describes."""
    found = world.running.api.expect("GET", path, query=query).json
    validate(found, schema_of("FlowList"))
    for one in found["items"]:
        assert ("time" in one) == ("event" in one) == (path == "/v1/flows")
        assert path != "/v1/flows" or MOMENT.match(one["time"])
    return found["items"]


def of(world, port, /, **query):
    """What is told of the connection with this client's port."""
    return [one for one in records(world, **{"limit": 200, **query}) if one["source"]["port"] == port]


def told(world, port, /, *events, **query):
    """Waits for these events of one connection, and no others."""
    eventually(lambda: len(of(world, port, **query)) >= len(events), WITHIN)
    found = of(world, port, **query)
    assert [one["event"] for one in found] == list(events), found
    return found


def refusal(world, port):
    """Of an attempt that was refused, once or again and again."""
    eventually(lambda: of(world, port), WITHIN)
    found = of(world, port)
    assert {one["event"] for one in found} == {"Refused"}, found
    return found[0]


def named(kind, name, direction, index=0, rule_name="", space="s"):
    return {"kind": kind, "namespace": space, "name": name, "direction": direction, "index": index, "ruleName": rule_name}


@pytest.fixture(scope="module")
def scene():
    """a may reach b's port 80, nobody else may; what a sends to port 80 outside goes to the proxy gw."""
    with World("a", "b", "c") as world:
        serve(world, world.b, ports=(81,))
        world.prober.listen(world.b, 80, "UDP")
        world.rules = [namespace("s"), IN_B, egress()]
        world.put(*world.rules)
        yield world


def explained(world):
    """All that was told so far can be asked about."""
    for one in records(world)[-400:]:
        answer = world.running.api.request("POST", "/v1/explain", {"flow": one})
        assert answer.status == 200, (one, answer)
        assert answer.json["past"]["verdict"] == one["verdict"]


def probe(world, source, target, port=80, protocol="TCP", expect=ALLOW, **options):
    done, = world.prober.probe([Probe(source, target, port, protocol, expect=expect, **options)])
    assert done.ok, done
    return done.local[1]


def talked(source, ip):
    """One short talk with somebody on port 80; the client's port."""
    return ask(source, ip)["peer"][1]


# ---- what is told ----

@FAMILIES
def test_a_connection_opens_and_closes(scene, family):
    port = 30000 + family
    with Client(scene.a, scene.address("b", family), bind=("::" if family == 6 else "0.0.0.0", port)) as client:
        client.hello()
        opened, = told(scene, port, "Opened")
    opened, closed = told(scene, port, "Opened", "Closed")
    for one in (opened, closed):
        assert (one["verdict"], one["reason"], one["direction"]) == ("Forwarded", "Policy", "Ingress")
        assert (one["family"], one["protocol"], one["proxy"]) == (f"IPv{family}", "TCP", None)
        assert one["source"] == {"ip": scene.address("a", family), "port": port, "workload": "s/a"}
        assert one["destination"] == {"ip": scene.address("b", family), "port": 80, "workload": "s/b", "names": []}
        assert one["rule"] == named("NetworkPolicy", "b-in", "Ingress")
        assert one["revision"] == scene.running.api.state()["revision"]
        assert 0 < one["handshakeSeconds"] < WITHIN
    assert "packets" not in opened and opened["time"] < closed["time"]
    assert closed["packets"] >= 8 and closed["bytes"] > 8 * 40 and closed["durationSeconds"] > closed["handshakeSeconds"]
    assert 0 < closed["roundTripSeconds"] < WITHIN and closed["retransmits"] >= 0


@FAMILIES
def test_datagrams_have_a_beginning(scene, family):
    port = probe(scene, scene.a, scene.address("b", family), protocol="UDP")
    one, = told(scene, port, "Opened")
    assert (one["verdict"], one["protocol"], one["rule"]) == \
        ("Forwarded", "UDP", named("NetworkPolicy", "b-in", "Ingress"))


@FAMILIES
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_refusal_is_told_with_the_policy(scene, family, protocol):
    port = probe(scene, scene.a, scene.address("b", family), 81, protocol, DENY)
    assert of(scene, port), "who asks sees what was before, at once"
    one = refusal(scene, port)
    assert (one["verdict"], one["reason"], one["direction"]) == ("Dropped", "Isolated", "Ingress")
    assert one["rule"] == named("NetworkPolicy", "b-in", "Ingress", -1)


def test_the_other_end_refuses(scene):
    """Closed, and never opened."""
    port = probe(scene, scene.a, OUTSIDE4, 4711, expect="ECONNREFUSED")
    one, = told(scene, port, "Closed")
    assert one["verdict"] == "Forwarded" and one["packets"] == 2 and "handshakeSeconds" not in one


def test_echoes_have_an_identifier(scene):
    packet = ip(scene.a.ip4, OUTSIDE4, "ICMP", icmp(8, rest=b"\x12\x34\0\1"))
    send(scene.a, packet)
    one, = told(scene, 0x1234, "Opened", protocol="ICMP")
    assert (one["protocol"], one["source"]["workload"], one["destination"]["ip"]) == ("ICMP", "s/a", OUTSIDE4)


def send(space, packet):
    """To the gateway."""
    with space.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        sock.send(ethernet(packet))


def test_a_source_that_is_not_its_own(scene):
    port = probe(scene, scene.a, scene.b.ip4, expect=DENY, bind=("10.9.9.9", 30100), transparent=True)
    one = refusal(scene, port)
    assert (one["reason"], one["source"]["ip"], one["source"]["workload"]) == ("Spoofed", "10.9.9.9", "s/a")
    assert one["rule"] is None


def test_the_nodes_own_says_which_process(scene):
    port = talked(scene.node, scene.b.ip4)
    opened = told(scene, port, "Opened", "Closed")[0]
    assert (opened["reason"], opened["source"]["ip"], opened["source"]["workload"]) == ("Node", NODE4, None)
    assert re.match("python3|pytest", opened["process"]["name"]) and opened["process"]["pid"] > 1


def test_audited(scene):
    scene.put(*scene.rules, audited(deny_all("s", "trial", {"name": "c"}, types=["Egress"])))
    port = probe(scene, scene.c, OUTSIDE4, 4711, expect="ECONNREFUSED")
    opened, closed = told(scene, port, "Opened", "Closed")
    assert (opened["verdict"], opened["reason"], opened["direction"]) == ("Audited", "Isolated", "Egress")
    assert opened["rule"] == named("NetworkPolicy", "trial", "Egress", -1)
    scene.put(*scene.rules)


def test_a_policy_ends_what_lives(scene):
    before = scene.running.api.state()["revision"]
    with Client(scene.a, scene.b.ip4, bind=("", 30101), timeout=0.5) as client:
        client.hello()
        told(scene, 30101, "Opened")
        scene.put(namespace("s"), deny_all("s", "closed", {"name": "b"}, types=["Ingress"]))
        with contextlib.suppress(OSError):
            client.echo()
        eventually(lambda: len(of(scene, 30101)) >= 2, WITHIN)
    scene.put(*scene.rules)
    opened, refused = of(scene, 30101)[:2]
    assert (refused["event"], refused["reason"], refused["rule"]["name"]) == ("Refused", "Isolated", "closed")
    assert opened["revision"] == before and refused["revision"] == before + 1


def test_names_outlive_the_workload(scene):
    port = probe(scene, scene.c, OUTSIDE4, 4711, expect="ECONNREFUSED")
    told(scene, port, "Closed")
    scene.running.api.patch(delete=[("Workload", "s", "c")])
    assert of(scene, port, workload="s/c")[0]["source"]["workload"] == "s/c"
    later = probe(scene, scene.c, OUTSIDE4, 4711, expect="ECONNREFUSED")
    eventually(lambda: not of(scene, later, workload="s/c"), WITHIN)
    scene.put(*scene.rules)


# ---- proxies ----

@pytest.fixture(scope="module", params=ENGINES)
def steered(request):
    with World("a", "b", engine=request.param) as world:
        yield world


@FAMILIES
def test_what_a_proxy_gets(steered, family):
    target = steered.address("outside", family)
    steered.begin(egress(name="llm"))
    refused = probe(steered, steered.a, target, expect=DENY)
    front = steered.front()
    steered.usable()
    who = ask(steered.a, target)
    assert who["server"] == "proxy"
    port = who["peer"][1]
    for one in told(steered, port, "Opened", "Closed"):
        assert (one["verdict"], one["reason"], one["direction"]) == ("Intercepted", "Intercept", "Egress")
        assert one["rule"] == named("InterceptPolicy", "llm", "Egress", rule_name="intercept", space="")
        assert (one["proxy"], one["source"]["workload"], one["destination"]["ip"]) == ("gw", "s/a", target)
    one = of(steered, refused)[0]
    assert (one["event"], one["verdict"], one["reason"], one["proxy"]) == ("Refused", "Dropped", "NoListener", "gw")
    assert one["rule"]["name"] == "llm"
    assert records(steered, verdict="intercepted", ip=target)[-1]["source"]["port"] == port
    explained(steered)
    front.close()
    steered.end()


def test_what_a_proxy_opens(steered):
    steered.begin(egress(to(*steered.b.ips), name="llm"))
    relay = Relay(steered)
    steered.proxies.append(relay)
    steered.usable()
    assert ask(steered.a, steered.b.ip4)["server"] == "b"
    told(steered, relay.seen()[0][1], "Opened", "Closed", verdict="Intercepted")
    told(steered, [one for one in records(steered, ip=NODE4) if one.get("onward")][0]["source"]["port"], "Opened", "Closed")
    one = [one for one in records(steered, ip=NODE4) if one.get("onward")][0]
    assert (one["verdict"], one["proxy"]) == ("Forwarded", None)
    assert (one["destination"]["port"], one["destination"]["workload"]) == (80, "s/b")
    steered.end()


def test_where_a_service_leads():
    """The Service's address is the destination, the pod that got it is said beside it, and both ways are one flow."""
    with Cluster(MODES[0]) as world:
        web = world.expose("web", "b")
        world.give([web], into("b", "a"))
        port = probe(world, world.a, web.ips[0])
        found = told(world, port, "Opened", "Closed")
        for one in found:
            assert (one["destination"]["ip"], one["destination"]["port"]) == (web.ips[0], 80)
            assert one["backend"] == {"ip": world.address("b", 4), "port": 8080, "workload": "s/b"}
            assert one["source"]["workload"] == "s/a"


# ---- which, and how many ----

def test_filters(scene):
    for attempt in range(3):
        talked(scene.a, scene.b.ip4)
        probe(scene, scene.a, scene.b.ip6, 81, expect=DENY)
        last = probe(scene, scene.a, scene.b.ip4, protocol="UDP")
    told(scene, last, "Opened")
    everything = records(scene)

    def matches(**query):
        found = records(scene, **query)
        assert found and len(found) < len(everything)
        return found

    assert all("s/a" in (one["source"]["workload"], one["destination"]["workload"]) for one in matches(workload="s/a"))
    assert all(one["verdict"] == "Dropped" for one in matches(verdict="Dropped"))
    assert matches(verdict="Refused") == matches(verdict="Dropped")
    assert records(scene, workload="s/*") == [one for one in everything if one["source"]["workload"] or one["destination"]["workload"]]
    assert records(scene, workload="other/*") == []
    assert all(one["protocol"] == "UDP" for one in matches(protocol="UDP"))
    assert all(one["destination"]["port"] == 81 for one in matches(port=81))
    assert all(scene.b.ip6 in (one["source"]["ip"], one["destination"]["ip"]) for one in matches(ip=scene.b.ip6))
    both = matches(workload="s/b", verdict="Dropped", protocol="TCP", port=81, ip=scene.b.ip6)
    assert both == [one for one in everything if one["destination"]["workload"] == "s/b" and one["verdict"] == "Dropped" and
                    one["protocol"] == "TCP" and one["destination"]["port"] == 81 and
                    scene.b.ip6 in (one["source"]["ip"], one["destination"]["ip"])]
    assert matches(limit=2, port=81) == matches(port=81)[-2:]
    assert records(scene, workload="s/nobody") == []
    times = [datetime.fromisoformat(one["time"].replace("Z", "+00:00")).timestamp() for one in everything]
    assert all(later > earlier - 1 for earlier, later in zip(times, times[1:])), "newest last, but for what CPUs did at once"
    for wrong in ("workload=b", "verdict=Allow", "protocol=GRE", "port=0", "ip=10.0.0", "limit=x"):
        for path in ("/v1/flows", "/v1/connections"):
            answer = scene.running.api.request("GET", f"{path}?{wrong}")
            assert answer.status == 400 and wrong.partition("=")[0] in answer.text


class Follower:
    def __init__(self, world, query=""):
        self.connection = UnixConnection(world.running.socket, timeout=WITHIN)
        self.connection.request("GET", "/v1/flows?follow=true" + query)
        self.answer = self.connection.getresponse()
        assert (self.answer.status, self.answer.headers["Content-Type"]) == (200, "application/x-ndjson")

    def next(self):
        one = json.loads(self.answer.readline())
        validate(one, schema_of("FlowRecord"))
        return one

    def close(self):
        self.connection.close()


def test_followers_hear_at_once(scene):
    probe(scene, scene.a, scene.b.ip4, 81, expect=DENY)
    everyone, some = Follower(scene, "&limit=2"), Follower(scene, "&port=80&protocol=UDP&limit=1")
    assert [everyone.next(), everyone.next()] == records(scene, limit=2)
    assert some.next() == records(scene, port=80, protocol="UDP", limit=1)[0]
    begun = time.monotonic()
    port = probe(scene, scene.a, scene.b.ip4, protocol="UDP")
    while (one := everyone.next())["source"]["port"] != port:
        pass
    assert time.monotonic() - begun < WITHIN and one["event"] == "Opened"
    assert some.next() == one
    everyone.close()
    some.close()


# ---- what is open ----

@FAMILIES
def test_connections(scene, family):
    port = 30200 + family

    def mine(**query):
        return [one for one in records(scene, "/v1/connections", **query) if one["source"]["port"] == port]

    target = scene.address("b", family)
    with Client(scene.a, target, bind=("::" if family == 6 else "0.0.0.0", port)) as client:
        client.hello()
        eventually(mine, WITHIN)
        before, = mine()
        assert (before["verdict"], before["rule"]) == ("Forwarded", named("NetworkPolicy", "b-in", "Ingress"))
        assert (before["source"]["workload"], before["destination"]["workload"]) == ("s/a", "s/b")
        client.echo(b"x" * 5000)
        after, = mine(workload="s/b", verdict="Forwarded", protocol="TCP", port=80, ip=target)
        assert after["packets"] > before["packets"] and after["bytes"] > before["bytes"] + 5000
        assert after["durationSeconds"] > before["durationSeconds"] and after["handshakeSeconds"] > 0
        assert len(records(scene, "/v1/connections", limit=1)) == 1
        answer = scene.running.api.request("POST", "/v1/explain", {"flow": after})
        assert answer.status == 200, answer
    eventually(lambda: not mine(), WITHIN)
    datagrams = probe(scene, scene.a, target, protocol="UDP")
    assert [one for one in records(scene, "/v1/connections", protocol="UDP") if one["source"]["port"] == datagrams]


def test_every_record_can_be_explained(scene):
    """What has no name here too: GRE."""
    send(scene.a, ip(scene.a.ip4, OUTSIDE4, 47, bytes(8)))
    eventually(lambda: any(one["protocol"] == "47" for one in records(scene)), WITHIN)
    told(scene, talked(scene.a, scene.b.ip4), "Opened", "Closed")
    refusal(scene, probe(scene, scene.a, scene.b.ip6, 81, expect=DENY))
    explained(scene)


def penstock(scene, *arguments, text=None):
    done = subprocess.run([os.path.join(BUILD, "penstock"), *arguments, "--socket", scene.running.socket], input=text,
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done
    return done.stdout


def test_the_command_line_shows_them(scene):
    port = probe(scene, scene.a, scene.b.ip4, 81, expect=DENY)
    refusal(scene, port)
    shown = penstock(scene, "flows", "--port", "81", "--workload", "s/b", "-o", "json", "--tail", "1")
    one = json.loads(shown)["items"][-1]
    assert one["source"]["port"] == port
    assert "Isolated" in penstock(scene, "explain", "--flow", "-", text=json.dumps(one))
    assert "s/b" in penstock(scene, "flows", "--verdict", "Dropped")
    told(scene, probe(scene, scene.a, scene.b.ip4, protocol="UDP"), "Opened")
    assert "s/b" in penstock(scene, "connections", "-o", "yaml")


# ---- what nobody ends ----

def aged(scene, name, seconds):
    """Every entry of the table was seen last so long ago, for all that its rows say."""
    path = f"{scene.running.pins}/maps/{name}"
    for row in json.loads(run("bpftool", "-j", "map", "dump", "pinned", path).stdout):
        key, value = ([int(byte, 16) for byte in row[part]] for part in ("key", "value"))
        at = SEEN + (TIMER if name.startswith("ps_conn") else 0)
        seen = int.from_bytes(bytes(value[at:at + 8]), "little") - seconds * 10 ** 9
        value[at:at + 8] = seen.to_bytes(8, "little")
        run("bpftool", "map", "update", "pinned", path, "key", *key, "value", *value)


def test_what_is_never_answered_ends(scene):
    """Nothing in the kernel ends it: the agent looks every two seconds."""
    with scene.a.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.sendto(b"x", ("198.51.100.77", 9999))  # nobody has that address
        port = sock.getsockname()[1]
        told(scene, port, "Opened")
        aged(scene, "ps_new4", 61)
        opened, closed = told(scene, port, "Opened", "Closed")
        assert (closed["packets"], closed["source"]["workload"], closed["revision"]) == (1, "s/a", opened["revision"])


# ---- what is lost, and what is not ----

def test_a_new_agent_goes_on_telling(scene):
    """What happens between two agents lies in the ring; a connection that the first saw open is closed for the second."""
    client = Client(scene.a, scene.b.ip4, bind=("", 30300))
    client.hello()
    told(scene, 30300, "Opened")
    scene.running.stop()
    port = probe(scene, scene.a, scene.b.ip4, 81, expect=DENY)
    scene.running.start()
    one = refusal(scene, port)
    assert (one["destination"]["workload"], one["rule"]["name"]) == ("s/b", "b-in")
    assert one["revision"] == scene.running.api.state()["revision"]
    client.close()
    closed = told(scene, 30300, "Closed")[0]
    assert (closed["source"]["workload"], closed["rule"]) == ("s/a", named("NetworkPolicy", "b-in", "Ingress"))


def test_a_flood_of_refusals_hides_no_connection(scene):
    """While nobody reads, they fill half of the ring; what they lose is counted."""
    lost = {stream: scene.running.api.metrics()("penstock_events_lost_total", stream=stream)
            for stream in ("connections", "refusals")}
    scene.running.signal(19)  # SIGSTOP
    try:
        with scene.c.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            for _ in range(14000):
                sock.sendto(b"x", (scene.b.ip4, 53))
        port = talked(scene.a, scene.b.ip4)
    finally:
        scene.running.signal(18)
    told(scene, port, "Opened", "Closed", port=80)
    metrics = scene.running.api.metrics()
    refused = scene.running.api.expect("GET", "/v1/flows?workload=s/c&port=53&verdict=Dropped").text.count('"time"')
    assert metrics("penstock_events_lost_total", stream="refusals") - lost["refusals"] == 14000 - refused > 0
    assert metrics("penstock_events_lost_total", stream="connections") == lost["connections"]


def test_few_are_kept_and_what_is_answered():
    with World("a", "b", flows={"keep": 5}, datapath={"denyWith": "reject"}) as world:
        world.put(namespace("s"))
        follower = Follower(world)
        for _ in range(10):
            ask(world.a, OUTSIDE6)
        seen = [follower.next() for _ in range(20)]
        assert records(world) == seen[-5:]
        world.put(namespace("s"), deny_all("s", "nothing", {"name": "a"}, types=["Egress"]))
        port = probe(world, world.a, OUTSIDE4, 4711, expect="ECONNREFUSED")
        one = follower.next()
        assert (one["event"], one["verdict"], one["reason"], one["source"]["port"]) == ("Refused", "Rejected", "Isolated", port)
        assert records(world, verdict="rejected") == [one]
        follower.close()
