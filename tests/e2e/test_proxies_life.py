# SPDX-License-Identifier: Apache-2.0
"""Real proxies that end and come back: restarts, reloads with two generations of workers, crashes of a worker and of a master,
and others who listen on their port."""
import os

import pytest

from lab import OUTSIDE4, OUTSIDE6
from objects import proxy
from proxies import PORT, HAProxy, Nginx, Relay, Socat, kill9, lacking
from scenes import eventually
from steering import SOON, Load
from talk import Client, ask, fetch, pour_out
from webproxies import Mitmproxy, Squid, TrafficServer

USESRC = ("source 0.0.0.0 usesrc clientip", "server s 0.0.0.0:0")
START = {
    "haproxy": lambda lab: HAProxy(lab, frontend=["bind 127.0.0.1:15001", "bind ::1:15001"], backend=f"server s {OUTSIDE4}:80"),
    "haproxy-transparent": lambda lab: HAProxy(lab, frontend="bind :::15001 v4v6 transparent", backend=USESRC),
    "haproxy-master": lambda lab: HAProxy(lab, frontend=["bind 127.0.0.1:15001", "bind ::1:15001"],
                                          backend=f"server s {OUTSIDE4}:80", master=True),
    "nginx": lambda lab: Nginx(lab, [f"listen {PORT};", f"listen [::]:{PORT};", f"proxy_pass {OUTSIDE4}:80;"]),
    "socat": lambda lab: Socat(lab, f"TCP-LISTEN:{PORT},fork,reuseaddr", f"TCP:{OUTSIDE4}:80"),
    "relay": lambda lab: Relay(lab, "--source", "client"),
    "squid-tproxy": lambda lab: Squid(lab, "tproxy"),
    "squid-intercept": lambda lab: Squid(lab, "intercept"),
    "mitmproxy": Mitmproxy,
    "trafficserver": TrafficServer,
}
PROGRAM = {"haproxy-transparent": "haproxy", "haproxy-master": "haproxy", "squid-tproxy": "squid", "squid-intercept": "squid",
           "mitmproxy": "mitmdump", "trafficserver": "traffic_server", "relay": "true"}


def kinds(*names):
    def mark(name):
        why = lacking(PROGRAM.get(name, name))
        return pytest.param(name, marks=pytest.mark.skipif(why is not None, reason=str(why)))
    return pytest.mark.parametrize("kind", [mark(name) for name in names])


def served(lab):
    return fetch(lab.a, OUTSIDE4, timeout=0.3) == "outside"


# ---- restart and reload ----

@kinds(*[kind for kind in START if kind != "haproxy-master"])
def test_a_proxy_that_restarts_takes_connections_within_a_second(gate, kind):
    lab = gate
    front = START[kind](lab)
    lab.usable(4)
    assert fetch(lab.a, OUTSIDE4) == "outside"
    front.restart()
    eventually(lambda: served(lab), SOON)
    assert lab.handed() >= 2


@kinds("haproxy-transparent", "haproxy", "haproxy-master")
def test_haproxy_reload(gate, kind):
    """What the old generation has it keeps; what is new goes to the new one."""
    lab = gate
    front = START[kind](lab)
    lab.usable(4)

    def taker():
        with Client(lab.a, OUTSIDE4) as client:
            assert client.hello()["server"] == "outside"
        eventually(lambda: client.ends in by_client(front))
        return by_client(front)[client.ends]
    with Client(lab.a, OUTSIDE4) as old:
        assert old.hello()["server"] == "outside"
        first = front.pids()
        front.reload()
        eventually(lambda: served(lab), SOON)
        eventually(lambda: taker() not in first)  # both generations of a master accept for a moment
        for _ in range(3):
            assert taker() not in first and old.echo()
    eventually(lambda: old.ends in by_client(front))
    assert by_client(front)[old.ends] in first
    eventually(lambda: not set(first[kind == "haproxy-master":]) & set(front.pids()))


def by_client(front):
    """Which process had whose connection."""
    return {(seen[0], seen[1]): seen[4] for seen in front.carried(0)}


