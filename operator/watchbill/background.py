"""Work in the background that nobody awaits: what ends it by mistake is told, counted, and mended by beginning anew."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from watchbill import metrics
from watchbill.clock import SYSTEM, Clock
from watchbill.loggers import Logger

logger = Logger("watchbill.background")

FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 60.0


def start(name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """`supervise` as a task. Whoever started it cancels it."""
    return asyncio.create_task(supervise(name, work), name=name)


def is_cancelled() -> bool:
    """Returns whether somebody has cancelled the current asyncio task. If not, a CancelledError is a library's, that
    nobody asked for."""
    return (ours := asyncio.current_task()) is None or bool(ours.cancelling())


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancels the tasks, and returns when all have ended. What they raised is dropped."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def supervise(name: str, work: Callable[[], Coroutine[Any, Any, None]], clock: Clock = SYSTEM) -> None:
    """Does `work()` until it returns, or this is cancelled. Whenever it raises, it begins anew after a growing pause.
    `name` is in the log and in the metric: one of a few."""
    failures = 0
    while True:
        began = clock.monotonic()
        try:
            await work()
            return
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            fault = error
        failures = 1 if clock.monotonic() - began > LONGEST_PAUSE_SECONDS else failures + 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.5)
        metrics.BACKGROUND_RESTARTS.labels(name).inc()
        logger.error("%s failed, and begins anew in %.1f s", name, pause, exc_info=fault)
        await clock.sleep(pause)
