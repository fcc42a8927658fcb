# SPDX-License-Identifier: Apache-2.0
"""Connections handed to a proxy on the node: both addresses intact, policy first, no listener no connection."""
import socket
import time

import pytest

from lab import ALLOW, DENY, OUTSIDE4, Lab, Probe
from objects import allow_to, intercept, policy, proxy
from scenes import echoed, eventually, member, serve
from steering import ENGINES

PROXY_PORT = 15001


def rule(action="Intercept", to=None, port=80, **more):
    made = {"name": action.lower(), "action": action, "to": to or [{"networks": [f"{OUTSIDE4}/32"]}],
            "protocols": [{"tcp": {"destinationPort": {"number": port}}}], **more}
    if action == "Intercept":
        made.setdefault("proxy", "gw")
    return made


def three(lab, engine):
    """a and b, an outside host, and an agent."""
    lab.a, lab.b = lab.pod("a"), lab.pod("b")
    lab.engine, lab.running = engine, lab.agent(datapath={"engine": engine})
    lab.items = [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
    lab.interception = [proxy("gw", PROXY_PORT), intercept("llm", {"name": "a"}, [rule()])]
    lab.listen = lambda: lab.prober.listen(lab.node, PROXY_PORT, ip="0.0.0.0", transparent=True)
    return lab


def begin(lab):
    """What a sends to the outside host's port 80 goes to a proxy on the node, where nobody listens yet."""
    serve(lab, lab.b, lab.outside, ports=(80, 81))
    lab.running.api.put_state(lab.items + lab.interception)
    eventually(lambda: not any(p["listeners"] for p in lab.running.api.status()["proxies"]))
    lab.before = 0
    lab.before = counted(lab)
    return lab


@pytest.fixture(scope="module", params=ENGINES)
def shared_node(request):
    with Lab(outside=True) as lab:
        yield three(lab, request.param)


@pytest.fixture
def handed(shared_node):
    yield begin(shared_node)
    shared_node.prober.close_listeners()


@pytest.fixture(params=ENGINES)
def own_handed(request, lab_outside):
    """The same, of a test that bends the node."""
    return begin(three(lab_outside, request.param))


def tried(lab, source, destination=OUTSIDE4, port=80, expect=ALLOW, **options):
    probe, = lab.prober.probe([Probe(source, destination, port, expect=expect, **options)])
    return probe


def counted(lab, **labels):
    """Connections that were handed over in this test."""
    return lab.running.api.metrics()("penstock_intercepted_connections_total", proxy="gw", **labels) - lab.before


def test_the_proxy_sees_both_addresses(handed):
    lab = handed
    lab.listen()
    probe = tried(lab, lab.a, bind=(lab.a.ip4, 41234))
    assert probe.ok, probe
    assert probe.peer == (lab.a.ip4, 41234, OUTSIDE4, 80)
    assert counted(lab, engine=lab.engine) == 1


def test_a_far_destination_that_nobody_serves(handed):
    lab = handed
    lab.listen()
    lab.running.api.put_object(intercept("llm", {"name": "a"}, [rule(to=[{"networks": ["203.0.113.0/24"]}], port=443)]))
    probe = tried(lab, lab.a, "203.0.113.77", 443)
    assert probe.ok and probe.peer[2:] == ("203.0.113.77", 443)


def test_only_what_the_rules_say_is_handed_over(handed):
    lab = handed
    lab.listen()
    for source, destination, port in ((lab.a, OUTSIDE4, 81), (lab.b, OUTSIDE4, 80), (lab.a, lab.b.ip4, 80)):
        probe = tried(lab, source, destination, port)
        assert probe.ok and probe.peer[2].removeprefix("::ffff:") == destination and probe.peer[0] != "127.0.0.1"
    assert counted(lab) == 0
    lab.running.api.put_object(intercept("llm", {"name": "a"}, [rule("Bypass"), rule()]))
    assert tried(lab, lab.a).ok and counted(lab) == 0, "the first matching rule wins"
    lab.running.api.put_object(intercept("earlier", {"name": "a"}, [rule()], priority=1))
    assert tried(lab, lab.a).ok and counted(lab) == 1, "the lower priority comes first"


def test_what_policy_denies_is_not_handed_over(handed):
    lab = handed
    lab.listen()
    denied = policy("s", "a-out", {"name": "a"}, types=["Egress"])
    lab.running.api.put_object(denied)
    assert tried(lab, lab.a, expect=DENY).result == DENY
    assert counted(lab) == 0
    lab.running.api.put_object(allow_to("s", "a-out", {"name": "a"}, [{"ipBlock": {"cidr": f"{OUTSIDE4}/32"}}]))
    assert tried(lab, lab.a).ok and counted(lab) == 1


def test_a_local_destination_is_asked_too(handed):
    lab = handed
    lab.listen()
    to_b = rule(to=[{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"name": "b"}}}}])
    lab.running.api.put_object(intercept("llm", {"name": "a"}, [to_b]))
    probe = tried(lab, lab.a, lab.b.ip4)
    assert probe.ok and probe.peer[2:] == (lab.b.ip4, 80) and counted(lab) == 1
    lab.running.api.put_object(policy("s", "b-in", {"name": "b"}, types=["Ingress"]))
    assert tried(lab, lab.a, lab.b.ip4, expect=DENY).result == DENY
    assert counted(lab) == 1


