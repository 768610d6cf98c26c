"""Runs of any hierarchy, with failures, verdicts, bounds, interrupted steps, and workers that die: two at once, each
with a program of its own, of which one may be cancelled. What must come of each step is told by the program alone.

A step really delegates by its team; what is between the team and the store is as simple as can be.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest
from asks import ask_to_cancel, ask_to_interrupt, ask_to_resume
from hypothesis import HealthCheck, Phase, given, settings
from support import Crew, opened

from hierarchy_scenes import RUNS, Expected, Item, Program, Scene, scenes
from watchbill.agents.asking import Ends, Waits
from watchbill.agents.team import Team
from watchbill.errors import Conflict, DelegationFailed, InvalidInput, RetryLater
from watchbill.event_types import Telling
from watchbill.plan.hierarchy import Asked, Delegated
from watchbill.store import delegations, packed, runs
from watchbill.store.queue import Claimed
from watchbill.tasks import RunResult, RunState, TaskResult

HUNT = int(os.environ.get("WATCHBILL_TEST_STEPS", "0"))
STEPS = 60
"""Of one example, about."""
TURNS_MOST = 4000
RETRIES_MOST = 2


class Lost(Exception):
    """The task is no longer this worker's, or it is to stop."""


@dataclass
class StoreLine:
    """The line of one attempt."""

    story: Story
    worker: str
    task: Claimed
    awaited: dict[str, None] = field(default_factory=dict)

    async def __call__(self, told: Telling) -> None:
        raise AssertionError

    async def approved(self, what: str) -> NoReturn:
        raise AssertionError

    async def wait_for_approval(self, asked: Mapping[str, str]) -> NoReturn:
        raise AssertionError

    async def delegate(self, work: Delegated, *, ends: Ends) -> TaskResult:
        story = self.story
        if self.worker in story.names and story.chance.random() < 0.03:
            await story.die(self.worker)
        found = await delegations.delegate(story.crew.queue, self.worker, self.task, work, "do it")
        if found is None or self.worker not in story.names:  # what it began before others took over is there
            raise Lost
        asked, result = found
        assert asked == work.asked.pack(), "it was asked something else before"
        if result is None:
            self.awaited[work.name] = None
            raise Waits
        assert f"{self.task.run_id}/{work.name}" in story.ended
        return result


