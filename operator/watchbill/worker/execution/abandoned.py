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
from watchbill.clock import Clock, PatientTimer
from watchbill.loggers import Logger

logger = Logger("watchbill.worker")

CLEAN_UP_SECONDS: Final = 1.0
"""Seconds that a cancelled agent may take to clean up before it counts as one that won't."""
DIE_SECONDS: Final = 60.0
"""Seconds that a killed process may take to end: nothing but the kernel can hold it, and a busy machine."""


@dataclass(slots=True)
class _Left:
    agent: str
    task: str
    advice: str
    since: float
    """The time at which it was asked to stop, by the clock's `monotonic`."""
    overdue: bool = False


class Abandoned:
    """The abandoned agents of one worker."""

    def __init__(self, crew: str, on_change: Callable[[int, int], None], clock: Clock) -> None:
        """`on_change` gets how many there are, and how many are overdue: they had their time to clean up, so something
        is wrong with them."""
        self._on_change = on_change
        self._clock = clock
        self._left: dict[asyncio.Task[None], _Left] = {}
        self._gauge = metrics.ABANDONED.labels(*metrics.of_crew(crew))

    def add(
        self,
        call: asyncio.Task[None],
        agent: str,
        task: str,
        advice: str,
        since: float,
        seconds: float = CLEAN_UP_SECONDS,
    ) -> None:
        """Counts an agent as abandoned until `call` ends; `seconds` after `since` as overdue. `since`: when it was
        asked to stop, by the clock's `monotonic`. `advice` says what its author should do."""
        self._left[call] = _Left(agent, task, advice, since)
        self._gauge.inc()
        call.add_done_callback(self._ended)
        # Patient, because a worker may end for that: an agent on a machine that stood still has cleaned up soon.
        PatientTimer(self._clock, since + seconds - self._clock.monotonic(), self._mark_overdue, call)
        self._changed()

    def _changed(self) -> None:
        self._on_change(len(self._left), sum(left.overdue for left in self._left.values()))

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
        """Lets agents that have only just been asked to stop clean up, then ends those that are left where they stand
        (threads go on until the process ends)."""
        if not self._left:
            return
        moment = max(left.since for left in self._left.values()) + CLEAN_UP_SECONDS - self._clock.monotonic()
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
        self._changed()
