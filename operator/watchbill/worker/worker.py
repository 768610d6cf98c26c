"""The worker of one crew: reads the crew, works one shift, and stops in good order.

While the store is away nothing is given up: results are kept and running tasks go on. A worker that was taken for dead
meanwhile learns it from the store's first answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

from watchbill import logs, tracing
from watchbill.agents.loading import AgentLoader
from watchbill.clock import SYSTEM, Clock
from watchbill.connection import Store
from watchbill.errors import NewerRecord, WatchbillError
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.store import definitions
from watchbill.worker.agent_work import AgentWork
from watchbill.worker.delivering.deliveries import Deliveries
from watchbill.worker.delivering.options import Delivering
from watchbill.worker.probes import Probes
from watchbill.worker.shift import Shift
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

UNREADABLE_AGAIN_SECONDS: Final = 2.0
"""Seconds between two reads of a definition that a newer version wrote, by a worker that starts."""


class Worker:
    """Runs tasks of one crew until it is stopped, or the crew is gone."""

    def __init__(
        self,
        store: Store,
        keys: CrewKeys,
        loader: AgentLoader,
        *,
        concurrency: int | None = None,
        grace_seconds: float = 30.0,
        recycle: bool = False,
        clock: Clock = SYSTEM,
        delivering: Delivering | None = None,
        revision: str = "",
    ) -> None:
        """Other users of `store.client` must not block. `concurrency` default: the crew's. `recycle`: this process is
        started anew when it ends, so it may stop by itself once abandoned agents hold half of the slots. `revision`:
        the template revision of its pod."""
        self._delivering = delivering or Delivering()
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._deliveries: Deliveries | None = None
        self._store = store
        self._keys = keys
        self._loader = loader
        self._concurrency = concurrency
        self._recycle = recycle
        self._state = WorkerState(grace_seconds, clock, revision)
        self._shift: Shift | None = None

    @property
    def drained(self) -> bool:
        """True once it holds nothing and won't claim again: it has stopped, or was told to drain."""
        return self._state.drained and (self._deliveries is None or self._deliveries.drained)

    @property
    def stopping(self) -> bool:
        return self._state.stopping

    @property
    def recycled(self) -> bool:
        """True once it stops by itself, because of abandoned agents."""
        return self._state.recycled

    @property
    def running(self) -> int:
        """Number of tasks that run."""
        return len(self._state.incarnation.jobs)

    def note_probes(self) -> Callable[[bool], None]:
        """Has the worker report what the kubelet knows of its readiness. Returns what is to be called with each answer
        to the kubelet, by whoever serves `drained`."""
        self._state.probes = Probes(self._state.store_ms)
        return self._state.probes.answered

    def stop(self, *, now: bool = False) -> None:
        """Claims no more, finishes within the grace period (`now`: none), hands back the rest. May be called again."""
        self._state.stop(now=now)
        if self._deliveries is not None:
            self._deliveries.stop(now=now)

    async def run(self) -> None:
        """Works until `stop`, or until it recycles. Raises CrewGone when the crew was deleted or replaced, NotFound
        when there is no such crew, WatchbillError when abandoned agents hold all slots and it may not recycle."""
        logs.bind({"crew": self._keys.crew})
        tracing.rest()
        current = await self._crew()
        if current is None:
            self._state.ended = True
            return
        slots = self._concurrency or current.definition.concurrency
        self._shift = Shift(
            self._state,
            self._store,
            self._keys,
            AgentWork(self._store, self._keys, self._loader),
            current,
            slots=slots,
            recycle=self._recycle,
        )
        self._deliveries = Deliveries(
            self._store,
            self._keys,
            self._delivering,
            self._clock,
            uid=current.uid,
            grace_seconds=self._grace_seconds,
            told=self._state.may_deliver,
        )
        self._deliveries.start()
        logger.info("works for crew %s, on %d tasks at once", self._keys.crew, slots)
        try:
            await self._shift.run()
        finally:
            self._deliveries.stop(now=not self.stopping)
            await self._deliveries.ended()
        if self.recycled and not self._recycle:
            raise WatchbillError(
                f"the worker of {self._keys.crew} stopped: agents that did not end when they were told to hold all of "
                f"its slots ({slots}). The log names them. What they had to do is kept; mend them and start again"
            )

    async def _crew(self) -> definitions.Current | None:
        """Returns the crew once it is readable; None if the worker is stopped before."""
        asking = asyncio.create_task(self._readable())
        stopped = asyncio.create_task(self._state.wake.wait())
        try:
            await asyncio.wait({asking, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return None if self.stopping else asking.result()
        finally:
            for task in (asking, stopped):
                task.cancel()
            await asyncio.gather(asking, stopped, return_exceptions=True)

    async def _readable(self) -> definitions.Current:
        logged = ""
        while True:
            current = await self._state.persist(lambda: definitions.current(self._store.client, self._keys))
            try:
                if current.definition:
                    return current
            except NewerRecord as error:
                if current.digest != logged:
                    logged = current.digest
                    logger.error("waiting until the crew can be read: %s", error)
            await self._state.clock.sleep(UNREADABLE_AGAIN_SECONDS * random.uniform(0.5, 1.5))
