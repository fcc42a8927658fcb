# SPDX-License-Identifier: Apache-2.0
"""Real proxies with their Debian packages and ordinary configurations: what they see, what they carry, as whom they go on.
Most know nothing of TPROXY; penstockd makes their listeners usable. (How they come back: test_proxies_life.py.)"""
import collections
import ipaddress
import json

import pytest

from lab import OUTSIDE4, OUTSIDE6, UPLINK4, UPLINK6
from objects import policy
from proxies import PORT, HAProxy, Nginx, Relay, Socat, example, lacking
from scenes import eventually
from steering import FAMILIES
from talk import Client, ask, fetch
from webproxies import Mitmproxy, Squid, TrafficServer

Case = collections.namedtuple("Case", "program state kept talk start")


def transparent_haproxy(lab, mode="tcp", without=None):
    return HAProxy(lab, whole=[line.replace("mode tcp", f"mode {mode}") for line in example("haproxy.cfg", without)])


def plain_haproxy(lab, mode="tcp", server=f"{OUTSIDE4}:80", bind=("bind 127.0.0.1:15001", "bind ::1:15001"), frontend=(),
                  **options):
    return HAProxy(lab, frontend=[*bind, *frontend], backend=f"server s {server}", mode=mode, **options)


def nginx(lab, kind, without=None):
    return Nginx(lab, whole=example(f"nginx-{kind}.conf", without), kind=kind)


def talk_half_closed(client, megabytes):
    who = client.hello()
    return who, client.pour(megabytes)


def talk_at_once(client, megabytes):
    """For a proxy that ends both ways when one has ended, or may lose what comes just before an end: HAProxy 2.6 takes a short
    read for the last one when the end is announced meanwhile (one connection in some hundred, without Penstock too)."""
    who = client.hello()
    return who, client.pour(megabytes, half_close=False)


def talk_http(client, megabytes):
    who = client.post(megabytes)
    return who, who["wrong"]


# state: Ready, it is transparent by itself; Adopted, the agent has seen to that. kept: it goes on from the client's address.
CASES = {
    "haproxy-tcp-transparent": Case("haproxy", "Ready", True, talk_at_once, transparent_haproxy),
    "haproxy-http-transparent": Case("haproxy", "Ready", True, talk_http, lambda lab: transparent_haproxy(lab, "http")),
    "haproxy-tcp": Case("haproxy", "Ready", False, talk_at_once, lambda lab: transparent_haproxy(lab, without="usesrc")),
    "nginx-stream": Case("nginx", "Adopted", False, talk_at_once, lambda lab: nginx(lab, "stream", "proxy_bind")),
    "nginx-stream-transparent": Case("nginx", "Adopted", True, talk_at_once, lambda lab: nginx(lab, "stream")),
    "nginx-http": Case("nginx", "Adopted", False, talk_http, lambda lab: nginx(lab, "http", "proxy_bind")),
    "nginx-http-transparent": Case("nginx", "Adopted", True, talk_http, lambda lab: nginx(lab, "http")),
    "squid-tproxy": Case("squid", "Ready", True, talk_http, lambda lab: Squid(lab, "tproxy")),
    "squid-intercept": Case("squid", "Adopted", False, talk_http, lambda lab: Squid(lab, "intercept")),
    "mitmproxy": Case("mitmdump", "Adopted", False, talk_http, Mitmproxy),
    "mitmproxy-tcp": Case("mitmdump", "Adopted", False, talk_at_once, lambda lab: Mitmproxy(lab, "--tcp-hosts", ".*")),
    "trafficserver": Case("traffic_server", "Ready", True, talk_http, TrafficServer),
    "relay-client": Case("true", "Ready", True, talk_half_closed, lambda lab: Relay(lab, "--source", "client")),
    "relay-node": Case("true", "Ready", False, talk_half_closed, lambda lab: Relay(lab, "--source", "node")),
}


def needs(program):
    return pytest.mark.skipif(lacking(program) is not None, reason=str(lacking(program)))


def marked(*names):
    return [pytest.param(name, marks=needs(CASES[name].program)) for name in names]


