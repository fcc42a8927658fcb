# SPDX-License-Identifier: Apache-2.0
"""What `make bench` makes of its figures: one table in which nothing is left out silently, and pictures."""
import os
import sys
from xml.etree import ElementTree

import pytest

from lab import REPOSITORY

sys.path.insert(0, os.path.join(REPOSITORY, "tests/bench"))
import markdown  # noqa: E402
import plot  # noqa: E402
import report  # noqa: E402

pytestmark = pytest.mark.pure


def figure(row, contender, value, unit, against=None, ratio=None, goal=None):
    return {"row": row, "contender": contender, "value": value, "unit": unit, "against": against, "ratio": ratio, "goal": goal}


def sample():
    """One row of each shape that tests/bench writes."""
    figures = [figure(f"verdict, {kind} connection", f"{count:,} rules", base + at, "ns/packet", "1 rule", (base + at) / base, "≤ 1.15")
               for kind, base in (("new", 280), ("established", 59)) for at, count in enumerate((1, 10, 100, 1000))]
    figures += [figure("filtered veth, 1,000 rules", "penstock", 450, "kpps"),
                figure("filtered veth, 1,000 rules", "nft <lists> & \"more\"", 50, "kpps", "nft <lists> & \"more\"", 9, "≥ 5"),
                figure("intercept-cps, 1 rule", "TPROXY", 30000, "conn/s"), figure("intercept-cps, 1 rule", "REDIRECT", 40000, "conn/s")]
    figures += [figure("intercept-cps, 1 rule", f"penstock, {engine}", value, "conn/s", other, value / theirs,
                       "≥ 1.0" if engine == "ebpf" else None)
                for engine, value in (("ebpf", 36000), ("tproxy", 33000)) for other, theirs in (("TPROXY", 30000), ("REDIRECT", 40000))]
    figures += [figure("resident memory", "idle", 11.2, "MiB", goal="≤ 16"),
                figure("restart, 10,000 pods", "segments lost", 3, "", goal="≤ 0"),
                figure("PUT → enforced at 10,000 pods", "one Pod, p99", 3.7, "ms", "one fdatasync, p99", 0.9, "≤ 5"),
                figure("a new row", "of tomorrow", 1, "s")]
    return {"machine": "Linux 6.18 <here> & now", "rounds": 3, "figures": figures, "left_out": {"relay": "not asked for (ROWS)"}}


def by_title():
    return {one.title: one for one in report.lines(sample())}


@pytest.mark.parametrize("title, ours, beside, goal, met", [
    ("verdict, established connection, 1 … 100,000 rules", "59 – 62 ns/packet", ["≤ 1.05 × 1 rule"], "≤ 1.15 × 1 rule", True),
    ("packets through a filtered veth, 1,000 rules", "450 kpps", ['nft <lists> & "more" 50 (9.00 ×)'],
     '≥ 5 × nft <lists> & "more"', True),
    ("connections handed over a second, 1 rule", "ebpf 36,000, tproxy 33,000 conn/s",
     ["TPROXY 30,000 (1.20 ×, 1.10 ×)", "REDIRECT 40,000 (0.90 ×, 0.82 ×)"], "≥ 1.0 × TPROXY (ebpf), REDIRECT (ebpf)", False),
    ("resident memory, idle", "11.2 MiB", [], "≤ 16 MiB", True),
    ("restart at 10,000 pods, segments lost meanwhile", "3", [], "≤ 0", False),
    ("one Pod PUT → enforced at 10,000 pods, p99", "3.7 ms", ["0.90 × one fdatasync, p99"], "≤ 5 ms", True),
    ("a new row, of tomorrow", "1 s", [], "", None)])
def test_a_line_says_what_was_measured_beside_whom_and_whether_that_will_do(title, ours, beside, goal, met):
    assert by_title()[title] == report.Line(title, ours, beside, goal, met)


def test_what_is_not_measured_is_named_with_its_reason():
    lines = by_title()
    assert lines["HAProxy, connections a second"].why == "not asked for (ROWS)"
    assert "NodeFilter" in lines["XDP drop, 1 and 1,000,000 networks"].why
    assert "HAProxy, connections a second" in report.text(sample())
    assert sum(bool(one.why) for one in lines.values()) == report.text(sample()).count("not measured: ") > 20


def test_the_readme_has_the_table_between_its_marks():
    with open(markdown.README) as file:
        table = file.read().split(markdown.BEGIN)[1].split(markdown.END)[0]
    head, rule, *rows = [line for line in markdown.table(sample()).split("\n") if line.startswith("|")]
    assert table.startswith(f"{head}\n{rule}\n") and "Linux" in table
    titles = {line.split(" | ")[0] for line in table.split("\n") if line.startswith("| ")}
    known = {line.split(" | ")[0] for line in rows} - {"| a new row, of tomorrow"}
    assert known <= titles, "tests/bench/markdown.py --write"


def test_pictures_are_xml_and_have_every_contender(tmp_path):
    paths = plot.write(sample(), str(tmp_path))
    assert [os.path.basename(path) for path in paths] == [
        f"bench-{name}.svg" for name in ("verdict", "filter", "intercept", "cluster")]
    said = {}
    for path in paths:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "prefers-color-scheme: dark" in root.find("{*}style").text
        said[os.path.basename(path)] = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        for mark in root.iter("{http://www.w3.org/2000/svg}rect"):
            right = float(mark.get("x") or 0) + float(mark.get("width"))
            assert 0 < right <= plot.WIDTH
    assert {"TPROXY", "penstock, ebpf", "36,000", "30,000 (1.20 ×, 1.10 ×)"} <= set(said["bench-intercept.svg"])
    assert 'nft <lists> & "more"' in said["bench-filter.svg"] and "established connection: 62" in said["bench-verdict.svg"]
