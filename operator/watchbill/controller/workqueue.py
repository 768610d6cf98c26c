"""A queue of keys to reconcile. A key waits once however often it was added, and is never reconciled twice at a time.

A change of a person, and new work, go before what comes with thousands of new crews, and this before keys that are
reconciled only to make sure; but each lane gets some turns, so that none waits for ever. Only a change may be the last
of those that are reconciled at a time: what takes a store and an API server to their limits makes it slow, too, and
beyond these limits more at a time gains nothing. A reconciliation that fails is
repeated with growing, jittered pauses; one that returns seconds, after them.

Not asyncio's queues, because: they hold a key as often as it was added, and give it out while it is reconciled. Not
kopf's, because: they hold events of one object, and most reconciliations are asked for by the store, or by time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from enum import IntEnum
from typing import Final, Generic, TypeVar

from watchbill import background, metrics
from watchbill.clock import SYSTEM, Clock

logger = logging.getLogger("watchbill.operator")

K = TypeVar("K", bound=Hashable)
Reconcile = Callable[[K], Awaitable[float | None]]
"""Returns in how many seconds to reconcile the key again, or None."""


class Lane(IntEnum):
    """The urgency of a reconciliation. The lower goes first."""

    CHANGE = 0
    """A person changed something that was reconciled before, or work has come."""
    ROUTINE = 1
    """A new crew, a change of its Deployments, a time that has come, another try."""
    RESYNC = 2
    """Nothing is known to have changed."""


_TURNS: Final[tuple[tuple[Lane, ...], ...]] = (
    *[(Lane.CHANGE, Lane.ROUTINE, Lane.RESYNC)] * 3,
    (Lane.ROUTINE, Lane.CHANGE, Lane.RESYNC),
    *[(Lane.CHANGE, Lane.ROUTINE, Lane.RESYNC)] * 3,
    (Lane.RESYNC, Lane.ROUTINE, Lane.CHANGE),
)
"""The order in which the lanes are looked at, turn by turn."""
_WAITS: Final = {lane: metrics.WORKQUEUE_WAIT.labels(lane.name.lower()) for lane in Lane}
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
_WARN_FROM = 3
"""From so many failures in a row on, the log message is a warning."""


class WorkQueue(Generic[K]):
    """The keys that wait for a reconciliation, now or later."""

    def __init__(self, on_depth: Callable[[int], object] = lambda _: None, clock: Clock = SYSTEM) -> None:
        """`on_depth` is called with the number of keys that wait whenever it changes."""
        self._on_depth = on_depth
        self._clock = clock
        self._lanes: dict[Lane, dict[K, float]] = {lane: {} for lane in Lane}
        """The keys that wait, each in one lane, and since when; in the order in which they came."""
        self._turns = itertools.cycle(_TURNS)
        self._changed = asyncio.Event()
        """A key was added, or a reconciliation has ended, since a worker last found nothing to do."""
        self._room = 0
        """Number of reconciliations that may begin of other lanes than that of changes."""
        self._busy: set[K] = set()
        self._again: dict[K, Lane] = {}
        """Keys that were added while they were reconciled."""
        self._timers: dict[K, asyncio.Task[None]] = {}
        self._failures: dict[K, int] = {}

    def add(self, key: K, lane: Lane = Lane.CHANGE) -> None:
        """Reconciles the key when it is its turn in the lane, or in a more urgent one where it waits already."""
        self._stop_timer(key)
        if key in self._busy:
            self._again[key] = min(lane, self._again.get(key, lane))
            return
        known = self._lane_of(key)
        if known is None:
            self._lanes[lane][key] = self._clock.monotonic()
            self._report_depth()
        elif lane < known:
            del self._lanes[known][key]
            self._lanes[lane][key] = self._clock.monotonic()
        self._changed.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Reconciles the key then, or sooner if something else asks for it."""
        if self._lane_of(key) is not None or key in self._again:
            return
        self._stop_timer(key)
        self._timers[key] = asyncio.create_task(self._add_after(key, seconds))

    @property
    def oldest_seconds(self) -> float:
        """Seconds for which the key has waited in its lane that has waited longest; 0 if none waits."""
        firsts = [next(iter(waiting.values())) for waiting in self._lanes.values() if waiting]
        return self._clock.monotonic() - min(firsts) if firsts else 0.0

    async def run(self, reconcile: Reconcile[K], workers: int) -> None:
        """Reconciles up to `workers` keys at a time, until cancelled, and only half as many of other lanes than that of
        changes. It may be run again, also with another function: keys that wait are kept, and those that were being
        reconciled or had a pause are to be added again."""
        self._room = max(workers // 2, 1)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._work(reconcile))
        finally:
            for key in list(self._timers):
                self._stop_timer(key)
            self._again.clear()
            self._failures.clear()

    async def _work(self, reconcile: Reconcile[K]) -> None:
        while True:
            while (lane := self._next_lane()) is None:
                self._changed.clear()
                await self._changed.wait()
            key = next(iter(self._lanes[lane]))
            since = self._lanes[lane].pop(key)
            self._room -= lane is not Lane.CHANGE
            self._report_depth()
            _WAITS[lane].observe(self._clock.monotonic() - since)
            self._busy.add(key)
            after: float | None
            try:
                after = await reconcile(key)
                self._failures.pop(key, None)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and background.is_cancelled():
                    raise
                metrics.WORKQUEUE_RETRIES.inc()
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                after = min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE) * (0.5 + random.random())
                level = logging.INFO if failures < _WARN_FROM else logging.WARNING  # a stale resourceVersion is no news
                logger.log(level, "%s: %s: %s; again in %.1f s", key, type(error).__name__, error, after)
                logger.debug("%s", key, exc_info=True)
            finally:
                self._busy.discard(key)
                self._room += lane is not Lane.CHANGE
                self._changed.set()
            if key in self._again:
                self.add(key, self._again.pop(key))
            elif after is not None:
                self.add_after(key, after)

    def _next_lane(self) -> Lane | None:
        """Returns the lane whose turn it is; None: nothing waits that may begin."""
        if not self._room:  # which takes no lane's turn: it may come whenever there is no room, and never otherwise
            return Lane.CHANGE if self._lanes[Lane.CHANGE] else None
        return next(lane for lane in next(self._turns) if self._lanes[lane]) if any(self._lanes.values()) else None

    async def _add_after(self, key: K, seconds: float) -> None:
        await self._clock.sleep(seconds)
        del self._timers[key]  # before `add`, which would cancel this task
        self.add(key, Lane.ROUTINE)

    def _lane_of(self, key: K) -> Lane | None:
        return next((lane for lane, waiting in self._lanes.items() if key in waiting), None)

    def _stop_timer(self, key: K) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()

    def _report_depth(self) -> None:
        self._on_depth(sum(map(len, self._lanes.values())))
