# SPDX-License-Identifier: Apache-2.0
"""
Competing writers: two owners whose leaders are replaced while the old ones still write, a guest that takes what is
theirs, and somebody who deletes owners; the agent is stopped and killed under them, and packets ask all the time what
is in force. Everything that was answered, read and seen is judged by writers.py.

PENSTOCK_WRITERS_SECONDS (default 9), PENSTOCK_WRITERS_SEED; the seed is printed.
"""
import http.client
import itertools
import multiprocessing
import os
import random
import select
import socket
import struct
import threading
import time

import pytest

from api import path_of
from objects import namespace, policy, workload
from writers import BROKEN, DELETE, FORGET, KEYS, OPEN, PATCH, PUT, REPLACE, SHUT, UNREADABLE, Call, History, State, Version

SECONDS = float(os.environ.get("PENSTOCK_WRITERS_SECONDS", "9"))
PORT, FENCE = 9000, 8999
OWN = {"north": range(0, 4), "south": range(4, 8)}  # the rest is everybody's
NUMBERS = itertools.count(1)
POLICY = ("NetworkPolicy", "s")


@pytest.fixture
def dice():
    seed = int(os.environ.get("PENSTOCK_WRITERS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"PENSTOCK_WRITERS_SEED={seed}")
    return random.Random(seed)


def version(key, number, what):
    """One version of an object: a policy of b that opens the key's port to a, or does not, or is no policy."""
    ports = {"protocol": "UDP", "port": PORT + key if what == OPEN else 1}
    if what == OPEN and number % 3 == 0:
        ports["endPort"] = ports["port"]
    peers = [{"podSelector": {"matchLabels": {"name": "a"}}}] if number % 2 else \
        [{"ipBlock": {"cidr": "10.77.0.0/16"}}, {"ipBlock": {"cidr": "fd00:77::/64"}}]
    if what == BROKEN:
        ports["port"] = 70000 + number
    made = policy("s", f"k{key}", {"name": "b"}, ingress=[{"from": peers, "ports": [ports]}], types=["Ingress"])
    if what == UNREADABLE:
        made["spec"]["podSelector"] = {"matchExpressions": [{"key": "name", "operator": f"Like{number}"}]}
    made["metadata"]["labels"] = {"number": str(number)}
    return made


def key_of(name):
    return int(name[1:])


def read_back(items):
    """Items of GET as the model has them."""
    found = {}
    for item in items:
        meta, rules = item["metadata"], item["spec"].get("ingress")
        found[key_of(meta["name"])] = Version(
            meta["annotations"]["penstock.dev/owner"], int(meta["labels"]["number"]) if rules else 0,
            bool(rules) and rules[0]["ports"][0]["port"] != 1, isolating=not rules)
    return found


def of_writers(items):
    return [item for item in items if item["metadata"]["annotations"]["penstock.dev/owner"] != "local"]


class Scene:
    """What all writers share."""

    def __init__(self, agent):
        self.agent, self.calls, self.reads, self.ends, self.wrong = agent, [], [], [], []
        self.up, self.over = threading.Event(), False
        self.up.set()
        self.base, self.epoch = agent.api.state(), agent.api.status()["epoch"]

    def request(self, *arguments, **options):
        """None: the agent went away before it had answered."""
        try:
            return self.agent.api.request(*arguments, **options)
        except (OSError, http.client.HTTPException):
            return None

    def write(self, call):
        """Sends it and notes what came back."""
        query = {"owner": call.owner if call.verb != FORGET else None, "force": "true" if call.force else None,
                 "invalid": "quarantine" if call.quarantine else None}
        headers = {"Penstock-Term": str(call.term)} if call.term is not None else {}
        if call.match is not None:
            headers["If-Match"] = f'"{self.epoch}-{call.match}"'
        items = [version(*item) for item in call.items]
        method, path, body = {
            REPLACE: lambda: ("PUT", "/v1/state", {"items": items}),
            PATCH: lambda: ("PATCH", "/v1/state", {"apply": items, "delete": [
                {"kind": "NetworkPolicy", "namespace": "s", "name": f"k{key}"} for key in call.deleted]}),
            PUT: lambda: ("PUT", path_of(*POLICY, f"k{call.items[0][0]}"), items[0]),
            DELETE: lambda: ("DELETE", path_of(*POLICY, f"k{call.deleted[0]}"), None),
            FORGET: lambda: ("DELETE", f"/v1/owners/{call.owner}", None)}[call.verb]()
        call.start = time.monotonic()
        answer = self.request(method, path, body, headers=headers, query=query)
        end = time.monotonic()
        if answer is not None and answer.status == 503:  # it is stopping; what was not done must not be seen
            return call
        self.calls.append(call)
        if answer is not None:
            call.end, call.status, call.answer = end, answer.status, answer.json
            if answer.status == 200:
                call.revision, call.tag = call.answer["revision"], int(answer.headers["ETag"].strip('"').split("-")[1])
        return call

    def settled(self):
        """Whatever was not answered has either happened by now or never will."""
        state = self.agent.api.state()
        self.ends.append((state["revision"], time.monotonic(), read_back(of_writers(state["items"]))))
        self.up.set()


class Worker(threading.Thread):
    def __init__(self, scene, dice):
        super().__init__(daemon=True)
        self.scene, self.dice, self.stopped = scene, random.Random(dice.random()), False

    def run(self):
        try:
            while not self.stopped and not self.scene.over:
                self.scene.up.wait()
                self.once()
                time.sleep(self.dice.random() ** 2 * 0.01)
        except Exception as error:  # shown by the test
            self.scene.wrong.append(repr(error))


class Leader(Worker):
    """A controller: mostly whole states of its own, and some of everything else."""

    def __init__(self, scene, dice, owner, term=None):
        super().__init__(scene, dice)
        self.owner, self.term, self.outdated = owner, term, 0
        self.keys = [*OWN.get(owner, ()), *range(8, KEYS)]

    def once(self):
        call = self.scene.write(self.drawn())
        if call.status == 409 and "is an old one" in call.answer["detail"]:
            self.outdated += 1
            self.stopped = self.outdated > 20  # a real one would go at the first
        return call

    def some(self, most=4):
        return self.dice.sample(self.keys, self.dice.randint(1, min(most, len(self.keys))))

    def one(self, key):
        return key, next(NUMBERS), self.dice.choice([OPEN] * 5 + [SHUT] * 4 + [BROKEN] * 2 + [UNREADABLE])

    def drawn(self):
        dice = self.dice
        call = Call(dice.choice([REPLACE] * 4 + [PATCH] * 4 + [PUT] * 3 + [DELETE] + [FORGET] * (self.term is None)),
                    self.owner, self.term, force=dice.random() < 0.3, quarantine=dice.random() < 0.7)
        if call.verb == REPLACE:
            call.items = tuple(self.one(key) for key in self.some(len(self.keys)))
        elif call.verb == PATCH:
            keys = self.some(6)
            cut = dice.randint(0, len(keys))
            call.items, call.deleted = tuple(self.one(key) for key in keys[:cut]), tuple(keys[cut:])
        elif call.verb == PUT:
            call.items = (self.one(dice.choice(self.keys)),)
        elif call.verb == DELETE:
            call.deleted = (dice.choice(self.keys),)
        if dice.random() < 0.2 and call.verb != FORGET:
            call.match = self.tag(call)
        elif dice.random() < 0.1 and self.scene.calls:  # the same once more
            last = next((c for c in reversed(self.scene.calls) if c.owner == self.owner and c.term == self.term), call)
            call = Call(last.verb, last.owner, last.term, last.force, last.quarantine, last.items, last.deleted)
        return call

    def tag(self, call):
        """What an optimistic writer has read a moment ago."""
        path = "/v1/state"
        if call.verb in (PUT, DELETE):
            path = path_of(*POLICY, f"k{call.items[0][0] if call.items else call.deleted[0]}")
        answer = self.scene.request("GET", path)
        if answer is None or answer.status == 404:
            return 1
        return int(answer.headers["ETag"].strip('"').split("-")[1])


class Remover(Worker):
    """Deletes owners; their leaders go on."""

    def once(self):
        owner = self.dice.choice(["north", "south", "guest"])
        self.scene.write(Call(FORGET, owner))
        time.sleep(self.dice.random() * 0.2)


class Reader(Worker):
    """State, status and owners: each is one revision."""

    def once(self):
        path = self.dice.choice(["/v1/state", "/v1/status", "/v1/owners"])
        start = time.monotonic()
        answer = self.scene.request("GET", path)
        if answer is not None and answer.status != 503:
            self.scene.reads.append((path, start, time.monotonic(), answer.json))
        time.sleep(0.005)


def read_agrees(path, body, base):
    """How to compare what was read with a state of the model."""
    if path == "/v1/state":
        mine = of_writers(body["items"])
        rest, found = [i for i in body["items"] if i not in mine], read_back(mine)
        return lambda state: rest == base["items"] and state.objects == found
    if path == "/v1/status":
        aside = {key_of(q["name"]): q["owner"] for q in body["quarantined"]}
        return lambda state: aside == {key: owner for key, (owner, _) in state.aside.items()}
    have = {o["name"]: (o["term"], o["objects"]) for o in body["items"] if o["name"] != "local"}

    def agrees(state):
        """Owners of nothing may be listed or not (test_contract.py looks at that)."""
        return all(name in have for name in ("north", "south", "guest") if state.has(name)) and all(
            found == (state.owners.get(name), sum(v.owner == name for v in state.objects.values()))
            for name, found in have.items())
    return agrees


# ---- packets ----

class Traffic:
    """A process that asks all the time: one packet for every key, then one that is always allowed. Whatever has not come before
    that one never will: they take one way, from one CPU."""

    def __init__(self, lab):
        self.lab = lab
        self.going = multiprocessing.Event()
        self.ours, theirs = multiprocessing.Pipe(False)
        self.going.set()
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(theirs,), daemon=True)
        self.process.start()

    def sender(self, key):
        ip = self.lab.b.ip4 if key % 2 else self.lab.b.ip6
        with self.lab.a.entered():
            sock = socket.socket(socket.AF_INET if key % 2 else socket.AF_INET6, socket.SOCK_DGRAM)
        sock.connect((ip, PORT + key))
        return sock

    def _run(self, pipe):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        listeners = {}
        with self.lab.b.entered():
            for key in range(-1, KEYS):
                sock = listeners[key] = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                sock.bind(("::", PORT + key))
        senders, packets, number, dice = {key: self.sender(key) for key in listeners}, [], 0, random.Random(1)
        try:
            while self.going.is_set() and os.getppid() > 1:
                number += 1
                fresh = dice.randrange(KEYS)  # a new flow; the others are live ones
                senders.pop(fresh).close()
                senders[fresh] = self.sender(fresh)
                packets += self._round(senders, listeners, number, dice.sample(range(KEYS), KEYS))
                time.sleep(0.001)
            pipe.send((packets, None))
        except Exception as error:  # shown by the test
            pipe.send((packets, repr(error)))

    @staticmethod
    def _round(senders, listeners, number, keys):
        payload, sent = struct.pack("!Q", number), {}
        for key in keys:
            sent[key] = time.monotonic()
            senders[key].send(payload)
        senders[-1].send(payload)
        assert select.select([listeners[-1]], [], [], 3)[0], f"round {number}: what is always allowed was dropped"
        assert listeners[-1].recv(64) == payload
        seen, packets = time.monotonic(), []
        for key in keys:
            try:
                assert listeners[key].recv(64) == payload, "an old packet came late"
                passed = True
            except BlockingIOError:
                passed = False
            packets.append((key, sent[key], seen, passed))
        return packets

    def end(self):
        self.going.clear()
        packets, wrong = self.ours.recv()
        self.process.join()
        assert not wrong, wrong
        return packets


# ---- the tests ----

@pytest.fixture
def arena(lab):
    """b admits a to one port only; everything else is the writers'."""
    lab.a, lab.b = lab.pod("a"), lab.pod("b")
    lab.running = lab.agent(log={"level": "info"})
    lab.running.api.put_state([namespace("s")] + [
        workload("s", name, lab.pods[name].ips, {"name": name}, interface=lab.pods[name].interface) for name in "ab"] + [
        policy("s", "fence", {"name": "b"}, ingress=[{"ports": [{"protocol": "UDP", "port": FENCE}]}])], owner="local")
    return lab


def fail_over(scene, dice, leaders, owner):
    """Another leader begins; the one before does not know yet."""
    old = leaders[owner]
    leaders[owner] = Leader(scene, dice, owner, old.term + 1)
    leaders[owner].start()
    return old


def interrupted(scene, how):
    scene.up.clear()
    getattr(scene.agent, how)()
    scene.agent.start()
    scene.settled()


def test_competing_writers(arena, dice):
    agent = arena.running
    traffic = Traffic(arena)
    scene = Scene(agent)
    leaders = {owner: Leader(scene, dice, owner, 1) for owner in OWN}
    old, others = [], [Leader(scene, dice, "guest"), Remover(scene, dice), Reader(scene, dice)]
    for worker in [*leaders.values(), *others]:
        worker.start()
    for how in ("stop", "kill9", None):
        for owner in dice.sample(sorted(OWN), 2):
            time.sleep(SECONDS / 9)
            old.append(fail_over(scene, dice, leaders, owner))
        time.sleep(SECONDS / 9)
        if how:
            interrupted(scene, how)
    scene.over = True
    for worker in [*leaders.values(), *others, *old]:
        worker.join(30)
    packets = traffic.end()
    scene.settled()
    assert not scene.wrong, scene.wrong

    first = State(revision=scene.base["revision"])
    history = History(first, scene.calls, scene.ends)
    for path, start, end, body in scene.reads:
        history.check_read(start, end, body["revision"], read_agrees(path, body, scene.base), f"{path}: {body}")
    passed, dropped = history.check_packets(packets)
    counts = {status: sum(c.status == status for c in scene.calls) for status in {c.status for c in scene.calls}}
    print(f"{len(scene.calls)} writes: {counts}, {history.last - history.first} revisions, {len(scene.reads)} reads, "
          f"{len(packets)} packets: {passed} surely passed, {dropped} surely dropped")
    assert set(counts) >= {200, 404, 409, 412, 422} and min(passed, dropped) > 500 and len(scene.reads) > 50
    repaired(scene, history.after[history.last][-1])


def repaired(scene, state):
    """What is in quarantine says so until a good version comes; old leaders stay old ones, whatever the agent went through."""
    api = scene.agent.api
    terms = {name: term for name, term in state.owners.items() if term}
    assert terms and all(term == 4 for term in terms.values()), terms
    broken = [version(key, next(NUMBERS), BROKEN) for key in range(KEYS)]
    api.patch(apply=broken, owner="healer", force="true", invalid="quarantine")
    for restart in (lambda: None, scene.agent.restart):
        restart()
        assert len(api.status()["quarantined"]) == KEYS
        assert api.metrics()("penstock_quarantined", kind="NetworkPolicy") == KEYS
    api.patch(apply=[version(key, next(NUMBERS), SHUT) for key in range(KEYS)], owner="healer")
    assert not api.status()["quarantined"] and not api.metrics()("penstock_quarantined")
    for restart in (lambda: None, scene.agent.kill9, scene.agent.stop):
        restart()
        if not scene.agent.running():
            scene.agent.start()
        for name, term in terms.items():
            answer = api.request("PUT", f"/v1/state?owner={name}", {"items": []}, headers={"Penstock-Term": str(term - 1)})
            assert answer.status == 409 and f'"{name}"' in answer.json["detail"], answer
            assert api.request("PUT", f"/v1/state?owner={name}", {"items": []}, headers={"Penstock-Term": str(term)}).status == 200
    assert len(api.state(owner="healer")["items"]) == KEYS
