"""The CRDs: structural, complete, and never out of step with the models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from watchbill import cluster_names, crd, tasks
from watchbill.api import heartbeat, meta

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = {
    *("type", "format", "description", "default", "enum", "nullable", "pattern", "minimum", "maximum"),
    *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("required", "properties", "additionalProperties", "items"),
    *("x-kubernetes-validations", "x-kubernetes-preserve-unknown-fields"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
}


@cache
def rendered() -> dict[str, dict[str, Any]]:
    return {name: yaml.safe_load(text) for name, text in crd.render().items()}


def version(file: str) -> dict[str, Any]:
    (only,) = rendered()[f"watchbill.dev_{file}.yaml"]["spec"]["versions"]
    return only


def schema(file: str, *path: str) -> dict[str, Any]:
    node: dict[str, Any] = version(file)["schema"]["openAPIV3Schema"]
    for name in path:
        node = node["items"] if name == "[]" else node["properties"][name]
    return node


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in node:
            yield from nodes(node[name], f"{path}[]")


def every_node() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in ("crews", "heartbeats"):
        yield from nodes(schema(file), file)


def test_the_committed_files_are_what_the_models_say() -> None:
    assert crd.main(["--check", str(ROOT / "crds")]) == 0


def test_check_fails_on_a_changed_and_on_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert crd.main([str(first), str(second)]) == 0
    assert crd.main(["--check", str(first), str(second)]) == 0
    crews = first / "watchbill.dev_crews.yaml"
    crews.write_text(crews.read_text().replace("maximum: 1000", "maximum: 1001"))
    (second / "watchbill.dev_heartbeats.yaml").unlink()
    assert crd.main(["--check", str(first), str(second)]) == 1
    assert crd.main(["--check", str(second), str(first)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == [
        f"{file}: not what the models say. Run: make crds" for file in (crews, second / "watchbill.dev_heartbeats.yaml")
    ]


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "watchbill.crd", str(tmp_path / "new")]
    subprocess.run(command, check=True)
    assert {p.name: p.read_text() for p in (tmp_path / "new").iterdir()} == crd.render()


def test_the_text_is_the_same_every_time_and_says_not_to_edit_it() -> None:
    assert crd.render() == crd.render()
    assert all(text.startswith("# Generated") and "Do not edit" in text for text in crd.render().values())


def test_every_node_is_structural() -> None:
    for path, node in every_node():
        assert set(node) <= ALLOWED, path
        assert "type" in node, path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert set(node.get("required", ())) <= set(node.get("properties", ())), path


def test_every_field_is_described_and_bounded() -> None:
    for path, node in every_node():
        last = path.rpartition(".")[2]
        if path.endswith(".metadata.name"):
            continue  # declared for rules to point at, and described by Kubernetes
        if path.count(".") > 1 and not last.endswith("[]"):
            assert node.get("description"), path
        if ".status" in path:
            continue
        match node["type"]:
            case "string" if "enum" not in node and path.count(".") > 1:
                assert "maxLength" in node, path
            case "integer":
                assert {"minimum", "maximum"} <= set(node), path
            case "array":
                assert "maxItems" in node, path
                assert "x-kubernetes-list-type" in node, path
            case "object" if "properties" not in node and path.count(".") > 1:
                assert "maxProperties" in node, path


def test_every_number_of_the_spec_has_a_default_or_means_something_when_absent() -> None:
    without = {
        path
        for path, node in every_node()
        if ".spec" in path and node["type"] in ("integer", "boolean") and "default" not in node
    }
    assert without == {
        "crews.spec.agents[].batch.maxWaitSeconds",  # required
        "crews.spec.agents[].maxConcurrent",
        "crews.spec.agents[].rateLimit.requests",  # required
        "crews.spec.agents[].timeoutSeconds",
        "crews.spec.agents[].when.exists",
        "crews.spec.budgets[].tokens",
        "crews.spec.loop.maxIterations",  # required
        "crews.spec.modelLimits[].requests",
        "crews.spec.modelLimits[].tokens",
        "crews.spec.synthesis.timeoutSeconds",
        *(
            f"crews.spec.workers.scaling.{way}.policies[].{field}"  # required
            for way in ("up", "down")
            for field in ("value", "periodSeconds")
        ),
        "heartbeats.spec.failedRunsHistoryLimit",
        "heartbeats.spec.intervalSeconds",
        "heartbeats.spec.startingDeadlineSeconds",
        "heartbeats.spec.successfulRunsHistoryLimit",
    }


def test_defaults_of_whole_objects_are_spelled_out() -> None:
    assert schema("crews", "spec", "workers")["default"] == {
        "minReplicas": 0,
        "maxReplicas": 20,
        "concurrency": 10,
        "idleSeconds": 300,
        "redisSecretRef": {"name": "watchbill-redis"},
        "rolloutOnChange": True,
        "scaling": {
            "mode": "Auto",
            "up": {"stabilizationWindowSeconds": 0, "waitSeconds": 60},
            "down": {"stabilizationWindowSeconds": 300},
        },
        "replicas": 1,
    }
    assert schema("crews", "spec", "tasks")["default"]["resultTTLSeconds"] == 3600
    assert all(node.get("default") != {} for _, node in every_node())


def test_a_resource_without_a_status_is_not_taken_for_done() -> None:
    for file in ("crews", "heartbeats"):
        assert schema(file, "status")["default"] == {"observedGeneration": -1}


def test_unknown_figures_are_absent_and_never_zero() -> None:
    for figure in ("replicas", "templateVersion", "waiting", "running"):
        assert "default" not in schema("crews", "status", figure)


def test_named_lists_are_maps() -> None:
    for file, path, key in (
        ("crews", ("spec", "agents"), "name"),
        ("crews", ("status", "conditions"), "type"),
        ("heartbeats", ("status", "conditions"), "type"),
    ):
        node = schema(file, *path)
        assert (node["x-kubernetes-list-type"], node["x-kubernetes-list-map-keys"]) == ("map", [key])
    assert schema("crews", "spec", "agents", "[]", "tools")["x-kubernetes-list-type"] == "set"
    assert schema("crews", "spec", "flowRelations")["x-kubernetes-list-type"] == "atomic"


def test_only_config_schemas_and_the_pod_template_are_free() -> None:
    free = [path for path, node in every_node() if node.get("x-kubernetes-preserve-unknown-fields")]
    assert free == [
        "crews.spec.agents[].outputSchema",
        "crews.spec.agents[].config",
        "crews.spec.httpTools[].parameters",
        "crews.spec.synthesis.config",
        "crews.spec.workers.template",
    ]


def test_rules_have_a_message_with_a_reason_and_a_fix() -> None:
    rules = [rule for _, node in every_node() for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) >= 12
    for rule in rules:
        assert set(rule) <= {"rule", "message", "fieldPath"}
        assert ". " in rule["message"]
        assert not rule["message"].endswith(".")


def columns(file: str, priority: int) -> str:
    """The names of the columns that kubectl always shows (0), or that it adds with `-o wide` (1)."""
    found = version(file)["additionalPrinterColumns"]
    return " ".join(column["name"] for column in found if column.get("priority", 0) == priority)


def test_names_columns_and_subresources() -> None:
    crews, heartbeats = rendered().values()
    assert crews["metadata"]["name"] == "crews.watchbill.dev"
    assert crews["spec"]["scope"] == heartbeats["spec"]["scope"] == "Namespaced"
    assert crews["spec"]["conversion"] == {"strategy": "None"}
    assert (crews["spec"]["names"]["shortNames"], crews["spec"]["names"]["categories"]) == (["crew"], ["watchbill"])
    assert heartbeats["spec"]["names"]["shortNames"] == ["hb"]
    assert columns("crews", 0) == "Ready Mode Workers Waiting Running Dead Age"
    assert columns("crews", 1) == "Delayed Suspend Agents Revision Reason"
    assert columns("heartbeats", 0) == "Ready Crew Schedule Interval Suspend Last Result Next Age"
    assert columns("heartbeats", 1) == "TimeZone Agent Missed Reason"
    assert version("crews")["subresources"]["scale"]["specReplicasPath"] == ".spec.workers.replicas"
    assert version("heartbeats")["subresources"] == {"status": {}}


@pytest.mark.parametrize("file", ["crews", "heartbeats"])
def test_every_path_that_a_column_or_subresource_shows_is_in_the_schema(file: str) -> None:
    shown = version(file)
    paths = [c["jsonPath"] for c in shown["additionalPrinterColumns"]] + list(
        shown["subresources"].get("scale", {}).values()
    )
    for path in paths:
        if path.startswith(".metadata"):
            continue
        parts = [part.partition("[")[0] for part in path.strip(".").split(".")]
        schema(file, *parts[: 2 if "[" in path else None])


def test_what_layers_can_not_share_is_equal() -> None:
    assert meta.PROMPT_MAX_BYTES == tasks.PROMPT_MAX_BYTES
    assert heartbeat.METADATA_MAX_ENTRIES + len(("heartbeat", "slot")) == tasks.METADATA_MAX_ENTRIES
    assert f"{cluster_names.API_GROUP}/{cluster_names.API_VERSION}" == meta.API_VERSION
    assert set(schema("heartbeats", "spec", "priority")["enum"]) == set(tasks.Priority.__members__)
