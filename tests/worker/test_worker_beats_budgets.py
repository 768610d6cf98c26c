"""A heartbeat that fires, the worker that does its work, and the budget of that heartbeat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from workshop import Crew, Make

from waiting import until
from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta
from watchbill.api.budgets import Budget
from watchbill.errors import NotFound
from watchbill.plan.why import Reason
from watchbill.records import AgentDefinition
from watchbill.scheduler import Scheduler
from watchbill.tasks import TaskState
from watchbill.testing import FakeClock, FakeModel

pytestmark = pytest.mark.usefixtures("libraries")

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = 3600
ROOM = 200
"""For one request by its upper bound, and not for another one after it has cost 60."""


class Hours:
    """A clock, and the heartbeats that fire by it each hour."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def next(self) -> int:
        """Goes on to the next hour. Returns its slot, as ids have it."""
        self._clock.advance(HOUR)
        return int(self._clock.now().timestamp())


@asynccontextmanager
async def firing(crew: Crew, *beats: Heartbeat) -> AsyncIterator[Hours]:
    clock = FakeClock(NOON)
    scheduler = Scheduler(crew.redis, clock)
    for beat in beats:
        await scheduler.add(crew.keys, crew.uid, beat)
    await scheduler.start()
    try:
        yield Hours(clock)
    finally:
        await scheduler.stop()


def hourly(name: str, crew: Crew, **spec: Any) -> Heartbeat:
    of = HeartbeatSpec(crewRef=CrewRef(name=crew.name.partition("/")[2]), schedule="0 * * * *", prompt="look", **spec)
    return Heartbeat(metadata=ObjectMeta(name=name), spec=of)


def budget(tokens: int, exhausted: str) -> Budget:
    named = {"name": "beat", "scope": "Heartbeat", "heartbeat": "news", "window": "Monthly"}
    return Budget.model_validate({**named, "tokens": tokens, "onExhausted": exhausted})


@pytest.mark.parametrize("agent", ["a", None], ids=["task", "run"])
@pytest.mark.parametrize("exhausted", ["Wait", "Fail"])
async def test_what_a_heartbeat_fires_waits_or_fails_when_its_budget_is_exhausted_and_nothing_else_does(
    make_crew: Make, exhausted: str, agent: str | None
) -> None:
    async with FakeModel(lambda _: "ok", input_tokens=40, output_tokens=20) as model:
        llm = AgentDefinition(
            agent_id="a", model="openai-chat:any", base_url=model.base_url, config={"max_tokens": 100}
        )
        crew = await make_crew([llm], budgets=[budget(ROOM, exhausted)])
        beats = hourly("news", crew, agent=agent), hourly("other", crew, agent="a")
        async with firing(crew, *beats) as hours, crew.in_process():
            for number in (1, 2):
                slot = hours.next()
                assert (await _ended(crew, f"hb-other-{slot}")).success
                work = f"hb-news-{slot}"
                if number == 1:
                    assert (await _ended(crew, work)).success
            task = work if agent else f"{work}/a"
            if exhausted == "Wait":
                await _fired(crew, work)
                told = await until(lambda: crew.told(task, Reason.POSTPONED), what="it waits")
                assert "budget 'beat' of heartbeat 'news' is exhausted" in told.message
                assert (told.state, told.attempt) == ("delayed", 0)
            else:
                result = await _ended(crew, work)
                assert "budget 'beat' of heartbeat 'news' is exhausted" in str(result.error)
                assert await crew.client.state(crew.name, work) in (TaskState.DEAD, TaskState.FAILED)
            asked = len(model.requests)
            assert asked == 3, "the request without room was not made"
            (found,) = (await crew.client.spending(crew.name)).budgets
            assert (found.subject, found.spent.tokens, found.is_exhausted) == ("news", 60, True)

            await crew.define(budgets=[budget(10 * ROOM, exhausted)])
            if exhausted == "Fail":
                letters = [letter.id async for letter in crew.client.dead_letters(crew.name)]
                assert len(letters) == 1
                assert await crew.client.replay(crew.name, letters)
            assert (await until(lambda: _succeeded(crew, work), what="it goes on")).success
    assert len(model.requests) == asked + 1


async def _ended(crew: Crew, work: str) -> Any:
    """The result, once the heartbeat has fired and its work has ended."""
    await _fired(crew, work)
    return await crew.result(work, 300)


async def _fired(crew: Crew, work: str) -> None:
    async def is_there() -> bool:
        with suppress(NotFound):
            return bool(await crew.client.state(crew.name, work))
        return False

    await until(is_there, what=f"{work} was fired")


async def _succeeded(crew: Crew, work: str) -> Any:
    found = await crew.result_of_run(work)
    return found if found is not None and found.success else None
