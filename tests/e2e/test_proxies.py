# SPDX-License-Identifier: Apache-2.0
"""Real proxies with their Debian packages and ordinary configurations: what they see, what they carry, how they come
back. Most know nothing of TPROXY; penstockd makes their listeners usable."""
import ipaddress
import json

import pytest

from lab import OUTSIDE4, OUTSIDE6, UPLINK4, UPLINK6, Lab
from objects import intercept, policy, proxy
from proxies import PORT, HAProxy, Nginx, Relay, Socat, close_all, lacking
from scenes import eventually, member
from talk import Client, Server, Wire, ask
from test_intercept import rule

FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])
TARGETS = pytest.mark.parametrize("target", ["outside", "pod"])
SOON = 1.2  # within 1 s of the moment it listens; the rest is for looking


@pytest.fixture(scope="module")
def node():
    """a's connections to port 80, outside or of the pod b, go to a proxy on the node."""
    with Lab(outside=True) as lab:
        lab.a, lab.b = lab.pod("a"), lab.pod("b")
        lab.servers = {"outside": Server(lab.outside, name="outside"), "pod": Server(lab.b, name="pod")}
        lab.items = [member(name, made, interface=made.interface) for name, made in lab.pods.items()]
        lab.running = lab.agent()
        lab.wire = Wire(lab.outside)
        yield lab
        close_all(lab)


@pytest.fixture
def gate(node):
    lab = node
    lab.running.api.put_state([*lab.items, proxy("gw", PORT), steered(lab)])
    lab.begun = lab.running.api.metrics()
    lab.wire.clear()
    yield lab
    close_all(lab)
    assert lab.running.running()
    assert not [line for line in lab.running.log.splitlines() if "error" in line.split(" ")[:3]]
    eventually(lambda: status(lab)["listeners"] == [])


def steered(lab):
    networks = [f"{OUTSIDE4}/32", f"{OUTSIDE6}/128", f"{lab.b.ip4}/32", f"{lab.b.ip6}/128"]
    return intercept("all", {"name": "a"}, [rule(to=[{"networks": networks}])])


def status(lab):
    return next(p for p in lab.running.api.status()["proxies"] if p["name"] == "gw")


def usable(lab, *families):
    """The agent has seen who listens for these families."""
    wanted = {f"IPv{family}" for family in families or (4, 6)}
    return eventually(lambda: wanted <= set(status(lab)["families"]), SOON)


def grown(lab, name, **labels):
    return lab.running.api.metrics()(name, **labels) - lab.begun(name, **labels)


def handed(lab):
    return grown(lab, "penstock_intercepted_connections_total", proxy="gw", engine="ebpf")


def onward(lab, source):
    return grown(lab, "penstock_onward_connections_total", source=source)


def address(lab, target, family):
    if target == "pod":
        return lab.b.ip4 if family == 4 else lab.b.ip6
    return OUTSIDE4 if family == 4 else OUTSIDE6


def own(family, target="outside"):
    """What a server sees of a connection from the node's own address: None, any."""
    return (UPLINK4 if family == 4 else UPLINK6) if target == "outside" else None


def carries(lab, front, target, family, megabytes, kept, half_close=True):
    """One connection through a proxy that forwards: both addresses, bytes both ways, whom the server sees."""
    destination = address(lab, target, family)
    with Client(lab.a, destination) as client:
        who = client.hello()
        assert who["server"] == target and who["local"] == [destination, 80]
        wrong = client.pour(megabytes, half_close=half_close)
        assert wrong is None, wrong
    if kept:
        assert who["peer"][0] == client.ends[0]
    else:
        assert who["peer"][0] != client.ends[0] and own(family, target) in (None, who["peer"][0])
    assert front.seen() == [(*client.ends, destination, 80)]
    assert handed(lab) == 1
    assert (onward(lab, "client"), onward(lab, "node")) == ((1, 0) if kept else (0, 1))
    # What left by the uplink for the server is the proxy's, not what the client sent.
    assert len([syn for syn in lab.wire.read() if syn[2:4] == (destination, 80)]) == (target == "outside")


def transparent_haproxy(lab):
    return HAProxy(lab, frontend="bind :::15001 v4v6 transparent",
                   backend=["source 0.0.0.0 usesrc clientip", "server s 0.0.0.0:0"])


def plain_haproxy(lab, mode="tcp", server=f"{OUTSIDE4}:80", bind=("bind 127.0.0.1:15001", "bind ::1:15001"), **options):
    return HAProxy(lab, frontend=[*bind, *options.get("frontend", ())], backend=f"server s {server}", mode=mode)


# ---- HAProxy ----

