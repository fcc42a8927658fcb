#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Counts a JUnit file of pytest: junit.py FILE EXIT-CODE prints passed, failed, skipped and the names of what failed.

A file that is missing, or says that all is well where pytest's exit code does not, is itself a failure.
"""
import sys
import xml.etree.ElementTree as ElementTree

KINDS = ("passed", "failed", "skipped")
ParseError = ElementTree.ParseError


def count(path):
    counts, names = dict.fromkeys(KINDS, 0), []
    for case in ElementTree.parse(path).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            counts["failed"] += 1
            names.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in kinds:
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
    return counts, names


def main(path, code):
    counts, names = count(path)
    if code and not names:
        return 1
    for what, value in counts.items():
        print(what, value, sep="\t")
    for name in names:
        print("name", name, sep="\t")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], int(sys.argv[2])))
    except (OSError, ParseError) as error:
        sys.exit(str(error))
