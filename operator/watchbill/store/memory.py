"""Asks how full the memory of the store is. Only reads, within the rights that docs/redis.md lists."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio

from watchbill import connection
from watchbill.connection import outages


async def used(client: redis.asyncio.Redis) -> float:
    """Returns how much of its `maxmemory` the fullest master uses, as a part of 1; 0 where none has a bound.

    Masters that don't answer are left out. Raises StoreUnavailable where none does, StoreRefuses where INFO is
    forbidden.
    """
    with outages.translated():
        servers = (await connection.masters(client)).values()
        replies = await asyncio.gather(*(server.info("memory") for server in servers), return_exceptions=True)
        if all(isinstance(reply, BaseException) for reply in replies):
            raise next(reply for reply in replies if isinstance(reply, BaseException))
    return max((_part(reply) for reply in replies), default=0.0)


def _part(reply: Any) -> float:
    bound = int(reply.get("maxmemory", 0)) if isinstance(reply, dict) else 0
    return int(reply["used_memory"]) / bound if bound else 0.0
