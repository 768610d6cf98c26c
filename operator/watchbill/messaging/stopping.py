"""Ways for `stop` to end work on a server that stands still, and so would answer only when the client gives it up."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

import redis

from watchbill.clock import SYSTEM
from watchbill.messaging.steps import Pause, Run, Step

STOP_SECONDS: Final = 1.5
"""After `stop`, the server has so long for an answer."""
POLL_SECONDS: Final = 0.1
"""A thread that waits for an answer checks so often whether it is to stop."""


class Helper:
    """Takes steps in a thread of its own, so that the caller can leave an answer to itself. Functions of the user are
    called in the caller's thread. A context manager."""

    def __init__(self, take: Callable[[Step], Any], is_stopped: Callable[[], bool]) -> None:
        self._take = take
        self._is_stopped = is_stopped
        self._steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        self._is_left = False

    def __enter__(self) -> Helper:
        threading.Thread(target=self._work, name="watchbill stream", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.put(None)  # a thread whose answer was left to itself ends once it has that

    def take(self, step: Step) -> Any:
        """Takes a step. Raises redis-py's TimeoutError if there is no answer STOP_SECONDS after the stop."""
        if isinstance(step, Run | Pause):
            return self._take(step)
        if not self._is_left:
            self._steps.put(step)
        answer, error = self._answer()
        if error is not None:
            raise error
        return answer

    def _answer(self) -> tuple[Any, Exception | None]:
        ends_at = None
        while not self._is_left:
            try:
                return self._answers.get(timeout=POLL_SECONDS)
            except queue.Empty:
                now = SYSTEM.monotonic()
                if ends_at is None and self._is_stopped():
                    ends_at = now + STOP_SECONDS
                self._is_left = ends_at is not None and now >= ends_at
        return None, redis.exceptions.TimeoutError("the server doesn't answer, and stop() was called")

    def _work(self) -> None:
        while (step := self._steps.get()) is not None:
            try:
                self._answers.put((self._take(step), None))
            except Exception as error:
                self._answers.put((None, error))


class Limits:
    """Takes steps of coroutines, each of which ends STOP_SECONDS after the stop."""

    def __init__(self, take: Callable[[Step], Awaitable[Any]], is_stopped: Callable[[], bool]) -> None:
        self._take = take
        self._is_stopped = is_stopped
        self._open: dict[asyncio.Timeout, asyncio.AbstractEventLoop] = {}

    async def take(self, step: Step) -> Any:
        """Takes a step. Raises TimeoutError if there is no answer STOP_SECONDS after the stop."""
        if isinstance(step, Run):
            return await self._take(step)
        async with asyncio.timeout(STOP_SECONDS if self._is_stopped() else None) as limit:
            self._open[limit] = asyncio.get_running_loop()
            try:
                return await self._take(step)
            finally:
                del self._open[limit]

    def stop(self) -> None:
        """Begins the time of the steps that are being taken. May be called in any thread."""
        for limit, loop in list(self._open.items()):
            loop.call_soon_threadsafe(self._begin, limit, loop)

    def _begin(self, limit: asyncio.Timeout, loop: asyncio.AbstractEventLoop) -> None:
        if limit in self._open and limit.when() is None:
            limit.reschedule(loop.time() + STOP_SECONDS)
