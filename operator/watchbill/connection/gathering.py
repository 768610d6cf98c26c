"""Gathered reads of hashes: what is asked for within one turn of the event loop costs one trip for each hash."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import redis.asyncio


class GatheredReads:
    """Reads fields of hashes for many tasks of one event loop, which often want the same ones."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self._next: dict[str, tuple[dict[str, None], asyncio.Task[dict[str, str | None]]]] = {}
        """Key → the fields that are read together with the next turn of the event loop, and their reading."""

    async def hmget(self, key: str, fields: Sequence[str]) -> list[str | None]:
        """The values of these fields; None where there is none. Raises the errors of the client."""
        if key not in self._next:
            together: dict[str, None] = {}
            reading = asyncio.create_task(self._read(key, together))
            reading.add_done_callback(_see)
            self._next[key] = together, reading
        together, reading = self._next[key]
        together.update(dict.fromkeys(fields))
        found = await asyncio.shield(reading)  # others may wait for it, too
        return [found[name] for name in fields]

    async def _read(self, key: str, fields: dict[str, None]) -> dict[str, str | None]:
        del self._next[key]
        names = list(fields)
        values = await self.client.hmget(key, names)
        return {name: None if value is None else str(value) for name, value in zip(names, values, strict=True)}


Reads = redis.asyncio.Redis | GatheredReads


def _see(reading: asyncio.Task[dict[str, str | None]]) -> None:
    """Takes notice of an error for which nobody waits any more."""
    if not reading.cancelled():
        reading.exception()
