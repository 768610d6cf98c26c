"""Each mode against schedules that were worked out by hand: which steps may begin once others have ended, no sooner.

A line of a schedule has the steps that become ready, and then all that ends, or happens, before the next line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from support import MANY, Crew, finished, flow_of, lenient, library

from watchbill.api.hierarchy import Hierarchy
from watchbill.api.modes import Loop, Synthesis
from watchbill.plan import flow
from watchbill.plan.hierarchy import Asked, Delegated
from watchbill.records import CrewDefinition, ExecutionMode
from watchbill.store import approvals, delegations, packed, run_steps, runs
from watchbill.store.queue import Claimed, Outcome
from watchbill.store.run_steps import Held

Line = tuple[str, str]
"""Steps that become ready; and what follows: `a` completes, `a!` fails, `a-` is passed over, `a?` waits for approval,
`a+` gets it, `a*3` adds three items, `a@` adds the next iteration, `a>1,2` delegates these items and waits for them."""

SUM: Final = Synthesis.model_validate({"class": "EchoAgent"})
LOOP: Final = Loop.model_validate({"maxIterations": 3, "until": {"agent": "b", "field": "done"}})
LIST: Final = flow_of([("list@each", "list"), ("list", "end")])
SPLIT: Final = flow_of([("a", "b"), ("a", "c"), ("c", "d"), ("b", "e"), ("d", "e")])
CASES: Final[dict[str, tuple[CrewDefinition, int, list[Line], str]]] = {
    "one after the other": (
        library(*"abc", mode=ExecutionMode.SEQUENTIAL),
        9,
        [("a", "a"), ("b", "b"), ("c", "c")],
        "completed",
    ),
    "a sequence ends with its first failure": (
        library(*"abc", mode=ExecutionMode.SEQUENTIAL),
        9,
        [("a", "a"), ("b", "b!")],
        "failed",
    ),
    "all at once, two of them at a time, in order": (
        library(*"abcde"),
        2,
        [("a b", "b"), ("c", "a c"), ("d e", "d e!")],
        "partial",
    ),
    "a node waits for its own, and for no wave": (
        SPLIT,
        9,
        [("a", "a"), ("b c", "c"), ("d", "d"), ("", "b"), ("e", "e")],
        "completed",
    ),
    "the bound holds across the whole graph": (
        flow_of([("a", "c"), ("a", "d"), ("b", "e")]),
        2,
        [("a b", "a"), ("c", "b"), ("d", "d"), ("e", "c e")],
        "completed",
    ),
    "behind a failure nothing begins, beside it all": (
        SPLIT,
        9,
        [("a", "a"), ("b c", "b!"), ("", "c"), ("d", "d")],
        "failed",
    ),
    "behind a lenient failure all begins": (
        lenient(SPLIT, "b"),
        9,
        [("a", "a"), ("b c", "b! c"), ("d", "d"), ("e", "e")],
        "partial",
    ),
    "what is passed over holds nothing up": (
        SPLIT,
        9,
        [("a", "a"), ("b c", "b- c"), ("d", "d-"), ("e", "e")],
        "completed",
    ),
    "a loop goes on until it is over": (
        library("a", "b", mode=ExecutionMode.LOOP, loop=LOOP),
        9,
        [
            ("a@1", "a@1"),
            ("b@1", "b@1"),
            ("until@1", "until@1@ until@1"),
            ("a@2", "a@2"),
            ("b@2", "b@2"),
            ("until@2", "until@2"),
        ],
        "completed",
    ),
    "a list is gathered behind its last item, within the bound": (
        LIST,
        2,
        [
            ("list@each", "list@each*3"),
            ("list@1", "list@each"),
            ("list@2", "list@2"),
            ("list@3", "list@3"),
            ("", "list@1"),
            ("list", "list"),
            ("end", "end"),
        ],
        "completed",
    ),
    "an empty list is gathered at once": (
        LIST,
        2,
        [("list@each", "list@each*0 list@each"), ("list", "list"), ("end", "end")],
        "completed",
    ),
    "the synthesis is last, whatever failed, and its failure fails nothing": (
        library("a", "b", synthesis=SUM),
        9,
        [("a b", "a b!"), ("synthesis", "synthesis!")],
        "partial",
    ),
    "where nothing has completed nothing is summed up": (
        library("a", "b", synthesis=SUM),
        9,
        [("a b", "a! b!")],
        "failed",
    ),
    "what waits for approval counts against the bound": (
        library("a", "b"),
        1,
        [("a", "a?"), ("", "a+"), ("a", "a"), ("b", "b")],
        "completed",
    ),
    "a manager goes on when one of its members has ended, and takes no place meanwhile": (
        library("lead", "coder", mode=ExecutionMode.HIERARCHICAL, hierarchy=Hierarchy(manager="lead")),
        2,
        [
            ("lead", "lead>1,2,3"),
            ("lead:1 lead:2", "lead:2!"),
            ("lead:3", "lead:1"),
            ("lead", "lead>1,2,3"),
            ("lead", "lead>3"),
            ("", "lead:3"),
            ("lead", "lead"),
        ],
        "completed",
    ),
}


@dataclass
class Hand:
    """Does what a line says, as a worker whose hand is held."""

    crew: Crew
    held: dict[str, Claimed] = field(default_factory=dict)
    number: int = 0

    async def take(self) -> set[str]:
        """Takes all that is ready."""
        self.number += 1
        tasks = await self.crew.take("w", self.number, 100)
        self.held |= {str(task.step): task for task in tasks}
        return {str(task.step) for task in tasks}

    async def do(self, what: str) -> None:
        crew, step, mark = self.crew, what[:-1], what[-1]
        ends: dict[str, Outcome] = {"!": "failed", "-": "skipped", "?": "approval"}
        if mark in ends:
            await self.end(step, ends[mark], ttl_ms=60_000)
        elif mark == "+":
            assert await approvals.decide(crew.client, crew.keys, crew.uid, f"r/{step}", "approved", "")
        elif mark == "@":
            number = int(step.rpartition("@")[2]) + 1
            assert await run_steps.add_iteration(crew.client, self.of(step), flow.iteration(crew.definition, number))
        elif "*" in what:
            step, _, count = what.partition("*")
            of, items = self.of(step), list(range(int(count)))
            assert await run_steps.add_items(crew.client, of, "list", "list", items, lenient=False, room=MANY)
        elif ">" in what:
            step, _, numbers = what.partition(">")
            names = [f"{step}:{number}" for number in numbers.split(",")]
            for name in names:
                work = Delegated(name, "coder", Asked(name))
                assert await delegations.delegate(crew.queue, "w", self.held[step], work, "do it")
            await self.end(step, "members", detail=packed.pack_ids(names))
        else:
            await self.end(what, "completed")

    def of(self, step: str) -> Held:
        return Held(self.crew.keys, self.crew.uid, f"r/{step}", int(self.held[step].fence))

    async def end(self, step: str, outcome: Outcome, **options: Any) -> None:
        done = finished(self.held.pop(step), outcome, definition=self.crew.definition.digest(), **options)
        assert (await self.crew.queue.finish("w", [done]))[0] == ["applied"]


@pytest.mark.parametrize("case", CASES)
async def test_steps_begin_as_the_schedule_says(crew: Crew, case: str) -> None:
    definition, parallel, lines, state = CASES[case]
    await crew.run("r", definition, parallel=parallel)
    hand = Hand(crew)
    await _follow(hand, lines)
    assert await hand.take() == set(), "nothing is left"
    assert hand.held == {}
    status = await runs.status(crew.client, crew.keys, "r")
    assert (status.status.value, flow.outcome(status.steps).value) == (state, state)
    await crew.queue.leave("w")
    await crew.assert_idle()


async def _follow(hand: Hand, lines: Sequence[Line]) -> None:
    for number, (ready, ends) in enumerate(lines, 1):
        assert await hand.take() == set(ready.split()), f"line {number}"
        for what in ends.split():
            await hand.do(what)
