"""Which slots a schedule has, and what is to be done about them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from watchbill.api import CrewRef, HeartbeatSpec
from watchbill.errors import InvalidInput
from watchbill.plan.schedule import EPOCH, MISSED_LIMIT, Schedule, agenda, due, next_slot

pytestmark = pytest.mark.pure

BERLIN = ZoneInfo("Europe/Berlin")
GRACE = timedelta(seconds=30)
MINUTELY = Schedule(cron="* * * * *")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def take(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    slots = []
    for _ in range(count):
        after = next_slot(schedule, after)
        slots.append(after)
    return slots


def texts(slots: list[datetime]) -> list[str]:
    return [f"{slot:%Y-%m-%d %H:%M:%S}" for slot in slots]


# 2026-11-21 is a Saturday.
@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("0 9 * * 1-5", "2026-11-21 12:00", ["2026-11-23 09:00:00", "2026-11-24 09:00:00"]),
        ("0 9 * * MON-FRI", "2026-11-20 09:00", ["2026-11-23 09:00:00"]),
        ("0 0 * * 0", "2026-11-21 12:00", ["2026-11-22 00:00:00", "2026-11-29 00:00:00"]),
        ("0 0 * * 7", "2026-11-21 12:00", ["2026-11-22 00:00:00", "2026-11-29 00:00:00"]),
        ("0 0 * * SUN", "2026-11-21 12:00", ["2026-11-22 00:00:00", "2026-11-29 00:00:00"]),
        ("0 0 * * sun", "2026-11-21 12:00", ["2026-11-22 00:00:00"]),
        ("0 0 * * 1", "2026-11-21 12:00", ["2026-11-23 00:00:00"]),
        ("0 0 * * 5-7", "2026-11-18 12:00", ["2026-11-20 00:00:00", "2026-11-21 00:00:00", "2026-11-22 00:00:00"]),
        # day of month OR day of week, where both are given
        ("0 0 13 * 5", "2026-11-12 12:00", ["2026-11-13 00:00:00", "2026-11-20 00:00:00", "2026-11-27 00:00:00"]),
        ("0 0 1 * MON", "2026-11-28 00:00", ["2026-11-30 00:00:00", "2026-12-01 00:00:00", "2026-12-07 00:00:00"]),
        # AND, where one of them begins with a star
        ("0 0 */2 * MON", "2026-11-21 00:00", ["2026-11-23 00:00:00", "2026-12-07 00:00:00"]),
        ("*/20 8-9 * * *", "2026-11-21 08:30", ["2026-11-21 08:40:00", "2026-11-21 09:00:00", "2026-11-21 09:20:00"]),
        ("0 0 31 * *", "2026-11-21 00:00", ["2026-12-31 00:00:00", "2027-01-31 00:00:00", "2027-03-31 00:00:00"]),
        ("0 0 29 2 *", "2026-11-21 00:00", ["2028-02-29 00:00:00", "2032-02-29 00:00:00"]),
        ("0 0 * * 1#1", "2026-11-21 00:00", ["2026-12-07 00:00:00"]),
        ("0 0 L * *", "2027-02-01 00:00", ["2027-02-28 00:00:00"]),
    ],
)
def test_cron_expressions_mean_what_debian_says(cron: str, after: str, expected: list[str]) -> None:
    assert texts(take(Schedule(cron=cron), at(after), len(expected))) == expected


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        # spring 2026: 02:00 CET becomes 03:00 CEST, at 01:00 UTC on March 29
        ("30 2 * * *", "2026-03-28 12:00", ["2026-03-29 01:00:00", "2026-03-30 00:30:00"]),
        ("0,30 2 * * *", "2026-03-28 12:00", ["2026-03-29 01:00:00", "2026-03-30 00:00:00", "2026-03-30 00:30:00"]),
        ("0 3 * * *", "2026-03-28 12:00", ["2026-03-29 01:00:00", "2026-03-30 01:00:00"]),
        ("*/30 * * * *", "2026-03-29 00:15", ["2026-03-29 00:30:00", "2026-03-29 01:00:00", "2026-03-29 01:30:00"]),
        # autumn 2026: 03:00 CEST becomes 02:00 CET, at 01:00 UTC on October 25
        ("30 2 * * *", "2026-10-24 12:00", ["2026-10-25 00:30:00", "2026-10-26 01:30:00"]),
        ("0 3 * * *", "2026-10-24 12:00", ["2026-10-25 02:00:00", "2026-10-26 02:00:00"]),
        ("0 * * * *", "2026-10-24 23:30", ["2026-10-25 00:00:00", "2026-10-25 01:00:00", "2026-10-25 02:00:00"]),
        ("0 9 * * *", "2026-10-24 00:00", ["2026-10-24 07:00:00", "2026-10-25 08:00:00"]),
    ],
)
def test_a_slot_is_neither_lost_nor_doubled_when_the_clock_is_changed(
    cron: str, after: str, expected: list[str]
) -> None:
    assert texts(take(Schedule(cron=cron, zone="Europe/Berlin"), at(after), len(expected))) == expected


@pytest.mark.parametrize("minute", range(0, 60, 7))
def test_within_the_second_pass_of_the_double_hour_the_slot_of_the_first_does_not_come_again(minute: int) -> None:
    second_pass = datetime(2026, 10, 25, 2, minute, fold=1, tzinfo=BERLIN)
    slot = next_slot(Schedule(cron="30 2 * * *", zone="Europe/Berlin"), second_pass)
    assert texts([slot]) == ["2026-10-26 01:30:00"]


ANY = [
    *(Schedule(cron="30 2 * * *", zone=z) for z in ("Europe/Berlin", "America/Havana", "Australia/Lord_Howe")),
    *(Schedule(cron="*/15 0-3 * * *", zone=z) for z in ("Asia/Beirut", "America/Sao_Paulo", "Europe/Berlin")),
    Schedule(cron="15 0 * * *", zone="Asia/Beirut"),
    Schedule(interval_seconds=5400),
]


@pytest.mark.parametrize("schedule", ANY)
def test_slots_are_the_same_from_wherever_one_starts_to_count(schedule: Schedule) -> None:
    start, end = at("2018-10-20 00:00"), at("2018-11-10 00:00")
    for begin in (start, start.replace(month=3)):
        slots, more = due(schedule, begin, begin + (end - start), limit=10_000)
        assert not more
        assert all(a < b for a, b in pairwise(slots))
        for earlier, later in pairwise(slots):
            for moment in (earlier, earlier + timedelta(seconds=1), later - timedelta(microseconds=1)):
                assert next_slot(schedule, moment) == later


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata"])
@pytest.mark.parametrize("moment", ["2026-11-21 12:00:00", "2026-11-21 12:00:00.000001", "2026-11-21 12:00:59.999999"])
def test_a_slot_is_later_than_the_moment_asked_for(zone: str, moment: str) -> None:
    slot = next_slot(Schedule(cron="* * * * *", zone=zone), at(moment))
    assert texts([slot]) == ["2026-11-21 12:01:00"]
    assert slot.tzinfo is UTC


def test_the_zone_of_the_argument_makes_no_difference() -> None:
    moment = at("2026-11-21 12:34")
    for schedule in (Schedule(cron="0 9 * * *", zone="Asia/Tokyo"), Schedule(interval_seconds=7)):
        assert next_slot(schedule, moment.astimezone(BERLIN)) == next_slot(schedule, moment)


@pytest.mark.parametrize(
    ("seconds", "after", "expected"),
    [
        (1, "2026-11-21 12:00:00", "2026-11-21 12:00:01"),
        (1, "2026-11-21 12:00:00.999999", "2026-11-21 12:00:01"),
        (60, "2026-11-21 12:00:00.000001", "2026-11-21 12:01:00"),
        (86_400, "2026-11-21 12:00:00", "2026-11-22 00:00:00"),
        (7, "1970-01-01 00:00:00", "1970-01-01 00:00:07"),
        (31_622_400, "2026-11-21 12:00:00", "2027-02-13 00:00:00"),
    ],
)
def test_intervals_are_counted_from_the_epoch(seconds: int, after: str, expected: str) -> None:
    slot = next_slot(Schedule(interval_seconds=seconds), at(after))
    assert texts([slot]) == [expected]
    assert (slot - EPOCH) % timedelta(seconds=seconds) == timedelta(0)


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 4,6 *", "0 0 */31 * MON#5"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_time_that_never_comes_is_refused(cron: str, zone: str) -> None:
    with pytest.raises(InvalidInput, match=r"spec\.schedule.*day"):
        next_slot(Schedule(cron=cron, zone=zone), at("2026-11-21 12:00"))


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"cron": "61 * * * *"}, "spec.schedule"),
        ({"cron": "* * * *"}, "spec.schedule"),
        ({"cron": "*/5 * * * * *"}, "spec.schedule"),  # seconds are not ours
        ({"cron": "@reboot"}, "spec.schedule"),
        ({"cron": "TZ=UTC 0 9 * * *"}, "spec.schedule"),  # timeZone says it
        ({"cron": "CRON_TZ=UTC 0 9 * * *"}, "spec.schedule"),
        ({"cron": ""}, "spec.schedule"),
        ({"cron": "0 0 * * 8"}, "spec.schedule"),
        ({"cron": "* * * * *", "zone": "Europe/Nowhere"}, "spec.timeZone"),
        ({"cron": "* * * * *", "zone": "../etc/passwd"}, "spec.timeZone"),
        *(({"cron": "* * * * *", "zone": zone}, "spec.timeZone") for zone in ("localtime", "posixrules", "Factory")),
        *(({"cron": "* * * * *", "zone": zone}, "spec.timeZone") for zone in ("posix/Europe/Berlin", "right/UTC")),
        ({"interval_seconds": 0}, "spec.intervalSeconds"),
        ({"cron": "* * * * *", "interval_seconds": 5}, "spec.schedule"),
        ({}, "spec.schedule"),
    ],
)
def test_what_is_no_schedule_is_refused_by_its_field(fields: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Schedule(**fields)  # type: ignore[arg-type]
    [problem] = refused.value.problems
    assert problem.path == path
    assert problem.fix


def test_a_schedule_is_read_from_a_spec() -> None:
    crew = CrewRef(name="c")
    cron = HeartbeatSpec(crewRef=crew, schedule="0 9 * * *", timeZone="Europe/Berlin")
    assert Schedule.of(cron) == Schedule(cron="0 9 * * *", zone="Europe/Berlin")
    assert Schedule.of(HeartbeatSpec(crewRef=crew, intervalSeconds=90)) == Schedule(interval_seconds=90)


def test_due_leaves_out_the_last_and_includes_now() -> None:
    slots, more = due(MINUTELY, at("2026-11-21 12:00"), at("2026-11-21 12:03"))
    assert texts(list(slots)) == ["2026-11-21 12:01:00", "2026-11-21 12:02:00", "2026-11-21 12:03:00"]
    assert not more
    assert due(MINUTELY, at("2026-11-21 12:00"), at("2026-11-21 12:00:59")) == ((), False)
    assert due(MINUTELY, at("2026-11-21 12:00"), at("2026-11-21 11:00")) == ((), False)


def test_due_says_when_there_are_more_than_it_lists() -> None:
    noon = at("2026-11-21 12:00")
    assert due(MINUTELY, noon, noon + timedelta(minutes=5), limit=5)[1] is False
    slots, more = due(MINUTELY, noon, noon + timedelta(days=365), limit=5)
    assert (texts(list(slots))[-1], more) == ("2026-11-21 12:05:00", True)


# ------------------------------------------------------------------ agenda

FIRST = at("2026-11-21 12:00")


def test_before_the_first_slot_there_is_nothing_to_do() -> None:
    plan = agenda(MINUTELY, FIRST, FIRST - timedelta(seconds=10), deadline=GRACE)
    assert (plan.missed, plan.ready, plan.following) == ((), None, FIRST)


@pytest.mark.parametrize("late", [timedelta(0), timedelta(seconds=12), GRACE])
def test_a_slot_within_grace_is_fired(late: timedelta) -> None:
    plan = agenda(MINUTELY, FIRST, FIRST + late, deadline=GRACE)
    assert (plan.missed, plan.ready, plan.following) == ((), FIRST, FIRST)


def test_a_slot_beyond_grace_is_missed() -> None:
    plan = agenda(MINUTELY, FIRST, FIRST + timedelta(seconds=31), deadline=GRACE)
    assert (plan.missed, plan.ready, plan.following) == ((FIRST,), None, FIRST + timedelta(minutes=1))


def test_a_slot_that_was_tried_in_time_is_fired_until_the_next_one_is_due() -> None:
    following = FIRST + timedelta(minutes=1)
    plan = agenda(MINUTELY, FIRST, following - timedelta(microseconds=1), deadline=GRACE, trying=FIRST)
    assert (plan.missed, plan.ready) == ((), FIRST)
    plan = agenda(MINUTELY, FIRST, following, deadline=GRACE, trying=FIRST)
    assert (plan.missed, plan.ready) == ((FIRST,), following)


def test_a_slot_that_was_dealt_with_is_not_tried_again() -> None:
    following = FIRST + timedelta(minutes=1)
    plan = agenda(MINUTELY, following, FIRST + timedelta(seconds=50), deadline=GRACE, trying=FIRST)
    assert (plan.missed, plan.ready, plan.following) == ((), None, following)


def test_only_the_newest_slot_is_fired_even_when_older_ones_are_within_grace() -> None:
    plan = agenda(Schedule(interval_seconds=1), FIRST, FIRST + timedelta(seconds=3.5), deadline=GRACE)
    assert [(slot - FIRST).total_seconds() for slot in plan.missed] == [0, 1, 2]
    assert plan.ready == plan.following == FIRST + timedelta(seconds=3)


@pytest.mark.parametrize("count", [1, MISSED_LIMIT - 1, MISSED_LIMIT, MISSED_LIMIT + 1, MISSED_LIMIT + 2, 100_000])
@pytest.mark.parametrize("late", [timedelta(seconds=1), timedelta(seconds=45)])
def test_every_slot_up_to_now_is_missed_ready_or_said_to_be_more(count: int, late: timedelta) -> None:
    newest = FIRST + timedelta(minutes=count - 1)
    plan = agenda(MINUTELY, FIRST, newest + late, deadline=GRACE)
    listed = len(plan.missed) + (plan.ready is not None)
    assert plan.ready == (newest if late <= GRACE else None)
    assert plan.more == (listed < count)
    if plan.more:
        assert len(plan.missed) == MISSED_LIMIT
        assert count - (plan.ready is not None) > MISSED_LIMIT  # so "more than that were missed" is true
    else:
        assert listed == count
    assert plan.following == (plan.ready or newest + timedelta(minutes=1))
