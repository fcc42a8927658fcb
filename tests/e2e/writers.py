# SPDX-License-Identifier: Apache-2.0
"""
A model of what competing writers may do, from the contract alone, and the judge of what they were told.

A write that changed something has a revision of its own, so the answers say in which order the writes took effect. They
are replayed in it: each must have been allowed at its place, whatever was refused must have been refusable at a place
between its begin and its end, and what was read or seen on the wire must be one of the states in between.
"""
import bisect
import itertools
import re
from dataclasses import dataclass, field, replace

KEYS = 12  # objects that are written: policies k0, k1, …; each may open one port
REPLACE, PATCH, PUT, DELETE, FORGET = "PUT state", "PATCH", "PUT object", "DELETE object", "DELETE owner"
OPEN, SHUT, BROKEN, UNREADABLE = "open", "shut", "broken", "unreadable"  # what one version of an object is
GOOD = (OPEN, SHUT)


@dataclass(frozen=True)
class Version:
    """What stands under a key."""
    owner: str
    number: int  # of the version; every one that is sent has its own, what stands in for one that was never good has 0
    opens: bool = False
    isolating: bool = False  # stands in for one that was never good
    revision: int = field(default=0, compare=False)


@dataclass
class State:
    objects: dict = field(default_factory=dict)  # key → Version
    aside: dict = field(default_factory=dict)    # key → (owner, number of the broken version)
    owners: dict = field(default_factory=dict)   # name → term
    revision: int = 0

    def copy(self):
        return State(dict(self.objects), dict(self.aside), dict(self.owners), self.revision)

    def owner_of(self, key):
        return self.objects[key].owner if key in self.objects else self.aside[key][0] if key in self.aside else None

    def has(self, owner):
        """Objects, something in quarantine, or a term."""
        return self.owners.get(owner) is not None or any(v.owner == owner for v in self.objects.values()) or \
            any(name == owner for name, _ in self.aside.values())


@dataclass
class Call:
    """One write, and what became of it."""
    verb: str
    owner: str
    term: int = None
    force: bool = False
    quarantine: bool = False
    items: tuple = ()    # (key, number, what it is)
    deleted: tuple = ()  # keys
    match: int = None    # If-Match: the revision that the tag names
    start: float = 0.0
    end: float = None    # None: nobody knows whether it took effect
    status: int = None
    answer: dict = None
    tag: int = None
    revision: int = None  # of its 200, or found by replaying

    def __str__(self):
        return (f"{self.verb} of {self.owner}, term {self.term}, force {self.force}, quarantine {self.quarantine}, "
                f"{self.items} -{self.deleted} match {self.match} at {self.start:.4f}–{self.end}: {self.status} {self.answer}")


class Wrong(AssertionError):
    pass


@dataclass
class Outcome:
    statuses: tuple  # any of them is right
    state: State = None
    owners: frozenset = frozenset()  # whom a 409 names
    changed: bool = False
    aside: tuple = ()                # keys in the answer's list


def outcome(state, call):
    """What the contract says of this call on top of this state."""
    one = call.verb in (PUT, DELETE)
    key = call.items[0][0] if call.verb == PUT else call.deleted[0] if call.verb == DELETE else None
    if call.match is not None:
        now = state.objects[key].revision if one and key in state.objects else None if one else state.revision
        if now != call.match:
            return Outcome((412,))
    if call.term is not None and (state.owners.get(call.owner) or 0) > call.term:
        return Outcome((409,), owners=frozenset([call.owner]))
    if call.verb == FORGET and call.term is None and not state.has(call.owner):
        # It is listed if it has ever written since: which of the writes that changed nothing came first, nobody can say.
        return Outcome((200, 404), state)
    touched = [k for k, _, _ in call.items] + list(call.deleted)
    foreign = [k for k in touched if not call.force and state.owner_of(k) not in (None, call.owner)]
    statuses = {409} if foreign else set()
    if not call.quarantine and any(what not in GOOD for k, _, what in call.items if k not in foreign):
        statuses.add(422)
    if call.verb == DELETE and state.owner_of(key) is None:
        statuses.add(404)
    if statuses:
        return Outcome(tuple(statuses), owners=frozenset(state.owner_of(k) for k in foreign))
    return _applied(state, call)


