"""No time depends on the time zone of the machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest

from watchbill.api import checks
from watchbill.api.conditions import stamp
from watchbill.api.heartbeat import HeartbeatSpec
from watchbill.plan import children, heartbeat, schedule

pytestmark = pytest.mark.pure

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EAST = NOW.astimezone(timezone(timedelta(hours=9)))


@pytest.fixture(autouse=True)
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "NPT-5:45")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_slots_are_told_in_utc() -> None:
    for of, following in (
        (schedule.Schedule(cron="30 14 * * *"), datetime(2026, 3, 1, 14, 30, tzinfo=UTC)),
        (schedule.Schedule(cron="30 14 * * *", zone="Asia/Tokyo"), datetime(2026, 3, 2, 5, 30, tzinfo=UTC)),
        (schedule.Schedule(interval_seconds=7000), datetime(2026, 3, 1, 13, 33, 20, tzinfo=UTC)),
    ):
        for now in (NOW, EAST):
            slot = schedule.next_slot(of, now)
            assert (slot, slot.tzinfo) == (following, UTC)


def test_times_of_a_status_are_told_in_utc() -> None:
    assert stamp(EAST) == "2026-03-01T12:00:00Z"
    available = {"type": "Available", "status": "False", "lastTransitionTime": "2026-03-01T21:00:00+09:00"}
    child = children.project(
        {"metadata": {"name": "n", "uid": "u", "resourceVersion": "7"}, "status": {"conditions": [available]}}
    )
    assert child.unavailable_since is not None
    assert child.unavailable_since.isoformat() == "2026-03-01T12:00:00+00:00"


def test_times_of_a_prompt_are_told_in_the_zone_of_the_heartbeat() -> None:
    assert heartbeat.asked("{slot} {now}", slot=EAST, now=NOW, zone="UTC") == (
        "2026-03-01T12:00:00+00:00 2026-03-01T12:00:00+00:00"
    )


@pytest.mark.parametrize("cron", ["* * * * *", "0 0 29 2 *", "59 23 31 12 *", "0 0 1 1 *"])
def test_an_expression_that_comes_at_some_time_is_sound(cron: str) -> None:
    assert schedule.next_slot(schedule.Schedule(cron=cron), NOW) > NOW
    spec = HeartbeatSpec.model_validate({"crewRef": {"name": "c"}, "schedule": cron})
    assert list(checks._timing(spec)) == []
