"""A heartbeat whose last work has not ended: allowed, forbidden or replaced, for slots and for what people ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from beating import FOLLOWING, SLOT, Crew, beat, crew_of

from watchbill import connection
from watchbill.errors import Conflict
from watchbill.names import CrewKeys
from watchbill.store import control, definitions, heartbeats, runs
from watchbill.store.queue import Finished, Queue

THIRD = FOLLOWING + timedelta(minutes=1)
FIRST, SECOND = heartbeats.task_id("hb", SLOT), heartbeats.task_id("hb", FOLLOWING)


@pytest.fixture
async def crew(redis_url: str, crew_name: str) -> AsyncIterator[Crew]:
    async with connection.connected(redis_url) as client:
        keys = CrewKeys("team", crew_name)
        yield Crew(client, keys, await definitions.apply(client, keys, crew_of("a")))


async def state_of(crew: Crew, work_id: str) -> str:
    """The state of a task or run."""
    return str(await crew.client.hget(crew.keys.task(work_id), "state") or (await status(crew, work_id)))


async def status(crew: Crew, run_id: str) -> str:
    return (await runs.status(crew.client, crew.keys, run_id)).status.value


async def work_off(crew: Crew, number: int = 1) -> None:
    """Ends what waits."""
    queue = Queue(crew.client, crew.keys, crew.uid)
    claim = await queue.claim("w", number, 5, lease_ms=60_000, take_over=True)
    started = await queue.start("w", claim.tasks)
    tasks = zip(claim.tasks, started, strict=True)
    done = [Finished(task, "completed", '{"success": true}', definition=s.definition) for task, s in tasks]
    await queue.finish("w", done)


@pytest.mark.parametrize("agent", ["a", None], ids=["task", "run"])
async def test_forbid_fires_nothing_until_the_last_work_has_ended(crew: Crew, agent: str | None) -> None:
    state = await crew.apply(beat(agent=agent, concurrencyPolicy="Forbid"))
    assert await crew.fire(state) == "fired"
    before = await crew.dump()
    assert await crew.fire(state) == "already", "the slot itself is no reason"
    assert await crew.fire(state, FOLLOWING) == "busy"
    assert await crew.dump() == before
    await work_off(crew)
    assert await crew.fire(state, FOLLOWING) == "fired"
    assert (await crew.get()).work == SECOND


@pytest.mark.parametrize("agent", ["a", None], ids=["task", "run"])
async def test_replace_cancels_the_last_work_and_fires(crew: Crew, agent: str | None) -> None:
    state = await crew.apply(beat(agent=agent, concurrencyPolicy="Replace"))
    assert await crew.fire(state) == "fired"
    assert await crew.fire(state, FOLLOWING) == "fired"
    assert await state_of(crew, FIRST) == "cancelled"
    assert [one.partition("/")[0] for one in await crew.queued()] == [SECOND]


async def test_replace_asks_the_worker_that_runs_it_and_does_not_wait_for_that(crew: Crew) -> None:
    state = await crew.apply(beat(concurrencyPolicy="Replace"))
    await crew.fire(state)
    queue = Queue(crew.client, crew.keys, crew.uid)
    claim = await queue.claim("w", 1, 5, lease_ms=60_000, take_over=True)
    await queue.start("w", claim.tasks)
    assert await crew.fire(state, FOLLOWING) == "fired"
    assert await state_of(crew, FIRST) == "cancelling"
    assert await state_of(crew, SECOND) == "waiting"


@pytest.mark.parametrize("policy", ["Allow", "Forbid", "Replace"])
async def test_of_two_schedulers_one_fires_and_nothing_new_is_cancelled(crew: Crew, policy: str) -> None:
    first = await crew.apply(beat(concurrencyPolicy=policy))
    second = await crew.get()
    for number, slot in enumerate((SLOT, FOLLOWING, THIRD), 1):
        assert await crew.fire(first, slot) == "fired"
        assert await crew.fire(second, slot) == "already"
        assert await state_of(crew, heartbeats.task_id("hb", slot)) == "waiting"
        await work_off(crew, number)


async def test_allow_fires_beside_it(crew: Crew) -> None:
    state = await crew.apply(beat())
    assert [await crew.fire(state), await crew.fire(state, FOLLOWING)] == ["fired", "fired"]
    assert await crew.queued() == [FIRST, SECOND]


async def test_work_that_is_set_aside_or_cancelled(crew: Crew) -> None:
    state = await crew.apply(beat(concurrencyPolicy="Forbid"))
    await crew.fire(state)
    await control.interrupt(crew.client, crew.keys, crew.uid, FIRST, "")
    assert await crew.fire(state, FOLLOWING) == "busy", "it has not ended"
    await control.cancel(crew.client, crew.keys, crew.uid, FIRST, "", 1000)
    assert await crew.fire(state, FOLLOWING) == "fired"


async def test_a_record_that_is_gone_stands_in_nobodys_way(crew: Crew) -> None:
    state = await crew.apply(beat(concurrencyPolicy="Forbid"))
    await crew.fire(state)
    await crew.client.delete(crew.keys.task(FIRST))
    assert await crew.fire(state, FOLLOWING) == "fired"


async def test_what_a_person_asks_for_counts_like_any_other(crew: Crew) -> None:
    state = await crew.apply(beat(concurrencyPolicy="Forbid"))
    made, _ = await crew.run_now("t1")
    with pytest.raises(Conflict, match=rf"'hb'.*Forbid, and '{made}' has not ended"):
        await crew.run_now("t2")
    assert await crew.run_now("t1") == (made, False), "repeated"
    assert await crew.fire(state) == "busy"
    await crew.apply(beat(concurrencyPolicy="Replace"), now=SLOT)
    again, is_new = await crew.run_now("t2")
    assert is_new
    assert await state_of(crew, made) == "cancelled"
    assert (await crew.get()).work == again


async def test_the_newest_hundred_of_what_was_fired_are_remembered_until_it_is_removed(crew: Crew) -> None:
    for i in range(101):
        await crew.run_now(f"t{i}", "hb") if i else await crew.apply(beat())
    await crew.run_now("last", "hb")
    ids = [entry.partition(" ")[0] for entry in await crew.client.lrange(crew.keys.fired("hb"), 0, -1)]
    assert ids == ["hb-hb-now-last", *(f"hb-hb-now-t{i}" for i in range(100, 1, -1))]
    await heartbeats.remove(crew.client, crew.keys, crew.uid, "hb")
    assert not await crew.client.exists(crew.keys.fired("hb"))
