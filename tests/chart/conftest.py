# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import subprocess

import pytest

from charts import BUILD, HERE, Chart

SPRIG = "/usr/share/gocode/src/github.com/Masterminds/sprig"


@pytest.fixture(scope="session")
def chart():
    if not shutil.which("go") or not os.path.isdir(SPRIG):
        pytest.skip("no renderer: the packages golang-go and golang-github-masterminds-sprig-dev are not here")
    program = BUILD / "tools/chart_render"
    source = HERE / "render.go"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        fresh = program.with_suffix(f".{os.getpid()}")
        environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(BUILD / "go-cache"), "GOFLAGS": ""}
        subprocess.run(["go", "build", "-o", fresh, source], env=environment, check=True, timeout=300)
        os.replace(fresh, program)
    return Chart(program)
