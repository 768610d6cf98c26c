"""Reading the event streams of a crew, an agent or a run. They are written by the queue's scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import redis.asyncio
from pydantic import ValidationError

from watchbill import connection
from watchbill.connection import outages
from watchbill.errors import InvalidInput, Problem
from watchbill.events import RETENTION_SECONDS, CrewEvent, Gap
from watchbill.loggers import Logger
from watchbill.names import CrewKeys

logger = Logger("watchbill.client")

BLOCK_MS: Final = 2000
POLL_SECONDS: Final = 0.5
"""How often a follower looks where too many others on its client wait at the server already."""
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
    with outages.translated():
        return _parse(await client.xrange(key, f"({after}", "+", count=count))


async def recent(client: redis.asyncio.Redis, key: str, count: int = 20) -> list[tuple[str, CrewEvent]]:
    """The newest `count` events, oldest of them first."""
    with outages.translated():
        return _parse(await client.xrevrange(key, count=count))[::-1]


async def last_id(client: redis.asyncio.Redis, key: str) -> str:
    """The id of the newest event; BEGINNING where there is none."""
    with outages.translated():
        newest = await client.xrevrange(key, count=1)
    return str(newest[0][0]) if newest else BEGINNING


async def follow(
    client: redis.asyncio.Redis, key: str, after: str = BEGINNING
) -> AsyncIterator[tuple[str, CrewEvent | Gap]]:
    """Events later than the id `after`, in order and each once, as they come, without end. Outlasts outages.

    Where events behind the last one told may be gone, that is told by a Gap, and it goes on with what there is: the
    follower was outrun, or the stream isn't the one that `after` is from (lost, replaced, or expired meanwhile).
    """
    place = _place(after)
    seen_all = False  # when we last looked there was nothing behind `place`
    while True:
        batch = await outages.persist(lambda: _next(client, key, place))  # noqa: B023 - awaited here
        if batch:
            if place != _START and not await outages.persist(lambda: client.xrange(key, _id(place), _id(place))):  # noqa: B023
                yield _id(place), Gap(after_id=_id(place))
            for told in _parse(batch):
                yield told
            place, seen_all = _place(str(batch[-1][0])), False
            continue
        last = _place(await outages.persist(lambda: last_id(client, key)))
        if last < place:
            expired = seen_all and last == _START and await outages.persist(lambda: _has_expired(client, place))  # noqa: B023
            if not expired:
                yield _id(place), Gap(after_id=_id(place))
            place = last
        seen_all = True


_START: Final = (0, 0)


async def _next(client: redis.asyncio.Redis, key: str, place: tuple[int, int]) -> Any:
    with connection.blocking(client) as may_block:
        entries: Any = await client.xread({key: _id(place)}, count=100, block=BLOCK_MS if may_block else None)
    if not entries:
        if not may_block:
            await asyncio.sleep(POLL_SECONDS)
        return []
    return entries[key][0] if isinstance(entries, dict) else entries[0][1]


async def _has_expired(client: redis.asyncio.Redis, place: tuple[int, int]) -> bool:
    """Whether a stream that ended here has gone by itself: it lives for so long after its last event."""
    seconds, _ = await client.time()
    return int(seconds) * 1000 >= place[0] + RETENTION_SECONDS * 1000


def _place(entry_id: str) -> tuple[int, int]:
    """The id of an event as its parts, which can be compared. Raises InvalidInput."""
    ms, _, number = entry_id.partition("-")
    parts = (ms, number or "0")
    if not all(part.isdecimal() and part.isascii() and len(part) < 20 for part in parts):
        fix = "Use one that an event came with, as in 1763689523123-0."
        raise InvalidInput(Problem(f"{entry_id!r} is not the id of an event", fix, path="after"))
    return int(ms), int(number or 0)


def _id(place: tuple[int, int]) -> str:
    return f"{place[0]}-{place[1]}"


def _parse(entries: Any) -> list[tuple[str, CrewEvent]]:
    """Without what can't be read (a newer version's, or another program's), which must not hide all others."""
    found = []
    for entry_id, fields in entries:
        try:
            found.append((str(entry_id), CrewEvent.model_validate_json(_text(fields["data"]))))
        except (KeyError, ValidationError) as error:
            logger.warning("event %s of %r can't be read, and is left out: %s", entry_id, fields, error)
    return found


def _text(data: str) -> str:
    """One event with bytes that aren't UTF-8 must not hide all others."""
    return data if data.isascii() else data.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
