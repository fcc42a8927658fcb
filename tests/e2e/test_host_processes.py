# SPDX-License-Identifier: Apache-2.0
"""Processes of the node itself, by cgroup: handed to a proxy like a workload's connections, and nobody else's."""
import os

import pytest

from lab import OUTSIDE4, OUTSIDE6, UPLINK4, UPLINK6
from objects import intercept, proxy
from proxies import PORT
from puppet import Group, Puppet, cgroup_root
from steering import ENGINES, FAMILIES, OUTSIDE, World, to
from scenes import eventually

pytestmark = pytest.mark.skipif(cgroup_root() is None, reason="the machine's root of cgroup v2 is not mounted")
OWN = {4: UPLINK4, 6: UPLINK6}
THERE = {4: OUTSIDE4, 6: OUTSIDE6}


def about(group, *rules, name="host", **more):
    return intercept(name, {"cgroup": getattr(group, "path", group)}, list(rules) or [to(*OUTSIDE)], **more)


class Node(World):
    """An agent, an outside host, and processes in and beside a cgroup."""

    def __init__(self, engine):
        super().__init__(engine=engine)
        self.group = Group(f"{self.prefix}/one")
        self.inside, self.beside = Puppet(self.node, self.group), Puppet(self.node)

    def close(self):
        for name in ("inside", "beside", "group"):
            if hasattr(self, name):
                getattr(self, name).close()
        super().close()


@pytest.fixture(scope="module", params=ENGINES)
def shared_node(request):
    with Node(request.param) as world:
        yield world


@pytest.fixture
def world(shared_node):
    shared_node.begin(about(shared_node.group))
    yield shared_node
    shared_node.end()


@FAMILIES
def test_a_process_of_the_cgroup(world, family):
    world.front()
    world.usable()
    said = world.inside.ask(THERE[family])
    assert said["server"] == "proxy"
    assert said["peer"] == said["own"] and said["own"][0] == OWN[family] and said["local"] == [THERE[family], 80]
    assert world.beside.ask(THERE[family])["server"] == "outside"
    assert world.inside.ask(THERE[family], 81) == "ConnectionRefusedError"
    assert world.handed() == 1
