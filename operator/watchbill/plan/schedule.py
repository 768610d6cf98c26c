"""The slots of a heartbeat: last slot + now → slots due. Pure: the time is an argument.

A *slot* is a moment at which a heartbeat is to fire. All who compute slots get the same ones, whenever they start.
Cron is CronSim's, that is Debian's: 0 and 7 are Sunday; day of month OR day of week where neither begins with `*`; a
fixed time that the clock skips in spring comes at the end of the gap, and one that comes twice in autumn fires once;
with `*` in minute or hour, time is counted as it passes. Intervals are counted from the Unix epoch in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from watchbill.api import HeartbeatSpec
from watchbill.errors import InvalidInput, Problem

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TICK: Final = timedelta(microseconds=1)
MISSED_LIMIT: Final = 100
"""Missed slots are counted up to here: a year of minutes takes long to count, and nobody needs to know."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron expression in a time zone, or an interval. Raises InvalidInput when it is neither, or not sound."""

    cron: str | None = None
    zone: str = "UTC"
    interval_seconds: int | None = None

    def __post_init__(self) -> None:
        if (self.cron is None) == (self.interval_seconds is None):
            raise _invalid("schedule", "it takes exactly one of schedule and intervalSeconds", "Give one of the two.")
        if self.interval_seconds is not None and self.interval_seconds < 1:
            reason = f"{self.interval_seconds!r} is not an interval"
            raise _invalid("intervalSeconds", reason, "Give a whole number of seconds, at least 1.")
        _zone(self.zone)
        if self.cron is not None:
            _parse(self.cron, EPOCH)

    @classmethod
    def of(cls, spec: HeartbeatSpec) -> Schedule:
        return cls(cron=spec.schedule, zone=spec.time_zone, interval_seconds=spec.interval_seconds)


@dataclass(frozen=True, slots=True)
class Agenda:
    """The decision about the slots up to now."""

    missed: tuple[datetime, ...]
    """Too late for these, oldest first."""
    more: bool
    """There are further missed ones, which are not listed."""
    ready: datetime | None
    """The one to fire."""
    following: datetime
    """The first slot that is not missed: `ready`, or one that is still to come."""


def next_slot(schedule: Schedule, after: datetime) -> datetime:
    """The first slot later than `after`, in UTC. Raises InvalidInput when there is none within 50 years."""
    after = after.astimezone(UTC)
    if schedule.interval_seconds is not None:
        interval = timedelta(seconds=schedule.interval_seconds)
        return EPOCH + ((after - EPOCH) // interval + 1) * interval
    for moment in _parse(schedule.cron or "", after.astimezone(_zone(schedule.zone))):
        slot = moment.astimezone(UTC)
        # In the second pass of autumn's double hour CronSim gives moments of the first. Compared in UTC, because
        # Python compares two times of one zone by their wall clocks.
        if slot > after:
            return slot
    raise _invalid(
        "schedule",
        f"{schedule.cron!r} is a time that never comes",
        "Choose a day that its months have, as in '0 0 28 2 *'.",
    )


def due(
    schedule: Schedule, last: datetime, now: datetime, limit: int = MISSED_LIMIT
) -> tuple[tuple[datetime, ...], bool]:
    """The slots in (last, now], oldest first, at most `limit`; and whether there are more."""
    slots: list[datetime] = []
    slot = next_slot(schedule, last)
    while slot <= now:
        if len(slots) == limit:
            return tuple(slots), True
        slots.append(slot)
        slot = next_slot(schedule, slot)
    return tuple(slots), False


def agenda(
    schedule: Schedule, first: datetime, now: datetime, *, grace: timedelta, trying: datetime | None = None
) -> Agenda:
    """Decides at `now` about the slots from `first` on, the first slot that nobody has dealt with.

    Only the newest slot is fired: if it is at most `grace` old, or is the one that we have been `trying` to fire.
    All before it are missed.
    """
    slots, more = due(schedule, first - TICK, now, MISSED_LIMIT + 1)
    ready = _ready(schedule, first, now, grace, trying)
    listed = slots[:MISSED_LIMIT] if more else slots
    missed = tuple(slot for slot in listed if slot != ready)
    return Agenda(missed, more, ready, ready or next_slot(schedule, max(now, first - TICK)))


def _ready(
    schedule: Schedule, first: datetime, now: datetime, grace: timedelta, trying: datetime | None
) -> datetime | None:
    if trying is not None and first <= trying <= now < next_slot(schedule, trying):
        return trying
    # There is at most a slot a second, so this is all of them.
    fresh, _ = due(schedule, max(first, now - grace) - TICK, now, int(grace.total_seconds()) + 1)
    return fresh[-1] if fresh else None


def _parse(expression: str, start: datetime) -> CronSim:
    fix = "Write five fields: minute, hour, day of month, month, day of week, as in '0 9 * * 1-5'."
    if len(expression.split()) != 5:  # CronSim would take a sixth, for seconds
        raise _invalid("schedule", f"{expression!r} is not a cron expression of five fields", fix)
    try:
        return CronSim(expression, start)
    except CronSimError as error:
        raise _invalid("schedule", f"{expression!r} is not a cron expression: {str(error).lower()}", fix) from error


_OF_THE_MACHINE: Final = frozenset({"localtime", "posixrules", "Factory"})
"""Files that systems have beside their zones."""


def _zone(name: str) -> tzinfo:
    fix = "Use a name such as Europe/Berlin, or UTC."
    if name == "UTC":
        return UTC
    if name in _OF_THE_MACHINE or name.startswith(("posix/", "right/")):
        raise _invalid("timeZone", f"{name!r} is another time zone on every machine, or none", fix)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise _invalid("timeZone", f"{name!r} is not a known time zone", fix) from error


def _invalid(field: str, reason: str, fix: str) -> InvalidInput:
    return InvalidInput(Problem(reason, fix, path=f"spec.{field}"))