@pytest.mark.parametrize("kind", marked(*CASES))
def test_a_proxy_that_goes_where_the_client_went(gate, kind):
    """Both families, a server outside and a pod; 64 MB there and back; both addresses in its log; the counters."""
    lab, case = gate, CASES[kind]
    front = case.start(lab)
    lab.usable()
    assert {one["state"] for one in lab.proxy_status()["listeners"]} == {case.state}
    assert lab.running.api.metrics()("penstock_proxy_up", proxy="gw") == 1
    expected = []
    for target, family, megabytes in (("outside", 4, 64), ("outside", 6, 8), ("b", 4, 1), ("b", 6, 1)):
        destination = lab.address(target, family)
        with Client(lab.a, destination) as client:
            # mitmproxy keeps what is no HTTP in its memory.
            who, wrong = case.talk(client, min(megabytes, 8) if kind == "mitmproxy-tcp" else megabytes)
            expected.append((*client.ends, destination, 80))
        assert wrong is None, wrong
        assert who["server"] == target and who["local"] == [destination, 80]
        if case.kept:
            assert who["peer"][0] == client.ends[0]
        elif target == "outside":
            assert who["peer"][0] == (UPLINK4 if family == 4 else UPLINK6)
        else:
            assert who["peer"][0] not in lab.a.ips
    assert sorted(front.seen(4)) == sorted(expected), "in its own order: it may have workers"
    assert lab.handed() == 4
    eventually(lambda: lab.onward("client" if case.kept else "node") == 4)
    assert lab.onward("node" if case.kept else "client") == 0
    # What left by the uplink for the server is the proxy's, not what the client sent.
    assert len([syn for syn in lab.wires["outside"].read() if syn[3] == 80]) == 2
    if case.talk is talk_http:
        with Client(lab.a, OUTSIDE4) as client:
            client.begin_post(0, host=lab.b.ip4)
            assert client.end_post(0, 0)["server"] == "outside", "a Host header is no destination"


# ---- proxies that go elsewhere, or answer ----

@FAMILIES
def test_haproxy_that_knows_nothing(gate, family):
    """It connects to one server of its own choice, from the node's address."""
    lab = gate
    front = plain_haproxy(lab)
    lab.usable()
    assert {one["state"] for one in lab.proxy_status()["listeners"]} == {"Adopted"}
    destination = lab.address("b", family)
    with Client(lab.a, destination) as client:
        who, wrong = talk_at_once(client, 64 if family == 4 else 1)
        assert wrong is None
    assert who["server"] == "outside" and who["peer"][0] == UPLINK4 and who["local"] == [OUTSIDE4, 80]
    assert front.seen() == [(*client.ends, destination, 80)]
    assert lab.handed() == 1 and lab.onward("node") == 1


@FAMILIES
def test_haproxy_in_http_mode(gate, family):
    lab = gate
    front = plain_haproxy(lab, "http", frontend=["option forwardfor",
                                                 "http-request set-header x-dst %[dst]:%[dst_port]"])
    lab.usable()
    with Client(lab.a, lab.address("outside", family)) as client:
        who = json.loads(client.get())
    assert who["headers"]["x-forwarded-for"] == client.ends[0]
    assert who["headers"]["x-dst"] == f"{client.destination[0]}:80"
    assert front.seen() == [(*client.ends, *client.destination)] and lab.handed() == 1


@FAMILIES
def test_nginx_http_that_answers_itself(gate, family):
    lab = gate
    front = Nginx(lab, [f"listen {PORT};", f"listen [::]:{PORT};", "location / {",
                        'return 200 "$remote_addr $remote_port $server_addr $server_port";', "}"], kind="http")
    lab.usable()
    with Client(lab.a, lab.address("outside", family)) as client:
        body = client.get().decode()
    assert body == f"{client.ends[0]} {client.ends[1]} {client.destination[0]} 80"
    assert front.seen() == [(*client.ends, *client.destination)] and lab.handed() == 1
    assert lab.wires["outside"].read() == [], "nothing went to the real server"


