"""The slots of a heartbeat: last slot + now → slots due. Pure: the time is an argument.

A *slot* is a moment at which a heartbeat is to fire. All who compute slots get the same ones, whenever they start.
Cron is CronSim's, that is Debian's: 0 and 7 are Sunday; day of month OR day of week where neither begins with `*`; a
fixed time that the clock skips in spring comes at the end of the gap, and one that comes twice in autumn fires once;
with `*` in minute or hour, time is counted as it passes. Intervals are counted from the Unix epoch in UTC.

Jitter moves no slot: a heartbeat that has one is fired later than its slots, always by the same time.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from watchbill.api import HeartbeatSpec
from watchbill.api.heartbeat import CRON_MACROS
from watchbill.errors import InvalidInput, Problem

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TICK: Final = timedelta(microseconds=1)
MISSED_LIMIT: Final = 100
"""Missed slots are counted up to here, and made up for: a year of minutes takes long to count."""


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
    return next(_cron_slots(schedule, after))


def due(
    schedule: Schedule, last: datetime, now: datetime, limit: int = MISSED_LIMIT
) -> tuple[tuple[datetime, ...], bool]:
    """The slots in (last, now], oldest first, at most `limit`; and whether there are more."""
    slots: list[datetime] = []
    for slot in _slots(schedule, last):
        if slot > now:
            break
        if len(slots) == limit:
            return tuple(slots), True
        slots.append(slot)
    return tuple(slots), False


def agenda(
    schedule: Schedule,
    first: datetime,
    now: datetime,
    *,
    deadline: timedelta | None,
    most: int = 1,
    trying: datetime | None = None,
) -> Agenda:
    """Decides at `now` about the slots from `first` on, the first slot that nobody has dealt with.

    The newest slots are fired, at most `most`, oldest first: those that are at most `deadline` old (None: of any age),
    or the newest, if it is the one that we have been `trying` to fire. All others are missed.
    """
    fresh = _to_fire(schedule, first, now, deadline, most, trying)
    ready = fresh[0] if fresh else None
    missed, more = due(schedule, first - TICK, now if ready is None else ready - TICK)
    return Agenda(missed, more, ready, ready or next_slot(schedule, max(now, first - TICK)))


def jitter(identity: str, seconds: int) -> timedelta:
    """The time by which a heartbeat is fired after its slots: from nothing to `seconds`, the same at every call.

    `identity` tells heartbeats apart, so that they are spread over that time.
    """
    digest = hashlib.sha256(identity.encode()).digest()
    return timedelta(milliseconds=int.from_bytes(digest[:8]) % (seconds * 1000 + 1))


def _to_fire(
    schedule: Schedule,
    first: datetime,
    now: datetime,
    deadline: timedelta | None,
    most: int,
    trying: datetime | None,
) -> tuple[datetime, ...]:
    if trying is not None and first <= trying <= now < next_slot(schedule, trying):
        return (trying,)
    earliest = first if deadline is None else max(first, now - deadline)
    # Searched backwards in steps that grow, because there may be very many slots since the first.
    reach = timedelta(seconds=most)
    while True:
        start = max(earliest, now - reach) if reach < now - earliest else earliest
        slots, _ = due(schedule, start - TICK, now, sys.maxsize)
        if len(slots) >= most or start == earliest:
            return slots[-most:]
        reach *= 4


def _slots(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    if schedule.interval_seconds is None:
        yield from _cron_slots(schedule, after.astimezone(UTC))
    while True:
        after = next_slot(schedule, after)
        yield after


def _cron_slots(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """The slots later than `after`. Raises InvalidInput when the next one is not within 50 years."""
    for moment in _parse(schedule.cron or "", after.astimezone(_zone(schedule.zone))):
        slot = moment.astimezone(UTC)
        # In the second pass of autumn's double hour CronSim gives moments of the first. Compared in UTC, because
        # Python compares two times of one zone by their wall clocks.
        if slot > after:
            yield slot
            after = slot
    raise _invalid(
        "schedule",
        f"{schedule.cron!r} is a time that never comes",
        "Choose a day that its months have, as in '0 0 28 2 *'.",
    )


def _parse(expression: str, start: datetime) -> CronSim:
    fix = "Write five fields: minute, hour, day of month, month, day of week, as in '0 9 * * 1-5'."
    if expression.startswith("@") and expression.lower() not in CRON_MACROS:
        fix = f"Use one of {', '.join(CRON_MACROS)}, five fields as in '0 9 * * 1-5', or intervalSeconds."
        raise _invalid("schedule", f"{expression!r} is not the name of a schedule", fix)
    expression = CRON_MACROS.get(expression.lower(), expression)
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
