"""The CRDs on a real API server: accepted, affordable, and as strict as the models they are generated from."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from e2e.cluster import machine, recipe
from e2e.cluster.control_plane import ADMIN, ControlPlane
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.control_plane.manifests import (
    Refused,
    accepted,
    as_yaml,
    changed,
    checked,
    crew,
    heartbeat,
    largest_crew,
    largest_heartbeat,
    numbers,
    reading,
    refused,
    scheduled,
)
from watchbill import api
from watchbill.api.parse import parse
from watchbill.errors import InvalidInput, Problem

CRDS = recipe.HERE.parent.parent / "crds"
NAMES = ("crews.watchbill.dev", "heartbeats.watchbill.dev")
GROUP = "/apis/watchbill.dev/v1alpha1"
PLURALS = {"Crew": "crews", "Heartbeat": "heartbeats"}
STRICT = "fieldValidation=Strict"
FREE = ("config", "template")


@dataclass(frozen=True)
class Answer:
    """What the API server said."""

    code: int
    body: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))

    def fields(self) -> set[str]:
        """The fields that it names as wrong."""
        causes = self.body.get("details", {}).get("causes", [])
        # what begins with a dot follows from the scale subresource finding something else than expected
        return {c["field"] for c in causes if c["field"] != "<nil>" and not c["field"].startswith(".")}


class Server:
    """One connection to the API server, with every right: a kubectl per manifest would take minutes."""

    def __init__(self, plane: ControlPlane) -> None:
        config = json.loads(plane.kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        trusted = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._connection = http.client.HTTPSConnection(cluster["server"].partition("//")[2], context=trusted)
        self._token = user["token"]

    def send(self, method: str, path: str, content: Any = None, *, as_: str = "json") -> Answer:
        text = content if content is None or isinstance(content, str) else json.dumps(content)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": f"application/{as_}"}
        self._connection.request(method, path, text.encode() if text is not None else None, headers)
        answer = self._connection.getresponse()
        return Answer(answer.status, json.loads(answer.read()), answer.headers.get_all("Warning") or [])

    def close(self) -> None:
        self._connection.close()

    def try_out(self, manifest: dict[str, Any] | str, kind: str = "") -> Answer:
        """Creates it as a dry run, from the same YAML that `parse` gets, and as strict as kubectl."""
        text = as_yaml(manifest)
        kind = kind or (manifest["kind"] if isinstance(manifest, dict) else "Crew")
        path = f"{GROUP}/namespaces/default/{PLURALS[kind]}?{STRICT}&dryRun=All"
        return self.send("POST", path, text, as_="yaml")

    def create(self, manifest: dict[str, Any], namespace: str) -> Answer:
        return self.send("POST", f"{GROUP}/namespaces/{namespace}/{PLURALS[manifest['kind']]}?{STRICT}", manifest)

    def apply(self, manifest: dict[str, Any], namespace: str, manager: str) -> Answer:
        """Server-side apply, unforced."""
        path = f"{place(manifest, namespace)}?fieldManager={manager}&{STRICT}"
        return self.send("PATCH", path, manifest, as_="apply-patch+yaml")


@pytest.fixture(scope="module")
def crds(kubectl: Kubectl) -> None:
    """Our CRDs are installed as a person would, and served. They stay: an API server of tests is theirs alone."""
    kubectl("apply", "--filename", CRDS)
    kubectl("wait", "--for=condition=Established", "--timeout=120s", *(f"crd/{name}" for name in NAMES))


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane, crds: None) -> Iterator[Server]:
    with contextlib.closing(Server(control_plane)) as server:

        def served() -> bool:
            return all(server.try_out(manifest).code == 201 for manifest in (crew(), heartbeat()))

        # Established comes before every part of the API server has heard of it
        machine.until(served, within=60, what="both kinds are served")
        yield server


@pytest.fixture
def kubectl_here(kubectl: Kubectl, namespace: str, crds: None) -> Kubectl:
    """kubectl whose cache knows what is served now."""
    return Kubectl(kubectl.program, kubectl.kubeconfig, cache=kubectl.kubeconfig.parent / "kubectl-cache-crds")


def place(manifest: dict[str, Any], namespace: str) -> str:
    return f"{GROUP}/namespaces/{namespace}/{PLURALS[manifest['kind']]}/{manifest['metadata']['name']}"


def read(text: str) -> api.Crew | api.Heartbeat:
    parsed = parse(text, "crew.yaml")
    found: list[api.Crew | api.Heartbeat] = [*parsed.crews, *parsed.heartbeats]
    (only,) = found
    return only


def problems(manifest: dict[str, Any] | str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidInput) as caught:
        parse(as_yaml(manifest), "crew.yaml")
    return caught.value.problems


def filled(part: Any) -> Any:
    """Without what is empty, which means the same as absent, except where everything is free."""
    if not isinstance(part, dict):
        return [filled(entry) for entry in part] if isinstance(part, list) else part
    return {
        name: value if name in FREE else filled(value)
        for name, value in part.items()
        if value is not None and value not in ("", [], {})
    }


def described(cases: list[Refused]) -> list[Any]:
    return [pytest.param(case, id=case.what) for case in cases]


# ── the definitions themselves


def test_both_are_established_with_nothing_to_object_to(kubectl: Kubectl, crds: None) -> None:
    for name in NAMES:
        found = kubectl.json("get", "crd", name)
        conditions = {c["type"]: c["status"] for c in found["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}
        assert found["status"]["storedVersions"] == ["v1alpha1"]
        assert found["spec"]["conversion"] == {"strategy": "None"}


def test_the_api_server_has_no_warning_about_them(server: Server, kubectl: Kubectl) -> None:
    for name in NAMES:
        found = kubectl.json("get", "crd", name)
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}?dryRun=All&{STRICT}"
        answer = server.send("PUT", path, found)
        assert (answer.code, answer.warnings) == (200, [])


def test_applying_them_again_writes_nothing(kubectl: Kubectl, control_plane: ControlPlane, crds: None) -> None:
    def versions() -> list[str]:
        return [kubectl.json("get", "crd", name)["metadata"]["resourceVersion"] for name in NAMES]

    before, since = versions(), control_plane.audit_position()
    assert kubectl("apply", "--filename", CRDS).count(" unchanged") == 2
    # so that the record is known to be complete
    kubectl("annotate", "crd", NAMES[0], "e2e=x", "--dry-run=server")
    machine.until(lambda: control_plane.writes(since, user=ADMIN), within=60, what="the last write is on record")
    assert [write.uri.partition("?")[2] for write in control_plane.writes(since, user=ADMIN)] == [
        "dryRun=All&fieldManager=kubectl-annotate"
    ]
    assert versions() == before

    on_the_server = ("apply", "--server-side", "--field-manager=e2e-crds", "--force-conflicts", "--filename", CRDS)
    kubectl(*on_the_server)
    before = versions()
    kubectl(*on_the_server)
    assert versions() == before


# ── good and bad


@pytest.mark.parametrize("manifest", accepted.ACCEPTED.values(), ids=accepted.ACCEPTED)
def test_what_is_good_is_taken_by_both_with_the_same_defaults(server: Server, manifest: dict[str, Any]) -> None:
    answer = server.try_out(manifest)
    assert answer.code == 201, answer.message[:500]
    here = read(as_yaml(manifest))
    assert filled(answer.body["spec"]) == filled(here.spec.model_dump(mode="json", by_alias=True))
    # what is on a cluster can be read back as what was written
    assert read(json.dumps(answer.body, ensure_ascii=False)).spec == here.spec


@pytest.mark.parametrize("case", described(refused.REFUSED))
def test_what_is_bad_is_refused_by_both_and_the_field_is_named(server: Server, case: Refused) -> None:
    answer = server.try_out(case.manifest)
    assert answer.code in (400, 422), answer.body
    refused_by_server(answer, case)
    assert [problem.path for problem in problems(case.manifest)] == [case.field]


def refused_by_server(answer: Answer, case: Refused) -> None:
    allowed = {case.field, case.server or case.field}
    if answer.code == 422:
        assert answer.fields(), answer.message[:500]
        assert answer.fields() <= allowed, answer.message[:500]
    else:  # it couldn't be decoded
        assert any(f'"{name}"' in answer.message or f" {name} of " in answer.message for name in allowed), (
            answer.message
        )
    if case.says:
        assert re.search(case.says, answer.message), answer.message[:500]


@pytest.mark.parametrize("case", described(checked.CHECKED))
def test_what_no_rule_can_say_is_taken_by_the_server_and_refused_here(server: Server, case: Refused) -> None:
    assert server.try_out(case.manifest).code == 201
    (problem,) = problems(case.manifest)
    assert problem.path == case.field
    assert case.problem in problem.reason
    assert problem.fix
    # the operator can still read it, and say the same of it
    on_the_cluster = server.try_out(case.manifest).body
    models: dict[str, type[api.Crew] | type[api.Heartbeat]] = {"Crew": api.Crew, "Heartbeat": api.Heartbeat}
    model = models[on_the_cluster["kind"]]
    del on_the_cluster["status"]
    (found,) = api.check(model.model_validate(on_the_cluster))
    assert (found.path, found.reason, found.fix) == (problem.path, problem.reason, problem.fix)


# ── how text is read


@pytest.mark.parametrize("case", described(reading.STRICTER))
def test_here_is_asked_about_what_the_server_passes_over(server: Server, case: Refused) -> None:
    assert server.try_out(case.manifest).code == 201
    assert [problem.path for problem in problems(case.manifest)] == [case.field]


@pytest.mark.parametrize("scalar", reading.SCALARS, ids=lambda scalar: ascii(scalar[:30]))
def test_a_value_without_quotes_is_read_alike(server: Server, scalar: str) -> None:
    text = reading.config_of(scalar)
    answer = server.try_out(text)
    there = reading.read_config(answer.body) if answer.code == 201 else InvalidInput
    try:
        here = reading.read_config(json.loads(read(text).model_dump_json(by_alias=True)))
    except InvalidInput:
        here = InvalidInput
    # as text, in which 1, 1.0 and true are three things
    assert json.dumps(here, sort_keys=True, default=str) == json.dumps(there, sort_keys=True, default=str)


@pytest.mark.parametrize("value", reading.UNREADABLE, ids=ascii)
def test_what_is_not_yaml_is_read_by_nobody(server: Server, value: str) -> None:
    text = reading.config_of(value)
    assert server.try_out(text).code == 400
    (problem,) = problems(text)
    assert re.match("this is not YAML that can be read|the value at line .* contains itself", problem.reason)


def made_by_kubectl(kubectl: Kubectl, text: str) -> list[dict[str, Any]]:
    """What kubectl has the API server make of a file, as a dry run."""
    printed = kubectl("create", "--dry-run=server", "--filename=-", "--output=json", stdin=text)
    made, at = [], 0
    while at < len(printed.rstrip()):
        resource, at = json.JSONDecoder().raw_decode(printed, at + len(printed[at:]) - len(printed[at:].lstrip()))
        made.append(resource)
    return made


def files(table: list[reading.File]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", [pytest.param(file, id=file.what) for file in table])


@files(reading.READ)
def test_a_file_is_read_as_kubectl_reads_it(kubectl_here: Kubectl, file: reading.File) -> None:
    there = made_by_kubectl(kubectl_here, file.text)
    here = parse(file.text, "crew.yaml")
    for kind, resources in (("Crew", here.crews), ("Heartbeat", here.heartbeats)):
        made = [resource for resource in there if resource["kind"] == kind]
        assert [r.name for r in resources] == [r["metadata"]["name"] for r in made]
        specs = [r.spec.model_dump(mode="json", by_alias=True) for r in resources]
        assert [filled(spec) for spec in specs] == [filled(r["spec"]) for r in made]


@files(reading.ASKED)
def test_a_file_that_kubectl_takes_is_asked_about(kubectl_here: Kubectl, file: reading.File) -> None:
    assert made_by_kubectl(kubectl_here, file.text)
    first = problems(file.text)[0]
    assert (first.source, file.problem in first.reason) == (f"crew.yaml:{file.line}", True), first


@files(reading.NEITHER)
def test_a_file_that_neither_takes(kubectl_here: Kubectl, file: reading.File) -> None:
    with pytest.raises(KubectlError):
        made_by_kubectl(kubectl_here, file.text)
    first = problems(file.text)[0]
    assert (first.source, file.problem in first.reason) == (f"crew.yaml:{file.line}", True), first


def test_the_examples_are_taken(kubectl_here: Kubectl, namespace: str) -> None:
    folder = recipe.HERE.parent.parent / "examples" / "log-triage"
    said = kubectl_here("apply", "--dry-run=server", f"--namespace={namespace}", "--filename", folder)
    assert "crew.watchbill.dev/log-triage created" in said


# ── the largest


@pytest.mark.parametrize(
    "manifest", [largest_crew(prompt_characters=4000), largest_heartbeat()], ids=["crew", "heartbeat"]
)
def test_the_largest_can_be_stored_and_changed(server: Server, namespace: str, manifest: dict[str, Any]) -> None:
    stored = server.create(manifest, namespace)
    assert stored.code == 201, stored.message[:500]
    assert len(json.dumps(stored.body)) > 500_000

    answer = server.send("PUT", place(manifest, namespace), changed(stored.body, {"metadata.labels": {"new": "yes"}}))
    assert answer.code == 200, answer.message[:500]
    field = "description" if manifest["kind"] == "Crew" else "agent"
    answer = server.send("PUT", place(manifest, namespace), changed(answer.body, {f"spec.{field}": "other"}))
    assert (answer.code, answer.body["spec"][field]) == (200, "other")


# ── subresources


EXTERNAL = {"spec.workers.scaling.mode": "External"}


def test_workers_are_scaled_by_kubectl_when_the_crew_says_so(
    server: Server, kubectl_here: Kubectl, namespace: str
) -> None:
    server.create(crew(EXTERNAL), namespace)
    where = ("crew/blog-team", f"--namespace={namespace}")
    assert kubectl_here.json("get", "--subresource=scale", *where)["spec"] == {"replicas": 1}

    kubectl_here("scale", "--replicas=5", *where)
    found = kubectl_here.json("get", *where)
    assert (found["spec"]["workers"]["replicas"], found["metadata"]["generation"]) == (5, 2)
    with pytest.raises(KubectlError, match=r"spec\.workers\.replicas.* less than or equal to 1000"):
        kubectl_here("scale", "--replicas=1001", *where)

    status = {"observedGeneration": 2, "replicas": 3, "selector": "watchbill.dev/crew=blog-team"}
    kubectl_here("patch", "--subresource=status", "--type=merge", *where, "--patch", json.dumps({"status": status}))
    scale = kubectl_here.json("get", "--subresource=scale", *where)
    assert scale["status"] == {"replicas": 3, "selector": "watchbill.dev/crew=blog-team"}


def test_kubectl_scale_says_why_it_is_refused_where_the_operator_scales(
    server: Server, kubectl_here: Kubectl, namespace: str
) -> None:
    server.create(crew(), namespace)
    with pytest.raises(KubectlError, match=r"spec\.workers\.replicas: .* while scaling\.mode is Auto"):
        kubectl_here("scale", "crew/blog-team", "--replicas=5", f"--namespace={namespace}")


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [
        ({}, {"replicas": 2}, False),
        ({"scaling": {"mode": "Auto"}, "replicas": 4}, {}, False),
        ({"replicas": 4}, {"replicas": 4, "minReplicas": 1}, True),
        ({}, {"scaling": {"mode": "External"}, "replicas": 2}, True),
        ({"scaling": {"mode": "External"}, "replicas": 2}, {"scaling": {"mode": "External"}, "replicas": 3}, True),
        ({"scaling": {"mode": "External"}, "replicas": 2}, {"scaling": {"mode": "Auto"}}, True),
    ],
)
def test_replicas_change_only_where_they_count(
    server: Server, namespace: str, before: dict[str, Any], after: dict[str, Any], taken: bool
) -> None:
    stored = server.create(crew({"spec.workers": before}), namespace)
    wanted = changed(stored.body, {"spec.workers": after})
    answer = server.send("PUT", place(crew(), namespace), wanted)
    assert answer.code == (200 if taken else 422), answer.message
    assert answer.fields() == (set() if taken else {"spec.workers.replicas"})


READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Available",
    "message": "all is in place",
    "lastTransitionTime": "2026-01-02T03:04:05Z",
    "observedGeneration": 1,
}


@pytest.mark.parametrize("manifest", [crew(), heartbeat()], ids=["crew", "heartbeat"])
def test_status_is_written_only_as_status(server: Server, namespace: str, manifest: dict[str, Any]) -> None:
    made = server.create({**manifest, "status": {"observedGeneration": 7, "conditions": [READY]}}, namespace)
    assert (made.code, made.body["status"]) == (201, {"observedGeneration": -1})

    path, patch = place(manifest, namespace), {"status": {"observedGeneration": 1, "conditions": [READY]}}
    through_the_front = server.send("PATCH", path, patch, as_="merge-patch+json")
    assert through_the_front.body["status"] == {"observedGeneration": -1}

    written = server.send("PATCH", f"{path}/status", {**patch, "spec": {"agents": []}}, as_="merge-patch+json")
    assert written.code == 200, written.message
    assert written.body["status"] == patch["status"]
    assert written.body["spec"] == made.body["spec"]
    assert written.body["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    ("status", "name"),
    [
        ({"conditions": [{**READY, "status": "Maybe"}]}, "status.conditions[0].status"),
        ({"conditions": [{**READY, "reason": "not one word"}]}, "status.conditions[0].reason"),
        ({"conditions": [{**READY, "reason": ""}]}, "status.conditions[0].reason"),
        ({"conditions": [{**READY, "lastTransitionTime": "now"}]}, "status.conditions[0].lastTransitionTime"),
        ({"conditions": [{k: v for k, v in READY.items() if k != "message"}]}, "status.conditions[0].message"),
        ({"conditions": [READY, READY]}, "status.conditions[1]"),
        ({"replicas": -1}, "status.replicas"),
        ({"waiting": "many"}, "status.waiting"),
    ],
)
def test_a_status_has_a_form_too(server: Server, namespace: str, status: dict[str, Any], name: str) -> None:
    server.create(crew(), namespace)
    path = f"{place(crew(), namespace)}/status"
    answer = server.send("PATCH", path, {"status": status}, as_="merge-patch+json")
    assert (answer.code, answer.fields()) == (422, {name})


# ── what kubectl makes of them


def row(printed: str) -> dict[str, str]:
    """Column → value of the one row that kubectl printed."""
    head, only = printed.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    ends = [*starts[1:], None]
    return {head[a:b].strip(): only[a:b].strip() for a, b in zip(starts, ends, strict=True)}


def test_columns_show_what_is_known(server: Server, kubectl_here: Kubectl, namespace: str) -> None:
    status = {"observedGeneration": 1, "conditions": [READY]}
    for manifest, more in (
        (crew(), {"replicas": 3, "waiting": 2, "running": 0}),
        (
            scheduled("0 9 * * 1-5", "Europe/Berlin"),
            {"lastFireTime": "2020-01-02T08:00:00Z", "nextFireTime": "2030-01-02T08:00:00Z"},
        ),
    ):
        server.create(manifest, namespace)
        path = f"{place(manifest, namespace)}/status"
        assert server.send("PATCH", path, {"status": {**status, **more}}, as_="merge-patch+json").code == 200

    shown = row(kubectl_here("get", "crew", f"--namespace={namespace}"))
    assert re.fullmatch(r"\d+s", shown.pop("AGE"))
    assert shown == {
        "NAME": "blog-team",
        "READY": "True",
        "MODE": "sequential",
        "WORKERS": "3",
        "WAITING": "2",
        "RUNNING": "0",
    }
    shown = row(kubectl_here("get", "hb", f"--namespace={namespace}"))
    assert re.fullmatch(r"\d+s", shown.pop("AGE"))
    assert re.fullmatch(r"\d+y\d*d?", shown.pop("LAST"))
    assert shown == {
        "NAME": "morning",
        "CREW": "blog-team",
        "SCHEDULE": "0 9 * * 1-5",
        "INTERVAL": "",
        "SUSPENDED": "false",
        "NEXT": "2030-01-02T08:00:00Z",
        "READY": "True",
    }


def test_kubectl_waits_for_ready_and_is_not_told_too_early(
    server: Server, kubectl_here: Kubectl, namespace: str
) -> None:
    server.create(crew(), namespace)
    wait = ("wait", "crew/blog-team", f"--namespace={namespace}", "--for=condition=Ready")
    with pytest.raises(KubectlError, match="timed out"):
        kubectl_here(*wait, "--timeout=0.1s")
    patch = {"status": {"observedGeneration": 1, "conditions": [READY]}}
    server.send("PATCH", f"{place(crew(), namespace)}/status", patch, as_="merge-patch+json")
    kubectl_here(*wait, "--timeout=10s")


@pytest.mark.parametrize("words", ["crew,hb", "crews,heartbeats", "crew.watchbill.dev,heartbeat", "watchbill"])
def test_every_name_of_theirs_works(server: Server, kubectl_here: Kubectl, namespace: str, words: str) -> None:
    server.create(crew(), namespace)
    server.create(heartbeat(), namespace)
    found = kubectl_here("get", words, f"--namespace={namespace}", "--output=name").split()
    assert found == ["crew.watchbill.dev/blog-team", "heartbeat.watchbill.dev/morning"]


@pytest.mark.parametrize("manifest", [accepted.CREWS["every field"], accepted.HEARTBEATS["every field"]])
def test_what_kubectl_prints_can_be_read_back(
    server: Server, kubectl_here: Kubectl, namespace: str, manifest: dict[str, Any]
) -> None:
    # not apply, which takes a null in a config for the wish to have nothing there
    kubectl_here("create", f"--namespace={namespace}", "--filename=-", stdin=as_yaml(manifest))
    path = f"{place(manifest, namespace)}/status"
    server.send("PATCH", path, {"status": {"conditions": [READY]}}, as_="merge-patch+json")
    where = (manifest["kind"], manifest["metadata"]["name"], f"--namespace={namespace}", "--show-managed-fields")
    for form in ("yaml", "json"):
        found = read(kubectl_here("get", *where, f"--output={form}"))
        assert found.spec == read(as_yaml(manifest)).spec
        assert (found.metadata.namespace, found.metadata.labels) == (namespace, manifest["metadata"]["labels"])


def objects(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema that has fields, by the path that `kubectl explain` knows it by."""
    inner = schema.get("items", schema)
    if "properties" in inner:
        yield path, inner["properties"]
        for name, child in inner["properties"].items():
            yield from objects(child, f"{path}.{name}")


