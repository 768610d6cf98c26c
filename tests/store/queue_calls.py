"""Calls of the queue that several of its tests make."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from support import LEASE_MS, Crew, finished

from waiting import until
from watchbill import connection
from watchbill.errors import CrewGone, Fenced
from watchbill.store import checkpoints
from watchbill.store.queue import Claimed, Queue


async def every_call(crew: Crew, queue: Queue, tasks: Sequence[Claimed], incarnation: str) -> list[str]:
    """Makes every call that an incarnation may send, and returns the name of the error of each."""
    sync = connection.connect_sync(crew.url)
    raised = []
    try:
        for call in (
            lambda: queue.claim(incarnation, 1, 5, lease_ms=LEASE_MS, take_over=True),
            lambda: queue.claim(incarnation, 7, 5, lease_ms=LEASE_MS, take_over=True),
            lambda: queue.start(incarnation, tasks),
            lambda: queue.finish(incarnation, [finished(t) for t in tasks]),
            lambda: queue.finish(
                incarnation, [finished(t) for t in tasks], number=8, slots=5, lease_ms=LEASE_MS, take_over=True
            ),
            lambda: queue.say(incarnation, tasks[0], "hello", 99),
            lambda: checkpoints.store(queue, incarnation, tasks[0], 1, "s#1", "1"),
            lambda: checkpoints.stored(queue, incarnation, tasks[0]),
            lambda: queue.hand_back(incarnation, tasks),
            lambda: queue.park(incarnation, tasks, "not in this image"),
            lambda: asyncio.to_thread(queue.renew, sync, incarnation, LEASE_MS, "{}"),
        ):
            try:
                await call()
                raised.append("nothing")
            except (CrewGone, Fenced) as error:
                raised.append(type(error).__name__)
    finally:
        sync.close()
    return raised


async def expired(crew: Crew, key: str) -> None:
    async def expired() -> bool:
        return not await crew.client.exists(key)

    await until(expired)
