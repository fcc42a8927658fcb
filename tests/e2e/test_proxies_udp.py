# SPDX-License-Identifier: Apache-2.0
"""Real proxies that take datagrams: as far as each of them goes."""
import pytest

from datagrams import Receiver, Talker
from lab import OUTSIDE4, UPLINK4, UPLINK6
from objects import proxy
from proxies import DATAGRAMS, PORT, Nginx, Socat, lacking
from scenes import eventually
from steering import FAMILIES, OUTSIDE, egress, host


def to_udp(port):
    return {"name": "udp", "action": "Intercept", "proxy": "gw", "to": [{"networks": [host(ip) for ip in OUTSIDE]}],
            "protocols": [{"udp": {"destinationPort": {"number": port}}}]}


@pytest.fixture
def gate(shared):
    """What a sends to the UDP ports 53 and 15001 of the outside host is to go to the proxy gw on the node."""
    shared.begin()
    shared.put(egress(to_udp(53), to_udp(PORT)), gw=proxy("gw", PORT, ["UDP"]))
    yield shared
    shared.end()


@pytest.mark.parametrize("kept", [False, True], ids=["plain", "proxy_bind"])
def test_nginx_stream(gate, kept):
    """
    It learns the address that a datagram was sent to, and answers from it, but never the port: it works where it listens
    on the very port that the clients use.
    """
    lab, more = gate, ["proxy_responses 1;", *["proxy_bind $remote_addr transparent;"] * kept]
    front = Nginx(lab, [f"listen {PORT} udp;", "proxy_pass $server_addr:$server_port;", *more],
                  [f"listen [::]:{PORT} udp ipv6only=on;", "proxy_pass [$server_addr]:$server_port;", *more],
                  listening=DATAGRAMS)
    lab.usable()
    assert {one["state"] for one in lab.proxy_status()["listeners"]} == {"Adopted"}
    expected = []
    with Receiver(lab.outside, PORT, "outside"):
        for family, own in ((4, UPLINK4), (6, UPLINK6)):
            with Talker(lab.a, lab.address("outside", family), PORT) as talk:
                who = talk.hello()
            expected.append((*talk.ends, *talk.destination))
            assert who["server"] == "outside" and who["local"] == list(talk.destination)
            assert who["peer"][0] == (talk.ends[0] if kept else own)
    assert sorted(front.seen(2)) == sorted(expected)
    assert lab.handed() == 2


@pytest.mark.skipif(lacking("socat") is not None, reason=str(lacking("socat")))
@FAMILIES
def test_socat_that_only_takes(gate, family):
    """It has no way to answer from where a datagram was sent to; a collector of one-way datagrams needs none."""
    lab = gate
    front = Socat(lab, f"UDP{family}-RECV:{PORT}" + (",ipv6only" if family == 6 else ""), "STDOUT", "-u")
    lab.usable(family)
    with Talker(lab.a, lab.address("outside", family), PORT) as talk:
        for number in range(50):
            talk.sock.send(f"line {number}\n".encode())
    eventually(lambda: front.log == "".join(f"line {number}\n" for number in range(50)))
    assert lab.handed() == 1