def test_kubectl_explains_every_field(kubectl_here: Kubectl) -> None:
    explained = set()
    for name in NAMES:
        found = kubectl_here.json("get", "crd", name)["spec"]
        kind = found["names"]["singular"]
        for path, fields in objects(found["versions"][0]["schema"]["openAPIV3Schema"], kind):
            said = kubectl_here("explain", path)
            assert "no description" not in said, path
            # its name and type on a line, what it is below
            for one in fields:
                assert re.search(rf"^  {one}\t<.*>.*\n(  enum: .*\n)?    \S", said, re.MULTILINE), f"{path}.{one}"
            explained.add(path)
    assert {"crew.spec.agents", "crew.spec.workers.scaling", "heartbeat.spec.crewRef"} <= explained


# ── server-side apply by several


def applied(*agents: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {**crew(), "spec": {"agents": list(agents), **spec}}


def test_two_managers_have_agents_of_their_own_in_one_crew(server: Server, namespace: str) -> None:
    first = applied({"name": "a", "class": "EchoAgent", "tools": ["x"]}, sharedTools=["one"])
    second = applied({"name": "b", "class": "EchoAgent"}, {"name": "a", "tools": ["y"]}, sharedTools=["two"])
    assert server.apply(first, namespace, "one").code == 201
    both = server.apply(second, namespace, "two")
    assert both.code == 200, both.message
    agents = {agent["name"]: agent for agent in both.body["spec"]["agents"]}
    assert {name: agent.get("class") for name, agent in agents.items()} == {"a": "EchoAgent", "b": "EchoAgent"}
    assert set(agents["a"]["tools"]) == {"x", "y"}
    assert set(both.body["spec"]["sharedTools"]) == {"one", "two"}

    answer = server.apply(applied({"name": "a", "class": "Other"}), namespace, "two")
    assert answer.code == 409
    assert '.spec.agents[name="a"].class' in answer.message

    # what a manager no longer mentions goes, and only that
    less = server.apply(applied({"name": "a", "timeoutSeconds": 5}), namespace, "two")
    assert less.body["spec"]["agents"] == [{"name": "a", "class": "EchoAgent", "tools": ["x"], "timeoutSeconds": 5}]
    assert less.body["spec"]["sharedTools"] == ["one"]


def test_relations_are_one_managers(server: Server, namespace: str) -> None:
    agents = [{"name": name, "class": "EchoAgent"} for name in "ab"]
    there, back = ({"source": [s], "target": [t]} for s, t in ("ab", "ba"))
    assert server.apply(applied(*agents, executionMode="flow", flowRelations=[there]), namespace, "one").code == 201
    answer = server.apply(applied({"name": "a"}, flowRelations=[back]), namespace, "two")
    assert (answer.code, ".spec.flowRelations" in answer.message) == (409, True)


def test_conditions_of_several_writers_stand_side_by_side(server: Server, namespace: str) -> None:
    server.create(crew(), namespace)
    base = {key: crew()[key] for key in ("apiVersion", "kind", "metadata")}
    for kind in ("Ready", "Paused"):
        content = {**base, "status": {"conditions": [{**READY, "type": kind}]}}
        path = f"{place(crew(), namespace)}/status?fieldManager={kind.lower()}"
        assert server.send("PATCH", path, content, as_="apply-patch+yaml").code == 200
    found = server.send("GET", place(crew(), namespace)).body["status"]["conditions"]
    assert [condition["type"] for condition in found] == ["Ready", "Paused"]


# ── the tables themselves


def test_every_number_is_among_the_tables(kubectl: Kubectl, crds: None) -> None:
    found = set()
    for name in NAMES:
        schema = kubectl.json("get", "crd", name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for path, fields in objects(schema["properties"]["spec"], "spec"):
            numbered = path.replace("spec.agents", "spec.agents[0]")
            found |= {f"{numbered}.{field}" for field, child in fields.items() if child["type"] == "integer"}
    assert found == set(numbers.FIELDS)


def test_every_rule_of_ours_has_a_manifest_that_breaks_it(kubectl: Kubectl, crds: None) -> None:
    def rules(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            yield from node.get("x-kubernetes-validations", ())
            for child in node.values():
                yield from rules(child)

    messages = {
        rule["message"]
        for name in NAMES
        for rule in rules(kubectl.json("get", "crd", name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        if "oldSelf" not in rule["rule"]  # see test_replicas_change_only_where_they_count
    }
    tried = [case.says for case in refused.REFUSED if case.says]
    assert len(messages) >= 10
    assert [message for message in messages if not any(re.search(says, message) for says in tried)] == []


def test_no_two_cases_are_called_the_same() -> None:
    files = (*reading.READ, *reading.ASKED, *reading.NEITHER)
    cases: tuple[Any, ...] = (*refused.REFUSED, *checked.CHECKED, *reading.STRICTER, *files)
    names = [case.what for case in cases]
    assert len(set(names)) == len(names)
    assert len(names) + len(accepted.ACCEPTED) > 200
