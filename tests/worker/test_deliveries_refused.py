"""Deliveries while the store or a destination refuses something: nothing is lost or doubled, and the worker goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import outgoing
import pytest
from receiver import receiving
from workshop import Crew, Make

from waiting import until
from watchbill import connection
from watchbill.errors import StoreUnavailable
from watchbill.plan import deliveries as plan
from watchbill.settings import Settings
from watchbill.store import circuits, deliveries
from watchbill.worker.delivering.options import Delivering

HOW = Delivering(schedule=(0.02,) * 9, slots=8, settings=Settings(delivery_allow="127.0.0.0/8"))


@pytest.mark.parametrize(
    ("setting", "bad", "good", "said"),
    [
        ("min-replicas-to-write", "1", "0", "NOREPLICAS"),
        ("maxmemory", "1", "0", ""),  # what ends work is done all the same
    ],
)
async def test_a_store_that_refuses_while_what_waits_for_a_dead_destination_is_delayed(
    make_crew: Make,
    private_redis: Callable[[], Awaitable[Any]],
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    bad: str,
    good: str,
    said: str,
) -> None:
    monkeypatch.setattr(plan, "CIRCUIT_SECONDS", 0.1)
    monkeypatch.setattr("watchbill.worker.delivering.circuits.TRIAL_POLL_SECONDS", 0.2)
    server = await private_redis()
    async with receiving(always=500) as receiver, connection.connected(server.url) as other:
        crew = await make_crew({"a": "Gate"}, url=server.url, delivery=[receiver.destination()])
        await outgoing.enqueue(crew, "ops", 120)
        plain, met = circuits.defer, list[str]()

        async def defer(*args: Any, **options: Any) -> int | None:
            if not met:
                await other.config_set(setting, bad)
            try:
                return await plain(*args, **options)
            except StoreUnavailable as error:
                met.append(str(error))
                raise
            finally:
                met.append("")

        monkeypatch.setattr(circuits, "defer", defer)
        async with crew.in_process(delivering=HOW):
            await until(lambda: len(met) > 1 if said else met)
            assert said in met[0]
            await other.config_set(setting, good)
            await until(lambda: _is_delayed(crew))
            receiver.always = 204
            await until(lambda: outgoing.ended(crew, "completed", 120))
        taken = receiver.ids[-len(set(receiver.ids)) :]
        assert len(set(receiver.ids)) == 120
        assert len(taken) == len(set(taken)) == 120, "each was taken once, after all that failed"
        await crew.redis.flushall()


async def _is_delayed(crew: Crew) -> bool:
    return int(await crew.redis.zcard(crew.keys.deliveries().delayed)) > 100


async def test_what_waits_for_a_destination_that_is_gone_is_dead_once_and_others_are_served(make_crew: Make) -> None:
    async with receiving(always=410) as gone, receiving() as other:
        crew = await make_crew({"a": "Gate"}, delivery=[gone.destination("gone"), other.destination("other")])
        crew.open()
        await outgoing.enqueue(crew, "gone", 60)
        await outgoing.enqueue(crew, "other", 60)
        async with crew.in_process(delivering=HOW) as worker:
            await until(lambda: _ended(crew, 120))
            await crew.submit("t", "a", deliver=["other"])
            await until(lambda: "t" in other.tasks)
            assert not worker.drained
        listed = await deliveries.listed(crew.redis, crew.keys, 1000)
        states = {(one.destination, one.state.value) for one in listed}
        assert states == {("gone", "dead"), ("other", "completed")}
        assert await crew.redis.xlen(crew.keys.deliveries().dead) == 60
        assert len(other.ids) == len(set(other.ids)) == 61
        assert 1 <= len(gone.got) <= HOW.slots, "those that were on their way when it said so"


async def _ended(crew: Crew, n: int) -> bool:
    listed = await deliveries.listed(crew.redis, crew.keys, 1000)
    return sum(one.ended_at is not None for one in listed) == n
