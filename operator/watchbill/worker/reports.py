"""Reports to the store how tasks ended, in calls of its own: beside the loop's calls, at the end, and one result at a
time where the store refuses a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import redis

from watchbill import tracing
from watchbill.errors import CrewGone, Fenced, StoreRefuses, StoreUnavailable
from watchbill.loggers import Logger
from watchbill.names import STEP_SEPARATOR
from watchbill.store.queue import Finished, Queue, Transition
from watchbill.worker.counts import Counts
from watchbill.worker.execution import results
from watchbill.worker.incarnation import Incarnation
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

_SHOWN: Final = {"stale": "stale", "returned": "later", "stopped": "later"}
"""Answers of the store about an end → the outcome that is counted, where that is another one."""


class Reports:
    """The reports of one worker. At most one call is made beside the loop's."""

    def __init__(self, state: WorkerState, queue: Queue, counts: Counts) -> None:
        self._state = state
        self._queue = queue
        self._counts = counts
        self._beside: asyncio.Task[None] | None = None
        self.reported = 0
        """Number of ends that were reported to the store."""

    def send_beside(self, incarnation: Incarnation) -> None:
        """Sends results in a call of their own, unless one is on its way."""
        if self._beside is None:
            self._beside = asyncio.create_task(self._send(incarnation), name="results")

    async def settle(self, *, cancel: bool = False) -> None:
        """Waits for the call beside the loop's. Its results are then reported, or in `finished` again."""
        if self._beside is not None:
            if cancel:
                self._beside.cancel()
            await asyncio.gather(self._beside, return_exceptions=True)
            self._beside = None

    async def _send(self, incarnation: Incarnation) -> None:
        try:
            with incarnation.sending() as batch:
                outcomes, _ = await self._state.persist(lambda: self._queue.finish(incarnation.name, batch))
            self.account(batch, outcomes)
            self._counts.show(len(incarnation.jobs))
        except (Fenced, CrewGone) as error:
            self._state.end_incarnation(incarnation.name, error)
        # They are in `finished` again, for the next turn.
        except (StoreUnavailable, StoreRefuses, redis.exceptions.RedisError) as error:
            logger.debug("results could not be sent beside another call: %s", error)
        finally:
            self._beside = None
            self._state.wake.set()

    async def send_all(self, incarnation: Incarnation) -> None:
        """Sends all results, in as many calls as they take. Raises Fenced and CrewGone."""
        while incarnation.finished:
            with incarnation.sending() as batch:
                try:
                    outcomes, _ = await self._state.persist(lambda: self._queue.finish(incarnation.name, batch))
                except (redis.exceptions.ResponseError, redis.exceptions.DataError) as refusal:
                    await self.send_singly(incarnation, batch, refusal)
                    continue
            self.account(batch, outcomes)

    async def send_singly(self, incarnation: Incarnation, batch: list[Finished], refusal: Exception) -> None:
        """Sends the results of a batch that the store has refused, each by itself; an error takes the place of one that
        it refuses again. Results that are dealt with leave `batch`."""
        logger.error("a batch of %d results was refused; sending them one by one", len(batch), exc_info=refusal)
        while batch:
            finished = batch[0]
            for attempt in (finished, results.refused(finished)):
                try:
                    outcomes, _ = await self._state.persist(
                        lambda f=attempt: self._queue.finish(incarnation.name, [f])  # type: ignore[misc]
                    )
                except (redis.exceptions.ResponseError, redis.exceptions.DataError) as error:
                    logger.error("the store refuses the result of task %s: %s", finished.task.id, error)
                    continue
                self.account([attempt], outcomes)
                break
            del batch[0]

    def account(self, batch: Sequence[Finished], outcomes: Sequence[Transition]) -> None:
        """Counts what became of results, and the runs that ended with them."""
        self.reported += len(batch)
        for finished, outcome in zip(batch, outcomes, strict=True):
            if outcome == "stale":
                logger.warning("task %s ended here, but is no longer ours: nothing was stored", finished.task.id)
            elif finished.is_of_agent:
                results.log_fate(finished, self._queue.keys.crew, outcome)
            task, shown = finished.task, _SHOWN.get(outcome, finished.outcome)
            self._counts.ended(task.agent, shown, is_step=STEP_SEPARATOR in task.id)
        while self._queue.ended_runs:
            run_id, state, seconds = self._queue.ended_runs.pop()
            self._counts.run_ended(state, seconds)
            if tracing.active is not None:
                payload = next((ended.task.payload for ended in batch if ended.task.run_id == run_id), "")
                tracing.run_ended(self._queue.keys.crew, run_id, state, seconds, payload)
