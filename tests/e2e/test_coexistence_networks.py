# SPDX-License-Identifier: Apache-2.0
"""On networks of every kind, with both engines: no route, several uplinks, links without frames, tunnels, links of many
sizes with and without offloads."""
import contextlib
import fcntl
import os
import select
import struct
import threading

import pytest

from lab import GATEWAY4, NODE4, OUTSIDE4, OUTSIDE6, UPLINK4
from proxies import HAProxy, Relay, lacking
from scenes import eventually
from steering import ENGINES, FAMILIES, OUTSIDE, World, answered, come, egress, ingress, to
from talk import Client, Server
from test_coexistence import datagrams, steered

BEYOND4, BEYOND6 = "192.0.2.2", "2001:db8:be::2"
HERE4, HERE6 = "192.0.2.1", "2001:db8:be::1"
BEYOND = (BEYOND4, BEYOND6)
TUNSETIFF, TUN_WITHOUT_INFO = 0x400454ca, 0x1001


@pytest.fixture(scope="module", params=ENGINES)
def shared(request):
    with World("a", "b", engine=request.param) as world:
        yield world


@pytest.fixture
def undo():
    with contextlib.ExitStack() as stack:
        yield stack.callback


def bent(world, undo, key, value):
    undo(world.node.sysctl, key, world.node.sysctl(key))
    world.node.sysctl(key, value)


# ---- routes ----

@pytest.mark.parametrize("forwarding", [1, 0], ids=["", "no forwarding"])
@FAMILIES
def test_no_route_to_the_destination(world, undo, family, forwarding):
    """It ends here: where the destination is, nobody has to know."""
    bent(world, undo, "net.ipv4.ip_forward", forwarding)
    bent(world, undo, "net.ipv6.conf.all.forwarding", forwarding)
    for one, way in (("-4", OUTSIDE4), ("-6", OUTSIDE6)):
        world.node.run("ip", one, "route", "del", "default")
        undo(world.node.run, "ip", one, "route", "replace", "default", "via", way)
    destination = "203.0.113.77" if family == 4 else "2001:db8:ffff::77"
    world.put(egress(to(destination)))
    world.front()
    with Client(world.a, destination) as client:
        assert client.hello()["server"] == "proxy" and client.pour(1) is None


def test_a_gateway_that_is_answered_for(world, undo):
    """As Calico does: the pod's gateway is nobody's address, the node answers for it."""
    interface = world.a.interface
    # With its last address an interface loses its routes.
    world.node.ip(f"addr del {GATEWAY4}/32 dev {interface}", f"route add {world.a.ip4}/32 dev {interface} src {NODE4}")
    undo(world.node.ip, f"addr add {GATEWAY4}/32 dev {interface} scope link")
    for key, value in (("proxy_arp", 1), ("route_localnet", 1), ("forwarding", 1)):
        bent(world, undo, f"net.ipv4.conf.{interface}.{key}", value)
    world.node.sysctl(f"net.ipv4.neigh.{interface}.proxy_delay", 0)
    world.a.ip("neigh flush dev eth0")
    for source in ("client", "node"):
        with Relay(world, "--source", source):
            for target in ("outside", "b"):
                world.put(egress(to(*OUTSIDE, *world.b.ips)))
                assert answered(world, world.a, target) == target
    assert world.handed() == 4


# ---- uplinks ----

def joined(world, undo, make):
    """A host beyond another link of the node's, and pods that it may reach. make(beyond): both ends, as (name, name)."""
    beyond = world.namespace(f"beyond{len(world.namespaces)}")
    undo(beyond.close)
    near, far = make(beyond)
    undo(world.node.run, "ip", "link", "del", near, check=False)
    world.node.ip(f"link set {near} up", f"addr add {HERE4}/24 dev {near}", f"addr add {HERE6}/64 dev {near} nodad")
    beyond.ip(f"link set {far} up", f"addr add {BEYOND4}/24 dev {far}", f"addr add {BEYOND6}/64 dev {far} nodad",
              f"route add 10.77.0.0/16 via {HERE4}", f"route add fd00:77::/64 via {HERE6}")
    server = Server(beyond, name="beyond")
    undo(server.close)
    world.servers["beyond"] = server
    undo(world.servers.pop, "beyond")
    eventually(lambda: any(hook["interface"] == near for hook in world.running.api.status()["hooks"]))
    return beyond


