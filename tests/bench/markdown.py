#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""README's table of what Penstock costs, from what `make bench` wrote.

    tests/bench/markdown.py [build/bench.json]            prints it
    tests/bench/markdown.py [build/bench.json] --write    puts it into README.md, between its marks
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import report  # noqa: E402

README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../README.md")
BEGIN, END = "<!-- tests/bench/markdown.py -->\n", "<!-- end -->\n"
MET = {None: "", True: "yes", False: "no"}


def table(bench):
    lines = ["| what | penstock | beside it | to reach | reached |", "|---|---|---|---|---|"]
    for one in report.lines(bench, whole=False):
        cells = (one.title, f"not measured: {one.why}", "", "", "") if one.why else (
            one.title, one.ours, "; ".join(one.beside), one.goal, MET[one.met])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + (
        f"\n\n{bench['machine']}; median of {bench['rounds']} rounds in turns. × is ours divided by theirs: of rates more is better, "
        "of times less. TPROXY and\nREDIRECT are single rules of nftables by hand, alone on the node.\n")


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
