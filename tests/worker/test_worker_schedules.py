"""Each mode against schedules that were worked out by hand: which steps begin when one has ended, and which do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from workshop import Crew, Make, agent

from waiting import until, whole_lines
from watchbill.api.hierarchy import Hierarchy
from watchbill.api.modes import Synthesis
from watchbill.errors import NotFound
from watchbill.records import AgentDefinition, ExecutionMode, FlowRelation
from watchbill.tasks import RunState, TaskState

FLOW, LOOP, PARALLEL = ExecutionMode.FLOW, ExecutionMode.LOOP, ExecutionMode.PARALLEL
HIERARCHICAL = ExecutionMode.HIERARCHICAL
DONE = {"agent": "b", "field": "done"}
GOOD, BAD = {"approved": True}, {"approved": False, "reasons": "better"}
VERDICTS = {"lead:1:review": GOOD, "lead:2:review": BAD, "lead:2:review2": GOOD}
JOINED = [("a", "c"), ("b", "d"), ("c", "e"), ("d", "e")]

Turn = tuple[str, str]
"""What ends (or `approve STEP`, `reject STEP`), and the steps that begin then."""


def turns(names: str, outputs: dict[str, Any] | None = None, **of: dict[str, Any]) -> list[AgentDefinition]:
    """An agent for each name. `outputs`: what steps return; `of`: other fields of agents."""
    config = {"outputs": outputs or {}}
    return [agent(name, "Turn", config=dict(config), **of.get(name, {})) for name in names.split()]


def lead(*members: str, name: str = "lead", in_order: bool = False) -> AgentDefinition:
    return agent(name, "Turn", config={"delegates": list(members), "in_order": in_order})


def row(
    name: str, agents: list[AgentDefinition], schedule: Sequence[Turn], ends: str = "completed", **fields: Any
) -> Any:
    return pytest.param(agents, schedule, RunState(ends), fields, id=name)


EITHER = {"b": {"when": {"step": "a", "eq": "b"}}, "c": {"when": {"step": "a", "eq": "c"}}}
LIST = {"r": {"for_each": "{steps.a}"}}
ROWS = [
    row("sequential", turns("a b c"), [("", "a"), ("a", "b"), ("b", "c"), ("c", "")]),
    row("sequential, one fails", turns("a b c", {"b": "fails"}), [("", "a"), ("a", "b"), ("b", "")], "failed"),
    row(
        "sequential, one fails and it goes on",
        turns("a b c", {"b": "fails"}, b={"on_error": "Continue"}),
        [("", "a"), ("a", "b"), ("b", "c"), ("c", "")],
        "partial",
    ),
    row(
        "parallel, two at once",
        turns("a b c d"),
        [("", "a b"), ("b", "c"), ("c", "d"), ("a", ""), ("d", "")],
        mode=PARALLEL,
        max_parallel_tasks=2,
    ),
    row(
        "flow",
        turns("a b c d e"),
        [("", "a b"), ("a", "c"), ("c", ""), ("b", "d"), ("d", "e"), ("e", "")],
        mode=FLOW,
        flow_relations=JOINED,
    ),
    row(
        "flow, one at once",
        turns("a b c d e"),
        [("", "a"), ("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "")],
        mode=FLOW,
        flow_relations=JOINED,
        max_parallel_tasks=1,
    ),
    row(
        "flow, one fails",
        turns("a b c d e", {"c": "fails"}),
        [("", "a b"), ("a", "c"), ("c", ""), ("b", "d"), ("d", "")],
        "failed",
        mode=FLOW,
        flow_relations=JOINED,
    ),
    row("a branch", turns("a b c d", {"a": "c"}, **EITHER), [("", "a"), ("a", "c"), ("c", "d"), ("d", "")]),
    row(
        "a branch in a flow",
        turns("a b c d", {"a": "b"}, **EITHER),
        [("", "a"), ("a", "b"), ("b", "d"), ("d", "")],
        mode=FLOW,
        flow_relations=[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")],
    ),
    row(
        "loop",
        turns("a b", {"b@1": {"done": False}, "b@2": {"done": True}}),
        [("", "a@1"), ("a@1", "b@1"), ("b@1", "a@2"), ("a@2", "b@2"), ("b@2", "")],
        mode=LOOP,
        loop={"maxIterations": 3, "until": DONE},
    ),
    row(
        "loop, to its bound",
        turns("a"),
        [("", "a@1"), ("a@1", "a@2"), ("a@2", "a@3"), ("a@3", "")],
        mode=LOOP,
        loop={"maxIterations": 3},
    ),
    row(
        "loop, one fails",
        turns("a b", {"b@1": {"done": False}, "a@2": "fails"}),
        [("", "a@1"), ("a@1", "b@1"), ("b@1", "a@2"), ("a@2", "")],
        "failed",
        mode=LOOP,
        loop={"maxIterations": 3, "until": DONE},
    ),
    row(
        "list, two at once",
        turns("a r c", {"a": [1, 2, 3]}, **LIST),
        [("", "a"), ("a", "r@1 r@2"), ("r@2", "r@3"), ("r@1", ""), ("r@3", "c"), ("c", "")],
        max_parallel_tasks=2,
    ),
    row(
        "list, an item fails",
        turns("a r c", {"a": [1, 2], "r@1": "fails"}, **LIST),
        [("", "a"), ("a", "r@1 r@2"), ("r@1", ""), ("r@2", "")],
        "failed",
    ),
    row(
        "list, its agent has one place",
        turns("a r c", {"a": [1, 2, 3]}, r={"max_concurrent": 1, **LIST["r"]}),
        [("", "a"), ("a", "r@1"), ("r@1", "r@2"), ("r@2", "r@3"), ("r@3", "c"), ("c", "")],
    ),
    row("list of nothing", turns("a r c", {"a": []}, **LIST), [("", "a"), ("a", "c"), ("c", "")]),
    row(
        "lists in a loop",
        turns("a r", {"a@1": [1, 2], "a@2": [3]}, **LIST),
        [("", "a@1"), ("a@1", "r@1@1 r@1@2"), ("r@1@2", ""), ("r@1@1", "a@2"), ("a@2", "r@2@1"), ("r@2@1", "")],
        mode=LOOP,
        loop={"maxIterations": 2},
    ),
    row(
        "synthesis",
        turns("a b"),
        [("", "a b"), ("b", ""), ("a", "synthesis"), ("synthesis", "")],
        mode=PARALLEL,
        synthesis=True,
    ),
    row(
        "synthesis behind a failure",
        turns("a b c", {"b": "fails"}),
        [("", "a"), ("a", "b"), ("b", "synthesis"), ("synthesis", "")],
        "failed",
        synthesis=True,
    ),
    row(
        "approval",
        turns("a b c"),
        [("", "a"), ("a", ""), ("approve b", "b"), ("b", "c"), ("c", "")],
        requires_approval=["b"],
    ),
    row(
        "approval, refused", turns("a b c"), [("", "a"), ("a", ""), ("reject b", "")], "failed", requires_approval=["b"]
    ),
    row(
        "approval, beside which others go on",
        turns("a b c"),
        [("", "a"), ("a", "c"), ("c", ""), ("approve b", "b"), ("b", "")],
        mode=PARALLEL,
        requires_approval=["b"],
        max_parallel_tasks=2,
    ),
    row(
        "approval, which keeps the only place",
        turns("a b c"),
        [("", "a"), ("a", ""), ("approve b", "b"), ("b", "c"), ("c", "")],
        mode=PARALLEL,
        requires_approval=["b"],
        max_parallel_tasks=1,
    ),
    row(
        "approval of items",
        turns("a r c", {"a": [1, 2]}, **LIST),
        [("", "a"), ("a", ""), ("approve r@2", "r@2"), ("r@2", ""), ("approve r@1", "r@1"), ("r@1", "c"), ("c", "")],
        requires_approval=["r"],
    ),
    row(
        "hierarchy",
        [lead("a", "b"), *turns("a b")],
        [("", "lead lead:1 lead:2"), ("lead:2", ""), ("lead:1", "")],
        mode=HIERARCHICAL,
        hierarchy={"manager": "lead"},
    ),
    row(
        "hierarchy, one after the other",
        [lead("a", "b", in_order=True), *turns("a b critic", VERDICTS)],
        [
            ("", "lead lead:1"),
            ("lead:1", "lead:1:review"),
            ("lead:1:review", "lead:2"),
            ("lead:2", "lead:2:review"),
            ("lead:2:review", "lead:2:work2"),
            ("lead:2:work2", "lead:2:review2"),
            ("lead:2:review2", ""),
        ],
        mode=HIERARCHICAL,
        hierarchy={"manager": "lead", "reviewer": "critic"},
        max_parallel_tasks=1,
    ),
    # A manager that waits has no place, and one that goes on needs one again.
    row(
        "hierarchy, two at once",
        [lead("a", "b"), *turns("a b critic", VERDICTS)],
        [
            ("", "lead lead:1 lead:2"),
            ("lead:1", "lead:1:review"),
            ("lead:2", "lead:2:review"),
            ("lead:2:review", "lead:2:work2"),
            ("lead:1:review", ""),
            ("lead:2:work2", "lead:2:review2"),
            ("lead:2:review2", ""),
        ],
        mode=HIERARCHICAL,
        hierarchy={"manager": "lead", "reviewer": "critic"},
        max_parallel_tasks=2,
    ),
    row(
        "hierarchy, two levels",
        [lead("b"), lead("a", name="b"), *turns("a")],
        [("", "lead lead:1 lead:1:1"), ("lead:1:1", "")],
        mode=HIERARCHICAL,
        hierarchy={"manager": "lead", "maxDepth": 2},
        max_parallel_tasks=1,
    ),
]


def read(crew: Crew) -> list[tuple[str, str]]:
    """What was noted, in order: (start or end, step)."""
    lines = map(json.loads, whole_lines(crew.folder / "notes"))
    return [(line["what"], line["task"].partition("/")[2]) for line in lines]


def begun(crew: Crew) -> set[str]:
    return {step for what, step in read(crew) if what == "start"}


async def ended(crew: Crew, what: str) -> None:
    """Has this step end, or decides on it."""
    verb, _, step = what.rpartition(" ")
    if not verb:
        crew.open(f"r/{step}")
        await until(lambda: crew.client.result(crew.name, f"r/{step}"), what=f"the end of {step}")
        return

    async def waits() -> bool:
        with suppress(NotFound):  # an item of a list becomes a step some time after the list is there
            return await crew.client.state(crew.name, f"r/{step}") is TaskState.APPROVAL
        return False

    await until(waits, what=f"{step} waits for approval")
    assert await (crew.client.approve if verb == "approve" else crew.client.reject)(crew.name, f"r/{step}")


async def scheduled(make_crew: Make, agents: list[AgentDefinition], fields: dict[str, Any]) -> Crew:
    relations = [FlowRelation(source=source, target=target) for source, target in fields.get("flow_relations", [])]
    above = fields.get("hierarchy")
    rest = {name: value for name, value in fields.items() if name != "synthesis"} | {"flow_relations": relations}
    copied = [one.model_copy(update={"config": dict(one.config)}) for one in agents]
    crew = await make_crew(copied, **rest | {"hierarchy": Hierarchy.model_validate(above) if above else None})
    if fields.get("synthesis"):
        written = {"class": "turn_hands:Turn", "config": {"folder": str(crew.folder)}}
        await crew.define(synthesis=Synthesis.model_validate(written))
    return crew


@pytest.mark.parametrize(("agents", "schedule", "ends", "fields"), ROWS)
async def test_steps_begin_and_a_run_ends_as_worked_out_by_hand(
    make_crew: Make, agents: list[AgentDefinition], schedule: list[Turn], ends: RunState, fields: dict[str, Any]
) -> None:
    crew = await scheduled(make_crew, agents, {"tasks": {"max_attempts": 1}, **fields})
    expected: set[str] = set()
    async with crew.in_process():
        await crew.submit("r")
        for what, begins in schedule:
            if what:
                await ended(crew, what)
            expected |= set(begins.split())
            await until(lambda: begun(crew) >= expected, what=f"{begins or 'nothing'} begins after {what}")  # noqa: B023
            assert begun(crew) == expected
        run = await crew.run_result("r")
    assert run.status is ends
    assert begun(crew) == expected
    noted = read(crew)
    for what, begins in schedule:
        if ("end", what) in noted:
            for step in begins.split():
                assert noted.index(("start", step)) > noted.index(("end", what)), f"{step} began before {what} ended"
    assert len(await crew.ends()) == sum((await crew.ends()).values())
    assert await crew.is_idle()
