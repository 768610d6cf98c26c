"""The interface between a worker and the work that it runs: `executor.py` for tasks of agents, `worker/delivering/` for
deliveries."""

from __future__ import annotations

import asyncio
from typing import Literal, Protocol

from watchbill.agents.asking import Line
from watchbill.agents.steps import Checkpoints
from watchbill.store.queue import Claimed, Finished
from watchbill.worker.execution.attempt import End
from watchbill.worker.execution.reading import Read
from watchbill.worker.execution.shared_lease import SharedLease


class RunningAttempt(Protocol):
    """An attempt at a task, from its beginning to its end."""

    def stop(self, why: Literal["cancelled", "interrupted"], within_seconds: float) -> None:
        """Ends it for this reason, after so many seconds at the latest."""
        ...

    def cancel(self) -> None:
        """Ends it without a report."""
        ...


class ConnectCheckpoints(Protocol):
    """Makes the way to the checkpoints of one attempt's task."""

    def __call__(self, lease: SharedLease, loop: asyncio.AbstractEventLoop, /) -> Checkpoints: ...


class Executes(Protocol):
    """The interface of what begins attempts. executor.py says what each method does."""

    def at_hand(self, task: Claimed) -> Read | None: ...
    async def read(self, task: Claimed) -> Read: ...
    def begin(
        self,
        task: Claimed,
        line: Line,
        end: End,
        read: Read = ...,
        *,
        connect_checkpoints: ConnectCheckpoints | None = ...,
    ) -> RunningAttempt | None: ...
    def failed(self, task: Claimed, error: Exception) -> Finished: ...
    def broken(self, task: Claimed, failure: BaseException) -> Finished: ...
    def lost(self, finished: Finished) -> Finished | None: ...
    async def close(self) -> None: ...
