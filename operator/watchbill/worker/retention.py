"""A worker keeps what its crew's work has left behind within bounds (store/retention.py), beside its tasks."""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from typing import Final

import redis
from pydantic import ValidationError

from watchbill.connection import Persist
from watchbill.errors import CrewGone, NotFound
from watchbill.store import definitions, retention
from watchbill.store.definitions import Current
from watchbill.store.queue import Changed, Queue

logger = logging.getLogger("watchbill.worker")

KEEP_SECONDS: Final = 5.0
"""How often a worker looks, give or take a half, so that those of a crew don't look together."""
KEEP_AGAIN_SECONDS: Final = 1.0
"""After something went: more may be ending all the time."""


async def keep(queue: Queue, current: Current, persist: Persist) -> None:
    """Until it is cancelled. `current`: the crew's definition as last seen; a new one counts from the next look on."""
    while True:
        went = 0
        try:
            current, went = await _look(queue, current, persist)
        except (CrewGone, NotFound):
            pass  # the worker learns it by itself
        except (redis.exceptions.RedisError, ValidationError) as error:
            logger.warning("can't keep finished tasks within their bounds: %s", error)
        await asyncio.sleep((KEEP_AGAIN_SECONDS if went else KEEP_SECONDS) * random.uniform(0.5, 1.5))


async def _look(queue: Queue, current: Current, persist: Persist) -> tuple[Current, int]:
    """The definition that counted, and how much went."""
    while True:
        try:
            return current, await persist(partial(retention.keep, queue.client, queue.keys, queue.uid, current))
        except Changed:
            current = await persist(partial(definitions.current, queue.client, queue.keys))
