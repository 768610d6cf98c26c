"""What the rest of a crew demands of an agent's output."""

from __future__ import annotations

from typing import Any

import pytest

from watchbill.plan import demands, flow, values
from watchbill.plan.demands import Demands
from watchbill.records import CrewDefinition

pytestmark = pytest.mark.pure


def found(mode: str, *agents: dict[str, Any], **fields: Any) -> dict[str, Demands]:
    crew = CrewDefinition.model_validate({"name": "c", "execution_mode": mode, "agents": agents, **fields})
    return dict(demands.of(flow.Plan(crew)))


def test_a_loop_demands_the_field_that_ends_it() -> None:
    agents = ({"agent_id": "writer"}, {"agent_id": "1", "name": "critic"})
    until = {"agent": "critic", "field": "verdict.good"}
    assert found("loop", *agents, loop={"maxIterations": 3, "until": until}) == {"1": Demands("1", "verdict.good")}
    assert found("loop", *agents, loop={"maxIterations": 3, "until": {"predicate": "a:b"}}) == {}
    assert found("loop", *agents, loop={"maxIterations": 3}) == {}


def test_steps_for_items_demand_a_list_unless_they_may_be_skipped() -> None:
    finder, other = {"agent_id": "finder"}, {"agent_id": "other", "for_each": "{inputs.finder}"}
    readers = [{"agent_id": name, "for_each": of} for name, of in (("a", "{steps.finder}"), ("b", "{steps.finder.x}"))]
    maybe = {"agent_id": "c", "for_each": "{steps.other.y}", "when": {"step": "other", "field": "y", "exists": True}}
    assert found("sequential", finder, other, *readers, maybe) == {"finder": Demands("finder", lists=("", "x"))}


def test_a_list_is_not_demanded_where_the_run_goes_on_without() -> None:
    finder, each = {"agent_id": "finder"}, {"agent_id": "each", "for_each": "{steps.finder.rows}"}
    assert found("sequential", finder, {**each, "on_error": "Continue"}) == {}
    assert found("sequential", finder, each, on_error="Continue") == {}
    strict = found("sequential", finder, {**each, "on_error": "Fail"}, on_error="Continue")
    assert strict == {"finder": Demands("finder", lists=("rows",))}


def test_a_loop_demands_a_list_only_for_agents_behind_its_source() -> None:
    """Nothing reads that of the last iteration before it."""
    finder, each = {"agent_id": "finder"}, {"agent_id": "each", "for_each": "{steps.finder.rows}"}
    loop = {"maxIterations": 3}
    assert found("loop", finder, each, loop=loop) == {"finder": Demands("finder", lists=("rows",))}
    assert found("loop", each, finder, loop=loop) == {}


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ({"ok": "true", "rows": []}, "field 'ok' of the output of 'a' is the text 'true', and neither true nor false"),
        ({"rows": []}, "the output of 'a' has no field 'ok': it is an object with rows"),
        ("I am done", "the output of 'a' has no field 'ok': it is the text 'I am done'"),
        ({"ok": True, "rows": "none"}, "field 'rows' of the output of 'a' is the text 'none', and no list"),
        ({"ok": True, "rows": [0] * 10_001}, "field 'rows' of the output of 'a' has 10001 items, and at most 10000"),
    ],
)
def test_an_output_that_lacks_what_is_demanded_is_refused_with_the_reason(output: Any, why: str) -> None:
    with pytest.raises(values.Unusable) as error:
        Demands("a", "ok", ("rows",)).check(output)
    assert why in str(error.value)


def test_an_output_that_has_it_is_taken_also_as_the_text_of_it() -> None:
    for output in ({"ok": False, "rows": [1]}, '{"ok": true, "rows": "[1, 2]"}'):
        Demands("a", "ok", ("rows",)).check(output)
    Demands("a", lists=("",)).check("[1]")
    with pytest.raises(values.Unusable, match="the output of 'a' is the text 'one', and no list"):
        Demands("a", lists=("",)).check("one")
