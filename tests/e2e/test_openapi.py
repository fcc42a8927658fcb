# SPDX-License-Identifier: Apache-2.0
"""api/openapi.yaml is the contract: it names exactly what the server routes, its examples are executed, and real answers
are validated against it."""
import copy
import json
import os
import subprocess
import sys

import jsonschema
import pytest
import yaml

from api import CLUSTER, NAMESPACED, path_of_object
from lab import BUILD, REPOSITORY, Lab
from test_api import SERVER, Follower, Server

sys.path.insert(0, os.path.join(REPOSITORY, "api"))
import openapi_embed  # noqa: E402

DESCRIPTION = os.path.join(REPOSITORY, "api", "openapi.yaml")
EXAMPLES = os.path.join(REPOSITORY, "api", "examples")
DOCUMENT = openapi_embed.load(DESCRIPTION)
METHODS = ("get", "put", "patch", "post", "delete")
ANSWERS = ("Problem", "FieldError", "WriteResult", "Quarantined", "OwnerList", "Status", "Listener", "Version", "List",
           "ExplainedRule", "ExplainedSide", "Explanation", "FlowRecord", "FlowEnd", "FlowList", "Alert", "AlertList")


def closed(node):
    """In what the agent writes itself, a member that is not described is a mistake."""
    if isinstance(node, dict):
        if "properties" in node:
            node.setdefault("additionalProperties", False)
        for value in node.values():
            closed(value)
    elif isinstance(node, list):
        for value in node:
            closed(value)


STRICT = copy.deepcopy(DOCUMENT)
for _name in ANSWERS:
    if _name != "List":  # allOf with it would refuse the other half
        closed(STRICT["components"]["schemas"][_name])


def resolve(node):
    while "$ref" in node:
        assert node["$ref"].startswith("#/"), node
        found = DOCUMENT
        for part in node["$ref"][2:].split("/"):
            found = found[part]
        node = found
    return node


def validate(value, schema):
    resolver = jsonschema.RefResolver("", STRICT)
    jsonschema.Draft202012Validator(schema, resolver=resolver,
                                    format_checker=jsonschema.FormatChecker()).validate(value)


def is_valid(value, schema):
    try:
        validate(value, schema)
        return True
    except jsonschema.ValidationError:
        return False


def schema_of(kind):
    return {"$ref": f"#/components/schemas/{kind}"}


def example(name):
    with open(os.path.join(EXAMPLES, f"{name}.json")) as file:
        return json.load(file)


def operations():
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def contents(node):
    return resolve(node).get("content", {}).items()


def check(answer, path, method):
    """A real answer is one of those that the operation describes."""
    operation = DOCUMENT["paths"][path][method.lower()]
    assert str(answer.status) in operation["responses"], f"{method} {path}: {answer.status} is not described: {answer!r}"
    described = resolve(operation["responses"][str(answer.status)])
    kind = answer.headers["Content-Type"]
    if answer.status == 304:
        assert answer.body == b""
        return answer
    assert kind in described["content"], f"{method} {path}: {kind} is not described"
    value = answer.json if kind.endswith("json") else answer.text
    validate(value, described["content"][kind]["schema"])
    for name, header in described.get("headers", {}).items():
        if name in answer.headers:
            text = answer.headers[name]
            wanted = resolve(resolve(header)["schema"])
            validate(int(text) if wanted["type"] == "integer" else text, wanted)
    return answer


# ---- the document itself ----

