"""Loops, lists, conditions and the synthesis as steps of a run, against schedules that were worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill.errors import InvalidInput
from watchbill.plan import flow, prompts
from watchbill.plan.flow import Place
from watchbill.records import CrewDefinition
from watchbill.tasks import RunState, StepKind, StepStatus, TaskState

pytestmark = pytest.mark.pure

LOOP: Mapping[str, Any] = {"maxIterations": 3, "until": {"agent": "b", "field": "done"}}


def crew(mode: str, *agents: dict[str, Any] | str, **fields: Any) -> CrewDefinition:
    listed = [{"agent_id": one} if isinstance(one, str) else one for one in agents]
    return CrewDefinition.model_validate({"name": "c", "execution_mode": mode, "agents": listed, **fields})


def planned(definition: CrewDefinition) -> list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]:
    return [(step.name, step.agent, step.after, step.successors) for step in flow.steps(definition)]


def each(name: str, of: str, **fields: Any) -> dict[str, Any]:
    return {"agent_id": name, "for_each": of, **fields}


# ---------------------------------------------------------------- loops


def test_an_iteration_is_a_chain_that_ends_with_its_condition() -> None:
    definition = crew("loop", "a", "b", loop=LOOP)
    assert planned(definition) == [
        ("a@1", "a", (), ("b@1",)),
        ("b@1", "b", ("a@1",), ("until@1",)),
        ("until@1", "until", ("b@1",), ()),
    ]
    assert [step.name for step in flow.iteration(definition, 3)] == ["a@3", "b@3", "until@3"]
    assert [step.kind for step in flow.iteration(definition, 3)] == ["agent", "agent", "until"]


def test_the_last_iteration_of_a_loop_without_a_condition_needs_no_verdict() -> None:
    definition = crew("loop", "a", loop={"maxIterations": 2})
    assert [step.name for step in flow.iteration(definition, 1)] == ["a@1", "until@1"]
    assert [step.name for step in flow.iteration(definition, 2)] == ["a@2"]


@pytest.mark.parametrize(
    ("agent", "step", "expected"),
    [
        ("a", "a@1", {"b": "b@0", "a": "a@0"}),
        ("a", "a@4", {"a": "a@3", "b": "b@3", "c": "c@3"}),
        ("b", "b@4", {"b": "b@3", "c": "c@3", "a": "a@4"}),
        ("c", "c@1", {"a": "a@1", "b": "b@1"}),
        ("until", "until@2", {"a": "a@2", "b": "b@2", "c": "c@2"}),
    ],
)
def test_a_step_of_a_loop_is_given_the_newest_output_of_each_agent(
    agent: str, step: str, expected: dict[str, str]
) -> None:
    definition = crew("loop", "a", "b", "c", loop=LOOP)
    plan = flow.Plan(definition)
    found = plan.sources(agent, plan.place(agent, step), ["a", "b", "c"])
    assert list(found.items()) == ([] if step == "a@1" else list(expected.items()))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"agents": [{"agent_id": "until"}]}, "the name 'until' of an agent stands for another step"),
        ({"agents": [{"agent_id": "a@2"}]}, "the name 'a@2' of an agent stands for another step"),
        ({"agents": [{"agent_id": f"a{i}"} for i in range(250)]}, "an iteration would have 250 agents"),
        ({"loop": None}, "the loop has no bound"),
    ],
)
def test_a_loop_that_can_not_be_run_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        flow.steps(crew("loop", "a", loop=LOOP).model_copy(update=crew_fields(fields)))


def crew_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a definition, whose agents have been read."""
    if "agents" in fields:
        return {"agents": crew("loop", *fields["agents"]).agents}
    return fields


# ---------------------------------------------------------------- lists


def test_a_list_has_a_step_that_makes_its_items_and_one_that_gathers_them() -> None:
    definition = crew("sequential", "a", each("b", "{steps.a.list}"), "c")
    assert planned(definition) == [
        ("a", "a", (), ("b@each",)),
        ("b@each", "b", ("a",), ("b",)),
        ("b", "b", ("b@each",), ("c",)),
        ("c", "c", ("b",), ()),
    ]


def test_lists_may_follow_each_other_and_stand_in_a_loop() -> None:
    definition = crew("loop", each("a", "{inputs.list}"), each("b", "{steps.a}"), loop={"maxIterations": 1})
    assert [(name, after) for name, _, after, _ in planned(definition)] == [
        ("a@1@each", ()),
        ("a@1", ("a@1@each",)),
        ("b@1@each", ("a@1",)),
        ("b@1", ("b@1@each",)),
    ]


