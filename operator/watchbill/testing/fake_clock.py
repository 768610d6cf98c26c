"""A clock that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from watchbill.clock import Timer


class FakeClock:
    """A clock that stands still until it is moved: a `watchbill.clock.Clock` for tests."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError(f"{start.isoformat()} has no time zone")
        self._now = start.astimezone(UTC)
        self._passed = 0.0
        self._sleepers: dict[asyncio.Future[None], float] = {}
        self._timers: list[_Timer] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        """Seconds by which it was moved."""
        return self._passed

    async def sleep(self, seconds: float) -> None:
        """Returns once the clock was moved by so much."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._sleepers[woken] = self._passed + seconds
        try:
            await woken
        finally:
            self._sleepers.pop(woken, None)

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """`advance` calls it, once the clock was moved by so much."""
        timer = _Timer(self._passed + max(seconds, 0.0), partial(callback, *args), self._timers)
        self._timers.append(timer)
        return timer

    @property
    def sleepers(self) -> list[float]:
        """In how many seconds each who sleeps is woken, and each timer calls back, the next one first."""
        return sorted(due - self._passed for due in (*self._sleepers.values(), *(timer.due for timer in self._timers)))

    def advance(self, seconds: float) -> datetime:
        """Move on, wake whose time has come, call what is due, and return the new time."""
        if seconds < 0:
            raise ValueError(f"time goes forward, not by {seconds} seconds")
        self._now += timedelta(seconds=seconds)
        self._passed += seconds
        for woken, due in sorted(self._sleepers.items(), key=lambda sleeper: sleeper[1]):
            if due <= self._passed + 1e-9 and not woken.done():  # sums of fractions
                woken.set_result(None)
        while timers := [timer for timer in self._timers if timer.due <= self._passed + 1e-9]:
            timer = min(timers, key=lambda one: one.due)
            timer.cancel()
            timer.call()  # which may cancel others, and set new ones
        return self._now


@dataclass(slots=True, eq=False)
class _Timer:
    due: float
    call: Callable[[], object]
    timers: list[_Timer]

    def cancel(self) -> None:
        if self in self.timers:
            self.timers.remove(self)
