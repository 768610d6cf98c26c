"""The CRDs on a real API server: accepted, affordable, and as strict as the models they are generated from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster import recipe
from e2e.cluster.control_plane import ADMIN, ControlPlane
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.control_plane.crds_server import CRDS, NAMES, STRICT, Answer, Server, objects, place, read
from e2e.control_plane.manifests import (
    Refused,
    accepted,
    as_yaml,
    changed,
    checked,
    largest_crew,
    largest_heartbeat,
    numbers,
    reading,
    refused,
)
from watchbill import api
from watchbill.api.parse import parse
from watchbill.errors import InvalidInput, Problem

FREE = ("config", "template")


def problems(manifest: dict[str, Any] | str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidInput) as caught:
        parse(as_yaml(manifest), "crew.yaml")
    return caught.value.problems


def filled(part: Any) -> Any:
    """Returns a part without empty values, which mean the same as absent ones, except where everything is free."""
    if not isinstance(part, dict):
        return [filled(entry) for entry in part] if isinstance(part, list) else part
    kept = {name: value if name in FREE else filled(value) for name, value in part.items()}
    return {name: value for name, value in kept.items() if value is not None and value not in ("", [], {})}


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
    # so that it is known that a write would be on record
    kubectl("annotate", "crd", NAMES[0], "e2e=x", "--dry-run=server")
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
    """Returns the objects that the API server makes of a file by kubectl, as a dry run."""
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
    files = sorted((recipe.HERE.parent.parent / "examples").rglob("*.yaml"))
    files = [file for file in files if file.name != "compose.yaml"]
    words = ("apply", "--dry-run=server", f"--namespace={namespace}", *(f"--filename={file}" for file in files))
    said = kubectl_here(*words)
    assert said.count(" created") == len(files)
    assert "heartbeat.watchbill.dev/night created" in said


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


# ── the tables themselves


def test_every_number_is_among_the_tables(kubectl: Kubectl, crds: None) -> None:
    found = set()
    for name in NAMES:
        schema = kubectl.json("get", "crd", name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for path, fields in objects(schema["properties"]["spec"], "spec"):
            lists = r"^(spec\.(?:agents|budgets|prices|modelLimits|delivery|toolServers|httpTools)|.*\.policies)"
            numbered = re.sub(lists, r"\1[0]", path)
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
