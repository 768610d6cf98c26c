"""Reading the event streams of a crew, an agent or a run. Nearly all events are written by the queue's scripts; `emit`
writes those that no change of the store tells."""

from __future__ import annotations

import asyncio
import reprlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import redis.asyncio
from pydantic import ValidationError

from watchbill import connection
from watchbill.connection import outages, scripts
from watchbill.errors import InvalidInput, Problem
from watchbill.event_types import (
    AGENT_STREAM_MAX,
    CREW_STREAM_MAX,
    RETENTION_SECONDS,
    RUN_STREAM_MAX,
    Gap,
    TownEvent,
)
from watchbill.loggers import Logger
from watchbill.names import CrewKeys, TownKeys

logger = Logger("watchbill.client")

BLOCK_MS: Final = 2000
POLL_SECONDS: Final = 0.5
"""Seconds between two reads of a follower, where too many others on its client wait at the server already."""
BEGINNING: Final = "0-0"


def bounds(keys: CrewKeys | TownKeys, event: TownEvent) -> dict[str, int]:
    """The streams to which the event goes, each with how many entries it has at most: the whole town's or crew's; its
    agent's, its parent's and its child's, each once; its run's."""
    found = {keys.events: CREW_STREAM_MAX}
    found |= {keys.agent_events(agent): AGENT_STREAM_MAX for agent in event.agents}
    if event.mission_id is not None:
        found[keys.run_events(event.mission_id)] = RUN_STREAM_MAX
    return found


async def emit(client: redis.asyncio.Redis, keys: CrewKeys | TownKeys, event: TownEvent, data: str) -> dict[str, str]:
    """Writes the event, whose JSON is `data`, to all its streams in one call. Returns stream → id of the entry; nothing
    where there is no such crew."""
    most = bounds(keys, event)
    sent = keys.sent_event(uuid.uuid4().hex)
    is_crew = isinstance(keys, CrewKeys)
    names = [sent, keys.meta if isinstance(keys, CrewKeys) else sent, *most]
    args = [RETENTION_SECONDS if is_crew else "", event.event_type.value, data, *most.values()]
    with outages.translated():
        ids = await scripts.run(client, "events_emit", names, args)
    return {} if ids is None else dict(zip(most, _str(ids).split(), strict=True))


def stream(keys: CrewKeys, *, agent: str | None = None, run: str | None = None) -> str:
    """The key of the run's stream, the agent's, or the whole crew's."""
    if run:
        return keys.run_events(run)
    return keys.agent_events(agent) if agent else keys.events


async def read(
    client: redis.asyncio.Redis, key: str, after: str = BEGINNING, count: int = 100
) -> list[tuple[str, TownEvent]]:
    """Events later than the id `after` (exclusive), oldest first."""
    with outages.translated():
        return parsed(await client.xrange(key, f"({after}", "+", count=count))


async def read_from(
    client: redis.asyncio.Redis, key: str, first: str, count: int, skipped: Callable[[int], object]
) -> list[tuple[str, TownEvent]]:
    """At most `count` entries from the id `first` on (inclusive), oldest first; `skipped` is told how many of them
    can't be read. Raises InvalidInput for what is no id."""
    place = _id(_place(first, "last_id"))
    if not count:
        return []
    with outages.translated():
        entries = await client.xrange(key, place, "+", count=count)
    return _counted(entries, skipped)


async def recent(
    client: redis.asyncio.Redis, key: str, count: int = 20, skipped: Callable[[int], object] | None = None
) -> list[tuple[str, TownEvent]]:
    """The newest `count` events, oldest of them first; `skipped` is told how many of them can't be read."""
    if not count:
        return []
    with outages.translated():
        entries = await client.xrevrange(key, count=count)
    return _counted(entries, skipped)[::-1]


async def last_id(client: redis.asyncio.Redis, key: str) -> str:
    """The id of the newest event; BEGINNING where there is none."""
    with outages.translated():
        newest = await client.xrevrange(key, count=1)
    return str(newest[0][0]) if newest else BEGINNING


async def follow(
    client: redis.asyncio.Redis, key: str, after: str = BEGINNING
) -> AsyncIterator[tuple[str, TownEvent | Gap]]:
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
            for told in parsed(batch):
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
    """Returns whether a stream that ended here has expired: it lives for so long after its last event."""
    seconds, _ = await client.time()
    return int(seconds) * 1000 >= place[0] + RETENTION_SECONDS * 1000


def _place(entry_id: str, path: str = "after") -> tuple[int, int]:
    """The id of an event as its parts, which can be compared. Raises InvalidInput."""
    ms, _, number = entry_id.partition("-") if isinstance(entry_id, str) else ("", "", "")
    parts = (ms, number or "0")
    if not all(part.isdecimal() and part.isascii() and len(part) < 20 for part in parts):
        fix = "Use one that an event came with, as in 1763689523123-0."
        raise InvalidInput(Problem(f"{entry_id!r} is not the id of an event", fix, path=path))
    return int(ms), int(number or 0)


def _id(place: tuple[int, int]) -> str:
    return f"{place[0]}-{place[1]}"


def _counted(entries: Any, skipped: Callable[[int], object] | None) -> list[tuple[str, TownEvent]]:
    found = parsed(entries)
    if skipped is not None and (missing := len(entries) - len(found)):
        skipped(missing)
    return found


def parsed(entries: Any) -> list[tuple[str, TownEvent]]:
    """Parses entries, and leaves out those that can't be read (a newer version's, or another program's)."""
    found = []
    for entry_id, fields in entries:
        try:
            data = fields.get("data") or fields[b"data"]  # a given client may leave bytes as they are
            found.append((_str(entry_id), TownEvent.model_validate_json(_text(data))))
        except (KeyError, ValidationError) as error:
            shown = reprlib.repr(fields)  # it may be of any length
            logger.warning("event %s, which is %s, can't be read, and is left out: %s", _str(entry_id), shown, error)
    return found


def _text(data: str | bytes) -> str:
    """One event with bytes that aren't UTF-8 must not hide all others."""
    if isinstance(data, str):
        if data.isascii():
            return data
        data = data.encode("utf-8", "surrogateescape")
    return data.decode("utf-8", "replace")


def _str(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()
