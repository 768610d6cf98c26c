"""One attempt at a time, without a store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from workshop import Crew

from waiting import until
from watchbill.agents.asking import Ends
from watchbill.event_types import Telling
from watchbill.plan.hierarchy import Delegated
from watchbill.store.queue import Claimed, Finished
from watchbill.tasks import AgentTask, Approval, TaskResult
from watchbill.testing import FakeClock
from watchbill.worker.execution.abandoned import CLEAN_UP_SECONDS
from watchbill.worker.execution.attempt import Attempt
from watchbill.worker.execution.executor import Executor


@dataclass
class Room:
    """An executor, and what it told."""

    crew: Crew
    executor: Executor
    clock: FakeClock
    ends: list[Finished] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    abandoned: int = 0
    overdue: int = 0
    alarms: list[int] = field(default_factory=list)
    """How many were overdue, whenever that number changed."""

    def changed(self, abandoned: int, overdue: int) -> None:
        if overdue != self.overdue:
            self.alarms.append(overdue)
        self.abandoned, self.overdue = abandoned, overdue

    def ended(self, finished: Finished, _: float | None = None) -> None:
        self.ends.append(finished)

    async def __call__(self, told: Telling) -> None:
        self.said.append(told.message)

    async def approved(self, what: str) -> Approval | None:
        raise NotImplementedError(what)  # no agent in a room asks

    async def wait_for_approval(self, asked: Mapping[str, str]) -> NoReturn:
        raise NotImplementedError(asked)

    async def delegate(self, work: Delegated, *, ends: Ends) -> TaskResult:
        raise NotImplementedError(work.name)

    async def begin(self, task_id: str, agent_id: str, prompt: str = "do it", attempt: int = 1) -> Attempt:
        payload = AgentTask(task_id=task_id, agent_name=agent_id, prompt=prompt).model_dump_json()
        entry = f"{int(time.time() * 1000)}-0"
        digest = self.crew.definition.digest()
        task = Claimed(task_id, "7", attempt, agent_id, entry, 5, False, True, payload, digest)

        await self.executor.read(task)
        running = self.executor.begin(task, self, self.ended)
        assert running is not None
        return running

    async def time_is_up(self, task_id: str) -> None:
        """Its agent has run for a second, and had its time to clean up."""
        await self.started(task_id)
        self.clock.advance(1)
        self.clock.advance(CLEAN_UP_SECONDS)

    async def started(self, *task_ids: str) -> None:
        await self.crew.started(*task_ids)

    async def end(self) -> Finished:
        await until(lambda: self.ends, what="its end")
        await asyncio.sleep(0.02)
        (end,) = self.ends
        return end

    def noted(self, what: str) -> list[str]:
        return [note["task"] for note in self.crew.notes(what)]


def result(end: Finished) -> TaskResult:
    return TaskResult.model_validate_json(end.result)


Enter = Callable[..., Any]
