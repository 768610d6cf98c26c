"""Ids of tasks and runs that have not ended. Only reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import redis.asyncio

from watchbill.connection import outages
from watchbill.names import CrewKeys
from watchbill.store.queue import BATCH

FAR: Final = "(1e13"
"""Scores in `ids` lie above this for what is unfinished, and below for what has ended (FAR in scripts/lib.lua)."""


async def newest(client: redis.asyncio.Redis, keys: CrewKeys, limit: int = 100) -> list[str]:
    """At most `limit` ids, newest first."""
    with outages.translated():
        found = await client.zrange(keys.ids, "+inf", FAR, byscore=True, desc=True, offset=0, num=limit)
    return [str(task_id) for task_id in found]


async def pages(client: redis.asyncio.Redis, keys: CrewKeys) -> AsyncIterator[list[str]]:
    """All ids, oldest first; without those of work that comes meanwhile."""
    with outages.translated():
        newest_now: Any = await client.zrange(
            keys.ids, "+inf", FAR, byscore=True, desc=True, offset=0, num=1, withscores=True
        )
    after: str | float = FAR
    told: set[str] = set()  # of those with the score `after`, at which the next page begins: many may have the same
    while newest_now:
        with outages.translated():
            page: Any = await client.zrange(
                keys.ids, after, newest_now[0][1], byscore=True, offset=0, num=BATCH + len(told), withscores=True
            )
        found = [one for one in page if one[0] not in told][:BATCH]
        if not found:
            return
        last = found[-1][1]
        told = {task_id for task_id, score in found if score == last} | (told if last == after else set())
        after = last
        yield [task_id for task_id, _ in found]
