# SPDX-License-Identifier: Apache-2.0
"""Proxies that know nothing of interception: their listeners are found, chosen and made transparent."""
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from lab import ALLOW, BUILD, DENY, OUTSIDE4, OUTSIDE6, Lab, Probe
from objects import intercept, proxy
from scenes import eventually, member, serve
from test_intercept import rule

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "plain_proxy.py")
PORT = 15001
SOON = 1.0


@pytest.fixture
def node():
    with Lab(outside=True) as lab:
        prepare(lab)
        lab.running = lab.agent(metrics={"listen": ""})
        lab.running.api.put_state(lab.items)
        yield lab


def prepare(lab):
    """What a sends to the outside host's port 80 is to go to a proxy on the node."""
    lab.a = lab.pod("a")
    lab.items = [member("a", lab.a, interface=lab.a.interface), wanted(), steered()]


def wanted(**process):
    made = proxy("gw", PORT)
    if process:
        made["spec"]["process"] = process
    return made


def steered(name="gw"):
    networks = [{"networks": [f"{OUTSIDE4}/32", f"{OUTSIDE6}/128"]}]
    return intercept("llm", {"name": "a"}, [rule(to=networks, proxy=name)])


def start(lab, address, *options, port=PORT, python=sys.executable):
    """A plain proxy in the node's namespace; returns when it listens."""
    process = lab.node.popen(python, SCRIPT, address, port, *options, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert process.stdout.readline() == b"listens\n"
    lab.namespaces[0].processes = getattr(lab.namespaces[0], "processes", []) + [process]
    return process


def end(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.fixture(autouse=True)
def ended():
    yield
    for lab in Lab.live:
        for process in getattr(lab.namespaces[0], "processes", []):
            if process.poll() is None:
                end(process)


def ask(lab, destination=OUTSIDE4, timeout=2.0):
    """Who took a connection of pod a, or None."""
    with lab.a.entered():
        sock = socket.socket(socket.AF_INET6 if ":" in destination else socket.AF_INET)
    with sock:
        sock.settimeout(timeout)
        try:
            sock.connect((destination, 80))
            answer = json.loads(sock.makefile("rb").readline())
        except (OSError, ValueError):
            return None
        plain = [[ip.removeprefix("::ffff:"), port] for ip, port in (answer["peer"], answer["local"])]
        assert plain == [list(sock.getsockname()[:2]), [destination, 80]], "both addresses are kept"
        return answer["pid"]


def status(lab, name="gw"):
    return next(p for p in lab.running.api.status()["proxies"] if p["name"] == name)


def listeners(lab, state=None):
    return [one for one in status(lab)["listeners"] if state in (None, one["state"])]


def up(lab):
    return lab.running.api.metrics()("penstock_proxy_up", proxy="gw")


def usable(lab, count=1):
    eventually(lambda: len(listeners(lab, "Adopted")) == count, SOON)


@pytest.mark.parametrize("address, families", [
    ("127.0.0.1", ["IPv4"]), ("::1", ["IPv6"]), ("0.0.0.0", ["IPv4"]), ("::", ["IPv4", "IPv6"]),
    ("::ffff:127.0.0.1", ["IPv4"])])
def test_a_listener_is_adopted(node, address, families):
    lab = node
    process = start(lab, address)
    usable(lab)
    one, = listeners(lab)
    assert one == {"address": address, "port": PORT, "state": "Adopted", "pid": process.pid, "uid": 0,
                   "executable": os.path.realpath(f"/proc/{process.pid}/exe")}
    assert status(lab)["up"] and status(lab)["families"] == families and up(lab) == 1
    for destination, family in ((OUTSIDE4, "IPv4"), (OUTSIDE6, "IPv6")):
        taken = ask(lab, destination, 2 if family in families else 0.4)
        assert taken == (process.pid if family in families else None), family
    end(process)
    eventually(lambda: not status(lab)["up"], SOON)
    assert status(lab)["families"] == [] and listeners(lab) == [] and up(lab) == 0