def _applied(state, call):
    now, aside = state.copy(), []
    for key in range(KEYS):
        if key in call.deleted or (call.verb in (REPLACE, FORGET) and state.owner_of(key) == call.owner):
            now.objects.pop(key, None)
            now.aside.pop(key, None)
    for key, number, what in call.items:
        if what in GOOD:
            now.aside.pop(key, None)
            now.objects[key] = Version(call.owner, number, what == OPEN)
            continue
        aside.append(key)
        now.aside[key] = (call.owner, number)
        last = state.objects.get(key)
        if last and not (last.isolating and what == BROKEN):  # its last good version stays in force
            now.objects[key] = replace(last, owner=call.owner)
        elif what == BROKEN:  # its podSelector can be read: what it selects is isolated
            now.objects[key] = Version(call.owner, 0, isolating=True)
        else:
            now.objects.pop(key, None)
    changed = now.objects != state.objects or now.aside != state.aside
    now.revision += changed
    for key, version in now.objects.items():
        old = state.objects.get(key)
        now.objects[key] = old if old == version else replace(version, revision=now.revision)
    if call.term is not None:
        now.owners[call.owner] = call.term
    return Outcome((200,), now, changed=changed, aside=tuple(sorted(aside)))


def agrees(call, result):
    """Is what was answered what the model says?"""
    if call.status not in result.statuses:
        return False
    if call.status == 409:
        named = set(re.findall(r'owner "([^"]*)"', " ".join(e["detail"] for e in call.answer["errors"])))
        return named == result.owners
    if call.status != 200:
        return True
    told = tuple(sorted(int(q["name"][1:]) for q in call.answer.get("quarantined", [])))
    tag = result.state.revision
    if call.verb == PUT:
        version = result.state.objects.get(call.items[0][0])
        tag = version.revision if version else tag
    return told == result.aside and call.tag == tag


