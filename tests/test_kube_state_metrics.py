"""The chart's configuration of kube-state-metrics: it reads fields that the CRDs have, and names what metrics name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from watchbill import cluster_names, crd, metrics

pytestmark = pytest.mark.pure

FILE = Path(__file__).parents[1] / "charts" / "watchbill" / "files" / "kube-state-metrics.yaml"


def resources() -> dict[str, Any]:
    found = yaml.safe_load(FILE.read_text())
    assert found["kind"] == "CustomResourceStateMetrics"
    return {resource["groupVersionKind"]["kind"]: resource for resource in found["spec"]["resources"]}


def schema_at(schema: dict[str, Any], path: list[str]) -> dict[str, Any]:
    for name in path:
        schema = schema["properties"][name]
    return schema


def test_it_reads_the_conditions_of_both_kinds_where_the_crds_have_them() -> None:
    definitions = [yaml.safe_load(text) for text in crd.render().values()]
    assert set(resources()) == {definition["spec"]["names"]["kind"] for definition in definitions}
    for definition in definitions:
        kind, (version,) = definition["spec"]["names"]["kind"], definition["spec"]["versions"]
        resource = resources()[kind]
        assert resource["groupVersionKind"] == {
            "group": cluster_names.API_GROUP,
            "version": cluster_names.API_VERSION,
            "kind": kind,
        }
        schema = version["schema"]["openAPIV3Schema"]
        for path in resource["labelsFromPath"].values():
            if path[0] != "metadata":
                assert schema_at(schema, path)["type"] == "string"
        (metric,) = resource["metrics"]
        gauge = metric["each"]["gauge"]
        condition = schema_at(schema, gauge["path"])["items"]
        for path in (*gauge["labelsFromPath"].values(), gauge["valueFrom"]):
            assert schema_at(condition, path)["type"] == "string"
        assert set(condition["properties"]["status"]["enum"]) == {"True", "False", "Unknown"}


def test_its_series_are_joined_with_ours_by_the_same_labels() -> None:
    found = resources()
    for kind, resource in found.items():
        assert set(metrics.OF_CREW) <= set(resource["labelsFromPath"])
        assert resource["metricNamePrefix"] == f"watchbill_{kind.lower()}"
    assert "heartbeat" in found["Heartbeat"]["labelsFromPath"]
