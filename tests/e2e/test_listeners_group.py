# SPDX-License-Identifier: Apache-2.0
"""One SO_REUSEPORT group, in which not everybody is the proxy: only the proxy gets what is handed over."""
import pytest

import test_listeners
import test_listeners_udp
from lab import OUTSIDE4, OUTSIDE6, Lab
from objects import proxy
from scenes import eventually, member
from steering import ENGINES
from test_listeners import PORT, SOON, end, ended, listeners, start, status, usable  # noqa: F401
from test_listeners_udp import steered

FAMILIES = [("127.0.0.1", OUTSIDE4), ("::", OUTSIDE6)]


@pytest.fixture(scope="module", params=ENGINES)
def shared_node(request):
    with Lab(outside=True) as lab:
        lab.engine = request.param
        lab.a = lab.pod("a")
        lab.items = [member("a", lab.a, interface=lab.a.interface), steered(), wanted(1337)]
        lab.running = lab.agent(datapath={"engine": request.param})
        lab.running.api.put_state(lab.items)
        yield lab


@pytest.fixture(params=["TCP", "UDP"])
def node(request, shared_node):
    """Nobody listens yet."""
    lab = shared_node
    lab.udp = ["--udp"] if request.param == "UDP" else []
    lab.ask = test_listeners_udp.ask if lab.udp else test_listeners.ask
    lab.running.api.put_state(lab.items)
    eventually(lambda: not listeners(lab))
    return lab


def wanted(uid):
    return proxy("gw", PORT, ["TCP", "UDP"], process={"uid": uid})


def stranger(lab, address):
    return start(lab, address, "--reuseport", *lab.udp)


def chosen(lab, address):
    return start(lab, address, "--reuseport", "--later-uid", "1337", *lab.udp)


def takers(lab, destination=OUTSIDE4, times=14, timeout=1.0):
    return {lab.ask(lab, destination, 0.1 if None in some(lab) else timeout) for _ in range(times)}


def settled(lab, strangers=1, count=1):
    usable(lab, count)
    eventually(lambda: len(listeners(lab, "Ignored")) == strangers, SOON)


def some(lab):
    """The table of nftables looks up who gets a datagram without asking the group: what would be the stranger's is
    refused."""
    return {None} if lab.udp and lab.engine == "tproxy" else set()


@pytest.mark.parametrize("address, destination", FAMILIES)
def test_only_the_chosen_take_part(node, address, destination):
    lab = node
    other, process = stranger(lab, address), chosen(lab, address)
    settled(lab)
    assert "uid 0 is not 1337" in listeners(lab, "Ignored")[0]["why"]
    assert takers(lab, destination) | some(lab) == {process.pid} | some(lab)
    more = chosen(lab, address)
    settled(lab, count=2)
    assert takers(lab, destination, 24) | some(lab) == {process.pid, more.pid} | some(lab)
    end(process)
    settled(lab)
    assert takers(lab, destination) | some(lab) == {more.pid} | some(lab)
    end(other)
    settled(lab, strangers=0)
    assert takers(lab, destination, 6) == {more.pid}


def test_a_stranger_joins_and_stays(node):
    lab = node
    process = chosen(lab, "127.0.0.1")
    settled(lab, strangers=0)
    other = stranger(lab, "127.0.0.1")
    settled(lab)
    assert takers(lab) | some(lab) == {process.pid} | some(lab)
    end(process)
    assert takers(lab, times=4, timeout=0.15) == {None}, "at once"
    eventually(lambda: not status(lab)["available"]["UDP" if lab.udp else "TCP"], SOON)
    assert takers(lab, times=4, timeout=0.15) == {None}
    again = chosen(lab, "127.0.0.1")
    settled(lab)
    assert takers(lab) | some(lab) == {again.pid} | some(lab)
    # Of a proxy without conditions they are one group again.
    lab.running.api.put_object(proxy("gw", PORT, ["TCP", "UDP"]))
    usable(lab, 2)
    assert takers(lab, times=24) == {other.pid, again.pid}


@pytest.mark.parametrize("node", ["TCP"], indirect=True)
def test_the_next_agent_keeps_them_apart(node):
    lab = node
    process = chosen(lab, "127.0.0.1")
    other = stranger(lab, "127.0.0.1")
    settled(lab)
    lab.running.stop()
    assert takers(lab) | some(lab) == {process.pid} | some(lab)
    lab.running.start()
    settled(lab)
    assert takers(lab) | some(lab) == {process.pid} | some(lab)
    end(other)
    more = chosen(lab, "127.0.0.1")
    settled(lab, strangers=0, count=2)
    assert takers(lab, times=24) == {process.pid, more.pid}