@TARGETS
@FAMILIES
def test_haproxy_transparent_on_both_sides(gate, target, family):
    lab = gate
    front = transparent_haproxy(lab)
    usable(lab)
    assert [one["state"] for one in status(lab)["listeners"]] == ["Ready"], "it was transparent by itself"
    carries(lab, front, target, family, 64 if target == "outside" else 8, kept=True)


@FAMILIES
def test_haproxy_that_knows_nothing(gate, family):
    """It connects to one server of its own choice, from the node's address."""
    lab = gate
    front = plain_haproxy(lab)
    usable(lab)
    assert {one["state"] for one in status(lab)["listeners"]} == {"Adopted"}
    destination = address(lab, "pod", family)
    with Client(lab.a, destination) as client:
        who = client.hello()
        assert client.pour(64) is None
    assert who["server"] == "outside" and who["peer"][0] == UPLINK4 and who["local"] == [OUTSIDE4, 80]
    assert front.seen() == [(*client.ends, destination, 80)]
    assert handed(lab) == 1 and onward(lab, "node") == 1


@FAMILIES
def test_haproxy_in_http_mode(gate, family):
    lab = gate
    front = plain_haproxy(lab, "http", frontend=["option forwardfor", "http-request set-header x-dst %[dst]:%[dst_port]"])
    usable(lab)
    with Client(lab.a, address(lab, "outside", family)) as client:
        who = json.loads(client.get())
    assert who["headers"]["x-forwarded-for"] == client.ends[0]
    assert who["headers"]["x-dst"] == f"{client.destination[0]}:80"
    assert front.seen() == [(*client.ends, *client.destination)] and handed(lab) == 1


# ---- nginx ----

def nginx_stream(lab, *more):
    """A server a family: an IPv6 address in proxy_pass wants brackets."""
    return Nginx(lab, [f"listen {PORT};", "proxy_pass $server_addr:$server_port;", *more],
                 [f"listen [::]:{PORT} ipv6only=on;", "proxy_pass [$server_addr]:$server_port;", *more])


@pytest.mark.parametrize("kept", [False, True], ids=["plain", "proxy_bind"])
@TARGETS
@FAMILIES
def test_nginx_stream(gate, target, family, kept):
    lab = gate
    front = nginx_stream(lab, *["proxy_bind $remote_addr transparent;"] * kept)
    usable(lab)
    carries(lab, front, target, family, 8, kept, half_close=False)  # nginx ends both ways at once


@FAMILIES
def test_nginx_http_that_answers_itself(gate, family):
    lab = gate
    front = Nginx(lab, [f"listen {PORT};", f"listen [::]:{PORT};", "location / {",
                        'return 200 "$remote_addr $remote_port $server_addr $server_port";', "}"], kind="http")
    usable(lab)
    with Client(lab.a, address(lab, "outside", family)) as client:
        body = client.get().decode()
    assert body == f"{client.ends[0]} {client.ends[1]} {client.destination[0]} 80"
    assert front.seen() == [(*client.ends, *client.destination)] and handed(lab) == 1
    assert lab.wire.read() == [], "nothing went to the real server"


# ---- socat ----

@pytest.mark.skipif(lacking("socat") is not None, reason=str(lacking("socat")))
@FAMILIES
def test_socat_that_runs_a_program(gate, family):
    lab = gate
    says = 'SYSTEM:echo "$SOCAT_PEERADDR $SOCAT_PEERPORT $SOCAT_SOCKADDR $SOCAT_SOCKPORT"; exec cat'
    Socat(lab, f"TCP{family}-LISTEN:{PORT},fork,reuseaddr" + (",ipv6only" if family == 6 else ""), says)
    usable(lab, family)
    with Client(lab.a, address(lab, "outside", family)) as client:
        seen = client.line().decode().split()
        assert client.pour(8, half_close=False) is None
    seen = [str(ipaddress.ip_address(part.strip("[]"))) if "." in part or ":" in part else int(part) for part in seen]
    assert tuple(seen) == (*client.ends, *client.destination)
    assert handed(lab) == 1 and lab.wire.read() == []


# ---- penstock-relay ----

