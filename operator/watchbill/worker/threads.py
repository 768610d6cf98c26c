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

T = TypeVar("T")


async def run_in_thread(function: Callable[..., T], *args: Any) -> T:
    """What `function` returns. Python can't stop a thread, so cancelling doesn't end the wait: who waits knows when the
    thread has really ended. Only closing the coroutine does."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only where T is None

    def target() -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            result = context.run(function, *args)
        except StopIteration as stop:  # a future refuses it
            error = RuntimeError(f"StopIteration: {stop}")
            error.__cause__ = stop
        except BaseException as failure:  # SystemExit of an agent ends the task, not the worker
            error = failure if isinstance(failure, Exception) else RuntimeError(f"{type(failure).__name__}: {failure}")
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=target, name="watchbill-agent", daemon=True).start()
    while True:
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            continue
