"""Looks at all crews in the store, with one call for each of its servers, and has those reconciled that have changed.

Of a crew with work or workers it reads what its reconciliation needs, which then asks for nothing more. Of an idle one
it only sees whether there is work after all. A message tells of work at once (wakeups.py), and may be lost; this finds
it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import redis.asyncio

from watchbill import metrics
from watchbill.clock import SYSTEM, Clock
from watchbill.controller.cache import Key
from watchbill.controller.memory import Memory
from watchbill.controller.workqueue import Lane
from watchbill.errors import WatchbillError
from watchbill.names import CrewRoot
from watchbill.store import sweep

logger = logging.getLogger("watchbill.operator")

SWEEP_SECONDS: Final = 2.0
"""The pause between two looks at crews with work or workers."""
IDLE_PARTS: Final = 5
"""At each look, one of so many parts of the idle crews is looked at, too."""
WAIT_SECONDS: Final = (10.0, 60.0)
"""The first and the longest pause after which a crew is reconciled that waits for its first worker, though nothing has
changed. The pauses double, and are jittered: thousands may wait at once for a node, and none of them is urgent."""
AT_ONCE: Final = 500
"""Crews that are sorted without a break: work that comes meanwhile waits for no more."""


class _Wait(NamedTuple):
    """The pause of a crew that waits for its first worker."""

    until: float
    seconds: float
    """Its length without the jitter."""


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
        self._waits: dict[Key, _Wait] = {}
        """Crew that waits for its first worker → the pause before it is reconciled again."""
        self._trouble = ""

    async def run(self) -> None:
        """Looks, until cancelled."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Looks once. What can't be read now is reconciled, which reads it in its own way, or tells of the outage."""
        watched, idle = await self._sorted()
        left = set(watched)
        asked_at = self._clock.monotonic()
        try:
            whole, brief = ([CrewRoot(*key) for key in some] for some in (watched, idle))
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

    async def _sorted(self) -> tuple[dict[Key, int], list[Key]]:
        """Returns the crews to read whole, each with its count of changes, and the idle ones to read in brief."""
        self._turn += 1
        watched: dict[Key, int] = {}
        idle: list[Key] = []
        briefs: dict[Key, sweep.Brief] = {}
        for number, key in enumerate(self._crews(), 1):
            memory = self._memory.known(key)
            if memory is not None and memory.watch:
                watched[key] = memory.changes
            else:
                if key in self._briefs:
                    briefs[key] = self._briefs[key]
                if hash(key) % IDLE_PARTS == self._turn % IDLE_PARTS:
                    idle.append(key)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        self._briefs = briefs
        self._waits = {key: wait for key, wait in self._waits.items() if key in watched}
        return watched, idle

    def _saw(self, key: Key, found: sweep.Whole, asked_at: float, changes: int) -> None:
        memory = self._memory.known(key)
        if memory is None or memory.changes != changes or not memory.watch:
            return  # it was or is being reconciled, or work has come, or the crew has gone
        metrics.QUEUES.show("/".join(key), found.figures)
        is_changed = found.substance != memory.swept
        if is_changed or memory.watch != "rarely":
            self._waits.pop(key, None)
        if is_changed or memory.watch == "closely" or (memory.watch == "rarely" and self._has_waited(key)):
            memory.reading = (asked_at, found)
            self._add(key, Lane.ROUTINE)

    def _has_waited(self, key: Key) -> bool:
        """Returns whether the crew's pause is over; then its next one begins."""
        first, longest = WAIT_SECONDS
        now, before = self._clock.monotonic(), self._waits.get(key)
        if before is not None and now < before.until:
            return False
        seconds = first if before is None else min(2 * before.seconds, longest)
        self._waits[key] = _Wait(now + seconds * random.uniform(0.75, 1.25), seconds)
        return before is not None

    def _saw_idle(self, key: Key, found: sweep.Brief) -> None:
        before = self._briefs.pop(key, sweep.NOTHING)
        if found != sweep.NOTHING:
            self._briefs[key] = found
            if found != before:
                self._on_work(key)