def test_no_listener_refuses_and_counts(handed):
    lab = handed
    before = lab.running.api.metrics()("penstock_packets_total", reason="NoListener")
    assert tried(lab, lab.a, expect=DENY).result == DENY
    assert lab.running.api.metrics()("penstock_packets_total", reason="NoListener") > before
    lab.listen()
    assert tried(lab, lab.a).ok and counted(lab) == 1


def test_no_listener_may_mean_bypass(handed):
    lab = handed
    lab.running.api.put_object(proxy("gw", PROXY_PORT, unavailable="Bypass"))
    probe = tried(lab, lab.a)
    assert probe.ok and counted(lab) == 0
    lab.listen()
    assert tried(lab, lab.a).ok and counted(lab) == 1


def test_a_proxy_that_restarts_takes_connections_within_a_second(handed):
    lab = handed
    lab.listen()
    assert tried(lab, lab.a).ok
    lab.prober.close_listeners()
    assert tried(lab, lab.a, expect=DENY).result in (DENY, "ECONNREFUSED")
    lab.listen()
    begun = time.monotonic()
    eventually(lambda: tried(lab, lab.a).ok)
    assert time.monotonic() - begun < 1


def test_a_handed_connection_stays_while_policy_allows_it(handed):
    lab = handed
    lab.listen()
    with lab.a.entered():
        client = socket.create_connection((OUTSIDE4, 80), timeout=2)
    assert echoed(lab, client, b"one") and counted(lab) == 1
    lab.running.api.delete_object("InterceptPolicy", "", "llm")
    assert echoed(lab, client, b"two"), "it stays with the proxy"
    assert tried(lab, lab.a).ok and counted(lab) == 1, "a new one goes directly"
    lab.running.api.put_object(policy("s", "a-out", {"name": "a"}, types=["Egress"]))
    assert not echoed(lab, client, b"three", 0.4), "policy comes first"


def test_a_new_rule_leaves_running_connections_alone(handed):
    lab = handed
    lab.listen()
    lab.running.api.delete_object("InterceptPolicy", "", "llm")
    with lab.a.entered():
        client = socket.create_connection((OUTSIDE4, 80), timeout=2)
    assert echoed(lab, client, b"one")
    lab.running.api.put_state(lab.items + lab.interception)
    assert echoed(lab, client, b"two") and counted(lab) == 0


def test_interception_outlives_the_agent(handed):
    lab = handed
    lab.listen()
    lab.running.kill9()
    assert tried(lab, lab.a).ok
    lab.running.start()
    probe = tried(lab, lab.a)
    assert probe.ok and probe.peer[2:] == (OUTSIDE4, 80)


@pytest.mark.parametrize("settings", [{"all.rp_filter": 1, "default.rp_filter": 1}, {"all.rp_filter": 2},
                                      {"all.src_valid_mark": 1, "all.rp_filter": 1}], ids=str)
def test_reverse_path_filters_do_not_eat_it(own_handed, settings):
    lab = own_handed
    lab.listen()
    for key, value in settings.items():
        lab.node.sysctl(f"net.ipv4.conf.{key}", value)
        lab.node.sysctl(f"net.ipv4.conf.{lab.a.interface}.{key.split('.')[1]}", value)
    assert tried(lab, lab.a).ok and counted(lab) == 1