def carried(world, undo, beyond):
    """Out of a pod and into one, by the relay; and past it."""
    steered(world, *BEYOND)
    world.prober.listen(beyond, 80, "UDP")
    undo(world.prober.unlisten, beyond, 80, "UDP")
    for source in ("client", "node"):
        with Relay(world, "--source", source):
            for family in (4, 6):
                at = BEYOND[family == 6]
                ways = [(client, target, ip or world.address(target, family)) for client, target, ip in (
                    (world.a, "beyond", at), (beyond, "b", None), (world.b, "beyond", at), (world.a, "outside", None),
                    (world.outside, "b", None))]
                for client, target, ip in ways:
                    with Client(client, ip) as talk:
                        assert talk.hello()["server"] == target, (source, family, client.name, target)
                        assert talk.pour(1) is None
                datagrams(world, [(client, ip) for client, _, ip in ways])
    assert world.handed() == 32


def veth(world):
    def make(beyond):
        world.node.ip(f"link add up2 type veth peer name eth0 netns {beyond.name}")
        return "up2", "eth0"
    return make


def test_a_second_uplink(world, undo):
    carried(world, undo, joined(world, undo, veth(world)))


@pytest.mark.parametrize("rp_filter", [0, 2])
def test_answers_by_another_uplink(world, undo, rp_filter):
    """What leaves by the one comes back by the other: the leg is known at both."""
    for interface in ("all", "uplink", world.a.interface, world.b.interface):
        bent(world, undo, f"net.ipv4.conf.{interface}.rp_filter", rp_filter)
    beyond = joined(world, undo, veth(world))
    world.node.ip(f"link add up3 type veth peer name up3 netns {beyond.name}", "link set up3 up", "addr add 192.0.3.1/24 dev up3",
                  "addr add 2001:db8:b3::1/64 dev up3 nodad")
    undo(world.node.run, "ip", "link", "del", "up3", check=False)
    bent(world, undo, "net.ipv4.conf.up3.rp_filter", rp_filter)
    bent(world, undo, "net.ipv4.conf.up2.rp_filter", rp_filter)
    beyond.ip("link set up3 up", "addr add 192.0.3.2/24 dev up3", "addr add 2001:db8:b3::2/64 dev up3 nodad",
              f"route replace 10.77.0.0/16 via 192.0.3.1 src {BEYOND4}",
              f"route replace fd00:77::/64 via 2001:db8:b3::1 src {BEYOND6}")
    eventually(lambda: any(hook["interface"] == "up3" for hook in world.running.api.status()["hooks"]))
    carried(world, undo, beyond)


def test_a_tunnel_that_has_frames(world, undo):
    """VXLAN, as flannel's: packets enter by the uplink, and once more by the tunnel."""
    def make(beyond):
        outside = world.outside
        outside.ip(f"link add out2 type veth peer name eth0 netns {beyond.name}", "link set out2 up", "addr add 203.0.113.1/24 dev out2")
        undo(outside.run, "ip", "link", "del", "out2", check=False)
        outside.sysctl("net.ipv4.ip_forward", 1)
        undo(outside.sysctl, "net.ipv4.ip_forward", 0)
        beyond.ip("link set eth0 up", "addr add 203.0.113.2/24 dev eth0", "route add default via 203.0.113.1",
                  f"link add vx0 mtu 1400 type vxlan id 7 dstport 8472 local 203.0.113.2 remote {UPLINK4}")
        world.node.ip(f"link add vx0 mtu 1400 type vxlan id 7 dstport 8472 local {UPLINK4} remote 203.0.113.2")
        return "vx0", "vx0"
    carried(world, undo, joined(world, undo, make))


