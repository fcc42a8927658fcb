# SPDX-License-Identifier: Apache-2.0
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import kernel  # noqa: E402

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # it looks for MAC addresses that nobody needs


@pytest.fixture(scope="session")
def interfaces():
    """Four interfaces in a network namespace of their own: A's, B's, an unclaimed one, an uplink."""
    if os.geteuid():
        pytest.skip("needs root")
    if not os.path.exists(kernel.OBJECT):
        pytest.skip(f"{kernel.OBJECT} is not built; PENSTOCK_BUILD says where")
    old = kernel.namespace_new()
    try:
        for pair in (("bpf-a", "bpf-b"), ("bpf-u", "bpf-x")):
            subprocess.run(["ip", "link", "add", pair[0], "type", "veth", "peer", "name", pair[1]], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):  # as on every node; programs ask for routes
            subprocess.run(["sysctl", "-qw", f"{key}=1"], check=True)
        yield [socket.if_nametoindex(name) for name in ("bpf-a", "bpf-b", "bpf-u", "bpf-x")]
    finally:
        kernel.namespace_enter(old)
        os.close(old)


@pytest.fixture(scope="session")
def shared_world(interfaces):
    from world import World
    world = World(interfaces)
    yield world
    world.object.close()


@pytest.fixture
def world(shared_world):
    shared_world.reset()
    shared_world.flip()
    return shared_world


@pytest.fixture
def world_with(interfaces):
    """A world with constants or sizes of its own."""
    from world import World
    made = []

    def make(**options):
        made.append(World(interfaces, **options))
        made[-1].flip()
        return made[-1]

    yield make
    for world in made:
        world.object.close()