def references(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@pytest.mark.pure
def test_every_reference_leads_somewhere_and_everything_is_used():
    used = set(references(DOCUMENT))
    for reference in used:
        resolve({"$ref": reference})
    used |= {f"#/components/securitySchemes/{name}" for one in DOCUMENT["security"] for name in one}
    for group, members in DOCUMENT["components"].items():
        for name in members:
            assert f"#/components/{group}/{name}" in used, f"{group}/{name} is described and not used"


@pytest.mark.pure
def test_schemas_are_schemas():
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.pure
def test_operations_are_complete():
    seen = set()
    for path, method, operation in operations():
        where = f"{method} {path}"
        assert operation["operationId"] not in seen, where
        seen.add(operation["operationId"])
        assert operation["summary"].endswith(".") and operation["tags"], where
        assert "200" in operation["responses"] and "400" in operation["responses"], where
        parameters = [resolve(p) for p in DOCUMENT["paths"][path].get("parameters", []) + operation.get("parameters", [])]
        placeholders = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        assert {p["name"] for p in parameters if p["in"] == "path"} == placeholders, where
        assert ("requestBody" in operation) == (method in ("put", "patch", "post")), where


def routes():
    assert os.path.exists(SERVER), f"{SERVER} is not built"
    text = subprocess.run([SERVER, "--routes"], capture_output=True, text=True, check=True).stdout
    # What is below /ui is between the page and the agent that it comes from, and no API.
    return {tuple(line.split(" ")) for line in text.splitlines() if not line.startswith("GET /ui")}


@pytest.mark.pure
def test_it_names_exactly_what_is_routed():
    assert {(method.upper(), path) for path, method, _ in operations()} == routes()


@pytest.mark.pure
def test_every_kind_is_described():
    kinds = set(NAMESPACED) | set(CLUSTER)
    schemas = DOCUMENT["components"]["schemas"]
    assert set(schemas["Kind"]["enum"]) == kinds
    assert set(references(schemas["Object"]["oneOf"])) == {f"#/components/schemas/{kind}" for kind in kinds}
    for kind in kinds:
        version = schemas[kind]["properties"]["apiVersion"]
        ours = version.get("const", "").startswith("penstock.dev/")
        assert ours or version.get("const") or version["enum"][0] == "discovery.k8s.io/v1", kind
        assert (schemas[kind].get("additionalProperties") is False) == ours, kind


# ---- examples ----

def all_examples():
    """(where, name, value, schema) of every example of the document."""
    def of_contents(where, node):
        for kind, content in contents(node):
            for name, one in content.get("examples", {}).items():
                yield f"{where} {kind}", name, one["value"], content["schema"]

    for path, method, operation in operations():
        if "requestBody" in operation:
            yield from of_contents(f"{method} {path}", operation["requestBody"])
        for status, answer in operation["responses"].items():
            if "$ref" not in answer:
                yield from of_contents(f"{method} {path} {status}", answer)
    for name, answer in DOCUMENT["components"]["responses"].items():
        yield from of_contents(f"answer {name}", answer)


MEANT_WRONG = ("state-invalid",)


@pytest.mark.pure
def test_examples_fit_their_schemas_and_none_is_forgotten():
    values = []
    for where, name, value, schema in all_examples():
        assert is_valid(value, schema) == (name not in MEANT_WRONG), f"{where}: {name}"
        values.append(value)
    for file in os.listdir(EXAMPLES):
        assert example(file[:-len(".json")]) in values, f"{file} is not used"


@pytest.mark.pure
@pytest.mark.parametrize("kind, spoil", [
    ("Workload", lambda o: o["spec"].update(colour="blue")),
    ("Workload", lambda o: o["metadata"].update(colour="blue")),
    ("Workload", lambda o: o["spec"].update(ips=[])),
    ("TransparentProxy", lambda o: o["spec"].update(port=70000)),
    ("TransparentProxy", lambda o: o["spec"].update(onUnavailable="Maybe")),
    ("InterceptPolicy", lambda o: o["spec"]["egress"][0]["to"][0].update(cidrSet="x")),
    ("InterceptPolicy", lambda o: o["spec"]["subject"]["pods"].update(colour="blue")),
    ("InterceptPolicy", lambda o: o["spec"].update(priority=1001)),
    ("NetworkPolicy", lambda o: o["spec"].update(policyTypes=["Sideways"])),
    ("NetworkPolicy", lambda o: o["spec"]["ingress"][0]["ports"][0].update(port=0)),
    ("Pod", lambda o: o["metadata"].pop("name")),
    ("NodeFilter", lambda o: o["spec"]["ingress"][1]["limit"].pop("per")),
    ("CIDRSet", lambda o: o["spec"].update(cidrs=["203.0.113.0"])),
])
def test_schemas_refuse_what_the_agent_refuses(kind, spoil):
    one = example(kind.lower())
    assert is_valid(one, schema_of(kind)) and is_valid(one, schema_of("Object"))
    spoil(one)
    assert not is_valid(one, schema_of(kind)) and not is_valid(one, schema_of("Object"))


@pytest.mark.pure
def test_unknown_fields_of_standard_kinds_are_fine():
    one = example("pod")
    one["spec"]["serviceAccountName"] = "default"
    one["status"]["qosClass"] = "BestEffort"
    validate(one, schema_of("Pod"))


# ---- real answers ----

@pytest.fixture(params=["server", "agent"])
def api(request, tmp_path):
    """The server over memory, and the whole agent."""
    if request.param == "server":
        server = Server(str(tmp_path))
        yield server.api
        server.stop()
        return
    with Lab() as lab:
        yield lab.agent().api


NOT_ENFORCED = ("NodeFilter", "CIDRSet")


def concrete(path, value):
    meta = value.get("metadata", {}) if isinstance(value, dict) else {}
    return path.replace("{namespace}", meta.get("namespace", "shop")).replace("{name}", meta.get("name", "bad-actors"))


def test_examples_are_executed(api):
    """Each on the demo's state; what this build does not enforce is refused with the words for it."""
    done = 0
    for path, method, operation in operations():
        for name, one in operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get(
                "examples", {}).items():
            api.put_state(example("state")["items"])
            answer = check(api.request(method.upper(), concrete(path, one["value"]), one["value"]), path, method)
            if path == "/v1/explain" and answer.status == 503:
                assert answer.json["detail"] == "there is no data path to ask", "only the server alone has none"
            elif "cidrsets" in path or one["value"].get("kind") in NOT_ENFORCED:
                assert answer.status == 422 and "not enforced by this build" in answer.json["detail"], name
            elif name in MEANT_WRONG:
                assert answer.status == 422 and answer.json == example("problem-invalid"), name
            else:
                assert answer.status == 200, f"{method} {path} {name}: {answer!r}"
            done += 1
    assert done >= 16


def test_errors_are_as_shown(api):
    api.put_state(example("state")["items"])

    def ask(name, method, path, body=None, pattern=None, **options):
        answer = check(api.request(method, path, body, **options), pattern or path.split("?")[0], method)
        assert answer.json == example(f"problem-{name}")

    ask("conflict", "PUT", "/v1/namespaces/shop?owner=other", example("namespace"), "/v1/namespaces/{name}")
    ask("not-found", "GET", "/v1/pods/shop/none", pattern="/v1/pods/{namespace}/{name}")
    ask("parameter", "GET", "/v1/pods?limit=many")
    ask("media-type", "PUT", "/v1/state", b"items: []", content_type="application/yaml")
    assert api.state()["items"]


def test_answers_are_as_described(api):
    written = check(api.request("PUT", "/v1/state", example("state")), "/v1/state", "PUT")
    tag = written.headers["ETag"]
    state = check(api.request("GET", "/v1/state"), "/v1/state", "GET").json
    assert len(state["items"]) == len(example("state")["items"])
    for one in state["items"]:
        schema = DOCUMENT["components"]["schemas"][one["kind"]]
        assert "status" not in one or one["kind"] in ("Pod", "Node"), "an ignored field came back"
        plural = {**NAMESPACED, **CLUSTER}[one["kind"]]
        pattern = f"/v1/{plural}/" + ("{namespace}/{name}" if one["kind"] in NAMESPACED else "{name}")
        assert check(api.request("GET", path_of_object(one)), pattern, "GET").json == one and schema
        listed = check(api.request("GET", f"/v1/{plural}"), f"/v1/{plural}", "GET").json
        assert one in listed["items"]
    check(api.request("GET", "/v1/pods?limit=1"), "/v1/pods", "GET")
    check(api.request("GET", "/v1/pods/shop"), "/v1/pods/{namespace}", "GET")
    assert check(api.request("GET", "/v1/state", headers={"If-None-Match": tag}), "/v1/state", "GET").status == 304
    check(api.request("PUT", "/v1/state", {"items": []}, headers={"If-Match": '"x-1"'}), "/v1/state", "PUT")
    check(api.request("PUT", "/v1/state?dryRun=true", {"items": []}), "/v1/state", "PUT")
    check(api.request("PUT", "/v1/state", b"{"), "/v1/state", "PUT")
    check(api.request("GET", "/v1/owners"), "/v1/owners", "GET")
    check(api.request("DELETE", "/v1/owners/nobody"), "/v1/owners/{name}", "DELETE")
    check(api.request("DELETE", "/v1/pods/shop/none"), "/v1/pods/{namespace}/{name}", "DELETE")
    quarantined = api.request("PUT", "/v1/state?invalid=quarantine", example("state-invalid"))
    assert check(quarantined, "/v1/state", "PUT").json["quarantined"] == [
        {"kind": "Workload", "namespace": "shop", "name": "cart", "errors": example("problem-invalid")["errors"][:2]},
        {"kind": "NetworkPolicy", "namespace": "shop", "name": "api", "errors": example("problem-invalid")["errors"][2:]}]
    check(api.request("DELETE", "/v1/owners/local"), "/v1/owners/{name}", "DELETE")
    for path in ("/metrics", "/healthz", "/readyz", "/version"):
        check(api.request("GET", path), path, "GET")


def test_it_is_served(api):
    assert check(api.request("GET", "/openapi.json"), "/openapi.json", "GET").json == json.loads(json.dumps(DOCUMENT))


def test_status_is_as_described(lab):
    api = lab.agent().api
    pod = lab.pod("chat")
    one = example("workload")
    one["spec"].update(ips=pod.ips, interface=pod.interface)
    other = example("workload")
    other["metadata"]["name"] = "absent"
    other["spec"].update(ips=["10.77.200.1"], interface="nowhere")
    wrong = example("state-invalid")["items"][1]
    api.put_state([one, other, example("transparentproxy"), wrong], invalid="quarantine")
    status = check(api.request("GET", "/v1/status"), "/v1/status", "GET").json
    states = {w["name"]: (w["kind"], w["state"], w.get("interface")) for w in status["workloads"]}
    assert states == {"cart": ("Workload", "attached", pod.interface), "absent": ("Workload", "pending", None)}
    assert [(h["interface"], h["endpoint"]) for h in status["hooks"]] == [(pod.interface, "shop/cart")]
    assert [p["name"] for p in status["proxies"]] == ["ai-gateway"]
    assert [q["name"] for q in status["quarantined"]] == ["api"]
    assert status["maps"] and all(m["entries"] <= m["capacity"] for m in status["maps"])
    problem = api.request("PUT", "/v1/state", {"items": [wrong]})
    validate(problem.json, schema_of("Problem"))


def test_the_stream_of_the_status_is_as_described(lab):
    agent = lab.agent()
    follower = Follower(agent.socket)
    assert follower.line()["revision"] == 0
    pod = lab.pod("chat", attach=False)
    one = example("workload")
    one["spec"].update(ips=pod.ips, interface=pod.interface)
    agent.api.put_state([one])
    seen = follower.line()
    while seen["revision"] == 0 or not seen["workloads"]:
        seen = follower.line()
    assert [w["state"] for w in seen["workloads"]] == ["pending"]
    lab.attach(pod)
    while seen["workloads"][0]["state"] == "pending":
        seen = follower.line()
        validate(seen, schema_of("Status"))
    agent.stop()
    assert follower.last() is None
    follower.close()


@pytest.mark.pure
def test_the_embedded_text_is_the_document():
    """What the build puts into the program, read back as the compiler reads it."""
    text = subprocess.run([sys.executable, os.path.join(REPOSITORY, "api", "openapi_embed.py"), DESCRIPTION],
                          capture_output=True, text=True, check=True).stdout
    literals = [line.strip()[1:-1] for line in text.splitlines() if line.startswith("\t\"")]
    joined = "".join(literals).replace('\\"', '"').replace("\\\\", "\\")
    assert json.loads(joined) == json.loads(json.dumps(DOCUMENT))
    with open(DESCRIPTION) as file:
        assert yaml.safe_load(file)["openapi"].startswith("3.1")
    assert BUILD
