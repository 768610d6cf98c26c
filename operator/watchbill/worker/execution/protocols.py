"""The interface between a worker and the work that it runs: `executor.py` for tasks of agents, `worker/delivering/` for
deliveries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from watchbill.agents.context import Tell
from watchbill.store.queue import Claimed, Finished
from watchbill.worker.execution.attempt import End


class RunningAttempt(Protocol):
    """An attempt at a task, from its beginning to its end."""

    def stop(self, why: Literal["cancelled", "interrupted"], within_seconds: float) -> None:
        """Ends it for this reason, after so many seconds at the latest."""
        ...

    def cancel(self) -> None:
        """Ends it without a report."""
        ...


class Executes(Protocol):
    """The interface of what begins attempts. executor.py says what each method does."""

    def must_read(self, task: Claimed) -> bool: ...
    async def read(self, task: Claimed) -> tuple[Mapping[str, Any], Mapping[str, Any]]: ...
    def begin(
        self, task: Claimed, tell: Tell, end: End, inputs: Mapping[str, Any] = ..., outputs: Mapping[str, Any] = ...
    ) -> RunningAttempt | None: ...
    def failed(self, task: Claimed, error: Exception) -> Finished: ...
    def broken(self, task: Claimed, failure: BaseException) -> Finished: ...
    async def close(self) -> None: ...
