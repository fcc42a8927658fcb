# SPDX-License-Identifier: Apache-2.0
"""penstock-relay and UDP, without an agent: TPROXY rules by hand, as in test_relay.py."""
import socket

import pytest

from lab import Lab
from test_relay import Relay

SERVED = 4433
TPROXY = """
table inet relay {
	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		meta l4proto udp socket transparent 1 meta mark set 1 accept
		iifname "IFACE" meta nfproto ipv4 meta l4proto udp tproxy ip to :15001 meta mark set 1 accept
		iifname "IFACE" meta nfproto ipv6 meta l4proto udp tproxy ip6 to :15001 meta mark set 1 accept
	}
}
"""


class World:
    def __init__(self, lab):
        self.lab, self.relays = lab, []
        self.pod, self.outside, self.node = lab.pod("client"), lab.outside, lab.node
        lab.node.run("nft", "-f", "-", input=TPROXY.replace("IFACE", self.pod.interface))
        for family in ("-4", "-6"):
            lab.node.run("ip", family, "rule", "add", "fwmark", 1, "lookup", 100)
            lab.node.run("ip", family, "route", "add", "local", "default", "dev", "lo", "table", 100)

    def start(self, *options, **more):
        self.relays.append(Relay(self.lab, *options, **more))
        return self.relays[-1]


@pytest.fixture
def world():
    with Lab(outside=True) as lab:
        made = World(lab)
        yield made
        for relay in made.relays:
            relay.close()


def bound(space, ip="0.0.0.0", port=0, timeout=5):
    with space.entered():
        sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
    sock.bind((ip, port))
    sock.settimeout(timeout)
    return sock


def test_carries_both_ways(world):
    world.start("--source", "client")
    server = bound(world.outside, port=SERVED)
    client = bound(world.pod)
    client.sendto(b"question", (world.outside.ip4, SERVED))
    data, peer = server.recvfrom(100)
    assert data == b"question" and peer[0] == world.pod.ip4
    server.sendto(b"answer", peer)
    assert client.recvfrom(100) == (b"answer", (world.outside.ip4, SERVED))
