"""A function that is called when it is time. APScheduler runs the timer, by our clock."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from watchbill.clock import Clock

_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_JOB: Final = "alarm"
_EXECUTOR: Final = "watchbill"


class Alarm:
    """Calls `ring` on the event loop at the time that was set last, and `at_most` after the last call.

    Times are counted by the clock's monotonic time. Whoever is called reads the time of day, which somebody may have
    set meanwhile; that is what `at_most` is for.
    """

    def __init__(self, ring: Callable[[], None], clock: Clock, at_most: timedelta) -> None:
        self._ring = ring
        self._time = _Monotonic(clock)
        self._clock = clock
        self._at_most = at_most
        self._timers: _Timers | None = None

    def start(self) -> None:
        """Calls for the first time at once."""

        async def ring() -> None:  # APScheduler runs in a thread what isn't async
            self._ring()

        self._timers = _Timers(self._clock, self._time)
        self._timers.add_job(
            ring,
            _Trigger(self._at_most),
            id=_JOB,
            executor=_EXECUTOR,
            next_run_time=self._time.now(),
            misfire_grace_time=None,
            coalesce=True,
            max_instances=10,  # a run counts until a turn of the loop after its end
        )
        self._timers.start()

    def set(self, wait: timedelta) -> None:
        """The next call is in so long, and not when it was to be. Does nothing before `start`."""
        if self._timers is not None:
            self._timers.modify_job(_JOB, next_run_time=self._time.now() + min(wait, self._at_most))

    def stop(self) -> None:
        if self._timers is not None:
            self._timers.shutdown(wait=False)
            self._timers = None


class _Trigger(BaseTrigger):  # type: ignore[misc]
    def __init__(self, at_most: timedelta) -> None:
        self._at_most = at_most

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        return now + self._at_most


class _Monotonic(tzinfo):
    """APScheduler reads the time by `datetime.now(zone)`. In this zone that is what the clock's monotonic time says."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> datetime:
        return _START + timedelta(seconds=self._clock.monotonic())

    def fromutc(self, _: datetime) -> datetime:
        return self.now()

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def dst(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, _: datetime | None) -> str:
        return "monotonic"


class _Timers(AsyncIOScheduler):  # type: ignore[misc]
    """APScheduler's scheduler, with loggers of its own: of what it says only warnings are of use, since its times are
    counted from 1970."""

    def __init__(self, clock: Clock, time: _Monotonic) -> None:
        logger = logging.getLogger("apscheduler.scheduler.watchbill")
        for own in (logger, logging.getLogger(f"apscheduler.executors.{_EXECUTOR}")):
            own.setLevel(logging.WARNING)
        super().__init__(timezone=time, logger=logger, executors={_EXECUTOR: AsyncIOExecutor()})
        self._clock = clock
        self._time = time

    def _start_timer(self, wait_seconds: float | None) -> None:
        """`wait_seconds` is always 0: APScheduler converts the next time to the zone, in which every time is now."""
        self._stop_timer()
        if wait_seconds is not None and (job := self.get_job(_JOB)) is not None:
            wait = (job.next_run_time - self._time.now()).total_seconds()
            self._timeout = self._clock.call_later(max(wait, 0.0), self.wakeup)
