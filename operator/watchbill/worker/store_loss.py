"""Brings results through a store that has lost all it had (docs/design/queue.md): agents go on, and what they return is
written once the store has the same crew back. The first worker to see that says so on the crew's feed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from watchbill.clock import wait_for_event
from watchbill.store import definitions
from watchbill.store.queue import Finished, Queue
from watchbill.worker.execution import results
from watchbill.worker.reports import Reports
from watchbill.worker.state import WorkerState

OUTLAST_SECONDS: Final = 60.0
"""Seconds that a worker waits for a crew that the store has lost; whoever manages the crew may bring it back."""
_POLL_SECONDS: Final = 0.25


class StoreLoss:
    """The recovery of incarnations whose tasks the store has lost (`WorkerState.unrecovered`)."""

    def __init__(
        self,
        state: WorkerState,
        queue: Queue,
        reports: Reports,
        to_write: Callable[[Finished], Finished | None],
        born: str,
    ) -> None:
        """`to_write` returns what is written of an end; None: nothing. `born`: since when the store knew the crew when
        the worker started."""
        self._state = state
        self._queue = queue
        self._reports = reports
        self._to_write = to_write
        self._born = born

    async def crew_is_back(self) -> bool:
        """Waits until the store has the crew again. False: it was deleted or replaced, it takes too long, or the worker
        is to stop."""
        state, queue = self._state, self._queue
        until = state.clock.monotonic() + OUTLAST_SECONDS
        while True:
            there = await state.persist(lambda: definitions.identity(queue.client, queue.keys))
            if there.uid == queue.uid and await state.persist(self._record):
                return True
            is_late = state.clock.monotonic() >= until
            if there.uid or there.leaving or state.deleted or state.stopping or is_late:
                return False
            if await wait_for_event(state.wake, _POLL_SECONDS, state.clock):
                await state.clock.sleep(0.05)
            state.wake.clear()

    async def _record(self) -> bool:
        return await definitions.record_loss(self._queue.client, self._queue.keys, self._queue.uid, self._born)

    async def write(self) -> None:
        """Writes the results that earlier incarnations have."""
        for old in list(self._state.unrecovered):
            ended = list(old.finished)
            written = [(end, made) for end in ended if (made := self._to_write(end)) is not None]
            finished = [made for _, made in written]
            outcomes = await self._state.persist(partial(self._queue.recover, finished, old.born))
            self._reports.account(finished, outcomes)
            for (end, made), outcome in zip(written, outcomes, strict=True):
                if made is not end:  # the log has told the others' ends
                    results.log_fate(made, self._queue.keys.crew, outcome)
            del old.finished[: len(ended)]  # only now: the store may have lost the crew again
            if not old.jobs and not old.finished:
                self._state.unrecovered.remove(old)
