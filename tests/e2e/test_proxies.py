# SPDX-License-Identifier: Apache-2.0
"""Real proxies with their Debian packages and ordinary configurations: what they see, what they carry, how they come
back. Most know nothing of TPROXY; penstockd makes their listeners usable."""
import ipaddress
import json

import pytest

from lab import OUTSIDE4, OUTSIDE6, UPLINK4, UPLINK6
from objects import intercept, policy, proxy
from proxies import PORT, HAProxy, Nginx, Relay, Socat, lacking
from scenes import eventually
from steering import FAMILIES, SOON, Load, World, to
from talk import Client, ask

TARGETS = pytest.mark.parametrize("target", ["outside", "b"])


@pytest.fixture(scope="module")
def node():
    with World("a", "b") as world:
        yield world


@pytest.fixture
def gate(node):
    """a's connections to port 80, outside or of the pod b, go to a proxy on the node."""
    node.begin(intercept("all", {"name": "a"}, [to(OUTSIDE4, OUTSIDE6, *node.b.ips)]))
    yield node
    node.end()


def carries(lab, front, target, family, megabytes, kept, half_close=True):
    """One connection through a proxy that forwards: both addresses, bytes both ways, whom the server sees."""
    destination = lab.address(target, family)
    with Client(lab.a, destination) as client:
        who = client.hello()
        assert who["server"] == target and who["local"] == [destination, 80]
        wrong = client.pour(megabytes, half_close=half_close)
        assert wrong is None, wrong
    if kept:
        assert who["peer"][0] == client.ends[0]
    else:
        assert who["peer"][0] != client.ends[0]
        assert target != "outside" or who["peer"][0] == (UPLINK4 if family == 4 else UPLINK6)
    assert front.seen() == [(*client.ends, destination, 80)]
    assert lab.handed() == 1
    assert (lab.onward("client"), lab.onward("node")) == ((1, 0) if kept else (0, 1))
    # What left by the uplink for the server is the proxy's, not what the client sent.
    assert len([syn for syn in lab.wires["outside"].read() if syn[2:4] == (destination, 80)]) == (target == "outside")


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
    lab.usable()
    assert [one["state"] for one in lab.proxy_status()["listeners"]] == ["Ready"], "it was transparent by itself"
    carries(lab, front, target, family, 64 if target == "outside" else 8, kept=True)


@FAMILIES
def test_haproxy_that_knows_nothing(gate, family):
    """It connects to one server of its own choice, from the node's address."""
    lab = gate
    front = plain_haproxy(lab)
    lab.usable()
    assert {one["state"] for one in lab.proxy_status()["listeners"]} == {"Adopted"}
    destination = lab.address("b", family)
    with Client(lab.a, destination) as client:
        who = client.hello()
        assert client.pour(64) is None
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
    lab.usable()
    carries(lab, front, target, family, 8, kept, half_close=False)  # nginx ends both ways at once


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


# ---- socat ----

@pytest.mark.skipif(lacking("socat") is not None, reason=str(lacking("socat")))
@FAMILIES
def test_socat_that_runs_a_program(gate, family):
    lab = gate
    says = 'SYSTEM:echo "$SOCAT_PEERADDR $SOCAT_PEERPORT $SOCAT_SOCKADDR $SOCAT_SOCKPORT"; exec cat'
    Socat(lab, f"TCP{family}-LISTEN:{PORT},fork,reuseaddr" + (",ipv6only" if family == 6 else ""), says)
    lab.usable(family)
    with Client(lab.a, lab.address("outside", family)) as client:
        seen = client.line().decode().split()
        assert client.pour(8, half_close=False) is None
    seen = [str(ipaddress.ip_address(part.strip("[]"))) if "." in part or ":" in part else int(part) for part in seen]
    assert tuple(seen) == (*client.ends, *client.destination)
    assert lab.handed() == 1 and lab.wires["outside"].read() == []


# ---- penstock-relay ----

@pytest.mark.parametrize("source", ["client", "node"])
@TARGETS
@FAMILIES
def test_relay(gate, target, family, source):
    lab = gate
    front = Relay(lab, "--source", source)
    lab.usable()
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
    lab.usable(4)
    assert ask(lab.a, target)["server"] == "b"
    before = len(lab.servers["b"].accepted)
    lab.running.api.put_object(policy("s", "b-in", {"name": "b"}, types=["Ingress"]))
    assert isinstance(ask(lab.a, target, timeout=0.5), str)
    assert len(lab.servers["b"].accepted) == before
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
    lab.usable(4)
    assert ask(lab.a, OUTSIDE4)["server"] == "outside"
    front.restart()
    eventually(lambda: isinstance(ask(lab.a, OUTSIDE4, timeout=0.2), dict), SOON)
    assert lab.handed() >= 2


