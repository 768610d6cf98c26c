"""Runs blocking agents beside the event loop, in daemon threads.

Not an executor of the standard library: its threads are joined at exit, so one stuck agent would keep the
process from ever ending, and a bounded pool of them would starve the others.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from watchbill.worker.execution import failures

T = TypeVar("T")


async def run_in_thread(function: Callable[..., T], *args: Any) -> T:
    """Runs `function` in a thread of its own, and returns or raises what it does. Python can't stop a thread, so
    cancelling doesn't end the wait, and the caller knows when the thread has really ended. Only closing the coroutine
    ends the wait."""
    loop = asyncio.get_running_loop()
    # An error travels as a value: asyncio would complain of an exception that nobody waits for any more.
    future: asyncio.Future[tuple[T | None, Exception | None]] = loop.create_future()
    context = contextvars.copy_context()

    def target() -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            result = context.run(function, *args)
        except BaseException as failure:
            kind = type(failure)
            if issubclass(kind, Exception) and not issubclass(kind, StopIteration):
                error = failure  # type: ignore[assignment]
            else:  # SystemExit of an agent ends the task, not the worker; and a coroutine may raise no StopIteration
                error = RuntimeError(failures.describe(failure))
                error.__cause__ = failure
        try:
            loop.call_soon_threadsafe(future.set_result, (result, error))
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=target, name="watchbill-agent", daemon=True).start()
    while True:
        try:
            result, error = await asyncio.shield(future)
            break
        except asyncio.CancelledError:
            continue
    if error is not None:
        try:
            raise error
        finally:
            del error  # its traceback knows this frame: a circle
    return result  # type: ignore[return-value]  # None only where T is None
