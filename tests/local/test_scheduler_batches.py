"""Slots that are due together: their calls are made before, one scheduler sends them, and the next stands back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from scheduled import BACK, NOON, Crew, at_least, beat, looked, make_crew, settled

from waiting import until
from watchbill import connection
from watchbill.connection import batches
from watchbill.scheduler import scheduler
from watchbill.store import definitions
from watchbill.testing import FakeClock

BEATS = 10


@pytest.fixture
async def crew(private_redis: Callable[[], Awaitable[Any]], crew_name: str) -> AsyncIterator[Crew]:
    """In a store of its own, whose calls can be counted."""
    async with connection.connected((await private_redis()).url) as client:
        yield await make_crew(client, crew_name)


async def calls(crew: Crew) -> int:
    """How often scripts were called."""
    return int((await crew.client.info("commandstats"))["cmdstat_evalsha"]["calls"])


async def test_all_that_a_slot_needs_is_there_before_it_is_due(
    crew: Crew, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 3)
    beats = [beat(f"hb{i}", schedule="0 * * * *", prompt="{slot} {now}") for i in range(BEATS)]
    async with crew.scheduled(*beats, clock=clock):
        clock.advance(3600 - scheduler.AHEAD.total_seconds())
        await settled()
        assert await crew.client.xlen(crew.keys.streams[3]) == 0
        digest = (await definitions.current(crew.client, crew.keys)).digest
        await crew.client.delete(crew.keys.definition(digest))  # nobody reads it any more
        clock.advance(scheduler.AHEAD.total_seconds())
        await settled()
        fired = [fields["id"] for _, fields in await crew.client.xrange(crew.keys.streams[3])]
    assert sorted(fired) == sorted(f"hb-hb{i}-1795266000" for i in range(BEATS))
    payload = await crew.client.hget(crew.keys.task(fired[0]), "payload")
    assert '"prompt":"2026-11-21T13:00:00+00:00 2026-11-21T13:00:00+00:00"' in payload


async def test_a_script_that_the_server_has_forgotten_is_sent_once_more(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(*(beat(f"hb{i}", schedule="0 * * * *") for i in range(3)), clock=clock):
        clock.advance(3595)
        await settled()
        await crew.client.script_flush()
        clock.advance(5)
        await settled()
        assert await crew.client.xlen(crew.keys.streams[3]) == 3


async def test_one_scheduler_fires_and_the_other_looks_later_until_the_first_is_dead(crew: Crew) -> None:
    first, second = FakeClock(NOON), FakeClock(NOON)
    minutely = beat(schedule="* * * * *")

    async def turn(clock: FakeClock, ready: Callable[[], Awaitable[None]] = looked) -> None:
        """To the first slot that is not fired yet; the call is made before."""
        slot = NOON + timedelta(minutes=len(fired) + 1)
        for moment in (slot - scheduler.AHEAD, slot):
            await ready()
            clock.advance((moment - clock.now()).total_seconds())

    async def second_waits() -> None:
        await turn(second)
        await until(lambda: any(seconds <= BACK for seconds in second.sleepers))
        assert await crew.fired() == fired

    async with crew.scheduled(minutely, clock=first) as one, crew.scheduled(minutely, clock=second):
        fired: list[str] = []
        for clock in (first, second):
            await turn(clock, settled)
            await settled()
        fired = await crew.fired()
        assert len(fired) == 1

        # it waits from then on; if it finds its slot fired after that, it calls no script
        await second_waits()
        await turn(first)
        fired = await until(lambda: at_least(crew, 2))
        before = await calls(crew)
        second.advance(BACK)
        await settled()
        assert await calls(crew) == before

        # the first is dead: the second fires a little late, and from then on at once
        await one.stop()
        await second_waits()
        second.advance(BACK)
        fired = await until(lambda: at_least(crew, 3))
        await turn(second)
        await until(lambda: at_least(crew, 4))
    assert await crew.fired() == [str(int(NOON.timestamp()) + 60 * minute) for minute in range(1, 5)]
    assert await crew.told() == []