@pytest.mark.parametrize("kind", ["transparent", "plain"])
def test_haproxy_reload(gate, kind):
    """What the old generation has it keeps; what is new goes to the new one."""
    lab = gate
    front = transparent_haproxy(lab) if kind == "transparent" else plain_haproxy(lab)
    lab.usable(4)
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
    lab.usable(4)
    with Client(lab.a, OUTSIDE4) as old:
        old.hello()
        front.reload()
        for _ in range(3):
            assert ask(lab.a, OUTSIDE4)["server"] == "outside" and old.echo()


@pytest.mark.parametrize("kind", ["haproxy", "relay"])
def test_a_crash_denies_or_bypasses(gate, kind):
    lab = gate
    front = plain_haproxy(lab) if kind == "haproxy" else Relay(lab, "--source", "client")
    lab.usable()
    with Client(lab.a, OUTSIDE4) as live:
        live.hello()
        front.kill()
        assert live.ended(), "the client is told at once"
    lab.wires["outside"].clear()
    served, counted = len(lab.servers["outside"].accepted), lab.handed()
    for destination in (OUTSIDE4, OUTSIDE6):
        before = lab.no_listener()
        assert isinstance(ask(lab.a, destination, timeout=0.3), str)
        assert lab.no_listener() > before
    assert len(lab.servers["outside"].accepted) == served and lab.wires["outside"].read() == [], "nothing leaks"
    lab.running.api.put_object(proxy("gw", PORT, unavailable="Bypass"))
    for destination, peer in ((OUTSIDE4, lab.a.ip4), (OUTSIDE6, lab.a.ip6)):
        who = ask(lab.a, destination)
        assert who["server"] == "outside" and who["peer"][0] == peer
    assert lab.handed() == counted
    front.start()
    eventually(lambda: ask(lab.a, OUTSIDE4, timeout=0.5) and lab.handed() > counted, SOON + 0.5)


def test_each_onward_connection_of_a_proxy_with_threads_is_somebodys(gate):
    """A thread accepts, another may connect, and has had other clients before: none of them is taken for the node."""
    lab = gate
    HAProxy(lab, frontend="bind 127.0.0.1:15001", backend=[f"server s {OUTSIDE4}:80"], threads=4)
    lab.usable(4)
    for _ in range(60):
        assert ask(lab.a, OUTSIDE4)["server"] == "outside"
    assert lab.handed() == lab.onward("node") == 60


@pytest.mark.parametrize("kind", ["haproxy", "relay"])
def test_a_transparent_proxy_restarts_while_the_agent_is_down(gate, kind):
    """It needs nobody to make its socket usable."""
    lab = gate
    front = transparent_haproxy(lab) if kind == "haproxy" else Relay(lab, "--source", "client")
    assert ask(lab.a, OUTSIDE4)["server"] == "outside"
    lab.running.kill9()
    front.restart()
    who = ask(lab.a, OUTSIDE6)
    assert who["server"] == "outside" and who["peer"][0] == lab.a.ip6
    lab.running.start()
    assert ask(lab.a, OUTSIDE4)["server"] == "outside"
    assert len(front.seen(3)) == 3


def server_of(answer):
    return answer["server"] if isinstance(answer, dict) else answer


@pytest.mark.parametrize("kind", ["transparent", "plain"])
def test_haproxy_reload_under_load(gate, kind):
    """Nobody gets to the real server past it, and nobody is refused for longer than a moment."""
    lab = gate
    front = transparent_haproxy(lab) if kind == "transparent" else plain_haproxy(lab)
    lab.usable()
    load = Load(lambda: server_of(ask(lab.a, OUTSIDE4)))
    for _ in range(3):
        load.grown(10)
        front.reload()
    load.grown(10)
    results = load.end()
    # A reload without handed-over sockets (no expose-fd) may reset what the old listener has not accepted yet.
    assert results.count("outside") >= len(results) - 3 and set(results) <= {"outside", "ConnectionResetError"}
    eventually(lambda: lab.handed() >= results.count("outside"))
    assert not set(lab.wires["a"].read()) & set(lab.wires["outside"].read()), "nobody went past it"