@pytest.mark.parametrize(
    ("mode", "agent", "step", "expected"),
    [
        ("sequential", "a", None, Place("agent")),
        ("sequential", "a", "a", Place("agent", name="a")),
        ("sequential", "b", "b", Place("list", name="b")),
        ("sequential", "b", "b@each", Place("each", name="b")),
        ("sequential", "b", "b@17", Place("item", item=17, name="b")),
        ("loop", "a", "a@2", Place("agent", 2, name="a@2")),
        ("loop", "b", "b@2", Place("list", 2, name="b@2")),
        ("loop", "b", "b@2@each", Place("each", 2, name="b@2")),
        ("loop", "b", "b@2@17", Place("item", 2, 17, "b@2")),
        ("loop", "until", "until@2", Place("until", 2, name="until@2")),
        ("sequential", "synthesis", "synthesis", Place("synthesis", name="synthesis")),
    ],
)
def test_the_name_of_a_step_tells_its_place(mode: str, agent: str, step: str | None, expected: Place) -> None:
    bound = {"loop": LOOP} if mode == "loop" else {}
    definition = crew(mode, "a", each("b", "{steps.a}"), synthesis={"model": "m"}, **bound)
    assert flow.Plan(definition).place(agent, step) == expected


def test_what_is_delegated_is_a_step_of_an_agent_whatever_its_name_has_from_a_list() -> None:
    team = {"hierarchy": {"manager": "lead"}}
    plan = flow.Plan(crew("hierarchical", each("lead", "{inputs.works}"), "coder", **team))
    assert plan.place("lead", "lead@2") == Place("item", item=2, name="lead")
    assert plan.place("coder", "lead@2:1") == Place("agent", name="lead@2:1")
    for fields in ({"for_each": "{inputs.works}"}, {"when": {"step": "lead", "exists": True}}):
        definition = crew("hierarchical", "lead", {"agent_id": "coder", **fields}, **team)
        with pytest.raises(InvalidInput, match=r"agents\[1\]: agent 'coder' works whenever it is asked to"):
            flow.steps(definition)


def test_a_step_for_an_item_is_given_only_what_it_cites() -> None:
    definition = crew("sequential", "a", "b", each("c", "{steps.b.list}", prompt="{steps.a} {item}"))
    cited = prompts.cited(definition.agents[2].prompt, definition.agent_ids())
    assert flow.Plan(definition).reads("c", "item", cited) == ["a"]


# ---------------------------------------------------------------- conditions, errors, synthesis


def test_leniency_is_the_agents_own_or_the_crews() -> None:
    agents: list[Any] = ["a", {"agent_id": "b", "on_error": "Fail"}, {"agent_id": "c", "on_error": "Continue"}]
    assert [s.lenient for s in flow.steps(crew("parallel", *agents))] == [False, False, True]
    assert [s.lenient for s in flow.steps(crew("parallel", *agents, on_error="Continue"))] == [True, False, True]


def test_a_synthesis_is_a_step_that_nothing_leads_to() -> None:
    last = flow.steps(crew("sequential", "a", "b", synthesis={"model": "m"}))[-1]
    assert (last.name, last.after, last.successors, last.kind) == ("synthesis", (), (), "synthesis")
    with pytest.raises(InvalidInput, match="'synthesis' of an agent stands for another step"):
        flow.steps(crew("sequential", "synthesis", synthesis={"model": "m"}))


def test_references_of_conditions_and_lists_are_checked() -> None:
    problems = prompts.check(
        crew(
            "sequential",
            {"agent_id": "a", "when": {"step": "b", "exists": True}},
            each("b", "{steps.nobody.list}"),
            {"agent_id": "c", "when": {"step": "a", "field": "x", "eq": "1"}, "for_each": "{steps.b}"},
            synthesis={"model": "m", "prompt": "{steps.c.x} {steps.d}"},
        )
    )
    assert [(problem.path, problem.reason) for problem in problems] == [
        (
            "spec.agents[0].when.step",
            "the condition of agent 'a' compares the output of 'b', but 'b' does not run before it in mode sequential",
        ),
        (
            "spec.agents[1].forEach",
            "forEach of agent 'b' cites {steps.nobody.list}, but no agent is called 'nobody.list'",
        ),
        ("spec.synthesis.prompt", "the prompt of the synthesis cites {steps.d}, but no agent is called 'd'"),
    ]