@pytest.mark.parametrize("source", ["client", "node"])
@TARGETS
@FAMILIES
def test_relay(gate, target, family, source):
    lab = gate
    front = Relay(lab, "--source", source)
    usable(lab)
    carries(lab, front, target, family, 64 if target == "outside" else 8, kept=source == "client")


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
    usable(lab, 4)
    assert ask(lab.a, target)["server"] == "pod"
    before = len(lab.servers["pod"].accepted)
    lab.running.api.put_object(policy("s", "b-in", {"name": "b"}, types=["Ingress"]))
    assert isinstance(ask(lab.a, target, timeout=0.5), str)
    assert len(lab.servers["pod"].accepted) == before
    lab.running.api.put_object(policy("s", "b-in", {"name": "b"}, types=["Ingress"], ingress=[
        {"from": [{"podSelector": {"matchLabels": {"name": "a"}}}]}]))
    eventually(lambda: isinstance(ask(lab.a, target, timeout=1), dict), 5)


# ---- restart, reload, crash ----

@pytest.mark.parametrize("kind", ["haproxy", "haproxy transparent", "nginx", "socat", "relay"])
def test_a_proxy_that_restarts_takes_connections_within_a_second(gate, kind):
    lab = gate
    front = {"haproxy": plain_haproxy, "haproxy transparent": transparent_haproxy, "nginx": nginx_stream,
             "socat": lambda lab: Socat(lab, f"TCP-LISTEN:{PORT},fork,reuseaddr", f"TCP:{OUTSIDE4}:80"),
             "relay": lambda lab: Relay(lab, "--source", "node")}[kind](lab)
    usable(lab, 4)
    assert ask(lab.a, OUTSIDE4)["server"] == "outside"
    front.restart()
    eventually(lambda: isinstance(ask(lab.a, OUTSIDE4, timeout=0.2), dict), SOON)
    assert handed(lab) >= 2


@pytest.mark.parametrize("kind", ["transparent", "plain"])
def test_haproxy_reload(gate, kind):
    """What the old generation has it keeps; what is new goes to the new one."""
    lab = gate
    front = transparent_haproxy(lab) if kind == "transparent" else plain_haproxy(lab)
    usable(lab, 4)
    with Client(lab.a, OUTSIDE4) as old:
        assert old.hello()["server"] == "outside"
        front.reload()
        eventually(lambda: isinstance(ask(lab.a, OUTSIDE4, timeout=0.5), dict), SOON)
        for _ in range(3):
            with Client(lab.a, OUTSIDE4) as new:
                assert new.hello()["server"] == "outside" and old.echo()
    by = {(seen[0], seen[1]): seen[4] for seen in front.carried(5)}
    first, second = (process.pid for process in front.generations)
    assert by[old.ends] == first and by[new.ends] == second
    eventually(lambda: front.generations[0].poll() is not None, 5)


def test_nginx_reload(gate):
    lab = gate
    front = nginx_stream(lab)
    usable(lab, 4)
    with Client(lab.a, OUTSIDE4) as old:
        old.hello()
        front.reload()
        for _ in range(3):
            assert ask(lab.a, OUTSIDE4)["server"] == "outside" and old.echo()


@pytest.mark.parametrize("kind", ["haproxy", "relay"])
def test_a_crash_denies_or_bypasses(gate, kind):
    lab = gate
    front = plain_haproxy(lab) if kind == "haproxy" else Relay(lab, "--source", "client")
    usable(lab)
    with Client(lab.a, OUTSIDE4) as live:
        live.hello()
        front.kill()
        assert live.ended(), "the client is told at once"
    lab.wire.clear()
    served, counted = len(lab.servers["outside"].accepted), handed(lab)
    for destination in (OUTSIDE4, OUTSIDE6):
        before = grown(lab, "penstock_packets_total", reason="NoListener")
        assert isinstance(ask(lab.a, destination, timeout=0.3), str)
        assert grown(lab, "penstock_packets_total", reason="NoListener") > before
    assert len(lab.servers["outside"].accepted) == served and lab.wire.read() == [], "nothing leaks"
    lab.running.api.put_object(proxy("gw", PORT, unavailable="Bypass"))
    for destination, peer in ((OUTSIDE4, lab.a.ip4), (OUTSIDE6, lab.a.ip6)):
        who = ask(lab.a, destination)
        assert who["server"] == "outside" and who["peer"][0] == peer
    assert handed(lab) == counted
    front.start()
    eventually(lambda: ask(lab.a, OUTSIDE4, timeout=0.5) and handed(lab) > counted, SOON + 0.5)


def test_each_onward_connection_of_a_proxy_with_threads_is_somebodys(gate):
    """A thread accepts, another may connect, and has had other clients before: none of them is taken for the node."""
    lab = gate
    HAProxy(lab, frontend="bind 127.0.0.1:15001", backend=[f"server s {OUTSIDE4}:80"], threads=4)
    usable(lab, 4)
    for _ in range(60):
        assert ask(lab.a, OUTSIDE4)["server"] == "outside"
    assert handed(lab) == onward(lab, "node") == 60