def test_nginx_reload(gate):
    """Old workers end when their connections have."""
    lab = gate
    front = START["nginx"](lab)
    lab.usable(4)
    with Client(lab.a, OUTSIDE4) as old:
        old.hello()
        first = set(front.workers())
        front.reload()
        for _ in range(3):
            assert ask(lab.a, OUTSIDE4)["server"] == "outside" and old.echo()
        eventually(lambda: len(set(front.workers()) & first) == 1 and len(set(front.workers()) - first) == 2)
    eventually(lambda: not set(front.workers()) & first)


@kinds("squid-tproxy", "squid-intercept")
def test_squid_reconfigures(gate, kind):
    """Its listeners are closed and opened again; a request that is under way goes on."""
    lab = gate
    front = START[kind](lab)
    lab.usable(4)
    with Client(lab.a, OUTSIDE4) as old:
        old.begin_post(2 << 20)
        first = pour_out(old.sock, 1 << 20)
        front.reload()
        eventually(lambda: served(lab), SOON)
        sent = pour_out(old.sock, 1 << 20, first)
        who = old.end_post(2 << 20, sent)
    assert who["server"] == "outside" and who["sum"] == sent
    assert (who["peer"][0] == lab.a.ip4) == (kind == "squid-tproxy")


def server_of(answer):
    return answer["server"] if isinstance(answer, dict) else answer


@kinds("haproxy-transparent", "haproxy", "haproxy-master", "nginx")
def test_reload_under_load(gate, kind):
    """Nobody gets to the real server past it, and nobody is refused for longer than a moment."""
    lab = gate
    front = START[kind](lab)
    lab.usable()
    load = Load(lambda: server_of(ask(lab.a, OUTSIDE4)))
    try:
        for _ in range(2):
            load.grown(10)
            front.reload()
        load.grown(10)
    finally:
        results = load.end()
    # HAProxy may reset what its old listener has not accepted yet, or, with a master, its old worker has just accepted.
    lost = 0 if kind == "nginx" else 3
    assert results.count("outside") >= len(results) - lost and set(results) <= {"outside", "ConnectionResetError"}
    eventually(lambda: lab.handed() >= results.count("outside"))
    assert not set(lab.wires["a"].read()) & set(lab.wires["outside"].read()), "nobody went past it"


# ---- crash ----

@kinds("haproxy", "haproxy-master", "squid-tproxy", "relay")
def test_a_crash_denies_or_bypasses(gate, kind):
    """Of HAProxy with a master the worker is killed: the master goes with it."""
    lab = gate
    front = START[kind](lab)
    lab.usable()
    served_before = len(lab.servers["outside"].accepted)
    with Client(lab.a, OUTSIDE4) as live:
        live.begin_post(1 << 20)
        pour_out(live.sock, 1 << 19)
        eventually(lambda: len(lab.servers["outside"].accepted) > served_before)
        if kind == "haproxy-master":
            kill9(*front.workers())
            front.process.wait(5)
        front.kill()
        assert live.ended(), "the client is told at once"
    lab.wires["outside"].clear()
    served_before, counted = len(lab.servers["outside"].accepted), lab.handed()
    for destination in (OUTSIDE4, OUTSIDE6):
        before = lab.no_listener()
        assert isinstance(ask(lab.a, destination, timeout=0.3), str)
        assert lab.no_listener() > before
    assert len(lab.servers["outside"].accepted) == served_before and lab.wires["outside"].read() == [], "nothing leaks"
    eventually(lambda: lab.running.api.metrics()("penstock_proxy_up", proxy="gw") == 0, SOON)
    lab.running.api.put_object(proxy("gw", PORT, unavailable="Bypass"))
    for destination, peer in ((OUTSIDE4, lab.a.ip4), (OUTSIDE6, lab.a.ip6)):
        who = ask(lab.a, destination)
        assert who["server"] == "outside" and who["peer"][0] == peer
    assert lab.handed() == counted
    front.start()
    eventually(lambda: fetch(lab.a, OUTSIDE4, timeout=0.5) and lab.handed() > counted, SOON + 0.5)


