"""Workers of a crew without destinations: they hear of the first result that is to be delivered, and ask for none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from receiver import receiving
from workshop import Crew, Make

from waiting import until
from watchbill.api.delivery import Destination
from watchbill.clock import SYSTEM
from watchbill.connection import Store
from watchbill.records import CrewDefinition
from watchbill.settings import Settings
from watchbill.store import control, definitions
from watchbill.store import deliveries as stored
from watchbill.worker.delivering import deliveries
from watchbill.worker.delivering.options import Delivering

HOW = Delivering(settings=Settings(delivery_allow="127.0.0.0/8"))


@pytest.fixture(autouse=True)
def _never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "POLL_SECONDS", 3600.0)


async def listens(crew: Crew) -> bool:
    return await crew.is_heard() and bool(await crew.queue.incarnations())


@pytest.mark.parametrize("is_cut_off", [False, True])
async def test_the_first_result_is_delivered_by_a_worker_that_had_nothing_to_deliver(
    make_crew: Make, private_redis: Callable[[], Awaitable[Any]], is_cut_off: bool
) -> None:
    """Also if the worker doesn't listen at that moment: it looks when it listens again."""
    server = await private_redis()
    async with receiving() as receiver:
        crew = await make_crew({"a": "Gate"}, url=server.url)
        await crew.submit("t", "a", deliver=[receiver.destination()])
        async with crew.in_process(delivering=HOW):
            await until(lambda: listens(crew))
            assert await crew.redis.exists(crew.keys.deliveries().leases) == 0
            if is_cut_off:
                await crew.redis.client_kill_filter(_type="pubsub")
            assert not await control.cancel(crew.redis, crew.keys, crew.uid, "t", "", 60_000)
            await until(lambda: receiver.tasks == ["t"])
        await crew.redis.flushall()


async def test_workers_are_told_once_a_second_at_most(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"})
    own = Destination.model_validate({"name": "own", "log": {}})
    ids = [f"t{i}" for i in range(20)]
    for task in ids:
        await crew.submit(task, "a", deliver=[own])
    async with crew.redis.pubsub(ignore_subscribe_messages=True) as worker:
        await worker.subscribe(crew.keys.control)
        began, _ = await crew.redis.time()
        for task in ids:
            await control.cancel(crew.redis, crew.keys, crew.uid, task, "", 60_000)
        took = (await crew.redis.time())[0] - began
        await crew.redis.publish(crew.keys.control, "that's all")
        told: list[str] = []

        async def all_heard() -> bool:
            message = await worker.get_message(timeout=0.05)
            told.extend([message["data"]] if message else [])
            return told[-1:] == ["that's all"]

        await until(all_heard)
    assert set(told[:-1]) == {"deliver"}
    assert len(told[:-1]) <= 2 + took


async def test_a_crew_is_read_anew_only_when_it_was_changed(make_crew: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = await make_crew({"a": "Gate"})
    done: Counter[str] = Counter()
    read, exist = definitions._read, stored.exist

    def counted(name: str, content: str) -> CrewDefinition:
        done["read"] += 1
        return read(name, content)

    async def looked(*args: Any) -> bool:
        found = await exist(*args)
        done["looked"] += 1
        return found

    monkeypatch.setattr(definitions, "_read", counted)
    monkeypatch.setattr(stored, "exist", looked)
    told = asyncio.Event()
    async with Store(crew.url) as store:
        part = deliveries.Deliveries(store, crew.keys, HOW, SYSTEM, uid=crew.uid, grace_seconds=0, told=told)
        part.start()
        try:
            for looks in (1, 2, 3, 4):
                await until(lambda looks=looks: done["looked"] == looks, what=f"look {looks}")  # type: ignore[misc]
                assert done["read"] == 1 + (looks == 4)
                if looks == 3:
                    await crew.define(max_parallel_tasks=7)
                told.set()
        finally:
            part.stop(now=True)
            await part.ended()