def test_a_link_without_frames(world, undo):
    """As WireGuard's: nothing but IP packets."""
    def make(beyond):
        ends = [tun(world.node, "wg7"), tun(beyond, "wg7")]
        stopped = threading.Event()
        thread = threading.Thread(target=copied, args=(ends, stopped), daemon=True)
        thread.start()
        undo(lambda: [os.close(end) for end in ends])
        undo(lambda: (stopped.set(), thread.join()))
        return "wg7", "wg7"
    carried(world, undo, joined(world, undo, make))


def tun(space, name):
    with space.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), TUN_WITHOUT_INFO))
    space.ip(f"link set {name} mtu 1420")
    return fd


def copied(ends, stopped):
    other = dict(zip(ends, reversed(ends)))
    while not stopped.is_set():
        for end in select.select(ends, [], [], 0.05)[0]:
            for _ in range(64):
                try:
                    os.write(other[end], os.read(end, 65536))
                except OSError:  # nothing more, or the other end is not up yet
                    break


def test_an_uplink_above_another(world, undo):
    """macvlan in place of a VLAN, which this kernel may lack."""
    def make(beyond):
        world.node.ip(f"link add up2 type veth peer name eth0 netns {beyond.name}", "link set up2 up",
                      "link add link up2 name mv0 type macvlan mode bridge")
        undo(world.node.run, "ip", "link", "del", "up2", check=False)
        return "mv0", "eth0"
    carried(world, undo, joined(world, undo, make))


def test_a_tagged_uplink(world, undo):
    def make(beyond):
        world.node.ip(f"link add up2 type veth peer name eth0 netns {beyond.name}", "link set up2 up")
        undo(world.node.run, "ip", "link", "del", "up2", check=False)
        beyond.ip("link set eth0 up")
        for space, below in ((world.node, "up2"), (beyond, "eth0")):
            done = space.run("ip", "link", "add", "link", below, "name", "v5", "type", "vlan", "id", "5", check=False)
            if done.returncode:
                pytest.skip(f"this kernel has no VLANs: {done.stderr.strip()}")
        return "v5", "v5"
    carried(world, undo, joined(world, undo, make))


# ---- sizes ----

OFFLOADS = ("tx", "tso", "gso", "gro")


@pytest.fixture
def sized(world, undo):
    def links():
        return ((world.a, "eth0"), (world.node, world.a.interface), (world.b, "eth0"), (world.node, world.b.interface),
                (world.outside, "eth0"), (world.node, "uplink"))

    def size(pods, uplink, offloads):
        for at, (space, interface) in enumerate(links()):
            space.ip(f"link set {interface} mtu {pods if at < 4 else uplink}")
            space.run("ethtool", "-K", interface, *[word for one in OFFLOADS for word in (one, offloads)])
    undo(size, 1500, 1500, "on")
    return size


@pytest.mark.parametrize("kind, pods, uplink, offloads", [
    ("relay", 9000, 1500, "on"), ("relay", 1500, 9000, "off"), ("HAProxy", 9000, 1500, "off"), ("HAProxy", 1500, 9000, "on")])
def test_large_writes(world, sized, kind, pods, uplink, offloads):
    """64 KB and more at a time, both ways at once."""
    if kind == "HAProxy" and (why := lacking("haproxy")):
        pytest.skip(why)
    world.put(egress(to(*OUTSIDE, *world.b.ips)), ingress(come(*OUTSIDE)))
    sized(pods, uplink, offloads)
    if kind == "relay":
        Relay(world, "--source", "client")
    else:
        HAProxy(world, frontend="bind :::15001 v4v6 transparent", backend=["server original 0.0.0.0:0", "source 0.0.0.0 usesrc clientip"])
    # HAProxy's `source` is of one family.
    for client, target, family in ((world.a, "outside", 4), (world.a, "b", 4), (world.outside, "b", 4 if kind == "HAProxy" else 6)):
        with Client(client, world.address(target, family)) as talk:
            assert talk.hello()["server"] == target
            wrong = talk.pour(4, write=65536, half_close=kind != "HAProxy")
            assert wrong is None, (client.name, target, wrong)
    assert world.handed() == 3
