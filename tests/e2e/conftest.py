# SPDX-License-Identifier: Apache-2.0
"""Fixtures, and what a failure shows: the agents' logs. DEBUG=1 leaves a shell in the node's namespace."""
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lab import OUTSIDE4, OUTSIDE6, Lab  # noqa: E402
from objects import namespace  # noqa: E402
from scenes import IN_B, member, serve  # noqa: E402
from steering import ENGINES, World, egress, to  # noqa: E402


def pytest_collection_modifyitems(items):
    if os.geteuid() == 0:
        return
    for item in items:
        if not item.get_closest_marker("pure"):
            item.add_marker(pytest.mark.skip(reason="needs root: makes network namespaces and loads BPF"))


def pytest_configure(config):
    config.addinivalue_line("markers", "pure: needs neither root nor an agent")
    config.addinivalue_line("markers", "serial: looks at the whole machine or at fine times; tests/run lets nothing run beside it")


@pytest.fixture
def lab():
    with Lab() as made:
        yield made


@pytest.fixture
def lab_outside():
    with Lab(outside=True) as made:
        yield made


@pytest.fixture
def pair(lab):
    """a may reach b's port 80 and nobody else may; c is anybody else."""
    lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
    serve(lab, lab.b, ports=(80, 81))
    lab.items = [namespace("s")] + [member(n, p, interface=p.interface) for n, p in lab.pods.items()] + [IN_B]
    lab.running = lab.agent()
    lab.running.api.put_state(lab.items)
    return lab


@pytest.fixture(scope="module", params=ENGINES)
def shared(request):
    """The node of a file's tests of interception, its agent, pods and servers: with either engine."""
    with World("a", "b", "c", engine=request.param) as world:
        yield world


@pytest.fixture
def world(shared):
    """What a sends to port 80 of the outside host is to go to the proxy gw on the node."""
    shared.begin(egress())
    yield shared
    if not shared.running.running():
        shared.running.start()
    shared.end()


@pytest.fixture(params=ENGINES)
def alone(request):
    """The same, of a test that bends the node."""
    with World("a", "b", "c", engine=request.param) as world:
        world.begin(egress())
        yield world
        world.end()


@pytest.fixture
def gate(shared):
    """What a sends to port 80 of the outside host or of the pod b goes to the proxy gw on the node."""
    shared.begin(egress(to(OUTSIDE4, OUTSIDE6, *shared.b.ips)))
    yield shared
    if not shared.running.running():
        shared.running.start()
    shared.end()


@pytest.fixture
def bent(shared):
    """Settings of the node, for one test."""
    before = {}

    def bend(key, value):
        before.setdefault(key, shared.node.sysctl(key))
        shared.node.sysctl(key, value)
    yield bend
    for key, value in before.items():
        shared.node.sysctl(key, value)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if not report.failed:
        return
    for lab in Lab.live:
        for agent in lab.agents:
            report.sections.append((f"log of {agent.name}, its end", agent.log[-6000:]))
    if os.environ.get("DEBUG") == "1" and Lab.live and call.when == "call":
        lab = Lab.live[-1]
        capture = item.config.pluginmanager.getplugin("capturemanager")
        capture.suspend_global_capture(in_=True)
        print(f"\n{item.nodeid} failed:\n{report.longrepr}\n"
              f"A shell in the node's namespace {lab.node.name}; the pods: {', '.join(p.name for p in lab.pods.values())}."
              f"\nFiles: {lab.directory}. exit goes on.")
        subprocess.run(lab.node.command(os.environ.get("SHELL", "/bin/bash")), check=False)
        capture.resume_global_capture()
