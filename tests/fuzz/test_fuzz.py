# SPDX-License-Identifier: Apache-2.0
"""A short run of each fuzz target over its corpus, cut off and with bytes changed, under the sanitizers."""
import os
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = {
    "decode": [*ROOT.glob("agent/base/[!g]*.c"), *ROOT.glob("agent/model/*.c")],
    "sniff": [ROOT / "agent/relay/sniff.c"],
}
LIBRARIES = {"decode": ["-ljansson"], "sniff": []}


@pytest.mark.parametrize("target", SOURCES)
def test_corpus(target, tmp_path):
    compiler = os.environ.get("CC") or "gcc"
    program = tmp_path / target
    subprocess.run(
        [compiler, "-g", "-O1", "-std=gnu11", "-D_GNU_SOURCE", "-DFUZZ_MAIN", "-fsanitize=address,undefined",
         "-fno-sanitize-recover=undefined", f"-I{ROOT}", HERE / f"fuzz_{target}.c", *SOURCES[target],
         *LIBRARIES[target], "-o", program],
        check=True, timeout=300)
    corpus = sorted((HERE / "corpus" / target).iterdir())
    assert corpus, "the corpus is empty"
    done = subprocess.run([program, *corpus], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{len(corpus)} files\n"
