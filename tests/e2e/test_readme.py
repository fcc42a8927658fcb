# SPDX-License-Identifier: Apache-2.0
"""README's tour by curl is run as it stands, against a real agent; kubectl's answer is ours."""
import json
import os
import re

import pytest

from lab import NODE_NAME, REPOSITORY, Lab
from objects import deny_all, namespace, pod


@pytest.fixture(scope="module")
def readme():
    with open(os.path.join(REPOSITORY, "README.md")) as file:
        return file.read()


def test_the_tour(readme):
    tour = re.search(r"## A tour by curl\n\n```sh\n(.*?)```", readme, re.S)[1]
    with Lab() as lab:
        chat = lab.pod("chat")
        agent = lab.agent(metrics={"listen": "127.0.0.1:7642"})
        cluster = f"{lab.directory}/cluster.json"
        with open(cluster, "w") as file:
            json.dump({"apiVersion": "v1", "kind": "List", "items": [
                namespace("shop"), pod("shop", "chat", chat.ips, NODE_NAME, {"app": "chat"}), deny_all("shop")]}, file)
        assert "/run/penstock/penstock.sock" in tour and "7642" in tour
        script = f"set -euo pipefail\nkubectl() {{ cat {cluster}; }}\n"
        script += tour.replace("/run/penstock/penstock.sock", agent.socket)
        said = lab.node.run("bash", "-c", script).stdout
        assert "/problems/" not in said
        assert agent.api.state()["revision"] == 4
        names = {o["metadata"]["name"] for o in agent.api.state()["items"]}
        assert names == {"shop", "chat", "deny-all", "ai-gateway", "llm-egress"}
        assert "penstock_revision" in said


def test_every_key_of_the_reference_is_a_key(readme):
    """The table of configuration keys, against the agent's own print of its defaults."""
    with Lab() as lab:
        agent = lab.agent(start=False)
        printed = lab.node.run(agent.binary, "--config", agent.config_path, "--check").stdout
    table = readme.split("## Configuration")[1].split("\n## ")[0]
    keys = re.findall(r"`([a-z]+\.[A-Za-z.]+)`(?:, `([a-z]+\.[A-Za-z.]+)`)? \|", table)
    assert len(keys) > 15
    for key in filter(None, (k for row in keys for k in row)):
        section, *rest = key.split(".")
        assert re.search(rf"^{section}:\n(?:  .*\n)*  {rest[0]}:", printed, re.M), key