def test_a_worker_of_nginx_is_killed(gate):
    """The listener is its master's too: nobody notices but the worker's own clients."""
    lab = gate
    front = START["nginx"](lab)
    lab.usable(4)
    for _ in range(2):
        first = front.workers()
        kill9(first[0])
        eventually(lambda: served(lab) and len(set(front.workers()) - set(first)) == 1)
    assert lab.no_listener() == 0


def test_the_master_of_nginx_is_killed(gate):
    """Its workers go on with the listener; when they are gone nobody listens."""
    lab = gate
    front = START["nginx"](lab)
    lab.usable(4)
    workers = front.workers()
    with Client(lab.a, OUTSIDE4) as live:
        live.hello()
        kill9(front.process.pid)
        front.process.wait()
        assert live.echo() and all(served(lab) for _ in range(4))
    kill9(*workers)
    eventually(lambda: not served(lab) and lab.no_listener() > 0)


@kinds("squid-tproxy", "squid-intercept")
def test_a_worker_of_squid_is_killed(gate, kind):
    """Its master starts another, whose listeners are new."""
    lab = gate
    front = START[kind](lab)
    lab.usable(4)
    assert served(lab)
    first = set(front.workers())
    kill9(*first)
    eventually(lambda: set(front.workers()) - first and front.listens(), 10)
    eventually(lambda: served(lab), SOON)


# ---- somebody else listens on the port ----

@pytest.mark.parametrize("transparent", [True, False], ids=["transparent", "plain"])
def test_a_port_that_is_stolen(gate, transparent):
    """HAProxy is gone and another program listens where it did: it gets nothing, and is named. HAProxy gets its own again."""
    lab = gate
    lab.running.api.put_object(proxy("gw", PORT, process={"executable": "/usr/sbin/haproxy"}))
    front = START["haproxy"](lab)
    lab.usable(4)
    assert ask(lab.a, OUTSIDE4)["server"] == "outside"
    front.kill()
    thief = lab.front(transparent=transparent, name="thief")
    eventually(lambda: [one["state"] for one in lab.proxy_status()["listeners"]] == ["Ignored"])
    assert lab.proxy_status()["listeners"][0]["pid"] == os.getpid() and not lab.proxy_status()["up"]
    for destination in (OUTSIDE4, OUTSIDE6):
        before = lab.no_listener()
        assert isinstance(ask(lab.a, destination, timeout=0.3), str) and lab.no_listener() > before
    assert thief.accepted == [], "not one connection, not one byte"
    thief.close()
    front.start()
    eventually(lambda: served(lab), SOON)
    assert thief.accepted == []


def test_a_port_that_is_shared_by_a_thief(gate):
    """SO_REUSEPORT and the same user: the kernel lets a second program listen beside HAProxy. All goes to HAProxy."""
    lab = gate
    lab.running.api.put_object(proxy("gw", PORT, process={"executable": "/usr/sbin/haproxy"}))
    HAProxy(lab, frontend="bind 0.0.0.0:15001", backend=f"server s {OUTSIDE4}:80", threads=1)
    lab.usable(4)
    thief = lab.front(transparent=True, name="thief", reuseport=True, address="0.0.0.0")
    eventually(lambda: sorted(one["state"] for one in lab.proxy_status()["listeners"]) == ["Adopted", "Ignored"])
    answers = [server_of(ask(lab.a, OUTSIDE4)) for _ in range(12)]
    assert thief.accepted == [] and answers == ["outside"] * 12


# ---- without an agent ----

@kinds("haproxy-transparent", "relay", "squid-tproxy")
def test_a_transparent_proxy_restarts_while_the_agent_is_down(gate, kind):
    """It needs nobody to make its socket usable."""
    lab = gate
    front = START[kind](lab)
    assert fetch(lab.a, OUTSIDE4) == "outside"
    lab.running.kill9()
    front.restart()
    for destination in (OUTSIDE4, OUTSIDE6):
        with Client(lab.a, destination) as client:
            who = client.post()
        assert who["server"] == "outside" and who["peer"][0] == client.ends[0]
    lab.running.start()
    assert fetch(lab.a, OUTSIDE4) == "outside"
    assert len(front.seen(3)) >= 3
