# SPDX-License-Identifier: Apache-2.0
"""The demo does what it says, and leaves nothing behind, whether it ends or is ended."""
import os
import signal
import subprocess

import pytest

from lab import BUILD, REPOSITORY
from netns import NETNS

DEMO = os.path.join(REPOSITORY, "deploy/demo/demo.sh")


def start(gateway="relay"):
    # A session of its own: what Ctrl-C sends goes to the whole foreground group.
    return subprocess.Popen([DEMO], env={**os.environ, "PENSTOCK_BUILD": BUILD, "GATEWAY": gateway},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def leftovers():
    left = [path for path in ("/run/penstock-demo", "/sys/fs/bpf/penstock-demo") if os.path.exists(path)]
    return left + [name for name in os.listdir(NETNS) if name.startswith("penstock-demo")]


def skip_if_another_runs(said):
    if "another one is running" in said:
        pytest.skip("somebody else runs the demo on this machine")


@pytest.mark.parametrize("gateway", ("relay", "haproxy"))
def test_the_demo_tells_its_story(gateway):
    demo = start(gateway)
    said, _ = demo.communicate(timeout=120)
    skip_if_another_runs(said)
    assert demo.returncode == 0, said
    assert "✘" not in said and said.count("✔") >= 25
    for line in ("-> 203.0.113.9:443", "[2001:db8:113::9]", "All as it should be."):
        assert line in said, said
    assert leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("moment", ["1  A node", "6  Everything else"])
def test_an_interrupted_demo_cleans_up(number, moment):
    demo = start()
    said = ""
    for line in demo.stdout:
        said += line
        if moment in line:
            os.killpg(demo.pid, number)
            break
    rest, _ = demo.communicate(timeout=60)
    skip_if_another_runs(said)
    assert demo.returncode == 128 + number, said + rest
    assert leftovers() == [], said + rest


def test_a_gateway_that_is_not_known_is_said():
    done = subprocess.run([DEMO], env={**os.environ, "GATEWAY": "envoy"}, capture_output=True, text=True)
    assert done.returncode == 1 and "neither relay nor haproxy" in done.stderr


def test_a_missing_build_is_said():
    done = subprocess.run([DEMO], env={**os.environ, "PENSTOCK_BUILD": "/nowhere"}, capture_output=True, text=True)
    assert done.returncode == 1 and "penstockd is missing" in done.stderr
