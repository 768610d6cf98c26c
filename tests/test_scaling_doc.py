"""The manifests of docs/scaling.md fit together: what scales the crew reads its stream, or its metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from watchbill.api import Crew
from watchbill.metrics import Queues
from watchbill.names import CrewKeys
from watchbill.store.figures import Figures

pytestmark = pytest.mark.pure

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"


def blocks() -> list[dict[str, Any]]:
    found = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [yaml.safe_load(block) for block in found]


def of(kind: str) -> dict[str, Any]:
    """The manifest of this kind."""
    (found,) = [block for block in blocks() if block.get("kind") == kind]
    return found


def scaled_crew(scaler: dict[str, Any]) -> Crew:
    """The page's crew, which the manifest must refer to."""
    crew = of("Crew")
    made = Crew.model_validate(crew)
    assert made.spec.workers.scaling.mode == "External"
    assert scaler["metadata"] == crew["metadata"]
    assert scaler["spec"]["scaleTargetRef"] == {
        "apiVersion": crew["apiVersion"],
        "kind": crew["kind"],
        "name": crew["metadata"]["name"],
    }
    return made


def test_the_scaled_object_reads_the_stream_of_the_crew_that_it_scales() -> None:
    scaled = of("ScaledObject")
    made = scaled_crew(scaled)
    (trigger,) = scaled["spec"]["triggers"]
    keys = CrewKeys(scaled["metadata"]["namespace"], scaled["metadata"]["name"])
    assert trigger["metadata"]["stream"] == keys.streams[2]
    assert int(trigger["metadata"]["streamLength"]) == made.spec.workers.concurrency
    assert scaled["spec"]["maxReplicaCount"] == made.spec.workers.max_replicas


def test_the_hpa_scales_the_crew_by_the_metric_that_the_adapter_makes_of_ours() -> None:
    hpa = of("HorizontalPodAutoscaler")
    made = scaled_crew(hpa)
    (metric,) = hpa["spec"]["metrics"]
    (adapter,) = [block["rules"]["external"] for block in blocks() if "rules" in block]
    (rule,) = adapter
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]
    assert int(metric["external"]["target"]["averageValue"]) == made.spec.workers.concurrency
    assert hpa["spec"]["maxReplicas"] == made.spec.workers.max_replicas

    queues = Queues()
    queues.show(
        "/".join(hpa["metadata"][part] for part in ("namespace", "name")), Figures(waiting=3, running=2, dead=1)
    )
    wanted = {**metric["external"]["metric"]["selector"]["matchLabels"], "namespace": hpa["metadata"]["namespace"]}
    states = re.findall(r'state=~"(.*?)"', rule["metricsQuery"])[0].split("|")
    counted = [
        sample.value
        for family in text_string_to_metric_families(queues.text(is_open_metrics=False))
        for sample in family.samples
        if sample.name == rule["seriesQuery"] and wanted.items() <= sample.labels.items()
        if sample.labels["state"] in states
    ]
    assert counted == [3, 2]
