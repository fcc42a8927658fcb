# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus in the node's namespace, that scrapes the agent's own listener."""
import http.client
import json
import os
import urllib.parse

LISTEN, PROMETHEUS = 7642, 9090
SCRAPE = 0.2


class Prometheus:
    """rules: a file of rules. They are looked at once a second: Prometheus' own clock of alerts ticks in whole seconds."""

    def __init__(self, lab, rules=None):
        self.node, self.directory = lab.node, f"{lab.directory}/prometheus"
        os.makedirs(self.directory)
        config = {"global": {"scrape_interval": f"{int(SCRAPE * 1000)}ms", "scrape_timeout": f"{int(SCRAPE * 1000)}ms",
                             "evaluation_interval": "1s"},
                  "rule_files": [str(rules)] if rules else [],
                  "scrape_configs": [{"job_name": "penstock", "static_configs": [{"targets": [f"127.0.0.1:{LISTEN}"]}]}]}
        with open(f"{self.directory}/prometheus.yml", "w") as file:
            json.dump(config, file)  # which is YAML
        self.log = open(f"{self.directory}/log", "w")
        self.process = lab.node.popen(
            "prometheus", f"--config.file={self.directory}/prometheus.yml", f"--storage.tsdb.path={self.directory}/data",
            f"--web.listen-address=127.0.0.1:{PROMETHEUS}", "--log.level=warn", stdout=self.log, stderr=self.log,
            env={**os.environ, "GOMAXPROCS": "1"})

    def ask(self, port, path):
        """(status, body)."""
        with self.node.entered():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.connect()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def get(self, port, path):
        status, body = self.ask(port, path)
        assert status == 200, (path, status, body)
        return body

    def parses(self, expression):
        """None, or what it says of the expression."""
        status, body = self.ask(PROMETHEUS, "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        return None if status == 200 else json.loads(body)["error"]

    def query(self, expression):
        """[(labels, value)] of an instant query."""
        answer = json.loads(self.get(PROMETHEUS, "/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        assert answer["status"] == "success", answer
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def alerts(self):
        """{name: pending or firing} of alerts."""
        return {one["labels"]["alertname"]: one["state"] for one in json.loads(self.get(PROMETHEUS, "/api/v1/alerts"))["data"]["alerts"]}

    def scraped(self):
        assert self.process.poll() is None, f"prometheus ended with {self.process.returncode}: {self.directory}/log"
        try:
            if self.ask(PROMETHEUS, "/-/ready")[0] != 200:
                return False
        except OSError:  # not up yet itself
            return False
        return [value for _, value in self.query("up")] == [1]

    def samples(self):
        """By name and labels, as the page has them."""
        return {series(metric.pop("__name__"), metric): value
                for metric, value in self.query('{job="penstock",__name__=~"penstock_.+|process_.+"}')}

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def series(name, labels):
    """A label without a value is none, to Prometheus."""
    return name, tuple(sorted((k, v) for k, v in labels.items() if v and k not in ("instance", "job")))
