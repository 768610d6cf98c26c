"""Slots that are found late: which of them are fired, and which are missed, by the heartbeat's own rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from watchbill.plan.schedule import MISSED_LIMIT, TICK, Schedule, agenda

pytestmark = pytest.mark.pure

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MINUTELY = Schedule(cron="* * * * *")


def fired(schedule: Schedule, first: datetime, now: datetime, most: int, deadline: timedelta | None) -> list[datetime]:
    """The slots that are fired one after another, while the clock stands."""
    slots = []
    while (plan := agenda(schedule, first, now, deadline=deadline, most=most)).ready:
        slots.append(plan.ready)
        first = plan.ready + TICK
    return slots


def test_once_fires_the_newest_slot_however_old_it_is() -> None:
    yearly = Schedule(cron="@yearly")
    plan = agenda(yearly, datetime(2020, 1, 1, tzinfo=UTC), NOON, deadline=None)
    assert plan.ready == datetime(2026, 1, 1, tzinfo=UTC)
    assert [slot.year for slot in plan.missed] == [2020, 2021, 2022, 2023, 2024, 2025]


def test_once_within_a_deadline_fires_nothing_that_is_older() -> None:
    now = NOON + timedelta(minutes=40)
    hourly = Schedule(cron="@hourly")
    assert agenda(hourly, NOON, now, deadline=timedelta(minutes=40)).ready == NOON
    plan = agenda(hourly, NOON, now + TICK, deadline=timedelta(minutes=40))
    assert (plan.ready, plan.missed, plan.following) == (None, (NOON,), NOON + timedelta(hours=1))


@pytest.mark.parametrize("count", [1, 7, MISSED_LIMIT])
def test_all_fires_each_slot_in_order(count: int) -> None:
    now = NOON + (count - 1) * MINUTE + timedelta(seconds=20)
    assert fired(MINUTELY, NOON, now, MISSED_LIMIT, None) == [NOON + i * MINUTE for i in range(count)]


@pytest.mark.parametrize(("count", "more"), [(101, False), (150, False), (200, False), (201, True), (100_000, True)])
def test_of_more_than_a_hundred_all_fires_the_newest_hundred_and_counts_the_rest(count: int, more: bool) -> None:
    now = NOON + (count - 1) * MINUTE
    plan = agenda(MINUTELY, NOON, now, deadline=None, most=MISSED_LIMIT)
    assert plan.ready == plan.following == now - 99 * MINUTE
    assert plan.missed[0] == NOON
    assert (len(plan.missed), plan.more) == (min(count - MISSED_LIMIT, MISSED_LIMIT), more)
    assert len(fired(MINUTELY, plan.ready, now, MISSED_LIMIT, None)) == MISSED_LIMIT


def test_all_within_a_deadline_leaves_out_what_is_older() -> None:
    now = NOON + timedelta(minutes=60)
    plan = agenda(MINUTELY, NOON, now, deadline=timedelta(minutes=10), most=MISSED_LIMIT)
    assert plan.ready == NOON + timedelta(minutes=50)
    assert len(plan.missed) == 50


@pytest.mark.parametrize("cron", ["* 9 * * *", "* * 1 1 *", "0 9 * * 1-5", "*/7 3,4 29 2 *"])
def test_the_newest_are_found_however_unevenly_they_lie(cron: str) -> None:
    first, now = datetime(2019, 5, 1, tzinfo=UTC), datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    few = fired(Schedule(cron=cron), first, now, 7, None)
    assert few == fired(Schedule(cron=cron), first, now, 100, None)[-7:]
    assert len(few) == 7
