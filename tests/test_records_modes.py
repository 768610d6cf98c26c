"""Loops and conditions in crew records."""

from __future__ import annotations

from typing import Any

import pytest

from test_records import definition
from watchbill import api
from watchbill.errors import InvalidInput
from watchbill.plan import flow
from watchbill.records import CrewDefinition, ExecutionMode, from_crew, to_crew

pytestmark = pytest.mark.pure


def test_a_crew_of_mode_loop_without_a_bound_is_known_and_cannot_be_run() -> None:
    loop = definition(execution_mode="loop")
    assert loop.execution_mode is ExecutionMode.LOOP
    with pytest.raises(InvalidInput, match=r"no bound, so no such crew is run.*Give loop.maxIterations"):
        flow.steps(loop)


@pytest.mark.parametrize("until", [{"agent": "a", "field": "x"}, {"predicate": "m:f"}, None])
@pytest.mark.parametrize(
    "compared",
    [{"ne": "x"}, {"gt": 0.5}, {"lt": 2.0}, {"atLeast": 7.0}, {"atMost": 0.0}, {"in": ["x"]}, {"exists": False}],
)
def test_a_loop_and_each_condition_come_back_as_they_were(until: Any, compared: dict[str, Any]) -> None:
    loop = {"maxIterations": 2, **({"until": until} if until else {})}
    agents = [{"name": "a", "class": "A", "when": {"step": "a", **compared}}]
    manifest = {"metadata": {"name": "c"}, "spec": {"executionMode": "loop", "loop": loop, "agents": agents}}
    crew = api.Crew.model_validate(manifest)
    stored = from_crew(crew)
    read = CrewDefinition.model_validate_json(stored.model_dump_json())
    assert read.digest() == stored.digest()
    back = to_crew(read, "team").spec
    assert (back.loop, back.agents) == (crew.spec.loop, crew.spec.agents)
