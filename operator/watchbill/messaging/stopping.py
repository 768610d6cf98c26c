"""Ways for `stop` to end work on a server that stands still, and so would answer only when the client gives it up."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

import redis

from watchbill.clock import SYSTEM, PatientTimer
from watchbill.messaging.steps import Acknowledge, Call, Pause, Run, Settle, Step

STOP_SECONDS: Final = 1.5
"""After `stop`, the server has so long for an answer."""
POLL_SECONDS: Final = 0.1
"""A thread that waits for an answer checks so often whether it is to stop."""


class Helper:
    """Takes steps in a thread of its own, so that the caller can leave an answer to itself. Functions of the user are
    called in the caller's thread. A context manager.

    The caller doesn't wait for acknowledgements, because to change threads for each of them costs more than they do;
    those that are given meanwhile are sent as one.
    """

    def __init__(self, take: Callable[[Step], Any], is_stopped: Callable[[], bool]) -> None:
        self._take = take
        self._is_stopped = is_stopped
        self._steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        self._is_left = False
        self._has_failed = False
        """True if an acknowledgement has failed since the last Settle."""
        self._thread = threading.Thread(target=self._work, name="watchbill stream", daemon=True)

    def __enter__(self) -> Helper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.put(None)  # a thread whose answer was left to itself ends once it has that
        if not self._is_left:
            self._thread.join(STOP_SECONDS)  # acknowledgements may be under way when a handler was interrupted

    def take(self, step: Step) -> Any:
        """Takes a step. Raises redis-py's TimeoutError if there is no answer STOP_SECONDS after the stop."""
        if isinstance(step, Run | Pause):
            return self._take(step)
        if not self._is_left:
            self._steps.put(step)
            if isinstance(step, Acknowledge):
                return not self._has_failed
        answer, error = self._answer()
        if error is not None:
            raise error
        return answer

    def _answer(self) -> tuple[Any, Exception | None]:
        polls = 0  # not the time: while the machine gives this process none, no answer can come
        while not self._is_left:
            try:
                return self._answers.get(timeout=POLL_SECONDS)
            except queue.Empty:
                polls += self._is_stopped()
                self._is_left = polls * POLL_SECONDS > STOP_SECONDS
        return None, redis.exceptions.TimeoutError("the server doesn't answer, and stop() was called")

    def _work(self) -> None:
        step = self._steps.get()
        while step is not None:
            if isinstance(step, Acknowledge):
                step = self._acknowledge(step)
                continue
            if isinstance(step, Settle):
                found = not self._has_failed
                self._has_failed = False
                self._answers.put((found, None))
            else:
                try:
                    self._answers.put((self._take(step), None))
                except Exception as error:
                    self._answers.put((None, error))
            step = self._steps.get()

    def _acknowledge(self, first: Acknowledge) -> Step | None:
        """Sends this acknowledgement, and with it those that are given already. Returns the step behind them."""
        messages, following = [first.message], list[Step | None]()
        with contextlib.suppress(queue.Empty):
            while not following:
                step = self._steps.get_nowait()
                if isinstance(step, Acknowledge):
                    messages.append(step.message)
                else:
                    following.append(step)
        try:
            self._take(Call(("XACK", first.key, first.group, *messages)))
        except Exception:  # whoever settles sends it again, and meets what is wrong
            self._has_failed = True
        return following[0] if following else self._steps.get()


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
        async with asyncio.timeout(None) as limit:
            loop = self._open[limit] = asyncio.get_running_loop()
            if self._is_stopped():
                self._begin(limit, loop)
            try:
                return await self._take(step)
            finally:
                del self._open[limit]

    def stop(self) -> None:
        """Begins the time of the steps that are being taken. May be called in any thread."""
        for limit, loop in list(self._open.items()):
            loop.call_soon_threadsafe(self._begin, limit, loop)

    def _begin(self, limit: asyncio.Timeout, loop: asyncio.AbstractEventLoop) -> None:
        PatientTimer(SYSTEM, STOP_SECONDS, self._end, limit, loop)

    def _end(self, limit: asyncio.Timeout, loop: asyncio.AbstractEventLoop) -> None:
        if limit in self._open and limit.when() is None:
            limit.reschedule(loop.time())
