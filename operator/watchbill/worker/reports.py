"""Tells the store how tasks ended, beside the turns of the worker's loop, and where one of the results is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import redis

from watchbill.connection.outages import Persist
from watchbill.errors import CrewGone, Fenced, StoreUnavailable
from watchbill.loggers import Logger
from watchbill.store.queue import Finished, Queue
from watchbill.worker.counts import Counts
from watchbill.worker.execution import results
from watchbill.worker.incarnation import Incarnation

logger = Logger("watchbill.worker")


class Reports:
    """Those of one worker. One call at a time is made beside a turn's."""

    def __init__(
        self,
        queue: Queue,
        counts: Counts,
        persist: Persist,
        *,
        on_change: Callable[[], None],
        on_lost: Callable[[str, Exception], None],
    ) -> None:
        """`on_lost` is told of an incarnation that is no more."""
        self._queue = queue
        self._counts = counts
        self._persist = persist
        self._on_change = on_change
        self._on_lost = on_lost
        self._beside: asyncio.Task[None] | None = None
        self.reported = 0
        """How many ends the store has been told of."""

    def send_beside(self, me: Incarnation) -> None:
        """Results get a call of their own, unless one is on its way."""
        if self._beside is None:
            self._beside = asyncio.create_task(self._send(me), name="results")

    async def settle(self, *, cancel: bool = False) -> None:
        """What was sent beside is answered then, or in hand again."""
        if self._beside is not None:
            if cancel:
                self._beside.cancel()
            await asyncio.gather(self._beside, return_exceptions=True)
            self._beside = None

    async def _send(self, me: Incarnation) -> None:
        try:
            with me.sending() as batch:
                outcomes, _ = await self._persist(lambda: self._queue.finish(me.name, batch))
            self.account(batch, outcomes)
            self._counts.show(len(me.jobs))
        except (Fenced, CrewGone) as error:
            self._on_lost(me.name, error)
        except (StoreUnavailable, redis.exceptions.RedisError) as error:  # in hand again, for the next turn
            logger.debug("results could not be sent beside another call: %s", error)
        finally:
            self._beside = None
            self._on_change()

    async def send_singly(self, me: Incarnation, batch: list[Finished]) -> None:
        """Those that are dealt with leave `batch`, which is in hand again if this fails."""
        while batch:
            finished = batch[0]
            for attempt in (finished, results.refused(finished)):
                try:
                    outcomes, _ = await self._persist(lambda f=attempt: self._queue.finish(me.name, [f]))  # type: ignore[misc]
                except (redis.exceptions.ResponseError, redis.exceptions.DataError) as error:
                    logger.error("the store refuses the result of task %s: %s", finished.task.id, error)
                    continue
                self.account([attempt], outcomes)
                break
            del batch[0]

    def account(self, batch: Sequence[Finished], outcomes: Sequence[str]) -> None:
        """Counts what became of results."""
        self.reported += len(batch)
        for finished, outcome in zip(batch, outcomes, strict=True):
            if outcome == "stale":
                logger.warning("task %s ended here, but is no longer ours: nothing was stored", finished.task.id)
            self._counts.ended(finished.task.agent, outcome if outcome == "stale" else finished.outcome)
