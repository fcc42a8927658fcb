# SPDX-License-Identifier: Apache-2.0
"""Cases as folders: tests/golden/AREA/CASE/{input.json,expected.json[,arguments]}, judged by build/tools/AREA.

The tool reads the input on standard input and prints JSON. `GOLDEN_UPDATE=1` writes what it prints to expected.json
instead of comparing; PENSTOCK_BUILD says where the tools are.
"""
import json
import os
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("PENSTOCK_BUILD") or HERE.parents[1] / "build")
CASES = sorted(path.parent for path in HERE.glob("*/*/input.json"))


def pretty(value):
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def run(area, text, arguments=()):
    tool = BUILD / "tools" / area
    assert tool.exists(), f"{tool} is not built: make B={BUILD} tools"
    done = subprocess.run([tool, *arguments], input=text, capture_output=True, timeout=60)
    assert done.returncode == 0, f"{tool.name} ended with {done.returncode}: {done.stderr.decode()}"
    return json.loads(done.stdout)


def arguments_of(case):
    path = case / "arguments"
    return path.read_text().split() if path.exists() else []


def name(case):
    return f"{case.parent.name}/{case.name}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_case(case):
    got = run(case.parent.name, (case / "input.json").read_bytes(), arguments_of(case))
    expected = case / "expected.json"
    if os.environ.get("GOLDEN_UPDATE") == "1":
        expected.write_text(pretty(got))
        return
    assert expected.exists(), f"{name(case)} has no expected.json: GOLDEN_UPDATE=1 writes it; then read it"
    assert pretty(got) == expected.read_text()


@pytest.mark.parametrize("case", [case for case in CASES if case.parent.name == "decode"], ids=name)
def test_canonical_form_decodes_to_itself(case):
    arguments = arguments_of(case)
    once = run("decode", (case / "input.json").read_bytes(), arguments)
    objects = [one["object"] for one in once if "object" in one]
    if not objects:
        pytest.skip("this case has errors only")
    twice = run("decode", json.dumps({"items": objects}).encode(), arguments)
    assert [one.get("object") for one in twice] == objects