@needs("socat")
@FAMILIES
def test_socat_that_runs_a_program(gate, family):
    lab = gate
    says = 'SYSTEM:echo "$SOCAT_PEERADDR $SOCAT_PEERPORT $SOCAT_SOCKADDR $SOCAT_SOCKPORT"; exec cat'
    Socat(lab, f"TCP{family}-LISTEN:{PORT},fork,reuseaddr" + (",ipv6only" if family == 6 else ""), says)
    lab.usable(family)
    with Client(lab.a, lab.address("outside", family)) as client:
        seen = client.line().decode().split()
        assert client.pour(64 if family == 4 else 1, half_close=False) is None
    seen = [str(ipaddress.ip_address(part.strip("[]"))) if "." in part or ":" in part else int(part) for part in seen]
    assert tuple(seen) == (*client.ends, *client.destination)
    assert lab.handed() == 1 and lab.wires["outside"].read() == []


@needs("squid")
def test_a_listener_on_loopback_is_dialled_by_nobody(gate):
    """Squid's intercept port stops when it is dialled past interception. On 127.0.0.1 and ::1 only interception gets there."""
    lab = gate
    Squid(lab, "intercept")
    lab.usable()
    for own in (UPLINK4, UPLINK6):
        assert fetch(lab.a, own, PORT) == "ConnectionRefusedError"
    assert fetch(lab.a, OUTSIDE4) == fetch(lab.a, OUTSIDE6) == "outside" and lab.handed() == 2


# ---- for whom a proxy connects ----

@pytest.mark.parametrize("kind", ["relay client", "relay node", "haproxy client", "haproxy node", "socat node"])
def test_a_server_that_denies_the_client_is_not_reached_through_a_proxy(gate, kind):
    """Policy lets a talk to the outside, and the proxy connects to b instead, which admits nobody: nor through it."""
    lab = gate
    program, source = kind.split()
    target = OUTSIDE4
    if program == "relay":
        Relay(lab, "--source", source)
        target = lab.b.ip4
    elif program == "socat":  # a child for each connection
        Socat(lab, f"TCP-LISTEN:{PORT},fork,reuseaddr", f"TCP:{lab.b.ip4}:80")
    else:
        HAProxy(lab, frontend="bind 127.0.0.1:15001",
                backend=["source 0.0.0.0 usesrc clientip"] * (source == "client") + [f"server s {lab.b.ip4}:80"])
    lab.usable(4)
    assert ask(lab.a, target)["server"] == "b"
    before = len(lab.servers["b"].accepted)
    lab.running.api.put_object(policy("s", "b-in", {"name": "b"}, types=["Ingress"]))
    assert isinstance(ask(lab.a, target, timeout=0.5), str)
    assert len(lab.servers["b"].accepted) == before
    lab.running.api.put_object(policy("s", "b-in", {"name": "b"}, types=["Ingress"], ingress=[
        {"from": [{"podSelector": {"matchLabels": {"name": "a"}}}]}]))
    eventually(lambda: isinstance(ask(lab.a, target, timeout=1), dict), 5)


@pytest.mark.parametrize("kind", marked("squid-intercept", "trafficserver", "nginx-http-transparent"))
def test_nor_through_one_of_http(gate, kind):
    lab = gate
    CASES[kind].start(lab)
    lab.usable(4)
    assert fetch(lab.a, lab.b.ip4) == "b"
    before = len(lab.servers["b"].accepted)
    lab.running.api.put_object(policy("s", "b-in", {"name": "b"}, types=["Ingress"]))
    assert fetch(lab.a, lab.b.ip4, timeout=0.4) != "b" and fetch(lab.a, OUTSIDE4) == "outside"
    assert len(lab.servers["b"].accepted) == before


def test_each_onward_connection_of_a_proxy_with_threads_is_somebodys(gate):
    """A thread accepts, another may connect, and has had other clients before: none of them is taken for the node."""
    lab = gate
    HAProxy(lab, frontend="bind 127.0.0.1:15001", backend=[f"server s {OUTSIDE4}:80"], threads=4)
    lab.usable(4)
    for _ in range(60):
        assert ask(lab.a, OUTSIDE4)["server"] == "outside"
    assert lab.handed() == lab.onward("node") == 60