class History:
    """All calls, replayed. ends: (revision, time, objects) whenever all that was not answered is known to be over."""

    def __init__(self, first, calls, ends):
        self.calls, self.after = calls, {first.revision: [first]}
        self.first, self.last = first.revision, ends[-1][0]
        self.acknowledged = [c for c in calls if c.status == 200]
        self.by_revision, self.changers = {}, {}
        for call in self.acknowledged:
            self.by_revision.setdefault(call.revision, []).append(call)
        if max(self.by_revision, default=0) > self.last:
            raise Wrong(f"revision {max(self.by_revision)} was acknowledged, the last one is {self.last}")
        self._replay_idle(first.revision, self.by_revision.get(first.revision, []))
        lost = [c for c in calls if c.status is None]
        at = first.revision
        for revision, when, objects in ends:
            at = self._segment(at, revision, objects, [c for c in lost if c.start < when])
            lost = [c for c in lost if c.start >= when]
        self._bounds(ends)
        self._idle_unanswered(ends)
        for call in calls:
            self._check(call)

    # ---- order ----

    def _segment(self, at, end, objects, lost):
        """One agent's life: what was not acknowledged may or may not have taken effect."""
        missing = [r for r in range(at + 1, end + 1) if r not in self.by_revision]
        reasons = []
        for chosen in itertools.permutations(lost, len(missing)):
            try:
                self._replay(at, end, dict(zip(missing, chosen)))
                if self.after[end][-1].objects != objects:
                    raise Wrong(f"revision {end} is not as it was written: {self.after[end][-1]}\n{objects}")
                for revision, call in zip(missing, chosen):
                    call.revision = revision
                return end
            except Wrong as why:
                reasons.append(str(why))
        if not reasons:
            raise Wrong(f"nobody wrote revisions {missing}: {len(lost)} writes were not answered")
        raise Wrong("\n".join(reasons[:3]))

    def _replay(self, at, end, unanswered):
        for revision in range(at + 1, end + 1):
            group = self.by_revision.get(revision, [])
            base = self.after[revision - 1][-1]
            reasons = []
            for changer in group or [unanswered[revision]]:
                result = outcome(base, changer)
                if not result.changed or (changer.status is not None and not agrees(changer, result)):
                    continue
                self.changers[revision], self.after[revision] = changer, [result.state]
                try:
                    self._replay_idle(revision, [c for c in group if c is not changer])
                    break
                except Wrong as why:
                    reasons.append(str(why))
            else:
                raise Wrong("\n".join(reasons) or f"revision {revision} cannot follow {base}:\n" + "\n".join(map(str, group)))

    def _replay_idle(self, revision, calls):
        """Those that changed nothing, in an order that explains them all."""
        calls = sorted(calls, key=lambda c: c.start)
        while calls:
            base = self.after[revision][-1]
            for call in calls:
                result = outcome(base, call)
                if not result.changed and agrees(call, result):
                    break
            else:
                raise Wrong(f"after {self.changers.get(revision)}\nat revision {revision} these change nothing? {base}\n" +
                            "\n".join(map(str, calls)))
            calls.remove(call)
            self.after[revision].append(result.state)

    def _idle_unanswered(self, ends):
        """What was not answered may have changed nothing, and still be seen in the list of owners."""
        for call in (c for c in self.calls if c.status is None and c.revision is None):
            end = min(revision for revision, when, _ in ends if when > call.start)
            for revision in range(_at(self.known, call.start, self.first), end + 1):
                for state in list(self.after[revision]):
                    result = outcome(state, call)
                    if 200 in result.statuses and not result.changed:
                        self.after[revision].append(result.state)

    # ---- time ----

    def _bounds(self, ends):
        known = [(c.end, c.revision) for c in self.acknowledged] + [(when, revision) for revision, when, _ in ends]
        self.known = _rising(known)
        self.later = _rising((-changer.start, -revision) for revision, changer in self.changers.items())

    def window(self, start, end):
        """The revisions that can have been in force at some moment between these."""
        return _at(self.known, start, self.first), -_at(self.later, -end, -self.last - 1) - 1

    def _check(self, call):
        if call.status is None:
            return
        floor, ceiling = self.window(call.start, call.end)
        if call.status == 200:
            if not floor <= call.revision <= ceiling or (floor == call.revision and self.changers.get(floor) is call):
                raise Wrong(f"only {floor}–{ceiling} can have been there while it went on: {call}")
            return
        if not any(agrees(call, outcome(state, call)) for r in range(floor, ceiling + 1) for state in self.after[r]):
            raise Wrong(f"refused, and nothing between {floor} and {ceiling} explains it: {call}\n"
                        f"{self.after[floor][0]}\n{self.after[ceiling][-1]}")

    def check_read(self, start, end, revision, check, what):
        floor, ceiling = self.window(start, end)
        if not floor <= revision <= ceiling:
            raise Wrong(f"revision {revision} was read when only {floor}–{ceiling} can have been there")
        if not any(check(state) for state in self.after[revision]):
            raise Wrong(f"read at revision {revision}, and not as it was written: {self.after[revision]}\n{what}")

    # ---- packets ----

    def check_packets(self, packets):
        """(key, sent, seen, passed) in the order of sending; what is in force only goes on, never back. Returns how many passed
        and did not when only that was right."""
        at, sure = self.first, [0, 0]
        opens = {r: [k in s[0].objects and s[0].objects[k].opens for k in range(KEYS)] for r, s in self.after.items()}
        for key, sent, seen, passed in packets:
            floor, ceiling = self.window(sent, seen)
            verdicts = {opens[r][key] for r in range(floor, ceiling + 1)}
            if len(verdicts) == 1:
                sure[not passed] += 1
            at = max(at, floor)
            begun = at
            while at <= ceiling and opens[at][key] != passed:
                at += 1
            if at > ceiling:
                raise Wrong(f"k{key}: a packet {'passed' if passed else 'was dropped'} at {sent:.4f}–{seen:.4f}, and no revision "
                            f"from {begun} to {ceiling} does that (before what went ahead of it: from {floor})")
        return sure


def _rising(pairs):
    """(times, the largest number up to each)"""
    times, tops = [], []
    for when, number in sorted(pairs):
        times.append(when)
        tops.append(max(number, tops[-1]) if tops else number)
    return times, tops


def _at(rising, when, otherwise):
    """The largest number that came before that moment."""
    place = bisect.bisect_left(rising[0], when)
    return rising[1][place - 1] if place else otherwise
