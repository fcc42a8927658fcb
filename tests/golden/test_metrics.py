# SPDX-License-Identifier: Apache-2.0
"""Metrics: the reference table is the list's, and Prometheus' own tool has nothing to say against the page."""
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = pathlib.Path(os.environ.get("PENSTOCK_BUILD") or ROOT / "build") / "tools" / "metrics_reference"


def run(*arguments):
    return subprocess.run([TOOL, *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


def test_reference_is_up_to_date():
    reference = ROOT / "api" / "metrics.md"
    if os.environ.get("GOLDEN_UPDATE") == "1":
        reference.write_text(run())
    assert reference.read_text() == run(), "api/metrics.md is old: make metrics-reference"


def test_promtool():
    promtool = shutil.which("promtool")
    if not promtool:
        pytest.skip("promtool is not installed (package prometheus)")
    checked = subprocess.run([promtool, "check", "metrics"], input=run("--sample"), capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
