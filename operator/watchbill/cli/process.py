"""Runs an event loop that hears signals: the first asks for an orderly stop, the next ones for a quick one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from watchbill import init
from watchbill.cli import failures, output
from watchbill.tracing import switch

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
ORDERLY_SECONDS: Final = 5.0
"""Seconds for the process to end after its work has ended."""


class Interrupted(Exception):
    """A signal came before the end of the work."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class Signals:
    """A queue of SIGINT and SIGTERM."""

    def __init__(self) -> None:
        self._came: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._came.put_nowait, int(number))

    async def next(self) -> int:
        """Waits for the next signal."""
        return await self._came.get()

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`. A signal cancels it; once it has cleaned up, Interrupted is raised.

        Another signal cancels the clean-up, too.
        """
        task = asyncio.ensure_future(work)
        number = 0
        try:
            while not task.done():
                came = asyncio.ensure_future(self.next())
                await asyncio.wait({task, came}, return_when=asyncio.FIRST_COMPLETED)
                if came.done():
                    number = number or came.result()
                    task.cancel()
                else:
                    came.cancel()
        finally:
            task.cancel()
        if number and task.cancelled():
            raise Interrupted(number)
        return task.result()


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancels tasks, and waits until they have ended. Their errors are dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run(work: Callable[[Signals], Coroutine[Any, Any, int]]) -> int:
    """Runs `work` on a loop of its own, on uvloop where there is one. Returns the exit code."""
    init.imported()
    runner = asyncio.Runner(loop_factory=_loop_factory())
    code = failures.FAILED
    failed: Exception | None = None
    try:
        code = runner.run(_heeding(work))
    except Exception as error:
        failed = error
        raise
    finally:
        # The loop waits for the threads of its pool; what agents left behind there may never end.
        call_off = init.force(ORDERLY_SECONDS, lambda: _end_now(failures.report(failed) if failed else code))
        runner.close()
        switch.off()
        call_off()
    return code


def _end_now(code: int) -> None:
    for stream in (output.stdout(), sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


async def _heeding(work: Callable[[Signals], Coroutine[Any, Any, int]]) -> int:
    try:
        return await work(Signals())
    except Interrupted as error:
        return 128 + error.number


def run_guarded(work: Coroutine[Any, Any, int]) -> int:
    """Runs work that may end at any point: a signal cancels it. Returns the exit code."""
    return run(lambda signals: signals.guard(work))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
