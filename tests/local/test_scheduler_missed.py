"""Slots that a scheduler misses."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from scheduled import NOON, Crew, as_awaitable, at_least, beat, definition, make_crew

from waiting import until
from watchbill import connection, metrics
from watchbill.records import AgentDefinition
from watchbill.scheduler import Scheduler, scheduler
from watchbill.store import definitions, heartbeats, submissions
from watchbill.store.submissions import Submission
from watchbill.testing import FakeClock

# ------------------------------------------------------------------ what is missed


async def test_slots_that_passed_while_nobody_was_there_are_told_and_not_fired(
    crew: Crew, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with crew.scheduled(beat(schedule="*/10 * * * *"), clock=clock):
        pass
    clock.advance(3600 + 45)
    caplog.set_level(logging.WARNING, "watchbill.scheduler")
    async with crew.scheduled(beat(schedule="*/10 * * * *"), clock=clock):
        told = await until(crew.told)
        await crew.settled()
    message = "heartbeat 'hb' missed 6 slots, 2026-11-21T12:10:00Z to 2026-11-21T13:00:00Z: no scheduler fired in time"
    assert told == [message]
    assert message in caplog.text
    assert await crew.fired() == []
    assert (await crew.state()).next == NOON + timedelta(hours=1, minutes=10)
    assert (await crew.state()).missed == crew.counted(metrics.HEARTBEATS_MISSED) == 6


async def test_a_long_absence_is_told_in_one_event(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(), clock=clock):
        pass
    clock.advance(86_400 * 30)
    async with crew.scheduled(beat(), clock=clock):
        await until(crew.fired)
        await crew.settled()
    assert await crew.told() == [
        "heartbeat 'hb' missed more than 100 slots, from 2026-11-21T12:00:01Z on: no scheduler fired in time"
    ]
    assert await crew.fired() == [str(int(clock.now().timestamp()))], "the newest slot is not too late"


async def test_a_restart_over_a_slot_loses_nothing(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock):
        clock.advance(3590)
    clock.advance(30)  # twenty seconds past one
    async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock):
        assert await until(crew.fired) == ["1795266000"]
        await crew.settled()
    assert await crew.told() == []


async def test_schedulers_that_start_together_tell_of_missed_slots_once(
    crew: Crew, redis_url: str, clock: FakeClock
) -> None:
    async with crew.scheduled(beat(schedule="* * * * *"), clock=clock):
        pass
    clock.advance(600)
    schedulers = [Scheduler(connection.connect(redis_url), clock) for _ in range(5)]
    await asyncio.gather(*(s.add(crew.keys, crew.uid, beat(schedule="* * * * *")) for s in schedulers))
    await asyncio.gather(*(s.start() for s in schedulers))
    try:
        await until(crew.fired)
        await crew.settled()
    finally:
        for s in schedulers:
            await s.stop()
            await s._client.aclose()
    assert len(await crew.told()) == 1
    assert await crew.fired() == [str(int(clock.now().timestamp()))]
    assert (await crew.state()).missed == 9


async def test_a_suspended_heartbeat_neither_fires_nor_misses(crew: Crew, clock: FakeClock) -> None:
    awake = beat("awake", schedule="0 * * * *")
    async with crew.scheduled(beat(suspend=True), awake, clock=clock):
        clock.advance(3600)
        await until(lambda: crew.fired("awake"))
    async with crew.scheduled(beat(suspend=True), clock=clock):
        await crew.settled()
    async with crew.scheduled(beat(), awake, clock=clock) as running:
        assert (await crew.state()).next == clock.now() + timedelta(seconds=1)
        await running.add(crew.keys, crew.uid, beat(suspend=True))
        clock.advance(3600)
        await until(lambda: at_least(crew, 2, "awake"))
    assert await crew.fired() == []
    assert await crew.told() == []


@pytest.mark.parametrize("change", [{"prompt": "other"}, {"suspend": True}, {"schedule": "0 0 1 1 *"}])
async def test_what_was_missed_under_a_spec_is_told_when_another_comes(
    crew: Crew, clock: FakeClock, change: dict[str, Any]
) -> None:
    before = {"schedule": "*/10 * * * *"}
    async with crew.scheduled(beat(**before), clock=clock):
        pass
    clock.advance(1805)
    async with crew.scheduled(beat(**{**before, **change}), clock=clock):
        assert len(await crew.told()) == 1
        assert "missed 3 slots, 2026-11-21T12:10:00Z to 2026-11-21T12:30:00Z" in (await crew.told())[0]


async def test_the_slots_of_a_role_that_no_agent_has_any_more_are_missed_until_one_has_it(
    crew: Crew, clock: FakeClock
) -> None:
    guarded = definition().model_copy(update={"agents": [AgentDefinition(agent_id="a", roles=["guard"])]})
    await definitions.apply(crew.client, crew.keys, guarded)
    async with crew.scheduled(beat(agent=None, role="guard"), clock=clock):
        await crew.tick(clock)
        await crew.settled()
        await definitions.apply(crew.client, crew.keys, definition())
        clock.advance(1)
        (told,) = await until(crew.told)
        await crew.settled()
        assert told == (
            "heartbeat 'hb' missed the slot 2026-11-21T12:00:02Z: spec.role: crew 'crew' has no agent of role 'guard'. "
            "Give an agent the role (agents[].roles), or name an agent."
        )
        await definitions.apply(crew.client, crew.keys, guarded)
        await crew.tick(clock)
    assert len(await crew.fired()) == 2, "the queue has what was fired while an agent had the role"
    assert crew.counted(metrics.HEARTBEATS_MISSED) == 1


async def test_a_slot_that_another_definition_allows_is_fired(crew: Crew, clock: FakeClock) -> None:
    """The scheduler may know the crew as it was before."""
    late = beat(agent=None, role="guard", schedule="* * * * *")
    async with crew.scheduled(beat("other"), late, clock=clock) as running:
        await crew.tick(clock, "other")  # for which it reads the definition
        await crew.settled()
        await running.remove(crew.keys, crew.uid, "other")
        guarded = definition().model_copy(update={"agents": [AgentDefinition(agent_id="a", roles=["guard"])]})
        await definitions.apply(crew.client, crew.keys, guarded)
        clock.advance(59)
        await until(crew.fired)
        await crew.settled()
    assert await crew.told() == []


async def test_a_slot_whose_id_is_taken_is_told(crew: Crew, clock: FakeClock) -> None:
    taken = heartbeats.task_id("hb", NOON)
    await submissions.submit(crew.client, crew.keys, crew.uid, [Submission(taken, "a", "{}")], max_queued=9)
    clock = FakeClock(NOON - timedelta(seconds=1))
    async with crew.scheduled(beat(agent=None), clock=clock):
        pass
    clock.advance(1)
    async with crew.scheduled(beat(agent=None), clock=clock):
        [told] = await until(crew.told)
    assert "the slot 2026-11-21T12:00:00Z" in told
    assert repr(taken) in told


async def test_a_full_queue_misses_slots_and_says_so_until_there_is_room(crew: Crew, clock: FakeClock) -> None:
    await definitions.apply(crew.client, crew.keys, definition(max_queued=1))
    await submissions.submit(crew.client, crew.keys, crew.uid, [Submission("x", "a", "{}")], max_queued=1)
    async with crew.scheduled(beat(), clock=clock):
        for _ in range(2):
            clock.advance(1)
            await until(lambda: as_awaitable(scheduler.FULL_AGAIN_SECONDS in clock.sleepers))
        assert await crew.told() == ["heartbeat 'hb' missed the slot 2026-11-21T12:00:01Z: the crew's queue was full"]
        assert await crew.fired() == []
        await definitions.apply(crew.client, crew.keys, definition(max_queued=1000))
        clock.advance(scheduler.FULL_AGAIN_SECONDS)
        assert await until(crew.fired) == [str(int(NOON.timestamp()) + 2)], "the slot is not too late yet"
    assert (await crew.state()).missed == crew.counted(metrics.HEARTBEATS_MISSED) == 1


async def test_a_run_for_which_the_queue_never_has_room_is_told_with_each_slot(crew: Crew, clock: FakeClock) -> None:
    await definitions.apply(crew.client, crew.keys, definition(max_queued=1))
    async with crew.scheduled(beat(agent=None), clock=clock):
        clock.advance(1)
        [told] = await until(crew.told)
        assert "2026-11-21T12:00:01Z" in told
        assert "has 2 steps, and its maxQueued allows 1 at most" in told
        assert scheduler.FULL_AGAIN_SECONDS not in clock.sleepers


async def test_each_slot_of_a_store_outage_is_fired_late_or_told(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str, clock: FakeClock
) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as client:
        crew = await make_crew(client, crew_name)
        async with crew.scheduled(beat(), clock=clock) as running:
            await crew.tick(clock)
            await server.kill()
            clock.advance(1)
            [timed] = running._timed.values()
            await until(lambda: as_awaitable(timed.reason == "the store was away"))
            clock.advance(3)
            await server.restart()
            told = await until(crew.told)
            await crew.tick(clock)
        assert re.search("missed 3 slots, .*: the store was away", told[0])
        await crew.assert_complete()


async def test_a_slot_is_fired_late_when_the_store_returns_before_the_next_one(
    private_redis: Callable[[], Awaitable[Any]], crew_name: str, clock: FakeClock
) -> None:
    server = await private_redis()
    async with connection.connected(server.url) as client:
        crew = await make_crew(client, crew_name)
        async with crew.scheduled(beat(schedule="0 * * * *"), clock=clock) as running:
            await server.kill()
            clock.advance(3600)
            [timed] = running._timed.values()
            await until(lambda: as_awaitable(timed.reason != "no scheduler fired in time"))  # it has been tried
            clock.advance(1800)  # far beyond the grace
            await server.restart()
            assert await until(crew.fired) == ["1795266000"]
        assert await crew.told() == []
