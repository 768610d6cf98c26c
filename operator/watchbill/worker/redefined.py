"""A worker takes up another definition of its crew: its claims name the agents that have roles now, and it looks
through parked tasks, since an agent may have got their role.
"""

from __future__ import annotations

import asyncio
from typing import Final

import redis

from watchbill.errors import WatchbillError
from watchbill.store import definitions
from watchbill.store.queue import Queue
from watchbill.worker.state import WorkerState

AGAIN_SECONDS: Final = 2.0
"""Seconds until the definition is read again where that has failed: no claim may tell of it once more."""


async def take_up(state: WorkerState, queue: Queue, parked: asyncio.Event) -> None:
    """Runs until it is cancelled. Sets `parked` for each other definition: an agent may have got a role."""
    feeds = queue.role_feeds
    while True:
        await feeds.redefined.wait()
        feeds.redefined.clear()
        try:
            current = await state.persist(lambda: definitions.current(queue.client, queue.keys))
            feeds.take_up(current.definition, current.digest)
        except (WatchbillError, redis.exceptions.RedisError):  # NotFound, say: the crew may come back
            await state.clock.sleep(AGAIN_SECONDS)
            feeds.redefined.set()
        else:
            parked.set()
