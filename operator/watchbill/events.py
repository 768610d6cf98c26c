"""The public door to events (seed 004): their types, `TownEvent`, and `EventStream`, which emits and reads them.

    async with connection.connected("redis://localhost:6379") as client:
        stream = EventStream(client, "town")
        await stream.emit(TownEvent.new("agent_spawned", "at work").with_agent("a1"))
        for event_id, event in await stream.read_agent_events("a1", "0-0", 10):
            print(event_id, event.event_type, event.message)

What Watchbill itself does is told by the scripts that do it; `watchbill.client.Client.follow` follows a crew's events.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Self, TypeVar

import redis.asyncio
from pydantic_core import PydanticSerializationError
from redis.exceptions import ClusterCrossSlotError

from watchbill import connection
from watchbill.connection import outages
from watchbill.errors import InvalidInput, NotFound, Problem
from watchbill.event_types import (
    AGENT_STREAM_MAX,
    CREW_STREAM_MAX,
    RETENTION_SECONDS,
    RUN_STREAM_MAX,
    EventType,
    Gap,
    SpawnMode,
    TownEvent,
)
from watchbill.loggers import Logger
from watchbill.names import CrewKeys, TownKeys
from watchbill.plan import texts
from watchbill.redaction import redact
from watchbill.store import events as store

__all__ = [
    "AGENT_STREAM_MAX",
    "BEGINNING",
    "CREW_STREAM_MAX",
    "EVENT_MAX",
    "RETENTION_SECONDS",
    "RUN_STREAM_MAX",
    "EventStream",
    "EventType",
    "Gap",
    "SpawnMode",
    "TownEvent",
]

logger = Logger("watchbill.events")

_T = TypeVar("_T")

BEGINNING: Final = store.BEGINNING
"""As `last_id`: all events that the stream has."""
EVENT_MAX: Final = 65_536
"""Maximum length of an event's JSON, in bytes."""
_COUNT_MAX: Final = 10**9


