"""What is said of each schedule that is none, word by word, and slots within a long grace."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from watchbill.errors import InvalidInput
from watchbill.plan.schedule import MISSED_LIMIT, Schedule, agenda, next_slot

pytestmark = pytest.mark.pure

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
FIELDS = "Write five fields: minute, hour, day of month, month, day of week, as in '0 9 * * 1-5'."
ZONE = "Use a name such as Europe/Berlin, or UTC."
MINUTELY = "* * * * *"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "spec.schedule: it takes exactly one of schedule and intervalSeconds. Give one of the two."),
        (
            {"interval_seconds": 0},
            "spec.intervalSeconds: 0 is not an interval. Give a whole number of seconds, at least 1.",
        ),
        (
            {"cron": "@every 5m"},
            "spec.schedule: '@every 5m' is not the name of a schedule. Use one of @yearly, @annually, @monthly, "
            "@weekly, @daily, @midnight, @hourly, five fields as in '0 9 * * 1-5', or intervalSeconds.",
        ),
        (
            {"cron": "61 * * * *"},
            f"spec.schedule: '61 * * * *' is not a cron expression: bad minute. {FIELDS}",
        ),
        ({"cron": MINUTELY, "zone": "Mars"}, f"spec.timeZone: 'Mars' is not a known time zone. {ZONE}"),
        *[
            (
                {"cron": MINUTELY, "zone": zone},
                f"spec.timeZone: {zone!r} is another time zone on every machine, or none. {ZONE}",
            )
            for zone in ("localtime", "posixrules", "Factory", "posix/UTC", "right/UTC")
        ],
    ],
)
def test_a_schedule_that_is_none_is_told_with_its_field_its_reason_and_its_fix(
    fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        Schedule(**fields)
    assert str(refused.value) == told


def test_a_time_that_never_comes_is_told_with_what_to_choose() -> None:
    with pytest.raises(InvalidInput) as refused:
        next_slot(Schedule(cron="0 0 */31 * MON#5"), NOON)
    assert str(refused.value) == (
        "spec.schedule: '0 0 */31 * MON#5' is a time that never comes. "
        "Choose a day that its months have, as in '0 0 28 2 *'."
    )


@pytest.mark.parametrize("seconds", [MISSED_LIMIT - 1, MISSED_LIMIT, 3 * MISSED_LIMIT])
def test_the_newest_slot_is_fired_however_many_are_within_grace(seconds: int) -> None:
    grace = timedelta(seconds=seconds)
    plan = agenda(Schedule(interval_seconds=1), NOON, NOON + grace, deadline=grace)
    assert plan.ready == plan.following == NOON + grace


def test_a_slot_that_is_tried_must_have_come_and_be_one_that_nobody_has_dealt_with() -> None:
    minute = timedelta(minutes=1)
    for trying, ready in ((NOON + minute, None), (NOON - minute, None), (NOON, NOON)):
        plan = agenda(Schedule(cron=MINUTELY), NOON, NOON + minute / 2, deadline=timedelta(), trying=trying)
        assert plan.ready == ready
