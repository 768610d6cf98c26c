"""A worker keeps what its crew's work has left behind within bounds (store/retention.py), beside its tasks."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import redis

from watchbill.connection.outages import Persist
from watchbill.errors import CrewGone, NewerRecord, NotFound
from watchbill.loggers import Logger
from watchbill.store import definitions, retention
from watchbill.store.definitions import Current
from watchbill.store.queue import Changed, Queue

logger = Logger("watchbill.worker")

KEEP_SECONDS: Final = 5.0
"""How often a worker looks, give or take a half, so that those of a crew don't look together."""
KEEP_AGAIN_SECONDS: Final = 1.0
"""After something went: more may be ending all the time."""
KEEP_IDLE_SECONDS: Final = 60.0
"""After that it looks though nothing has ended here: thousands of workers may have nothing to do."""


async def keep(queue: Queue, current: Current, persist: Persist, ended: Callable[[], int]) -> None:
    """Until it is cancelled. `current`: the crew's definition as last seen; a new one counts from the next look on.
    `ended` tells how many tasks have ended here."""
    looked, looked_at, went = -1, 0.0, 0
    while True:
        now, number = time.monotonic(), ended()
        if number == looked and not went and now < looked_at + KEEP_IDLE_SECONDS:
            await asyncio.sleep(_pause(KEEP_SECONDS))
            continue
        went = 0
        try:
            current, went = await _look(queue, current, persist)
            looked, looked_at = number, now
        except (CrewGone, NotFound):
            pass  # the worker learns it by itself
        except NewerRecord as error:  # workers that can read it keep the bounds
            logger.debug("can't keep finished tasks within their bounds: %s", error)
        except redis.exceptions.RedisError as error:
            logger.warning("can't keep finished tasks within their bounds: %s", error)
        await asyncio.sleep(_pause(KEEP_AGAIN_SECONDS if went else KEEP_SECONDS))


def _pause(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.5)


async def _look(queue: Queue, current: Current, persist: Persist) -> tuple[Current, int]:
    """The definition that counted, and how much went."""
    while True:
        try:
            return current, await persist(partial(retention.keep, queue.client, queue.keys, queue.uid, current))
        except Changed:
            current = await persist(partial(definitions.current, queue.client, queue.keys))
