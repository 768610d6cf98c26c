"""Execution mode → steps; what a run's steps make of the run."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from watchbill.plan import flow
from watchbill.records import CrewDefinition
from watchbill.tasks import RunState, StepStatus, TaskState

pytestmark = pytest.mark.pure

DIAMOND = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]


def crew(mode: str, agents: str = "abcd", relations: list[tuple[Any, Any]] | None = None) -> CrewDefinition:
    return CrewDefinition.model_validate(
        {
            "name": "c",
            "execution_mode": mode,
            "agents": [{"agent_id": name} for name in agents],
            "flow_relations": [{"source": s, "target": t} for s, t in relations or []],
        }
    )


def planned(mode: str, agents: str = "abcd", relations: list[tuple[Any, Any]] | None = None) -> dict[str, flow.Step]:
    return {step.name: step for step in flow.steps(crew(mode, agents, relations))}


def reads(definition: CrewDefinition, name: str, *cited: str) -> list[str]:
    return flow.Plan(definition).reads(name, "agent", cited)


def status(name: str, state: TaskState, *after: str) -> StepStatus:
    return StepStatus(name=name, agent=name, status=state, index=0, after=after)


# steps


def test_sequential_steps_form_a_chain_in_the_order_of_agents() -> None:
    assert flow.steps(crew("sequential", "cab")) == (
        flow.Step("c", "c", (), ("a",)),
        flow.Step("a", "a", ("c",), ("b",)),
        flow.Step("b", "b", ("a",), ()),
    )


def test_parallel_steps_depend_on_nothing_in_the_order_of_agents() -> None:
    assert flow.steps(crew("parallel", "cab")) == tuple(flow.Step(name, name, (), ()) for name in "cab")


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_relations_of_a_record_mean_nothing_outside_of_a_flow(mode: str) -> None:
    assert flow.steps(crew(mode, "abc", [("c", "a")])) == flow.steps(crew(mode, "abc"))


@pytest.mark.parametrize("mode", ["sequential", "parallel", "flow"])
def test_a_crew_of_one_has_one_step(mode: str) -> None:
    assert flow.steps(crew(mode, "a")) == (flow.Step("a", "a", (), ()),)


def test_a_flow_step_waits_for_its_own_dependencies_and_for_nothing_else() -> None:
    # b is slow, c is quick: d comes after c alone, so that no wave holds it back until b is done
    steps = planned("flow", "abcd", [("a", ["b", "c"]), ("c", "d")])
    assert steps["d"].after == ("c",)
    assert steps["b"].successors == ()
    assert steps["a"].successors == ("b", "c")


def test_the_ends_of_a_flow_may_be_names_or_lists() -> None:
    as_names = planned("flow", "abcd", [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])
    as_lists = planned("flow", "abcd", [(["a"], ["b", "c"]), (["b", "c"], ["d"])])
    assert as_names == as_lists
    assert as_lists["d"].after == ("b", "c")


def test_a_relation_given_twice_counts_once() -> None:
    step = planned("flow", "ab", [("a", "b"), (["a", "a"], ["b"])])["b"]
    assert step.after == ("a",)


def test_relations_may_cite_the_effective_name() -> None:
    definition = CrewDefinition.model_validate(
        {
            "name": "c",
            "execution_mode": "flow",
            "agents": [{"agent_id": "a", "name": "First"}, {"agent_id": "b", "name": "Second"}],
            "flow_relations": [{"source": "First", "target": "b"}, {"source": "a", "target": "Second"}],
        }
    )
    assert flow.steps(definition)[1] == flow.Step("b", "b", ("a",), ())


def test_agents_in_no_relation_start_at_once() -> None:
    steps = planned("flow", "abc", [("a", "b")])
    assert steps["c"] == flow.Step("c", "c", (), ())


def test_a_flow_without_relations_runs_all_at_once() -> None:
    assert flow.steps(crew("flow")) == flow.steps(crew("parallel"))


def test_a_step_stands_after_all_it_depends_on_and_ties_keep_the_order_of_agents() -> None:
    assert [s.name for s in flow.steps(crew("flow", "dcba", DIAMOND))] == ["a", "c", "b", "d"]
    assert [s.name for s in flow.steps(crew("flow", "zdcba", DIAMOND))] == ["z", "a", "c", "b", "d"]
    # a step that becomes ready stands as early as its agent is listed, before roots listed later
    assert [s.name for s in flow.steps(crew("flow", "abc", [("a", "b")]))] == ["a", "b", "c"]


@pytest.mark.parametrize("order", list(itertools.permutations("abcd")))
def test_every_listing_of_the_same_graph_gives_a_valid_order_of_all_steps(order: tuple[str, ...]) -> None:
    steps = flow.steps(crew("flow", "".join(order), DIAMOND))
    position = {step.name: i for i, step in enumerate(steps)}
    assert set(position) == set("abcd")
    for step in steps:
        assert all(position[name] < position[step.name] for name in step.after)
        assert all(position[name] > position[step.name] for name in step.successors)


def test_a_thousand_steps_in_a_row_are_no_trouble() -> None:
    names = [f"a{i}" for i in range(1000)]
    definition = CrewDefinition.model_validate(
        {
            "name": "c",
            "execution_mode": "flow",
            "agents": [{"agent_id": name} for name in reversed(names)],
            "flow_relations": [{"source": a, "target": b} for a, b in itertools.pairwise(names)],
        }
    )
    assert [step.name for step in flow.steps(definition)] == names


# what a step is given


def test_ancestors_are_all_that_has_completed_when_a_step_starts() -> None:
    found = flow.ancestors(flow.steps(crew("flow", "abcde", DIAMOND)))
    assert found == {
        "a": frozenset(),
        "b": {"a"},
        "c": {"a"},
        "d": {"a", "b", "c"},
        "e": frozenset(),
    }


def test_a_sequential_step_reads_all_that_came_before() -> None:
    definition = crew("sequential")
    assert [reads(definition, name) for name in "abcd"] == [[], ["a"], ["a", "b"], ["a", "b", "c"]]


def test_a_parallel_step_reads_nothing() -> None:
    assert [reads(crew("parallel"), name) for name in "abcd"] == [[], [], [], []]


def test_a_flow_step_reads_its_direct_dependencies_and_what_it_cites_in_plan_order() -> None:
    definition = crew("flow", "dcba", DIAMOND)
    assert reads(definition, "d") == ["c", "b"]
    assert reads(definition, "d", "a") == ["a", "c", "b"]
    assert reads(definition, "b") == ["a"]


# what becomes of the run

DONE, FAILED, DEAD, SKIPPED = TaskState.COMPLETED, TaskState.FAILED, TaskState.DEAD, TaskState.SKIPPED


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((DONE, DONE, DONE), RunState.COMPLETED),
        ((DONE, DONE, FAILED), RunState.FAILED),
        ((DONE, FAILED, SKIPPED), RunState.FAILED),
        ((FAILED, SKIPPED, SKIPPED), RunState.FAILED),
        ((DEAD, SKIPPED, SKIPPED), RunState.FAILED),
    ],
)
def test_a_chain_is_done_when_its_end_is(states: tuple[TaskState, ...], expected: RunState) -> None:
    a, b, c = states
    assert flow.outcome([status("a", a), status("b", b, "a"), status("c", c, "b")]) is expected


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((DONE, DONE), RunState.COMPLETED),
        ((DONE, FAILED), RunState.PARTIAL),
        ((DEAD, DONE), RunState.PARTIAL),
        ((FAILED, FAILED), RunState.FAILED),
    ],
)
def test_parallel_steps_are_each_an_end(states: tuple[TaskState, ...], expected: RunState) -> None:
    a, b = states
    assert flow.outcome([status("a", a), status("b", b)]) is expected


def test_a_run_is_not_partial_for_a_step_in_the_middle_that_went_well() -> None:
    steps = [status("a", DONE), status("b", DONE, "a"), status("c", FAILED, "a"), status("d", SKIPPED, "b", "c")]
    assert flow.outcome(steps) is RunState.FAILED


def test_a_run_is_partial_when_one_of_its_ends_is_reached() -> None:
    steps = [status("a", DONE), status("b", FAILED, "a"), status("c", SKIPPED, "b"), status("d", DONE, "a")]
    assert flow.outcome(steps) is RunState.PARTIAL
    assert flow.outcome(iter(steps)) is RunState.PARTIAL


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ((DONE, DONE), RunState.COMPLETED),
        ((DONE, TaskState.CANCELLED), RunState.CANCELLED),
        ((DONE, SKIPPED), RunState.CANCELLED),
        ((FAILED, DONE), RunState.CANCELLED),
    ],
)
def test_a_run_that_is_cancelled_is_so_unless_all_of_it_had_completed(
    states: tuple[TaskState, ...], expected: RunState
) -> None:
    a, b = states
    assert flow.outcome([status("a", a), status("b", b)], cancelling=True) is expected


# its output


def test_the_output_is_that_of_the_one_last_step() -> None:
    steps = [status("a", DONE), status("b", DONE, "a")]
    assert flow.output(steps, {"a": 1, "b": {"x": 2}}) == {"x": 2}
    assert flow.output(iter(steps), {"a": 1, "b": 0}) == 0


def test_a_last_step_that_failed_has_no_output_whatever_came_before() -> None:
    assert flow.output([status("a", DONE), status("b", FAILED, "a")], {"a": 1}) is None


def test_the_output_of_several_last_steps_is_a_mapping_of_those_that_completed() -> None:
    steps = [status("a", DONE), status("b", DONE, "a"), status("c", FAILED, "a"), status("d", DONE, "a")]
    assert flow.output(steps, {"a": 1, "b": None, "d": "two"}) == {"b": None, "d": "two"}


def test_there_is_no_output_where_no_last_step_completed() -> None:
    assert flow.output([status("a", FAILED), status("b", FAILED)], {}) is None
