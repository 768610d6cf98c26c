"""The manifests of docs/scaling.md fit together: KEDA reads the stream that the crew's tasks are on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from watchbill.api import Crew
from watchbill.names import CrewKeys

pytestmark = pytest.mark.pure

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"


def test_the_scaled_object_reads_the_stream_of_the_crew_that_it_scales() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    crew, scaled = (yaml.safe_load(block) for block in blocks)
    made = Crew.model_validate(crew)
    assert made.spec.workers.scaling.mode == "External"
    assert scaled["metadata"] == crew["metadata"]
    assert scaled["spec"]["scaleTargetRef"] == {
        "apiVersion": crew["apiVersion"],
        "kind": crew["kind"],
        "name": crew["metadata"]["name"],
    }
    (trigger,) = scaled["spec"]["triggers"]
    keys = CrewKeys(crew["metadata"]["namespace"], crew["metadata"]["name"])
    assert trigger["metadata"]["stream"] == keys.streams[2]
    assert int(trigger["metadata"]["streamLength"]) == made.spec.workers.concurrency
    assert scaled["spec"]["maxReplicaCount"] == made.spec.workers.max_replicas
