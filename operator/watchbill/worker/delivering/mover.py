"""Moves what has ended from a crew's outbox onto its delivery queue. One worker of a crew at a time does so."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import redis.asyncio

from watchbill.errors import CrewGone, StoreRefuses, WatchbillError
from watchbill.loggers import Logger
from watchbill.names import CrewKeys
from watchbill.store import deliveries
from watchbill.worker.state import WorkerState

logger = Logger("watchbill.worker")

HOLD_SECONDS: Final = 5.0
"""Seconds that the others wait before one takes the place of a worker that moved, and has died."""
BLOCK_SECONDS: Final = 2.0
POLL_SECONDS: Final = 1.0
"""Seconds between two questions of a worker whether it is its turn."""
_REFUSED_SECONDS: Final = 10.0
_LEAVE_SECONDS: Final = 0.5


async def move(state: WorkerState, client: redis.asyncio.Redis, keys: CrewKeys, uid: str) -> None:
    """Runs until it is cancelled."""
    who = state.incarnation.name
    try:
        while True:
            try:
                if not await state.persist(lambda: deliveries.hold(client, keys, who, int(HOLD_SECONDS * 1000))):
                    await state.clock.sleep(POLL_SECONDS)
                elif await state.persist(lambda: deliveries.wait(client, keys, int(BLOCK_SECONDS * 1000))):
                    await state.persist(lambda: deliveries.move(client, keys, uid))
            except CrewGone:  # the shift hears it, too; the store may have lost it, and get it back
                await state.clock.sleep(POLL_SECONDS)
            except (StoreRefuses, redis.exceptions.RedisError):
                logger.exception("results can't be moved onto the delivery queue; trying again")
                await state.clock.sleep(_REFUSED_SECONDS)
    finally:
        with suppress(WatchbillError, redis.exceptions.RedisError, TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await deliveries.release(client, keys, who)