class EventStream:
    """The event streams of a town, or of a crew: one of all events, one of each agent, one of each mission (run).

    `client` is a redis.asyncio client, as `watchbill.connection.connect` makes it, which is not closed. A town's
    streams have the seed's keys: `tt:{town}:events`, `…:agent:{agent}`, `…:mission:{mission}`. They are bounded to
    about 1,000, 100 and 500 entries, and stay; those of a mission until `archive_mission`. A crew's go a day after
    their last event.

    Every method raises StoreUnavailable and StoreRefuses; InvalidInput for a wrong argument; NotFound if there is no
    such crew.
    """

    def __init__(self, client: redis.asyncio.Redis, town_name: str) -> None:
        """Raises InvalidInput if the name is no text, or empty, or if the client isn't asynchronous."""
        self._client = connection.checked(client, is_async=True)
        _named(town_name, "town", "town_name")
        self._keys: CrewKeys | TownKeys = TownKeys(town_name)
        self._name = town_name
        self.skipped = 0
        """Number of entries that were read so far and could not be understood: each was left out."""

    @classmethod
    def of_crew(cls, client: redis.asyncio.Redis, crew: str) -> Self:
        """Returns the streams of a crew, named as `namespace/name`. Raises InvalidInput for another form."""
        namespace, _, name = _named(crew, "crew", "crew").partition("/")
        if not namespace or not name or "/" in name:
            raise _wrong(f"{crew!r} is no name of a crew", "Name it as namespace/name.", "crew")
        made = cls(client, crew)
        made._keys = CrewKeys(namespace, name)
        return made

    async def emit(self, event: TownEvent) -> dict[str, str]:
        """Writes the event to every stream where it belongs, all in one round trip: the town's; the stream of its
        agent, of its parent and of its child, each once; its mission's. Returns the key of each stream → the id of the
        event there.

        Secrets of the environment are taken out of its texts. Raises InvalidInput if it has more than 65,536 bytes.
        """
        _check_event(event)
        shown = {name: redact(text) for name in ("message", "scope") if (text := getattr(event, name))}
        try:
            data = event.model_copy(update=shown).model_dump_json(exclude_none=True)
        except PydanticSerializationError as error:
            raise _wrong(f"the event has a text that isn't UTF-8: {error}", "Mend its texts.", "event") from error
        if (size := len(data.encode())) > EVENT_MAX:
            raise _wrong(f"the event has {size} bytes of JSON", f"Shorten it to {EVENT_MAX}.", "event")
        try:
            ids = await store.emit(self._client, self._keys, event, data)
        except ClusterCrossSlotError as error:
            fix = f"Name the town {{{self._name}}}, with braces: on a Redis Cluster they keep its streams together."
            raise _wrong("the streams of this town are on several nodes", fix, "town_name") from error
        if not ids:
            raise self._no_crew()
        logger.debug("emitted %s to %s", event.event_type.value, self._name)
        return ids

    async def read_town_events(self, last_id: str = BEGINNING, count: int = 100) -> list[tuple[str, TownEvent]]:
        """Returns events of the whole town with their ids, oldest first: at most `count` entries of the stream are
        read, from `last_id` on (inclusive; "0-0": all). Raises InvalidInput."""
        return await self._read(self._keys.events, last_id, count)

    async def read_agent_events(
        self, agent_id: str, last_id: str = BEGINNING, count: int = 100
    ) -> list[tuple[str, TownEvent]]:
        """As `read_town_events`, of the events of one agent: its own, and those that name it as parent or child."""
        return await self._read(self._keys.agent_events(_named(agent_id, "agent", "agent_id")), last_id, count)

    async def read_mission_events(
        self, mission_id: str, last_id: str = BEGINNING, count: int = 100
    ) -> list[tuple[str, TownEvent]]:
        """As `read_town_events`, of the events of one mission (run)."""
        return await self._read(self._keys.run_events(_named(mission_id, "mission", "mission_id")), last_id, count)

    async def read_recent_town_events(self, count: int) -> list[tuple[str, TownEvent]]:
        """Returns the newest `count` events of the whole town with their ids, the oldest of them first. Raises
        InvalidInput."""
        _checked(count)
        return await self._found(store.recent(self._client, self._keys.events, count, self._skip))

    async def archive_mission(self, mission_id: str) -> bool:
        """Deletes the stream of a mission. Returns whether there was one. Other streams keep its events."""
        key = self._keys.run_events(_named(mission_id, "mission", "mission_id"))
        with outages.translated():
            return bool(await self._found(self._client.delete(key)))

    async def _read(self, key: str, last_id: str, count: int) -> list[tuple[str, TownEvent]]:
        _checked(count)
        return await self._found(store.read_from(self._client, key, last_id, count, self._skip))

    async def _found(self, reading: Awaitable[_T]) -> _T:
        """Returns what was found. Raises NotFound if that is nothing, because there is no such crew."""
        found = await reading
        if not found and isinstance(self._keys, CrewKeys):
            with outages.translated():
                if not await self._client.hexists(self._keys.meta, "uid"):
                    raise self._no_crew()
        return found

    def _no_crew(self) -> NotFound:
        return NotFound(f"there is no crew {self._name!r} in this store. To put it there: watchbill apply -f FILE")

    def _skip(self, entries: int) -> None:
        self.skipped += entries


def _check_event(event: object) -> None:
    if not isinstance(event, TownEvent):
        fix = "Build it with TownEvent.new(event_type, message)."
        raise _wrong(f"{type(event).__name__} is no event", fix, "event")


def _named(value: object, what: str, path: str) -> str:
    if not isinstance(value, str) or not value or any(texts.problems({path: value})):
        fix = "Give a str with at least one character, and no half of one."
        raise _wrong(f"{value!r} is no name of a {what}", fix, path)
    return value


def _checked(count: int) -> None:
    if type(count) is not int or not 0 <= count <= _COUNT_MAX:
        raise _wrong(f"{count!r} is no number of events", f"Give an integer from 0 to {_COUNT_MAX:,}.", "count")


def _wrong(reason: str, fix: str, path: str) -> InvalidInput:
    return InvalidInput(Problem(reason, fix, path=path))
