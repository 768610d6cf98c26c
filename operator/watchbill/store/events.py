"""Reading the event streams of a crew, an agent or a run. They are written by the queue's scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import redis.asyncio

from watchbill.connection import persist, translated
from watchbill.events import CrewEvent, Gap
from watchbill.names import CrewKeys

BLOCK_MS: Final = 2000
BEGINNING: Final = "0-0"


def stream(keys: CrewKeys, *, agent: str | None = None, run: str | None = None) -> str:
    """The key of the run's stream, the agent's, or the whole crew's."""
    if run:
        return keys.run_events(run)
    return keys.agent_events(agent) if agent else keys.events


async def read(
    client: redis.asyncio.Redis, key: str, after: str = BEGINNING, count: int = 100
) -> list[tuple[str, CrewEvent]]:
    """Events later than the id `after` (exclusive), oldest first."""
    with translated():
        return _parse(await client.xrange(key, f"({after}", "+", count=count))


async def recent(client: redis.asyncio.Redis, key: str, count: int = 20) -> list[tuple[str, CrewEvent]]:
    """The newest `count` events, oldest of them first."""
    with translated():
        return _parse(await client.xrevrange(key, count=count))[::-1]


async def last_id(client: redis.asyncio.Redis, key: str) -> str:
    """The id of the newest event; BEGINNING where there is none."""
    with translated():
        newest = await client.xrevrange(key, count=1)
    return str(newest[0][0]) if newest else BEGINNING


async def follow(
    client: redis.asyncio.Redis, key: str, after: str = BEGINNING
) -> AsyncIterator[tuple[str, CrewEvent | Gap]]:
    """Events as they come, without end. A follower that was outrun is told so by a Gap, and goes on."""
    while True:
        entries: Any = await persist(lambda: client.xread({key: after}, count=100, block=BLOCK_MS))  # noqa: B023 - awaited here
        if not entries:
            continue
        batch = entries[key][0] if isinstance(entries, dict) else entries[0][1]
        if after != BEGINNING and not await persist(lambda: client.xrange(key, after, after)):  # noqa: B023
            yield after, Gap(after_id=after)
        for entry_id, event in _parse(batch):
            yield entry_id, event
        after = str(batch[-1][0])


def _parse(entries: Any) -> list[tuple[str, CrewEvent]]:
    return [(str(entry_id), CrewEvent.model_validate_json(_text(fields["data"]))) for entry_id, fields in entries]


def _text(data: str) -> str:
    """One event with bytes that aren't UTF-8 must not hide all others."""
    return data if data.isascii() else data.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
