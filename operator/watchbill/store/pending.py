"""The entries that an incarnation holds by the store's account. Only reads.

After a failover that lost writes, or a restart that lost the last second, the store may still count what its holder has
finished since. The holder lives and renews, so nobody would ever take that over.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import redis.asyncio

from watchbill.connection import outages
from watchbill.names import CLASSES, WORKERS_GROUP, CrewKeys
from watchbill.store import packed
from watchbill.store.queue import BATCH, Claimed

_MOST: Final = 10_000


async def unknown(
    client: redis.asyncio.Redis, keys: CrewKeys, incarnation: str, known: Collection[str]
) -> list[Claimed]:
    """Returns the tasks that it holds beyond these entries; at most 500. Ask while no claim is under way, whose answer
    may come yet."""
    with outages.translated():
        async with client.pipeline(transaction=False) as pipe:
            for stream in keys.streams:
                pipe.xpending_range(stream, WORKERS_GROUP, "-", "+", _MOST, incarnation)
            pending: list[Any] = await pipe.execute(raise_on_error=False)
        entries = set()
        for of_class, found in zip(CLASSES, pending, strict=True):
            if isinstance(found, Exception):
                if "NOGROUP" in str(found):  # there is no such stream now
                    continue
                raise found
            entries |= {(of_class, entry["message_id"]) for entry in found if entry["message_id"] not in known}
        if not entries:
            return []
        holders = await client.hgetall(keys.holders)
    tasks = []
    for task_id, text in holders.items():
        h = packed.Holder.unpack(str(text))
        if h.incarnation == incarnation and (h.priority, h.entry) in entries:
            tasks.append(Claimed(str(task_id), h.fence, h.attempt, h.agent, h.entry, h.priority, taken_over=False))
    return tasks[:BATCH]
