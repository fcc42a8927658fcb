#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The table of the chart's values, from the `# --` lines of values.yaml. values.py --write puts it into the chart's README.md."""
import json
import pathlib
import re
import sys

import yaml

CHART = pathlib.Path(__file__).resolve().parents[2] / "helm/penstock"
BEGIN, END = "<!-- tests/chart/values.py -->\n", "<!-- end -->\n"


def described(text):
    """(path, meaning) of every key that a `# --` line stands over."""
    path, meaning = [], None
    for line in text.splitlines():
        found = re.match(r"^( *)(# -- (.*)|([A-Za-z]+):.*)$", line)
        if not found:
            continue
        if found.group(3):
            meaning = found.group(3)
            continue
        depth = len(found.group(1)) // 2
        path[depth:] = [found.group(4)]
        if meaning:
            yield list(path), meaning
        meaning = None


def table():
    text = (CHART / "values.yaml").read_text()
    values = yaml.safe_load(text)
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, meaning in described(text):
        value = values
        for key in path:
            value = value[key]
        lines.append(f"| `{'.'.join(path)}` | `{json.dumps(value)}` | {meaning} |")
    return "\n".join(lines) + "\n"


def written(text):
    return text[:text.index(BEGIN) + len(BEGIN)] + table() + text[text.index(END):]


if __name__ == "__main__":
    readme = CHART / "README.md"
    if sys.argv[1:] == ["--write"]:
        readme.write_text(written(readme.read_text()))
    else:
        print(table(), end="")
