"""Deliveries of a crew that the store loses with all it had, and that whoever manages it brings back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from receiver import receiving
from workshop import Crew, Make

from waiting import until
from watchbill.clock import SYSTEM
from watchbill.connection import Store
from watchbill.errors import CrewGone, NotFound
from watchbill.settings import Settings
from watchbill.store import circuits, control, definitions
from watchbill.worker import store_loss
from watchbill.worker.delivering import deliveries
from watchbill.worker.delivering.options import Delivering

PrivateRedis = Callable[[], Awaitable[Any]]

HOW = Delivering(slots=2, settings=Settings(delivery_allow="127.0.0.0/8"))


@pytest.fixture(autouse=True)
def _never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "POLL_SECONDS", 3600.0)
    monkeypatch.setattr(store_loss, "OUTLAST_SECONDS", 3600.0)


@pytest.fixture
def missed(monkeypatch: pytest.MonkeyPatch) -> list[NotFound]:
    """The answers that the store has no crew."""
    really, answers = definitions.current, []

    async def current(*given: Any) -> Any:
        try:
            return await really(*given)
        except NotFound as error:
            answers.append(error)
            raise

    monkeypatch.setattr(definitions, "current", current)
    return answers


async def _bring_back(crew: Crew) -> None:
    await definitions.apply(crew.redis, crew.keys, crew.definition, uid=crew.uid)


@asynccontextmanager
async def _delivering(crew: Crew, told: asyncio.Event) -> AsyncIterator[deliveries.Deliveries]:
    """The part that delivers, without the worker that would end it with a crew that is gone."""
    async with Store(crew.url) as store:
        part = deliveries.Deliveries(store, crew.keys, HOW, SYSTEM, uid=crew.uid, grace_seconds=0, told=told)
        part.start()
        try:
            yield part
        finally:
            part.stop(now=True)
            async with asyncio.timeout(180):
                await part.ended()


async def test_a_worker_that_had_nothing_to_deliver_yet_delivers_for_the_crew_that_is_back(
    make_crew: Make, private_redis: PrivateRedis, missed: list[NotFound]
) -> None:
    crew = await make_crew({"a": "Brief"}, url=(await private_redis()).url, lease_seconds=1)
    async with receiving() as receiver, crew.in_process(delivering=HOW) as worker:
        await until(crew.is_heard)
        await until(lambda: worker._state.registered)  # one that is not ends with its crew
        await crew.redis.flushall()
        await crew.redis.client_kill_filter(_type="pubsub")  # as with a failover: it listens again, and looks
        await until(lambda: missed)
        await _bring_back(crew)
        await crew.submit("t", "a", "0", deliver=[receiver.destination()])
        await until(lambda: receiver.tasks == ["t"])


async def test_what_was_being_sent_when_the_store_lost_all_gives_its_slots_back(
    make_crew: Make, private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nothing more would be delivered, and the worker would wait for it until the end of its grace period."""
    crew = await make_crew({"a": "Brief"}, url=(await private_redis()).url, lease_seconds=1)
    really, gone = circuits.record_failure, []

    async def record_failure(*given: Any) -> Any:
        try:
            return await really(*given)
        except CrewGone as error:
            gone.append(error)
            raise

    monkeypatch.setattr(circuits, "record_failure", record_failure)
    async with receiving(hangs=True, always=500) as receiver, crew.in_process(delivering=HOW, grace_seconds=3600.0):
        for task in ("t1", "t2"):
            await crew.submit(task, "a", "0", deliver=[receiver.destination()])
        await until(lambda: sorted(receiver.tasks) == ["t1", "t2"])
        await crew.redis.flushall()
        receiver.let_go.set()
        await until(lambda: len(gone) == 2, what="two failures that can't be noted")
        receiver.hangs, receiver.always = False, 204
        await _bring_back(crew)
        await crew.submit("new", "a", "0", deliver=[receiver.destination()])
        await until(lambda: "new" in receiver.tasks)


async def test_deliveries_go_on_for_a_crew_that_comes_back_late(
    make_crew: Make, private_redis: PrivateRedis, missed: list[NotFound], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that they are a part of may have waited for longer."""
    monkeypatch.setattr(store_loss, "OUTLAST_SECONDS", 0.1)
    told = asyncio.Event()
    async with receiving() as receiver:
        crew = await make_crew(
            {"a": "Gate"}, url=(await private_redis()).url, lease_seconds=1, delivery=[receiver.destination()]
        )
        async with _delivering(crew, told):
            await until(lambda: crew.redis.exists(crew.keys.deliveries().leases))
            await crew.redis.flushall()
            await until(lambda: missed)
            await _bring_back(crew)
            told.set()
            await crew.submit("t", "a")
            assert await control.cancel(crew.redis, crew.keys, crew.uid, "t", "", 60_000)
            await until(lambda: receiver.tasks == ["t"])


@pytest.mark.parametrize("is_needed", [False, True])
async def test_deliveries_end_where_another_crew_has_the_name(make_crew: Make, is_needed: bool) -> None:
    told = asyncio.Event()
    async with receiving() as receiver:
        destinations = [receiver.destination()] if is_needed else []
        crew = await make_crew({"a": "Gate"}, lease_seconds=1, delivery=destinations)
        async with _delivering(crew, told) as part:
            if is_needed:
                await until(lambda: crew.redis.exists(crew.keys.deliveries().leases))
            await definitions.delete(crew.redis, crew.keys, crew.uid)
            await definitions.apply(crew.redis, crew.keys, crew.definition)
            await crew.submit("t", "a", deliver=[receiver.destination()])
            told.set()
            async with asyncio.timeout(180):
                await part.ended()
        assert receiver.tasks == []


async def test_deliveries_of_a_crew_that_is_gone_end_when_they_are_stopped(
    make_crew: Make, missed: list[NotFound]
) -> None:
    crew, told = await make_crew({"a": "Gate"}), asyncio.Event()
    await definitions.delete(crew.redis, crew.keys, crew.uid)
    async with _delivering(crew, told):
        await until(lambda: missed)
