#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""compile_commands.json on standard output: compile_commands.py 'COMPILER FLAGS'"""
import json
import pathlib
import re
import shlex
import sys

from sources import ROOT, files


def main(command):
    flags = [f for f in shlex.split(command) if f not in ("-MMD", "-MP")]
    # The shell took the quotes of string macros.
    flags = [re.sub(r'^(-DPENSTOCK_\w+=)"?([^"]*)"?$', r'\1"\2"', f) for f in flags]
    json.dump([{"directory": str(ROOT), "file": path,
                "arguments": [*flags, "-c", "-o", str(pathlib.Path("build") / path).replace(".c", ".o"), path]}
               for path in files() if path.endswith(".c") and not path.endswith(".bpf.c")], sys.stdout, indent=1)


if __name__ == "__main__":
    main(sys.argv[1])
