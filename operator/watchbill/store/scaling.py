"""Keeps why a crew has as many workers as it has: the operator writes it, and whoever asks reads it."""

from __future__ import annotations

import redis.asyncio

from watchbill.connection import outages, scripts
from watchbill.names import CrewKeys
from watchbill.plan.scaling import Scaling


async def keep(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, scaling: Scaling) -> None:
    """Keeps the explanation, in place of the one before. Nothing is kept of a crew that was deleted or replaced."""
    with outages.translated():
        await scripts.run(client, "explain", keys.fixed, [uid, scaling.pack()])


async def last(client: redis.asyncio.Redis, keys: CrewKeys) -> Scaling | None:
    """Returns the explanation that was kept last; None: no operator has told of this crew yet."""
    with outages.translated():
        text = await client.hget(keys.meta, "scaling")
    return Scaling.unpack(str(text)) if text else None
