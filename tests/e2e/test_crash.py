# SPDX-License-Identifier: Apache-2.0
"""
What is left when the agent, the disk, the pins or an interface go away at any moment: the last state that was answered,
or one that was sent after it, whole, on disk and in the kernel. Damaged and locked databases are test_faults.py's.

PENSTOCK_CRASH_ROUNDS (default 3), PENSTOCK_CRASH_SEED; the seed is printed.
"""
import glob
import http.client
import json
import os
import random
import shutil
import threading
import time

import pytest

from lab import ALLOW, DENY
from netns import run
from objects import namespace, policy
from scenes import enforced, eventually, member, results

ROUNDS = int(os.environ.get("PENSTOCK_CRASH_ROUNDS", "3"))


@pytest.fixture
def dice():
    seed = int(os.environ.get("PENSTOCK_CRASH_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"PENSTOCK_CRASH_SEED={seed}")
    return random.Random(seed)


OPEN = [{}]
CLOSED = [{"from": [{"podSelector": {"matchLabels": {"name": "a"}}}]}]


def number_of(obj):
    return int(obj["metadata"]["labels"]["number"])


class Writer(threading.Thread):
    """One owner; each state has a number, which every object of it carries, and odd ones open b (if decides)."""

    def __init__(self, agent, owner, dice, decides):
        super().__init__()
        self.agent, self.owner, self.decides = agent, owner, decides
        self.dice = random.Random(dice.random())
        self.sent = self.answered = self.revision = 0
        self.never = set()  # numbers of writes that were refused as not applied
        self.stopped = False
        self.wrong = []

    def items(self, number):
        made = [namespace(f"{self.owner}-{n}") for n in range(1 + number % 7)]
        made += [policy("s", f"{self.owner}-{n}", {"name": "nobody"}, ingress=[{}] * (number % 3)) for n in range(number % 4)]
        if self.decides:
            made.append(policy("s", "b-in", {"name": "b"}, ingress=OPEN if number % 2 else CLOSED))
        for obj in made:
            obj["metadata"].setdefault("labels", {})["number"] = str(number)
        return made

    def once(self):
        self.sent += 1
        answer = self.agent.api.request("PUT", "/v1/state", {"items": self.items(self.sent)}, query={"owner": self.owner})
        if answer.status == 200:
            self.answered = self.sent
            if answer.json["revision"] < self.revision:
                self.wrong.append(f"revision {answer.json['revision']} after {self.revision}")
            self.revision = answer.json["revision"]
        elif answer.status == 503 and "nothing of this was applied" in answer.text:
            self.never.add(self.sent)
        elif answer.status != 503:
            self.wrong.append(repr(answer))

    def run(self):
        while not self.stopped:
            try:
                self.once()
            except (OSError, http.client.HTTPException):  # the agent ended within the request or its answer
                return

    def check(self, state):
        """The state of this owner is one that was sent, and none before the last that was answered."""
        have = [i for i in state["items"] if i["metadata"]["annotations"]["penstock.dev/owner"] == self.owner]
        numbers = {number_of(i) for i in have}
        assert len(numbers) <= 1, f"{self.owner}: a mixture of {numbers}"
        number = numbers.pop() if numbers else 0
        assert self.answered <= number <= self.sent, f"{self.owner}: {number}, answered {self.answered}, sent {self.sent}"
        assert number not in self.never, f"{self.owner}: {number} was said not to be applied"
        wanted = {(i["kind"], i["metadata"]["name"]) for i in self.items(number)} if number else set()
        assert {(i["kind"], i["metadata"]["name"]) for i in have} == wanted
        assert state["revision"] >= self.revision
        assert not self.wrong, self.wrong
        return number


def state_and_epoch(agent):
    answer = agent.api.expect("GET", "/v1/state")
    return answer.json, answer.headers["ETag"].strip('"').rsplit("-", 1)[0]


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_writers_whose_agent_ends(pair, dice, how):
    lab, agent = pair, pair.running
    agent.api.delete_object("NetworkPolicy", "s", "b-in")
    state, epoch = state_and_epoch(agent)
    revision, counters = state["revision"], {"one": [0, 0, 0], "two": [0, 0, 0], "three": [0, 0, 0]}
    for _ in range(ROUNDS):
        writers = [Writer(agent, owner, dice, owner == "one") for owner in counters]
        for w in writers:
            w.sent, w.answered, w.revision = counters[w.owner]
            w.start()
        time.sleep(dice.random() ** 2 * 0.4)
        if how == "SIGKILL":
            agent.kill9()
        else:
            assert agent.stop() == 0
        for w in writers:
            w.stopped = True
        for w in writers:
            w.join()
        agent.start()
        state, now = state_and_epoch(agent)
        assert now == epoch and state["revision"] >= revision
        revision = state["revision"]
        numbers = {w.owner: w.check(state) for w in writers}
        for w in writers:
            counters[w.owner] = [w.sent, numbers[w.owner], revision]
        want = [ALLOW if numbers["one"] % 2 or not numbers["one"] else DENY] * 4
        assert results(lab, lab.c, lab.b) == want, f"the kernel does not enforce number {numbers['one']}"
        assert agent.api.status()["revision"] == revision
    print(counters)
    assert sum(c[1] for c in counters.values()) > 0


# ---- the disk ----

@pytest.fixture
def small(lab):
    """A pair whose state lies in a file system of its own."""
    lab.disk = f"{lab.directory}/disk"
    os.makedirs(lab.disk)
    run("mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", lab.disk)
    try:
        lab.a, lab.b, lab.c = (lab.pod(name) for name in "abc")
        for protocol in ("TCP", "UDP"):
            lab.prober.listen(lab.b, 80, protocol)
        lab.items = [namespace("s")] + [member(n, p, interface=p.interface) for n, p in lab.pods.items()]
        lab.items.append(policy("s", "b-in", {"name": "b"}, ingress=CLOSED))
        lab.running = lab.agent(state={"directory": f"{lab.disk}/state"})
        lab.running.api.put_state(lab.items)
        yield lab
    finally:
        for agent in lab.agents:
            agent.stop()
        run("umount", lab.disk)


def fill(disk):
    with open(f"{disk}/filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass


def refused_without_trace(lab, before, times=2):
    """A write that has to reach the disk is refused with 5xx, and nothing has changed."""
    agent = lab.running
    for number in range(times):
        # More than what an unfinished block of the log may still take.
        items = lab.items[:-1] + [policy("s", f"p{n}-{number}-" + "x" * 100, {"name": "b"}, ingress=OPEN) for n in range(200)]
        answer = agent.api.request("PUT", "/v1/state", {"items": items})
        assert 500 <= answer.status <= 507 and answer.headers["Content-Type"] == "application/problem+json", answer
        assert answer.json["detail"], answer
        answer = agent.api.expect("GET", "/v1/state")
        assert (answer.body, answer.headers["ETag"]) == before
    assert enforced(lab)


def test_a_full_disk(small):
    lab, agent = small, small.running
    answer = agent.api.expect("GET", "/v1/state")
    before = (answer.body, answer.headers["ETag"])
    fill(lab.disk)
    refused_without_trace(lab, before)
    assert "space" in json.dumps(agent.api.status())
    agent.kill9()
    agent.start(timeout=10)
    refused_without_trace(lab, before, times=1)  # a full disk does not keep the agent from its work
    os.unlink(f"{lab.disk}/filler")
    agent.api.put_object(policy("s", "b-in", {"name": "b"}, ingress=OPEN))
    assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4
    agent.restart()
    assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4


def test_a_disk_that_is_read_only_at_the_start(small):
    """The agent cannot promise anything then, and says why; what is live stays."""
    lab, agent = small, small.running
    agent.kill9()
    run("mount", "-o", "remount,ro", lab.disk)
    agent.start(wait=False)
    assert agent.process.wait(20) not in (0, None)
    assert "read-only" in agent.log.lower() or "readonly" in agent.log.lower(), agent.log[-1000:]
    assert enforced(lab)
    run("mount", "-o", "remount,rw", lab.disk)
    agent.start()
    assert enforced(lab)
    agent.api.put_object(policy("s", "b-in", {"name": "b"}, ingress=OPEN))
    assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4


# ---- the pins ----

def remove(agent, what):
    for path in glob.glob(f"{agent.pins}/{what}"):
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)  # the agent may be faster, and puts new ones there
        else:
            os.unlink(path)


REMOVED = ("links/*-egress", "maps/ps_control", "maps", "")


def test_pins_removed_while_no_agent_runs(pair):
    lab, agent = pair, pair.running
    for what in REMOVED:
        agent.stop()
        remove(agent, what)
        agent.start()
        assert enforced(lab), f"'{what}' was removed"
    agent.api.put_object(policy("s", "b-in", {"name": "b"}, ingress=OPEN))
    assert results(lab, lab.c, lab.b, expect=ALLOW) == [ALLOW] * 4


def test_pins_removed_under_a_running_agent(pair):
    """A link ends with its pin: it is made again, and no write is answered before."""
    lab, agent = pair, pair.running
    for number, what in enumerate(REMOVED):
        remove(agent, what)
        closed = policy("s", "b-in", {"name": "b"}, ingress=CLOSED)
        closed["metadata"]["labels"] = {"written": str(number)}
        agent.api.put_object(closed)
        time.sleep(0.1)  # a link that lost its pin is detached only after a grace period
        assert enforced(lab), f"'{what}' was removed"
        assert os.path.isdir(f"{agent.pins}/links")
    remove(agent, "links")
    eventually(lambda: len(glob.glob(f"{agent.pins}/links/[0-9]*")) == 6, 1)
    agent.restart()
    assert enforced(lab)


# ---- interfaces ----

def test_an_interface_that_goes_within_writes(pair, dice):
    lab, agent = pair, pair.running
    agent.api.delete_object("NetworkPolicy", "s", "b-in")
    writer = Writer(agent, "one", dice, True)
    writer.start()
    try:
        for _ in range(ROUNDS):
            time.sleep(dice.random() * 0.05)
            lab.node.ip(f"link del {lab.b.interface}")
            time.sleep(dice.random() * 0.05)
            lab.attach(lab.b)
    finally:
        writer.stopped = True
        writer.join()
    number = writer.check(agent.api.state())
    assert number == writer.sent, "no write fails because an interface is gone"
    want = [ALLOW if number % 2 else DENY] * 4
    eventually(lambda: results(lab, lab.c, lab.b) == want)
