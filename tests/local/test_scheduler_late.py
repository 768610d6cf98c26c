"""Slots that are fired late: by a deadline, by what is made up for, by jitter."""

from __future__ import annotations

from datetime import timedelta

import pytest
from scheduled import NOON, Crew, as_awaitable, at_least, beat, definition

from waiting import until
from watchbill import metrics
from watchbill.plan import schedule
from watchbill.scheduler import scheduler
from watchbill.store import definitions, submissions
from watchbill.store.submissions import Submission
from watchbill.testing import FakeClock


def label(minutes: int) -> str:
    return str(int((NOON + timedelta(minutes=minutes)).timestamp()))


@pytest.mark.parametrize(("missed", "minutes"), [("Once", [5]), ("All", [1, 2, 3, 4, 5])])
async def test_slots_that_passed_while_nobody_was_there_are_made_up_for(
    crew: Crew, clock: FakeClock, missed: str, minutes: list[int]
) -> None:
    late = beat(schedule="* * * * *", missed=missed)
    async with crew.scheduled(late, clock=clock):
        pass
    clock.advance(5 * 60 + 45)  # beyond the grace
    async with crew.scheduled(late, clock=clock), crew.scheduled(late, clock=clock):
        assert await until(lambda: at_least(crew, len(minutes))) == [label(minute) for minute in minutes]
        await crew.settled()
    assert len(await crew.fired()) == len(minutes)
    assert (await crew.state()).missed == crew.counted(metrics.HEARTBEATS_MISSED) == 5 - len(minutes)
    assert (await crew.state()).next == NOON + timedelta(minutes=6)


async def test_of_more_than_a_hundred_the_newest_are_made_up_for_and_the_others_told(
    crew: Crew, clock: FakeClock
) -> None:
    late = beat(schedule="* * * * *", missed="All")
    async with crew.scheduled(late, clock=clock):
        pass
    clock.advance(150 * 60)
    async with crew.scheduled(late, clock=clock):
        fired = await until(lambda: at_least(crew, 100))
        await crew.settled()
    assert fired == [label(minute) for minute in range(51, 151)]
    assert await crew.told() == [
        "heartbeat 'hb' missed 50 slots, 2026-11-21T12:01:00Z to 2026-11-21T12:50:00Z: no scheduler fired in time"
    ]


async def test_a_slot_is_not_fired_after_its_deadline_though_it_was_found_in_time(crew: Crew, clock: FakeClock) -> None:
    await definitions.apply(crew.client, crew.keys, definition(max_queued=1))
    await submissions.submit(crew.client, crew.keys, crew.uid, [Submission("x", "a", "{}")], max_queued=1)
    async with crew.scheduled(beat(schedule="* * * * *", startingDeadlineSeconds=20), clock=clock):
        clock.advance(60)
        await until(lambda: as_awaitable(scheduler.FULL_AGAIN_SECONDS in clock.sleepers))
        clock.advance(21)
        assert await until(crew.told) == [
            "heartbeat 'hb' missed the slot 2026-11-21T12:01:00Z: the crew's queue was full"
        ]


async def test_a_heartbeat_with_jitter_is_fired_by_so_much_after_its_slot(crew: Crew, clock: FakeClock) -> None:
    known = {f"hb-{i}": schedule.jitter(f"{crew.uid}/hb-{i}", 3600) for i in range(50)}
    name, jitter = next(one for one in known.items() if timedelta(minutes=1) < one[1] < timedelta(minutes=59))
    prompt, late = (beat(n, schedule="0 * * * *", missed="Once", jitterSeconds=j) for n, j in (("p", 0), (name, 3600)))
    async with crew.scheduled(prompt, late, clock=clock):
        clock.advance(3600 + jitter.total_seconds() - 1)
        await until(lambda: crew.fired("p"))
        await crew.settled()
        assert await crew.fired(name) == []
        clock.advance(1)
        assert await until(lambda: crew.fired(name)) == [label(60)]
    assert await crew.told() == []


async def test_a_slot_that_is_forbidden_is_told_with_what_stands_in_its_way(crew: Crew, clock: FakeClock) -> None:
    async with crew.scheduled(beat(concurrencyPolicy="Forbid"), clock=clock):
        await crew.tick(clock)
        clock.advance(1)
        told = await until(crew.told)
        await crew.settled()
    reason = f"hb-hb-{int(NOON.timestamp()) + 1} has not ended, and concurrencyPolicy is Forbid"
    assert told == [f"heartbeat 'hb' missed the slot 2026-11-21T12:00:02Z: {reason}"]
    assert len(await crew.fired()) == crew.counted(metrics.HEARTBEATS_FIRED) == 1
    assert (await crew.state()).missed == crew.counted(metrics.HEARTBEATS_MISSED) == 1


async def test_each_slot_takes_the_place_of_the_last_by_whichever_scheduler(crew: Crew, clock: FakeClock) -> None:
    replacing = beat(concurrencyPolicy="Replace")
    async with crew.scheduled(replacing, clock=clock), crew.scheduled(replacing, clock=clock):
        for _ in range(5):
            await crew.tick(clock)
            assert len(await crew.fired()) == 1
    assert await crew.told() == []
