"""A queue of keys to reconcile: a key waits once however often it was added, and is never reconciled twice at a time.

What is asked for goes before what is reconciled only to make sure, or a crew with new work would wait for all others.
A reconciliation that fails is repeated with growing, jittered pauses; one that returns seconds, after them.

Not asyncio's queues, because: they hold a key as often as it was added, and give it out while it is reconciled. Not
kopf's, because: they hold events of one object, and most reconciliations are asked for by the store, or by time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

logger = logging.getLogger("watchbill.operator")

K = TypeVar("K", bound=Hashable)

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
_SAID = 3
"""From so many failures in a row on, the log message is a warning."""


class WorkQueue(Generic[K]):
    """`reconcile(key)` returns in how many seconds to reconcile the key again, or None."""

    def __init__(
        self, reconcile: Callable[[K], Awaitable[float | None]], on_depth: Callable[[int], object] = lambda _: None
    ) -> None:
        """`on_depth` is told how many keys wait."""
        self._reconcile = reconcile
        self._on_depth = on_depth
        self._soon: dict[K, None] = {}
        self._later: dict[K, None] = {}
        """In the order in which they came, like those before; only when none of those waits."""
        self._waiting = asyncio.Semaphore(0)
        """As many as wait."""
        self._busy: set[K] = set()
        self._again: dict[K, bool] = {}
        """Keys that were added while they were reconciled → whether for later."""
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}

    def add(self, key: K, *, later: bool = False) -> None:
        """Reconciles the key as soon as possible, or (`later`) when nothing else is to be done."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._busy:
            self._again[key] = later and self._again.get(key, True)
        elif key in self._later and not later:
            del self._later[key]
            self._soon[key] = None
        elif key not in self._soon and key not in self._later:
            (self._later if later else self._soon)[key] = None
            self._waiting.release()
            self._report_depth()

    def add_after(self, key: K, seconds: float) -> None:
        """Reconciles the key then, or sooner if something else asks for it."""
        if key in self._soon or key in self._later or key in self._again:
            return
        if timer := self._timers.pop(key, None):
            timer.cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)

    async def run(self, workers: int) -> None:
        """Works until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work())
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def _work(self) -> None:
        while True:
            await self._waiting.acquire()
            lane = self._soon or self._later
            key = next(iter(lane))
            del lane[key]
            self._report_depth()
            self._busy.add(key)
            after: float | None
            try:
                after = await self._reconcile(key)
                self._failures.pop(key, None)
            except Exception as error:
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                after = min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE) * (0.5 + random.random())
                level = logging.INFO if failures < _SAID else logging.WARNING  # an old resourceVersion is no news
                logger.log(level, "%s: %s: %s; again in %.1f s", key, type(error).__name__, error, after)
                logger.debug("%s", key, exc_info=True)
            finally:
                self._busy.discard(key)
            if key in self._again:
                self.add(key, later=self._again.pop(key))
            elif after is not None:
                self.add_after(key, after)

    def _report_depth(self) -> None:
        self._on_depth(len(self._soon) + len(self._later))