@dataclass
class Story:
    crew: Crew
    scene: Scene
    held: dict[str, tuple[str, Claimed]] = field(default_factory=dict)
    """Task → its worker, and what that was given."""
    ended: set[str] = field(default_factory=set)
    awaited: dict[str, list[str]] = field(default_factory=dict)
    """Step that waits → those that it waits for."""
    touched: set[str] = field(default_factory=set)
    """Tasks of which an attempt came to nothing."""
    busy: set[str] = field(default_factory=set)
    """Tasks whose attempts are about to end."""
    retries: Counter[str] = field(default_factory=Counter)
    names: list[str] = field(default_factory=lambda: ["w0", "w1"])
    claims: Counter[str] = field(default_factory=Counter)
    dead: int = 0
    interrupted: set[str] = field(default_factory=set)
    """Steps that somebody wanted to be interrupted, until he wants them to be resumed."""
    was_interrupted: set[str] = field(default_factory=set)
    cancelled: str = ""
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.scene.seed)

    async def tell(self) -> None:
        for run in RUNS:
            await self.crew.run(run, self.scene.definition, parallel=self.scene.parallel)
        chance, turn = self.chance, 0
        while not all([await self._is_over(run) for run in RUNS]):
            turn += 1
            assert turn < TURNS_MOST, "it goes on for ever"
            if turn == self.scene.cancel_at and not await self._is_over(RUNS[-1]):
                await ask_to_cancel(self.crew, RUNS[-1])
                self.cancelled = RUNS[-1]
            await self._interrupt_or_resume()
            worker = chance.choice(self.names)
            await self._claim(worker, chance.randint(1, 4))
            mine = [task for name, task in self.held.values() if name == worker]
            some = chance.sample(mine, chance.randint(0, len(mine)))
            await self.crew.queue.start(worker, some)
            what = chance.random()
            if what < 0.06:
                await self.die(worker)
            elif what < 0.12 and some:
                await self.crew.queue.hand_back(worker, some)
                self._lose(some)
            else:
                for task in some:
                    if self.held.get(task.id) == (worker, task):  # its worker lives, and has not performed it
                        await self._perform(worker, task)

    async def _interrupt_or_resume(self) -> None:
        what = self.chance.random()
        if what < 0.05:
            run = self.chance.choice(RUNS)
            step = self.chance.choice(sorted(await self.crew.step_states(run)))
            with suppress(Conflict, RetryLater):  # it has ended, waits for members, or its run is being cancelled
                await ask_to_interrupt(self.crew, f"{run}/{step}")
                self.interrupted.add(f"{run}/{step}")
        elif what < 0.2:
            for step_id in sorted(self.interrupted):
                with suppress(Conflict):  # it has ended all the same
                    await ask_to_resume(self.crew, step_id)
            self.was_interrupted |= self.interrupted
            self.interrupted.clear()

    async def _is_over(self, run: str) -> bool:
        state: Any = await self.crew.client.hget(self.crew.keys.run(run), "state")
        return state in ("completed", "failed", "partial", "cancelled")

    async def _claim(self, worker: str, slots: int) -> None:
        self.claims[worker] += 1
        claim = await self.crew.queue.claim(worker, self.claims[worker], slots, lease_ms=60_000, take_over=True)
        for task in claim.tasks:
            assert task.id not in self.held, "somebody holds it"
            assert task.id not in self.ended, "it has ended"
            waits_for = self.awaited.pop(task.id, [])
            is_woken = not waits_for or any(f"{task.run_id}/{name}" in self.ended for name in waits_for)
            is_woken = is_woken or task.run_id == self.cancelled or task.id in self.interrupted | self.was_interrupted
            assert is_woken, "none of those has ended for which it waits"
            assert self._before(task) <= self.ended, "before what it is about"
            self.held[task.id] = worker, task
        if not self.held:
            await self.crew.bell(min(max(claim.again_ms, 1), 20) / 1000)
        for run in RUNS:
            assert sum(task.run_id == run for _, task in self.held.values()) <= self.scene.parallel
        of = Counter(task.agent for _, task in self.held.values())
        for agent in self.scene.definition.agents:
            assert of[agent.agent_id] <= (agent.max_concurrent or 100), "more than may run at once"

    def _before(self, task: Claimed) -> set[str]:
        """What must have ended before: a review follows its work, and a further round the review before it."""
        above, _, last = str(task.step).rpartition(":")
        kind, number = re.sub(r"\d", "", last), int(re.sub(r"\D", "", last) or 1)
        if kind == "review":
            return {f"{task.run_id}/{above}" + (f":work{number}" if number > 1 else "")}
        if kind == "work":
            return {f"{task.run_id}/{above}:review" + (str(number - 1) if number > 2 else "")}
        return set()

    async def die(self, worker: str) -> None:
        """It is taken for dead, and another one comes."""
        await self.crew.queue.declare_dead([worker])
        mine = [task for name, task in self.held.values() if name == worker]
        self.touched |= {task.id for task in mine}
        self._lose(mine)
        self.dead += 1
        self.names[self.names.index(worker)] = f"{worker.partition('-')[0]}-{self.dead}"

    def _lose(self, tasks: Sequence[Claimed]) -> None:
        for task in tasks:
            del self.held[task.id]

    async def _perform(self, worker: str, task: Claimed) -> None:
        if task.wish:  # whoever claims what was to stop says how it ended
            await self._finish(worker, task, "cancelled" if task.wish == "cancel" else "interrupted")
            return
        if self.retries[task.id] < RETRIES_MOST and self.chance.random() < 0.05:
            self.retries[task.id] += 1
            self.touched.add(task.id)
            await self._finish(worker, task, "retry", ttl_ms=0)
            return
        asked, line = Asked(""), StoreLine(self, worker, task)
        if task.step != "lead":
            asked = await delegations.asked(self.crew.client, self.crew.keys, str(task.run_id), str(task.step))
            await self._check_given(task, asked)
        team = Team(self.scene.definition, self.scene.above, task.agent, str(task.step), line, reviews=asked.reviews)
        try:
            output = await self._output(task, asked, team)
            verdict = team.judged(output)
        except Waits:
            await self._others_go_on(worker, task)
            if worker not in self.names:
                return
            await self._finish(worker, task, "members", detail=packed.pack_ids(line.awaited))
            self.awaited[task.id] = [*line.awaited]
        except Lost:
            if worker in self.names:
                assert task.run_id == self.cancelled
                await self._finish(worker, task, "cancelled")
        except TypeError:
            await self._finish(worker, task, self.chance.choice(["failed", "dead"]))
        except ValueError:
            await self._finish(worker, task, "failed")
        else:
            of = asked.reviews if verdict is not None and verdict.approved else ""
            await self._finish(worker, task, "completed", output=output, detail=of)

    async def _others_go_on(self, worker: str, task: Claimed) -> None:
        """What is waited for may end before it is said that it is."""
        self.busy.add(task.id)
        for name, one in [*self.held.values()]:
            is_free = name != worker and one.id not in self.busy and self.held.get(one.id) == (name, one)
            if is_free and self.chance.random() < 0.5:
                await self.crew.queue.start(name, [one])
                await self._perform(name, one)
        self.busy.remove(task.id)

    async def _check_given(self, task: Claimed, asked: Asked) -> None:
        """What is given with a request is the output of that item, in this run."""
        given_with = await runs.outputs(
            self.crew.client, self.crew.keys, str(task.run_id), list(asked.outputs.values())
        )
        run, path = _asked_about(asked)
        assert run == task.run_id
        for output in given_with.values():
            assert output[:2] == [run, path]
        is_first = not asked.reviews and ":work" not in str(task.step).rpartition(":")[0] + str(task.step)
        assert len(given_with) == (0 if is_first else len(asked.outputs))

    async def _output(self, task: Claimed, asked: Asked, team: Team) -> Any:
        """What the agent of this step returns. Raises Waits, Lost, and TypeError if it fails."""
        if task.step == "lead":
            program = self.scene.programs[str(task.run_id)]
            return [task.run_id, "", await self._delegated(team, program, f"{task.run_id} ")]
        run, path = _asked_about(asked)
        item, number = self.scene.at(run, path), _round(str(task.step))
        if asked.reviews:
            if number == item.mute_in:
                raise TypeError("mute")
            good = number > item.rejections
            return {"approved": good, "reasons": "" if good else "better"}
        came = await self._delegated(team, item.below, f"{run} {path}.")
        if number == item.fails_in:
            raise TypeError("it broke")
        return [run, path, came]

    async def _delegated(self, team: Team, program: Program, path: str) -> list[Any]:
        async def one(place: int, item: Item) -> Any:
            try:
                return await team.delegate(item.member, f"{path}{place}", "")
            except InvalidInput:
                return "refused"
            except DelegationFailed:
                return "failed"

        calls = [one(place, item) for place, item in enumerate(program.items)]
        if not program.at_once:
            came = []
            for number, call in enumerate(calls):
                try:
                    came.append(await call)
                except BaseException:
                    for left in calls[number + 1 :]:
                        left.close()
                    raise
            return came
        found = await asyncio.gather(*calls, return_exceptions=True)
        for kind in (Lost, Waits, BaseException):
            if raised := next((fault for fault in found if isinstance(fault, kind)), None):
                raise raised
        return found

    async def _finish(self, worker: str, task: Claimed, outcome: Any, **options: Any) -> None:
        outcomes = await self.crew.finish(worker, [task], outcome, **options)
        assert outcomes == ["applied"]
        self._lose([task])
        if outcome not in ("members", "retry", "interrupted"):
            self.ended.add(task.id)

    async def check(self) -> None:
        told = Counter(row["id"] for row in await self.crew.results())
        if not self.cancelled:
            assert set(told) == {*RUNS, *self.ended}
        assert set(told.values()) == {1}, "each once"
        for run in RUNS:
            expected = Expected(self.scene, run)
            expected.tell()
            await (self._check_cancelled(expected) if run == self.cancelled else self._check(expected))
        assert {letter["id"].partition("/")[2] for letter in await self.crew.dead()} <= {"lead"}
        await self.crew.assert_idle()

    async def _check(self, expected: Expected) -> None:
        run = expected.run
        result = await runs.result(self.crew.client, self.crew.keys, run)
        assert isinstance(result, RunResult)
        status = await runs.status(self.crew.client, self.crew.keys, run)
        assert {step.name: step.status.value for step in status.steps} == expected.states
        assert result.status.value == expected.states["lead"]
        assert result.output == expected.outputs["lead"]
        found = {name: one.output for name, one in result.steps.items() if one.success and "review" not in name}
        assert found == {name: output for name, output in expected.outputs.items() if output is not None}
        for step in status.steps:
            if f"{run}/{step.name}" not in self.touched:
                assert step.attempt == 1, "to wait for members counts no attempt"
        kinds = Counter(event["event_type"] for event in await self.crew.events(self.crew.keys.run_events(run)))
        assert kinds["task_delegated"] == sum("review" not in name for name in expected.states) - 1
        assert kinds["reviewer_handoff"] == sum("review" in name.rpartition(":")[2] for name in expected.states)
        assert kinds["reviewer_approval"] == expected.approved

    async def _check_cancelled(self, expected: Expected) -> None:
        status = await runs.status(self.crew.client, self.crew.keys, expected.run)
        assert status.status in (RunState.CANCELLED, RunState(expected.states["lead"]))
        assert {step.name for step in status.steps} <= set(expected.states), "nothing that nobody would delegate"


def _asked_about(asked: Asked) -> tuple[str, str]:
    """The run, and the path of the item."""
    found = re.search(r"^(r\d) ([\d.]+)$", asked.prompt, re.MULTILINE)
    assert found, asked.prompt
    return found[1], found[2]


def _round(step: str) -> int:
    last = step.rpartition(":")[2]
    return int(re.sub(r"\D", "", last) or 1) if not last.isdecimal() else 1


@pytest.mark.timeout(0 if HUNT else 600)
@settings(
    max_examples=HUNT // STEPS if HUNT else 20,
    derandomize=not HUNT,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # what fails is not made shorter, which takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(scenes())
def test_whatever_a_hierarchy_delegates_and_whoever_dies_each_item_is_done_and_reviewed_once(
    redis_url: str, scene: Scene
) -> None:
    async def told() -> None:
        async with opened(redis_url, f"crew-{uuid.uuid4().hex[:16]}") as crew:
            story = Story(crew, scene)
            await story.tell()
            await story.check()

    asyncio.run(told())
