# SPDX-License-Identifier: Apache-2.0
"""The chart's way into the cluster: the real Helm SDK, which build.sh takes from npm inside a server that speaks MCP over stdio; or
else what tests/chart/render.go makes of the chart, applied by kubectl."""
import json
import os
import pathlib
import select
import subprocess
import time

from cluster import CACHE, Failed, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm/penstock"
SERVER = CACHE / "helm"


class Helm:
    """kubernetes-mcp-server: helm_install waits for what it installs, as `helm install --wait` does."""

    name = "the Helm SDK"

    def __init__(self, cluster):
        self.process = subprocess.Popen(
            ["nsenter", f"--net=/proc/{cluster.control.pid}/ns/net", "--", str(SERVER), "--kubeconfig", str(cluster.kubeconfig), "--toolsets",
             "helm", "--list-output", "yaml"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(cluster.directory / "helm.log").open("w"),
            env={**os.environ, "HOME": str(cluster.directory)})
        self.number, self.rest = 0, b""
        self.ask("initialize", protocolVersion="2024-11-05", capabilities={}, clientInfo={"name": "tests", "version": "1"})
        self.tell(method="notifications/initialized")

    def tell(self, **message):
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, method, seconds=30, **parameters):
        self.number += 1
        self.tell(id=self.number, method=method, params=parameters)
        end = time.monotonic() + seconds
        while True:
            line = self.line(end)
            answer = json.loads(line)
            if answer.get("id") == self.number and "method" not in answer:
                break
        if "error" in answer or answer["result"].get("isError"):
            raise Failed(f"Helm, {method} {parameters.get('name', '')}: {json.dumps(answer)[:3000]}")
        return answer["result"]

    def line(self, end):
        while b"\n" not in self.rest:
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise Failed("Helm does not answer")
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                raise Failed("Helm has ended")
            self.rest += more
        line, self.rest = self.rest.split(b"\n", 1)
        return line

    def install(self, values, name="penstock", namespace="penstock-system"):
        self.ask("tools/call", 330, name="helm_install",
                 arguments={"chart": str(CHART), "values": values, "name": name, "namespace": namespace})
        listed = json.dumps(self.ask("tools/call", name="helm_list", arguments={"namespace": namespace}))
        print(listed)
        assert name in listed and "deployed" in listed, listed

    def uninstall(self, name="penstock", namespace="penstock-system"):
        self.ask("tools/call", 120, name="helm_uninstall", arguments={"name": name, "namespace": namespace})

    def end(self):
        self.process.terminate()
        self.process.wait(10)


class Rendered:
    """Without Helm."""

    name = "the rendering of tests/chart"

    def __init__(self, cluster):
        self.cluster, self.applied = cluster, {}
        self.program = cluster.directory / "chart_render"
        run("go", "build", "-o", self.program, ROOT / "tests/chart/render.go", timeout=300, env={
            **os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "", "GOCACHE": str(cluster.directory / "go")})

    def install(self, values, name="penstock", namespace="penstock-system"):
        asked = {"values": values, "name": name, "namespace": namespace, "kube": "v1.20.2"}
        answer = json.loads(run(self.program, CHART, input=json.dumps(asked) + "\n").stdout)
        if "error" in answer:
            raise Failed(answer["error"])
        text = "\n---\n".join(text for path, text in answer["files"].items() if not path.endswith("NOTES.txt") and "/tests/" not in path)
        self.applied[name] = text
        self.cluster.kubectl("-n", namespace, "apply", "-f", "-", input=text)
        self.cluster.rolled_out(namespace, name)

    def uninstall(self, name="penstock", namespace="penstock-system"):
        self.cluster.kubectl("-n", namespace, "delete", "--wait", "-f", "-", input=self.applied.pop(name), timeout=120)

    def end(self):
        pass


def made(cluster):
    return Helm(cluster) if SERVER.exists() else Rendered(cluster)
