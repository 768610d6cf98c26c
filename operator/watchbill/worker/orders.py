"""Orders to a worker: to drain, to stop tasks, to end with its crew.

A worker hears each order twice: at once on a channel, which loses it while the store is away, and with the next renewal
of its lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import redis.asyncio

from watchbill.errors import StoreRefuses
from watchbill.loggers import Logger
from watchbill.store import control, incarnations
from watchbill.store.queue import Queue, Renewed, crew_gone
from watchbill.worker.execution import results
from watchbill.worker.jobs import Jobs
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

HEAR_AGAIN_SECONDS: Final = 60.0
"""Seconds after which a worker that may not listen tries again: the right may be given meanwhile."""


class Orders:
    """The orders to one worker."""

    def __init__(self, state: WorkerState, queue: Queue, jobs: Jobs, lease_ms: int) -> None:
        self._state = state
        self._queue = queue
        self._jobs = jobs
        self._lease_ms = lease_ms

    async def listen(self) -> None:
        """Follows the orders on the crew's channel until it is cancelled."""
        state, queue = self._state, self._queue
        while True:
            try:
                async for what, ids in control.heard(queue.client, queue.keys):
                    if what == "drain":
                        self.drain(await state.persist(self._is_draining))
                    elif what == "gone":
                        if ids == (queue.uid,) and await state.persist(self._is_gone):
                            state.deleted = True
                            state.end_incarnation(state.incarnation.name, crew_gone(queue.keys))
                    elif what in ("deliver", "listening"):  # it may have been said before
                        state.may_deliver.set()
                    elif what in results.STOPPED:  # else it is from a newer version, or from a stranger
                        await self._stop_tasks(ids)
            except (StoreRefuses, redis.exceptions.RedisError) as error:  # a right that is missing, say
                seconds = self._lease_ms / 3000
                logger.error("can't listen, so what is cancelled is heard of every %.3g s: %s", seconds, error)
            await state.clock.sleep(HEAR_AGAIN_SECONDS)

    def renewed(self, incarnation: str, renewed: Renewed) -> None:
        """Follows the orders that came with the answer to a renewal."""
        if incarnation == self._state.incarnation.name:
            self.drain(renewed.draining)
            self._jobs.stop(self._state.incarnation, renewed.wishes)

    def drain(self, on: bool) -> None:
        """Makes the worker claim no more, or again."""
        state = self._state
        if on is state.draining:
            return
        state.draining = on
        state.has_work = state.has_work or not on
        if on:
            logger.warning("told to drain: claiming no more, until it is taken back (watchbill drain --off)")
        else:
            logger.warning("told to go on: claiming again")
        state.wake.set()

    async def _stop_tasks(self, ids: Sequence[str]) -> None:
        own = self._state.incarnation
        if ours := [task_id for task_id in ids if task_id in own.jobs or task_id in own.claimed]:
            wishes = await self._state.persist(lambda: control.wishes(self._queue.client, self._queue.keys, ours))
            self._jobs.stop(self._state.incarnation, wishes)

    async def _is_gone(self) -> bool:
        return await control.is_gone(self._queue.client, self._queue.keys, self._queue.uid)

    async def _is_draining(self) -> bool:
        worker = incarnations.worker(self._state.incarnation.name)
        return await control.is_draining(self._queue.client, self._queue.keys, worker)
