"""Hierarchies: names of steps, who may be delegated to, and what counts as a verdict."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill.api.hierarchy import Hierarchy
from watchbill.errors import InvalidInput
from watchbill.plan import flow, hierarchy
from watchbill.plan.hierarchy import Asked, Verdict
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode
from watchbill.tasks import RunState, StepStatus, TaskState

pytestmark = pytest.mark.pure


def crew(reviewer: str | None = "critic", **bounds: Any) -> CrewDefinition:
    agents = [AgentDefinition(agent_id=name) for name in ("coder", "lead", "tester", "critic")]
    above = Hierarchy.model_validate({"manager": "lead", "reviewer": reviewer, **bounds})
    return CrewDefinition(name="c", execution_mode=ExecutionMode.HIERARCHICAL, agents=agents, hierarchy=above)


def test_a_run_begins_with_the_step_of_the_manager_alone() -> None:
    assert [(step.name, step.agent, step.after) for step in flow.steps(crew())] == [("lead", "lead", ())]
    assert hierarchy.members(crew()) == ["coder", "tester"]
    assert hierarchy.members(crew(None)) == ["coder", "tester", "critic"]


def test_names_of_steps_tell_item_round_and_depth() -> None:
    names = [hierarchy.work_step("lead", 2, 1), hierarchy.review_step("lead", 2, 1)]
    names += [hierarchy.work_step("lead", 2, 2), hierarchy.review_step("lead", 2, 2)]
    names += [hierarchy.work_step("lead:2:work2", 1, 1)]
    assert names == ["lead:2", "lead:2:review", "lead:2:work2", "lead:2:review2", "lead:2:work2:1"]
    assert [hierarchy.depth(name) for name in ("lead", *names)] == [0, 1, 1, 1, 1, 2]
    assert [hierarchy.is_delegated(crew(), step) for step in (None, "lead", "lead:1")] == [False, False, True]


PLACES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4).map(tuple)
"""Item and round, on each level of delegation."""


@given(st.sets(PLACES, max_size=20))
def test_any_work_and_its_review_have_names_of_their_own(places: set[tuple[tuple[int, int], ...]]) -> None:
    plan, names = flow.Plan(crew()), []
    for place in places:
        step, parent = "lead", ""
        for item, number in place:
            step, parent = hierarchy.work_step(step, item, number), step
        names += [step, hierarchy.review_step(parent, *place[-1])]
        for name, agent in zip(names[-2:], ("coder", "critic"), strict=True):
            assert hierarchy.depth(name) == len(place)
            assert hierarchy.is_delegated(crew(), name)
            assert plan.place(agent, name) == flow.Place("agent", name=name)
    assert len(set(names)) == 2 * len(places)


@pytest.mark.parametrize("name", ["lead", "critic", "nobody", "coder"])
def test_nothing_is_delegated_to_who_is_no_other_member(name: str) -> None:
    with pytest.raises(InvalidInput, match=rf"nothing can be delegated to '{name}'. Name a member of crew 'c': tester"):
        hierarchy.member(crew(), "coder", name)
    assert hierarchy.member(crew(), "coder", "tester").agent_id == "tester"


def test_depth_and_number_of_items_are_bound() -> None:
    above = Hierarchy.model_validate({"manager": "lead", "maxItems": 2, "maxDepth": 2})
    for step, item in (("lead", 1), ("lead", 2), ("lead:1", 2)):
        hierarchy.check_item("a", step, item, above)
    with pytest.raises(InvalidInput, match=r"maxItems: agent 'a' has delegated 2 items"):
        hierarchy.check_item("a", "lead", 3, above)
    with pytest.raises(InvalidInput, match=r"maxDepth: agent 'a' may not delegate: 2 level"):
        hierarchy.check_item("a", "lead:1:1", 1, above)


def test_only_a_boolean_is_a_verdict_and_a_rejection_has_reasons() -> None:
    assert hierarchy.verdict({"approved": True}) == Verdict(True)
    assert hierarchy.verdict('{"approved": false, "reasons": "no test"}') == Verdict(False, "no test")
    wrong: Any
    for wrong in ("approved", "yes", None, [], {"approved": "true"}, {"approved": 1}, '"approved"', "{"):
        with pytest.raises(ValueError, match="must return its verdict"):
            hierarchy.verdict(wrong)
    for reasons in (None, "", "  ", ["no"]):
        with pytest.raises(ValueError, match="without a reason"):
            hierarchy.verdict({"approved": False, "reasons": reasons})


def test_what_is_asked_comes_back_as_it_was() -> None:
    asked = Asked("do é", {"coder": "lead:1"}, reviews="coder")
    assert Asked.unpack(asked.pack()) == asked


def test_delegated_steps_that_failed_do_not_make_a_run_a_partial_one() -> None:
    lead = StepStatus(name="lead", agent="lead", status=TaskState.COMPLETED, index=0, after=("lead:1",))
    member = StepStatus(name="lead:1", agent="coder", status=TaskState.FAILED, index=1, kind="delegated")
    assert flow.outcome([lead, member]) is RunState.COMPLETED
    assert flow.output([lead, member], {"lead": "done"}) == "done"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"hierarchy": None}, "need each other"),
        ({"execution_mode": ExecutionMode.PARALLEL}, "need each other"),
        ({"hierarchy": Hierarchy(manager="nobody")}, "must be two agents of this crew"),
        ({"hierarchy": Hierarchy(manager="lead", reviewer="lead")}, "must be two agents of this crew"),
        ({"agents": [AgentDefinition(agent_id=n) for n in ("lead", "critic")]}, "nobody to delegate to"),
        (
            {"agents": [AgentDefinition(agent_id=n) for n in ("lead", "critic", "a:b")]},
            "'a:b' can't be an agent's name",
        ),
    ],
)
def test_a_hierarchy_that_can_not_work_is_refused(changes: dict[str, Any], fault: str) -> None:
    fields = {name: getattr(crew(), name) for name in ("name", "execution_mode", "agents", "hierarchy")}
    with pytest.raises(ValueError, match=fault):
        CrewDefinition(**(fields | changes))
