"""Agents that still run though nobody waits for them: they swallowed their cancellation, or their thread goes on.

Each holds its slot until it really ends, so that a worker never runs more agents at once than it has slots. Stops
nobody, except at the worker's own end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from watchbill import metrics
from watchbill.loggers import Logger

logger = Logger("watchbill.worker")

CLEAN_UP_SECONDS: Final = 1.0
"""How long a cancelled agent may take to clean up before it counts as one that won't."""


@dataclass(slots=True)
class _Left:
    agent: str
    task: str
    advice: str
    since: float
    """When it was asked to stop, by the loop's clock."""
    overdue: bool = False


class Abandoned:
    """The abandoned agents of one worker. `changed` is called when one counts as overdue, and when one ends."""

    def __init__(self, crew: str, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._left: dict[asyncio.Task[None], _Left] = {}
        self._gauge = metrics.ABANDONED.labels(crew)

    def __len__(self) -> int:
        return len(self._left)

    @property
    def overdue(self) -> int:
        """Those that had their time to clean up: something is wrong with them."""
        return sum(left.overdue for left in self._left.values())

    def add(self, call: asyncio.Task[None], agent: str, task: str, advice: str, since: float) -> None:
        """`call` ends when the agent does, which was asked to at `since`; `advice`: what its author should do."""
        self._left[call] = _Left(agent, task, advice, since)
        self._gauge.inc()
        call.add_done_callback(self._ended)
        loop = asyncio.get_running_loop()
        loop.call_at(max(since + CLEAN_UP_SECONDS, loop.time()), self._mark_overdue, call)

    def _mark_overdue(self, call: asyncio.Task[None]) -> None:
        left = self._left.get(call)
        if left is None or left.overdue:
            return
        left.overdue = True
        logger.warning(
            "agent %r with task %s still runs, though it was told to stop; it holds its slot until it ends. %s",
            left.agent,
            left.task,
            left.advice,
        )
        self._changed()

    def _ended(self, call: asyncio.Task[None]) -> None:
        if not call.cancelled():
            call.exception()  # one that was closed has one, and nobody else asks for it
        left = self._left.pop(call, None)
        if left is None:
            return
        self._gauge.dec()
        if left.overdue:
            logger.info("agent %r with task %s has ended at last: its slot is free", left.agent, left.task)
        self._changed()

    async def close(self) -> None:
        """Gives those that have only just been asked their moment; then those that are left are ended where they stand
        (threads go on until the process ends)."""
        if not self._left:
            return
        moment = max(left.since for left in self._left.values()) + CLEAN_UP_SECONDS - asyncio.get_running_loop().time()
        if moment > 0:
            await asyncio.wait(list(self._left), timeout=moment)
        for call in list(self._left):
            self._mark_overdue(call)
            with suppress(RuntimeError, ValueError):  # it swallows even this, or is just running
                coroutine: Any = call.get_coro()
                coroutine.close()
            call.cancel()
            self._gauge.dec()
        self._left.clear()
