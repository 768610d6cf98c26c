"""Tasks that other programs put on a stream of their own, and results that go back to one. Typed stubs; safe to send
twice.

The streams are named by whoever configures a service, and belong to no crew: each is a slot of its own. What is read
from a stream is removed from it once it is taken, so its length is what nobody has taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import redis
import redis.asyncio

from watchbill import names
from watchbill.connection import outages, scripts
from watchbill.names import CrewKeys
from watchbill.store.queue import crew_gone

_GUARD: Final = timedelta(days=1)
_WAITS: Final = "waiting for "
"""Before a crew's full name, the name of the consumer that holds what waits for it."""

ENTRY_MAX_BYTES: Final = 2 * 1024 * 1024
"""An entry above this brings no task. It has room for the longest prompt and metadata, each byte of them as six in
JSON."""
SHOWN_BYTES: Final = 128 * 1024
"""Bytes that are read of a longer entry. They are more than a dead letter has room for, so that no secret of theirs is
cut in two before it is taken out."""
ROOM_BYTES: Final = 8 * 1024 * 1024
"""Once entries that are read, or results that are published, have so many bytes, no more go into the same call: it
would be on its way for longer than an answer is waited for."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that one XADD has put on a stream."""

    id: str
    fields: Mapping[str, str]
    """All of them, or of a long entry the beginning."""
    size: int = 0
    """Bytes of all its names and values; 0: unknown."""


@dataclass(frozen=True, slots=True)
class Published:
    """A result for the stream of results."""

    id: str
    """The id of its entry on the crew's own stream of results."""
    task_id: str
    payload: str


def waits_for(holder: str) -> str:
    """Returns the crew that a consumer stands for; empty: it is a service's."""
    return holder.removeprefix(_WAITS) if holder.startswith(_WAITS) else ""


