"""The part of a worker that delivers. It begins once its crew has something to deliver, and then costs a worker four
connections and a thread. The script that ends the first work whose result is to be delivered tells the workers."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from watchbill import background
from watchbill.clock import Clock, wait_for_event
from watchbill.connection import Store, outages
from watchbill.errors import CrewGone, NewerRecord, NotFound, StoreUnavailable
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.store import definitions, deliveries
from watchbill.worker.delivering.options import Delivering
from watchbill.worker.shift import Shift
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

POLL_SECONDS: Final = 30.0
"""Seconds, about, between two checks of a worker that was told of nothing to deliver whether there is something all the
same: it may have no right to listen."""
AWAY_SECONDS: Final = 1.0
"""Seconds until it asks for a crew that was gone while it delivered."""


class Deliveries:
    """Delivers the results of one crew until it is stopped, or the crew is gone."""

    def __init__(
        self,
        store: Store,
        keys: CrewKeys,
        how: Delivering,
        clock: Clock,
        *,
        uid: str,
        grace_seconds: float,
        told: asyncio.Event,
    ) -> None:
        """`told`: set when there may be something to deliver."""
        self._store = store
        self._keys = keys
        self._how = how
        self._uid = uid
        self._told = told
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._state: WorkerState | None = None
        self._stopped: bool | None = None
        """True if the grace period is none; None until somebody stops it."""
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._running = background.start("deliveries", self._run)

    @property
    def drained(self) -> bool:
        """It holds nothing and won't claim again."""
        return self._state is None or self._state.drained

    def stop(self, *, now: bool) -> None:
        """As `Worker.stop`."""
        self._stopped = now or bool(self._stopped)
        if self._state is not None:
            self._state.stop(now=now)
        elif self._running is not None:
            self._running.cancel()  # it waits for something to deliver

    async def ended(self) -> None:
        """Returns once it has ended, after `stop`."""
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        """May be begun again: background.start does so after a fault."""
        while (current := await self._needed()) is not None:
            try:
                await self._deliver(current)
                return
            except StoreUnavailable as error:  # the worker itself says so
                logger.debug("deliveries of %s have ended: %s", self._keys.crew, error)
                return
            except CrewGone as error:  # likewise; but the store may have lost it, and get it back
                logger.debug("deliveries of %s rest: %s", self._keys.crew, error)
            if self._stopped is not None:
                return
            await self._clock.sleep(AWAY_SECONDS)

    async def _deliver(self, current: definitions.Current) -> None:
        """Delivers until it is stopped. Raises CrewGone, and StoreUnavailable at the end of the grace period."""
        await asyncio.to_thread(_load)
        from watchbill.worker.delivering import mover, sending

        self._state = state = WorkerState(self._grace_seconds, self._clock)
        if self._stopped is not None:
            state.stop(now=self._stopped)
        work = sending.DeliveryWork(self._store.client, self._keys, self._uid, self._how, state)
        shift = Shift(state, self._store, self._keys.deliveries(), work, current, slots=self._how.slots, recycle=False)
        moving = background.start("outbox", lambda: mover.move(state, self._store.client, self._keys, self._uid))
        try:
            await shift.run()
        finally:
            await background.end(moving)
            self._state = None

    async def _needed(self) -> definitions.Current | None:
        """Returns the crew once there is something to deliver, or it has destinations; None: the store has another crew
        of that name. Waits for a crew that isn't there: if it doesn't come back, the worker ends, and stops this."""
        client, keys = self._store.client, self._keys
        digest, has_some = "", False
        while True:
            self._told.clear()
            try:
                current = await outages.persist(lambda: definitions.current(client, keys))
                if current.uid != self._uid:
                    return None
                if current.digest != digest or not current.content:  # a large crew takes long to be read
                    digest, has_some = current.digest, bool(current.definition.delivery)
                if has_some or await outages.persist(lambda: deliveries.exist(client, keys)):
                    return current
            except (NewerRecord, NotFound):  # one that can be read may come
                pass
            await wait_for_event(self._told, POLL_SECONDS * random.uniform(0.5, 1.5), self._clock)


def _load() -> None:
    """Imports what sends, in a thread: agents run meanwhile. Most workers never deliver, and start sooner without."""
    from watchbill.worker.delivering import mover, sending  # noqa: F401
