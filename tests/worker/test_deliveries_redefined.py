"""A destination that is defined anew: what the old definition failed at delays nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import outgoing
import pytest
from receiver import receiving
from test_deliveries_interrupted import knowledge
from workshop import Crew, Make

from waiting import until
from watchbill.api.delivery import Destination
from watchbill.connection import scripts
from watchbill.names import RECEIVER
from watchbill.plan import deliveries as plan
from watchbill.settings import Settings
from watchbill.store import circuits, definitions
from watchbill.store.circuits import Circuit, Failure
from watchbill.worker.delivering import shares
from watchbill.worker.delivering.circuits import Circuits
from watchbill.worker.delivering.options import Delivering
from watchbill.worker.delivering.sending import Deliverer
from watchbill.worker.delivering.shares import Shares

HOW = Delivering(slots=8, settings=Settings(delivery_allow="127.0.0.0/8"))
TO_OPS = RECEIVER + "ops"


def hook(url: str) -> Destination:
    return Destination.model_validate({"name": "ops", "webhook": {"url": url}})


OLD, NEW = hook("https://old.example"), hook("https://new.example")


async def delayed(crew: Crew) -> int:
    """Deliveries that are not due yet."""
    seconds, micros = await crew.redis.time()
    return int(await crew.redis.zcount(crew.keys.deliveries().delayed, seconds * 1000 + micros // 1000 + 1, "+inf"))


async def fail(crew: Crew, times: int = plan.CIRCUIT_FAILURES, of: Destination = OLD) -> None:
    """Opens the circuit of the old definition, as a worker does."""
    worker = await knowledge(crew)
    for i in range(times):
        await worker.failed(of, Failure("d", i, "broken", counts=True, agent=TO_OPS))


async def test_what_waits_for_a_dead_receiver_is_sent_at_once_by_a_definition_that_mends_it(make_crew: Make) -> None:
    """By the old one it would wait for a minute and a half; and a retry of it, for five."""
    async with receiving(always=500) as dead, receiving() as healthy:
        crew = await make_crew({"a": "Gate"}, delivery=[dead.destination()])
        crew.open()
        await outgoing.enqueue(crew, "ops", 30)
        async with crew.in_process(delivering=replace(HOW, schedule=(300.0,) * 9)):
            await until(lambda: _all_delayed(crew, 30))
            await crew.define(delivery=[healthy.destination()])
            await until(lambda: outgoing.ended(crew, "completed", 30))
        assert len(healthy.ids) == len(set(healthy.ids)) == 30


async def _all_delayed(crew: Crew, n: int) -> bool:
    return await delayed(crew) == n


async def test_a_failure_of_the_old_definition_that_comes_late_delays_nothing_for_the_new_one(
    make_crew: Make,
) -> None:
    async with receiving(hangs=True) as old, receiving() as new:
        crew = await make_crew({"a": "Gate"}, delivery=[old.destination()])
        crew.open()
        old.always = 410
        await outgoing.enqueue(crew, "ops", 8)
        async with crew.in_process(delivering=HOW):
            await until(lambda: len(old.got) == 8)
            await crew.define(delivery=[new.destination()])
            old.let_go.set()  # all of them say now that they want no further message
            await until(lambda: _all_delayed(crew, 8))
            first = float((await crew.redis.zrange(crew.keys.deliveries().delayed, 0, 0, withscores=True))[0][1])
            seconds, _ = await crew.redis.time()
            assert first / 1000 < seconds + 10, "the pause after a first attempt, whatever the old one asked for"
            await _let_pass(crew)
            await until(lambda: outgoing.ended(crew, "completed", 8))
        assert sorted(new.ids) == sorted(set(old.ids))


@pytest.mark.parametrize("held", ["is put off", "is set aside", "has failed"])
async def test_a_message_that_a_worker_is_about_to_delay_is_sent_at_once(
    make_crew: Make, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    """Nobody else can bring forward what a worker holds."""
    monkeypatch.setattr(plan, "CIRCUIT_SECONDS", 600.0)
    monkeypatch.setattr(shares, "PERIOD_MS", 600_000)
    how = Delivering(schedule=(0.02,) * 9, slots=8, settings=HOW.settings)
    async with receiving(always=500) as dead, receiving() as healthy:
        old, new = dead.destination(), healthy.destination()
        crew = await make_crew({"a": "Gate"}, delivery=[old])
        await fail(crew, plan.CIRCUIT_FAILURES - (held == "has failed"), of=old)
        if held == "is set aside":
            await crew.redis.delete(crew.keys.circuits)
            monkeypatch.setattr(Shares, "room", lambda _, to: 0 if to == old else math.inf)

        async def redefine(*_: object) -> None:
            await crew.define(delivery=[new])

        if held == "has failed":
            monkeypatch.setattr(Circuits, "defer", redefine)
        else:
            monkeypatch.setattr(Deliverer, "_pause", redefine)
        await outgoing.enqueue(crew, "ops", 1)
        async with crew.in_process(delivering=how):
            await until(lambda: outgoing.ended(crew, "completed", 1))
        assert (len(dead.got), healthy.ids) == (held == "has failed", ["ops-0"])


async def _let_pass(crew: Crew) -> None:
    keys = crew.keys.deliveries()
    for member in await crew.redis.zrange(keys.delayed, 0, -1):
        await crew.redis.zadd(keys.delayed, {member: 1})


async def test_a_worker_that_knows_the_old_definition_only_delays_nothing(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, delivery=[OLD])
    await fail(crew)
    await outgoing.enqueue(crew, "ops", 3)
    await crew.define(delivery=[NEW])
    worker = await knowledge(crew)
    assert await worker.failed(OLD, Failure("d", 9, "late", counts=True, agent=TO_OPS)) is None
    of = crew.redis, crew.keys, crew.uid, TO_OPS
    assert await circuits.defer(*of, due_ms=10**13, before_ms=10**13, of=circuits.key(OLD)) is None
    assert await delayed(crew) == 0
    assert await circuits.defer(*of, due_ms=10**13, of=circuits.key(NEW)) == 3


async def test_a_definition_that_comes_back_begins_with_a_fresh_circuit(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, delivery=[OLD])
    await fail(crew)
    await crew.define(delivery=[])
    await crew.define(delivery=[OLD])
    assert await _circuit(crew) != Circuit(), "it is the same definition"
    await crew.define(delivery=[NEW])
    await crew.define(delivery=[OLD])
    assert await _circuit(crew) == Circuit()


async def _circuit(crew: Crew) -> Circuit:
    return (await circuits.read(crew.redis, crew.keys, [circuits.key(OLD)]))[0]


async def test_an_operator_that_died_in_between_brings_it_forward_when_it_applies_again(
    make_crew: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever scales the crew hears of it."""
    crew = await make_crew({"a": "Gate"}, delivery=[OLD])
    await outgoing.enqueue(crew, "ops", 1200)
    await fail(crew)
    assert await delayed(crew) == 1200
    plain, calls = scripts.run, 0

    async def dies(client: Any, name: str, *rest: Any) -> Any:
        nonlocal calls
        calls += name == "release"
        if calls == 2:
            raise KeyboardInterrupt
        return await plain(client, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(scripts, "run", dies)
        with pytest.raises(KeyboardInterrupt):
            await crew.define(delivery=[NEW])
    assert await delayed(crew) == 700
    async with crew.redis.pubsub(ignore_subscribe_messages=True) as scaler:
        await scaler.subscribe(crew.keys.wake)
        await definitions.apply(crew.redis, crew.keys, crew.definition)
        assert await delayed(crew) == 0

        async def hears() -> bool:
            message = await scaler.get_message(timeout=0.05)
            return message is not None and message["data"] == crew.name

        await until(hears)
        assert await crew.redis.hget(crew.keys.meta, TO_OPS) == circuits.key(NEW)
