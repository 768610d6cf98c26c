"""Time as a parameter: what measures or waits takes a Clock, so that a test turns the clock instead of waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """The time, and waiting for it. `SYSTEM` is the machine's; `testing.FakeClock` moves when it is told to."""

    def now(self) -> datetime:
        """The time of day: aware, UTC. Somebody may set it, forward or back."""
        ...

    def monotonic(self) -> float:
        """Seconds since a moment that means nothing: only differences do. Never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after so many seconds of `monotonic`; at once, having let others run, if that is none."""
        ...

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Calls back on the running event loop after so many seconds of `monotonic`, unless the timer is cancelled."""
        ...


class _SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)  # noqa: TID251 - here is where the time is read

    monotonic = staticmethod(time.monotonic)  # noqa: TID251 - here is where the time is read

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback, *args)


SYSTEM: Final[Clock] = _SystemClock()


async def wait_for_event(event: asyncio.Event, seconds: float, clock: Clock) -> bool:
    """Waits until the event is set, for at most so many seconds. Whether it is set."""
    waiting = asyncio.ensure_future(event.wait())
    sleeping = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({waiting, sleeping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        sleeping.cancel()
    return event.is_set()


STOOD_STILL_SECONDS: Final = 0.5
"""A timer that is later than this tells that the event loop stood still."""
AFTER_THAT_SECONDS: Final = 1.0
"""The time that others have left then."""


class PatientTimer:
    """Like `Clock.call_later`, but not at once where the loop stood still: what others had the time for is done first.
    Only once: something may block the loop again and again. Patience can't be had here, since clocks of tests move by
    any time at once."""

    def __init__(self, clock: Clock, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        self._clock = clock
        self._callback = partial(callback, *args)
        self._may_wait = True
        self._wait(seconds)

    def cancel(self) -> None:
        self._timer.cancel()

    def _wait(self, seconds: float) -> None:
        self._due = self._clock.monotonic() + max(seconds, 0.0)
        self._timer = self._clock.call_later(seconds, self._call)

    def _call(self) -> None:
        if self._may_wait and self._clock.monotonic() - self._due > STOOD_STILL_SECONDS:
            self._may_wait = False
            self._wait(AFTER_THAT_SECONDS)
        else:
            self._callback()


PARTS: Final = 5
LATE_SECONDS: Final = 0.1
"""A timer is late by more than this, and a part of the whole, only where the process did not run."""


class Patience:
    """Like `asyncio.timeout`, and the time in which this process did not run counts for nothing: where the machine gave
    it none, or something blocked its loop, the answer may be there, and nobody has read it. So it is a few times, not
    for ever: an agent may block the loop again and again."""

    def __init__(self, seconds: float) -> None:
        self._part = max(seconds, 0.0) / PARTS

    async def __aenter__(self) -> None:
        self._left, self._forgives = PARTS, PARTS
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        self._wait()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(kind, error, trace)

    def _wait(self) -> None:
        self._late_at = self._loop.time() + 2 * self._part + LATE_SECONDS
        self._timer = self._loop.call_later(self._part, self._look)

    def _look(self) -> None:
        if self._forgives and self._loop.time() >= self._late_at:
            self._forgives -= 1
        else:
            self._left -= 1
        if self._left:
            self._wait()
        else:
            self._limit.reschedule(self._loop.time())
