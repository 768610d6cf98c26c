"""Looks at all crews in the store, with one call for each of its servers, and has those reconciled that have changed.

Of a crew with work or workers it reads what its reconciliation needs, which then asks for nothing more. Of an idle one
it only sees whether there is work after all. A message tells of work at once (wakeups.py), and may be lost; this finds
it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

import redis.asyncio

from watchbill import metrics
from watchbill.clock import SYSTEM, Clock
from watchbill.controller.cache import Key
from watchbill.controller.memory import Memory
from watchbill.controller.workqueue import Lane
from watchbill.errors import WatchbillError
from watchbill.names import CrewKeys
from watchbill.store import sweep

logger = logging.getLogger("watchbill.operator")

SWEEP_SECONDS: Final = 2.0
"""The pause between two looks at crews with work or workers."""
IDLE_PARTS: Final = 5
"""At each look, one of so many parts of the idle crews is looked at, too; and of those that wait for their first
worker, one is reconciled though nothing has changed. Thousands may wait at once for a node."""


class Autoscaler:
    """`add(crew, lane)` has a crew reconciled; `on_work(crew)`, too, as one to which work has come."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        crews: Callable[[], Iterable[Key]],
        memory: Memory,
        add: Callable[[Key, Lane], None],
        on_work: Callable[[Key], None],
        clock: Clock = SYSTEM,
    ) -> None:
        self._client = client
        self._crews = crews
        self._memory = memory
        self._add = add
        self._on_work = on_work
        self._clock = clock
        self._turn = 0
        self._briefs: dict[Key, sweep.Brief] = {}
        """Idle crew → how it stood, where that is not empty: delayed work that its next reconciliation waits for."""
        self._trouble = ""

    async def run(self) -> None:
        """Looks, until cancelled."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Looks once. What can't be read now is reconciled, which reads it in its own way, or tells of the outage."""
        self._turn += 1
        watched: dict[Key, int] = {}
        idle = []
        briefs: dict[Key, sweep.Brief] = {}
        for key in self._crews():
            memory = self._memory.of(key)
            if memory.watch:
                watched[key] = memory.changes
                continue
            if key in self._briefs:
                briefs[key] = self._briefs[key]
            if self._is_turn(key):
                idle.append(key)
        self._briefs = briefs
        left = set(watched)
        asked_at = self._clock.monotonic()
        try:
            whole, brief = ([CrewKeys(*key) for key in some] for some in (watched, idle))
            async for crew, found in sweep.read(self._client, whole, brief):
                namespace, _, name = crew.partition("/")
                key = (namespace, name)
                if isinstance(found, sweep.Whole):
                    left.discard(key)
                    self._saw(key, found, asked_at, watched[key])
                elif found is not None:
                    self._saw_idle(key, found)
                asked_at = self._clock.monotonic()  # of the next call: that of the first may be old by then
            self._trouble = ""
        except (WatchbillError, redis.exceptions.RedisError, OSError) as error:
            if str(error) != self._trouble:
                logger.warning("crews are read one by one, because they can't be read together: %s", error)
            self._trouble = str(error)
        for key in left:
            self._add(key, Lane.ROUTINE)

    def _saw(self, key: Key, found: sweep.Whole, asked_at: float, changes: int) -> None:
        memory = self._memory.of(key)
        if memory.changes != changes or not memory.watch:  # it was or is being reconciled, or work has come
            return
        metrics.QUEUES.show("/".join(key), found.figures)
        is_due = memory.watch == "closely" or (memory.watch == "rarely" and self._is_turn(key))
        if is_due or found.substance != memory.swept:
            memory.reading = (asked_at, found)
            self._add(key, Lane.ROUTINE)

    def _saw_idle(self, key: Key, found: sweep.Brief) -> None:
        before = self._briefs.pop(key, sweep.NOTHING)
        if found != sweep.NOTHING:
            self._briefs[key] = found
            if found != before:
                self._on_work(key)

    def _is_turn(self, key: Key) -> bool:
        return hash(key) % IDLE_PARTS == self._turn % IDLE_PARTS