class Source:
    """A stream of tasks, as one consumer of a group reads it."""

    def __init__(self, client: redis.asyncio.Redis, stream: str, group: str, consumer: str) -> None:
        """`client` may block."""
        self.client = client
        self.stream = stream
        self.group = group
        self.consumer = consumer

    async def read(self, count: int, block_ms: int) -> list[Entry]:
        """Returns entries that no consumer of the group was given before. Waits `block_ms`, if that isn't 0, for the
        first one, which comes alone and whole, because only a command that answers with entries can wait."""
        if (found := await self._read("", 0, count)) or not block_ms:
            return found
        try:
            given: Any = await self.client.xreadgroup(
                self.group, self.consumer, {self.stream: ">"}, count=1, block=block_ms
            )
        except redis.exceptions.ResponseError as error:
            await self._join(error)
            return []
        if not given:
            return []
        rows = given[self.stream][0] if isinstance(given, dict) else given[0][1]
        # a deleted entry may be given without fields
        return [Entry(str(entry_id), fields, _size(fields)) for entry_id, fields in rows if fields]

    async def holders(self) -> list[str]:
        """The consumers that hold entries; see `take_over`."""
        return [str(one["name"]) for one in await self._consumers() if int(one["pending"])]

    async def take_over(self, holder: str, idle_ms: int, count: int) -> list[Entry]:
        """Returns entries that this consumer of the group holds, in their order, up to the first one that it was given
        less than `idle_ms` ago. It has died, most likely, or stands for a crew (`put_aside`)."""
        return await self._read(holder, idle_ms, count)

    async def put_aside(self, crew: str, entries: Sequence[Entry]) -> None:
        """Lets a consumer hold entries that stands for a crew which can't take them now, for any service to take over.
        So they wait apart from others, in their order, also when this process dies."""
        await self._claim(f"{_WAITS}{crew}", entries)

    async def keep(self, entries: Sequence[Entry]) -> set[str]:
        """Says that this consumer lives and still holds these. Returns the ids of those that nobody has removed."""
        return set(map(str, await self._claim(self.consumer, entries)))

    async def _claim(self, consumer: str, entries: Sequence[Entry]) -> Any:
        ids: Any = [entry.id for entry in entries]
        return await self.client.xclaim(self.stream, self.group, consumer, 0, ids, justid=True)

    async def _read(self, holder: str, idle_ms: int, count: int) -> list[Entry]:
        args = [self.group, self.consumer, holder, idle_ms, count, ROOM_BYTES, ENTRY_MAX_BYTES, SHOWN_BYTES]
        try:
            rows: Any = await scripts.run(self.client, "services_read", [self.stream], args)
        except redis.exceptions.ResponseError as error:
            await self._join(error)
            return []
        return [
            Entry(str(entry_id), dict(zip(fields[::2], fields[1::2], strict=True)), int(size))
            for entry_id, size, fields in rows
        ]

    async def remove(self, entries: Sequence[Entry]) -> None:
        """Removes entries that were taken."""
        ids = [entry.id for entry in entries]
        async with self.client.pipeline(transaction=False) as pipe:
            pipe.xack(self.stream, self.group, *ids)
            pipe.xdel(self.stream, *ids)
            await pipe.execute()

    async def leave(self) -> bool:
        """Leaves the group. False: entries are still given to this consumer, for others to take over."""
        return await self._leave(self.consumer)

    async def remove_idle(self, idle_ms: int) -> None:
        """Removes consumers that have asked for nothing for so long, and hold nothing: their processes have died."""
        for one in await self._consumers():
            if int(one["idle"]) >= idle_ms and one["name"] != self.consumer:
                await self._leave(str(one["name"]))

    async def _consumers(self) -> Any:
        try:
            return await self.client.xinfo_consumers(self.stream, self.group)
        except redis.exceptions.ResponseError as error:
            await self._join(error)
            return []

    async def _leave(self, consumer: str) -> bool:
        with outages.translated():
            given = [self.group, consumer]
            return bool(await scripts.run(self.client, "services_leave", [self.stream], given))

    async def _join(self, error: redis.exceptions.ResponseError) -> None:
        """Makes the group, which begins with all that is on the stream, after an error that says there is none."""
        if not any(said in str(error) for said in ("NOGROUP", "no such key")):
            raise error
        try:
            await self.client.xgroup_create(self.stream, self.group, "0", mkstream=True)
        except redis.exceptions.ResponseError as again:
            if "BUSYGROUP" not in str(again):
                raise


async def refuse(client: redis.asyncio.Redis, keys: CrewKeys, uid: str, entry: Entry, reason: str) -> None:
    """Makes a dead letter of an entry that brings no task. Raises CrewGone."""
    fields = [text for field in entry.fields.items() for text in field]
    args: list[Any] = [uid, entry.id, reason, _GUARD // timedelta(milliseconds=1), entry.size, *fields]
    with outages.translated():
        reply = await scripts.run(client, "refuse", [*keys.fixed, keys.refused(entry.id)], args)
    if reply[0] == "gone":
        raise crew_gone(keys)


async def last_published(client: redis.asyncio.Redis, keys: CrewKeys, stream: str) -> str:
    """The id of the crew's last result that is on `stream`, as its own stream of results has it."""
    with outages.translated():
        return str(await client.get(names.published(stream, keys.crew)) or "0-0")


async def publish(
    client: redis.asyncio.Redis, keys: CrewKeys, stream: str, found: Sequence[Published], through: str, *, most: int
) -> tuple[str, int]:
    """Puts results on `stream`, in order, but for those that are there. Returns the id of the last one that is, and how
    many this call has put there. `through`: the last one that was looked at; `most`: how many the stream keeps."""
    rows = [text for one in found for text in (one.id, one.task_id, one.payload)]
    with outages.translated():
        marker = names.published(stream, keys.crew)
        last, count = await scripts.run(client, "services_publish", [stream, marker], [most, through, *rows])
    return str(last), int(count)


def _size(fields: Mapping[str, str]) -> int:
    return sum(len(text.encode("utf-8", "surrogateescape")) for field in fields.items() for text in field)
