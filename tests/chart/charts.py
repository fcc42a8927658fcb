# SPDX-License-Identifier: Apache-2.0
"""What Helm would make of the chart."""
import json
import os
import pathlib
import subprocess

import jsonschema
import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = pathlib.Path(os.environ.get("PENSTOCK_BUILD") or ROOT / "build").resolve()
CHART = ROOT / "helm/penstock"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
PEM = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMA==\n-----END PRIVATE KEY-----\n"
TCP = {"enabled": True, "tls": {"generate": True}, "tokens": {"generate": True}}
OPEN = {"metrics": {"address": "0.0.0.0"}}


class Refused(Exception):
    pass


class Chart:
    """What Helm would make of the chart."""

    def __init__(self, program):
        self.program = program

    def files(self, values=None, **more):
        merged = merge(VALUES, values or {})
        jsonschema.validate(merged, SCHEMA)
        done = subprocess.run([self.program, CHART], input=json.dumps({"values": values or {}, **more}) + "\n", text=True,
                              capture_output=True, timeout=60, check=True)
        answer = json.loads(done.stdout)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["files"]

    def objects(self, values=None, hooks=False, **more):
        made = [document for name, text in self.files(values, **more).items() if not name.endswith("NOTES.txt")
                for document in yaml.safe_load_all(text) if document]
        return [one for one in made if hooks or "helm.sh/hook" not in one["metadata"].get("annotations", {})]

    def one(self, kind, values=None, **more):
        found = [one for one in self.objects(values, **more) if one["kind"] == kind]
        assert len(found) == 1, [one["metadata"]["name"] for one in found]
        return found[0]

    def config(self, values=None):
        return yaml.safe_load(self.one("ConfigMap", values)["data"]["penstock.yaml"])

    def agent(self, values=None, **more):
        return self.one("DaemonSet", values, **more)["spec"]["template"]


def merge(under, over):
    """As Helm does: null takes a default away."""
    made = dict(under)
    for key, value in over.items():
        made[key] = merge(made[key], value) if isinstance(value, dict) and isinstance(made.get(key), dict) else value
    return {key: value for key, value in made.items() if value is not None}
