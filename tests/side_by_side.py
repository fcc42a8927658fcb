#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs test files side by side: side_by_side.py RESULTS SUITE…, each SUITE a folder or a file below tests/.

Each file is a pytest process of its own, so that its namespaces, pins and paths have its pid in their names; WORKERS of
them run at a time (default: one more than there are processors, at most 6: they wait more than they compute), those that
take longest first. Tests marked `serial` look at the whole machine: they come last, one file after the other.

RESULTS/counts gets what junit.py says of all of them, and a line "name" for each process that ended without a result.
What a process that fails has said is shown whole; of the others, a line. SUITE_SECONDS is the time of one process.

Of more than 4,000 tests with real packets and processes on a loaded machine one may fail by what the machine did. So what
failed is asked once more, alone, in the end. Who passes then counts as passed and gets a line "unsteady": that is a bug to
be found, in the test, in Penstock or in the very change that is tested. More than AGAIN failures are no accident.
"""
import concurrent.futures
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import junit

TESTS = pathlib.Path(__file__).resolve().parent
WORKERS = int(os.environ.get("WORKERS") or min(len(os.sched_getaffinity(0)) + 1, 6))
SECONDS = int(os.environ.get("SUITE_SECONDS") or 900)
NOTHING_COLLECTED = 5
AGAIN = 5
SERIAL = re.compile(r"pytest\.mark\.serial\b")
# Those that take longest, in that order: what begins last should be short.
LONG = """
    e2e/scenarios_churn e2e/nftables e2e/datapath e2e/scenarios e2e/conformance e2e/hooks e2e/listeners e2e/faults
    e2e/lifecycle e2e/differential_intercept e2e/coexistence_networks e2e/coexistence_rules e2e/services_live
    e2e/services_behind e2e/sockets e2e/scenarios_udp e2e/coexistence e2e/settings e2e/proxies_life e2e/proxies e2e/engine
    e2e/api e2e/services e2e/scenarios_directions e2e/listeners_udp e2e/explain e2e/intercept e2e/onward_policy
    e2e/differential_services e2e/differential e2e/relay bpf/answers bpf/network e2e/host_processes e2e/traffic e2e/crash e2e/systemd
    e2e/ui_browser
""".split()

running, shown, stopped = set(), threading.Lock(), threading.Event()


class Outcome:
    def __init__(self, path, code, output, seconds, counts, names):
        self.path, self.code, self.output, self.seconds = path, code, output, seconds
        self.counts, self.names, self.unsteady = counts, names, []

    def show(self):
        with shown:
            if self.names:
                print(f"-- {self.path}\n{self.output}", flush=True)
                return
            said = ", ".join(f"{value} {what}" for what, value in self.counts.items() if value)
            print(f"   {self.path}: {said} in {self.seconds:.0f} s", flush=True)
            for line in self.output.splitlines():
                if line.startswith("SKIPPED"):
                    print(f"      {line}", flush=True)


def pytest(path, results, serial, only=()):
    """Runs one file's serial tests, or its others, or only some; None where there are none of them."""
    name = f"{path.parent.name}-{path.stem}{'-serial' if serial else '-again' if only else ''}"
    file = str(path.relative_to(TESTS.parent))
    which = [f"{file}::{one}" for one in only] or ["-m", "serial" if serial else "not serial", file]
    xml = results / f"{name}.xml"
    environment = {key: value for key, value in os.environ.items() if key != "CI"}  # with it pytest prints whole documents
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-rs", "--tb=short", "-p", "no:cacheprovider", "-o", "console_output_style=classic",
         "--junitxml", str(xml), *which],
        cwd=TESTS.parent, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace")
    running.add(process)
    try:
        output, ended = process.communicate(timeout=SECONDS)[0], None
    except subprocess.TimeoutExpired:
        process.terminate()
        output, ended = process.communicate()[0], f"not done within {SECONDS} s"
    finally:
        running.discard(process)
    if process.returncode == NOTHING_COLLECTED:
        return None
    try:
        counts, names = junit.count(xml)
        xml.unlink()
    except (OSError, junit.ParseError):
        counts, names = dict.fromkeys(junit.KINDS, 0), []
    if process.returncode and not names:
        counts["failed"] += 1
        names.append(f"{path.parent.name}/{path.name}: {ended or f'pytest ended with {process.returncode}'}")
    return Outcome(path.relative_to(TESTS), process.returncode, output, time.monotonic() - begun, counts, names)


def work(path, results, serial=False):
    outcome = None if stopped.is_set() else pytest(path, results, serial)
    if outcome and not stopped.is_set():
        outcome.show()
    return outcome


def again(outcome, results):
    """What failed, alone. A file that ended without a result has no names of tests."""
    tests = {name.partition("::")[2]: name for name in outcome.names}
    if not all(tests):
        return
    print(f"-- once more: {', '.join(outcome.names)}", flush=True)
    second = pytest(TESTS / outcome.path, results, False, tests)
    if second is None or second.code not in (0, 1):
        return
    still = {name.partition("::")[2] for name in second.names}
    if second.names:
        print(second.output, flush=True)
    outcome.unsteady = [name for test, name in tests.items() if test not in still]
    outcome.names = [name for test, name in tests.items() if test in still]
    outcome.counts["failed"] -= len(outcome.unsteady)
    outcome.counts["passed"] += len(outcome.unsteady)


def ordered(paths):
    def place(path):
        name = f"{path.parent.name}/{path.stem.removeprefix('test_')}"
        return LONG.index(name) if name in LONG else len(LONG), name
    return sorted(paths, key=place)


def stop(number, frame):
    stopped.set()
    for process in list(running):
        process.terminate()


def main(results, *suites):
    results = pathlib.Path(results)
    paths = ordered(path for suite in suites for path in (TESTS.glob(suite) if suite.endswith(".py") else
                                                          (TESTS / suite).glob("test_*.py")))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        outcomes = list(pool.map(lambda path: work(path, results), paths))
    outcomes += [work(path, results, serial=True) for path in paths if SERIAL.search(path.read_text())]
    if stopped.is_set():
        return 130
    outcomes = [outcome for outcome in outcomes if outcome]
    if sum(len(outcome.names) for outcome in outcomes) <= AGAIN:
        for outcome in outcomes:
            if outcome.names and not stopped.is_set():
                again(outcome, results)
    with open(results / "counts", "w") as file:
        for what in junit.KINDS:
            print(what, sum(outcome.counts[what] for outcome in outcomes), sep="\t", file=file)
        for outcome in outcomes:
            for what, names in (("name", outcome.names), ("unsteady", outcome.unsteady)):
                for name in names:
                    print(what, name, sep="\t", file=file)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
