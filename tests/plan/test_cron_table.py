"""The cron expressions that CronSim and Kubernetes document, and both changes of the clock on two continents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from watchbill.plan.schedule import Schedule, jitter, next_slot

pytestmark = pytest.mark.pure


def slots(cron: str, zone: str, after: str, count: int) -> list[str]:
    moment, found = datetime.fromisoformat(after).replace(tzinfo=UTC), []
    for _ in range(count):
        moment = next_slot(Schedule(cron=cron, zone=zone), moment)
        found.append(f"{moment:%Y-%m-%d %H:%M}")
    return found


# 2026-11-21 is a Saturday. Times are in UTC.
@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        # the documentation of CronJob
        ("0 3 * * 1", ["2026-11-23 03:00", "2026-11-30 03:00"]),
        ("0 0 13 * 5", ["2026-11-27 00:00", "2026-12-04 00:00", "2026-12-11 00:00", "2026-12-13 00:00"]),
        ("0 0 1 1 *", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("0 0 1 * *", ["2026-12-01 00:00", "2027-01-01 00:00"]),
        ("0 0 * * 0", ["2026-11-22 00:00", "2026-11-29 00:00"]),
        ("0 0 * * *", ["2026-11-22 00:00", "2026-11-23 00:00"]),
        ("0 * * * *", ["2026-11-21 13:00", "2026-11-21 14:00"]),
        ("*/1 * * * *", ["2026-11-21 12:01", "2026-11-21 12:02"]),
        ("0/15 * * * *", ["2026-11-21 12:15", "2026-11-21 12:30"]),
        ("30 08 * * Fri", ["2026-11-27 08:30", "2026-12-04 08:30"]),
        # the documentation of CronSim
        ("0 0 L * *", ["2026-11-30 00:00", "2026-12-31 00:00", "2027-01-31 00:00", "2027-02-28 00:00"]),
        ("0 0 LW * *", ["2026-11-30 00:00", "2026-12-31 00:00", "2027-01-29 00:00"]),
        ("0 0 * * 5L", ["2026-11-27 00:00", "2026-12-25 00:00"]),
        ("0 0 * * FRI#3", ["2026-12-18 00:00", "2027-01-15 00:00"]),
        ("0 0 * * 1#1,3#2", ["2026-12-07 00:00", "2026-12-09 00:00"]),
        ("0 0 */100,1-7 * MON", ["2026-12-07 00:00", "2027-01-04 00:00"]),  # AND, as in Debian: begins with a star
        ("0 0 1-7 * MON", ["2026-11-23 00:00", "2026-11-30 00:00", "2026-12-01 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 29 2 SAT", ["2027-02-06 00:00", "2027-02-13 00:00"]),
        ("0 0 29 FEB */7", ["2032-02-29 00:00", "2060-02-29 00:00"]),  # on a Sunday
        ("59 23 31 12 *", ["2026-12-31 23:59", "2027-12-31 23:59"]),
    ],
)
def test_documented_expressions_come_when_their_documents_say(cron: str, expected: list[str]) -> None:
    assert slots(cron, "UTC", "2026-11-21 12:00", len(expected)) == expected


@pytest.mark.parametrize(
    ("macro", "cron"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("@Hourly", "0 * * * *"),
    ],
)
def test_a_macro_is_the_expression_that_kubernetes_documents(macro: str, cron: str) -> None:
    zone, after = "America/New_York", "2026-11-21 12:00"
    assert slots(macro, zone, after, 3) == slots(cron, zone, after, 3)


@pytest.mark.parametrize(
    ("zone", "cron", "after", "expected"),
    [
        # New York, spring 2026: 02:00 EST becomes 03:00 EDT, at 07:00 UTC on March 8
        ("America/New_York", "30 2 * * *", "2026-03-07 12:00", ["2026-03-08 07:00", "2026-03-09 06:30"]),
        ("America/New_York", "0 2 * * *", "2026-03-07 12:00", ["2026-03-08 07:00", "2026-03-09 06:00"]),
        ("America/New_York", "59 1 * * *", "2026-03-07 12:00", ["2026-03-08 06:59", "2026-03-09 05:59"]),
        ("America/New_York", "0 3 * * *", "2026-03-07 12:00", ["2026-03-08 07:00", "2026-03-09 07:00"]),
        ("America/New_York", "30 * * * *", "2026-03-08 06:00", ["2026-03-08 06:30", "2026-03-08 07:30"]),
        # New York, autumn 2026: 02:00 EDT becomes 01:00 EST, at 06:00 UTC on November 1
        ("America/New_York", "30 1 * * *", "2026-10-31 12:00", ["2026-11-01 05:30", "2026-11-02 06:30"]),
        ("America/New_York", "0 1 * * *", "2026-10-31 12:00", ["2026-11-01 05:00", "2026-11-02 06:00"]),
        ("America/New_York", "0 2 * * *", "2026-10-31 12:00", ["2026-11-01 07:00", "2026-11-02 07:00"]),
        (
            "America/New_York",
            "30 * * * *",
            "2026-11-01 05:00",
            ["2026-11-01 05:30", "2026-11-01 06:30", "2026-11-01 07:30"],
        ),
        (
            "America/New_York",
            "*/30 1 * * *",
            "2026-11-01 04:59",
            ["2026-11-01 05:00", "2026-11-01 05:30", "2026-11-01 06:00", "2026-11-01 06:30", "2026-11-02 06:00"],
        ),
        ("America/New_York", "@daily", "2026-10-31 12:00", ["2026-11-01 04:00", "2026-11-02 05:00"]),
        # Berlin: what test_schedule.py has not
        ("Europe/Berlin", "59 1 * * *", "2026-03-28 12:00", ["2026-03-29 00:59", "2026-03-29 23:59"]),
        (
            "Europe/Berlin",
            "*/30 2 * * *",
            "2026-10-24 12:00",
            ["2026-10-25 00:00", "2026-10-25 00:30", "2026-10-25 01:00", "2026-10-25 01:30", "2026-10-26 01:00"],
        ),
        ("Europe/Berlin", "0 0 29 2 *", "2026-11-21 12:00", ["2028-02-28 23:00", "2032-02-28 23:00"]),
    ],
)
def test_both_changes_of_the_clock(zone: str, cron: str, after: str, expected: list[str]) -> None:
    assert slots(cron, zone, after, len(expected)) == expected


def test_jitter_is_bounded_and_spread_and_the_same_at_every_call() -> None:
    found = [jitter(f"uid/{i}", 60) for i in range(1000)]
    assert found == [jitter(f"uid/{i}", 60) for i in range(1000)]
    assert all(timedelta() <= one <= timedelta(seconds=60) for one in found)
    tenths = [sum(start <= one.total_seconds() < start + 6 for one in found) for start in range(0, 60, 6)]
    assert min(tenths) > 60, "a tenth of them is in each tenth of the time, about"
    assert jitter("uid/1", 0) == timedelta()