def test_in_a_loop_each_agent_may_cite_each() -> None:
    assert prompts.check(crew("loop", {"agent_id": "a", "prompt": "{steps.b} {steps.a}"}, "b", loop=LOOP)) == []


# ---------------------------------------------------------------- what becomes of a run

DONE, FAILED, SKIPPED = TaskState.COMPLETED, TaskState.FAILED, TaskState.SKIPPED


def status(name: str, state: TaskState, *after: str, kind: StepKind = "agent", attempt: int = 1) -> StepStatus:
    return StepStatus(name=name, agent=name, status=state, index=0, after=after, kind=kind, attempt=attempt)


def test_a_loops_output_is_that_of_its_last_agent() -> None:
    steps = [
        status("a@1", DONE),
        status("until@1", DONE, "a@1", kind="until"),
        status("a@2", DONE, "until@1"),
        status("until@2", DONE, "a@2", kind="until"),
    ]
    assert flow.output(steps, {"a@1": 1, "until@1": False, "a@2": 2, "until@2": True}) == 2
    assert flow.outcome(steps) is RunState.COMPLETED


def test_a_step_that_was_passed_over_fails_nothing_and_what_came_before_it_is_the_output() -> None:
    steps = [status("a", DONE), status("b", DONE, "a"), status("c", SKIPPED, "b")]
    assert flow.outcome(steps) is RunState.COMPLETED
    assert flow.output(steps, {"a": 1, "b": 2}) == 2
    never_reached = [status("a", FAILED), status("b", SKIPPED, "a", attempt=0)]
    assert flow.outcome(never_reached) is RunState.FAILED
    assert flow.output(never_reached, {}) is None


def test_of_several_ends_the_output_stays_a_mapping() -> None:
    steps = [status("a", DONE), status("b", DONE, "a"), status("c", SKIPPED, "a")]
    assert flow.output(steps, {"a": 1, "b": 2}) == {"b": 2, "a": 1}


@pytest.mark.parametrize(("state", "expected"), [(DONE, "sum"), (FAILED, "plain")])
def test_a_synthesis_is_the_output_and_its_failure_fails_nothing(state: TaskState, expected: str) -> None:
    ended = datetime(2026, 1, 1, tzinfo=UTC)
    last = status("synthesis", state, kind="synthesis").model_copy(update={"finished_at": ended})
    steps = [status("a", DONE), last]
    outputs = {"a": "plain"} | ({"synthesis": "sum"} if state is DONE else {})
    assert flow.outcome(steps) is RunState.COMPLETED
    assert flow.output(steps, outputs) == expected
    replayed = status("a", DONE).model_copy(update={"finished_at": ended + timedelta(milliseconds=1)})
    assert flow.output([replayed, last], outputs) == "plain", "it is older than what it sums up"


# ---------------------------------------------------------------- any crew


@st.composite
def crews(draw: st.DrawFn) -> CrewDefinition:
    names = [f"n{i}" for i in range(draw(st.integers(1, 8)))]
    mode = draw(st.sampled_from(["sequential", "parallel", "flow", "loop"]))
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs and mode == "flow" else []
    agents = [{"agent_id": n, "for_each": draw(st.sampled_from([None, "{inputs.list}"]))} for n in names]
    return crew(
        mode,
        *draw(st.permutations(agents)),
        flow_relations=[{"source": a, "target": b} for a, b in edges],
        loop={"maxIterations": 2} if mode == "loop" else None,
        synthesis={"model": "m"} if draw(st.booleans()) else None,
    )


@given(crews())
def test_any_plan_names_each_step_once_and_after_all_that_it_waits_for(definition: CrewDefinition) -> None:
    steps = flow.steps(definition)
    position = {step.name: i for i, step in enumerate(steps)}
    assert len(position) == len(steps)
    for step in steps:
        assert all(position[name] < position[step.name] for name in step.after)
        assert all(step.name in steps[position[name]].after for name in step.successors)
        assert all(step.name in steps[position[name]].successors for name in step.after)
    plan = flow.Plan(definition)
    kinds = {step.name: plan.place(step.agent, step.name).kind for step in steps}
    lists = {agent.agent_id for agent in definition.agents if agent.for_each}
    assert {step.agent for step in steps if kinds[step.name] == "each"} == lists
    assert {step.agent for step in steps if kinds[step.name] == "list"} == lists
    assert {step.agent for step in steps if kinds[step.name] in ("agent", "list")} == set(definition.agent_ids())
