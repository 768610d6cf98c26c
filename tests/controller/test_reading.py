"""Strict at the door, lenient inside: what a later version added to a resource doesn't stop this one."""

from __future__ import annotations

from typing import Any

import pytest

from watchbill.api import Heartbeat
from watchbill.api.conditions import Reason
from watchbill.controller.reconcile import read

pytestmark = pytest.mark.pure


def crew(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "watchbill.dev/v1alpha1",
        "kind": "Crew",
        "metadata": {"name": "echo", "namespace": "team", "uid": "u", "generation": 1, "later": {}},
        "spec": {"agents": [{"name": "a", "class": "EchoAgent"}], **spec},
        "status": {"later": 1},
    }


def test_fields_of_a_later_version_are_ignored_at_every_depth() -> None:
    later = crew(
        later={"a": 1},
        agents=[{"name": "a", "class": "EchoAgent", "budget": {"later": 1}}],
        workers={"concurrency": 3, "later": True, "scaling": {"mode": "Auto", "up": {}}},
        tasks={"later": 1},
    )
    found, definition, fault = read(later)
    assert fault is None
    assert found is not None
    assert definition is not None
    assert found.spec.workers.concurrency == 3
    assert definition.agents[0].agent_id == "a"


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"agents": "text"}, Reason.INVALID_SPEC),
        ({"agents": [{"name": "a", "class": "EchoAgent", "prompt": "{steps.b}"}]}, Reason.INVALID_PROMPT),
        (
            {
                "agents": [{"name": n, "class": "EchoAgent"} for n in "ab"],
                "executionMode": "flow",
                "flowRelations": [{"source": ["a"], "target": ["b"]}, {"source": ["b"], "target": ["a"]}],
            },
            Reason.FLOW_CYCLE,
        ),
        ({"agents": [{"name": "a", "model": "test", "outputSchema": {"type": "array"}}]}, Reason.INVALID_SPEC),
        (
            {
                "agents": [
                    {
                        "name": "a",
                        "model": "test",
                        "outputSchema": {"type": "object", "properties": {"done": {"type": "boolean"}}},
                    }
                ],
                "executionMode": "loop",
                "loop": {"maxIterations": 2, "until": {"agent": "a", "field": "doen"}},
            },
            Reason.INVALID_PROMPT,
        ),
    ],
)
def test_what_can_not_be_has_a_reason_and_nothing_is_stored_of_it(spec: dict[str, Any], reason: Reason) -> None:
    _, definition, fault = read(crew(**spec))
    assert definition is None
    assert fault is not None
    assert fault[0] is reason


def test_a_heartbeat_of_a_later_version_can_be_read() -> None:
    later = {
        "metadata": {"name": "beat"},
        "spec": {"crewRef": {"name": "echo"}, "intervalSeconds": 60, "missed": "Once"},
    }
    assert Heartbeat.model_validate(later, extra="ignore").spec.interval_seconds == 60
