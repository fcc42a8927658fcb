#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The README's answer to "TPROXY or eBPF?": its table, from what `make bench` wrote.

    tests/bench/markdown.py [build/bench.json]            prints it
    tests/bench/markdown.py [build/bench.json] --write    puts it into README.md, between its marks
"""
import json
import os
import sys

README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../README.md")
BEGIN, END = "<!-- tests/bench/markdown.py -->\n", "<!-- end -->\n"
OURS = {"penstock, ebpf": "engine `ebpf`", "penstock, tproxy": "engine `tproxy`"}
HAND = {"TPROXY": "TPROXY", "REDIRECT": "REDIRECT", "TPROXY + socket match": "sockets first, then TPROXY"}
ROWS = [("connections a second, one rule", "intercept-cps, 1 rule"),
        ("… 1,000 rules", "intercept-cps, 1,000 rules"),
        ("connect time, µs, one rule: p50", "intercept-latency p50, 1 rule"),
        ("… p99", "intercept-latency p99, 1 rule"),
        ("… 1,000 rules: p50", "intercept-latency p50, 1,000 rules"),
        ("… p99", "intercept-latency p99, 1,000 rules"),
        ("CPU time of the machine, µs a connection, one rule", "intercept-machine-CPU, 1 rule"),
        ("datagrams, thousands a second, one rule", "intercept-datagrams, 1 rule"),
        ("… 1,000 rules", "intercept-datagrams, 1,000 rules"),
        ("penstock-relay: connections a second", "relay-cps, penstock-relay"),
        ("… MB/s", "relay-bulk, penstock-relay"),
        ("HAProxy: connections a second", "relay-cps, HAProxy"),
        ("… MB/s", "relay-bulk, HAProxy")]


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def cells(figures, row):
    """Of each contender: its figure, ours with how many times TPROXY's that is."""
    here = {figure["contender"]: figure["value"] for figure in figures if figure["row"] == row}
    hand = here.get("TPROXY")
    for name in [*OURS, *HAND]:
        value = here.get(name)
        yield "" if value is None else f"{number(value)} ({value / hand:.2f} ×)" if name in OURS else number(value)


def table(bench):
    lines = ["| | " + " | ".join([*OURS.values(), *[f"by hand: {name}" for name in HAND.values()]]) + " |",
             "|---|" + "---:|" * (len(OURS) + len(HAND))]
    for title, row in ROWS:
        if any(figure["row"] == row for figure in bench["figures"]):
            lines.append("| " + " | ".join([title, *cells(bench["figures"], row)]) + " |")
    return "\n".join(lines) + f"\n\n{bench['machine']}, median of {bench['rounds']} rounds; × is by how much more or less than TPROXY by hand.\n"


def main():
    given = [one for one in sys.argv[1:] if one != "--write"]
    with open(given[0] if given else "build/bench.json") as file:
        text = table(json.load(file))
    if "--write" not in sys.argv:
        print(text, end="")
        return
    with open(README) as file:
        readme = file.read()
    before, after = readme.index(BEGIN) + len(BEGIN), readme.index(END)
    with open(README, "w") as file:
        file.write(readme[:before] + text + readme[after:])


if __name__ == "__main__":
    main()
